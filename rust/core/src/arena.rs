//! Small blocks out of shared segments, and how long a block lives.
//!
//! # Who may hand out a block
//! Only the process that made a segment hands out its blocks. The allocator's books are thus private memory: no
//! kill can damage them. A forked child starts books of its own; to it, inherited segments are mappings only.
//! When the maker dies its segments serve on for as long as anybody maps them, and go with the last one.
//!
//! # When a block may be used again
//! Not before no process can reach it. Those that can are
//! - this one, until its last handle is dropped;
//! - children forked while it had a handle, and theirs: each fork is covered by a *token*
//!   ([`Presence`]) that the child inherits as a mapping; the kernel says when nobody has it any more, whoever died in
//!   between. Forks with no allocation between them reach the same blocks and share a token.
//! - processes that got a handle in a message or at a spawn, from whatever process had one. For these there is no proof yet: a
//!   block once [exported](Block::export) is not used again while this process lives. The mark is in the block's header: a forked child sets it
//!   before its message is there and before its token is gone, so that it is seen when the token is found gone.
//!
//! Tokens are numbered. A block is `born` with the number that the next fork will have at least, and reachable by
//! the tokens from there to the newest one at its release. With no fork in between it is free at once; else it waits among the
//! `deferred` until a sweep finds those tokens gone. If a token could not be opened (no descriptor left), the fork counts as
//! alive for ever: memory is lost, never safety.
//!
//! # Forks by other threads
//! `before_fork` takes the books' lock and both sides release it: a child never sees half-written books.

use std::cell::RefCell;
use std::collections::HashMap;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, IntoRawFd, OwnedFd};
use std::sync::{Arc, LazyLock, Mutex, MutexGuard, Weak};

use crate::error::{Error, Result};
use crate::layout::{self, Header, Keeper, Kind};
use crate::sys::mapping::Mapping;
use crate::sys::memfd;
use crate::sys::presence::Presence;
use crate::sys::{forked, liveness};

/// The smallest block, a cache line: locks of different objects never share one.
const SMALLEST: usize = 64;
/// Blocks are powers of two from 64 bytes to 32 KiB; what is larger has a segment of its own.
const CLASSES: usize = 10;
const LARGEST: usize = SMALLEST << (CLASSES - 1);
/// Segments of an arena grow from 64 KiB to 4 MiB.
const FIRST_SEGMENT: usize = 64 << 10;
const LAST_SEGMENT: usize = 4 << 20;
/// Look for blocks that have become free when this many wait.
const SWEEP_AT: usize = 64;

/// A mapped segment with its descriptor.
#[derive(Debug)]
pub struct Segment {
    mapping: Arc<Mapping>,
    fd: OwnedFd,
}

impl Segment {
    /// A new segment of `bytes`, its pages reserved, whose header says `kind`.
    pub fn create(name: &str, kind: Kind, bytes: usize) -> Result<Segment> {
        Self::sparse(name, kind, bytes, bytes)
    }

    /// The same, with only the first `reserved` bytes reserved so far.
    pub fn sparse(name: &str, kind: Kind, bytes: usize, reserved: usize) -> Result<Segment> {
        let fd = memfd::create(name, reserved as u64)?;
        if bytes > reserved {
            memfd::extend(&fd, bytes as u64)?;
        }
        let mapping = Arc::new(Mapping::new(&fd, 0, bytes)?);
        layout::view::<Header>(&mapping, 0)?.write(kind, (bytes - Header::BYTES) as u64);
        Ok(Segment { mapping, fd })
    }

    /// Map the first `bytes` (0: all) of a segment that another process made, if it is a `kind`.
    pub fn attach(fd: OwnedFd, kind: Kind, bytes: usize) -> Result<Segment> {
        memfd::check(&fd)?;
        let size = memfd::size(&fd)? as usize;
        if size < Header::BYTES || size < bytes {
            return Err(Error::Corrupted("the segment is too short"));
        }
        let mapping = Arc::new(Mapping::new(&fd, 0, if bytes == 0 { size } else { bytes })?);
        layout::view::<Header>(&mapping, 0)?.check(kind)?;
        Ok(Segment { mapping, fd })
    }

    /// The mapping.
    pub fn mapping(&self) -> &Arc<Mapping> {
        &self.mapping
    }

    /// This segment, of which another descriptor has come in: closed, unless it is the very same (a spawned child gets each descriptor
    /// once, however many objects refer to it).
    fn also(self: Arc<Self>, fd: OwnedFd) -> Arc<Self> {
        if fd.as_raw_fd() == self.fd.as_raw_fd() {
            let _ = fd.into_raw_fd();
        }
        self
    }
}

