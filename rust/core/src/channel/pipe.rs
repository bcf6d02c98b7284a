//! A pipe: two ends, a ring for each direction, and a socket between them. Long, for an end sends,
//! receives and tells of both by one socket.
//!
//! Messages go through the rings. The socket carries readiness and descriptors (see
//! [`transport`](super::transport)), and tells of hang-up: an end notices when every copy of the
//! other is closed, however its holders ended.
//!
//! A receiver with nothing to receive clears the ready packet and sleeps in `poll` on the socket,
//! where a ready packet and a hang-up both wake it.
//!
//! Once its descriptor has been asked for, the socket also tells when the ring is full: see
//! [`writable`](super::writable).
//!
//! A sender asks the socket whether the other end is there at most once a millisecond, and again
//! whenever a copy of that end has been closed; a process that died in between is noticed by the
//! next send after that.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64};

use crate::arena::{Given, Handle, Segment, Shape};
use crate::channel::extents::{Extents, OwnedExtent};
use crate::channel::file::{self, File, NO_FILE};
use crate::channel::format::{BASES, QUEUE, RINGS, TABLE};
use crate::channel::front::Front;
use crate::channel::ring::{BASE_FIRST, BASE_OF_TINY, Received, Ring, RingConfig, RingState};
use crate::channel::transport::{FOREIGN, Outgoing, SOCKET_FULL, Transport};
use crate::channel::wait::WaitPlace;
use crate::deadline::{Deadline, Graced, Patience, now};
use crate::error::{Error, Result};
use crate::facade::{self, Ordering};
use crate::kill_point;
use crate::layout::{self, Backing, Kind, Object};
use crate::overlay;
use crate::sync::spin::Spin;
use crate::sys::socket::{self, Packet};
use crate::sys::{liveness, memfd};

static SHAPE: Shape = Shape {
    number: 1,
    bytes: (BASES + 2 * BASE_OF_TINY) as usize,
    words: BASES as usize,
    pages: [(0, (BASES + BASE_FIRST) as usize), ((BASES + BASE_OF_TINY) as usize, BASE_FIRST as usize)],
};
/// This process cannot settle what a dead one was moving: it has not got the file.
const OUT_OF_REACH: Error = Error::Corrupted("the pipe's memory file is out of reach");
/// How long the other end is believed to be there.
const BELIEVED: u64 = 1_000_000;

static RECV_SPIN: Spin = Spin::new(40_000);
static SEND_SPIN: Spin = Spin::new(40_000);

overlay! {
    /// What is a pipe's own.
    #[derive(Debug)]
    struct PipeState {
        /// Not 0: there is a memory file. See [`file`](super::file).
        made: facade::AtomicU64,
        /// Not 0: a reader of a one-way pipe has sent it back, or was about to.
        returned: facade::AtomicU64,
    }
}

/// What an end may do, and which it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Flags {
    /// May receive.
    pub readable: bool,
    /// May send.
    pub writable: bool,
    /// The second end: it receives what ring 0 carries.
    pub second: bool,
}

/// One end of a pipe.
#[derive(Debug)]
pub struct End {
    incoming: Transport,
    outgoing: Transport,
    extents: Arc<Extents>,
    state: Object<PipeState, Arc<Front>>,
    /// Dropped before `_farewell`.
    socket: OwnedFd,
    _farewell: Farewell,
    flags: Flags,
    closing: AtomicBool,
    /// Have the senders of a one-way pipe got the file from here, or from another reader?
    has_returned: AtomicBool,
    asked: AtomicU64,
    closings_seen: AtomicU32,
}

