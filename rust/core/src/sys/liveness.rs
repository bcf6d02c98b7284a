//! Who holds a lock, and is it certainly dead?
//!
//! An [`Owner`] fits beside two flag bits in one 64-bit word: process id, start time and namespaces, so that a
//! reused pid is not taken for the holder. Liveness has three answers and *unknown counts as alive*: only
//! proof makes dead. Proof is: no such process (ESRCH) in the namespace where the pid was given; a zombie whose whole
//! thread group has ended; or, in that namespace, a process with another start time. EPERM, a hidden,
//! missing or foreign `/proc`, exhausted descriptors and foreign namespaces prove nothing.

use std::ffi::CStr;
use std::fs;
use std::io::Write;
use std::os::linux::fs::MetadataExt;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::process::{Pid, WaitId, WaitIdOptions, getpid, test_kill_process, waitid};

use super::fork::{self, AtFork, Registration};

/// The identity of a process, or nobody. Bits of the word, from the lowest:
///
/// | bits | what |
/// |---|---|
/// | 0-1 | left to the lock's flags, 0 here |
/// | 2-23 | pid (the kernel's maximum is 2^22) |
/// | 24-47 | start time, in clock ticks, its low 24 bits; 0: unknown |
/// | 48-63 | pid and time namespace, folded; 0: unknown |
///
/// The low half, which a futex can see, has the pid and 8 bits of the start time.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Owner(u64);

const PID_SHIFT: u32 = 2;
const PID_MASK: u64 = (1 << 22) - 1;
const START_SHIFT: u32 = 24;
const START_MASK: u64 = (1 << 24) - 1;
const SPACE_SHIFT: u32 = 48;

impl Owner {
    /// The bits that an owner may use.
    pub const MASK: u64 = !0b11;

    /// The owner that a lock word names, if any.
    #[inline]
    pub fn in_word(word: u64) -> Option<Owner> {
        match word & Self::MASK {
            0 => None,
            owner => Some(Owner(owner)),
        }
    }

    /// As it stands in a lock word.
    #[inline]
    pub fn word(self) -> u64 {
        self.0
    }

    /// An owner from its parts.
    pub fn new(pid: u32, start: u64, space: u16) -> Owner {
        Owner(
            (u64::from(pid) & PID_MASK) << PID_SHIFT
                | (start & START_MASK) << START_SHIFT
                | u64::from(space) << SPACE_SHIFT,
        )
    }

    /// Process id, in the owner's own namespace.
    pub fn pid(self) -> u32 {
        (self.0 >> PID_SHIFT & PID_MASK) as u32
    }

    fn start(self) -> u64 {
        self.0 >> START_SHIFT & START_MASK
    }

    fn space(self) -> u16 {
        (self.0 >> SPACE_SHIFT) as u16
    }
}

static ME: AtomicU64 = AtomicU64::new(0);
/// Does `/proc` show this process's own pid namespace? Asked once a process.
static PROC_KNOWN: AtomicBool = AtomicBool::new(false);
static PROC_OURS: AtomicBool = AtomicBool::new(false);

/// This process. Cached, and made anew in a forked child.
#[inline]
pub fn me() -> Owner {
    match ME.load(Ordering::Relaxed) {
        0 => identify(),
        word => Owner(word),
    }
}

#[cold]
fn identify() -> Owner {
    FORKS.ensure::<Identity>();
    let pid = getpid().as_raw_nonzero().get() as u32;
    // Of ourselves `/proc/self` tells the truth whatever namespace `/proc` shows.
    let start = fs::read("/proc/self/stat").ok().and_then(|s| parse_stat(&s)).map_or(0, |s| s.start);
    let me = Owner::new(pid, start, space());
    ME.store(me.word(), Ordering::Relaxed);
    me
}

static FORKS: Registration = Registration::new();
struct Identity;

impl AtFork for Identity {
    fn in_child() {
        ME.store(0, Ordering::Relaxed);
        PROC_KNOWN.store(false, Ordering::Relaxed);
    }
}

/// The pid namespace and the time namespace (start times are shown relative to the reader's), folded into 16 bits.
/// Namespace inodes count up from a base, so that low bits tell them apart.
fn space() -> u16 {
    let inode = |name| fs::metadata(name).map(|m| m.st_ino());
    let Ok(pid) = inode("/proc/self/ns/pid") else { return 0 };
    let time = inode("/proc/self/ns/time").unwrap_or(0);
    match (pid ^ time.wrapping_mul(31)) as u16 {
        0 => 1,
        space => space,
    }
}

fn proc_is_ours() -> bool {
    if !PROC_KNOWN.load(Ordering::Acquire) {
        let ours = fs::read_link("/proc/self")
            .ok()
            .and_then(|p| p.to_str().and_then(|s| s.parse::<u32>().ok()))
            .is_some_and(|pid| pid == getpid().as_raw_nonzero().get() as u32);
        PROC_OURS.store(ours, Ordering::Relaxed);
        PROC_KNOWN.store(true, Ordering::Release);
    }
    PROC_OURS.load(Ordering::Relaxed)
}

