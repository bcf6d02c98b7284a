//! One word of shared memory alone becomes garbage, and life goes on: what is garbage is read again
//! by other steps than those that began with it, and further on. Each word that a peer can write,
//! each kind of garbage; nothing is left to chance.

use std::cell::Cell;
use std::os::fd::BorrowedFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use fastmp_core::channel::broadcast::{Broadcast, Lag, Reader};
use fastmp_core::channel::pipe;
use fastmp_core::channel::queue::Queue;
use fastmp_core::channel::ring::{INLINE, MessageMeta, Payload};
use fastmp_core::channel::transport::BatchMessage;
use fastmp_core::deadline::Patience;
use fastmp_core::layout::{self, Header, Kind};
use fastmp_core::objects::{
    Barrier, Condvar, Event, Export, Given, Incoming, Lock, Memory, RobustSemaphore, Semaphore,
};
use fastmp_core::sync::barrier::Arrived;
use fastmp_core::sync::condition::ConditionWait;
use fastmp_core::sys::liveness::{me, thread_id};
use fastmp_core::sys::mapping::Mapping;
use fastmp_core::sys::memfd;
use fastmp_core::{Deadline, Error, Result};

use super::common::channel::{Channel, INLINED, SMALL, recv, send};
use super::common::{self, Child, OK, message, words};

/// What some bytes become.
#[derive(Debug, Clone)]
struct Garbage {
    at: usize,
    bytes: Vec<u8>,
}

impl Garbage {
    /// Of the word at `at`: all ones, of all of it and of either half alone; one bit; what stays
    /// large in other units.
    fn kinds(at: usize) -> [Garbage; 5] {
        let ones = |at: usize, len: usize| Garbage { at, bytes: vec![0xff; len] };
        let number = |value: u64| Garbage { at, bytes: value.to_ne_bytes().into() };
        [ones(at, 8), ones(at, 4), ones(at + 4, 4), number(1 << 63), number(u64::MAX >> 20)]
    }

    fn spoil_channel(&self, channel: &impl Channel) {
        channel.bytes().write(self.at as u64, &self.bytes).unwrap();
    }

    fn spoil(&self, fd: BorrowedFd<'_>, from: usize) {
        let mapping = Mapping::new(fd, 0, memfd::size(fd).unwrap() as usize).unwrap();
        mapping.write(from + self.at, &self.bytes).unwrap();
    }
}

const LANES: usize = 16;

/// Bytes of a channel's segment: its header; a ring; a queue's own; the extents' own words, a few
/// cells of what is kept, a few slots.
const HEADER: [usize; 4] = [0, 8, 16, 24];
const RING: usize = 256;
const RINGS: usize = 64;
const OWN: usize = RINGS + 2 * RING;
const EXTENTS: [(usize, usize); 3] = [(4096, 4096 + 32), (KEPT, KEPT + 16), (SLOTS, SLOTS + 3 * 64)];
const KEPT: usize = 4096 + 64;
const SLOTS: usize = KEPT + 288 * 8;

fn between(ranges: &[(usize, usize)]) -> impl Iterator<Item = usize> {
    ranges.iter().flat_map(|&(from, to)| (from..to).step_by(8))
}

/// `life` for each word and each kind of garbage, in children side by side.
fn each_word(which: impl IntoIterator<Item = usize>, life: impl Fn(&Garbage)) {
    let cases: Vec<_> = which.into_iter().flat_map(Garbage::kinds).collect();
    let now_at = words();
    let lane = |lane: usize| {
        let (cases, life, now_at) = (&cases, &life, &now_at);
        move || {
            for (number, garbage) in cases.iter().enumerate().skip(lane).step_by(LANES) {
                common::watchdog();
                now_at.set(lane, number as u64);
                life(garbage);
            }
        }
    };
    let mut children: Vec<_> = (0..LANES).map(|n| Child::fork(lane(n))).collect();
    for (lane, child) in children.iter_mut().enumerate() {
        let end = child.wait();
        assert_eq!(end, OK, "{:?}", cases.get(now_at.get(lane) as usize));
    }
}

fn soon() -> Deadline {
    Deadline::after(0.001)
}

