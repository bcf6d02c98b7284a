//! A flag to wait for.
//!
//! One word: bit 0 the flag, bit 1 somebody may be parked, the rest counts how often it was set: a
//! waiter whose event was set and cleared again before it came to look has still been notified.
//! Setting is one store; a setter that dies before its wake-up is found out at the end of the
//! waiters' slice.
//!
//! # Orders
//! - `set` releases, and `is_set` and `wait` acquire: who sees it set sees what came before.
//! - `clear` acquires as well: the `set` that it wipes away may be the one that a look at something
//!   else should have followed (`event.clear(); if not ready: event.wait()`). The stdlib's takes
//!   the flag by `sem_trywait`.
//! - `set` and `clear` end with a full fence: of two that each set an event of their own and then
//!   ask for the other's, one sees it set.

use crate::deadline::Deadline;
use crate::error::{Error, Result};
use crate::facade::{self, Ordering, Parked, Word32};
use crate::kill_point;
use crate::overlay;
use crate::sync::spin::Spin;
use crate::sync::waiting::{self, Found, Look, Prepared, Wait};

const SET: u32 = 1;
const WAITERS: u32 = 2;
const ONCE: u32 = 4;

overlay! {
    /// All zero is not set.
    /// ```
    /// use fastmp_core::{Deadline, Error};
    /// use fastmp_core::sync::event::EventState;
    ///
    /// # fn main() -> Result<(), Error> {
    /// let event = EventState::new();
    /// let ticket = event.ticket();
    /// assert_eq!(event.wait(ticket, Deadline::PASSED), Err(Error::TimedOut));
    /// event.set();
    /// event.clear();
    /// // It has been set since the ticket was drawn.
    /// event.wait(ticket, Deadline::Never)?;
    /// # Ok(())
    /// # }
    /// ```
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
        facade::fence_after_rmw();
        if word & WAITERS != 0 {
            kill_point!("event.waking");
            self.word.unpark(u32::MAX);
        }
    }

    /// Clear it.
    pub fn clear(&self) {
        // Acquire: see the module. Release: of two who clear it in turn the last one has seen all
        // of that.
        self.word.fetch_and(!SET, Ordering::AcqRel);
        facade::fence_after_rmw();
    }

    /// Where a wait starts: what `wait` compares with, also after a signal has interrupted it.
    pub fn ticket(&self) -> u32 {
        self.word.load(Ordering::Acquire)
    }

    /// Wait until it is set, or has been set since the `ticket` was drawn.
    ///
    /// # Errors
    /// `TimedOut`, or `Interrupted` by a signal.
    pub fn wait(&self, ticket: u32, deadline: Deadline) -> Result<()> {
        waiting::wait(&mut EventWait { event: self, ticket, parked: 0 }, deadline)
    }
}

struct EventWait<'a> {
    event: &'a EventState,
    ticket: u32,
    /// What it sleeps on.
    parked: u32,
}

impl EventWait<'_> {
    fn has_come(&self, word: u32) -> bool {
        word & SET != 0 || (word ^ self.ticket) / ONCE != 0
    }
}

impl Wait for EventWait<'_> {
    type Output = ();

    fn attempt(&mut self) -> Result<Option<()>> {
        Ok(self.has_come(self.event.word.load(Ordering::Acquire)).then_some(()))
    }

    fn spin(&self) -> Option<&'static Spin> {
        Some(&SPIN)
    }

    fn prepare(&mut self) -> Result<Prepared<()>> {
        let word = self.event.word.load(Ordering::Acquire);
        if self.has_come(word) {
            return Ok(Prepared::Ready(()));
        }
        self.parked = word | WAITERS;
        // Relaxed: the kernel compares the word itself.
        let marked = word == self.parked
            || self.event.word.compare_exchange(word, self.parked, Ordering::Relaxed, Ordering::Relaxed).is_ok();
        Ok(if marked { Prepared::Waiting } else { Prepared::Changed })
    }

    fn park(&mut self, until: u64) -> Result<Parked> {
        self.event.word.park(self.parked, until)
    }

    fn probe(&mut self, _: Look) -> Result<Found<()>> {
        // A setter that dies has set it or has not: the next look at the word tells.
        Ok(Found::Nothing)
    }

    fn give_up(&mut self) -> Result<Option<()>> {
        Err(Error::TimedOut)
    }
}