/// Is `owner` proved dead by cheap system calls? False proves nothing: another process's zombie looks alive to them.
pub fn is_dead_quick(owner: Owner) -> bool {
    let me = me();
    if owner == me || owner.space() == 0 || owner.space() != me.space() {
        return false;
    }
    match Pid::from_raw(owner.pid() as i32) {
        Some(pid) => {
            // Of a child of ours that nobody has waited for: reported when its whole group has ended, and still to be waited for.
            let ended = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
            test_kill_process(pid) == Err(Errno::SRCH) || matches!(waitid(WaitId::Pid(pid), ended), Ok(Some(_)))
        }
        None => false,
    }
}

/// Could `owner` be proved dead from here at all?
pub fn is_local(owner: Owner) -> bool {
    owner.space() != 0 && owner.space() == me().space()
}

/// What a look at an owner shows.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Liveness {
    /// Proved dead.
    Dead,
    /// On its way out: worth another look soon.
    Dying,
    /// Alive, or nothing is proved.
    Unknown,
}

/// Is `owner` proved dead? A few system calls.
pub fn is_dead(owner: Owner) -> bool {
    probe(owner) == Liveness::Dead
}

/// How is `owner`? A few system calls.
pub fn probe(owner: Owner) -> Liveness {
    let dead = |proved| if proved { Liveness::Dead } else { Liveness::Unknown };
    let me = me();
    // A pid means something only in the namespace where it was given.
    if owner == me || owner.space() == 0 || owner.space() != me.space() {
        return Liveness::Unknown;
    }
    if !proc_is_ours() {
        return dead(is_dead_quick(owner));
    }
    match read_stat(owner.pid()) {
        Ok(None) => dead(is_dead_quick(owner)),
        Ok(Some(stat)) => {
            let reused = owner.start() != 0 && stat.start & START_MASK != owner.start();
            // A group leader that has ended is shown as a zombie while its threads run on.
            let ended = matches!(stat.state, b'Z' | b'X') && stat.threads <= 1;
            match dead(reused || ended) {
                Liveness::Unknown if stat.exiting => Liveness::Dying,
                seen => seen,
            }
        }
        // Gone, hidden, or no descriptor left to look with: the other question needs none.
        Err(_) => dead(is_dead_quick(owner)),
    }
}

/// Three system calls: who waits for a lock does this some twenty times a second.
fn read_stat(pid: u32) -> rustix::io::Result<Option<Stat>> {
    let mut path = [0u8; 32];
    let mut rest = &mut path[..];
    // Room for 10 digits, and the zero at the end.
    let _ = write!(rest, "/proc/{pid}/stat");
    let Ok(path) = CStr::from_bytes_until_nul(&path) else { return Ok(None) };
    let file = rustix::fs::open(path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?;
    let mut stat = [0u8; 1024];
    let len = rustix::io::read(&file, &mut stat)?;
    Ok(parse_stat(&stat[..len]))
}

struct Stat {
    state: u8,
    exiting: bool,
    threads: u64,
    start: u64,
}

/// The kernel's PF_EXITING.
const EXITING: u64 = 4;

/// Fields 3, 9, 20 and 22 of `/proc/PID/stat`; the name in field 2 may hold anything, parentheses too.
fn parse_stat(stat: &[u8]) -> Option<Stat> {
    let name_end = stat.iter().rposition(|&b| b == b')')?;
    let rest = std::str::from_utf8(stat.get(name_end + 1..)?).ok()?;
    let mut fields = rest.split_ascii_whitespace();
    let state = *fields.next()?.as_bytes().first()?;
    let flags: u64 = fields.nth(5)?.parse().ok()?;
    let threads = fields.nth(10)?.parse().ok()?;
    let start = fields.nth(1)?.parse().ok()?;
    Some(Stat { state, exiting: flags & EXITING != 0, threads, start })
}

/// The calling thread's id, as the kernel numbers it.
#[inline]
pub fn thread_id() -> u32 {
    use std::cell::Cell;
    thread_local! {
        static ID: Cell<(u64, u32)> = const { Cell::new((0, 0)) };
    }
    let generation = fork::generation();
    ID.with(|id| match id.get() {
        (g, tid) if g == generation => tid,
        _ => {
            let tid = rustix::thread::gettid().as_raw_nonzero().get() as u32;
            id.set((generation, tid));
            tid
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_come_back() {
        let o = Owner::new(4_194_303, 0x1234_5678, 0xfeed);
        assert_eq!((o.pid(), o.start(), o.space()), (4_194_303, 0x34_5678, 0xfeed));
        assert_eq!(o.word() & !Owner::MASK, 0);
        assert_eq!(Owner::in_word(o.word() | 3), Some(o));
        assert_eq!(Owner::in_word(3), None);
    }

    #[test]
    fn stat_with_a_nasty_name() {
        let line = b"12 (a) b) S 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 7 18 4242 20";
        let s = parse_stat(line).expect("parses");
        assert_eq!((s.state, s.threads, s.start), (b'S', 7, 4242));
    }

    #[test]
    fn i_am_alive_and_a_stranger_proves_nothing() {
        let me = me();
        assert!(!is_dead(me));
        let foreign = Owner::new(4_000_000, 1, me.space() ^ 1);
        assert!(!is_dead(foreign), "another namespace");
        assert!(!is_dead(Owner::new(4_000_000, 1, 0)), "unknown namespace");
        assert!(is_dead(Owner::new(4_194_303, 1, me.space())), "no such pid");
        assert!(is_dead(Owner::new(me.pid(), me.start() + 1, me.space())), "my pid, used before");
        assert!(is_dead(Owner::new(1, me.start() + 1, me.space())), "a reused pid");
    }
}
