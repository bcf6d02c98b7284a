//! Queues whose messages come back when their taker is killed; and who dies at each step of it, and
//! who dies while it mends that. Long, for it holds all steps of one protocol.
#![cfg(not(loom))]
// Forks, and lays test words over shared memory; a failure is to panic.
#![allow(unsafe_code, clippy::unwrap_used)]

mod common;

use std::collections::BTreeSet;
use std::sync::Barrier;

use common::channel::{Channel, IDLE, INLINED, LARGE, SMALL, fds, got, put, recv, send, soon};
use common::{Child, End, KILLED, OK, message, open_fds, read_message, readable, until, words};
use fastmp_core::channel::queue::custody::{BAYS, acknowledge_all};
use fastmp_core::channel::queue::{Found, Joined, NO_DESCRIPTORS, Queue};
use fastmp_core::deadline::Patience;
use fastmp_core::fault::{self, Action};
use fastmp_core::{Deadline, Error};

fn queue(maxsize: u64) -> Queue {
    let queue = Queue::create(maxsize).unwrap();
    queue.keep_messages().unwrap();
    queue
}

fn mend(queue: &Queue) -> bool {
    queue.mend_custody(true, Patience::sleep(soon()))
}

/// The numbers of all messages that are to be had.
fn rest(queue: &Queue) -> Vec<usize> {
    let mut all = Vec::new();
    loop {
        mend(queue);
        match recv(queue, Deadline::PASSED) {
            Ok((bytes, _)) => all.push(read_message(&bytes).1),
            Err(Error::Empty) => return all,
            Err(e) => panic!("{e}"),
        }
    }
}

fn got_many(queue: &Queue, most: usize) -> Vec<usize> {
    let (mut scratch, mut metas) = (Vec::new(), Vec::new());
    match queue.get_many(&mut scratch, &mut metas, most, soon()).unwrap() {
        Found::Run(_) => {
            let mut at = 0;
            let each = metas.iter().map(|(_, len)| {
                at += len;
                read_message(&scratch[at - len..at]).1
            });
            each.collect()
        }
        Found::One(received, bytes, _) => {
            let bytes = received.extent.map_or(bytes, |extent| {
                let mut bytes = vec![0; extent.1];
                extent.0.read(0, &mut bytes).unwrap();
                bytes
            });
            vec![read_message(&bytes).1]
        }
    }
}

/// Takes `count` messages, does not acknowledge the last, and is killed.
fn take_and_die(queue: &Queue, count: usize) {
    let words = words();
    let mut taker = Child::fork(|| {
        for _ in 0..count {
            got(queue);
        }
        words.set(0, 1);
        common::until("it is killed", || false);
    });
    until("it has taken them", || words.get(0) == 1);
    taker.kill();
    assert_eq!(taker.wait(), KILLED);
}

#[test]
fn what_a_killed_taker_held_comes_back_first() {
    let _turn = common::turn();
    for len in [SMALL, INLINED, LARGE] {
        let queue = queue(0);
        (0..5).for_each(|number| put(&queue, 1, number, len));
        take_and_die(&queue, 3);
        // Two were acknowledged, by asking for the next.
        assert_eq!(queue.ring().len(), 2);
        assert!(mend(&queue));
        assert_eq!(queue.ring().len(), 3, "{len}");
        assert_eq!(rest(&queue), [2, 3, 4], "{len}");
        assert!(!mend(&queue));
        assert!(queue.ring().is_empty());
    }
}

#[test]
fn its_taker_is_told_that_it_has_come_back() {
    let _turn = common::turn();
    for len in [SMALL, INLINED, LARGE] {
        let queue = queue(0);
        assert!(!queue.has_come_back(), "nothing has been got");
        (0..3).for_each(|number| put(&queue, 1, number, len));
        got(&queue);
        assert!(!queue.has_come_back(), "{len}: it is the first that has got it");
        take_and_die(&queue, 1);
        assert!(mend(&queue));
        got(&queue);
        assert!(queue.has_come_back(), "{len}");
        // Nor is it forgotten who died while it was being given on.
        for point in ["custody.pending", "custody.front.after_commit", "custody.held"] {
            let other = self::queue(0);
            put(&other, 1, 0, len);
            take_and_die(&other, 1);
            assert!(mend(&other));
            assert_eq!(Child::doomed(point, 1, || _ = got(&other)).wait(), KILLED, "{point}");
            mend(&other);
            got(&other);
            assert!(other.has_come_back(), "{len} {point}");
        }
        queue.acknowledge_own();
        assert!(!queue.has_come_back(), "{len}: it is dealt with");
        got(&queue);
        assert!(!queue.has_come_back(), "{len}: the next one has not");
        // A forked child has got nothing.
        take_and_die(&queue, 0);
        let child = Child::fork(|| assert!(!queue.has_come_back()));
        assert_eq!({ child }.wait(), OK);
    }
}

