//! Mappings of a channel's extents in this process, kept for a while: an extent that is used again
//! needs no new page faults.
//!
//! Near places lie side by side, and are mapped many at a time, in *windows*. However many are in
//! use in turn, none is ever mapped anew. Far places are mapped one by one; and so is what has been
//! lent, for while that lasts the mapping is the borrower's.

use std::sync::Arc;

use crate::arena::Segment;
use crate::error::{Error, Result};
use crate::sys::fork::Local;
use crate::sys::mapping::Mapping;
use crate::sys::memfd;
use crate::sys::twin::TwinMapping;

/// Mappings of far places that are kept: more than a channel keeps of the smallest of them.
const KEPT: usize = 40;
/// Mappings of what has been lent, to be lent again.
const KEPT_LENT: usize = 24;
/// How often the same pages are copied by a system call before they are mapped. To map those that
/// are there costs no more than the next such call.
const COPIED: u32 = 1;
/// Bytes of a window. It takes address space but no memory. Miri's stand-in for a mapping takes
/// memory.
const WINDOW: u64 = if cfg!(miri) { 1 << 20 } else { 16 << 20 };

/// See the module.
#[derive(Debug, Default)]
pub struct MappingCache {
    /// The most recently used mappings of far places, newest last.
    recent: Local<Vec<(u64, Arc<Mapping>)>>,
    /// By offset, the most recently used last.
    lent: Local<Vec<(u64, TwinMapping)>>,
    /// The windows, by number.
    windows: Local<Vec<Option<Arc<Mapping>>>>,
    /// By slot: the life of its pages in which this process used it last, and how often.
    used: Local<Vec<(u32, u32)>>,
}

impl MappingCache {
    /// This process uses slot `index` in this life of its pages once more: does a mapping pay?
    pub fn is_worth(&self, index: u64, life: u32) -> bool {
        let index = index as usize;
        self.used.with(|used| {
            if used.len() <= index {
                used.resize(index + 1, (0, 0));
            }
            let (last, times) = used[index];
            let times = if last == life { times } else { 0 };
            used[index] = (life, times.saturating_add(1));
            times >= COPIED
        })
    }

    /// Is this the first of its uses that go by a mapping, after [`is_worth`](Self::is_worth)?
    pub fn is_first_mapped(&self, index: u64) -> bool {
        self.used.with(|used| used.get(index as usize).is_some_and(|&(_, times)| times == COPIED + 1))
    }

    /// What the near place at `offset` is part of, mapped; and the offset of its first byte.
    ///
    /// # Errors
    /// `OutOfMemory`; `Os`.
    pub fn window(&self, segment: &Segment, offset: u64) -> Result<(Arc<Mapping>, u64)> {
        let number = (offset / WINDOW) as usize;
        let start = number as u64 * WINDOW;
        if let Some(mapping) = self.windows.with(|windows| windows.get(number).cloned().flatten()) {
            return Ok((mapping, start));
        }
        // What is mapped has to be inside of the segment, wherever the last message ends.
        let segment = segment.own_fd()?;
        memfd::extend_to(segment, start + WINDOW)?;
        let mapping = Arc::new(Mapping::sparse(segment, start, WINDOW as usize)?);
        let first = self.windows.with(|windows| {
            if windows.len() <= number {
                windows.resize(number + 1, None);
            }
            windows[number].get_or_insert_with(|| mapping.clone()).clone()
        });
        Ok((first, start))
    }

    /// What has been mapped of at least `bytes` from `offset` on to be lent. It is the caller's.
    pub fn take_lent(&self, offset: u64, bytes: u64) -> Option<TwinMapping> {
        let found = self.lent.with(|lent| {
            let at = lent.iter().rposition(|(at, _)| *at == offset)?;
            Some(lent.remove(at).1)
        });
        found.filter(|memory| memory.len() as u64 >= bytes)
    }

    /// It has come back.
    pub fn keep_lent(&self, offset: u64, memory: TwinMapping) {
        // What goes is unmapped outside the lock.
        let _gone = self.lent.with(|lent| {
            let same = lent.iter().position(|(at, _)| *at == offset);
            let gone = same.or((lent.len() >= KEPT_LENT).then_some(0)).map(|at| lent.remove(at));
            lent.push((offset, memory));
            gone
        });
    }

    fn known(&self, offset: u64, bytes: usize) -> Option<Arc<Mapping>> {
        self.recent.with(|recent| {
            let at = recent.iter().position(|(o, m)| *o == offset && m.len() == bytes)?;
            recent[at..].rotate_left(1);
            recent.last().map(|(_, mapping)| mapping.clone())
        })
    }

    /// The range `offset..offset + bytes` of `segment`, mapped. What a peer claims is checked
    /// against the segment's size, which cannot shrink.
    ///
    /// # Errors
    /// `Corrupted` if it is not inside; `OutOfMemory`.
    pub fn get(&self, segment: &Segment, offset: u64, bytes: usize) -> Result<Arc<Mapping>> {
        if let Some(mapping) = self.known(offset, bytes) {
            return Ok(mapping);
        }
        let segment = segment.own_fd()?;
        let end = offset.checked_add(bytes as u64);
        let inside = |end| memfd::size(segment).is_ok_and(|size| end <= size);
        if bytes == 0 || !offset.is_multiple_of(4096) || !end.is_some_and(inside) {
            return Err(Error::Corrupted("an extent outside its segment"));
        }
        let mapping = Arc::new(Mapping::aligned(segment, offset, bytes)?);
        // Unmapped outside the lock.
        let oldest = self.recent.with(|recent| {
            let oldest = (recent.len() >= KEPT).then(|| recent.remove(0));
            recent.push((offset, mapping.clone()));
            oldest
        });
        drop(oldest);
        Ok(mapping)
    }
}
