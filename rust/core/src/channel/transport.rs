//! A ring with a socket beside it, which carries what only the kernel can: readiness for `poll`,
//! and descriptors. Long, for all who change what the socket says have to agree.
//!
//! Readiness: a one-byte packet, the *ready packet*, says that the ring has messages (see `ready`
//! in [`ring`](super::ring)). Who makes a queue sends it, or a pipe's first sender, and it stays,
//! and nobody cares, until somebody asks for the descriptor or sleeps on it: then it is cleared,
//! under the put lock and with the ring seen empty, and the next sender finds it gone and sends
//! one, before its commit.
//!
//! Descriptors: a packet tagged with a number of its own, the message's `fds_id`, goes before the
//! commit, and a ready packet follows it, so that taking the packet leaves the socket readable. The
//! receiver looks at the packet under the get lock without taking it, commits, then takes it. A
//! packet whose message was never committed, or already taken, is stale: it is skipped.
//!
//! A pipe's memory file goes with its messages: see [`file`](super::file).
//!
//! Readiness for writing, with packets that fill the socket: see [`writable`].

use std::os::fd::{BorrowedFd, OwnedFd};

use rustix::io::Errno;

use crate::channel::file::{File, NO_FILE};
use crate::channel::ring::{Found, GetGuard, MessageMeta, Payload, PutGuard, Received, Ring};
use crate::channel::writable;
use crate::deadline::Patience;
use crate::error::{Error, Result};
use crate::facade::Ordering;
use crate::kill_point;
use crate::sys::socket::{self, Head, Packet};

/// What to send: bytes, what goes with them, and descriptors.
#[derive(Debug)]
pub struct Outgoing<'a, 'b> {
    /// See [`MessageMeta`]; its `fds` is the number of `fds`.
    pub meta: MessageMeta,
    /// The bytes; taken once they are sent.
    pub payload: &'a mut Option<Payload<'b>>,
    /// The descriptors.
    pub fds: &'a [BorrowedFd<'a>],
}

/// One of several messages to put.
#[derive(Debug)]
pub struct BatchMessage<'a> {
    /// See [`MessageMeta`]; its `fds` is the number of `fds`.
    pub meta: MessageMeta,
    /// The bytes; taken once they are put.
    pub payload: Option<Payload<'a>>,
    /// The descriptors.
    pub fds: Vec<BorrowedFd<'a>>,
}

impl BatchMessage<'_> {
    /// The bytes, of one that may be part of a run.
    fn plain(&self) -> Option<(MessageMeta, &[u8])> {
        match &self.payload {
            Some(Payload::Inline(bytes)) if self.fds.is_empty() => Some((self.meta, bytes)),
            _ => None,
        }
    }
}

/// Bits of a ring's `watched`: whose descriptor has been asked for.
const RECEIVER: u32 = 1;
pub(super) const SENDER: u32 = 2;
/// Another: there may be fillers in the socket.
pub(super) const FULL: u32 = 4;

/// At the socket's head is something that the program has sent by itself: only the program takes
/// it.
pub const FOREIGN: Error = Error::Os(Errno::PROTO);

/// The socket is full, while the ring may have room.
pub(super) const SOCKET_FULL: Error = Error::Os(Errno::NOBUFS);

/// See the module.
#[derive(Debug)]
pub struct Transport {
    ring: Ring,
}

impl Transport {
    /// A lane along `ring`.
    pub fn new(ring: Ring) -> Transport {
        Transport { ring }
    }

    /// The ring.
    pub fn ring(&self) -> &Ring {
        &self.ring
    }

    /// Put one message; `socket` leads to the receivers'. `patience` is for the lock.
    ///
    /// # Errors
    /// `Full`; `SOCKET_FULL` when too many descriptors are on their way; those of `PutGuard::put`.
    #[inline]
    pub fn send(&self, socket: BorrowedFd<'_>, outgoing: &mut Outgoing<'_, '_>, patience: Patience) -> Result<()> {
        let putting = self.ring.put_guard(patience)?;
        let tells_room = putting.tells_room();
        let sent = self.put(&putting, socket, outgoing);
        if tells_room {
            self.after_put(&putting, socket, outgoing.payload, &sent);
        }
        sent
    }

