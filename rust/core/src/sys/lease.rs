//! Has anybody, anywhere, this file open for writing? Asked of the kernel by way of a read lease.
//!
//! A file opened for writing counts in its inode until the last reference to that open file is
//! gone: descriptors in whatever process, copies in flight in a socket, mappings, also inherited
//! ones. `fcntl(F_SETLEASE, F_RDLCK)` on a reading descriptor is refused with EAGAIN as long as one
//! is left. A lease that is granted proves that none is, without help from anybody, and is given
//! back at once.
//!
//! `memfd_create`'s own descriptor is not counted, so the memfd is opened twice more by way of
//! `/proc` and then closed.
//!
//! # The signal
//! Somebody who opens the file while the lease is held makes the kernel send SIGIO, which kills, to
//! the holder. Nobody does: a lease is granted only when the writing side is gone, the reading side
//! never leaves its process (a forked child closes it), and a memfd has no other name. Should a
//! debugger reach in through `/proc/PID/fd`, the signal is SIGURG, which is ignored.
//!
//! # Where that does not work
//! No `/proc`, a filter, a kernel without leases or whose leases do not count writers: found out by
//! a trial before the first use.
#![allow(unsafe_code)]

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicU8, Ordering};

use rustix::fs::{MemfdFlags, OFlags};
use rustix::io::Errno;

use crate::error::{Error, Result};
use crate::sys::mapping::Mapping;
use crate::sys::{memfd, procfs};

/// `fcntl`'s command; libc has no name for it here.
const F_SETSIG: i32 = 10;

/// A new empty file: a descriptor that writes, which is what counts, and one that reads and asks.
///
/// # Errors
/// `Os` when descriptors have run out.
pub fn pair(name: &str) -> Result<(OwnedFd, OwnedFd)> {
    if !crate::fault::leases() || !works() {
        return Err(Error::Os(Errno::NOSYS));
    }
    make(name)
}

/// Certainly nobody has the file open for writing any more.
pub fn is_unwritten(reader: BorrowedFd<'_>) -> bool {
    lease(reader) == Ok(())
}

fn make(name: &str) -> Result<(OwnedFd, OwnedFd)> {
    let memfd = memfd::empty(name, MemfdFlags::empty())?;
    let (writer, reader) = (reopen(&memfd, OFlags::RDWR)?, reopen(&memfd, OFlags::RDONLY)?);
    // SAFETY: a plain system call on an open descriptor.
    let set = unsafe { libc::fcntl(reader.as_raw_fd(), F_SETSIG, libc::SIGURG) };
    if set == -1 {
        return Err(Error::Os(Errno::PERM));
    }
    Ok((writer, reader))
}

fn reopen(memfd: &OwnedFd, how: OFlags) -> Result<OwnedFd> {
    let fd = procfs::reopen(memfd.as_fd(), how)?;
    match memfd::identity(&fd)? == memfd::identity(memfd)? {
        true => Ok(fd),
        false => Err(Error::Os(Errno::NOENT)),
    }
}

fn lease(reader: BorrowedFd<'_>) -> std::result::Result<(), Errno> {
    // SAFETY: plain system calls on an open descriptor.
    unsafe {
        if libc::fcntl(reader.as_raw_fd(), libc::F_SETLEASE, libc::F_RDLCK) == -1 {
            return Err(Errno::from_raw_os_error(*libc::__errno_location()));
        }
        libc::fcntl(reader.as_raw_fd(), libc::F_SETLEASE, libc::F_UNLCK);
    }
    Ok(())
}

/// Do leases tell the truth here? Found out once in a process; what may pass (no descriptor left)
/// is tried again.
fn works() -> bool {
    const YES: u8 = 1;
    const NO: u8 = 2;
    static WORKS: AtomicU8 = AtomicU8::new(0);
    match WORKS.load(Ordering::Relaxed) {
        0 => match trial() {
            Err(Error::Os(Errno::MFILE | Errno::NFILE) | Error::OutOfMemory) => false,
            found => {
                let works = found == Ok(true);
                WORKS.store(if works { YES } else { NO }, Ordering::Relaxed);
                works
            }
        },
        known => known == YES,
    }
}

fn trial() -> Result<bool> {
    let (writer, reader) = make("fastmp-trial")?;
    let open = lease(reader.as_fd()) == Err(Errno::AGAIN);
    let mapping = Mapping::inert(&writer)?;
    drop(writer);
    let mapped = lease(reader.as_fd()) == Err(Errno::AGAIN);
    drop(mapping);
    Ok(open && mapped && is_unwritten(reader.as_fd()))
}
