//! The allocator: which blocks are free, and which wait for what. Private memory of the segments'
//! maker.

use std::cell::RefCell;
use std::collections::HashMap;
use std::ops::RangeInclusive;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, LazyLock, Mutex, MutexGuard};

use super::segment::{Registry, Segment};
use super::tokens::Tokens;
use super::{Block, Handle, Origin, SMALLEST};
use crate::error::Result;
use crate::kill_point;
use crate::layout::{self, Header, Kind};
use crate::sys::fork::{self, AtFork, Registration};
use crate::sys::hold_token::{HoldToken, HoldWatch};
use crate::sys::owner;

/// Blocks are powers of two from 64 bytes to 32 KiB; what is larger has a segment of its own.
const CLASSES: usize = 10;
pub(super) const LARGEST: usize = SMALLEST << (CLASSES - 1);
/// Segments of an arena grow from 64 KiB to 4 MiB.
const FIRST_SEGMENT: usize = 64 << 10;
const LAST_SEGMENT: usize = 4 << 20;
/// Look for blocks that have become free when this many wait.
const SWEEP_AT: usize = 64;
/// Blocks that share an export token, as long as few tokens live.
const EPOCH: usize = 64;

/// What the allocator knows of a block that is in use.
#[derive(Debug)]
pub(super) struct Allocation {
    class: usize,
    /// The number of the first fork token that reaches it.
    born: u64,
    /// The first and the last export token that a handle went under; 0: none yet. Changed under the
    /// allocator's lock.
    first: AtomicU64,
    last: AtomicU64,
    /// `fork::generation()` of the process that allocated it: a forked child's copy is not this
    /// process's.
    pub generation: u64,
}

/// A block-sized place in one of this process's segments.
#[derive(Debug)]
pub(super) struct BlockPlace {
    pub segment: Arc<Segment>,
    pub offset: usize,
}

impl BlockPlace {
    /// Itself, to be used again, unless a handle to its block has ever been given away without a
    /// token.
    fn vacant(self) -> Option<BlockPlace> {
        let header = layout::view::<Header>(self.segment.mapping(), self.offset).ok()?;
        if header.is_exported() {
            return None;
        }
        header.erase();
        Some(self)
    }
}

#[derive(Debug)]
struct Deferred {
    place: BlockPlace,
    class: usize,
    /// The fork tokens that reach it.
    forks: RangeInclusive<u64>,
    /// The export tokens that reach it.
    exports: RangeInclusive<u64>,
}

#[derive(Default)]
pub(super) struct Allocator {
    free: [Vec<BlockPlace>; CLASSES],
    deferred: Vec<Deferred>,
    /// How many were left by the last sweep: the next one waits until as many more have come.
    stuck: usize,
    /// The segment that new blocks are cut from, and up to where it is used.
    cutting: Option<(Arc<Segment>, usize)>,
    next_segment: usize,
    /// Every segment mapped here.
    pub segments: Registry<Segment>,
    /// Every token that this process holds because a handle came in under it.
    pub received: Registry<HoldToken>,
    forks: Tokens,
    /// Was anything allocated since the newest fork token was opened?
    dirty: bool,
    /// The number of the last fork that no token covers: what it reaches is never used again.
    lost: u64,
    exports: Tokens,
    /// How much went out under the open export token.
    exported: usize,
    /// What this process was given when it was forked, and its parent when that was, by the
    /// generation of the forking process.
    inherited: HashMap<u64, Arc<HoldToken>>,
}

// A fork by another thread meanwhile waits, in `Forking::before`, until it is made.
static ALLOCATOR: LazyLock<Mutex<Allocator>> = LazyLock::new(|| {
    // After the identity, on which this builds.
    owner::watch_forks();
    FORKS.ensure::<Forking>();
    Default::default()
});

static FORKS: Registration = Registration::new();

/// See [`prepare`](super::prepare).
pub(super) fn prepare() {
    LazyLock::force(&ALLOCATOR);
}

