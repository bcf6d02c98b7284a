//! Readiness for writing: a channel's socket is writable only while its ring has room.
//!
//! The kernel calls a Unix socket writable while what it has sent, and nobody has taken, is less
//! than a quarter of its send buffer. Messages do not go through the socket. So once the sending
//! end's descriptor has been asked for, a sender that leaves the ring nearly full sends *fillers*,
//! until the socket is past that quarter, and a ready packet behind them. A receiver that has made
//! room takes them away again. Only the receivers' end can take them, and only the senders' end
//! sends them.
//!
//! A filler is a long ready packet: whoever takes it for one is right. What carries descriptors has
//! 8 bytes, a ready packet has one, or two with the channel's file, a filler more than 8. All begin
//! as only ours do. A filler
//! never carries a descriptor, and fillers leave half of the buffer and more to those that do.
//!
//! - `SENDER` in `watched`, then `TELLS` in `ready`: senders see to all this. Set by whoever asks
//!   for the sending end's descriptor, and never taken back.
//! - `FULL` in `watched`: there may be fillers. Set by a sender, cleared by a receiver, or by the
//!   sender that set it in vain; always under the put lock.
//!
//! A sender looks at `ready` for every message anyway, a receiver at `watched`: a channel whose
//! sending end has never been asked for pays a bit test.
//!
//! # What is full
//! In a pipe *nearly full*: no piece of an eighth of the base is free (16 KiB at least), and the
//! base will not widen; or as many large messages are unread as may be. A socket that is writable
//! thus takes a message of 16 KiB without waiting. A send that found no room for its own message
//! fills the socket too. *Room again* is when senders that sleep are woken: when half is free. What
//! lies in between keeps a pair that runs at the brim from filling and clearing at every message.
//!
//! A bounded queue counts messages, and both are exact. An unbounded one is never full.
//!
//! # Protocol
//! - sender, under the put lock, after its commit or with its `Full`: set `FULL`, look at the ring
//!   once more, and if it is full still send fillers. The look decides: a receiver that made room
//!   after it sees `FULL`, one that made room before it is seen (both SeqCst).
//! - receiver, after its commit: load `watched`. With `FULL` and room: take both locks, and take
//!   packets from the head while more than the head is there. If one packet is left, no filler can
//!   keep the socket from being writable: clear `FULL`. That packet remains for it tells that
//!   messages are there.
//! - a packet with the channel's file (see [`file`](super::file)) is not taken while a message in
//!   an extent is unread, unless the last packet has it too (`HANDED`). A sender that has the file
//!   sees to that: `HANDED` is cleared before the fillers, and the packet behind them has the file.
//!   With one that has not, readiness is late until all is read.
//! - fillers behind a packet of descriptors whose message is unread stay, and `FULL` with them,
//!   until it is received: a socket is taken from in order only. So long readiness may be late.
//! - receiver that finds the ring empty: takes all, as ever ([`Transport::clear_ready`]).
//! - receiver that looks for its message's descriptors: takes what lies before them, fillers too.
//!   While the ring stays nearly full every sender looks whether the socket is still filled.
//! - who asks for the descriptor of a ring that is full already fills it, as a sender would; so
//!   does who is refused by a full queue before it tries to put.
//!
//! # Death
//! - after the commit, before `FULL`: the socket stays writable. The next send, or the next asking,
//!   tells.
//! - after `FULL`, before or between fillers, or before the ready packet: receivers look for
//!   fillers and find fewer. The next send, or the next asking, sends the rest.
//! - of a receiver after its commit, before it looks at `FULL`: the next receiver sees it. If the
//!   ring is empty there will be none, but the socket is readable, and who comes for nothing takes
//!   all.
//! - of a receiver while it takes fillers, or before it clears `FULL`: likewise. Taking goes on
//!   where it ended, and `FULL` without fillers costs one look.
//! - a sender that is stopped between `FULL` and its fillers holds the put lock. A receiver waits
//!   for that a quarter of a second, as it does to clear an empty ring. Its fillers then make the
//!   socket readable, and go at the next receive.
//! - of all receivers: the kernel takes what is unread, and the socket tells of the hang-up. Of all
//!   senders: fillers lie ahead of the end, like ready packets.
//!
//! A kernel that does not keep to a quarter gets no more than half a buffer of fillers, and one
//! that does not tell what is unread gets none; then its socket is writable too often, which costs
//! calls that find no room.

use std::os::fd::BorrowedFd;

use crate::channel::ring::{Payload, PutGuard};
use crate::channel::transport::{FULL, SENDER, Transport};
use crate::deadline::Patience;
use crate::error::{Error, Result};
use crate::facade::Ordering;
use crate::kill_point;
use crate::sys::socket::{self, Head};

impl Transport {
    /// The sending end's descriptor, which is `socket`, has been asked for: the program may send by
    /// it, set O_NONBLOCK, and wait until it is writable.
    pub fn watch_sending(&self, socket: BorrowedFd<'_>, patience: Patience) {
        let ring = self.ring();
        let mut is_new = false;
        if !ring.tells_room() {
            ring.state().watched.fetch_or(SENDER, Ordering::SeqCst);
            kill_point!("transport.asked");
            is_new = ring.begin_to_tell_room();
        }
        // A sender that has not seen that yet holds the lock.
        self.tell_if_full(socket, patience, is_new);
    }

