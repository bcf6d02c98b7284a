//! The one place where shared bytes become typed references.
//!
//! Every object starts with a [`Header`] that tells its kind, format version, size, creator and
//! creation time, so that an onlooker with a read-only mapping can tell what it sees. Everything
//! here is atomics: any bit pattern is a valid value, a peer may change it at any time, and nothing
//! read from it is believed unchecked.
#![allow(unsafe_code)]

use std::ptr::NonNull;
use std::sync::Arc;

use rustix::time::{ClockId, clock_gettime};

use crate::error::{Error, Result};
use crate::facade::{AtomicU32, AtomicU64, Ordering};
use crate::overlay;
use crate::overlays::Overlay;
use crate::sys::liveness::{Owner, me};
use crate::sys::mapping::Mapping;

/// "fmp1", as a little-endian number.
const MAGIC: u32 = 0x3170_6d66;
/// Changes whenever the meaning of any shared word does.
pub const VERSION: u16 = 1;

/// What an object is.
#[repr(u16)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A segment that holds many small objects.
    Arena = 1,
    /// A lock, recursive or not.
    Lock = 2,
    /// A semaphore.
    Semaphore = 3,
    /// An event.
    Event = 4,
    /// Plain memory.
    Memory = 5,
    /// A queue.
    Queue = 6,
    /// A pipe: two rings.
    Pipe = 7,
    /// A condition and its slots.
    Condition = 8,
    /// A barrier and its places.
    Barrier = 9,
    /// A semaphore that knows its holders.
    RobustSemaphore = 10,
    /// A broadcast.
    Broadcast = 11,
    /// The memory file of a queue or a pipe.
    File = 12,
}

/// A handle to this object has left without a token (see the arena).
const EXPORTED: u32 = 1 << 15;
/// It has more pages than it had at first.
const GROWN: u32 = 1 << 14;

overlay! {
    /// The first bytes of every object.
    #[derive(Debug)]
    pub struct Header {
        magic: AtomicU32,
        /// Low half: kind, [`EXPORTED`], [`GROWN`]. High half: version.
        kind: AtomicU32,
        /// Bytes after the header.
        size: AtomicU64,
        /// The creating process, as in a lock word.
        creator: AtomicU64,
        /// Nanoseconds since 1970.
        created: AtomicU64,
    }
}

impl Header {
    /// Bytes that it takes.
    pub const BYTES: usize = size_of::<Header>();

    /// Say what follows. The magic number is stored last: a header is whole or not there.
    pub fn write(&self, kind: Kind, size: u64) {
        let t = clock_gettime(ClockId::RealtimeCoarse);
        self.kind.store(u32::from(VERSION) << 16 | kind as u32, Ordering::Relaxed);
        self.size.store(size, Ordering::Relaxed);
        self.creator.store(me().word(), Ordering::Relaxed);
        self.created.store(t.tv_sec as u64 * 1_000_000_000 + t.tv_nsec as u64, Ordering::Relaxed);
        // Release: with the load in `check`.
        self.magic.store(MAGIC, Ordering::Release);
    }

    /// Make the object unrecognisable: its memory is about to serve something else.
    pub fn erase(&self) {
        self.magic.store(0, Ordering::Release);
    }

    /// The object's size, if this is a `kind` of this version.
    ///
    /// # Errors
    /// `Corrupted` if it is none.
    pub fn check(&self, kind: Kind) -> Result<u64> {
        // Acquire: with the store in `write`.
        if self.magic.load(Ordering::Acquire) != MAGIC {
            return Err(Error::Corrupted("no fastmp object is there"));
        }
        let found = self.kind.load(Ordering::Relaxed);
        if found >> 16 != u32::from(VERSION) {
            return Err(Error::Corrupted("made by another version of fastmp"));
        }
        if found & 0xffff & !(EXPORTED | GROWN) != kind as u32 {
            return Err(Error::Corrupted("an object of another kind is there"));
        }
        Ok(self.size.load(Ordering::Relaxed))
    }

    /// A handle is leaving without a token: says so to the object's maker.
    pub fn export(&self) {
        self.kind.fetch_or(EXPORTED, Ordering::Relaxed);
    }

    /// Has any process ever given a handle away without a token?
    pub fn is_exported(&self) -> bool {
        self.kind.load(Ordering::Relaxed) & EXPORTED != 0
    }

    /// It is about to be given pages that it did not have at first.
    pub fn grow(&self) {
        if !self.has_grown() {
            self.kind.fetch_or(GROWN, Ordering::Relaxed);
        }
    }

    /// Has it ever been given more pages?
    pub fn has_grown(&self) -> bool {
        self.kind.load(Ordering::Relaxed) & GROWN != 0
    }

    /// Who made it.
    pub fn creator(&self) -> Option<Owner> {
        Owner::in_word(self.creator.load(Ordering::Relaxed))
    }

    /// When, in nanoseconds since 1970.
    pub fn created(&self) -> u64 {
        self.created.load(Ordering::Relaxed)
    }
}

