//! Plots: large blocks that are mostly address space, for what grows where it is.
//!
//! A channel's words and rings lie in a plot. It has its [shape](Shape)'s bytes of address space,
//! of which a few pages are reserved when it is handed out; its user reserves more as it needs them
//! ([`Header::grow`] first). Plots are cut from sparse segments that have nothing else in them.
//! They live and return as all blocks do (see [`arena`](super)): the same tokens, the same handles.
//!
//! | where a free plot stands | its pages | becomes |
//! |---|---|---|
//! | `warm` | those of its shape | used, its words zeroed |
//! | `cold` | none | used, once its pages are reserved |
//! | `surplus` | too many, or it is one too many | warm, or cold, by whoever comes by |
//!
//! New pages cost more than all else that a channel needs, so that a plot which returns keeps those
//! of its shape. Only words are zeroed when it is used again: what the rings have held is there
//! still. Who has one plot of a segment has mapped them all, anyway.
//!
//! What the kernel has to be asked for, pages and their return, is done without the allocator's
//! lock, by a thread that has taken the plot out of the lists. If it dies there, its process has
//! died, and with it the allocator: the segment goes with the last that has it mapped.
//!
//! # Forks by other threads
//! The allocator's lock is held over a fork, and a fork may take long: a handler of the program's
//! may even wait for the very thread that makes or drops a channel. So who makes a plot does not
//! wait for a fork to end: it gets one that is alone in its segment. And who drops a block then
//! leaves it in a list beside the lock, for the next one who has the lock.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::allocator::{Allocator, BlockPlace, Deferred, Departed, try_allocator};
use super::segment::Segment;
use super::{Block, Origin};
use crate::error::{Error, Result};
use crate::kill_point;
use crate::layout::{self, Header, Kind};
use crate::sys::fork::Local;
use crate::sys::memfd;

/// How many shapes there may be: a queue's, a pipe's, one for tests.
pub const SHAPES: usize = 3;
/// Where the first plot of a segment is.
const FIRST: usize = 4096;
/// Plots of a shape's first segment. Each has four times as many as the one before, up to a segment
/// of so many bytes. A segment costs a descriptor. Its address space is each process's that has one
/// of its plots, also of those that are limited in that (`ulimit -v`) later.
const FIRST_PLOTS: usize = if cfg!(miri) { 1 } else { 2 };
const MOST_BYTES: usize = if cfg!(miri) { 1 } else { 512 << 20 };
const GROWTH: usize = 4;
/// Free plots of a shape that keep their pages.
const WARM: usize = 64;
/// Look for plots that have become free when so many have come to wait. One that has grown counts
/// for several: it has a MiB and more.
const SWEEP_AT: usize = 16;
const GROWN_COUNTS: usize = 8;

/// What a sort of plots is like. Offsets are from a plot's start, in whole pages.
#[derive(Debug)]
pub struct Shape {
    /// Its number, below [`SHAPES`].
    pub number: usize,
    /// Bytes of address space.
    pub bytes: usize,
    /// Bytes from its start that are zero when it is handed out.
    pub words: usize,
    /// What is reserved then: offsets and bytes, the first from its start, in order.
    pub pages: [(usize, usize); 2],
}

impl Shape {
    /// What is not reserved at first.
    fn rest(&self) -> [(usize, usize); 2] {
        let [first, second] = self.pages.map(|(at, bytes)| (at, at + bytes));
        [(first.1, second.0.max(first.1)), (second.1.max(first.1), self.bytes)]
    }
}

/// The free plots of a shape.
#[derive(Default)]
pub(super) struct Plots {
    shape: Option<&'static Shape>,
    warm: Vec<BlockPlace>,
    cold: Vec<BlockPlace>,
    surplus: Vec<BlockPlace>,
    /// The segment that new plots are cut from, and up to where it is used.
    cutting: Option<(Arc<Segment>, usize)>,
    /// Plots of the next one.
    next: usize,
}

/// What came back while the allocator's lock was not to be had.
#[derive(Debug)]
pub(super) enum Left {
    /// A block that was dropped.
    Dropped(BlockPlace, Departed),
    /// A plot that is free, and whether it has pages.
    Trimmed(BlockPlace, usize, bool),
}

