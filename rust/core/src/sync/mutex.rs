//! A mutex that names its holder, so that it is not lost with one that is killed.
//!
//! # Protocol
//! One word, 0 when free:
//!
//! | bits | what |
//! |---|---|
//! | 0 | `WAITERS`: somebody may be parked |
//! | 1 | 0 |
//! | 2-63 | the holder ([`Owner`]) |
//!
//! - acquire: CAS 0 -> me. This is the commit point: before it nothing is held, after it the word itself says by whom.
//! - wait: CAS word -> word | `WAITERS`, then park while the low half is unchanged.
//! - release: swap 0; if the old word had `WAITERS`, wake one. A woken waiter acquires *with* `WAITERS`, for it does not know
//!   whether it was the only one: at worst one needless wake-up.
//!
//! Death: of the holder: a waiter looks at it at the end of each slice; proved dead, it CASes the dead word -> me | `WAITERS`.
//! The CAS fails if anybody else was quicker. Between the swap and the wake-up: waiters find the word free at the end of their
//! slice. Of a waiter: leaves `WAITERS`, which costs one call. Of a woken waiter: as between swap and wake-up.
//!
//! Acquire on taking, release on giving up: the only edge needed is from one holder to the next. The flag is set with Relaxed: the futex
//! compares the word itself.

use crate::deadline::Deadline;
use crate::error::{Error, Result};
use crate::facade::{self, AtomicU32, Liveness, Ordering, Owner, Word64};
use crate::kill_point;
use crate::overlay;
use crate::sync::probe::may_probe;
use crate::sync::spin::Spin;

const WAITERS: u64 = 1;

overlay! {
    /// A lock word and how often it was taken over from the dead. All zero is free.
    #[derive(Debug)]
    pub struct Mutex {
        word: Word64,
        recoveries: AtomicU32,
        _reserved: AtomicU32,
    }
}

/// How a lock was got.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use]
pub enum Acquired {
    /// From nobody.
    Clean,
    /// From a holder that died: what the lock guards may be half-done.
    Recovered(Owner),
}

static SPIN: Spin = Spin::new(20_000);

impl Mutex {
    /// A free lock.
    #[allow(clippy::new_without_default)]
    pub fn new() -> Self {
        Mutex { word: Word64::new(0), recoveries: AtomicU32::new(0), _reserved: AtomicU32::new(0) }
    }

    /// Take it if it is free.
    #[inline]
    pub fn try_lock(&self, me: Owner) -> bool {
        // Acquire: pairs with the release in `unlock`.
        self.word.compare_exchange(0, me.word(), Ordering::Acquire, Ordering::Relaxed).is_ok()
    }

    /// Take it if it is free, or if its holder is proved dead.
    pub fn try_lock_or_recover(&self, me: Owner) -> Option<Acquired> {
        if self.try_lock(me) {
            return Some(Acquired::Clean);
        }
        let word = self.word.load(Ordering::Relaxed);
        let dead = Owner::in_word(word).filter(|&o| facade::is_dead_quick(o) || (may_probe() && facade::is_dead(o)))?;
        self.take_over(word, dead, me)
    }

    /// Take it, waiting until `deadline`.
    ///
    /// # Errors
    /// `TimedOut`, or `Interrupted` by a signal.
    #[inline]
    pub fn lock(&self, me: Owner, deadline: Deadline) -> Result<Acquired> {
        if self.try_lock(me) { Ok(Acquired::Clean) } else { self.lock_slow(me, deadline) }
    }

    /// Take it, waiting until `deadline` and for a moment in any case: for a lock that is held for microseconds as a rule. Within
    /// that moment signals wait too, so that it ends although the caller tries again after each.
    pub fn lock_with_grace(&self, me: Owner, deadline: Deadline) -> Result<Acquired> {
        if self.try_lock(me) {
            return Ok(Acquired::Clean);
        }
        let grace = deadline.with_grace();
        loop {
            match self.lock_slow(me, grace) {
                Err(Error::Interrupted) if deadline.passed() => continue,
                done => return done,
            }
        }
    }

    /// Spin for it for a microsecond: enough for what is held for the time of a small copy.
    pub fn brief_spin(&self, me: Owner) -> bool {
        (0..20).any(|_| {
            facade::spin();
            self.word.load(Ordering::Relaxed) == 0 && self.try_lock(me)
        })
    }

    /// Spin for it, as long as that pays; take it as `mine`, the flag included or not.
    fn spin(&self, mine: u64) -> bool {
        let take = || {
            let word = self.word.load(Ordering::Relaxed);
            // Acquire: as in `try_lock`.
            (word & Owner::MASK == 0
                && self.word.compare_exchange(word, mine | word, Ordering::Acquire, Ordering::Relaxed).is_ok())
            .then_some(())
        };
        SPIN.until(take).is_some()
    }

