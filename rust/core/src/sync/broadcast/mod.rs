//! A broadcast: numbered messages in a circle of cells, and how far each reader has read.
//!
//! The idea is LMAX's Disruptor: one sequence for all, a cursor for each reader, and senders that
//! are gated by the slowest. Here readers come, go and die at any time, and the slow may be left
//! behind.
//!
//! # Words
//! Messages are numbered from 0; message n lies in cell n % `maxsize`: a small one as a whole, of a
//! large one the number of its extent. `oldest <= n < next` are there.
//!
//! | word | changed by | meaning |
//! |---|---|---|
//! | `lock` | | held by whoever sends, joins, takes over, or frees what all have read |
//! | `next` | the lock's holder | number of the next message: its store is the commit point of a send |
//! | `oldest` | the lock's holder | number of the first that is there; what is below may be overwritten |
//! | `large` | the lock's holder | no message from here on lies in an extent |
//! | `limbo` | the lock's holder; a reader, by CAS, from another value than 0 to `LOOK` | not 0: there may be extents below `oldest` that are still to be freed. `LOOK`: they are to be looked for; else when that was done last |
//! | `shut` | the lock's holder | no message comes any more |
//! | `high` | the lock's holder | reader slots above were never used |
//!
//! A reader has a slot, by a ticket: `slot.rs` says whose it is, and how that changes.
//!
//! A reader that was given away is *unclaimed* if nobody has taken it over within [`CLAIM`]. It is
//! on its way still, or will never arrive: what carries it was thrown away, or could not be
//! pickled. So that it holds back no sender it is not waited for from then on, until it is taken
//! over, or its former owner reads by it again: it misses messages, and counts them. Where slots
//! are scarce its own is freed; who comes for it then joins anew, as always when it is gone.
//!
//! # Sending, under the lock
//! Make room; write cell `next`; store `next` + 1. Room is made by storing `oldest` higher: up to
//! the slowest reader's place, and, if the slow may be left behind, beyond that. With no reader
//! there is always room. A message that nobody reads gets its number all the same: a reader that is
//! under way, whose slot is nobody's just then, counts what it missed. A small one stays in its
//! cell for such a reader; of a large one there is the number alone, `next` and then `oldest` go
//! beyond it, and whatever lies in extents goes.
//!
//! # Reading, without a lock
//! - A small message: copy it, look at `oldest` once more: if the number is below it, the copy may
//!   be torn, and is thrown away. Else CAS `place` to the next number: the commit point.
//! - A large one: CAS `pin`, then look at `place` and `oldest` once more. Copy it. CAS `place` to
//!   the next number: the commit point. Clear `pin`. Who stores `oldest` looks at all pins
//!   afterwards. Between the two stores and the two looks stands a full fence on each side: so
//!   either the reader sees that the message is gone, or the sender sees the pin. Then the extent
//!   stays where it is, in *limbo*, until a later holder of the lock finds no pin on it.
//! - Only the slowest wakes senders that wait: no other reader was behind where it was. Room comes
//!   from nobody else.
//! - A reader that has been left behind goes on with `oldest`, and counts what it missed.
//!
//! # Deaths
//! - of the lock's holder before its commit: what it wrote in the cell is not there for anybody.
//!   Its extent is settled by the next holder (see `extents`); what it had evicted and not freed is
//!   found as limbo is.
//! - between the two stores for a large message that nobody reads: that one's cell holds another.
//!   Nobody can read it: to join takes the lock, and whoever takes it over from the dead, with no
//!   reader there, first evicts all.
//! - after its commit, before its wake-up: readers find the message at the end of their slice.
//! - of a reader: its slot names it. A sender that waits for room looks at the slowest at the end
//!   of each slice, and a joiner that finds no slot at all of them: proved dead, it is dropped. Its
//!   pin is void with that.
//! - of a joiner before its commit: the slot is free still. `high` may be too high: harmless.
//! - of one who takes a slot over, before its commit: the slot names it, and is freed as the
//!   dead's.
//! - of one who leaves, or drops another: after its commit waiters find room at the end of their
//!   slice.
//! - of whoever does one of these repairs: each is one CAS.

mod read;
mod send;
mod slot;
mod wait;

use std::ops::Deref;

use crate::error::{Error, Result};
use crate::facade::{self, AtomicU32, AtomicU64, Liveness, Ordering, Owner};
use crate::kill_point;
use crate::overlay;
use crate::sync::mutex::Mutex;
use crate::sync::turns::FairWaitSet;
use crate::sync::waitset::WaitSet;

pub use read::Taken;
pub use send::{Evicted, SendGuard, Stored};
use slot::{NUMBER, Place};
pub use slot::{ReaderSlot, Ticket};

/// Words of a cell, of which the first are its head.
pub const CELL: usize = if cfg!(loom) { HEAD + 1 } else { 64 };
/// Number plus one; format, kind and length; bytes of all messages up to here; extent.
const HEAD: usize = 4;
/// Bytes of the largest message that lies in its cell.
pub const SMALL: usize = (CELL - HEAD) * 8;

/// The message lies in its cell.
const DATA: u64 = 1;
/// In an extent.
const EXTENT: u64 = 2;

