//! Extents that several readers copy out, each for itself, while the ring has them.
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

    /// Under the lock: extent `index` of message `note` becomes this process's, if a ring has it.
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
    /// `Corrupted` if no ring has it, or it is shorter; or if the segment does not hold so much.
    pub fn view(self: &Arc<Self>, index: u64, note: u64, len: u64) -> Result<OwnedExtent> {
        let slot = self.table.slot(index)?;
        let is_it = slot.owner.load(Ordering::Acquire) == IN_RING && slot.note.load(Ordering::Relaxed) == note;
        if !is_it || len > slot.cap() {
            return Err(Error::Corrupted("a message without its extent"));
        }
        self.check_held(len)?;
        Ok(OwnedExtent::viewed(self, index))
    }
}