#[test]
fn who_waits_gets_it() {
    let _turn = common::turn();
    let queue = queue(0);
    put(&queue, 1, 7, SMALL);
    let words = words();
    let holder = Child::fork(|| {
        got(&queue);
        words.set(0, 1);
        common::until("it is killed", || false);
    });
    until("it has it", || words.get(0) == 1);
    let mut waiting = [(); 2].map(|()| Child::fork(|| drop(recv(&queue, Deadline::after(15.0)))));
    waiting.iter().for_each(Child::until_parked);
    holder.kill();
    // One of them gets it, and ends without a word: then the other.
    assert!(waiting.iter_mut().all(|child| child.wait() == OK));
    // A zombie that nobody has waited for all this time.
    assert_eq!(rest(&queue), [7]);
}

/// Nor does anybody rely on another's look, which may never end.
#[test]
fn who_does_not_wait_is_told_the_truth() {
    let _turn = common::turn();
    for point in ["", "custody.returning", "custody.returned", "custody.before_wake"] {
        let queue = queue(0);
        put(&queue, 1, 0, SMALL);
        assert!(!queue.is_look_due(), "nobody holds anything");
        take_and_die(&queue, 1);
        if !point.is_empty() {
            assert_eq!(Child::doomed(point, 1, || _ = mend(&queue)).wait(), KILLED, "{point}");
        }
        assert_eq!(recv(&queue, Deadline::PASSED).unwrap().0.len(), SMALL, "{point}");
        assert!(!queue.is_look_due(), "nobody else holds anything");
        // How many there are, likewise.
        let other = self::queue(0);
        put(&other, 1, 0, SMALL);
        take_and_die(&other, 1);
        if !point.is_empty() {
            assert_eq!(Child::doomed(point, 1, || _ = mend(&other)).wait(), KILLED, "{point}");
        }
        other.look_before_answer(Patience::sleep(soon()));
        assert_eq!(other.ring().len(), 1, "{point}");
    }
}

/// A task never sleeps: the look that it comes to is one that is brief.
#[test]
fn who_must_not_sleep_gets_what_comes_back() {
    let _turn = common::turn();
    let queue = queue(0);
    put(&queue, 1, 0, SMALL);
    take_and_die(&queue, 1);
    let (mut bytes, mut fds) = (Vec::new(), Vec::new());
    until("a moment is enough", || queue.get_told(&mut bytes, &mut fds, Patience::Moment).is_ok());
    assert_eq!(read_message(&bytes).1, 0);
}

/// A task that waits has asked when it began to: when it looks in vain, what another task of its
/// thread has got since is in custody still.
#[test]
fn who_is_told_in_vain_acknowledges_nothing() {
    let _turn = common::turn();
    let queue = queue(0);
    (0..2).for_each(|number| put(&queue, 1, number, SMALL));
    let words = words();
    let mut taker = Child::fork(|| {
        assert_eq!((got(&queue).1, got(&queue).1), (0, 1));
        let (mut bytes, mut fds) = (Vec::new(), Vec::new());
        for patience in [Patience::Spin, Patience::Moment] {
            assert!(queue.get_told(&mut bytes, &mut fds, patience).is_err());
        }
        words.set(0, 1);
        common::until("it is killed", || false);
    });
    until("it has looked in vain", || words.get(0) == 1);
    taker.kill();
    taker.wait();
    assert_eq!(rest(&queue), [1]);
}

