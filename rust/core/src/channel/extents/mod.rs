//! Extents: memory of a channel's [file](super::file) for messages too large to copy under a lock,
//! and for a ring that outgrows its base.
//!
//! # Protocol
//! Each extent has a *slot* in the channel's `table`, and each slot has file offsets of its own
//! for ever. So no range of the file has to be found or given back, nothing is allocated under a
//! lock, and a channel never runs out of offsets. A slot's `owner` says whose it is:
//!
//! | owner | cap | meaning |
//! |---|---|---|
//! | 0 | 0 | empty: no pages |
//! | 0 | > 0 | free, and its pages kept (see `kept`) |
//! | a process | any | this process fills or reads it; there may be more pages than `cap` says |
//! | `IN_RING` | > 0 | a message or a link in a ring refers to it |
//!
//! Only the owner writes `cap` and `far`, and only it makes pages or gives them back.
//!
//! - `allocate`: CAS `owner` 0 -> me, on a slot with pages that are kept or on an empty one. Pages
//!   come with the first write. They cost time, and nobody else waits for them.
//! - Into a ring (`hand_over`, `published`): under the ring's put lock store `put_intent` = the new
//!   tail, `owner` := `IN_RING`, commit the tail, then `put_intent` := 0. From the commit on a
//!   reader may take it, so that nothing but the intent is left to do then; and that by CAS, for
//!   the slot may be on its way into another ring by now.
//! - Out of a ring (`receive`, `received`): under the get lock store `get_intent` = the new head
//!   and `owner` := me, commit the head, then `get_intent` := 0.
//! - `settle_put` and `settle_get`, by whoever takes such a lock over from the dead: an intent
//!   equal to the committed word says that the step was done, any other that it was not; nobody
//!   else can have moved that word since. What is done needs nothing more. What was not put is
//!   nobody's: the settler makes it its own, and frees it. What was not got is the ring's. The
//!   intent is cleared after the owner is right, so that a second death leaves the same question to
//!   the next.
//! - `free`: `owner` := 0 with the pages kept; or give the pages back, `cap` := 0, then `owner` :=
//!   0.
//! - `sweep`: what the dead own without an intent is given back. The order is: prove the owner
//!   dead, then see both intents 0, then CAS `owner` dead -> me. The dead set no intent any more.
//!   If one was settled meanwhile then either the owner is another, and the CAS fails, or the
//!   extent was left for the sweep.
//!
//! What is received may be kept for long, as a [`Loan`]; also when nobody has the channel any more,
//! see `last`.
//!
//! What many read (see `broadcast`) goes into a ring in the same way, and comes out of it by who
//! holds the put lock: see `shared`.
//!
//! A program may close descriptors that are not its own, and open others of the same numbers. So
//! the file's is looked at before each system call by it: what is in another file is nobody's
//! business here. Mappings stay good.
//!
//! Whoever dies in between leaves a slot that it owns, for the sweep. That goes for the sweeper
//! too.

mod huge;
mod kept;
mod last;
mod loan;
mod owned;
mod shared;
mod table;

use std::sync::Arc;

use crate::arena::Segment;
use crate::channel::file::File;
use crate::channel::front::Front;
use crate::channel::mapping_cache::MappingCache;
use crate::deadline::now;
use crate::error::{Error, Result};
use crate::facade::Ordering;
use crate::kill_point;
use crate::layout;
use crate::sys::liveness::{self, Owner};
use crate::sys::mapping::Mapping;
use crate::sys::memfd;

pub use loan::{Loan, watch_forks};
pub use owned::OwnedExtent;
pub use table::ExtentState;
use table::{Slot, Table};

