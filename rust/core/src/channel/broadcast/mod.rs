//! A broadcast: each reader gets each message from the moment it joined.
//!
//! Who may do what to which word, and who dies how, is argued in
//! [`sync::broadcast`](crate::sync::broadcast). Here the words get their memory, and large messages
//! their extents, each filled once however many read it.
//!
//! | bytes of the segment | what |
//! |---|---|
//! | from 64 | the words |
//! | from 4 KiB | the extents' words |
//! | from 8 KiB | reader slots: a page of 64, more by the page |
//! | from 264 KiB | cells |
//!
//! # Extents
//! A large message is filled before the lock is taken. Under the lock its extent is noted with the
//! message's number and handed over as into a ring, with the number of the next message as the
//! intent: the commit is the same store. Whoever takes the lock over from the dead settles that
//! (see [`extents`](super::extents)), and looks for what the dead had evicted and not yet freed.
//! What is to be freed is claimed under the lock, and freed without it.
//!
//! Whoever has read a large message frees what all have read, if the lock is free just then. Else
//! the next sender does, or who waits for a while. When nobody reads any more the last to leave
//! does, or who finds it dead, or the next sender; and senders, whom nobody makes wait then, give
//! back now and then what is kept for messages to come.

mod reader;

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;

use crate::arena::Segment;
use crate::channel::extents::{Extents, OwnedExtent};
use crate::channel::file::File;
use crate::channel::front::Front;
use crate::channel::ring::Payload;
use crate::deadline::{Graced, Patience, now};
use crate::error::{Error, Result};
use crate::facade::{AtomicU64, Ordering};
use crate::kill_point;
use crate::layout::{Backing, Kind, Object};
use crate::sync::broadcast::{Board, BroadcastState, CELL, Evicted, ReaderInfo, ReaderSlot, SMALL, SendGuard, Stored};
use crate::sys::{liveness, memfd};

pub use reader::{Message, Pin, Reader};

const STATE: usize = 64;
const TABLE: usize = 4096;
const SLOTS: usize = 8192;
const PAGE: usize = 4096;
const SLOTS_IN_PAGE: usize = PAGE / size_of::<ReaderSlot>();
/// Readers at a time.
pub const READERS_MOST: usize = 4096;
const CELLS: usize = SLOTS + READERS_MOST * size_of::<ReaderSlot>();
const _: () = assert!(STATE + size_of::<BroadcastState>() <= TABLE && CELLS.is_multiple_of(PAGE));
/// Messages that may be there at most.
pub const MAXSIZE_MOST: u64 = 1 << 14;
const CELL_BYTES: usize = CELL * 8;
// The table of extents goes on at 16 MiB.
const _: () = assert!(CELLS + MAXSIZE_MOST as usize * CELL_BYTES <= 16 << 20);
/// Of the lock that extents are settled by: there is one.
const RING: u32 = 0;

/// What to do about readers that are slow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lag {
    /// Senders wait for them.
    Block,
    /// They miss messages.
    Skip,
}

/// How full it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stats {
    /// Messages sent so far.
    pub sent: u64,
    /// Messages that some reader has still to read.
    pub unread: u64,
    /// Their bytes.
    pub unread_bytes: u64,
    /// Readers.
    pub readers: usize,
}

/// See the module.
/// ```
/// use fastmp_core::Deadline;
/// use fastmp_core::channel::broadcast::{Broadcast, Lag};
/// use fastmp_core::channel::ring::Payload;
/// use std::sync::Arc;
///
/// # fn main() -> Result<(), fastmp_core::Error> {
/// let broadcast = Arc::new(Broadcast::create(8, 0, Lag::Block)?);
/// let readers = [broadcast.reader(Deadline::Never)?, broadcast.reader(Deadline::Never)?];
/// broadcast.send(7, &mut Some(Payload::Inline(b"to all")), Deadline::Never)?;
/// for reader in &readers {
///     let mut bytes = Vec::new();
///     let message = reader.recv(&mut bytes, Deadline::after(1.0))?;
///     assert_eq!((message.received.meta.format, &bytes[..]), (7, &b"to all"[..]));
/// }
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct Broadcast {
    state: Object<BroadcastState, Arc<Segment>>,
    slots: Object<[ReaderSlot], ()>,
    cells: Object<[AtomicU64], ()>,
    extents: Arc<Extents>,
    /// Readers of this process that read by this.
    readers_here: AtomicUsize,
    /// When this process last gave back what is kept, because nobody read.
    tended: AtomicU64,
}

