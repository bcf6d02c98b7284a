//! A ring with a socket beside it, which carries what only the kernel can: readiness for `poll`, and descriptors.
//!
//! Readiness: a one-byte packet is the ring's token (see [`ring`](super::ring)). It is there from the start, and nobody cares, until somebody asks
//! for the descriptor or sleeps on it: then it is cleared, under the put lock and with the ring seen empty, and the next sender finds it gone and
//! sends one, before its commit.
//!
//! Descriptors: a packet tagged with a number of its own, the message's *parcel*, goes before the commit, and a token follows it, so that taking the packet leaves
//! the socket readable. The receiver looks at the packet under the get lock without taking it, commits, then takes it. A packet whose
//! message was never committed, or already taken, is stale: it is skipped.

use std::os::fd::{BorrowedFd, OwnedFd};

use rustix::io::Errno;

use crate::channel::ring::{Body, Ring, Tag, Taken};
use crate::deadline::Deadline;
use crate::error::{Error, Result};
use crate::facade::Ordering;
use crate::kill_point;
use crate::sys::fdpass::{self, Packet};

/// What to send: bytes, what goes with them, and descriptors.
#[derive(Debug)]
pub struct Letter<'a, 'b> {
    /// See [`Tag`]; its `fds` is the number of `fds`.
    pub tag: Tag,
    /// The bytes; taken once they are sent.
    pub body: &'a mut Option<Body<'b>>,
    /// The descriptors.
    pub fds: &'a [BorrowedFd<'a>],
}

/// See the module.
#[derive(Debug)]
pub struct Lane {
    ring: Ring,
}

impl Lane {
    /// A lane along `ring`.
    pub fn new(ring: Ring) -> Lane {
        Lane { ring }
    }

    /// The ring.
    pub fn ring(&self) -> &Ring {
        &self.ring
    }

    /// Put one message; `socket` leads to the receivers'. `deadline` None: without sleeping for the lock.
    ///
    /// # Errors
    /// `Full`, also when too many descriptors are on their way; those of `Putting::put`.
    #[inline]
    pub fn send(&self, socket: BorrowedFd<'_>, letter: &mut Letter<'_, '_>, deadline: Option<Deadline>) -> Result<()> {
        let putting = self.ring.putting(deadline)?;
        let had_token = putting.has_token();
        if !letter.fds.is_empty() {
            putting.make_room(letter.body)?;
            if !fdpass::send_fds(socket, putting.new_parcel(), letter.fds)? {
                return Err(Error::Full);
            }
            kill_point!("lane.fds_sent");
            putting.set_token(false);
        }
        if !putting.has_token() {
            // No room: descriptors that nobody has taken fill it. One that was just sent is stale then.
            if !fdpass::send_token(socket)? {
                putting.set_token(had_token);
                return Err(Error::Full);
            }
            kill_point!("lane.token_sent");
            putting.set_token(true);
        }
        putting.put(letter.tag, letter.body)
    }

    /// Get one message, and the descriptors that came along.
    ///
    /// # Errors
    /// `Empty`; those of `Getting::get`.
    #[inline]
    pub fn recv(
        &self,
        socket: BorrowedFd<'_>,
        scratch: &mut Vec<u8>,
        fds: &mut Vec<OwnedFd>,
        deadline: Option<Deadline>,
    ) -> Result<Taken> {
        scratch.clear();
        let getting = self.ring.getting(deadline)?;
        let mut missing = false;
        let mut taken = getting.get(scratch, |tag, parcel, _| {
            missing = tag.fds > 0 && !look_for(socket, parcel, fds)?;
            // The kernel leaves out those for which this process has no number left.
            if tag.fds > 0 && !missing && fds.len() != usize::from(tag.fds) {
                return Err(Error::Os(Errno::MFILE));
            }
            Ok(())
        });
        if taken.as_ref().is_ok_and(|taken| taken.tag.fds > 0 && !missing) {
            kill_point!("lane.fds_taken");
            fdpass::pop(socket);
        }
        drop(getting);
        if missing && taken.is_ok() {
            // Nobody could make anything of the message: those behind it must not wait for ever.
            taken = Err(Error::Corrupted("a message's descriptors are missing"));
        }
        // SeqCst: whoever begins to watch either sees the ring empty, or is seen here.
        if self.ring.state().watched.load(Ordering::SeqCst) != 0 && self.ring.is_empty() {
            // A watcher who finds nothing was called for nothing: a kill has left the socket readable. Failing at this costs a
            // needless call, and must not cost the message.
            let _ = self.quieten(socket, matches!(taken, Err(Error::Empty)));
        }
        taken
    }

    /// Clear the token if the ring is empty; is it? `anyway`: the socket was readable although no token is known of: a sender was
    /// killed between sending something and saying so.
    #[cold]
    pub fn quieten(&self, socket: BorrowedFd<'_>, anyway: bool) -> Result<bool> {
        loop {
            // The get lock first: a receiver may have taken the last message and not yet its packet.
            let both = self.ring.getting(Some(Deadline::PASSED));
            match both.and_then(|getting| Ok((self.ring.putting(Some(Deadline::PASSED))?, getting))) {
                // The loop that called this sleeps next, and sees to signals there.
                Err(Error::Interrupted) => continue,
                Err(Error::TimedOut) => return Ok(true),
                Err(e) => return Err(e),
                Ok((putting, _getting)) => {
                    if !putting.is_empty() {
                        return Ok(false);
                    }
                    if anyway || putting.has_token() {
                        putting.set_token(false);
                        kill_point!("lane.token_clearing");
                        fdpass::drain(socket);
                    }
                    return Ok(true);
                }
            }
        }
    }

    /// From now on the socket is readable only while a message is there.
    pub fn watch(&self, socket: BorrowedFd<'_>) -> Result<()> {
        if self.ring.state().watched.swap(1, Ordering::SeqCst) == 0 {
            self.quieten(socket, false)?;
        }
        Ok(())
    }
}

/// The descriptors in `parcel`, which stay in the socket for now; are they there?
#[cold]
fn look_for(socket: BorrowedFd<'_>, parcel: u64, fds: &mut Vec<OwnedFd>) -> Result<bool> {
    fds.clear();
    loop {
        match fdpass::peek(socket)? {
            Packet::Fds(tag, found) if tag == parcel => {
                *fds = found;
                return Ok(true);
            }
            Packet::None => return Ok(false),
            // A later message's.
            Packet::Fds(tag, _) if tag.wrapping_sub(parcel) < u64::MAX / 2 => return Ok(false),
            // A token (one follows the packet that is looked for), or stale.
            _ => fdpass::pop(socket),
        }
    }
}