/// A view of the `T` at `offset` bytes into `mapping`.
///
/// # Errors
/// `Corrupted` if it would not be inside, or is misaligned.
pub fn view<T: Overlay>(mapping: &Mapping, offset: usize) -> Result<&T> {
    let at = place::<T>(mapping, offset, 1)?;
    // SAFETY: inside the mapping, aligned, and valid whatever the bytes (`Overlay`); it lives as
    // long as the mapping.
    Ok(unsafe { at.as_ref() })
}

/// Where `len` of `T` are, if they are inside and aligned.
fn place<T: Overlay>(mapping: &Mapping, offset: usize, len: usize) -> Result<NonNull<T>> {
    let bytes = size_of::<T>().checked_mul(len).ok_or(Error::Corrupted("an impossible length"))?;
    let at = mapping.range(offset, bytes)?.cast::<T>();
    if !at.is_aligned() {
        return Err(Error::Corrupted("a misaligned offset"));
    }
    Ok(at)
}

/// Something that lies in a mapping, and by living keeps what is there from being used for anything
/// else.
pub trait Backing {
    /// The mapping.
    fn mapping(&self) -> &Arc<Mapping>;
}

impl Backing for Arc<Mapping> {
    fn mapping(&self) -> &Arc<Mapping> {
        self
    }
}

/// A `T` in shared memory together with what keeps it there. `T` may be a slice.
#[derive(Debug)]
pub struct Object<T: ?Sized, K> {
    at: NonNull<T>,
    /// Keeps `at` mapped, whatever `keep` does.
    mapping: Arc<Mapping>,
    keep: K,
}

// SAFETY: a reference to atomics (`Overlay`), and what keeps them mapped.
unsafe impl<T: Overlay + ?Sized, K: Send> Send for Object<T, K> {}
// SAFETY: as above.
unsafe impl<T: Overlay + ?Sized, K: Sync> Sync for Object<T, K> {}

impl<T: Overlay, K: Backing> Object<T, K> {
    /// The `T` at `offset` of the backing's mapping.
    ///
    /// # Errors
    /// `Corrupted` if it would not be inside, or is misaligned.
    pub fn new(keep: K, offset: usize) -> Result<Self> {
        let mapping = keep.mapping().clone();
        Ok(Object { at: place(&mapping, offset, 1)?, mapping, keep })
    }
}

impl<U: Overlay, K> Object<[U], K> {
    /// `len` of `U` at `offset` of `mapping`, where `keep` keeps what is there from being used for
    /// anything else.
    ///
    /// # Errors
    /// `Corrupted` if they would not be inside, or are misaligned.
    pub fn slice(mapping: Arc<Mapping>, keep: K, offset: usize, len: usize) -> Result<Self> {
        let at = NonNull::slice_from_raw_parts(place(&mapping, offset, len)?, len);
        Ok(Object { at, mapping, keep })
    }
}

impl<T: ?Sized, K> Object<T, K> {
    /// What keeps it there.
    pub fn backing(&self) -> &K {
        &self.keep
    }

    /// The same `T`, where `keep` keeps what is there from being used for anything else.
    pub fn share<J>(&self, keep: J) -> Object<T, J> {
        Object { at: self.at, mapping: self.mapping.clone(), keep }
    }

    /// The mapping that it lies in.
    pub fn mapping(&self) -> &Mapping {
        &self.mapping
    }
}

impl<T: Overlay + ?Sized, K> std::ops::Deref for Object<T, K> {
    type Target = T;
    #[inline(always)]
    fn deref(&self) -> &T {
        // SAFETY: inside the mapping and aligned, checked by `place` when made; valid whatever the
        // bytes (`Overlay`). `mapping` keeps it mapped, and a mapping never moves.
        unsafe { self.at.as_ref() }
    }
}

/// A `T` and a slice of `U`s right behind it, in shared memory, together with what keeps them
/// there.
#[derive(Debug)]
pub struct WithSlice<T, U, K> {
    head: Object<T, K>,
    slice: Object<[U], ()>,
}

impl<T: Overlay, U: Overlay, K: Backing> WithSlice<T, U, K> {
    /// Bytes that it takes with a slice of `len`; None: more than can be.
    pub fn bytes(len: usize) -> Option<usize> {
        const { assert!(size_of::<T>().is_multiple_of(align_of::<U>())) };
        size_of::<U>().checked_mul(len)?.checked_add(size_of::<T>())
    }

    /// Those at `offset` of the backing's mapping, as long a slice as fits in `bytes`, all told.
    ///
    /// # Errors
    /// `Corrupted` if they would not be inside, or are misaligned.
    pub fn new(keep: K, offset: usize, bytes: usize) -> Result<Self> {
        let head: Object<T, K> = Object::new(keep, offset)?;
        let len = bytes.saturating_sub(size_of::<T>()) / size_of::<U>();
        let slice = Object::slice(head.mapping.clone(), (), offset.saturating_add(size_of::<T>()), len)?;
        Ok(WithSlice { head, slice })
    }

    /// The `T`.
    #[inline]
    pub fn head(&self) -> &T {
        &self.head
    }

    /// The slice.
    #[inline]
    pub fn slice(&self) -> &[U] {
        &self.slice
    }

    /// What keeps it there.
    pub fn backing(&self) -> &K {
        self.head.backing()
    }
}
