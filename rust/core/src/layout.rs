//! The one place where shared bytes become typed references.
//!
//! Every object starts with a [`Header`] that tells its kind, format version, size, creator and creation time, so
//! that an onlooker with a read-only mapping can tell what it sees. Everything here is atomics: any bit
//! pattern is a valid value, a peer may change it at any time, and nothing read from it is believed unchecked.
#![allow(unsafe_code)]

use std::ptr::NonNull;
use std::sync::Arc;

use rustix::time::{ClockId, clock_gettime};

use crate::error::{Error, Result};
use crate::facade::{AtomicU32, AtomicU64, Ordering};
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
}

/// A handle to this object has left without a token (see the arena).
const EXPORTED: u32 = 1 << 15;

/// The first bytes of every object.
#[repr(C)]
#[derive(Debug)]
pub struct Header {
    magic: AtomicU32,
    /// Low half: kind, and [`EXPORTED`]. High half: version.
    kind: AtomicU32,
    /// Bytes after the header.
    size: AtomicU64,
    /// The creating process, as in a lock word.
    creator: AtomicU64,
    /// Nanoseconds since 1970.
    created: AtomicU64,
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
    pub fn check(&self, kind: Kind) -> Result<u64> {
        // Acquire: with the store in `write`.
        if self.magic.load(Ordering::Acquire) != MAGIC {
            return Err(Error::Corrupted("no fastmp object is there"));
        }
        let found = self.kind.load(Ordering::Relaxed);
        if found >> 16 != u32::from(VERSION) {
            return Err(Error::Corrupted("made by another version of fastmp"));
        }
        if found & 0xffff & !EXPORTED != kind as u32 {
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

    /// Who made it.
    pub fn creator(&self) -> Option<Owner> {
        Owner::in_word(self.creator.load(Ordering::Relaxed))
    }

    /// When, in nanoseconds since 1970.
    pub fn created(&self) -> u64 {
        self.created.load(Ordering::Relaxed)
    }
}

/// A type that may be overlaid on shared bytes.
///
/// # Safety
/// `repr(C)`, no padding that matters, made of atomics alone (so that any bit pattern is valid and a change
/// by a peer is no data race), all-zero being its state of rest, aligned to at most 64 bytes.
pub unsafe trait Shared {}

// SAFETY: repr(C), five atomics.
unsafe impl Shared for Header {}
#[cfg(not(loom))]
mod shared {
    use super::Shared;
    use crate::channel::{extents::ExtentState, ring::RingState};
    use crate::sync::barrier::{BarrierState, Place};
    use crate::sync::condvar::{CondvarState, Slot};
    use crate::sync::robust_semaphore::{Permit, RobustSemaphoreState};
    use crate::sync::{event::EventState, lock::LockState, mutex::Mutex, semaphore::Semaphore};

    // SAFETY: each is repr(C) and made of atomics and of types that are.
    unsafe impl Shared for Mutex {}
    // SAFETY: as above.
    unsafe impl Shared for LockState {}
    // SAFETY: as above.
    unsafe impl Shared for Semaphore {}
    // SAFETY: as above.
    unsafe impl Shared for EventState {}
    // SAFETY: as above.
    unsafe impl Shared for RingState {}
    // SAFETY: as above.
    unsafe impl Shared for ExtentState {}
    // SAFETY: as above.
    unsafe impl Shared for BarrierState {}
    // SAFETY: as above.
    unsafe impl Shared for Place {}
    // SAFETY: as above.
    unsafe impl Shared for CondvarState {}
    // SAFETY: as above.
    unsafe impl Shared for Slot {}
    // SAFETY: as above.
    unsafe impl Shared for RobustSemaphoreState {}
    // SAFETY: as above.
    unsafe impl Shared for Permit {}
}

/// A view of the `T` at `offset` bytes into `mapping`.
///
/// # Errors
/// `Corrupted` if it would not be inside, or is misaligned.
pub fn view<T: Shared>(mapping: &Mapping, offset: usize) -> Result<&T> {
    let at = mapping.range(offset, size_of::<T>())?.cast::<T>();
    if !at.is_aligned() {
        return Err(Error::Corrupted("a misaligned offset"));
    }
    // SAFETY: inside the mapping, aligned, and valid whatever the bytes (`Shared`); it lives as long as the mapping.
    Ok(unsafe { at.as_ref() })
}

/// A `T` in shared memory together with what keeps it mapped.
#[derive(Debug)]
pub struct Object<T, K> {
    at: NonNull<T>,
    keep: K,
}

// SAFETY: a reference to atomics and its keeper.
unsafe impl<T: Shared, K: Send> Send for Object<T, K> {}
// SAFETY: as above.
unsafe impl<T: Shared, K: Sync> Sync for Object<T, K> {}

/// Something that keeps a mapping alive, and the same one for as long as it lives.
pub trait Backing {
    /// The mapping.
    fn mapping(&self) -> &Arc<Mapping>;
}

impl<T: Shared, K: Backing> Object<T, K> {
    /// The `T` at `offset` of the keeper's mapping.
    pub fn new(keep: K, offset: usize) -> Result<Self> {
        let at = NonNull::from(view::<T>(keep.mapping(), offset)?);
        Ok(Object { at, keep })
    }

    /// What keeps it mapped.
    pub fn backing(&self) -> &K {
        &self.keep
    }
}

impl<T: Shared, K: Backing> std::ops::Deref for Object<T, K> {
    type Target = T;
    #[inline]
    fn deref(&self) -> &T {
        // SAFETY: checked by `view` when made; `keep` keeps the mapping, which never moves.
        unsafe { self.at.as_ref() }
    }
}

/// A `T` and a row of `U`s right behind it, in shared memory, together with what keeps them mapped.
#[derive(Debug)]
pub struct WithSlice<T, U, K> {
    head: Object<T, K>,
    row: NonNull<[U]>,
}

// SAFETY: as for `Object`.
unsafe impl<T: Shared, U: Shared, K: Send> Send for WithSlice<T, U, K> {}
// SAFETY: as above.
unsafe impl<T: Shared, U: Shared, K: Sync> Sync for WithSlice<T, U, K> {}

impl<T: Shared, U: Shared, K: Backing> WithSlice<T, U, K> {
    /// Bytes that it takes with a row of `len`; None: more than can be.
    pub fn bytes(len: usize) -> Option<usize> {
        const { assert!(size_of::<T>().is_multiple_of(align_of::<U>())) };
        size_of::<U>().checked_mul(len)?.checked_add(size_of::<T>())
    }

    /// Those at `offset` of the keeper's mapping, as long a row as fits in `bytes`, all told.
    pub fn new(keep: K, offset: usize, bytes: usize) -> Result<Self> {
        let len = bytes.saturating_sub(size_of::<T>()) / size_of::<U>();
        let start = offset.saturating_add(size_of::<T>());
        let first = keep.mapping().range(start, len * size_of::<U>())?.cast::<U>();
        if !first.is_aligned() {
            return Err(Error::Corrupted("a misaligned offset"));
        }
        let row = NonNull::slice_from_raw_parts(first, len);
        Ok(WithSlice { head: Object::new(keep, offset)?, row })
    }

    /// The `T`.
    #[inline]
    pub fn head(&self) -> &T {
        &self.head
    }

    /// The row.
    #[inline]
    pub fn slice(&self) -> &[U] {
        // SAFETY: inside the mapping and aligned, checked when made; valid whatever the bytes (`Shared`); `head` keeps the mapping.
        unsafe { self.row.as_ref() }
    }

    /// What keeps it mapped.
    pub fn backing(&self) -> &K {
        self.head.backing()
    }
}
