//! Who has taken tasks from a queue and not yet done them: so that a `join` in vain can say so.
//!
//! A table of [`TAKERS`] entries (2 KiB), in queues that keep one. An entry is a process's name and
//! how many tasks it has taken more than done.
//!
//! # Protocol
//! - Before its first get a process CASes its name into an entry that is free, or that is of a dead
//!   process which owed nothing. No lock is held.
//! - get, under the get lock: count up, then commit. Who dies in between has taken nothing, and
//!   owes one too many: it is dead, so nobody waits for it.
//! - `task_done`: the task counts as done, then this process owes one less. In this order: whoever
//!   looks in between sees one too many that is owed by the living.
//!
//! # The judgement
//! Nobody will do what is left if the queue is empty, tasks are left, some of the dead owe, and
//! nobody else does. Neither puts, gets nor `task_done`s may have come in between: what was looked
//! at first is looked at last. *Unknown counts as alive.* So one who is alive and may have a task
//! is never overlooked, while
//!
//! - every process that has taken one has an entry. Else `UNSURE` is set before its first get;
//! - each does what it has taken. Who says `task_done` and owes nothing says it of another's (a
//!   parent of its child's, a forked child of its parent's): `UNSURE` too.
//!
//! `UNSURE` stays, and then there is no judgement: `join` waits, as in the stdlib. It does not help
//! against a process that says `task_done` of a dead one's task while it has one of its own.
//!
//! One live debtor is enough to end a look, and is looked at first the next time: 10 us for each
//! slice, however many they are.

use super::Queue;
use super::counted::Counted;
use crate::channel::ring::Totals;
use crate::error::Result;
use crate::facade::{AtomicU64, Ordering};
use crate::kill_point;
use crate::overlay;
use crate::sys::liveness::{self, Liveness, Owner};

/// So many processes can be known to have taken tasks.
pub const TAKERS: usize = 128;

/// Bits of a ring's `flags`: who takes is written down; not all of it could be.
const KEPT: u32 = 1;
const UNSURE: u32 = 2;

overlay! {
    #[derive(Debug)]
    pub(super) struct Taker {
        owner: AtomicU64,
        owes: AtomicU64,
    }
}

/// This process's entry, as far as it is known.
#[derive(Debug, Default)]
pub(super) struct OwnEntry {
    /// Its number from 1 on; 0: not known yet.
    number: AtomicU64,
    /// Whose it was.
    of: AtomicU64,
}

/// Of an [`OwnEntry`]: there is none.
const NONE: u64 = u32::MAX as u64;

impl Queue {
    /// From now on it is written down who takes tasks. Before anybody else has the queue.
    pub fn keep_takers(&self) {
        self.ring().state().flags.fetch_or(KEPT, Ordering::Relaxed);
    }

    /// Is it written down who takes tasks?
    #[inline]
    pub fn keeps_takers(&self) -> bool {
        self.counted().keeps_takers()
    }

    /// This process's entry, where that matters.
    #[inline]
    pub(super) fn taker(&self) -> Option<&Taker> {
        self.counted().taker()
    }
}

impl<'a> Counted<'a> {
    #[inline]
    pub(super) fn keeps_takers(self) -> bool {
        self.ring.state().flags.load(Ordering::Relaxed) & KEPT != 0
    }

