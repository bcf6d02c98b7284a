//! Queues between processes: order, bounds, readiness; producers and consumers killed at every
//! step. Long, as all of it shares the processes that put and get.
#![cfg(not(loom))]
// Forks, and lays test words over shared memory; a failure is to panic.
#![allow(unsafe_code, clippy::unwrap_used)]

mod common;

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use common::channel::{Channel, IDLE, INLINED, LARGE, SMALL, comes_to_rest, fds, got, ids, put, recv, send, soon};
use common::{Child, Dice, End, KILLED, OK, Tally, message, read_message, readable, until, words};
use fastmp_core::arena::Block;
use fastmp_core::channel::queue::Queue;
use fastmp_core::fault::{Action, arm};
use fastmp_core::layout::{Kind, Object};
use fastmp_core::{Deadline, Error};

fn tally() -> Object<Tally, Block> {
    common::shared(Kind::Memory)
}

/// Put messages without end, each counted once its put has returned.
fn produce(queue: &Queue, tally: &Tally, producer: usize, lens: &[usize]) {
    let mut dice = Dice(producer as u64);
    for number in 0..Tally::MESSAGES {
        let len = lens[dice.below(lens.len() as u64) as usize];
        send(queue, &message(producer, number, len), &[], Deadline::Never).unwrap();
        tally.put[producer].store(number as u64 + 1, Ordering::SeqCst);
    }
}

/// Get messages and mark each, until one of producer 0 comes.
fn consume(queue: &Queue, tally: &Tally) {
    let mut next = vec![0; Tally::PRODUCERS];
    loop {
        let (bytes, _) = recv(queue, Deadline::Never).unwrap();
        let (producer, number) = read_message(&bytes);
        if producer == 0 {
            return;
        }
        assert!(number >= next[producer], "{producer}'s message {number} after {}", next[producer]);
        next[producer] = number + 1;
        tally.came[producer][number].fetch_add(1, Ordering::SeqCst);
    }
}

#[test]
fn bounds_are_exact() {
    let _turn = common::turn();
    let queue = Queue::create(3).unwrap();
    assert!(queue.ring().is_empty() && queue.ring().maxsize() == 3);
    for (number, len) in [SMALL, LARGE, INLINED].into_iter().enumerate() {
        assert_eq!(queue.ring().len(), number as u64);
        put(&queue, 1, number, len);
    }
    assert!(queue.ring().is_full());
    let start = Instant::now();
    assert_eq!(send(&queue, &message(1, 3, SMALL), &[], Deadline::after(0.1)), Err(Error::Full));
    assert_eq!(send(&queue, &message(1, 3, LARGE), &[], Deadline::PASSED), Err(Error::Full));
    (0..3).for_each(|number| assert_eq!(got(&queue), (1, number)));
    assert_eq!(recv(&queue, Deadline::after(0.1)).unwrap_err(), Error::Empty);
    assert!(start.elapsed() >= Duration::from_millis(200));
    assert_eq!(recv(&queue, Deadline::PASSED).unwrap_err(), Error::Empty);
}

#[test]
fn nobody_reads_and_all_is_put() {
    let _turn = common::turn();
    let queue = Queue::create(0).unwrap();
    (0..200_000).for_each(|number| put(&queue, 1, number, SMALL));
    assert_eq!(queue.ring().len(), 200_000);
    let mut child = Child::fork(|| (0..200_000).for_each(|number| assert_eq!(got(&queue), (1, number))));
    assert_eq!(child.wait(), OK);
    assert!(queue.ring().is_empty());
    put(&queue, 1, 0, SMALL);
    assert_eq!(got(&queue), (1, 0));
    comes_to_rest(&queue, "all is read");
}

#[test]
fn a_child_that_put_100_mb_may_end_before_anything_is_read() {
    let _turn = common::turn();
    let queue = Queue::create(0).unwrap();
    let mut child = Child::fork(|| {
        (0..60).for_each(|number| put(&queue, 1, number, LARGE));
        put(&queue, 1, 60, 40 << 20);
    });
    assert_eq!(child.wait(), OK);
    (0..=60).for_each(|number| assert_eq!(got(&queue), (1, number)));
    put(&queue, 1, 0, LARGE);
    got(&queue);
    let kept = queue.resident();
    assert!(kept <= IDLE + (40 << 20), "{kept} bytes kept");
}

