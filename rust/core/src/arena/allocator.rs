//! The allocator: which blocks are free, and which wait for what. Private memory of the segments'
//! maker.

use std::cell::RefCell;
use std::collections::HashMap;
use std::ops::RangeInclusive;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, LazyLock, Mutex, MutexGuard, TryLockError};

use super::plot::{ANY_LEFT, LEFT, Left, Plots, SHAPES, leave, trim};
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
    sort: Sort,
    /// The number of the first fork token that reaches it.
    born: u64,
    /// The first and the last export token that a handle went under; 0: none yet. Changed under the
    /// allocator's lock.
    first: AtomicU64,
    last: AtomicU64,
    /// Of a plot: are the pages of its shape reserved?
    pub has_pages: AtomicBool,
    /// `fork::generation()` of the process that allocated it: a forked child's copy is not this
    /// process's.
    pub generation: u64,
}

/// By what list a block returns: that of its class, or of its shape.
#[derive(Debug, Clone, Copy)]
enum Sort {
    Class(usize),
    Plot(usize),
}

/// What is to be known of a block that its maker has dropped.
#[derive(Debug, Clone, Copy)]
pub(super) struct Departed {
    sort: Sort,
    born: u64,
    exports: (u64, u64),
    pub has_pages: bool,
}

impl Allocation {
    fn departed(&self) -> Departed {
        let exports = (self.first.load(Ordering::Relaxed), self.last.load(Ordering::Relaxed));
        let has_pages = self.has_pages.load(Ordering::Relaxed);
        Departed { sort: self.sort, born: self.born, exports, has_pages }
    }
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
    pub fn vacant(self) -> Option<BlockPlace> {
        let header = layout::view::<Header>(self.segment.mapping(), self.offset).ok()?;
        if header.is_exported() {
            return None;
        }
        header.erase();
        Some(self)
    }
}

#[derive(Debug)]
pub(super) struct Deferred {
    pub place: BlockPlace,
    pub departed: Departed,
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
    pub plots: [Plots; SHAPES],
    pub deferred_plots: Vec<Deferred>,
    pub stuck_plots: usize,
    /// How much has come to wait since the last sweep.
    pub plots_waiting: usize,
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
    let mut allocator = ALLOCATOR.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
    allocator.take_left();
    allocator
}

/// Is the lock held over a fork?
static FORKING: AtomicBool = AtomicBool::new(false);

/// The same; None while a fork is under way, which may take long.
pub(super) fn try_allocator() -> Option<MutexGuard<'static, Allocator>> {
    loop {
        let mut allocator = match ALLOCATOR.try_lock() {
            Ok(allocator) => allocator,
            Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
            Err(TryLockError::WouldBlock) if FORKING.load(Ordering::Acquire) => return None,
            // It is never held for long else.
            Err(TryLockError::WouldBlock) => {
                std::thread::yield_now();
                continue;
            }
        };
        allocator.take_left();
        return Some(allocator);
    }
}

/// The maker has dropped a block. No fork is waited for.
pub(super) fn release(place: BlockPlace, allocation: &Allocation) {
    let departed = allocation.departed();
    let Some(mut allocator) = try_allocator() else { return leave(Left::Dropped(place, departed)) };
    allocator.release(place, departed);
    let surplus = allocator.take_surplus();
    drop(allocator);
    trim(surplus);
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
        let allocation = self.allocate(Sort::Class(class), true);
        Ok(Ok(Block { segment: place.segment, offset: place.offset, bytes, origin: Origin::Allocated(allocation) }))
    }

    fn allocate(&mut self, sort: Sort, has_pages: bool) -> Allocation {
        self.dirty = true;
        let (first, last) = Default::default();
        let (born, generation) = (self.forks.newest() + 1, fork::generation());
        Allocation { sort, born, first, last, has_pages: AtomicBool::new(has_pages), generation }
    }

    /// What is to be known of a plot of shape `number` that is handed out.
    pub fn allocation(&mut self, number: usize, has_pages: bool) -> Allocation {
        self.allocate(Sort::Plot(number), has_pages)
    }

    /// Tokens that a sweep asks after.
    pub fn tokens(&self) -> usize {
        self.forks.len() + self.exports.len()
    }

    /// What came back while nobody could have the lock.
    fn take_left(&mut self) {
        if !ANY_LEFT.load(Ordering::Relaxed) || !ANY_LEFT.swap(false, Ordering::AcqRel) {
            return;
        }
        for left in LEFT.with(std::mem::take) {
            match left {
                Left::Dropped(place, departed) => self.release(place, departed),
                Left::Trimmed(place, number, has_pages) => self.return_trimmed(place, number, has_pages),
            }
        }
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

    pub fn release(&mut self, place: BlockPlace, departed: Departed) {
        if departed.born <= self.lost {
            return;
        }
        if departed.born > self.forks.newest() && departed.exports.0 == 0 {
            return self.free(place, departed);
        }
        let forks = departed.born..=self.forks.newest();
        let exports = departed.exports.0..=departed.exports.1;
        let deferred = Deferred { place, departed, forks, exports };
        match departed.sort {
            Sort::Class(_) => self.deferred.push(deferred),
            Sort::Plot(_) => self.defer_plot(deferred),
        }
    }

    fn free(&mut self, place: BlockPlace, departed: Departed) {
        match departed.sort {
            Sort::Class(class) => self.free[class].extend(place.vacant()),
            Sort::Plot(number) => self.free_plot(place, number, departed.has_pages),
        }
    }

    /// Free the blocks whose last token is gone.
    pub fn sweep(&mut self) {
        for tokens in [&mut self.forks, &mut self.exports] {
            tokens.close();
            tokens.drop_unheld();
        }
        let deferred = std::mem::take(&mut self.deferred);
        self.deferred = self.free_unheld(deferred);
        self.stuck = self.deferred.len();
        let deferred = std::mem::take(&mut self.deferred_plots);
        self.deferred_plots = self.free_unheld(deferred);
        (self.stuck_plots, self.plots_waiting) = (self.deferred_plots.len(), 0);
    }

    /// Gives back those that somebody may hold.
    fn free_unheld(&mut self, all: Vec<Deferred>) -> Vec<Deferred> {
        let mut kept = Vec::new();
        for deferred in all {
            if self.forks.any_in(&deferred.forks) || self.exports.any_in(&deferred.exports) {
                kept.push(deferred);
            } else {
                self.free(deferred.place, deferred.departed);
            }
        }
        kept
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
                // A plot is mostly address space.
                let weight = if let Sort::Plot(_) = allocation.sort { 1 } else { 1 + bytes / 4096 };
                self.epoch(if again { 0 } else { weight })?
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
        if (self.next_segment == 0 && !self.has_plots()) || (self.forks.open().is_some() && !self.dirty) {
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
        FORKING.store(true, Ordering::Release);
        HELD.with(|held| *held.borrow_mut() = Some(allocator));
    }

    fn in_parent() {
        FORKING.store(false, Ordering::Release);
        HELD.with(|held| drop(held.borrow_mut().take()));
    }

    /// Start an allocator of our own; keep what holds and names the inherited blocks.
    fn in_child() {
        FORKING.store(false, Ordering::Release);
        // The parent's.
        ANY_LEFT.store(false, Ordering::Relaxed);
        drop(LEFT.with(std::mem::take));
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