/// A new pipe's ends. Not duplex: the first receives, the second sends.
/// ```
/// use fastmp_core::channel::pipe;
/// use fastmp_core::channel::ring::{MessageMeta, Payload};
/// use fastmp_core::channel::transport::Outgoing;
/// use fastmp_core::{Deadline, Error};
///
/// # fn main() -> Result<(), Error> {
/// let (reader, writer) = pipe::create(false)?;
/// let meta = MessageMeta { format: 0, fds: 0 };
/// let payload = &mut Some(Payload::Inline(b"hello"));
/// writer.send(&mut Outgoing { meta, payload, fds: &[] }, Deadline::Never)?;
/// drop(writer);
///
/// let (mut scratch, mut fds) = (Vec::new(), Vec::new());
/// reader.recv(&mut scratch, &mut fds, Deadline::after(1.0))?;
/// assert_eq!(scratch, b"hello");
/// // Nobody has the other end.
/// assert!(matches!(reader.recv(&mut scratch, &mut fds, Deadline::Never), Err(Error::PeerGone)));
/// # Ok(())
/// # }
/// ```
///
/// # Errors
/// `OutOfMemory`, or `Os` when descriptors have run out.
pub fn create(duplex: bool) -> Result<(End, End)> {
    liveness::me();
    let (a, b) = socket::pair()?;
    let front = Front::create(Kind::Pipe, &SHAPE)?;
    // Both ends of this process know the file when one does.
    let extents = Arc::new(Extents::new(front.clone(), TABLE, File::default())?);
    let first = Flags { readable: true, writable: duplex, second: true };
    let second = Flags { readable: duplex, writable: true, second: false };
    let (first, second) = (End::over(front.clone(), &extents, a, first)?, End::over(front, &extents, b, second)?);
    first.incoming.ring().set_up(0);
    if duplex {
        first.outgoing.ring().set_up(0);
    }
    Ok((first, second))
}

impl End {
    /// The end that another process had, from what came of its [`export`](Self::export) and the
    /// descriptors that it lent: its [socket](Self::socket), and its [file](Self::lent_file) (or
    /// another of the given segment: none).
    ///
    /// # Errors
    /// `Corrupted` if it is no pipe; `OutOfMemory`.
    pub fn attach(given: Given, socket: OwnedFd, file: Option<OwnedFd>, flags: Flags) -> Result<End> {
        liveness::me();
        let front = Front::attach(given, Kind::Pipe, &SHAPE)?;
        let extents = Arc::new(Extents::new(front.clone(), TABLE, File::default())?);
        if let Some(file) = file.filter(|file| memfd::identity(file) != Ok(front.segment().id())) {
            extents.file().adopt(file)?;
        }
        Self::over(front, &extents, socket, flags)
    }

    fn over(front: Arc<Front>, extents: &Arc<Extents>, socket: OwnedFd, flags: Flags) -> Result<End> {
        let ring = |index: u32| {
            let config = RingConfig {
                index,
                base: BASES + u64::from(index) * BASE_OF_TINY,
                overflows: false,
                base_most: BASE_OF_TINY,
                bounds_large: true,
                hands_over: true,
            };
            let words = RINGS + index as usize * size_of::<RingState>();
            Ring::new(front.clone(), words, extents.clone(), config).map(Transport::new)
        };
        let (incoming, outgoing) = (ring(u32::from(!flags.second))?, ring(u32::from(flags.second))?);
        let farewell =
            Farewell { front: front.clone(), ring: RINGS + usize::from(!flags.second) * size_of::<RingState>() };
        let own = front.offset() + QUEUE;
        Ok(End {
            incoming,
            outgoing,
            extents: extents.clone(),
            state: Object::new(front, own)?,
            socket,
            _farewell: farewell,
            flags,
            closing: AtomicBool::new(false),
            has_returned: AtomicBool::new(false),
            asked: AtomicU64::new(0),
            closings_seen: AtomicU32::new(0),
        })
    }

    /// A handle for another process, which needs the socket as well, and the file if there is one.
    /// `with`: another handle in the same message, whose token it shares if it can.
    ///
    /// # Errors
    /// `Os` (EBADF) if the program has closed the segment's descriptor.
    pub fn export(&self, with: Option<&Handle>) -> Result<Handle> {
        self.front().export(with)
    }

    /// Its socket.
    pub fn socket(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }

