//! Is the holder of a lock certainly dead?
//!
//! Liveness has three answers and *unknown counts as alive*: only proof makes dead. Proof is
//!
//! - no process with its pid (ESRCH), in the pid namespace where that pid was given;
//! - a zombie whose whole thread group has ended: read in the trusted `/proc` (`procfs`),
//!   told by a pidfd, or by `waitid` of one's own child;
//! - a process with its pid that is another one, or runs another program since an exec: of another
//!   birth ([`super::owner`]), in the trusted `/proc`.
//!
//! EPERM, a hidden, missing or foreign `/proc`, exhausted descriptors and foreign namespaces prove
//! nothing. Before a proof counts, the place from which it was seen is looked at once more
//! (`counts`): it costs 20 us, but deaths are rare.

use rustix::io::Errno;
use rustix::process::{Pid, WaitId, WaitIdOptions, getpid, test_kill_process, waitid};

pub use super::owner::{Owner, child, me, thread_id};

use super::owner::{Differs, own_start};
use super::{pidfd, procfs, signs};

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

/// Could `owner` be proved dead from here at all?
pub fn is_local(owner: Owner) -> bool {
    owner.is_beside(me())
}

/// Is `owner` proved dead by cheap system calls (half a microsecond)? False proves nothing: another
/// process's zombie looks alive to them, and so does a program that has replaced it.
pub fn is_dead_quick(owner: Owner) -> bool {
    owner != me() && is_local(owner) && (is_former(owner) || has_vanished(owner)) && counts()
}

/// Is `owner` proved dead? Some 10 us.
pub fn is_dead(owner: Owner) -> bool {
    probe(owner) == Liveness::Dead
}

/// Does `owner` look as it did when [`is_dead_from_now`] looked at it, two seconds ago at most? Less
/// than a microsecond, and no proof: it may have replaced its program by another that looks the
/// same. False says nothing.
pub fn is_as_seen(owner: Owner) -> bool {
    is_local(owner) && signs::are_as_before(owner)
}

/// As [`is_dead`]; who is alive is known to [`is_as_seen`] from now on.
pub fn is_dead_from_now(owner: Owner) -> bool {
    let signs = is_local(owner).then(|| signs::of(owner)).flatten();
    let liveness = probe(owner);
    if let Some(signs) = signs
        && liveness == Liveness::Unknown
    {
        signs.remember();
    }
    liveness == Liveness::Dead
}

/// How is `owner`? Some 10 us.
pub fn probe(owner: Owner) -> Liveness {
    // A pid means something only in the namespace where it was given.
    if owner == me() || !is_local(owner) {
        return Liveness::Unknown;
    }
    let (dead, dying) = match procfs::stat(owner.pid()) {
        Some(stat) => {
            let differs = match owner.differs(&stat) {
                Some(Differs::Program) => true,
                Some(Differs::Start) => times_are_shown_as_ever(),
                None => false,
            };
            (differs || stat.has_ended(), stat.is_ending())
        }
        // Gone, hidden, or no descriptor left to look with; or no `/proc` is trusted.
        None => (is_former(owner) || has_vanished(owner) || has_ended(owner), false),
    };
    match (dead, dying) {
        (true, _) if counts() => Liveness::Dead,
        (false, true) => Liveness::Dying,
        _ => Liveness::Unknown,
    }
}

/// Is it an earlier process, or program, with this process's own pid? (There is one identity in
/// each.)
fn is_former(owner: Owner) -> bool {
    owner.pid() == me().pid() && owner != me()
}

fn has_vanished(owner: Owner) -> bool {
    let Some(pid) = Pid::from_raw(owner.pid() as i32) else { return false };
    // Of a child of ours that nobody has waited for: reported when its whole group has ended, and
    // still to be waited for.
    let ended = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
    test_kill_process(pid) == Err(Errno::SRCH) || matches!(waitid(WaitId::Pid(pid), ended), Ok(Some(_)))
}

/// Another's zombie, where `/proc` does not show it.
fn has_ended(owner: Owner) -> bool {
    Pid::from_raw(owner.pid() as i32).is_some_and(pidfd::has_ended)
}

/// `setns` can put a process into another time namespace while it runs.
fn times_are_shown_as_ever() -> bool {
    own_start().is_some_and(|start| procfs::own_start() == Some(start))
}

/// Does what was seen mean what it seems to mean? Not in a child of a raw `clone`, which no handler
/// has told that it is another process, if it is in another pid namespace.
fn counts() -> bool {
    getpid().as_raw_nonzero().get() as u32 == me().pid() && procfs::is_sound()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[cfg_attr(miri, ignore = "kill is unknown to Miri")]
    fn i_am_alive_and_a_stranger_proves_nothing() {
        let me = me();
        let other = |pid, start| Owner::new(pid, start, (me.word() >> 48) as u16);
        assert!(!is_dead(me) && !is_dead_quick(me));
        let foreign = Owner::in_word(other(4_000_000, 1).word() ^ 1 << 48).expect("an owner");
        assert!(!is_dead(foreign), "another namespace");
        assert!(!is_dead(Owner::new(4_000_000, 1, 0)), "unknown namespace");
        assert!(is_dead(other(4_194_303, 1)) && is_dead_quick(other(4_194_303, 1)), "no such pid");
        assert!(is_dead(other(me.pid(), 1)) && is_dead_quick(other(me.pid(), 1)), "my pid, used before");
        assert!(is_dead(other(1, 1 << 20)), "a reused pid");
    }
}
