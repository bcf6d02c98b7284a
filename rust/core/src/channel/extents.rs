//! Extents: ranges of a channel's segment for messages too large to copy under a lock, and for a ring that outgrows
//! its base.
//!
//! # Protocol
//! An extent is always in one of three hands: a *slot* (owned by a process, or free and kept for reuse), a
//! *ring* (a message or a chunk link refers to it), or nobody (its pages given back, its file range unused). A fixed table of slots:
//!
//! | owner | cap | meaning |
//! |---|---|---|
//! | 0 | 0 | empty |
//! | 0 | > 0 | a free extent, its pages kept |
//! | process | 0 | about to get an extent |
//! | process | > 0 | this process fills or reads it |
//!
//! Only the owner writes `offset`, `cap`, `role`, `intent`. A slot is taken by CAS owner 0 -> me and given up by storing 0.
//!
//! - `allocate`: take a free extent that fits; or an empty slot and a new range at `end`, under the growth lock: pages first, then
//!   `offset` and `cap`, then `end`. Dying before `cap`: pages beyond `end`, which the next one uses. Before
//!   `end`: the growth lock's next holder finds `end` below a slot's range and mends it.
//! - Slot to ring (`publish`): under the ring's put lock store `intent` = the new tail, commit the tail, then clear the slot.
//! - Ring to slot (`receive`): under the get lock take an empty slot, store the range and `intent` = the new head, commit the
//!   head, clear `intent`.
//! - `settle`, by whoever takes such a lock over from the dead: an `intent` equal to the committed word says that the
//!   step was done, any other that it was not; nobody else can have moved that word since. So no extent is ever in two hands.
//! - `free`: keep the pages (owner := 0) or give them back (punch, cap := 0, owner := 0).
//! - `sweep`: slots of the proved dead without `intent` are given back.

use std::sync::Arc;

use crate::arena::Segment;
use crate::channel::mapping_cache::MappingCache;
use crate::deadline::Deadline;
use crate::error::{Error, Result};
use crate::facade::{AtomicU32, AtomicU64, Ordering};
use crate::kill_point;
use crate::layout;
use crate::overlay;
use crate::sync::mutex::{Acquired, Mutex};
use crate::sys::liveness::{self, Owner};
use crate::sys::mapping::Mapping;
use crate::sys::{fork, memfd};

/// Bytes of a ring's overflow chunk, and its alignment in the segment.
pub const CHUNK: u64 = 1 << 20;
const PAGE: u64 = 4096;
/// Slots: one for each extent being filled or read at a time, and for those kept.
pub const SLOTS: usize = 60;
/// Slots that messages being filled, or waiting for room, may take: some are left for those who get, or nobody could make room.
const TO_FILL: usize = 48;
/// Give up what is kept, so that the file can start over, when it has come so far.
const FAR: u64 = 4 << 30;
/// Free extents whose pages are kept, and the largest such.
const KEEP: usize = 4;
const KEEP_BYTES: u64 = 64 << 20;

overlay! {
    /// One hand. See the module.
    #[repr(align(64))]
    #[derive(Debug)]
    pub struct Slot {
        owner: AtomicU64,
        intent: AtomicU64,
        offset: AtomicU64,
        cap: AtomicU64,
        role: AtomicU32,
    }
}

overlay! {
    /// The table. All zero but for `end`.
    #[derive(Debug)]
    pub struct ExtentState {
        growth: Mutex,
        end: AtomicU64,
        start: AtomicU64,
        _reserved: [AtomicU64; 4],
        slots: [Slot; SLOTS],
    }
}

/// Which lock guards a slot's `intent`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// The put lock of ring n.
    Put(u32),
    /// The get lock of ring n.
    Get(u32),
}

impl Side {
    fn role(self) -> u32 {
        match self {
            Side::Put(n) => 1 + 2 * n,
            Side::Get(n) => 2 + 2 * n,
        }
    }
}

/// Where an extent is in its segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Range {
    /// Byte offset in the segment.
    pub offset: u64,
    /// Bytes.
    pub cap: u64,
}

