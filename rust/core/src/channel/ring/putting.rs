//! The writers' side of a ring: where a record goes, and its commit.

use super::{
    BASE_FIRST, BASE_MOST, Body, COUNT_MOST, DATA, EXTENT, EXTENT_BYTES, LINK, Mark, POS_MASK, Ring, Tag, UNIT, header,
    record_bytes,
};
use crate::channel::extents::{CHUNK, Hold, Side};
use crate::error::{Error, Result};
use crate::facade::Ordering;
use crate::kill_point;
use crate::sys::memfd;

/// The put lock, held.
#[derive(Debug)]
pub struct Putting<'a> {
    ring: &'a Ring,
}

impl<'a> Putting<'a> {
    pub(super) fn new(ring: &'a Ring) -> Self {
        Putting { ring }
    }

    /// No message in the ring? Consumers may be emptying it meanwhile, nobody is filling it.
    pub fn is_empty(&self) -> bool {
        self.ring.head() == self.ring.tail()
    }

    /// A number for the descriptors of the message that is put next. None is given twice, whoever dies: descriptors
    /// whose message was never committed are nobody's.
    pub fn new_parcel(&self) -> u64 {
        let parcels = &self.ring.state.parcels;
        let parcel = parcels.load(Ordering::Relaxed).wrapping_add(1);
        parcels.store(parcel, Ordering::Relaxed);
        parcel
    }

    /// Is the descriptor readable, so far as is known?
    pub fn has_token(&self) -> bool {
        self.ring.state.token.load(Ordering::Relaxed) != 0
    }

    /// The descriptor has just been made readable, or is about to be cleared.
    pub fn set_token(&self, readable: bool) {
        self.ring.state.token.store(u32::from(readable), Ordering::Relaxed);
    }

    /// Would `put` find room for this? What it needs is made, so that `put` then does.
    ///
    /// # Errors
    /// Those of `put`.
    pub fn make_room(&self, body: &Option<Body<'_>>) -> Result<()> {
        let (len, is_extent) = match body {
            Some(Body::Inline(bytes)) => (bytes.len(), false),
            Some(Body::Extent(..)) => (EXTENT_BYTES, true),
            None => return Ok(()),
        };
        let tail = Mark(self.ring.state.tail.load(Ordering::Relaxed));
        self.place(tail, len, is_extent).map(drop)
    }

    /// Put one message. On error nothing has happened, and an extent is given back with it.
    ///
    /// # Errors
    /// `Full`; `OutOfMemory`; `WouldBlock` if no slot is free for a chunk; `Interrupted`.
    pub fn put(&self, tag: Tag, body: &mut Option<Body<'_>>) -> Result<()> {
        let mut described = [0; EXTENT_BYTES];
        let (kind, payload) = match body {
            Some(Body::Inline(bytes)) => (DATA, *bytes),
            Some(Body::Extent(hold, _)) if !hold.is_ours() => {
                return Err(Error::Corrupted("the message was prepared before this process was forked"));
            }
            Some(Body::Extent(hold, len)) => {
                let range = hold.range();
                described[..8].copy_from_slice(&range.offset.to_le_bytes());
                described[8..16].copy_from_slice(&range.cap.to_le_bytes());
                described[16..].copy_from_slice(&len.to_le_bytes());
                (EXTENT, &described[..])
            }
            None => return Ok(()),
        };
        let ring = self.ring;
        let state = &*ring.state;
        let tail = Mark(state.tail.load(Ordering::Relaxed));
        let place = self.place(tail, payload.len(), kind == EXTENT)?;
        let (mapping, offset, _) = ring.locate(place.at)?;
        let parcel = if tag.fds > 0 { state.parcels.load(Ordering::Relaxed) } else { 0 };
        mapping.write(offset, &header(kind, tag, payload.len(), parcel))?;
        mapping.write(offset + UNIT as usize, payload)?;
        if place.at != tail.at() {
            let (mapping, offset, _) = ring.locate(tail.at())?;
            mapping.write(offset, &header(LINK, Tag::default(), 0, place.at))?;
        }
        let new = Mark::new(tail.count() + 1, (place.at + record_bytes(payload.len())) / UNIT);
        let side = Side::Put(ring.shape.index);
        let message = match body.take() {
            Some(Body::Extent(hold, _)) => Some(hold),
            _ => None,
        };
        if place.chunk.is_some() || message.is_some() || !ring.in_base(tail.at()) {
            // Before the commit, so that nobody takes the ring for drained after it. SeqCst: see `Extents::grow`.
            state.last_extent.store(new.count(), Ordering::SeqCst);
        }
        for hold in [&place.chunk, &message].into_iter().flatten() {
            hold.intend(side, new.0);
        }
        kill_point!("ring.put.before_commit");
        // Commit point. SeqCst: release for the record, and one half of the agreement with waiters.
        state.tail.store(new.0, Ordering::SeqCst);
        kill_point!("ring.put.after_commit");
        for hold in [place.chunk, message].into_iter().flatten() {
            hold.published();
        }
        Ok(())
    }