    /// The file, if this process has it.
    pub fn lent_file(&self) -> Option<Arc<Segment>> {
        self.file().get().ok().filter(|file| file.own_fd().is_ok())
    }

    /// The memory file, as this process has it.
    pub fn file(&self) -> &File {
        self.extents.file()
    }

    /// Where its words are.
    pub fn front(&self) -> &Arc<Front> {
        self.state.backing()
    }

    /// What this end may do.
    pub fn flags(&self) -> Flags {
        self.flags
    }

    /// An extent for a message of `bytes`, to be filled before it is sent.
    ///
    /// # Errors
    /// `WouldBlock` if no slot is free; `OutOfMemory`.
    pub fn extent(&self, bytes: u64) -> Result<OwnedExtent> {
        match self.extents.allocate(bytes) {
            Err(NO_FILE) if self.has_file_now()? => self.extents.allocate(bytes),
            Err(NO_FILE) => self.extents.loose(bytes),
            done => done,
        }
    }

    /// Attempt it; once more if it wants the file, and that has come here; else `OUT_OF_REACH`. It
    /// does to settle what a killed process was moving, if the table of extents has grown into the
    /// file.
    fn with_file<T>(&self, mut attempt: impl FnMut() -> Result<T>) -> Result<T> {
        match attempt() {
            Err(NO_FILE) if self.has_file_now()? => attempt(),
            Err(NO_FILE) => Err(OUT_OF_REACH),
            done => done,
        }
    }

    /// Make the file, if there is none, or see whether it has come here.
    #[cold]
    fn has_file_now(&self) -> Result<bool> {
        let (file, made) = (self.extents.file(), &self.state.made);
        // Acquire and release: the slots of a file that this process makes are as it finds them.
        if made.load(Ordering::Acquire) == 0 {
            let new = file::create("fastmp-pipe")?;
            kill_point!("file.made");
            // Commit point.
            if made.compare_exchange(0, 1, Ordering::AcqRel, Ordering::Acquire).is_ok() {
                kill_point!("file.said");
                file.set(new);
                return Ok(true);
            }
        }
        if let Packet::File(Some(fd)) = socket::peek(&self.socket)? {
            file.adopt(fd)?;
        }
        Ok(file.is_known())
    }

    /// Is every copy of the other end closed? Believed for a while; see the module.
    fn peer_is_gone(&self) -> bool {
        let closings = self.outgoing.ring().state().reader_closings.load(Ordering::Acquire);
        let now = now();
        if closings == self.closings_seen.load(Ordering::Relaxed)
            && now.saturating_sub(self.asked.load(Ordering::Relaxed)) < BELIEVED
        {
            return false;
        }
        let gone = socket::hung_up(&self.socket);
        if !gone {
            self.asked.store(now, Ordering::Relaxed);
            self.closings_seen.store(closings, Ordering::Relaxed);
        }
        gone
    }

    /// Send without sleeping.
    ///
    /// # Errors
    /// `Full`; `WouldBlock` if another is sending just now; those of [`send`](Self::send).
    #[inline]
    pub fn try_send(&self, outgoing: &mut Outgoing<'_, '_>) -> Result<()> {
        self.send_once(outgoing, Patience::Spin)
    }

    fn send_once(&self, outgoing: &mut Outgoing<'_, '_>, patience: Patience) -> Result<()> {
        if self.closing.load(Ordering::Relaxed) {
            return Err(Error::Closed);
        }
        if self.peer_is_gone() {
            return Err(Error::PeerGone);
        }
        match self.with_file(|| self.outgoing.send(self.socket.as_fd(), outgoing, patience)) {
            Err(SOCKET_FULL) => Err(Error::Full),
            // A dead sender's lock: as if it were held. Who receives has the file, and takes the
            // lock over when it next waits.
            Err(OUT_OF_REACH) => Err(Error::WouldBlock),
            sent => sent,
        }
    }

