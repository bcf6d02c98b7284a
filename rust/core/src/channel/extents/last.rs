//! What the last who has a channel does, where loans outlive it.
//!
//! A loan's mapping keeps all of the memory file: what was kept for the next message, and what
//! nobody has read. The kernel would give that back with the last who had the channel. So that one
//! does it by hand, as it leaves. That nobody else has the channel the kernel knows: the other end
//! of its socket is closed everywhere (see [`hung_up`](crate::sys::socket::hung_up)).
//!
//! Nobody takes or puts anything any more, but two may leave at a time: each slot is taken by CAS,
//! as by a sweep. What processes own stays, for they return it. Where nothing is lent nothing is
//! done.
//!
//! Who is killed here, or before it comes here, leaves the rest until the last loan returns: no
//! more, for the file goes with that. So do the two ends of a pipe that are closed at the same
//! time, for each may see the other open still; and readers of a pipe leave what they have not
//! read, for nobody knows who shares an end. (In a queue each closes one end of the socket before
//! it looks: the last to look sees that all have.)

use std::sync::Arc;

use super::{Extents, IN_RING};
use crate::facade::Ordering;
use crate::kill_point;
use crate::sys::liveness::{self, Owner};

impl Extents {
    /// Is there a file, and has the program left its descriptor alone? Else it may have closed
    /// those of the socket too, and what they lead to tells nothing.
    pub(in crate::channel) fn is_whole(&self) -> bool {
        self.were_used() && self.segment().is_ok_and(|file| file.own_fd().is_ok())
    }

    /// Give back what is no process's, but for what is in a ring that `spares` names: somebody may
    /// take from that still.
    pub(in crate::channel) fn leave(self: &Arc<Self>, spares: impl Fn(u32) -> bool) {
        if !self.is_whole() {
            return;
        }
        let me = liveness::me();
        let (mut has_loans, mut left) = (false, Vec::new());
        for index in 0..self.table.len() {
            let Ok(slot) = self.table.slot(index) else { return };
            let word = slot.owner.load(Ordering::Acquire);
            let is_left = match word {
                0 => slot.cap.load(Ordering::Relaxed) > 0,
                IN_RING => !spares(slot.put_ring.load(Ordering::Relaxed)),
                _ => false,
            };
            if is_left {
                left.push((index, word));
            }
            has_loans |= Owner::in_word(word).is_some();
        }
        if !has_loans {
            return;
        }
        for (index, word) in left {
            let Ok(slot) = self.table.slot(index) else { return };
            // Acquire: pairs with the release of whoever gave it up.
            if slot.owner.compare_exchange(word, me.word(), Ordering::Acquire, Ordering::Relaxed).is_ok() {
                self.give_back(index, &slot);
                kill_point!("extent.left");
                slot.owner.store(0, Ordering::Release);
            }
        }
    }
}
