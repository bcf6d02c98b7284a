//! Who closes something ends the waits of other threads in it, wherever they are: for a message,
//! for room, for tasks, for a lock whose holder is stopped.
#![cfg(not(loom))]
// Forks; a failure is to panic.
#![allow(unsafe_code, clippy::unwrap_used)]

mod common;

use std::sync::Arc;
use std::sync::atomic::AtomicI32;
use std::sync::atomic::Ordering::SeqCst;
use std::thread;
use std::time::Duration;

use common::channel::put;
use common::{Child, KILLED, OK, state, until};
use fastmp_core::channel::broadcast::{Broadcast, Lag};
use fastmp_core::channel::pipe;
use fastmp_core::channel::queue::Queue;
use fastmp_core::channel::ring::{MessageMeta, Payload};
use fastmp_core::channel::transport::Outgoing;
use fastmp_core::deadline::Patience;
use fastmp_core::fault::{Action, arm};
use fastmp_core::sync::closings::{announce, heeding};
use fastmp_core::{Deadline, Error, Result};

/// The calling thread's state, as the kernel has it.
fn sleeps(tid: i32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/self/task/{tid}/stat")).unwrap();
    stat.rsplit(") ").next().is_some_and(|rest| rest.starts_with('S'))
}

/// In a process of its own, with a watchdog: `call` waits in a thread, what is closed is not its
/// own at first, and then it is.
fn ends(case: &str, call: impl Fn() -> Result<()> + Sync, wake: impl Fn()) {
    let mut child = Child::fork(|| {
        let (tid, ended) = (AtomicI32::new(0), AtomicI32::new(0));
        thread::scope(|scope| {
            let waiting = scope.spawn(|| {
                // SAFETY: a plain system call.
                tid.store(unsafe { libc::gettid() }, SeqCst);
                // As the bindings do: again and again until it is closed.
                let again = |_| {
                    let end = heeding(&call);
                    ended.fetch_add(1, SeqCst);
                    end
                };
                (0..2).map(again).collect::<Vec<_>>()
            });
            for round in 1..=2 {
                until("it waits", || {
                    let tid = tid.load(SeqCst);
                    tid != 0 && sleeps(tid)
                });
                // Long enough to have gone to sleep where it is to be woken.
                thread::sleep(Duration::from_millis(20));
                announce();
                wake();
                until("it comes up", || ended.load(SeqCst) == round);
            }
            let ends = waiting.join().unwrap();
            assert!(ends.iter().all(|end| *end == Err(Error::Interrupted)), "{ends:?}");
        });
    });
    assert_eq!(child.wait(), OK, "{case}");
}

fn send(put: impl FnOnce(&mut Outgoing<'_, '_>) -> Result<()>, bytes: &[u8]) -> Result<()> {
    let meta = MessageMeta { format: 7, fds: 0 };
    put(&mut Outgoing { meta, payload: &mut Some(Payload::Inline(bytes)), fds: &[] })
}

#[test]
fn of_a_queue() {
    let _turn = common::turn();
    for watched in [false, true] {
        for max_bytes in [0, 100] {
            let queue = Queue::create(1).unwrap();
            queue.bound_bytes(max_bytes);
            if watched {
                queue.watch().unwrap();
                queue.watch_sending();
            }
            let wake = || queue.wake_all();
            let get = || queue.get(&mut Vec::new(), &mut Vec::new(), Deadline::Never).map(drop);
            ends("get", get, wake);
            let many = || queue.get_many(&mut Vec::new(), &mut Vec::new(), 5, Deadline::Never).map(drop);
            ends("get_many", many, wake);
            ends("wait", || queue.wait(Deadline::Never), wake);
            put(&queue, 1, 0, 60);
            let full = || send(|outgoing| queue.put(outgoing, Deadline::Never), &[1; 60]);
            ends("put", full, wake);
            ends("join", || queue.join(1, false, Deadline::Never).map(drop), wake);
        }
    }
}

