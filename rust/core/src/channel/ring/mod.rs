//! A ring of messages, many producers and many consumers. It never waits for room or for messages:
//! queue and pipe do.
//!
//! # Layout
//! Messages are records in units of 16 bytes: a header, then the payload. A *position* is an
//! offset, in units: in the front while it is inside of the base, else in the channel's file.
//! The *base* is a circle that starts with 16 KiB and doubles up to 1 MiB. A ring that may overflow
//! goes on in *chunks*, extents of 1 MiB that are filled once from start to end, and comes back to
//! the base when it is empty. Wherever the next record does not follow the last one a link says
//! where it is; room for one link always stays behind the last record.
//!
//! A ring that may not overflow holds at least 64 KiB of payload, whatever the sizes of its
//! messages. As a record takes up to 31 bytes more than its payload, a base full of tiny ones
//! doubles further, up to 4 MiB.
//!
//! Such a ring widens only while it may hold less: a small one stays in the processor's cache.
//!
//! A circle that is wrapped (its tail below its head) widens as well. The tail then jumps over the
//! upper part, where the oldest messages are, into the new room: a *detour*. While it lasts, that
//! is until the reader has followed it too, the tail may not go back to the start, for it would run
//! into messages that come before the jump. `detour` is the number of the message that jumped. It
//! is stored before the commit. Whoever dies in between leaves a number that forbids for a while
//! what would be allowed.
//!
//! # Protocol
//! `tail` and `head` each hold a count of messages (28 bits) and a position (36 bits) in one word.
//!
//! - put, under the put lock: write the record, after a link where one is needed, behind `tail`,
//!   then store the new `tail`: the commit point, for link, record and count at once.
//! - get, under the get lock: follow a link, copy the record out, store the new `head`: the commit
//!   point.
//!
//! As every commit adds or takes exactly one message with its link, the ring is empty exactly when
//! head equals tail. Whoever dies before a commit has done nothing: what it wrote lies behind
//! `tail` and is overwritten, what it read stays. Whoever takes the lock over then settles the
//! extents that the dead one was moving (see [`extents`](super::extents)). If it cannot, it leaves
//! the lock in the dead one's name, for another to try.
//!
//! `head_seen` and `tail_seen` are each side's last look at the other side's word, kept with its
//! own: stale means too careful, never wrong, for the other side only makes room, or messages.
//!
//! Counts wrap after 2^28 messages. The numbers of messages that are kept, in `large` and `detour`,
//! would come round to be those of messages to come. So a writer that looks at the head, as it has
//! to for every base full of messages, drops what is done and brings forward what is long past.
//!
//! # Readiness
//! `ready` says that the ring's descriptor (whatever it is) has been made readable. Writers make it
//! readable *before* the commit if it is not; it is cleared under the put lock when the ring is
//! seen empty, and so never while a message is there. `ready` is stored 0 before the clearing and 1
//! after the setting: a death in between can only leave the descriptor readable without a message.
//! Beside it is a bit that, once set, stays: senders also tell whether there is room (see
//! [`writable`](super::writable)); and `HANDED`, which is cleared with it: the last packet in the
//! socket has the channel's file (see [`file`](super::file)).

mod ahead;
mod batch;
mod get;
mod heels;
mod put;
mod shutting;
mod tally;

use std::sync::Arc;

use crate::channel::extents::{CHUNK, Extents, OwnedExtent};
use crate::channel::front::Front;
use crate::deadline::Patience;
use crate::error::{Error, Result};
use crate::facade::{AtomicU32, AtomicU64, Ordering};
use crate::layout;
use crate::overlay;
use crate::sync::mutex::{Acquired, Mutex};
use crate::sync::turns::FairWaitSet;
use crate::sys::liveness;
use crate::sys::mapping::Mapping;

pub use super::format::UNIT;
pub use ahead::Ahead;
pub use batch::RUN_BYTES;
pub use get::{Found, GetGuard};
pub use put::PutGuard;
pub use tally::Totals;

