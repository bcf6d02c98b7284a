//! A queue: one ring that many put into and many get from, unbounded or bounded by messages.
//!
//! Waiting is on the ring's wait sets (see `waitset`): try, spin, prepare, try again, park. A put
//! or get that ends a wait hands the wake-up on if there is room, or a message, for one more.
//!
//! Once its descriptors have been asked for, the socket also tells whether there are messages, and
//! room: see [`transport`](super::transport) and [`writable`](super::writable).

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use crate::arena::Segment;
use crate::channel::extents::{CHUNK, Extents, OwnedExtent};
use crate::channel::format::{BASES, RINGS, TABLE};
use crate::channel::ring::{BASE_MOST, Received, Ring, RingConfig};
use crate::channel::transport::{Outgoing, SOCKET_FULL, Transport};
use crate::channel::wait::WaitPlace;
use crate::deadline::{Deadline, Patience};
use crate::error::{Error, Result};
use crate::kill_point;
use crate::layout::Kind;
use crate::sync::spin::Spin;
use crate::sys::{liveness, socket};

const EXTENTS: u64 = (BASES + BASE_MOST).next_multiple_of(CHUNK);

const CONFIG: RingConfig =
    RingConfig { index: 0, base: BASES, overflows: true, base_most: BASE_MOST, bounds_large: false };

static GET_SPIN: Spin = Spin::new(40_000);
static PUT_SPIN: Spin = Spin::new(40_000);

/// See the module. Every process that has the queue has both ends of its socket.
/// ```
/// use fastmp_core::channel::queue::Queue;
/// use fastmp_core::channel::ring::{MessageMeta, Payload};
/// use fastmp_core::channel::transport::Outgoing;
/// use fastmp_core::{Deadline, Error};
///
/// # fn main() -> Result<(), Error> {
/// let queue = Queue::create(1)?;
/// let meta = MessageMeta { format: 7, fds: 0 };
/// let message = |bytes| Some(Payload::Inline(bytes));
///
/// queue.put(&mut Outgoing { meta, payload: &mut message(b"first"), fds: &[] }, Deadline::Never)?;
/// // One message is all that this queue takes.
/// let refused = queue.try_put(&mut Outgoing { meta, payload: &mut message(b"second"), fds: &[] });
/// assert_eq!(refused, Err(Error::Full));
///
/// let (mut scratch, mut fds) = (Vec::new(), Vec::new());
/// let received = queue.get(&mut scratch, &mut fds, Deadline::after(1.0))?;
/// assert_eq!((received.meta.format, &scratch[..]), (7, &b"first"[..]));
/// assert!(matches!(queue.try_get(&mut scratch, &mut fds), Err(Error::Empty)));
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct Queue {
    transport: Transport,
    extents: Arc<Extents>,
    segment: Arc<Segment>,
    reader: OwnedFd,
    writer: OwnedFd,
}

impl Queue {
    /// A new queue; `maxsize` 0: unbounded.
    ///
    /// # Errors
    /// `OutOfMemory`, or `Os` when descriptors have run out.
    pub fn create(maxsize: u64) -> Result<Queue> {
        liveness::me();
        let segment = Segment::sparse("fastmp-queue", Kind::Queue, EXTENTS as usize, BASES as usize)?;
        let (reader, writer) = socket::pair()?;
        let queue = Self::over(segment, reader, writer)?;
        queue.ring().set_up(maxsize)?;
        socket::send_ready(&queue.writer)?;
        Ok(queue)
    }

    /// The queue that another process made, from the descriptors that it lent.
    ///
    /// # Errors
    /// `Corrupted` if it is no queue; `OutOfMemory`.
    pub fn attach(memfd: OwnedFd, reader: OwnedFd, writer: OwnedFd) -> Result<Queue> {
        liveness::me();
        Self::over(Segment::attach(memfd, Kind::Queue, EXTENTS as usize)?, reader, writer)
    }

    fn over(segment: Segment, reader: OwnedFd, writer: OwnedFd) -> Result<Queue> {
        let segment = Arc::new(segment);
        let extents = Arc::new(Extents::new(segment.clone(), TABLE)?);
        let transport = Transport::new(Ring::new(segment.clone(), RINGS, extents.clone(), CONFIG)?);
        Ok(Queue { transport, extents, segment, reader, writer })
    }

    /// The descriptors that another process needs to attach, in the order of `attach`.
    pub fn handles(&self) -> [BorrowedFd<'_>; 3] {
        [self.segment.as_fd(), self.reader.as_fd(), self.writer.as_fd()]
    }

    /// Close the segment's descriptor before this queue is dropped, in a forked child where threads
    /// of its parent may have had parts of it that nobody will ever drop.
    pub fn close_segment(&self) {
        self.segment.close_fd();
    }

    /// The ring, to ask how full it is.
    pub fn ring(&self) -> &Ring {
        self.transport.ring()
    }

    /// An extent for a message of `bytes`, to be filled before it is put.
    ///
    /// # Errors
    /// `WouldBlock` if no slot is free; `OutOfMemory`.
    pub fn extent(&self, bytes: u64) -> Result<OwnedExtent> {
        self.extents.allocate(bytes)
    }

    /// Would a put that does not wait raise `Full`? Cheap: to be asked before a message is made for
    /// nothing.
    #[inline]
    pub fn would_be_full(&self) -> bool {
        let is_full = self.ring().is_full();
        if is_full && self.ring().tells_room() {
            // Whoever filled it may have been killed before it said so.
            self.transport.tell_if_full(self.writer.as_fd(), Patience::Spin, false);
        }
        is_full
    }

