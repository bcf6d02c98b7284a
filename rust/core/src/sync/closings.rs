//! Waits that end when what they wait by is closed in this process, by another thread.
//!
//! Words in shared memory say nothing of that: what one process closes others go on with. So a wait
//! that is to notice is called by [`heeding`], and whoever closes something in which other threads
//! are says so by [`announce`], and wakes whoever sleeps there. The wait then comes up with
//! `Interrupted`, as for a signal, before it goes to sleep, or to sleep again. Its caller looks
//! whether it was its own that was closed, and else calls it again.
//!
//! It costs nothing where nothing is closed: who waits compares two words before it sleeps. Locks
//! that are waited for on the way, whose holder may be stopped, come up with it at the end of their
//! slice.
//!
//! # Order
//! The caller of a wait counts itself in, by a read-modify-write on a word in which the closer then
//! sets *closed* and finds the count. `heeding` has read the number of announcements before that,
//! so it has not read that of a closer who found it. Between the announcement and the look for
//! sleepers, and between becoming one and the look for announcements, stands the wait set's full
//! fence on each side.

use std::cell::Cell;

use crate::facade::{self, AtomicU64, Ordering};

#[cfg(not(loom))]
static CLOSINGS: AtomicU64 = AtomicU64::new(0);
#[cfg(loom)]
loom::lazy_static! {
    static ref CLOSINGS: AtomicU64 = AtomicU64::new(0);
}

facade::local! {
    /// Announcements when the call began that heeds them.
    static SEEN: Cell<Option<u64>> = Cell::new(None);
}

/// Something has been closed in which other threads are. To be followed by wake-ups.
pub fn announce() {
    CLOSINGS.fetch_add(1, Ordering::AcqRel);
}

fn with_seen<T>(seen: Option<u64>, call: impl FnOnce() -> T) -> T {
    let before = SEEN.with(|now| now.replace(seen));
    let done = call();
    SEEN.with(|now| now.set(before));
    done
}

/// Run `call`, whose waits come up once anything is closed from now on. It counts itself in.
pub fn heeding<T>(call: impl FnOnce() -> T) -> T {
    // Acquire: before the count.
    with_seen(Some(CLOSINGS.load(Ordering::Acquire)), call)
}

/// Run `call`, whose waits do not: it ends soon.
pub(crate) fn unheeded<T>(call: impl FnOnce() -> T) -> T {
    with_seen(None, call)
}

/// Must the wait that is about to sleep come up?
#[inline]
pub(crate) fn is_due() -> bool {
    SEEN.with(Cell::get).is_some_and(|seen| seen != CLOSINGS.load(Ordering::Relaxed))
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn who_heeds_comes_up_for_what_comes_later() {
        announce();
        assert!(!is_due());
        heeding(|| {
            assert!(!is_due());
            announce();
            assert!(is_due());
            unheeded(|| assert!(!is_due()));
            heeding(|| assert!(!is_due()));
            assert!(is_due());
        });
        assert!(!is_due());
    }
}
