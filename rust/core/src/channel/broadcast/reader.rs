//! A broadcast's reader in this process.
//!
//! A reader belongs to one process at a time, and goes to another in two ways:
//!
//! - It is sent there, and attached. From then on it is that process's. (If the lock is not to be
//!   had in time: when it first receives by it.)
//! - By a fork. The child's first receiving by it takes it over, and no mere look at it, if nothing
//!   had been received by it when the child was forked: it was made for the child. If something
//!   had, it is its parent's, and the child's copy joins as a reader of its own, where the parent's
//!   was at the fork.
//!
//! Who gives a reader away drops it as a rule before the receiver has it: `Process.start` drops the
//! arguments. So a reader that has been sent does not leave when it is dropped, only when it is
//! closed. Where the receiver is known, a child that was started with it, the slot is put into its
//! name at once ([`Reader::give`]): if it dies before it takes the reader over nobody waits for it.
//! Such a child may give it on in turn, without having read by it.
//! Else it is the sender's until somebody takes it over, and *unclaimed* if that takes too long:
//! then nobody waits for it (see [`sync::broadcast`](crate::sync::broadcast)).
//!
//! Where there is nothing left to take over (it was closed, or dropped with the process that sent
//! it, or another child was quicker) it joins anew. So it does with what is still there from the
//! message that it was to read next, and counts the others as missed.
//!
//! What this process knows of it is in a few atomics, so that a fork finds them whole. They change
//! under the broadcast's lock, `generation` last.

use std::os::fd::BorrowedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU16, AtomicU32, AtomicU64, Ordering, fence};

use super::{Broadcast, Freed};
use crate::channel::ring::{INLINE, MessageMeta, Received};
use crate::deadline::{Deadline, Graced, Patience, now};
use crate::error::{Error, Result};
use crate::sync::broadcast::{Taken, Ticket};
use crate::sys::{fork, liveness};

/// See the module.
#[derive(Debug)]
pub struct Reader {
    broadcast: Arc<Broadcast>,
    /// Of the process that the rest is true in.
    generation: AtomicU64,
    index: AtomicU32,
    tag: AtomicU16,
    owner: AtomicU64,
    /// The message to be read next, as far as this process knows.
    number: AtomicU64,
    /// Has anything been received by it?
    used: AtomicBool,
    /// Has it been sent?
    given: AtomicBool,
    left: AtomicBool,
    /// Is it a child's?
    gone: AtomicBool,
}

/// A message that was received.
#[derive(Debug)]
pub struct Message {
    /// As from a ring; an extent is lent.
    pub received: Received,
    /// Of a large message: what keeps it there while it is copied. Only [`Pin::finish`] makes it
    /// the reader's past.
    pub pin: Option<Pin>,
}

/// A large message that is being copied out. If it is dropped the message is still to be read.
#[derive(Debug)]
pub struct Pin {
    broadcast: Arc<Broadcast>,
    ticket: Ticket,
    number: u64,
    /// So large that its memory is to be given back at once when all have read it.
    is_large: bool,
    is_over: bool,
}

impl Pin {
    /// It has been copied.
    ///
    /// # Errors
    /// `NotOwner` if the reader has gone to another process meanwhile, or left: what was copied may
    /// be anything.
    pub fn finish(mut self) -> Result<()> {
        self.is_over = true;
        let finished = self.broadcast.board().finish(self.ticket, self.number);
        self.collect();
        finished
    }

    fn collect(&self) {
        if self.is_large {
            self.broadcast.collect();
        }
    }
}

impl Drop for Pin {
    fn drop(&mut self) {
        if !self.is_over {
            self.broadcast.board().unpin(self.ticket, self.number);
            self.collect();
        }
    }
}

impl Reader {
    pub(super) fn joined(broadcast: Arc<Broadcast>, ticket: Ticket, number: u64) -> Reader {
        let reader = Reader::at(broadcast, ticket, number);
        reader.generation.store(fork::generation(), Ordering::Release);
        reader
    }

    fn at(broadcast: Arc<Broadcast>, ticket: Ticket, number: u64) -> Reader {
        broadcast.readers_here.fetch_add(1, Ordering::Relaxed);
        Reader {
            broadcast,
            generation: AtomicU64::new(0),
            index: AtomicU32::new(ticket.index),
            tag: AtomicU16::new(ticket.tag),
            owner: AtomicU64::new(ticket.owner),
            number: AtomicU64::new(number),
            used: AtomicBool::new(false),
            given: AtomicBool::new(false),
            left: AtomicBool::new(false),
            gone: AtomicBool::new(false),
        }
    }

    /// One that another process had, from what its [`ticket`](Self::ticket) gave there: from now on
    /// it is this process's.
    ///
    /// # Errors
    /// Those of [`Broadcast::reader`].
    pub fn attach(broadcast: Arc<Broadcast>, ticket: Ticket, number: u64, until: impl Into<Graced>) -> Result<Reader> {
        let reader = Reader::at(broadcast, ticket, number);
        reader.arrive(until.into())?;
        Ok(reader)
    }