impl AsFd for Segment {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl Keeper for Arc<Segment> {
    fn mapping(&self) -> &Arc<Mapping> {
        &self.mapping
    }
}

/// A block of shared memory: a header, then its payload. Dropping it ends this process's hold on it.
#[derive(Debug)]
pub struct Block {
    segment: Arc<Segment>,
    offset: usize,
    bytes: usize,
    /// Set if this process's books have it.
    home: Option<Home>,
}

#[derive(Debug)]
struct Home {
    class: usize,
    /// The number of the first token that reaches it.
    born: u64,
    /// `forked::generation()` of the process that allocated it: a forked child's copy is not at home.
    generation: u64,
}

impl Keeper for Block {
    fn mapping(&self) -> &Arc<Mapping> {
        &self.segment.mapping
    }
}

impl Block {
    /// A zeroed block with `bytes` of payload.
    ///
    /// # Errors
    /// `OutOfMemory`, or `Os` when descriptors have run out.
    pub fn alloc(kind: Kind, bytes: usize) -> Result<Block> {
        // The identity first: it also installs the fork handlers, before anything needs them.
        liveness::me();
        let whole = bytes.checked_add(Header::BYTES).ok_or(Error::OutOfMemory)?;
        let block = if whole > LARGEST { Self::alone(whole, bytes)? } else { books().alloc(whole, bytes)? };
        block.header()?.write(kind, bytes as u64);
        Ok(block)
    }

    fn alone(whole: usize, bytes: usize) -> Result<Block> {
        let offset = SMALLEST;
        let total = offset.checked_add(whole).filter(|&n| n <= isize::MAX as usize).ok_or(Error::OutOfMemory)?;
        let segment = Arc::new(Segment::create("fastmp-block", Kind::Arena, total)?);
        Ok(Block { segment, offset, bytes, home: None })
    }

    /// The block at `offset` of the segment behind `fd`, if a `kind` is there. A segment is mapped once in a
    /// process, however many blocks of it are held.
    pub fn attach(fd: OwnedFd, offset: usize, kind: Kind) -> Result<Block> {
        liveness::me();
        let id = memfd::identity(&fd)?;
        let known = books().known.get(&id).and_then(Weak::upgrade);
        let segment = match known {
            Some(segment) => segment.also(fd),
            None => {
                let new = Arc::new(Segment::attach(fd, Kind::Arena, 0)?);
                let mut books = books();
                // Another thread may have been quicker.
                match books.known.get(&id).and_then(Weak::upgrade) {
                    Some(segment) => match Arc::into_inner(new) {
                        Some(new) => segment.also(new.fd),
                        None => segment,
                    },
                    None => {
                        books.remember(id, &new);
                        new
                    }
                }
            }
        };
        let bytes = layout::view::<Header>(&segment.mapping, offset)?.check(kind)? as usize;
        segment.mapping.range(offset + Header::BYTES, bytes)?;
        Ok(Block { segment, offset, bytes, home: None })
    }

    /// The header.
    pub fn header(&self) -> Result<&Header> {
        layout::view(&self.segment.mapping, self.offset)
    }

    /// Where the payload starts in the segment's mapping.
    pub fn payload(&self) -> usize {
        self.offset + Header::BYTES
    }

    /// Bytes of payload.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// The segment's descriptor and the block's offset in it, for another process to attach. From
    /// now on the block is not used again while this process lives.
    pub fn export(&self) -> (BorrowedFd<'_>, usize) {
        if let Ok(header) = self.header() {
            header.export();
        }
        (self.segment.as_fd(), self.offset)
    }
}

impl Drop for Block {
    fn drop(&mut self) {
        let Some(home) = self.home.take() else { return };
        if home.generation != forked::generation() {
            return;
        }
        books().release(Spot { segment: self.segment.clone(), offset: self.offset }, home);
    }
}

/// A block-sized place in one of this process's segments.
#[derive(Debug)]
struct Spot {
    segment: Arc<Segment>,
    offset: usize,
}

impl Spot {
    /// Itself, to be used again, unless a handle to its block has ever been given away.
    fn vacant(self) -> Option<Spot> {
        let header = layout::view::<Header>(&self.segment.mapping, self.offset).ok()?;
        if header.is_exported() {
            return None;
        }
        header.erase();
        Some(self)
    }
}

#[derive(Debug)]
struct Deferred {
    spot: Spot,
    class: usize,
    /// The tokens that reach it.
    tokens: std::ops::RangeInclusive<u64>,
}

#[derive(Default)]
struct Books {
    free: [Vec<Spot>; CLASSES],
    deferred: Vec<Deferred>,
    /// How many were left by the last sweep: the next one waits until as many more have come.
    stuck: usize,
    /// The segment that new blocks are cut from, and up to where it is used.
    cutting: Option<(Arc<Segment>, usize)>,
    next_segment: usize,
    /// Every segment mapped here, by identity.
    known: HashMap<(u64, u64), Weak<Segment>>,
    /// Numbered tokens that somebody may hold, oldest first; None: a fork without a token.
    tokens: Vec<(u64, Option<Presence>)>,
    /// The newest token's number.
    newest: u64,
    /// Was anything allocated since the newest token was opened?
    dirty: bool,
}

static BOOKS: LazyLock<Mutex<Books>> = LazyLock::new(Default::default);

fn books() -> MutexGuard<'static, Books> {
    // A panic in between would leave the books as they were or a block short: still good.
    BOOKS.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}