/// Extents whose messages are gone: their memory is given back, or kept for others, when this is
/// dropped.
#[derive(Debug, Default)]
pub struct Freed(Vec<OwnedExtent>);

impl Freed {
    /// Does dropping it give no pages back? That would take time.
    pub fn is_quick_to_drop(&self) -> bool {
        self.0.len() <= 4 && self.0.iter().all(OwnedExtent::is_quick_to_free)
    }
}

/// What a send under the lock has come to.
enum Sent {
    /// The message is there.
    Whole,
    /// Nobody reads.
    ToNobody,
    /// Somebody does, and the message is to be put into an extent first.
    Unfilled,
}

/// The lock, held; and what is to be freed after it.
struct Locked<'a> {
    guard: SendGuard<'a>,
    freed: Vec<OwnedExtent>,
}

impl Broadcast {
    /// A new one, for at most `maxsize` messages of `max_bytes` (0: any number) at a time.
    ///
    /// # Errors
    /// `TooLarge` if `maxsize` is more than [`MAXSIZE_MOST`], or 0; `OutOfMemory`, or `Os` when
    /// descriptors have run out.
    pub fn create(maxsize: u64, max_bytes: u64, lag: Lag) -> Result<Broadcast> {
        liveness::me();
        if !(1..=MAXSIZE_MOST).contains(&maxsize) {
            return Err(Error::TooLarge);
        }
        let cells = maxsize as usize * CELL_BYTES;
        let segment = Segment::sparse("fastmp-broadcast", Kind::Broadcast, CELLS + cells, SLOTS + PAGE)?;
        memfd::reserve_own(&segment, CELLS as u64, cells as u64)?;
        let broadcast = Self::over(segment, maxsize)?;
        broadcast.state.set_up(max_bytes, lag == Lag::Skip);
        Ok(broadcast)
    }

    /// One that another process made, from the numbers and the descriptor that it lent.
    ///
    /// # Errors
    /// `Corrupted` if it is none; `OutOfMemory`.
    pub fn attach(memfd: OwnedFd, maxsize: u64) -> Result<Broadcast> {
        liveness::me();
        if !(1..=MAXSIZE_MOST).contains(&maxsize) {
            return Err(Error::Corrupted("a broadcast of impossible size"));
        }
        let bytes = CELLS + maxsize as usize * CELL_BYTES;
        Self::over(Segment::attach(memfd, Kind::Broadcast, bytes)?, maxsize)
    }

    fn over(segment: Segment, maxsize: u64) -> Result<Broadcast> {
        let segment = Arc::new(segment);
        let mapping = segment.mapping();
        Ok(Broadcast {
            slots: Object::slice(mapping.clone(), (), SLOTS, READERS_MOST)?,
            cells: Object::slice(mapping.clone(), (), CELLS, maxsize as usize * CELL)?,
            extents: Arc::new(Extents::new(Front::whole(segment.clone()), TABLE, File::given(segment.clone()))?),
            state: Object::new(segment, STATE)?,
            readers_here: AtomicUsize::new(0),
            tended: AtomicU64::new(0),
        })
    }

    fn segment(&self) -> &Arc<Segment> {
        self.state.backing()
    }

