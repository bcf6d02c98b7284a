//! A ring of messages, many producers and many consumers. It never waits for room or for messages: queue and pipe do.
//!
//! # Layout
//! Messages are records in units of 16 bytes: a header, then the payload. A *position* is an offset in the segment, in units. The *base*
//! is a circle that starts with 16 KiB and doubles up to 1 MiB while it stays unwrapped; a ring that may overflow goes on in *chunks*,
//! extents of 1 MiB that are filled once from start to end, and comes back to the base when it is empty. Wherever the next record does not follow
//! the last one a link says where it is; room for one link always stays behind the last record.
//!
//! # Protocol
//! `tail` and `head` each hold a count of messages (28 bits) and a position (36 bits) in one word.
//!
//! - put, under the put lock: write [link,] record behind `tail`, then store the new `tail`: the commit point, for link, record and count at once.
//! - get, under the get lock: follow a link, copy the record out, store the new `head`: the commit point.
//!
//! As every commit adds or takes exactly one message with its link, the ring is empty exactly when head equals tail. Whoever dies before a
//! commit has done nothing: what it wrote lies behind `tail` and is overwritten, what it read stays. Whoever takes the lock over then
//! settles the extents that the dead one was moving (see [`extents`](super::extents)).
//!
//! `head_seen` and `tail_seen` are each side's last look at the other side's word, kept with its own: stale means too careful, never wrong, for
//! the other side only makes room, or messages.
//!
//! # Readiness
//! `token` says that the ring's descriptor (whatever it is) has been made readable. Writers make it readable *before* the commit if it is
//! not; it is cleared under the put lock when the ring is seen empty, and so never while a message is there. `token` is stored 0 before the clearing
//! and 1 after the setting: a death in between can only leave the descriptor readable without a message. A new ring's starts set.

use std::sync::Arc;

use crate::arena::Segment;
use crate::channel::extents::{CHUNK, Extents, Hold, Range, Side};
use crate::deadline::Deadline;
use crate::error::{Error, Result};
use crate::facade::{AtomicU32, AtomicU64, Ordering};
use crate::kill_point;
use crate::layout::{self, Keeper};
use crate::sync::mutex::{Acquired, Mutex};
use crate::sync::waitset::WaitSet;
use crate::sys::mapping::Mapping;
use crate::sys::{liveness, memfd};

/// Bytes of a unit, and of a record's header.
pub const UNIT: u64 = 16;
/// The base's bytes at first.
pub const BASE_FIRST: u64 = 16 << 10;
/// The base's bytes at most; this much of the segment is set aside for it.
pub const BASE_MOST: u64 = 1 << 20;
/// The largest payload that is copied under the lock; what is larger goes into an extent before.
pub const INLINE: usize = 64 << 10;

const POS_BITS: u32 = 36;
const POS_MASK: u64 = (1 << POS_BITS) - 1;
const COUNT_MASK: u64 = (1 << (64 - POS_BITS)) - 1;
/// Messages that a ring can hold.
pub const COUNT_MOST: u64 = COUNT_MASK - 1;

const DATA: u8 = 1;
const EXTENT: u8 = 2;
const LINK: u8 = 3;
/// Payload of an extent's record: offset, cap, length.
const EXTENT_BYTES: usize = 24;

/// The shared words, by who writes them: a cache line for waiting, one for each side.
#[repr(C, align(64))]
#[derive(Debug)]
pub struct RingState {
    /// Those who wait for a message.
    pub not_empty: WaitSet,
    /// Those who wait for room.
    pub not_full: WaitSet,
    /// Does anybody watch the descriptor? Then it is cleared as soon as the ring is empty.
    pub watched: AtomicU32,
    /// How often a copy of the reading end was closed.
    pub reader_closings: AtomicU32,
    maxsize: AtomicU64,
    _reserved: [AtomicU64; 5],

    put_lock: Mutex,
    tail: AtomicU64,
    head_seen: AtomicU64,
    base_cap: AtomicU64,
    token: AtomicU32,
    _reserved2: AtomicU32,
    parcels: AtomicU64,
    /// The count of messages up to the last one that had to do with an extent.
    last_extent: AtomicU64,

    get_lock: Mutex,
    head: AtomicU64,
    tail_seen: AtomicU64,
    _reserved4: [AtomicU64; 4],
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Mark(u64);

impl Mark {
    fn new(count: u64, pos: u64) -> Mark {
        Mark((count & COUNT_MASK) << POS_BITS | pos & POS_MASK)
    }
    fn count(self) -> u64 {
        self.0 >> POS_BITS
    }
    /// Byte offset in the segment.
    fn at(self) -> u64 {
        (self.0 & POS_MASK) * UNIT
    }
    fn since(self, head: Mark) -> u64 {
        self.count().wrapping_sub(head.count()) & COUNT_MASK
    }
}

/// What a message carries besides its bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Tag {
    /// How the bytes are to be read: the caller's business.
    pub format: u8,
    /// Descriptors that travel beside it.
    pub fds: u8,
}