#[test]
fn many_producers_many_consumers() {
    let _turn = common::turn();
    for (maxsize, lens) in [(0, &[SMALL, 300][..]), (5, &[SMALL, 300]), (0, &[SMALL, 5000, INLINED, 70_000, 200_000])] {
        let (queue, tally) = (Queue::create(maxsize).unwrap(), tally());
        let mut consumers: Vec<_> = (0..3).map(|_| Child::fork(|| consume(&queue, &tally))).collect();
        let mut producers: Vec<_> =
            (1..=3).map(|producer| Child::fork(produce_as(&queue, &tally, producer, lens))).collect();
        assert!(producers.iter_mut().all(|p| p.wait() == OK));
        (0..3).for_each(|number| put(&queue, 0, number, SMALL));
        assert!(consumers.iter_mut().all(|c| c.wait() == OK));
        assert_eq!(tally.verdict(4), (0, 0, 0), "(lost, doubled, extra)");
        assert_eq!((tally.has_put(1), queue.ring().len()), (Tally::MESSAGES, 0));
    }
}

fn produce_as<'a>(queue: &'a Queue, tally: &'a Tally, producer: usize, lens: &'a [usize]) -> impl FnOnce() + 'a {
    move || produce(queue, tally, producer, lens)
}

const PUTTING: [(&str, &[usize]); 10] = [
    ("ring.put.before_commit", &[SMALL, INLINED, LARGE]),
    ("ring.put.after_commit", &[SMALL, INLINED, LARGE]),
    ("queue.put.before_wake", &[SMALL, LARGE]),
    ("transport.ready_sent", &[SMALL, LARGE]),
    ("extent.taken", &[INLINED, LARGE]),
    ("extent.claimed", &[INLINED, LARGE]),
    ("extent.reserved", &[INLINED]),
    ("extent.filled", &[70_000, LARGE]),
    ("extent.table_page", &[70_000]),
    ("extent.handing_over", &[INLINED, LARGE]),
];
const GETTING: [(&str, &[usize]); 7] = [
    ("ring.get.before_commit", &[SMALL, INLINED, LARGE]),
    ("ring.get.after_commit", &[SMALL, INLINED, LARGE]),
    ("transport.ready_clearing", &[SMALL, LARGE]),
    ("channel.woken", &[SMALL, LARGE]),
    ("extent.receiving", &[INLINED, LARGE]),
    ("extent.freed", &[INLINED, LARGE]),
    ("extent.punched", &[20 << 20]),
];

fn cases(points: &[(&'static str, &'static [usize])]) -> Vec<(&'static str, usize, u32)> {
    let each = points.iter().flat_map(|(point, lens)| lens.iter().map(move |len| (*point, *len)));
    each.flat_map(|(point, len)| [1, 2, 5].map(|nth| (point, len, nth))).collect()
}

