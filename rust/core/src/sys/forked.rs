//! What has to happen around a fork: `pthread_atfork`, so that forks from C are seen too.
#![allow(unsafe_code)]

use std::sync::Once;
use std::sync::atomic::{AtomicU64, Ordering};

static GENERATION: AtomicU64 = AtomicU64::new(1);
static REGISTER: Once = Once::new();

/// Differs between a process and each process forked from it (by fork, not by a raw clone). Never 0.
#[inline]
pub fn generation() -> u64 {
    GENERATION.load(Ordering::Relaxed)
}

/// Have the arena's and the identity's handlers called around every fork from now on.
pub fn watch() {
    REGISTER.call_once(|| {
        // SAFETY: the three functions never unwind (see `guarded`) and take only locks that no thread
        // holds while it forks.
        unsafe { libc::pthread_atfork(Some(before), Some(in_parent), Some(in_child)) };
    });
}

fn guarded(f: impl FnOnce() + std::panic::UnwindSafe) {
    if std::panic::catch_unwind(f).is_err() {
        std::process::abort();
    }
}

extern "C" fn before() {
    guarded(crate::arena::before_fork);
}

extern "C" fn in_parent() {
    guarded(crate::arena::after_fork_in_parent);
}

extern "C" fn in_child() {
    GENERATION.fetch_add(1, Ordering::Relaxed);
    guarded(crate::sys::liveness::after_fork_in_child);
    guarded(crate::arena::after_fork_in_child);
}
