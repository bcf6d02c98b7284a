//! Nameless segments: memfds that cannot shrink, with their pages reserved.

use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::{
    FallocateFlags, MemfdFlags, SealFlags, fallocate, fcntl_add_seals, fcntl_get_seals, fstat, ftruncate, memfd_create,
};
use rustix::io::Errno;

use crate::error::{Error, Result};

/// Reservations from here on are compared with what is left, which costs some 30 us.
const LARGE: u64 = 64 << 20;

/// Bytes reserved by one system call, at first and when signals keep interrupting it.
const FIRST_STEP: u64 = 64 << 20;
const LAST_STEP: u64 = 64 << 10;

/// A segment of `bytes`, zeroed, close-on-exec, its pages reserved, sealed against shrinking and against
/// further seals. `name` shows in `/proc/PID/fd`.
///
/// # Errors
/// `OutOfMemory` when the kernel refuses the pages; `Os` when descriptors have run out.
pub fn create(name: &str, bytes: u64) -> Result<OwnedFd> {
    let fd = memfd_create(name, MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)?;
    reserve(&fd, 0, bytes)?;
    // SEAL also keeps a peer from stopping growth with F_SEAL_GROW.
    fcntl_add_seals(&fd, SealFlags::SHRINK | SealFlags::SEAL)?;
    Ok(fd)
}

/// Reserve the pages of a range, growing the segment where it ends before: a refusal comes here and
/// now, never as a SIGBUS later.
///
/// # Errors
/// `OutOfMemory` if the system has not so much.
pub fn reserve(fd: impl AsFd, offset: u64, bytes: u64) -> Result<()> {
    // The kernel does not refuse what it does not have: it kills for it.
    if bytes >= LARGE && memory_left().is_some_and(|left| bytes > left) {
        return Err(Error::OutOfMemory);
    }
    // In steps: a signal undoes the call that it interrupts, and a timer's next one may come before a large call is through.
    let (mut at, end) = (offset, offset.checked_add(bytes).ok_or(Error::OutOfMemory)?);
    let mut step = FIRST_STEP;
    while at < end {
        match fallocate(&fd, FallocateFlags::empty(), at, step.min(end - at)) {
            Ok(()) => at += step.min(end - at),
            Err(Errno::INTR) => step = (step / 2).max(LAST_STEP),
            Err(Errno::OPNOTSUPP | Errno::NOSYS | Errno::PERM) => return reserve_by_writing(fd, at, end - at),
            Err(e) => {
                punch(&fd, offset, at - offset);
                return Err(e.into());
            }
        }
    }
    Ok(())
}

/// Bytes that the system could give now, swap included; None: unknown.
fn memory_left() -> Option<u64> {
    let info = std::fs::read_to_string("/proc/meminfo").ok()?;
    let field = |name: &str| {
        let line = info.lines().find_map(|line| line.strip_prefix(name))?;
        line.split_ascii_whitespace().next()?.parse::<u64>().ok()?.checked_mul(1024)
    };
    field("MemAvailable:")?.checked_add(field("SwapFree:")?)
}

/// Make the segment longer without reserving pages.
///
/// # Errors
/// `OutOfMemory` if the system refuses.
pub fn extend(fd: impl AsFd, bytes: u64) -> Result<()> {
    Ok(ftruncate(fd, bytes)?)
}

/// Where fallocate is not to be had: grow, then write each new page once. Only bytes that were beyond
/// the end are written, so nothing that a peer stored is touched.
fn reserve_by_writing(fd: impl AsFd, offset: u64, bytes: u64) -> Result<()> {
    let (old, end) = (size(&fd)?, offset + bytes);
    if end <= old {
        return Ok(());
    }
    ftruncate(&fd, end)?;
    let zeros = [0u8; 4096];
    let mut at = old.max(offset);
    while at < end {
        let n = (end - at).min(zeros.len() as u64) as usize;
        at += rustix::io::pwrite(&fd, &zeros[..n], at)? as u64;
    }
    Ok(())
}

/// Give the pages of a range back to the system; the segment keeps its size.
pub fn punch(fd: impl AsFd, offset: u64, bytes: u64) {
    // Refusal costs memory, never correctness.
    let _ = fallocate(fd, FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE, offset, bytes);
}

/// The segment's size, in bytes.
///
/// # Errors
/// `Os` (EBADF) if it is not open.
pub fn size(fd: impl AsFd) -> Result<u64> {
    Ok(fstat(fd)?.st_size as u64)
}

/// What tells one segment from another: (device, inode).
///
/// # Errors
/// `Os` (EBADF) if it is not open.
pub fn identity(fd: impl AsFd) -> Result<(u64, u64)> {
    let stat = fstat(fd)?;
    Ok((stat.st_dev, stat.st_ino))
}

/// Refuse a descriptor that is no sealed segment: a peer could shrink it under our feet.
///
/// # Errors
/// `Corrupted` if it may shrink, or is no memfd.
pub fn check(fd: impl AsFd) -> Result<()> {
    match fcntl_get_seals(fd) {
        Ok(seals) if seals.contains(SealFlags::SHRINK) => Ok(()),
        _ => Err(Error::Corrupted("the descriptor is no sealed fastmp segment")),
    }
}