/// Whoever looks at a large message where it is has it, whatever becomes of the queue meanwhile.
#[test]
fn who_drops_the_queue_leaves_what_is_looked_at() {
    let _turn = common::turn();
    let queue = queue(0);
    let (len, sent) = (LARGE, message(1, 0, LARGE));
    for came_back in [false, true] {
        put(&queue, 1, 0, len);
        if came_back {
            take_and_die(&queue, 1);
            assert!(mend(&queue));
        }
        let handle = queue.again().unwrap();
        let received = handle.get(&mut Vec::new(), &mut Vec::new(), soon()).unwrap();
        let (hold, size) = *received.extent.unwrap();
        drop(handle);
        // Others would fill its memory.
        (1..4).for_each(|number| put(&queue, 2, number, len));
        let mut bytes = vec![0; size];
        hold.read(0, &mut bytes).unwrap();
        assert!(bytes == sent, "it has been given back");
        (1..4).for_each(|number| assert_eq!(got(&queue), (2, number)));
        // It is acknowledged then.
        drop(hold);
        assert!(!mend(&queue));
        common::channel::comes_to_rest(&queue, "after it has been looked at");
    }
}

#[test]
fn the_high_water_mark_counts_what_comes_back() {
    let _turn = common::turn();
    let queue = queue(0);
    put(&queue, 1, 0, SMALL);
    take_and_die(&queue, 1);
    put(&queue, 1, 1, SMALL);
    assert!(mend(&queue));
    assert_eq!(rest(&queue), [0, 1]);
    assert_eq!(queue.stats().totals.high_water, 2);
}

#[test]
fn batches_come_back_whole_and_in_order() {
    let _turn = common::turn();
    for size in [1, 2, 9, 10, 500] {
        let queue = queue(0);
        (0..20).for_each(|number| put(&queue, 1, number, SMALL));
        let words = words();
        let mut taker = Child::fork(|| words.set(0, 1 + got_many(&queue, size).len() as u64));
        assert_eq!(taker.wait(), OK);
        let taken = size.min(20);
        assert_eq!(words.get(0) as usize, 1 + taken);
        assert_eq!(queue.ring().len() as usize, 20 - taken);
        assert!(mend(&queue));
        assert_eq!(queue.ring().len(), 20);
        // Several at a time, and one by one.
        let mut all = got_many(&queue, 3);
        assert!(all.len() <= taken.min(3));
        all.extend(rest(&queue));
        assert_eq!(all, (0..20).collect::<Vec<_>>(), "{size}");
        let totals = queue.stats().totals;
        assert_eq!((totals.messages_in, totals.bytes_in), (totals.messages_out, totals.bytes_out));
    }
}

#[test]
fn tiny_ones_fill_a_bay_and_a_batch_ends() {
    let _turn = common::turn();
    let queue = queue(0);
    (0..6000).for_each(|number| put(&queue, 1, number, 16));
    take_and_die(&queue, 1);
    assert!(mend(&queue));
    let (mut all, mut batches) = (Vec::new(), 0);
    while !queue.ring().is_empty() {
        all.extend(got_many(&queue, usize::MAX));
        batches += 1;
    }
    assert_eq!(all, (0..6000).collect::<Vec<_>>());
    assert!((3..20).contains(&batches), "{batches}");
}

/// Steps of a taker, in turn.
const TAKING: [&str; 9] = [
    "custody.claimed",
    "extent.claimed",
    "custody.lodging",
    "custody.acknowledged",
    "custody.pending",
    "ring.get.before_commit",
    "ring.get.after_commit",
    "custody.held",
    "extent.reclaimed",
];

/// Steps of one who mends, and then takes.
const MENDING: [&str; 13] = [
    "mutex.recovered",
    "custody.settling",
    "transport.ready_sent",
    "custody.returning",
    "custody.returned",
    "custody.before_wake",
    "custody.pending",
    "custody.front.before_commit",
    "custody.front.after_commit",
    "custody.held",
    "extent.reclaimed",
    "extent.freed",
    "custody.cleaned",
];

/// A taker that dies at `point`; gives how many messages it had got before.
fn dies_taking(queue: &Queue, point: &str, nth: u32, batch: usize) -> Option<usize> {
    let words = words();
    let mut doomed = Child::doomed(point, nth, || {
        for _ in 0..3 {
            words.set(1, words.get(0));
            let some = got_many(queue, batch).len();
            words.add(0, some as u64);
        }
        common::exit(77);
    });
    match doomed.wait() {
        KILLED => Some(words.get(0) as usize),
        End::Exit(77) => None,
        other => panic!("{point} {nth}: {other:?}"),
    }
}