/// A message to put.
#[derive(Debug)]
pub enum Body<'a> {
    /// At most [`INLINE`] bytes.
    Inline(&'a [u8]),
    /// An extent of which the first bytes are filled.
    Extent(Hold, u64),
}

/// A message that was got.
#[derive(Debug)]
pub struct Taken {
    /// See [`Tag`].
    pub tag: Tag,
    /// Its number among the ring's messages, modulo 2^28.
    pub number: u64,
    /// Where the bytes are: None: in the scratch given to `get`; else in the extent, so many.
    pub extent: Option<(Hold, usize)>,
}

/// What a ring does not share.
#[derive(Debug, Clone, Copy)]
pub struct Shape {
    /// Number of the ring in its segment.
    pub index: u32,
    /// Where the base is.
    pub base: u64,
    /// May it go on in chunks?
    pub overflows: bool,
    /// Messages in extents that may be unread at a time.
    pub extents: u64,
}

/// A ring, as this process sees it.
#[derive(Debug)]
pub struct Ring {
    state: layout::Object<RingState, Arc<Segment>>,
    extents: Arc<Extents>,
    shape: Shape,
}

impl Ring {
    /// The ring whose words are at `offset`.
    pub fn new(segment: Arc<Segment>, offset: usize, extents: Arc<Extents>, shape: Shape) -> Result<Ring> {
        Ok(Ring { state: layout::Object::new(segment, offset)?, extents, shape })
    }

    /// Make the words, in a new segment, and reserve the base. `maxsize` 0: no bound on messages.
    pub fn set_up(&self, maxsize: u64) -> Result<()> {
        memfd::reserve(self.state.keeper(), self.shape.base, BASE_FIRST)?;
        let start = Mark::new(0, self.shape.base / UNIT).0;
        let state = &*self.state;
        state.maxsize.store(maxsize.min(COUNT_MOST), Ordering::Relaxed);
        for word in [&state.tail, &state.head_seen, &state.head, &state.tail_seen] {
            word.store(start, Ordering::Relaxed);
        }
        state.token.store(1, Ordering::Relaxed);
        state.base_cap.store(BASE_FIRST, Ordering::Release);
        Ok(())
    }

    /// The shared words.
    pub fn state(&self) -> &RingState {
        &self.state
    }

    /// The bound on messages; 0: none.
    pub fn maxsize(&self) -> u64 {
        self.state.maxsize.load(Ordering::Relaxed)
    }

    /// Messages in it: exact at an instant between call and return.
    pub fn len(&self) -> u64 {
        let mut head = self.head();
        loop {
            let tail = self.tail();
            let again = self.head();
            if again == head {
                return tail.since(head);
            }
            head = again;
        }
    }

    /// No message in it?
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// As many messages as allowed?
    pub fn is_full(&self) -> bool {
        let maxsize = self.maxsize();
        maxsize > 0 && self.len() >= maxsize
    }

    /// May there be a message? Cheap, for a spinner.
    pub fn looks_ready(&self) -> bool {
        self.state.tail.load(Ordering::Relaxed) != self.state.head.load(Ordering::Relaxed)
    }

    // SeqCst: one half of the agreement with waiters, see `waitset`.
    fn tail(&self) -> Mark {
        Mark(self.state.tail.load(Ordering::SeqCst))
    }

    fn head(&self) -> Mark {
        Mark(self.state.head.load(Ordering::SeqCst))
    }

    /// If no message and no link refers to an extent: since which message. The same again later: no extent has passed through meanwhile.
    pub fn drained_at(&self) -> Option<u64> {
        let last = self.state.last_extent.load(Ordering::SeqCst);
        let (tail, head) = (self.tail(), self.head());
        let since = head.count().wrapping_sub(last) & COUNT_MASK;
        (since <= COUNT_MASK / 2 && self.in_base(tail.at())).then_some(last)
    }

