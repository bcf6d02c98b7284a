//! The readers' side of a ring: the record at the head, and its commit.

use super::{COUNT_MASK, Cursor, INLINE, MessageMeta, Received, Ring, Where, tally};
use std::os::fd::OwnedFd;

use crate::channel::extents::CHUNK;
use crate::channel::format::{DATA, EXTENT, EXTENT_BYTES, Header, LINK, LOOSE, UNIT, record_bytes, word};
use crate::error::{Error, Result};
use crate::facade::Ordering;
use crate::kill_point;

/// What would be taken.
#[derive(Debug, Clone, Copy)]
pub struct Found {
    /// See [`MessageMeta`].
    pub meta: MessageMeta,
    /// The number of the descriptors that were sent last when it was put: its own, if it has some.
    pub fds_id: u64,
    /// Bytes of the message.
    pub size: usize,
    /// Is it in an extent?
    pub is_large: bool,
    /// So many descriptors are in its packet: those of the message, and what goes along. See
    /// [`file`](crate::channel::file).
    pub packet: usize,
}

/// The get lock, held.
#[derive(Debug)]
pub struct GetGuard<'a> {
    pub(super) ring: &'a Ring,
}

impl<'a> GetGuard<'a> {
    pub(super) fn new(ring: &'a Ring) -> Self {
        GetGuard { ring }
    }

    /// Get the first message. Its bytes come onto the end of `scratch` unless they are in an
    /// extent. `accept` is asked once it is certain what would be taken; an error there leaves the
    /// message in its place. It gives the memory of a message that has its own.
    ///
    /// # Errors
    /// `Empty`, also if it is [terminated](Ring::is_terminated); `Corrupted`; what `accept` gives.
    #[inline]
    pub fn get(
        &self,
        scratch: &mut Vec<u8>,
        accept: impl FnOnce(&Found) -> Result<Option<OwnedFd>>,
    ) -> Result<Received> {
        if self.ring.is_terminated() {
            return Err(Error::Empty);
        }
        self.take_first(scratch, accept)
    }

    #[inline]
    pub(super) fn take_first(
        &self,
        scratch: &mut Vec<u8>,
        accept: impl FnOnce(&Found) -> Result<Option<OwnedFd>>,
    ) -> Result<Received> {
        let Some(record) = self.next()? else { return Err(Error::Empty) };
        let ring = self.ring;
        if record.kind == DATA && record.left.is_none() {
            record.mapping.append_to(record.offset, record.len, scratch)?;
            accept(&record.found(record.len, ring.config.hands_over))?;
            self.commit(record.head, record.next, record.len as u64);
            return Ok(Received { meta: record.meta, number: record.head.count(), extent: None, _left: None });
        }
        let this = ring.config.index;
        let mut extent = None;
        let mut size = record.len;
        if record.kind != DATA {
            let mut bytes = [0; EXTENT_BYTES];
            record.mapping.read(record.offset, &mut bytes)?;
            let (index, len) = (word(&bytes, 0), word(&bytes, 1));
            size = usize::try_from(len).map_err(|_| Error::Corrupted("a message of impossible size"))?;
            extent = Some((index, size));
        } else {
            record.mapping.append_to(record.offset, record.len, scratch)?;
        }
        let loose = accept(&record.found(size, ring.config.hands_over))?;
        let chunk = match record.left {
            Some(index) => Some(Box::new(ring.extents.receive(index, CHUNK, this, record.next.0)?)),
            None => None,
        };
        let extent = match extent {
            // If it has no memory the message is as good as lost, and is taken.
            Some((_, len)) if record.kind == LOOSE => match loose {
                Some(fd) => Some(Box::new((ring.extents.loose_received(fd, len as u64)?, len))),
                None => None,
            },
            Some((index, len)) => match ring.extents.receive(index, len as u64, this, record.next.0) {
                Ok(hold) => Some(Box::new((hold, len))),
                Err(e) => {
                    if let Some(chunk) = chunk {
                        chunk.not_received();
                    }
                    return Err(e);
                }
            },
            None => None,
        };
        self.commit(record.head, record.next, size as u64);
        if let Some(hold) = &chunk {
            hold.received();
        }
        if let Some((hold, _)) = extent.as_deref().filter(|_| record.kind == EXTENT) {
            hold.received();
        }
        Ok(Received { meta: record.meta, number: record.head.count(), extent, _left: chunk })
    }

