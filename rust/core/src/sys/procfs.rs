//! The one `/proc` that this process believes.
//!
//! What stands under `/proc/PID` is about the processes of the pid namespace for which that `/proc`
//! was mounted. In another one the same number is another process. So a `/proc` is trusted only
//! after this process has found itself in it, under one number: its own entry's `NSpid` lists the
//! numbers that it has from the mount's namespace down to its own, and one means that they are the
//! same. The number must be its own pid.
//!
//! The directory found so is kept as a descriptor. A change of root, of mounts, of the mount
//! namespace, or whatever else is done to the path `/proc` changes nothing then. Each file that is
//! opened through it must be of the same file system, and tell of the process that was asked for: a
//! mount on top of it, and a number that the program has closed and that is another file's now, are
//! found out. A process that has lost its descriptor looks for another, a second after the last.
//!
//! A process never changes its pid namespace. A forked child shares that of its parent, and so its
//! trust, unless its parent has no pid there (see `owner`): then it forgets and looks for itself.
//! Before anybody is declared dead the trust is put to the test once more ([`is_sound`]): a raw
//! `clone` reaches a new namespace without any fork handler.
#![allow(unsafe_code)]

use std::ffi::CStr;
use std::io::{Read, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, IntoRawFd, OwnedFd};
use std::sync::atomic::{AtomicU64, Ordering};

use rustix::fs::{CWD, FileType, Mode, OFlags, fstat, fstatfs, openat, readlinkat};
use rustix::io::Errno;
use rustix::process::getpid;

use super::standard;
use crate::deadline::now;

/// The trusted directory: the device in the high half, the descriptor + 1 in the low one; 0: none.
/// One word, so that a thread never sees half of it. Relaxed throughout: it leads to nothing else
/// in memory.
static TRUSTED: AtomicU64 = AtomicU64::new(0);
/// When it was last looked for in vain.
static SOUGHT: AtomicU64 = AtomicU64::new(0);
/// Nanoseconds between two searches.
const AGAIN: u64 = 1_000_000_000;

/// `PROC_SUPER_MAGIC`.
const MAGIC: u64 = 0x9fa0;
/// The inode of the first time namespace, which is the same on every kernel that has them.
const FIRST_TIME_NAMESPACE: u64 = 0xefff_fffa;

/// A directory of the proc file system.
pub(super) struct Proc {
    dir: Dir,
    device: u64,
}

enum Dir {
    /// The trusted one, which stays open.
    Kept(BorrowedFd<'static>),
    New(OwnedFd),
}

impl AsFd for Dir {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Dir::Kept(fd) => *fd,
            Dir::New(fd) => fd.as_fd(),
        }
    }
}

/// What `/proc/PID/stat` says of a process.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Stat {
    pub pid: u32,
    pub state: u8,
    pub flags: u64,
    pub threads: u64,
    /// In clock ticks since the system started.
    pub start: u64,
    /// The address at which the stack of its program starts; 0: not to be seen.
    pub stack: u64,
}

impl Stat {
    /// Forked, and no exec since: the kernel's `PF_FORKNOEXEC`.
    pub fn is_forked(&self) -> bool {
        self.flags & 0x40 != 0
    }

    /// Has the last of its threads ended? A main thread that has ended is shown as a zombie while
    /// others run on.
    pub fn has_ended(&self) -> bool {
        matches!(self.state, b'Z' | b'X') && self.threads <= 1
    }

    /// Is the last of its threads ending: the kernel's `PF_EXITING`? While others run on, the main
    /// thread's end says nothing.
    pub fn is_ending(&self) -> bool {
        self.flags & 0x4 != 0 && self.threads <= 1
    }

    /// Fields 1, 3, 9, 20, 22 and 28; the name in field 2 may hold anything, parentheses too.
    fn parse(stat: &[u8]) -> Option<Stat> {
        let name_end = stat.iter().rposition(|&b| b == b')')?;
        let (before, rest) = stat.split_at(name_end + 1);
        let pid = std::str::from_utf8(before.split(|&b| b == b' ').next()?).ok()?.parse().ok()?;
        let mut fields = std::str::from_utf8(rest).ok()?.split_ascii_whitespace();
        let state = *fields.next()?.as_bytes().first()?;
        let flags = fields.nth(5)?.parse().ok()?;
        let threads = fields.nth(10)?.parse().ok()?;
        let start = fields.nth(1)?.parse().ok()?;
        let stack = fields.nth(5).and_then(|field| field.parse().ok()).unwrap_or(0);
        Some(Stat { pid, state, flags, threads, start, stack })
    }
}

