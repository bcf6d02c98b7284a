//! A descriptor in a program's own epoll, to be told of once.
#![allow(unsafe_code)]

use std::os::fd::{AsFd, BorrowedFd, RawFd};

use rustix::event::epoll::{self, EventData, EventFlags};
use rustix::io::Errno;

use crate::error::Result;

/// Have `epoll` tell, once, that `fd` is readable, or with `writing` that it is writable: by
/// `token`, whatever was asked for before. If it is so already that is told at once.
///
/// # Errors
/// `Os`: EBADF if `epoll` is closed, ENOSPC if this user watches too much, EPERM for what always is
/// ready.
pub fn arm(epoll: RawFd, fd: impl AsFd, token: u32, writing: bool) -> Result<()> {
    let epoll = borrowed(epoll)?;
    let flags = EventFlags::ONESHOT | if writing { EventFlags::OUT } else { EventFlags::IN };
    // In both halves: Python's `select.epoll` looks at the first, wherever that is.
    let data = || EventData::new_u64(u64::from(token) << 32 | u64::from(token));
    match epoll::modify(epoll, &fd, data(), flags) {
        Err(Errno::NOENT) => match epoll::add(epoll, &fd, data(), flags) {
            // Another thread was quicker.
            Err(Errno::EXIST) => Ok(epoll::modify(epoll, &fd, data(), flags)?),
            added => Ok(added?),
        },
        armed => Ok(armed?),
    }
}

/// The same by a descriptor's number.
///
/// # Errors
/// Likewise; EBADF if either is not open.
pub fn arm_number(epoll: RawFd, fd: RawFd, token: u32, writing: bool) -> Result<()> {
    arm(epoll, borrowed(fd)?, token, writing)
}

/// For the calls of this module, which ask nothing of what is behind it.
fn borrowed<'a>(fd: RawFd) -> Result<BorrowedFd<'a>> {
    if fd < 0 {
        return Err(Errno::BADF.into());
    }
    // SAFETY: not -1, and borrowed for these calls alone; of what is not open, or no epoll, the
    // kernel says so.
    Ok(unsafe { BorrowedFd::borrow_raw(fd) })
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsRawFd;

    use rustix::buffer::spare_capacity;

    use super::*;
    use crate::error::Error;
    use crate::sys::socket;

    fn told(epoll: impl AsFd) -> Result<Vec<u64>> {
        let mut events = Vec::with_capacity(8);
        epoll::wait(epoll, spare_capacity(&mut events), Some(&crate::deadline::span(0)))?;
        Ok(events.iter().map(|event| event.data.u64() & u64::from(u32::MAX)).collect())
    }

    #[test]
    #[cfg_attr(miri, ignore = "our sockets there are none of Miri's")]
    fn tells_once_and_by_the_last_token() -> Result<()> {
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        let (reader, writer) = socket::pair()?;
        arm(epoll.as_raw_fd(), &reader, 1, false)?;
        assert_eq!(told(&epoll)?, []);
        arm(epoll.as_raw_fd(), &reader, 2, false)?;
        socket::send_ready(&writer)?;
        assert_eq!(told(&epoll)?, [2]);
        assert_eq!(told(&epoll)?, []);
        // It is readable still.
        arm(epoll.as_raw_fd(), &reader, 3, false)?;
        assert_eq!(told(&epoll)?, [3]);
        arm(epoll.as_raw_fd(), &writer, 4, true)?;
        assert_eq!(told(&epoll)?, [4]);
        Ok(())
    }

    #[test]
    #[cfg_attr(miri, ignore = "our sockets there are none of Miri's")]
    fn what_is_no_epoll_is_refused() -> Result<()> {
        let (reader, writer) = socket::pair()?;
        assert_eq!(arm(-1, &reader, 1, false), Err(Error::Os(Errno::BADF)));
        assert_eq!(arm(writer.as_raw_fd(), &reader, 1, false), Err(Error::Os(Errno::INVAL)));
        Ok(())
    }
}