/// Calls that may fail. None takes much longer than its deadline and the quarter of a second for a
/// lock that garbage says is held. A life in which all is in vain is not worth going on with.
#[derive(Default)]
struct Life {
    failed: Cell<u32>,
    lost: Cell<Duration>,
}

impl Life {
    fn call<T>(&self, what: &str, call: impl FnOnce() -> Result<T>) -> Option<T> {
        let start = Instant::now();
        let done = call().ok();
        let took = start.elapsed();
        assert!(took < Duration::from_millis(2500), "{what} took {took:?}");
        self.failed.set(self.failed.get() + u32::from(done.is_none()));
        // Failed, or slept.
        if done.is_none() || took > Duration::from_micros(250) {
            self.lost.set(self.lost.get() + took);
        }
        done
    }

    fn is_over(&self) -> bool {
        self.failed.get() > 20 || self.lost.get() > Duration::from_millis(400)
    }
}

/// Messages of these lengths in turn, so many before as many are received.
struct Traffic<'a> {
    lens: &'a [usize],
    bursts: &'a [usize],
    rounds: usize,
}

impl Traffic<'_> {
    /// Some of it goes these ways, then `spoil`, then the rest with `other` calls in between.
    fn run<C: Channel>(&self, ways: &[(&C, &C)], spoil: impl FnOnce(), mut other: impl FnMut(&Life, usize)) {
        let messages: Vec<_> = self.lens.iter().map(|&len| message(1, 0, len)).collect();
        let next = Cell::new(0);
        let put = |life: &Life, way: &(&C, &C)| {
            let bytes = &messages[next.replace(next.get() + 1) % messages.len()];
            life.call("a put", || send(way.0, bytes, &[], soon()));
        };
        let get = |life: &Life, way: &(&C, &C)| _ = life.call("a get", || recv(way.1, soon()));
        let life = Life::default();
        for way in ways {
            for _ in 0..2 {
                (0..8).for_each(|_| put(&life, way));
                (0..8).for_each(|_| get(&life, way));
            }
            (0..3).for_each(|_| put(&life, way));
        }
        assert_eq!(life.failed.get(), 0, "before anything was spoilt");
        spoil();
        for round in 0..self.rounds {
            for way in ways {
                for step in [&put as &dyn Fn(&Life, &(&C, &C)), &get] {
                    for _ in 0..self.bursts[round % self.bursts.len()] {
                        if life.is_over() {
                            return;
                        }
                        step(&life, way);
                    }
                }
            }
            other(&life, round);
        }
    }
}

const LENS: [usize; 7] = [4000, SMALL, 300, 70_000, 4000, 4000, INLINED];
/// A queue's ring goes round, and on in chunks.
const QUEUE: Traffic<'_> = Traffic { lens: &LENS, bursts: &[8, 120, 4, 8], rounds: 7 };
/// A pipe's goes round the widest base that it might have come to believe in.
const PIPE: Traffic<'_> = Traffic { lens: &LENS, bursts: &[8, 3], rounds: 80 };

fn queue_life(queue: &Queue, traffic: &Traffic<'_>, garbage: &Garbage) {
    let small = message(1, 0, SMALL);
    let other = |life: &Life, round: usize| {
        let meta = MessageMeta { format: 1, fds: 0 };
        let one = |_| BatchMessage { meta, payload: Some(Payload::Inline(&small)), fds: Vec::new() };
        let (mut batch, mut done) = ((0..20).map(one).collect::<Vec<_>>(), 0);
        life.call("a put of many", || queue.put_many(&mut batch, &mut done, soon()));
        life.call("a get of many", || queue.get_many(&mut Vec::new(), &mut Vec::new(), 20, soon()));
        let ring = queue.ring();
        let _ = (queue.stats(), queue.unfinished(), queue.would_be_full(), ring.unread_bytes(), ring.totals());
        let _ = (ring.len(), ring.is_full(), ring.has_room_again(), ring.is_nearly_full(), ring.keeps_waiting());
        let vain = Life::default();
        vain.call("a task's end", || queue.task_done());
        match round {
            2 => _ = vain.call("a wait", || queue.wait(soon())),
            3 => _ = vain.call("a join", || queue.join(queue.tasks_put(), true, soon())),
            4 => _ = vain.call("a look", || queue.watch().map(drop)),
            6 => _ = queue.watch_sending(),
            _ => (),
        }
    };
    traffic.run(&[(queue, queue)], || garbage.spoil_channel(queue), other);
    let _ = queue.again().map(|queue| recv(&queue, soon()).is_ok());
}

