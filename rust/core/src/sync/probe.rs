//! How often an owner is looked at: a thorough look costs some 10 us.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::deadline::now;
use crate::facade;

/// May a caller that does not sleep take a thorough look? Those who poll get one in 10 ms, all together.
pub fn may_probe() -> bool {
    if cfg!(loom) {
        return true;
    }
    static LAST: AtomicU64 = AtomicU64::new(0);
    let (now, last) = (now(), LAST.load(Ordering::Relaxed));
    now.saturating_sub(last) >= 10_000_000
        && LAST.compare_exchange(last, now, Ordering::Relaxed, Ordering::Relaxed).is_ok()
}

/// Which look in turn this is: goes up by one a slice, also for a wait that came up in between and began anew.
pub fn turn() -> usize {
    if cfg!(loom) { 0 } else { (now() / facade::SLICE.as_nanos() as u64) as usize }
}
