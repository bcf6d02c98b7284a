//! A busy wait that adapts to whether it pays.
//!
//! Waking a sleeping core costs tens of microseconds, so a wait that is about to end should not
//! sleep. But a spinner whose counterpart has no core to run on only delays it. So each kind of
//! wait keeps, per process, a budget: doubled when a spin ended in success, halved when it ended in
//! sleep, with a small one left to find out that times have changed. After the first few looks the
//! spinner yields the core again and again, so that a counterpart that is ready to run can.

use std::sync::atomic::{AtomicU32, Ordering};

use crate::deadline::now;
use crate::facade;

/// Looks before the first yield: some three microseconds. What comes sooner is not worth a system
/// call.
const LOOKS: u32 = 64;
/// Looks between yields.
const BETWEEN: u32 = 8;

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

    /// Spin until `ready` gives something, or until it no longer pays. Relaxed orders: the budget
    /// is a guess.
    pub fn until<T>(&self, mut ready: impl FnMut() -> Option<T>) -> Option<T> {
        if cfg!(loom) || alone() || facade::resumed() {
            return ready();
        }
        let mut look = |times: u32| {
            (0..times).find_map(|_| {
                let found = ready();
                if found.is_none() {
                    facade::spin();
                }
                found
            })
        };
        if let Some(found) = look(LOOKS) {
            return Some(found);
        }
        let budget = self.budget.load(Ordering::Relaxed);
        let end = now() + u64::from(budget);
        loop {
            facade::give_way();
            if let Some(found) = look(BETWEEN) {
                self.budget.store(budget.saturating_mul(2).min(self.most), Ordering::Relaxed);
                return Some(found);
            }
            if now() >= end {
                self.budget.store((budget / 2).max(self.most / 16), Ordering::Relaxed);
                return None;
            }
        }
    }
}

/// Has this process one core only? Nobody can then end a wait while it spins.
fn alone() -> bool {
    static CORES: AtomicU32 = AtomicU32::new(0);
    let mut cores = CORES.load(Ordering::Relaxed);
    if cores == 0 {
        cores = std::thread::available_parallelism().map_or(2, |n| n.get() as u32);
        CORES.store(cores, Ordering::Relaxed);
    }
    cores == 1
}
