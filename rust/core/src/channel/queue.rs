//! A queue: one ring that many put into and many get from, unbounded or bounded by messages, bytes
//! or both.
//!
//! Waiting is on the ring's wait sets (see `waitset`): try, spin, prepare, try again, park. A put
//! or get that ends a wait hands the wake-up on if there is room, or a message, for one more. Where
//! bytes are bounded, room is waited for as `queue/room` says.
//!
//! Once its descriptors have been asked for, the socket also tells whether there are messages, and
//! room: see [`transport`](super::transport) and [`writable`](super::writable).

mod batch;
mod counted;
pub mod custody;
mod finding;
mod joining;
mod room;
mod shutdown;
mod state;
mod takers;

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, OnceLock};

use rustix::io::Errno;

use crate::arena::{Given, Handle, Shape};
use crate::channel::extents::{Extents, OwnedExtent};
use crate::channel::file::{File, NO_FILE};
use crate::channel::format::{BASES, QUEUE, RINGS, TABLE};
use crate::channel::front::Front;
use crate::channel::ring::{BASE_FIRST, BASE_MOST, Received, Ring, RingConfig};
use crate::channel::transport::{Outgoing, SOCKET_FULL, Transport};
use crate::channel::wait::{Mender, WaitPlace};
use crate::deadline::{Deadline, Graced, Patience, now};
use crate::error::{Error, Result};
use crate::facade::{self, Ordering};
use crate::kill_point;
use crate::layout::{Kind, Object};
use crate::sync::spin::Spin;
use crate::sys::{liveness, socket};

pub use batch::Found;
pub use counted::TaskCount;
use custody::Keeper;
pub use joining::Joined;
pub use state::{QueueState, Stats};
use takers::OwnEntry;
pub use takers::TAKERS;

static SHAPE: Shape = Shape {
    number: 0,
    // Behind the base is room for what few need.
    bytes: custody::TABLE_END as usize,
    words: BASES as usize,
    pages: [(0, (BASES + BASE_FIRST) as usize), ((BASES + BASE_FIRST) as usize, 0)],
};

const CONFIG: RingConfig =
    RingConfig { index: 0, base: BASES, overflows: true, base_most: BASE_MOST, bounds_large: false, hands_over: false };

/// More than is found in a cache when it is read.
const MUCH_UNREAD: u64 = 4 << 20;
/// How often who puts a large message lets others have its core, and for how many nanoseconds.
const TURNS: usize = 16;
const GIVEN_WAY: u64 = 200_000;
/// Where that took so long, and was in vain, so many times as long goes by before it is done again.
const TOO_LONG: u64 = 1_000_000;
const RARELY: u64 = 32;
/// So often in a row it may be.
const IN_VAIN: u64 = 4;

/// A queue that keeps its messages takes none that carry descriptors.
pub const NO_DESCRIPTORS: Error = Error::Os(Errno::OPNOTSUPP);

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
    state: Object<QueueState, Arc<Front>>,
    extents: Arc<Extents>,
    reader: OwnedFd,
    writer: OwnedFd,
    /// See [`takers`].
    own: OwnEntry,
    /// See [`custody`].
    keeper: OnceLock<Arc<Keeper>>,
    /// When readers are let go first again here, by the monotonic clock.
    goes_first_from: std::sync::atomic::AtomicU64,
    /// How often in a row that took long, and nobody read meanwhile.
    in_vain: std::sync::atomic::AtomicU64,
}

impl Drop for Queue {
    fn drop(&mut self) {
        // Where messages come back nothing is lent.
        if cfg!(miri) || !self.extents.is_whole() || self.keeps_messages() {
            return;
        }
        let Ok(reader) = self.reader.try_clone() else { return };
        // That closes it here.
        self.writer = reader;
        if socket::hung_up(&self.reader) {
            self.extents.leave(|_| false);
        }
    }
}

impl Queue {
    /// A new queue; `maxsize` 0: unbounded.
    ///
    /// # Errors
    /// `OutOfMemory`, or `Os` when descriptors have run out.
    pub fn create(maxsize: u64) -> Result<Queue> {
        liveness::me();
        let (reader, writer) = socket::pair()?;
        let queue = Self::over(Front::create(Kind::Queue, &SHAPE)?, reader, writer)?;
        queue.ring().set_up(maxsize);
        // Who has closed the sockets puts and gets all the same, as long as nobody asks for them.
        if socket::send_ready(&queue.writer)? {
            queue.ring().says_ready_at_first();
        }
        Ok(queue)
    }

