//! Garbage in shared memory: errors, at worst other garbage; no panic, no crash, and no call that
//! outstays its deadline.
#![cfg(not(loom))]
// Forks, and scribbles over shared memory; a failure is to panic.
#![allow(unsafe_code, clippy::unwrap_used)]

#[path = "../common/mod.rs"]
mod common;
mod one_word;

use std::sync::Arc;
use std::time::{Duration, Instant};

use common::channel::{Bytes, Channel, INLINED, LARGE, SMALL};
use common::conditions::with_slice;
use common::{Child, Dice, OK, message, words};
use fastmp_core::arena::Block;
use fastmp_core::channel::broadcast::{Broadcast, Lag, Reader};
use fastmp_core::channel::pipe;
use fastmp_core::channel::queue::Queue;
use fastmp_core::channel::ring::{INLINE, MessageMeta, Payload};
use fastmp_core::channel::transport::{BatchMessage, Outgoing};
use fastmp_core::layout::{Backing, Kind, Object, WithSlice};
use fastmp_core::sync::barrier::{Arrived, Barrier, BarrierState, Place};
use fastmp_core::sync::condvar::{Condvar, CondvarState, Slot};
use fastmp_core::sync::event::EventState;
use fastmp_core::sync::lock::LockState;
use fastmp_core::sync::robust_semaphore::{Permit, RobustSemaphore, RobustSemaphoreState};
use fastmp_core::sync::semaphore::Semaphore;
use fastmp_core::sys::liveness::{me, thread_id};
use fastmp_core::sys::mapping::Mapping;
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
                    let _ = match dice.below(2) {
                        0 => hold.read(0, &mut bytes),
                        _ => hold.lend(len).map_or(Ok(()), |loan| loan.read(0, &mut bytes)),
                    };
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

/// And what only a queue has.
fn try_queue(queue: &Queue, dice: &mut Dice, patience: f64) {
    let soon = || Deadline::after(patience);
    for _ in 0..4 {
        let start = Instant::now();
        let what = dice.below(5);
        match what {
            0 => {
                let bytes = message(1, 0, SMALL);
                let each = (0..dice.below(200)).map(|_| BatchMessage {
                    meta: MessageMeta { format: 1, fds: 0 },
                    payload: Some(Payload::Inline(&bytes)),
                    fds: Vec::new(),
                });
                let (mut messages, mut done) = (each.collect::<Vec<_>>(), 0);
                let _ = queue.put_many(&mut messages, &mut done, soon());
                assert!(done <= messages.len());
            }
            1 => {
                let (mut bytes, mut metas) = (Vec::new(), Vec::new());
                let _ = queue.get_many(&mut bytes, &mut metas, 1 + dice.below(100) as usize, soon());
            }
            2 => _ = queue.task_done(),
            3 => _ = queue.join(queue.tasks_put(), true, soon()),
            _ => _ = (queue.stats(), queue.unfinished(), queue.would_be_full()),
        }
        assert!(start.elapsed() < Duration::from_millis(2500), "{what} took {:?}", start.elapsed());
    }
}

