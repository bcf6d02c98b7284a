//! Small blocks out of shared segments, and how long a block lives.
//!
//! # Who may hand out a block
//! Only the process that made a segment, its *maker*, hands out its blocks. The allocator is thus
//! private memory: no kill can damage them. A forked child starts an allocator of its own; to it,
//! inherited segments are mappings only. When the maker dies its segments serve on for as long as
//! anybody maps them, and go with the last one.
//!
//! # States of a block
//!
//! | state | where it stands | changed by |
//! |---|---|---|
//! | free | the maker's `free` list | `alloc`: to *used* |
//! | used | a [`Block`] of the maker's | its `drop`: to *free*; if tokens reach it to *deferred* |
//! | deferred | the `deferred` list, with its tokens' numbers | a sweep: to *free* when they go |
//! | lost | nowhere; it goes with its segment | (a handle left without a token, or a fork did) |
//!
//! The commit point of a reuse is the pop from `free`. Everything before it happens in the maker
//! alone and under its lock; a maker that dies takes the allocator with it, and then nothing is
//! handed out any more. Nobody else changes a block's state: others only hold tokens, and by dying
//! cannot but let go.
//!
//! # When a block may be used again
//! Not before no process can reach it. Every way to reach it from elsewhere is covered by a *token*
//! ([`HoldWatch`]) of which the kernel says when nobody has it any more, whoever died in between:
//!
//! - **Forks.** A child, and its children, inherit the mapping of the *fork token* that is open.
//!   Forks with no allocation between them reach the same blocks and share one. So do some others,
//!   and more of them the more tokens live: a token costs its maker a descriptor, and descriptors
//!   must not scale with children. A block is `born` with the number that the next fork will have
//!   at least, and reachable by the fork tokens from there to the newest one at its release.
//! - **Handles** (spawn, messages). A handle leaves with the descriptor of the *export token* that
//!   is open beside the segment's. While it is under way, the message holds the token; who attaches
//!   holds it, mapped, as long as the block, and so do its children by fork; who sends it on sends
//!   the same token along. Some blocks share a token (an *epoch*): 64, and more the more tokens
//!   live. The block remembers the first and the last under which it left.
//! - **Handles from a forked child** to a block that its parent made: they leave with the fork
//!   token that the child was given, for this is one of those that the block waits for.
//! - A channel's plot counts as one block.
//! - **Without a token** (no leases here, no descriptor left, the token's descriptor closed by the
//!   program) a handle leaves with the segment's descriptor in the token's place, and the block's
//!   header says so ([`Header::export`]) before it leaves: such a block is lost. The mark is set by
//!   a holder of a token, so it is there when the token is found gone. A fork without any token
//!   loses the blocks of that time. Memory is lost, never safety.
//!
//! What if a process dies between any two lines? A maker: see above. A sender: what it has copied
//! into the socket counts until it is received or the socket goes; what it has not was its own. A
//! receiver: it holds the message's copies, then its own, until the kernel closes them.
//!
//! # What cannot be seen
//! A raw `clone` without the fork handlers: such a child takes itself for its parent. It must exec,
//! as after vfork, or leave fastmp alone. (vfork shares memory until the exec, which drops all.)
//!
//! # Forks by other threads
//! `Forking::before` takes the allocator's lock and both sides release it: a child never sees a
//! half-written allocator. A fork between the allocation of a block and the writing of its header
//! gives the child a mapping without a handle; the block counts as reachable by it all the same.

mod allocator;
mod incoming;
mod plot;
mod segment;
mod tokens;

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

pub use incoming::{Given, Incoming};
pub use plot::{SHAPES, Shape};
pub use segment::Segment;

use allocator::{Allocation, BlockPlace, LARGEST, allocator};

use crate::error::{Error, Result};
use crate::layout::{self, Backing, Header, Kind, WithSlice};
use crate::overlays::Overlay;
use crate::sys::fork;
use crate::sys::hold_token::HoldToken;
#[cfg(doc)]
use crate::sys::hold_token::HoldWatch;
use crate::sys::liveness;
use crate::sys::mapping::Mapping;
use crate::sys::memfd;

/// The smallest block, a cache line: locks of different objects never share one.
const SMALLEST: usize = 64;

/// Make now what a process makes once and forked children inherit: the allocator, and the handlers
/// around a fork. A fork by another thread in the middle of that would leave the child waiting for
/// it to be done. No descriptor is opened.
pub fn prepare() {
    allocator::prepare();
}

