//! A call has its grace once, however many locks it comes to and however often it tries: beside a
//! process that is stopped with a lock, calls whose grace is spent cost next to nothing.
#![cfg(not(loom))]
// Forks; a failure is to panic.
#![allow(unsafe_code, clippy::unwrap_used)]

mod common;

use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use common::channel::{fds, put};
use common::{Child, OK, message, state, until};
use fastmp_core::channel::broadcast::{Broadcast, Lag, Reader};
use fastmp_core::channel::pipe;
use fastmp_core::channel::queue::Queue;
use fastmp_core::channel::ring::{MessageMeta, Payload};
use fastmp_core::channel::transport::{BatchMessage, Outgoing};
use fastmp_core::deadline::{Graced, Patience};
use fastmp_core::fault::{Action, arm};
use fastmp_core::{Deadline, Error};

/// Calls that would take a quarter of a second each: far more than the watchdog allows.
const CALLS: usize = 100;

const META: MessageMeta = MessageMeta { format: 7, fds: 0 };

fn spent() -> Graced {
    let call = Deadline::after(0.01).graced();
    until("its end", || call.end().passed());
    call
}

/// A process that comes to `point` in `f` stops there; is there one?
fn stopped(point: &str, f: impl FnOnce()) -> Option<Child> {
    let child = Child::fork(|| {
        arm(point, 1, Action::Stop);
        f();
    });
    until("it stops or ends", || matches!(state(child.pid()), Some('T' | 'Z')));
    (state(child.pid()) == Some('T')).then_some(child)
}

/// `calls` over and over, in a process that has a watchdog.
fn cost_nothing(case: &str, call: Graced, mut calls: impl FnMut(Graced)) {
    let mut child = Child::fork(|| (0..CALLS).for_each(|_| calls(call)));
    assert_eq!(child.wait(), OK, "{case}");
}

const POINTS: [&str; 6] = [
    "ring.put.before_commit",
    "ring.put.after_commit",
    "ring.get.before_commit",
    "ring.get.after_commit",
    "transport.fds_sent",
    "transport.full_said",
];

#[test]
fn of_a_queue() {
    let _turn = common::turn();
    let (mut cases, spent) = (0, spent());
    for point in POINTS {
        for watched in [false, true] {
            for (maxsize, max_bytes) in [(0, 0), (3, 0), (0, 300)] {
                let case = format!("{point} {watched} {maxsize} {max_bytes}");
                let queue = Queue::create(maxsize).unwrap();
                queue.bound_bytes(max_bytes);
                if watched {
                    queue.watch().unwrap();
                    queue.watch_sending();
                }
                let (some, _) = fds(1);
                put(&queue, 1, 0, 20);
                put(&queue, 1, 0, 20);
                let stops = stopped(point, || match point.starts_with("ring.get") {
                    true => drop(queue.get(&mut Vec::new(), &mut Vec::new(), Deadline::Never)),
                    false => {
                        let (bytes, lent) = (message(2, 0, 20), [some[0].as_fd()]);
                        let lent = if point.contains("fds") { &lent[..] } else { &[] };
                        let meta = MessageMeta { fds: lent.len() as u16, ..META };
                        let payload = &mut Some(Payload::Inline(&bytes));
                        queue.put(&mut Outgoing { meta, payload, fds: lent }, Deadline::Never).unwrap();
                    }
                });
                let Some(_child) = stops else { continue };
                cases += 1;
                cost_nothing(&case, spent, |call| {
                    let payload = || Some(Payload::Inline(b"message"));
                    let _ = queue.put(&mut Outgoing { meta: META, payload: &mut payload(), fds: &[] }, call);
                    let mut many = [BatchMessage { meta: META, payload: payload(), fds: vec![] }];
                    let _ = queue.put_many(&mut many, &mut 0, call);
                    let _ = queue.get(&mut Vec::new(), &mut Vec::new(), call);
                    let _ = queue.get_many(&mut Vec::new(), &mut Vec::new(), 5, call);
                    let _ = queue.wait(Deadline::PASSED);
                    // Who only tries has none, nor for what comes with a message that was not got.
                    let _ = queue.try_put(&mut Outgoing { meta: META, payload: &mut payload(), fds: &[] });
                    let _ = queue.try_get(&mut Vec::new(), &mut Vec::new());
                    let _ = queue.get_told(&mut Vec::new(), &mut Vec::new(), Patience::Spin);
                });
            }
        }
    }
    assert!(cases >= 20, "{cases}");
}