/// Overwrite a few words of the rings, what is a queue's own, the table of extents, or the records.
fn scribble(memory: &Bytes, dice: &mut Dice, times: u64) {
    // A queue's front is smaller than that: what is beyond is not there.
    let size = 2 << 20;
    for _ in 0..times {
        let (from, to) = match dice.below(9) {
            0..4 => (64, 64 + 2 * 256),
            // Of a queue's own, and of those who have taken tasks.
            8 => (576, 576 + 192),
            // The extents' words and some of what is kept; some of that, and slots.
            4 => (4096, 4096 + 128),
            5 => (4096 + 288 * 8, 4096 + 64 + 288 * 8 + 8 * 64),
            6 => (8192, 8192 + 4096),
            _ => (64, size),
        };
        let at = (from + dice.below(to - from)) & !7;
        let mut old = [0; 8];
        if memory.read(at, &mut old).is_ok() {
            let new = garbage(dice, u64::from_ne_bytes(old));
            memory.write(at, &new.to_ne_bytes()).unwrap();
        }
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
        queue.keep_takers();
        queue.bound_bytes(dice.below(2) * (4 << 20));
        fill(&queue, &mut dice);
        scribble(&queue.bytes(), &mut dice, times);
        try_everything(&queue, &mut dice, patience);
        try_queue(&queue, &mut dice, patience);
        let _ = (queue.ring().len(), queue.ring().is_full(), queue.ring().has_room_again());
        if let Ok(queue) = queue.again() {
            try_everything(&queue, &mut dice, patience);
        }
    } else {
        let (a, b) = pipe::create(true).unwrap();
        if watched {
            a.watch().unwrap();
        }
        fill(&b, &mut dice);
        fill(&a, &mut dice);
        scribble(&a.bytes(), &mut dice, times);
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
            scribble(&queue.bytes(), &mut dice, 5);
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
                    try_queue(queue, &mut dice, 0.001);
                }
            })
        })
        .collect();
    for user in &mut users {
        assert_eq!(user.wait(), OK, "seed {seed}");
    }
    drop(scribbler);
}

/// One life of a broadcast that goes bad, in a process of its own.
fn broadcast_round(seed: u64) {
    let mut dice = Dice(seed);
    let maxsize = [1, 3, 40][dice.below(3) as usize];
    let lag = [Lag::Block, Lag::Skip][dice.below(2) as usize];
    let broadcast = Arc::new(Broadcast::create(maxsize, dice.below(2) << 21, lag).unwrap());
    let patience = || Deadline::after(0.01);
    let lens = [SMALL, 300, 5000, LARGE];
    let send = |dice: &mut Dice| {
        let bytes = message(1, 0, lens[dice.below(4) as usize]);
        if bytes.len() <= INLINE {
            let _ = broadcast.send(7, &mut Some(Payload::Inline(&bytes)), patience());
        } else if let Ok(hold) = broadcast.extent(bytes.len() as u64)
            && hold.write(0, &bytes).is_ok()
        {
            let _ = broadcast.send(7, &mut Some(Payload::Extent(hold, bytes.len() as u64)), patience());
        }
    };
    let readers: Vec<_> = (0..3).map(|_| broadcast.reader(patience()).unwrap()).collect();
    (0..dice.below(6)).for_each(|_| send(&mut dice));
    let mapping = Mapping::new(broadcast.handle(), 0, 300_000).unwrap();
    for _ in 0..1 + dice.below(8) {
        // The words; the extents' and some slots of theirs; reader slots; cells' heads.
        let (from, to) = match dice.below(5) {
            0..2 => (64, 64 + 192),
            2 => (4096, 8192),
            3 => (8192, 8192 + 4 * 64),
            _ => (8192 + 4096 * 64, 8192 + 4096 * 64 + 512 * maxsize.min(40)),
        };
        let at = (from + dice.below(to - from)) as usize & !7;
        let mut old = [0; 8];
        mapping.read(at, &mut old).unwrap();
        mapping.write(at, &garbage(&mut dice, u64::from_ne_bytes(old)).to_ne_bytes()).unwrap();
    }
    for _ in 0..8 {
        let start = Instant::now();
        match dice.below(8) {
            0..2 => send(&mut dice),
            2..5 => {
                let reader = &readers[dice.below(3) as usize];
                let mut bytes = Vec::new();
                if let Ok(mut got) = reader.recv(&mut bytes, patience()) {
                    if let Some((hold, len)) = got.received.extent.as_deref() {
                        bytes.resize((*len).min(1 << 22), 0);
                        let _ = hold.read(0, &mut bytes);
                    }
                    if let Some(pin) = got.pin.take() {
                        let _ = pin.finish();
                    }
                }
            }
            5 => _ = broadcast.reader(patience()),
            6 => _ = (broadcast.readers(), broadcast.stats(), broadcast.extents_in_use(), broadcast.would_be_full()),
            _ => {
                let fd = broadcast.handle().try_clone_to_owned().unwrap();
                if let (Ok(own), Ok((ticket, number))) = (Broadcast::attach(fd, maxsize), readers[0].ticket(patience()))
                {
                    let _ = Reader::attach(Arc::new(own), ticket, number, patience());
                }
            }
        }
        // A lock that garbage says is held is waited for a quarter of a second.
        assert!(start.elapsed() < Duration::from_millis(2500), "{:?}", start.elapsed());
    }
}