fn bounded_queue() -> Queue {
    let queue = Queue::create(400).unwrap();
    queue.keep_takers();
    queue.bound_bytes(8 << 20);
    queue
}

fn pipe_life(traffic: &Traffic<'_>, garbage: &Garbage) {
    let (a, b) = pipe::create(true).unwrap();
    let other = |_: &Life, round: usize| {
        let vain = Life::default();
        match round {
            10 => _ = vain.call("a look", || a.watch().map(drop)),
            20 => _ = vain.call("a look", || b.watch().map(drop)),
            15 | 30 => _ = vain.call("a wait", || a.wait(soon())),
            _ => (),
        }
    };
    traffic.run(&[(&a, &b), (&b, &a)], || garbage.spoil_channel(&a), other);
    let _ = a.again().map(|end| recv(&end, soon()).is_ok());
}

#[test]
fn of_a_queues_ring() {
    let _turn = common::turn();
    let which = || HEADER.into_iter().chain(between(&[(RINGS, RINGS + RING)]));
    each_word(which(), |garbage| queue_life(&Queue::create(0).unwrap(), &QUEUE, garbage));
    each_word(which(), |garbage| queue_life(&bounded_queue(), &QUEUE, garbage));
}

#[test]
fn of_a_queues_own() {
    let _turn = common::turn();
    // And three entries of who has taken tasks.
    each_word(between(&[(OWN, OWN + 64 + 3 * 16)]), |garbage| {
        let queue = bounded_queue();
        queue_life(&queue, &QUEUE, garbage);
        let life = Life::default();
        for immediate in [garbage.at.is_multiple_of(16), true] {
            life.call("a shutdown", || queue.shut_down(immediate));
            life.call("a put", || send(&queue, &message(1, 0, SMALL), &[], soon()));
            life.call("a get", || recv(&queue, soon()));
            life.call("a join", || queue.join(queue.tasks_put(), true, soon()));
            let _ = (queue.stats(), queue.unfinished());
        }
    });
}

/// A queue that keeps its messages, with some in front, some held, and some that a dead one holds.
fn kept_life(garbage: &Garbage) {
    let queue = bounded_queue();
    queue.keep_messages().unwrap();
    let messages = LENS.map(|len| message(1, 0, len));
    let put = |number: usize| send(&queue, &messages[number % messages.len()], &[], soon());
    let take = |most: usize| queue.get_many(&mut Vec::new(), &mut Vec::new(), most, soon());
    (0..20).for_each(|number| put(number).unwrap());
    assert_eq!(Child::fork(|| drop(take(3))).wait(), OK);
    assert!(queue.mend_custody(true, Patience::sleep(soon())));
    assert_eq!(Child::fork(|| drop((take(1), take(2)))).wait(), OK);
    take(1).unwrap();
    garbage.spoil_channel(&queue);
    let life = Life::default();
    for round in 0..12 {
        life.call("a get", || recv(&queue, soon()));
        life.call("a get of many", || take(5));
        life.call("a task's end", || queue.task_done_with(Patience::sleep(soon())));
        life.call("a put", || put(round));
        let _ = (queue.stats(), queue.unfinished(), queue.would_be_full(), queue.ring().len());
        match round {
            3 => _ = life.call("a wait", || queue.wait(soon())),
            5 => _ = life.call("a join", || queue.join(queue.tasks_put(), true, soon())),
            7 => _ = life.call("a look", || queue.watch().map(drop)),
            8 => _ = queue.watch_sending(),
            _ => _ = life.call("a look at the dead", || Ok(queue.mend_custody(round % 2 == 0, Patience::Moment))),
        }
        if life.is_over() {
            break;
        }
    }
    let _ = queue.again().map(|queue| recv(&queue, soon()).is_ok());
    let life = Life::default();
    for immediate in [garbage.at.is_multiple_of(16), true] {
        // By itself it waits for a lock for as long as somebody holds it, so far as can be seen.
        life.call("a shutdown", || queue.shut_down_with(immediate, Patience::sleep(soon())));
        life.call("a get", || recv(&queue, soon()));
    }
}

