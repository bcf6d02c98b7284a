//! What starting a process asks of the kernel besides the fork. Each of these is one call from
//! Python, since there every object that is made on the way costs a page in the new process.
#![allow(unsafe_code)]

use std::io::{IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

use rustix::fs::{FileType, MemfdFlags, fstat, ftruncate, makedev, memfd_create};
use rustix::io::Errno;
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags, recvmsg, sendmsg,
};
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::process::{Pid, PidfdFlags, WaitId, WaitIdOptions, getpid, pidfd_open, waitid};
use rustix::thread::gettid;

use super::socket::PACKET_FDS;
use super::standard;
use crate::error::{Error, Result};

/// Bytes of a packet, at most.
pub const PACKET: usize = 512;

/// The file behind a number, to be asked or called once.
pub(crate) fn lent(fd: RawFd) -> Result<BorrowedFd<'static>> {
    if fd < 0 {
        return Err(Error::Os(Errno::BADF));
    }
    // SAFETY: not -1. Whatever file it is takes the one call for which it is borrowed, or refuses.
    Ok(unsafe { BorrowedFd::borrow_raw(fd) })
}

/// The inode of the file behind this number.
///
/// # Errors
/// `Os` (EBADF) if there is none.
pub fn inode(fd: RawFd) -> Result<u64> {
    Ok(fstat(lent(fd)?)?.st_ino)
}

/// Is `/dev/null` behind this number?
pub fn is_null_device(fd: RawFd) -> bool {
    let null = makedev(1, 3); // for ever: the kernel's Documentation/admin-guide/devices.txt
    lent(fd)
        .and_then(|file| Ok(fstat(file)?))
        .is_ok_and(|seen| FileType::from_raw_mode(seen.st_mode) == FileType::CharacterDevice && seen.st_rdev == null)
}

/// The number by which the kernel knows this thread.
pub fn thread_id() -> i32 {
    gettid().as_raw_nonzero().get()
}

/// The number by which the C library knows this thread, and Python: the same in a forked child.
pub fn this_thread() -> u64 {
    // SAFETY: no more than a look at a register.
    unsafe { libc::pthread_self() as usize as u64 }
}

/// Close this number, which is the caller's.
pub fn close(fd: RawFd) {
    // SAFETY: the caller gives it up; what is not open is refused.
    unsafe { rustix::io::close(fd) };
}

/// End this process at once, as `_exit` does.
pub fn exit(code: i32) -> ! {
    // SAFETY: does not return, and runs nothing.
    unsafe { libc::_exit(code) }
}

/// Close this number, if that file is behind it still: whether it was.
pub fn close_same(fd: RawFd, file: u64) -> bool {
    let same = inode(fd) == Ok(file);
    if same {
        // SAFETY: open, and the caller gives up the number of that file.
        drop(unsafe { OwnedFd::from_raw_fd(fd) });
    }
    same
}

/// Empty a file: nobody finds anything there that has not read it yet.
pub fn empty(file: &OwnedFd) {
    // It is a memory file of this process's own: that cannot fail.
    let _ = ftruncate(file, 0);
}

/// A pipe, close-on-exec: the end to read from, and the one to write to.
///
/// # Errors
/// `Os` when descriptors have run out.
pub fn pipe() -> Result<(OwnedFd, OwnedFd)> {
    Ok(standard::both_beside(pipe_with(PipeFlags::CLOEXEC)?)?)
}

/// An empty file in memory, close-on-exec. The name is for who looks at it.
///
/// # Errors
/// `Os` when descriptors have run out.
pub fn data_file(name: &str) -> Result<OwnedFd> {
    Ok(standard::beside(memfd_create(name, MemfdFlags::CLOEXEC)?)?)
}

/// A pidfd of a child that has not been reaped; None if there are no pidfds, or if it may be
/// another process that has the number by now.
pub fn open_child(pid: i32) -> Option<OwnedFd> {
    let child = pidfd_open(Pid::from_raw(pid)?, PidfdFlags::empty()).ok()?;
    let options = WaitIdOptions::EXITED | WaitIdOptions::NOWAIT | WaitIdOptions::NOHANG;
    waitid(WaitId::PidFd(child.as_fd()), options).ok()?;
    standard::beside(child).ok()
}