#[test]
fn garbage_in_broadcasts_makes_errors() {
    let _turn = common::turn();
    let seed = common::seed();
    if let Some(seed) = std::env::var("FASTMP_BROADCAST_ROUND").ok().and_then(|s| s.parse().ok()) {
        return broadcast_round(seed);
    }
    let words = words();
    let start = Instant::now();
    let each = |lane: u64| {
        let words = &words;
        move || {
            for n in 0.. {
                if start.elapsed() > Duration::from_secs(3) {
                    return;
                }
                words.set(2 + lane as usize, seed.wrapping_add(n * 8 + lane));
                broadcast_round(seed.wrapping_add(n * 8 + lane));
                words.add(0, 1);
                common::watchdog();
            }
        }
    };
    let mut children: Vec<_> = (0..8).map(|lane| Child::fork(each(lane))).collect();
    for (lane, child) in children.iter_mut().enumerate() {
        let end = child.wait();
        assert_eq!(end, OK, "broadcast_round({}) did it", words.get(2 + lane));
    }
    assert!(words.get(0) > 20, "{} rounds", words.get(0));
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
        let memory = queue.bytes();
        memory.write(8192 + at, &claim.to_ne_bytes()).unwrap();
        let (mut bytes, mut fds) = (Vec::new(), Vec::new());
        let refused = queue.get(&mut bytes, &mut fds, Deadline::after(0.1)).unwrap_err();
        assert!(matches!(refused, Error::Corrupted(_)), "{at} {claim:#x}: {refused:?}");
    }
}

#[test]
fn nobody_asks_for_memory_that_only_garbage_speaks_of() {
    let _turn = common::turn();
    let queue = Queue::create(0).unwrap();
    common::channel::put(&queue, 1, 0, LARGE);
    let memory = queue.bytes();
    // The slot of its extent says that 1 TiB has pages, far away; the record, that half of that is
    // the message.
    let slot = 4096 + 64 + 288 * 8;
    let mut owner = [0; 8];
    memory.read(slot, &mut owner).unwrap();
    assert_eq!(u64::from_le_bytes(owner), 1, "that is the slot");
    memory.write(slot + 8, &(1u64 << 40).to_le_bytes()).unwrap();
    memory.write(slot + 40, &1u32.to_le_bytes()).unwrap();
    memory.write(8192 + 24, &(1u64 << 39).to_le_bytes()).unwrap();
    let refused = queue.get(&mut Vec::new(), &mut Vec::new(), Deadline::after(0.1)).unwrap_err();
    assert!(matches!(refused, Error::Corrupted(_)), "{refused:?}");
}

#[test]
fn a_table_that_lies_about_its_length_is_refused() {
    let _turn = common::turn();
    for (more, messages) in [(64, 60), (1 << 12, 60), (u64::MAX, 50)] {
        let queue = Queue::create(0).unwrap();
        // Who finds it used, and no file, says so at once.
        common::channel::put(&queue, 2, 0, 70_000);
        assert_eq!(common::channel::got(&queue), (2, 0));
        let memory = queue.bytes();
        // The number of further slots, then where to look for an empty one: in pages that are not
        // there.
        memory.write(4096, &more.to_ne_bytes()).unwrap();
        memory.write(4096 + 8, &60u64.to_ne_bytes()).unwrap();
        for number in 0..messages {
            common::channel::put(&queue, 1, number, 70_000);
        }
        for number in 0..messages {
            assert_eq!(common::channel::got(&queue), (1, number));
        }
    }
}