    /// This process's entry, where that matters.
    #[inline]
    pub(super) fn taker(self) -> Option<&'a Taker> {
        if self.keeps_takers() { self.own_entry() } else { None }
    }

    #[inline(never)]
    fn own_entry(self) -> Option<&'a Taker> {
        let me = liveness::me().word();
        let known = self.own.number.load(Ordering::Relaxed);
        let entry = self.state.takers.get(known.wrapping_sub(1) as usize);
        if let Some(entry) = entry.filter(|entry| entry.owner.load(Ordering::Relaxed) == me) {
            return Some(entry);
        }
        // A forked child is another process.
        if known == NONE && self.own.of.load(Ordering::Relaxed) == me {
            return None;
        }
        let found = self.find_entry(me);
        self.own.number.store(found.map_or(NONE, |index| index as u64 + 1), Ordering::Relaxed);
        self.own.of.store(me, Ordering::Relaxed);
        match found {
            Some(index) => self.state.takers.get(index),
            None => {
                self.be_unsure();
                None
            }
        }
    }

    fn find_entry(self, me: u64) -> Option<usize> {
        let takers = &self.state.takers;
        if let Some(index) = takers.iter().position(|taker| taker.owner.load(Ordering::Relaxed) == me) {
            return Some(index);
        }
        let claim = |index: usize, from: u64| {
            takers[index].owner.compare_exchange(from, me, Ordering::AcqRel, Ordering::Relaxed).is_ok()
        };
        if let Some(index) = (0..TAKERS).find(|&index| claim(index, 0)) {
            kill_point!("takers.claimed");
            return Some(index);
        }
        (0..TAKERS).find(|&index| {
            let word = takers[index].owner.load(Ordering::Relaxed);
            takers[index].owes.load(Ordering::Acquire) == 0
                && Owner::in_word(word).is_some_and(liveness::is_dead)
                && claim(index, word)
        })
    }

    fn be_unsure(self) {
        self.ring.state().flags.fetch_or(UNSURE, Ordering::SeqCst);
    }

    /// What `owner`, which is dead, had taken is another's to do. (Not in one with that: whoever
    /// dies in between leaves the dead one owing what it does not, and nobody waits for it.)
    pub(super) fn owed_by_another(self, owner: Owner, tasks: u64) {
        let takers = &self.state.takers;
        let entry = takers.iter().find(|taker| taker.owner.load(Ordering::Relaxed) == owner.word());
        if let Some(Taker { owes, .. }) = entry {
            let _ = owes.fetch_update(Ordering::AcqRel, Ordering::Relaxed, |owes| Some(owes.saturating_sub(tasks)));
        }
    }

    /// This process has done one.
    pub(super) fn owes_less(self) {
        let owed = self.taker().map(|taker| {
            taker.owes.fetch_update(Ordering::AcqRel, Ordering::Relaxed, |owes| owes.checked_sub(1)).is_ok()
        });
        if owed == Some(false) {
            self.be_unsure();
        }
    }

    /// Who has died with tasks undone that nobody else will do; `first` is the entry to begin with,
    /// and is set to that of one who is alive. `may_come_back`: could some be got again?
    ///
    /// # Errors
    /// None so far.
    pub(super) fn lost_tasks(self, first: &mut usize, may_come_back: impl Fn() -> bool) -> Result<Option<Vec<u32>>> {
        let flags = || self.ring.state().flags.load(Ordering::SeqCst);
        let now = || {
            let Totals { messages_in, messages_out, .. } = self.ring.totals();
            (self.unfinished(), messages_in, messages_out, flags())
        };
        let before = now();
        let is_over = before.0 == 0 || !self.ring.is_empty() || may_come_back();
        if is_over || before.3 & (KEPT | UNSURE) != KEPT {
            return Ok(None);
        }
        let mut dead = Vec::new();
        for index in (0..TAKERS).map(|at| (at + *first) % TAKERS) {
            let taker = &self.state.takers[index];
            if taker.owes.load(Ordering::Acquire) == 0 {
                continue;
            }
            // Nobody's, and owed: not written by us.
            let Some(owner) = Owner::in_word(taker.owner.load(Ordering::Relaxed)) else { return Ok(None) };
            if liveness::probe(owner) != Liveness::Dead {
                *first = index;
                return Ok(None);
            }
            dead.push(owner.pid());
        }
        Ok((!dead.is_empty() && now() == before && self.ring.is_empty()).then_some(dead))
    }
}

impl Taker {
    /// Before the commit of a get.
    pub(super) fn takes(&self, tasks: u64) {
        self.owes.fetch_add(tasks, Ordering::AcqRel);
        kill_point!("takers.taking");
    }

    /// What it has taken and not done.
    pub(super) fn owed(&self) -> u64 {
        self.owes.load(Ordering::Acquire)
    }

    /// The get has failed.
    pub(super) fn has_not_taken(&self, tasks: u64) {
        let _ = self.owes.fetch_update(Ordering::AcqRel, Ordering::Relaxed, |owes| owes.checked_sub(tasks));
    }
}