    /// The same, of one that has come with a message: who gets that does not wait for a lock whose
    /// holder is stopped. After a grace the reader is here, and arrives when it first receives.
    ///
    /// # Errors
    /// Those of `attach`, but for `TimedOut`.
    pub fn attach_or_later(broadcast: Arc<Broadcast>, ticket: Ticket, number: u64) -> Result<Reader> {
        let reader = Reader::at(broadcast, ticket, number);
        match reader.arrive(Graced::alone()) {
            Err(Error::TimedOut) => Ok(reader),
            done => done.map(|_| reader),
        }
    }

    /// The broadcast that it reads.
    pub fn broadcast(&self) -> &Arc<Broadcast> {
        &self.broadcast
    }

    /// The descriptor that another process needs to attach it, beside the ticket.
    pub fn handle(&self) -> BorrowedFd<'_> {
        self.broadcast.handle()
    }

    fn held(&self) -> Ticket {
        Ticket {
            index: self.index.load(Ordering::Relaxed),
            tag: self.tag.load(Ordering::Relaxed),
            owner: self.owner.load(Ordering::Relaxed),
        }
    }

    fn is_here(&self) -> bool {
        // Acquire: the rest.
        self.generation.load(Ordering::Acquire) == fork::generation()
    }

    /// By what it has its slot, and the number of the message that it wants next, to be sent. A
    /// forked child hands on what it was forked with, or arrives first.
    ///
    /// # Errors
    /// `Closed`; `NotOwner` if it has gone to another process; those of [`Broadcast::reader`].
    pub fn ticket(&self, until: impl Into<Graced>) -> Result<(Ticket, u64)> {
        let (board, held) = (self.broadcast.board(), self.held());
        let is_left = self.left.load(Ordering::Relaxed);
        if !is_left && !self.is_here() && !self.used.load(Ordering::Relaxed) && !board.is_owner(held, liveness::me()) {
            return Ok((held, self.number.load(Ordering::Relaxed)));
        }
        let ticket = self.here(until.into())?;
        let number = board.place_of(ticket)?;
        self.given.store(true, Ordering::Relaxed);
        board.mark_given(ticket, now());
        Ok((ticket, number))
    }

    /// Has it been sent?
    pub fn is_given(&self) -> bool {
        self.given.load(Ordering::Relaxed)
    }

    /// It has not been sent after all, whatever [`ticket`](Self::ticket) was asked for.
    pub fn keep(&self) {
        if self.given.swap(false, Ordering::Relaxed) && self.is_here() {
            self.broadcast.board().mark_given(self.held(), 0);
        }
    }

    /// It reads by it still: its time begins anew.
    fn claim(&self, ticket: Ticket) {
        if self.given.load(Ordering::Relaxed) {
            self.broadcast.board().mark_given(ticket, now());
        }
    }

    #[inline]
    fn here(&self, until: Graced) -> Result<Ticket> {
        if self.left.load(Ordering::Relaxed) {
            return Err(if self.gone.load(Ordering::Relaxed) { Error::NotOwner } else { Error::Closed });
        }
        if self.is_here() { Ok(self.held()) } else { self.arrive(until) }
    }

    #[cold]
    fn arrive(&self, until: Graced) -> Result<Ticket> {
        loop {
            let mut locked = self.broadcast.lock(Patience::Sleep(until))?;
            if self.is_here() {
                return Ok(self.held());
            }
            let me = liveness::me();
            let number = self.number.load(Ordering::Relaxed);
            let taken = if self.used.load(Ordering::Relaxed) { None } else { locked.guard.take_over(self.held(), me) };
            let ticket = match taken {
                Some(ticket) => Some(ticket),
                None => locked.guard.join(me, Some(number))?,
            };
            if let Some(ticket) = ticket {
                self.index.store(ticket.index, Ordering::Relaxed);
                self.tag.store(ticket.tag, Ordering::Relaxed);
                self.owner.store(ticket.owner, Ordering::Relaxed);
                self.given.store(false, Ordering::Relaxed);
                self.generation.store(fork::generation(), Ordering::Release);
                // With the fence in `leave`: either that finds it here, or this that it is left.
                fence(Ordering::SeqCst);
                if self.left.load(Ordering::Relaxed) {
                    drop(locked);
                    self.broadcast.board().leave(ticket);
                    return Err(Error::Closed);
                }
                return Ok(ticket);
            }
            drop(locked);
            self.broadcast.make_slot()?;
        }
    }

    /// The child `pid` of this process, just started, was given this reader: it has been sent to
    /// it, or nothing was received by it when the child was forked. `execs`: a program is started
    /// in the child.
    pub fn give(&self, pid: u32, execs: bool) {
        let is_given = self.given.load(Ordering::Relaxed) || !self.used.load(Ordering::Relaxed);
        if !is_given || self.left.load(Ordering::Relaxed) {
            return;
        }
        let mut held = self.held();
        if !self.is_here() {
            // What was given to this process, which has not come to read by it, goes on. By the
            // same tag: that is what the child has.
            let me = liveness::me();
            if !self.broadcast.board().is_owner(held, me) {
                return;
            }
            held.owner = me.word();
        }
        if let Some(child) = liveness::child(pid, execs) {
            match self.broadcast.lock(Patience::sleep(Deadline::PASSED)) {
                // It is not this process's any more, whoever has it.
                Ok(mut locked) => {
                    locked.guard.give(held, child);
                    self.left.store(true, Ordering::Relaxed);
                    self.gone.store(true, Ordering::Relaxed);
                }
                // Its holder is stopped: as if it had been sent.
                Err(_) => self.broadcast.board().mark_given(held, now()),
            }
        }
        self.given.store(true, Ordering::Relaxed);
    }

    /// Receive without sleeping; a small message's bytes come onto the end of `scratch`.
    ///
    /// # Errors
    /// `Empty`; `WouldBlock` while another thread receives a large one; those of
    /// [`recv`](Self::recv).
    pub fn try_recv(&self, scratch: &mut Vec<u8>) -> Result<Message> {
        // To arrive takes a lock, which may have to be waited for.
        if self.is_here() { self.recv_once(scratch, Graced::without(Deadline::PASSED)) } else { Err(Error::WouldBlock) }
    }

    fn recv_once(&self, scratch: &mut Vec<u8>, until: Graced) -> Result<Message> {
        let ticket = self.here(until)?;
        self.claim(ticket);
        let start = scratch.len();
        let taken = match self.broadcast.board().take(ticket, scratch) {
            // Left by another thread in between.
            Err(Error::NotOwner) if self.left.load(Ordering::Relaxed) => return Err(Error::Closed),
            taken => taken?,
        };
        self.used.store(true, Ordering::Relaxed);
        if self.given.swap(false, Ordering::Relaxed) {
            self.broadcast.board().mark_given(ticket, 0);
        }
        match taken {
            Taken::Small { format, number } => {
                self.number.store(number + 1, Ordering::Relaxed);
                debug_assert!(scratch.len() >= start);
                Ok(Message { received: Received::new(MessageMeta { format, fds: 0 }, number, None), pin: None })
            }
            Taken::Pinned { format, number, extent, len } => {
                let is_large = len > INLINE as u64;
                let pin = Pin { broadcast: self.broadcast.clone(), ticket, number, is_large, is_over: false };
                let hold = self.broadcast.extents.view(extent, number, len)?;
                let len = usize::try_from(len).map_err(|_| Error::Corrupted("a message of impossible size"))?;
                self.number.store(number + 1, Ordering::Relaxed);
                let meta = MessageMeta { format, fds: 0 };
                Ok(Message { received: Received::new(meta, number, Some((hold, len))), pin: Some(pin) })
            }
        }
    }

    /// Receive, waiting until the deadline for a message.
    ///
    /// # Errors
    /// `Empty` at the deadline; `PeerGone` if the end has been announced and nothing is left;
    /// `Closed`; `NotOwner` if it has gone to another process; `Interrupted`; `Corrupted`.
    pub fn recv(&self, scratch: &mut Vec<u8>, until: impl Into<Graced>) -> Result<Message> {
        let until = until.into();
        let ticket = match self.here(until) {
            Err(Error::TimedOut) => return Err(Error::Empty),
            ticket => ticket?,
        };
        let idle = || {
            self.claim(ticket);
            self.broadcast.collect();
            self.broadcast.extents.tend();
        };
        self.broadcast.board().wait_for_news(ticket, until.deadline(), || self.recv_once(scratch, until), idle)
    }

    /// Messages that were gone when this reader came for them. In a forked child that has not
    /// received yet: so many as there would be now.
    ///
    /// # Errors
    /// Those of [`ticket`](Self::ticket).
    pub fn missed(&self, until: impl Into<Graced>) -> Result<u64> {
        let board = self.broadcast.board();
        if self.left.load(Ordering::Relaxed) || self.is_here() {
            return board.missed(self.here(until.into())?);
        }
        let of = (!self.used.load(Ordering::Relaxed)).then(|| self.held());
        Ok(board.missed_there(of, self.number.load(Ordering::Relaxed)))
    }

    /// Leave: nobody waits for it any more. Waits in other threads end.
    pub fn leave(&self) {
        let was_left = self.left.swap(true, Ordering::Relaxed);
        fence(Ordering::SeqCst);
        if was_left || !self.is_here() {
            return;
        }
        let broadcast = &self.broadcast;
        broadcast.board().leave(self.held());
        broadcast.board().news.notify_all();
        // It may have been the last: nobody comes by then.
        broadcast.collect_to(&mut Freed::default(), Patience::Moment);
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        if !*self.given.get_mut() {
            self.leave();
        }
        self.broadcast.readers_here.fetch_sub(1, Ordering::Relaxed);
    }
}
