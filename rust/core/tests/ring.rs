//! Rings against a `VecDeque`: any sequence of puts and gets, of any sizes, through growth, wraps,
//! chunks and drains.
#![cfg(not(loom))]
// Forks are in the shared helpers; a failure is to panic.
#![allow(unsafe_code, clippy::unwrap_used)]

mod common;

use std::collections::VecDeque;

use common::channel::{Channel, LARGE, recv, send};
use common::{Child, Dice, KILLED, message, read_message, words};
use fastmp_core::channel::pipe;
use fastmp_core::channel::queue::Queue;
use fastmp_core::channel::ring::{BASE_FIRST, BASE_MOST, INLINE, LARGE_UNREAD, Ring, UNIT};
use fastmp_core::sys::memfd;
use fastmp_core::{Deadline, Error};
use proptest::prelude::*;

/// What may be done to a ring.
#[derive(Debug, Clone)]
enum Step {
    Put(usize),
    Puts(usize, usize),
    Gets(usize),
    Drain,
    /// Drain, and then all but so many messages to where the counts are the same again.
    Age(u64),
}

/// Sizes of every kind: empty, unit borders, the largest inline, extents.
fn size() -> impl Strategy<Value = usize> {
    prop_oneof![
        4 => 16..200usize,
        2 => (1..64usize).prop_map(|n| n * UNIT as usize),
        2 => 200..20_000usize,
        1 => 20_000..=INLINE,
        1 => INLINE - 20..INLINE + 20,
        1 => INLINE..200 << 10,
    ]
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => size().prop_map(Step::Put),
        2 => (1..60usize, 16..9000usize).prop_map(|(n, len)| Step::Puts(n, len)),
        4 => (1..40usize).prop_map(Step::Gets),
        1 => Just(Step::Drain),
        1 => (0..400u64).prop_map(Step::Age),
    ]
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    prop::collection::vec(step(), 1..150)
}

/// A ring and what it should hold.
struct Model<'a, C> {
    tx: &'a C,
    rx: &'a C,
    ring: Option<&'a Ring>,
    age: Box<dyn Fn(u64) + 'a>,
    maxsize: usize,
    /// May it be full before `maxsize`?
    bounded_by_bytes: bool,
    held: VecDeque<usize>,
    put: usize,
    got: usize,
}

impl<C: Channel> Model<'_, C> {
    fn put(&mut self, len: usize) {
        let sent = send(self.tx, &message(1, self.put, len), &[], Deadline::PASSED);
        let full = self.maxsize > 0 && self.held.len() >= self.maxsize;
        match sent {
            Ok(()) => {
                assert!(!full, "put into a full one");
                self.held.push_back(len);
                self.put += 1;
            }
            Err(Error::Full) => {
                let is_large = |&len: &usize| len > INLINE;
                let large = self.held.iter().copied().filter(is_large).count();
                let inline: usize = self.held.iter().copied().filter(|len| !is_large(len)).sum();
                let full_of_large = is_large(&len) && large >= LARGE_UNREAD;
                let full_of_bytes = inline + if is_large(&len) { 16 } else { len } > 64 << 10;
                assert!(full || (self.bounded_by_bytes && (full_of_bytes || full_of_large)), "full without reason")
            }
            Err(e) => panic!("{e:?}"),
        }
        self.check();
    }

    fn get(&mut self) {
        match recv(self.rx, Deadline::PASSED) {
            Ok((bytes, _)) => {
                assert_eq!(Some(bytes.len()), self.held.pop_front());
                assert_eq!(read_message(&bytes), (1, self.got));
                self.got += 1;
            }
            Err(Error::Empty) => assert!(self.held.is_empty(), "{} are there", self.held.len()),
            Err(e) => panic!("{e:?}"),
        }
        self.check();
    }

    fn check(&self) {
        let Some(ring) = self.ring else { return };
        assert_eq!(ring.len(), self.held.len() as u64);
        assert_eq!(ring.is_empty(), self.held.is_empty());
        assert_eq!(ring.looks_ready(), !self.held.is_empty());
        assert_eq!(ring.is_full(), self.maxsize > 0 && self.held.len() == self.maxsize);
    }

    fn run(&mut self, steps: &[Step]) {
        for step in steps {
            match *step {
                Step::Put(len) => self.put(len),
                Step::Puts(n, len) => (0..n).for_each(|_| self.put(len)),
                Step::Gets(n) => (0..n).for_each(|_| self.get()),
                Step::Drain => {
                    while !self.held.is_empty() {
                        self.get();
                    }
                    self.get();
                }
                Step::Age(k) => {
                    self.run(&[]);
                    (self.age)(k);
                }
            }
        }
        while !self.held.is_empty() {
            self.get();
        }
    }
}

