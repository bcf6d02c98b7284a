//! A shared mapping that can be made private where it is, at once and under the eyes of other
//! threads that read and write it: for memory that a forked child must not share.
//!
//! Beside the shared mapping there is a private one of the same bytes, its *twin*, which nobody
//! touches, so that it takes address space and no memory. To make the memory private the twin is
//! moved to where the shared mapping is: one call, in which the kernel takes the one away and puts
//! the other there while all who come by wait. What was written before is in the pages, what is
//! written from then on is in copies of them. Then every page is copied. From there on nothing of
//! it depends on the segment's bytes, and a fork treats it as any private memory.
//!
//! Why so: to copy the bytes elsewhere and put the copy there would lose what other threads write
//! in between. And no descriptor is needed, which may be closed long since.
//!
//! The kernel takes the shared one away first, and looks then whether it has what moving the twin
//! takes: some hundred bytes, which it may lack. That would leave a hole under the program's feet,
//! in which whatever is mapped next would lie. So a move that has failed is looked after: what is
//! missing is moved there again, and if the kernel keeps refusing the process ends.
//!
//! A twin must have no pages of its own when it is moved: a copy that was made before would be old.
//! Where a program has all that it maps locked in memory the kernel would make them at once. So a
//! twin may not be looked at until then, and is not locked.
#![allow(unsafe_code)]

use std::hint::black_box;
use std::os::fd::AsFd;
use std::ptr::NonNull;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU8, Ordering};

use rustix::io::Errno;
use rustix::mm::{
    Advice, MapFlags, MprotectFlags, MremapFlags, MsyncFlags, ProtFlags, madvise, mmap, mprotect, mremap_fixed, msync,
    munlock, munmap,
};

use crate::error::{Error, Result};
use crate::sys::mapping::Mapping;

const PAGE: usize = 4096;
/// So often a twin is moved to where nothing is any more.
const MOVES: usize = 100;

/// See the module. Unmapped on drop.
#[derive(Debug)]
pub struct TwinMapping {
    /// The shared one; after the change, what has taken its place.
    mapping: Mapping,
    twin: NonNull<u8>,
    /// Has the twin been moved, or did the kernel refuse to?
    moved: OnceLock<bool>,
}

// SAFETY: `twin` is an address, used by whoever sets `moved`, once, and by the drop.
unsafe impl Send for TwinMapping {}
// SAFETY: as above; the rest is as `Mapping`.
unsafe impl Sync for TwinMapping {}

impl TwinMapping {
    /// Map `len` bytes (a multiple of the page size) at `offset` of the segment, as for
    /// [`Mapping::new`].
    ///
    /// # Errors
    /// `OutOfMemory`, also where the kernel limits what is mapped; `Os`.
    pub fn new(fd: impl AsFd, offset: u64, len: usize) -> Result<TwinMapping> {
        if cfg!(miri) || !len.is_multiple_of(PAGE) {
            return Err(Error::OutOfMemory);
        }
        let mapping = Mapping::aligned(&fd, offset, len)?;
        // What it will hold it takes the place of: no more memory is promised than is there.
        let flags = MapFlags::PRIVATE | MapFlags::NORESERVE;
        // SAFETY: a null hint lets the kernel choose a range that nothing else uses.
        let twin = unsafe { mmap(std::ptr::null_mut(), len, ProtFlags::empty(), flags, fd, offset) }?;
        let twin = NonNull::new(twin.cast()).ok_or(Error::OutOfMemory)?;
        Ok(TwinMapping { mapping, twin, moved: OnceLock::new() })
    }

    /// Bytes mapped.
    pub fn len(&self) -> usize {
        self.mapping.len()
    }

    /// Nothing mapped? (Never: the kernel refuses it.)
    pub fn is_empty(&self) -> bool {
        self.mapping.is_empty()
    }

    /// Where the range `offset..offset + len` is, before and after the change.
    ///
    /// # Errors
    /// `Corrupted` if that is not inside.
    pub fn range(&self, offset: usize, len: usize) -> Result<NonNull<u8>> {
        self.mapping.range(offset, len)
    }

    /// Copy bytes out from `offset`.
    ///
    /// # Errors
    /// `Corrupted` if that is not inside.
    pub fn read(&self, offset: usize, to: &mut [u8]) -> Result<()> {
        self.mapping.read(offset, to)
    }

    /// The mapping, while the bytes are the segment's.
    pub fn shared(&self) -> Option<&Mapping> {
        (self.moved.get() != Some(&true)).then_some(&self.mapping)
    }

    /// Make the memory this process's own, then call `then`: the segment's bytes may become
    /// anything. Once: whoever comes at the same time waits, and `then` of who comes later is not
    /// called. False: the kernel refuses, and all is as before.
    pub fn make_private(&self, then: impl FnOnce()) -> bool {
        let make = || {
            let moved = self.move_twin();
            if moved {
                then();
            }
            moved
        };
        *self.moved.get_or_init(make)
    }

    fn move_twin(&self) -> bool {
        let (twin, len, to) = (self.twin.as_ptr().cast(), self.len(), self.base().as_ptr().cast());
        // SAFETY: the twin is ours, and nobody looks at it. It then takes the place of the shared
        // mapping, with the same bytes: who looks at that notices nothing.
        unsafe {
            let _ = munlock(twin, len);
            if mprotect(twin, len, MprotectFlags::READ | MprotectFlags::WRITE).is_err() {
                return false;
            }
            for _ in 0..MOVES {
                if mremap_fixed(twin, len, len, MremapFlags::MAYMOVE, to).is_ok() {
                    self.copy_pages();
                    return true;
                }
                // It writes nothing of memory that has no disk behind it.
                if msync(to, len, MsyncFlags::ASYNC) != Err(Errno::NOMEM) {
                    return false;
                }
                std::thread::yield_now();
            }
        }
        std::process::abort();
    }

    /// Have the kernel copy each page that is still the segment's, as a write to it does. Others
    /// may be writing.
    fn copy_pages(&self) {
        let base = self.base();
        // SAFETY: inside of our mapping; it changes no byte.
        if unsafe { madvise(base.as_ptr().cast(), self.len(), Advice::LinuxPopulateWrite) }.is_ok() {
            return;
        }
        // Linux before 5.14, and stand-ins for it.
        for at in (0..self.len()).step_by(PAGE) {
            // SAFETY: inside of our mapping; bytes may be looked at as atomics. The compiler does
            // not know that nothing is added, or it would not write.
            unsafe { AtomicU8::from_ptr(base.add(at).as_ptr()) }.fetch_add(black_box(0), Ordering::Relaxed);
        }
    }

    /// Nobody in this process may look at the memory any more: who does dies of it.
    pub fn forbid(&self) {
        // SAFETY: our mapping.
        if unsafe { mprotect(self.base().as_ptr().cast(), self.len(), MprotectFlags::empty()) }.is_err() {
            std::process::abort();
        }
    }

    fn base(&self) -> NonNull<u8> {
        // An empty range is inside of any mapping.
        self.mapping.range(0, 0).unwrap_or(NonNull::dangling())
    }
}

impl Drop for TwinMapping {
    fn drop(&mut self) {
        if self.shared().is_some() {
            // SAFETY: mapped by `new`, not moved, and never shown to anybody.
            let _ = unsafe { munmap(self.twin.as_ptr().cast(), self.mapping.len()) };
        }
    }
}
