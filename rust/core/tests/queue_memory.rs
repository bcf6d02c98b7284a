//! The memory of a queue: extents that are kept, used again and given back, also when those die who
//! have them.
#![cfg(not(loom))]
// Forks, and lays test words over shared memory; a failure is to panic.
#![allow(unsafe_code, clippy::unwrap_used)]

mod common;

use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use common::channel::{Channel, IDLE, INLINED, LARGE, SMALL, comes_to_rest, got, put, recv, send, soon};
use common::{Child, KILLED, OK, message, read_message, until};
use fastmp_core::channel::queue::Queue;
use fastmp_core::fault::{Action, arm};
use fastmp_core::{Deadline, Error};

#[test]
fn a_chunk_where_a_message_ended_inside_its_last_page() {
    let _turn = common::turn();
    let queue = Queue::create(0).unwrap();
    put(&queue, 1, 0, (1 << 20) - 100);
    assert_eq!(got(&queue), (1, 0));
    (1..400).for_each(|number| put(&queue, 1, number, 8000));
    (1..400).for_each(|number| assert_eq!(got(&queue), (1, number)));
}

#[test]
fn what_is_refused_midway_leaves_no_pages() {
    let _turn = common::turn();
    let mut child = Child::fork(|| {
        let queue = Queue::create(0).unwrap();
        // SAFETY: no handler is involved.
        unsafe { libc::signal(libc::SIGXFSZ, libc::SIG_IGN) };
        for _ in 0..3 {
            let hold = queue.extent(30 << 20).unwrap();
            // A part of it can be had, and no more.
            let limit = libc::rlimit { rlim_cur: hold.offset() + (16 << 20), rlim_max: libc::RLIM_INFINITY };
            // SAFETY: reads a local.
            assert_eq!(unsafe { libc::setrlimit(libc::RLIMIT_FSIZE, &limit) }, 0);
            hold.write(0, &[1; 24]).unwrap();
            assert_eq!(hold.write(64, &vec![1; 29 << 20]), Err(Error::OutOfMemory));
            drop(hold);
            let left = queue.resident();
            assert!(left < 1 << 20, "{left} bytes");
        }
    });
    assert_eq!(child.wait(), OK);
}

#[test]
fn what_readers_held_is_used_again_when_they_die() {
    let _turn = common::turn();
    let queue = Queue::create(0).unwrap();
    for round in 0..100 {
        put(&queue, 1, round, LARGE);
        let mut doomed = Child::fork(|| {
            let (mut bytes, mut fds) = (Vec::new(), Vec::new());
            let _received = queue.get(&mut bytes, &mut fds, soon()).unwrap();
            arm("here", 1, Action::Kill);
            fastmp_core::fault::reached("here");
        });
        assert_eq!(doomed.wait(), KILLED);
    }
    until("what they held is given back", || {
        put(&queue, 1, 0, 20 << 20);
        assert_eq!(got(&queue), (1, 0));
        queue.resident() <= IDLE + (40 << 20)
    });
}

#[test]
fn hundreds_may_be_held_and_hundreds_unread() {
    let _turn = common::turn();
    let queue = Queue::create(0).unwrap();
    (0..300).for_each(|number| put(&queue, 1, number, 70_000));
    let mut held = Vec::new();
    let (mut bytes, mut fds) = (Vec::new(), Vec::new());
    for _ in 0..200 {
        held.push(queue.get(&mut bytes, &mut fds, Deadline::PASSED).unwrap());
    }
    // Others go on as if nothing was held.
    let mut other = Child::fork(|| (200..300).for_each(|number| assert_eq!(got(&queue), (1, number))));
    assert_eq!(other.wait(), OK);
    for (number, received) in held.drain(..).enumerate() {
        let (hold, len) = *received.extent.unwrap();
        let mut bytes = vec![0; len];
        hold.read(0, &mut bytes).unwrap();
        assert_eq!(read_message(&bytes), (1, number));
    }
    assert!(queue.resident() <= IDLE + (32 << 20));
}

