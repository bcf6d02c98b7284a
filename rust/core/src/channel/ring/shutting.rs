//! That a ring takes no more messages, as its words say it.
//!
//! `shut` is changed under both locks. So whoever puts sees it or has committed before it, and
//! whoever finds the ring empty *after* having seen it knows that nothing will come. `TERMINATED`
//! also stops who gets: what is left is nobody's, and is thrown away by
//! [`drain`](crate::channel::queue).

use super::{GetGuard, PutGuard, Received, Ring};
use crate::error::{Error, Result};
use crate::facade::Ordering;
use crate::kill_point;

/// Bits of `shut`: nothing more is put; nor is anything got.
const SHUT: u32 = 1;
const TERMINATED: u32 = 2;

impl Ring {
    /// Does it take no more messages?
    #[inline]
    pub fn is_shut(&self) -> bool {
        // Acquire: with the change in `shut`, which follows the last commit.
        self.state.shut.load(Ordering::Acquire) != 0
    }

    /// Does it not give any, either?
    #[inline]
    pub fn is_terminated(&self) -> bool {
        self.state.shut.load(Ordering::SeqCst) & TERMINATED != 0
    }

    /// From now on it takes no more messages; `immediate`: and gives none. Both locks are held.
    pub fn shut(&self, _getting: &GetGuard<'_>, _putting: &PutGuard<'_>, immediate: bool) {
        let bits = if immediate { SHUT | TERMINATED } else { SHUT };
        kill_point!("ring.shut.before_commit");
        // Commit point. SeqCst: one half of the agreement with waiters, as with `tail` and `head`.
        self.state.shut.fetch_or(bits, Ordering::SeqCst);
        kill_point!("ring.shut.after_commit");
    }
}

impl GetGuard<'_> {
    /// Of a ring that is terminated, the first message, to be thrown away.
    ///
    /// # Errors
    /// `Empty`; `Corrupted`.
    pub fn throw_away(&self, scratch: &mut Vec<u8>) -> Result<Received> {
        if !self.ring.is_terminated() {
            return Err(Error::Empty);
        }
        scratch.clear();
        self.take_first(scratch, |_| Ok(None))
    }
}
