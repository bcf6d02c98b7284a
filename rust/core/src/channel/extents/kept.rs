//! Free extents whose pages are kept for the next message: new pages cost more than the copy.
//!
//! A fixed row of cells names them. A cell is a hint: whether a slot is free its `owner` says
//! alone. A slot that is free and in no cell is given back by a sweep, a cell whose slot is not
//! free is cleared by whoever comes across it.
//!
//! | bits of a cell | what |
//! |---|---|
//! | 0 | is there one? |
//! | 1 | in the far place? |
//! | 2-21 | slot |
//! | 22-39 | pages |
//! | 40-63 | when it was freed, in units of 16 ms |
//!
//! # How much
//! Three times the size of the extent that was freed last, at least 32 MiB and at most 256 MiB:
//! enough for one that is filled while another is read and a third is between the two. What was
//! used least recently goes first. All channels that this process uses keep 256 MiB together. What
//! was not used for a second goes, but for 8 MiB a channel. There is no thread to see to it: those
//! do who wait on the channel, each time they look up, and those who use large messages on any
//! channel of the same process.

use std::sync::{Arc, Weak};

use super::{CHUNK, Extents, IN_RING, OwnedExtent, PAGE};
use crate::deadline::now;
use crate::facade::Ordering;
use crate::kill_point;
use crate::sys::fork::Local;

/// Free extents that are kept, at most: some 20 MB of the smallest, which have more than 64 KiB
/// each. To look all cells through takes less time than to make one page.
pub const KEPT: usize = 288;
/// Bytes that a channel keeps, and all channels of a process together.
const LEAST_KEPT: u64 = 32 << 20;
const MOST_KEPT: u64 = 256 << 20;
/// Bytes that a channel at rest keeps.
const AT_REST: u64 = 8 << 20;
const TICK: u64 = 16_000_000;
/// Ticks after which what was not used counts as at rest: a second.
const REST: u64 = 63;
const SLOT_BITS: u64 = (1 << 20) - 1;
const PAGES_BITS: u64 = (1 << 18) - 1;
const TICKS: u64 = (1 << 24) - 1;

/// The channels of this process that have kept something.
static CHANNELS: Local<Vec<Weak<Extents>>> = Local::new(Vec::new());

/// What a cell says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Cell(u64);

impl Cell {
    const NONE: Cell = Cell(0);

    fn new(index: u64, far: bool, cap: u64) -> Cell {
        let when = tick();
        Cell(1 | u64::from(far) << 1 | (index & SLOT_BITS) << 2 | ((cap / PAGE) & PAGES_BITS) << 22 | when << 40)
    }
    fn index(self) -> u64 {
        self.0 >> 2 & SLOT_BITS
    }
    fn is_far(self) -> bool {
        self.0 & 2 != 0
    }
    fn cap(self) -> u64 {
        (self.0 >> 22 & PAGES_BITS) * PAGE
    }
    /// Ticks since it was freed, at `tick`.
    fn age(self, tick: u64) -> u64 {
        tick.wrapping_sub(self.0 >> 40) & TICKS
    }
}

fn tick() -> u64 {
    (now() / TICK) & TICKS
}

