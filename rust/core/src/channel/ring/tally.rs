//! What has gone through a ring: messages and bytes, always counted, and the bound on bytes.
//!
//! # Messages
//! `tail` and `head` count modulo 2^28. `in_before` and `out_before` are totals of a while ago:
//! each time that a count passes a multiple of 2^24, the total is stored before the commit, under
//! the lock. A total now is the least number from there on that agrees with the count. Who dies
//! between that store and the commit has told no lie, and the next one passes the same multiple.
//!
//! # Bytes
//! Of each side's bytes there are two sums. The one that counts is told by the parity of the side's
//! count, so that it changes with the commit and needs no mending: before a commit the new sum is
//! stored in the other cell. Who dies in between leaves it there, for the next one to overwrite.
//! That is why a commit adds an odd number of messages. Bytes are those of payload; of a message in
//! an extent those in the extent.
//!
//! A cell is stored with Release after the count has made it the other one, and loaded with Acquire
//! between two loads of the count: whoever sees the same count twice has not seen a sum of later.
//!
//! # The bound on bytes
//! A message has room while the bytes unread and its own are not more than `max_bytes`. `bytes_out`
//! is the other side's: it is looked at only when what was seen last says that there is no room.
//!
//! # High-water mark
//! The most messages that were ever unread, or up to a sixteenth less: in a queue that grows
//! steadily an exact one would cost each put a look at the other side's cache line. Those who put
//! look when what was last seen of the head says that there may be a sixteenth more than ever, or
//! as many as are allowed. Those who get note what they find whenever they look at the tail, which
//! they do as soon as they have got all that they had seen. Both are stored without being
//! committed: who dies leaves a mark that is one message too high.

use super::{COUNT_MASK, Cursor, GetGuard, PutGuard, Ring};
use crate::error::{Error, Result};
use crate::facade::{AtomicU64, Ordering};

/// A count's bits below the multiples at which a total is stored.
const STRIDE: u32 = 24;
/// Looks in a row at a side that is busy. Then what was seen last must do.
const LOOKS: usize = 1000;

/// What has gone through a ring, at an instant.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Totals {
    /// Messages put.
    pub messages_in: u64,
    /// Messages got, or thrown away.
    pub messages_out: u64,
    /// Bytes of payload put.
    pub bytes_in: u64,
    /// Bytes of payload got.
    pub bytes_out: u64,
    /// Messages there at a time at most, or up to a sixteenth less.
    pub high_water: u64,
}

/// The total that agrees with `count`, from a total of a while ago on.
fn total(before: u64, count: u64) -> u64 {
    before.wrapping_add(count.wrapping_sub(before) & COUNT_MASK)
}

/// Before the commit of `new`: the sum of bytes, and the total if it is time.
#[inline(always)]
pub(super) fn count(old: Cursor, new: Cursor, size: u64, bytes: &[AtomicU64; 2], before: &AtomicU64) {
    debug_assert!(new.since(old) % 2 == 1);
    let sum = bytes[old.count() as usize & 1].load(Ordering::Relaxed);
    // Release: see the module.
    bytes[new.count() as usize & 1].store(sum.wrapping_add(size), Ordering::Release);
    if (old.count() ^ new.count()) >> STRIDE != 0 {
        // Release: who sees this total sees a count at least as high.
        before.store(total(before.load(Ordering::Relaxed), old.count()), Ordering::Release);
    }
}

/// A side's word, and the sum of its bytes that goes with it. None: it changes too often.
fn settled(word: &AtomicU64, bytes: &[AtomicU64; 2]) -> Option<(Cursor, u64)> {
    let mut seen = Cursor(word.load(Ordering::SeqCst));
    for _ in 0..LOOKS {
        let sum = bytes[seen.count() as usize & 1].load(Ordering::Acquire);
        let again = Cursor(word.load(Ordering::SeqCst));
        if again == seen {
            return Some((seen, sum));
        }
        seen = again;
    }
    None
}

impl Ring {
    /// The bound on unread bytes; 0: none.
    #[inline]
    pub fn max_bytes(&self) -> u64 {
        self.state.max_bytes.load(Ordering::Relaxed)
    }

    /// Bound the unread bytes. Of a ring that is new: nobody else has it.
    pub fn set_max_bytes(&self, max_bytes: u64) {
        self.state.max_bytes.store(max_bytes, Ordering::Relaxed);
    }

    /// Messages ever put.
    pub fn messages_in(&self) -> u64 {
        // Acquire: with the store in `count`; it is loaded first. SeqCst in `tail`: a joiner's
        // look.
        let before = self.state.in_before.load(Ordering::Acquire);
        total(before, self.tail().count())
    }