    /// Put without sleeping.
    ///
    /// # Errors
    /// `Full`; `WouldBlock` if another is putting just now, or is to be first; those of
    /// [`put`](Self::put).
    #[inline]
    pub fn try_put(&self, outgoing: &mut Outgoing<'_, '_>) -> Result<()> {
        if self.ring().state().not_full.is_reserved() {
            return Err(Error::WouldBlock);
        }
        self.put_once(outgoing, Patience::Spin)
    }

    fn put_once(&self, outgoing: &mut Outgoing<'_, '_>, patience: Patience) -> Result<()> {
        let full = |e| if e == SOCKET_FULL { Error::Full } else { e };
        match self.transport.send(self.writer.as_fd(), outgoing, patience) {
            Err(SOCKET_FULL) => {
                match self.transport.discard_stale(self.reader.as_fd(), self.writer.as_fd()) {
                    Ok(true) => (),
                    // Somebody has a lock for longer than it takes to see: full, for all one knows.
                    Ok(false) | Err(Error::TimedOut) => return Err(Error::Full),
                    Err(e) => return Err(e),
                }
                self.transport.send(self.writer.as_fd(), outgoing, patience).map_err(full)?;
            }
            sent => sent?,
        }
        kill_point!("queue.put.before_wake");
        self.ring().state().not_empty.notify();
        Ok(())
    }

    /// Put, waiting until `deadline` for room.
    ///
    /// # Errors
    /// `Full` at the deadline; `Interrupted`; `OutOfMemory`. Nothing has been put then, and
    /// `outgoing` is as it was.
    pub fn put(&self, outgoing: &mut Outgoing<'_, '_>, deadline: Deadline) -> Result<()> {
        let place = WaitPlace {
            waiters: &self.ring().state().not_full,
            spin: &PUT_SPIN,
            none: Error::Full,
            extents: &self.extents,
        };
        place.wait(deadline, || self.put_once(outgoing, Patience::Sleep(deadline)), || !self.ring().is_full())
    }

    /// Get without sleeping; see [`GetGuard::get`](super::ring::GetGuard::get) for `scratch`. `fds`
    /// gets the descriptors that came along.
    ///
    /// # Errors
    /// `Empty`; `WouldBlock` if another is getting just now, or is to be first; those of
    /// [`get`](Self::get).
    #[inline]
    pub fn try_get(&self, scratch: &mut Vec<u8>, fds: &mut Vec<OwnedFd>) -> Result<Received> {
        if self.ring().state().not_empty.is_reserved() {
            return Err(Error::WouldBlock);
        }
        self.get_once(scratch, fds, Patience::Spin)
    }

    fn get_once(&self, scratch: &mut Vec<u8>, fds: &mut Vec<OwnedFd>, patience: Patience) -> Result<Received> {
        let received = self.transport.recv(self.reader.as_fd(), scratch, fds, patience)?;
        self.ring().state().not_full.notify();
        Ok(received)
    }

    /// Get, waiting until `deadline` for a message.
    ///
    /// # Errors
    /// `Empty` at the deadline; `Interrupted`; `Corrupted`.
    pub fn get(&self, scratch: &mut Vec<u8>, fds: &mut Vec<OwnedFd>, deadline: Deadline) -> Result<Received> {
        let attempt = || self.get_once(scratch, fds, Patience::Sleep(deadline));
        self.getters().wait(deadline, attempt, || self.ring().looks_ready())
    }

    fn getters(&self) -> WaitPlace<'_> {
        WaitPlace {
            waiters: &self.ring().state().not_empty,
            spin: &GET_SPIN,
            none: Error::Empty,
            extents: &self.extents,
        }
    }

    /// Wait until there is a message, which another may take before this process does.
    ///
    /// # Errors
    /// `Empty` at the deadline; `Interrupted`.
    pub fn wait(&self, deadline: Deadline) -> Result<()> {
        let attempt = || if self.ring().is_empty() { Err(Error::Empty) } else { Ok(()) };
        self.getters().wait(deadline, attempt, || self.ring().looks_ready())
    }

    /// Whether a message is being put just now that the descriptor of [`watch`](Self::watch) may
    /// have told of already.
    pub fn is_announced(&self) -> bool {
        let is_putting = || matches!(self.ring().put_guard(Patience::Sleep(Deadline::PASSED)), Err(Error::TimedOut));
        self.ring().state().watched.load(Ordering::SeqCst) != 0 && (!self.ring().is_empty() || is_putting())
    }

    /// A descriptor that is readable while a message is there, from now on.
    ///
    /// # Errors
    /// `Os` if the socket takes no ready packet; `Corrupted`.
    pub fn watch(&self) -> Result<BorrowedFd<'_>> {
        self.transport.watch(self.reader.as_fd())?;
        Ok(self.reader.as_fd())
    }

    /// A descriptor that is writable while a put need not wait for room, from now on. (Late while
    /// descriptors that were sent before the queue was full wait to be received.)
    pub fn watch_sending(&self) -> BorrowedFd<'_> {
        // Whoever made room may have been killed before it said so.
        if self.transport.is_said_full() {
            self.transport.tell_room(self.reader.as_fd());
        }
        self.transport.watch_sending(self.writer.as_fd());
        self.writer.as_fd()
    }
}
