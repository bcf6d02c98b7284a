//! The small objects as a program holds them: how each is created, attached and exported.
//!
//! An object is a state of [`sync`](crate::sync) in a block of [`arena`](crate::arena). `create`
//! makes one, all zero and then set up, before anybody else can see it. [`Export::export`] gives a
//! handle for another process, and `attach` makes an object of what has arrived there. Dropping an
//! object ends this process's hold on it; the block is used again when nobody holds it.
//!
//! What an object can do is its state's: each of these derefs to it, or lends it by `core`.
//!
//! ```
//! use fastmp_core::objects::{Export, Given, Semaphore};
//!
//! # fn main() -> Result<(), fastmp_core::Error> {
//! let here = Semaphore::create(1, 1)?;
//! // What another process would get, by spawn or in a message: copies of the handle's descriptors.
//! let handle = here.export(None)?;
//! let there = Semaphore::attach(Given::copy_of(&handle)?)?;
//!
//! assert!(there.try_acquire());
//! assert!(!here.try_acquire());
//! there.release()?;
//! # Ok(())
//! # }
//! ```

use std::ops::Deref;

use crate::arena::Block;
pub use crate::arena::{Given, Handle, Incoming, prepare};
use crate::cells::Cells;
use crate::error::{Error, Result};
use crate::layout::{Backing, Kind, Object, WithSlice};
use crate::overlays::Overlay;
use crate::sync::barrier::{self, BarrierState, Place};
use crate::sync::condvar::{self, CondvarState, SLOTS, Slot};
use crate::sync::event::EventState;
use crate::sync::lock::LockState;
use crate::sync::robust_semaphore::{self, Permit, RobustSemaphoreState};
use crate::sync::semaphore;

/// Every object that can go to another process.
pub trait Export {
    /// A handle for another process. `with`: another handle in the same message, whose token it
    /// shares if it can.
    ///
    /// # Errors
    /// `Os` (EBADF) if the program has closed the segment's descriptor.
    fn export(&self, with: Option<&Handle>) -> Result<Handle>;
}

/// A state that has a kind of its own.
pub trait Stored: Overlay {
    /// What the object's header says.
    const KIND: Kind;
}

/// An object that is one state. It derefs to it.
#[derive(Debug)]
pub struct Single<T> {
    state: Object<T, Block>,
}

impl<T: Stored> Single<T> {
    fn over(block: Block) -> Result<Self> {
        let payload = block.payload();
        Ok(Single { state: Object::new(block, payload)? })
    }

    fn zeroed() -> Result<Self> {
        Self::over(Block::alloc(T::KIND, size_of::<T>())?)
    }

    /// One that another process has sent.
    ///
    /// # Errors
    /// `Corrupted` if no such object is there.
    pub fn attach(from: Given) -> Result<Self> {
        Self::over(from.block(T::KIND)?)
    }
}

impl<T: Stored> Single<T> {
    /// Another way to its state. `keep` is what keeps this object; its block is not used again
    /// while that lives.
    pub fn share<K>(&self, keep: K) -> Shared<T, K> {
        self.state.share(keep)
    }
}

/// A state in shared memory, and what keeps its object.
pub type Shared<T, K> = Object<T, K>;

impl<T: Stored> Deref for Single<T> {
    type Target = T;
    #[inline(always)]
    fn deref(&self) -> &T {
        &self.state
    }
}

impl<T: Stored> Export for Single<T> {
    fn export(&self, with: Option<&Handle>) -> Result<Handle> {
        self.state.backing().export(with)
    }
}

/// A lock, recursive or not: that is its user's choice of calls.
pub type Lock = Single<LockState>;
/// An event.
pub type Event = Single<EventState>;
/// A counting semaphore.
pub type Semaphore = Single<semaphore::Semaphore>;

impl Stored for LockState {
    const KIND: Kind = Kind::Lock;
}

impl Stored for EventState {
    const KIND: Kind = Kind::Event;
}

impl Stored for semaphore::Semaphore {
    const KIND: Kind = Kind::Semaphore;
}

impl Lock {
    /// A free one.
    ///
    /// # Errors
    /// `OutOfMemory`, or `Os` when descriptors have run out.
    pub fn create() -> Result<Self> {
        Self::zeroed()
    }
}

impl Event {
    /// One that is not set.
    ///
    /// # Errors
    /// As for [`Lock::create`].
    pub fn create() -> Result<Self> {
        Self::zeroed()
    }
}

impl Semaphore {
    /// `permits` now, `most` at any time; both at most [`semaphore::MAX`].
    ///
    /// # Errors
    /// As for [`Lock::create`].
    pub fn create(permits: u32, most: u32) -> Result<Self> {
        let new = Self::zeroed()?;
        new.set_up(permits, most);
        Ok(new)
    }
}