    /// If the ring is full the socket says so from now on. `always`: look under the lock, whatever
    /// is seen without it.
    pub(super) fn tell_if_full(&self, socket: BorrowedFd<'_>, patience: Patience, always: bool) {
        let is_full = || self.ring().is_nearly_full() || self.ring().keeps_waiting();
        while always || is_full() {
            match self.ring().put_guard(patience) {
                Ok(putting) => {
                    self.fill(&putting, socket, is_full);
                    return;
                }
                Err(Error::Interrupted) => (),
                Err(_) => return,
            }
        }
    }

    /// After an attempt to put, with the put lock held still: if the ring is full, the socket says
    /// so from now on.
    #[inline(never)]
    pub(super) fn after_put(
        &self,
        putting: &PutGuard<'_>,
        socket: BorrowedFd<'_>,
        payload: &Option<Payload<'_>>,
        sent: &Result<()>,
    ) {
        match sent {
            Ok(()) if putting.leaves_it_nearly_full() => self.fill(putting, socket, || self.ring().is_nearly_full()),
            Err(Error::Full) => self.fill(putting, socket, || putting.make_room(payload) == Err(Error::Full)),
            _ => (),
        }
    }

    /// Has the socket been said to be full, and not yet to have room?
    pub(super) fn is_said_full(&self) -> bool {
        self.ring().state().watched.load(Ordering::SeqCst) & FULL != 0
    }

    /// Fill the socket if the ring is full once `FULL` has been set.
    #[cold]
    fn fill(&self, putting: &PutGuard<'_>, socket: BorrowedFd<'_>, is_still: impl FnOnce() -> bool) {
        let watched = &self.ring().state().watched;
        let before = watched.fetch_or(FULL, Ordering::SeqCst);
        kill_point!("transport.full_said");
        if is_still() {
            if socket::takes_fillers(socket) {
                putting.set_handed(false);
                socket::fill(socket, || {
                    kill_point!("transport.filler_sent");
                });
                if !self.hand_behind(putting, socket) {
                    // If the other end has gone it need not be told.
                    let _ = socket::send_ready(socket);
                }
            }
        } else if before & FULL == 0 {
            watched.fetch_and(!FULL, Ordering::SeqCst);
        }
    }

    /// Send the file, where it goes with the messages and a message may need it. Was it sent?
    fn hand_behind(&self, putting: &PutGuard<'_>, socket: BorrowedFd<'_>) -> bool {
        if !self.ring().hands_over() || !self.ring().has_large() {
            return false;
        }
        let Ok(file) = self.ring().extents().file().get() else { return false };
        let is_sent = file.own_fd().and_then(|file| socket::send_file(socket, file)) == Ok(true);
        putting.set_handed(is_sent);
        is_sent
    }

    /// There is `FULL`: if there is room too, the fillers go. `socket` is the receivers' end.
    #[cold]
    pub(super) fn tell_room(&self, socket: BorrowedFd<'_>, patience: Patience) {
        let ring = self.ring();
        let has_room = || (ring.has_room_again() && !ring.is_nearly_full()) || ring.is_shut();
        while has_room() {
            let both = ring.get_guard(patience);
            match both.and_then(|getting| Ok((ring.put_guard(patience)?, getting))) {
                // Who received a message has it, and sees to signals when it returns.
                Err(Error::Interrupted) => continue,
                Err(_) => return,
                Ok((putting, getting)) => match getting.first_fds_id() {
                    Ok(Some(needed)) if has_room() => {
                        let is_done = take_fillers(socket, needed, ring.has_large() && !putting.is_handed());
                        kill_point!("transport.room_telling");
                        if is_done {
                            ring.state().watched.fetch_and(!FULL, Ordering::SeqCst);
                        }
                        return;
                    }
                    Ok(None) => (),
                    _ => return,
                },
            }
            if ring.is_shut() {
                return;
            }
            // Another has emptied it meanwhile. What is wrong with the ring the next call will say.
            let _ = self.clear_ready(socket, false, patience);
            return;
        }
    }
}

/// Take packets from the head, but not the last, nor the descriptors of a message that is there
/// (from number `needed` on), nor what is the program's; nor a file, if `keeps_file`. Is the last
/// one all that is left?
pub(super) fn take_fillers(socket: BorrowedFd<'_>, needed: u64, keeps_file: bool) -> bool {
    let Some(mut left) = socket::unread_bytes(socket) else { return false };
    for _ in 0..socket::MOST_PACKETS {
        let len = match socket::head(socket) {
            Head::None => return true,
            Head::Foreign => return false,
            Head::Fds(tag) if needed.wrapping_sub(tag).wrapping_sub(1) >= u64::MAX / 2 => return false,
            Head::File if keeps_file => return left <= socket::FILE_BYTES,
            Head::File => socket::FILE_BYTES,
            Head::Fds(_) => socket::FDS_BYTES,
            Head::Ready(len) => len,
        };
        if left <= len {
            return true;
        }
        socket::pop(socket);
        left -= len;
        kill_point!("transport.filler_taken");
    }
    false
}
