//! A fuzz target: queues and pipes of random and of mutated bytes, attached and used.
//!
//! Whatever a peer writes into a segment or sends on its socket gives an error, at worst another
//! message: no crash, no hang, no panic, no allocation that only garbage asks for, no descriptor
//! that is forgotten; and a call with a timeout returns by it. All of that shows in a process, not
//! in a function, so that each *round* runs in a forked child whose address space is limited, and
//! the parent looks how it ended. Any toolchain runs it, with no coverage to steer by: what is to
//! be mutated is taken from live traffic instead, and where a file has data the kernel tells.
//!
//! Two seconds by default; `FASTMP_FUZZ_SECONDS=600` for longer, `FASTMP_SEED` to begin elsewhere,
//! `FASTMP_ROUND=N` for one round alone.
#![cfg(not(loom))]
// Forks, and scribbles over shared memory; a failure is to panic.
#![allow(unsafe_code, clippy::unwrap_used)]

mod common;

use std::cell::Cell;
use std::collections::VecDeque;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use common::channel::{Bytes, Channel, INLINED, LARGE, fds};
use common::{Child, Dice, OK, open_fds, words};
use fastmp_core::arena::{Given, Incoming};
use fastmp_core::channel::pipe::{self, End, Flags};
use fastmp_core::channel::queue::Queue;
use fastmp_core::channel::ring::{INLINE, MessageMeta, Payload, Received};
use fastmp_core::channel::transport::Outgoing;
use fastmp_core::deadline::Patience;
use fastmp_core::sys::liveness::me;
use fastmp_core::sys::{memfd, socket};
use fastmp_core::{Deadline, Error};
use rustix::fs::{MemfdFlags, SealFlags};

/// Children at a time: most of their time they wait for locks that garbage says are held.
const LANES: u64 = 12;
/// So many calls that had to wait for such a lock are enough of a round.
const HELD_UP: u32 = 4;
/// Seconds that a call may outstay its deadline: a few waits of a quarter of a second, for locks
/// whose holders may be at work, on a machine that others load; and of them at work.
const SLACK: f64 = 10.0;
const WORK: f64 = 2.0;
/// A child's address space. A process that believes a length in garbage runs into it, and aborts.
const ADDRESSES: u64 = 3 << 30;
/// Words for bookkeeping: rounds, the slowest and the busiest call in us, how many calls ended how,
/// the round in each lane.
const ROUNDS: usize = 0;
const SLOWEST: usize = 1;
const DONE: usize = 2;
const CORRUPTED: usize = 3;
const OTHER: usize = 4;
const BUSIEST: usize = 5;
const LANE: usize = 8;
/// How often each reason was given for what is corrupted, by its hash.
const REASONS: usize = 24;
const REASON_WORDS: usize = 40;

/// What a peer gone mad might write: bits, extremes, near misses, words that look right.
fn garbage(dice: &mut Dice, old: u64, elsewhere: u64) -> u64 {
    match dice.below(16) {
        0 => 0,
        1 => u64::MAX,
        2 | 3 => old ^ 1 << dice.below(64),
        4 => old.wrapping_add(dice.below(64)),
        5 => old.wrapping_sub(dice.below(64)),
        6 => dice.next() >> dice.below(64),
        7 => 1 << dice.below(64),
        8 => (1u64 << dice.below(64)).wrapping_sub(1 + dice.below(2)),
        // A position, an offset of a chunk, a length.
        9 => dice.below(1 << 22) & !15,
        10 => (1 << 20) * dice.below(1 << 12),
        // An owner: dead, or alive for ever.
        11 => me().word() ^ (dice.below(1 << 22) << 2),
        12 => me().word() ^ 1 << 50,
        // A count and a position.
        13 => dice.below(1 << 28) << 36 | dice.below(1 << 20),
        14 => elsewhere,
        _ => dice.next(),
    }
}

/// What a round is about: most of what a mutated lock word does is to keep all others from being
/// seen.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Focus {
    Everything,
    /// Headers and the first words of records, in bases and chunks.
    Records,
    /// The slots of extents, and what is kept.
    Table,
}