fn queue(queue: &Queue) -> Model<'_, Queue> {
    let ring = queue.ring();
    let maxsize = ring.maxsize() as usize;
    let held = VecDeque::new();
    let age = Box::new(|k| queue.ring().age((1 << 28) - k, u64::MAX - k).unwrap());
    Model { tx: queue, rx: queue, ring: Some(ring), age, maxsize, bounded_by_bytes: false, held, put: 0, got: 0 }
}

fn pipe<'a>(rx: &'a pipe::End, tx: &'a pipe::End) -> Model<'a, pipe::End> {
    let age = Box::new(|k| tx.age((1 << 28) - k, u64::MAX - k).unwrap());
    Model { tx, rx, ring: None, age, maxsize: 0, bounded_by_bytes: true, held: VecDeque::new(), put: 0, got: 0 }
}

fn config() -> ProptestConfig {
    ProptestConfig { cases: 100, failure_persistence: None, ..ProptestConfig::default() }
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn unbounded_queues_are_deques(steps in steps()) {
        let q = Queue::create(0).unwrap();
        queue(&q).run(&steps);
    }

    #[test]
    fn bounded_queues_are_bounded_deques(maxsize in 1..40u64, steps in steps()) {
        let q = Queue::create(maxsize).unwrap();
        queue(&q).run(&steps);
    }

    #[test]
    fn watched_queues_are_deques(steps in steps()) {
        let q = Queue::create(0).unwrap();
        q.watch().unwrap();
        queue(&q).run(&steps);
        prop_assert!(!common::readable(&q.reader()));
    }

    #[test]
    fn pipes_are_deques_bounded_by_bytes(steps in steps(), watched: bool) {
        let (rx, tx) = pipe::create(false).unwrap();
        if watched {
            rx.watch().unwrap();
        }
        pipe(&rx, &tx).run(&steps);
    }

    #[test]
    fn the_two_ways_of_a_pipe_are_apart(there in steps(), back in steps()) {
        let (a, b) = pipe::create(true).unwrap();
        let (mut there_model, mut back_model) = (pipe(&b, &a), pipe(&a, &b));
        for n in 0..there.len().max(back.len()) {
            let part = |steps: &[Step]| steps.get(n).cloned().into_iter().collect::<Vec<_>>();
            for step in part(&there) {
                apply(&mut there_model, step);
            }
            for step in part(&back) {
                apply(&mut back_model, step);
            }
        }
        there_model.run(&[Step::Drain]);
        back_model.run(&[Step::Drain]);
    }
}

fn apply<C: Channel>(model: &mut Model<'_, C>, step: Step) {
    match step {
        Step::Put(len) => model.put(len),
        Step::Puts(n, len) => (0..n).for_each(|_| model.put(len)),
        Step::Gets(n) => (0..n).for_each(|_| model.get()),
        Step::Drain => (0..5).for_each(|_| model.get()),
        // The other way is not empty.
        Step::Age(_) => (),
    }
}