    /// Send, waiting until the deadline for room.
    ///
    /// # Errors
    /// `PeerGone` if nobody could ever receive it; `Full` at the deadline; `Interrupted`;
    /// `OutOfMemory`. Nothing has been sent then.
    pub fn send(&self, outgoing: &mut Outgoing<'_, '_>, until: impl Into<Graced>) -> Result<()> {
        let until = until.into();
        let ring = self.outgoing.ring();
        let tend = || self.extents.tend();
        let place = WaitPlace {
            waiters: &ring.state().not_full,
            spin: &SEND_SPIN,
            none: Error::Full,
            tend: &tend,
            waits: None,
            mender: None,
        };
        place.wait(
            until.deadline(),
            || {
                let sent = self.send_once(outgoing, Patience::Sleep(until));
                if sent == Err(Error::Full) {
                    // About to wait: is it worth while?
                    self.asked.store(0, Ordering::Relaxed);
                }
                sent
            },
            || ring.has_room_again(),
        )
    }

    /// Receive without sleeping. `fds` gets the descriptors that came along.
    ///
    /// # Errors
    /// `Empty`; `WouldBlock` if another is receiving just now; those of [`recv`](Self::recv).
    #[inline]
    pub fn try_recv(&self, scratch: &mut Vec<u8>, fds: &mut Vec<OwnedFd>) -> Result<Received> {
        self.recv_once(scratch, fds, Patience::Spin)
    }

    fn recv_once(&self, scratch: &mut Vec<u8>, fds: &mut Vec<OwnedFd>, patience: Patience) -> Result<Received> {
        match self.with_file(|| self.incoming.recv(self.socket.as_fd(), scratch, fds, patience, || ())) {
            Ok(received) => {
                self.has_received(&received);
                Ok(received)
            }
            // Nor is there anything to receive.
            Err(OUT_OF_REACH) if self.incoming.ring().is_empty() => Err(Error::Empty),
            other => other,
        }
    }

    #[inline]
    fn has_received(&self, received: &Received) {
        self.wake_senders();
        if let Some(extent) = &received.extent
            && !self.flags.writable
            && !self.has_returned.load(Ordering::Relaxed)
            // Some sender has not got it, or may have to have it.
            && (extent.0.loose_fd().is_some() || self.extents.need_file())
        {
            self.return_file();
        }
    }

    /// Send the file back, once, to where all who share the other end of a one-way pipe find it.
    #[cold]
    fn return_file(&self) {
        let Some(file) = self.lent_file() else { return };
        self.has_returned.store(true, Ordering::Relaxed);
        // Relaxed: the file goes by the socket.
        if self.state.returned.swap(1, Ordering::Relaxed) == 0 {
            kill_point!("file.returning");
            // If nobody has that end any more nobody needs it.
            let _ = file.own_fd().and_then(|fd| socket::send_file(&self.socket, fd));
        }
    }

    #[inline]
    fn wake_senders(&self) {
        let ring = self.incoming.ring();
        if ring.state().not_full.is_waited_on() && ring.has_room_again() {
            ring.state().not_full.notify();
        }
    }

    /// Receive at once, for one who has been told by the descriptor of
    /// [`watch_receiving`](Self::watch_receiving).
    ///
    /// # Errors
    /// `PeerGone` if no message is left and none can come; those of [`Transport::recv_told`].
    pub fn recv_told(&self, scratch: &mut Vec<u8>, fds: &mut Vec<OwnedFd>, patience: Patience) -> Result<Received> {
        let received = self.with_file(|| self.incoming.recv_told(self.socket.as_fd(), scratch, fds, patience, || ()));
        let nothing = match received {
            Ok(received) => {
                self.has_received(&received);
                return Ok(received);
            }
            Err(e @ (Error::Empty | OUT_OF_REACH)) => e,
            other => return other,
        };
        // In this order: whoever is gone may have sent something in between.
        let (is_gone, is_empty) = (socket::hung_up(&self.socket), self.incoming.ring().is_empty());
        Err(match nothing {
            OUT_OF_REACH if !is_empty => OUT_OF_REACH,
            _ if is_gone && is_empty => Error::PeerGone,
            Error::Empty if !is_gone => Error::Empty,
            // Or as while another is sending: see `wait`.
            _ => Error::WouldBlock,
        })
    }