/// Look now for blocks that can be used again, as `alloc` does by itself when it pays: for tests.
#[cfg(feature = "kill-points")]
pub fn sweep() {
    allocator().sweep();
}

/// A block of shared memory: a header, then its payload. Dropping it ends this process's hold on
/// it.
/// ```
/// use fastmp_core::arena::Block;
/// use fastmp_core::layout::{Backing, Kind};
///
/// # fn main() -> Result<(), fastmp_core::Error> {
/// let block = Block::alloc(Kind::Memory, 100)?;
/// let mut bytes = [1; 100];
/// block.mapping().read(block.payload(), &mut bytes)?;
/// assert_eq!(bytes, [0; 100]);
/// // While a handle is about, the block is not used for anything else.
/// let handle = block.export(None)?;
/// drop(block);
/// assert_eq!(handle.offset() % 64, 0);
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct Block {
    segment: Arc<Segment>,
    offset: usize,
    bytes: usize,
    origin: Origin,
}

/// By what right this process has a block.
#[derive(Debug)]
enum Origin {
    /// It was allocated here, or in the process that this one was forked from.
    Allocated(Allocation),
    /// It came in by a handle, under this token if it had one.
    Received(Option<Arc<HoldToken>>),
    /// It has a segment to itself, and goes with it.
    Alone,
}

/// What another process needs to attach a block. It keeps the descriptors open, and the block from
/// being used again.
#[derive(Debug, Clone)]
pub struct Handle {
    segment: Arc<Segment>,
    token: Option<Arc<HoldToken>>,
    offset: usize,
    /// The number of its export token and the generation that counts it.
    epoch: Option<(u64, u64)>,
}

impl Handle {
    /// The segment's descriptor.
    pub fn segment(&self) -> BorrowedFd<'_> {
        self.segment.as_fd()
    }

    /// The token's descriptor; the segment's stands for none.
    pub fn token(&self) -> BorrowedFd<'_> {
        self.token.as_ref().and_then(|token| token.as_fd()).unwrap_or(self.segment.as_fd())
    }

    /// The block's place in the segment.
    pub fn offset(&self) -> usize {
        self.offset
    }

    /// May other blocks of this process leave under its token?
    pub fn is_shared(&self) -> bool {
        self.epoch().is_some()
    }

    /// Its export token, if that is one of this process's.
    fn epoch(&self) -> Option<(u64, &Arc<HoldToken>)> {
        let (number, generation) = self.epoch?;
        Some((number, self.token.as_ref().filter(|_| generation == fork::generation())?))
    }
}

impl Backing for Block {
    fn mapping(&self) -> &Arc<Mapping> {
        self.segment.mapping()
    }
}

impl Block {
    /// A zeroed block with `bytes` of payload.
    ///
    /// # Errors
    /// `OutOfMemory`, or `Os` when descriptors have run out.
    pub fn alloc(kind: Kind, bytes: usize) -> Result<Block> {
        let whole = bytes.checked_add(Header::BYTES).ok_or(Error::OutOfMemory)?;
        let block = if whole > LARGEST { Self::alone(whole, bytes)? } else { allocator::alloc(whole, bytes)? };
        block.header()?.write(kind, bytes as u64);
        Ok(block)
    }

    /// A plot of that [shape](Shape).
    ///
    /// # Errors
    /// `OutOfMemory`, or `Os` when descriptors have run out.
    pub fn alloc_plot(kind: Kind, shape: &'static Shape) -> Result<Block> {
        plot::alloc(kind, shape)
    }

    fn alone(whole: usize, bytes: usize) -> Result<Block> {
        let offset = SMALLEST;
        let total = offset.checked_add(whole).filter(|&n| n <= isize::MAX as usize).ok_or(Error::OutOfMemory)?;
        let segment = Arc::new(Segment::create("fastmp-block", Kind::Arena, total)?);
        Ok(Block { segment, offset, bytes, origin: Origin::Alone })
    }

    /// The block at `offset` of the segment behind `fd`, if a `kind` is there, held by `token` (see
    /// [`Handle`]; None: there is none). A segment is mapped once in a process, however many blocks
    /// of it are held, and so is a token.
    ///
    /// # Errors
    /// `Corrupted` if no such block is there; `OutOfMemory`.
    pub fn attach(fd: OwnedFd, token: Option<OwnedFd>, offset: usize, kind: Kind) -> Result<Block> {
        Self::attach_by(&Incoming::new(fd), token.map(Incoming::new).as_ref(), offset, kind)
    }