pub(super) fn allocator() -> MutexGuard<'static, Allocator> {
    // A panic in between would leave the allocator as it was or a block short: still good.
    ALLOCATOR.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}

/// A block of `whole` bytes, of which `bytes` are payload. No lock is held while the kernel makes a
/// segment: that takes time.
pub(super) fn alloc(whole: usize, bytes: usize) -> Result<Block> {
    let mut new: Option<Arc<Segment>> = None;
    loop {
        let mut allocator = allocator();
        let size = match allocator.alloc(whole, bytes)? {
            Ok(block) => return Ok(block),
            Err(size) => size,
        };
        match &new {
            // Not before it is known that another thread was not quicker.
            Some(segment) if segment.mapping().len() >= size => allocator.cut_from(segment),
            _ => {
                drop(allocator);
                new = Some(Arc::new(Segment::create("fastmp-arena", Kind::Arena, size)?));
                kill_point!("arena.segment_made");
            }
        }
    }
}

impl Allocator {
    /// A block, or how large a segment it takes first: the kernel is asked for one without the
    /// lock, see [`alloc`].
    fn alloc(&mut self, whole: usize, bytes: usize) -> Result<std::result::Result<Block, usize>> {
        let class = class_of(whole);
        let place = match self.free[class].pop() {
            Some(place) => place,
            None => {
                // A sweep looks at each of these: it must have been paid for by as many releases.
                let cost = SWEEP_AT.max(2 * self.stuck).max(self.forks.len() + self.exports.len());
                if self.deferred.len() >= cost {
                    self.sweep();
                }
                match self.free[class].pop() {
                    Some(place) => place,
                    None => match self.cut(class) {
                        Some(place) => place,
                        None => {
                            return Ok(Err(self
                                .next_segment
                                .clamp(FIRST_SEGMENT, LAST_SEGMENT)
                                .max(2 * size_of(class))));
                        }
                    },
                }
            }
        };
        place.segment.mapping().zero(place.offset, whole)?;
        self.dirty = true;
        let (first, last) = Default::default();
        let allocation =
            Allocation { class, born: self.forks.newest() + 1, first, last, generation: fork::generation() };
        Ok(Ok(Block { segment: place.segment, offset: place.offset, bytes, origin: Origin::Allocated(allocation) }))
    }

    fn cut(&mut self, class: usize) -> Option<BlockPlace> {
        let size = size_of(class);
        let (segment, used) = self.cutting.as_mut()?;
        // Aligned to the block's own size up to a page, as ctypes and SIMD readers may want.
        let offset = used.next_multiple_of(size.min(4096));
        if offset + size > segment.mapping().len() {
            return None;
        }
        *used = offset + size;
        Some(BlockPlace { segment: segment.clone(), offset })
    }

    /// New blocks are cut from `segment` from now on.
    fn cut_from(&mut self, segment: &Arc<Segment>) {
        self.next_segment = segment.mapping().len() * 2;
        self.segments.insert(segment.id(), segment);
        self.cutting = Some((segment.clone(), SMALLEST));
    }

    pub fn release(&mut self, place: BlockPlace, allocation: &Allocation) {
        if allocation.born <= self.lost {
            return;
        }
        let (first, last) = (allocation.first.load(Ordering::Relaxed), allocation.last.load(Ordering::Relaxed));
        if allocation.born > self.forks.newest() && first == 0 {
            self.free[allocation.class].extend(place.vacant());
            return;
        }
        let forks = allocation.born..=self.forks.newest();
        self.deferred.push(Deferred { place, class: allocation.class, forks, exports: first..=last });
    }

    /// Free the blocks whose last token is gone.
    pub fn sweep(&mut self) {
        for tokens in [&mut self.forks, &mut self.exports] {
            tokens.close();
            tokens.drop_unheld();
        }
        let mut kept = Vec::new();
        for deferred in self.deferred.drain(..) {
            if self.forks.any_in(&deferred.forks) || self.exports.any_in(&deferred.exports) {
                kept.push(deferred);
            } else {
                self.free[deferred.class].extend(deferred.place.vacant());
            }
        }
        self.stuck = kept.len();
        self.deferred = kept;
    }

