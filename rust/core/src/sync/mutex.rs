//! A mutex that names its holder, so that it is not lost with one that is killed.
//!
//! # Protocol
//! One word, 0 when free:
//!
//! | bits | what |
//! |---|---|
//! | 0 | `WAITERS`: somebody may be parked |
//! | 1 | `RESERVED`: the next holder is to be one that has slept for it |
//! | 2-63 | the holder ([`Owner`]); 0: nobody |
//!
//! - acquire: CAS 0 -> me. This is the commit point: before it nothing is held, after it the word
//!   itself says by whom.
//! - wait: CAS word -> word | `WAITERS`, then park while the low half is unchanged.
//! - release: swap 0; if the old word had `WAITERS`, wake one. A woken waiter acquires *with*
//!   `WAITERS`, for it does not know whether it was the only one: at worst one needless wake-up.
//!
//! # Fairness
//! A lock that is free goes to whoever comes first: a holder that takes it again at once is quicker
//! than a waiter that has to wake up. That is what makes it fast, and what would starve waiters. So
//! a waiter that has waited for `PATIENCE` sets `RESERVED`, not more often than once in that time
//! for each lock. A release then leaves `RESERVED` | `WAITERS` behind, and wakes one. Who comes now
//! waits; who has slept may take it (parking_lot's eventual fairness, Go's starvation mode).
//!
//! The reservation names nobody. So it needs no mending when its waiter dies or gives up: another
//! that has slept takes the lock, or who came waits for `RESERVATION` and then has slept. It is a
//! hint, never what exclusion rests on. Callers that do not wait take a reserved lock as well:
//! nobody holds it, and they could not tell when it is theirs.
//!
//! # Death
//! - of the holder: a waiter looks at it at the end of each slice; proved dead, it CASes the dead
//!   word -> me | `WAITERS`, the commit point. The CAS fails if anybody else was quicker. If the
//!   new holder dies at once, it is in the word itself.
//! - between a release's swap and its wake-up: waiters find the word free at the end of their
//!   slice.
//! - of a waiter: leaves `WAITERS`, which costs one call, and perhaps `RESERVED`: see above.
//! - of a woken waiter: as between swap and wake-up.
//!
//! Acquire on taking, release on giving up: the only edge needed is from one holder to the next.
//! Flags are set with Relaxed: the futex compares the word itself. A CAS that adds flags to a free
//! word goes on with the release sequence of the swap.

use crate::deadline::{Deadline, Graced, Patience};
use crate::error::{Error, Result};
use crate::facade::{self, AtomicU32, Liveness, Ordering, Owner, Parked, Word64};
use crate::kill_point;
use crate::overlay;
use crate::sync::closings;
use crate::sync::probe::{is_dead_polled, is_due};
use crate::sync::spin::Spin;
use crate::sync::waiting::{self, Found, Look, Prepared, Wait};

const WAITERS: u64 = 1;
const RESERVED: u64 = 2;
const FLAGS: u64 = WAITERS | RESERVED;

/// Nanoseconds that a waiter lets others be quicker. In a model time stands still, and every
/// sleeper is out of patience.
const PATIENCE: u64 = if cfg!(loom) { 0 } else { 1_000_000 };
/// Nanoseconds that a free lock stays reserved at most: for a waiter that has a core some 50 us are
/// enough to wake up.
const RESERVATION: u64 = 250_000;
/// Waiting for so many times its patience, a waiter no longer minds how long ago another was
/// served.
const URGENT: u64 = 16;
/// Of the clock, for `served`: nanoseconds in one of its ticks, as a power of two.
const TICK: u32 = 16;