    /// The queue that another process made, from what came of its [`export`](Self::export) and the
    /// [sockets](Self::sockets) that it lent.
    ///
    /// # Errors
    /// `Corrupted` if it is no queue; `OutOfMemory`.
    pub fn attach(given: Given, reader: OwnedFd, writer: OwnedFd) -> Result<Queue> {
        liveness::me();
        Self::over(Front::attach(given, Kind::Queue, &SHAPE)?, reader, writer)
    }

    fn over(front: Arc<Front>, reader: OwnedFd, writer: OwnedFd) -> Result<Queue> {
        let extents = Arc::new(Extents::new(front.clone(), TABLE, File::default())?);
        let transport = Transport::new(Ring::new(front.clone(), RINGS, extents.clone(), CONFIG)?);
        let own = front.offset() + QUEUE;
        let state = Object::new(front, own)?;
        let (own, keeper) = (OwnEntry::default(), OnceLock::new());
        let [goes_first_from, in_vain] = [0, 0].map(std::sync::atomic::AtomicU64::new);
        let queue = Queue { transport, state, extents, reader, writer, own, keeper, goes_first_from, in_vain };
        queue.attach_keeper()?;
        Ok(queue)
    }

    /// A handle for another process, which needs the [sockets](Self::sockets) as well. `with`:
    /// another handle in the same message, whose token it shares if it can.
    ///
    /// # Errors
    /// `Os` (EBADF) if the program has closed the segment's descriptor.
    pub fn export(&self, with: Option<&Handle>) -> Result<Handle> {
        self.front().export(with)
    }

    /// Its sockets: the receivers' end, the senders' end.
    pub fn sockets(&self) -> [BorrowedFd<'_>; 2] {
        [self.reader.as_fd(), self.writer.as_fd()]
    }

    /// Where its words are.
    pub fn front(&self) -> &Arc<Front> {
        self.state.backing()
    }

    /// The memory file, as this process has it.
    pub fn file(&self) -> &File {
        self.extents.file()
    }

    /// Close the file's descriptor before this queue is dropped, in a forked child where threads of
    /// its parent may have had parts of it that nobody will ever drop.
    pub fn close_file(&self) {
        self.file().close();
    }

    /// Have whoever waits for it look again, in whatever way: it is closed here, see
    /// [`closings`](crate::sync::closings).
    pub fn wake_all(&self) {
        let ring = self.ring().state();
        ring.not_empty.notify_all();
        ring.not_full.notify_all();
        self.state.room.wake();
        self.state.tasks.look_again();
    }

    /// Bound what is unread by bytes of payload too, before anybody else has the queue; 0: not.
    pub fn bound_bytes(&self, max_bytes: u64) {
        self.ring().set_max_bytes(max_bytes);
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
        self.let_readers_go_first();
        self.extent_at_once(bytes)
    }

    /// The same, for who does not wait for anybody: a task, or a put that would rather be refused.
    ///
    /// # Errors
    /// Those of [`extent`](Self::extent).
    pub fn extent_at_once(&self, bytes: u64) -> Result<OwnedExtent> {
        self.with_made_file(|| self.extents.allocate(bytes))
    }

    /// Making new pages for a message takes longer than copying it. So where much is unread, those
    /// who are about to give pages back are let go first, for a moment. Where other programs want
    /// the core as well it is a turn of each of theirs, milliseconds: if some times in a row
    /// nobody has read anything meanwhile it is not done again for long.
    fn let_readers_go_first(&self) {
        let (ring, began) = (self.ring(), now());
        if ring.maxsize() > 0
            || ring.unread_bytes() < MUCH_UNREAD
            || began < self.goes_first_from.load(Ordering::Relaxed)
        {
            return;
        }
        let head = ring.head_word();
        for _ in 0..TURNS {
            facade::give_way();
            if ring.unread_bytes() < MUCH_UNREAD || now() > began + GIVEN_WAY {
                break;
            }
        }
        let ended = now();
        // Among many producers a reader's turn may come late: once in vain says nothing yet.
        if ended <= began + TOO_LONG || ring.head_word() != head {
            self.in_vain.store(0, Ordering::Relaxed);
        } else if self.in_vain.fetch_add(1, Ordering::Relaxed) >= IN_VAIN {
            self.goes_first_from.store(ended + RARELY * (ended - began), Ordering::Relaxed);
        }
    }

    /// Would a put that does not wait raise `Full`? Cheap: to be asked before a message is made for
    /// nothing.
    #[inline]
    pub fn would_be_full(&self) -> bool {
        let is_full = self.ring().is_full() && !self.ring().is_shut();
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
        if self.ring().state().not_full.is_reserved() || self.is_room_held() {
            return Err(Error::WouldBlock);
        }
        self.put_once(outgoing, Patience::Spin)
    }

    #[inline]
    fn is_room_held(&self) -> bool {
        self.ring().max_bytes() > 0 && self.state.room.is_held()
    }