/// The base's bytes at first.
pub const BASE_FIRST: u64 = 16 << 10;
/// The base's bytes at most, as a rule.
pub const BASE_MOST: u64 = 1 << 20;
/// The bytes at most of a base full of tiny messages, in a ring that may not overflow.
pub const BASE_OF_TINY: u64 = 4 << 20;
/// More unread messages than this in a full base of `BASE_MOST` bytes are tiny: there may be less
/// than 64 KiB of payload in them. (At least 7/16 of the base are records: a detour wastes less
/// than half, a wrap less than the largest record. So 448 KiB - 12,000 * 31 bytes are payload.)
const TINY: u64 = 12_000;
/// Messages in extents that may be unread at a time, where that is bounded.
pub const LARGE_UNREAD: usize = 4;
/// Nor is there room for another in an extent once so many bytes are unread: what is on its way is
/// in few pages then, which come back soon and need not be made anew.
pub const ENOUGH_UNREAD: u64 = 16 << 20;
/// Bytes of payload that may be unread at least before a ring that does not overflow is full.
const LEAST_UNREAD: u64 = 64 << 10;
/// And so many messages, if the base can become large enough.
const MANY: u64 = 128;
/// In `detour`: there is a number.
const DETOUR: u32 = 1 << 31;
/// Bits of `ready`: the descriptor has been made readable; the senders' descriptor tells whether
/// there is room; the last packet has the file.
const READY: u32 = 1;
const TELLS: u32 = 2;
const HANDED: u32 = 4;
/// A base of which no piece of this part is free is nearly full.
const NEARLY_FULL: u64 = 8;
/// The largest payload that is copied under the lock; what is larger goes into an extent before.
pub const INLINE: usize = 64 << 10;

const POS_BITS: u32 = 36;
const POS_MASK: u64 = (1 << POS_BITS) - 1;
const COUNT_MASK: u64 = (1 << (64 - POS_BITS)) - 1;
/// Messages that a ring can hold.
pub const COUNT_MOST: u64 = COUNT_MASK - 1;

overlay! {
    /// The shared words, by who writes them: a cache line for waiting, one for each side.
    #[repr(align(64))]
    #[derive(Debug)]
    pub struct RingState {
        /// Those who wait for a message.
        pub not_empty: FairWaitSet,
        /// Those who wait for room.
        pub not_full: FairWaitSet,
        /// Does anybody watch the descriptor? Then it is cleared as soon as the ring is empty. See
        /// `transport` for the bits.
        pub watched: AtomicU32,
        /// How often a copy of the reading end was closed.
        pub reader_closings: AtomicU32,
        maxsize: AtomicU64,
        /// The bound on unread bytes; 0: none.
        max_bytes: AtomicU64,
        /// Has it been shut down? See [`shutting`].
        shut: AtomicU32,
        /// The caller's business.
        pub flags: AtomicU32,
        /// Messages that have come back, in front of the head. See
        /// [`custody`](crate::sync::custody).
        pub front: AtomicU64,
        _reserved: AtomicU64,

        put_lock: Mutex,
        tail: AtomicU64,
        head_seen: AtomicU64,
        /// See [`tally`].
        bytes_in: [AtomicU64; 2],
        ready: AtomicU32,
        /// The number of the message that made the last detour, and `DETOUR`; 0: none.
        detour: AtomicU32,
        last_fds_id: AtomicU64,
        // Seldom written.
        base_cap: AtomicU64,
        high_water: AtomicU64,
        in_before: AtomicU64,
        bytes_out_seen: AtomicU64,
        /// The numbers of the last messages in extents, where those are bounded; at first no
        /// number.
        large: [AtomicU32; LARGE_UNREAD],
        /// Bytes that the tail skipped at the base's end when it last went back to the start.
        skipped: AtomicU64,
        _reserved2: AtomicU64,

        get_lock: Mutex,
        head: AtomicU64,
        tail_seen: AtomicU64,
        bytes_out: [AtomicU64; 2],
        out_before: AtomicU64,
        high_seen: AtomicU64,
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Cursor(u64);

impl Cursor {
    fn new(count: u64, pos: u64) -> Cursor {
        Cursor((count & COUNT_MASK) << POS_BITS | pos & POS_MASK)
    }
    fn count(self) -> u64 {
        self.0 >> POS_BITS
    }
    /// Byte offset.
    fn at(self) -> u64 {
        (self.0 & POS_MASK) * UNIT
    }
    fn since(self, head: Cursor) -> u64 {
        self.count().wrapping_sub(head.count()) & COUNT_MASK
    }
    /// Messages put after the one with this number. A message that is not yet put: for ever ago.
    fn passed_since(self, number: &AtomicU32) -> u64 {
        self.count().wrapping_sub(u64::from(number.load(Ordering::Relaxed)) + 1) & COUNT_MASK
    }
}

/// What a message carries besides its bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct MessageMeta {
    /// How the bytes are to be read: the caller's business.
    pub format: u8,
    /// Descriptors that travel beside it.
    pub fds: u16,
}

/// A message to put.
#[derive(Debug)]
pub enum Payload<'a> {
    /// At most [`INLINE`] bytes.
    Inline(&'a [u8]),
    /// An extent of which the first bytes are filled.
    Extent(OwnedExtent, u64),
}

/// A message that was got.
#[derive(Debug)]
pub struct Received {
    /// See [`MessageMeta`].
    pub meta: MessageMeta,
    /// Its number among the ring's messages, modulo 2^28.
    pub number: u64,
    /// Where the bytes are: None: in the scratch given to `get`; else in the extent, so many.
    /// Boxed, as a small message without one is moved several times on its way to the caller.
    pub extent: Option<Box<(OwnedExtent, usize)>>,
    /// A chunk that was left behind, to be freed without the lock.
    _left: Option<Box<OwnedExtent>>,
}

/// What a ring does not share.
#[derive(Debug, Clone, Copy)]
pub struct RingConfig {
    /// Number of the ring in its channel.
    pub index: u32,
    /// Where the base is.
    pub base: u64,
    /// May it go on in chunks?
    pub overflows: bool,
    /// Bytes of the front that are set aside for the base.
    pub base_most: u64,
    /// At most [`LARGE_UNREAD`] messages in extents may be unread at a time?
    pub bounds_large: bool,
    /// Does the file go with the messages? See [`file`](super::file).
    pub hands_over: bool,
}

/// A ring, as this process sees it.
#[derive(Debug)]
pub struct Ring {
    state: layout::Object<RingState, Arc<Front>>,
    extents: Arc<Extents>,
    config: RingConfig,
    heels: heels::Heels,
    /// Where the front starts in its mapping.
    origin: usize,
}

impl Payload<'_> {
    /// Bytes of the message.
    pub fn size(&self) -> u64 {
        match self {
            Payload::Inline(bytes) => bytes.len() as u64,
            Payload::Extent(_, size) => *size,
        }
    }
}

