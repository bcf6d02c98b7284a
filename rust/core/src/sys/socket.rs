//! A pair of connected sockets: hang-up, tokens and descriptors travel on it.
#![allow(unsafe_code)]

use std::io::{IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd, RawFd};

#[cfg(not(miri))]
use rustix::event::poll;
use rustix::event::{PollFd, PollFlags};
use rustix::fs::{OFlags, fcntl_getfl};
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags, SocketFlags, SocketType,
};
#[cfg(not(miri))]
use rustix::net::{recv, recvmsg, send, sendmsg, socketpair};

use crate::deadline::{now, span};
use crate::error::{Error, Result};
#[cfg(miri)]
use crate::sys::miri::{poll, recv, recvmsg, send, sendmsg, socketpair};
use crate::sys::{limits, standard};

/// Descriptors that one packet may carry: the kernel's limit.
pub const PACKET_FDS: usize = 253;
/// Descriptors that one message may carry: a packet of sockets, with a packet of descriptors in
/// each.
pub const MAX_FDS: usize = PACKET_FDS * PACKET_FDS;

/// The ready packet.
const READY: &[u8; 1] = b"t";
/// A ready packet that has a memory file with it.
const FILE: &[u8; 2] = b"tf";

/// More packets than a socket holds, each of which takes some hundred bytes of its buffer. Whoever
/// takes them one by one stops after so many, however quickly a peer gone mad sends others.
pub const MOST_PACKETS: u32 = 1 << 12;

/// Two connected ends. Packets keep their borders, and an end notices when every copy of the other
/// is closed. O_NONBLOCK is the program's to set: nothing here waits but by `poll`.
///
/// # Errors
/// `Os` when descriptors have run out.
pub fn pair() -> Result<(OwnedFd, OwnedFd)> {
    let pair = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?;
    Ok(standard::both_beside(pair)?)
}

/// Is an end of such a pair, or something of its kind, behind this number?
pub fn is_end(fd: RawFd) -> bool {
    // SAFETY: not -1; any file may answer the one question that it is borrowed for.
    let is_packets = |fd| rustix::net::sockopt::socket_type(unsafe { BorrowedFd::borrow_raw(fd) });
    fd >= 0 && is_packets(fd) == Ok(SocketType::SEQPACKET)
}

/// Has somebody set O_NONBLOCK?
pub fn is_nonblocking(fd: impl AsFd) -> bool {
    fcntl_getfl(fd).is_ok_and(|flags| flags.contains(OFlags::NONBLOCK))
}

/// Send a one-byte packet; false if the socket is full (the other end is readable then, all the
/// same).
///
/// # Errors
/// `PeerGone`, or `Os`.
pub fn send_ready(fd: impl AsFd) -> Result<bool> {
    match send(fd, READY, SendFlags::NOSIGNAL | SendFlags::DONTWAIT) {
        Ok(_) => Ok(true),
        Err(Errno::AGAIN) => Ok(false),
        Err(Errno::PIPE | Errno::CONNRESET) => Err(Error::PeerGone),
        Err(e) => Err(e.into()),
    }
}

/// Send a memory file; false if the socket is full.
///
/// # Errors
/// `PeerGone`, or `Os`: ETOOMANYREFS if this user has too many descriptors on their way, which may
/// be so for long: others' files.
pub fn send_file(fd: impl AsFd, file: BorrowedFd<'_>) -> Result<bool> {
    send_with(fd, FILE, &[file])
}

/// Throw away every packet that has arrived, descriptors included.
pub fn drain(fd: impl AsFd) {
    let mut byte = [0u8; 1];
    // 0 is a hang-up (packets are never empty); an error means nothing is left. A signal may cut
    // in.
    for _ in 0..MOST_PACKETS {
        match recv(&fd, &mut byte, RecvFlags::DONTWAIT) {
            Ok((n, _)) if n > 0 => (),
            Err(Errno::INTR | Errno::CONNRESET) => (),
            _ => break,
        }
    }
}

/// The same, but only what is ours: gives false if something that the program has sent is left at
/// the head.
///
/// # Errors
/// Those of [`peek`].
pub fn drain_ours(fd: impl AsFd) -> Result<bool> {
    for _ in 0..MOST_PACKETS {
        match peek(&fd)? {
            Packet::None => return Ok(true),
            Packet::Foreign => return Ok(false),
            Packet::Token | Packet::Fds(..) | Packet::File(_) => pop(&fd),
        }
    }
    Ok(true)
}

