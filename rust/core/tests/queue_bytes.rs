//! Queues whose bytes are bounded: what is counted, who waits for room, and who dies on the way.
#![cfg(not(loom))]
// Forks, and lays test words over shared memory; a failure is to panic.
#![allow(unsafe_code, clippy::unwrap_used)]

mod common;

use std::time::{Duration, Instant};

use common::channel::{INLINED, LARGE, SMALL, got, put, recv, send, soon};
use common::{Child, KILLED, OK, message, words};
use fastmp_core::channel::queue::Queue;
use fastmp_core::{Deadline, Error};

fn bounded(max_bytes: u64) -> Queue {
    let queue = Queue::create(0).unwrap();
    queue.bound_bytes(max_bytes);
    queue
}

#[test]
fn counts_are_exact_whoever_dies() {
    let _turn = common::turn();
    for point in ["ring.put.before_commit", "ring.put.after_commit", "ring.get.before_commit", "ring.get.after_commit"]
    {
        for len in [SMALL, INLINED, LARGE] {
            for nth in [1, 2, 5, 6] {
                let case = format!("{point} {nth}, {len} bytes");
                let queue = Queue::create(0).unwrap();
                let mut doomed = Child::doomed(point, nth, || {
                    for number in 0..8 {
                        put(&queue, 1, number, len);
                    }
                    (0..8).for_each(|number| assert_eq!(got(&queue), (1, number)));
                });
                assert_eq!(doomed.wait(), KILLED, "{case}");
                let left = queue.ring().len();
                let totals = queue.stats().totals;
                let put_before = if point == "ring.put.before_commit" { nth - 1 } else { nth };
                let got_before = if point == "ring.get.before_commit" { nth - 1 } else { nth };
                let counts = if point.starts_with("ring.put") { (put_before, 0) } else { (8, got_before) };
                assert_eq!((totals.messages_in, totals.messages_out), (counts.0.into(), counts.1.into()), "{case}");
                assert_eq!(totals.bytes_in, totals.messages_in * len as u64, "{case}");
                assert_eq!(totals.bytes_out, totals.messages_out * len as u64, "{case}");
                assert_eq!(totals.messages_in - totals.messages_out, left, "{case}");
                assert!((left..=left + 9).contains(&totals.high_water), "{case}: {totals:?}");
                // The next one goes on from there.
                put(&queue, 2, 0, SMALL);
                while !queue.ring().is_empty() {
                    got(&queue);
                }
                let totals = queue.stats().totals;
                assert_eq!(totals.bytes_in, u64::from(counts.0) * len as u64 + SMALL as u64, "{case}");
                assert_eq!((totals.bytes_in, totals.messages_in), (totals.bytes_out, totals.messages_out), "{case}");
            }
        }
    }
}

#[test]
fn the_bound_is_exact_for_every_size() {
    let _turn = common::turn();
    let queue = bounded(3 * LARGE as u64);
    for len in [SMALL, INLINED, LARGE] {
        let fit = 3 * LARGE / len;
        (0..fit).for_each(|number| put(&queue, 1, number, len));
        let refused = send(&queue, &message(1, fit, len), &[], Deadline::PASSED);
        assert_eq!(refused, Err(Error::Full), "{len} bytes");
        (0..fit).for_each(|number| assert_eq!(got(&queue), (1, number)));
    }
    assert_eq!(send(&queue, &message(1, 0, 3 * LARGE + 1), &[], soon()), Err(Error::TooLarge));
    put(&queue, 1, 0, 3 * LARGE);
    assert!(queue.ring().is_full() && queue.would_be_full());
}

/// Who is first in line dies at each step; who waits behind it gets in all the same.
#[test]
fn who_is_first_dies() {
    let _turn = common::turn();
    for point in ["queue.room.claimed", "queue.room.left"] {
        let (queue, words) = (bounded(1000), words());
        put(&queue, 1, 0, 600);
        put(&queue, 1, 1, 400);
        let mut first = Child::doomed(point, 1, || put(&queue, 2, 0, 1000));
        first.until_parked();
        assert_eq!(got(&queue), (1, 0), "in vain");
        if point == "queue.room.left" {
            std::thread::sleep(Duration::from_millis(20));
            first.until_parked();
            assert_eq!(got(&queue), (1, 1), "it has its room");
        }
        assert_eq!(first.wait(), KILLED, "{point}");
        let mut behind: Vec<_> = (0..3)
            .map(|_| {
                Child::fork(|| {
                    put(&queue, 3, 0, 100);
                    words.add(0, 1);
                })
            })
            .collect();
        if point == "queue.room.left" {
            assert_eq!(got(&queue), (2, 0));
        }
        let start = Instant::now();
        assert!(behind.iter_mut().all(|child| child.wait() == OK), "{point}");
        assert!(start.elapsed() < Duration::from_secs(5));
        assert_eq!(words.get(0), 3, "{point}");
    }
}

/// Who has found the first one dead dies in its turn.
#[test]
fn who_mends_dies_too() {
    let _turn = common::turn();
    let queue = bounded(1000);
    put(&queue, 1, 0, 600);
    put(&queue, 1, 1, 400);
    let mut first = Child::doomed("queue.room.claimed", 1, || put(&queue, 2, 0, 1000));
    first.until_parked();
    assert_eq!(got(&queue), (1, 0));
    assert_eq!(first.wait(), KILLED);
    let mut second = Child::doomed("queue.room.recovered", 1, || put(&queue, 3, 0, 100));
    assert_eq!(second.wait(), KILLED);
    let mut third = Child::fork(|| put(&queue, 4, 0, 100));
    assert_eq!(third.wait(), OK);
    assert_eq!((got(&queue), got(&queue)), ((1, 1), (4, 0)));
    assert_eq!(recv(&queue, Deadline::PASSED).unwrap_err(), Error::Empty);
}

/// Whoever is woken and killed at once leaves the others to find the room by themselves.
#[test]
fn who_was_woken_dies() {
    let _turn = common::turn();
    let queue = bounded(1000);
    put(&queue, 1, 0, 1000);
    let mut waiting: Vec<_> = (2..6).map(|number| Child::fork(|| put(&queue, number, 0, 250))).collect();
    waiting.iter().for_each(Child::until_parked);
    got(&queue);
    waiting[0].kill();
    waiting[0].wait();
    let start = Instant::now();
    assert!(waiting[1..].iter_mut().all(|child| child.wait() == OK));
    assert!(start.elapsed() < Duration::from_secs(5));
}