/// One who has died holds what would come back, if the lock were to be had.
#[test]
fn of_a_queue_that_keeps_its_messages() {
    let _turn = common::turn();
    let spent = spent();
    for point in ["ring.get.before_commit", "ring.get.after_commit"] {
        let queue = Queue::create(0).unwrap();
        queue.keep_messages().unwrap();
        (0..2).for_each(|number| put(&queue, 1, number, 20));
        let words = common::words();
        let mut holder = Child::fork(|| {
            queue.get(&mut Vec::new(), &mut Vec::new(), Deadline::Never).unwrap();
            words.set(0, 1);
            until("it is killed", || false);
        });
        until("it has it", || words.get(0) == 1);
        let get = || drop(queue.get(&mut Vec::new(), &mut Vec::new(), Deadline::Never));
        let _child = stopped(point, get).unwrap();
        holder.kill();
        assert_eq!(holder.wait(), common::KILLED);
        cost_nothing(point, spent, |call| {
            let _ = queue.get(&mut Vec::new(), &mut Vec::new(), call);
            let _ = queue.get_many(&mut Vec::new(), &mut Vec::new(), 5, call);
            let _ = queue.wait(call);
            let _ = queue.look_before_answer(Patience::Sleep(call));
            let _ = queue.try_get(&mut Vec::new(), &mut Vec::new());
            let _ = queue.get_told(&mut Vec::new(), &mut Vec::new(), Patience::Spin);
            let _ = queue.get_told(&mut Vec::new(), &mut Vec::new(), Patience::Moment);
        });
    }
}

#[test]
fn of_a_pipe() {
    let _turn = common::turn();
    let spent = spent();
    for point in &POINTS[..5] {
        for watched in [false, true] {
            let (a, b) = pipe::create(true).unwrap();
            if watched {
                a.watch().unwrap();
                b.watch().unwrap();
            }
            let (some, _) = fds(1);
            let stops = stopped(point, || {
                let (bytes, lent) = (message(2, 0, 20), [some[0].as_fd()]);
                let lent = if point.contains("fds") { &lent[..] } else { &[] };
                let meta = MessageMeta { fds: lent.len() as u16, ..META };
                let payload = &mut Some(Payload::Inline(&bytes));
                b.send(&mut Outgoing { meta, payload, fds: lent }, Deadline::Never).unwrap();
                a.recv(&mut Vec::new(), &mut Vec::new(), Deadline::Never).unwrap();
            });
            let _child = stops.unwrap();
            cost_nothing(&format!("{point} {watched}"), spent, |call| {
                let payload = &mut Some(Payload::Inline(b"message"));
                let _ = b.send(&mut Outgoing { meta: META, payload, fds: &[] }, call);
                let _ = a.wait(call);
                let _ = a.recv(&mut Vec::new(), &mut Vec::new(), call);
                let _ = a.try_recv(&mut Vec::new(), &mut Vec::new());
                let _ = a.recv_told(&mut Vec::new(), &mut Vec::new(), Patience::Spin);
            });
        }
    }
}

#[test]
fn of_a_broadcast() {
    let _turn = common::turn();
    let spent = spent();
    for point in ["broadcast.send.before_commit", "broadcast.send.after_commit", "broadcast.join.before_commit"] {
        let broadcast = Arc::new(Broadcast::create(4, 0, Lag::Block).unwrap());
        let reader = broadcast.reader(Deadline::Never).unwrap();
        let _child = stopped(point, || {
            let _own = broadcast.reader(Deadline::Never).unwrap();
            broadcast.send(7, &mut Some(Payload::Inline(b"message")), Deadline::Never).unwrap();
        });
        cost_nothing(point, spent, |call| {
            let sent = broadcast.send(7, &mut Some(Payload::Inline(b"message")), call);
            assert_eq!(sent, Err(Error::Full));
            assert_eq!(broadcast.reader(call).unwrap_err(), Error::TimedOut);
            assert_eq!(broadcast.shut(call), Err(Error::TimedOut));
            // It is its parent's, and has to be taken over first.
            assert!(reader.recv(&mut Vec::new(), call).is_err());
        });
        let (ticket, number) = reader.ticket(Deadline::PASSED).unwrap();
        cost_nothing(point, spent, |call| {
            let fd = broadcast.handle().try_clone_to_owned().unwrap();
            let own = Arc::new(Broadcast::attach(fd, broadcast.maxsize()).unwrap());
            assert!(Reader::attach(own, ticket, number, call).is_err());
        });
    }
}

