//! Nameless segments: memfds that cannot shrink, with their pages reserved.

use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::{FallocateFlags, MemfdFlags, SealFlags};
#[cfg(not(miri))]
use rustix::fs::{fallocate, fcntl_add_seals, fcntl_get_seals, fstat, ftruncate, memfd_create};
use rustix::io::Errno;
#[cfg(not(miri))]
use rustix::io::{pread, pwrite};

use crate::error::{Error, Result};
#[cfg(miri)]
use crate::sys::miri::{fallocate, fcntl_add_seals, fcntl_get_seals, fstat, ftruncate, memfd_create, pread, pwrite};
use crate::sys::{limits, standard};

/// Reservations from here on are compared with what is left, which costs some 30 us.
const LARGE: u64 = 64 << 20;

/// Bytes written by one system call. The kernel locks the whole file meanwhile, against every other
/// that writes, reserves or gives back.
const WRITE_STEP: usize = 1 << 20;

/// Bytes reserved by one system call, at first and when signals keep interrupting it. The lock is
/// the same.
const FIRST_STEP: u64 = 4 << 20;
const LAST_STEP: u64 = 64 << 10;

/// An empty memfd, close-on-exec.
///
/// # Errors
/// `Os` when descriptors have run out.
pub fn empty(name: &str, flags: MemfdFlags) -> Result<OwnedFd> {
    Ok(standard::beside(memfd_create(name, MemfdFlags::CLOEXEC | flags)?)?)
}

/// A segment of `bytes`, zeroed, close-on-exec, its pages reserved, sealed against shrinking and
/// against further seals. `name` shows in `/proc/PID/fd`.
///
/// # Errors
/// `OutOfMemory` when the kernel refuses the pages; `Os` when descriptors have run out.
pub fn create(name: &str, bytes: u64) -> Result<OwnedFd> {
    let fd = empty(name, MemfdFlags::ALLOW_SEALING)?;
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
    reserve_or(fd, offset, bytes, reserve_by_writing)
}

/// The same for a range that nobody else uses.
pub fn reserve_own(fd: impl AsFd, offset: u64, bytes: u64) -> Result<()> {
    reserve_or(fd, offset, bytes, fill_with_zeros)
}

/// Refuse `bytes` that are more than the system has left: it does not refuse them itself, it kills
/// for them.
pub fn check_left(bytes: u64) -> Result<()> {
    match bytes >= LARGE && memory_left().is_some_and(|left| bytes > left) {
        true => Err(Error::OutOfMemory),
        false => Ok(()),
    }
}

/// Refuse what would end beyond the limit on the size of files, before the kernel does.
fn check_end(end: u64) -> Result<()> {
    if end > limits::file_size() { Err(Error::OutOfMemory) } else { Ok(()) }
}

fn reserve_or<F: AsFd>(fd: F, offset: u64, bytes: u64, other: fn(&F, u64, u64) -> Result<()>) -> Result<()> {
    check_left(bytes)?;
    let (mut at, end) = (offset, offset.checked_add(bytes).ok_or(Error::OutOfMemory)?);
    // What makes it no longer is not limited.
    if check_end(end).is_err() && size(&fd)? < end {
        return Err(Error::OutOfMemory);
    }
    // In steps: a signal undoes the call that it interrupts, and a timer's next one may come before
    // a large call is through.
    let mut step = FIRST_STEP;
    while at < end {
        match fallocate(&fd, FallocateFlags::empty(), at, step.min(end - at)) {
            Ok(()) => at += step.min(end - at),
            Err(Errno::INTR) => step = (step / 2).max(LAST_STEP),
            Err(Errno::OPNOTSUPP | Errno::NOSYS | Errno::PERM) => return other(&fd, at, end - at),
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
    check_end(bytes)?;
    Ok(ftruncate(fd, bytes)?)
}

/// Where fallocate is not to be had: grow, then write each new page once. Only bytes that were
/// beyond the end are written, so nothing that a peer stored is touched.
fn reserve_by_writing<F: AsFd>(fd: &F, offset: u64, bytes: u64) -> Result<()> {
    let (old, end) = (size(fd)?, offset + bytes);
    if end <= old {
        return Ok(());
    }
    ftruncate(fd, end)?;
    let at = old.max(offset);
    fill_with_zeros(fd, at, end - at)
}

fn fill_with_zeros<F: AsFd>(fd: &F, offset: u64, bytes: u64) -> Result<()> {
    let zeros = [0u8; 4096];
    let (mut at, end) = (offset, offset + bytes);
    while at < end {
        let n = (end - at).min(zeros.len() as u64);
        write(fd, at, &zeros[..n as usize])?;
        at += n;
    }
    Ok(())
}

/// Copy bytes to `offset`, and make the pages that are missing there.
///
/// # Errors
/// `OutOfMemory` when the kernel refuses the pages.
pub fn write(fd: impl AsFd, offset: u64, bytes: &[u8]) -> Result<()> {
    check_end(offset.checked_add(bytes.len() as u64).ok_or(Error::OutOfMemory)?)?;
    let mut done = 0;
    while done < bytes.len() {
        let end = bytes.len().min(done + WRITE_STEP);
        match pwrite(&fd, &bytes[done..end], offset + done as u64) {
            Ok(0) => return Err(Error::OutOfMemory),
            Ok(n) => done += n,
            Err(Errno::INTR) => (),
            Err(e) => return Err(e.into()),
        }
    }
    Ok(())
}

/// Copy bytes from `offset`.
///
/// # Errors
/// `Corrupted` if the segment ends before.
pub fn read(fd: impl AsFd, offset: u64, to: &mut [u8]) -> Result<()> {
    let mut done = 0;
    while done < to.len() {
        match pread(&fd, &mut to[done..], offset + done as u64) {
            Ok(0) => return Err(Error::Corrupted("an extent outside its segment")),
            Ok(n) => done += n,
            Err(Errno::INTR) => (),
            Err(e) => return Err(e.into()),
        }
    }
    Ok(())
}

/// Make the segment at least that long, without reserving pages. Others may be doing the same.
pub fn extend_to(fd: impl AsFd, bytes: u64) -> Result<()> {
    while size(&fd)? < bytes {
        check_end(bytes)?;
        match ftruncate(&fd, bytes) {
            // It has become longer meanwhile, and cannot shrink.
            Ok(()) | Err(Errno::PERM) => (),
            Err(e) => return Err(e.into()),
        }
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

/// Bytes of the segment that have pages.
///
/// # Errors
/// `Os` (EBADF) if it is not open.
pub fn resident(fd: impl AsFd) -> Result<u64> {
    Ok((fstat(fd)?.st_blocks as u64).saturating_mul(512))
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