#[test]
fn producers_die_at_every_point() {
    let _turn = common::turn();
    for (point, len, nth) in cases(&PUTTING) {
        let case = format!("{point} {nth}, {len} bytes");
        let (queue, words) = (Queue::create(0).unwrap(), words());
        assert!(!readable(&queue.reader()), "{case}: watched and empty");
        let mut doomed = Child::doomed(point, nth, || {
            for number in 0..60 {
                put(&queue, 1, number, len);
                words.set(0, number as u64 + 1);
                // Empty from time to time: tokens come and go, extents too.
                while number % 10 == 9 && words.get(1) < words.get(0) {
                    words.set(1, got(&queue).1 as u64 + 1);
                }
            }
        });
        let end = doomed.wait();
        assert!(end == KILLED || (end == OK && point.starts_with("extent")), "{case}: {end:?}");
        let (had_put, had_got) = (words.get(0) as usize, words.get(1) as usize);
        let mut heir = Child::fork(|| (0..30).for_each(|number| put(&queue, 2, number, len)));
        assert_eq!(heir.wait(), OK, "{case}");
        // What the dead one had put comes first, its last message perhaps, then the heir's.
        let mut next = had_got;
        let first = loop {
            assert!(readable(&queue.reader()), "{case}: a message without readiness");
            match got(&queue) {
                (1, number) => {
                    // One that it got itself may not be counted yet, if it died in between.
                    let uncounted = next == had_got && number == had_got + 1;
                    assert!(number == next || uncounted, "{case}: {number} comes for {next}");
                    next = number + 1;
                }
                other => break other,
            }
        };
        let uncounted = next == had_got && had_got + 1 == had_put;
        assert!((had_put..=had_put + 1).contains(&next) || uncounted, "{case}: {had_put} put, {next} came");
        if point == "ring.put.before_commit" {
            assert_eq!(next, had_put, "{case}: it was not committed");
        } else if point == "ring.put.after_commit" || point == "queue.put.before_wake" {
            assert_eq!(next, had_put + 1, "{case}: it was committed");
        }
        assert_eq!(first, (2, 0), "{case}");
        (1..30).for_each(|number| assert_eq!(got(&queue), (2, number), "{case}"));
        assert_eq!(recv(&queue, Deadline::PASSED).unwrap_err(), Error::Empty, "{case}");
        assert!(!readable(&queue.reader()), "{case}: empty, and said to be ready");
    }
}

#[test]
fn consumers_die_at_every_point() {
    let _turn = common::turn();
    for (point, len, nth) in cases(&GETTING) {
        let case = format!("{point} {nth}, {len} bytes");
        let (queue, words) = (Queue::create(0).unwrap(), words());
        queue.watch().unwrap();
        let mut doomed = Child::doomed(point, nth, || {
            loop {
                words.set(0, got(&queue).1 as u64 + 1);
            }
        });
        for number in 0..40 {
            if point == "channel.woken" && number < 10 {
                doomed.until_parked();
            }
            put(&queue, 1, number, len);
            if point == "transport.ready_clearing" {
                std::thread::sleep(Duration::from_millis(1));
            }
        }
        until("the consumer dies", || common::state(doomed.pid()) == Some('Z') || queue.ring().is_empty());
        doomed.kill();
        assert_eq!(doomed.wait(), KILLED);
        let had = words.get(0) as usize;
        let mut next = had;
        while !queue.ring().is_empty() {
            assert!(readable(&queue.reader()), "{case}: a message without readiness");
            let (_, number) = got(&queue);
            assert!(number == next || (next == had && number == had + 1), "{case}: {number} comes, {had} had");
            next = number + 1;
        }
        assert!(next == 40 || (next == had && had == 39), "{case}: {next} of 40, {had} had");
        put(&queue, 2, 0, len);
        assert_eq!(got(&queue), (2, 0), "{case}");
        assert_eq!(recv(&queue, Deadline::PASSED).unwrap_err(), Error::Empty, "{case}");
        assert!(!readable(&queue.reader()), "{case}: empty, and said to be ready");
    }
}

#[test]
fn waiting_producers_die_at_every_point() {
    let _turn = common::turn();
    for nth in 1..4 {
        let (queue, words) = (Queue::create(1).unwrap(), words());
        put(&queue, 1, 0, SMALL);
        let mut doomed = Child::doomed("channel.woken", nth, || {
            (0..20).for_each(|number| put(&queue, 2, number, SMALL));
        });
        doomed.until_parked();
        let mut other = Child::fork(|| {
            put(&queue, 3, 0, SMALL);
            words.set(0, 1);
        });
        let mut of_other = 0;
        while words.get(0) == 0 || !queue.ring().is_empty() {
            if let Ok((bytes, _)) = recv(&queue, Deadline::after(0.02)) {
                of_other += usize::from(read_message(&bytes).0 == 3);
            }
        }
        doomed.kill();
        doomed.wait();
        assert_eq!((other.wait(), of_other), (OK, 1));
    }
}