#[test]
fn a_taker_dies_at_each_step() {
    let _turn = common::turn();
    let mut reached = BTreeSet::new();
    for point in TAKING {
        for (nth, len, batch) in [1, 2, 3]
            .into_iter()
            .flat_map(|nth| [(SMALL, 1), (SMALL, 2), (SMALL, 3), (LARGE, 1)].map(move |(len, batch)| (nth, len, batch)))
        {
            let case = format!("{point} {nth}, {len} bytes, {batch} at a time");
            let queue = queue(0);
            (0..10).for_each(|number| put(&queue, 1, number, len));
            let Some(had) = dies_taking(&queue, point, nth, batch) else { continue };
            reached.insert(point);
            // What it had got before its last call is acknowledged.
            assert_eq!(rest(&queue), (had..10).collect::<Vec<_>>(), "{case}");
            let totals = queue.stats().totals;
            assert_eq!((totals.messages_in, totals.bytes_in), (totals.messages_out, totals.bytes_out), "{case}");
        }
    }
    assert_eq!(reached.len(), TAKING.len(), "{reached:?}");
}

#[test]
fn who_mends_dies_too() {
    let _turn = common::turn();
    let mut reached = BTreeSet::new();
    let first = ["custody.pending", "ring.get.after_commit", "custody.held", "custody.acknowledged"];
    for (first, point) in first.into_iter().flat_map(|first| MENDING.map(|point| (first, point))) {
        for (nth, len, batch) in [1, 2]
            .into_iter()
            .flat_map(|nth| [(SMALL, 1), (SMALL, 4), (LARGE, 1)].map(move |(len, batch)| (nth, len, batch)))
        {
            let case = format!("{first}, then {point} {nth}; {len} bytes, {batch} at a time");
            let queue = queue(0);
            (0..10).for_each(|number| put(&queue, 1, number, len));
            let start = got_many(&queue, 1)[0] + 1;
            let Some(had) = dies_taking(&queue, first, 2, batch) else { continue };
            // And who mends what that leaves. One looks by itself, one when it is told how much
            // there is; what they take they do not acknowledge.
            for told in [false, true] {
                let mut mender = Child::doomed(point, nth, || {
                    match told {
                        true => queue.look_before_answer(Patience::sleep(soon())),
                        false => mend(&queue),
                    };
                    got_many(&queue, 2);
                    common::exit(77);
                });
                match mender.wait() {
                    KILLED => drop(reached.insert(point)),
                    End::Exit(77) => (),
                    other => panic!("{case}: {other:?}"),
                }
            }
            assert_eq!(rest(&queue), (start + had..10).collect::<Vec<_>>(), "{case}");
            assert_eq!(queue.ring().in_front(), 0, "{case}");
        }
    }
    // Only an empty queue that is watched has anything to tell: that has a test of its own.
    reached.insert("transport.ready_sent");
    assert_eq!(reached.len(), MENDING.len(), "{reached:?}");
}

#[test]
fn its_descriptor_tells_of_what_comes_back() {
    let _turn = common::turn();
    for point in ["", "transport.ready_sent", "custody.returning", "custody.returned", "custody.before_wake"] {
        let queue = queue(0);
        assert!(!readable(&queue.reader()));
        put(&queue, 1, 0, SMALL);
        assert!(readable(&queue.reader()));
        take_and_die(&queue, 1);
        assert!(!readable(&queue.reader()), "{point}");
        if !point.is_empty() {
            assert_eq!(Child::doomed(point, 1, || assert!(mend(&queue))).wait(), KILLED, "{point}");
        }
        mend(&queue);
        assert!(readable(&queue.reader()), "{point}");
        // For one who has been told.
        let (mut bytes, mut fds) = (Vec::new(), Vec::new());
        queue.get_told(&mut bytes, &mut fds, Patience::Moment).unwrap();
        assert_eq!(read_message(&bytes).1, 0);
        // After a death it may be readable in vain, once.
        assert!(!readable(&queue.reader()) || !point.is_empty());
        assert_eq!(queue.get_told(&mut bytes, &mut fds, Patience::Moment).unwrap_err(), Error::Empty);
        assert!(!readable(&queue.reader()), "{point}");
    }
}

