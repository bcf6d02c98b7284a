//! Messages through a queue or a pipe, whichever it is.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use fastmp_core::channel::extents::OwnedExtent;
use fastmp_core::channel::pipe::End;
use fastmp_core::channel::queue::Queue;
use fastmp_core::channel::ring::{INLINE, MessageMeta, Payload, Received};
use fastmp_core::channel::transport::Outgoing;
use fastmp_core::sys::memfd;
use fastmp_core::{Deadline, Error, Result};

use super::{message, read_message, resident, until};

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
        let kept = resident(&queue.handles()[0]);
        kept <= IDLE + (3 << 20)
    });
}
