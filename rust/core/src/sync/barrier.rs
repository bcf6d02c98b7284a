//! A barrier: so many parties wait for each other, and none waits for the dead.
//!
//! # Protocol
//! One word says all; its low half is what waiters sleep on:
//!
//! | bits | what |
//! |---|---|
//! | 0 | `BROKEN`, until a reset |
//! | 1 | `ACTING`: all have come, the last one runs the action |
//! | 2 | `PARKED`: somebody may be asleep |
//! | 3 | `RESET`: the last generation ended by a reset |
//! | 4-31 | the generation |
//! | 32-63 | how many have come |
//!
//! Behind it is a place for each party, in which one who has come leaves its name, so that the
//! others can see it die. Places are written under `gate`; who dies between its name and the count
//! has not come: the next one writes over it.
//!
//! - come: name, then CAS count + 1, the commit point. The last one makes this the next
//!   generation's word instead, count 0, or sets `ACTING`.
//! - wait: until the generation is another one, or broken.
//! - act: after its action the last one CASes to the next generation, the commit point of the
//!   release.
//! - break (a time-out, an abort, a failed action, a death): CAS in `BROKEN`, the commit point.
//! - reset: CAS to the next generation with `RESET`, not broken, count 0.
//! - time-outs break it only while somebody is missing; when all have come, the action may take its
//!   time.
//! - leave (a signal handler raised): CAS count - 1, the commit point, then the last name goes to
//!   the leaver's place; who dies in between leaves its own name, and the barrier breaks: one of
//!   its parties died.
//!
//! `past` remembers how the last 32 generations ended, for parties so slow that the word has left
//! their generation behind by more than one: before any step out of a generation what `RESET` says
//! of the one before is entered there, with its number, so that it is entered once.
//!
//! Each transition is a CAS of the whole word against what was seen, so that of two the second
//! finds that there is nothing left for it to do.
//!
//! Death: of a waiting or acting party: each waiter looks at the name after its own at the end of
//! each slice, and at one more in turn; so everybody dead is looked at by somebody alive. Of one
//! who owes wake-ups: slices end. Of the gate's holder: the gate is recovered, as any mutex.
//!
//! Release on every change of the word and Acquire on reading it: who comes out has seen what each
//! party did before it came.

use crate::deadline::{Deadline, Graced};
use crate::error::{Error, Result};
use crate::facade::{self, AtomicU64, Liveness, Ordering, Owner, Parked, Word64};
use crate::kill_point;
use crate::overlay;
use crate::sync::mutex::Mutex;
use crate::sync::probe::turn;
use crate::sync::spin::Spin;
use crate::sync::waiting::{self, Found, Look, Prepared, Wait};

const BROKEN: u64 = 1;
const ACTING: u64 = 2;
const PARKED: u64 = 4;
const RESET: u64 = 8;
const GENERATION: u64 = 16;
/// The low half's bits that number generations.
const GENERATIONS: u64 = LOW & !(GENERATION - 1);
const LOW: u64 = u32::MAX as u64;
const ONE: u64 = 1 << 32;

static SPIN: Spin = Spin::new(20_000);

overlay! {
    /// What a barrier needs besides its places. All zero is at rest.
    #[derive(Debug)]
    pub struct BarrierState {
        gate: Mutex,
        word: Word64,
        /// High half: how many generations are entered here (as in the word). Low half: a bit for
        /// each, the last one the lowest: ended by a reset?
        past: AtomicU64,
    }
}

impl BarrierState {
    /// Nobody has come.
    #[allow(clippy::new_without_default)]
    pub fn new() -> Self {
        BarrierState { gate: Mutex::new(), word: Word64::new(0), past: AtomicU64::new(0) }
    }
}

overlay! {
    /// A party's place: the name of who has come, an [`Owner`]'s word.
    #[derive(Debug)]
    pub struct Place(AtomicU64);
}

impl Place {
    /// Nobody's.
    #[allow(clippy::new_without_default)]
    pub fn new() -> Self {
        Place(AtomicU64::new(0))
    }
}

/// One party's arrival, from `come` to its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Arrival {
    /// How many came before.
    pub index: u32,
    generation: u64,
    me: Owner,
}