impl Books {
    fn alloc(&mut self, whole: usize, bytes: usize) -> Result<Block> {
        let class = class_of(whole);
        let spot = match self.free[class].pop() {
            Some(spot) => spot,
            None => {
                if self.deferred.len() >= SWEEP_AT.max(2 * self.stuck) {
                    self.sweep();
                }
                match self.free[class].pop() {
                    Some(spot) => spot,
                    None => self.cut(class)?,
                }
            }
        };
        spot.segment.mapping.zero(spot.offset, whole)?;
        self.dirty = true;
        let home = Home { class, born: self.newest + 1, generation: forked::generation() };
        Ok(Block { segment: spot.segment, offset: spot.offset, bytes, home: Some(home) })
    }

    fn cut(&mut self, class: usize) -> Result<Spot> {
        let size = SMALLEST << class;
        if let Some((segment, used)) = &mut self.cutting {
            // Aligned to the block's own size up to a page, as ctypes and SIMD readers may want.
            let offset = used.next_multiple_of(size.min(4096));
            if offset + size <= segment.mapping.len() {
                *used = offset + size;
                return Ok(Spot { segment: segment.clone(), offset });
            }
        }
        let bytes = self.next_segment.clamp(FIRST_SEGMENT, LAST_SEGMENT).max(2 * size);
        let segment = Arc::new(Segment::create("fastmp-arena", Kind::Arena, bytes)?);
        self.next_segment = bytes * 2;
        self.remember(memfd::identity(&segment.fd)?, &segment);
        self.cutting = Some((segment, SMALLEST));
        self.cut(class)
    }

    fn remember(&mut self, id: (u64, u64), segment: &Arc<Segment>) {
        self.known.retain(|_, s| s.strong_count() > 0);
        self.known.insert(id, Arc::downgrade(segment));
    }

    fn release(&mut self, spot: Spot, home: Home) {
        if home.born > self.newest {
            self.free[home.class].extend(spot.vacant());
        } else {
            self.deferred.push(Deferred { spot, class: home.class, tokens: home.born..=self.newest });
        }
    }

    /// Free the blocks whose last token is gone.
    fn sweep(&mut self) {
        if let Some((_, Some(newest))) = self.tokens.last_mut() {
            newest.close();
        }
        self.tokens.retain(|(_, token)| !token.as_ref().is_some_and(Presence::is_gone));
        let (tokens, free) = (&self.tokens, &mut self.free);
        let mut kept = Vec::new();
        for deferred in self.deferred.drain(..) {
            let first = tokens.partition_point(|(n, _)| n < deferred.tokens.start());
            if tokens.get(first).is_some_and(|(n, _)| n <= deferred.tokens.end()) {
                kept.push(deferred);
            } else {
                free[deferred.class].extend(deferred.spot.vacant());
            }
        }
        self.deferred = kept;
        self.stuck = self.deferred.len();
    }

    fn open_token(&mut self) {
        let open = matches!(self.tokens.last(), Some((_, Some(token))) if token.is_open());
        // A process without blocks of its own has nothing to cover.
        if self.next_segment == 0 || (open && !self.dirty) {
            return;
        }
        if let Some((_, Some(token))) = self.tokens.last_mut() {
            token.close();
        }
        // Forks in a loop: keep the list as short as the children alive.
        if self.tokens.len() >= 16 {
            self.tokens.retain(|(_, token)| !token.as_ref().is_some_and(Presence::is_gone));
        }
        self.newest += 1;
        self.tokens.push((self.newest, Presence::open().ok()));
        self.dirty = false;
    }
}

fn class_of(whole: usize) -> usize {
    let size = whole.max(SMALLEST).next_power_of_two();
    (size / SMALLEST).trailing_zeros() as usize
}

thread_local! {
    static HELD: RefCell<Option<MutexGuard<'static, Books>>> = const { RefCell::new(None) };
}

pub(crate) fn before_fork() {
    let mut books = books();
    books.open_token();
    HELD.with(|held| *held.borrow_mut() = Some(books));
}

pub(crate) fn after_fork_in_parent() {
    HELD.with(|held| drop(held.borrow_mut().take()));
}

pub(crate) fn after_fork_in_child() {
    HELD.with(|held| {
        let Some(mut books) = held.borrow_mut().take() else { return };
        let known = std::mem::take(&mut books.known);
        let inherited = std::mem::replace(&mut *books, Books { known, ..Books::default() });
        for (_, token) in inherited.tokens {
            if let Some(token) = token {
                token.inherit();
            }
        }
    });
}
