//! What is at the head of a ring, looked at before it is taken: for one who has to note it
//! somewhere else before the commit.

use super::batch::Run;
use super::{Cursor, GetGuard, INLINE, MessageMeta};
use crate::channel::extents::{CHUNK, OwnedExtent};
use crate::channel::format::{DATA, EXTENT_BYTES, Header, LOOSE, UNIT, record_bytes, word};
use crate::error::{Error, Result};

/// What begins a run, as records; or one message in an extent.
#[derive(Debug)]
pub struct Ahead {
    run: Run,
    /// Of a message in an extent: what it is, its slot, its bytes.
    pub extent: Option<(MessageMeta, u64, u64)>,
    /// The chunk that the link to the first leaves.
    left: Option<u64>,
}

impl Ahead {
    /// Messages.
    pub fn count(&self) -> u64 {
        self.run.len()
    }

    /// What the head's word will be once all of them but the last are taken, if they are committed
    /// in two steps; and once all are.
    pub fn intents(&self) -> [u64; 2] {
        let all = self.run.end.0.0;
        let is_even = self.count().is_multiple_of(2);
        [if is_even { self.run.before_last.0.0 } else { all }, all]
    }
}

impl GetGuard<'_> {
    /// Look at the first messages: `most` at most that begin a run, and whose records take `room`
    /// bytes at most, or one. The records come onto the end of `records`, unless it is one in an
    /// extent.
    ///
    /// # Errors
    /// `Empty`, also if it is terminated; `Corrupted`.
    pub fn look_ahead(&self, records: &mut Vec<u8>, most: usize, room: usize) -> Result<Ahead> {
        if self.ring.is_terminated() {
            return Err(Error::Empty);
        }
        let Some(first) = self.next()? else { return Err(Error::Empty) };
        let mut run = Run::new(first.head);
        if first.kind == LOOSE {
            return Err(Error::Corrupted("a message in memory of its own, where none goes along"));
        }
        if first.kind != DATA {
            let mut bytes = [0; EXTENT_BYTES];
            first.mapping.read(first.offset, &mut bytes)?;
            let (slot, len) = (word(&bytes, 0), word(&bytes, 1));
            run.end = (first.next, len);
            return Ok(Ahead { run, extent: Some((first.meta, slot, len)), left: first.left });
        }
        run.end = (first.next, first.len as u64);
        let start = first.offset - UNIT as usize;
        let mut bytes = record_bytes(first.len) as usize;
        // What leaves a chunk is taken alone: the chunk knows one intent.
        let most = if first.left.is_some() || first.meta.fds > 0 { 1 } else { most.max(1) as u64 };
        let most = self.ring.tail().since(first.head).min(most);
        let (_, _, region) = self.ring.locate(first.next.at().wrapping_sub(bytes as u64))?;
        let room = region.min(room as u64);
        while run.len() < most && bytes as u64 + UNIT <= room {
            let mut header = [0; UNIT as usize];
            first.mapping.read(start + bytes, &mut header)?;
            let Header { kind, meta, len, .. } = Header::read(&header);
            // What is wrong with it the next one will say.
            if kind != DATA || meta.fds > 0 || len > INLINE || bytes as u64 + record_bytes(len) > room {
                break;
            }
            bytes += record_bytes(len) as usize;
            run.extend(len);
        }
        first.mapping.append_to(start, bytes, records)?;
        Ok(Ahead { run, extent: None, left: first.left })
    }

    /// Take them. Gives the chunk that was left behind, to be freed without the lock.
    ///
    /// # Errors
    /// `Corrupted`: nothing has been taken.
    pub fn take_ahead(&self, ahead: &Ahead) -> Result<Option<OwnedExtent>> {
        let ring = self.ring;
        let next: Cursor = ahead.run.end.0;
        let chunk = match ahead.left {
            Some(index) => Some(ring.extents.receive(index, CHUNK, ring.config.index, next.0)?),
            None => None,
        };
        ahead.run.commit(|old, new, size| self.commit(old, new, size));
        if let Some(chunk) = &chunk {
            chunk.received();
        }
        Ok(chunk)
    }
}