#[test]
fn a_death_in_the_midst_of_mending_another_changes_nothing() {
    let _turn = common::turn();
    // The first dies moving an extent, the second while it settles that, or gives back what the
    // first held.
    for first in
        ["extent.handing_over", "ring.put.before_commit", "ring.put.after_commit", "extent.filled", "extent.claimed"]
    {
        for second in ["extent.settling", "extent.sweeping", "extent.punched"] {
            let (case, queue) = (format!("{first}, {second}"), Queue::create(0).unwrap());
            put(&queue, 1, 0, LARGE);
            let mut doomed = Child::doomed(first, 1, || put(&queue, 1, 1, LARGE));
            assert_eq!(doomed.wait(), KILLED, "{case}");
            let committed = first == "ring.put.after_commit";
            // Sweeps come now and then.
            std::thread::sleep(Duration::from_millis(110));
            let mut mender = Child::doomed(second, 1, || put(&queue, 2, 0, LARGE));
            let died = mender.wait() == KILLED;
            let settles = !["extent.filled", "extent.claimed"].contains(&first);
            assert!(!settles || second != "extent.settling" || died, "{case}");
            std::thread::sleep(Duration::from_millis(110));
            put(&queue, 3, 0, LARGE);
            let mut expected = vec![(1, 0)];
            expected.extend(committed.then_some((1, 1)));
            expected.extend((!died).then_some((2, 0)));
            expected.push((3, 0));
            expected.iter().for_each(|expected| assert_eq!(got(&queue), *expected, "{case}"));
            assert_eq!(recv(&queue, Deadline::PASSED).unwrap_err(), Error::Empty, "{case}");
            comes_to_rest(&queue, &case);
        }
    }
    for first in ["extent.receiving", "ring.get.before_commit", "ring.get.after_commit"] {
        let (case, queue) = (format!("{first}, extent.settling"), Queue::create(0).unwrap());
        (0..3).for_each(|number| put(&queue, 1, number, LARGE));
        let mut doomed = Child::doomed(first, 1, || assert_eq!(got(&queue).0, 1));
        assert_eq!(doomed.wait(), KILLED, "{case}");
        let mut mender = Child::doomed("extent.settling", 1, || assert_eq!(got(&queue).0, 1));
        assert_eq!(mender.wait(), KILLED, "{case}");
        let next = usize::from(first == "ring.get.after_commit");
        (next..3).for_each(|number| assert_eq!(got(&queue), (1, number), "{case}"));
        comes_to_rest(&queue, &case);
    }
}

#[test]
fn readers_may_be_quicker_than_a_writer_that_has_just_committed() {
    let _turn = common::turn();
    for len in [LARGE, 70_000] {
        let queue = Queue::create(0).unwrap();
        let mut stalled = Child::fork(|| {
            arm("ring.put.after_commit", 1, Action::Stop);
            put(&queue, 1, 0, len);
            put(&queue, 1, 1, len);
        });
        stalled.until_stopped();
        // It is there, and its extent may even serve something else, while the writer still holds
        // the put lock.
        let received = queue.get(&mut Vec::new(), &mut Vec::new(), soon()).unwrap();
        assert_eq!(received.extent.as_ref().unwrap().1, len);
        let at = received.extent.as_ref().unwrap().0.index();
        drop(received);
        let next = queue.extent(len as u64).unwrap();
        assert_eq!(next.index(), at, "what was freed last is used first");
        next.write(0, &message(2, 0, len)).unwrap();
        stalled.signal(libc::SIGCONT);
        assert_eq!(stalled.wait(), OK);
        let meta = fastmp_core::channel::ring::MessageMeta::default();
        let mut payload = Some(fastmp_core::channel::ring::Payload::Extent(next, len as u64));
        let outgoing = fastmp_core::channel::transport::Outgoing { meta, payload: &mut payload, fds: &[] };
        queue.put(&mut { outgoing }, soon()).unwrap();
        assert_eq!([got(&queue), got(&queue)], [(1, 1), (2, 0)]);
    }
}

/// A message of which the content does not matter: making one that can be checked takes longer than
/// all the rest.
fn put_plain(queue: &Queue, len: usize) {
    send(queue, &vec![1; len], &[], soon()).unwrap();
}

fn get_plain(queue: &Queue, len: usize) {
    assert_eq!(recv(queue, soon()).unwrap().0.len(), len);
}

#[test]
fn a_queue_at_rest_gives_its_memory_back() {
    let _turn = common::turn();
    let queues: Vec<_> = (0..10).map(|_| Queue::create(0).unwrap()).collect();
    let kept = || queues.iter().map(|queue| queue.resident()).sum::<u64>();
    for queue in &queues {
        (0..4).for_each(|_| put_plain(queue, 32 << 20));
        (0..4).for_each(|_| get_plain(queue, 32 << 20));
    }
    let at_once = kept();
    assert!(at_once <= (256 << 20) + 10 * IDLE, "{at_once} bytes kept by ten");
    std::thread::sleep(Duration::from_millis(1100));
    // Whoever uses one sees to the others; the one itself rests when somebody waits on it.
    put_plain(&queues[0], 2 << 20);
    get_plain(&queues[0], 2 << 20);
    assert_eq!(recv(&queues[0], Deadline::after(1.3)).unwrap_err(), Error::Empty);
    let at_rest = kept();
    assert!(at_rest <= 10 * IDLE, "{at_rest} bytes kept by ten at rest");
}