impl Received {
    /// A message that came otherwise than by a ring.
    pub(super) fn new(meta: MessageMeta, number: u64, extent: Option<(OwnedExtent, usize)>) -> Received {
        Received { meta, number, extent: extent.map(Box::new), _left: None }
    }

    /// One of several that were got at a time.
    pub fn of_run(meta: MessageMeta) -> Received {
        Received { meta, number: 0, extent: None, _left: None }
    }

    /// Does dropping it give no memory back to the system? That would take time.
    pub fn is_quick_to_drop(&self) -> bool {
        let message = self.extent.iter().map(|extent| &extent.0);
        message.chain(self._left.as_deref()).all(OwnedExtent::is_quick_to_free)
    }
}

impl Ring {
    /// The ring whose words are at `offset` of the front.
    ///
    /// # Errors
    /// `Corrupted` if its words are not inside.
    pub fn new(front: Arc<Front>, offset: usize, extents: Arc<Extents>, config: RingConfig) -> Result<Ring> {
        let origin = front.offset();
        Ok(Ring {
            state: layout::Object::new(front, origin + offset)?,
            extents,
            config,
            heels: Default::default(),
            origin,
        })
    }

    /// Make the words, in a new front, which has the first pages of the base. `maxsize` 0: no bound
    /// on messages.
    pub fn set_up(&self, maxsize: u64) {
        let start = Cursor::new(0, self.config.base / UNIT).0;
        let state = &*self.state;
        state.maxsize.store(maxsize.min(COUNT_MOST), Ordering::Relaxed);
        for word in [&state.tail, &state.head_seen, &state.head, &state.tail_seen] {
            word.store(start, Ordering::Relaxed);
        }
        for number in &state.large {
            number.store(u32::MAX, Ordering::Relaxed);
        }
        state.base_cap.store(BASE_FIRST, Ordering::Release);
    }

    /// In a new one: the receivers' descriptor has been made readable already.
    pub fn says_ready_at_first(&self) {
        self.state.ready.store(READY, Ordering::Relaxed);
    }

    /// The extents of its channel.
    pub fn extents(&self) -> &Arc<Extents> {
        &self.extents
    }

    /// Does the channel's file go with its messages? See [`file`](super::file).
    pub fn hands_over(&self) -> bool {
        self.config.hands_over
    }

    /// The shared words.
    pub fn state(&self) -> &RingState {
        &self.state
    }

    /// The bound on messages; 0: none.
    pub fn maxsize(&self) -> u64 {
        self.state.maxsize.load(Ordering::Relaxed)
    }