    /// The right to put. `spin_only`: do not sleep for it (`WouldBlock`).
    pub fn putting(&self, deadline: Option<Deadline>) -> Result<Putting<'_>> {
        if self.take(&self.state.put_lock, deadline)? != Acquired::Clean {
            self.extents.settle(Side::Put(self.shape.index), self.state.tail.load(Ordering::Relaxed));
            // The dead holder may have been between the two steps of clearing the descriptor.
            self.state.token.store(0, Ordering::Relaxed);
        }
        Ok(Putting { ring: self })
    }

    /// The right to get, likewise.
    pub fn getting(&self, deadline: Option<Deadline>) -> Result<Getting<'_>> {
        if self.take(&self.state.get_lock, deadline)? != Acquired::Clean {
            self.extents.settle(Side::Get(self.shape.index), self.state.head.load(Ordering::Relaxed));
        }
        Ok(Getting { ring: self })
    }

    #[inline]
    fn take(&self, lock: &Mutex, deadline: Option<Deadline>) -> Result<Acquired> {
        let me = liveness::me();
        match deadline {
            _ if lock.try_lock(me) => Ok(Acquired::Clean),
            // Held for well under a microsecond as a rule.
            None if lock.brief_spin(me) => Ok(Acquired::Clean),
            None => lock.try_lock_or_recover(me).ok_or(Error::WouldBlock),
            Some(deadline) => lock.lock_with_grace(me, deadline),
        }
    }

    /// Has a ring that was full become worth waking a writer for? At once where messages are counted; where room is
    /// short, when half is free, lest every message cost a wake-up.
    pub fn has_room_again(&self) -> bool {
        if self.maxsize() > 0 {
            return true;
        }
        let (tail, head) = (self.tail(), self.head());
        let cap = self.state.base_cap.load(Ordering::Relaxed).min(BASE_MOST);
        let used = tail.at().wrapping_sub(head.at()).wrapping_add(if tail.at() < head.at() { cap } else { 0 });
        used <= cap / 2 && tail.since(head) <= self.shape.extents / 2
    }

    fn in_base(&self, at: u64) -> bool {
        (self.shape.base..self.shape.base + BASE_MOST).contains(&at)
    }

    /// The mapping that has the record at byte `at`, the place in it, and the bytes from there to the end of its region.
    fn locate(&self, at: u64) -> Result<(Where<'_>, usize, u64)> {
        if self.in_base(at) {
            let end = self.shape.base + BASE_MOST;
            return Ok((Where::Base(self.state.keeper().mapping()), at as usize, end - at));
        }
        let start = at & !(CHUNK - 1);
        if !self.shape.overflows || start < self.shape.base + BASE_MOST {
            return Err(Error::Corrupted("a position outside its ring"));
        }
        let chunk = self.extents.map(Range { offset: start, cap: CHUNK })?;
        Ok((Where::Chunk(chunk), (at - start) as usize, start + CHUNK - at))
    }
}

enum Where<'a> {
    Base(&'a Mapping),
    Chunk(Arc<Mapping>),
}

impl std::ops::Deref for Where<'_> {
    type Target = Mapping;
    fn deref(&self) -> &Mapping {
        match self {
            Where::Base(mapping) => mapping,
            Where::Chunk(mapping) => mapping,
        }
    }
}

/// `more`: a link's target; the parcel of a message with descriptors.
fn header(kind: u8, tag: Tag, len: usize, more: u64) -> [u8; UNIT as usize] {
    let word = len as u64 | u64::from(kind) << 32 | u64::from(tag.format) << 40 | u64::from(tag.fds) << 48;
    let mut bytes = [0; UNIT as usize];
    bytes[..8].copy_from_slice(&word.to_le_bytes());
    bytes[8..].copy_from_slice(&more.to_le_bytes());
    bytes
}

fn word(bytes: &[u8], index: usize) -> u64 {
    let mut word = [0; 8];
    word.copy_from_slice(&bytes[8 * index..8 * index + 8]);
    u64::from_le_bytes(word)
}

/// The put lock, held.
#[derive(Debug)]
pub struct Putting<'a> {
    ring: &'a Ring,
}

impl Putting<'_> {
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

fn record_bytes(len: usize) -> u64 {
    UNIT + (len as u64).next_multiple_of(UNIT)
}

impl Drop for Putting<'_> {
    fn drop(&mut self) {
        self.ring.state.put_lock.unlock();
    }
}

/// The get lock, held.
#[derive(Debug)]
pub struct Getting<'a> {
    ring: &'a Ring,
}

impl Getting<'_> {
    /// A message's tag and number, if there is one.
    pub fn peek(&self) -> Result<Option<(Tag, u64)>> {
        Ok(self.next()?.map(|record| (record.tag, record.number)))
    }

    /// Get the first message. Its bytes come onto the end of `scratch` unless they are in an extent. `accept` is asked
    /// once it is certain what would be taken (its tag, the parcel of its descriptors, its size); an error there leaves the message in
    /// its place.
    ///
    /// # Errors
    /// `Empty`; `Corrupted`; `WouldBlock` if no slot is free for an extent; what `accept` gives.
    pub fn get(&self, scratch: &mut Vec<u8>, accept: impl FnOnce(&Tag, u64, usize) -> Result<()>) -> Result<Taken> {
        let Some(record) = self.next()? else { return Err(Error::Empty) };
        let ring = self.ring;
        let side = Side::Get(ring.shape.index);
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
        accept(&record.tag, record.parcel, size)?;
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
        Ok(Taken { tag: record.tag, number: record.number, extent })
    }

    fn next(&self) -> Result<Option<Record<'_>>> {
        let ring = self.ring;
        let state = &*ring.state;
        let head = Mark(state.head.load(Ordering::Relaxed));
        // Relaxed: whoever looked did so with SeqCst, and handed the get lock on since.
        if Mark(state.tail_seen.load(Ordering::Relaxed)).since(head).wrapping_sub(1) >= COUNT_MASK / 2 {
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
                tag: Tag { format: (first >> 40) as u8, fds: (first >> 48) as u8 },
                number: head.count(),
                parcel: more,
                next: Mark::new(head.count() + 1, (at + bytes) / UNIT),
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
    tag: Tag,
    number: u64,
    parcel: u64,
    next: Mark,
    /// The chunk that the link to this record leaves.
    left: Option<Range>,
}

impl Drop for Getting<'_> {
    fn drop(&mut self) {
        self.ring.state.get_lock.unlock();
    }
}
