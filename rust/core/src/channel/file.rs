//! A channel's *memory file*: the segment with its extents and with what its ring goes on in. It is
//! made by the first who needs it, and handed over by the channel's own socket.
//!
//! A process that has the channel has the file, or has not seen it yet: it says [`NO_FILE`] where
//! it would need it. The caller, who has the sockets, gets the file and tries again. Once a process
//! has the file it keeps it, as do the children that it forks.
//!
//! # Queue
//! Every process that has a queue has both ends of its socket. Messages use one way of it, and the
//! other, from the receivers' end to the senders', has the file: who makes it sends it there, and
//! it stays for as long as the queue. Everybody looks at the first packet (MSG_PEEK makes a copy of
//! its descriptor), and nobody takes it.
//!
//! - who needs the file: looks. Nothing there: makes one, sends it, and looks again. **The first
//!   packet is the file**, whoever has sent it: the commit point is the kernel's queueing. Who was
//!   not first forgets its own, and its packet stays behind the first, unseen: an empty file, and
//!   only where several made one at the same time.
//! - who finds by the ring or by the table that there is one: looks. A file is sent before a slot
//!   is used, and that before a message is committed. So it is there.
//! - of a queue in which a slot had ever been used before the look none is made anew. If the file
//!   is missing, then the program has taken it out: `Corrupted`.
//!
//! No word in shared memory says anything of it, so that there is nothing to mend: who dies before
//! the send has made nothing, and after it all is done. A second death is the same again.
//!
//! # Pipe
//! The two ends of a pipe are in different processes, and each way of its socket tells of messages.
//! So the file goes with them. A message in an extent is committed only when a packet with the file
//! is in the receivers' socket, *behind* all descriptors that were sent for messages:
//!
//! - sender, under the put lock, before its commit: if the message has descriptors, the file is one
//!   more in their packet. Else, unless `HANDED` is set in `ready`, it sends the file as a ready
//!   packet that carries a descriptor, and sets `HANDED`. Whatever is sent after that (descriptors,
//!   fillers) or takes all out (who clears the socket, of an empty ring) clears `HANDED` first.
//! - receiver, under the get lock, before its commit: if the message is in an extent and it has no
//!   file, it looks for the packet. What lies before that is stale, for all messages before this
//!   one are taken: it is thrown away. The packet stays for others who share the end.
//! - who looks for the descriptors of its message throws such packets away too: another is behind
//!   them, if a later message needs one. Who takes fillers away does not, while a message in an
//!   extent is unread.
//!
//! `made` says that there is a file: it is changed by one CAS from 0 by who has made one, **the
//! commit point**, so that there never are two. A sender that finds it set and has no file looks at
//! the head of its own socket. If the file is not there it sends its message in memory of its own,
//! a *loose* extent: a memfd that is a descriptor of the message, as far as the socket is
//! concerned. That takes longer, for its pages are new each time. It is so in a process that shares
//! an end with the one that made the file, since before that, and in which no large message has
//! arrived.
//!
//! In a one-way pipe the other way of the socket is free, as in a queue. So the first reader that
//! has the file and gets a loose extent sends the file back, once: it stays there, and those who
//! share the senders' end find it when they next look. It does so as well once the table has grown
//! into the file. (`returned` says so before it is done. If that reader dies in between, they go on
//! with loose extents.) Not sooner: the kernel counts what is on its way in sockets for each user,
//! over all programs, and a file that nobody takes counts for as long as its channel lives.
//!
//! What is left of a killed process's moves (see [`extents`](super::extents)) is settled by the
//! slots' words, which are in the front. Where the table has grown into the file (more than 24
//! extents in use) who has no file cannot. A sender then waits, as for a lock that is held, until
//! one receives who has it, as those that got so many have. So does a receiver with nothing to
//! receive. One that has, if a dead receiver was killed in the middle, says `Corrupted` unless the
//! file is at the head of its socket; another that has it can.
//!
//! What is left when a process dies:
//!
//! - before the CAS: nothing.
//! - after the CAS, before anybody else has the file: `made`, and no file. From then on everybody
//!   sends loose extents.
//! - after the packet, before `HANDED`: the next sender sends another one.
//! - after the packet, before the commit: a readable socket without a message, as after a ready
//!   packet; the file in it is the right one, for the next who looks.
//! - of a receiver: before its commit it has taken nothing that another needs. After it, its
//!   descriptors' packet is stale.
//! - between taking the lock over from a dead sender and anything else: `HANDED` is cleared with
//!   the take-over, as `READY` is.
//!
//! # Handles
//! A queue's handle carries no file. That of a pipe's end does once there is one.

use std::os::fd::OwnedFd;
use std::sync::Arc;

use rustix::io::Errno;

use crate::arena::Segment;
use crate::error::{Error, Result};
use crate::layout::Kind;
use crate::sys::fork::Local;

/// This process has not got the memory file.
pub const NO_FILE: Error = Error::Os(Errno::NOMEDIUM);

/// Of the file only its header is mapped for good.
const MAPPED: usize = 4096;

/// A new one. `name` shows in `/proc/PID/fd`.
///
/// # Errors
/// `OutOfMemory`, or `Os` when descriptors have run out.
pub fn create(name: &str) -> Result<Segment> {
    Segment::create(name, Kind::File, MAPPED)
}

/// The file as this process has it.
#[derive(Debug, Default)]
pub struct File {
    /// It was there from the start.
    given: Option<Arc<Segment>>,
    /// A child that was forked in the middle of a look starts without.
    known: Local<Option<Arc<Segment>>>,
}

impl File {
    /// One that is known from the start.
    pub fn given(segment: Arc<Segment>) -> File {
        File { given: Some(segment), known: Local::default() }
    }

    /// Has this process got it?
    pub fn is_known(&self) -> bool {
        self.given.is_some() || self.known.with(|known| known.is_some())
    }

    /// It.
    ///
    /// # Errors
    /// `NO_FILE`.
    pub fn get(&self) -> Result<Arc<Segment>> {
        match &self.given {
            Some(given) => Ok(given.clone()),
            None => self.known.with(|known| known.clone()).ok_or(NO_FILE),
        }
    }

    /// From now on it is this one, unless another thread was quicker.
    pub fn set(&self, segment: Segment) {
        let new = Arc::new(segment);
        // What is not needed is closed without the lock.
        let old = self.known.with(|known| if known.is_some() { Some(new) } else { known.replace(new) });
        drop(old);
    }

    /// The same, by a descriptor that has come from another process.
    ///
    /// # Errors
    /// `Corrupted` if it is no such file; `OutOfMemory`.
    pub fn adopt(&self, fd: OwnedFd) -> Result<()> {
        if !self.is_known() {
            self.set(Segment::attach(fd, Kind::File, MAPPED)?);
        }
        Ok(())
    }

    /// Close its descriptor (see [`Segment::close_fd`]), and know it no more: what else here had it
    /// must not take another's number for it.
    pub fn close(&self) {
        if let Some(segment) = self.known.with(Option::take) {
            segment.close_fd();
        }
    }
}