/// The extents of one channel.
#[derive(Debug)]
pub struct Extents {
    state: layout::Object<ExtentState, Arc<Segment>>,
    maps: MappingCache,
}

impl Extents {
    /// Those whose table is at `table` of `segment`.
    ///
    /// # Errors
    /// `Corrupted` if the table is not inside the segment.
    pub fn new(segment: Arc<Segment>, table: usize) -> Result<Extents> {
        Ok(Extents { state: layout::Object::new(segment, table)?, maps: MappingCache::default() })
    }

    /// Make the table, in a new segment: ranges start at `start`.
    pub fn set_up(&self, start: u64) {
        self.state.start.store(start, Ordering::Relaxed);
        self.state.end.store(start, Ordering::Release);
    }

    fn segment(&self) -> &Arc<Segment> {
        self.state.backing()
    }

    /// A range of the segment, mapped.
    ///
    /// # Errors
    /// `Corrupted` if the range cannot be; `OutOfMemory`.
    pub fn map(&self, range: Range) -> Result<Arc<Mapping>> {
        let bytes = usize::try_from(range.cap).map_err(|_| Error::Corrupted("an extent of impossible size"))?;
        self.maps.get(self.segment(), range.offset, bytes)
    }

    /// An extent of at least `bytes` with its pages reserved, to fill and publish. `drained` tells whether no ring
    /// refers to any extent, and since when: the file then starts over instead of growing on.
    ///
    /// # Errors
    /// `OutOfMemory`; `WouldBlock` if every slot is in use; `Interrupted`.
    pub fn allocate<T: PartialEq>(
        self: &Arc<Self>,
        bytes: u64,
        chunk: bool,
        drained: impl Fn() -> Option<T>,
    ) -> Result<OwnedExtent> {
        let need = if chunk { CHUNK } else { bytes.checked_next_multiple_of(PAGE).ok_or(Error::OutOfMemory)? };
        let fits = |offset: u64, cap: u64| {
            if chunk { cap == CHUNK && offset.is_multiple_of(CHUNK) } else { cap >= need && cap / 4 <= need.max(CHUNK) }
        };
        let slots = if chunk { SLOTS } else { TO_FILL };
        if let Some(hold) =
            self.take(slots, |slot| fits(slot.offset.load(Ordering::Relaxed), slot.cap.load(Ordering::Relaxed)))
        {
            kill_point!("extent.taken");
            return Ok(hold);
        }
        let hold = self.take_empty(slots)?;
        let state = &*self.state;
        let me = liveness::me();
        // Held for the time of a reservation; whoever cannot wait that long any more says so by trying again or not.
        let acquired = match state.growth.lock_with_grace(me, Deadline::PASSED) {
            Err(Error::TimedOut) => return Err(Error::WouldBlock),
            locked => locked?,
        };
        let grown = self.grow(&hold, acquired, need, chunk, drained);
        state.growth.unlock();
        grown.map(|()| hold)
    }

    /// Under the growth lock.
    fn grow<T: PartialEq>(
        self: &Arc<Self>,
        hold: &OwnedExtent,
        acquired: Acquired,
        need: u64,
        chunk: bool,
        drained: impl Fn() -> Option<T>,
    ) -> Result<()> {
        let state = &*self.state;
        let start = state.start.load(Ordering::Relaxed);
        let mut end = state.end.load(Ordering::Relaxed).max(start);
        if acquired != Acquired::Clean {
            for slot in &state.slots {
                let cap = slot.cap.load(Ordering::Acquire);
                if cap > 0 {
                    end = end.max(slot.offset.load(Ordering::Relaxed).saturating_add(cap));
                }
            }
            // What the dead one had reserved, and not yet anybody's.
            let size = memfd::size(self.segment())?;
            if size > end {
                memfd::punch(self.segment(), end, size - end);
            }
        }
        self.sweep();
        if end - start > FAR {
            self.give_up_kept();
        }
        // An extent moves from slot to slot through a ring alone: with no ring having moved, a look at each slot sees them all.
        if end != start && drained().is_some_and(|since| self.is_bare() && drained() == Some(since)) {
            end = start;
        }
        let offset = end.checked_next_multiple_of(if chunk { CHUNK } else { PAGE }).ok_or(Error::OutOfMemory)?;
        let new_end = offset.checked_add(need).filter(|&e| e <= i64::MAX as u64).ok_or(Error::OutOfMemory)?;
        memfd::reserve(self.segment(), offset, need)?;
        kill_point!("extent.reserved");
        let slot = hold.slot();
        slot.offset.store(offset, Ordering::Relaxed);
        // Commit point: the range is this slot's.
        slot.cap.store(need, Ordering::Release);
        kill_point!("extent.grown");
        state.end.store(new_end, Ordering::Relaxed);
        Ok(())
    }