impl Proc {
    /// A file of it.
    fn open(&self, path: &CStr) -> rustix::io::Result<OwnedFd> {
        let file = openat(&self.dir, path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?;
        match fstat(&file)?.st_dev == self.device {
            true => Ok(file),
            false => Err(Errno::XDEV),
        }
    }

    /// Is it what it was? Else the program has closed it, and the number may be another file's.
    fn is_there(&self) -> bool {
        fstat(&self.dir).is_ok_and(|stat| {
            stat.st_dev == self.device && FileType::from_raw_mode(stat.st_mode) == FileType::Directory
        })
    }

    fn stat(&self, path: &CStr) -> rustix::io::Result<Stat> {
        let file = self.open(path)?;
        let mut stat = [0u8; 1024];
        let len = rustix::io::read(&file, &mut stat)?;
        Stat::parse(&stat[..len]).ok_or(Errno::INVAL)
    }

    /// This process's pid in the namespace of this `/proc`.
    fn own_number(&self) -> Option<u32> {
        readlinkat(&self.dir, c"self", Vec::new()).ok()?.to_str().ok()?.parse().ok()
    }

    /// This process, whosever namespace this `/proc` shows.
    pub fn own_stat(&self) -> Option<Stat> {
        let stat = self.stat(c"self/stat").ok()?;
        (Some(stat.pid) == self.own_number()).then_some(stat)
    }

    /// The inode of this process's pid namespace, whosever this `/proc` shows.
    pub fn pid_namespace(&self) -> Option<u64> {
        self.namespace(c"thread-self/ns/pid", c"self/ns/pid").ok()
    }

    /// Are start times shown to this process as they are to most? In a time namespace of its own
    /// they are not.
    pub fn has_common_time(&self) -> bool {
        match self.namespace(c"thread-self/ns/time", c"self/ns/time") {
            Ok(inode) => inode == FIRST_TIME_NAMESPACE,
            // A kernel without such namespaces.
            Err(Errno::NOENT) => self.namespace(c"thread-self/ns/pid", c"self/ns/pid").is_ok(),
            Err(_) => false,
        }
    }

    /// The calling thread's; or the process's, on a kernel that does not tell the threads apart.
    /// Read off the link and not followed: not every system (gVisor) has a file behind it.
    fn namespace(&self, of_thread: &CStr, of_process: &CStr) -> rustix::io::Result<u64> {
        let read = |path| readlinkat(&self.dir, path, Vec::new());
        let link = match read(of_thread) {
            Err(Errno::NOENT) => read(of_process)?,
            found => found?,
        };
        inode(link.as_bytes()).ok_or(Errno::INVAL)
    }

    /// Is it of this process's own pid namespace? None: it cannot be read now.
    fn is_ours(&self) -> Option<bool> {
        let mut status = Vec::new();
        std::fs::File::from(self.open(c"self/status").ok()?).read_to_end(&mut status).ok()?;
        Some(match numbers(&status) {
            Some(numbers) => numbers == [own_pid()],
            // A kernel without pid namespaces says nothing of them anywhere.
            None => self.pid_namespace().is_none() && self.own_number() == Some(own_pid()),
        })
    }
}

fn own_pid() -> u32 {
    getpid().as_raw_nonzero().get() as u32
}

/// Of `pid:[4026531836]`.
fn inode(link: &[u8]) -> Option<u64> {
    std::str::from_utf8(link).ok()?.split_once(":[")?.1.strip_suffix(']')?.parse().ok()
}

/// The numbers of `NSpid` in a `status` file; None: it has no such line.
fn numbers(status: &[u8]) -> Option<Vec<u32>> {
    let line = status.split(|&b| b == b'\n').find_map(|line| line.strip_prefix(b"NSpid:"))?;
    // What is no number makes the list one that is nobody's.
    let text = std::str::from_utf8(line).unwrap_or("");
    Some(text.split_ascii_whitespace().map(|number| number.parse().unwrap_or(0)).collect())
}

/// `/proc`, whosever it is, if it is a proc file system at all.
fn open_path() -> Option<Proc> {
    let dir = openat(CWD, c"/proc", OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty()).ok()?;
    let dir = standard::beside(dir).ok()?;
    // The sign and width of the field depend on the machine.
    if fstatfs(&dir).ok()?.f_type as u64 != MAGIC {
        return None;
    }
    let device = fstat(&dir).ok()?.st_dev;
    // It has to fit in half a word. Devices of such file systems are small numbers.
    (device >> 32 == 0).then_some(Proc { dir: Dir::New(dir), device })
}

fn trusted() -> Option<Proc> {
    let word = TRUSTED.load(Ordering::Relaxed);
    let number = (word as u32).checked_sub(1)?;
    // SAFETY: not -1. The program may have closed it: whatever is behind the number then, it is
    // only asked what it is, and what is opened through it is checked (`open`).
    let dir = unsafe { BorrowedFd::borrow_raw(number as i32) };
    Some(Proc { dir: Dir::Kept(dir), device: word >> 32 })
}

/// The trusted one if it is there, else the one at `/proc`, which is trusted from now on if it is
/// this process's.
pub(super) fn find() -> Option<Proc> {
    let lost = TRUSTED.load(Ordering::Relaxed);
    if let Some(proc) = trusted().filter(Proc::is_there) {
        return Some(proc);
    }
    let proc = open_path()?;
    if proc.is_ours() != Some(true) {
        return Some(proc);
    }
    let Dir::New(dir) = proc.dir else { return Some(proc) };
    let word = proc.device << 32 | (dir.as_raw_fd() as u64 + 1);
    // If another thread was quicker, its choice is as good.
    if TRUSTED.compare_exchange(lost, word, Ordering::Relaxed, Ordering::Relaxed).is_ok() {
        let _kept = dir.into_raw_fd();
    }
    trusted()
}

/// `find`, a while after the last time, and no other than a trusted one.
fn find_again() -> Option<Proc> {
    let (now, last) = (now(), SOUGHT.load(Ordering::Relaxed));
    if now.saturating_sub(last) < AGAIN
        || SOUGHT.compare_exchange(last, now, Ordering::Relaxed, Ordering::Relaxed).is_err()
    {
        return None;
    }
    find().filter(|proc| matches!(proc.dir, Dir::Kept(_)))
}

/// The process that has this pid now, if it can be seen.
pub(super) fn stat(pid: u32) -> Option<Stat> {
    let mut path = [0u8; 24];
    // Room for 10 digits, and a zero is left at the end.
    write!(&mut path[..23], "{pid}/stat").ok()?;
    let path = CStr::from_bytes_until_nul(&path).ok()?;
    let stat = match trusted() {
        // Gone, hidden, or no descriptor left to look with; or it is the directory that is not
        // there.
        Some(proc) => match proc.stat(path) {
            Err(_) if !proc.is_there() => find_again()?.stat(path),
            seen => seen,
        },
        None => find_again()?.stat(path),
    };
    stat.ok().filter(|stat| stat.pid == pid)
}

/// Is what is trusted still of this process's namespace, as far as can be said?
pub(super) fn is_sound() -> bool {
    trusted().and_then(|proc| proc.is_ours()) != Some(false)
}

/// When this process started, as it is shown now.
pub(super) fn own_start() -> Option<u64> {
    Some(trusted()?.own_stat()?.start)
}

/// The file behind one of this thread's descriptors, opened anew. By any `/proc`, for it is this
/// thread's own; whoever asks sees to it that it is the same file.
pub(super) fn reopen(fd: BorrowedFd<'_>, how: OFlags) -> rustix::io::Result<OwnedFd> {
    let proc = find().ok_or(Errno::NOENT)?;
    // Of the calling thread, for the first one may have ended.
    let path = format!("thread-self/fd/{}", fd.as_raw_fd());
    standard::beside(openat(&proc.dir, path, how | OFlags::CLOEXEC, Mode::empty())?)
}

/// In a forked child that is in a namespace of its own: nothing is trusted, nor was sought.
pub(super) fn forget() {
    if let Some(proc) = trusted().filter(Proc::is_there)
        && let Dir::Kept(fd) = proc.dir
    {
        // SAFETY: this process's own copy of a descriptor that only this module uses, and it is
        // what this module opened.
        drop(unsafe { OwnedFd::from_raw_fd(fd.as_raw_fd()) });
    }
    TRUSTED.store(0, Ordering::Relaxed);
    SOUGHT.store(0, Ordering::Relaxed);
}

#[cfg(test)]
mod tests {
    use rustix::fs::statat;

