//! Which process is this? The name that stands in a lock word, and how a process finds its own.
//!
//! An [`Owner`] fits beside two flag bits in one 64-bit word: process id, birth and pid namespace.
//! It is made once in a process, and once in each forked child. It never changes while the process
//! runs its program, for it stands in the words of what the process holds.
//!
//! # Birth
//! Tells a process from a later one with the same pid, and a program from the one that it replaced
//! by `exec`: the memory of the former is gone, so whatever it held counts as left behind. The
//! start time is the same before and after an `exec`. What else could tell, and why it was not
//! taken:
//!
//! - The kernel's `PF_FORKNOEXEC`, in `/proc/PID/stat` for everybody to read, is set by fork and
//!   cleared by exec. It settles the case of a forked process, for nothing: *taken*.
//! - The address at which the program's stack starts, random at each exec, in `/proc/PID/stat` for
//!   those who may look at the process (the same user, as a rule). For a program that had been
//!   exec'ed already when its identity was made: *taken*, 10 bits of a hash. What cannot be read
//!   proves nothing. With randomisation switched off two programs may look alike: then nothing is
//!   proved either. Only `PR_SET_MM`, made for restoring processes, changes it without an exec.
//! - The name and `/proc/PID/exe`: the same after a program has exec'ed itself.
//! - A robust futex: the kernel marks it at exec, but also when the *thread* ends that registered
//!   it.
//! - A hold token (a mapping that exec drops): a descriptor for each process, in each other one.
//!
//! # Namespace
//! A pid means something only in the pid namespace where it was given, so that the word names it.
//! It is found, the first that works,
//!
//! 1. by `/proc`: of this thread's own entry any `/proc` tells the truth, whosever it is. The
//!    thread's, for that of the process is empty once its main thread has ended.
//! 2. by pidfds, which tell it since Linux 6.11;
//! 3. by heritage: a forked child is in its parent's namespace if and only if the parent has a pid
//!    in the child's, which `getppid` says. (A process cannot leave its namespace. Its children may
//!    be born into another, below it, from which neither it nor who adopts them can be seen.)
//! 4. by drawing lots: 38 random bits that nobody else has, and that children inherit.
//!
//! # Time
//! Start times are shown by the time namespace of who looks. In any but the first one a process
//! leaves its start unknown, and proves nothing by another's.

use std::sync::atomic::{AtomicU64, Ordering};

use rustix::process::{getpid, getppid};

use super::fork::{self, AtFork, Registration};
use super::pidfd;
use super::procfs::{self, Stat};

/// The identity of a process, or nobody. Bits of the word, from the lowest:
///
/// | bits | what |
/// |---|---|
/// | 0-1 | left to the lock's flags, 0 here |
/// | 2-23 | pid (the kernel's maximum is 2^22) |
/// | 24-45 | birth, of the sort in the next two |
/// | 46-47 | 0: unknown; 1: forked; 2: exec'ed; 3: by lot |
/// | 48-63 | pid namespace, folded; 0: unknown |
///
/// | birth | its 22 bits, from the lowest |
/// |---|---|
/// | unknown | a random number of this program's run |
/// | forked, not exec'ed since | 22 of the start time, in clock ticks |
/// | exec'ed | 12 of the start time, 10 of where the stack starts (0: unknown) |
/// | by lot | random, like the namespace's 16; the same in forked children |
///
/// The low half, which a futex can see, has the pid and 8 bits of the birth.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Owner(u64);

const PID_SHIFT: u32 = 2;
const PID_MASK: u64 = (1 << 22) - 1;
const BIRTH_SHIFT: u32 = 24;
const BIRTH_MASK: u64 = (1 << 22) - 1;
const SORT_SHIFT: u32 = 46;
const SPACE_SHIFT: u32 = 48;
/// Of an exec'ed program's birth: the start time.
const START_BITS: u32 = 12;
const START_MASK: u64 = (1 << START_BITS) - 1;

const UNKNOWN: u64 = 0;
const FORKED: u64 = 1;
const EXECED: u64 = 2;
const BY_LOT: u64 = 3;

