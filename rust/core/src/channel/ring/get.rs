//! The readers' side of a ring: the record at the head, and its commit.

use super::{
    COUNT_MASK, Cursor, DATA, EXTENT, EXTENT_BYTES, INLINE, LINK, MessageMeta, Received, Ring, UNIT, Where,
    record_bytes, word,
};
use crate::channel::extents::{CHUNK, Range, Side};
use crate::error::{Error, Result};
use crate::facade::Ordering;
use crate::kill_point;

/// The get lock, held.
#[derive(Debug)]
pub struct GetGuard<'a> {
    ring: &'a Ring,
}

impl<'a> GetGuard<'a> {
    pub(super) fn new(ring: &'a Ring) -> Self {
        GetGuard { ring }
    }

    /// A message's tag and number, if there is one.
    ///
    /// # Errors
    /// `Corrupted` if no record can be there.
    pub fn peek(&self) -> Result<Option<(MessageMeta, u64)>> {
        Ok(self.next()?.map(|record| (record.meta, record.number)))
    }

    /// Get the first message. Its bytes come onto the end of `scratch` unless they are in an extent. `accept` is asked
    /// once it is certain what would be taken (its meta, the fds_id of its descriptors, its size); an error there leaves the message in
    /// its place.
    ///
    /// # Errors
    /// `Empty`; `Corrupted`; `WouldBlock` if no slot is free for an extent; what `accept` gives.
    pub fn get(
        &self,
        scratch: &mut Vec<u8>,
        accept: impl FnOnce(&MessageMeta, u64, usize) -> Result<()>,
    ) -> Result<Received> {
        let Some(record) = self.next()? else { return Err(Error::Empty) };
        let ring = self.ring;
        let side = Side::Get(ring.config.index);
        let mut extent = None;
        let mut size = record.len;
        if record.kind == EXTENT {
            let mut bytes = [0; EXTENT_BYTES];
            record.mapping.read(record.offset, &mut bytes)?;
            let (range, len) = (Range { offset: word(&bytes, 0), cap: word(&bytes, 1) }, word(&bytes, 2));
            if len > range.cap {
                return Err(Error::Corrupted("a message larger than its extent"));
            }
            size = len as usize;
            extent = Some((range, size));
        } else {
            record.mapping.append_to(record.offset, record.len, scratch)?;
        }
        accept(&record.meta, record.fds_id, size)?;
        let chunk = match record.left {
            Some(range) => Some(ring.extents.receive(range, side, record.next.0)?),
            None => None,
        };
        let extent = match extent {
            Some((range, len)) => match ring.extents.receive(range, side, record.next.0) {
                Ok(hold) => Some((hold, len)),
                Err(e) => {
                    if let Some(chunk) = chunk {
                        chunk.not_received();
                    }
                    return Err(e);
                }
            },
            None => None,
        };
        kill_point!("ring.get.before_commit");
        // Commit point. SeqCst: release for the space, and one half of the agreement with waiters.
        ring.state.head.store(record.next.0, Ordering::SeqCst);
        kill_point!("ring.get.after_commit");
        for hold in chunk.iter().chain(extent.iter().map(|(hold, _)| hold)) {
            hold.received();
        }
        Ok(Received { meta: record.meta, number: record.number, extent })
    }

    fn next(&self) -> Result<Option<Record<'_>>> {
        let ring = self.ring;
        let state = &*ring.state;
        let head = Cursor(state.head.load(Ordering::Relaxed));
        // Relaxed: whoever looked did so with SeqCst, and handed the get lock on since.
        if Cursor(state.tail_seen.load(Ordering::Relaxed)).since(head).wrapping_sub(1) >= COUNT_MASK / 2 {
            let tail = ring.tail();
            if tail == head {
                return Ok(None);
            }
            if tail.since(head) == 0 {
                return Err(Error::Corrupted("as many messages put as got, and bytes left"));
            }
            state.tail_seen.store(tail.0, Ordering::Relaxed);
        }
        let mut at = head.at();
        let mut left = None;
        for _ in 0..2 {
            let (mapping, offset, room) = ring.locate(at)?;
            let mut bytes = [0; UNIT as usize];
            mapping.read(offset, &mut bytes)?;
            let (first, more) = (word(&bytes, 0), word(&bytes, 1));
            let (len, kind) = (first as u32 as usize, (first >> 32) as u8);
            if kind == LINK {
                if !more.is_multiple_of(UNIT) {
                    return Err(Error::Corrupted("a link to nowhere"));
                }
                if !ring.in_base(at) {
                    left = Some(Range { offset: at & !(CHUNK - 1), cap: CHUNK });
                }
                at = more;
                continue;
            }
            let bytes = record_bytes(len);
            if bytes > room || len > INLINE || !(kind == DATA || (kind == EXTENT && len == EXTENT_BYTES)) {
                return Err(Error::Corrupted("a record of impossible kind or size"));
            }
            return Ok(Some(Record {
                mapping,
                offset: offset + UNIT as usize,
                len,
                kind,
                meta: MessageMeta { format: (first >> 40) as u8, fds: (first >> 48) as u8 },
                number: head.count(),
                fds_id: more,
                next: Cursor::new(head.count() + 1, (at + bytes) / UNIT),
                left,
            }));
        }
        Err(Error::Corrupted("links in a row"))
    }
}

struct Record<'a> {
    mapping: Where<'a>,
    offset: usize,
    len: usize,
    kind: u8,
    meta: MessageMeta,
    number: u64,
    fds_id: u64,
    next: Cursor,
    /// The chunk that the link to this record leaves.
    left: Option<Range>,
}

impl Drop for GetGuard<'_> {
    fn drop(&mut self) {
        self.ring.state.get_lock.unlock();
    }
}
