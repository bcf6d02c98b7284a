//! Stand-ins for the system calls that Miri does not know, so that it can check all that is done
//! with the memory.
//!
//! A segment is a temporary file, of which Miri has descriptors, sizes and inodes. What of it was
//! ever mapped is on the heap, a piece for each range, the same one each time; what was only
//! written so far is in the file.
#![allow(unsafe_code)]

use std::alloc::{Layout, alloc_zeroed};
use std::collections::BTreeMap;
use std::ffi::c_void;
use std::fs::File;
use std::io::{IoSlice, IoSliceMut};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Condvar, Mutex};
use std::time::Duration;

use rustix::event::{PollFd, Timespec};
use rustix::fs::{FallocateFlags, MemfdFlags, SealFlags};
use rustix::io::{Errno, Result};
use rustix::mm::{MapFlags, ProtFlags};
use rustix::net::{
    AddressFamily, Protocol, RecvAncillaryBuffer, RecvFlags, RecvMsg, SendAncillaryBuffer, SendFlags, SocketFlags,
    SocketType,
};

use crate::deadline::now;
use crate::sys::futex::Parked;

type FileId = (u64, u64);

struct Piece {
    at: *mut u8,
    len: usize,
}

// SAFETY: shared memory, handled as the kernel's would be.
unsafe impl Send for Piece {}

/// By file and offset. They live as long as the process.
static PIECES: Mutex<BTreeMap<(FileId, u64), Piece>> = Mutex::new(BTreeMap::new());
static FILES: AtomicU32 = AtomicU32::new(0);

pub fn memfd_create(name: &str, _flags: MemfdFlags) -> Result<OwnedFd> {
    let number = FILES.fetch_add(1, Ordering::Relaxed);
    let path = std::env::temp_dir().join(format!("{name}-{}-{number}", std::process::id()));
    let file = File::options().read(true).write(true).create_new(true).open(&path).map_err(|_| Errno::MFILE)?;
    let _ = std::fs::remove_file(path);
    Ok(file.into())
}

pub struct Stat {
    pub st_dev: u64,
    pub st_ino: u64,
    pub st_size: i64,
    pub st_blocks: i64,
}

fn file_of(fd: impl AsFd) -> Result<(File, FileId)> {
    let file = File::from(fd.as_fd().try_clone_to_owned().map_err(|_| Errno::BADF)?);
    let it = file.metadata().map_err(|_| Errno::BADF)?;
    Ok((file, (it.dev(), it.ino())))
}

/// Where a byte is and how many follow it there: in a piece; or in the file, up to the next piece.
fn find(pieces: &BTreeMap<(FileId, u64), Piece>, file: FileId, offset: u64) -> (Option<*mut u8>, usize) {
    match pieces.range((file, 0)..=(file, offset)).next_back() {
        Some((&(_, start), piece)) if start + piece.len as u64 > offset => {
            let skip = (offset - start) as usize;
            // SAFETY: inside the piece.
            (Some(unsafe { piece.at.add(skip) }), piece.len - skip)
        }
        _ => match pieces.range((file, offset)..=(file, u64::MAX)).next() {
            Some((&(_, start), _)) => (None, (start - offset) as usize),
            None => (None, usize::MAX),
        },
    }
}

pub fn pwrite(fd: impl AsFd, bytes: &[u8], offset: u64) -> Result<usize> {
    let (file, id) = file_of(fd)?;
    let pieces = PIECES.lock().map_err(|_| Errno::DEADLK)?;
    let (at, room) = find(&pieces, id, offset);
    let bytes = &bytes[..bytes.len().min(room)];
    let Some(at) = at else { return file.write_at(bytes, offset).map_err(|_| Errno::IO) };
    if file.metadata().map_err(|_| Errno::BADF)?.size() < offset + bytes.len() as u64 {
        file.set_len(offset + bytes.len() as u64).map_err(|_| Errno::IO)?;
    }
    // SAFETY: there is room for them, and they are not in a piece themselves.
    unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), at, bytes.len()) };
    Ok(bytes.len())
}

pub fn pread(fd: impl AsFd, bytes: &mut [u8], offset: u64) -> Result<usize> {
    let (file, id) = file_of(fd)?;
    let pieces = PIECES.lock().map_err(|_| Errno::DEADLK)?;
    let (at, room) = find(&pieces, id, offset);
    let len = bytes.len().min(room);
    let Some(at) = at else { return file.read_at(&mut bytes[..len], offset).map_err(|_| Errno::IO) };
    // SAFETY: as above, the other way round.
    unsafe { std::ptr::copy_nonoverlapping(at, bytes.as_mut_ptr(), len) };
    Ok(len)
}

pub fn fstat(fd: impl AsFd) -> Result<Stat> {
    let file = File::from(fd.as_fd().try_clone_to_owned().map_err(|_| Errno::BADF)?);
    let it = file.metadata().map_err(|_| Errno::BADF)?;
    Ok(Stat { st_dev: it.dev(), st_ino: it.ino(), st_size: it.size() as i64, st_blocks: it.blocks() as i64 })
}

