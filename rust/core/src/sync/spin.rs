//! A busy wait that adapts to whether it pays.
//!
//! Waking a sleeping core costs tens of microseconds, so a wait that is about to end should not sleep. But a spinner
//! whose counterpart has no core to run on only delays it. So each kind of wait keeps, per process, a budget: doubled when a
//! spin ended in success, halved when it ended in sleep, with a small one left to find out that times have changed.
//! After a few pauses the spinner yields the core at every turn, so that a counterpart that is ready to run can.

use std::sync::atomic::{AtomicU32, Ordering};

use crate::deadline::now;
use crate::facade;

/// Pauses before the first yield: about a microsecond.
const PAUSES: u32 = 24;

/// What one kind of wait has learnt in this process.
#[derive(Debug)]
pub struct Spin {
    /// Nanoseconds that a spin may last.
    budget: AtomicU32,
    most: u32,
}

impl Spin {
    /// At most `most` nanoseconds.
    pub const fn new(most: u32) -> Spin {
        Spin { budget: AtomicU32::new(most), most }
    }

    /// Spin until `ready` gives something, or until it no longer pays. Relaxed orders: the budget is a guess.
    pub fn until<T>(&self, mut ready: impl FnMut() -> Option<T>) -> Option<T> {
        if cfg!(loom) {
            return ready();
        }
        for _ in 0..PAUSES {
            if let Some(found) = ready() {
                return Some(found);
            }
            facade::spin();
        }
        let budget = self.budget.load(Ordering::Relaxed);
        let end = now() + u64::from(budget);
        loop {
            if let Some(found) = ready() {
                self.budget.store(budget.saturating_mul(2).min(self.most), Ordering::Relaxed);
                return Some(found);
            }
            if now() >= end {
                self.budget.store((budget / 2).max(self.most / 16), Ordering::Relaxed);
                return None;
            }
            facade::give_way();
        }
    }
}
