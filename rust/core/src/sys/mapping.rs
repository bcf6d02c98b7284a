//! A shared mapping of a segment. It hands out no slices: a peer may write at any time, so `&[u8]`
//! would lie.
#![allow(unsafe_code)]

use std::ffi::c_void;
use std::os::fd::AsFd;
use std::ptr::NonNull;

use rustix::io::Errno;
use rustix::mm::{
    Advice, MapFlags, MprotectFlags, MremapFlags, ProtFlags, madvise, mmap_anonymous, mprotect, mremap, munlock,
};
#[cfg(not(miri))]
use rustix::mm::{mmap, munmap};

use crate::error::{Error, Result};
#[cfg(miri)]
use crate::sys::miri::{mmap, munmap};
use crate::sys::streaming;

/// Bytes of a huge page, and where in memory one may begin.
pub const HUGE: u64 = 2 << 20;
/// Since Linux 6.1; rustix has no name for it.
const MADV_COLLAPSE: libc::c_int = 25;

/// Mapped shared memory, unmapped on drop.
#[derive(Debug)]
pub struct Mapping {
    base: NonNull<u8>,
    len: usize,
}

// SAFETY: the mapping is shared memory that any process may touch at any time; all access goes
// through raw copies or through atomics, which do not care for the thread.
unsafe impl Send for Mapping {}
// SAFETY: as above; `Mapping` has no state of its own that changes.
unsafe impl Sync for Mapping {}

impl Mapping {
    /// Map `len` bytes at `offset` (a multiple of the page size) of the segment, for reading and
    /// writing. The caller has made sure that the segment is that long and cannot shrink.
    ///
    /// # Errors
    /// `OutOfMemory`, or `Os`.
    pub fn new(fd: impl AsFd, offset: u64, len: usize) -> Result<Mapping> {
        Self::with(fd, offset, len, ProtFlags::READ | ProtFlags::WRITE)
    }

    /// The same, where huge pages show as such: at a multiple of their size, as `offset` is one.
    ///
    /// # Errors
    /// `OutOfMemory`, or `Os`.
    pub fn aligned(fd: impl AsFd, offset: u64, len: usize) -> Result<Mapping> {
        if cfg!(miri) || !offset.is_multiple_of(HUGE) || (len as u64) < HUGE {
            return Self::new(fd, offset, len);
        }
        Self::at(aligned_gap(len), fd, offset, len, ProtFlags::READ | ProtFlags::WRITE)
    }

    /// The same, of a range that is mostly holes. Whoever looks at a hole fills it for good. So a
    /// core dump leaves such a mapping out, and a program that has all that it maps locked in
    /// memory (`mlockall`) has not this.
    ///
    /// # Errors
    /// `OutOfMemory`, or `Os`.
    pub fn sparse(fd: impl AsFd, offset: u64, len: usize) -> Result<Mapping> {
        if cfg!(miri) {
            return Self::new(fd, offset, len);
        }
        // Not to be looked at as yet: else it would be filled before its lock can be taken away.
        let mapping = Self::with(fd, offset, len, ProtFlags::empty())?;
        let base = mapping.base.as_ptr().cast();
        // SAFETY: our mapping, which nobody else knows as yet.
        unsafe {
            let _ = munlock(base, len);
            mprotect(base, len, MprotectFlags::READ | MprotectFlags::WRITE)?;
            let _ = madvise(base, len, Advice::LinuxDontDump);
        }
        Ok(mapping)
    }

    /// The same, for an onlooker: reading only.
    ///
    /// # Errors
    /// `OutOfMemory`, or `Os`.
    pub fn read_only(fd: impl AsFd, offset: u64, len: usize) -> Result<Mapping> {
        Self::with(fd, offset, len, ProtFlags::READ)
    }

    /// One page of any file, never to be touched: it holds the file open, over forks and when its
    /// descriptors are closed.
    ///
    /// # Errors
    /// `OutOfMemory`, or `Os`.
    pub fn inert(fd: impl AsFd) -> Result<Mapping> {
        Self::with(fd, 0, 4096, ProtFlags::empty())
    }

    fn with(fd: impl AsFd, offset: u64, len: usize, prot: ProtFlags) -> Result<Mapping> {
        Self::at(std::ptr::null_mut(), fd, offset, len, prot)
    }

    fn at(hint: *mut c_void, fd: impl AsFd, offset: u64, len: usize, prot: ProtFlags) -> Result<Mapping> {
        // SAFETY: whatever the hint, the kernel chooses a range that nothing else uses.
        let base = unsafe { mmap(hint, len, prot, MapFlags::SHARED, fd, offset) };
        let base = match base {
            // More than this process may lock, and it has all that it maps locked.
            Err(Errno::AGAIN) => return Err(Error::OutOfMemory),
            base => base?,
        };
        let base = NonNull::new(base.cast()).ok_or(Error::OutOfMemory)?;
        Ok(Mapping { base, len })
    }

    /// The same memory mapped once more, without its descriptor.
    ///
    /// # Errors
    /// `OutOfMemory`, or `Os`.
    pub fn again(&self) -> Result<Mapping> {
        // SAFETY: of a shared mapping nothing is taken away where no old length is given; the
        // kernel chooses a range that nothing else uses.
        let base = unsafe { mremap(self.base.as_ptr().cast(), 0, self.len, MremapFlags::MAYMOVE) }?;
        let base = NonNull::new(base.cast()).ok_or(Error::OutOfMemory)?;
        Ok(Mapping { base, len: self.len })
    }