/// Mutates a segment's bytes, wherever there are any.
fn scribble(memory: &Bytes, dice: &mut Dice, focus: Focus, times: u64) {
    let parts = memory.parts();
    let any = |dice: &mut Dice| {
        let (from, to) = match (focus, dice.below(8)) {
            // Where records are; those of a pipe's second ring; those of a chunk.
            (Focus::Records, 0..4) => (8192, 8192 + 512),
            (Focus::Records, 4 | 5) => (8192 + (4 << 20), 8192 + (4 << 20) + 512),
            (Focus::Records, _) => {
                let chunks: Vec<_> = parts.iter().filter(|(from, _)| *from >= 128 << 20).collect();
                let at = chunks.get(dice.below(chunks.len().max(1) as u64) as usize).map_or(8192, |part| part.0);
                (at, at + 512)
            }
            // Those that are used first; a few cells; the words in front; the table's further
            // pages.
            (Focus::Table, 0..5) => (4096 + 64 + 288 * 8, 4096 + 64 + 288 * 8 + 6 * 64),
            (Focus::Table, 5) => (4096 + 64, 4096 + 64 + 64),
            (Focus::Table, 6) => (4096, 4096 + 64),
            (Focus::Table, _) => (16 << 20, (16 << 20) + 1024),
            // Headers and words of channels are in front.
            (_, 0) => (0, 64),
            (_, 1..4) => (64, 64 + 512),
            (_, 4) => (4096, 8192),
            (_, 5) => (8192, 8192 + 256),
            _ if parts.is_empty() => (0, 4096),
            _ => {
                let (from, to) = parts[dice.below(parts.len() as u64) as usize];
                // Mostly where the first records of a part are.
                if dice.below(2) == 0 { (from, to) } else { (from, to.min(from + 256)) }
            }
        };
        (from + dice.below(to - from)) & !7
    };
    for _ in 0..times {
        let (at, from) = (any(dice), any(dice));
        let (mut old, mut elsewhere) = ([0; 8], [0; 8]);
        if memory.read(at, &mut old).is_err() || memory.read(from, &mut elsewhere).is_err() {
            continue;
        }
        let new = garbage(dice, u64::from_ne_bytes(old), u64::from_ne_bytes(elsewhere));
        match dice.below(40) {
            0 if focus == Focus::Everything => {
                let page: Vec<u8> = (0..512).flat_map(|_| dice.next().to_ne_bytes()).collect();
                let _ = memory.write(at & !4095, &page);
            }
            1 if focus == Focus::Everything => memory.punch(at & !4095, 4096),
            2..8 => _ = memory.write(at, &new.to_ne_bytes()[..1 << dice.below(3)]),
            _ => _ = memory.write(at, &new.to_ne_bytes()),
        }
    }
}

/// What a peer gone mad might send on the socket.
fn send_rubbish(to: BorrowedFd<'_>, dice: &mut Dice) {
    for _ in 0..1 + dice.below(3) {
        let _ = match dice.below(4) {
            0 => socket::send_ready(to),
            3 => socket::send_file(to, fds(1).0[0].as_fd()),
            1 => {
                let (sent, _) = fds(dice.below(4) as usize);
                let lent: Vec<_> = sent.iter().map(AsFd::as_fd).collect();
                let tag = garbage(dice, dice.clone().below(8), 1);
                socket::send_fds(to, tag, &lent)
            }
            _ => {
                let bytes: Vec<u8> = (0..dice.below(20)).map(|_| dice.next() as u8).collect();
                let flags = rustix::net::SendFlags::DONTWAIT | rustix::net::SendFlags::NOSIGNAL;
                rustix::net::send(to, &bytes, flags).map(|_| true).map_err(Error::from)
            }
        };
    }
}

fn size(dice: &mut Dice) -> usize {
    match dice.below(16) {
        0..5 => dice.below(200) as usize,
        5..8 => 5000 + dice.below(3000) as usize,
        8..11 => dice.below(INLINED as u64) as usize,
        11 => [INLINE - 1, INLINE, INLINE + 1, 4096, 0][dice.below(5) as usize],
        12..15 => 66_000 + dice.below(300_000) as usize,
        _ => LARGE + dice.below(3 << 20) as usize,
    }
}

/// What these tests ask of a channel beside putting and getting.
trait Target: Channel {
    fn look(&self, dice: &mut Dice, timeout: f64);
    /// Where its senders send.
    fn sending_socket(&self) -> BorrowedFd<'_>;
}

impl Target for Queue {
    fn look(&self, dice: &mut Dice, timeout: f64) {
        match dice.below(8) {
            0 => _ = self.watch(),
            1 => _ = self.watch_sending(),
            2 => _ = self.wait(Deadline::after(timeout)),
            3 => _ = self.would_be_full(),
            4 => _ = self.is_announced(Patience::Spin),
            5 => _ = self.try_get(&mut Vec::new(), &mut Vec::new()),
            6 => {
                let bytes = [1; 40];
                let payload = &mut Some(Payload::Inline(&bytes));
                let _ = self.try_put(&mut Outgoing { meta: MessageMeta::default(), payload, fds: &[] });
            }
            _ => {
                let ring = self.ring();
                let _ =
                    (ring.len(), ring.is_full(), ring.has_room_again(), ring.is_nearly_full(), ring.keeps_waiting());
                let _ = (ring.was_used(), ring.looks_ready(), ring.maxsize());
            }
        }
    }
    fn sending_socket(&self) -> BorrowedFd<'_> {
        self.sockets()[1]
    }
}

