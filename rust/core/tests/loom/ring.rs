//! A ring of messages: its words in the order in which they are used there, on the lock as it
//! ships. A unit of memory is a cell that loom watches: one that is written while somebody copies
//! it is a race.
//!
//! What is modelled is in `channel/ring`: put and get, the looks at the other side that are kept
//! (`head_seen`, `tail_seen`), going back to the start, growth of the base, also by a detour, and
//! going on in a chunk. A message and a link take one unit each.

use fastmp_core::Deadline;
use fastmp_core::facade::{AtomicU64, Ordering, die};
use fastmp_core::sync::mutex::Mutex;
use fastmp_core::sync::waitset::WaitSet;
use loom::cell::UnsafeCell;
use loom::sync::Arc;
use loom::thread;

use crate::{model, on, owner};

const LINK: u64 = 1 << 32;
/// Where the chunk begins, and where it ends.
const CHUNK: u64 = 16;
const CHUNK_END: u64 = 19;
/// What a message needs: a unit, and one behind it for a link.
const NEED: u64 = 2;

struct Ring {
    put_lock: Mutex,
    get_lock: Mutex,
    not_empty: WaitSet,
    tail: AtomicU64,
    head: AtomicU64,
    head_seen: AtomicU64,
    tail_seen: AtomicU64,
    cap: AtomicU64,
    /// Count of the message that made the last detour, plus one.
    detour: AtomicU64,
    /// May the base grow?
    most: u64,
    /// 1: the chunk is free.
    chunk: AtomicU64,
    units: Vec<UnsafeCell<u64>>,
}

// SAFETY: `units` are guarded by the protocol, which is what the models are to show.
unsafe impl Sync for Ring {}
// SAFETY: as above.
unsafe impl Send for Ring {}

#[derive(Clone, Copy, PartialEq, Eq)]
struct Cursor(u64);

impl Cursor {
    fn new(count: u64, at: u64) -> Cursor {
        Cursor(count << 32 | at)
    }
    fn count(self) -> u64 {
        self.0 >> 32
    }
    fn at(self) -> u64 {
        self.0 & u64::from(u32::MAX)
    }
}

impl Ring {
    fn new(cap: u64, most: u64, overflows: bool) -> Arc<Ring> {
        let word = |value| AtomicU64::new(value);
        Arc::new(Ring {
            put_lock: Mutex::new(),
            get_lock: Mutex::new(),
            not_empty: WaitSet::new(),
            tail: word(0),
            head: word(0),
            head_seen: word(0),
            tail_seen: word(0),
            cap: word(cap),
            detour: word(0),
            most,
            chunk: word(u64::from(overflows)),
            units: (0..CHUNK_END).map(|_| UnsafeCell::new(u64::MAX)).collect(),
        })
    }

    fn write(&self, at: u64, what: u64) {
        // SAFETY: nobody has been told of it; loom checks.
        self.units[at as usize].with_mut(|unit| unsafe { *unit = what });
    }

    fn read(&self, at: u64) -> u64 {
        // SAFETY: it has been committed, and not given free; loom checks.
        self.units[at as usize].with(|unit| unsafe { *unit })
    }

    fn is_on_detour(&self, head: Cursor) -> bool {
        match self.detour.load(Ordering::Relaxed) {
            0 => false,
            number => head.count() < number - 1,
        }
    }

    fn room(&self, tail: Cursor, head: Cursor) -> Option<u64> {
        let (at, cap) = (tail.at(), self.cap.load(Ordering::Relaxed));
        if at >= CHUNK {
            return if tail == head { Some(0) } else { (at + NEED <= CHUNK_END).then_some(at) };
        }
        if head.at() >= CHUNK {
            return (at + NEED <= cap).then_some(at);
        }
        match at >= head.at() {
            true if at + NEED <= cap => Some(at),
            true => (NEED <= head.at() && !self.is_on_detour(head)).then_some(0),
            false => (at + NEED <= head.at()).then_some(at),
        }
    }

    fn grow(&self, tail: Cursor, head: Cursor) -> Option<u64> {
        let (at, cap) = (tail.at(), self.cap.load(Ordering::Relaxed));
        if at < CHUNK && cap < self.most {
            let is_wrapped = head.at() < CHUNK && head.at() > at;
            let start = if is_wrapped { cap } else { at };
            if is_wrapped {
                self.detour.store(tail.count() + 1, Ordering::Relaxed);
            }
            self.cap.store(2 * cap, Ordering::Relaxed);
            return Some(start);
        }
        // Acquire: its reader has copied out what was there.
        self.chunk.compare_exchange(1, 0, Ordering::Acquire, Ordering::Relaxed).ok().map(|_| CHUNK)
    }