#[test]
fn of_a_broadcast_and_a_pipe() {
    let _turn = common::turn();
    let broadcast = Arc::new(Broadcast::create(1, 0, Lag::Block).unwrap());
    let reader = broadcast.reader(Deadline::Never).unwrap();
    let message = || broadcast.send(7, &mut Some(Payload::Inline(b"message")), Deadline::Never);
    message().unwrap();
    ends("send", message, || broadcast.wake_all());
    drop(reader);
    let (end, _other) = pipe::create(true).unwrap();
    let filling = || {
        loop {
            send(|outgoing| end.send(outgoing, Deadline::Never), &[1; 1000])?;
        }
    };
    ends("pipe", filling, || end.wake_all());
}

/// At the end of their slices.
#[test]
fn beside_one_who_is_stopped_with_a_lock() {
    let _turn = common::turn();
    let stopped = |point: &str, f: &dyn Fn()| {
        let child = Child::fork(|| {
            arm(point, 1, Action::Stop);
            f();
        });
        until("it stops", || state(child.pid()) == Some('T'));
        child
    };
    let queue = Queue::create(0).unwrap();
    let _putting = stopped("ring.put.before_commit", &|| put(&queue, 1, 0, 20));
    ends("put", || send(|outgoing| queue.put(outgoing, Deadline::Never), b"message"), || ());
    let queue = Queue::create(0).unwrap();
    put(&queue, 1, 0, 20);
    let _getting = stopped("ring.get.before_commit", &|| {
        _ = queue.get(&mut Vec::new(), &mut Vec::new(), Deadline::Never);
    });
    ends("get", || queue.get(&mut Vec::new(), &mut Vec::new(), Deadline::Never).map(drop), || ());
    let broadcast = Arc::new(Broadcast::create(1, 0, Lag::Block).unwrap());
    let _joining = stopped("broadcast.join.before_commit", &|| drop(broadcast.reader(Deadline::Never)));
    ends("reader", || broadcast.reader(Deadline::Never).map(drop), || ());
    let (a, b) = pipe::create(true).unwrap();
    let _sending = stopped("ring.put.before_commit", &|| put(&a, 1, 0, 20));
    ends("send", || send(|outgoing| a.send(outgoing, Deadline::Never), b"message"), || ());
    drop(b);
}

/// A call without a grace left, and one that heeds nothing, goes on.
#[test]
fn who_does_not_heed_goes_on() {
    let _turn = common::turn();
    let queue = Queue::create(0).unwrap();
    let mut child = Child::fork(|| {
        thread::scope(|scope| {
            let waiting = scope.spawn(|| queue.get(&mut Vec::new(), &mut Vec::new(), Deadline::Never).map(drop));
            thread::sleep(Duration::from_millis(30));
            announce();
            queue.wake_all();
            thread::sleep(Duration::from_millis(150));
            put(&queue, 1, 0, 20);
            assert_eq!(waiting.join().unwrap(), Ok(()));
        });
    });
    assert_eq!(child.wait(), OK);
}

/// Who has but a moment for a lock sleeps in it, and is not called up again and again.
#[test]
fn a_moment_ends_by_itself() {
    let _turn = common::turn();
    let queue = Queue::create(0).unwrap();
    queue.watch().unwrap();
    let holder = Child::fork(|| {
        arm("ring.put.before_commit", 1, Action::Stop);
        put(&queue, 1, 0, 20);
    });
    until("it stops", || state(holder.pid()) == Some('T'));
    let mut child = Child::doomed("mutex.parking", 1, || {
        heeding(|| {
            announce();
            // On a busy machine a moment may be over before it begins, though not each time.
            for _ in 0..1000 {
                let told = queue.get_told(&mut Vec::new(), &mut Vec::new(), Patience::Moment);
                assert_eq!(told.map(drop), Err(Error::WouldBlock));
            }
        });
    });
    assert_eq!(child.wait(), KILLED);
}