/// How a child has ended: its exit code, or the number of the signal, negated. It stays to be
/// reaped. None while it runs, which is waited for if `wait`.
///
/// # Errors
/// `Interrupted`; `Os`: ECHILD if it has been reaped or is no child of this process.
pub fn ended(pidfd: RawFd, wait: bool) -> Result<Option<i32>> {
    let mut options = WaitIdOptions::EXITED | WaitIdOptions::NOWAIT;
    options.set(WaitIdOptions::NOHANG, !wait);
    match waitid(WaitId::PidFd(lent(pidfd)?), options) {
        Ok(seen) => Ok(seen.and_then(|seen| match seen.exit_status() {
            Some(code) => Some(code),
            None => seen.terminating_signal().map(|signal| -signal),
        })),
        Err(Errno::INTR) => Err(Error::Interrupted),
        Err(e) => Err(Error::Os(e)),
    }
}

/// Reap a child that has ended, if nobody has.
pub fn reap(pidfd: RawFd) {
    if let Ok(child) = lent(pidfd) {
        // What it says is known already, or that somebody else has been quicker.
        let _ = waitid(WaitId::PidFd(child), WaitIdOptions::EXITED | WaitIdOptions::NOHANG);
    }
}

/// Send a packet with these descriptors, at most [`PACKET_FDS`].
///
/// # Errors
/// `Interrupted`, `TooLarge`, or `Os`.
pub fn send(line: RawFd, packet: &[u8], fds: &[RawFd]) -> Result<()> {
    let fds = fds.iter().map(|&fd| lent(fd)).collect::<Result<Vec<_>>>()?;
    send_lent(lent(line)?, packet, &fds)
}

fn send_lent(line: BorrowedFd<'_>, packet: &[u8], fds: &[BorrowedFd<'_>]) -> Result<()> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(PACKET_FDS))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !fds.is_empty() && !control.push(SendAncillaryMessage::ScmRights(fds)) {
        return Err(Error::TooLarge);
    }
    match sendmsg(line, &[IoSlice::new(packet)], &mut control, SendFlags::NOSIGNAL) {
        Ok(_) => Ok(()),
        Err(Errno::INTR) => Err(Error::Interrupted),
        Err(e) => Err(Error::Os(e)),
    }
}

/// Send a packet with a pidfd of this process, if there are any.
///
/// # Errors
/// As [`send`].
pub fn send_self(line: RawFd, packet: &[u8]) -> Result<()> {
    match pidfd_open(getpid(), PidfdFlags::empty()) {
        Ok(me) => send_lent(lent(line)?, packet, &[me.as_fd()]),
        Err(_) => send_lent(lent(line)?, packet, &[]),
    }
}

/// A packet that has come in.
pub struct Received {
    /// Its bytes.
    pub bytes: [u8; PACKET],
    /// How many of them there are; 0 at a hang-up.
    pub len: usize,
    /// Its descriptors.
    pub fds: Vec<OwnedFd>,
    /// Some of those are missing: there was no number for them.
    pub short: bool,
}

/// Receive a packet.
///
/// # Errors
/// `Interrupted`, or `Os`: EAGAIN if there is none, and it is not to `wait`.
pub fn receive(line: RawFd, wait: bool) -> Result<Received> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(PACKET_FDS))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let mut bytes = [0; PACKET];
    let mut flags = RecvFlags::CMSG_CLOEXEC;
    flags.set(RecvFlags::DONTWAIT, !wait);
    let got = match recvmsg(lent(line)?, &mut [IoSliceMut::new(&mut bytes)], &mut control, flags) {
        Ok(got) => got,
        Err(Errno::INTR) => return Err(Error::Interrupted),
        Err(e) => return Err(Error::Os(e)),
    };
    let (mut fds, mut short) = (Vec::new(), got.flags.contains(ReturnFlags::CTRUNC));
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(some) = message {
            for fd in some.map(standard::beside) {
                short |= fd.is_err();
                fds.extend(fd);
            }
        }
    }
    Ok(Received { bytes, len: got.bytes.min(PACKET), fds, short })
}
