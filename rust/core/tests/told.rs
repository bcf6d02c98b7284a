//! Who has been told by a descriptor, and must not wait: an event loop's tasks. Readiness without a
//! message does not last, but for as long as a sender is stopped in the middle; and that is said.
#![cfg(not(loom))]
// Forks; a failure is to panic.
#![allow(unsafe_code, clippy::unwrap_used)]

mod common;

use std::os::fd::BorrowedFd;

use common::channel::{Channel, INLINED, LARGE, SMALL, got, put};
use common::{Child, message, read_message, readable, writable};
use fastmp_core::channel::pipe::{self, End};
use fastmp_core::channel::queue::Queue;
use fastmp_core::channel::ring::{INLINE, MessageMeta, Payload};
use fastmp_core::channel::transport::Outgoing;
use fastmp_core::deadline::Patience;
use fastmp_core::fault::{Action, arm};
use fastmp_core::{Error, Result};

const BOTH: [Patience; 2] = [Patience::Spin, Patience::Moment];

trait Told: Channel {
    fn take(&self, patience: Patience) -> Result<(usize, usize)>;
    fn give(&self, outgoing: &mut Outgoing<'_, '_>, patience: Patience) -> Result<()>;
    fn writer(&self) -> BorrowedFd<'_>;
}

fn read(taken: Result<fastmp_core::channel::ring::Received>, mut bytes: Vec<u8>) -> Result<(usize, usize)> {
    if let Some((hold, len)) = taken?.extent.map(|extent| *extent) {
        bytes = vec![0; len];
        hold.read(0, &mut bytes)?;
    }
    Ok(read_message(&bytes))
}

impl Told for Queue {
    fn take(&self, patience: Patience) -> Result<(usize, usize)> {
        let mut bytes = Vec::new();
        read(self.get_told(&mut bytes, &mut Vec::new(), patience), bytes)
    }
    fn give(&self, outgoing: &mut Outgoing<'_, '_>, patience: Patience) -> Result<()> {
        self.put_told(outgoing, patience)
    }
    fn writer(&self) -> BorrowedFd<'_> {
        self.watch_sending()
    }
}

impl Told for End {
    fn take(&self, patience: Patience) -> Result<(usize, usize)> {
        let mut bytes = Vec::new();
        read(self.recv_told(&mut bytes, &mut Vec::new(), patience), bytes)
    }
    fn give(&self, outgoing: &mut Outgoing<'_, '_>, patience: Patience) -> Result<()> {
        self.send_told(outgoing, patience)
    }
    fn writer(&self) -> BorrowedFd<'_> {
        self.watch_sending()
    }
}

/// Attempts to put message `number`, of `len` bytes, as often as is asked for: by one payload.
struct Message<'a> {
    channel: &'a dyn Fn(&mut Outgoing<'_, '_>, Patience) -> Result<()>,
    bytes: Vec<u8>,
    extent: Option<Payload<'static>>,
}

impl Message<'_> {
    fn attempt(&mut self, patience: Patience) -> Result<()> {
        let meta = MessageMeta { format: 7, fds: 0 };
        match &mut self.extent {
            Some(_) => (self.channel)(&mut Outgoing { meta, payload: &mut self.extent, fds: &[] }, patience),
            None => {
                let payload = &mut Some(Payload::Inline(&self.bytes));
                (self.channel)(&mut Outgoing { meta, payload, fds: &[] }, patience)
            }
        }
    }
}

/// What fills a channel, one attempt after another, and comes through whole.
fn fills(sender: &impl Told, receiver: &impl Told, len: usize) {
    let give = |outgoing: &mut Outgoing<'_, '_>, patience| sender.give(outgoing, patience);
    let made = |number| {
        let bytes = message(1, number, len);
        let extent = (bytes.len() > INLINE).then(|| {
            let hold = sender.room(bytes.len() as u64).unwrap();
            hold.write(0, &bytes).unwrap();
            Payload::Extent(hold, bytes.len() as u64)
        });
        Message { channel: &give, bytes, extent }
    };
    let (mut sent, mut taken) = (0, 0);
    sender.writer();
    for _ in 0..3 {
        let mut next = made(sent);
        while next.attempt(Patience::Spin) == Ok(()) {
            sent += 1;
            next = made(sent);
        }
        for patience in BOTH {
            assert_eq!(next.attempt(patience), Err(Error::Full));
            assert!(!writable(&sender.writer()), "{len}: full, and writable");
        }
        while !writable(&sender.writer()) {
            assert_eq!(receiver.take(Patience::Spin), Ok((1, taken)));
            taken += 1;
        }
        // What waited is what it was.
        assert_eq!(next.attempt(Patience::Spin), Ok(()), "{len}: writable, and full");
        sent += 1;
        while taken < sent {
            assert_eq!(receiver.take(Patience::Moment), Ok((1, taken)));
            taken += 1;
        }
        assert_eq!(receiver.take(Patience::Spin), Err(Error::Empty));
        assert!(!readable(&receiver.reader()));
    }
}

