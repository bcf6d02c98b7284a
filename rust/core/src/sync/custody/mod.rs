//! Custody: messages that a thread has taken and not yet acknowledged. If its process is killed
//! they come back, in front of all others. So each is delivered at least once.
//!
//! # Words
//! Each thread that takes from such a queue has a *bay*, in a table beside the queue. A bay keeps
//! what its thread has taken at a time: a run of records, copied into memory of the bay's own, or
//! one large message, which stays in the extent in which it came. No process owns that memory, so
//! that no sweep takes it for a dead one's: a ring or a bay refers to it.
//!
//! A bay's `word` says whose it is and in which state, in one:
//!
//! | owner | state | meaning |
//! |---|---|---|
//! | 0 | 0 | free |
//! | process | `IDLE` | its thread's; nothing is in custody |
//! | process | `HELD` | what is in it from `cursor` on is in custody |
//! | process | `CLEANING` | nothing is in custody; the process gives its memory back |
//! | 0 | `RETURNED` | what is in it from `cursor` on is queued, in front |
//!
//! | word | changed by | meaning |
//! |---|---|---|
//! | `pending` | the get lock's holder | not 0: it was in the middle of a step with this bay |
//! | a bay's `cursor` | the get lock's holder | what was in it before is somebody else's, or done |
//! | `source`, `intents`, `after` | the get lock's holder | what the step is that is pending |
//! | a bay's other words | its owner, while `IDLE`, under the get lock | what is in it |
//! | `front` (of the ring) | the get lock's holder | messages in front: the sum over bays that are `RETURNED` |
//!
//! The get lock is the ring's. Where a step makes the queue longer, the put lock is held too, for
//! readiness is told under that.
//!
//! # Protocol
//! Whoever holds the get lock and is about to change something *settles* first: see below.
//!
//! - **take**, from the ring: copy the records into the bay, or mark the large message's extent as
//!   the bay's; say what the head will be (`intents`); `pending` = the bay. Store the new head: the
//!   commit point, as of every get. Then `word` := `HELD`, `pending` := 0. (An even run is
//!   committed in two steps, the last message alone: two intents.)
//! - **take**, from the front, of the bay with the lowest number: the same, with that bay's
//!   `cursor` in place of the head; then `front`. A bay of which all is taken is cleaned.
//! - **acknowledge**, by the thread (by no other, which could be late, and undo its next take),
//!   when it asks for its next message, and by its process when the thread or the process ends
//!   normally: `word` := `IDLE`, or `CLEANING` where there is an extent to give back. That is the
//!   commit point, and needs no lock: nobody else changes a word with a live owner.
//! - **return**, by whoever proves the owner of a `HELD` bay dead, under both locks: make the
//!   descriptor readable; CAS `word` from what was seen to `RETURNED`, the commit point; count
//!   `front` anew; wake one who waits. Of any other bay of the dead: CAS to `CLEANING` in one's own
//!   name, and clean it.
//! - **clean**: give the extents back (see `reclaim` of extents; each is known by a number that is
//!   never used twice, so that it is nothing to do it again), then `word` := `IDLE` by its
//!   thread, or 0.
//! - **task_done** of a queue whose messages are tasks: under the get lock, `pending` = the bay,
//!   with the count of tasks done as it will be as its intent. Count: the commit point, for the
//!   task and for the message's custody at once. Then `cursor` goes on. So a task that comes back
//!   was never counted, and one that was counted never comes back. It may be said by another thread
//!   of the process, while the bay's own acknowledges, or leaves the bay to be claimed by others:
//!   what is stored there then means nothing, for whoever takes into a bay stores anew what
//!   counts, under the same lock.
//!
//! # Settling
//! `pending` not 0 says that the last holder died in the middle. Nobody has moved the head, a
//! `cursor` or the count since, for whoever does that settles first. So intent and word are
//! compared: equal, and the step was done, and the bay is `HELD` (by one who is dead; it will be
//! found); not equal, and nothing was. Then `front` is counted anew, and `pending` cleared last, so
//! that a second death leaves the same question to the next.
//!
//! # Death
//! - of a taker before the commit: nothing was taken; the bay is `IDLE`, and will be cleaned.
//! - after the commit, before `HELD`: settling makes it so, and it comes back.
//! - of one who holds something: it comes back, as often as it takes.
//! - of one who acknowledges, after the commit: the bay is cleaned by who finds it.
//! - of who returns, before the CAS: a needless ready packet, which goes with the next call that
//!   finds nothing. After it: `pending` says that `front` is to be counted; whoever waits looks at
//!   `pending` too. After that, before the wake-up: who waits finds it at the end of its slice.
//! - of who cleans: its own name is in the word; the next one goes on.
//! - of who takes what has come back: it is a taker like any other.
//!
//! # Who is looked at
//! Whoever asks for a message looks at the owners first, and whoever waits for one at the end of
//! its slice, if nobody else has done so for [`LOOK_EVERY`], or longer where there are many bays
//! ([`LOOK_EVERY_A_BAY`]). Who has been asked about thoroughly, and looks as it did then, is not
//! asked about so again for two seconds (`is_as_seen`, less than a microsecond each: that is what
//! waiting costs). Each other is asked about in a cheap way, a few ([`THOROUGH`]) thoroughly. A
//! killed process that nobody has waited for (a zombie, not a child of who looks) needs the latter,
//! and gets it in the next look, for it looks like nobody any more. Where the kernel does not tell,
//! more than that many hold something, and few wait, it is found some slices later.
//!
//! Whoever does not wait, and is about to be told that nothing is there, or how much, relies on no
//! other's look, which may be under way still: it looks by itself, if others hold anything, and if
//! its process has not done so for [`LOOK_EVERY`]. It asks about more of them ([`AT_ONCE`]): who
//! does that again and again has the processor anyway.
//!
//! # What the words do not say
//! Fork: a bay names its process, so that a child holds nothing of its parent's. Whether a process
//! has ended normally: it says so itself, by acknowledging. What it has not acknowledged when it is
//! gone comes back. A live owner is never taken for dead, and *unknown counts as alive*: then
//! nothing comes back.