/// How a process that has an owner's pid is certainly not that owner.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Differs {
    /// It runs another program: proof by itself.
    Program,
    /// It started at another time: proof if times are shown as when the identity was made.
    Start,
}

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

    /// A forked process's, from its parts; `start` 0 is unknown.
    pub fn new(pid: u32, start: u64, space: u16) -> Owner {
        Self::with(pid, start, if start == 0 { UNKNOWN } else { FORKED }, space)
    }

    fn with(pid: u32, birth: u64, sort: u64, space: u16) -> Owner {
        Owner(
            (u64::from(pid) & PID_MASK) << PID_SHIFT
                | (birth & BIRTH_MASK) << BIRTH_SHIFT
                | sort << SORT_SHIFT
                | u64::from(space) << SPACE_SHIFT,
        )
    }

    /// That of the process `stat` shows.
    fn of(pid: u32, stat: &Stat, space: u16) -> Owner {
        match stat.is_forked() {
            true => Self::with(pid, stat.start, FORKED, space),
            false => Self::with(pid, stat.start & START_MASK | mark(stat.stack) << START_BITS, EXECED, space),
        }
    }

    /// Process id, in the owner's own namespace.
    pub fn pid(self) -> u32 {
        (self.0 >> PID_SHIFT & PID_MASK) as u32
    }

    fn birth(self) -> u64 {
        self.0 >> BIRTH_SHIFT & BIRTH_MASK
    }

    fn sort(self) -> u64 {
        self.0 >> SORT_SHIFT & 3
    }

    fn space(self) -> u16 {
        (self.0 >> SPACE_SHIFT) as u16
    }

    /// Does its pid mean the same here as to `other`?
    pub(super) fn is_beside(self, other: Owner) -> bool {
        let lots = (self.sort() == BY_LOT, other.sort() == BY_LOT);
        self.space() != 0
            && self.space() == other.space()
            && (lots == (false, false) || lots == (true, true) && self.birth() == other.birth())
    }

    /// In what the process `stat`, which has its pid now, is certainly not this one.
    pub(super) fn differs(self, stat: &Stat) -> Option<Differs> {
        let birth = self.birth();
        match self.sort() {
            // Its flag is gone: it has exec'ed; or it is another process, which has.
            FORKED if !stat.is_forked() => Some(Differs::Program),
            FORKED => (stat.start & BIRTH_MASK != birth).then_some(Differs::Start),
            // The flag of a process that has exec'ed never comes back.
            EXECED if stat.is_forked() => Some(Differs::Program),
            EXECED => {
                let (then, now) = (birth >> START_BITS, mark(stat.stack));
                if then != 0 && now != 0 && then != now {
                    return Some(Differs::Program);
                }
                (stat.start & START_MASK != birth & START_MASK).then_some(Differs::Start)
            }
            _ => None,
        }
    }
}

/// Where a stack starts, in 10 bits: 0 is unknown, and means nothing else.
fn mark(stack: u64) -> u64 {
    match stack {
        0 => 0,
        _ => 1 + stack.wrapping_mul(0x9e37_79b9_7f4a_7c15) % 1023,
    }
}

static ME: AtomicU64 = AtomicU64::new(0);
/// The identity of the process that this one was forked from, if both are in one namespace.
static HERITAGE: AtomicU64 = AtomicU64::new(0);
/// The pid namespace, by its inode. Inherited as `HERITAGE` is.
static PID_NAMESPACE: AtomicU64 = AtomicU64::new(0);
/// When this process started, as shown to it when its identity was made; 0: unknown.
static START: AtomicU64 = AtomicU64::new(0);

static FORKS: Registration = Registration::new();
struct Identity;

impl AtFork for Identity {
    fn in_child() {
        // One who has not asked for its identity yet passes on what it inherited.
        let parent = ME.swap(0, Ordering::Relaxed);
        if parent != 0 {
            HERITAGE.store(parent, Ordering::Relaxed);
        }
        START.store(0, Ordering::Relaxed);
        if getppid().is_none() {
            // In a namespace below its parent's.
            HERITAGE.store(0, Ordering::Relaxed);
            PID_NAMESPACE.store(0, Ordering::Relaxed);
            procfs::forget();
        }
    }
}

/// This process. Cached, and made anew in a forked child.
#[inline]
pub fn me() -> Owner {
    match ME.load(Ordering::Relaxed) {
        0 => identify(),
        word => Owner(word),
    }
}

/// Have a forked child forget its parent's identity, from now on.
pub fn watch_forks() {
    FORKS.ensure::<Identity>();
}

#[cold]
fn identify() -> Owner {
    watch_forks();
    let pid = getpid().as_raw_nonzero().get() as u32;
    // Miri knows neither.
    let seen = if cfg!(miri) { None } else { by_proc(pid).or_else(|| by_pidfd(pid)) };
    let me = seen.or_else(|| by_heritage(pid)).unwrap_or_else(|| {
        let lot = random();
        Owner::with(pid, lot, BY_LOT, (lot >> 48) as u16 | 1)
    });
    // Another thread may have been quicker, and have seen more or less. One of the two it is.
    match ME.compare_exchange(0, me.word(), Ordering::Relaxed, Ordering::Relaxed) {
        Ok(_) => me,
        Err(first) => Owner(first),
    }
}

