//! Descriptors that stay open as long as this process lives, and so tell others of its death.
//!
//! A forked child that kept a copy would have them wait for its own death, too: so it closes these
//! first of all, before anything else runs there, but for the one that the forking thread has made
//! for it. A lock is held from before a new one is made until it is in the list, and over each fork:
//! no child has one that the list does not say.
//!
//! Beside each number stands the inode: who daemonizes closes every descriptor, and the number is
//! another file's then.
#![allow(unsafe_code)]

use std::cell::RefCell;
use std::mem::ManuallyDrop;
use std::os::fd::{AsRawFd, IntoRawFd, OwnedFd, RawFd};
use std::sync::{Mutex, MutexGuard, PoisonError};

use rustix::event::{PollFd, PollFlags, poll};
use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};
use rustix::process::{Signal, getpid, kill_process};

use super::fork::{AtFork, Registration};
use super::standard;
use super::starting::{close_same, inode, lent, pipe, this_thread};
use crate::error::Result;

struct Lifeline {
    fd: RawFd,
    file: u64,
    /// The thread that is about to fork the child whose own it will be.
    forks: Option<u64>,
}

static KEPT: Mutex<Vec<Lifeline>> = Mutex::new(Vec::new());
static FORKS: Registration = Registration::new();

thread_local! {
    /// What the thread that forks holds over the fork.
    static HELD: RefCell<Option<MutexGuard<'static, Vec<Lifeline>>>> = const { RefCell::new(None) };
}

fn kept() -> MutexGuard<'static, Vec<Lifeline>> {
    FORKS.ensure::<Forking>();
    KEPT.lock().unwrap_or_else(PoisonError::into_inner)
}

struct Forking;

impl AtFork for Forking {
    fn before() {
        let kept = kept();
        HELD.with(|held| *held.borrow_mut() = Some(kept));
    }

    fn in_parent() {
        HELD.with(|held| drop(held.borrow_mut().take()));
    }

    fn in_child() {
        HELD.with(|held| {
            let Some(mut kept) = held.borrow_mut().take() else { return };
            let me = this_thread();
            kept.retain_mut(|lifeline| {
                let own = lifeline.forks.take() == Some(me);
                if !own {
                    close_same(lifeline.fd, lifeline.file);
                }
                own
            });
        });
    }
}

/// A lifeline that is closed with this value, if it is one still.
pub struct Kept {
    fd: RawFd,
    file: u64,
}

impl Kept {
    /// Its number.
    pub fn number(&self) -> RawFd {
        self.fd
    }

    fn into_number(self) -> RawFd {
        ManuallyDrop::new(self).fd
    }

    /// The next child that this thread forks has it, and is the only one.
    pub fn give_to_next_child(&self) {
        let mut kept = kept();
        if let Some(lifeline) = kept.iter_mut().find(|lifeline| (lifeline.fd, lifeline.file) == (self.fd, self.file)) {
            lifeline.forks = Some(this_thread());
        }
    }
}

impl Drop for Kept {
    fn drop(&mut self) {
        close_if(|lifeline| (lifeline.fd, lifeline.file) == (self.fd, self.file));
    }
}

/// The two pipes of a child that is about to be started.
pub struct Both {
    /// Becomes readable when the child ends.
    pub told: OwnedFd,
    /// What the child alone keeps.
    pub childs: Kept,
    /// Becomes readable when this process ends.
    pub parent_sentinel: OwnedFd,
    /// A lifeline of this process.
    pub lifeline: Kept,
}

/// Make an end that becomes readable when this process ends, and its lifeline.
///
/// # Errors
/// `Os`: no descriptors are to be had.
pub fn make() -> Result<(OwnedFd, RawFd)> {
    let mut kept = kept();
    let (told, lifeline) = pipe()?;
    Ok((told, keep_in(&mut kept, lifeline)?.into_number()))
}

/// Make what a child needs. Who forks it gives it `childs` by [`Kept::give_to_next_child`].
///
/// # Errors
/// As [`make`].
pub fn make_both() -> Result<Both> {
    let mut kept = kept();
    let (told, childs) = pipe()?;
    let (parent_sentinel, lifeline) = pipe()?;
    let lifeline = keep_in(&mut kept, lifeline)?;
    let childs = keep_in(&mut kept, childs);
    drop(kept); // to drop a lifeline takes the lock
    let childs = childs?;
    Ok(Both { told, childs, parent_sentinel, lifeline })
}

/// Make a connected pair of packet sockets, the first a lifeline of this process.
///
/// # Errors
/// As [`make`].
pub fn make_line() -> Result<(RawFd, OwnedFd)> {
    let mut kept = kept();
    let pair = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?;
    let (mine, other) = standard::both_beside(pair)?;
    Ok((keep_in(&mut kept, mine)?.into_number(), other))
}

fn keep_in(kept: &mut Vec<Lifeline>, fd: OwnedFd) -> Result<Kept> {
    let file = inode(fd.as_raw_fd())?;
    let fd = fd.into_raw_fd();
    add(kept, fd, file);
    Ok(Kept { fd, file })
}

/// Make `fd` a lifeline of this process: no child forked from now on has it.
///
/// # Errors
/// `Os` (EBADF) if it is not open.
pub fn keep(fd: RawFd) -> Result<()> {
    let mut kept = kept();
    let file = inode(fd)?;
    add(&mut kept, fd, file);
    Ok(())
}