impl Extents {
    fn cells(&self) -> impl Iterator<Item = (usize, Cell)> + '_ {
        let kept = self.state().kept.iter().enumerate();
        kept.map(|(at, cell)| (at, Cell(cell.load(Ordering::Relaxed)))).filter(|(_, cell)| cell.0 & 1 != 0)
    }

    pub(super) fn is_kept(&self, index: u64) -> bool {
        self.cells().any(|(_, cell)| cell.index() == index)
    }

    /// Bytes that are kept.
    pub fn kept_bytes(&self) -> u64 {
        self.cells().map(|(_, cell)| cell.cap()).sum()
    }

    /// Is no more kept than a channel at rest keeps?
    pub fn is_at_rest(&self) -> bool {
        self.kept_bytes() <= AT_REST
    }

    /// Would another one with `cap` bytes of pages be kept without giving any back?
    pub(super) fn has_room_for(&self, cap: u64) -> bool {
        (1..CHUNK).contains(&cap) && self.cells().count() < KEPT && self.kept_bytes() + cap <= LEAST_KEPT
    }

    /// Own a kept extent that suits `need` bytes. Its pages may be fewer: the rest is made as it is
    /// filled.
    pub(super) fn take_kept(self: &Arc<Self>, need: u64) -> Option<OwnedExtent> {
        let (far, tick) = (need > CHUNK, tick());
        for _ in 0..KEPT {
            // The smallest that is large enough, but not far too large: its receiver may keep all
            // of it for long. Else the largest of those that are not.
            let rank = |cell: Cell| match cell.cap() {
                cap if cap >= need => (cap / 2 <= need).then_some((1, u64::MAX - cap, u64::MAX - cell.age(tick))),
                cap => (!far || cap >= need / 2).then_some((0, cap, 0)),
            };
            let suiting = self.cells().filter(|(_, cell)| cell.is_far() == far);
            let (_, at, cell) =
                suiting.filter_map(|(at, cell)| Some((rank(cell)?, at, cell))).max_by_key(|(rank, ..)| *rank)?;
            let taken = self.take_out(at, cell);
            if taken.is_some() {
                kill_point!("extent.taken");
                return taken;
            }
        }
        None
    }

    /// Own what a cell names, if it is still so, and clear the cell.
    fn take_out(self: &Arc<Self>, at: usize, cell: Cell) -> Option<OwnedExtent> {
        let taken = self.claim(cell.index(), |slot| {
            slot.cap.load(Ordering::Relaxed) == cell.cap() && (slot.far.load(Ordering::Relaxed) != 0) == cell.is_far()
        });
        // First the slot, then the cell: who dies in between leaves a slot that it owns.
        let _ = self.state().kept[at].compare_exchange(cell.0, 0, Ordering::Relaxed, Ordering::Relaxed);
        taken
    }

    fn evict(self: &Arc<Self>, at: usize, cell: Cell) {
        if let Some(extent) = self.take_out(at, cell) {
            extent.discard();
        }
    }

    /// This process's slot `index` is free from now on.
    pub(super) fn free(self: &Arc<Self>, index: u64) {
        let Ok(slot) = self.table.slot(index) else { return };
        // A panic or an error in between: it was given away already.
        if slot.owner.load(Ordering::Relaxed) == IN_RING {
            return;
        }
        let (cap, far) = (slot.cap(), slot.far.load(Ordering::Relaxed) != 0);
        if cap == 0 || cap > MOST_KEPT {
            self.give_back(index, &slot);
            slot.owner.store(0, Ordering::Release);
            return;
        }
        let cell = Cell::new(index, far, cap);
        slot.owner.store(0, Ordering::Release);
        kill_point!("extent.freed");
        let kept = &self.state().kept;
        let is_in = |word: u64| {
            let put = |at: usize| kept[at].compare_exchange(word, cell.0, Ordering::Relaxed, Ordering::Relaxed).is_ok();
            (0..KEPT).filter(|&at| kept[at].load(Ordering::Relaxed) == word).any(put)
        };
        if !is_in(0) {
            // All cells are taken. Where the oldest was this one comes, if nobody is quicker.
            if let Some((at, oldest)) = self.oldest(cell) {
                self.evict(at, oldest);
            }
            is_in(0);
        }
        let most = (3 * cap).clamp(LEAST_KEPT, MOST_KEPT);
        while self.kept_bytes() > most
            && let Some((at, oldest)) = self.oldest(cell)
        {
            self.evict(at, oldest);
        }
        if cap >= CHUNK {
            self.sweep_now_and_then();
            self.tend_others();
        }
    }

    /// The one that was freed first, but not `new`, which may be no younger: ticks are long.
    fn oldest(&self, new: Cell) -> Option<(usize, Cell)> {
        let tick = tick();
        self.cells().filter(|&(_, cell)| cell != new).max_by_key(|(_, cell)| cell.age(tick))
    }

    /// Give back what the dead held, and what was not used for a while, but for a little. Cheap
    /// when there is nothing.
    pub fn tend(self: &Arc<Self>) {
        if !self.file().is_known() {
            return;
        }
        self.sweep_now_and_then();
        while self.kept_bytes() > AT_REST
            && let Some((at, oldest)) = self.oldest(Cell::NONE).filter(|(_, oldest)| oldest.age(tick()) > REST)
        {
            self.evict(at, oldest);
        }
    }

    /// The same for the other channels of this process, and more if they keep too much together.
    fn tend_others(self: &Arc<Self>) {
        let all: Vec<_> = CHANNELS.with(|channels| {
            channels.retain(|channel| channel.strong_count() > 0);
            if !channels.iter().any(|channel| channel.as_ptr() == Arc::as_ptr(self)) {
                channels.push(Arc::downgrade(self));
            }
            channels.iter().filter_map(Weak::upgrade).collect()
        });
        if all.len() < 2 {
            return;
        }
        all.iter().for_each(Extents::tend);
        let others = all.iter().filter(|channel| !Arc::ptr_eq(channel, self));
        let mut total = self.kept_bytes() + others.clone().map(|channel| channel.kept_bytes()).sum::<u64>();
        let tick = tick();
        while total > MOST_KEPT {
            let oldest = others.clone().filter_map(|channel| Some((channel, channel.oldest(Cell::NONE)?)));
            let Some((channel, (at, cell))) = oldest.max_by_key(|(_, (_, cell))| cell.age(tick)) else { return };
            channel.evict(at, cell);
            total = total.saturating_sub(cell.cap().max(1));
        }
    }
}
