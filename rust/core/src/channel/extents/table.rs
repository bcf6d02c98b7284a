//! The table of extents: slots, and where the pages of each are.
//!
//! A few slots are beside the channel's words; more come by the page as they are needed. Each slot
//! has two places in the file: a *near* one of 1 MiB, where a ring's positions reach, and a *far*
//! one of 1 TiB. It uses one at a time. A file with holes takes no more memory than its pages, so
//! that places cost nothing.
//!
//! | bytes of the file | what |
//! |---|---|
//! | below 16 MiB | the file's header; of a broadcast, its words |
//! | from 16 MiB | the table's further pages |
//! | from 128 MiB | near places |
//! | from 1 TiB | far places |
//!
//! Growing: make the page, then CAS `more`. A page may be made twice, by two at a time or after a
//! death: making one writes a single byte that no slot uses.

use std::mem::offset_of;
use std::sync::Arc;

use crate::arena::Segment;
use crate::channel::file::File;
use crate::channel::front::Front;
use crate::error::{Error, Result};
use crate::facade::{AtomicU32, AtomicU64, Ordering};
use crate::kill_point;
use crate::layout::{self, Backing};
use crate::overlay;
use crate::sys::fork::Local;
use crate::sys::mapping::Mapping;
use crate::sys::memfd;

use super::kept::KEPT;

/// Slots beside the channel's words.
const FIRST: u64 = 24;
/// Slots in a page.
const PAGEFUL: u64 = 64;
/// Pages of the table that are mapped at a time.
const PIECE: u64 = 64;
const PAGE: u64 = 4096;
const TABLE_AT: u64 = 16 << 20;
const NEAR_AT: u64 = 128 << 20;
/// Bytes of a near place.
pub const NEAR_BYTES: u64 = 1 << 20;
/// Bytes of a far place.
pub const FAR_BYTES: u64 = 1 << 40;
/// Slots at most. The near places of all end at the last position that a ring can name, at 1 TiB.
pub const MOST: u64 = FIRST + (((1 << 40) - NEAR_AT) / NEAR_BYTES - FIRST) / PAGEFUL * PAGEFUL;
const _: () = assert!(TABLE_AT + (MOST - FIRST) / PAGEFUL * PAGE <= NEAR_AT);
/// Slots that are looked at for an empty one before the table grows. Those that are kept, or held
/// for long, lie side by side: some hundred, that make it grow each time that they are come across
/// if no more than they are looked at.
const LOOKS: usize = 512;

overlay! {
    /// An extent's slot. See the module above.
    #[repr(align(64))]
    #[derive(Debug)]
    pub struct Slot {
        pub(super) owner: AtomicU64,
        /// Bytes, from its start, that have pages.
        pub(super) cap: AtomicU64,
        /// It is on its way into ring `put_ring`, by a commit of the tail as this.
        pub(super) put_intent: AtomicU64,
        /// It is on its way out of ring `get_ring`, by a commit of the head as this.
        pub(super) get_intent: AtomicU64,
        pub(super) put_ring: AtomicU32,
        pub(super) get_ring: AtomicU32,
        /// Not 0: the pages are in the far place. See [`huge`](super::huge) for more.
        pub(super) far: AtomicU32,
        /// How often its pages have been given back, as a hint: who has used these very ones?
        pub(super) life: AtomicU32,
        /// While a ring has it: the caller's business. See [`shared`](super::shared).
        pub(super) note: AtomicU64,
        /// The last byte of a page's last slot is written to make the page.
        _reserved2: AtomicU64,
    }
}

overlay! {
    /// The shared words of a channel's extents. All zero at first.
    #[derive(Debug)]
    pub struct ExtentState {
        /// Slots beyond the first.
        more: AtomicU64,
        /// Where to look for an empty slot.
        hint: AtomicU64,
        /// When the last sweep was, by the monotonic clock.
        pub(super) swept: AtomicU64,
        /// Where the next one begins.
        pub(super) sweeper: AtomicU64,
        _reserved: [AtomicU64; 4],
        /// Free extents whose pages are kept. See [`kept`](super::kept).
        pub(super) kept: [AtomicU64; KEPT],
        slots: [Slot; FIRST as usize],
    }
}

impl Slot {
    /// Where its pages are, being slot `index`, and how many bytes there is place for.
    pub fn place(&self, index: u64) -> (u64, u64) {
        match self.far.load(Ordering::Relaxed) {
            0 => (near(index), NEAR_BYTES),
            _ => ((index + 1) * FAR_BYTES, FAR_BYTES),
        }
    }

    /// Bytes that have pages, as far as that can be.
    pub fn cap(&self) -> u64 {
        let most = if self.far.load(Ordering::Relaxed) == 0 { NEAR_BYTES } else { FAR_BYTES };
        self.cap.load(Ordering::Acquire).min(most) & !(PAGE - 1)
    }
}

/// The offset of a slot's near place.
pub fn near(index: u64) -> u64 {
    NEAR_AT + index * NEAR_BYTES
}

/// Whose near place it is.
pub fn near_index(at: u64) -> Option<u64> {
    Some(at.checked_sub(NEAR_AT)? / NEAR_BYTES)
}

/// A slot, wherever it is.
#[derive(Debug)]
pub enum SlotRef<'a> {
    /// Beside the channel's words.
    First(&'a Slot),
    /// In a further page.
    More(layout::Object<Slot, Arc<Mapping>>),
}

impl std::ops::Deref for SlotRef<'_> {
    type Target = Slot;
    #[inline]
    fn deref(&self) -> &Slot {
        match self {
            SlotRef::First(slot) => slot,
            SlotRef::More(slot) => slot,
        }
    }
}