#[test]
fn of_what_is_in_custody() {
    let _turn = common::turn();
    const CUSTODY: usize = 8192 + (1 << 20);
    // Its words, and three bays; the ring's.
    let which = between(&[(CUSTODY, CUSTODY + 64 + 3 * 128), (RINGS, RINGS + RING)]);
    each_word(which, kept_life);
}

#[test]
fn of_a_pipes_rings() {
    let _turn = common::turn();
    let which = HEADER.into_iter().chain(between(&[(RINGS, RINGS + 2 * RING)]));
    each_word(which, |garbage| pipe_life(&PIPE, garbage));
}

#[test]
fn of_a_pipes_own() {
    let _turn = common::turn();
    let pipe = Traffic { lens: &[70_000, SMALL], bursts: &[8], rounds: 3 };
    each_word([OWN], |garbage| pipe_life(&pipe, garbage));
}

#[test]
fn of_the_extents() {
    let _turn = common::turn();
    const FAR: usize = (1 << 20) + 5000;
    // Far ones, near ones, and chunks of a ring.
    let lens = [FAR, 70_000, INLINED, INLINED, INLINED, INLINED, SMALL, INLINED, INLINED, INLINED, 140_000, INLINED];
    let queue = Traffic { lens: &lens, bursts: &[8, 28, 4], rounds: 3 };
    let pipe = Traffic { lens: &[FAR, SMALL, SMALL, 70_000, SMALL, SMALL, SMALL], bursts: &[8], rounds: 3 };
    each_word(between(&EXTENTS), |garbage| {
        queue_life(&Queue::create(0).unwrap(), &queue, garbage);
        pipe_life(&pipe, garbage);
    });
}

fn broadcast_life(lag: Lag, garbage: &Garbage) {
    let broadcast = Arc::new(Broadcast::create(8, 4 << 20, lag).unwrap());
    let readers = [0, 1].map(|_| broadcast.reader(soon()).unwrap());
    let messages = [SMALL, 300, 5000, 70_000].map(|len| message(1, 0, len));
    let send = |number: usize| -> Result<()> {
        let bytes = &messages[number % messages.len()];
        if bytes.len() <= INLINE {
            return broadcast.send(7, &mut Some(Payload::Inline(bytes)), soon());
        }
        let hold = broadcast.extent(bytes.len() as u64)?;
        hold.write(0, bytes)?;
        broadcast.send(7, &mut Some(Payload::Extent(hold, bytes.len() as u64)), soon())
    };
    let receive = |reader: &Reader| -> Result<()> {
        let mut got = reader.recv(&mut Vec::new(), soon())?;
        if let Some((hold, len)) = got.received.extent.as_deref() {
            hold.read(0, &mut vec![0; *len])?;
        }
        got.pin.take().map_or(Ok(()), |pin| pin.finish())
    };
    let life = Life::default();
    for number in 0..10 {
        life.call("a send", || send(number));
        readers.iter().for_each(|reader| _ = life.call("a receive", || receive(reader)));
    }
    (0..3).for_each(|number| _ = life.call("a send", || send(number)));
    assert_eq!(life.failed.get(), 0, "before anything was spoilt");
    garbage.spoil(broadcast.handle(), 0);
    for round in 0..12 {
        // As many as there may be, or more where the slow are left behind.
        (0..[5, 2, 12][round % 3])
            .for_each(|number| _ = (!life.is_over()).then(|| life.call("a send", || send(number))));
        for reader in &readers {
            (0..8).for_each(|_| _ = (!life.is_over()).then(|| life.call("a receive", || receive(reader))));
        }
        let _ = (broadcast.readers(), broadcast.stats(), broadcast.would_be_full());
        let _ = (broadcast.is_shut(), broadcast.max_bytes(), readers[0].missed(soon()));
        let _ = life.call("to join", || broadcast.reader(soon())).map(|late| receive(&late).is_ok());
        if life.is_over() {
            break;
        }
    }
    let life = Life::default();
    if let (Ok(own), Some((ticket, number))) = (
        Broadcast::attach(broadcast.handle().try_clone_to_owned().unwrap(), 8),
        life.call("a ticket", || readers[0].ticket(soon())),
    ) {
        let _ = life.call("to attach", || Reader::attach(Arc::new(own), ticket, number, soon()));
    }
    let _ = broadcast.extents_in_use();
    life.call("to shut", || broadcast.shut(soon()));
}