    use super::*;

    #[test]
    fn stat_with_a_nasty_name() {
        let mut line = b"12 (a) b) S 1 2 3 4 5 64 7 8 9 10 11 12 13 14 15 16 7 18 4242 20 21 22 23 24 25 26".to_vec();
        let stat = Stat::parse(&line).expect("parses");
        assert_eq!((stat.pid, stat.state, stat.threads, stat.start, stat.stack), (12, b'S', 7, 4242, 25));
        assert!(stat.is_forked() && !stat.is_ending() && !stat.has_ended());
        line.truncate(line.len() - 16);
        assert_eq!(Stat::parse(&line).expect("parses").stack, 0, "it is not there");
        assert!(Stat::parse(b"12 (a) b) S 1").is_none() && Stat::parse(b"").is_none());
    }

    #[test]
    fn namespaces_by_their_links() {
        assert_eq!(inode(b"pid:[4026531836]"), Some(4_026_531_836));
        assert_eq!(inode(b"pid:[]").or(inode(b"pid")).or(inode(b"")), None);
        let proc = open_path().expect("this test needs a /proc");
        let inode = statat(&proc.dir, c"self/ns/pid", rustix::fs::AtFlags::empty()).expect("it is there").st_ino;
        assert_eq!(proc.pid_namespace(), Some(inode));
    }

    #[test]
    fn numbers_of_a_status() {
        assert_eq!(
            numbers(
                b"Name:	x
NSpid:	7
NSpgid:	7
"
            ),
            Some(vec![7])
        );
        assert_eq!(
            numbers(
                b"NSpid:	20001	1
"
            ),
            Some(vec![20001, 1]),
            "seen from outside"
        );
        assert_eq!(
            numbers(
                b"NSpid:
"
            ),
            Some(vec![])
        );
        assert_eq!(
            numbers(
                b"NSpid:	x
"
            ),
            Some(vec![0])
        );
        assert_eq!(
            numbers(
                b"Name:	NSpid: 7
"
            ),
            None
        );
    }
}