    /// Send at once, for one who waits for the descriptor of
    /// [`watch_sending`](Self::watch_sending) else.
    ///
    /// # Errors
    /// Those of [`try_send`](Self::try_send).
    pub fn send_told(&self, outgoing: &mut Outgoing<'_, '_>, patience: Patience) -> Result<()> {
        let sent = self.send_once(outgoing, patience);
        if sent == Err(Error::Full) {
            // A hang-up tells as well. Then the next attempt is to see it.
            self.asked.store(0, Ordering::Relaxed);
        }
        sent
    }

    /// Receive, waiting until the deadline for a message.
    ///
    /// # Errors
    /// `PeerGone` if no message is left and none can come; `Closed` when this end is closed
    /// meanwhile; `Empty` at the deadline; `Interrupted`; `Corrupted`.
    pub fn recv(&self, scratch: &mut Vec<u8>, fds: &mut Vec<OwnedFd>, until: impl Into<Graced>) -> Result<Received> {
        let until = until.into();
        let deadline = until.deadline();
        let mut late = false;
        let mut due = Deadline::Never;
        loop {
            match self.recv_once(scratch, fds, Patience::Sleep(until)) {
                Err(Error::Empty) if late => return Err(Error::Empty),
                Err(Error::Empty) => self.wait(until)?,
                Err(Error::TimedOut) => return Err(Error::Empty),
                done => return done,
            }
            // Others may be quicker again and again. Signals have to be looked at all the same.
            late = deadline.passed();
            if due.passed() && !late {
                facade::end_slice()?;
            }
            if due == Deadline::Never || due.passed() {
                due = Deadline::At(Deadline::Never.slice(facade::SLICE));
            }
        }
    }

    /// Wait until there is a message.
    ///
    /// # Errors
    /// As for [`recv`](Self::recv).
    pub fn wait(&self, until: impl Into<Graced>) -> Result<()> {
        let until = until.into();
        let (deadline, brief) = (until.deadline(), || Patience::Sleep(until).brief());
        let ring = self.incoming.ring();
        if ring.looks_ready() {
            return Ok(());
        }
        if deadline != Deadline::PASSED && RECV_SPIN.until(|| ring.looks_ready().then_some(())).is_some() {
            return Ok(());
        }
        let mut readable = false;
        let due = Deadline::At(Deadline::Never.slice(facade::SLICE));
        loop {
            if self.closing.load(Ordering::Relaxed) {
                return Err(Error::Closed);
            }
            if deadline.passed() {
                let seen = socket::wait(&self.socket, 0)?;
                return match ring.is_empty() {
                    false => Ok(()),
                    true if seen.hung_up => Err(Error::PeerGone),
                    true => {
                        // As in `Transport::recv`: a kill has left it readable.
                        // So may descriptors that nobody will ask for, which keep a sender waiting.
                        let state = ring.state();
                        if seen.readable
                            && (state.watched.load(Ordering::Relaxed) != 0 || state.not_full.is_waited_on())
                        {
                            let cleared =
                                self.with_file(|| self.incoming.clear_ready(self.socket.as_fd(), true, brief()));
                            if cleared == Err(FOREIGN) {
                                return Err(FOREIGN);
                            }
                        }
                        Err(Error::Empty)
                    }
                };
            }
            let cleared = self.with_file(|| self.incoming.clear_ready(self.socket.as_fd(), readable, brief()));
            kill_point!("pipe.parking");
            let until = deadline.slice(facade::SLICE);
            let seen = match cleared {
                Ok(false) => return Ok(()),
                Ok(true) => socket::wait(&self.socket, until)?,
                // A dead sender's lock: who has the file takes it over. Until then nothing is put,
                // and nobody knows what it means that the socket is readable.
                Err(OUT_OF_REACH) => socket::wait_for_hang_up(&self.socket, until)?,
                Err(e) => return Err(e),
            };
            if !ring.is_empty() {
                return Ok(());
            }
            if seen.hung_up && ring.is_empty() {
                return Err(Error::PeerGone);
            }
            readable = seen.readable;
            // What came is no message, and has to be cleared first: who comes up forgets it. That may
            // go on for as long as a stopped sender holds the lock.
            if !deadline.passed() && (!readable || due.passed()) {
                self.extents.tend();
                facade::end_slice()?;
            }
        }
    }