    #[cold]
    fn lock_slow(&self, me: Owner, deadline: Deadline) -> Result<Acquired> {
        let resumed = facade::resumed();
        if deadline != Deadline::PASSED && !resumed && self.spin(me.word()) {
            return Ok(Acquired::Clean);
        }
        let mut mine = me.word();
        let mut looked = resumed;
        let mut slice = facade::SLICE;
        let mut due = Deadline::At(Deadline::Never.slice(slice));
        loop {
            let word = self.word.load(Ordering::Relaxed);
            if word & Owner::MASK == 0 {
                // Acquire: as in `try_lock`.
                if self.word.compare_exchange(word, mine, Ordering::Acquire, Ordering::Relaxed).is_ok() {
                    return Ok(Acquired::Clean);
                }
                continue;
            }
            // One cheap look before the first sleep: it may have been dead for long.
            if !looked
                && let Some(owner) = Owner::in_word(word).filter(|&o| facade::is_dead_quick(o))
                && let Some(taken) = self.take_over(word, owner, me)
            {
                return Ok(taken);
            }
            looked = true;
            let waited = word | WAITERS;
            let late = deadline.passed();
            // Who gives up after a wake-up that another's quickness made useless leaves the flag, for those who sleep on.
            if (!late || mine & WAITERS != 0)
                && word != waited
                && self.word.compare_exchange(word, waited, Ordering::Relaxed, Ordering::Relaxed).is_err()
            {
                continue;
            }
            if late {
                return self.try_lock_or_recover(me).ok_or(Error::TimedOut);
            }
            // Woken again and again in vain: signals must be looked at all the same. The flag stands for those who sleep on.
            if mine & WAITERS != 0 && !cfg!(loom) && due.passed() {
                due = Deadline::At(Deadline::Never.slice(slice));
                facade::end_slice()?;
            }
            kill_point!("mutex.parking");
            let parked = self.word.park(waited, deadline.slice(slice));
            kill_point!("mutex.woken");
            mine = me.word() | WAITERS;
            slice = facade::SLICE;
            // Signals that come more often than slices end must not keep the death from being noticed.
            if parked == Ok(facade::Parked::TimedOut) || (parked.is_err() && may_probe()) {
                let word = self.word.load(Ordering::Relaxed);
                if let Some(owner) = Owner::in_word(word) {
                    match facade::probe(owner) {
                        Liveness::Dead => {
                            if let Some(taken) = self.take_over(word, owner, me) {
                                return Ok(taken);
                            }
                        }
                        Liveness::Dying => slice = facade::DYING,
                        Liveness::Unknown => (),
                    }
                }
            }
            match parked? {
                // Somebody has just released it, and may have taken it again for a moment: as at first.
                facade::Parked::Woken if self.spin(mine) => return Ok(Acquired::Clean),
                facade::Parked::TimedOut if slice == facade::SLICE && !deadline.passed() => facade::end_slice()?,
                _ => (),
            }
        }
    }

    #[cold]
    fn take_over(&self, word: u64, dead: Owner, me: Owner) -> Option<Acquired> {
        // Acquire: whatever the dead holder had stored is visible to the one who found it dead.
        self.word.compare_exchange(word, me.word() | WAITERS, Ordering::Acquire, Ordering::Relaxed).ok()?;
        self.recoveries.fetch_add(1, Ordering::Relaxed);
        Some(Acquired::Recovered(dead))
    }

    /// Give it up. Called by the holder.
    #[inline]
    pub fn unlock(&self) {
        // Release: pairs with the acquire of the next holder.
        if self.word.swap(0, Ordering::Release) & WAITERS != 0 {
            self.wake();
        }
    }

    /// Give it up, whoever holds it.
    ///
    /// # Errors
    /// `Overflow` if nobody does.
    #[inline]
    pub fn unlock_any(&self) -> Result<()> {
        let mut word = self.word.load(Ordering::Relaxed);
        while word & Owner::MASK != 0 {
            // Release: as in `unlock`.
            match self.word.compare_exchange(word, 0, Ordering::Release, Ordering::Relaxed) {
                Ok(_) => {
                    if word & WAITERS != 0 {
                        self.wake();
                    }
                    return Ok(());
                }
                Err(now) => word = now,
            }
        }
        Err(Error::Overflow)
    }

    /// Give it up if `me` still holds it: others may release a lock that is not recursive.
    #[inline]
    pub fn unlock_mine(&self, me: Owner) {
        let mut word = self.word.load(Ordering::Relaxed);
        while Owner::in_word(word) == Some(me) {
            // Release: as in `unlock`.
            match self.word.compare_exchange(word, 0, Ordering::Release, Ordering::Relaxed) {
                Ok(_) if word & WAITERS != 0 => return self.wake(),
                Ok(_) => return,
                Err(now) => word = now,
            }
        }
    }

    #[cold]
    fn wake(&self) {
        kill_point!("mutex.waking");
        self.word.unpark(1);
    }

    /// Who holds it, at this instant.
    #[inline]
    pub fn owner(&self) -> Option<Owner> {
        Owner::in_word(self.word.load(Ordering::Relaxed))
    }

    /// How often it was taken over from a dead holder.
    pub fn recoveries(&self) -> u32 {
        self.recoveries.load(Ordering::Relaxed)
    }

    /// Test aid: as if the holder's death had just ended a waiter's slice.
    #[cfg(loom)]
    pub fn ring(&self) {
        self.word.unpark(u32::MAX);
    }
}