#[test]
fn a_bound_is_exceeded_by_what_comes_back_alone() {
    let _turn = common::turn();
    let queue = queue(2);
    put(&queue, 1, 0, SMALL);
    put(&queue, 1, 1, SMALL);
    take_and_die(&queue, 1);
    put(&queue, 1, 2, SMALL);
    assert!(mend(&queue));
    assert_eq!((queue.ring().len(), queue.ring().is_full()), (3, true));
    let refused = |number| send(&queue, &message(1, number, SMALL), &[], Deadline::PASSED);
    assert_eq!(refused(3), Err(Error::Full));
    assert_eq!(got(&queue).1, 0);
    assert_eq!(refused(3), Err(Error::Full));
    assert_eq!(got(&queue).1, 1);
    assert_eq!(refused(3), Ok(()));
    assert_eq!(refused(4), Err(Error::Full));
    // Room that comes free in front wakes who waits for it.
    take_and_die(&queue, 1);
    assert!(mend(&queue));
    let mut putter = Child::fork(|| put(&queue, 1, 4, SMALL));
    putter.until_parked();
    assert_eq!(got(&queue).1, 2);
    assert_eq!(putter.wait(), OK);
    assert_eq!(rest(&queue), [3, 4]);
}

#[test]
fn who_ends_normally_has_acknowledged() {
    let _turn = common::turn();
    let queue = queue(0);
    (0..4).for_each(|number| put(&queue, 1, number, if number == 1 { LARGE } else { SMALL }));
    // A thread that ends.
    let mut child = Child::fork(|| {
        std::thread::scope(|threads| drop(threads.spawn(|| got(&queue)).join()));
        common::exit(0);
    });
    assert_eq!(child.wait(), OK);
    assert!(!mend(&queue));
    // A process that says so, with what another of its threads holds.
    let mut child = Child::fork(|| {
        let words = words();
        std::thread::scope(|threads| {
            threads.spawn(|| {
                got(&queue);
                words.set(0, 1);
                common::until("the process ends", || false);
            });
            common::until("it has taken one", || words.get(0) == 1);
            acknowledge_all();
            common::exit(0);
        });
    });
    assert_eq!(child.wait(), OK);
    assert!(!mend(&queue));
    assert_eq!(rest(&queue), [2, 3]);
}

#[test]
fn who_drops_the_queue_has_acknowledged() {
    let _turn = common::turn();
    for point in ["", "custody.leaving", "custody.cleaned"] {
        let queue = queue(0);
        (0..3).for_each(|number| put(&queue, 1, number, LARGE));
        let other = || queue.again().unwrap();
        let drops = || {
            let handle = other();
            assert!(handle.keeps_messages());
            assert_eq!(got(&handle).1, 0);
            drop(handle);
            assert_eq!(got(&other()).1, 1);
            common::exit(0);
        };
        if point.is_empty() {
            assert_eq!(Child::fork(drops).wait(), OK);
            assert_eq!(rest(&queue), [2]);
        } else {
            assert_eq!(Child::doomed(point, 1, drops).wait(), KILLED);
            assert_eq!(rest(&queue), [1, 2], "{point}");
        }
    }
}

#[test]
fn a_forked_child_holds_nothing_of_its_parents() {
    let _turn = common::turn();
    let queue = queue(0);
    (0..3).for_each(|number| put(&queue, 1, number, SMALL));
    assert_eq!(got(&queue).1, 0);
    let mut child = Child::fork(|| {
        assert_eq!(got(&queue).1, 1);
    });
    assert_eq!(child.wait(), OK);
    // Its own comes back. The parent's is the parent's: it dies with that.
    assert!(mend(&queue));
    assert_eq!(queue.ring().len(), 2);
    let mut parent = Child::fork(|| {
        assert_eq!(got(&queue).1, 1);
        let mut child = Child::fork(acknowledge_all);
        assert_eq!(child.wait(), OK);
    });
    assert_eq!(parent.wait(), OK);
    assert_eq!(rest(&queue), [1, 2]);
}

