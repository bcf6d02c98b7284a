//! Signs that a process is as it was: cheap, and no proof of anything.
//!
//! A zombie that is not one's own child is told from the living by `/proc` alone, which takes 10
//! us. But when a process ends, or execs, the kernel forgets where the list of its main thread's
//! robust futexes is, which its C library had registered at its start; and to ask for that takes
//! less than one. So who has been looked at thoroughly, and has had the same list ever since, need
//! not be looked at so again for a while.
//!
//! The kernel may refuse to tell, and a C library may register no list: then a thorough look is
//! needed. So it is where addresses are not randomised (in a debugger, by `setarch -R`, by the
//! system's settings): there a program has the same list after an exec. That is asked of who looks,
//! from whom others mostly have it; a single one that differs is found as late as [`FOR`] says.
#![allow(unsafe_code)]

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

use super::owner::Owner;
use crate::deadline::now;

/// How long the signs are relied on, in nanoseconds.
const FOR: u64 = 2_000_000_000;
/// Processes that are remembered, by their pids.
const PLACES: usize = 512;

/// What was seen of a process. Threads may mix what they write: then it is looked at once more, or
/// once more only after [`FOR`].
struct Seen {
    owner: AtomicU64,
    list: AtomicU64,
    at: AtomicU64,
}

static SEEN: [Seen; PLACES] =
    [const { Seen { owner: AtomicU64::new(0), list: AtomicU64::new(0), at: AtomicU64::new(0) } }; PLACES];

/// What is to be remembered of a process if it turns out to be alive.
pub(super) struct Signs {
    owner: Owner,
    list: u64,
}

/// Those of `owner`, before a thorough look at it; None: it shows none.
pub(super) fn of(owner: Owner) -> Option<Signs> {
    let list = list(owner.pid())?;
    are_addresses_random().then_some(Signs { owner, list })
}

/// Of programs that begin now, as far as this process can tell? Not kept, but for the system's
/// setting: a forked child may have asked for others.
fn are_addresses_random() -> bool {
    /// `ADDR_NO_RANDOMIZE`.
    const FIXED: libc::c_long = 0x004_0000;
    const ASK: libc::c_ulong = 0xffff_ffff;
    static SETTING: OnceLock<bool> = OnceLock::new();
    // SAFETY: an argument that only asks.
    let personality = unsafe { libc::syscall(libc::SYS_personality, ASK) };
    let setting = || std::fs::read("/proc/sys/kernel/randomize_va_space").map_or(true, |text| !text.starts_with(b"0"));
    // Refused is as if it were random: so it is nearly everywhere.
    (personality < 0 || personality & FIXED == 0) && *SETTING.get_or_init(setting)
}

impl Signs {
    /// It was alive after they had been seen.
    pub(super) fn remember(&self) {
        let seen = place(self.owner);
        seen.owner.store(0, Ordering::Relaxed);
        seen.list.store(self.list, Ordering::Relaxed);
        seen.at.store(now(), Ordering::Relaxed);
        seen.owner.store(self.owner.word(), Ordering::Release);
    }
}

/// Does `owner` show the signs that are remembered of it?
pub(super) fn are_as_before(owner: Owner) -> bool {
    let seen = place(owner);
    seen.owner.load(Ordering::Acquire) == owner.word()
        && now().saturating_sub(seen.at.load(Ordering::Relaxed)) < FOR
        && list(owner.pid()) == Some(seen.list.load(Ordering::Relaxed))
}

fn place(owner: Owner) -> &'static Seen {
    &SEEN[owner.pid() as usize % PLACES]
}

/// Where the list of that process's main thread is.
#[cfg(not(miri))]
fn list(pid: u32) -> Option<u64> {
    let (mut head, mut len) = (0usize, 0usize);
    // SAFETY: the kernel writes a pointer and a size to where these are.
    let done = unsafe { libc::syscall(libc::SYS_get_robust_list, pid as libc::c_int, &raw mut head, &raw mut len) };
    (done == 0 && head != 0).then_some(head as u64)
}

#[cfg(miri)]
fn list(_: u32) -> Option<u64> {
    None
}