/// What is there to do for one who has come?
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use]
pub enum Arrived {
    /// Nothing: it was the last, and all go on.
    Released(Arrival),
    /// It was the last: run the action, then `release`, or `break_off` if that fails.
    Act(Arrival),
    /// Wait for the others.
    Wait(Arrival),
}

/// See the module.
/// ```
/// use fastmp_core::objects::Barrier;
/// use fastmp_core::sync::barrier::Arrived;
/// use fastmp_core::sys::liveness::me;
/// use fastmp_core::{Deadline, Error};
///
/// fn meet(barrier: &Barrier) -> Result<(), Error> {
///     match barrier.core().arrive(me(), false, Deadline::Never)? {
///         Arrived::Wait(arrival) => barrier.core().wait(arrival, me(), Deadline::Never),
///         Arrived::Released(_) | Arrived::Act(_) => Ok(()),
///     }
/// }
///
/// # fn main() -> Result<(), Error> {
/// let barrier = Barrier::create(2)?;
/// std::thread::scope(|threads| {
///     let other = threads.spawn(|| meet(&barrier));
///     meet(&barrier)?;
///     other.join().expect("no panic")
/// })
/// # }
/// ```
#[derive(Debug, Clone, Copy)]
pub struct Barrier<'a> {
    state: &'a BarrierState,
    places: &'a [Place],
}

impl<'a> Barrier<'a> {
    /// The barrier that these make up: a place for each party, at least one.
    pub fn new(state: &'a BarrierState, places: &'a [Place]) -> Self {
        Barrier { state, places }
    }

    fn load(&self) -> u64 {
        self.state.word.load(Ordering::Acquire)
    }

    /// Make `to` of `from`, and wake those who sleep on what that ends; false if it is no longer
    /// `from`.
    fn change(&self, from: u64, to: u64) -> bool {
        if from & GENERATIONS != to & GENERATIONS {
            self.remember(from);
        }
        let changed = self.state.word.compare_exchange(from, to, Ordering::AcqRel, Ordering::Relaxed).is_ok();
        // Who comes or leaves alone changes the high half only: nobody sleeps on that.
        if changed && from & PARKED != 0 && (from ^ to) & LOW != 0 {
            kill_point!("barrier.waking");
            self.state.word.unpark(u32::MAX);
        }
        changed
    }

    /// The word that follows `word` when its generation is over.
    fn next(word: u64, how: u64) -> u64 {
        (word & GENERATIONS).wrapping_add(GENERATION) & GENERATIONS | how
    }

    /// Enter in `past` how the generation before that of `word` ended.
    fn remember(&self, word: u64) {
        let (entered, generation) = (self.state.past.load(Ordering::Relaxed), word & GENERATIONS);
        if (entered >> 32).wrapping_add(GENERATION) & GENERATIONS == generation {
            let ends = (entered << 1 | u64::from(word & RESET != 0)) & LOW;
            // Failure: another has entered the same. Release on success of what follows orders it
            // before the generation's end.
            let _ = self.state.past.compare_exchange(
                entered,
                generation << 32 | ends,
                Ordering::Relaxed,
                Ordering::Relaxed,
            );
        }
    }

    /// Did the generation end by a reset, as `word` and `past` have it? Of a generation long ago:
    /// no.
    fn was_reset(&self, generation: u64, word: u64) -> bool {
        if (generation + GENERATION) & GENERATIONS == word & GENERATIONS {
            return word & RESET != 0;
        }
        let past = self.state.past.load(Ordering::Relaxed);
        let ago = ((past >> 32).wrapping_sub(generation + GENERATION) & GENERATIONS) / GENERATION;
        ago < 32 && past >> ago & 1 == 1
    }