#[test]
fn wake_ups_owed_by_the_dead_are_not_lost() {
    let _turn = common::turn();
    // A message was put, and nobody told.
    let queue = Queue::create(1).unwrap();
    let mut consumer = Child::fork(|| assert_eq!(got(&queue), (1, 0)));
    consumer.until_parked();
    let mut doomed = Child::doomed("queue.put.before_wake", 1, || put(&queue, 1, 0, SMALL));
    assert_eq!((doomed.wait(), consumer.wait()), (KILLED, OK));
    // Room was made, and nobody told.
    put(&queue, 1, 1, SMALL);
    let mut producer = Child::fork(|| put(&queue, 1, 2, SMALL));
    producer.until_parked();
    let mut doomed = Child::doomed("ring.get.after_commit", 1, || assert_eq!(got(&queue), (1, 1)));
    assert_eq!((doomed.wait(), producer.wait()), (KILLED, OK));
    assert_eq!(got(&queue), (1, 2));
    // One was told, and died of it.
    let words = words();
    let mut doomed = Child::fork(|| {
        assert_eq!(recv(&queue, Deadline::after(0.1)).unwrap_err(), Error::Empty);
        arm("channel.woken", 1, Action::Kill);
        words.set(0, 1);
        got(&queue);
    });
    until("it waits in earnest", || words.get(0) == 1);
    doomed.until_parked();
    let mut other = Child::fork(|| assert_eq!(got(&queue), (1, 3)));
    other.until_parked();
    put(&queue, 1, 3, SMALL);
    assert_eq!((doomed.wait(), other.wait()), (KILLED, OK));
}

#[test]
fn random_kills_lose_at_most_what_is_in_dying_hands() {
    let _turn = common::turn();
    let seed = common::seed();
    let mut dice = Dice(seed);
    for lens in [&[SMALL][..], &[SMALL, 3000, INLINED, 70_000, LARGE]] {
        let (queue, tally) = (Queue::create(0).unwrap(), tally());
        let mut started = 0;
        let mut start_producer = || {
            started += 1;
            (started, Child::fork(produce_as(&queue, &tally, started, lens)))
        };
        let mut producers: Vec<_> = (0..3).map(|_| start_producer()).collect();
        let mut consumers: Vec<_> = (0..3).map(|_| Child::fork(|| consume(&queue, &tally))).collect();
        let mut killed_consumers = 0;
        for _ in 0..300 {
            std::thread::sleep(Duration::from_micros(dice.below(4000)));
            let at = dice.below(3) as usize;
            if dice.below(2) == 0 {
                producers[at].1.kill();
                let end = producers[at].1.wait();
                assert!(end == KILLED || end == OK, "seed {seed}: {end:?}");
                producers[at] = start_producer();
            } else {
                consumers[at].kill();
                assert_eq!(consumers[at].wait(), KILLED, "seed {seed}");
                killed_consumers += 1;
                consumers[at] = Child::fork(|| consume(&queue, &tally));
            }
        }
        for (_, producer) in &mut producers {
            producer.kill();
            producer.wait();
        }
        drop(producers);
        (0..3).for_each(|number| put(&queue, 0, number, SMALL));
        for consumer in &mut consumers {
            assert_eq!(consumer.wait(), OK, "seed {seed}");
        }
        // A message of a put that did not return may have come, one for each dead producer.
        let (lost, doubled, extra) = tally.verdict(started + 1);
        assert_eq!(doubled, 0, "seed {seed}");
        assert!(lost <= killed_consumers, "seed {seed}: {lost} lost, {killed_consumers} consumers killed");
        assert!(extra <= started, "seed {seed}: {extra} came of {started} producers' last");
        assert!(queue.ring().is_empty());
        comes_to_rest(&queue, &format!("seed {seed}"));
    }
}

