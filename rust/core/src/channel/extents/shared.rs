//! Extents that a ring, or another place that all know, has for longer: several readers copy them
//! out, each for itself; or a message stays where it is until its taker has acknowledged it.
//!
//! The *note* says which message it is, from before the extent goes into the ring. All that happens
//! here happens under the lock that puts are made under: so a note does not change in between, and
//! nobody else takes the extent out. When that may be, the caller knows.

use std::sync::Arc;

use super::{Extents, IN_RING, OwnedExtent};
use crate::error::{Error, Result};
use crate::facade::Ordering;
use crate::kill_point;
use crate::sys::liveness;

impl OwnedExtent {
    /// Before it is handed over: which message it is.
    ///
    /// # Errors
    /// `Corrupted`.
    pub fn note(&self, number: u64) -> Result<()> {
        self.slot()?.note.store(number, Ordering::Relaxed);
        Ok(())
    }

    /// From now on it is no process's: a place that all know refers to it by `note`, and not for
    /// another. Who dies before this leaves it to the sweep.
    ///
    /// # Errors
    /// `Corrupted`.
    pub fn deposit(self, note: u64) -> Result<()> {
        let slot = self.slot()?;
        slot.note.store(note, Ordering::Relaxed);
        // Release: pairs with the acquire in `reclaim`.
        slot.owner.store(IN_RING, Ordering::Release);
        drop(slot);
        self.forget();
        Ok(())
    }
}

impl Extents {
    /// What is in a ring: slots and their notes.
    ///
    /// # Errors
    /// `OutOfMemory` if the table cannot be mapped; `Corrupted`.
    pub fn in_ring(&self) -> Result<Vec<(u64, u64)>> {
        let mut found = Vec::new();
        for index in 0..self.table.len() {
            let slot = self.table.slot(index)?;
            // Acquire: pairs with the release in `hand_over`, for the note.
            if slot.owner.load(Ordering::Acquire) == IN_RING {
                found.push((index, slot.note.load(Ordering::Relaxed)));
            }
        }
        Ok(found)
    }

    /// Under the get lock: the message at the head, whose `len` bytes are in extent `index`, is to
    /// be known as `note` from now on, wherever it is.
    ///
    /// # Errors
    /// `Corrupted` if no ring has it, or it is shorter.
    pub fn keep(&self, index: u64, len: u64, note: u64) -> Result<()> {
        let slot = self.table.slot(index)?;
        if slot.owner.load(Ordering::Acquire) != IN_RING || len > slot.cap() {
            return Err(Error::Corrupted("a message without its extent"));
        }
        self.check_held(len)?;
        slot.note.store(note, Ordering::Relaxed);
        Ok(())
    }

    /// By who alone may: extent `index` of message `note` becomes this process's, if a ring has it.
    pub fn reclaim(self: &Arc<Self>, index: u64, note: u64) -> Option<OwnedExtent> {
        let slot = self.table.slot(index).ok()?;
        let me = liveness::me().word();
        let is_it = slot.owner.load(Ordering::Acquire) == IN_RING && slot.note.load(Ordering::Relaxed) == note;
        // Acquire: pairs with the release in `hand_over`.
        let taken = is_it && slot.owner.compare_exchange(IN_RING, me, Ordering::Acquire, Ordering::Relaxed).is_ok();
        kill_point!("extent.reclaimed");
        taken.then(|| OwnedExtent::new(self, index))
    }

    /// Extent `index` of message `note`, to read `len` bytes from. It stays the ring's, for as long
    /// as the caller sees to that.
    ///
    /// # Errors
    /// `NO_FILE`; `Corrupted` if no ring has it, or it is shorter; or if the segment does not hold
    /// so much.
    pub fn view(self: &Arc<Self>, index: u64, note: u64, len: u64) -> Result<OwnedExtent> {
        self.segment()?;
        let slot = self.table.slot(index)?;
        let is_it = slot.owner.load(Ordering::Acquire) == IN_RING && slot.note.load(Ordering::Relaxed) == note;
        if !is_it || len > slot.cap() {
            return Err(Error::Corrupted("a message without its extent"));
        }
        self.check_held(len)?;
        Ok(OwnedExtent::viewed(self, index))
    }
}