    /// Come. With `acts` the last one is to run an action.
    ///
    /// # Errors
    /// `Broken`; `TimedOut` if the gate was not free by the deadline, `Interrupted`: not come, in
    /// both cases.
    pub fn arrive(&self, me: Owner, acts: bool, until: impl Into<Graced>) -> Result<Arrived> {
        let until = until.into();
        let _ = self.state.gate.lock_with_grace(me, until)?;
        let came = loop {
            let word = self.load();
            let count = word >> 32;
            if word & BROKEN != 0 {
                break Err(Error::Broken);
            }
            if !self.makes_sense(word) {
                break Err(Error::Corrupted("a barrier counts more parties than it has"));
            }
            let Some(place) = self.places.get(count as usize) else {
                // All have come and one of them acts. This one is early for the next generation,
                // and has to wait for it.
                self.state.gate.unlock();
                self.until_over(word, until.deadline())?;
                let _ = self.state.gate.lock_with_grace(me, until)?;
                continue;
            };
            place.0.store(me.word(), Ordering::Relaxed);
            kill_point!("barrier.named");
            let arrival = Arrival { index: count as u32, generation: word & GENERATIONS, me };
            let last = count + 1 == self.places.len() as u64;
            let (to, came) = match (last, acts) {
                (true, false) => (Self::next(word, 0), Arrived::Released(arrival)),
                (true, true) => ((word + ONE) | ACTING, Arrived::Act(arrival)),
                (false, _) => (word + ONE, Arrived::Wait(arrival)),
            };
            if self.change(word, to) {
                break Ok(came);
            }
        };
        kill_point!("barrier.arrived");
        self.state.gate.unlock();
        came
    }

    /// All have come if and only if somebody acts, or the generation is over.
    fn makes_sense(&self, word: u64) -> bool {
        let (count, all) = (word >> 32, self.places.len() as u64);
        if word & ACTING != 0 { count == all } else { count < all }
    }

    /// Does somebody act whose death would be noticed? For another's action there are time-outs as
    /// for all else.
    fn is_acted_on(&self, word: u64) -> Result<bool> {
        if word & ACTING == 0 {
            return Ok(false);
        }
        let last = self.places.last().and_then(|place| Owner::in_word(place.0.load(Ordering::Relaxed)));
        last.map(facade::is_local).ok_or(Error::Corrupted("nobody runs a barrier's action"))
    }

    /// Wait until an action is over, nothing of this party's being counted: its own time begins
    /// after that.
    fn until_over(&self, word: u64, deadline: Deadline) -> Result<()> {
        waiting::wait(&mut ActionWait { barrier: *self, from: word, parked: word }, deadline)
    }

    /// Make `word` say that somebody may be asleep; false if it is no longer that.
    fn mark_parked(&self, word: u64) -> bool {
        // Relaxed: the kernel compares the word itself.
        word & PARKED != 0
            || self.state.word.compare_exchange(word, word | PARKED, Ordering::Relaxed, Ordering::Relaxed).is_ok()
    }

    /// Sleep until the low half is no longer as in `word`.
    fn park(&self, word: u64, until: u64) -> Result<Parked> {
        kill_point!("barrier.parking");
        self.state.word.park(word | PARKED, until)
    }

    /// How the generation of `arrival` ended, if it has.
    fn outcome(&self, arrival: Arrival) -> Option<Result<()>> {
        let word = self.load();
        let broken = if word & GENERATIONS == arrival.generation {
            (word & BROKEN != 0).then_some(true)?
        } else {
            self.was_reset(arrival.generation, word)
        };
        Some(if broken { Err(Error::Broken) } else { Ok(()) })
    }

    /// Wait for the others until `deadline`; who gives up breaks the barrier. `me` is asked for
    /// anew each time: a signal handler may have forked, and the child is none of the parties.
    ///
    /// # Errors
    /// `Broken`; `Interrupted`: still there.
    pub fn wait(&self, arrival: Arrival, me: Owner, deadline: Deadline) -> Result<()> {
        waiting::wait(&mut PartyWait { barrier: *self, arrival, me, parked: 0 }, deadline)
    }

    /// Look at the party after this one, and at another one each time; break the barrier for the
    /// dead.
    fn look_around(&self, arrival: Arrival) -> Liveness {
        let word = self.load();
        let count = ((word >> 32) as usize).min(self.places.len());
        if word & GENERATIONS != arrival.generation || word & BROKEN != 0 || count == 0 {
            return Liveness::Unknown;
        }
        let own = |&at: &usize| self.places.get(at).is_some_and(|p| p.0.load(Ordering::Relaxed) == arrival.me.word());
        // Who left may have moved this party's name.
        let mine = Some(arrival.index as usize)
            .filter(|at| *at < count && own(at))
            .or_else(|| (0..count).find(own))
            .unwrap_or(0);
        match self.look_at(word, (mine + 1) % count) {
            Liveness::Unknown => self.look_at(word, mine.wrapping_add(2 + turn()) % count),
            seen => seen,
        }
    }