#[test]
fn the_dead_leak_no_extents() {
    let _turn = common::turn();
    let queue = Queue::create(0).unwrap();
    let points = PUTTING.iter().chain(&GETTING).map(|(point, _)| *point).filter(|p| *p != "channel.woken");
    let points: Vec<_> = points.collect();
    let mut dice = Dice(common::seed());
    let mut most = 0;
    for round in 0..150 {
        let point = points[round % points.len()];
        let doomed_len = if dice.below(2) == 0 { LARGE } else { INLINED };
        let mut doomed = Child::doomed(point, 1 + dice.below(3) as u32, || {
            (0..6).for_each(|number| put(&queue, 1, number, doomed_len));
            (0..6).for_each(|_| drop(recv(&queue, Deadline::after(0.5))));
        });
        doomed.wait();
        while recv(&queue, Deadline::PASSED).is_ok() {}
        let kept = queue.resident();
        most = most.max(kept);
    }
    assert!(most <= IDLE + (64 << 20), "{most} bytes at most");
    comes_to_rest(&queue, "all are dead");
}

#[test]
fn who_is_quicker_again_and_again_waits_for_who_is_not() {
    let _turn = common::turn();
    let queue = Queue::create(0).unwrap();
    // It dies with its turn reserved, so that there is time to look.
    let mut waiter = Child::doomed("turns.reserved", 1, || while recv(&queue, soon()).is_ok() {});
    waiter.until_parked();
    let state = queue.ring().state();
    until("a waiter loses patience", || {
        put(&queue, 1, 0, SMALL);
        let _ = recv(&queue, Deadline::PASSED);
        state.not_empty.is_reserved()
    });
    assert_eq!(waiter.wait(), KILLED);
    put(&queue, 1, 1, SMALL);
    // Who may wait is to wait, who may not takes no notice.
    assert_eq!(queue.try_get(&mut Vec::new(), &mut Vec::new()).unwrap_err(), Error::WouldBlock);
    while recv(&queue, Deadline::PASSED).is_ok() {}
    assert!(state.not_empty.is_reserved());
    // And who waits in vain does not wait for long; then it is over.
    put(&queue, 1, 2, SMALL);
    let start = Instant::now();
    assert_eq!(got(&queue), (1, 2));
    assert!(start.elapsed() >= Duration::from_micros(200), "{:?}", start.elapsed());
    assert!(!state.not_empty.is_reserved());
    put(&queue, 1, 3, SMALL);
    queue.try_get(&mut Vec::new(), &mut Vec::new()).unwrap();
}

#[test]
fn so_does_who_puts() {
    let _turn = common::turn();
    let queue = Queue::create(1).unwrap();
    put(&queue, 1, 0, SMALL);
    let mut waiter =
        Child::doomed("turns.reserved", 1, || while send(&queue, &message(2, 0, SMALL), &[], soon()).is_ok() {});
    waiter.until_parked();
    let state = queue.ring().state();
    until("a waiter loses patience", || {
        let _ = recv(&queue, Deadline::PASSED);
        let _ = send(&queue, &message(1, 0, SMALL), &[], Deadline::PASSED);
        state.not_full.is_reserved()
    });
    assert_eq!(waiter.wait(), KILLED);
    while recv(&queue, Deadline::PASSED).is_ok() {}
    assert!(state.not_full.is_reserved());
    put(&queue, 1, 1, SMALL);
    assert!(!state.not_full.is_reserved());
    assert_eq!(got(&queue), (1, 1));
}

#[test]
fn never_a_message_without_readiness() {
    let _turn = common::turn();
    let seed = common::seed();
    let mut dice = Dice(seed);
    let queue = Queue::create(0).unwrap();
    queue.watch().unwrap();
    let work = || {
        for number in 0.. {
            put(&queue, 1, number, SMALL);
            if number % 5 == 0 {
                std::thread::sleep(Duration::from_micros(30));
            }
        }
    };
    let mut producers = [Child::fork(work), Child::fork(work)];
    for kills in 0..150 {
        for _ in 0..dice.below(60) {
            until("a message is there", || !queue.ring().is_empty());
            // Nobody else takes: it stays there.
            assert!(readable(&queue.reader()), "seed {seed}, after {kills} kills");
            (0..=dice.below(8)).for_each(|_| drop(recv(&queue, Deadline::PASSED)));
        }
        let at = dice.below(2) as usize;
        producers[at].kill();
        assert_eq!(producers[at].wait(), KILLED, "seed {seed}");
        producers[at] = Child::fork(work);
    }
    drop(producers);
    while recv(&queue, Deadline::PASSED).is_ok() {}
    assert!(!readable(&queue.reader()), "seed {seed}: empty, and said to be ready");
}

