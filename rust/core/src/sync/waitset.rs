//! A place to wait for a condition that lives in other words: an eventcount.
//!
//! One word: bit 0 says that somebody may be waiting, the rest counts wake-ups.
//!
//! - Waiter: `prepare_wait` (sets bit 0), check the condition once more, `park` while the word is
//!   as it was then. Who leaves instead has nothing to cancel: the bit is nobody's.
//! - Waker: change the condition, then `notify`: nothing to do unless bit 0 is set; else clear it,
//!   count, wake.
//!
//! A full fence stands between the waker's change and its look at bit 0, and one between the
//! waiter's bit 0 and its look at the condition: so either the waker sees the bit or the waiter the
//! condition. What order the condition's own accesses have does not matter for that, but the change
//! must be a read-modify-write, or have one after it ([`facade::fence_after_rmw`]).
//!
//! `notify` wakes one waiter and clears the bit although others may sleep. The woken one sets it
//! again (`prepare_wait`), and once it has taken what it waited for it notifies in turn if there is
//! more: the wake-up is handed down, not sent to all. If it is killed first, the others find out at
//! the end of their slice ([`facade::SLICE`]); a waiter that is killed leaves at most bit 0, which
//! costs the next waker one call.

use crate::error::Result;
use crate::facade::{self, Ordering, Parked, Word32};
use crate::overlay;

const WAITING: u32 = 1;

overlay! {
    /// See the module.
    /// ```
    /// use std::sync::atomic::{AtomicBool, Ordering};
    /// use fastmp_core::sync::waitset::WaitSet;
    ///
    /// static DONE: AtomicBool = AtomicBool::new(false);
    /// # fn main() -> Result<(), fastmp_core::Error> {
    /// let waiters = WaitSet::new();
    /// std::thread::scope(|threads| {
    ///     threads.spawn(|| {
    ///         DONE.store(true, Ordering::SeqCst);
    ///         waiters.notify();
    ///     });
    ///     while !DONE.load(Ordering::SeqCst) {
    ///         let ticket = waiters.prepare_wait();
    ///         // Once more: it may have come between the look and the announcement.
    ///         if !DONE.load(Ordering::SeqCst) {
    ///             waiters.park(ticket, u64::MAX)?;
    ///         }
    ///     }
    ///     Ok(())
    /// })
    /// # }
    /// ```
    #[derive(Debug)]
    pub struct WaitSet {
        word: Word32,
    }
}

impl WaitSet {
    /// Nobody waits.
    #[allow(clippy::new_without_default)]
    pub fn new() -> Self {
        WaitSet { word: Word32::new(0) }
    }

    /// Say that this thread is about to wait; gives what to `park` on.
    pub fn prepare_wait(&self) -> u32 {
        // AcqRel: from one waiter to the next, for what they look at beside the condition.
        let word = self.word.fetch_or(WAITING, Ordering::AcqRel) | WAITING;
        facade::fence_after_rmw();
        word
    }

    /// Sleep until woken, until a reading of the monotonic clock at the latest.
    ///
    /// # Errors
    /// `Interrupted` by a signal.
    pub fn park(&self, ticket: u32, until: u64) -> Result<Parked> {
        self.word.park(ticket, until)
    }

    /// Test aid: as if a death had just ended every waiter's slice.
    #[cfg(loom)]
    pub fn ring(&self) {
        self.word.unpark(u32::MAX);
    }

    /// May somebody be waiting? Asked after the change that they wait for.
    #[inline]
    pub fn is_waited_on(&self) -> bool {
        facade::fence_after_rmw();
        self.word.load(Ordering::Relaxed) & WAITING != 0
    }

    /// Wake one waiter, if there may be one.
    #[inline]
    pub fn notify(&self) {
        if self.is_waited_on() {
            self.wake(1);
        }
    }

    /// Wake every waiter.
    pub fn notify_all(&self) {
        if self.is_waited_on() {
            self.wake(u32::MAX);
        }
    }

    #[cold]
    fn wake(&self, n: u32) {
        let mut word = self.word.load(Ordering::Relaxed);
        while word & WAITING != 0 {
            let counted = (word & !WAITING).wrapping_add(2);
            // Release: pairs with the acquire of the next waiter.
            match self.word.compare_exchange(word, counted, Ordering::AcqRel, Ordering::Relaxed) {
                Ok(_) => return self.word.unpark(n),
                Err(now) => word = now,
            }
        }
    }
}
