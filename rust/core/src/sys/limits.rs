//! Limits that the system sets this process.

// SAFETY: see the one block.
#![allow(unsafe_code)]

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

/// None, where the stand-in for files knows none.
#[cfg(miri)]
pub fn file_size() -> u64 {
    u64::MAX
}
