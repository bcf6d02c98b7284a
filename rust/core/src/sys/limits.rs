//! Limits that the system sets this process.

#![allow(unsafe_code)]

#[cfg(not(miri))]
use rustix::process::{Resource, Rlimit, setrlimit};

#[cfg(not(miri))]
use crate::sys::fork::Local;

/// How long a file may become by this process's doing, in bytes. What would make one longer is not
/// only refused: the kernel sends SIGXFSZ, which kills.
#[cfg(not(miri))]
pub fn file_size() -> u64 {
    let mut limit = libc::rlimit { rlim_cur: libc::RLIM_INFINITY, rlim_max: libc::RLIM_INFINITY };
    // SAFETY: writes to a local, which stays as it is where a sandbox refuses the call: then there
    // is no telling.
    unsafe { libc::getrlimit(libc::RLIMIT_FSIZE, &mut limit) };
    limit.rlim_cur
}

/// Run `f` while this process may have as many descriptors as the system lets it at most; None: it
/// may already.
///
/// The kernel compares this limit with all descriptors that a user has on their way in sockets,
/// also in those of other programs: so what one of them parks there may keep another from sending
/// any. A child that another thread forks at this very moment keeps the higher limit.
#[cfg(not(miri))]
pub fn with_most_descriptors<R>(f: impl FnOnce() -> R) -> Option<R> {
    /// One at a time: each puts back what it has found.
    static RAISING: Local<()> = Local::new(());
    RAISING.with(|()| {
        let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
        // SAFETY: writes to a local.
        let known = unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &mut limit) } == 0;
        let finite = |limit| (limit != libc::RLIM_INFINITY).then_some(limit);
        // By a system call: wheels ask the C library for as few functions as can be.
        let allow = |soft| {
            let limits = Rlimit { current: finite(soft), maximum: finite(limit.rlim_max) };
            setrlimit(Resource::Nofile, limits).is_ok()
        };
        // More is allowed for a moment.
        if !known || limit.rlim_cur >= limit.rlim_max || !allow(limit.rlim_max) {
            return None;
        }
        let done = f();
        allow(limit.rlim_cur);
        Some(done)
    })
}

/// It may.
#[cfg(miri)]
pub fn with_most_descriptors<R>(_: impl FnOnce() -> R) -> Option<R> {
    None
}

/// None, where the stand-in for files knows none.
#[cfg(miri)]
pub fn file_size() -> u64 {
    u64::MAX
}