#[test]
fn the_largest_are_kept_whatever_was_kept_before() {
    let _turn = common::turn();
    let queue = Queue::create(0).unwrap();
    (0..40).for_each(|number| put(&queue, 1, number, 300_000));
    (0..40).for_each(|number| assert_eq!(got(&queue), (1, number)));
    for len in [8 << 20, 100 << 20] {
        put_plain(&queue, len);
        get_plain(&queue, len);
        // The pages are those of the one before.
        let kept = queue.resident();
        assert!(kept >= len as u64, "{kept} bytes kept of {len}");
        put_plain(&queue, len);
        assert!(queue.resident() < len as u64 + (33 << 20));
        get_plain(&queue, len);
    }
    // And the small ones are again, once they are what is used.
    (0..40).for_each(|number| put(&queue, 1, number, 300_000));
    (0..40).for_each(|number| assert_eq!(got(&queue), (1, number)));
    assert!(queue.resident() <= 34 << 20);
}

/// Mappings of queues' extents in this process.
fn extents_mapped() -> usize {
    let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
    let is_extent = |line: &&str| {
        let offset = line.split_ascii_whitespace().nth(2).and_then(|at| u64::from_str_radix(at, 16).ok());
        line.contains("memfd:fastmp-queue") && offset.is_some_and(|offset| offset >= 128 << 20)
    };
    maps.lines().filter(is_extent).count()
}

#[test]
fn an_extent_that_is_used_again_is_mapped_whatever_its_length() {
    let _turn = common::turn();
    // Also where the file ends with the message: in the middle of a page.
    for len in [65_537, 69_632, 70_000, 1 << 20, (1 << 20) + 1, 3_000_001] {
        let queue = Queue::create(0).unwrap();
        put(&queue, 1, 0, len);
        assert_eq!((got(&queue), extents_mapped()), ((1, 0), 0), "{len}: what is used once is not mapped");
        for number in 1..4 {
            put(&queue, 1, number, len);
            assert_eq!(got(&queue), (1, number));
        }
        assert_eq!(extents_mapped(), 1, "{len}");
    }
}

#[test]
fn hundreds_of_unread_messages_find_their_pages_again() {
    let _turn = common::turn();
    let queue = Queue::create(0).unwrap();
    let round = || {
        (0..200).for_each(|_| put_plain(&queue, 70_000));
        (0..200).for_each(|_| get_plain(&queue, 70_000));
        queue.resident()
    };
    let kept = round();
    assert!(kept >= 200 * 70_000, "{kept} bytes kept");
    for number in 0..3 {
        assert!(round() <= kept + (1 << 20), "round {number}");
    }
    // All are mapped by then, and few mappings serve them.
    let mapped = extents_mapped();
    assert!((1..20).contains(&mapped), "{mapped} mappings");
}

#[test]
fn a_large_message_that_is_being_made_stalls_nobody() {
    let _turn = common::turn();
    for point in ["extent.claimed", "extent.filled"] {
        let queue = Queue::create(0).unwrap();
        let stalled = Child::fork(|| {
            arm(point, 1, Action::Stop);
            put(&queue, 1, 0, 20 << 20);
        });
        stalled.until_stopped();
        // Others have no need to wait: neither for a place nor for pages.
        for (number, len) in [SMALL, INLINED, INLINED, LARGE, 70_000, 3 << 20].into_iter().enumerate() {
            send(&queue, &message(2, number, len), &[], Deadline::PASSED).unwrap();
        }
        (0..6).for_each(|number| assert_eq!(got(&queue), (2, number)));
        stalled.signal(libc::SIGCONT);
        assert_eq!(got(&queue), (1, 0));
    }
}

static YIELDS: AtomicU32 = AtomicU32::new(0);

/// As on a core that others want as well: it takes long, and nobody reads meanwhile.
fn yields_for_long() {
    YIELDS.fetch_add(1, Ordering::Relaxed);
    std::thread::sleep(Duration::from_millis(5));
}

#[test]
fn who_lets_readers_go_first_in_vain_does_so_rarely() {
    let _turn = common::turn();
    let mut child = Child::fork(|| {
        let queue = Queue::create(0).unwrap();
        (0..64).for_each(|number| put(&queue, 1, number, 100_000));
        // One that knows nothing of the puts above, which may have been in vain as well.
        let queue = queue.again().unwrap();
        common::replace(libc::SYS_sched_yield, yields_for_long);
        (0..100).for_each(|_| drop(queue.extent_at_once(70_000).unwrap()));
        assert_eq!(YIELDS.load(Ordering::Relaxed), 0, "a task waits for nobody");
        (0..100).for_each(|_| drop(queue.extent(70_000).unwrap()));
        let yields = YIELDS.load(Ordering::Relaxed);
        assert!((1..50).contains(&yields), "{yields} times");
    });
    assert_eq!(child.wait(), OK);
}