mod dead;
mod leaving;
mod taking;

use crate::facade::{AtomicU32, AtomicU64, Ordering, Owner};
use crate::kill_point;
use crate::overlay;

pub use dead::is_long_ago;

/// States of a bay, in the two bits beside an owner's name.
const IDLE: u64 = 0;
const HELD: u64 = 1;
const CLEANING: u64 = 2;
/// Nobody's, and queued in front.
const RETURNED: u64 = HELD;

/// In `pending`: `front` is to be counted anew, whatever else is so.
const RECOUNT: u64 = u64::MAX;

/// Where a bay's messages came from: the ring; 1 + the number of another bay. `DONE`: what is
/// pending is a task that is done.
const RING: u64 = 0;
const DONE: u64 = u64::MAX;

/// What is in a bay.
const RECORDS: u32 = 0;
const EXTENT: u32 = 1;

/// Nanoseconds for which nobody looks again at the owners, at least.
pub const LOOK_EVERY: u64 = 25_000_000;
/// And so many for each bay that has ever been used, 100 ms for 40 of them, but no more than
/// [`LOOK_MOST`].
pub const LOOK_EVERY_A_BAY: u64 = 2_500_000;
/// See there.
pub const LOOK_MOST: u64 = 250_000_000;
/// Owners that are asked about thoroughly in one look.
pub const THOROUGH: usize = 12;
/// And in a look of one who does not wait: two thirds of a millisecond.
pub const AT_ONCE: usize = 64;

/// A cursor: messages before it, bytes before it.
const GIVEN_SHIFT: u32 = 32;

overlay! {
    /// What all bays share. All zero at first.
    #[repr(align(64))]
    #[derive(Debug)]
    pub struct CustodyState {
        /// See the module.
        pending: AtomicU64,
        /// No bay from here on was ever anybody's.
        high: AtomicU64,
        /// When somebody last looked at the owners, by the monotonic clock.
        looked: AtomicU64,
        /// Where the next one begins.
        next: AtomicU64,
        /// The last number given to an extent.
        numbers: AtomicU64,
        _reserved: [AtomicU64; 3],
    }
}

