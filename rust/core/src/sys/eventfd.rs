//! A counter that `poll` can see; a socket pair where eventfd is not to be had.

use std::os::fd::{AsFd, OwnedFd};

use rustix::event::{EventfdFlags, eventfd};
use rustix::io::{read, write};

use crate::error::Result;

/// A new eventfd holding `initial`, non-blocking and close-on-exec.
pub fn create(initial: u32) -> Result<OwnedFd> {
    Ok(eventfd(initial, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?)
}

/// Make it readable.
pub fn set(fd: impl AsFd) {
    // EAGAIN means that it is readable to the brim already.
    let _ = write(fd, &1u64.to_ne_bytes());
}

/// Make it unreadable.
pub fn clear(fd: impl AsFd) {
    let mut count = [0u8; 8];
    let _ = read(fd, &mut count);
}