#[test]
fn it_comes_back_as_often_as_it_takes_and_leaves_nothing() {
    let _turn = common::turn();
    for len in [SMALL, LARGE] {
        let queue = queue(0);
        put(&queue, 1, 0, len);
        let times = if len == SMALL { BAYS + 100 } else { 100 };
        let once = || {
            assert_eq!(Child::fork(|| assert_eq!(got(&queue).1, 0)).wait(), OK);
            assert!(mend(&queue));
        };
        // The memory file, and the token of forks.
        once();
        let before = open_fds();
        (0..times).for_each(|_| once());
        assert_eq!(rest(&queue), [0]);
        assert_eq!(open_fds(), before);
        common::channel::comes_to_rest(&queue, "after all");
        assert!(queue.resident() <= IDLE + (3 << 20));
    }
}

/// What a queue begins in may have been another's.
#[test]
fn a_queue_in_the_place_of_another_holds_nothing_of_that() {
    let _turn = common::turn();
    let place = |queue: &Queue| (queue.front().segment().id(), queue.front().offset());
    let (mut places, mut again) = (BTreeSet::new(), 0);
    for round in 0..40 {
        let queue = queue(0);
        again += usize::from(!places.insert(place(&queue)));
        assert!(queue.ring().is_empty() && !mend(&queue), "round {round}");
        assert_eq!(recv(&queue, Deadline::PASSED).unwrap_err(), Error::Empty);
        let sizes = [SMALL, LARGE, SMALL];
        sizes.iter().enumerate().for_each(|(number, &len)| put(&queue, 1, number, len));
        // In front, held by the dead, and held by this thread; large and small.
        take_and_die(&queue, 1 + round % 2);
        if round % 3 == 0 {
            assert!(mend(&queue));
        }
        if round % 4 == 0 {
            got(&queue);
        }
        drop(queue);
        // One that keeps nothing, with as much in it.
        let plain = Queue::create(0).unwrap();
        again += usize::from(!places.insert(place(&plain)));
        assert!(!plain.keeps_messages());
        sizes.iter().enumerate().for_each(|(number, &len)| put(&plain, 1, number, len));
        (0..3).for_each(|number| assert_eq!(got(&plain), (1, number)));
    }
    assert!(again > 0, "none was used again");
}

/// The memory file is made by who takes first, and looked for by who mends.
#[test]
fn who_has_not_seen_the_file_mends_and_takes() {
    let _turn = common::turn();
    for len in [SMALL, LARGE] {
        let queue = queue(0);
        assert!(!queue.file().is_known());
        let other = || queue.again().unwrap();
        let sizes = [len; 3];
        let mut sender =
            Child::fork(|| sizes.iter().enumerate().for_each(|(number, &len)| put(&other(), 1, number, len)));
        assert_eq!(sender.wait(), OK);
        let mut taker = Child::fork(|| _ = got(&other()));
        // It has dropped its handle: that one is done.
        assert_eq!(taker.wait(), OK);
        take_and_die(&queue, 1);
        let mut mender = Child::fork(|| {
            let handle = other();
            assert!(!handle.file().is_known());
            assert!(mend(&handle) && handle.file().is_known());
        });
        assert_eq!(mender.wait(), OK);
        assert!(!queue.file().is_known());
        assert_eq!(rest(&queue), [1, 2]);
    }
}

/// A taker that dies before there is a file has nothing.
#[test]
fn who_dies_making_the_file_leaves_nothing() {
    let _turn = common::turn();
    for point in ["file.made", "file.parked", "custody.lodging"] {
        let queue = queue(0);
        (0..2).for_each(|number| put(&queue, 1, number, SMALL));
        assert_eq!(Child::doomed(point, 1, || _ = got(&queue)).wait(), KILLED, "{point}");
        assert!(!mend(&queue));
        assert_eq!(rest(&queue), [0, 1], "{point}");
    }
}

#[test]
fn threads_have_bays_of_their_own_and_too_many_are_refused() {
    let _turn = common::turn();
    let mut child = Child::fork(|| {
        let queue = queue(0);
        put(&queue, 1, 0, SMALL);
        let (asked, done) = (Barrier::new(BAYS + 1), Barrier::new(BAYS + 1));
        std::thread::scope(|threads| {
            let each = || {
                let _ = recv(&queue, Deadline::PASSED);
                asked.wait();
                done.wait();
            };
            let others: Vec<_> = (0..BAYS).map(|_| threads.spawn(each)).collect();
            asked.wait();
            let refused = recv(&queue, Deadline::PASSED).unwrap_err();
            assert_eq!(refused, Error::Os(rustix::io::Errno::USERS));
            done.wait();
            // To the end, destructors and all.
            others.into_iter().for_each(|other| other.join().unwrap());
        });
        assert_eq!(recv(&queue, Deadline::PASSED).unwrap_err(), Error::Empty);
        common::exit(0);
    });
    assert_eq!(child.wait(), OK);
}

