//! Messages through a queue or a pipe, whichever it is.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use fastmp_core::arena::{Given, Segment};
use fastmp_core::channel::extents::OwnedExtent;
use fastmp_core::channel::file::File;
use fastmp_core::channel::front::Front;
use fastmp_core::channel::pipe::End;
use fastmp_core::channel::queue::Queue;
use fastmp_core::channel::ring::{INLINE, MessageMeta, Payload, Received};
use fastmp_core::channel::transport::Outgoing;
use fastmp_core::sys::memfd;
use fastmp_core::{Deadline, Error, Result};

use super::{message, read_message, until};

/// One of each way that a message can take: a record, one of nearly the largest size, an extent.
pub const SMALL: usize = 40;
pub const INLINED: usize = 60_000;
pub const LARGE: usize = 1 << 20;

/// How these tests mark their messages.
const FORMAT: u8 = 7;

pub fn soon() -> Deadline {
    Deadline::after(10.0)
}

pub trait Channel {
    fn put_outgoing(&self, outgoing: &mut Outgoing<'_, '_>, deadline: Deadline) -> Result<()>;
    fn get_letter(&self, bytes: &mut Vec<u8>, fds: &mut Vec<OwnedFd>, deadline: Deadline) -> Result<Received>;
    fn room(&self, bytes: u64) -> Result<OwnedExtent>;
    fn watched(&self) -> Result<BorrowedFd<'_>>;
    fn reader(&self) -> BorrowedFd<'_> {
        self.watched().unwrap()
    }
    fn front(&self) -> &Arc<Front>;
    fn file(&self) -> &File;
    /// Its memory, as who has it may write to it.
    fn bytes(&self) -> Bytes {
        let (front, at, len) = (self.front().segment().clone(), self.front().offset(), self.front().bytes());
        Bytes { front, at: at as u64, len: len as u64, file: self.file().get().ok() }
    }
    /// Bytes that have pages.
    fn resident(&self) -> u64 {
        let memory = self.bytes();
        let front = memory.parts().into_iter().filter(|(from, _)| *from < FILE_AT);
        let file = memory.file.as_ref().map_or(0, |file| memfd::resident(&**file).unwrap());
        front.map(|(from, to)| to - from).sum::<u64>() + file
    }
    /// As in another process, which it has been sent to.
    fn again(&self) -> Result<Self>
    where
        Self: Sized;
}

/// A channel's memory: offsets below 16 MiB are those of its front, the others those of its file.
pub struct Bytes {
    front: Arc<Segment>,
    at: u64,
    len: u64,
    file: Option<Arc<Segment>>,
}

/// Where in a channel's memory its file begins.
const FILE_AT: u64 = 16 << 20;

impl Bytes {
    /// The descriptor and the place in it; `len` bytes have to be inside.
    fn place(&self, at: u64, len: usize) -> Result<(BorrowedFd<'_>, u64)> {
        match &self.file {
            Some(file) if at >= FILE_AT => Ok((file.as_fd(), at)),
            _ if at.saturating_add(len as u64) <= self.len => Ok((self.front.as_fd(), self.at + at)),
            _ => Err(Error::Corrupted("not there")),
        }
    }

    pub fn read(&self, at: u64, to: &mut [u8]) -> Result<()> {
        let (fd, at) = self.place(at, to.len())?;
        memfd::read(fd, at, to)
    }

    pub fn write(&self, at: u64, bytes: &[u8]) -> Result<()> {
        let (fd, at) = self.place(at, bytes.len())?;
        memfd::write(fd, at, bytes)
    }

    pub fn punch(&self, at: u64, len: u64) {
        if let Ok((fd, at)) = self.place(at, len as usize) {
            memfd::punch(fd, at, len);
        }
    }

    /// The parts that have pages.
    pub fn parts(&self) -> Vec<(u64, u64)> {
        let (first, last) = (self.at, self.at + self.len);
        let inside = |(from, to): (u64, u64)| (from.max(first), to.min(last));
        let own = data(self.front.as_fd(), first, last).into_iter().map(inside);
        let mut parts: Vec<_> =
            own.filter(|(from, to)| from < to).map(|(from, to)| (from - first, to - first)).collect();
        if let Some(file) = &self.file {
            parts.extend(data(file.as_fd(), FILE_AT, u64::MAX));
        }
        parts
    }
}

/// The parts of a file that have pages, from `at` up to one that reaches `end`.
fn data(fd: BorrowedFd<'_>, mut at: u64, end: u64) -> Vec<(u64, u64)> {
    let mut parts = Vec::new();
    let seek = |at: u64, whence| {
        // SAFETY: a plain system call.
        u64::try_from(unsafe { libc::lseek(fd.as_raw_fd(), at as i64, whence) }).ok()
    };
    while let Some(from) = seek(at, libc::SEEK_DATA).filter(|&from| from < end) {
        let to = seek(from, libc::SEEK_HOLE).unwrap_or(from + 4096);
        parts.push((from, to));
        at = to;
    }
    parts
}