    /// Under the put lock: write it, and give the cursor to commit. None: full.
    fn prepare(&self, value: u64) -> Option<Cursor> {
        let tail = Cursor(self.tail.load(Ordering::Relaxed));
        let seen = Cursor(self.head_seen.load(Ordering::Relaxed));
        let at = self.room(tail, seen).or_else(|| {
            let head = Cursor(self.head.load(Ordering::SeqCst));
            self.head_seen.store(head.0, Ordering::Relaxed);
            self.room(tail, head).or_else(|| self.grow(tail, head))
        })?;
        self.write(at, value);
        if at != tail.at() {
            self.write(tail.at(), LINK | at);
        }
        Some(Cursor::new(tail.count() + 1, at + 1))
    }

    fn put(&self, me: u32, value: u64) -> bool {
        let _ = self.put_lock.lock(owner(me), Deadline::Never).unwrap();
        let new = self.prepare(value);
        if let Some(new) = new {
            self.tail.store(new.0, Ordering::SeqCst);
        }
        self.put_lock.unlock();
        if new.is_some() {
            self.not_empty.notify();
        }
        new.is_some()
    }

    /// Under the get lock: what comes next, the cursor to commit, and whether that leaves the
    /// chunk.
    fn look(&self) -> Option<(u64, Cursor, bool)> {
        let head = Cursor(self.head.load(Ordering::Relaxed));
        if self.tail_seen.load(Ordering::Relaxed) == head.0 {
            let tail = self.tail.load(Ordering::SeqCst);
            if tail == head.0 {
                return None;
            }
            self.tail_seen.store(tail, Ordering::Relaxed);
        }
        let (mut at, mut left) = (head.at(), false);
        let mut what = self.read(at);
        if what & LINK != 0 {
            left = at >= CHUNK;
            at = what & !LINK;
            what = self.read(at);
        }
        assert!(what < LINK, "links in a row, or what nobody put");
        Some((what, Cursor::new(head.count() + 1, at + 1), left))
    }

    fn get(&self, me: u32) -> Option<u64> {
        let _ = self.get_lock.lock(owner(me), Deadline::Never).unwrap();
        let found = self.look();
        if let Some((_, next, _)) = found {
            self.head.store(next.0, Ordering::SeqCst);
        }
        self.get_lock.unlock();
        // Without the lock.
        if let Some((_, _, true)) = found {
            self.chunk.store(1, Ordering::Release);
        }
        found.map(|(what, ..)| what)
    }

    /// Waits for it.
    fn wait_and_get(&self, me: u32) -> u64 {
        loop {
            let ticket = self.not_empty.prepare_wait();
            match self.get(me) {
                Some(value) => return value,
                None => drop(self.not_empty.park(ticket, u64::MAX)),
            }
        }
    }

    /// What is left, in order, after `got`.
    fn drain(&self, mut got: Vec<u64>) -> Vec<u64> {
        got.extend(std::iter::from_fn(|| self.get(9)));
        got
    }
}

/// What one puts another gets, whole and in order, waiting for it.
#[test]
fn messages_are_handed_over() {
    model(2, || {
        let ring = Ring::new(4, 4, false);
        let getter = on(&ring, |ring: &Ring| [ring.wait_and_get(2), ring.wait_and_get(2)]);
        assert!(ring.put(1, 40) && ring.put(1, 41));
        assert_eq!(getter.join().unwrap(), [40, 41]);
    });
}

/// Two put, two get: each message comes once, those of one producer in order.
#[test]
fn each_message_comes_once() {
    model(2, || {
        let ring = Ring::new(6, 6, false);
        let putter = on(&ring, |ring: &Ring| ring.put(2, 50));
        let getter = on(&ring, |ring: &Ring| ring.get(3));
        assert!(ring.put(1, 40));
        let mut got: Vec<_> = ring.get(1).into_iter().collect();
        assert!(putter.join().unwrap());
        got.extend(getter.join().unwrap());
        got = ring.drain(got);
        got.sort_unstable();
        assert_eq!(got, [40, 50]);
    });
}

/// A unit is not written anew before who has read it has given it free.
#[test]
fn what_is_read_is_not_overwritten() {
    model(3, || {
        let ring = Ring::new(4, 4, false);
        assert!((0..3).all(|value| ring.put(1, value)) && !ring.put(1, 3));
        let getter = on(&ring, |ring: &Ring| [0; 3].map(|_| ring.get(2)));
        thread::yield_now();
        let put = (3..6).take_while(|value| ring.put(1, *value)).count() as u64;
        let got = getter.join().unwrap().into_iter().flatten().collect();
        assert_eq!(ring.drain(got), (0..3 + put).collect::<Vec<_>>());
    });
}

