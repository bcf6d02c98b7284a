//! A flag to wait for.
//!
//! One word: bit 0 the flag, bit 1 somebody may be parked, the rest counts how often it was set: a waiter whose event was
//! set and cleared again before it came to look has still been notified. Setting is one store; a setter that dies
//! before its wake-up is found out at the end of the waiters' slice.

use crate::deadline::Deadline;
use crate::error::{Error, Result};
use crate::facade::{self, Ordering, Word32};
use crate::kill_point;
use crate::overlay;
use crate::sync::spin::Spin;

const SET: u32 = 1;
const WAITERS: u32 = 2;
const ONCE: u32 = 4;

overlay! {
    /// All zero is not set.
    #[derive(Debug)]
    pub struct EventState {
        word: Word32,
    }
}

static SPIN: Spin = Spin::new(20_000);

impl EventState {
    /// Not set.
    #[allow(clippy::new_without_default)]
    pub fn new() -> Self {
        EventState { word: Word32::new(0) }
    }

    /// Is it set, at this instant?
    pub fn is_set(&self) -> bool {
        // Acquire: pairs with the release in `set`, whose past a waiter may rely on.
        self.word.load(Ordering::Acquire) & SET != 0
    }

    /// Set it and wake all who wait.
    pub fn set(&self) {
        let mut word = self.word.load(Ordering::Relaxed);
        loop {
            let set = if word & SET != 0 { word & !WAITERS } else { ((word & !WAITERS) | SET).wrapping_add(ONCE) };
            // Release: as above.
            match self.word.compare_exchange(word, set, Ordering::Release, Ordering::Relaxed) {
                Ok(_) => break,
                Err(now) => word = now,
            }
        }
        if word & WAITERS != 0 {
            kill_point!("event.waking");
            self.word.unpark(u32::MAX);
        }
    }

    /// Clear it.
    pub fn clear(&self) {
        self.word.fetch_and(!SET, Ordering::Relaxed);
    }

    /// Where a wait starts: what `wait` compares with, also after a signal has interrupted it.
    pub fn ticket(&self) -> u32 {
        self.word.load(Ordering::Acquire)
    }

    /// Wait until it is set, or has been set since the `ticket` was drawn.
    ///
    /// # Errors
    /// `TimedOut`, or `Interrupted` by a signal.
    pub fn wait(&self, first: u32, deadline: Deadline) -> Result<()> {
        let notified = |word: u32| word & SET != 0 || (word ^ first) / ONCE != 0;
        if notified(self.word.load(Ordering::Acquire)) {
            return Ok(());
        }
        if deadline != Deadline::PASSED
            && SPIN.until(|| notified(self.word.load(Ordering::Acquire)).then_some(())).is_some()
        {
            return Ok(());
        }
        loop {
            let word = self.word.load(Ordering::Acquire);
            if notified(word) {
                return Ok(());
            }
            if deadline.passed() {
                return Err(Error::TimedOut);
            }
            let waited = word | WAITERS;
            if word != waited && self.word.compare_exchange(word, waited, Ordering::Relaxed, Ordering::Relaxed).is_err()
            {
                continue;
            }
            let parked = self.word.park(waited, deadline.slice(facade::SLICE))?;
            if parked == facade::Parked::TimedOut && !deadline.passed() {
                facade::end_slice()?;
            }
        }
    }
}