overlay! {
    /// A thread's place. See the module. All zero: free.
    #[repr(align(64))]
    #[derive(Debug)]
    pub struct Bay {
        word: AtomicU64,
        thread: AtomicU32,
        /// What is in it.
        kind: AtomicU32,
        /// The number of its first message among all that were ever taken.
        number: AtomicU64,
        /// Messages in it, with those before the cursor.
        end: AtomicU64,
        cursor: AtomicU64,
        intents: [AtomicU64; 2],
        source: AtomicU64,
        /// Of records: their bytes.
        bytes: AtomicU64,
        /// The extent for records: 1 + its slot, and its number.
        buffer: AtomicU64,
        buffer_number: AtomicU64,
        /// The extent that is the message: its slot, its number, the message's bytes.
        extent: AtomicU64,
        extent_number: AtomicU64,
        extent_bytes: AtomicU64,
        format: AtomicU32,
        _reserved: AtomicU32,
        /// What `cursor` is to be once a task is done.
        after: AtomicU64,
    }
}

const _: () = assert!(cfg!(loom) || size_of::<Bay>() == 128);

/// An extent that a bay refers to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reference {
    /// Its slot.
    pub slot: u64,
    /// The number that tells it from what is in that slot at another time.
    pub number: u64,
}

/// What is in a bay.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Content {
    /// Records in its buffer: so many bytes of them.
    Records(u64),
    /// One message: its extent, its bytes, its format.
    Extent(Reference, u64, u8),
}

/// Where messages come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Source {
    /// The ring.
    Ring,
    /// A bay whose messages are in front.
    Front(usize),
}

/// A step that begins: what is about to be in a bay.
#[derive(Debug)]
pub struct Taking {
    /// From where.
    pub source: Source,
    /// The number of the first message.
    pub number: u64,
    /// Messages.
    pub count: u64,
    /// What the source's word will be with all of them taken but the last; with all.
    pub intents: [u64; 2],
    /// What they are in.
    pub content: Content,
}

/// What is left in a bay.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Left {
    /// Messages.
    pub count: u64,
    /// The number of the first.
    pub number: u64,
    /// Messages before it, and their bytes where they are records.
    pub given: u64,
    /// See that.
    pub at: u64,
    /// What they are in, all of it.
    pub content: Content,
}

/// A bay of a dead owner has been dealt with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Found {
    /// So many messages are in front again.
    Returned(u64),
    /// It is the caller's to [clean](Custody::cleaned).
    ToClean,
    /// Somebody else was quicker.
    Changed,
}

/// The bays of one queue.
#[derive(Debug, Clone, Copy)]
pub struct Custody<'a> {
    state: &'a CustodyState,
    bays: &'a [Bay],
    /// The ring's word.
    front: &'a AtomicU64,
}

impl CustodyState {
    /// Nothing is in custody.
    #[allow(clippy::new_without_default)]
    pub fn new() -> CustodyState {
        let zero = || AtomicU64::new(0);
        CustodyState {
            pending: zero(),
            high: zero(),
            looked: zero(),
            next: zero(),
            numbers: zero(),
            _reserved: [zero(), zero(), zero()],
        }
    }
}

impl Bay {
    /// A free one.
    #[allow(clippy::new_without_default)]
    pub fn new() -> Bay {
        let (zero, small) = (|| AtomicU64::new(0), || AtomicU32::new(0));
        Bay {
            word: zero(),
            thread: small(),
            kind: small(),
            number: zero(),
            end: zero(),
            cursor: zero(),
            intents: [zero(), zero()],
            source: zero(),
            bytes: zero(),
            buffer: zero(),
            buffer_number: zero(),
            extent: zero(),
            extent_number: zero(),
            extent_bytes: zero(),
            format: small(),
            _reserved: small(),
            after: zero(),
        }
    }

    fn given(&self) -> u64 {
        self.cursor.load(Ordering::Relaxed) >> GIVEN_SHIFT
    }

    fn left(&self) -> u64 {
        self.end.load(Ordering::Relaxed).saturating_sub(self.given())
    }

    /// Does somebody hold anything in it, or is it in front?
    fn holds(&self) -> bool {
        self.word.load(Ordering::Relaxed) & !Owner::MASK == HELD && self.left() > 0
    }

    /// Is it that thread's?
    pub fn is_of(&self, me: Owner, thread: u32) -> bool {
        self.owner() == Some(me) && self.thread.load(Ordering::Relaxed) == thread
    }

    /// Whose it is.
    pub fn owner(&self) -> Option<Owner> {
        Owner::in_word(self.word.load(Ordering::Relaxed))
    }

