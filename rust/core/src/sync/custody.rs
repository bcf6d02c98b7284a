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
//! | a bay's other words | its owner, while `IDLE`, under the get lock | what is in it, from where |
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
//! - **take**, from the front, of the bay with the lowest number: the same, with that bay's `cursor`
//!   in place of the head; then `front`. A bay of which all is taken is cleaned.
//! - **acknowledge**, by the thread, when it asks for its next message, and by its process when the
//!   thread or the process ends normally: `word` := `IDLE`, or `CLEANING` where there is an extent
//!   to give back. That is the commit point, and needs no lock: nobody else changes a word with a
//!   live owner.
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
//!   was never counted, and one that was counted never comes back.
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
//! Whoever asks for a message looks at the owners first, and whoever waits for one at the end of its
//! slice, if nobody else has done so for [`LOOK_EVERY`]. Each is asked about in a cheap way, a few ([`THOROUGH`]) thoroughly: so
//! many a look that waiting costs no more than a thousandth of a core. A killed process that nobody
//! has waited for (a zombie, not a child of who looks) needs the latter; where more than that many
//! hold something, and few wait, it is found a slice or some later.
//!
//! # What the words do not say
//! Fork: a bay names its process, so that a child holds nothing of its parent's. Whether a process
//! has ended normally: it says so itself, by acknowledging. What it has not acknowledged when it is
//! gone comes back. A live owner is never taken for dead, and *unknown counts as alive*: then
//! nothing comes back.

use crate::facade::{self, AtomicU32, AtomicU64, Ordering, Owner};
use crate::kill_point;
use crate::overlay;

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