    /// Look at the party in a place; if it is dead, the barrier breaks, unless it is no longer as
    /// it was in `word`.
    fn look_at(&self, word: u64, place: usize) -> Liveness {
        let named = || self.places.get(place).and_then(|place| Owner::in_word(place.0.load(Ordering::Relaxed)));
        let owner = named();
        let seen = owner.map_or(Liveness::Unknown, facade::probe);
        // Still there: who left meanwhile is none of the parties, although the word may be the same
        // again.
        if seen == Liveness::Dead && named() == owner {
            self.change(word, word | BROKEN);
        }
        seen
    }

    /// Break the barrier, if it is still in the generation of `arrival`.
    pub fn break_off(&self, arrival: Arrival, me: Owner) {
        // Not by a child that the action has forked.
        if me != arrival.me {
            return;
        }
        loop {
            let word = self.load();
            if word & GENERATIONS != arrival.generation || word & BROKEN != 0 || self.change(word, word | BROKEN) {
                return;
            }
        }
    }

    /// Let all go on, after the action.
    ///
    /// # Errors
    /// `Broken`: somebody has broken or reset it meanwhile.
    pub fn release(&self, arrival: Arrival, me: Owner) -> Result<()> {
        kill_point!("barrier.acted");
        loop {
            let word = self.load();
            if word & GENERATIONS != arrival.generation || word & BROKEN != 0 || me != arrival.me {
                return Err(Error::Broken);
            }
            if self.change(word, Self::next(word, 0)) {
                return Ok(());
            }
        }
    }

    /// Go before the generation is over, without breaking the barrier: another one may take the
    /// place. False: it is over, or about to be.
    pub fn leave(&self, arrival: Arrival, me: Owner) -> bool {
        if me != arrival.me {
            return false;
        }
        // Held for a few words, and given back if its holder dies; if it is stopped, nothing else
        // is left to do.
        if self.state.gate.lock_with_grace(me, Graced::alone()).is_err() {
            self.break_off(arrival, me);
            return false;
        }
        let left = loop {
            let word = self.load();
            let count = (word >> 32) as usize;
            if word & GENERATIONS != arrival.generation || word & (BROKEN | ACTING) != 0 || count == 0 {
                break false;
            }
            if self.change(word, word - ONE) {
                kill_point!("barrier.left");
                let own = |at: &usize| self.places[*at].0.load(Ordering::Relaxed) == me.word();
                let last = count.min(self.places.len()) - 1;
                if let Some(mine) = (0..=last).find(own) {
                    let name = self.places[last].0.load(Ordering::Relaxed);
                    self.places[mine].0.store(name, Ordering::Relaxed);
                    self.places[last].0.store(0, Ordering::Relaxed);
                }
                break true;
            }
        };
        self.state.gate.unlock();
        left
    }

    /// Break it, whoever is there.
    pub fn abort(&self) {
        loop {
            let word = self.load();
            if word & BROKEN != 0 || self.change(word, word | BROKEN) {
                return;
            }
        }
    }

    /// Make it whole and empty again: those who wait end with `Broken`.
    pub fn reset(&self) {
        loop {
            let word = self.load();
            if word & BROKEN == 0 && word >> 32 == 0 {
                return;
            }
            if self.change(word, Self::next(word, RESET)) {
                return;
            }
        }
    }

    /// How many parties it takes.
    pub fn parties(&self) -> usize {
        self.places.len()
    }

    /// How many wait, at this instant; 0 if it is broken.
    pub fn waiting(&self) -> u32 {
        let word = self.load();
        if word & BROKEN == 0 { (word >> 32) as u32 } else { 0 }
    }

    /// Is it broken, at this instant?
    pub fn is_broken(&self) -> bool {
        self.load() & BROKEN != 0
    }

    /// Test aid: as if a death had just ended every waiter's slice.
    #[cfg(loom)]
    pub fn ring(&self) {
        self.state.word.unpark(u32::MAX);
    }
}

fn found<T>(liveness: Liveness) -> Found<T> {
    match liveness {
        // The barrier is broken for it, or something else was quicker.
        Liveness::Dead => Found::Changed,
        Liveness::Dying => Found::Dying,
        Liveness::Unknown => Found::Nothing,
    }
}