#[test]
fn of_a_broadcast() {
    let _turn = common::turn();
    // Its words; extents; three reader slots; the heads of two cells and what comes behind.
    let cells = 8192 + 4096 * 64;
    let own = [(64, 256), (8192, 8192 + 3 * 64), (cells, cells + 40), (cells + 512, cells + 512 + 32)];
    for lag in [Lag::Block, Lag::Skip] {
        let which = HEADER.into_iter().chain(between(&own)).chain(between(&EXTENTS));
        each_word(which, |garbage| broadcast_life(lag, garbage));
    }
}

/// Each word of such an object, its header too: then `life`, by itself and by one that is attached
/// then, if that can be.
fn each_word_of<T: Export>(
    bytes: usize,
    create: impl Fn() -> Result<T>,
    attach: impl Fn(Given) -> Result<T>,
    life: impl Fn(&T, &mut dyn FnMut()),
) {
    each_word((0..Header::BYTES + bytes).step_by(8), |garbage| {
        let object = create().unwrap();
        let handle = object.export(None).unwrap();
        life(&object, &mut || garbage.spoil(handle.segment(), handle.offset()));
        if let Ok(twin) = attach(Given::copy_of(&handle).unwrap()) {
            life(&twin, &mut || ());
        }
    });
}

#[test]
fn of_locks() {
    let _turn = common::turn();
    let (me, thread) = (me, thread_id);
    each_word_of(24, Lock::create, Lock::attach, |lock, spoil| {
        let calls = Life::default();
        for held in [true, false] {
            if held {
                let _ = (lock.try_lock_once(me(), thread()), lock.try_reenter(me(), thread()));
            }
            spoil();
            let _ = (lock.owner(), lock.depth(), lock.recoveries(), lock.is_refused(me()));
            let _ = (lock.try_reenter(me(), thread()), lock.unlock_once(me(), thread()));
            if let Ok(depth) = lock.unlock_all(me(), thread()) {
                calls.call("a lock", || lock.lock_with_depth(me(), thread(), depth, soon()));
                let _ = (lock.try_reenter(me(), thread()), lock.unlock_once(me(), thread()));
            }
            calls.call("a lock", || lock.lock(me(), thread(), soon()));
            let _ = (lock.unlock_any(), lock.try_lock_or_recover(me(), thread()), lock.unlock_any());
        }
    });
    each_word_of(
        8,
        || Semaphore::create(3, 5),
        Semaphore::attach,
        |semaphore, spoil| {
            spoil();
            let calls = Life::default();
            for _ in 0..4 {
                (0..7).for_each(|_| _ = (semaphore.release(), semaphore.permits(), semaphore.most()));
                (0..7).for_each(|_| _ = calls.call("an acquire", || semaphore.acquire(soon())));
            }
        },
    );
    each_word_of(8, Event::create, Event::attach, |event, spoil| {
        let ticket = event.ticket();
        spoil();
        for _ in 0..4 {
            Life::default().call("a wait", || event.wait(ticket, soon()));
            let _ = (event.set(), event.is_set(), event.clear());
            Life::default().call("a wait", || event.wait(event.ticket(), soon()));
        }
    });
    each_word_of(
        16,
        || Memory::create(16),
        |given| Memory::attach(given, 16),
        |memory, spoil| {
            spoil();
            let _ = (
                memory.cells((), 8, 2).map(|cells| cells.load(1)),
                memory.cells((), 1, 17).map(drop),
                memory.address(),
            );
        },
    );
}

