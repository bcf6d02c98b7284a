//! A semaphore that knows who holds its permits, so that those of the dead come back.
//!
//! # Protocol
//! One word for each permit: 0, or the process that holds it ([`Owner`]). There is no count beside
//! them that could disagree.
//!
//! - acquire: CAS a free word 0 -> me: the commit point, which says in the same word by whom.
//! - wait: prepare on the [`WaitSet`], try once more, park.
//! - release: CAS one of this process's words me -> 0: the commit point; then notify. A process
//!   that holds none cannot release.
//!
//! Death of a holder: waiters look at the holders at the end of each slice, and who does not wait
//! looks once in a while: a word that names one proved dead is taken over by CAS dead -> me. Of a
//! releaser before its wake-up, or of a woken waiter: slices end. Of a waiter: one needless
//! wake-up.
//!
//! Acquire on taking, release on giving back: from one holder of a permit to the next.

use crate::deadline::Deadline;
use crate::error::{Error, Result};
use crate::facade::{self, AtomicU32, AtomicU64, Liveness, Ordering, Owner, Parked};
use crate::kill_point;
use crate::overlay;
use crate::sync::mutex::Acquired;
use crate::sync::probe::{is_due, may_probe, turn};
use crate::sync::spin::Spin;
use crate::sync::waiting::{self, Found, Look, Prepared, Wait};
use crate::sync::waitset::WaitSet;
use crate::sys::fork::Local;

/// The most permits that are kept by name: what is looked through at each call.
pub const MAX: usize = 1 << 12;
/// Holders that get a thorough look at the end of a slice; the others get a cheap one, and a
/// thorough one in turn.
const LOOKS: usize = 6;
/// Rows up to this long are looked through again and again while spinning.
const SHORT: usize = 64;

static SPIN: Spin = Spin::new(20_000);

overlay! {
    /// What such a semaphore needs besides its permits. All zero is at rest.
    #[derive(Debug)]
    pub struct RobustSemaphoreState {
        waiting: WaitSet,
        recoveries: AtomicU32,
        /// Where a free one was last seen: a guess.
        hint: AtomicU32,
        _reserved: AtomicU32,
    }
}

impl RobustSemaphoreState {
    /// At rest.
    #[allow(clippy::new_without_default)]
    pub fn new() -> Self {
        RobustSemaphoreState {
            waiting: WaitSet::new(),
            recoveries: AtomicU32::new(0),
            hint: AtomicU32::new(0),
            _reserved: AtomicU32::new(0),
        }
    }
}

overlay! {
    /// A permit: its holder, or nobody.
    #[derive(Debug)]
    pub struct Permit(AtomicU64);
}

/// Held by the thread of this process that takes a permit, or has to know of all.
static TAKING: Local<()> = Local::new(());

fn alone<T>(f: impl FnOnce() -> T) -> T {
    // A model's threads are processes of their own.
    if cfg!(loom) { f() } else { TAKING.with(|()| f()) }
}

impl Permit {
    /// Free.
    #[allow(clippy::new_without_default)]
    pub fn new() -> Self {
        Permit(AtomicU64::new(0))
    }

    fn take(&self, from: u64, me: Owner) -> bool {
        // Acquire: pairs with the release of the last holder.
        let take = || self.0.compare_exchange(from, me.word(), Ordering::Acquire, Ordering::Relaxed).is_ok();
        alone(take)
    }

    /// Free it, if it is this process's.
    fn give(&self, me: Owner) -> bool {
        // Release: pairs with the acquire of whoever takes it.
        self.holder() == Some(me) && self.0.compare_exchange(me.word(), 0, Ordering::Release, Ordering::Relaxed).is_ok()
    }

    fn holder(&self) -> Option<Owner> {
        // Relaxed: the waitset's fences see to it that who looks after preparing sees what was
        // released before.
        Owner::in_word(self.0.load(Ordering::Relaxed))
    }
}