    fn give_up_kept(self: &Arc<Self>) {
        while let Some(hold) = self.take(SLOTS, |slot| slot.cap.load(Ordering::Relaxed) > 0) {
            self.give_back(hold.slot());
        }
    }

    fn is_bare(&self) -> bool {
        self.state.slots.iter().all(|slot| slot.cap.load(Ordering::SeqCst) == 0)
    }

    /// Take a free one of the first `slots` that `suits`, both before and after it is ours.
    fn take(self: &Arc<Self>, slots: usize, suits: impl Fn(&Slot) -> bool) -> Option<OwnedExtent> {
        let me = liveness::me().word();
        for (index, slot) in self.state.slots.iter().enumerate().take(slots) {
            if slot.owner.load(Ordering::Relaxed) == 0
                && suits(slot)
                // Acquire: pairs with the release of whoever gave it up.
                && slot.owner.compare_exchange(0, me, Ordering::Acquire, Ordering::Relaxed).is_ok()
            {
                if suits(slot) {
                    return Some(OwnedExtent { extents: self.clone(), index, generation: fork::generation() });
                }
                slot.owner.store(0, Ordering::Release);
            }
        }
        None
    }

    /// An owned slot without an extent.
    fn take_empty(self: &Arc<Self>, slots: usize) -> Result<OwnedExtent> {
        let empty = |slot: &Slot| slot.cap.load(Ordering::Relaxed) == 0;
        if let Some(hold) = self.take(slots, empty) {
            return Ok(hold);
        }
        self.sweep();
        if let Some(hold) = self.take(slots, empty) {
            return Ok(hold);
        }
        let hold = self.take(slots, |_| true).ok_or(Error::WouldBlock)?;
        self.give_back(hold.slot());
        Ok(hold)
    }

    /// Give the pages of an owned slot's extent back; the range is nobody's then.
    fn give_back(&self, slot: &Slot) {
        let cap = slot.cap.load(Ordering::Relaxed);
        if cap > 0 {
            memfd::punch(self.segment(), slot.offset.load(Ordering::Relaxed), cap);
            kill_point!("extent.punched");
            slot.cap.store(0, Ordering::Release);
        }
    }

    /// Under a get lock: the extent that the message at the head refers to becomes this process's, if the head is
    /// committed as `intent`.
    ///
    /// # Errors
    /// `WouldBlock` if no slot is free; `Corrupted` if the range cannot be.
    pub fn receive(self: &Arc<Self>, range: Range, side: Side, intent: u64) -> Result<OwnedExtent> {
        let hold = self.take_empty(SLOTS)?;
        let slot = hold.slot();
        slot.role.store(side.role(), Ordering::Relaxed);
        slot.offset.store(range.offset, Ordering::Relaxed);
        slot.intent.store(intent, Ordering::Release);
        // SeqCst: see `grow`: the cap must show before the head says that the ring has let go.
        slot.cap.store(range.cap, Ordering::SeqCst);
        Ok(hold)
    }