/// Send `fds` under the number `tag`; false if the socket is full. More than fit into a packet are
/// put into sockets of their own, and those are sent: so all can be looked at before any is taken.
///
/// # Errors
/// `TooLarge`: more than [`MAX_FDS`]; `PeerGone`, or `Os`.
pub fn send_fds(fd: impl AsFd, tag: u64, fds: &[BorrowedFd<'_>]) -> Result<bool> {
    if fds.len() <= PACKET_FDS {
        return send_packet(fd, tag, fds);
    }
    let mut carriers = Vec::new();
    for part in fds.chunks(PACKET_FDS) {
        let (sender, carrier) = pair()?;
        if !send_packet(&sender, tag, part)? {
            return Ok(false);
        }
        // What has been sent stays in the one when the other is closed.
        carriers.push(carrier);
    }
    let carriers: Vec<_> = carriers.iter().map(AsFd::as_fd).collect();
    send_packet(fd, tag, &carriers)
}

fn send_packet(fd: impl AsFd, tag: u64, fds: &[BorrowedFd<'_>]) -> Result<bool> {
    match send_with(fd, &tag.to_ne_bytes(), fds) {
        // As a rule others are about to be received.
        Err(Error::Os(Errno::TOOMANYREFS)) => Ok(false),
        sent => sent,
    }
}

fn send_with(fd: impl AsFd, bytes: &[u8], fds: &[BorrowedFd<'_>]) -> Result<bool> {
    if fds.len() > PACKET_FDS {
        return Err(Error::TooLarge);
    }
    let attempt = || {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(PACKET_FDS))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        // There is room for them.
        control.push(SendAncillaryMessage::ScmRights(fds));
        sendmsg(&fd, &[IoSlice::new(bytes)], &mut control, SendFlags::NOSIGNAL | SendFlags::DONTWAIT)
    };
    let mut sent = attempt();
    if sent == Err(Errno::TOOMANYREFS) {
        sent = limits::with_most_descriptors(attempt).unwrap_or(sent);
    }
    match sent {
        Ok(_) => Ok(true),
        Err(Errno::AGAIN) => Ok(false),
        Err(Errno::PIPE | Errno::CONNRESET) => Err(Error::PeerGone),
        Err(e) => Err(e.into()),
    }
}

/// The first packet, which stays where it is.
pub enum Packet {
    /// There is none.
    None,
    /// A ready packet, or a filler.
    Token,
    /// Descriptors under their tag: copies, for the packet still has its own.
    Fds(u64, Vec<OwnedFd>),
    /// A memory file: a copy likewise; None if there is no number for it.
    File(Option<OwnedFd>),
    /// What the program has sent by itself: `multiprocessing.reduction.send_handle` sends a
    /// descriptor with one byte.
    Foreign,
}

/// Look at the first packet.
///
/// # Errors
/// `Os`, EMFILE among them: nothing has been taken then.
pub fn peek(fd: impl AsFd) -> Result<Packet> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(PACKET_FDS))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    // One byte more than descriptors come with: a filler shows that it is none of those.
    let mut bytes = [0u8; FDS_BYTES as usize + 1];
    let flags = RecvFlags::PEEK | RecvFlags::DONTWAIT | RecvFlags::CMSG_CLOEXEC;
    let got = loop {
        match recvmsg(&fd, &mut [IoSliceMut::new(&mut bytes)], &mut control, flags) {
            Ok(got) => break got,
            // Told once, ahead of the packets, when the other end was closed with something unread.
            Err(Errno::CONNRESET) => (),
            Err(Errno::AGAIN) => return Ok(Packet::None),
            Err(e) => return Err(e.into()),
        }
    };
    let mut fds = || {
        let all = control.drain().filter_map(|m| match m {
            RecvAncillaryMessage::ScmRights(fds) => Some(fds),
            _ => None,
        });
        // One for which there is no number is as one that the kernel has left out.
        all.flatten().filter_map(|fd| standard::beside(fd).ok()).collect::<Vec<_>>()
    };
    match got.bytes {
        0 => Ok(Packet::None),
        8 => {
            let mut tag = [0u8; FDS_BYTES as usize];
            tag.copy_from_slice(&bytes[..FDS_BYTES as usize]);
            Ok(Packet::Fds(u64::from_ne_bytes(tag), fds()))
        }
        2 if bytes[..2] == *FILE => Ok(Packet::File(fds().pop())),
        // Where no number is left for its descriptor, its byte still tells.
        _ if bytes[0] != READY[0] => Ok(Packet::Foreign),
        _ => Ok(Packet::Token),
    }
}

/// Copies of the `count` descriptors that a message came with, given those of its packet. They stay
/// where they are.
///
/// # Errors
/// EMFILE if this process has no numbers left for them.
pub fn unpack(packet: Vec<OwnedFd>, count: usize) -> Result<Vec<OwnedFd>> {
    let mut fds = packet;
    if count > PACKET_FDS {
        let mut all = Vec::new();
        for carrier in &fds {
            if let Packet::Fds(_, part) = peek(carrier)? {
                all.extend(part);
            }
        }
        fds = all;
    }
    // The kernel leaves out those for which there is no number.
    if fds.len() == count { Ok(fds) } else { Err(Error::Os(Errno::MFILE)) }
}