pub fn ftruncate(fd: impl AsFd, len: u64) -> Result<()> {
    let file = File::from(fd.as_fd().try_clone_to_owned().map_err(|_| Errno::BADF)?);
    file.set_len(len).map_err(|_| Errno::INVAL)
}

pub fn fcntl_add_seals(_fd: impl AsFd, _seals: SealFlags) -> Result<()> {
    Ok(())
}

pub fn fcntl_get_seals(_fd: impl AsFd) -> Result<SealFlags> {
    Ok(SealFlags::SHRINK | SealFlags::SEAL)
}

/// Makes the file longer; what is punched out keeps its bytes.
pub fn fallocate(fd: impl AsFd, flags: FallocateFlags, offset: u64, len: u64) -> Result<()> {
    let end = offset + len;
    if flags.contains(FallocateFlags::KEEP_SIZE) || fstat(&fd)?.st_size as u64 >= end {
        return Ok(());
    }
    ftruncate(fd, end)
}

/// One bell for all that sleep on a 64-bit word: waking up in vain is allowed.
static BELL: (Mutex<()>, Condvar) = (Mutex::new(()), Condvar::new());

pub fn park(word: &AtomicU64, low: u32, until: u64) -> crate::Result<Parked> {
    let gate = BELL.0.lock().map_err(|_| crate::Error::Interrupted)?;
    // As the kernel's look, this is ordered with wake-ups by the lock.
    let left = until.saturating_sub(now());
    if word.load(Ordering::SeqCst) as u32 != low {
        return Ok(Parked::Woken);
    }
    match BELL.1.wait_timeout(gate, Duration::from_nanos(left)) {
        Ok((_, waited)) if waited.timed_out() => Ok(Parked::TimedOut),
        _ => Ok(Parked::Woken),
    }
}

pub fn unpark(_n: u32) {
    let _gate = BELL.0.lock();
    BELL.1.notify_all();
}

/// A pair of streams: the packets that are sent here are of one byte.
pub fn socketpair(
    family: AddressFamily,
    _kind: SocketType,
    flags: SocketFlags,
    protocol: Option<Protocol>,
) -> Result<(OwnedFd, OwnedFd)> {
    // The calls' own flags are not looked at here.
    rustix::net::socketpair(family, SocketType::STREAM, flags | SocketFlags::NONBLOCK, protocol)
}

pub fn send(fd: impl AsFd, bytes: &[u8], _flags: SendFlags) -> Result<usize> {
    rustix::io::write(fd, bytes)
}

pub fn recv(fd: impl AsFd, bytes: &mut [u8], _flags: RecvFlags) -> Result<(usize, usize)> {
    rustix::io::read(fd, bytes).map(|n| (n, n))
}

/// Descriptors do not travel.
pub fn sendmsg(
    _fd: impl AsFd,
    _bytes: &[IoSlice<'_>],
    _control: &mut SendAncillaryBuffer<'_, '_, '_>,
    _flags: SendFlags,
) -> Result<usize> {
    Err(Errno::NOSYS)
}

pub fn recvmsg(
    _fd: impl AsFd,
    _bytes: &mut [IoSliceMut<'_>],
    _control: &mut RecvAncillaryBuffer<'_>,
    _flags: RecvFlags,
) -> Result<RecvMsg> {
    Err(Errno::NOSYS)
}

/// Nobody can sleep on a socket.
pub fn poll(_fds: &mut [PollFd<'_>], _timeout: Option<&Timespec>) -> Result<usize> {
    Err(Errno::NOSYS)
}

/// # Safety
/// None is needed: `hint` is not looked at.
pub unsafe fn mmap(
    _hint: *mut c_void,
    len: usize,
    _prot: ProtFlags,
    _flags: MapFlags,
    fd: impl AsFd,
    offset: u64,
) -> Result<*mut c_void> {
    let (written, file) = file_of(fd)?;
    let mut pieces = PIECES.lock().map_err(|_| Errno::DEADLK)?;
    let (there, room) = find(&pieces, file, offset);
    assert!(len <= room, "one mapping lies across the end of another");
    if let Some(there) = there {
        return Ok(there.cast());
    }
    let layout = Layout::from_size_align(len, 4096).map_err(|_| Errno::NOMEM)?;
    // SAFETY: not of size zero, which the kernel refuses as well.
    let at = unsafe { alloc_zeroed(layout) };
    if at.is_null() {
        return Err(Errno::NOMEM);
    }
    // SAFETY: made just now, and zeroed.
    let bytes = unsafe { std::slice::from_raw_parts_mut(at, len) };
    let mut read = 0;
    while let Ok(n @ 1..) = written.read_at(&mut bytes[read..], offset + read as u64) {
        read += n;
    }
    pieces.insert((file, offset), Piece { at, len });
    Ok(at.cast())
}

/// # Safety
/// None is needed: nothing happens.
pub unsafe fn munmap(_at: *mut c_void, _len: usize) -> Result<()> {
    Ok(())
}