/// See [`Left`]. In a forked child it may be lost, with what was its parent's to use again.
pub(super) static LEFT: Local<Vec<Left>> = Local::new(Vec::new());
pub(super) static ANY_LEFT: AtomicBool = AtomicBool::new(false);

pub(super) fn leave(left: Left) {
    LEFT.with(|list| list.push(left));
    ANY_LEFT.store(true, Ordering::Release);
}

/// A plot, its words zero but for the header.
pub(super) fn alloc(kind: Kind, shape: &'static Shape) -> Result<Block> {
    let block = match cut(shape) {
        Ok(Some(block)) => block,
        // Also where a limit on the size of files allows no more of a large segment.
        Ok(None) | Err(Error::OutOfMemory) => alone(shape)?,
        Err(e) => return Err(e),
    };
    block.header()?.write(kind, block.bytes as u64);
    Ok(block)
}

/// None: a fork is under way.
fn cut(shape: &'static Shape) -> Result<Option<Block>> {
    let mut new: Option<Arc<Segment>> = None;
    let (block, is_warm) = loop {
        let Some(mut allocator) = try_allocator() else { return Ok(None) };
        if let Some((place, is_warm)) = allocator.take_plot(shape) {
            let allocation = allocator.allocation(shape.number, is_warm);
            let surplus = allocator.take_surplus();
            drop(allocator);
            trim(surplus);
            let (segment, offset) = (place.segment, place.offset);
            let bytes = shape.bytes - Header::BYTES;
            break (Block { segment, offset, bytes, origin: Origin::Allocated(allocation) }, is_warm);
        }
        match &new {
            // Not before it is known that another thread was not quicker.
            Some(segment) => allocator.cut_plots_from(shape, segment),
            None => {
                let most = (MOST_BYTES / shape.bytes).max(FIRST_PLOTS);
                let plots = allocator.plots[shape.number].next.clamp(FIRST_PLOTS, most);
                drop(allocator);
                new = Some(Arc::new(segment_of(plots, shape)?));
                kill_point!("arena.segment_made");
            }
        }
    };
    if !is_warm {
        for (at, bytes) in shape.pages {
            memfd::reserve_own(block.segment.own_fd()?, (block.offset + at) as u64, bytes as u64)?;
        }
        kill_point!("plot.reserved");
        if let Origin::Allocated(allocation) = &block.origin {
            allocation.has_pages.store(true, Ordering::Relaxed);
        }
    }
    block.segment.mapping().zero(block.offset, shape.words)?;
    kill_point!("plot.zeroed");
    Ok(Some(block))
}

/// A segment for so many plots; for fewer, where address space is short.
fn segment_of(mut plots: usize, shape: &Shape) -> Result<Segment> {
    loop {
        match Segment::sparse("fastmp-plots", Kind::Arena, FIRST + plots * shape.bytes, FIRST) {
            Err(Error::OutOfMemory) if plots > 1 => plots = 1.max(plots / 8),
            done => return done,
        }
    }
}

fn alone(shape: &Shape) -> Result<Block> {
    let segment = Arc::new(segment_of(1, shape)?);
    for (at, bytes) in shape.pages {
        memfd::reserve_own(&*segment, (FIRST + at) as u64, bytes as u64)?;
    }
    Ok(Block { segment, offset: FIRST, bytes: shape.bytes - Header::BYTES, origin: Origin::Alone })
}

