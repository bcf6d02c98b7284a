//! Numbers in shared memory: typed loads, stores and atomic steps, and copies of many at once.
//!
//! A cell is one, two, four or eight bytes. A single one is never torn. A copy of many is not
//! atomic as a whole: who needs that takes a lock. Every index is checked here, so that no caller
//! needs `unsafe`.
// A cast that is none for one width is one for the others.
#![allow(clippy::unnecessary_cast)]

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU16, AtomicU32, AtomicU64, Ordering};

use crate::error::{Error, Result};
use crate::layout::Object;
use crate::sys::mapping::Mapping;

/// A step on a cell. It wraps as C's unsigned integers do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Update {
    /// Add.
    Add,
    /// Subtract.
    Sub,
    /// Set bits.
    Or,
    /// Keep bits.
    And,
    /// Flip bits.
    Xor,
    /// Replace.
    Swap,
}

/// `count` cells, `step` apart, from `start` on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stride {
    /// The first.
    pub start: usize,
    /// From one to the next; it may be negative.
    pub step: isize,
    /// How many.
    pub count: usize,
}

impl Stride {
    /// Are all of them among `len` cells?
    fn fits(self, len: usize) -> bool {
        let last = || {
            let way = isize::try_from(self.count - 1).ok()?.checked_mul(self.step)?;
            self.start.checked_add_signed(way)
        };
        self.start <= len && (self.count == 0 || (self.start < len && last().is_some_and(|last| last < len)))
    }

    /// Their indices. Only if they fit.
    fn indices(self) -> impl Iterator<Item = usize> {
        (0..self.count).map(move |i| self.start.wrapping_add_signed(self.step.wrapping_mul(i as isize)))
    }
}

/// Cells of one width, side by side, together with what keeps them mapped.
/// ```
/// use fastmp_core::cells::{Stride, Update};
/// use fastmp_core::objects::Memory;
///
/// # fn main() -> Result<(), fastmp_core::Error> {
/// let memory = Memory::create(8)?;
/// let shorts = memory.cells((), 2, 4)?;
/// shorts.store(1, 0xffff);
/// assert_eq!(shorts.update(1, Update::Add, 2), Some(0xffff));
/// assert_eq!(shorts.load(1), Some(1));
/// assert_eq!(shorts.load(4), None);
///
/// let mut odd = [0; 4];
/// shorts.read(Stride { start: 1, step: 2, count: 2 }, &mut odd);
/// assert_eq!(odd[..2], 1_u16.to_ne_bytes());
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct Cells<K> {
    row: Row<K>,
    /// Where the first is in the mapping: for copies of many.
    offset: usize,
}

#[derive(Debug)]
enum Row<K> {
    W1(Object<[AtomicU8], K>),
    W2(Object<[AtomicU16], K>),
    W4(Object<[AtomicU32], K>),
    W8(Object<[AtomicU64], K>),
}

/// Do the same with cells of whatever width.
macro_rules! each_width {
    ($row:expr, $cells:ident, $word:ident => $work:expr) => {
        match $row {
            Row::W1($cells) => {
                type $word = u8;
                $work
            }
            Row::W2($cells) => {
                type $word = u16;
                $work
            }
            Row::W4($cells) => {
                type $word = u32;
                $work
            }
            Row::W8($cells) => {
                type $word = u64;
                $work
            }
        }
    };
}

impl<K> Cells<K> {
    /// `len` cells of `width` bytes at `offset` of `mapping`, where `keep` keeps what is there from
    /// being used for anything else.
    ///
    /// # Errors
    /// `Corrupted` if they would not be inside, are misaligned, or there is no such width.
    pub fn new(mapping: Arc<Mapping>, keep: K, offset: usize, width: usize, len: usize) -> Result<Self> {
        let row = match width {
            1 => Row::W1(Object::slice(mapping, keep, offset, len)?),
            2 => Row::W2(Object::slice(mapping, keep, offset, len)?),
            4 => Row::W4(Object::slice(mapping, keep, offset, len)?),
            8 => Row::W8(Object::slice(mapping, keep, offset, len)?),
            _ => return Err(Error::Corrupted("no cell has this width")),
        };
        Ok(Cells { row, offset })
    }

