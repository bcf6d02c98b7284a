//! The writers' side of a ring: where a record goes, and its commit.

use super::{
    BASE_FIRST, BASE_MOST, COUNT_MASK, COUNT_MOST, Cursor, DETOUR, HANDED, LARGE_UNREAD, MessageMeta, Payload, READY,
    Ring, TINY, tally,
};
use crate::channel::extents::{CHUNK, OwnedExtent};
use crate::channel::format::{DATA, EXTENT, EXTENT_BYTES, LINK, LOOSE, UNIT, header, record_bytes};
#[cfg(feature = "kill-points")]
use crate::deadline::Patience;
use crate::error::{Error, Result};
use crate::facade::Ordering;
use crate::kill_point;

/// The put lock, held.
#[derive(Debug)]
pub struct PutGuard<'a> {
    pub(super) ring: &'a Ring,
    /// What a dead holder did not put: freed after the lock.
    _not_put: Vec<OwnedExtent>,
}

impl<'a> PutGuard<'a> {
    pub(super) fn new(ring: &'a Ring, not_put: Vec<OwnedExtent>) -> Self {
        PutGuard { ring, _not_put: not_put }
    }

    /// No message in the ring? Consumers may be emptying it meanwhile, nobody is filling it.
    pub fn is_empty(&self) -> bool {
        self.ring.head() == self.ring.tail() && self.ring.in_front() == 0
    }

    /// A number for the descriptors of the message that is put next. None is given twice, whoever
    /// dies: descriptors whose message was never committed are nobody's.
    pub fn new_fds_id(&self) -> u64 {
        let last_fds_id = &self.ring.state.last_fds_id;
        let fds_id = last_fds_id.load(Ordering::Relaxed).wrapping_add(1);
        last_fds_id.store(fds_id, Ordering::Relaxed);
        fds_id
    }

    /// Is the descriptor readable, so far as is known?
    pub fn is_ready(&self) -> bool {
        self.ring.state.ready.load(Ordering::Relaxed) & READY != 0
    }

    /// See [`Ring::tells_room`].
    #[inline]
    pub fn tells_room(&self) -> bool {
        self.ring.tells_room()
    }

    /// Is the ring nearly full? Cheap as long as it is not. See [`Ring::is_nearly_full`].
    pub fn leaves_it_nearly_full(&self) -> bool {
        let state = &*self.ring.state;
        let tail = Cursor(state.tail.load(Ordering::Relaxed));
        let head = Cursor(state.head_seen.load(Ordering::Relaxed));
        self.ring.lacks_room(tail, head) && self.ring.lacks_room(tail, self.look_at_head(tail))
    }

    /// The descriptor has just been made readable, or is about to be cleared.
    pub fn set_ready(&self, readable: bool) {
        // The other bit is set without the lock.
        let ready = &self.ring.state.ready;
        if readable {
            ready.fetch_or(READY, Ordering::Relaxed)
        } else {
            ready.fetch_and(!(READY | HANDED), Ordering::Relaxed)
        };
    }

    /// Has the last packet in the socket the channel's file, so far as is known?
    pub fn is_handed(&self) -> bool {
        self.ring.state.ready.load(Ordering::Relaxed) & HANDED != 0
    }

    /// It has, and the descriptor is readable; or it will not be the last any more.
    pub fn set_handed(&self, handed: bool) {
        let ready = &self.ring.state.ready;
        if handed {
            ready.fetch_or(READY | HANDED, Ordering::Relaxed)
        } else {
            ready.fetch_and(!HANDED, Ordering::Relaxed)
        };
    }

    /// Would `put` find room for this? What it needs is made, so that `put` then does.
    ///
    /// # Errors
    /// Those of `put`.
    pub fn make_room(&self, payload: &Option<Payload<'_>>) -> Result<()> {
        let (len, is_extent, size) = match payload {
            Some(Payload::Inline(bytes)) => (bytes.len(), false, bytes.len() as u64),
            Some(Payload::Extent(_, size)) => (EXTENT_BYTES, true, *size),
            None => return Ok(()),
        };
        let tail = Cursor(self.ring.state.tail.load(Ordering::Relaxed));
        self.place(tail, len, is_extent, size).map(drop)
    }