impl Target for End {
    fn look(&self, dice: &mut Dice, timeout: f64) {
        match dice.below(5) {
            0 => _ = self.watch(),
            1 => _ = self.wait(Deadline::after(timeout)),
            2 => _ = self.is_nonblocking(),
            3 => _ = self.try_recv(&mut Vec::new(), &mut Vec::new()),
            _ => {
                let bytes = [1; 40];
                let payload = &mut Some(Payload::Inline(&bytes));
                let _ = self.try_send(&mut Outgoing { meta: MessageMeta::default(), payload, fds: &[] });
            }
        }
    }
    fn sending_socket(&self) -> BorrowedFd<'_> {
        self.socket()
    }
}

/// Everything that one process does with its channels, call by call.
struct User<'a> {
    dice: Dice,
    timeout: f64,
    /// Whose messages are not let go of yet.
    held: VecDeque<Received>,
    /// Calls that were late.
    held_up: Cell<u32>,
    words: &'a common::Words,
}

impl User<'_> {
    /// A call that has to be over by its timeout.
    fn timed<T>(&self, what: &str, f: impl FnOnce() -> Result<T, Error>) -> Option<T> {
        common::watchdog();
        let (start, busy) = (Instant::now(), processor_time());
        let done = f();
        let (late, busy) = (start.elapsed().as_secs_f64() - self.timeout, processor_time() - busy);
        self.held_up.set(self.held_up.get() + u32::from(late > 0.2));
        let is_fine = late < SLACK && busy < WORK;
        assert!(is_fine, "{what} took {late} s more than its {} s, {busy} s of it at work", self.timeout);
        for (at, seconds) in [(SLOWEST, late), (BUSIEST, busy)] {
            self.words.0[at].fetch_max((seconds.max(0.0) * 1e6) as u64, std::sync::atomic::Ordering::Relaxed);
        }
        let outcome = match &done {
            Ok(_) => DONE,
            Err(Error::Corrupted(why)) => {
                let hash = why.bytes().fold(7u64, |hash, byte| hash.wrapping_mul(31).wrapping_add(u64::from(byte)));
                self.words.add(REASONS + (hash % REASON_WORDS as u64) as usize, 1);
                CORRUPTED
            }
            Err(_) => OTHER,
        };
        self.words.add(outcome, 1);
        done.ok()
    }

    fn use_one(&mut self, channel: &impl Target) {
        let timeout = self.timeout;
        if self.held_up.get() > HELD_UP {
            return;
        }
        match self.dice.below(12) {
            0..5 => {
                let (mut bytes, mut came) = (Vec::new(), Vec::new());
                let got = self.timed("a get", || channel.get_letter(&mut bytes, &mut came, Deadline::after(timeout)));
                if let Some(received) = got {
                    assert!(bytes.len() <= INLINE && came.len() == usize::from(received.meta.fds));
                    self.held.push_back(received);
                }
                if self.held.len() > self.dice.below(5) as usize {
                    self.let_go();
                }
            }
            5..9 => {
                let len = size(&mut self.dice);
                let sent = if self.dice.below(8) == 0 { fds(1 + self.dice.below(3) as usize).0 } else { Vec::new() };
                let bytes = vec![len as u8; len];
                let deadline = Deadline::after(timeout);
                self.timed("a put", || common::channel::send(channel, &bytes, &sent, deadline));
            }
            9 | 10 => {
                let mut dice = self.dice.clone();
                self.timed("a look", || {
                    channel.look(&mut dice, timeout);
                    Ok(())
                });
                self.dice = dice;
            }
            _ => self.let_go(),
        }
    }

    /// Read what is held longest, as a program would, and let go of it.
    fn let_go(&mut self) {
        let Some(mut received) = self.held.pop_front() else { return };
        if let Some((hold, len)) = received.extent.take().map(|extent| *extent) {
            // As the bindings do: as many bytes as it says, where they are or copied.
            let mut bytes = vec![0; len];
            let hold = match self.dice.below(2) {
                0 => hold.lend(len),
                _ => Err(hold),
            };
            let hold = match hold {
                Err(hold) => hold,
                Ok(loan) => {
                    self.timed("a look at a loan", || loan.read(0, &mut bytes));
                    self.timed("a return", || {
                        drop(loan);
                        Ok(())
                    });
                    return;
                }
            };
            self.timed("a copy", || hold.read(0, &mut bytes));
            self.timed("a drop", || {
                drop(hold);
                Ok(())
            });
        }
    }

    /// Ordinary traffic, so that there is something to mutate.
    fn warm_up(&mut self, channel: &impl Target, focus: Focus) {
        if focus != Focus::Everything {
            // Unread from the first on; with chunks, now and then.
            let most = [60, 200, 66_000][self.dice.below(3) as usize];
            for _ in 0..4 + self.dice.below(12) {
                let len = if self.dice.below(3) == 0 { 70_000 } else { self.dice.below(most) as usize };
                let _ = common::channel::send(channel, &vec![7; len], &[], Deadline::PASSED);
            }
            return;
        }
        let timeout = std::mem::replace(&mut self.timeout, 0.0);
        let burst = self.dice.below(3) == 0;
        for _ in 0..self.dice.below(40) {
            self.use_one(channel);
            if burst {
                // Into chunks, or until it is full; detours, where it is taken from in between.
                for _ in 0..self.dice.below(60) {
                    let bytes = vec![7; self.dice.below(20_000) as usize];
                    let _ = common::channel::send(channel, &bytes, &[], Deadline::PASSED);
                }
            }
        }
        self.timeout = timeout;
    }

    /// One life of a channel that goes bad.
    fn ruin<T: Target>(&mut self, channels: &[T]) {
        let focus = [Focus::Everything, Focus::Everything, Focus::Records, Focus::Table][self.dice.below(4) as usize];
        for channel in channels {
            self.warm_up(channel, focus);
        }
        let first = &channels[0];
        let seed = self.dice.next();
        // Seldom: another keeps writing while it is used.
        let hostile = (self.dice.below(6) == 0).then(|| {
            Child::fork(|| {
                let mut dice = Dice(seed);
                // Or it floods the socket, as quickly as it can.
                while seed.is_multiple_of(4) {
                    send_rubbish(first.sending_socket(), &mut dice);
                }
                loop {
                    scribble(&first.bytes(), &mut dice, focus, 1 + seed % 7);
                    if dice.below(16) == 0 {
                        send_rubbish(first.sending_socket(), &mut dice);
                    }
                    std::thread::sleep(Duration::from_micros(seed % 300));
                }
            })
        });
        for _ in 0..1 + self.dice.below(3) {
            let times = 1 << self.dice.below(if focus == Focus::Everything { 6 } else { 4 });
            scribble(&first.bytes(), &mut self.dice, focus, times);
            if self.dice.below(4) == 0 {
                send_rubbish(first.sending_socket(), &mut self.dice);
            }
            for channel in channels {
                for _ in 0..self.dice.below(8) {
                    self.use_one(channel);
                }
                if let Some(attached) = self.timed("an attach", || channel.again()) {
                    for _ in 0..self.dice.below(8) {
                        self.use_one(&attached);
                    }
                }
            }
        }
        drop(hostile);
        self.held.clear();
    }

    /// What was never a channel.
    fn attach_to_rubbish(&mut self) {
        let dice = &mut self.dice;
        let bytes = [0, 100, 4096, 8192, 2 << 20, 9 << 20][dice.below(6) as usize] + dice.below(3) * 8;
        let fd = rustix::fs::memfd_create("rubbish", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING).unwrap();
        rustix::fs::ftruncate(&fd, bytes).unwrap();
        let mut page: Vec<u8> = (0..2048).flat_map(|_| dice.next().to_ne_bytes()).collect();
        if dice.below(4) > 0 {
            // With a header that is right.
            let (queue, (end, _)) = (Queue::create(1).unwrap(), pipe::create(true).unwrap());
            let (whose, front) =
                if dice.below(2) == 0 { (queue.bytes(), queue.front()) } else { (end.bytes(), end.front()) };
            if dice.below(3) == 0 {
                page[64..].fill(dice.below(256) as u8);
            }
            memfd::read(front.segment().as_fd(), 0, &mut page[..64]).unwrap();
            whose.read(0, &mut page[4096..4096 + 64]).unwrap();
        }
        page.truncate(bytes as usize);
        memfd::write(&fd, 0, &page).unwrap();
        let seals = [
            SealFlags::SHRINK,
            SealFlags::SHRINK | SealFlags::SEAL,
            SealFlags::SHRINK | SealFlags::GROW,
            SealFlags::SHRINK | SealFlags::WRITE,
            SealFlags::empty(),
        ][dice.below(5) as usize];
        rustix::fs::fcntl_add_seals(&fd, seals).unwrap();
        let (mut a, b) = socket::pair().unwrap();
        let mut other: OwnedFd = fd.try_clone().unwrap();
        if dice.below(8) == 0 {
            std::mem::swap(&mut a, &mut other);
        }
        let offset = [4096, 4096, 4096, 0, 64, 8192, usize::MAX - 31][dice.below(7) as usize];
        let file = (dice.below(3) == 0).then(|| fd.try_clone().unwrap());
        let given = Given { segment: Incoming::new(fd), token: None, offset };
        let [readable, writable, second] = [0; 3].map(|_| dice.below(2) == 0);
        if dice.below(2) == 0 {
            let attached = self.timed("an attach", || Queue::attach(given, a, b));
            if let Some(queue) = attached {
                (0..8).for_each(|_| self.use_one(&queue));
            }
        } else {
            let flags = Flags { readable, writable, second };
            let attached = self.timed("an attach", || End::attach(given, a, file, flags));
            if let Some(end) = attached {
                (0..8).for_each(|_| self.use_one(&end));
            }
        }
        self.held.clear();
    }
}