#[test]
fn a_child_forked_in_the_middle_of_everything_can_use_it() {
    let _turn = common::turn();
    let queue = Queue::create(0).unwrap();
    let stop = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|s| {
        for thread in 0..3 {
            let (queue, stop) = (&queue, &stop);
            s.spawn(move || {
                for number in 0.. {
                    if stop.load(Ordering::Relaxed) {
                        return;
                    }
                    put(queue, thread, number, [SMALL, LARGE, 100_000][number % 3]);
                    got(queue);
                }
            });
        }
        for round in 0..150 {
            let mut child = Child::fork(|| {
                put(&queue, 4, round, [SMALL, LARGE, 100_000][round % 3]);
                got(&queue);
            });
            assert_eq!(child.wait(), OK);
        }
        stop.store(true, Ordering::Relaxed);
    });
    assert!(queue.ring().is_empty());
}

#[test]
fn descriptors_come_with_their_message() {
    let _turn = common::turn();
    let queue = Queue::create(0).unwrap();
    let (lent, expected) = fds(3);
    // The first child comes with a token by which the arena knows whether it has ended.
    assert_eq!(Child::fork(|| ()).wait(), OK);
    let before = common::open_fds();
    for number in 0..80 {
        let mut child = Child::fork(|| {
            if number % 4 == 3 {
                arm(
                    ["transport.fds_sent", "transport.ready_sent", "ring.put.before_commit"][number % 3],
                    1,
                    Action::Kill,
                );
            }
            send(&queue, &message(1, number, SMALL), &lent[..1 + number % 2], soon()).unwrap();
        });
        let end = child.wait();
        assert_eq!(end == KILLED, number % 4 == 3, "{end:?}");
    }
    for number in (0..80).filter(|n| n % 4 != 3) {
        let (bytes, fds) = recv(&queue, soon()).unwrap();
        assert_eq!(read_message(&bytes), (1, number));
        assert_eq!(ids(&fds), &expected[..1 + number % 2]);
    }
    assert_eq!(recv(&queue, Deadline::PASSED).unwrap_err(), Error::Empty);
    assert_eq!(common::open_fds(), before);
}

#[test]
fn a_socket_full_of_descriptors_makes_producers_wait_quietly() {
    let _turn = common::turn();
    let queue = Queue::create(0).unwrap();
    let (one, expected) = fds(1);
    let mut sent = 0;
    while send(&queue, &message(1, sent, SMALL), &one, Deadline::after(0.02)).is_ok() {
        sent += 1;
    }
    let mut waiter = Child::fork(|| send(&queue, &message(1, sent, SMALL), &one, soon()).unwrap());
    std::thread::sleep(Duration::from_millis(100));
    let before = waiter.cpu();
    std::thread::sleep(Duration::from_millis(500));
    let burnt = waiter.cpu() - before;
    assert!(burnt <= 0.05, "{burnt} s of half a second, waiting");
    for number in 0..=sent {
        let (bytes, fds) = recv(&queue, soon()).unwrap();
        assert_eq!((read_message(&bytes), ids(&fds)), ((1, number), expected.clone()));
    }
    assert_eq!(waiter.wait(), OK);
}

