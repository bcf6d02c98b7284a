//! Queues that are shut down, whose messages are tasks, that take and give several at a time; and
//! who dies at each step of it.
#![cfg(not(loom))]
// Forks, and lays test words over shared memory; a failure is to panic.
#![allow(unsafe_code, clippy::unwrap_used)]

mod common;

use std::time::{Duration, Instant};

use common::channel::{Channel, INLINED, LARGE, SMALL, fds, got, put, recv, send, soon};
use common::{Child, KILLED, OK, message, open_fds, read_message, readable, words};
use fastmp_core::channel::queue::{Found, Joined, Queue, TAKERS};
use fastmp_core::channel::ring::{MessageMeta, Payload};
use fastmp_core::channel::transport::BatchMessage;
use fastmp_core::{Deadline, Error, Result};

fn put_many(queue: &Queue, producer: usize, numbers: std::ops::Range<usize>, len: usize) -> (usize, Result<()>) {
    let bytes: Vec<_> = numbers.map(|number| message(producer, number, len)).collect();
    let each = bytes.iter().map(|bytes| BatchMessage {
        meta: MessageMeta { format: 7, fds: 0 },
        payload: Some(Payload::Inline(bytes)),
        fds: Vec::new(),
    });
    let (mut messages, mut done) = (each.collect::<Vec<_>>(), 0);
    let put = queue.put_many(&mut messages, &mut done, soon());
    (done, put)
}

fn got_many(queue: &Queue, most: usize) -> Vec<(usize, usize)> {
    let (mut scratch, mut metas) = (Vec::new(), Vec::new());
    match queue.get_many(&mut scratch, &mut metas, most, soon()).unwrap() {
        Found::Run(many) => {
            assert_eq!(many, metas.len());
            let mut at = 0;
            let each = metas.iter().map(|(_, len)| {
                at += len;
                read_message(&scratch[at - len..at])
            });
            each.collect()
        }
        Found::One(received, bytes, _) => match received.extent.map(|extent| *extent) {
            Some((hold, len)) => {
                let mut bytes = vec![0; len];
                hold.read(0, &mut bytes).unwrap();
                vec![read_message(&bytes)]
            }
            None => vec![read_message(&bytes)],
        },
    }
}

#[test]
fn batches_keep_their_order_through_every_kind_of_place() {
    let _turn = common::turn();
    let queue = Queue::create(0).unwrap();
    let (mut next_in, mut next_out) = (0, 0);
    // Grows into chunks, and comes back to the base.
    for (puts, gets) in [(3000, 100), (40_000, 30_000), (10, 13_000), (2000, 2000)] {
        for len in [SMALL, 500, 5000] {
            let puts = puts * SMALL / len;
            let (done, put) = put_many(&queue, 1, next_in..next_in + puts, len);
            assert_eq!((done, put), (puts, Ok(())));
            next_in += puts;
        }
        for _ in 0..gets {
            if queue.ring().is_empty() {
                break;
            }
            for (producer, number) in got_many(&queue, 37) {
                assert_eq!((producer, number), (1, next_out));
                next_out += 1;
            }
        }
    }
    while !queue.ring().is_empty() {
        got_many(&queue, 1000).into_iter().for_each(|one| {
            assert_eq!(one, (1, next_out));
            next_out += 1;
        });
    }
    let totals = queue.stats().totals;
    assert_eq!((next_in, next_in as u64), (next_out, totals.messages_in));
    assert_eq!((totals.messages_in, totals.bytes_in), (totals.messages_out, totals.bytes_out));
}

#[test]
fn who_puts_a_batch_dies() {
    let _turn = common::turn();
    for point in ["ring.put.before_commit", "ring.put.after_commit", "queue.batch.before_wake", "transport.ready_sent"]
    {
        for (nth, size) in [(1, 10), (1, 11), (2, 10), (3, 11), (4, 100)] {
            let case = format!("{point} {nth}, batches of {size}");
            let (queue, words) = (Queue::create(0).unwrap(), words());
            assert!(!readable(&queue.reader()), "{case}: watched and empty");
            let mut doomed = Child::doomed(point, nth, || {
                for start in (0..500).step_by(size) {
                    put_many(&queue, 1, start..start + size, SMALL).1.unwrap();
                    words.set(0, (start + size) as u64);
                    if point == "transport.ready_sent" {
                        while !queue.ring().is_empty() {
                            words.add(1, got_many(&queue, size).len() as u64);
                        }
                    }
                }
            });
            assert_eq!(doomed.wait(), KILLED, "{case}");
            put(&queue, 2, 0, SMALL);
            assert!(readable(&queue.reader()), "{case}");
            let mut next = words.get(1) as usize;
            loop {
                match got(&queue) {
                    (1, number) => assert_eq!(number, std::mem::replace(&mut next, number + 1), "{case}"),
                    other => break assert_eq!(other, (2, 0)),
                }
            }
            let had_put = words.get(0) as usize;
            assert!((had_put..=had_put + size).contains(&next), "{case}: {next}");
            let totals = queue.stats().totals;
            assert_eq!(totals.bytes_in, (next as u64 + 1) * SMALL as u64, "{case}");
            assert_eq!((totals.messages_in, totals.bytes_in), (totals.messages_out, totals.bytes_out), "{case}");
        }
    }
}