/// See the module.
/// ```
/// use fastmp_core::objects::RobustSemaphore;
/// use fastmp_core::sys::liveness::me;
///
/// # fn main() -> Result<(), fastmp_core::Error> {
/// let semaphore = RobustSemaphore::create(2)?;
/// assert!(semaphore.core().try_acquire(me()));
/// assert_eq!(semaphore.core().free(), 1);
/// semaphore.core().release(me())?;
/// // This process holds none any more.
/// assert!(semaphore.core().release(me()).is_err());
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone, Copy)]
pub struct RobustSemaphore<'a> {
    state: &'a RobustSemaphoreState,
    permits: &'a [Permit],
}

impl<'a> RobustSemaphore<'a> {
    /// The semaphore that these make up.
    pub fn new(state: &'a RobustSemaphoreState, permits: &'a [Permit]) -> Self {
        RobustSemaphore { state, permits }
    }

    /// All permits with their numbers, from `first` on and round.
    fn from(&self, first: usize) -> impl Iterator<Item = (usize, &'a Permit)> {
        let first = first.min(self.permits.len());
        let (before, after) = self.permits.split_at(first);
        let wrapped = before.iter().enumerate();
        after.iter().enumerate().map(move |(at, permit)| (first + at, permit)).chain(wrapped)
    }

    /// Take a permit if one is free.
    pub fn try_acquire(&self, me: Owner) -> bool {
        let hint = self.state.hint.load(Ordering::Relaxed) as usize;
        let taken = self.from(hint).find(|(_, permit)| permit.holder().is_none() && permit.take(0, me));
        if let Some((at, _)) = taken
            && at != hint
        {
            self.state.hint.store(at as u32, Ordering::Relaxed);
        }
        taken.is_some()
    }

    /// Take a permit if one is free, or if its holder is proved dead.
    pub fn try_acquire_or_recover(&self, me: Owner) -> Option<Acquired> {
        if self.try_acquire(me) {
            return Some(Acquired::Clean);
        }
        if may_probe(self.address()) { self.recover(me, turn(), LOOKS).ok() } else { None }
    }

    /// After a `try_acquire` in vain: is no look at the holders due? Then a caller that does not
    /// wait is refused.
    #[inline]
    pub fn is_refused(&self) -> bool {
        !is_due(self.address())
    }

    /// By which looks at its holders are counted.
    fn address(&self) -> u64 {
        std::ptr::from_ref(self.state).addr() as u64
    }

    /// Take a permit from the dead: `Err` tells whether somebody is dying. Thorough looks for
    /// `looks` of the holders, from the `turn`th on.
    fn recover(&self, me: Owner, turn: usize, looks: usize) -> std::result::Result<Acquired, Liveness> {
        let mut found = Liveness::Unknown;
        // Those already looked at, the last ones at least: a process may hold many.
        let (mut seen, mut next) = ([None; 16], 0);
        let first = turn.wrapping_mul(looks.min(self.permits.len())) % self.permits.len().max(1);
        let mut looks = looks;
        for (_, permit) in self.from(first) {
            let Some(owner) = permit.holder().filter(|&owner| !seen.contains(&Some(owner))) else { continue };
            seen[next % seen.len()] = Some(owner);
            next += 1;
            let now = match looks {
                0 if facade::is_dead_quick(owner) => Liveness::Dead,
                0 => Liveness::Unknown,
                _ => {
                    looks -= 1;
                    facade::probe(owner)
                }
            };
            match now {
                Liveness::Dead => {
                    if permit.take(owner.word(), me) {
                        kill_point!("robust_semaphore.recovered");
                        self.state.recoveries.fetch_add(1, Ordering::Relaxed);
                        // It may have held more than this one: who is woken and finds another count
                        // looks too.
                        self.state.waiting.notify();
                        return Ok(Acquired::Recovered(owner));
                    }
                    seen = [None; 16];
                }
                Liveness::Dying => found = now,
                Liveness::Unknown => (),
            }
        }
        Err(found)
    }

    /// Take a permit, waiting until `deadline`.
    ///
    /// # Errors
    /// `TimedOut`, or `Interrupted` by a signal.
    pub fn acquire(&self, me: Owner, deadline: Deadline) -> Result<Acquired> {
        if self.try_acquire(me) { Ok(Acquired::Clean) } else { self.acquire_slow(me, deadline) }
    }