/// Bytes of a broadcast's segment: `next` and `oldest`; cells; slots of extents, and in there `cap`
/// and `far`.
const NEXT: usize = 80;
const CELLS: usize = 8192 + 4096 * 64;
const EXTENT_SLOTS: usize = 4096 + 2368;

#[test]
fn numbers_that_cannot_be_are_an_error_for_both_sides() {
    let _turn = common::turn();
    let broadcast = Arc::new(Broadcast::create(8, 0, Lag::Block).unwrap());
    let reader = broadcast.reader(Deadline::Never).unwrap();
    broadcast.send(7, &mut Some(Payload::Inline(b"one")), Deadline::PASSED).unwrap();
    let mapping = Mapping::new(broadcast.handle(), 0, 300_000).unwrap();
    for at in [NEXT, NEXT + 8] {
        mapping.write(at, &((1u64 << 50) + 5).to_ne_bytes()).unwrap();
    }
    let received = reader.recv(&mut Vec::new(), Deadline::after(0.2)).map(drop);
    assert!(matches!(received, Err(Error::Corrupted(_))), "{received:?}");
    let send = || broadcast.send(7, &mut Some(Payload::Inline(b"two")), Deadline::after(0.2));
    assert!(matches!(send(), Err(Error::Corrupted(_))), "{:?}", send());
    // As far apart as may be, but the wrong way round.
    mapping.write(NEXT, &2u64.to_ne_bytes()).unwrap();
    mapping.write(NEXT + 8, &(u64::MAX - 1).to_ne_bytes()).unwrap();
    assert!(matches!(send(), Err(Error::Corrupted(_))), "{:?}", send());
}

#[test]
fn a_broadcast_message_larger_than_its_segment_is_an_error() {
    let _turn = common::turn();
    let broadcast = Arc::new(Broadcast::create(8, 0, Lag::Block).unwrap());
    let reader = broadcast.reader(Deadline::Never).unwrap();
    broadcast.send(7, &mut Some(Payload::Inline(&[1; 60_000])), Deadline::PASSED).unwrap();
    let mapping = Mapping::new(broadcast.handle(), 0, 300_000).unwrap();
    let word = |at: usize| {
        let mut word = [0; 8];
        mapping.read(at, &mut word).unwrap();
        u64::from_ne_bytes(word)
    };
    // Its slot and its cell agree that it has 256 GiB.
    let (slot, len) = (EXTENT_SLOTS + word(CELLS + 24) as usize * 64, 1u64 << 38);
    mapping.write(slot + 8, &len.to_ne_bytes()).unwrap();
    mapping.write(slot + 40, &1u32.to_ne_bytes()).unwrap();
    mapping.write(CELLS + 8, &(word(CELLS + 8) >> 48 << 48 | len).to_ne_bytes()).unwrap();
    let received = reader.recv(&mut Vec::new(), Deadline::after(0.2)).map(drop);
    assert!(matches!(received, Err(Error::Corrupted(_))), "{received:?}");
}

/// The bounds change between any two looks at them: a send, of a message in an extent, goes by one.
#[test]
fn numbers_that_change_all_the_time_hold_up_no_send() {
    let _turn = common::turn();
    let broadcast = Arc::new(Broadcast::create(8, 0, Lag::Skip).unwrap());
    let reader = broadcast.reader(Deadline::Never).unwrap();
    let send = || _ = broadcast.send(7, &mut Some(Payload::Inline(&[1; 1000])), Deadline::after(0.05));
    (0..20).for_each(|_| send());
    let scribbler = Child::fork(|| {
        let mapping = Mapping::new(broadcast.handle(), 0, 4096).unwrap();
        loop {
            for base in [0, 1u64 << 40, u64::MAX - 16] {
                let words = [(base + 16).to_ne_bytes(), (base + 8).to_ne_bytes()].concat();
                mapping.write(NEXT, &words).unwrap();
            }
        }
    });
    let start = Instant::now();
    while start.elapsed() < Duration::from_millis(700) {
        let one = Instant::now();
        send();
        assert!(one.elapsed() < Duration::from_millis(2500), "{:?}", one.elapsed());
    }
    drop((scribbler, reader));
}
