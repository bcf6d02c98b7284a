//! Readiness of a queue's sending end: writable unless a put would wait for room, also when those
//! who put and get are killed on the way.
#![cfg(not(loom))]
// Forks; a failure is to panic.
#![allow(unsafe_code, clippy::unwrap_used)]

mod common;

use std::os::fd::{AsRawFd, BorrowedFd};

use common::channel::{INLINED, LARGE, SMALL, fds, got, ids, put, recv, send, soon};
use common::{Child, Dice, KILLED, OK, message, read_message, readable, words, writable, writable_within};
use fastmp_core::channel::queue::Queue;
use fastmp_core::{Deadline, Error};

/// Points that a getter passes when it tells that there is room.
const TELLING: [(&str, u32); 4] = [
    ("transport.filler_taken", 1),
    ("transport.filler_taken", 2),
    ("transport.filler_taken", 3),
    ("transport.room_telling", 1),
];

/// A queue's sending end.
fn writer(queue: &Queue) -> BorrowedFd<'_> {
    queue.sockets()[1]
}

#[test]
fn a_queue_is_writable_unless_a_put_would_wait() {
    let _turn = common::turn();
    let mut dice = Dice(7);
    let (lent, expected) = fds(2);
    let with_fds = |number: usize| number % 50 > 40;
    for maxsize in [0, 1, 2, 30] {
        let queue = Queue::create(maxsize).unwrap();
        assert_eq!(queue.watch_sending().as_raw_fd(), writer(&queue).as_raw_fd());
        let (mut sent, mut read) = (0, 0);
        for step in 0..1500 {
            let unread = sent - read;
            let case = format!("maxsize {maxsize}, step {step}: {unread} unread");
            let is_full = maxsize > 0 && unread == maxsize as usize;
            assert_eq!(queue.would_be_full(), is_full, "{case}");
            // Fillers stay behind descriptors that wait for their message's receiver.
            if !(read..sent).any(with_fds) || is_full {
                assert_eq!(writable(&writer(&queue)), !is_full, "{case}");
            }
            // To the brim and to the ground, by turns.
            let goes_up = if step / 100 % 2 == 0 { 7 } else { 3 };
            if !is_full && dice.below(10) < goes_up {
                let len = [SMALL, SMALL, SMALL, 3000, INLINED, LARGE][sent % 6];
                let with = if with_fds(sent) { &lent[..] } else { &[] };
                send(&queue, &message(1, sent, len), with, Deadline::PASSED).expect(&case);
                sent += 1;
            } else if unread > 0 {
                let (bytes, fds) = recv(&queue, Deadline::PASSED).expect(&case);
                assert_eq!(read_message(&bytes), (1, read), "{case}");
                assert_eq!(ids(&fds), if with_fds(read) { &expected[..] } else { &[] }, "{case}");
                read += 1;
            }
        }
        assert!(sent > 300, "{sent}");
        (read..sent).for_each(|number| assert_eq!(read_message(&recv(&queue, soon()).unwrap().0), (1, number)));
        assert_queue_is_idle(&queue, "all is read");
    }
}

fn assert_queue_is_idle(queue: &Queue, case: &str) {
    assert_eq!(recv(queue, Deadline::PASSED).unwrap_err(), Error::Empty, "{case}");
    assert!(!readable(&queue.sockets()[0]), "{case}: readable, and empty");
    assert!(writable(&writer(queue)), "{case}: empty, and not writable");
}

#[test]
fn whoever_uses_a_queue_dies_at_every_point() {
    let _turn = common::turn();
    let putting = [
        ("transport.asked", 1),
        ("transport.full_said", 1),
        ("transport.filler_sent", 1),
        ("transport.filler_sent", 2),
        ("ring.put.after_commit", 3),
    ];
    let getting = TELLING.into_iter().chain([("ring.get.after_commit", 1), ("transport.ready_clearing", 1)]);
    for (point, nth) in putting {
        for (next, times) in getting.clone() {
            let case = format!("{point} {nth}, then {next} {times}");
            let queue = Queue::create(3).unwrap();
            if point != "transport.asked" {
                queue.watch_sending();
            }
            let mut doomed = Child::doomed(point, nth, || {
                queue.watch_sending();
                (0..3).for_each(|number| put(&queue, 1, number, SMALL));
            });
            assert_eq!(doomed.wait(), KILLED, "{case}");
            queue.watch_sending();
            while !queue.would_be_full() {
                put(&queue, 2, 0, SMALL);
            }
            // It was refused, or full as soon as it had put.
            assert!(!writable(&writer(&queue)), "{case}: full");
            let mut doomed = Child::doomed(next, times, || while recv(&queue, Deadline::PASSED).is_ok() {});
            // Who died before its ready packet leaves one less to take.
            let end = doomed.wait();
            assert!(end == KILLED || (end == OK && times == 3), "{case}: {end:?}");
            if recv(&queue, Deadline::PASSED).is_ok() {
                assert!(writable(&writer(&queue)), "{case}: two have gone");
            }
            while recv(&queue, Deadline::after(0.01)).is_ok() {}
            assert_queue_is_idle(&queue, &case);
        }
    }
    // All that got one is dead: who asks again is told the truth.
    for (point, nth) in getting {
        let queue = Queue::create(1).unwrap();
        queue.watch_sending();
        put(&queue, 1, 0, SMALL);
        let mut doomed = Child::doomed(point, nth, || _ = (got(&queue), recv(&queue, Deadline::PASSED)));
        // An empty queue is cleared in another way.
        assert!([KILLED, OK].contains(&doomed.wait()), "{point}");
        assert!(!queue.would_be_full());
        queue.watch_sending();
        assert!(writable(&writer(&queue)), "{point} {nth}: empty, and not writable");
    }
}

#[test]
fn many_put_by_readiness_alone() {
    let _turn = common::turn();
    const EACH: u64 = 3000;
    let queue = Queue::create(2).unwrap();
    let words = words();
    let mut putters: Vec<_> = (0..2)
        .map(|who| {
            let queue = &queue;
            Child::fork(move || {
                let fd = queue.watch_sending();
                let mut number = 0;
                while number < EACH {
                    assert!(writable_within(&fd, 15_000), "not writable for 15 seconds");
                    if queue.would_be_full() {
                        continue;
                    }
                    match send(queue, &message(who, number as usize, SMALL), &[], Deadline::PASSED) {
                        Ok(()) => number += 1,
                        Err(Error::Full) => (),
                        Err(e) => panic!("{e:?}"),
                    }
                }
            })
        })
        .collect();
    let mut getters: Vec<_> = (0..2)
        .map(|_| {
            Child::fork(|| {
                while words.add(0, 1) < 2 * EACH {
                    let (who, number) = got(&queue);
                    words.add(1 + who, number as u64);
                }
            })
        })
        .collect();
    assert!(putters.iter_mut().chain(&mut getters).all(|child| child.wait() == OK));
    assert_eq!((words.get(1), words.get(2)), ((EACH - 1) * EACH / 2, (EACH - 1) * EACH / 2), "each message once");
    assert_queue_is_idle(&queue, "all came");
}