#[test]
fn what_found_no_room_is_sent_by_a_later_attempt() {
    let _turn = common::turn();
    for len in [SMALL, 10_000, INLINED, LARGE] {
        let queue = Queue::create(3).unwrap();
        queue.watch().unwrap();
        fills(&queue, &queue, len);
    }
    // What is larger may find no room where the socket is writable; see `writable`.
    for len in [SMALL, 10_000, LARGE] {
        let (a, b) = pipe::create(false).unwrap();
        a.watch_receiving().unwrap();
        fills(&b, &a, len);
    }
}

/// A sender that is stopped, then killed or not, between its ready packet and its commit.
fn stopped_in_the_middle(sender: &impl Channel, receiver: &impl Told) {
    for killed in [false, true] {
        receiver.watched().unwrap();
        let mut child = Child::fork(|| {
            arm("transport.ready_sent", 1, Action::Stop);
            put(sender, 1, 5, SMALL);
        });
        child.until_stopped();
        assert!(readable(&receiver.reader()));
        for patience in BOTH {
            assert_eq!(receiver.take(patience), Err(Error::WouldBlock), "{patience:?}");
            assert!(readable(&receiver.reader()));
        }
        if killed {
            child.kill();
            child.wait();
            assert_eq!(receiver.take(Patience::Moment), Err(Error::Empty));
            assert!(!readable(&receiver.reader()), "nothing will come, and it is readable");
        } else {
            child.signal(libc::SIGCONT);
            child.wait();
            assert_eq!(receiver.take(Patience::Spin), Ok((1, 5)));
            assert!(!readable(&receiver.reader()));
        }
        put(sender, 2, 6, SMALL);
        assert!(readable(&receiver.reader()));
        assert_eq!(receiver.take(Patience::Spin), Ok((2, 6)));
    }
}

#[test]
fn a_sender_in_the_middle_is_told_from_none() {
    let _turn = common::turn();
    let queue = Queue::create(0).unwrap();
    stopped_in_the_middle(&queue, &queue);
    let (a, b) = pipe::create(true).unwrap();
    stopped_in_the_middle(&b, &a);
}

#[test]
fn a_getter_in_the_middle_is_told_from_an_empty_queue() {
    let _turn = common::turn();
    let queue = Queue::create(0).unwrap();
    queue.watch().unwrap();
    for killed in [false, true] {
        put(&queue, 1, 0, SMALL);
        let mut child = Child::fork(|| {
            arm("ring.get.before_commit", 1, Action::Stop);
            got(&queue);
        });
        child.until_stopped();
        for patience in BOTH {
            assert_eq!(queue.take(patience), Err(Error::WouldBlock));
        }
        if killed {
            child.kill();
            child.wait();
            assert_eq!(queue.take(Patience::Moment), Ok((1, 0)));
        } else {
            child.signal(libc::SIGCONT);
            child.wait();
            assert_eq!(queue.take(Patience::Spin), Err(Error::Empty));
        }
        assert!(!readable(&queue.reader()));
    }
}

#[test]
fn the_end_comes_behind_the_last_message() {
    let _turn = common::turn();
    let (a, b) = pipe::create(true).unwrap();
    a.watch_receiving().unwrap();
    assert_eq!(a.take(Patience::Spin), Err(Error::Empty));
    let mut child = Child::fork(|| put(&b, 1, 0, SMALL));
    drop(b);
    child.wait();
    assert!(readable(&a.reader()));
    assert_eq!(a.take(Patience::Spin), Ok((1, 0)));
    assert_eq!(a.take(Patience::Spin), Err(Error::PeerGone));
}