overlay! {
    /// A lock word and how often it was taken over from the dead. All zero is free.
    /// ```
    /// use fastmp_core::Deadline;
    /// use fastmp_core::sync::mutex::{Acquired, Mutex};
    /// use fastmp_core::sys::liveness::me;
    ///
    /// # fn main() -> Result<(), fastmp_core::Error> {
    /// let mutex = Mutex::new();
    /// assert_eq!(mutex.lock(me(), Deadline::Never)?, Acquired::Clean);
    /// assert_eq!(mutex.owner(), Some(me()));
    /// assert!(!mutex.try_lock(me()));
    /// mutex.unlock();
    /// # Ok(())
    /// # }
    /// ```
    #[derive(Debug)]
    pub struct Mutex {
        word: Word64,
        recoveries: AtomicU32,
        /// When a reservation was last used, in ticks of some 65 us that wrap. Only fairness
        /// depends on it.
        served: AtomicU32,
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
        Mutex { word: Word64::new(0), recoveries: AtomicU32::new(0), served: AtomicU32::new(0) }
    }

    /// Take it if it is free.
    #[inline]
    pub fn try_lock(&self, me: Owner) -> bool {
        // Acquire: pairs with the release in `unlock`.
        self.word.compare_exchange(0, me.word(), Ordering::Acquire, Ordering::Relaxed).is_ok()
    }

    /// Take it if it is free, or if its holder is proved dead.
    pub fn try_lock_or_recover(&self, me: Owner) -> Option<Acquired> {
        loop {
            let word = self.word.load(Ordering::Relaxed);
            let Some(owner) = Owner::in_word(word) else {
                if self.take_free(word, me) {
                    return Some(Acquired::Clean);
                }
                continue;
            };
            return if is_dead_polled(owner) { self.take_over(word, owner, me) } else { None };
        }
    }

    /// Is it held, and no look at its holder due? Then a caller that does not wait is refused at
    /// the price of a load.
    #[inline]
    pub fn is_refused(&self, me: Owner) -> bool {
        match self.owner() {
            Some(owner) => owner == me || !is_due(owner.word()),
            None => false,
        }
    }

    /// Take it, waiting until `deadline`.
    ///
    /// # Errors
    /// `TimedOut`, or `Interrupted` by a signal.
    #[inline]
    pub fn lock(&self, me: Owner, deadline: Deadline) -> Result<Acquired> {
        if self.try_lock(me) { Ok(Acquired::Clean) } else { self.lock_slow(me, deadline) }
    }

    /// Take it, waiting until `until`, with the call's grace: for a lock that is held for
    /// microseconds as a rule. After the deadline signals wait too, and who closes something.
    ///
    /// # Errors
    /// As for [`lock`](Self::lock).
    pub fn lock_with_grace(&self, me: Owner, until: Graced) -> Result<Acquired> {
        if self.try_lock(me) {
            return Ok(Acquired::Clean);
        }
        loop {
            let taken = match until.deadline().passed() {
                true => closings::unheeded(|| self.lock_slow(me, until.end())),
                false => self.lock_slow(me, until.end()),
            };
            match taken {
                Err(Error::Interrupted) if until.deadline().passed() => continue,
                done => return done,
            }
        }
    }

    /// Take it as `word` has it, which is free, reserved or not: for callers that do not wait.
    fn take_free(&self, word: u64, me: Owner) -> bool {
        // Acquire: as in `try_lock`. The reservation goes: its waiter may ask again.
        let mine = me.word() | word & WAITERS;
        self.word.compare_exchange(word, mine, Ordering::Acquire, Ordering::Relaxed).is_ok()
    }

    /// Spin for it for a microsecond: enough for what is held for the time of a small copy.
    pub fn brief_spin(&self, me: Owner) -> bool {
        (0..20).any(|_| {
            facade::spin();
            let word = self.word.load(Ordering::Relaxed);
            word & Owner::MASK == 0 && self.take_free(word, me)
        })
    }

    /// Take it with so much patience. For what is held for about a microsecond as a rule.
    ///
    /// # Errors
    /// `WouldBlock` without patience, or after a moment; `TimedOut`; `Interrupted`.
    #[inline]
    pub fn take(&self, me: Owner, patience: Patience) -> Result<Acquired> {
        match patience {
            _ if self.try_lock(me) => Ok(Acquired::Clean),
            Patience::Spin if self.brief_spin(me) => Ok(Acquired::Clean),
            Patience::Spin => self.try_lock_or_recover(me).ok_or(Error::WouldBlock),
            // Over so soon that nothing else is to end it: who is called again has another moment.
            Patience::Moment => match closings::unheeded(|| self.lock(me, Patience::moment())) {
                Err(Error::TimedOut) => self.try_lock_or_recover(me).ok_or(Error::WouldBlock),
                taken => taken,
            },
            Patience::Sleep(until) => self.lock_with_grace(me, until),
        }
    }

    #[cold]
    fn lock_slow(&self, me: Owner, deadline: Deadline) -> Result<Acquired> {
        waiting::wait(&mut LockWait { mutex: self, me, flags: 0, asleep_since: 0, parked: 0 }, deadline)
    }

    #[cold]
    fn take_over(&self, word: u64, dead: Owner, me: Owner) -> Option<Acquired> {
        // Acquire: whatever the dead holder had stored is visible to the one who found it dead.
        self.word.compare_exchange(word, me.word() | WAITERS, Ordering::Acquire, Ordering::Relaxed).ok()?;
        kill_point!("mutex.recovered");
        self.recoveries.fetch_add(1, Ordering::Relaxed);
        Some(Acquired::Recovered(dead))
    }

    /// Give it up. Called by the holder.
    #[inline]
    pub fn unlock(&self) {
        // Release: pairs with the acquire of the next holder.
        let word = self.word.swap(0, Ordering::Release);
        if word & FLAGS != 0 {
            if word & RESERVED != 0 {
                // Not in one step with the swap, which this spares: if another is quicker, the
                // waiter asks again.
                let _ = self.word.compare_exchange(0, FLAGS, Ordering::Relaxed, Ordering::Relaxed);
            }
            self.wake();
        }
    }

    /// As if it had never been taken over from `dead`: for one that cannot mend what that left. Who
    /// comes next proves it dead again. Called by the holder; its own death before this says the
    /// same.
    pub fn leave_to(&self, dead: Owner) {
        // Release: pairs with the acquire of who takes it over.
        self.word.store(dead.word() | WAITERS, Ordering::Release);
    }

    /// Give it up, whoever holds it.
    ///
    /// # Errors
    /// `Overflow` if nobody does.
    #[inline]
    pub fn unlock_any(&self) -> Result<()> {
        self.unlock_any_after(|| ())
    }

    /// The same, with `last` done before it if anybody holds it.
    ///
    /// # Errors
    /// `Overflow` if nobody does.
    #[inline]
    pub fn unlock_any_after(&self, last: impl FnOnce()) -> Result<()> {
        let mut word = self.word.load(Ordering::Relaxed);
        if word & Owner::MASK != 0 {
            last();
        }
        while word & Owner::MASK != 0 {
            // Release: as in `unlock`.
            match self.word.compare_exchange(word, Self::released(word), Ordering::Release, Ordering::Relaxed) {
                Ok(_) => {
                    if word & FLAGS != 0 {
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
        // As it is when nobody waits. Release: as in `unlock`.
        let Err(mut word) = self.word.compare_exchange(me.word(), 0, Ordering::Release, Ordering::Relaxed) else {
            return;
        };
        while Owner::in_word(word) == Some(me) {
            // Release: as in `unlock`.
            match self.word.compare_exchange(word, Self::released(word), Ordering::Release, Ordering::Relaxed) {
                Ok(_) if word & FLAGS != 0 => return self.wake(),
                Ok(_) => return,
                Err(now) => word = now,
            }
        }
    }

    /// What a release makes of `word`.
    #[inline]
    fn released(word: u64) -> u64 {
        if word & RESERVED != 0 { FLAGS } else { 0 }
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

/// A wait for the lock.
struct LockWait<'a> {
    mutex: &'a Mutex,
    me: Owner,
    /// What to take it with: `WAITERS` once this one has slept, for others may sleep still.
    flags: u64,
    /// When it first went to sleep; 0: not yet.
    asleep_since: u64,
    /// What it sleeps on.
    parked: u64,
}

impl LockWait<'_> {
    /// May it take the lock as `word` has it?
    fn may_take(&self, word: u64) -> bool {
        word & Owner::MASK == 0 && (word & RESERVED == 0 || self.flags != 0)
    }

    fn take(&self, word: u64) -> Option<Acquired> {
        let mine = self.me.word() | word & WAITERS | self.flags;
        // Acquire: as in `try_lock`.
        self.mutex.word.compare_exchange(word, mine, Ordering::Acquire, Ordering::Relaxed).ok()?;
        if word & RESERVED != 0 {
            self.mutex.served.store((facade::now() >> TICK) as u32, Ordering::Relaxed);
        }
        Some(Acquired::Clean)
    }

    /// Has it waited for so long that it is its turn?
    fn is_out_of_patience(&self) -> bool {
        if self.asleep_since == 0 {
            return false;
        }
        let now = facade::now();
        let (waited, served) = (now.saturating_sub(self.asleep_since), self.mutex.served.load(Ordering::Relaxed));
        let since = u64::from(((now >> TICK) as u32).wrapping_sub(served)) << TICK;
        waited >= PATIENCE && (since >= PATIENCE || waited >= URGENT * PATIENCE)
    }
}

impl Wait for LockWait<'_> {
    type Output = Acquired;

    fn attempt(&mut self) -> Result<Option<Acquired>> {
        let word = self.mutex.word.load(Ordering::Relaxed);
        Ok(if self.may_take(word) { self.take(word) } else { None })
    }

    fn spin(&self) -> Option<&'static Spin> {
        Some(&SPIN)
    }

    fn takes_for_others(&self) -> bool {
        true
    }

    fn prepare(&mut self) -> Result<Prepared<Acquired>> {
        let word = self.mutex.word.load(Ordering::Relaxed);
        if self.may_take(word) {
            return Ok(self.take(word).map_or(Prepared::Changed, Prepared::Ready));
        }
        let reserves = word & RESERVED == 0 && self.is_out_of_patience();
        self.parked = word | WAITERS | if reserves { RESERVED } else { 0 };
        if word != self.parked
            && self.mutex.word.compare_exchange(word, self.parked, Ordering::Relaxed, Ordering::Relaxed).is_err()
        {
            return Ok(Prepared::Changed);
        }
        // Now it pays to be awake: the next release is for this one.
        if reserves && let Some(taken) = SPIN.until(|| self.attempt().transpose()) {
            return taken.map(Prepared::Ready);
        }
        Ok(Prepared::Waiting)
    }

    fn park(&mut self, until: u64) -> Result<Parked> {
        let now = facade::now();
        let until = if self.parked & Owner::MASK == 0 { until.min(now + RESERVATION) } else { until };
        kill_point!("mutex.parking");
        let parked = self.mutex.word.park(self.parked, until);
        kill_point!("mutex.woken");
        if self.asleep_since == 0 {
            self.asleep_since = now;
        }
        self.flags = WAITERS;
        parked
    }

    fn probe(&mut self, look: Look) -> Result<Found<Acquired>> {
        let word = self.mutex.word.load(Ordering::Relaxed);
        let Some(owner) = Owner::in_word(word) else { return Ok(Found::Nothing) };
        let liveness = match look {
            Look::Quick if facade::is_dead_quick(owner) => Liveness::Dead,
            Look::Quick | Look::Woken => Liveness::Unknown,
            Look::Thorough => facade::probe(owner),
        };
        Ok(match liveness {
            Liveness::Dead => self.mutex.take_over(word, owner, self.me).map_or(Found::Changed, Found::Ended),
            Liveness::Dying => Found::Dying,
            Liveness::Unknown => Found::Nothing,
        })
    }

    fn give_up(&mut self) -> Result<Option<Acquired>> {
        let taken = self.mutex.try_lock_or_recover(self.me);
        if taken.is_none() && self.asleep_since != 0 {
            // Perhaps its own reservation, perhaps another's, who then asks again: better than one
            // for nobody.
            let word = self.mutex.word.load(Ordering::Relaxed);
            if word & RESERVED != 0 && word & Owner::MASK != 0 {
                let without = word & !RESERVED;
                let _ = self.mutex.word.compare_exchange(word, without, Ordering::Relaxed, Ordering::Relaxed);
            }
        }
        taken.map(Some).ok_or(Error::TimedOut)
    }
}