#[test]
fn who_gets_a_batch_dies() {
    let _turn = common::turn();
    for point in ["ring.get.before_commit", "ring.get.after_commit", "takers.taking", "takers.claimed"] {
        for nth in [1, 2, 3] {
            let case = format!("{point} {nth}");
            let queue = Queue::create(0).unwrap();
            queue.keep_takers();
            put_many(&queue, 1, 0..40, SMALL).1.unwrap();
            let mut doomed =
                Child::doomed(point, nth, || drop((0..4).map(|_| got_many(&queue, 10)).collect::<Vec<_>>()));
            let end = doomed.wait();
            assert!(end == KILLED || (point == "takers.claimed" && nth > 1), "{case}: {end:?}");
            let left = queue.ring().len() as usize;
            let first = 40 - left;
            (first..40).for_each(|number| assert_eq!(got(&queue), (1, number), "{case}"));
            let totals = queue.stats().totals;
            assert_eq!((totals.messages_in, totals.bytes_in), (totals.messages_out, totals.bytes_out), "{case}");
            // What it may have taken is not done; what is got here is.
            (first..40).for_each(|_| queue.task_done().unwrap());
            if first > 0 {
                let joined = queue.join(queue.tasks_put(), true, soon());
                assert_eq!(joined, Ok(Joined::Lost(vec![doomed.pid()])), "{case}");
            } else {
                assert_eq!(queue.join(queue.tasks_put(), true, soon()), Ok(Joined::Done), "{case}");
            }
        }
    }
}

#[test]
fn who_shuts_it_down_dies_and_the_next_completes_it() {
    let _turn = common::turn();
    let points = [
        "transport.shut_told",
        "ring.shut.before_commit",
        "ring.shut.after_commit",
        "queue.shut.before_wake",
        "queue.thrown_away",
    ];
    for point in points {
        for immediate in [false, true] {
            let case = format!("{point}, immediate: {immediate}");
            if point == "queue.thrown_away" && !immediate {
                continue;
            }
            let queue = Queue::create(0).unwrap();
            assert!(!readable(&queue.reader()), "{case}");
            // Its descriptor is told at the first message already.
            if point != "transport.shut_told" {
                for (number, len) in [SMALL, INLINED, LARGE].into_iter().enumerate() {
                    let (with, _) = fds(1);
                    send(&queue, &message(1, number, len), &with, soon()).unwrap();
                }
            }
            let mut doomed = Child::doomed(point, 1, || queue.shut_down(immediate).unwrap());
            assert_eq!(doomed.wait(), KILLED, "{case}");
            let was_done = queue.ring().is_shut();
            assert_eq!(was_done, !matches!(point, "transport.shut_told" | "ring.shut.before_commit"), "{case}");
            if was_done {
                assert_eq!(send(&queue, &message(2, 0, SMALL), &[], soon()), Err(Error::ShutDown), "{case}");
            }
            if was_done && !immediate {
                (0..3).for_each(|number| assert_eq!(read_message(&recv(&queue, soon()).unwrap().0), (1, number)));
            }
            if was_done {
                // Without anybody's doing it again.
                assert_eq!(recv(&queue, soon()).unwrap_err(), Error::ShutDown, "{case}");
                assert!(readable(&queue.reader()), "{case}");
            }
            queue.shut_down(true).unwrap();
            assert_eq!(recv(&queue, soon()).unwrap_err(), Error::ShutDown, "{case}");
            assert!(readable(&queue.reader()), "{case}");
            assert!(queue.ring().is_empty(), "{case}");
            let totals = queue.stats().totals;
            assert_eq!((totals.messages_in, totals.bytes_in), (totals.messages_out, totals.bytes_out), "{case}");
        }
    }
}

/// The killer of a queue dies before it has woken anybody: they find out by themselves.
#[test]
fn those_who_wait_find_out() {
    let _turn = common::turn();
    for point in ["ring.shut.after_commit", "queue.shut.before_wake"] {
        let (empty, full, bounded) = (Queue::create(0).unwrap(), Queue::create(1).unwrap(), Queue::create(0).unwrap());
        bounded.bound_bytes(100);
        put(&full, 1, 0, SMALL);
        put(&bounded, 1, 0, 100);
        let mut waiting = [
            Child::fork(|| assert_eq!(recv(&empty, soon()).unwrap_err(), Error::ShutDown)),
            Child::fork(|| assert_eq!(send(&full, &message(1, 1, SMALL), &[], soon()), Err(Error::ShutDown))),
            Child::fork(|| assert_eq!(send(&bounded, &message(1, 1, SMALL), &[], soon()), Err(Error::ShutDown))),
        ];
        waiting.iter().for_each(Child::until_parked);
        for queue in [&empty, &full, &bounded] {
            assert_eq!(Child::doomed(point, 1, || queue.shut_down(false).unwrap()).wait(), KILLED);
        }
        let start = Instant::now();
        assert!(waiting.iter_mut().all(|child| child.wait() == OK), "{point}");
        assert!(start.elapsed() < Duration::from_secs(5), "{point}");
    }
}