/// That of a child of this process which it has not waited for; None: that cannot be seen from
/// here. A program that it is still to become is another: `execs` says that it becomes one, which
/// is certain to be so only where it was started by `vfork`.
pub fn child(pid: u32, execs: bool) -> Option<Owner> {
    procfs::find().filter(|proc| proc.has_common_time())?;
    let (stat, space) = (procfs::stat(pid)?, me().space());
    Some(match stat.is_forked() {
        true if execs => return None,
        true => Owner::of(pid, &stat, space),
        // Where its stack starts may not be settled yet: unknown.
        false => Owner::with(pid, stat.start & START_MASK, EXECED, space),
    })
}

fn by_proc(pid: u32) -> Option<Owner> {
    let proc = procfs::find()?;
    let space = match PID_NAMESPACE.load(Ordering::Relaxed) {
        0 => proc.pid_namespace()?,
        inherited => inherited,
    };
    PID_NAMESPACE.store(space, Ordering::Relaxed);
    // Only if others are shown the same times as this one.
    Some(match proc.own_stat().filter(|_| proc.has_common_time()) {
        Some(stat) => {
            START.store(stat.start, Ordering::Relaxed);
            Owner::of(pid, &stat, fold(space))
        }
        None => Owner::with(pid, random(), UNKNOWN, fold(space)),
    })
}

fn by_pidfd(pid: u32) -> Option<Owner> {
    Some(Owner::with(pid, random(), UNKNOWN, fold(pidfd::pid_namespace()?)))
}

fn by_heritage(pid: u32) -> Option<Owner> {
    let parent = Owner::in_word(HERITAGE.load(Ordering::Relaxed))?;
    Some(match parent.sort() {
        BY_LOT => Owner::with(pid, parent.birth(), BY_LOT, parent.space()),
        _ => Owner::with(pid, random(), UNKNOWN, parent.space()),
    })
}

/// A namespace's inode in 16 bits, never 0. They count up from a base, so that the low bits tell
/// them apart.
fn fold(inode: u64) -> u16 {
    match inode as u16 {
        0 => 1,
        space => space,
    }
}

/// Random bits. They only keep apart who would look alike without them: no secret.
fn random() -> u64 {
    use std::hash::{BuildHasher, RandomState};
    let clock = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    RandomState::new().hash_one((std::process::id(), clock.tv_sec, clock.tv_nsec))
}

/// When this process started, as it was shown when its identity was made.
pub(super) fn own_start() -> Option<u64> {
    Some(START.load(Ordering::Relaxed)).filter(|&start| start != 0)
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
        assert_eq!((o.pid(), o.birth(), o.sort(), o.space()), (4_194_303, 0x34_5678, FORKED, 0xfeed));
        assert_eq!(o.word() & !Owner::MASK, 0);
        assert_eq!(Owner::in_word(o.word() | 3), Some(o));
        assert_eq!(Owner::in_word(3), None);
    }

    #[test]
    fn who_is_beside_whom() {
        let [forked, unknown] = [Owner::new(1, 5, 7), Owner::new(2, 0, 7)];
        assert!(forked.is_beside(unknown) && unknown.is_beside(forked));
        assert!(!forked.is_beside(Owner::new(1, 5, 8)) && !Owner::new(1, 5, 0).is_beside(Owner::new(1, 5, 0)));
        let [lot, same, other] = [1, 1, 2].map(|birth| Owner::with(3, birth, BY_LOT, 7));
        assert!(lot.is_beside(same) && !lot.is_beside(other) && !lot.is_beside(forked) && !forked.is_beside(lot));
    }

    #[test]
    fn births() {
        let stat = |flags, start, stack| Stat { flags, start, stack, ..Stat::default() };
        let (fork, exec) = (0x40, 0);
        let owner = |stat: Stat| Owner::of(9, &stat, 7);
        let forked = owner(stat(fork, 1000, 77));
        assert_eq!(forked.differs(&stat(fork, 1000, 88)), None);
        assert_eq!(forked.differs(&stat(fork, 1001, 77)), Some(Differs::Start));
        assert_eq!(forked.differs(&stat(exec, 1000, 77)), Some(Differs::Program));
        let execed = owner(stat(exec, 1000, 77));
        assert_eq!(execed.differs(&stat(exec, 1000, 77)), None);
        assert_eq!(execed.differs(&stat(exec, 1000, 0)), None, "cannot be read");
        assert_eq!(execed.differs(&stat(exec, 1001, 0)), Some(Differs::Start));
        assert_eq!(execed.differs(&stat(exec, 1000, 78)), Some(Differs::Program));
        assert_eq!(execed.differs(&stat(fork, 1000, 77)), Some(Differs::Program));
        let unread = owner(stat(exec, 1000, 0));
        assert_eq!(unread.differs(&stat(exec, 1000, 77)), None, "was not known");
        for sort in [UNKNOWN, BY_LOT] {
            assert_eq!(Owner::with(9, 5, sort, 7).differs(&stat(exec, 6, 7)), None);
        }
    }
}