    fn put_once(&self, outgoing: &mut Outgoing<'_, '_>, patience: Patience) -> Result<()> {
        if !outgoing.fds.is_empty() && self.keeps_messages() {
            return Err(NO_DESCRIPTORS);
        }
        match self.put_with_file(outgoing, patience) {
            Err(NO_FILE) => self.with_made_file(|| self.put_with_file(outgoing, patience)),
            put => put,
        }
    }

    #[inline]
    fn put_with_file(&self, outgoing: &mut Outgoing<'_, '_>, patience: Patience) -> Result<()> {
        let full = |e| if e == SOCKET_FULL { Error::Full } else { e };
        match self.transport.send(self.writer.as_fd(), outgoing, patience) {
            Err(SOCKET_FULL) => {
                match self.transport.discard_stale(self.reader.as_fd(), self.writer.as_fd(), patience.brief()) {
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

    /// Put, waiting until the deadline for room.
    ///
    /// # Errors
    /// `Full` at the deadline; `TooLarge` if there never will be; `Interrupted`; `OutOfMemory`.
    /// Nothing has been put then, and `outgoing` is as it was.
    pub fn put(&self, outgoing: &mut Outgoing<'_, '_>, until: impl Into<Graced>) -> Result<()> {
        let until = until.into();
        self.wait_to_put(until.deadline(), || self.put_once(outgoing, Patience::Sleep(until)))
    }

    fn wait_to_put<T>(&self, deadline: Deadline, attempt: impl FnMut() -> Result<T>) -> Result<T> {
        if self.ring().max_bytes() > 0 {
            return self.wait_for_room(deadline, attempt);
        }
        let tend = || self.tend();
        let place = WaitPlace {
            waiters: &self.ring().state().not_full,
            spin: &PUT_SPIN,
            none: Error::Full,
            tend: &tend,
            waits: Some(&self.state.put_waits),
            mender: None,
        };
        place.wait(deadline, attempt, || !self.ring().is_full())
    }

    /// Get without sleeping; see [`GetGuard::get`](super::ring::GetGuard::get) for `scratch`. `fds`
    /// gets the descriptors that came along.
    ///
    /// # Errors
    /// `Empty`; `ShutDown` if it is for ever; `WouldBlock` if another is getting just now, or is to
    /// be first, or if it is to be looked first whether takers have died, which takes time:
    /// [`get`](Self::get) does so, whatever its deadline, and [`mend_custody`](Self::mend_custody);
    /// those of `get`.
    #[inline]
    pub fn try_get(&self, scratch: &mut Vec<u8>, fds: &mut Vec<OwnedFd>) -> Result<Received> {
        if self.ring().state().not_empty.is_reserved() {
            return Err(Error::WouldBlock);
        }
        self.get_once(scratch, fds, Patience::Spin, false)
    }

    #[inline]
    fn get_once(
        &self,
        scratch: &mut Vec<u8>,
        fds: &mut Vec<OwnedFd>,
        patience: Patience,
        told: bool,
    ) -> Result<Received> {
        match self.get_with_file(scratch, fds, patience, told) {
            Err(NO_FILE) => self.with_found_file(|| self.get_with_file(scratch, fds, patience, told)),
            got => got,
        }
    }

    #[inline]
    fn get_with_file(
        &self,
        scratch: &mut Vec<u8>,
        fds: &mut Vec<OwnedFd>,
        patience: Patience,
        told: bool,
    ) -> Result<Received> {
        if self.notes_gets() {
            return self.get_noted(scratch, fds, patience, told);
        }
        let socket = self.reader.as_fd();
        let received = match told {
            true => self.transport.recv_told(socket, scratch, fds, patience, || ()),
            false => self.transport.recv(socket, scratch, fds, patience, || ()),
        };
        self.after_get(received, patience)
    }

    #[inline(never)]
    fn get_noted(
        &self,
        scratch: &mut Vec<u8>,
        fds: &mut Vec<OwnedFd>,
        patience: Patience,
        told: bool,
    ) -> Result<Received> {
        if let Some(keeper) = self.keeper.get() {
            return self.get_kept(keeper, scratch, patience, told);
        }
        let (socket, taker, mut has_taken) = (self.reader.as_fd(), self.taker(), false);
        let mut taking = || {
            if let Some(taker) = taker {
                taker.takes(1);
                has_taken = true;
            }
        };
        let received = match told {
            true => self.transport.recv_told(socket, scratch, fds, patience, taking),
            false => self.transport.recv(socket, scratch, fds, patience, &mut taking),
        };
        if let (Err(_), Some(taker), true) = (&received, taker, has_taken) {
            taker.has_not_taken(1);
        }
        self.after_get(received, patience)
    }

    #[inline]
    fn after_get(&self, received: Result<Received>, patience: Patience) -> Result<Received> {
        match &received {
            Ok(_) => self.has_got(),
            Err(Error::Empty) => return Err(self.after_nothing(patience)),
            Err(_) => (),
        }
        received
    }

    /// There is room for one more.
    #[inline]
    fn has_got(&self) {
        if self.ring().max_bytes() > 0 {
            self.tell_room();
        } else {
            self.ring().state().not_full.notify();
        }
    }

    /// Get at once, for one who has been told by the descriptor of [`watch`](Self::watch), and so
    /// has waited: it takes no notice of whose turn it is.
    ///
    /// # Errors
    /// Those of [`Transport::recv_told`].
    pub fn get_told(&self, scratch: &mut Vec<u8>, fds: &mut Vec<OwnedFd>, patience: Patience) -> Result<Received> {
        self.get_once(scratch, fds, patience, true)
    }

    /// Put at once, likewise told by that of [`watch_sending`](Self::watch_sending).
    ///
    /// # Errors
    /// `Full`, and that descriptor is writable no more; `WouldBlock` if another is putting just
    /// now; those of [`put`](Self::put).
    pub fn put_told(&self, outgoing: &mut Outgoing<'_, '_>, patience: Patience) -> Result<()> {
        self.put_once(outgoing, patience)
    }

    /// Get, waiting until the deadline for a message.
    ///
    /// # Errors
    /// `Empty` at the deadline; `Interrupted`; `Corrupted`.
    pub fn get(&self, scratch: &mut Vec<u8>, fds: &mut Vec<OwnedFd>, until: impl Into<Graced>) -> Result<Received> {
        let until = until.into();
        let attempt = || self.get_once(scratch, fds, Patience::Sleep(until), false);
        self.wait_to_get(until, attempt)
    }

    fn wait_to_get<T>(&self, until: Graced, attempt: impl FnMut() -> Result<T>) -> Result<T> {
        let tend = || self.tend();
        let mender = custody::Waiter::new(self, until);
        let place = WaitPlace {
            waiters: &self.ring().state().not_empty,
            spin: &GET_SPIN,
            none: Error::Empty,
            tend: &tend,
            waits: Some(&self.state.get_waits),
            mender: self.keeps_messages().then_some(&mender as &dyn Mender),
        };
        place.wait(until.deadline(), attempt, || self.ring().looks_ready())
    }

    /// Wait until there is a message, which another may take before this process does, or none will
    /// come any more.
    ///
    /// # Errors
    /// `Empty` at the deadline; `Interrupted`.
    pub fn wait(&self, until: impl Into<Graced>) -> Result<()> {
        let until = until.into();
        let is_quiet = || self.ring().is_empty() && !self.ring().is_shut();
        let attempt = || {
            if is_quiet() && until.deadline().passed() {
                self.look_before_answer(Patience::Sleep(until));
            }
            if is_quiet() { Err(Error::Empty) } else { Ok(()) }
        };
        self.wait_to_get(until, attempt)
    }

    /// Whether a message is being put just now that the descriptor of [`watch`](Self::watch) may
    /// have told of already: whether, that is, the lock is not to be had with `patience`.
    ///
    /// # Errors
    /// `Interrupted`.
    pub fn is_announced(&self, patience: Patience) -> Result<bool> {
        if self.ring().state().watched.load(Ordering::SeqCst) == 0 {
            return Ok(false);
        }
        match self.ring().put_guard(patience) {
            Err(Error::Interrupted) => Err(Error::Interrupted),
            Err(Error::TimedOut | Error::WouldBlock) => Ok(true),
            // It may have come while the lock was waited for.
            _ => Ok(!self.ring().is_empty()),
        }
    }

    /// A descriptor that is readable while a message is there, from now on.
    ///
    /// # Errors
    /// `Os` if the socket takes no ready packet; `Corrupted`.
    pub fn watch(&self) -> Result<BorrowedFd<'_>> {
        let patience = Patience::sleep(Deadline::PASSED);
        self.with_found_file(|| self.transport.watch(self.reader.as_fd(), patience))?;
        if self.ring().is_shut() {
            self.finish_shutting(patience);
        }
        Ok(self.reader.as_fd())
    }

    /// A descriptor that is writable while a put need not wait for room, from now on. (Late while
    /// descriptors that were sent before the queue was full wait to be received.)
    pub fn watch_sending(&self) -> BorrowedFd<'_> {
        let patience = Patience::sleep(Deadline::PASSED);
        // Whoever made room may have been killed before it said so.
        if self.transport.is_said_full() {
            self.transport.tell_room(self.reader.as_fd(), patience);
        }
        self.transport.watch_sending(self.writer.as_fd(), patience);
        self.writer.as_fd()
    }
}