#[test]
fn a_ring_at_every_fill_and_every_offset() {
    // A few bytes at every place of the base: each record meets the end of the base, a wrap and the
    // head once.
    let q = Queue::create(0).unwrap();
    let mut model = queue(&q);
    for len in [16, 24, 48, 1000, 4096, INLINE - 16, INLINE] {
        let most = (BASE_FIRST as usize / (len + 16)).clamp(1, 70);
        for fill in 0..=most {
            (0..fill).for_each(|_| model.put(len));
            (0..most).for_each(|_| {
                model.put(len);
                model.get();
            });
            (0..fill).for_each(|_| model.get());
        }
    }
    assert!(q.resident() <= BASE_MOST + (64 << 10), "it never had to leave the base");
}

#[test]
fn a_ring_that_overflowed_comes_back() {
    let q = Queue::create(0).unwrap();
    let mut model = queue(&q);
    let mut dice = Dice(7);
    let mut kept = Vec::new();
    for _ in 0..12 {
        let target = 4 << 20;
        let mut bytes = 0;
        while bytes < target {
            let len = 16 + dice.below(INLINE as u64 - 16) as usize;
            bytes += len;
            model.put(len);
            if dice.below(4) == 0 {
                model.get();
            }
        }
        model.run(&[Step::Drain]);
        kept.push(q.resident());
    }
    let (first, last) = (kept[2], kept[11]);
    assert!(last <= first && last <= BASE_MOST + (6 << 20), "{kept:?}");
}

#[test]
fn a_queue_that_is_never_empty_never_runs_out_of_offsets() {
    let q = Queue::create(0).unwrap();
    let mut model = queue(&q);
    let positions = || memfd::size(&*q.file().get().unwrap()).unwrap();
    // Chunks and extents of every size, while there is always something unread.
    let round = |model: &mut Model<'_, Queue>| {
        (0..40).for_each(|n| model.put([INLINE, 70_000, 30_000, 1 << 20][n % 4]));
        (0..40).for_each(|_| model.get());
    };
    (0..60).for_each(|_| model.put(INLINE));
    // 3 GB pass through a few places of 1 MiB, whichever of them are in use; those begin at
    // 128 MiB.
    (0..200).for_each(|_| round(&mut model));
    let end = positions();
    assert!(end <= 512 << 20, "the file has come to {end}");
    model.run(&[]);
}

#[test]
fn a_chunked_ring_that_is_never_empty_gives_back_what_was_read() {
    let q = Queue::create(0).unwrap();
    let mut model = queue(&q);
    (0..400).for_each(|_| model.put(10_000));
    let mut most = 0;
    for _ in 0..20 {
        (0..200).for_each(|_| {
            model.put(10_000);
            model.get();
        });
        most = most.max(q.resident());
    }
    assert!(most <= 16 << 20, "{most} bytes for 4 MB of messages");
    model.run(&[Step::Drain]);
}

#[test]
fn large_messages_of_long_ago_are_not_among_the_unread() {
    for (large_before, k) in [(0, 30), (3, 30), (4, 30), (9, 2), (4, 0), (4, 60)] {
        let (rx, tx) = pipe::create(false).unwrap();
        let mut model = pipe(&rx, &tx);
        (0..large_before).for_each(|_| {
            model.put(LARGE);
            model.get();
        });
        model.run(&[Step::Age(k)]);
        // The counts come round to where they were among these.
        (0..60).for_each(|_| model.put(20));
        (0..4).for_each(|_| model.put(LARGE));
        assert_eq!(model.held.len(), 64, "{large_before} {k}");
        model.run(&[]);
    }
}

/// Fill a pipe that nobody reads; gives the bytes that it took.
fn fill(pipe: &mut Model<'_, pipe::End>, mut size: impl FnMut() -> usize) -> usize {
    let mut taken = 0;
    loop {
        let (len, before) = (size(), pipe.held.len());
        pipe.put(len);
        if pipe.held.len() == before {
            return taken;
        }
        taken += len;
    }
}

