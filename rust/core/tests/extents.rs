//! Extents: what is done under a ring's lock and what is not, and who cannot mend.
#![cfg(not(loom))]
// Limits and filters of a process's own; a failure is to panic.
#![allow(unsafe_code, clippy::unwrap_used)]

mod common;

use std::time::Duration;

use common::channel::{Channel, LARGE, SMALL, got, put, recv, send};
use common::{Child, KILLED, OK, message};
use fastmp_core::channel::queue::Queue;
use fastmp_core::fault::{Action, arm};
use fastmp_core::{Deadline, Error};

/// More messages than there are slots beside the channel's words.
const MANY: usize = 40;
/// Bytes before the base: at least so many have pages from the start.
const BASE_AT: u64 = 8 << 10;

/// A process that dies with an extent in its hands, and the next sweep due.
fn leave_an_extent(queue: &Queue) {
    let mut doomed = Child::doomed("extent.filled", 1, || put(queue, 1, 0, LARGE));
    assert_eq!(doomed.wait(), KILLED);
    std::thread::sleep(Duration::from_millis(110));
}

#[test]
fn no_sweep_while_others_wait_for_the_put_lock() {
    let _turn = common::turn();
    let queue = Queue::create(0).unwrap();
    leave_an_extent(&queue);
    // Enough for chunks beyond the base.
    let small = || (0..5).for_each(|number| (0..10_000).for_each(|_| put(&queue, 1, number, 300)));
    assert_eq!(Child::doomed("extent.sweeping", 1, small).wait(), OK);
    // It is made up for when a chunk is freed.
    let all = || (0..50_000).for_each(|_| assert_eq!(got(&queue).0, 1));
    assert_eq!(Child::doomed("extent.sweeping", 1, all).wait(), KILLED);
}

#[test]
fn what_was_not_put_is_freed_without_the_put_lock() {
    let _turn = common::turn();
    let queue = Queue::create(0).unwrap();
    let mut doomed = Child::doomed("extent.handing_over", 1, || put(&queue, 1, 0, LARGE));
    assert_eq!(doomed.wait(), KILLED);
    let mut mender = Child::fork(|| {
        arm("extent.freed", 1, Action::Stop);
        put(&queue, 2, 0, SMALL);
    });
    mender.until_stopped();
    // It is not in anybody's way.
    put(&queue, 3, 0, SMALL);
    assert_eq!((got(&queue), got(&queue)), ((2, 0), (3, 0)));
    mender.signal(libc::SIGCONT);
    assert_eq!(mender.wait(), OK);
}

/// No more address space than there is, but for a little.
fn map_no_more() {
    let pages = std::fs::read_to_string("/proc/self/statm").unwrap();
    let used = pages.split(' ').next().unwrap().parse::<u64>().unwrap() * 4096 + (100 << 10);
    let limit = libc::rlimit { rlim_cur: used, rlim_max: used };
    // SAFETY: reads a local.
    assert_eq!(unsafe { libc::setrlimit(libc::RLIMIT_AS, &limit) }, 0);
}

#[test]
fn who_cannot_see_all_slots_mends_nothing_and_says_so() {
    let _turn = common::turn();
    for point in ["extent.handing_over", "extent.receiving"] {
        let queue = Queue::create(0).unwrap();
        (0..MANY).for_each(|number| put(&queue, 1, number, 70_000));
        // So that the one at the head is in a further page of the table.
        let first = if point == "extent.receiving" { MANY - 1 } else { 0 };
        (0..first).for_each(|number| assert_eq!(got(&queue), (1, number)));
        let mut doomed = Child::doomed(point, 1, || match first {
            0 => put(&queue, 1, MANY, 70_000),
            _ => drop(got(&queue)),
        });
        assert_eq!(doomed.wait(), KILLED);
        let mut mender = Child::fork(|| {
            // One of its own: nothing of the table is mapped in it.
            let queue = queue.again().unwrap();
            // It has seen the file.
            assert_eq!(queue.extent(1 << 50).unwrap_err(), Error::OutOfMemory);
            map_no_more();
            for _ in 0..2 {
                let refused = match first {
                    0 => send(&queue, &message(2, 0, SMALL), &[], Deadline::after(5.0)).unwrap_err(),
                    _ => recv(&queue, Deadline::after(5.0)).unwrap_err(),
                };
                assert_eq!(refused, Error::OutOfMemory);
            }
        });
        assert_eq!(mender.wait(), OK, "{point}");
        // Another does, and nothing is lost, or in two hands.
        put(&queue, 3, 0, 70_000);
        (first..MANY).for_each(|number| assert_eq!(got(&queue), (1, number)));
        assert_eq!(got(&queue), (3, 0));
    }
}