/// A party's wait for the others.
struct PartyWait<'a> {
    barrier: Barrier<'a>,
    arrival: Arrival,
    me: Owner,
    /// What it sleeps on.
    parked: u64,
}

impl Wait for PartyWait<'_> {
    type Output = ();

    fn attempt(&mut self) -> Result<Option<()>> {
        self.barrier.outcome(self.arrival).transpose()
    }

    fn spin(&self) -> Option<&'static Spin> {
        Some(&SPIN)
    }

    fn prepare(&mut self) -> Result<Prepared<()>> {
        if let Some(outcome) = self.barrier.outcome(self.arrival) {
            return outcome.map(Prepared::Ready);
        }
        if self.me != self.arrival.me {
            return Err(Error::Broken);
        }
        self.parked = self.barrier.load();
        if self.parked & GENERATIONS != self.arrival.generation || self.parked & BROKEN != 0 {
            return Ok(Prepared::Changed);
        }
        if !self.barrier.makes_sense(self.parked) {
            return Err(Error::Corrupted("a barrier counts more parties than it has"));
        }
        Ok(if self.barrier.mark_parked(self.parked) { Prepared::Waiting } else { Prepared::Changed })
    }

    fn park(&mut self, until: u64) -> Result<Parked> {
        self.barrier.park(self.parked, until)
    }

    fn probe(&mut self, look: Look) -> Result<Found<()>> {
        Ok(if look == Look::Thorough { found(self.barrier.look_around(self.arrival)) } else { Found::Nothing })
    }

    fn give_up(&mut self) -> Result<Option<()>> {
        let word = self.barrier.load();
        if self.me != self.arrival.me {
            return self.attempt()?.map_or(Err(Error::Broken), |()| Ok(Some(())));
        }
        // What has ended meanwhile, or is acted on, is not to be broken: the next try tells.
        if word & GENERATIONS == self.arrival.generation && word & BROKEN == 0 && !self.barrier.is_acted_on(word)? {
            if !self.barrier.makes_sense(word) {
                return Err(Error::Corrupted("a barrier counts more parties than it has"));
            }
            self.barrier.change(word, word | BROKEN);
        }
        Ok(None)
    }

    fn deadline(&self, deadline: Deadline) -> Result<Deadline> {
        // All have come: the action takes its time, and time-outs are over.
        let word = self.barrier.load();
        let acts = word & GENERATIONS == self.arrival.generation && self.barrier.is_acted_on(word)?;
        Ok(if acts { Deadline::Never } else { deadline })
    }
}

/// The wait of one who is early for the next generation, until the action of this one is over.
struct ActionWait<'a> {
    barrier: Barrier<'a>,
    /// The word that said so.
    from: u64,
    /// What it sleeps on.
    parked: u64,
}

impl ActionWait<'_> {
    fn is_over(&self, word: u64) -> bool {
        (word ^ self.from) & (GENERATIONS | BROKEN) != 0
    }
}

impl Wait for ActionWait<'_> {
    type Output = ();

    fn attempt(&mut self) -> Result<Option<()>> {
        Ok(self.is_over(self.barrier.load()).then_some(()))
    }

    fn spin(&self) -> Option<&'static Spin> {
        None
    }

    fn prepare(&mut self) -> Result<Prepared<()>> {
        self.parked = self.barrier.load();
        if self.is_over(self.parked) {
            return Ok(Prepared::Ready(()));
        }
        Ok(if self.barrier.mark_parked(self.parked) { Prepared::Waiting } else { Prepared::Changed })
    }

    fn park(&mut self, until: u64) -> Result<Parked> {
        self.barrier.park(self.parked, until)
    }

    fn probe(&mut self, look: Look) -> Result<Found<()>> {
        let word = self.barrier.load();
        if look != Look::Thorough || self.is_over(word) {
            return Ok(Found::Nothing);
        }
        // The last place is that of the one who acts.
        Ok(found(self.barrier.look_at(word, self.barrier.places.len().saturating_sub(1))))
    }

    fn give_up(&mut self) -> Result<Option<()>> {
        Err(Error::TimedOut)
    }

    fn deadline(&self, deadline: Deadline) -> Result<Deadline> {
        let word = self.barrier.load();
        let acts = !self.is_over(word) && self.barrier.is_acted_on(word)?;
        Ok(if acts { Deadline::Never } else { deadline })
    }
}