/// Declares an object that is a state with a slice of so many items at most behind it, and a view
/// that works on both.
macro_rules! with_slice {
    ($(#[$about:meta])* $name:ident, $state:ty, $item:ty, $most:expr, $kind:expr, $core:path) => {
        $(#[$about])*
        #[derive(Debug)]
        pub struct $name {
            shared: WithSlice<$state, $item, Block>,
        }

        impl $name {
            fn zeroed(items: usize) -> Result<Self> {
                let bytes = WithSlice::<$state, $item, Block>::bytes(items).ok_or(Error::OutOfMemory)?;
                Ok($name { shared: Block::alloc($kind, bytes)?.with_slice()? })
            }

            /// One that another process has sent.
            ///
            /// # Errors
            /// `Corrupted` if no such object is there, or one larger than any that can be made.
            pub fn attach(from: Given) -> Result<Self> {
                let shared: WithSlice<$state, $item, Block> = from.block($kind)?.with_slice()?;
                match shared.slice().len() <= $most {
                    true => Ok($name { shared }),
                    false => Err(Error::Corrupted("an object of impossible size")),
                }
            }

            /// What it can do.
            #[inline(always)]
            pub fn core(&self) -> $core {
                <$core>::new(self.shared.head(), self.shared.slice())
            }
        }

        impl Export for $name {
            fn export(&self, with: Option<&Handle>) -> Result<Handle> {
                self.shared.backing().export(with)
            }
        }
    };
}

with_slice!(
    /// What a condition adds to its lock.
    Condvar, CondvarState, Slot, SLOTS, Kind::Condition, condvar::Condvar<'_>
);
with_slice!(
    /// A barrier.
    Barrier, BarrierState, Place, u32::MAX as usize, Kind::Barrier, barrier::Barrier<'_>
);
with_slice!(
    /// A semaphore that knows its holders.
    RobustSemaphore, RobustSemaphoreState, Permit, robust_semaphore::MAX, Kind::RobustSemaphore,
    robust_semaphore::RobustSemaphore<'_>
);

impl Condvar {
    /// One that nobody waits on.
    ///
    /// # Errors
    /// As for [`Lock::create`].
    pub fn create() -> Result<Self> {
        Self::zeroed(SLOTS)
    }
}

impl Barrier {
    /// An empty one for `parties`.
    ///
    /// # Errors
    /// As for [`Lock::create`]; `OutOfMemory` also for more parties than a word counts.
    pub fn create(parties: usize) -> Result<Self> {
        u32::try_from(parties).map_err(|_| Error::OutOfMemory)?;
        Self::zeroed(parties)
    }
}

impl RobustSemaphore {
    /// `permits`, at most [`robust_semaphore::MAX`].
    ///
    /// # Errors
    /// As for [`Lock::create`].
    pub fn create(permits: usize) -> Result<Self> {
        Self::zeroed(permits)
    }
}

/// Plain memory.
#[derive(Debug)]
pub struct Memory {
    block: Block,
    bytes: usize,
}

impl Memory {
    /// An empty object still needs an address.
    const LEAST: usize = 8;

    /// Zeroed memory of `bytes`.
    ///
    /// # Errors
    /// As for [`Lock::create`].
    pub fn create(bytes: usize) -> Result<Self> {
        Ok(Memory { block: Block::alloc(Kind::Memory, bytes.max(Self::LEAST))?, bytes })
    }

    /// What another process has sent, of which `bytes` count.
    ///
    /// # Errors
    /// `Corrupted` if no memory is there, or not so much.
    pub fn attach(from: Given, bytes: usize) -> Result<Self> {
        let block = from.block(Kind::Memory)?;
        if bytes > block.bytes() {
            return Err(Error::Corrupted("the block is smaller than that"));
        }
        Ok(Memory { block, bytes })
    }

    /// Bytes.
    pub fn len(&self) -> usize {
        self.bytes
    }

    /// None at all?
    pub fn is_empty(&self) -> bool {
        self.bytes == 0
    }

    /// Its first `len` cells of `width` bytes. `keep` is what keeps this memory; it is not used
    /// again while that lives.
    ///
    /// # Errors
    /// `Corrupted` if there are not so many, or there is no such width.
    pub fn cells<K>(&self, keep: K, width: usize, len: usize) -> Result<Cells<K>> {
        if width.checked_mul(len).is_none_or(|bytes| bytes > self.bytes) {
            return Err(Error::Corrupted("the block is too small for that"));
        }
        Cells::new(self.block.mapping().clone(), keep, self.block.payload(), width, len)
    }

    /// Where it is mapped in this process, for as long as this lives: to be exported as a buffer.
    ///
    /// # Errors
    /// `Corrupted`: it does not fit its segment.
    pub fn address(&self) -> Result<std::ptr::NonNull<u8>> {
        self.block.mapping().range(self.block.payload(), self.bytes)
    }
}

impl Export for Memory {
    fn export(&self, with: Option<&Handle>) -> Result<Handle> {
        self.block.export(with)
    }
}