    /// By whoever took a ring's lock over from the dead: `committed` is its tail or head. See the module.
    pub fn settle(&self, side: Side, committed: u64) {
        for slot in &self.state.slots {
            let owner = slot.owner.load(Ordering::Acquire);
            let intent = slot.intent.load(Ordering::Acquire);
            if intent == 0 || slot.role.load(Ordering::Relaxed) != side.role() {
                continue;
            }
            let done = intent == committed;
            if done == matches!(side, Side::Put(_)) {
                // The ring has it. CAS: once `intent` is 0, a sweep may have been quicker with the slot.
                slot.cap.store(0, Ordering::Release);
                slot.intent.store(0, Ordering::Release);
                let _ = slot.owner.compare_exchange(owner, 0, Ordering::Release, Ordering::Relaxed);
            } else {
                // The dead process had it: for the sweep.
                slot.intent.store(0, Ordering::Release);
            }
        }
    }

    /// Give back what dead processes held.
    pub fn sweep(&self) {
        let me = liveness::me();
        for slot in &self.state.slots {
            let word = slot.owner.load(Ordering::Acquire);
            let Some(owner) = Owner::in_word(word).filter(|&o| o != me) else { continue };
            if slot.intent.load(Ordering::Acquire) == 0
                && liveness::is_dead(owner)
                && slot.owner.compare_exchange(word, me.word(), Ordering::Acquire, Ordering::Relaxed).is_ok()
            {
                // Looked at again: a lock's recovery may have settled it meanwhile.
                if slot.intent.load(Ordering::Acquire) == 0 {
                    self.give_back(slot);
                    slot.owner.store(0, Ordering::Release);
                } else {
                    let _ = slot.owner.compare_exchange(me.word(), word, Ordering::Release, Ordering::Relaxed);
                }
            }
        }
    }

    fn free(&self, slot: &Slot) {
        let kept = self
            .state
            .slots
            .iter()
            .filter(|s| s.owner.load(Ordering::Relaxed) == 0 && s.cap.load(Ordering::Relaxed) > 0);
        if slot.cap.load(Ordering::Relaxed) > KEEP_BYTES || kept.count() >= KEEP {
            self.give_back(slot);
        }
        slot.owner.store(0, Ordering::Release);
    }
}

/// An extent that this process owns; freed on drop unless published.
#[derive(Debug)]
pub struct OwnedExtent {
    extents: Arc<Extents>,
    index: usize,
    generation: u64,
}

impl OwnedExtent {
    fn slot(&self) -> &Slot {
        &self.extents.state.slots[self.index]
    }

    /// Where it is.
    pub fn range(&self) -> Range {
        let slot = self.slot();
        Range { offset: slot.offset.load(Ordering::Relaxed), cap: slot.cap.load(Ordering::Relaxed) }
    }

    /// Its memory.
    ///
    /// # Errors
    /// `Corrupted` if the range cannot be; `OutOfMemory`.
    pub fn map(&self) -> Result<Arc<Mapping>> {
        self.extents.map(self.range())
    }

    /// Does it belong to this process, and not to the one that this was forked from?
    pub fn is_ours(&self) -> bool {
        self.generation == fork::generation()
    }

    /// It is of no use to anybody: give its pages back.
    pub fn discard(self) {
        self.extents.give_back(self.slot());
    }

    /// Under a put lock, before the tail is committed as `intent`: the ring will have it.
    pub fn intend(&self, side: Side, intent: u64) {
        let slot = self.slot();
        slot.role.store(side.role(), Ordering::Relaxed);
        slot.intent.store(intent, Ordering::Release);
    }

    /// After that commit: the ring has it.
    pub fn published(self) {
        let slot = self.slot();
        slot.cap.store(0, Ordering::Release);
        slot.intent.store(0, Ordering::Release);
        slot.owner.store(0, Ordering::Release);
        let mut this = self;
        this.generation = 0;
    }

    /// After a head's commit, under the lock: it is this process's.
    pub fn received(&self) {
        self.slot().intent.store(0, Ordering::Release);
    }

    /// Instead of that commit, under the lock: the ring still has it.
    pub fn not_received(self) {
        self.published();
    }
}

impl Drop for OwnedExtent {
    fn drop(&mut self) {
        // A forked child's copy is not the owner; nor is one whose extent went to a ring.
        if self.is_ours() {
            self.extents.free(self.slot());
        }
    }
}
