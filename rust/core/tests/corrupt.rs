//! Garbage in shared memory: errors, at worst other garbage; no panic, no crash, and no call that
//! outstays its deadline.
#![cfg(not(loom))]
// Forks, and scribbles over shared memory; a failure is to panic.
#![allow(unsafe_code, clippy::unwrap_used)]

mod common;

use std::os::fd::BorrowedFd;
use std::time::{Duration, Instant};

use common::channel::{Channel, INLINED, LARGE, SMALL};
use common::conditions::with_slice;
use common::{Child, Dice, OK, message, words};
use fastmp_core::arena::Block;
use fastmp_core::channel::pipe;
use fastmp_core::channel::queue::Queue;
use fastmp_core::channel::ring::{INLINE, MessageMeta, Payload};
use fastmp_core::channel::transport::Outgoing;
use fastmp_core::layout::{Backing, Kind, Object, WithSlice};
use fastmp_core::sync::barrier::{Arrived, Barrier, BarrierState, Place};
use fastmp_core::sync::condvar::{Condvar, CondvarState, Slot};
use fastmp_core::sync::event::EventState;
use fastmp_core::sync::lock::LockState;
use fastmp_core::sync::robust_semaphore::{Permit, RobustSemaphore, RobustSemaphoreState};
use fastmp_core::sync::semaphore::Semaphore;
use fastmp_core::sys::liveness::{me, thread_id};
use fastmp_core::sys::mapping::Mapping;
use fastmp_core::sys::memfd;
use fastmp_core::{Deadline, Error};

/// What a peer gone mad might write: bits, extremes, near misses, words that look right.
fn garbage(dice: &mut Dice, old: u64) -> u64 {
    match dice.below(12) {
        0 => 0,
        1 => u64::MAX,
        2 => old ^ 1 << dice.below(64),
        3 => old.wrapping_add(dice.below(64)),
        4 => old.wrapping_sub(dice.below(64)),
        5 => dice.next() >> dice.below(64),
        6 => 1 << dice.below(64),
        7 => dice.below(1 << 22) & !15,
        8 => (1 << 20) * dice.below(1 << 12),
        // An owner: dead, or alive for ever.
        9 => me().word() ^ (dice.below(1 << 22) << 2),
        10 => me().word() ^ 1 << 50,
        _ => dice.next(),
    }
}

/// Calls of every kind, each with a deadline; anything may come of them but a panic or a delay.
fn try_everything(channel: &impl Channel, dice: &mut Dice, patience: f64) {
    let timed = |what: &str, f: &mut dyn FnMut()| {
        let start = Instant::now();
        f();
        assert!(start.elapsed() < Duration::from_millis(2500), "{what} took {:?}", start.elapsed());
    };
    for _ in 0..6 {
        let len = [SMALL, INLINED, LARGE, 300][dice.below(4) as usize];
        match dice.below(3) {
            0 => timed("a get", &mut || {
                let (mut bytes, mut fds) = (Vec::new(), Vec::new());
                let received = channel.get_letter(&mut bytes, &mut fds, Deadline::after(patience));
                if let Ok(received) = received
                    && let Some((hold, len)) = received.extent.map(|extent| *extent)
                {
                    bytes.resize(len.min(1 << 22), 0);
                    let _ = hold.read(0, &mut bytes);
                }
            }),
            1 => timed("a look", &mut || _ = channel.watched()),
            _ => timed("a put", &mut || {
                let bytes = message(1, 0, len);
                let meta = MessageMeta { format: 1, fds: 0 };
                let mut payload = if len <= INLINE {
                    Some(Payload::Inline(&bytes))
                } else {
                    let Ok(hold) = channel.room(len as u64) else { return };
                    if hold.write(0, &bytes).is_err() {
                        return;
                    }
                    Some(Payload::Extent(hold, len as u64))
                };
                let _ = channel
                    .put_outgoing(&mut Outgoing { meta, payload: &mut payload, fds: &[] }, Deadline::after(patience));
            }),
        }
    }
}

/// Overwrite a few words of the rings, the table of extents, or the records.
fn scribble(fd: BorrowedFd<'_>, dice: &mut Dice, times: u64) {
    // A growth that believed in garbage may have made it longer than an address space.
    let size = memfd::size(fd).unwrap().min(4 << 20) as usize;
    let mapping = Mapping::new(fd, 0, size).unwrap();
    for _ in 0..times {
        let (from, to) = match dice.below(8) {
            0..4 => (64, 64 + 2 * 256),
            // The extents' words and some of what is kept; some of that, and slots.
            4 => (4096, 4096 + 128),
            5 => (4096 + 288 * 8, 4096 + 64 + 288 * 8 + 8 * 64),
            6 => (8192, 8192 + 4096),
            _ => (64, size),
        };
        let at = (from as u64 + dice.below((to - from) as u64)) as usize & !7;
        let mut old = [0; 8];
        mapping.read(at, &mut old).unwrap();
        let new = garbage(dice, u64::from_ne_bytes(old));
        mapping.write(at, &new.to_ne_bytes()).unwrap();
    }
}