/// Bytes of a ring's overflow chunk, and its alignment in the segment.
pub const CHUNK: u64 = table::NEAR_BYTES;
const PAGE: u64 = 4096;
/// The owner of what a ring refers to: no process.
const IN_RING: u64 = 1;
/// Bytes that are given back by one system call.
const PUNCHED: u64 = 16 << 20;
/// A message of so many bytes has to be within what its segment has of pages: its receiver is about
/// to ask for as much memory, and `cap` may be garbage.
const COMPARED: u64 = 64 << 20;
/// Slots that one sweep looks at.
const SWEPT: u64 = 1024;
/// Nanoseconds from one sweep to the next: proving a process dead costs some 10 us.
const SWEEP_EVERY: u64 = 100_000_000;

/// The extents of one channel.
#[derive(Debug)]
pub struct Extents {
    table: Table,
    maps: MappingCache,
}

impl Extents {
    /// Those whose table is at `table` of `front`, and whose pages are in `file`.
    ///
    /// # Errors
    /// `Corrupted` if it would not be inside.
    pub fn new(front: Arc<Front>, table: usize, file: File) -> Result<Extents> {
        Ok(Extents { table: Table::new(front, table, file)?, maps: MappingCache::default() })
    }

    fn state(&self) -> &layout::Object<ExtentState, Arc<Front>> {
        &self.table.state
    }

    fn segment(&self) -> Result<Arc<Segment>> {
        self.table.segment()
    }

    /// The file with their pages, as this process has it.
    pub fn file(&self) -> &File {
        &self.table.file
    }

    /// Has any ever been taken? Then there is a file.
    pub fn were_used(&self) -> bool {
        self.table.was_used()
    }

    /// Does the table reach into the file? Then who has not got that cannot settle what the dead
    /// were moving.
    pub fn need_file(&self) -> bool {
        self.table.has_grown()
    }

    /// A mapping that has the whole chunk of which byte `at` of the segment is part; and the offset
    /// of the mapping's first byte.
    ///
    /// # Errors
    /// `Corrupted` if there is none; `OutOfMemory`.
    pub fn map_chunk(&self, at: u64) -> Result<(Arc<Mapping>, u64)> {
        self.maps.window(&*self.segment()?, table::near(self.chunk_at(at)?))
    }

    /// The slot of the chunk of which byte `at` of the segment is part.
    ///
    /// # Errors
    /// `Corrupted` if there is none.
    pub fn chunk_at(&self, at: u64) -> Result<u64> {
        let index = table::near_index(at).filter(|&index| index < self.table.len());
        index.ok_or(Error::Corrupted("a position outside its ring"))
    }

    /// An extent for a message of `bytes`, to fill and publish.
    ///
    /// # Errors
    /// `OutOfMemory`; `NO_FILE`.
    pub fn allocate(self: &Arc<Self>, bytes: u64) -> Result<OwnedExtent> {
        self.segment()?;
        let need = bytes.checked_next_multiple_of(PAGE).filter(|&need| need <= table::FAR_BYTES);
        let need = need.ok_or(Error::OutOfMemory)?.max(PAGE);
        match self.take_kept(need) {
            Some(extent) => Ok(extent),
            None => {
                memfd::check_left(need)?;
                self.sweep_now_and_then();
                self.take_empty(need)
            }
        }
    }

    /// A chunk, its pages reserved. Who has to wait for the put lock meanwhile needs the chunk as
    /// well; not so what a sweep gives back, which can wait until a chunk is freed.
    ///
    /// # Errors
    /// `OutOfMemory`; `Interrupted`; `NO_FILE`.
    pub fn allocate_chunk(self: &Arc<Self>) -> Result<OwnedExtent> {
        self.segment()?;
        let extent = match self.take_kept(CHUNK) {
            Some(extent) => extent,
            None => self.take_empty(CHUNK)?,
        };
        extent.reserve(CHUNK)?;
        kill_point!("extent.reserved");
        Ok(extent)
    }