    /// The same by descriptors that other blocks may share.
    ///
    /// # Errors
    /// As for [`attach`](Self::attach).
    pub fn attach_by(segment: &Incoming, token: Option<&Incoming>, offset: usize, kind: Kind) -> Result<Block> {
        // By the first use descriptors may have run out, or `/proc` be out of reach.
        liveness::me();
        let segment = segment.segment()?;
        let token = match token {
            Some(token) => token.token(&segment)?,
            None => None,
        };
        let bytes = layout::view::<Header>(segment.mapping(), offset)?.check(kind)? as usize;
        segment.mapping().range(offset + Header::BYTES, bytes)?;
        Ok(Block { segment, offset, bytes, origin: Origin::Received(token) })
    }

    fn token(token: OwnedFd, segment: (u64, u64)) -> Result<Option<Arc<HoldToken>>> {
        let id = memfd::identity(&token)?;
        if id == segment {
            return Ok(None);
        }
        let known = allocator().received.get(id);
        if let Some(known) = known {
            return Ok(Some(known));
        }
        // If another thread is quicker there are two: each holds the token.
        let token = Arc::new(HoldToken::receive(token)?);
        allocator().received.insert(id, &token);
        Ok(Some(token))
    }

    fn segment(fd: OwnedFd, id: (u64, u64)) -> Result<Arc<Segment>> {
        let known = allocator().segments.get(id);
        if let Some(segment) = known {
            return Ok(segment);
        }
        let new = Arc::new(Segment::attach(fd, Kind::Arena, 0)?);
        let mut allocator = allocator();
        // Another thread may have been quicker; `new` is then dropped after the lock.
        if let Some(segment) = allocator.segments.get(id) {
            drop(allocator);
            return Ok(segment);
        }
        allocator.segments.insert(id, &new);
        Ok(new)
    }

    /// The header.
    ///
    /// # Errors
    /// `Corrupted` if it is not inside its segment.
    pub fn header(&self) -> Result<&Header> {
        layout::view(self.segment.mapping(), self.offset)
    }

    /// Where the payload starts in the segment's mapping.
    pub fn payload(&self) -> usize {
        self.offset + Header::BYTES
    }

    /// Its payload as a `T` and as long a row of `U`s as there is room for.
    ///
    /// # Errors
    /// `Corrupted` if the block is too small.
    pub fn with_slice<T: Overlay, U: Overlay>(self) -> Result<WithSlice<T, U, Block>> {
        let (payload, bytes) = (self.payload(), self.bytes);
        WithSlice::new(self, payload, bytes)
    }

    /// Where it starts in the segment's mapping, with its header.
    pub fn offset(&self) -> usize {
        self.offset
    }

    /// The segment that it lies in.
    pub fn segment_of(&self) -> &Arc<Segment> {
        &self.segment
    }

    /// Bytes of payload.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// A handle for another process. The block is not used again before every process that gets it,
    /// from whomever, has let go. `with`: another handle in the same message, whose token this one
    /// shares if it can.
    ///
    /// # Errors
    /// `Os` (EBADF) if the program has closed the segment's descriptor.
    pub fn export(&self, with: Option<&Handle>) -> Result<Handle> {
        self.segment.own_fd()?;
        let (segment, offset, mut epoch) = (self.segment.clone(), self.offset, None);
        let token = match &self.origin {
            Origin::Allocated(allocation) if allocation.generation == fork::generation() => {
                let found = allocator().export(allocation, self.bytes, with);
                found.map(|(number, token)| {
                    epoch = Some((number, allocation.generation));
                    token
                })
            }
            Origin::Allocated(allocation) => allocator().inherited(allocation.generation),
            Origin::Received(token) => token.clone(),
            Origin::Alone => return Ok(Handle { segment, token: None, offset, epoch }),
        };
        let token = token.filter(|token| token.fd().is_some());
        if token.is_none() {
            self.header()?.export();
        }
        Ok(Handle { segment, token, offset, epoch })
    }
}

impl Drop for Block {
    fn drop(&mut self) {
        if let Origin::Allocated(allocation) = &self.origin
            && allocation.generation == fork::generation()
        {
            allocator::release(BlockPlace { segment: self.segment.clone(), offset: self.offset }, allocation);
        }
    }
}