fn fill(channel: &impl Channel, dice: &mut Dice) {
    for number in 0..dice.below(12) as usize {
        let len = [SMALL, 300, INLINED, LARGE][dice.below(4) as usize];
        let _ = common::channel::send(channel, &message(1, number, len), &[], Deadline::PASSED);
    }
}

/// One life of a channel that goes bad, in a process of its own.
fn round(seed: u64) {
    let mut dice = Dice(seed);
    let patience = [0.0, 0.01][dice.below(2) as usize];
    let watched = dice.below(2) == 0;
    let times = 1 + dice.below(12);
    if dice.below(2) == 0 {
        let queue = Queue::create(dice.below(2) * 5).unwrap();
        if watched {
            queue.watch().unwrap();
        }
        fill(&queue, &mut dice);
        scribble(queue.handles()[0], &mut dice, times);
        try_everything(&queue, &mut dice, patience);
        let _ = (queue.ring().len(), queue.ring().is_full(), queue.ring().has_room_again());
        let handles = queue.handles().map(|fd| fd.try_clone_to_owned().unwrap());
        let [memfd, reader, writer] = handles;
        if let Ok(queue) = Queue::attach(memfd, reader, writer) {
            try_everything(&queue, &mut dice, patience);
        }
    } else {
        let (a, b) = pipe::create(true).unwrap();
        if watched {
            a.watch().unwrap();
        }
        fill(&b, &mut dice);
        fill(&a, &mut dice);
        scribble(a.handles().0, &mut dice, times);
        try_everything(&a, &mut dice, patience);
        try_everything(&b, &mut dice, patience);
        let _ = a.wait(Deadline::after(patience));
    }
}

#[test]
fn garbage_makes_errors() {
    let _turn = common::turn();
    let seed = common::seed();
    if let Some(seed) = std::env::var("FASTMP_ROUND").ok().and_then(|s| s.parse().ok()) {
        return round(seed);
    }
    let words = words();
    // Many at a time: most of the time is spent waiting for locks that garbage says are held.
    let start = Instant::now();
    let each = |lane: u64| {
        let words = &words;
        move || {
            for n in 0.. {
                if start.elapsed() > Duration::from_secs(6) {
                    return;
                }
                words.set(2 + lane as usize, seed.wrapping_add(n * 8 + lane));
                round(seed.wrapping_add(n * 8 + lane));
                words.add(0, 1);
                // The watchdog is for one round.
                common::watchdog();
            }
        }
    };
    let mut children: Vec<_> = (0..8).map(|lane| Child::fork(each(lane))).collect();
    for (lane, child) in children.iter_mut().enumerate() {
        let end = child.wait();
        assert_eq!(end, OK, "round({}) did it", words.get(2 + lane));
    }
    assert!(words.get(0) > 50, "{} rounds", words.get(0));
}

#[test]
fn scribbling_meanwhile_makes_errors() {
    let _turn = common::turn();
    let seed = common::seed();
    let queue = Queue::create(0).unwrap();
    let mut dice = Dice(seed);
    let scribbler = Child::fork(|| {
        loop {
            scribble(queue.handles()[0], &mut dice, 5);
            std::thread::sleep(Duration::from_micros(300));
        }
    });
    let mut users: Vec<_> = (0..3)
        .map(|n| {
            let queue = &queue;
            Child::fork(move || {
                let mut dice = Dice(seed + n);
                let start = Instant::now();
                while start.elapsed() < Duration::from_secs(2) {
                    try_everything(queue, &mut dice, 0.001);
                }
            })
        })
        .collect();
    for user in &mut users {
        assert_eq!(user.wait(), OK, "seed {seed}");
    }
    drop(scribbler);
}

#[test]
fn garbage_in_locks_makes_errors() {
    let _turn = common::turn();
    let seed = common::seed();
    let mut child = Child::fork(|| {
        let mut dice = Dice(seed);
        let start = Instant::now();
        while start.elapsed() < Duration::from_millis(1500) {
            let lock: Object<LockState, Block> = common::shared(Kind::Lock);
            let semaphore: Object<Semaphore, Block> = common::shared(Kind::Semaphore);
            let event: Object<EventState, Block> = common::shared(Kind::Event);
            for block in [lock.backing(), semaphore.backing(), event.backing()] {
                for at in (0..block.bytes()).step_by(4) {
                    let word = garbage(&mut dice, 0) as u32;
                    block.mapping().write(block.payload() + at, &word.to_ne_bytes()).unwrap();
                }
            }
            let (me, thread) = (me(), thread_id());
            let soon = || Deadline::after(0.002);
            let _ = lock.lock(me, thread, soon());
            let _ = (lock.owner(), lock.depth(), lock.try_reenter(me, thread), lock.unlock_once(me, thread));
            let _ = (lock.try_lock_or_recover(me, thread), lock.unlock_any());
            let _ = (semaphore.acquire(soon()), semaphore.release(), semaphore.permits());
            let _ = event.wait(event.ticket(), soon());
            event.set();
            event.clear();
        }
    });
    assert_eq!(child.wait(), OK, "seed {seed}");
}