    /// A descriptor that is readable while a message or a hang-up is there, from now on, and
    /// writable while a message of 16 KiB may be sent without waiting.
    ///
    /// # Errors
    /// `Os` if the socket takes no ready packet; `Corrupted`.
    pub fn watch(&self) -> Result<BorrowedFd<'_>> {
        if self.flags.readable {
            self.watch_receiving()?;
        }
        if self.flags.writable {
            self.watch_sending();
        }
        Ok(self.socket.as_fd())
    }

    /// A descriptor that is readable while a message or a hang-up is there, from now on.
    ///
    /// # Errors
    /// As for [`watch`](Self::watch).
    pub fn watch_receiving(&self) -> Result<BorrowedFd<'_>> {
        match self.with_file(|| self.incoming.watch(self.socket.as_fd(), Patience::sleep(Deadline::PASSED))) {
            // Another clears it, or whoever is called for nothing.
            Ok(()) | Err(OUT_OF_REACH) => Ok(self.socket.as_fd()),
            Err(e) => Err(e),
        }
    }

    /// One that is writable while a message of 16 KiB may be sent without waiting, from now on.
    pub fn watch_sending(&self) -> BorrowedFd<'_> {
        self.outgoing.watch_sending(self.socket.as_fd(), Patience::sleep(Deadline::PASSED));
        self.socket.as_fd()
    }

    /// Has the program set O_NONBLOCK on the descriptor that [`watch`](Self::watch) gives?
    pub fn is_nonblocking(&self) -> bool {
        (self.incoming.is_watched() || self.outgoing.is_sending_watched()) && socket::is_nonblocking(&self.socket)
    }

    /// Close the file's descriptor before this end is dropped, in a forked child where threads of
    /// its parent may have had parts of it that nobody will ever drop. The other end in this
    /// process may have the same, and then knows it no more.
    pub fn close_file(&self) {
        self.extents.file().close();
    }

    /// As if so many messages had gone either way: see [`Ring::age`].
    ///
    /// # Errors
    /// Those of the locks.
    #[cfg(feature = "kill-points")]
    pub fn age(&self, messages: u64, fds: u64) -> Result<()> {
        self.incoming.ring().age(messages, fds)?;
        self.outgoing.ring().age(messages, fds)
    }

    /// Have the waits of other threads on this end come to an end: of those who receive at the end
    /// of their slice.
    pub fn close(&self) {
        self.closing.store(true, Ordering::Relaxed);
    }

    /// Have who waits to send look again: it is closed here, see
    /// [`closings`](crate::sync::closings).
    pub fn wake_all(&self) {
        self.outgoing.ring().state().not_full.notify_all();
    }
}

impl Drop for End {
    fn drop(&mut self) {
        if cfg!(miri) || !self.extents.is_whole() {
            return;
        }
        // Nobody reads what was sent from here. What came here another may read that shares this
        // end.
        if socket::hung_up(&self.socket) {
            self.extents.leave(|ring| ring != u32::from(self.flags.second));
        }
    }
}

/// Dropped after the socket is closed: tells those who send to this end to look again.
#[derive(Debug)]
struct Farewell {
    front: Arc<Front>,
    ring: usize,
}

impl Drop for Farewell {
    fn drop(&mut self) {
        if let Ok(state) = layout::view::<RingState>(self.front.mapping(), self.front.offset() + self.ring) {
            // Release: with the acquire in `peer_is_gone`, so that who sees the count sees the
            // hang-up.
            state.reader_closings.fetch_add(1, Ordering::Release);
        }
    }
}
