//! The numbers 0, 1 and 2 are those of the program's standard streams, also where these are closed.
//!
//! The kernel gives the lowest number that is free. In a daemon, which has closed them, that would
//! be one of these: then what is printed goes into our sockets and shared memory, and who opens
//! `/dev/null` in their place by `dup2` closes what is ours. So what lives longer than the call
//! that makes it, or is received, gets another number.

use std::os::fd::{AsRawFd, OwnedFd, RawFd};

use rustix::io::{Result, fcntl_dupfd_cloexec};

/// The first number that is nobody's.
const FIRST: RawFd = 3;

/// The same file by another number than the standard streams have, close-on-exec: by its own, as a
/// rule, and `fd` is closed otherwise.
///
/// # Errors
/// EMFILE: there is no other.
pub fn beside(fd: OwnedFd) -> Result<OwnedFd> {
    if fd.as_raw_fd() >= FIRST { Ok(fd) } else { fcntl_dupfd_cloexec(&fd, FIRST) }
}

/// The same of two.
///
/// # Errors
/// As [`beside`].
pub fn both_beside((one, other): (OwnedFd, OwnedFd)) -> Result<(OwnedFd, OwnedFd)> {
    Ok((beside(one)?, beside(other)?))
}