    /// Own slot `index` if it is free and `suits`, both before and after it is ours.
    fn claim(self: &Arc<Self>, index: u64, suits: impl Fn(&Slot) -> bool) -> Option<OwnedExtent> {
        let me = liveness::me().word();
        let slot = self.table.slot(index).ok()?;
        if slot.owner.load(Ordering::Relaxed) != 0
            || !suits(&slot)
            // Acquire: pairs with the release of whoever gave it up.
            || slot.owner.compare_exchange(0, me, Ordering::Acquire, Ordering::Relaxed).is_err()
        {
            return None;
        }
        if suits(&slot) {
            // What was known by it is gone.
            slot.note.store(0, Ordering::Relaxed);
            return Some(OwnedExtent::new(self, index));
        }
        slot.owner.store(0, Ordering::Release);
        None
    }

    /// Own a slot without pages.
    fn take_empty(self: &Arc<Self>, need: u64) -> Result<OwnedExtent> {
        let extent = loop {
            let len = self.table.len();
            let found = self.table.likely_empty().chain(if len < table::MOST { 0..0 } else { 0..len });
            let is_empty = |slot: &Slot| slot.cap.load(Ordering::Relaxed) == 0;
            if let Some(extent) = found.into_iter().find_map(|index| self.claim(index, is_empty)) {
                break extent;
            }
            self.table.grow()?;
        };
        kill_point!("extent.claimed");
        self.table.look_after(extent.index());
        let slot = self.table.slot(extent.index())?;
        // Before any page is there: a sweep has to know where they are.
        slot.far.store(u32::from(need > CHUNK), Ordering::Release);
        extent.located()
    }

    /// Give the pages of an owned slot back.
    fn give_back(&self, index: u64, slot: &Slot) {
        let (offset, most) = slot.place(index);
        // Who owns it has the file.
        let Ok(segment) = self.segment() else { return };
        // Nor are holes made in another's file, whose number it is by now. The pages are left.
        let Ok(segment) = segment.own_fd() else { return };
        // In steps: the kernel locks the file meanwhile. Not more of them than there can be pages
        // for: `cap` may be garbage. To the end, whatever `cap` says: the owner may have died while
        // it wrote.
        slot.life.fetch_add(1, Ordering::Relaxed);
        let cap = slot.cap().min(memfd::resident(segment).unwrap_or(0));
        for at in (0..cap).step_by(PUNCHED as usize) {
            memfd::punch(segment, offset + at, PUNCHED.min(cap - at));
        }
        memfd::punch(segment, offset, most);
        kill_point!("extent.punched");
        slot.cap.store(0, Ordering::Release);
    }

    /// Under the get lock of ring `ring`: the extent `index`, which the message at the head refers
    /// to, becomes this process's if the head is committed as `intent`. It has at least `len`
    /// bytes.
    ///
    /// # Errors
    /// `Corrupted` if no ring has it, or it is shorter.
    pub fn receive(self: &Arc<Self>, index: u64, len: u64, ring: u32, intent: u64) -> Result<OwnedExtent> {
        self.segment()?;
        let slot = self.table.slot(index)?;
        if slot.owner.load(Ordering::Acquire) != IN_RING || len > slot.cap() {
            return Err(Error::Corrupted("a message without its extent"));
        }
        self.check_held(len)?;
        slot.get_ring.store(ring, Ordering::Relaxed);
        slot.get_intent.store(intent, Ordering::Release);
        kill_point!("extent.receiving");
        slot.owner.store(liveness::me().word(), Ordering::Release);
        Ok(OwnedExtent::new(self, index))
    }

    /// Can there be so many bytes of a message? `cap` alone does not tell.
    fn check_held(&self, len: u64) -> Result<()> {
        if len >= COMPARED && len > memfd::resident(self.segment()?.own_fd()?)? {
            return Err(Error::Corrupted("a message larger than all that its segment holds"));
        }
        Ok(())
    }