    #[inline(always)]
    pub(super) fn commit(&self, old: Cursor, next: Cursor, size: u64) {
        let state = &*self.ring.state;
        tally::count(old, next, size, &state.bytes_out, &state.out_before);
        kill_point!("ring.get.before_commit");
        // Commit point. SeqCst: release for the space, and one half of the agreement with waiters.
        state.head.store(next.0, Ordering::SeqCst);
        kill_point!("ring.get.after_commit");
    }

    /// The first number of descriptors that this message or a later one may ask for; None: the ring
    /// is empty. The put lock is held too.
    ///
    /// # Errors
    /// `Corrupted`.
    pub fn first_fds_id(&self) -> Result<Option<u64>> {
        let Some(record) = self.next()? else {
            // What has come back asks for none.
            let next = self.ring.state.last_fds_id.load(Ordering::Relaxed).wrapping_add(1);
            return Ok((self.ring.in_front() > 0).then_some(next));
        };
        let packet = record.packet(self.ring.config.hands_over);
        Ok(Some(record.fds_id.wrapping_add(u64::from(packet == 0))))
    }

    #[inline(always)]
    pub(super) fn next(&self) -> Result<Option<Record<'_>>> {
        let ring = self.ring;
        let state = &*ring.state;
        let head = Cursor(state.head.load(Ordering::Relaxed));
        // Relaxed: whoever looked did so with SeqCst, and handed the get lock on since.
        if Cursor(state.tail_seen.load(Ordering::Relaxed)).since(head).wrapping_sub(1) >= COUNT_MASK / 2 {
            let tail = ring.tail();
            if tail == head {
                self.has_caught_up();
                return Ok(None);
            }
            let tail = self.let_get_ahead(tail, head);
            if tail.since(head) == 0 {
                return Err(Error::Corrupted("as many messages put as got, and bytes left"));
            }
            state.tail_seen.store(tail.0, Ordering::Relaxed);
            self.note_depth(tail, head);
        }
        let mut at = head.at();
        let mut left = None;
        for _ in 0..2 {
            let (mapping, offset, room) = ring.locate(at)?;
            let mut bytes = [0; UNIT as usize];
            mapping.read(offset, &mut bytes)?;
            let Header { kind, meta, len, more } = Header::read(&bytes);
            if kind == LINK {
                if !more.is_multiple_of(UNIT) {
                    return Err(Error::Corrupted("a link to nowhere"));
                }
                if !ring.in_base(at) {
                    left = Some(ring.extents.chunk_at(at)?);
                }
                at = more;
                continue;
            }
            let bytes = record_bytes(len);
            if bytes > room
                || len > INLINE
                || !(kind == DATA || (matches!(kind, EXTENT | LOOSE) && len == EXTENT_BYTES))
            {
                return Err(Error::Corrupted("a record of impossible kind or size"));
            }
            return Ok(Some(Record {
                mapping,
                offset: offset + UNIT as usize,
                len,
                kind,
                meta,
                head,
                fds_id: more,
                next: Cursor::new(head.count() + 1, (at + bytes) / UNIT),
                left,
            }));
        }
        Err(Error::Corrupted("links in a row"))
    }
}

pub(super) struct Record<'a> {
    pub(super) mapping: Where<'a>,
    /// Of the payload.
    pub(super) offset: usize,
    pub(super) len: usize,
    pub(super) kind: u8,
    pub(super) meta: MessageMeta,
    pub(super) head: Cursor,
    fds_id: u64,
    pub(super) next: Cursor,
    /// The chunk that the link to this record leaves.
    pub(super) left: Option<u64>,
}

impl Record<'_> {
    /// Descriptors in its packet; 0: it has none.
    fn packet(&self, hands_over: bool) -> usize {
        let fds = usize::from(self.meta.fds);
        fds + usize::from(self.kind == LOOSE || (self.kind == EXTENT && hands_over && fds > 0))
    }

    #[inline]
    fn found(&self, size: usize, hands_over: bool) -> Found {
        let (meta, fds_id) = (self.meta, self.fds_id);
        Found { meta, fds_id, size, is_large: self.kind == EXTENT, packet: self.packet(hands_over) }
    }
}

impl Drop for GetGuard<'_> {
    fn drop(&mut self) {
        self.ring.state.get_lock.unlock();
    }
}