#[test]
fn what_is_thrown_away_keeps_no_descriptor() {
    let _turn = common::turn();
    let queue = Queue::create(0).unwrap();
    let before = open_fds();
    for number in 0..20 {
        let (with, _) = fds(3);
        send(&queue, &message(1, number, SMALL), &with, soon()).unwrap();
    }
    queue.shut_down(true).unwrap();
    assert_eq!(open_fds(), before);
    // Nor does the socket: what it holds would come back.
    assert_eq!(fastmp_core::sys::socket::head(queue.reader()), fastmp_core::sys::socket::Head::Ready(1));
}

#[test]
fn tasks_are_counted_whoever_dies() {
    let _turn = common::turn();
    for point in ["ring.put.before_commit", "ring.put.after_commit"] {
        let queue = Queue::create(0).unwrap();
        assert_eq!(Child::doomed(point, 3, || (0..5).for_each(|number| put(&queue, 1, number, SMALL))).wait(), KILLED);
        let counted = if point == "ring.put.before_commit" { 2 } else { 3 };
        assert_eq!(queue.unfinished(), counted, "{point}");
        (0..counted).for_each(|_| queue.task_done().unwrap());
        assert_eq!(queue.task_done(), Err(Error::Overflow));
        assert_eq!(queue.join(queue.tasks_put(), true, Deadline::PASSED), Ok(Joined::Done));
    }
}

/// Who does the last task dies before it has said so to those who wait.
#[test]
fn who_does_the_last_task_dies() {
    let _turn = common::turn();
    for point in ["tasks.done", "tasks.all_done"] {
        let queue = Queue::create(0).unwrap();
        put(&queue, 1, 0, SMALL);
        let mut joiner = Child::fork(|| assert_eq!(queue.join(1, true, soon()), Ok(Joined::Done)));
        joiner.until_parked();
        let mut doomed = Child::doomed(point, 1, || {
            got(&queue);
            queue.task_done().unwrap();
        });
        assert_eq!(doomed.wait(), KILLED, "{point}");
        assert_eq!(joiner.wait(), OK, "{point}");
    }
}

#[test]
fn lost_tasks_are_told_of_and_no_others() {
    let _turn = common::turn();
    let (queue, words) = (Queue::create(0).unwrap(), words());
    queue.keep_takers();
    (0..4).for_each(|number| put(&queue, 1, number, SMALL));
    let take = |at: usize| {
        let words = &words;
        let queue = &queue;
        move || {
            got(queue);
            words.add(at, 1);
            common::until("it may go on", || words.get(10 + at) > 0);
            queue.task_done().unwrap();
        }
    };
    let mut workers: Vec<_> = (0..3).map(|at| Child::fork(take(at))).collect();
    (0..3).for_each(|at| common::until("it has taken one", || words.get(at) > 0));
    workers[0].kill();
    workers[0].wait();
    let judged = |within: f64| queue.join(queue.tasks_put(), true, Deadline::after(within));
    assert_eq!(judged(0.3), Err(Error::TimedOut), "one is queued");
    let idle = Child::fork(|| {
        got(&queue);
        queue.task_done().unwrap();
        recv(&queue, soon()).unwrap_err();
    });
    common::until("it has done one", || queue.unfinished() == 3);
    assert_eq!(judged(0.3), Err(Error::TimedOut), "two are at it");
    words.set(11, 1);
    assert_eq!(workers[1].wait(), OK);
    assert_eq!(judged(0.3), Err(Error::TimedOut), "one is at it");
    workers[2].kill();
    workers[2].wait();
    let Ok(Joined::Lost(mut dead)) = judged(10.0) else { panic!("nobody is left") };
    dead.sort_unstable();
    let mut expected = vec![workers[0].pid(), workers[2].pid()];
    expected.sort_unstable();
    assert_eq!(dead, expected);
    // Another does it for them: now it is not known whose tasks are whose.
    queue.task_done().unwrap();
    assert_eq!(judged(0.3), Err(Error::TimedOut));
    idle.kill();
}

#[test]
fn entries_of_the_dead_serve_others_and_too_many_are_not_judged() {
    let _turn = common::turn();
    let queue = Queue::create(0).unwrap();
    queue.keep_takers();
    for number in 0..2 * TAKERS {
        put(&queue, 1, number, SMALL);
        let mut worker = Child::fork(|| {
            got(&queue);
            queue.task_done().unwrap();
        });
        assert_eq!(worker.wait(), OK);
    }
    let lose = |number| {
        put(&queue, 1, number, SMALL);
        assert_eq!(Child::fork(|| assert_eq!(got(&queue).0, 1)).wait(), OK);
    };
    (0..TAKERS).for_each(lose);
    let judged = |within: f64| queue.join(queue.tasks_put(), true, Deadline::after(within));
    assert!(matches!(judged(10.0), Ok(Joined::Lost(dead)) if dead.len() == TAKERS));
    lose(TAKERS);
    assert_eq!(judged(0.3), Err(Error::TimedOut), "one is not in the table");
}