    /// By whoever took the put lock of ring `ring` over from the dead, with its tail. See the
    /// module. Gives what was not put, to be dropped without the lock: that takes time.
    ///
    /// # Errors
    /// `OutOfMemory` if the table cannot be mapped; `Corrupted`. The rest is still to be settled,
    /// before that lock may be used.
    pub fn settle_put(self: &Arc<Self>, ring: u32, tail: u64) -> Result<Vec<OwnedExtent>> {
        let mut not_put = Vec::new();
        for index in 0..self.table.len() {
            let slot = self.table.slot(index)?;
            let intent = slot.put_intent.load(Ordering::Acquire);
            if intent == 0 || slot.put_ring.load(Ordering::Relaxed) != ring {
                continue;
            }
            if intent != tail {
                slot.owner.store(liveness::me().word(), Ordering::Release);
                not_put.push(OwnedExtent::new(self, index));
            }
            kill_point!("extent.settling");
            let _ = slot.put_intent.compare_exchange(intent, 0, Ordering::Release, Ordering::Relaxed);
        }
        Ok(not_put)
    }

    /// By whoever took the get lock of ring `ring` over from the dead, with its head. See the
    /// module.
    ///
    /// # Errors
    /// Those of [`settle_put`](Self::settle_put).
    pub fn settle_get(&self, ring: u32, head: u64) -> Result<()> {
        for index in 0..self.table.len() {
            let slot = self.table.slot(index)?;
            let intent = slot.get_intent.load(Ordering::Acquire);
            if intent == 0 || slot.get_ring.load(Ordering::Relaxed) != ring {
                continue;
            }
            // Else the dead process has it: for the sweep.
            if intent != head {
                slot.owner.store(IN_RING, Ordering::Release);
            }
            kill_point!("extent.settling");
            slot.get_intent.store(0, Ordering::Release);
        }
        Ok(())
    }

    fn sweep_now_and_then(self: &Arc<Self>) {
        if !self.file().is_known() {
            return;
        }
        let (swept, now) = (&self.state().swept, now());
        let last = swept.load(Ordering::Relaxed);
        // Garbage from the future ends like the past.
        if now.abs_diff(last) >= SWEEP_EVERY
            && swept.compare_exchange(last, now, Ordering::Relaxed, Ordering::Relaxed).is_ok()
        {
            self.sweep();
        }
    }

    /// Give back what dead processes held, in the next part of the table.
    pub fn sweep(self: &Arc<Self>) {
        let me = liveness::me();
        let len = self.table.len();
        let count = len.min(SWEPT);
        let first = self.state().sweeper.fetch_add(count, Ordering::Relaxed);
        // The last that were asked about, for many slots may be one process's.
        let (mut dead, mut alive) = (None, None);
        for index in (0..count).map(|step| first.wrapping_add(step) % len) {
            let Ok(slot) = self.table.slot(index) else { return };
            let word = slot.owner.load(Ordering::Acquire);
            if word == 0 && slot.cap.load(Ordering::Relaxed) > 0 && !self.is_kept(index) {
                // Free, and nobody knows of it: whoever freed it died before it could say so.
                if let Some(extent) = self.claim(index, |slot| slot.cap.load(Ordering::Relaxed) > 0) {
                    extent.discard();
                }
                continue;
            }
            let Some(owner) = Owner::in_word(word).filter(|&o| o != me) else { continue };
            if alive == Some(owner) {
                continue;
            }
            if dead != Some(owner) && !liveness::is_dead(owner) {
                alive = Some(owner);
                continue;
            }
            dead = Some(owner);
            // In this order: see the module.
            if slot.put_intent.load(Ordering::Acquire) == 0
                && slot.get_intent.load(Ordering::Acquire) == 0
                && slot.owner.compare_exchange(word, me.word(), Ordering::Acquire, Ordering::Relaxed).is_ok()
            {
                kill_point!("extent.sweeping");
                self.give_back(index, &slot);
                slot.owner.store(0, Ordering::Release);
            }
        }
    }
}
