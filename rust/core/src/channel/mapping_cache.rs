//! Mappings of a channel's extents in this process, kept for a while: an extent that is used again
//! needs no new page faults.

use std::sync::Arc;

use crate::arena::Segment;
use crate::error::{Error, Result};
use crate::sys::fork::Local;
use crate::sys::mapping::Mapping;
use crate::sys::memfd;

/// As many as a few readers and writers use at a time.
const KEPT: usize = 16;
/// Bytes from which on a mapping pays.
const WORTH: usize = 64 << 10;

/// The most recently used mappings, newest last.
#[derive(Debug, Default)]
pub struct MappingCache {
    recent: Local<Vec<(u64, Arc<Mapping>)>>,
    /// Ranges that were asked for and not mapped, newest last.
    seen: Local<Vec<(u64, usize)>>,
}

impl MappingCache {
    /// As [`get`](Self::get), but only if it is mapped already, or is asked for again: what is used
    /// once is copied faster by a system call than it is mapped, and less than `WORTH` always is.
    /// `used`: how many of its bytes are to be copied.
    pub fn get_if_worth(&self, segment: &Segment, offset: u64, bytes: usize, used: usize) -> Option<Arc<Mapping>> {
        if let Some(mapping) = self.known(offset, bytes) {
            return Some(mapping);
        }
        let again = bytes >= WORTH
            && used >= bytes / 8
            && self.seen.with(|seen| match seen.iter().position(|range| *range == (offset, bytes)) {
                Some(at) => {
                    seen.remove(at);
                    true
                }
                None => {
                    if seen.len() >= KEPT {
                        seen.remove(0);
                    }
                    seen.push((offset, bytes));
                    false
                }
            });
        if again { self.get(segment, offset, bytes).ok() } else { None }
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
        let end = offset.checked_add(bytes as u64);
        let inside = |end| memfd::size(segment).is_ok_and(|size| end <= size);
        if bytes == 0 || !offset.is_multiple_of(4096) || !end.is_some_and(inside) {
            return Err(Error::Corrupted("an extent outside its segment"));
        }
        let mapping = Arc::new(Mapping::new(segment, offset, bytes)?);
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