impl Channel for Queue {
    fn put_outgoing(&self, outgoing: &mut Outgoing<'_, '_>, deadline: Deadline) -> Result<()> {
        self.put(outgoing, deadline)
    }
    fn get_letter(&self, bytes: &mut Vec<u8>, fds: &mut Vec<OwnedFd>, deadline: Deadline) -> Result<Received> {
        self.get(bytes, fds, deadline)
    }
    fn room(&self, bytes: u64) -> Result<OwnedExtent> {
        self.extent(bytes)
    }
    fn watched(&self) -> Result<BorrowedFd<'_>> {
        self.watch()
    }
    fn front(&self) -> &Arc<Front> {
        self.front()
    }
    fn file(&self) -> &File {
        self.file()
    }
    fn again(&self) -> Result<Queue> {
        let [reader, writer] = self.sockets().map(|fd| fd.try_clone_to_owned().unwrap());
        Queue::attach(Given::copy_of(&self.export(None)?)?, reader, writer)
    }
}

impl Channel for End {
    fn put_outgoing(&self, outgoing: &mut Outgoing<'_, '_>, deadline: Deadline) -> Result<()> {
        self.send(outgoing, deadline)
    }
    fn get_letter(&self, bytes: &mut Vec<u8>, fds: &mut Vec<OwnedFd>, deadline: Deadline) -> Result<Received> {
        self.recv(bytes, fds, deadline)
    }
    fn room(&self, bytes: u64) -> Result<OwnedExtent> {
        self.extent(bytes)
    }
    fn watched(&self) -> Result<BorrowedFd<'_>> {
        self.watch()
    }
    fn front(&self) -> &Arc<Front> {
        self.front()
    }
    fn file(&self) -> &File {
        self.file()
    }
    fn again(&self) -> Result<End> {
        let file = self.lent_file().map(|file| file.as_fd().try_clone_to_owned().unwrap());
        let given = Given::copy_of(&self.export(None)?)?;
        End::attach(given, self.socket().try_clone_to_owned().unwrap(), file, self.flags())
    }
}

pub fn send(channel: &impl Channel, bytes: &[u8], fds: &[OwnedFd], deadline: Deadline) -> Result<()> {
    let lent: Vec<_> = fds.iter().map(AsFd::as_fd).collect();
    let meta = MessageMeta { format: FORMAT, fds: fds.len() as u16 };
    let mut payload = if bytes.len() <= INLINE {
        Some(Payload::Inline(bytes))
    } else {
        let hold = channel.room(bytes.len() as u64)?;
        hold.write(0, bytes)?;
        Some(Payload::Extent(hold, bytes.len() as u64))
    };
    channel.put_outgoing(&mut Outgoing { meta, payload: &mut payload, fds: &lent }, deadline)
}

pub fn recv(channel: &impl Channel, deadline: Deadline) -> Result<(Vec<u8>, Vec<OwnedFd>)> {
    let (mut bytes, mut fds) = (Vec::new(), Vec::new());
    let received = channel.get_letter(&mut bytes, &mut fds, deadline)?;
    if let Some((hold, len)) = received.extent.map(|extent| *extent) {
        bytes = vec![0; len];
        hold.read(0, &mut bytes)?;
    }
    Ok((bytes, fds))
}

/// Send message `number` of `producer`.
pub fn put(channel: &impl Channel, producer: usize, number: usize, len: usize) {
    send(channel, &message(producer, number, len), &[], soon()).unwrap();
}

/// Receive a message: whose it is, and its number.
pub fn got(channel: &impl Channel) -> (usize, usize) {
    let (bytes, fds) = recv(channel, soon()).unwrap();
    assert!(fds.is_empty());
    read_message(&bytes)
}

/// New descriptors, and what tells each from others.
pub fn fds(n: usize) -> (Vec<OwnedFd>, Vec<(u64, u64)>) {
    let fds: Vec<_> = (0..n).map(|_| memfd::create("test", 4096).unwrap()).collect();
    let ids = ids(&fds);
    (fds, ids)
}

pub fn ids(fds: &[OwnedFd]) -> Vec<(u64, u64)> {
    fds.iter().map(|fd| memfd::identity(fd).unwrap()).collect()
}

/// Bytes that an idle queue may keep: its base, free extents, a chunk at its position.
pub const IDLE: u64 = 8 << 20;

/// Who waits on it for a while gives back what nobody uses.
pub fn comes_to_rest(queue: &Queue, case: &str) {
    until("it comes to rest", || {
        put(queue, 9, 0, 100_000);
        assert_eq!(got(queue), (9, 0), "{case}");
        assert_eq!(recv(queue, Deadline::after(0.2)).unwrap_err(), Error::Empty, "{case}");
        let kept = queue.resident();
        kept <= IDLE + (3 << 20)
    });
}
