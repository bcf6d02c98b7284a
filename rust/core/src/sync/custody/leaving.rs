//! The steps of an owner, without a lock: acknowledging, and giving its bay up.

use super::{CLEANING, Custody, EXTENT, HELD, IDLE, RECORDS, Reference};
use crate::facade::{Ordering, Owner};
use crate::kill_point;

impl Custody<'_> {
    /// By its owner, in no lock: what is in custody in bay `index` is done. Gives the extent that
    /// is to be given back, before [`idle`](Self::idle).
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