/// From now on the kernel refuses to reserve memory, as old ones and some sandboxes do.
fn refuse_fallocate() {
    let load = libc::BPF_LD | libc::BPF_W | libc::BPF_ABS;
    let step = |code: u32, jt: u8, jf: u8, k: u32| libc::sock_filter { code: code as u16, jt, jf, k };
    let mut program = [
        step(load, 0, 0, 0),
        step(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, 0, 1, libc::SYS_fallocate as u32),
        step(libc::BPF_RET | libc::BPF_K, 0, 0, libc::SECCOMP_RET_ERRNO | libc::EPERM as u32),
        step(libc::BPF_RET | libc::BPF_K, 0, 0, libc::SECCOMP_RET_ALLOW),
    ];
    let filter = libc::sock_fprog { len: program.len() as u16, filter: program.as_mut_ptr() };
    // SAFETY: the kernel copies the filter, which is whole.
    unsafe {
        assert_eq!(libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), 0);
        assert_eq!(libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER, &filter), 0);
    }
}

#[test]
fn the_base_has_pages_also_where_fallocate_is_refused() {
    let _turn = common::turn();
    let mut child = Child::fork(|| {
        refuse_fallocate();
        let queue = Queue::create(0).unwrap();
        let before = queue.resident();
        assert!(before >= BASE_AT + (16 << 10), "{before} bytes");
        // It widens, and nothing of it is touched before it has pages.
        for number in 0..200 {
            put(&queue, 1, number, 4000);
        }
        let after = queue.resident();
        assert!(after >= BASE_AT + (1 << 20), "{after} bytes");
        (0..200).for_each(|number| assert_eq!(got(&queue), (1, number)));
    });
    assert_eq!(child.wait(), OK);
}

#[test]
fn a_message_is_quick_to_drop_unless_that_gives_pages_back() {
    let _turn = common::turn();
    let queue = Queue::create(0).unwrap();
    let receive = || {
        let (mut bytes, mut fds) = (Vec::new(), Vec::new());
        queue.get(&mut bytes, &mut fds, Deadline::Never).unwrap()
    };
    put(&queue, 1, 0, SMALL);
    assert!(receive().is_quick_to_drop());
    put(&queue, 1, 0, 70_000);
    assert!(receive().is_quick_to_drop());
    // Its own pages may be many, and those that go in its place.
    put(&queue, 1, 0, 3 * LARGE);
    assert!(!receive().is_quick_to_drop());
    (0..400).for_each(|_| put(&queue, 1, 0, 70_000));
    let all: Vec<_> = (0..400).map(|_| receive()).collect();
    for received in all {
        let (quick, before) = (received.is_quick_to_drop(), queue.resident());
        drop(received);
        let after = queue.resident();
        assert!(!quick || after == before, "{before} bytes, then {after}");
    }
    // A chunk that is left behind counts as well.
    (0..10_000).for_each(|_| put(&queue, 1, 0, 300));
    assert!((0..10_000).map(|_| receive()).filter(|received| !received.is_quick_to_drop()).count() > 0);
}

/// Ages are counted in ticks: what is freed at one time is of one age.
#[test]
fn no_more_is_kept_of_what_is_freed_at_one_time() {
    const SIZE: usize = 4 << 20;
    let _turn = common::turn();
    let queue = Queue::create(0).unwrap();
    for number in 0..12 {
        put(&queue, 1, number, SIZE);
    }
    let get = || queue.get(&mut Vec::new(), &mut Vec::new(), Deadline::Never).unwrap();
    let received: Vec<_> = (0..12).map(|_| get()).collect();
    let memory = || queue.resident();
    assert!(memory() >= 12 * SIZE as u64);
    drop(received);
    // 32 MiB, and what the channel is made of.
    assert!(memory() < 9 * SIZE as u64, "{}", memory());
}

#[test]
fn a_row_of_extents_that_is_held_makes_no_table_grow_for_ever() {
    let _turn = common::turn();
    let queue = Queue::create(0).unwrap();
    let held: Vec<_> = (0..300).map(|_| queue.extent(70_000).unwrap()).collect();
    let most = held.iter().map(|extent| extent.index()).max().unwrap();
    // Each without pages of its own, as those that are too large to be kept: from an empty slot.
    let highest = (0..20_000).map(|_| queue.extent(70_000).unwrap().index()).max().unwrap();
    assert!(highest <= most + 64, "slot {highest}, where {most} would do");
    drop(held);
    // All of which were empty before.
    let again: Vec<_> = (0..300).map(|_| queue.extent(70_000).unwrap()).collect();
    assert!(again.iter().all(|extent| extent.index() <= highest));
}