    /// Give the pages of the first `len` bytes back to the system, for all who have the segment, as
    /// [`punch`](super::memfd::punch) does by the descriptor. False: refused.
    pub fn punch(&self, len: usize) -> bool {
        let len = len.min(self.len);
        // SAFETY: inside of our mapping. What others have there may become anything at any time.
        unsafe { madvise(self.base.as_ptr().cast(), len, Advice::LinuxRemove) }.is_ok()
    }

    /// Have pages in `offset..offset + len`, a range of whole ones of which nobody uses any yet, as
    /// [`reserve_own`](super::memfd::reserve_own) does by the descriptor. False: refused, or the
    /// kernel is older than 5.14.
    pub fn populate(&self, offset: usize, len: usize) -> bool {
        let Ok(at) = self.range(offset, len) else { return false };
        // SAFETY: inside of our mapping. What others have there is left as it is.
        unsafe { madvise(at.as_ptr().cast(), len, Advice::LinuxPopulateWrite) }.is_ok()
    }

    /// Have `offset..offset + len` of an [`aligned`](Self::aligned) mapping on huge pages: both are
    /// multiples of [`HUGE`], and there is a page in each. The pages that are there are moved, those
    /// that are missing made. False: refused, in part perhaps; the bytes are as they were.
    ///
    /// The kernel does so whatever its settings say of huge pages unasked for, but for `deny`.
    pub fn collapse(&self, offset: usize, len: usize) -> bool {
        let Ok(at) = self.range(offset, len) else { return false };
        // SAFETY: inside of our mapping, of which no byte changes.
        !cfg!(miri) && unsafe { libc::madvise(at.as_ptr().cast(), len, MADV_COLLAPSE) } == 0
    }

    /// Bytes mapped.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Nothing mapped? (Never: the kernel refuses it.)
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Where the range `offset..offset + len` is, if it is inside.
    ///
    /// # Errors
    /// `Corrupted` if that is not inside.
    pub fn range(&self, offset: usize, len: usize) -> Result<NonNull<u8>> {
        match offset.checked_add(len) {
            // SAFETY: offset <= self.len, so the result is inside the mapping or one past its end.
            Some(end) if end <= self.len => Ok(unsafe { self.base.add(offset) }),
            _ => Err(Error::Corrupted("an offset points outside its segment")),
        }
    }

    /// Copy bytes in at `offset`, for others to read.
    ///
    /// # Errors
    /// `Corrupted` if that is not inside.
    pub fn write(&self, offset: usize, bytes: &[u8]) -> Result<()> {
        let to = self.range(offset, bytes.len())?;
        // SAFETY: `to` is valid for bytes.len() bytes, and private memory never overlaps a mapping.
        unsafe { streaming::hand_over(bytes.as_ptr(), to.as_ptr(), bytes.len()) };
        Ok(())
    }

    /// Copy bytes out from `offset`, past the caches: see `streaming`.
    ///
    /// # Errors
    /// `Corrupted` if that is not inside.
    pub fn read_over(&self, offset: usize, to: &mut [u8]) -> Result<()> {
        let from = self.range(offset, to.len())?;
        // SAFETY: as in `write`, the other way round.
        unsafe { streaming::copy(from.as_ptr(), to.as_mut_ptr(), to.len()) };
        Ok(())
    }

    /// Copy bytes out from `offset`, onto the end of `to`.
    ///
    /// # Errors
    /// `Corrupted` if that is not inside.
    pub fn append_to(&self, offset: usize, len: usize, to: &mut Vec<u8>) -> Result<()> {
        let from = self.range(offset, len)?;
        to.reserve(len);
        // SAFETY: `from` is valid for len bytes, the vector has room for len more, and the bytes
        // are initialised before the length covers them.
        unsafe {
            std::ptr::copy_nonoverlapping(from.as_ptr(), to.as_mut_ptr().add(to.len()), len);
            to.set_len(to.len() + len);
        }
        Ok(())
    }

    /// Copy bytes out from `offset`.
    ///
    /// # Errors
    /// `Corrupted` if that is not inside.
    pub fn read(&self, offset: usize, to: &mut [u8]) -> Result<()> {
        let from = self.range(offset, to.len())?;
        // SAFETY: as in `write`, the other way round.
        unsafe { std::ptr::copy_nonoverlapping(from.as_ptr(), to.as_mut_ptr(), to.len()) };
        Ok(())
    }

    /// Zero a range.
    ///
    /// # Errors
    /// `Corrupted` if that is not inside.
    pub fn zero(&self, offset: usize, len: usize) -> Result<()> {
        let at = self.range(offset, len)?;
        // SAFETY: `at` is valid for len bytes.
        unsafe { std::ptr::write_bytes(at.as_ptr(), 0, len) };
        Ok(())
    }
}

/// Where nothing was a moment ago in `len` bytes from a multiple of [`HUGE`] on; null: unknown.
fn aligned_gap(len: usize) -> *mut c_void {
    let Some(wide) = len.checked_add(HUGE as usize) else { return std::ptr::null_mut() };
    // SAFETY: a null hint lets the kernel choose a range that nothing else uses, and that range is
    // given back before anybody knows of it.
    unsafe {
        match mmap_anonymous(std::ptr::null_mut(), wide, ProtFlags::empty(), MapFlags::PRIVATE | MapFlags::NORESERVE) {
            Ok(gap) if munmap(gap, wide).is_ok() => gap.wrapping_byte_add(gap.align_offset(HUGE as usize)),
            _ => std::ptr::null_mut(),
        }
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: this range was mapped by `new` and nothing borrowed from it outlives self.
        let _ = unsafe { munmap(self.base.as_ptr().cast(), self.len) };
    }
}