#[test]
fn garbage_in_meetings_makes_errors() {
    let _turn = common::turn();
    let seed = common::seed();
    let mut child = Child::fork(|| {
        let mut dice = Dice(seed);
        let start = Instant::now();
        while start.elapsed() < Duration::from_millis(1500) {
            let condition: WithSlice<CondvarState, Slot, Block> = with_slice(Kind::Condition, 5);
            let meeting: WithSlice<BarrierState, Place, Block> = with_slice(Kind::Barrier, 3);
            let permits: WithSlice<RobustSemaphoreState, Permit, Block> = with_slice(Kind::RobustSemaphore, 4);
            for block in [condition.backing(), meeting.backing(), permits.backing()] {
                for at in (0..block.bytes()).step_by(4) {
                    if dice.below(3) > 0 {
                        let word = garbage(&mut dice, 0) as u32;
                        block.mapping().write(block.payload() + at, &word.to_ne_bytes()).unwrap();
                    }
                }
            }
            let me = me();
            let soon = || Deadline::after(0.002);
            let condvar = Condvar::new(condition.head(), condition.slice());
            let (mut first, second) = (condvar.prepare_wait(me), condvar.prepare_wait(me));
            let _ = (condvar.wait(&mut first, me, soon()), condvar.waiters());
            condvar.notify(2);
            condvar.cancel(second, me);
            condvar.notify(u64::MAX);
            let barrier = Barrier::new(meeting.head(), meeting.slice());
            for acts in [false, true] {
                match barrier.arrive(me, acts, soon()) {
                    Ok(Arrived::Wait(arrival)) => {
                        let _ = barrier.wait(arrival, me, soon());
                        barrier.leave(arrival, me);
                    }
                    Ok(Arrived::Act(arrival)) => drop(barrier.release(arrival, me)),
                    _ => barrier.reset(),
                }
            }
            barrier.abort();
            let _ = (barrier.waiting(), barrier.is_broken(), barrier.parties());
            let semaphore = RobustSemaphore::new(permits.head(), permits.slice());
            let _ = (semaphore.acquire(me, soon()), semaphore.try_acquire_or_recover(me), semaphore.release(me));
            let _ = (semaphore.free(), semaphore.recoveries(), semaphore.most());
        }
    });
    assert_eq!(child.wait(), OK, "seed {seed}");
}

#[test]
fn a_message_that_lies_about_its_extent_is_refused() {
    let _turn = common::turn();
    // The record of the first message is at the start of the base: header, then slot and length of
    // its extent.
    for (at, claim) in [(16, 1), (16, 55), (16, 56), (16, 1 << 20), (16, u64::MAX), (24, 1 << 60), (24, 2 << 20)] {
        let queue = Queue::create(0).unwrap();
        common::channel::put(&queue, 1, 0, LARGE);
        let mapping = Mapping::new(queue.handles()[0], 0, 16384).unwrap();
        mapping.write(8192 + at, &claim.to_ne_bytes()).unwrap();
        let (mut bytes, mut fds) = (Vec::new(), Vec::new());
        let refused = queue.get(&mut bytes, &mut fds, Deadline::after(0.1)).unwrap_err();
        assert!(matches!(refused, Error::Corrupted(_)), "{at} {claim:#x}: {refused:?}");
    }
}

#[test]
fn a_table_that_lies_about_its_length_is_refused() {
    let _turn = common::turn();
    for (more, messages) in [(64, 60), (1 << 12, 60), (u64::MAX, 50)] {
        let queue = Queue::create(0).unwrap();
        let mapping = Mapping::new(queue.handles()[0], 0, 16384).unwrap();
        // The number of further slots, then where to look for an empty one: in pages that are not
        // there.
        mapping.write(4096, &more.to_ne_bytes()).unwrap();
        mapping.write(4096 + 8, &60u64.to_ne_bytes()).unwrap();
        for number in 0..messages {
            common::channel::put(&queue, 1, number, 70_000);
        }
        for number in 0..messages {
            assert_eq!(common::channel::got(&queue), (1, number));
        }
    }
}