    /// Put one message. On error nothing has happened, and an extent is given back with it.
    ///
    /// # Errors
    /// `Full`; `ShutDown`; `TooLarge`; `OutOfMemory`; `WouldBlock` if no slot is free for a chunk;
    /// `Interrupted`.
    pub fn put(&self, meta: MessageMeta, payload: &mut Option<Payload<'_>>) -> Result<()> {
        let mut described = [0; EXTENT_BYTES];
        let (kind, bytes, size) = match payload {
            Some(Payload::Inline(bytes)) => (DATA, *bytes, bytes.len() as u64),
            Some(Payload::Extent(hold, _)) if !hold.is_ours() => {
                return Err(Error::Corrupted("the message was prepared before this process was forked"));
            }
            Some(Payload::Extent(hold, len)) if !hold.holds(*len) => {
                return Err(Error::Corrupted("the message was not filled"));
            }
            Some(Payload::Extent(hold, len)) if hold.loose_fd().is_some() => {
                described[8..].copy_from_slice(&len.to_le_bytes());
                (LOOSE, &described[..], *len)
            }
            Some(Payload::Extent(hold, len)) => {
                described[..8].copy_from_slice(&hold.index().to_le_bytes());
                described[8..].copy_from_slice(&len.to_le_bytes());
                (EXTENT, &described[..], *len)
            }
            None => return Ok(()),
        };
        let ring = self.ring;
        let state = &*ring.state;
        let tail = Cursor(state.tail.load(Ordering::Relaxed));
        let place = self.place(tail, bytes.len(), kind != DATA, size)?;
        let (mapping, offset, _) = ring.locate(place.at)?;
        // Its own if it has descriptors. Else whatever was sent up to here is not for a message
        // that comes later.
        let fds_id = state.last_fds_id.load(Ordering::Relaxed);
        mapping.write(offset, &header(kind, meta, bytes.len(), fds_id))?;
        mapping.write(offset + UNIT as usize, bytes)?;
        if place.at != tail.at() {
            let (mapping, offset, _) = ring.locate(tail.at())?;
            mapping.write(offset, &header(LINK, MessageMeta::default(), 0, place.at))?;
            // Before the commit: who dies in between leaves too much, and the base wider.
            let skipped = (ring.config.base + ring.cap()).saturating_sub(tail.at());
            state.skipped.store(skipped, Ordering::Relaxed);
        }
        let new = Cursor::new(tail.count() + 1, (place.at + record_bytes(bytes.len())) / UNIT);
        if kind == DATA && place.chunk.is_none() {
            *payload = None;
            self.commit(tail, new, size);
            return Ok(());
        }
        let message = match payload.take() {
            Some(Payload::Extent(hold, _)) => Some(hold),
            _ => None,
        };
        if message.is_some() && ring.config.bounds_large {
            self.count_large(tail);
        }
        if let Some(hold) = &place.chunk {
            hold.hand_over(ring.config.index, new.0)?;
        }
        if let Some(hold) = message.as_ref().filter(|_| kind == EXTENT) {
            hold.hand_over(ring.config.index, new.0)?;
        }
        self.commit(tail, new, size);
        if let Some(hold) = place.chunk {
            hold.published(new.0);
        }
        if let Some(hold) = message.filter(|_| kind == EXTENT) {
            hold.published(new.0);
        }
        Ok(())
    }

    #[inline(always)]
    pub(super) fn commit(&self, old: Cursor, new: Cursor, size: u64) {
        let state = &*self.ring.state;
        tally::count(old, new, size, &state.bytes_in, &state.in_before);
        self.note_depth(new);
        kill_point!("ring.put.before_commit");
        // Commit point. SeqCst: release for the record, and one half of the agreement with waiters.
        state.tail.store(new.0, Ordering::SeqCst);
        kill_point!("ring.put.after_commit");
    }

    /// Where a record with `len` bytes of payload goes, of a message of `size`.
    fn place(&self, tail: Cursor, len: usize, is_extent: bool, size: u64) -> Result<Place> {
        let ring = self.ring;
        let state = &*ring.state;
        if ring.is_shut() {
            return Err(Error::ShutDown);
        }
        self.has_bytes_for(tail, size)?;
        let mut head = Cursor(state.head_seen.load(Ordering::Relaxed));
        let maxsize = match ring.maxsize() {
            0 => COUNT_MOST,
            n => n.saturating_sub(ring.in_front()),
        };
        let bounds_large = is_extent && ring.config.bounds_large;
        let need = record_bytes(len);
        let is_full = |head: Cursor| {
            tail.since(head) >= maxsize || (bounds_large && ring.has_many_large(tail, head, LARGE_UNREAD))
        };
        let room = |head: Cursor| if is_full(head) { None } else { self.room(tail, head, need) };
        if let Some(at) = room(head) {
            return Ok(Place { at, chunk: None });
        }
        head = self.look_at_head(tail);
        if let Some(at) = room(head) {
            return Ok(Place { at, chunk: None });
        }
        if is_full(head) {
            return Err(Error::Full);
        }
        if let Some(at) = self.widen(tail, head, need)? {
            return Ok(Place { at, chunk: None });
        }
        if !ring.config.overflows {
            return Err(Error::Full);
        }
        let chunk = Box::new(ring.extents.allocate_chunk()?);
        Ok(Place { at: chunk.offset(), chunk: Some(chunk) })
    }

    /// Note that message `tail` is in an extent, in place of the one that is longest past.
    fn count_large(&self, tail: Cursor) {
        if let Some(oldest) = self.ring.state.large.iter().max_by_key(|number| tail.passed_since(number)) {
            oldest.store(tail.count() as u32, Ordering::Relaxed);
        }
    }