    /// Messages in it: exact at an instant between call and return. None if it is
    /// [terminated](Self::is_terminated).
    pub fn len(&self) -> u64 {
        if self.is_terminated() {
            return 0;
        }
        let mut head = self.head();
        loop {
            let tail = self.tail();
            let again = self.head();
            if again == head {
                return tail.since(head).saturating_add(self.in_front());
            }
            head = again;
        }
    }

    /// Has there ever been a message?
    pub fn was_used(&self) -> bool {
        self.tail() != Cursor::new(0, self.config.base / UNIT)
    }

    /// No message in it?
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// As many messages as allowed, or so many bytes that there is no room for one more?
    pub fn is_full(&self) -> bool {
        let maxsize = self.maxsize();
        (maxsize > 0 && self.len() >= maxsize) || self.lacks_bytes()
    }

    /// May there be a message? Cheap, for a spinner.
    pub fn looks_ready(&self) -> bool {
        self.state.tail.load(Ordering::Relaxed) != self.state.head.load(Ordering::Relaxed) || self.in_front() != 0
    }

    /// Has somebody the put lock?
    pub fn is_putting(&self) -> bool {
        self.state.put_lock.owner().is_some()
    }

    /// Messages that have come back, and are taken before those in the ring.
    #[inline]
    pub fn in_front(&self) -> u64 {
        // SeqCst: as with `tail`.
        self.state.front.load(Ordering::SeqCst)
    }

    /// The head's word.
    pub fn head_word(&self) -> u64 {
        self.head().0
    }

    // SeqCst: one half of the agreement with waiters, see `waitset`.
    fn tail(&self) -> Cursor {
        Cursor(self.state.tail.load(Ordering::SeqCst))
    }

    fn head(&self) -> Cursor {
        Cursor(self.state.head.load(Ordering::SeqCst))
    }