fn round(seed: u64, words: &common::Words) {
    let mut dice = Dice(seed);
    let timeout = [0.0, 0.001, 0.01][dice.below(3) as usize];
    let (kind, bound, duplex) = (dice.below(9), dice.below(2) * 5, dice.below(3) > 0);
    let mut user = User { dice, timeout, held: VecDeque::new(), held_up: Cell::new(0), words };
    match kind {
        0 => user.attach_to_rubbish(),
        1..5 => user.ruin(&[Queue::create(bound).unwrap()]),
        _ => {
            let (a, b) = pipe::create(duplex).unwrap();
            user.ruin(&[a, b]);
        }
    }
}

/// Seconds that this process has been at work.
fn processor_time() -> f64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: writes to a local.
    unsafe { libc::clock_gettime(libc::CLOCK_PROCESS_CPUTIME_ID, &mut time) };
    time.tv_sec as f64 + time.tv_nsec as f64 / 1e9
}

/// From now on this process has so much address space, and no core file.
fn limit() {
    for (what, most) in [(libc::RLIMIT_AS, ADDRESSES), (libc::RLIMIT_CORE, 0)] {
        let limit = libc::rlimit { rlim_cur: most, rlim_max: most };
        // SAFETY: reads a local.
        assert_eq!(unsafe { libc::setrlimit(what, &limit) }, 0);
    }
}