    /// The descriptor that another process needs to attach.
    pub fn handle(&self) -> BorrowedFd<'_> {
        self.segment().as_fd()
    }

    /// Close the segment's descriptor before this is dropped, in a forked child where threads of
    /// its parent may have had parts of it that nobody will ever drop. Not while readers need it.
    pub fn close_segment(&self) {
        if self.readers_here.load(Ordering::Relaxed) == 0 {
            self.segment().close_fd();
        }
    }

    /// The words.
    pub fn board(&self) -> Board<'_> {
        let pages = 1 + self.state.more_slots.load(Ordering::Acquire) as usize;
        let slots = pages.saturating_mul(SLOTS_IN_PAGE).min(READERS_MOST);
        Board::new(&self.state, &self.slots[..slots], &self.cells)
    }

    /// An extent for a message of `bytes`, to be filled before it is sent.
    ///
    /// # Errors
    /// `TooLarge` if that is more than may be there at all; `OutOfMemory`.
    pub fn extent(&self, bytes: u64) -> Result<OwnedExtent> {
        self.check_size(bytes)?;
        self.extents.allocate(bytes)
    }

    fn check_size(&self, bytes: u64) -> Result<()> {
        let most = self.state.max_bytes();
        if most > 0 && bytes > most { Err(Error::TooLarge) } else { Ok(()) }
    }

    fn lock(&self, patience: Patience) -> Result<Locked<'_>> {
        let (guard, dead) = self.board().lock(liveness::me(), patience)?;
        let mut locked = Locked { guard, freed: Vec::new() };
        if let Some(dead) = dead {
            // What it had evicted.
            locked.guard.expect_limbo();
            match self.extents.settle_put(RING, locked.guard.next()) {
                Ok(not_sent) => locked.freed = not_sent,
                Err(e) => {
                    locked.guard.leave_to(dead);
                    return Err(e);
                }
            }
            kill_point!("broadcast.settled");
            if !self.board().has_readers() {
                // What it was about to send to nobody. Corrupted numbers are somebody else's to
                // report.
                let mut evicted = Vec::new();
                let _ = locked.guard.free_read(&mut evicted);
                self.reclaim(&mut locked, &evicted);
            }
        }
        if let Some(due) = locked.guard.limbo_is_due() {
            self.search_limbo(&mut locked, due);
        }
        Ok(locked)
    }

    /// Claim what is no longer there and pinned by nobody.
    fn search_limbo(&self, locked: &mut Locked<'_>, due: u32) {
        let Ok(all) = self.extents.in_ring() else { return };
        let mut is_over = true;
        for (index, number) in all {
            match locked.guard.is_free(number) {
                Some(true) => locked.freed.extend(self.extents.reclaim(index, number)),
                Some(false) => is_over = false,
                None => (),
            }
        }
        if is_over {
            locked.guard.end_limbo();
        } else {
            locked.guard.look_again(due);
        }
    }

    fn reclaim(&self, locked: &mut Locked<'_>, evicted: &[Evicted]) {
        locked.freed.extend(evicted.iter().filter_map(|one| self.extents.reclaim(one.extent, one.number)));
    }

    /// Free what all have read, unless somebody has the lock.
    pub fn collect(&self) {
        self.collect_to(&mut Freed::default(), Patience::Spin);
    }

    fn collect_to(&self, freed: &mut Freed, patience: Patience) {
        if !self.board().keeps_read() {
            return;
        }
        let Ok(mut locked) = self.lock(patience) else { return };
        let mut evicted = Vec::new();
        // Corrupted numbers are somebody else's to report.
        let _ = locked.guard.free_read(&mut evicted);
        self.reclaim(&mut locked, &evicted);
        freed.0.append(&mut locked.freed);
    }

    /// Drop the dead among all readers; how many?
    pub fn drop_dead(&self) -> usize {
        let dropped = self.board().sweep();
        if dropped > 0 {
            // What nobody else had to read.
            self.collect();
        }
        dropped
    }

    /// Is it time for a sender to give back what is kept? Else who waits for messages does.
    fn is_to_be_tended(&self) -> bool {
        const EVERY: u64 = 100_000_000;
        if self.board().has_readers() {
            return false;
        }
        let (now, last) = (now(), self.tended.load(Ordering::Relaxed));
        let is_time = now.saturating_sub(last) >= EVERY;
        if is_time && self.extents.is_at_rest() {
            self.tended.store(now, Ordering::Relaxed);
            return false;
        }
        is_time
    }

    /// Would a send that does not wait raise `Full`? Cheap: to be asked before a message is made
    /// for nothing.
    pub fn would_be_full(&self) -> bool {
        !self.board().looks_roomy()
    }

    /// Send without sleeping. `payload` is taken. What goes to make room for it comes to `freed`.
    ///
    /// # Errors
    /// `Full`; `WouldBlock` if another holds the lock just now, or is to be first, or there is
    /// something to do that takes time; those of [`send`](Self::send).
    pub fn try_send(&self, format: u8, payload: &mut Option<Payload<'_>>, freed: &mut Freed) -> Result<()> {
        self.check(payload)?;
        if self.state.room.is_reserved() || self.is_to_be_tended() {
            return Err(Error::WouldBlock);
        }
        self.send_once(format, payload, Patience::Spin, freed)
    }

    /// Send, waiting until the deadline for room. `payload` is taken.
    ///
    /// # Errors
    /// `Full` at the deadline; `Closed` if the end has been announced; `TooLarge`; `Interrupted`;
    /// `OutOfMemory`. Nothing has been sent then, and `payload` is there still.
    pub fn send(&self, format: u8, payload: &mut Option<Payload<'_>>, until: impl Into<Graced>) -> Result<()> {
        let until = until.into();
        self.check(payload)?;
        if self.is_to_be_tended() {
            self.tended.store(now(), Ordering::Relaxed);
            self.extents.tend();
        }
        let mut attempt = || self.send_once(format, payload, Patience::Sleep(until), &mut Freed::default());
        match self.board().wait_for_room(until.deadline(), &mut attempt) {
            // Who does not wait has not looked at all of them.
            Err(Error::Full) if self.drop_dead() > 0 => {
                attempt().map_err(|error| if error == Error::TimedOut { Error::Full } else { error })
            }
            done => done,
        }
    }

    /// Could it be sent at all?
    fn check(&self, payload: &Option<Payload<'_>>) -> Result<()> {
        if self.state.is_shut() {
            return Err(Error::Closed);
        }
        match payload {
            Some(Payload::Inline(bytes)) => self.check_size(bytes.len() as u64)?,
            Some(Payload::Extent(_, len)) => self.check_size(*len)?,
            None => (),
        }
        Ok(())
    }

    /// What is too large for a cell goes into an extent.
    fn fill(&self, payload: &mut Option<Payload<'_>>) -> Result<()> {
        if let Some(Payload::Inline(bytes)) = payload
            && bytes.len() > SMALL
        {
            let hold = self.extents.allocate(bytes.len() as u64)?;
            hold.write(0, bytes)?;
            *payload = Some(Payload::Extent(hold, bytes.len() as u64));
        }
        Ok(())
    }

    fn send_once(
        &self,
        format: u8,
        payload: &mut Option<Payload<'_>>,
        patience: Patience,
        freed: &mut Freed,
    ) -> Result<()> {
        if self.board().has_readers() {
            self.fill(payload)?;
        }
        loop {
            let mut locked = self.lock(patience)?;
            let sent = self.send_locked(&mut locked, format, payload);
            let Locked { guard, freed: mut gone } = locked;
            drop(guard);
            freed.0.append(&mut gone);
            match sent? {
                Sent::Whole => break,
                Sent::ToNobody => {
                    if let Some(Payload::Extent(hold, _)) = payload.take() {
                        freed.0.push(hold);
                    }
                    return Ok(());
                }
                // Somebody has joined just now.
                Sent::Unfilled => self.fill(payload)?,
            }
        }
        kill_point!("broadcast.send.before_wake");
        self.state.news.notify_all();
        // Whoever is left behind may be dead.
        if self.state.skips() && !freed.0.is_empty() && self.board().sweep_now_and_then() > 0 {
            self.collect_to(freed, Patience::Spin);
        }
        Ok(())
    }

    fn send_locked(&self, locked: &mut Locked<'_>, format: u8, payload: &mut Option<Payload<'_>>) -> Result<Sent> {
        let is_for_nobody = !self.board().has_readers();
        let mut evicted = Vec::new();
        if is_for_nobody {
            let is_small = matches!(payload, Some(Payload::Inline(bytes)) if bytes.len() <= SMALL);
            let guard = &mut locked.guard;
            let done = if is_small { guard.drop_large(&mut evicted) } else { guard.skip_one(&mut evicted) };
            self.reclaim(locked, &evicted);
            done?;
            if !is_small {
                return Ok(Sent::ToNobody);
            }
            evicted.clear();
        }
        let stored = match payload {
            Some(Payload::Inline(bytes)) if bytes.len() > SMALL => return Ok(Sent::Unfilled),
            Some(Payload::Inline(bytes)) => Stored::Here(bytes),
            Some(Payload::Extent(hold, _)) if !hold.is_ours() => {
                return Err(Error::Corrupted("the message was prepared before this process was forked"));
            }
            Some(Payload::Extent(hold, len)) if !hold.holds(*len) => {
                return Err(Error::Corrupted("the message was not filled"));
            }
            Some(Payload::Extent(hold, len)) => Stored::Extent { index: hold.index(), len: *len },
            None => return Ok(Sent::Whole),
        };
        let room = locked.guard.make_room(&stored, &mut evicted);
        self.reclaim(locked, &evicted);
        room?;
        let guard = &mut locked.guard;
        let number = guard.write(&stored, format)?;
        if let Some(Payload::Extent(hold, _)) = payload {
            hold.note(number)?;
            hold.hand_over(RING, number + 1)?;
        }
        guard.commit();
        if let Some(Payload::Extent(hold, _)) = payload.take() {
            hold.published(number + 1);
        }
        Ok(Sent::Whole)
    }

    /// Announce the end: no message comes any more. Readers get what is there.
    ///
    /// # Errors
    /// `TimedOut`; `Interrupted`.
    pub fn shut(&self, until: impl Into<Graced>) -> Result<()> {
        let mut locked = self.lock(Patience::sleep(until))?;
        locked.guard.shut();
        drop(locked);
        self.state.news.notify_all();
        self.state.room.notify_all();
        Ok(())
    }

    /// Have who waits to send look again: it is closed here, see
    /// [`closings`](crate::sync::closings).
    pub fn wake_all(&self) {
        self.state.room.notify_all();
    }

    /// A reader that joins now.
    ///
    /// # Errors
    /// `TimedOut`; `Interrupted`; `OutOfMemory` for the most readers that there can be, or of
    /// memory.
    pub fn reader(self: &Arc<Self>, until: impl Into<Graced>) -> Result<Reader> {
        let until = until.into();
        loop {
            let mut locked = self.lock(Patience::Sleep(until))?;
            let next = locked.guard.next();
            if let Some(ticket) = locked.guard.join(liveness::me(), None)? {
                return Ok(Reader::joined(self.clone(), ticket, next));
            }
            drop(locked);
            self.make_slot()?;
        }
    }

    /// No slot is free: free those of the dead, or make more.
    fn make_slot(&self) -> Result<()> {
        if self.drop_dead() > 0 || self.board().drop_unclaimed() > 0 {
            return Ok(());
        }
        let seen = self.state.more_slots.load(Ordering::Acquire);
        let pages = READERS_MOST / SLOTS_IN_PAGE;
        if seen as usize + 1 >= pages {
            return Err(Error::OutOfMemory);
        }
        // It may be made twice, by two at a time or after a death.
        memfd::reserve(self.segment(), (SLOTS + (seen as usize + 1) * PAGE) as u64, PAGE as u64)?;
        kill_point!("broadcast.slots_reserved");
        // Release: the page is there for whoever sees the number. Another may have been quicker.
        let _ = self.state.more_slots.compare_exchange(seen, seen + 1, Ordering::AcqRel, Ordering::Relaxed);
        Ok(())
    }

    /// Who reads, but for those who are known to be dead.
    pub fn readers(&self) -> Vec<ReaderInfo> {
        self.drop_dead();
        self.board().readers()
    }

    /// How full it is, at about this instant.
    pub fn stats(&self) -> Stats {
        let board = self.board();
        let (unread, unread_bytes) = board.unread();
        Stats { sent: board.sent(), unread, unread_bytes, readers: board.readers().len() }
    }

    /// Extents that hold messages: those that somebody has still to read, those that are being
    /// copied, and those that wait to be freed.
    ///
    /// # Errors
    /// `OutOfMemory`; `Corrupted`.
    pub fn extents_in_use(&self) -> Result<usize> {
        Ok(self.extents.in_ring()?.len())
    }

    /// Are the slow left behind?
    pub fn lag(&self) -> Lag {
        if self.state.skips() { Lag::Skip } else { Lag::Block }
    }

    /// Messages that may be there.
    pub fn maxsize(&self) -> u64 {
        self.board().maxsize()
    }

    /// The bound on bytes; 0: none.
    pub fn max_bytes(&self) -> u64 {
        self.state.max_bytes()
    }

    /// Has the end been announced?
    pub fn is_shut(&self) -> bool {
        self.state.is_shut()
    }
}