#[test]
fn a_pipe_takes_64_kib_in_any_mix() {
    let mut dice = Dice(10);
    let mixes: [&[usize]; 10] = [
        &[16],
        &[500],
        &[3000],
        &[6000],
        &[10_000],
        &[INLINE],
        &[INLINE + 1],
        &[16, 3000],
        &[16, 16, 16, 16, 16, 70_000],
        &[16, 500, 5000, 30_000, 200_000],
    ];
    for mix in mixes {
        // Where the ring stands before, how wide it is and what has been in it, must not matter.
        for phase in 0..8 {
            let (rx, tx) = pipe::create(false).unwrap();
            let mut pipe = pipe(&rx, &tx);
            for _ in 0..dice.below(30) {
                pipe.put(16 + dice.below(1500) as usize);
                (0..dice.below(3)).for_each(|_| pipe.get());
            }
            pipe.run(&[]);
            for round in 0..3 {
                let mut taken = fill(&mut pipe, || mix[dice.below(mix.len() as u64) as usize]);
                // Some of it is read, so that the ring is wrapped: as much may then come again.
                let mut left: usize = pipe.held.iter().sum();
                assert!(taken >= 64 << 10, "{mix:?}, {phase}.{round}: {taken} bytes");
                while left >= 48 << 10 {
                    left -= pipe.held.front().unwrap();
                    pipe.get();
                }
                taken = left + fill(&mut pipe, || mix[dice.below(mix.len() as u64) as usize]);
                assert!(taken >= 64 << 10, "{mix:?}, {phase}.{round}: {taken} bytes, {left} of them before");
                pipe.run(&[]);
            }
        }
    }
}

#[test]
fn a_pipe_takes_64_kib_of_single_bytes() {
    let (rx, tx) = pipe::create(false).unwrap();
    for _ in 0..2 {
        let mut taken = 0;
        while send(&tx, b"x", &[], Deadline::PASSED).is_ok() {
            taken += 1;
        }
        assert!(taken >= 64 << 10, "{taken} bytes");
        // Half is read, and the rest of the room may be used.
        (0..taken / 2).for_each(|_| assert_eq!(recv(&rx, Deadline::PASSED).unwrap().0, b"x"));
        let mut more = taken - taken / 2;
        while send(&tx, b"x", &[], Deadline::PASSED).is_ok() {
            more += 1;
        }
        assert!(more >= 64 << 10, "{more} bytes");
        (0..more).for_each(|_| assert_eq!(recv(&rx, Deadline::PASSED).unwrap().0, b"x"));
        assert_eq!(recv(&rx, Deadline::PASSED).unwrap_err(), Error::Empty);
    }
}

#[test]
fn a_sender_that_dies_while_its_pipe_widens_spoils_nothing() {
    for (point, deaths) in [("ring.detour", 1), ("ring.detour", 2), ("ring.widened", 1), ("ring.widened", 2)] {
        for wrapped in [false, true] {
            let case = format!("{point}, {deaths} deaths, wrapped: {wrapped}");
            let (rx, tx) = pipe::create(false).unwrap();
            let mut pipe = pipe(&rx, &tx);
            if wrapped {
                (0..10).for_each(|_| pipe.put(1000));
                (0..9).for_each(|_| pipe.get());
                (0..8).for_each(|_| pipe.put(1000));
            }
            for _ in 0..deaths {
                let words = words();
                let mut doomed = Child::doomed(point, 1, || {
                    for n in 0..100 {
                        send(&tx, &message(1, pipe.put + n, 1000), &[], Deadline::PASSED).unwrap();
                        words.set(0, n as u64 + 1);
                    }
                });
                let end = doomed.wait();
                assert!(end == KILLED || (point == "ring.detour" && !wrapped), "{case}: {end:?}");
                // It died before a commit, so that what it has counted is what it has put.
                let came = words.get(0) as usize;
                (0..came).for_each(|_| pipe.held.push_back(1000));
                pipe.put += came;
            }
            let taken = fill(&mut pipe, || 1000);
            assert!(taken + pipe.held.len() * 1000 >= 64 << 10, "{case}: {taken} bytes");
            pipe.run(&[Step::Puts(100, 1000), Step::Gets(50), Step::Puts(100, 3000), Step::Drain]);
            assert!(fill(&mut pipe, || 1000) >= 64 << 10, "{case}");
            pipe.run(&[]);
        }
    }
}