/// Who must not sleep has none: what it would have to wait for comes before it takes a message.
#[test]
fn who_must_not_sleep_does_not() {
    let _turn = common::turn();
    let meta = META;
    for (maxsize, keeps) in [(0, false), (2, false), (0, true)] {
        let queue = Queue::create(maxsize).unwrap();
        if keeps {
            queue.keep_messages().unwrap();
        }
        queue.watch().unwrap();
        queue.watch_sending();
        put(&queue, 1, 0, 20);
        let holder = stopped("ring.put.before_commit", || put(&queue, 1, 1, 20)).unwrap();
        let (mut scratch, mut fds) = (Vec::new(), Vec::new());
        for _ in 0..CALLS {
            assert_eq!(queue.try_get(&mut scratch, &mut fds).map(drop), Err(Error::WouldBlock));
            assert_eq!(queue.get_told(&mut scratch, &mut fds, Patience::Spin).map(drop), Err(Error::WouldBlock));
            let many = queue.try_get_many(&mut scratch, &mut Vec::new(), 5);
            assert_eq!(many.map(drop), Err(Error::WouldBlock));
        }
        // Who may sleep has it all the same.
        assert!(queue.get(&mut scratch, &mut fds, Deadline::PASSED).is_ok());
        drop(holder);
        // And who need not wait is not told so: of two one is left, and nobody is putting.
        put(&queue, 1, 1, 20);
        assert!(queue.try_get(&mut scratch, &mut fds).is_ok());
    }
    let (a, b) = pipe::create(true).unwrap();
    a.watch().unwrap();
    put(&b, 1, 0, 20);
    let holder = stopped("ring.put.before_commit", || put(&b, 1, 1, 20)).unwrap();
    let (mut scratch, mut fds) = (Vec::new(), Vec::new());
    for _ in 0..CALLS {
        assert_eq!(a.try_recv(&mut scratch, &mut fds).map(drop), Err(Error::WouldBlock));
    }
    assert!(a.recv(&mut scratch, &mut fds, Deadline::PASSED).is_ok());
    let payload = &mut Some(Payload::Inline(b"message"));
    drop(holder);
    b.send(&mut Outgoing { meta, payload, fds: &[] }, Deadline::PASSED).unwrap();
}

/// Who gets a message with a reader in it cannot say for how long it would wait for that.
#[test]
fn a_reader_arrives_though_a_process_is_stopped_with_the_lock() {
    let _turn = common::turn();
    let broadcast = Arc::new(Broadcast::create(4, 0, Lag::Block).unwrap());
    let reader = broadcast.reader(Deadline::Never).unwrap();
    let (ticket, number) = reader.ticket(Deadline::PASSED).unwrap();
    let mut send = Some(Payload::Inline(b"message"));
    broadcast.send(7, &mut send, Deadline::Never).unwrap();
    let holder = stopped("broadcast.join.before_commit", || drop(broadcast.reader(Deadline::Never))).unwrap();
    let mut receiver = Child::fork(|| {
        let fd = broadcast.handle().try_clone_to_owned().unwrap();
        let own = Arc::new(Broadcast::attach(fd, broadcast.maxsize()).unwrap());
        let arrived = Reader::attach_or_later(own, ticket, number).unwrap();
        assert_eq!(arrived.recv(&mut Vec::new(), Deadline::PASSED).unwrap_err(), Error::Empty);
        holder.kill();
        let mut bytes = Vec::new();
        arrived.recv(&mut bytes, Deadline::Never).unwrap();
        assert_eq!((&bytes[..], arrived.missed(Deadline::PASSED)), (&b"message"[..], Ok(0)));
        let owners = broadcast.readers().iter().map(|info| info.owner.pid()).collect::<Vec<_>>();
        assert_eq!(owners, [std::process::id()]);
    });
    assert_eq!(receiver.wait(), OK);
}

/// And it has it: who holds a lock for a little longer than a timeout fails nobody.
#[test]
fn is_given_once() {
    let _turn = common::turn();
    let queue = Queue::create(0).unwrap();
    let child = stopped("ring.put.before_commit", || put(&queue, 1, 0, 20)).unwrap();
    let mut other = Child::fork(|| {
        let start = Instant::now();
        let payload = &mut Some(Payload::Inline(b"message"));
        let refused = queue.put(&mut Outgoing { meta: META, payload, fds: &[] }, Deadline::after(0.01));
        assert_eq!(refused, Err(Error::Full));
        assert!(start.elapsed() >= Duration::from_millis(250));
    });
    assert_eq!(other.wait(), OK);
    drop(child);
    let payload = &mut Some(Payload::Inline(b"message"));
    // It was killed meanwhile, which is found out within the grace.
    assert_eq!(queue.put(&mut Outgoing { meta: META, payload, fds: &[] }, Deadline::PASSED), Ok(()));
}
