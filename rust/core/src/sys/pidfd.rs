//! What pidfds tell without a `/proc`. None of it is required: an old kernel (they came with 5.3)
//! or a filter refuses them, and then nothing is known.
#![allow(unsafe_code)]

use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

use rustix::event::{PollFd, PollFlags, poll};
use rustix::fs::{OFlags, fstat};
use rustix::process::{Pid, PidfdFlags, pidfd_open};

use crate::deadline::span;

/// `PIDFD_THREAD`: this one thread, for the main thread may have ended. Since 6.9.
const THREAD: PidfdFlags = PidfdFlags::from_bits_retain(OFlags::EXCL.bits());
/// `PIDFD_GET_PID_NAMESPACE`, `_IO(0xff, 5)`. Since 6.11.
const PID_NAMESPACE: libc::Ioctl = 0xff05;

/// The inode of this process's pid namespace.
pub fn pid_namespace() -> Option<u64> {
    let thread = pidfd_open(rustix::thread::gettid(), THREAD).ok()?;
    // SAFETY: this command takes no argument, and gives a new descriptor or -1.
    let namespace = unsafe {
        let fd = libc::ioctl(thread.as_raw_fd(), PID_NAMESPACE, 0);
        (fd >= 0).then(|| OwnedFd::from_raw_fd(fd))?
    };
    Some(fstat(&namespace).ok()?.st_ino)
}

/// Has the process that has this pid now ended, with all its threads? It may be a zombie still, and
/// anybody's child.
pub fn has_ended(pid: Pid) -> bool {
    let Ok(process) = pidfd_open(pid, PidfdFlags::empty()) else { return false };
    let mut fds = [PollFd::new(&process, PollFlags::IN)];
    poll(&mut fds, Some(&span(0))).is_ok() && fds[0].revents().contains(PollFlags::IN)
}