#[test]
fn what_carries_descriptors_is_refused() {
    let _turn = common::turn();
    let queue = queue(0);
    let (with, _) = fds(1);
    assert_eq!(send(&queue, &message(1, 0, SMALL), &with, soon()), Err(NO_DESCRIPTORS));
    assert!(queue.ring().is_empty());
    put(&queue, 1, 1, SMALL);
    assert_eq!(got(&queue).1, 1);
}

#[test]
fn who_is_shut_down_throws_away_what_has_come_back() {
    let _turn = common::turn();
    for point in ["", "custody.thrown_away", "ring.shut.after_commit", "queue.shut.before_wake"] {
        let queue = queue(0);
        queue.keep_takers();
        (0..4).for_each(|number| put(&queue, 1, number, LARGE));
        take_and_die(&queue, 2);
        if point.is_empty() {
            queue.shut_down(true).unwrap();
        } else {
            assert_eq!(Child::doomed(point, 1, || queue.shut_down(true).unwrap()).wait(), KILLED, "{point}");
        }
        assert_eq!(recv(&queue, soon()).unwrap_err(), Error::ShutDown, "{point}");
        assert!(!mend(&queue));
        assert_eq!((queue.ring().len(), queue.ring().in_front()), (0, 0), "{point}");
        // One task was taken and acknowledged, and not done.
        assert_eq!(queue.unfinished(), 1, "{point}");
    }
}

#[test]
fn it_comes_back_to_one_that_takes_no_more() {
    let _turn = common::turn();
    let queue = queue(0);
    (0..2).for_each(|number| put(&queue, 1, number, SMALL));
    take_and_die(&queue, 1);
    queue.shut_down(false).unwrap();
    assert_eq!((got(&queue).1, got(&queue).1), (0, 1));
    take_nothing(&queue);
    // The last taker dies when all others believe that it is over.
    let queue = self::queue(0);
    put(&queue, 1, 0, SMALL);
    let words = words();
    let mut holder = Child::fork(|| {
        got(&queue);
        words.set(0, 1);
        common::until("it is killed", || false);
    });
    until("it has it", || words.get(0) == 1);
    queue.shut_down(false).unwrap();
    take_nothing(&queue);
    holder.kill();
    holder.wait();
    assert_eq!(got(&queue).1, 0);
    take_nothing(&queue);
}

fn take_nothing(queue: &Queue) {
    assert_eq!(recv(queue, soon()).unwrap_err(), Error::ShutDown);
}

#[test]
fn a_task_that_comes_back_counts_once() {
    let _turn = common::turn();
    for point in
        ["custody.done_pending", "tasks.done", "tasks.all_done", "custody.done_counted", "custody.acknowledged"]
    {
        for (len, batch, own) in [(SMALL, 1), (SMALL, 3), (LARGE, 1)]
            .into_iter()
            .flat_map(|(len, batch)| [true, false].map(|own| (len, batch, own)))
        {
            let case =
                format!("{point}, {len} bytes, {batch} at a time, by {}", if own { "itself" } else { "another" });
            let queue = queue(0);
            queue.keep_takers();
            (0..batch).for_each(|number| put(&queue, 1, number, len));
            let words = words();
            let mut doomed = Child::doomed(point, 1, || {
                let some = got_many(&queue, batch).len();
                let done = || queue.task_done().unwrap();
                for _ in 0..some {
                    match own {
                        true => done(),
                        false => std::thread::scope(|threads| threads.spawn(done).join().unwrap()),
                    }
                    words.add(0, 1);
                }
                common::exit(77);
            });
            match doomed.wait() {
                KILLED => (),
                // Only who has got it acknowledges it.
                End::Exit(77) if !own && point == "custody.acknowledged" => (),
                End::Exit(77) => panic!("{case}: not reached"),
                other => panic!("{case}: {other:?}"),
            }
            // What was counted does not come back, and what comes back was not counted.
            let left = rest(&queue);
            assert_eq!(queue.unfinished() as usize, left.len(), "{case}: {left:?}");
            assert_eq!(left, (batch - left.len()..batch).collect::<Vec<_>>(), "{case}");
            left.iter().for_each(|_| queue.task_done().unwrap());
            assert_eq!(queue.task_done(), Err(Error::Overflow), "{case}");
            assert_eq!(queue.join(queue.tasks_put(), true, soon()), Ok(Joined::Done), "{case}");
        }
    }
}