/// The table, as this process sees it.
#[derive(Debug)]
pub struct Table {
    pub(super) state: layout::Object<ExtentState, Arc<Front>>,
    /// Where that is in its mapping.
    at: usize,
    pub(super) file: File,
    /// Its further pages, in pieces.
    pieces: Local<Vec<Option<Arc<Mapping>>>>,
}

impl Table {
    pub(super) fn new(front: Arc<Front>, at: usize, file: File) -> Result<Table> {
        let at = front.offset() + at;
        Ok(Table { state: layout::Object::new(front, at)?, at, file, pieces: Local::default() })
    }

    /// The file that has the pages.
    ///
    /// # Errors
    /// `NO_FILE`.
    pub(super) fn segment(&self) -> Result<Arc<Segment>> {
        self.file.get()
    }

    /// Has any slot ever been taken?
    pub(super) fn was_used(&self) -> bool {
        // Acquire: stored by who takes a slot, after the file was sent. Who sees that finds it.
        self.state.hint.load(Ordering::Acquire) != 0 || self.state.more.load(Ordering::Acquire) != 0
    }

    /// Slots that there are.
    pub fn len(&self) -> u64 {
        // Acquire: pairs with the CAS in `grow`.
        FIRST + (self.state.more.load(Ordering::Acquire).min(MOST - FIRST) & !(PAGEFUL - 1))
    }

    /// Are some of them in the file?
    pub fn has_grown(&self) -> bool {
        self.len() > FIRST
    }

    /// Slot `index`.
    ///
    /// # Errors
    /// `Corrupted` if there is none; `OutOfMemory` if it cannot be mapped.
    #[inline]
    pub fn slot(&self, index: u64) -> Result<SlotRef<'_>> {
        match self.state.slots.get(index as usize) {
            Some(slot) => Ok(SlotRef::First(slot)),
            None => self.later_slot(index).map(SlotRef::More),
        }
    }

    /// The same, to be kept longer than the channel, with [`plot_of`](Self::plot_of).
    ///
    /// # Errors
    /// Those of [`slot`](Self::slot).
    pub fn slot_alone(&self, index: u64) -> Result<layout::Object<Slot, Arc<Mapping>>> {
        if index >= FIRST {
            return self.later_slot(index);
        }
        let at = self.at + offset_of!(ExtentState, slots) + index as usize * size_of::<Slot>();
        layout::Object::new(self.state.backing().mapping().clone(), at)
    }

    /// The plot that slot `index` is in, if it is in one.
    pub fn plot_of(&self, index: u64) -> Option<Arc<Front>> {
        let front = self.state.backing();
        (index < FIRST && front.is_plot()).then(|| front.clone())
    }

    fn later_slot(&self, index: u64) -> Result<layout::Object<Slot, Arc<Mapping>>> {
        if index >= self.len() {
            return Err(Error::Corrupted("a message without its extent"));
        }
        let at = (index - FIRST) * size_of::<Slot>() as u64;
        let piece = (at / (PIECE * PAGE)) as usize;
        let known = self.pieces.with(|pieces| pieces.get(piece).cloned().flatten());
        let mapping = match known {
            Some(mapping) => mapping,
            None => {
                let start = TABLE_AT + piece as u64 * PIECE * PAGE;
                // What is beyond the file's end must not be touched.
                let segment = self.segment()?;
                let segment = segment.own_fd()?;
                if memfd::size(segment)? < start + PIECE * PAGE {
                    return Err(Error::Corrupted("a table longer than its segment"));
                }
                let mapping = Arc::new(Mapping::new(segment, start, (PIECE * PAGE) as usize)?);
                self.pieces.with(|pieces| {
                    if pieces.len() <= piece {
                        pieces.resize(piece + 1, None);
                    }
                    pieces[piece].get_or_insert(mapping).clone()
                })
            }
        };
        layout::Object::new(mapping, (at % (PIECE * PAGE)) as usize)
    }

    /// Where an empty slot probably is.
    pub fn likely_empty(&self) -> impl Iterator<Item = u64> + use<> {
        let len = self.len();
        let first = self.state.hint.load(Ordering::Relaxed) % len;
        (first..len).chain(0..first).take(LOOKS)
    }

    /// Slot `index` has been taken: look behind it next time.
    pub fn look_after(&self, index: u64) {
        // Release: pairs with the acquire in `was_used`.
        self.state.hint.store(index + 1, Ordering::Release);
    }

    /// A page of slots more.
    ///
    /// # Errors
    /// `OutOfMemory`.
    pub fn grow(&self) -> Result<()> {
        let more = self.len() - FIRST;
        if more >= MOST - FIRST {
            return Err(Error::OutOfMemory);
        }
        let segment = self.segment()?;
        let segment = segment.own_fd()?;
        let at = TABLE_AT + more / PAGEFUL * PAGE;
        // A whole piece is mapped at a time.
        memfd::extend_to(segment, TABLE_AT + (more / PAGEFUL / PIECE + 1) * PIECE * PAGE)?;
        memfd::write(segment, at + PAGE - 1, &[0])?;
        kill_point!("extent.table_page");
        // Release: the page is there for whoever sees the number. Another may have been quicker.
        let seen = self.state.more.load(Ordering::Relaxed);
        if seen.min(MOST - FIRST) & !(PAGEFUL - 1) == more {
            let grown = self.state.more.compare_exchange(seen, more + PAGEFUL, Ordering::Release, Ordering::Relaxed);
            if grown.is_ok() {
                self.state.hint.store(FIRST + more, Ordering::Release);
            }
        }
        Ok(())
    }
}