    /// What keeps them mapped.
    pub fn backing(&self) -> &K {
        each_width!(&self.row, cells, _Word => cells.backing())
    }

    fn mapping(&self) -> &Mapping {
        each_width!(&self.row, cells, _Word => cells.mapping())
    }

    /// How many there are.
    #[inline(always)]
    pub fn len(&self) -> usize {
        each_width!(&self.row, cells, _Word => cells.len())
    }

    /// None at all?
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Bytes of each.
    #[inline(always)]
    pub fn width(&self) -> usize {
        each_width!(&self.row, _cells, Word => size_of::<Word>())
    }

    /// Cell `i`, zero-extended; None if there is no such cell.
    ///
    /// Acquire: what was stored before the value that is found, is visible.
    #[inline(always)]
    pub fn load(&self, i: usize) -> Option<u64> {
        each_width!(&self.row, cells, _Word => Some(cells.get(i)?.load(Ordering::Acquire) as u64))
    }

    /// Make cell `i` the low bits of `bits`; None if there is no such cell. Release: pairs with
    /// `load`.
    #[inline(always)]
    pub fn store(&self, i: usize, bits: u64) -> Option<()> {
        each_width!(&self.row, cells, Word => cells.get(i)?.store(bits as Word, Ordering::Release));
        Some(())
    }

    /// Change cell `i` in one step, sequentially consistent; gives what it was. None if there is no
    /// such cell.
    #[inline(always)]
    pub fn update(&self, i: usize, update: Update, by: u64) -> Option<u64> {
        const ORDER: Ordering = Ordering::SeqCst;
        each_width!(&self.row, cells, Word => {
            let (cell, by) = (cells.get(i)?, by as Word);
            let was = match update {
                Update::Add => cell.fetch_add(by, ORDER),
                Update::Sub => cell.fetch_sub(by, ORDER),
                Update::Or => cell.fetch_or(by, ORDER),
                Update::And => cell.fetch_and(by, ORDER),
                Update::Xor => cell.fetch_xor(by, ORDER),
                Update::Swap => cell.swap(by, ORDER),
            };
            Some(was as u64)
        })
    }

    /// Put `new` into cell `i` if `expected` is there, sequentially consistent; was it? None if
    /// there is no such cell.
    pub fn compare_exchange(&self, i: usize, expected: u64, new: u64) -> Option<bool> {
        const ORDER: Ordering = Ordering::SeqCst;
        each_width!(&self.row, cells, Word => {
            Some(cells.get(i)?.compare_exchange(expected as Word, new as Word, ORDER, ORDER).is_ok())
        })
    }

    /// Bytes of that many cells; None if they are not all here.
    fn bytes(&self, cells: Stride) -> Option<usize> {
        cells.count.checked_mul(self.width()).filter(|_| cells.fits(self.len()))
    }

    /// Copy cells out, in this machine's byte order. None if they are not all here, or `to` has
    /// another size.
    pub fn read(&self, from: Stride, to: &mut [u8]) -> Option<()> {
        let width = self.width();
        if self.bytes(from)? != to.len() {
            return None;
        }
        if from.step == 1 {
            return self.mapping().read(self.offset + from.start * width, to).ok();
        }
        each_width!(&self.row, cells, Word => {
            for (i, item) in from.indices().zip(to.chunks_exact_mut(size_of::<Word>())) {
                item.copy_from_slice(&cells.get(i)?.load(Ordering::Relaxed).to_ne_bytes());
            }
        });
        Some(())
    }

    /// Copy cells in. None if they are not all here, or `from` has another size.
    pub fn write(&self, to: Stride, from: &[u8]) -> Option<()> {
        let width = self.width();
        if self.bytes(to)? != from.len() {
            return None;
        }
        if to.step == 1 {
            return self.mapping().write(self.offset + to.start * width, from).ok();
        }
        each_width!(&self.row, cells, Word => {
            for (i, item) in to.indices().zip(from.chunks_exact(size_of::<Word>())) {
                cells.get(i)?.store(Word::from_ne_bytes(item.try_into().ok()?), Ordering::Relaxed);
            }
        });
        Some(())
    }
}