    /// The token under which a handle to a block at home leaves, and its number. `with`: a handle
    /// in the same message.
    pub fn export(
        &mut self,
        allocation: &Allocation,
        bytes: usize,
        with: Option<&Handle>,
    ) -> Option<(u64, Arc<HoldToken>)> {
        let (number, token) = match with.and_then(Handle::epoch) {
            // Whoever gets the one gets the other: no reason for two, and a message carries only so
            // many descriptors. The token is in the list, for the handle holds it.
            Some((number, token)) => (number, token.clone()),
            None => {
                let again = allocation.last.load(Ordering::Relaxed) == self.exports.newest();
                self.epoch(if again { 0 } else { 1 + bytes / 4096 })?
            }
        };
        let first = match allocation.first.load(Ordering::Relaxed) {
            0 => number,
            first => first.min(number),
        };
        allocation.first.store(first, Ordering::Relaxed);
        allocation.last.fetch_max(number, Ordering::Relaxed);
        Some((number, token))
    }

    /// The open export token with room for `more`.
    ///
    /// The more tokens live, the more blocks share one: few descriptors (35 for 10,000 blocks), and
    /// few blocks that wait because somebody keeps another one.
    fn epoch(&mut self, more: usize) -> Option<(u64, Arc<HoldToken>)> {
        let usable = self.exports.open().is_some_and(|token| token.fd().is_some());
        let most = EPOCH * 1.max(self.exports.len() / 4);
        if !usable || (more > 0 && self.exported >= most) {
            match HoldWatch::open() {
                Ok(new) => {
                    self.exports.add(new);
                    self.exported = 0;
                }
                // No descriptor left, perhaps: better one that many share than none.
                Err(_) if usable => (),
                Err(_) => return None,
            }
        }
        self.exported += more;
        Some((self.exports.newest(), self.exports.open()?.clone()))
    }

    /// The token that reaches a block inherited from the process of that generation.
    pub fn inherited(&self, generation: u64) -> Option<Arc<HoldToken>> {
        self.inherited.get(&generation).cloned()
    }

    /// Have the fork that comes covered by a token.
    fn admit_child(&mut self) {
        // A process without blocks of its own has nothing to cover.
        if self.next_segment == 0 || (self.forks.open().is_some() && !self.dirty) {
            return;
        }
        if self.forks.has_room() {
            self.forks.stretch();
            self.dirty = false;
            return;
        }
        match HoldWatch::open_for_forks() {
            Ok(new) => self.forks.add(new),
            Err(_) => {
                if !self.forks.stretch() {
                    self.lost = self.forks.newest();
                }
            }
        }
        self.dirty = false;
    }
}

fn size_of(class: usize) -> usize {
    SMALLEST << class
}

fn class_of(whole: usize) -> usize {
    let size = whole.max(SMALLEST).next_power_of_two();
    (size / SMALLEST).trailing_zeros() as usize
}

thread_local! {
    static HELD: RefCell<Option<MutexGuard<'static, Allocator>>> = const { RefCell::new(None) };
}

/// Around a fork: the allocator's lock is held over it, so that the child finds it whole.
struct Forking;

impl AtFork for Forking {
    fn before() {
        let mut allocator = allocator();
        allocator.admit_child();
        HELD.with(|held| *held.borrow_mut() = Some(allocator));
    }

    fn in_parent() {
        HELD.with(|held| drop(held.borrow_mut().take()));
    }

    /// Start an allocator of our own; keep what holds and names the inherited blocks.
    fn in_child() {
        HELD.with(|held| {
            let Some(mut allocator) = held.borrow_mut().take() else { return };
            let old = std::mem::take(&mut *allocator);
            (allocator.segments, allocator.received, allocator.inherited) = (old.segments, old.received, old.inherited);
            if let Some(token) = old.forks.inherit() {
                // `generation` is the child's already.
                allocator.inherited.insert(fork::generation() - 1, token);
            }
        });
    }
}