    /// The right to put.
    ///
    /// # Errors
    /// `WouldBlock` without patience; `TimedOut`; `Interrupted`; `OutOfMemory` or `Corrupted` if
    /// what a dead holder left cannot be settled.
    pub fn put_guard(&self, patience: Patience) -> Result<PutGuard<'_>> {
        let mut not_put = Vec::new();
        if let Acquired::Recovered(dead) = self.state.put_lock.take(liveness::me(), patience)? {
            let settled = self.extents.settle_put(self.config.index, self.state.tail.load(Ordering::Relaxed));
            not_put = settled.inspect_err(|_| self.state.put_lock.leave_to(dead))?;
            // The dead holder may have been between the two steps of clearing the descriptor.
            self.state.ready.fetch_and(!(READY | HANDED), Ordering::Relaxed);
        }
        Ok(PutGuard::new(self, not_put))
    }

    /// The right to get, likewise.
    ///
    /// # Errors
    /// Those of `put_guard`.
    pub fn get_guard(&self, patience: Patience) -> Result<GetGuard<'_>> {
        if let Acquired::Recovered(dead) = self.state.get_lock.take(liveness::me(), patience)? {
            let settled = self.extents.settle_get(self.config.index, self.state.head.load(Ordering::Relaxed));
            settled.inspect_err(|_| self.state.get_lock.leave_to(dead))?;
        }
        Ok(GetGuard::new(self))
    }

    /// Has a ring that was full become worth waking a writer for? At once where messages are
    /// counted; where room is short, when half is free, lest every message cost a wake-up.
    pub fn has_room_again(&self) -> bool {
        if self.maxsize() > 0 || self.max_bytes() > 0 {
            return true;
        }
        let (tail, head) = (self.tail(), self.head());
        let cap = self.cap();
        let used = tail.at().wrapping_sub(head.at()).wrapping_add(if tail.at() < head.at() { cap } else { 0 });
        // A small base may still grow when it is full, so that it is not what the writer waits for.
        // Extents are counted by messages: one may be what a writer waits with, or waits behind.
        let grows = cap < BASE_MOST && !self.holds_enough(tail, head, cap);
        (grows || used <= cap / 2) && !self.has_many_large(tail, head, LARGE_UNREAD / 2 + 1)
    }

    /// Has the receivers' descriptor been made readable, so far as is known?
    pub fn says_ready(&self) -> bool {
        self.state.ready.load(Ordering::SeqCst) & READY != 0
    }

    /// Do senders tell by their descriptor whether there is room?
    #[inline]
    pub fn tells_room(&self) -> bool {
        self.state.ready.load(Ordering::Relaxed) & TELLS != 0
    }

    /// From now on they do. Was that new?
    pub fn begin_to_tell_room(&self) -> bool {
        self.state.ready.fetch_or(TELLS, Ordering::SeqCst) & TELLS == 0
    }

    /// Is there no room, or so little that a message of an eighth of the base may have to wait?
    /// Where only messages are counted: as many as allowed?
    pub fn is_nearly_full(&self) -> bool {
        let tail = self.tail();
        self.lacks_room(tail, self.head())
    }

    /// Does a sender sleep for want of room, perhaps with a large message?
    pub fn keeps_waiting(&self) -> bool {
        !self.config.overflows && self.state.not_full.is_waited_on() && !self.has_room_again()
    }

    fn lacks_room(&self, tail: Cursor, head: Cursor) -> bool {
        if self.config.overflows {
            let maxsize = self.maxsize();
            let is_full =
                (maxsize > 0 && tail.since(head).saturating_add(self.in_front()) >= maxsize) || self.lacks_bytes();
            // Who puts into one that is shut down need not wait to learn of it.
            return is_full && !self.is_shut();
        }
        let (base, cap) = (self.config.base, self.cap());
        let (at, start) = (tail.at(), head.at());
        let is_small = cap < BASE_MOST && !self.holds_enough(tail, head, cap);
        let lacks_bytes = !is_small && {
            let piece = if at < start {
                start - at
            } else {
                // A detour forbids the start, see the module.
                let first = if self.is_on_detour(head) { 0 } else { start.saturating_sub(base) };
                first.max((base + cap).saturating_sub(at))
            };
            piece < cap / NEARLY_FULL
        };
        lacks_bytes || self.has_many_large(tail, head, LARGE_UNREAD)
    }

    /// Are so many messages unread, with so much payload, however the records lie, that a base of
    /// `cap` bytes need not widen for them?
    fn holds_enough(&self, tail: Cursor, head: Cursor, cap: u64) -> bool {
        let (at, start, count) = (tail.at(), head.at(), tail.since(head));
        if !self.in_base(at) || !self.in_base(start) || count < MANY || self.is_on_detour(head) {
            return false;
        }
        let skipped = self.state.skipped.load(Ordering::Relaxed);
        let used = if at >= start { at - start } else { (at + cap).saturating_sub(start).saturating_sub(skipped) };
        // A record takes up to 31 bytes more than its payload.
        used.saturating_sub(31 * count) >= LEAST_UNREAD
    }

    /// Has the reader still to follow the last detour? See the module.
    fn is_on_detour(&self, head: Cursor) -> bool {
        let number = match self.state.detour.load(Ordering::Relaxed) {
            0 => return false,
            marked => u64::from(marked & !DETOUR),
        };
        // The message that jumped comes after this many.
        let left = number.wrapping_sub(head.count()) & COUNT_MASK;
        left != 0 && left <= COUNT_MASK / 2
    }

    /// May a message in an extent be unread, where they are bounded?
    pub fn has_large(&self) -> bool {
        let tail = self.tail();
        self.large_unread(tail, self.head()) > 0
    }

    /// Where messages in extents are bounded: are so many of them unread, or so many bytes?
    fn has_many_large(&self, tail: Cursor, head: Cursor, many: usize) -> bool {
        let large = self.large_unread(tail, head);
        large >= many || (large > 0 && self.unread_bytes() >= ENOUGH_UNREAD)
    }

    /// Messages in extents between `head` and `tail`, where they are bounded. A sender that died
    /// before its commit may be counted, until the next message is read.
    fn large_unread(&self, tail: Cursor, head: Cursor) -> usize {
        let unread = tail.since(head);
        self.state.large.iter().filter(|number| tail.passed_since(number) < unread).count()
    }

    /// How far the base reaches now, so far as can be.
    fn cap(&self) -> u64 {
        self.state.base_cap.load(Ordering::Relaxed).min(self.config.base_most)
    }

    fn in_base(&self, at: u64) -> bool {
        (self.config.base..self.config.base + self.config.base_most).contains(&at)
    }

    /// The mapping that has the record at byte `at`, the place in it, and the bytes from there to
    /// the end of its region.
    fn locate(&self, at: u64) -> Result<(Where<'_>, usize, u64)> {
        if self.in_base(at) {
            let end = self.config.base + self.config.base_most;
            return Ok((Where::Base(self.state.mapping()), self.origin + at as usize, end - at));
        }
        if !self.config.overflows {
            return Err(Error::Corrupted("a position outside its ring"));
        }
        let (mapping, start) = self.extents.map_chunk(at)?;
        Ok((Where::Chunk(mapping), (at - start) as usize, CHUNK - at % CHUNK))
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
