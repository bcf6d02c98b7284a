//! What is done under a broadcast's lock: sending, joining, taking over, freeing.

use std::ops::Range;

use super::{Board, CELL, DATA, EXTENT, HEAD, LOOK, NUMBER, SMALL, Ticket};
use crate::deadline::Patience;
use crate::error::{Error, Result};
use crate::facade::{self, Ordering, Owner};
use crate::kill_point;
use crate::sync::mutex::Acquired;

/// A message as it lies in its cell.
#[derive(Debug, Clone, Copy)]
pub enum Stored<'a> {
    /// At most [`SMALL`] bytes.
    Here(&'a [u8]),
    /// So many bytes in an extent.
    Extent {
        /// The extent's number.
        index: u64,
        /// Bytes of the message.
        len: u64,
    },
}

impl Stored<'_> {
    fn len(&self) -> u64 {
        match self {
            Stored::Here(bytes) => bytes.len() as u64,
            Stored::Extent { len, .. } => *len,
        }
    }
}

/// A large message that is no longer there, and that nobody is copying.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Evicted {
    /// Its number.
    pub number: u64,
    /// Its extent's.
    pub extent: u64,
}

/// The lock, held.
#[derive(Debug)]
pub struct SendGuard<'a> {
    board: Board<'a>,
}

impl<'a> Board<'a> {
    /// Take the lock; from whom, if from the dead: then extents are to be settled, see
    /// [`SendGuard::leave_to`] and [`SendGuard::expect_limbo`].
    ///
    /// # Errors
    /// `WouldBlock` without patience; `TimedOut`; `Interrupted`.
    pub fn lock(self, me: Owner, patience: Patience) -> Result<(SendGuard<'a>, Option<Owner>)> {
        let dead = match self.state.lock.take(me, patience)? {
            Acquired::Clean => None,
            Acquired::Recovered(dead) => Some(dead),
        };
        Ok((SendGuard { board: self }, dead))
    }

    /// May a message be sent without waiting, as far as can be seen without the lock?
    pub fn looks_roomy(&self) -> bool {
        if self.state.skips() {
            return true;
        }
        // In this order: `oldest` never passes `next`.
        let oldest = self.state.oldest.load(Ordering::Acquire);
        let next = self.state.next.load(Ordering::Acquire);
        let least = self.least_place(oldest, next);
        self.fits(least, next, 1)
    }

    /// The first message that some reader has still to read.
    pub(super) fn least_place(&self, oldest: u64, next: u64) -> u64 {
        let places = self.waited_for().map(|(_, place)| place.number());
        places.min().map_or(next, |least| least.clamp(oldest, next.max(oldest)))
    }

    fn end_of(&self, number: u64) -> u64 {
        self.cell(number)[2].load(Ordering::Relaxed)
    }

    /// Bytes of the messages from `oldest` to `next`.
    fn held(&self, oldest: u64, next: u64) -> u64 {
        if oldest == next {
            return 0;
        }
        let first = length(self.cell(oldest)[1].load(Ordering::Relaxed));
        self.end_of(next.wrapping_sub(1)).wrapping_sub(self.end_of(oldest)).wrapping_add(first)
    }

    /// Is there room for `len` bytes more, if what is below `oldest` goes?
    fn fits(&self, oldest: u64, next: u64, len: u64) -> bool {
        let bytes_fit = |most| most == 0 || self.held(oldest, next).saturating_add(len) <= most;
        oldest == next || (next.wrapping_sub(oldest) < self.maxsize() && bytes_fit(self.state.max_bytes()))
    }

    /// Messages that some reader has still to read, and their bytes.
    pub fn unread(&self) -> (u64, u64) {
        // While senders overwrite what it is told by, over and over, it says 0 bytes.
        const TRIES: usize = 16;
        let mut count = 0;
        for _ in 0..TRIES {
            let oldest = self.state.oldest.load(Ordering::Acquire);
            let next = self.state.next.load(Ordering::Acquire);
            let least = self.least_place(oldest, next);
            count = next.saturating_sub(least).min(self.maxsize());
            let bytes = self.held(least, next);
            // The cells that this is told by were there all the time, and no garbage.
            facade::fence(Ordering::Acquire);
            let sane = self.state.max_bytes();
            if self.state.oldest.load(Ordering::Relaxed) <= least && (sane == 0 || bytes <= sane) {
                return (count, bytes);
            }
        }
        (count, 0)
    }
}