    pub(super) fn look_at_head(&self, tail: Cursor) -> Cursor {
        // Acquire (SeqCst): the consumer has copied out what it gave free.
        let head = self.ring.head();
        self.ring.state.head_seen.store(head.0, Ordering::Relaxed);
        self.forget_long_past(tail, head);
        head
    }

    /// Counts wrap: the number of a message that is long past would once be that of one to come. To
    /// be asked now and then is enough, and a look at the head gives room for one base at most.
    #[inline]
    fn forget_long_past(&self, tail: Cursor, head: Cursor) {
        let _ = self.is_on_detour(head);
        if self.ring.config.bounds_large {
            for number in &self.ring.state.large {
                if tail.passed_since(number) > COUNT_MASK / 2 {
                    // Long past still, and never among the unread.
                    let recent = tail.count().wrapping_sub(COUNT_MASK / 4) & COUNT_MASK;
                    number.store(recent as u32, Ordering::Relaxed);
                }
            }
        }
    }

    /// Where `need` bytes, with room for a link behind, fit without growing.
    fn room(&self, tail: Cursor, head: Cursor, need: u64) -> Option<u64> {
        let ring = self.ring;
        let (base, cap) = (ring.config.base, ring.cap());
        let need = need + UNIT;
        let at = tail.at();
        if !ring.in_base(at) {
            let left = CHUNK - (at & (CHUNK - 1));
            // Empty: back to the base, whose pages are warm.
            let empty = tail == head;
            return if empty && need <= cap { Some(base) } else { (need <= left).then_some(at) };
        }
        if !ring.in_base(head.at()) {
            // The base was entered at its start, when all was empty.
            return (at + need <= base + cap).then_some(at);
        }
        if at >= head.at() {
            if at + need <= base + cap {
                Some(at)
            } else {
                (base + need <= head.at() && !self.is_on_detour(head)).then_some(base)
            }
        } else {
            (at + need <= head.at()).then_some(at)
        }
    }

    /// Has the reader still to follow the last detour?
    fn is_on_detour(&self, head: Cursor) -> bool {
        let is_on = self.ring.is_on_detour(head);
        if !is_on {
            self.ring.state.detour.store(0, Ordering::Relaxed);
        }
        is_on
    }

    /// Double the base, as often as it takes to make room; by a detour if it is wrapped.
    fn widen(&self, tail: Cursor, head: Cursor, need: u64) -> Result<Option<u64>> {
        let ring = self.ring;
        let (state, base, at) = (&*ring.state, ring.config.base, tail.at());
        if !ring.in_base(at) {
            return Ok(None);
        }
        let cap = ring.cap().max(BASE_FIRST);
        if !ring.config.overflows && ring.holds_enough(tail, head, cap) {
            return Ok(None);
        }
        let most = if tail.since(head) > TINY { ring.config.base_most } else { BASE_MOST };
        let is_wrapped = ring.in_base(head.at()) && head.at() > at;
        let start = if is_wrapped { base + cap } else { at };
        let mut wider = cap;
        while start + need + UNIT > base + wider {
            wider *= 2;
            if wider > most {
                return Ok(None);
            }
        }
        // Nobody else's: under the put lock, and beyond what any reader has been sent to.
        ring.state.backing().reserve(base + cap, wider - cap)?;
        if is_wrapped {
            state.detour.store(tail.count() as u32 | DETOUR, Ordering::Relaxed);
            kill_point!("ring.detour");
        }
        // Consumers do not use it: they follow links.
        state.base_cap.store(wider, Ordering::Relaxed);
        kill_point!("ring.widened");
        Ok(Some(start))
    }
}

#[cfg(feature = "kill-points")]
impl Ring {
    /// As if `messages` had gone through, and so many numbers of descriptors: for tests of what
    /// comes when counts wrap. The ring is empty, and nobody else uses it.
    ///
    /// # Errors
    /// Those of the lock.
    pub fn age(&self, messages: u64, fds: u64) -> Result<()> {
        let putting = self.put_guard(Patience::Spin)?;
        let state = &*self.state;
        let mut left = messages;
        while left > 0 {
            // As often as real ones would come to look.
            let step = left.min(1 << 20);
            for word in [&state.tail, &state.head_seen, &state.head, &state.tail_seen] {
                let cursor = Cursor(word.load(Ordering::Relaxed));
                word.store(Cursor::new(cursor.count() + step, cursor.at() / UNIT).0, Ordering::SeqCst);
            }
            putting.look_at_head(self.tail());
            left -= step;
        }
        state.last_fds_id.fetch_add(fds, Ordering::Relaxed);
        Ok(())
    }
}

struct Place {
    at: u64,
    chunk: Option<Box<OwnedExtent>>,
}

impl Drop for PutGuard<'_> {
    fn drop(&mut self) {
        self.ring.state.put_lock.unlock();
    }
}