    /// Where a record with `len` bytes of payload goes.
    fn place(&self, tail: Mark, len: usize, is_extent: bool) -> Result<Place> {
        let ring = self.ring;
        let state = &*ring.state;
        let mut head = Mark(state.head_seen.load(Ordering::Relaxed));
        let maxsize = match ring.maxsize() {
            0 => COUNT_MOST,
            n => n,
        };
        let most = if is_extent { maxsize.min(ring.shape.extents) } else { maxsize };
        let need = record_bytes(len);
        let room = |head: Mark| (tail.since(head) < most).then(|| self.room(tail, head, need)).flatten();
        if let Some(at) = room(head) {
            return Ok(Place { at, chunk: None });
        }
        head = self.look_at_head();
        if let Some(at) = room(head) {
            return Ok(Place { at, chunk: None });
        }
        if tail.since(head) >= most {
            return Err(Error::Full);
        }
        if let Some(at) = self.widen(tail, head, need)? {
            return Ok(Place { at, chunk: None });
        }
        if !ring.shape.overflows {
            return Err(Error::Full);
        }
        let chunk = ring.extents.allocate(CHUNK, true, || ring.drained_at())?;
        let at = chunk.range().offset;
        if at / UNIT + CHUNK / UNIT > POS_MASK {
            chunk.discard();
            return Err(Error::OutOfMemory);
        }
        Ok(Place { at, chunk: Some(chunk) })
    }

    fn look_at_head(&self) -> Mark {
        // Acquire (SeqCst): the consumer has copied out what it gave free.
        let head = self.ring.head();
        self.ring.state.head_seen.store(head.0, Ordering::Relaxed);
        head
    }

    /// Where `need` bytes, with room for a link behind, fit without growing.
    fn room(&self, tail: Mark, head: Mark, need: u64) -> Option<u64> {
        let ring = self.ring;
        let (base, cap) = (ring.shape.base, ring.state.base_cap.load(Ordering::Relaxed).min(BASE_MOST));
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
            if at + need <= base + cap { Some(at) } else { (base + need <= head.at()).then_some(base) }
        } else {
            (at + need <= head.at()).then_some(at)
        }
    }

    /// Double the base, if that makes room and the ring is not wrapped.
    fn widen(&self, tail: Mark, head: Mark, need: u64) -> Result<Option<u64>> {
        let ring = self.ring;
        let (base, at) = (ring.shape.base, tail.at());
        let cap = ring.state.base_cap.load(Ordering::Relaxed).clamp(BASE_FIRST, BASE_MOST);
        if !ring.in_base(at) || (ring.in_base(head.at()) && head.at() > at) {
            return Ok(None);
        }
        let mut wider = cap;
        while at + need + UNIT > base + wider {
            wider *= 2;
            if wider > BASE_MOST {
                return Ok(None);
            }
        }
        memfd::reserve(ring.state.keeper(), base + cap, wider - cap)?;
        // Consumers do not use it: they follow links.
        ring.state.base_cap.store(wider, Ordering::Relaxed);
        Ok(Some(at))
    }
}

struct Place {
    at: u64,
    chunk: Option<Hold>,
}

impl Drop for Putting<'_> {
    fn drop(&mut self) {
        self.ring.state.put_lock.unlock();
    }
}
