//! Several small messages at a time, under one lock.
//!
//! A *run* is what follows one another in one region without a link, an extent or descriptors. Its
//! records are written (or copied out) as ever, and committed together: the commit point is that of
//! the last one. A commit moves a count by an odd number (see [`tally`](super::tally)), so that an
//! even run is committed in two steps, the last message alone. Whoever dies in between has put, or
//! taken, all but that one. What does not begin a run is left to `put` and `get`.

use super::{COUNT_MOST, Cursor, GetGuard, INLINE, MessageMeta, PutGuard};
use crate::channel::extents::CHUNK;
use crate::channel::format::{DATA, Header, UNIT, header, record_bytes};
use crate::error::{Error, Result};
use crate::facade::Ordering;

/// Bytes of payload at most that are copied under one lock.
pub const RUN_BYTES: usize = INLINE;

/// A run so far: where it would end without its last message, and with it.
#[derive(Debug)]
pub(super) struct Run {
    pub(super) start: Cursor,
    pub(super) before_last: (Cursor, u64),
    pub(super) end: (Cursor, u64),
}

impl Run {
    pub(super) fn new(start: Cursor) -> Run {
        Run { start, before_last: (start, 0), end: (start, 0) }
    }

    pub(super) fn len(&self) -> u64 {
        self.end.0.since(self.start)
    }

    pub(super) fn at(&self) -> u64 {
        self.end.0.at()
    }

    pub(super) fn size(&self) -> u64 {
        self.end.1
    }

    /// One more, of `bytes`.
    pub(super) fn extend(&mut self, bytes: usize) {
        let (cursor, size) = self.end;
        self.before_last = self.end;
        let next = Cursor::new(cursor.count() + 1, (cursor.at() + record_bytes(bytes)) / UNIT);
        self.end = (next, size + bytes as u64);
    }

    /// Commit it, in odd steps.
    pub(super) fn commit(&self, commit: impl Fn(Cursor, Cursor, u64)) {
        let (end, size) = self.end;
        if self.len() % 2 == 1 {
            commit(self.start, end, size);
        } else if self.len() > 0 {
            let (before, first) = self.before_last;
            commit(self.start, before, first);
            commit(before, end, size - first);
        }
    }
}

impl PutGuard<'_> {
    /// Put as many as begin a run and have room; how many? Nobody is told: the descriptor must be
    /// readable.
    ///
    /// # Errors
    /// `ShutDown`; `Corrupted`.
    pub fn put_run<'m>(&self, messages: impl Iterator<Item = (MessageMeta, &'m [u8])>) -> Result<usize> {
        let ring = self.ring;
        let state = &*ring.state;
        if ring.is_shut() {
            return Err(Error::ShutDown);
        }
        let tail = Cursor(state.tail.load(Ordering::Relaxed));
        let head = self.look_at_head(tail);
        let most = match ring.maxsize() {
            0 => COUNT_MOST,
            n => n.saturating_sub(ring.in_front()),
        };
        let most = most.saturating_sub(tail.since(head));
        let end = self.end_of_run(tail, head);
        let (mapping, start, _) = ring.locate(tail.at())?;
        let fds_id = state.last_fds_id.load(Ordering::Relaxed);
        let mut run = Run::new(tail);
        for (meta, bytes) in messages {
            let place = run.at();
            // Room for a link stays behind.
            if run.len() >= most
                || place + record_bytes(bytes.len()) + UNIT > end
                || run.size() as usize + bytes.len() > RUN_BYTES
                || self.has_bytes_for(tail, run.size() + bytes.len() as u64).is_err()
            {
                break;
            }
            let offset = start.saturating_add(place.wrapping_sub(tail.at()) as usize);
            mapping.write(offset, &header(DATA, meta, bytes.len(), fds_id))?;
            mapping.write(offset + UNIT as usize, bytes)?;
            run.extend(bytes.len());
        }
        run.commit(|old, new, size| self.commit(old, new, size));
        Ok(run.len() as usize)
    }

    /// How far records may follow one another from the tail on.
    fn end_of_run(&self, tail: Cursor, head: Cursor) -> u64 {
        let ring = self.ring;
        let at = tail.at();
        let cap = ring.cap();
        if !ring.in_base(at) {
            // Empty: the next one goes back to the base.
            return if tail == head { at } else { at - at % CHUNK + CHUNK };
        }
        if ring.in_base(head.at()) && at < head.at() { head.at() } else { ring.config.base + cap }
    }
}

impl GetGuard<'_> {
    /// Get as many as begin a run, `most` at most; how many? Their bytes come onto the end of
    /// `scratch`, what each is onto that of `found`. `taking` is called with their number just
    /// before they are taken.
    ///
    /// # Errors
    /// `Empty`; `Corrupted`.
    pub fn get_run(
        &self,
        scratch: &mut Vec<u8>,
        found: &mut Vec<(MessageMeta, usize)>,
        most: usize,
        taking: impl FnOnce(u64),
    ) -> Result<usize> {
        let ring = self.ring;
        let state = &*ring.state;
        if ring.is_terminated() {
            return Err(Error::Empty);
        }
        let head = Cursor(state.head.load(Ordering::Relaxed));
        let tail = ring.tail();
        if tail == head {
            return Err(Error::Empty);
        }
        state.tail_seen.store(tail.0, Ordering::Relaxed);
        self.note_depth(tail, head);
        let (mapping, start, room) = ring.locate(head.at())?;
        let most = tail.since(head).min(most as u64);
        let mut run = Run::new(head);
        while run.len() < most {
            let done = run.at().wrapping_sub(head.at());
            if done.saturating_add(UNIT) > room {
                break;
            }
            let offset = start + done as usize;
            let mut bytes = [0; UNIT as usize];
            mapping.read(offset, &mut bytes)?;
            let Header { kind, meta, len, .. } = Header::read(&bytes);
            // What is wrong with it `get` will say.
            if kind != DATA
                || meta.fds > 0
                || done + record_bytes(len) > room
                || (run.size() as usize).saturating_add(len) > RUN_BYTES
            {
                break;
            }
            mapping.append_to(offset + UNIT as usize, len, scratch)?;
            found.push((meta, len));
            run.extend(len);
        }
        if run.len() > 0 {
            taking(run.len());
        }
        run.commit(|old, new, size| self.commit(old, new, size));
        Ok(run.len() as usize)
    }
}
