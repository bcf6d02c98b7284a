//! Mappings of a channel's extents in this process, kept for a while: an extent that is used again needs no new page faults.

use std::sync::{Arc, Mutex};

use crate::arena::Segment;
use crate::error::{Error, Result};
use crate::sys::mapping::Mapping;
use crate::sys::memfd;

/// As many as a few readers and writers use at a time.
const KEPT: usize = 8;

/// The most recently used mappings, newest last.
#[derive(Debug, Default)]
pub struct Maps {
    recent: Mutex<Vec<(u64, Arc<Mapping>)>>,
}

impl Maps {
    /// The range `offset..offset + bytes` of `segment`, mapped. What a peer claims is checked against the segment's size,
    /// which cannot shrink.
    pub fn get(&self, segment: &Segment, offset: u64, bytes: usize) -> Result<Arc<Mapping>> {
        let mut recent = self.recent.lock().unwrap_or_else(|p| p.into_inner());
        if let Some(at) = recent.iter().position(|(o, m)| *o == offset && m.len() == bytes) {
            let found = recent.remove(at);
            let mapping = found.1.clone();
            recent.push(found);
            return Ok(mapping);
        }
        let end = offset.checked_add(bytes as u64);
        if bytes == 0
            || !offset.is_multiple_of(4096)
            || end.is_none_or(|end| memfd::size(segment).map_or(true, |size| end > size))
        {
            return Err(Error::Corrupted("an extent outside its segment"));
        }
        let mapping = Arc::new(Mapping::new(segment, offset, bytes)?);
        if recent.len() >= KEPT {
            recent.remove(0);
        }
        recent.push((offset, mapping.clone()));
        Ok(mapping)
    }
}