/// Ticks from one look for what is in limbo to the next: some 100 ms.
const LIMBO_EVERY: u32 = 100;

/// Of the clock, of some 1 ms; neither 0 nor `LOOK`.
fn limbo_tick() -> u32 {
    (facade::now() >> 20) as u32 | 2
}

/// Of a cell's second word: 48 bits of length, 8 of kind, 8 of format.
const LENGTH_BITS: u32 = 48;
const LENGTH: u64 = (1 << LENGTH_BITS) - 1;

pub(super) fn length(word: u64) -> u64 {
    word & LENGTH
}

pub(super) fn kind(word: u64) -> u64 {
    word >> LENGTH_BITS & 0xff
}

pub(super) fn format(word: u64) -> u8 {
    (word >> 56) as u8
}

impl<'a> SendGuard<'a> {
    /// The board.
    pub fn board(&self) -> Board<'a> {
        self.board
    }

    /// The number of the next message, as it stands there: it may be garbage.
    pub fn next(&self) -> u64 {
        self.board.state.next.load(Ordering::Relaxed)
    }

    /// `oldest` and `next`, checked. Whoever writes to the segment may change them at any time:
    /// what goes on for as long as they say goes by one look at them.
    fn span(&self) -> Result<(u64, u64)> {
        let (oldest, next) = (self.board.state.oldest.load(Ordering::Relaxed), self.next());
        if oldest > next || next - oldest > self.board.maxsize() || next >= NUMBER {
            return Err(Error::Corrupted("a broadcast whose numbers cannot be"));
        }
        Ok((oldest, next))
    }

    /// Make room for a message. What goes to make it is added to `evicted`, also if that was not
    /// enough.
    ///
    /// # Errors
    /// `Full` if readers are to be waited for; `Closed` if the end has been announced; `Corrupted`.
    pub fn make_room(&mut self, message: &Stored<'_>, evicted: &mut Vec<Evicted>) -> Result<()> {
        let board = self.board;
        if board.state.is_shut() {
            return Err(Error::Closed);
        }
        let (oldest, next) = self.span()?;
        let len = message.len();
        // Large messages go as soon as all have read them: a look at the readers is cheap beside
        // such a copy.
        if matches!(message, Stored::Here(_)) && board.fits(oldest, next, len) {
            return Ok(());
        }
        let mut target = board.least_place(oldest, next);
        let mut fits = board.fits(target, next, len);
        while !fits && target < next && board.state.skips() {
            target += 1;
            fits = board.fits(target, next, len);
        }
        self.evict(oldest..target, evicted);
        if fits { Ok(()) } else { Err(Error::Full) }
    }

    /// Nobody reads: what lies in extents is there no longer.
    ///
    /// # Errors
    /// `Corrupted`.
    pub fn drop_large(&mut self, evicted: &mut Vec<Evicted>) -> Result<()> {
        let (oldest, next) = self.span()?;
        let large = self.board.state.large.load(Ordering::Relaxed);
        self.evict(oldest..large.min(next), evicted);
        Ok(())
    }

    /// The next message is large, and nobody reads: it is a number alone.
    ///
    /// # Errors
    /// `Closed` if the end has been announced; `Corrupted`.
    pub fn skip_one(&mut self, evicted: &mut Vec<Evicted>) -> Result<()> {
        if self.board.state.is_shut() {
            return Err(Error::Closed);
        }
        let (oldest, next) = self.span()?;
        self.evict(oldest..next, evicted);
        // In this order: `oldest` never passes `next`. Who joins sees both, by the lock.
        self.board.state.next.store(next + 1, Ordering::Release);
        kill_point!("broadcast.send.for_nobody");
        self.board.state.oldest.store(next + 1, Ordering::Release);
        Ok(())
    }

    /// Free what all have read.
    ///
    /// # Errors
    /// `Corrupted`.
    pub fn free_read(&mut self, evicted: &mut Vec<Evicted>) -> Result<()> {
        let (oldest, next) = self.span()?;
        self.evict(oldest..self.board.least_place(oldest, next), evicted);
        Ok(())
    }

    /// These are there no longer: part of what [`span`](Self::span) gave.
    fn evict(&mut self, gone: Range<u64>, evicted: &mut Vec<Evicted>) {
        if gone.is_empty() {
            return;
        }
        let first = evicted.len();
        for number in gone.clone() {
            let cell = self.board.cell(number);
            if kind(cell[1].load(Ordering::Relaxed)) == EXTENT {
                evicted.push(Evicted { number, extent: cell[3].load(Ordering::Relaxed) });
            }
        }
        // A read-modify-write and a fence: they stand before the look at pins (B). What stands
        // before whatever is written to the cells (A) is the fence in `write`.
        self.board.state.oldest.swap(gone.end, Ordering::AcqRel);
        facade::fence_after_rmw();
        kill_point!("broadcast.send.evicted");
        let mut index = first;
        while index < evicted.len() {
            if self.board.is_pinned(evicted[index].number) {
                self.expect_limbo();
                evicted.swap_remove(index);
            } else {
                index += 1;
            }
        }
    }

    /// There may be extents in limbo.
    pub fn expect_limbo(&self) {
        self.board.state.limbo.store(LOOK, Ordering::Relaxed);
    }

    /// Are they to be looked for now? It takes a look at all extents: while somebody is stopped as
    /// it copies, not with each send. The word as it is, for [`look_again`](Self::look_again).
    pub fn limbo_is_due(&self) -> Option<u32> {
        let limbo = self.board.state.limbo.load(Ordering::Relaxed);
        let is_due = limbo == LOOK || limbo_tick().wrapping_sub(limbo) >= LIMBO_EVERY;
        (limbo != 0 && is_due).then_some(limbo)
    }

    /// Some are still being copied. `due` is what [`limbo_is_due`](Self::limbo_is_due) gave.
    pub fn look_again(&self, due: u32) {
        // It fails if one was let go of meanwhile, unless that was asked for already: then it has
        // to wait.
        let _ = self.board.state.limbo.compare_exchange(due, limbo_tick(), Ordering::Relaxed, Ordering::Relaxed);
    }

    /// May there be?
    pub fn has_limbo(&self) -> bool {
        self.board.state.limbo.load(Ordering::Relaxed) != 0
    }

    /// All have been freed.
    pub fn end_limbo(&self) {
        self.board.state.limbo.store(0, Ordering::Relaxed);
    }

    /// Is large message `number` no longer there, and nobody copying it? None: it is there.
    pub fn is_free(&self, number: u64) -> Option<bool> {
        let (oldest, next) = (self.board.state.oldest.load(Ordering::Relaxed), self.next());
        // What is not below `next` is somebody's who has died sending it: not the limbo's affair.
        if (oldest..next).contains(&number) || number >= next {
            return None;
        }
        facade::fence_after_rmw();
        Some(!self.board.is_pinned(number))
    }

    /// Write the next message's cell, for which there is room; gives its number, to go by until it
    /// is committed.
    ///
    /// # Errors
    /// `TooLarge`; `Corrupted`.
    pub fn write(&mut self, message: &Stored<'_>, format: u8) -> Result<u64> {
        let (oldest, next) = self.span()?;
        // With nothing there the count begins anew: with one cell alone the last one's is
        // overwritten here.
        let before = if oldest == next { 0 } else { self.board.end_of(next.wrapping_sub(1)) };
        let cell = self.board.cell(next);
        // Release, for readers that are still copying what was here (A): if one of them copies a
        // word that is stored below then what it sees of `oldest`, behind its own fence, is no less
        // than what is seen here. It need not have been raised by this process: whoever raised it
        // let go of the lock afterwards, and that is before this fence.
        facade::fence(Ordering::Release);
        let (kind, extent) = match message {
            Stored::Here(bytes) if bytes.len() > SMALL => return Err(Error::TooLarge),
            Stored::Here(bytes) => {
                for (word, eight) in cell[HEAD..CELL].iter().zip(bytes.chunks(8)) {
                    let mut padded = [0; 8];
                    padded[..eight.len()].copy_from_slice(eight);
                    word.store(u64::from_le_bytes(padded), Ordering::Relaxed);
                }
                (DATA, 0)
            }
            Stored::Extent { index, .. } => {
                self.board.state.large.store(next + 1, Ordering::Relaxed);
                (EXTENT, *index)
            }
        };
        let len = message.len();
        cell[0].store(next.wrapping_add(1), Ordering::Relaxed);
        let word = length(len) | kind << LENGTH_BITS | u64::from(format) << 56;
        cell[1].store(word, Ordering::Relaxed);
        cell[2].store(before.wrapping_add(len), Ordering::Relaxed);
        cell[3].store(extent, Ordering::Relaxed);
        Ok(next)
    }

    /// The message that was written is there. To be followed, without the lock, by
    /// `news.notify_all`.
    pub fn commit(&mut self) {
        kill_point!("broadcast.send.before_commit");
        // Commit point. Release (SeqCst): the cell. What waiters need besides, a read-modify-write,
        // is the lock's release.
        self.board.state.next.store(self.next().wrapping_add(1), Ordering::SeqCst);
        kill_point!("broadcast.send.after_commit");
    }

    /// No message comes after those that are there. To be followed by wake-ups of both sides.
    pub fn shut(&mut self) {
        // Release: all that was sent before. An exchange, for the wake-ups' sake.
        self.board.state.shut.swap(1, Ordering::AcqRel);
        kill_point!("broadcast.shut");
    }

    /// A new reader, at message `number` or the first behind it that is there, by default at the
    /// next one. None: no slot is free.
    ///
    /// # Errors
    /// `Corrupted`.
    pub fn join(&mut self, me: Owner, number: Option<u64>) -> Result<Option<Ticket>> {
        let (oldest, next) = self.span()?;
        let board = self.board;
        let all = board.slots.iter().map(|slot| (slot, slot.place())).enumerate();
        let Some((index, (slot, place))) = all.into_iter().find(|(_, (_, place))| !place.is_owned()) else {
            return Ok(None);
        };
        let number = number.unwrap_or(next).min(next);
        board.state.high.fetch_max(index as u32 + 1, Ordering::AcqRel);
        let tag = slot.join(place, me.word(), number.max(oldest), oldest.saturating_sub(number));
        let tag = tag.ok_or(Error::Corrupted("a reader's slot that changes under the lock"))?;
        Ok(Some(Ticket { index: index as u32, tag, owner: me.word() }))
    }

    /// This process becomes the owner of `of`'s slot, at the same place, whoever it is for the time
    /// being. None: it is no longer there.
    pub fn take_over(&mut self, of: Ticket, me: Owner) -> Option<Ticket> {
        let slot = self.board.slot(of.index).ok()?;
        // The tag says that nobody has taken it over since.
        if slot.place().tag() != of.tag {
            return None;
        }
        let tag = slot.take_over(of.tag, me.word())?;
        Some(Ticket { index: of.index, tag, owner: me.word() })
    }

    /// The reader is the process's `to`, which has still to take it over: its death is that one's
    /// from now on. False: it has been taken over already, or it is not the ticket's any more.
    pub fn give(&mut self, ticket: Ticket, to: Owner) -> bool {
        let Ok(slot) = self.board.slot(ticket.index) else { return false };
        // What changes the tag to another owner's takes the lock: it can only become free.
        let is_there = slot.place().tag() == ticket.tag && slot.owner() == ticket.owner;
        if is_there {
            // A reader like any other from now on.
            slot.mark_given(ticket.tag, 0);
            // Release: what this one has read.
            slot.owner.store(to.word(), Ordering::Release);
            kill_point!("broadcast.given");
        }
        is_there
    }

    /// As if the lock had never been taken over from `dead`: see [`Mutex`](super::Mutex).
    pub fn leave_to(self, dead: Owner) {
        self.board.state.lock.leave_to(dead);
        std::mem::forget(self);
    }
}

impl Drop for SendGuard<'_> {
    fn drop(&mut self) {
        self.board.state.lock.unlock();
    }
}
