//! How often an owner is looked at: a thorough look costs some 10 us.

use std::cell::Cell;

use rustix::time::{ClockId, clock_gettime};

use crate::deadline::now;
use crate::facade::{self, Owner};

/// One who polls gets a thorough look at the same thing in so many nanoseconds: 0.1 % of its time.
const EVERY: u64 = 10_000_000;
/// Things that a thread's looks at are remembered, at most. Of two in one place each is looked at
/// whenever it comes after the other: too often, never too seldom.
const PLACES: usize = 64;

thread_local! {
    /// What was looked at, and when.
    static LAST: [Cell<(u64, u64)>; PLACES] = const { [const { Cell::new((0, 0)) }; PLACES] };
}

/// Run `f` on the place of `what`, with the time: exact to some milliseconds, and four times as
/// fast as the exact one.
#[inline]
fn place_of<T>(what: u64, f: impl FnOnce(&Cell<(u64, u64)>, u64) -> T) -> T {
    // The top bits of the product are the best mixed.
    let place = (what.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 58) as usize % PLACES;
    let now = clock_gettime(ClockId::MonotonicCoarse);
    let now = now.tv_sec as u64 * 1_000_000_000 + now.tv_nsec as u64;
    LAST.with(|last| f(&last[place], now))
}

/// Would `may_probe` say yes? If not, a caller that does not wait has nothing to look for.
#[inline]
pub fn is_due(what: u64) -> bool {
    cfg!(loom)
        || place_of(what, |last, now| {
            let (known, at) = last.get();
            known != what || now.saturating_sub(at) >= EVERY
        })
}

/// May a caller that does not sleep take a thorough look at `what`, an owner's word or an address?
/// Each thread gets one in 10 ms at each thing: who polls one lock keeps nobody from another.
pub fn may_probe(what: u64) -> bool {
    if cfg!(loom) {
        return true;
    }
    place_of(what, |last, now| match last.get() {
        (known, at) if known == what && now.saturating_sub(at) < EVERY => false,
        _ => {
            last.set((what, now));
            true
        }
    })
}

/// Is `owner` proved dead, as far as one who polls may ask?
pub fn is_dead_polled(owner: Owner) -> bool {
    may_probe(owner.word()) && facade::is_dead(owner)
}

/// Which look in turn this is: goes up by one a slice, also for a wait that came up in between and
/// began anew.
pub fn turn() -> usize {
    if cfg!(loom) { 0 } else { (now() / facade::SLICE.as_nanos() as u64) as usize }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn who_looks_at_one_thing_keeps_nobody_from_another() {
        // Each in a place of its own.
        let things: Vec<u64> = (1..=4).collect();
        let looks = |thing: &u64| may_probe(*thing);
        assert!(things.iter().all(looks), "each is looked at at once");
        assert!(!things.iter().any(looks), "and not again at once");
        std::thread::spawn(|| assert!((1..=4).all(may_probe))).join().expect("another thread has looks of its own");
        let start = std::time::Instant::now();
        let mut seen = [0u64; 4];
        while start.elapsed() < std::time::Duration::from_millis(500) {
            for (count, thing) in seen.iter_mut().zip(&things) {
                *count += u64::from(may_probe(*thing));
            }
        }
        // Fewer on a busy machine, never more.
        let most = 1 + start.elapsed().as_nanos() as u64 / EVERY;
        assert!(seen.iter().all(|&count| (2..=most).contains(&count)), "{seen:?} of {most}");
    }
}