    /// The extent for its records, if it has one.
    pub fn buffer(&self) -> Option<Reference> {
        let slot = self.buffer.load(Ordering::Relaxed).checked_sub(1)?;
        Some(Reference { slot, number: self.buffer_number.load(Ordering::Relaxed) })
    }

    /// By its owner, whose bay it is and idle: it has such a buffer, as soon as nobody owns that.
    pub fn set_buffer(&self, buffer: Reference) {
        self.buffer_number.store(buffer.number, Ordering::Relaxed);
        self.buffer.store(buffer.slot.wrapping_add(1), Ordering::Release);
    }

    /// The extent that is its message, if there is one.
    pub fn extent(&self) -> Option<Reference> {
        if self.kind.load(Ordering::Relaxed) != EXTENT {
            return None;
        }
        let number = self.extent_number.load(Ordering::Relaxed);
        Some(Reference { slot: self.extent.load(Ordering::Relaxed), number })
    }

    fn content(&self) -> Content {
        match self.extent() {
            None => Content::Records(self.bytes.load(Ordering::Relaxed)),
            Some(extent) => {
                let format = self.format.load(Ordering::Relaxed) as u8;
                Content::Extent(extent, self.extent_bytes.load(Ordering::Relaxed), format)
            }
        }
    }

    /// What is left in it.
    pub fn rest(&self) -> Left {
        let cursor = self.cursor.load(Ordering::Relaxed);
        let given = cursor >> GIVEN_SHIFT;
        Left {
            count: self.left(),
            number: self.number.load(Ordering::Relaxed).wrapping_add(given),
            given,
            at: cursor & u64::from(u32::MAX),
            content: self.content(),
        }
    }
}

/// The cursor behind `given` messages, which take `bytes`.
pub fn cursor(given: u64, bytes: u64) -> u64 {
    given << GIVEN_SHIFT | bytes & u64::from(u32::MAX)
}

impl<'a> Custody<'a> {
    /// Over these words; `front` is the ring's.
    pub fn new(state: &'a CustodyState, bays: &'a [Bay], front: &'a AtomicU64) -> Custody<'a> {
        Custody { state, bays, front }
    }

    /// Those that may be somebody's.
    fn used(&self) -> &'a [Bay] {
        // Acquire: pairs with the raise in `claim`.
        let high = self.state.high.load(Ordering::Acquire).min(self.bays.len() as u64);
        &self.bays[..high as usize]
    }

    /// A bay by its number.
    pub fn bay(&self, index: usize) -> Option<&'a Bay> {
        self.bays.get(index)
    }

    /// A number for an extent, which no other ever has.
    pub fn new_number(&self) -> u64 {
        self.state.numbers.fetch_add(1, Ordering::Relaxed).wrapping_add(1)
    }

    /// A free bay becomes the thread's. None: there is none.
    pub fn claim(&self, me: Owner, thread: u32) -> Option<usize> {
        let word = me.word() | IDLE;
        let index = self.bays.iter().enumerate().position(|(index, bay)| {
            if bay.word.load(Ordering::Relaxed) != 0 {
                return false;
            }
            // Before it is anybody's: a bay beyond `high` is not looked at.
            self.state.high.fetch_max(index as u64 + 1, Ordering::AcqRel);
            // Acquire: pairs with the release of who freed it.
            bay.word.compare_exchange(0, word, Ordering::AcqRel, Ordering::Relaxed).is_ok()
        })?;
        kill_point!("custody.claimed");
        let bay = &self.bays[index];
        bay.thread.store(thread, Ordering::Relaxed);
        bay.kind.store(RECORDS, Ordering::Relaxed);
        Some(index)
    }

    /// Messages in front.
    pub fn in_front(&self) -> u64 {
        self.front.load(Ordering::Relaxed)
    }

    fn count_front(&self) {
        let returned = self.used().iter().filter(|bay| bay.word.load(Ordering::Relaxed) == RETURNED);
        let count = returned.map(Bay::left).fold(0u64, u64::saturating_add);
        // SeqCst: one half of the agreement with waiters, as with `tail` and `head`.
        self.front.store(count, Ordering::SeqCst);
    }

    /// Does anybody hold anything, or is anything in front? Or was somebody in the middle of a step
    /// that may have been a take?
    pub fn is_anything_held(&self) -> bool {
        self.is_unsettled() || self.used().iter().any(Bay::holds)
    }
}