/// The base grows at its end while it is read.
#[test]
fn a_ring_grows() {
    model(3, || {
        let ring = Ring::new(2, 8, false);
        assert!(ring.put(1, 0));
        let getter = on(&ring, |ring: &Ring| [0; 2].map(|_| ring.get(2)));
        assert!((1..4).all(|value| ring.put(1, value)));
        let got = getter.join().unwrap().into_iter().flatten().collect();
        assert_eq!(ring.drain(got), [0, 1, 2, 3]);
    });
}

/// It grows while it is wrapped: the tail jumps over the oldest messages, and does not go back to
/// the start before the reader has followed.
#[test]
fn a_wrapped_ring_grows_by_a_detour() {
    model(3, || {
        let ring = Ring::new(4, 8, false);
        assert!((0..3).all(|value| ring.put(1, value)));
        assert_eq!((ring.get(2), ring.get(2)), (Some(0), Some(1)));
        // At the start, before the oldest.
        assert!(ring.put(1, 3));
        assert_eq!(ring.cap.load(Ordering::Relaxed), 4);
        let getter = on(&ring, |ring: &Ring| [0; 4].map(|_| ring.get(2)));
        let put = (4..9).take_while(|value| ring.put(1, *value)).count() as u64;
        assert!(put >= 3 && ring.cap.load(Ordering::Relaxed) == 8);
        let got = getter.join().unwrap().into_iter().flatten().collect();
        assert_eq!(ring.drain(got), (2..4 + put).collect::<Vec<_>>());
    });
}

/// It goes on in a chunk, and comes back once that is empty; the chunk is used again.
#[test]
fn a_ring_goes_on_in_a_chunk() {
    model(2, || {
        let ring = Ring::new(2, 2, true);
        assert!(ring.put(1, 0));
        let getter = on(&ring, |ring: &Ring| [0; 3].map(|_| ring.get(2)));
        let put = (1..5).take_while(|value| ring.put(1, *value)).count() as u64;
        assert!(put >= 2);
        let got: Vec<_> = getter.join().unwrap().into_iter().flatten().collect();
        let got = ring.drain(got);
        assert_eq!(got, (0..1 + put).collect::<Vec<_>>());
    });
}

/// A chunk is used again once its reader has followed the link out of it.
#[test]
fn a_chunk_is_used_again() {
    model(3, || {
        let ring = Ring::new(2, 2, true);
        assert!(ring.put(1, 0) && ring.get(2) == Some(0));
        // Into the chunk, and back.
        assert!(ring.put(1, 1) && ring.get(2) == Some(1));
        assert!(ring.put(1, 2));
        let getter = on(&ring, |ring: &Ring| ring.get(2));
        thread::yield_now();
        let put = (3..5).take_while(|value| ring.put(1, *value)).count() as u64;
        assert_eq!(getter.join().unwrap(), Some(2));
        assert_eq!(ring.drain(Vec::new()), (3..3 + put).collect::<Vec<_>>());
    });
}

/// Who puts dies when all is written and nothing committed, in the midst of growing too: nobody
/// ever sees that, and the next one writes there.
#[test]
fn what_was_not_committed_is_not_there() {
    for (filled, cap) in [(0, 4), (1, 2)] {
        model(2, move || {
            let ring = Ring::new(cap, 8, false);
            assert!((0..filled).all(|value| ring.put(3, value)));
            let dying = on(&ring, |ring: &Ring| {
                let _ = ring.put_lock.lock(owner(1), Deadline::Never).unwrap();
                let new = ring.prepare(99);
                die(1);
                ring.put_lock.ring();
                new.is_some()
            });
            let getter = on(&ring, |ring: &Ring| ring.get(2));
            assert!(ring.put(3, filled));
            assert!(dying.join().unwrap());
            // It may have come first, and then have been the one that died.
            let got = ring.drain(getter.join().unwrap().into_iter().collect());
            assert_eq!(got, (0..=filled).collect::<Vec<_>>());
        });
    }
}

/// Who gets dies when it has copied a message, or just taken it: it comes to another, or it is gone
/// with the dead, and the rest is whole.
#[test]
fn who_gets_dies() {
    for commits in [false, true] {
        model(2, move || {
            let ring = Ring::new(4, 4, false);
            assert!(ring.put(3, 0) && ring.put(3, 1));
            let dying = on(&ring, move |ring: &Ring| {
                let _ = ring.get_lock.lock(owner(1), Deadline::Never).unwrap();
                let found = ring.look();
                if let (Some((_, next, _)), true) = (found, commits) {
                    ring.head.store(next.0, Ordering::SeqCst);
                }
                die(1);
                ring.get_lock.ring();
                found.filter(|_| commits).map(|(what, ..)| what)
            });
            let got = ring.get(2);
            let lost = dying.join().unwrap();
            let mut all = ring.drain(got.into_iter().collect());
            all.extend(lost);
            all.sort_unstable();
            assert_eq!(all, [0, 1]);
        });
    }
}