fn add(kept: &mut Vec<Lifeline>, fd: RawFd, file: u64) {
    kept.retain(|lifeline| lifeline.fd != fd); // somebody has closed that one
    kept.push(Lifeline { fd, file, forks: None });
}

/// Let children that are forked from now on have `fd` as well.
pub fn share(fd: RawFd) {
    kept().retain(|lifeline| lifeline.fd != fd);
}

/// Close a lifeline, if it is one still: whether it was.
pub fn close(fd: RawFd) -> bool {
    close_if(|lifeline| lifeline.fd == fd)
}

fn close_if(is_it: impl Fn(&Lifeline) -> bool) -> bool {
    // The lock is held: a child must not close a number that is somebody else's by now.
    let mut kept = kept();
    let Some(at) = kept.iter().position(is_it) else { return false };
    let Lifeline { fd, file, .. } = kept.swap_remove(at);
    close_same(fd, file)
}

/// Have this process killed when the process ends whose lifeline `told` is about.
///
/// By the kernel, in the very moment in which the last lifeline closes, whatever this process is
/// doing. It is the end of the *process* that counts: a thread that started this one may end. Where
/// the kernel refuses (seccomp) this process lives on. `told` does not survive an exec: the program
/// that this process becomes is not killed, unless a child that it has forked before, by `os.fork`,
/// has the pipe still.
pub fn die_with(told: RawFd) {
    // SAFETY: three settings of a descriptor, with numbers as arguments; an error changes nothing.
    let refused = unsafe {
        libc::fcntl(told, libc::F_SETOWN, libc::getpid()) < 0
            || libc::fcntl(told, F_SETSIG, libc::SIGKILL) < 0
            || libc::fcntl(told, libc::F_SETFL, libc::fcntl(told, libc::F_GETFL) | libc::O_ASYNC) < 0
    };
    let Ok(told) = lent(told) else { return };
    let mut fds = [PollFd::from_borrowed_fd(told, PollFlags::IN)];
    let now = rustix::event::Timespec { tv_sec: 0, tv_nsec: 0 };
    if !refused && poll(&mut fds, Some(&now)).is_ok_and(|ended| ended > 0) {
        // It had ended before.
        let _ = kill_process(getpid(), Signal::KILL);
    }
}

/// Linux's: `libc` has no name for it on every target.
const F_SETSIG: libc::c_int = 10;

#[cfg(test)]
#[cfg(not(miri))]
mod tests {
    use super::*;

    fn hung_up(told: &OwnedFd, seconds: i64) -> bool {
        let mut fds = [PollFd::new(told, PollFlags::IN)];
        let limit = rustix::event::Timespec { tv_sec: seconds, tv_nsec: 0 };
        poll(&mut fds, Some(&limit)).is_ok_and(|n| n == 1)
    }

    #[test]
    fn a_child_has_the_lifeline_that_was_made_for_it_and_no_other() -> Result<()> {
        let (other, before) = make()?;
        let both = make_both()?;
        both.childs.give_to_next_child();
        let others = make_both()?;
        let (shared, kept) = make()?;
        share(kept);
        // SAFETY: the child looks at descriptors and ends.
        let pid = unsafe { libc::fork() };
        if pid == 0 {
            let open = |fd| inode(fd).is_ok();
            let (childs, lifeline) = (both.childs.number(), both.lifeline.number());
            let right = open(childs) && open(kept) && !open(lifeline) && !open(before);
            let right = right && !open(others.childs.number());
            // SAFETY: ends the process.
            unsafe { libc::_exit(if right { 0 } else { 1 }) };
        }
        let mut status = -1;
        // SAFETY: writes to a local.
        assert_eq!(unsafe { libc::waitpid(pid, &mut status, 0) }, pid);
        assert_eq!(status, 0, "in the child");
        let before = Kept { fd: before, file: inode(before)? };
        for (told, lifeline) in [(other, before), (both.parent_sentinel, both.lifeline), (both.told, both.childs)] {
            assert!(!hung_up(&told, 0));
            drop(lifeline);
            assert!(hung_up(&told, 30)); // others' children may just be there
        }
        close(kept); // one no more: it stays open
        assert!(!hung_up(&shared, 0));
        super::super::starting::close(kept);
        Ok(())
    }

    #[test]
    fn a_number_that_is_another_files_by_now_is_no_lifeline() -> Result<()> {
        let (_told, stale) = make()?;
        share(stale); // or the child would close it
        // SAFETY: the child has its descriptors to itself, and ends.
        let pid = unsafe { libc::fork() };
        if pid == 0 {
            let kept = keep(stale).is_ok();
            // SAFETY: as who closes every descriptor does, and opens others then.
            let replaced = unsafe { libc::dup2(libc::open(c"/dev/null".as_ptr(), 0), stale) } == stale;
            let right = kept && replaced && !close(stale) && inode(stale).is_ok();
            // SAFETY: ends the process.
            unsafe { libc::_exit(if right { 0 } else { 1 }) };
        }
        let mut status = -1;
        // SAFETY: writes to a local.
        assert_eq!(unsafe { libc::waitpid(pid, &mut status, 0) }, pid);
        assert_eq!(status, 0, "in the child");
        super::super::starting::close(stale);
        Ok(())
    }
}