/// Nanoseconds in which who was given a reader takes it over.
pub const CLAIM: u64 = 10_000_000_000;
/// Of `limbo`.
const LOOK: u32 = 1;

overlay! {
    /// The shared words of all. All zero at first, but for the bounds.
    #[repr(align(64))]
    #[derive(Debug)]
    pub struct BroadcastState {
        lock: Mutex,
        next: AtomicU64,
        oldest: AtomicU64,
        high: AtomicU32,
        limbo: AtomicU32,
        shut: AtomicU32,
        _reserved: AtomicU32,
        /// Bytes of the messages that are there, at most; 0: any number.
        max_bytes: AtomicU64,
        /// Not 0: the slow are left behind.
        skips: AtomicU32,
        /// Pages of further reader slots.
        pub more_slots: AtomicU32,
        /// When the dead were last looked for, by the monotonic clock.
        swept: AtomicU64,
        large: AtomicU64,

        /// Readers that wait for a message.
        pub news: WaitSet,
        _reserved2: AtomicU32,
        /// Senders that wait for room.
        pub room: FairWaitSet,
        _reserved3: [AtomicU64; 5],
    }
}

impl BroadcastState {
    /// With these bounds; `max_bytes` 0: none.
    pub fn new(max_bytes: u64, skips: bool) -> Self {
        BroadcastState {
            lock: Mutex::new(),
            next: AtomicU64::new(0),
            oldest: AtomicU64::new(0),
            high: AtomicU32::new(0),
            limbo: AtomicU32::new(0),
            shut: AtomicU32::new(0),
            _reserved: AtomicU32::new(0),
            max_bytes: AtomicU64::new(max_bytes),
            skips: AtomicU32::new(u32::from(skips)),
            more_slots: AtomicU32::new(0),
            swept: AtomicU64::new(0),
            large: AtomicU64::new(0),
            news: WaitSet::new(),
            _reserved2: AtomicU32::new(0),
            room: FairWaitSet::new(),
            _reserved3: std::array::from_fn(|_| AtomicU64::new(0)),
        }
    }

    /// In new memory, all zero: the bounds.
    pub fn set_up(&self, max_bytes: u64, skips: bool) {
        self.max_bytes.store(max_bytes, Ordering::Relaxed);
        self.skips.store(u32::from(skips), Ordering::Relaxed);
    }

    /// The bound on bytes; 0: none.
    pub fn max_bytes(&self) -> u64 {
        self.max_bytes.load(Ordering::Relaxed)
    }

    /// Are the slow left behind?
    pub fn skips(&self) -> bool {
        self.skips.load(Ordering::Relaxed) != 0
    }

    /// Has the end been announced?
    pub fn is_shut(&self) -> bool {
        // Acquire: who sees it sees every message that was sent before.
        self.shut.load(Ordering::Acquire) != 0
    }

    /// Messages sent so far.
    pub fn sent(&self) -> u64 {
        self.next.load(Ordering::Relaxed)
    }
}

/// A reader as others see it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ReaderInfo {
    /// Whose it is.
    pub owner: Owner,
    /// Messages that it has still to read, or to miss.
    pub behind: u64,
    /// Messages that it has missed.
    pub missed: u64,
}

/// The words of a broadcast, wherever they lie: in shared memory, or in a model.
#[derive(Debug, Clone, Copy)]
pub struct Board<'a> {
    state: &'a BroadcastState,
    slots: &'a [ReaderSlot],
    cells: &'a [AtomicU64],
}

impl Deref for Board<'_> {
    type Target = BroadcastState;
    fn deref(&self) -> &BroadcastState {
        self.state
    }
}

impl<'a> Board<'a> {
    /// Of these; `cells` are [`CELL`] words for each message that may be there.
    pub fn new(state: &'a BroadcastState, slots: &'a [ReaderSlot], cells: &'a [AtomicU64]) -> Self {
        Board { state, slots, cells }
    }

    /// Messages that may be there.
    pub fn maxsize(&self) -> u64 {
        (self.cells.len() / CELL) as u64
    }