#[test]
fn of_meetings() {
    let _turn = common::turn();
    // Two slots and a bit; three places; four permits.
    each_word_of(24 + 3 * 24, Condvar::create, Condvar::attach, |condvar, spoil| {
        let (condvar, calls) = (condvar.core(), Life::default());
        let [mut first, second, third] = [0, 1, 2].map(|_| condvar.prepare_wait(me()));
        spoil();
        let lock = Lock::create().unwrap();
        assert!(lock.try_lock_once(me(), thread_id()));
        calls.call("a wait", || condvar.wait(&mut first, me(), soon()));
        let _ = (condvar.waiters(), condvar.notify(1));
        condvar.consume(first, me());
        condvar.cancel(second, me());
        if let Ok(mut wait) = ConditionWait::begin(condvar, &lock, me(), thread_id()) {
            calls.call("a wait", || wait.wait(me(), soon()));
            calls.call("to take the lock", || wait.take_back(me(), thread_id()));
            wait.end(me(), thread_id());
        }
        condvar.notify(u64::MAX);
        condvar.cancel(third, me());
    });
    each_word_of(
        32 + 3 * 8,
        || Barrier::create(3),
        Barrier::attach,
        |barrier, spoil| {
            let (barrier, calls) = (barrier.core(), Life::default());
            let first = barrier.arrive(me(), false, soon());
            spoil();
            if let Ok(Arrived::Wait(arrival)) = first {
                calls.call("a wait", || barrier.wait(arrival, me(), soon()));
                barrier.leave(arrival, me());
            }
            for acts in [false, true, true, false, false, false] {
                match calls.call("to arrive", || barrier.arrive(me(), acts, soon())) {
                    Some(Arrived::Wait(arrival)) if acts => _ = barrier.leave(arrival, me()),
                    Some(Arrived::Act(arrival)) => _ = barrier.release(arrival, me()),
                    Some(_) => (),
                    None => barrier.reset(),
                }
                let _ = (barrier.waiting(), barrier.is_broken(), barrier.parties());
            }
            barrier.abort();
            barrier.reset();
        },
    );
    each_word_of(
        16 + 4 * 8,
        || RobustSemaphore::create(4),
        RobustSemaphore::attach,
        |semaphore, spoil| {
            let (semaphore, calls) = (semaphore.core(), Life::default());
            let _ = (semaphore.try_acquire(me()), semaphore.try_acquire(me()));
            spoil();
            for _ in 0..3 {
                (0..5).for_each(|_| _ = calls.call("an acquire", || semaphore.acquire(me(), soon())));
                let _ = (semaphore.try_acquire_or_recover(me()), semaphore.is_refused());
                let _ = (semaphore.free(), semaphore.most(), semaphore.recoveries());
                (0..5).for_each(|_| _ = semaphore.release(me()));
            }
        },
    );
}

/// A block of `kind` that says it has so many bytes, in a segment that has them.
fn given(kind: Kind, bytes: u64) -> Given {
    let segment = memfd::create("test", 4096).unwrap();
    memfd::extend(&segment, 4096 + bytes).unwrap();
    let mapping = Mapping::new(&segment, 0, 4096).unwrap();
    layout::view::<Header>(&mapping, 0).unwrap().write(Kind::Arena, 0);
    layout::view::<Header>(&mapping, 64).unwrap().write(kind, bytes);
    Given { segment: Incoming::new(segment), token: None, offset: 64 }
}

#[test]
fn an_object_of_impossible_size_is_refused() {
    let _turn = common::turn();
    let refused = |attached: Result<()>| assert!(matches!(attached, Err(Error::Corrupted(_))), "{attached:?}");
    refused(Condvar::attach(given(Kind::Condition, 24 + 167 * 24)).map(drop));
    refused(RobustSemaphore::attach(given(Kind::RobustSemaphore, 16 + 8 * 4097)).map(drop));
    // More parties than a word counts.
    refused(Barrier::attach(given(Kind::Barrier, 32 + (8 << 32))).map(drop));
    Barrier::attach(given(Kind::Barrier, 32 + 8 * 70_000)).unwrap();
}
