//! Shared futexes (never the private flag: the waker is another process), absolute monotonic
//! deadlines, EINTR let out.

use std::num::NonZeroU32;
use std::sync::atomic::AtomicU32;

use rustix::io::Errno;
use rustix::thread::futex::{self, Flags};

use crate::deadline::timespec;
use crate::error::{Error, Result};

/// How a wait ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Parked {
    /// Woken, or the word had already changed.
    Woken,
    /// The time passed.
    TimedOut,
}

/// Sleep while `*word == expected`, until `until` (monotonic, nanoseconds) at the latest.
///
/// # Errors
/// `Interrupted` when a signal arrived; `Os` when the kernel refuses.
pub fn wait(word: &AtomicU32, expected: u32, until: u64) -> Result<Parked> {
    let at = timespec(until);
    match futex::wait_bitset(word, Flags::empty(), expected, Some(&at), NonZeroU32::MAX) {
        Ok(()) | Err(Errno::AGAIN) => Ok(Parked::Woken),
        Err(Errno::TIMEDOUT) => Ok(Parked::TimedOut),
        Err(Errno::INTR) => Err(Error::Interrupted),
        Err(e) => Err(e.into()),
    }
}

/// Wake up to `n` waiters.
pub fn wake(word: &AtomicU32, n: u32) {
    // The only errors are bad addresses, which a reference rules out.
    let _ = futex::wake(word, Flags::empty(), n.min(i32::MAX as u32));
}