    #[cold]
    fn acquire_slow(&self, me: Owner, deadline: Deadline) -> Result<Acquired> {
        let recoveries = self.recoveries();
        waiting::wait(&mut PermitWait { semaphore: *self, me, ticket: None, recoveries }, deadline)
    }

    /// One who leaves the waitset may have been woken for a permit that others wait for as well.
    fn pass_on(&self) {
        if self.free() > 0 {
            self.state.waiting.notify();
        }
    }

    /// Give a permit of this process's back.
    ///
    /// # Errors
    /// `NotOwner` if it holds none.
    pub fn release(&self, me: Owner) -> Result<()> {
        let hint = self.state.hint.load(Ordering::Relaxed) as usize;
        let give = || self.from(hint).find(|(_, permit)| permit.give(me));
        // All threads have one name. While this one looked another may have given back what it was
        // coming to, and have taken what it had passed. While nobody takes, what is this process's
        // to the end is so all the time.
        let Some((at, _)) = give().or_else(|| alone(give)) else { return Err(Error::NotOwner) };
        if at != hint {
            self.state.hint.store(at as u32, Ordering::Relaxed);
        }
        kill_point!("robust_semaphore.released");
        self.state.waiting.notify();
        Ok(())
    }

    /// Permits that are free, at this instant.
    pub fn free(&self) -> u32 {
        self.permits.iter().filter(|permit| permit.holder().is_none()).count() as u32
    }

    /// All permits.
    pub fn most(&self) -> u32 {
        self.permits.len() as u32
    }

    /// How often one was taken over from a dead holder.
    pub fn recoveries(&self) -> u32 {
        self.state.recoveries.load(Ordering::Relaxed)
    }

    /// Test aid: as if a holder's death had just ended a waiter's slice.
    #[cfg(loom)]
    pub fn ring(&self) {
        self.state.waiting.ring();
    }
}

/// A wait for a permit.
struct PermitWait<'a> {
    semaphore: RobustSemaphore<'a>,
    me: Owner,
    /// What it sleeps on, once it has prepared.
    ticket: Option<u32>,
    /// How many had been recovered at its last look at the holders.
    recoveries: u32,
}

impl Wait for PermitWait<'_> {
    type Output = Acquired;

    fn attempt(&mut self) -> Result<Option<Acquired>> {
        if !self.semaphore.try_acquire(self.me) {
            return Ok(None);
        }
        if self.ticket.is_some() {
            kill_point!("robust_semaphore.taken");
            self.semaphore.pass_on();
        }
        Ok(Some(Acquired::Clean))
    }

    fn spin(&self) -> Option<&'static Spin> {
        (self.semaphore.permits.len() <= SHORT).then_some(&SPIN)
    }

    fn prepare(&mut self) -> Result<Prepared<Acquired>> {
        self.ticket = Some(self.semaphore.state.waiting.prepare_wait());
        Ok(self.attempt()?.map_or(Prepared::Waiting, Prepared::Ready))
    }

    fn park(&mut self, until: u64) -> Result<Parked> {
        kill_point!("robust_semaphore.parking");
        let parked = self.ticket.map_or(Ok(Parked::Woken), |ticket| self.semaphore.state.waiting.park(ticket, until));
        kill_point!("robust_semaphore.woken");
        parked
    }

    fn probe(&mut self, look: Look) -> Result<Found<Acquired>> {
        let (turn, looks) = match look {
            Look::Quick => (0, 0),
            Look::Woken if self.semaphore.recoveries() == self.recoveries => return Ok(Found::Nothing),
            Look::Woken | Look::Thorough => (turn(), LOOKS),
        };
        self.recoveries = self.semaphore.recoveries();
        Ok(match self.semaphore.recover(self.me, turn, looks) {
            Ok(recovered) => Found::Ended(recovered),
            Err(Liveness::Dying) => Found::Dying,
            Err(_) => Found::Nothing,
        })
    }

    fn give_up(&mut self) -> Result<Option<Acquired>> {
        // A thorough look, for one whose waits all end before a slice does.
        let taken = self.semaphore.try_acquire_or_recover(self.me);
        if self.ticket.is_some() {
            self.semaphore.pass_on();
        }
        taken.map(Some).ok_or(Error::TimedOut)
    }
}