/// The first packet, without its descriptors.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Head {
    /// There is none.
    None,
    /// A ready packet, or a filler: of so many bytes.
    Ready(u64),
    /// Descriptors under their tag.
    Fds(u64),
    /// A memory file.
    File,
    /// What the program has sent by itself.
    Foreign,
}

/// Bytes of a packet of descriptors, and of one with a memory file.
pub const FDS_BYTES: u64 = 8;
/// See there.
pub const FILE_BYTES: u64 = FILE.len() as u64;

/// Look at the first packet, but not at its descriptors.
pub fn head(fd: impl AsFd) -> Head {
    let mut bytes = [0u8; FDS_BYTES as usize];
    let flags = RecvFlags::PEEK | RecvFlags::DONTWAIT | RecvFlags::TRUNC;
    loop {
        return match rustix::net::recv(&fd, &mut bytes, flags) {
            Err(Errno::INTR | Errno::CONNRESET) => continue,
            Ok((_, 8)) => Head::Fds(u64::from_ne_bytes(bytes)),
            Ok((_, 2)) if bytes[..2] == *FILE => Head::File,
            Ok((_, n)) if n > 0 && bytes[0] == READY[0] => Head::Ready(n as u64),
            Ok((_, n)) if n > 0 => Head::Foreign,
            _ => Head::None,
        };
    }
}

/// Bytes that have arrived, in all packets; None if the kernel does not tell.
pub fn unread_bytes(fd: impl AsFd) -> Option<u64> {
    rustix::io::ioctl_fionread(fd).ok()
}

/// Does the kernel call it writable?
fn is_writable(fd: impl AsFd) -> bool {
    let mut fds = [PollFd::new(&fd, PollFlags::OUT)];
    matches!(poll(&mut fds, Some(&span(0))), Ok(1)) && fds[0].revents() == PollFlags::OUT
}

/// Is it to be filled? Not where nobody could find out what to take away again.
pub fn takes_fillers(fd: impl AsFd) -> bool {
    is_writable(&fd) && unread_bytes(&fd).is_some()
}

/// Send fillers until it is not writable any more. `sent` is told of each. A filler alone leaves it
/// writable: a ready packet has to come behind them.
pub fn fill(fd: impl AsFd, sent: impl Fn()) {
    /// What the kernel counts for a packet besides its bytes, at most, and rounding.
    const OVERHEAD: usize = 1024;
    let buffer = rustix::net::sockopt::socket_send_buffer_size(&fd).unwrap_or(0);
    // Two are a quarter. Of eight bytes it would be descriptors, and large ones the kernel refuses.
    let bytes = match (buffer / 8).saturating_sub(OVERHEAD).min(64 << 10) {
        0..=8 => 1,
        bytes => bytes,
    };
    let filler = vec![READY[0]; bytes];
    for _ in 0..(buffer / 2 / (bytes + OVERHEAD)).max(4) {
        if send(&fd, &filler, SendFlags::NOSIGNAL | SendFlags::DONTWAIT).is_err() {
            break;
        }
        sent();
        if !is_writable(&fd) {
            break;
        }
    }
}

/// Throw away the first packet.
pub fn pop(fd: impl AsFd) {
    let mut byte = [0u8; 1];
    while matches!(recv(&fd, &mut byte, RecvFlags::DONTWAIT), Err(Errno::INTR | Errno::CONNRESET)) {}
}

/// What a look at an end shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Seen {
    /// A packet waits.
    pub readable: bool,
    /// Every copy of the other end is closed.
    pub hung_up: bool,
}

/// Wait until a packet or a hang-up comes, or until `until` (monotonic, nanoseconds; 0: just look).
///
/// # Errors
/// `Interrupted` by a signal.
pub fn wait(fd: impl AsFd, until: u64) -> Result<Seen> {
    wait_for(fd, PollFlags::IN, until)
}

/// The same, for a hang-up alone.
///
/// # Errors
/// `Interrupted` by a signal.
pub fn wait_for_hang_up(fd: impl AsFd, until: u64) -> Result<Seen> {
    wait_for(fd, PollFlags::empty(), until)
}

/// Is every copy of the other end closed?
pub fn hung_up(fd: impl AsFd) -> bool {
    wait_for_hang_up(fd, 0).is_ok_and(|seen| seen.hung_up)
}

fn wait_for(fd: impl AsFd, events: PollFlags, until: u64) -> Result<Seen> {
    let left = if until == 0 { 0 } else { until.saturating_sub(now()) };
    let mut fds = [PollFd::new(&fd, events)];
    poll(&mut fds, Some(&span(left)))?;
    let seen = fds[0].revents();
    Ok(Seen { readable: seen.contains(PollFlags::IN), hung_up: seen.intersects(PollFlags::HUP | PollFlags::ERR) })
}