#[test]
fn who_joins_is_not_told_of_what_comes_back() {
    let _turn = common::turn();
    let queue = queue(0);
    queue.keep_takers();
    put(&queue, 1, 0, SMALL);
    take_and_die(&queue, 1);
    let mut joiner = Child::fork(|| assert_eq!(queue.join(1, true, soon()), Ok(Joined::Done)));
    until("it has come back", || queue.ring().len() == 1);
    assert_eq!(got(&queue).1, 0);
    assert_eq!(queue.unfinished(), 1);
    queue.task_done().unwrap();
    assert_eq!(joiner.wait(), OK);
    // Two tasks, one acknowledged by asking for the next and never done: that one is lost.
    put(&queue, 1, 1, SMALL);
    put(&queue, 1, 2, SMALL);
    take_and_die(&queue, 2);
    mend(&queue);
    assert_eq!(got(&queue).1, 2);
    queue.task_done().unwrap();
    assert!(matches!(queue.join(queue.tasks_put(), true, soon()), Ok(Joined::Lost(dead)) if dead.len() == 1));
}

/// Said by another thread than that which has got it.
#[test]
fn a_task_done_by_another_thread_does_not_come_back() {
    let _turn = common::turn();
    let by_another = |queue: &Queue| {
        std::thread::scope(|threads| threads.spawn(|| queue.task_done().unwrap()).join().unwrap());
    };
    for (len, batch) in [(SMALL, 1), (SMALL, 3), (LARGE, 1)] {
        let queue = queue(0);
        queue.keep_takers();
        (0..batch + 1).for_each(|number| put(&queue, 1, number, len));
        let mut taker = Child::fork(|| {
            assert_eq!(got_many(&queue, batch).len(), batch);
            by_another(&queue);
        });
        assert_eq!(taker.wait(), OK);
        assert_eq!(queue.unfinished() as usize, batch);
        assert_eq!(rest(&queue), (1..batch + 1).collect::<Vec<_>>(), "{len} bytes, {batch} at a time");
        (0..batch).for_each(|_| queue.task_done().unwrap());
        assert_eq!(queue.join(queue.tasks_put(), true, soon()), Ok(Joined::Done));
        // What has been acknowledged, by asking for the next one, is done first.
        (0..2).for_each(|number| put(&queue, 1, number, len));
        let mut taker = Child::fork(|| {
            assert_eq!((got(&queue).1, got(&queue).1), (0, 1));
            by_another(&queue);
        });
        assert_eq!(taker.wait(), OK);
        assert_eq!(queue.unfinished(), 1);
        assert_eq!(rest(&queue), [1]);
        queue.task_done().unwrap();
    }
}

/// What a dead one was about to have may still come back, though nobody can see to it just now.
#[test]
fn who_joins_is_not_told_of_what_is_unsettled() {
    let _turn = common::turn();
    let queue = queue(0);
    queue.keep_takers();
    put(&queue, 1, 0, SMALL);
    assert_eq!(Child::doomed("ring.get.after_commit", 1, || _ = got(&queue)).wait(), KILLED);
    let mut mender = Child::fork(|| {
        fault::arm("mutex.recovered", 1, Action::Stop);
        mend(&queue);
    });
    mender.until_stopped();
    assert_eq!(queue.join(1, true, Deadline::after(0.5)), Err(Error::TimedOut));
    mender.signal(libc::SIGCONT);
    assert_eq!(mender.wait(), OK);
    assert_eq!(rest(&queue), [0]);
    queue.task_done().unwrap();
    assert_eq!(queue.join(1, true, soon()), Ok(Joined::Done));
}