/// Nanoseconds for which nobody looks again at the owners.
pub const LOOK_EVERY: u64 = 25_000_000;
/// Owners that are asked about thoroughly in one look.
pub const THOROUGH: usize = 12;

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

    /// May the last holder of the get lock have died in the middle?
    pub fn is_unsettled(&self) -> bool {
        self.state.pending.load(Ordering::Relaxed) != 0
    }

    /// Under the get lock, before anything else: finish what its last holder has begun. `head` is
    /// the ring's word, `done` the count of tasks.
    pub fn settle(&self, head: u64, done: u64) {
        match self.state.pending.load(Ordering::Relaxed) {
            0 => (),
            RECOUNT => self.settled(),
            index => match self.bays.get((index - 1) as usize) {
                Some(bay) => self.settle_step(bay, head, done),
                // Not written by us.
                None => self.settled(),
            },
        }
    }

    fn settled(&self) {
        self.count_front();
        kill_point!("custody.settling");
        self.state.pending.store(0, Ordering::Release);
    }

    #[cold]
    fn settle_step(&self, bay: &Bay, head: u64, done: u64) {
        let [all_but_one, all] = [0, 1].map(|which| bay.intents[which].load(Ordering::Relaxed));
        let end = bay.end.load(Ordering::Relaxed);
        let source = bay.source.load(Ordering::Relaxed);
        if source == DONE {
            if done == all {
                bay.cursor.store(bay.after.load(Ordering::Relaxed), Ordering::Relaxed);
            }
            return self.settled();
        }
        let now = match source {
            RING => Some(head),
            // Acquire: pairs with `advance`.
            _ => self.bays.get((source - 1) as usize).map(|from| from.cursor.load(Ordering::Acquire)),
        };
        let taken = match now {
            Some(now) if now == all => end,
            Some(now) if now == all_but_one => end.saturating_sub(1),
            _ => 0,
        };
        // Again after a second death: what is so already stays.
        if bay.word.load(Ordering::Relaxed) & !Owner::MASK == IDLE {
            self.finish(bay, taken);
        }
        self.settled();
    }

    fn finish(&self, bay: &Bay, taken: u64) {
        if taken == 0 {
            bay.kind.store(RECORDS, Ordering::Relaxed);
            return;
        }
        bay.end.store(taken, Ordering::Relaxed);
        let owner = bay.word.load(Ordering::Relaxed) & Owner::MASK;
        // Release: pairs with the acquire of who returns it. Nobody changes an idle bay meanwhile:
        // its owner, or who settles for it, has the lock.
        bay.word.store(owner | HELD, Ordering::Release);
    }

    /// Under the get lock, settled: the owner of bay `index`, which is idle, is about to take this.
    pub fn begin(&self, index: usize, taking: &Taking) {
        let bay = &self.bays[index];
        bay.number.store(taking.number, Ordering::Relaxed);
        bay.end.store(taking.count, Ordering::Relaxed);
        bay.cursor.store(0, Ordering::Relaxed);
        for (word, intent) in bay.intents.iter().zip(taking.intents) {
            word.store(intent, Ordering::Relaxed);
        }
        let source = match taking.source {
            Source::Ring => RING,
            Source::Front(from) => from as u64 + 1,
        };
        bay.source.store(source, Ordering::Relaxed);
        match taking.content {
            Content::Records(bytes) => {
                bay.kind.store(RECORDS, Ordering::Relaxed);
                bay.bytes.store(bytes, Ordering::Relaxed);
            }
            Content::Extent(extent, bytes, format) => {
                bay.extent.store(extent.slot, Ordering::Relaxed);
                bay.extent_number.store(extent.number, Ordering::Relaxed);
                bay.extent_bytes.store(bytes, Ordering::Relaxed);
                bay.format.store(u32::from(format), Ordering::Relaxed);
                bay.kind.store(EXTENT, Ordering::Relaxed);
            }
        }
        // Release: all that stands above is there for who settles.
        self.state.pending.store(index as u64 + 1, Ordering::Release);
        kill_point!("custody.pending");
    }

    /// After the source's commit.
    pub fn taken(&self, index: usize) {
        let bay = &self.bays[index];
        self.finish(bay, bay.end.load(Ordering::Relaxed));
        kill_point!("custody.held");
        if bay.source.load(Ordering::Relaxed) != RING {
            self.count_front();
        }
        self.state.pending.store(0, Ordering::Release);
    }

    /// Instead of that commit.
    pub fn not_taken(&self, index: usize) {
        self.bays[index].kind.store(RECORDS, Ordering::Relaxed);
        self.state.pending.store(0, Ordering::Release);
    }

    /// Under the get lock, settled: the bay whose messages are first in front.
    pub fn first_in_front(&self) -> Option<usize> {
        let bays = self.used().iter().enumerate();
        let returned = bays.filter(|(_, bay)| bay.word.load(Ordering::Acquire) == RETURNED && bay.left() > 0);
        let first = returned.min_by_key(|(_, bay)| bay.rest().number).map(|(index, _)| index);
        if first.is_none() && self.in_front() != 0 {
            self.count_front();
        }
        first
    }

    /// The commit point of a take from bay `from`, which is in front.
    pub fn advance(&self, from: usize, cursor: u64) {
        kill_point!("custody.front.before_commit");
        // Release: pairs with the acquire in `settle`.
        self.bays[from].cursor.store(cursor, Ordering::Release);
        kill_point!("custody.front.after_commit");
    }

    /// Under the get lock, settled: if all of bay `from`, which was in front, has been taken it is
    /// the caller's to clean. What was its message is another's.
    pub fn drained(&self, from: usize, me: Owner) -> bool {
        let bay = &self.bays[from];
        if bay.word.load(Ordering::Acquire) != RETURNED || bay.left() > 0 {
            return false;
        }
        bay.kind.store(RECORDS, Ordering::Relaxed);
        let mine = me.word() | CLEANING;
        bay.word.compare_exchange(RETURNED, mine, Ordering::AcqRel, Ordering::Relaxed).is_ok()
    }

    /// A bay from which all has been taken, by one who died before it could clean it.
    pub fn left_over(&self) -> Option<usize> {
        self.used().iter().position(|bay| bay.word.load(Ordering::Relaxed) == RETURNED && bay.left() == 0)
    }

    /// By its owner, in no lock: what is in custody in bay `index` is done. Gives the extent that is
    /// to be given back, before [`idle`](Self::idle).
    pub fn acknowledge(&self, index: usize, me: Owner) -> Option<Reference> {
        let bay = &self.bays[index];
        let [idle, held, cleaning] = [IDLE, HELD, CLEANING].map(|state| me.word() | state);
        // Another thread may only be acknowledging it too, at the end of the process.
        if bay.word.load(Ordering::Relaxed) == held {
            let then = if bay.kind.load(Ordering::Relaxed) == EXTENT { cleaning } else { idle };
            // Commit point. Release: what was read of it was read before.
            let _ = bay.word.compare_exchange(held, then, Ordering::AcqRel, Ordering::Relaxed);
            kill_point!("custody.acknowledged");
        }
        if bay.word.load(Ordering::Relaxed) != cleaning {
            return None;
        }
        let extent = bay.extent();
        if extent.is_none() {
            self.idle(index, me);
        }
        extent
    }

    /// By its owner, after what [`acknowledge`](Self::acknowledge) gave has been given back.
    pub fn idle(&self, index: usize, me: Owner) {
        let bay = &self.bays[index];
        bay.kind.store(RECORDS, Ordering::Relaxed);
        bay.word.store(me.word() | IDLE, Ordering::Release);
    }

    /// A process ends normally: all that its threads hold is done, or what one of them holds. Its
    /// memory is given back by others, who find the bays of one who has gone.
    pub fn acknowledge_all(&self, me: Owner, of: Option<u32>) {
        let bays = self.used().iter();
        for bay in bays.filter(|bay| of.is_none_or(|thread| bay.is_of(me, thread))) {
            let (held, cleaning) = (me.word() | HELD, me.word() | CLEANING);
            let _ = bay.word.compare_exchange(held, cleaning, Ordering::AcqRel, Ordering::Relaxed);
        }
    }

    /// Under the get lock, settled: the owner of bay `index`, which holds something, is about to
    /// count the first of it as done, so that `done` are; `cursor` is what comes after it.
    pub fn begin_done(&self, index: usize, done: u64, cursor: u64) {
        let bay = &self.bays[index];
        bay.source.store(DONE, Ordering::Relaxed);
        bay.intents[1].store(done, Ordering::Relaxed);
        bay.after.store(cursor, Ordering::Relaxed);
        self.state.pending.store(index as u64 + 1, Ordering::Release);
        kill_point!("custody.done_pending");
    }

    /// After that: has it been counted?
    pub fn end_done(&self, index: usize, counted: bool) {
        let bay = &self.bays[index];
        if counted {
            kill_point!("custody.done_counted");
            bay.cursor.store(bay.after.load(Ordering::Relaxed), Ordering::Relaxed);
        }
        self.state.pending.store(0, Ordering::Release);
    }

    /// Does the thread whose bay this is hold anything?
    pub fn holds(&self, index: usize, me: Owner) -> bool {
        let bay = &self.bays[index];
        bay.word.load(Ordering::Relaxed) == me.word() | HELD && bay.left() > 0
    }

    /// Does anybody hold anything, or is anything in front?
    pub fn is_anything_held(&self) -> bool {
        self.used().iter().any(|bay| bay.word.load(Ordering::Relaxed) & !Owner::MASK == HELD)
    }

    /// Is it time that somebody looks at the owners? Said to one. `always`: whenever it was.
    pub fn is_due(&self, always: bool) -> bool {
        let (looked, now) = (&self.state.looked, facade::now());
        let last = looked.load(Ordering::Relaxed);
        // Garbage from the future ends like the past. In a model time stands still.
        (always || cfg!(loom) || now.abs_diff(last) >= LOOK_EVERY)
            && (looked.compare_exchange(last, now, Ordering::Relaxed, Ordering::Relaxed).is_ok() || always)
    }

    /// What has been found could not be done: it is time again.
    pub fn look_again(&self) {
        self.state.looked.store(0, Ordering::Relaxed);
    }

    /// The bays of dead owners. `all`: each owner is asked about thoroughly.
    pub fn of_the_dead(&self, me: Owner, all: bool) -> Vec<(usize, Owner)> {
        let bays = self.used();
        let len = bays.len();
        if len == 0 {
            return Vec::new();
        }
        let first = self.state.next.load(Ordering::Relaxed) as usize % len;
        let (mut known, mut found) = (Vec::<(Owner, bool)>::new(), Vec::new());
        let (mut asked, mut next) = (0, first);
        for index in (0..len).map(|step| (first + step) % len) {
            let Some(owner) = bays[index].owner().filter(|&owner| owner != me) else { continue };
            let dead = match known.iter().find(|(known, _)| *known == owner) {
                Some(&(_, dead)) => dead,
                None => {
                    let mut dead = facade::is_dead_quick(owner);
                    if !dead && (all || asked < THOROUGH) {
                        asked += 1;
                        next = index + 1;
                        dead = facade::is_dead(owner);
                    }
                    known.push((owner, dead));
                    dead
                }
            };
            if dead {
                found.push((index, owner));
            }
        }
        self.state.next.store(next as u64, Ordering::Relaxed);
        found
    }

    /// Under both locks, settled: what `dead`, which is proved to be, left in bay `index` comes
    /// back; or it is to be cleaned. `keeps`: false of a queue whose messages are nobody's any
    /// more. `tell` makes the descriptor readable, before anything comes back.
    pub fn take_back(&self, index: usize, dead: Owner, me: Owner, keeps: bool, tell: impl FnOnce()) -> Found {
        let bay = &self.bays[index];
        // Acquire: pairs with the release of the dead.
        let word = bay.word.load(Ordering::Acquire);
        if Owner::in_word(word) != Some(dead) {
            return Found::Changed;
        }
        let (state, left) = (word & !Owner::MASK, bay.left());
        if state == HELD && left > 0 && keeps {
            tell();
            self.state.pending.store(RECOUNT, Ordering::Release);
            kill_point!("custody.returning");
            // Commit point.
            let returned = bay.word.compare_exchange(word, RETURNED, Ordering::AcqRel, Ordering::Relaxed);
            kill_point!("custody.returned");
            self.count_front();
            self.state.pending.store(0, Ordering::Release);
            return if returned.is_ok() { Found::Returned(left) } else { Found::Changed };
        }
        if state == IDLE {
            // What is named there may be the ring's still.
            bay.kind.store(RECORDS, Ordering::Relaxed);
        }
        let mine = me.word() | CLEANING;
        match bay.word.compare_exchange(word, mine, Ordering::AcqRel, Ordering::Relaxed) {
            Ok(_) => Found::ToClean,
            Err(_) => Found::Changed,
        }
    }

    /// Under the get lock, settled: nothing comes back any more. Gives the bays that are to be cleaned.
    pub fn throw_away(&self, me: Owner) -> Vec<usize> {
        let mine = me.word() | CLEANING;
        let bays = self.used().iter().enumerate();
        let thrown = bays.filter(|(_, bay)| {
            if bay.word.load(Ordering::Acquire) == RETURNED && bay.left() == 0 {
                // What was its message is another's.
                bay.kind.store(RECORDS, Ordering::Relaxed);
            }
            bay.word.compare_exchange(RETURNED, mine, Ordering::AcqRel, Ordering::Relaxed).is_ok()
        });
        let thrown = thrown.map(|(index, _)| index).collect();
        self.count_front();
        thrown
    }

    /// By its owner, in no lock: bay `index` is to be cleaned, and then nobody's.
    pub fn leave(&self, index: usize, me: Owner) {
        let bay = &self.bays[index];
        let word = bay.word.load(Ordering::Relaxed);
        if Owner::in_word(word) != Some(me) {
            return;
        }
        if word & !Owner::MASK == IDLE {
            bay.kind.store(RECORDS, Ordering::Relaxed);
        }
        // The commit point of acknowledging what it may hold.
        bay.word.store(me.word() | CLEANING, Ordering::Release);
        kill_point!("custody.leaving");
    }

    /// What is to be given back of a bay that is cleaned.
    pub fn to_clean(&self, index: usize) -> [Option<Reference>; 2] {
        let bay = &self.bays[index];
        [bay.extent(), bay.buffer()]
    }

    /// By who cleans it, after that has been given back: it is free.
    pub fn cleaned(&self, index: usize) {
        kill_point!("custody.cleaned");
        let bay = &self.bays[index];
        bay.buffer.store(0, Ordering::Relaxed);
        bay.kind.store(RECORDS, Ordering::Relaxed);
        // Release: pairs with the acquire of who claims it.
        bay.word.store(0, Ordering::Release);
    }
}