    /// Put as many of `messages` as make up a run; how many? See [`PutGuard::put_run`].
    ///
    /// # Errors
    /// `ShutDown`; `SOCKET_FULL`; those of the lock.
    pub fn send_many(
        &self,
        socket: BorrowedFd<'_>,
        messages: &mut [BatchMessage<'_>],
        patience: Patience,
    ) -> Result<usize> {
        let putting = self.ring.put_guard(patience)?;
        Self::make_ready(&putting, socket)?;
        let put = putting.put_run(messages.iter().map_while(BatchMessage::plain))?;
        if putting.tells_room() {
            self.after_put(&putting, socket, &None, &Ok(()));
        }
        messages.iter_mut().take(put).for_each(|message| message.payload = None);
        Ok(put)
    }

    pub(super) fn make_ready(putting: &PutGuard<'_>, socket: BorrowedFd<'_>) -> Result<()> {
        if !putting.is_ready() {
            if !socket::send_ready(socket)? {
                return Err(SOCKET_FULL);
            }
            kill_point!("transport.ready_sent");
            putting.set_ready(true);
        }
        Ok(())
    }

    #[inline]
    fn put(&self, putting: &PutGuard<'_>, socket: BorrowedFd<'_>, outgoing: &mut Outgoing<'_, '_>) -> Result<()> {
        if let Some(Payload::Extent(..)) = outgoing.payload
            && self.ring.hands_over()
        {
            return self.put_large(putting, socket, outgoing);
        }
        let was_ready = putting.is_ready();
        if !outgoing.fds.is_empty() {
            putting.make_room(outgoing.payload)?;
            if !socket::send_fds(socket, putting.new_fds_id(), outgoing.fds)? {
                return Err(SOCKET_FULL);
            }
            kill_point!("transport.fds_sent");
            putting.set_ready(false);
        }
        Self::put_told_of(putting, socket, outgoing, was_ready)
    }

    /// Put it, the socket readable before. `was_ready`: as it was before descriptors were sent.
    #[inline(always)]
    fn put_told_of(
        putting: &PutGuard<'_>,
        socket: BorrowedFd<'_>,
        outgoing: &mut Outgoing<'_, '_>,
        was_ready: bool,
    ) -> Result<()> {
        if !putting.is_ready() {
            // No room: descriptors that nobody has taken fill it. One that was just sent is stale
            // then.
            if !socket::send_ready(socket)? {
                putting.set_ready(was_ready);
                return Err(SOCKET_FULL);
            }
            kill_point!("transport.ready_sent");
            putting.set_ready(true);
        }
        putting.put(outgoing.meta, outgoing.payload)
    }

    /// The same of a message in an extent, where the file goes along.
    #[cold]
    fn put_large(&self, putting: &PutGuard<'_>, socket: BorrowedFd<'_>, outgoing: &mut Outgoing<'_, '_>) -> Result<()> {
        let was_ready = putting.is_ready();
        let loose = match &*outgoing.payload {
            Some(Payload::Extent(hold, _)) => hold.loose_fd(),
            _ => None,
        };
        let file = if loose.is_none() { Some(self.ring.extents().file().get()?) } else { None };
        let along = || match (loose, &file) {
            (Some(fd), _) => Ok(fd),
            (None, Some(file)) => file.own_fd(),
            (None, None) => Err(NO_FILE),
        };
        let has_packet = loose.is_some() || !outgoing.fds.is_empty();
        if has_packet {
            let mut fds = outgoing.fds.to_vec();
            fds.push(along()?);
            putting.make_room(outgoing.payload)?;
            if !socket::send_fds(socket, putting.new_fds_id(), &fds)? {
                return Err(SOCKET_FULL);
            }
            kill_point!("transport.fds_sent");
            putting.set_ready(false);
        } else if !putting.is_handed() {
            putting.make_room(outgoing.payload)?;
            if !socket::send_file(socket, along()?)? {
                return Err(SOCKET_FULL);
            }
            kill_point!("transport.file_sent");
            putting.set_handed(true);
            kill_point!("transport.file_handed");
        }
        Self::put_told_of(putting, socket, outgoing, was_ready)
    }

    /// Get one message, and the descriptors that came along. `taking` is called just before it is
    /// taken.
    ///
    /// # Errors
    /// `Empty`; those of `GetGuard::get`.
    #[inline]
    pub fn recv(
        &self,
        socket: BorrowedFd<'_>,
        scratch: &mut Vec<u8>,
        fds: &mut Vec<OwnedFd>,
        patience: Patience,
        taking: impl FnOnce(),
    ) -> Result<Received> {
        self.check_to_tell(1, patience)?;
        let received = self.take(socket, scratch, fds, patience, taking);
        // SeqCst: as in `after_take`.
        if self.ring.state().watched.load(Ordering::SeqCst) != 0 {
            match received {
                // The lock was not to be had: nothing was taken, nor seen to be empty.
                Err(Error::WouldBlock | Error::TimedOut | Error::Interrupted) => (),
                _ => self.after_take(socket, matches!(received, Err(Error::Empty)), patience)?,
            }
        }
        received
    }

    /// Get one message, for one who has been told by the socket that there is one. `patience` is
    /// for the locks: without any, or with little, whatever another does there does not hold it up.
    ///
    /// # Errors
    /// `Empty`: there is none, and the socket is readable no more. `WouldBlock`: another is putting
    /// or getting just now, and the socket may stay readable without a message for as long as that
    /// takes. Those of `GetGuard::get`.
    pub fn recv_told(
        &self,
        socket: BorrowedFd<'_>,
        scratch: &mut Vec<u8>,
        fds: &mut Vec<OwnedFd>,
        patience: Patience,
        mut taking: impl FnMut(),
    ) -> Result<Received> {
        self.check_to_tell(1, patience)?;
        // What was not there a moment ago may be gone again, but hardly again and again.
        for _ in 0..4 {
            match self.take(socket, scratch, fds, patience, &mut taking) {
                Err(Error::Empty) if self.clear_ready(socket, true, patience)? => return Err(Error::Empty),
                Err(Error::Empty) => (),
                received @ Err(Error::WouldBlock | Error::TimedOut | Error::Interrupted) => return received,
                received => {
                    self.after_take(socket, false, patience)?;
                    return received;
                }
            }
        }
        Err(Error::WouldBlock)
    }

    /// Whoever must not sleep does not take `most` messages at most if the socket is to be changed
    /// after that, which needs the put lock, and another has that: it may be stopped. (If it takes
    /// the lock and is stopped just after this look, the message is there, and who has got it waits
    /// for a grace.)
    ///
    /// # Errors
    /// `WouldBlock`: to be tried again with more patience.
    #[inline]
    pub(super) fn check_to_tell(&self, most: u64, patience: Patience) -> Result<()> {
        let watched = self.ring.state().watched.load(Ordering::Relaxed);
        if watched == 0 || patience != Patience::Spin {
            return Ok(());
        }
        let is_to_tell = watched & FULL != 0 || self.ring.len() <= most;
        if is_to_tell && self.ring.looks_ready() && self.ring.is_putting() { Err(Error::WouldBlock) } else { Ok(()) }
    }

    /// The socket says what is true of the ring now.
    #[inline(never)]
    pub(super) fn after_take(&self, socket: BorrowedFd<'_>, nothing: bool, patience: Patience) -> Result<()> {
        // SeqCst: whoever begins to watch either sees the ring empty, or is seen here. So does a
        // sender that says that it is full.
        let watched = self.ring.state().watched.load(Ordering::SeqCst);
        if watched != 0 && self.ring.is_empty() {
            // A watcher who finds nothing was called for nothing: a kill has left the socket
            // readable. Failing at this costs a needless call, and must not cost the message.
            // Whoever must not sleep, and has nothing, is not held up by a stopped sender.
            let cleared = match patience {
                Patience::Spin if nothing => self.clear_ready(socket, true, Patience::Spin),
                _ => self.clear_ready(socket, nothing, patience.brief_at_least()),
            };
            if cleared == Err(FOREIGN) && nothing {
                return Err(FOREIGN);
            }
        } else if watched & FULL != 0 {
            self.tell_room(socket, patience.brief_at_least());
        }
        Ok(())
    }

    #[inline]
    fn take(
        &self,
        socket: BorrowedFd<'_>,
        scratch: &mut Vec<u8>,
        fds: &mut Vec<OwnedFd>,
        patience: Patience,
        taking: impl FnOnce(),
    ) -> Result<Received> {
        scratch.clear();
        let getting = self.ring.get_guard(patience)?;
        let (mut missing, mut has_packet) = (false, false);
        let mut received = getting.get(scratch, |found| {
            let mut along = None;
            if found.packet > 0 {
                has_packet = true;
                missing = !look_for(socket, found.fds_id, fds)?;
                if !missing {
                    *fds = socket::unpack(std::mem::take(fds), found.packet)?;
                    along = fds.split_off(usize::from(found.meta.fds)).pop();
                }
            }
            if found.is_large {
                self.secure_file(socket, found, along.take())?;
            }
            taking();
            Ok(along)
        });
        if received.is_ok() && has_packet && !missing {
            kill_point!("transport.fds_taken");
            socket::pop(socket);
        }
        drop(getting);
        if missing && received.is_ok() {
            // Nobody could make anything of the message: those behind it must not wait for ever.
            received = Err(Error::Corrupted("a message's descriptors are missing"));
        }
        received
    }

    /// What is needed for a message in an extent: the file, which may have come `along`.
    #[cold]
    fn secure_file(&self, socket: BorrowedFd<'_>, found: &Found, along: Option<OwnedFd>) -> Result<()> {
        let file = self.ring.extents().file();
        if file.is_known() {
            return Ok(());
        }
        if !self.ring.hands_over() {
            return Err(NO_FILE);
        }
        match along {
            Some(fd) => file.adopt(fd),
            None => look_for_file(socket, found.fds_id, file),
        }
    }

    /// Get as many messages as make up a run, `most` at most; how many? See [`GetGuard::get_run`].
    ///
    /// # Errors
    /// `Empty`; those of `get_run`.
    pub fn recv_many(
        &self,
        socket: BorrowedFd<'_>,
        scratch: &mut Vec<u8>,
        metas: &mut Vec<(MessageMeta, usize)>,
        most: usize,
        patience: Patience,
        taking: impl FnOnce(u64),
    ) -> Result<usize> {
        self.check_to_tell(most as u64, patience)?;
        let getting = self.ring.get_guard(patience)?;
        let got = getting.get_run(scratch, metas, most, taking);
        drop(getting);
        if got != Ok(0) {
            self.after_take(socket, got == Err(Error::Empty), patience)?;
        }
        got
    }

    /// Take the ready packet away if the ring is empty; is it? `force`: the socket was readable
    /// although no ready packet is known of: a sender was killed between sending something and
    /// saying so. `patience` is for the locks: when it is at an end the ring counts as empty.
    ///
    /// # Errors
    /// `WouldBlock` without patience; `Os`, or `Corrupted` if the ring is.
    #[cold]
    pub fn clear_ready(&self, socket: BorrowedFd<'_>, force: bool, patience: Patience) -> Result<bool> {
        loop {
            // The get lock first: a receiver may have taken the last message and not yet its
            // packet.
            let both = self.ring.get_guard(patience);
            match both.and_then(|getting| Ok((self.ring.put_guard(patience)?, getting))) {
                // The loop that called this sleeps next, and sees to signals there.
                Err(Error::Interrupted) => continue,
                Err(Error::TimedOut) => return Ok(true),
                Err(e) => return Err(e),
                Ok((putting, _getting)) => {
                    if !putting.is_empty() {
                        return Ok(false);
                    }
                    if self.ring.is_shut() {
                        return Ok(true);
                    }
                    let watched = &self.ring.state().watched;
                    let before = watched.load(Ordering::Relaxed);
                    if force || putting.is_ready() || before & FULL != 0 {
                        putting.set_ready(false);
                        kill_point!("transport.ready_clearing");
                        if before & SENDER == 0 {
                            socket::drain(socket);
                        } else if !socket::drain_ours(socket)? {
                            return Err(FOREIGN);
                        }
                        if before & FULL != 0 {
                            watched.fetch_and(!FULL, Ordering::SeqCst);
                        }
                        // Senders may be waiting for room in it.
                        self.ring.state().not_full.notify();
                    }
                    return Ok(true);
                }
            }
        }
    }

    /// The socket is full. Throw away what no message will ask for any more: the descriptors of
    /// senders that died before their commit, which a reader skips only when it comes to a message
    /// with descriptors. Was there any? `reader` is the receivers' end, `writer` leads to it.
    ///
    /// # Errors
    /// Those of the locks; `Corrupted`.
    #[cold]
    pub fn discard_stale(&self, reader: BorrowedFd<'_>, writer: BorrowedFd<'_>, patience: Patience) -> Result<bool> {
        let getting = self.ring.get_guard(patience)?;
        let putting = self.ring.put_guard(patience)?;
        let Some(needed) = getting.first_fds_id()? else {
            putting.set_ready(false);
            socket::drain(reader);
            return Ok(true);
        };
        let mut found = false;
        // More than a socket can hold, for ready packets go round.
        for _ in 0..1024 {
            match socket::head(reader) {
                Head::Fds(tag) if needed.wrapping_sub(tag).wrapping_sub(1) < u64::MAX / 2 => {
                    socket::pop(reader);
                    found = true;
                    kill_point!("transport.stale_taken");
                }
                // To the end: messages are there, and the socket stays readable. While it is full
                // there are others in it.
                Head::Ready(_) => {
                    if socket::send_ready(writer)? {
                        socket::pop(reader);
                    } else {
                        socket::pop(reader);
                        socket::send_ready(writer)?;
                    }
                }
                _ => break,
            }
        }
        Ok(found)
    }

    /// From now on nothing is put, and the socket stays readable and writable. `cut`: nor is
    /// anything got, and that is called first. `reader` is the receivers' end, `writer` leads to
    /// it.
    ///
    /// # Errors
    /// Those of the locks; `Os`.
    pub fn shut(
        &self,
        reader: BorrowedFd<'_>,
        writer: BorrowedFd<'_>,
        cut: Option<impl FnOnce()>,
        patience: Patience,
    ) -> Result<()> {
        let getting = self.ring.get_guard(patience)?;
        let putting = self.ring.put_guard(patience)?;
        if !putting.is_ready() && socket::send_ready(writer)? {
            kill_point!("transport.shut_told");
            putting.set_ready(true);
        }
        let immediate = cut.is_some() && !self.ring.is_terminated();
        if let Some(cut) = cut.filter(|_| immediate) {
            cut();
        }
        self.ring.shut(&getting, &putting, immediate);
        self.open_up(&getting, &putting, reader, writer)
    }

    /// Of a ring that is shut: does the socket say so?
    pub fn has_told_shut(&self) -> bool {
        // Else nobody looks.
        self.ring.state().watched.load(Ordering::SeqCst) == 0 || (self.ring.says_ready() && !self.is_said_full())
    }

    /// Of a ring that is shut: the socket says so, whoever died before it was said. In one that is
    /// empty nothing else is left.
    ///
    /// # Errors
    /// Those of the locks; `Os`.
    #[cold]
    pub fn tell_shut(&self, reader: BorrowedFd<'_>, writer: BorrowedFd<'_>, patience: Patience) -> Result<()> {
        let getting = self.ring.get_guard(patience)?;
        let putting = self.ring.put_guard(patience)?;
        self.open_up(&getting, &putting, reader, writer)
    }

    fn open_up(
        &self,
        getting: &GetGuard<'_>,
        putting: &PutGuard<'_>,
        reader: BorrowedFd<'_>,
        writer: BorrowedFd<'_>,
    ) -> Result<()> {
        let watched = &self.ring.state().watched;
        let needed = getting.first_fds_id()?;
        if watched.load(Ordering::SeqCst) & FULL != 0 || needed.is_none() {
            // Of an empty one all descriptors are stale.
            let needed = needed.unwrap_or_else(|| putting.new_fds_id());
            if writable::take_fillers(reader, needed, false) {
                watched.fetch_and(!FULL, Ordering::SeqCst);
            }
        }
        if !putting.is_ready() && socket::send_ready(writer)? {
            putting.set_ready(true);
        }
        Ok(())
    }

    /// From now on the socket is readable only while a message is there.
    ///
    /// # Errors
    /// As for [`clear_ready`](Self::clear_ready).
    pub fn watch(&self, socket: BorrowedFd<'_>, patience: Patience) -> Result<()> {
        if self.ring.state().watched.fetch_or(RECEIVER, Ordering::SeqCst) & RECEIVER == 0 {
            match self.clear_ready(socket, false, patience) {
                Ok(_) | Err(FOREIGN) => (),
                Err(e) => return Err(e),
            }
        }
        Ok(())
    }

    /// Has the receiving end's descriptor been asked for? Else it is known to be as it was made.
    pub fn is_watched(&self) -> bool {
        self.ring.state().watched.load(Ordering::Relaxed) & RECEIVER != 0
    }

    /// Has the sending end's?
    pub fn is_sending_watched(&self) -> bool {
        self.ring.state().watched.load(Ordering::Relaxed) & SENDER != 0
    }
}

/// Have the channel's file, for a message before which descriptors up to number `fds_id` were sent.
/// It stays in the socket.
#[cold]
fn look_for_file(socket: BorrowedFd<'_>, fds_id: u64, file: &File) -> Result<()> {
    for _ in 0..socket::MOST_PACKETS {
        match socket::peek(socket)? {
            Packet::File(Some(fd)) => match file.adopt(fd) {
                // It is nobody's.
                Err(Error::Corrupted(_)) => socket::pop(socket),
                adopted => return adopted,
            },
            Packet::File(None) => return Err(Error::Os(Errno::MFILE)),
            Packet::None => break,
            Packet::Foreign => return Err(FOREIGN),
            // A later message's.
            Packet::Fds(id, _) if id.wrapping_sub(fds_id).wrapping_sub(1) < u64::MAX / 2 => break,
            _ => socket::pop(socket),
        }
    }
    Err(Error::Corrupted("a message's memory is missing"))
}

/// The descriptors in `fds_id`, which stay in the socket for now; are they there?
#[cold]
fn look_for(socket: BorrowedFd<'_>, fds_id: u64, fds: &mut Vec<OwnedFd>) -> Result<bool> {
    fds.clear();
    for _ in 0..socket::MOST_PACKETS {
        match socket::peek(socket)? {
            Packet::Fds(id, found) if id == fds_id => {
                *fds = found;
                return Ok(true);
            }
            Packet::None => return Ok(false),
            // It is the program's to take, before what was sent after it.
            Packet::Foreign => return Err(FOREIGN),
            // A later message's.
            Packet::Fds(id, _) if id.wrapping_sub(fds_id) < u64::MAX / 2 => return Ok(false),
            // A ready packet (one follows the packet that is looked for), or stale.
            _ => socket::pop(socket),
        }
    }
    Ok(false)
}