#[test]
fn hostile_bytes_are_errors_and_never_more() {
    let _turn = common::turn();
    let number = |name: &str| std::env::var(name).ok().and_then(|value| value.parse::<u64>().ok());
    let words = words();
    if let Some(seed) = number("FASTMP_ROUND") {
        let mut child = Child::fork(|| {
            limit();
            round(seed, &words);
        });
        assert_eq!(child.wait(), OK);
        return;
    }
    let (seed, seconds) = (common::seed(), number("FASTMP_FUZZ_SECONDS").unwrap_or(2));
    println!("FASTMP_SEED={seed}, {seconds} s");
    let start = Instant::now();
    let each = |lane: u64| {
        let words = &words;
        move || {
            limit();
            for n in 0.. {
                if start.elapsed() > Duration::from_secs(seconds) {
                    return;
                }
                let one = seed.wrapping_add(n * LANES + lane);
                words.set(LANE + lane as usize, one);
                round(one, words);
                words.add(ROUNDS, 1);
                // Some 10 to 20 are open after a round, by its kind. Plots whose header has become
                // garbage are lost: a segment more for each 64 of a pipe's at least, after smaller ones.
                let most = 32 + n as usize / 64;
                assert!(open_fds() <= most, "{} descriptors after {n} rounds", open_fds());
            }
        }
    };
    let mut children: Vec<_> = (0..LANES).map(|lane| Child::fork(each(lane))).collect();
    for (lane, child) in children.iter_mut().enumerate() {
        let end = child.wait();
        assert_eq!(end, OK, "see it again with FASTMP_ROUND={}", words.get(LANE + lane));
    }
    let reasons = (REASONS..REASONS + REASON_WORDS).filter(|&at| words.get(at) > 0).count();
    println!(
        "{} rounds; {} calls done, {} corrupted for {reasons} reasons, {} otherwise; {} us after its timeout at worst, and {} us at work",
        words.get(ROUNDS),
        words.get(DONE),
        words.get(CORRUPTED),
        words.get(OTHER),
        words.get(SLOWEST),
        words.get(BUSIEST)
    );
    assert!(words.get(ROUNDS) > 20 && words.get(CORRUPTED) > 20 && reasons > 4);
}