    /// Messages ever got.
    pub fn messages_out(&self) -> u64 {
        let before = self.state.out_before.load(Ordering::Acquire);
        total(before, self.head().count())
    }

    /// All that has been counted. What has come out is looked at first, so that never more has
    /// come out than in.
    pub fn totals(&self) -> Totals {
        let state = &*self.state;
        let messages_out = self.messages_out();
        let bytes_out = settled(&state.head, &state.bytes_out).map_or(0, |(_, sum)| sum);
        let messages_in = self.messages_in();
        let bytes_in = settled(&state.tail, &state.bytes_in).map_or(bytes_out, |(_, sum)| sum);
        let marks = [&state.high_water, &state.high_seen].map(|mark| mark.load(Ordering::Relaxed));
        let high_water = marks[0].max(marks[1]);
        Totals { messages_in, messages_out, bytes_in, bytes_out, high_water }
    }

    /// Bytes unread: exact at an instant between call and return, as far as both sides let one
    /// look.
    pub fn unread_bytes(&self) -> u64 {
        let state = &*self.state;
        for _ in 0..LOOKS {
            let Some((head, bytes_out)) = settled(&state.head, &state.bytes_out) else { break };
            let Some((_, bytes_in)) = settled(&state.tail, &state.bytes_in) else { break };
            if self.head() == head {
                return bytes_in.wrapping_sub(bytes_out);
            }
        }
        0
    }

    /// Are bytes bounded, and is there no room for one more?
    #[inline]
    pub(super) fn lacks_bytes(&self) -> bool {
        let max_bytes = self.max_bytes();
        max_bytes > 0 && self.unread_bytes() >= max_bytes
    }
}

impl PutGuard<'_> {
    /// Is there room for `size` bytes, where bytes are bounded?
    ///
    /// # Errors
    /// `Full`; `TooLarge` if there never will be.
    #[inline]
    pub(super) fn has_bytes_for(&self, tail: Cursor, size: u64) -> Result<()> {
        match self.ring.max_bytes() {
            0 => Ok(()),
            max_bytes => self.count_room(tail, size, max_bytes),
        }
    }

    #[inline(never)]
    fn count_room(&self, tail: Cursor, size: u64, max_bytes: u64) -> Result<()> {
        let state = &*self.ring.state;
        if size > max_bytes {
            return Err(Error::TooLarge);
        }
        let bytes_in = state.bytes_in[tail.count() as usize & 1].load(Ordering::Relaxed);
        let fits = |bytes_out: u64| bytes_in.wrapping_sub(bytes_out).saturating_add(size.max(1)) <= max_bytes;
        if fits(state.bytes_out_seen.load(Ordering::Relaxed)) {
            return Ok(());
        }
        // Consumers that are so busy wake who waits for room.
        let Some((_, bytes_out)) = settled(&state.head, &state.bytes_out) else { return Err(Error::Full) };
        state.bytes_out_seen.store(bytes_out, Ordering::Relaxed);
        if fits(bytes_out) { Ok(()) } else { Err(Error::Full) }
    }

    /// Before the commit of `new`: the high-water mark.
    #[inline(always)]
    pub(super) fn note_depth(&self, new: Cursor) {
        let state = &*self.ring.state;
        let high_water = state.high_water.load(Ordering::Relaxed);
        let most = new.since(Cursor(state.head_seen.load(Ordering::Relaxed)));
        if self.ring.config.overflows
            && most > high_water
            && (most > high_water.saturating_add(high_water / 16) || most == self.ring.maxsize())
        {
            self.note_depth_now(new, high_water);
        }
    }

    /// Messages have come back: the high-water mark. The get lock is held too.
    pub fn note_returned(&self) {
        let (depth, high_water) = (self.ring.len(), &self.ring.state.high_water);
        if depth > high_water.load(Ordering::Relaxed) {
            high_water.store(depth, Ordering::Relaxed);
        }
    }

    #[cold]
    fn note_depth_now(&self, new: Cursor, high_water: u64) {
        let depth = new.since(self.look_at_head(new));
        if depth > high_water {
            self.ring.state.high_water.store(depth, Ordering::Relaxed);
        }
    }
}

impl GetGuard<'_> {
    /// The tail has been looked at.
    #[inline]
    pub(super) fn note_depth(&self, tail: Cursor, head: Cursor) {
        let high_seen = &self.ring.state.high_seen;
        let depth = tail.since(head);
        if depth > high_seen.load(Ordering::Relaxed) {
            high_seen.store(depth, Ordering::Relaxed);
        }
    }
}
