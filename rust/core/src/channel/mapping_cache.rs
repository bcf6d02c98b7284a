//! Mappings of a channel's extents in this process, kept for a while: an extent that is used again needs no new page faults.

use std::sync::Arc;

use crate::arena::Segment;
use crate::error::{Error, Result};
use crate::sys::fork::Local;
use crate::sys::mapping::Mapping;
use crate::sys::memfd;

/// As many as a few readers and writers use at a time.
const KEPT: usize = 8;

/// The most recently used mappings, newest last.
#[derive(Debug, Default)]
pub struct MappingCache {
    recent: Local<Vec<(u64, Arc<Mapping>)>>,
}

impl MappingCache {
    /// The range `offset..offset + bytes` of `segment`, mapped. What a peer claims is checked against the segment's size,
    /// which cannot shrink.
    ///
    /// # Errors
    /// `Corrupted` if the file is not so long; `OutOfMemory`.
    pub fn get(&self, segment: &Segment, offset: u64, bytes: usize) -> Result<Arc<Mapping>> {
        let known = self.recent.with(|recent| {
            let at = recent.iter().position(|(o, m)| *o == offset && m.len() == bytes)?;
            recent[at..].rotate_left(1);
            recent.last().map(|(_, mapping)| mapping.clone())
        });
        if let Some(mapping) = known {
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