#[test]
fn a_put_that_may_wait_is_not_refused_while_another_holds_a_lock() {
    let _turn = common::turn();
    let queue = Queue::create(0).unwrap();
    let (one, _) = fds(1);
    let mut sent = 0;
    while send(&queue, &message(1, sent, SMALL), &one, Deadline::after(0.02)).is_ok() {
        sent += 1;
    }
    let mut stalled = Child::fork(|| {
        arm("ring.get.before_commit", 1, Action::Stop);
        recv(&queue, soon()).unwrap();
    });
    stalled.until_stopped();
    // The socket is full. Whether anything in it is stale cannot be seen without that lock.
    let mut waiter = Child::fork(|| send(&queue, &message(1, sent, SMALL), &one, Deadline::after(30.0)).unwrap());
    std::thread::sleep(Duration::from_millis(300));
    assert!(waiter.ended().is_none(), "refused");
    stalled.signal(libc::SIGCONT);
    assert_eq!(stalled.wait(), OK);
    (1..=sent).for_each(|number| assert_eq!(read_message(&recv(&queue, soon()).unwrap().0), (1, number)));
    assert_eq!(waiter.wait(), OK);
}

#[test]
fn a_stalled_process_does_not_hold_up_a_deadline() {
    let _turn = common::turn();
    for (point, watched) in
        [("ring.put.before_commit", true), ("extent.claimed", false), ("ring.get.before_commit", true)]
    {
        let queue = Queue::create(0).unwrap();
        if watched {
            queue.watch().unwrap();
        }
        put(&queue, 1, 0, SMALL);
        let stalled = Child::fork(|| {
            arm(point, 1, Action::Stop);
            put(&queue, 1, 1, if point.starts_with("extent") { LARGE } else { SMALL });
            got(&queue);
        });
        stalled.until_stopped();
        let mut other = Child::fork(|| {
            let start = Instant::now();
            let _ = recv(&queue, Deadline::after(0.1));
            let _ = recv(&queue, Deadline::after(0.1));
            let _ = send(&queue, &message(2, 0, SMALL), &[], Deadline::after(0.1));
            let _ = send(&queue, &message(2, 1, LARGE), &[], Deadline::after(0.1));
            assert!(start.elapsed() < Duration::from_secs(4), "{:?}", start.elapsed());
        });
        assert_eq!(other.wait(), End::Exit(0), "{point}");
        stalled.signal(libc::SIGCONT);
    }
}

#[test]
fn producers_that_die_with_descriptors_do_not_block_the_socket() {
    let _turn = common::turn();
    for unread in [0, 1, 2] {
        let queue = Queue::create(0).unwrap();
        let (some, expected) = fds(2);
        // Nothing is unread; a message without descriptors; one that has some, so that it must be
        // read first.
        if unread == 2 {
            send(&queue, &message(1, 0, SMALL), &some, soon()).unwrap();
        }
        let mut cleaners_killed = 0;
        for n in 0..300 {
            // What died before it is in the way, what died after it may be a later message's for
            // all one can see.
            if unread == 1 && n == 65 {
                put(&queue, 1, 0, SMALL);
            }
            // The last put messages as long as there is room, and die in the midst of making some.
            let cleans = n >= 100 && unread == 1;
            let point = if cleans { "transport.stale_taken" } else { "transport.fds_sent" };
            let mut doomed = Child::doomed(point, 1, || {
                let _ = send(&queue, &message(3, n, SMALL), &some, Deadline::after(0.001));
            });
            cleaners_killed += usize::from(doomed.wait() == KILLED && cleans);
        }
        assert!(unread != 1 || cleaners_killed > 0, "none came to it");
        let mut producer = Child::fork(|| send(&queue, &message(2, 0, SMALL), &some, soon()).unwrap());
        if unread > 0 {
            let (bytes, fds) = recv(&queue, soon()).unwrap();
            assert_eq!(read_message(&bytes), (1, 0), "{unread}");
            assert_eq!(ids(&fds), if unread == 2 { expected.clone() } else { Vec::new() });
        }
        loop {
            let (bytes, fds) = recv(&queue, soon()).unwrap();
            assert_eq!(ids(&fds), expected, "{unread}");
            match read_message(&bytes) {
                (2, 0) => break,
                // One that did not come to the point at which it was to die.
                (who, _) => assert_eq!(who, 3),
            }
        }
        assert_eq!(producer.wait(), OK, "{unread}");
    }
}