    fn cell(&self, number: u64) -> &'a [AtomicU64] {
        let at = (number % self.maxsize().max(1)) as usize * CELL;
        &self.cells[at..at + CELL]
    }

    fn slot(&self, index: u32) -> Result<&'a ReaderSlot> {
        self.slots.get(index as usize).ok_or(Error::Corrupted("a reader without its slot"))
    }

    /// Slots that may be in use.
    fn used(&self) -> &'a [ReaderSlot] {
        let high = self.state.high.load(Ordering::Acquire) as usize;
        &self.slots[..high.min(self.slots.len())]
    }

    fn owned(&self) -> impl Iterator<Item = (&'a ReaderSlot, Place)> + use<'a> {
        self.used().iter().map(|slot| (slot, slot.place())).filter(|(_, place)| place.is_owned())
    }

    /// Those that are waited for: not the unclaimed.
    fn waited_for(&self) -> impl Iterator<Item = (&'a ReaderSlot, Place)> + use<'a> {
        self.owned().filter(|(slot, place)| !slot.is_unclaimed(place.tag()))
    }

    /// Does anybody read? The unclaimed may: their former owner goes on, if it likes.
    pub fn has_readers(&self) -> bool {
        self.owned().next().is_some()
    }

    /// Is a reader copying large message `number`? Asked after `oldest` has passed it.
    pub fn is_pinned(&self, number: u64) -> bool {
        self.used().iter().any(|slot| slot.pins(number))
    }

    /// Who reads, as far as is known.
    pub fn readers(&self) -> Vec<ReaderInfo> {
        let next = self.state.next.load(Ordering::Acquire);
        let readers = self.owned().filter_map(|(slot, place)| {
            let (behind, missed) = (next.saturating_sub(place.number()), slot.counted().number());
            Some(ReaderInfo { owner: Owner::in_word(slot.owner())?, behind, missed })
        });
        readers.collect()
    }

    /// Messages that a reader has missed.
    ///
    /// # Errors
    /// `NotOwner` if the slot is no longer its own.
    pub fn missed(&self, ticket: Ticket) -> Result<u64> {
        let slot = self.slot(ticket.index)?;
        // In this order: as long as the tag is there the count is its own.
        let missed = slot.counted().number();
        if slot.place().tag() == ticket.tag { Ok(missed) } else { Err(Error::NotOwner) }
    }

    /// Messages that a reader has missed which is another's, or of which nothing is known any more:
    /// it would go on at message `number`.
    pub fn missed_there(&self, ticket: Option<Ticket>, number: u64) -> u64 {
        let counted = ticket.and_then(|ticket| self.missed(ticket).ok());
        counted.unwrap_or_else(|| self.state.oldest.load(Ordering::Relaxed).saturating_sub(number))
    }

    /// Has this process the slot, by whatever ticket of the same tag?
    pub fn is_owner(&self, ticket: Ticket, me: Owner) -> bool {
        self.slot(ticket.index).is_ok_and(|slot| slot.place().tag() == ticket.tag && slot.owner() == me.word())
    }

    /// The reader is on its way to another since `at`; 0: it is not.
    pub fn mark_given(&self, ticket: Ticket, at: u64) {
        if let Ok(slot) = self.slot(ticket.index) {
            slot.mark_given(ticket.tag, at);
        }
    }

    /// Free the slots of the unclaimed; how many?
    pub fn drop_unclaimed(&self) -> usize {
        // In this order: what is unclaimed is so by the tag that is there.
        let unclaimed = self.owned().filter(|(slot, place)| slot.is_unclaimed(place.tag()));
        let dropped = unclaimed.filter(|(slot, place)| slot.free(place.tag())).count();
        if dropped > 0 {
            kill_point!("broadcast.unclaimed");
            self.state.room.notify_all();
        }
        dropped
    }

    /// Free the slots of the dead among all readers; how many?
    pub fn sweep(&self) -> usize {
        self.owned().filter(|(slot, place)| self.look_at(slot, *place, facade::probe) == Liveness::Dead).count()
    }

    /// The same among some of them, in turn, and not more often than once in a while.
    pub fn sweep_now_and_then(&self) -> usize {
        // A look costs some 10 us for each: at most 0.1 % of a core, and a fraction of a
        // millisecond at a time.
        const EVERY: u64 = 160_000_000;
        const SOME: usize = 16;
        let (now, last) = (facade::now(), self.state.swept.load(Ordering::Relaxed));
        // Garbage from the future ends like the past.
        if now.abs_diff(last) < EVERY
            || self.state.swept.compare_exchange(last, now, Ordering::Relaxed, Ordering::Relaxed).is_err()
        {
            return 0;
        }
        let all: Vec<_> = self.owned().collect();
        // A step for each time: so they are all looked at, whoever does it.
        let first = (now / EVERY) as usize * SOME;
        let some = (0..SOME.min(all.len())).map(|step| all[first.wrapping_add(step) % all.len()]);
        some.filter(|(slot, place)| self.look_at(slot, *place, facade::probe) == Liveness::Dead).count()
    }

    /// How is the owner of this slot, which was at `place`? If it is dead the slot is free
    /// afterwards, or another's.
    fn look_at(&self, slot: &ReaderSlot, place: Place, look: impl Fn(Owner) -> Liveness) -> Liveness {
        let word = slot.owner();
        let Some(owner) = Owner::in_word(word) else { return Liveness::Unknown };
        let found = look(owner);
        // Once more: it may have given the reader away before it died.
        if found == Liveness::Dead && slot.owner() == word && slot.free(place.tag()) {
            kill_point!("broadcast.dropped");
            self.state.room.notify_all();
        }
        found
    }

    /// The reader leaves; nobody waits for it any more. What another thread of it is copying, by a
    /// pin that is none from now on, that throws away.
    pub fn leave(&self, ticket: Ticket) {
        // Not by a ticket that it was given away with: it is the child's.
        let is_left = |slot: &ReaderSlot| slot.owner() == ticket.owner && slot.free(ticket.tag);
        if self.slot(ticket.index).is_ok_and(is_left) {
            kill_point!("broadcast.left");
            self.state.room.notify_all();
        }
    }
}