/// Give back what free plots have too much, and put them where they belong.
pub(super) fn trim(surplus: Vec<(&'static Shape, BlockPlace, bool)>) {
    for (shape, place, keeps) in surplus {
        // Without the descriptor, which the program has closed, it is of no more use.
        let Ok(fd) = place.segment.own_fd() else { continue };
        let ranges = if keeps { shape.rest() } else { [(0, shape.bytes), (0, 0)] };
        for (from, to) in ranges.into_iter().filter(|(from, to)| from < to) {
            memfd::punch(fd, (place.offset + from) as u64, (to - from) as u64);
        }
        match try_allocator() {
            Some(mut allocator) => allocator.return_trimmed(place, shape.number, keeps),
            None => leave(Left::Trimmed(place, shape.number, keeps)),
        }
    }
}

fn has_grown(place: &BlockPlace) -> bool {
    layout::view::<Header>(place.segment.mapping(), place.offset).is_ok_and(Header::has_grown)
}

impl Allocator {
    /// A free plot, and has it pages? None: there is no segment to cut one from.
    fn take_plot(&mut self, shape: &'static Shape) -> Option<(BlockPlace, bool)> {
        self.plots[shape.number].shape = Some(shape);
        if self.plots[shape.number].warm.is_empty() {
            self.sweep_plots();
        }
        let plots = &mut self.plots[shape.number];
        // The program may have closed its descriptor: then no pages are to be had there, and no
        // handle could leave.
        let next =
            |list: &mut Vec<BlockPlace>| std::iter::from_fn(|| list.pop()).find(|place| place.segment.own_fd().is_ok());
        if let Some(place) = next(&mut plots.warm) {
            return Some((place, true));
        }
        if let Some(place) = next(&mut plots.cold) {
            return Some((place, false));
        }
        let (segment, used) = plots.cutting.as_mut()?;
        let offset = *used;
        if offset + shape.bytes > segment.mapping().len() || segment.own_fd().is_err() {
            return None;
        }
        *used = offset + shape.bytes;
        Some((BlockPlace { segment: segment.clone(), offset }, false))
    }

    /// Has this process ever cut one?
    pub(super) fn has_plots(&self) -> bool {
        self.plots.iter().any(|plots| plots.next > 0)
    }

    fn cut_plots_from(&mut self, shape: &Shape, segment: &Arc<Segment>) {
        let plots = &mut self.plots[shape.number];
        plots.next = GROWTH * (segment.mapping().len() - FIRST) / shape.bytes;
        plots.cutting = Some((segment.clone(), FIRST));
        self.segments.insert(segment.id(), segment);
    }

    /// A plot that somebody may reach still has come to wait.
    pub(super) fn defer_plot(&mut self, deferred: Deferred) {
        let has_grown = deferred.departed.has_pages && has_grown(&deferred.place);
        self.plots_waiting += if has_grown { GROWN_COUNTS } else { 1 };
        self.deferred_plots.push(deferred);
        self.sweep_plots();
    }

    /// Look for plots whose last token is gone, if it has been paid for.
    fn sweep_plots(&mut self) {
        if self.plots_waiting >= SWEEP_AT.max(self.stuck_plots).max(self.tokens()) {
            self.sweep();
        }
    }

    /// A plot that nobody can reach any more.
    pub(super) fn free_plot(&mut self, place: BlockPlace, number: usize, has_pages: bool) {
        // Its pages were refused, so that it has never been used. Nor may it be looked at: where
        // memory is short that is a SIGBUS.
        if !has_pages {
            return self.plots[number].cold.push(place);
        }
        let grown = has_grown(&place);
        let Some(place) = place.vacant() else { return };
        let plots = &mut self.plots[number];
        match grown || plots.warm.len() >= WARM {
            true => plots.surplus.push(place),
            false => plots.warm.push(place),
        }
    }

    /// Those whose pages are to be given back, and do they keep those of their shape?
    pub(super) fn take_surplus(&mut self) -> Vec<(&'static Shape, BlockPlace, bool)> {
        let mut all = Vec::new();
        for plots in &mut self.plots {
            if let (Some(shape), false) = (plots.shape, plots.surplus.is_empty()) {
                let mut room = WARM.saturating_sub(plots.warm.len());
                all.extend(plots.surplus.drain(..).map(|place| {
                    let keeps = room > 0;
                    room = room.saturating_sub(1);
                    (shape, place, keeps)
                }));
            }
        }
        all
    }

    pub(super) fn return_trimmed(&mut self, place: BlockPlace, number: usize, has_pages: bool) {
        let plots = &mut self.plots[number];
        if has_pages { plots.warm.push(place) } else { plots.cold.push(place) }
    }
}
