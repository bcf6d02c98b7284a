//! A condition to wait for, beside a lock of the user's: tickets and grants.
//!
//! # Protocol
//! A waiter draws a ticket and takes a [`Slot`] while it holds the user's lock, releases that, and
//! waits for a grant. Under the same lock a notifier grants the slots with the lowest tickets, one
//! for each wake-up asked for; so a grant goes to one who waited before it was given, never to a
//! late-comer. The slot's word names its holder beside its state:
//!
//! | bits | what |
//! |---|---|
//! | 0-1 | 1 `WAITING`, awake; 3 `PARKED`; 2 `GRANTED`; 0: being filled in, or all of it free |
//! | 2-63 | the waiter ([`Owner`]) |
//!
//! - prepare_wait: CAS 0 -> me, ticket, store me `WAITING`: the commit point.
//! - notify: `bound` = the next ticket to be issued, CAS `WAITING` or `PARKED` -> `GRANTED`, the
//!   commit point; wake this one alone, if it is parked.
//! - take the grant: when the waiter has the user's lock again it stores 0, the commit point. If
//!   the waiter dies before this store, the grant passes to another. After it, the grant is spent.
//! - give up: CAS `WAITING` or `PARKED` -> 0. If that fails there is a grant: take it, or, if an
//!   exception is on its way, hand it on.
//!
//! # Death
//! - of a waiter: its slot stays `WAITING`. A grant that goes there passes on as any grant of the
//!   dead.
//! - of a granted one, before it took the grant: other waiters look for such slots at the end of
//!   each slice. One whose ticket is below the grant's bound waited already when the grant was
//!   given. It takes the slot over, grant and all, by CAS dead `GRANTED` -> me `GRANTED`: the
//!   commit point. So at every instant the grant is in one slot, which names who has it. Then it
//!   leaves its own slot; if that has been granted too, that grant goes to another first. If none
//!   of those who waited then is left, the grant is void, as it is in a notify that finds nobody.
//! - of the heir: before its CAS it has done nothing; after it the grant is the heir's, and passes
//!   on as the first one did. Its own slot stays as that of a dead waiter.
//! - of a notifier, after the CAS and before the wake-up: the waiter finds the grant at the end of
//!   its slice.
//! - of one that hands a grant on: the other is granted first, and then the own slot freed. Who
//!   dies in between has woken one too many, not one too few.
//! - while preparing: a slot that is nobody's, until it is cleared.
//!
//! A slot's bound only grows, from one tenant to the next: bounds are tickets, and so a newer
//! grant's is the largest. Nothing resets it, for who grants writes the bound before its CAS, and
//! the slot may change hands in between.
//!
//! Slots of the dead are cleared when a grant of the dead was found, and when no slot is free.
//!
//! # More waiters than slots
//! They wait for a slot, tickets in hand, on a [`WaitSet`]. A notify with more wake-ups than slots
//! that wait sets `granted_below`: each of those without a slot whose ticket is lower goes on.
//! Beyond the number of slots a waiter may so be woken that need not have been; none is left out.
//!
//! Orders: the user's lock orders preparing and notifying. Release on a grant and Acquire on taking
//! it, so that what a notifier did before is seen also by one who does not care for the lock.

use crate::deadline::Deadline;
use crate::error::{Error, Result};
use crate::facade::{self, AtomicU32, AtomicU64, Liveness, Ordering, Owner, Parked, Word64};
use crate::kill_point;
use crate::overlay;
use crate::sync::probe::{may_probe, turn};
use crate::sync::spin::Spin;
use crate::sync::waiting::{self, Found, Look, Prepared, Wait};
use crate::sync::waitset::WaitSet;

const STATE: u64 = 3;
const WAITING: u64 = 1;
const GRANTED: u64 = 2;
const PARKED: u64 = 3;

/// Slots of a condition in shared memory: with its head they fill a page.
pub const SLOTS: usize = 166;
/// Owners that get a thorough look when slots are short; the others get a cheap one, and a thorough
/// one in turn.
const LOOKS: usize = 6;

static SPIN: Spin = Spin::new(20_000);

overlay! {
    /// What a condition needs besides its slots. All zero is at rest.
    #[derive(Debug)]
    pub struct CondvarState {
        /// The next ticket.
        next: AtomicU64,
        /// Tickets below it need no slot to go on.
        granted_below: AtomicU64,
        /// Slots from here on have never been used.
        used: AtomicU32,
        no_slot: WaitSet,
    }
}

impl CondvarState {
    /// At rest.
    #[allow(clippy::new_without_default)]
    pub fn new() -> Self {
        CondvarState {
            next: AtomicU64::new(0),
            granted_below: AtomicU64::new(0),
            used: AtomicU32::new(0),
            no_slot: WaitSet::new(),
        }
    }
}

overlay! {
    /// One who waits. All zero is free.
    #[derive(Debug)]
    pub struct Slot {
        word: Word64,
        ticket: AtomicU64,
        /// Of a grant: those with tickets below waited when it was given.
        bound: AtomicU64,
    }
}

impl Slot {
    /// Free.
    #[allow(clippy::new_without_default)]
    pub fn new() -> Self {
        Slot { word: Word64::new(0), ticket: AtomicU64::new(0), bound: AtomicU64::new(0) }
    }

    /// If its owner waits, the word that says so.
    fn waiting(&self) -> Option<u64> {
        // Acquire: pairs with the store that ends preparing, for the ticket's sake.
        Some(self.word.load(Ordering::Acquire)).filter(|word| word & 1 == WAITING)
    }

    /// Grant what `word` says is waiting; wake it if it sleeps.
    fn grant(&self, word: u64, bound: u64) -> bool {
        // Max: two who hand something on at the same time must not narrow each other's.
        self.bound.fetch_max(bound, Ordering::Relaxed);
        // Release: see the module. Acquire: for the ticket of whoever has the slot by now.
        let granted = word & Owner::MASK | GRANTED;
        if self.word.compare_exchange(word, granted, Ordering::AcqRel, Ordering::Relaxed).is_err() {
            return false;
        }
        kill_point!("condvar.granted");
        if word & STATE == PARKED {
            self.word.unpark(1);
        }
        true
    }

    /// Free the slot of somebody who no longer waits.
    fn free(&self) {
        // Release: its stores are over. An RMW: those who wait for a slot are looked for next (see
        // `waitset`).
        self.word.swap(0, Ordering::Release);
    }

    fn clear(&self, word: u64) -> bool {
        // Acquire: what the dead have stored is visible to whoever clears up after them. Release:
        // as in `free`.
        self.word.compare_exchange(word, 0, Ordering::AcqRel, Ordering::Relaxed).is_ok()
    }
}

/// One wait, from `prepare_wait` to its end: a `wait` that timed out, `consume`, or `cancel`.
#[derive(Debug)]
#[must_use]
pub struct Waiting {
    me: Owner,
    ticket: u64,
    slot: Option<usize>,
}

/// See the module.
#[derive(Debug, Clone, Copy)]
pub struct Condvar<'a> {
    state: &'a CondvarState,
    slots: &'a [Slot],
}

impl<'a> Condvar<'a> {
    /// The condition that these make up.
    pub fn new(state: &'a CondvarState, slots: &'a [Slot]) -> Self {
        Condvar { state, slots }
    }

    /// What tells it from others in this process.
    fn address(&self) -> u64 {
        std::ptr::from_ref(self.state).addr() as u64
    }

    /// Begin to wait. The user's lock is held.
    pub fn prepare_wait(&self, me: Owner) -> Waiting {
        let ticket = self.state.next.fetch_add(1, Ordering::Relaxed);
        let mut slot = self.claim(me, ticket);
        if slot.is_none() && may_probe(self.address()) {
            // With the interpreter held, as a rule: the cheap proof.
            self.clear_up(facade::is_dead_quick);
            slot = self.claim(me, ticket);
        }
        Waiting { me, ticket, slot }
    }

    fn claim(&self, me: Owner, ticket: u64) -> Option<usize> {
        for (at, slot) in self.slots.iter().enumerate() {
            // Relaxed: a look that saves most CASes. The waitset's fences make it see what was
            // freed before it prepared.
            if slot.word.load(Ordering::Relaxed) != 0 {
                continue;
            }
            // Acquire: pairs with the release in `free`: its last user's stores are over.
            if slot.word.compare_exchange(0, me.word(), Ordering::Acquire, Ordering::Relaxed).is_ok() {
                kill_point!("condvar.claimed");
                // Before the slot waits, so that no notifier stops looking ahead of it.
                self.state.used.fetch_max(at as u32 + 1, Ordering::Relaxed);
                slot.ticket.store(ticket, Ordering::Relaxed);
                slot.word.store(me.word() | WAITING, Ordering::Release);
                kill_point!("condvar.prepared");
                return Some(at);
            }
        }
        None
    }

    fn used(&self) -> &'a [Slot] {
        let used = self.state.used.load(Ordering::Relaxed) as usize;
        &self.slots[..used.min(self.slots.len())]
    }

    /// Wait for a grant until `deadline`, the user's lock not being held. With the lock in hand
    /// again, `consume` it. Who was forked in the middle, by a signal handler, has no slot of its
    /// own: it goes on as if woken.
    ///
    /// # Errors
    /// `TimedOut`: over, without a grant. `Interrupted` by a signal: still waiting, call again or
    /// `cancel`.
    pub fn wait(&self, waiting: &mut Waiting, me: Owner, deadline: Deadline) -> Result<()> {
        if me != waiting.me {
            return Ok(());
        }
        if waiting.slot.is_none() {
            waiting.slot = waiting::wait(&mut SlotWait { condvar: *self, waiting, parked: 0 }, deadline)?;
        }
        if waiting.slot.is_none() {
            return Ok(());
        }
        waiting::wait(&mut GrantWait { condvar: *self, waiting, parked: 0 }, deadline)
    }

    /// Are all granted that drew such a ticket and have no slot? An RMW: it takes its place in the
    /// order of the notifier's, which sees a slot that was taken before it.
    fn is_overlooked(&self, ticket: u64) -> bool {
        self.state.granted_below.fetch_max(0, Ordering::AcqRel) > ticket
    }

    /// Take over a slot with a grant that was given to one who is dead by now, if there is one for
    /// this waiter: `Dead` if so.
    fn inherit(&self, waiting: &mut Waiting) -> Liveness {
        let mut seen = Liveness::Unknown;
        for (at, slot) in self.used().iter().enumerate() {
            let word = slot.word.load(Ordering::Acquire);
            let Some(owner) = Owner::in_word(word).filter(|&owner| owner != waiting.me) else { continue };
            if word & STATE != GRANTED || self.bound(slot) <= waiting.ticket {
                continue;
            }
            match facade::probe(owner) {
                Liveness::Dead => {
                    let mine = waiting.me.word() | GRANTED;
                    // Acquire: the grant's past. Release: this waiter's, for its own heir.
                    if slot.word.compare_exchange(word, mine, Ordering::AcqRel, Ordering::Relaxed).is_err() {
                        continue;
                    }
                    kill_point!("condvar.inherited");
                    if let Some(old) = waiting.slot.replace(at) {
                        self.vacate(&self.slots[old], waiting.me);
                    }
                    kill_point!("condvar.vacated");
                    self.clear_waiting();
                    self.state.no_slot.notify();
                    return Liveness::Dead;
                }
                Liveness::Dying => seen = Liveness::Dying,
                Liveness::Unknown => (),
            }
        }
        seen
    }

    /// Free the slot of one who waits no longer; a grant that has come all the same goes to
    /// another.
    fn vacate(&self, slot: &Slot, me: Owner) {
        loop {
            let word = slot.word.load(Ordering::Acquire);
            if word & Owner::MASK != me.word() {
                return;
            }
            if word & STATE == GRANTED {
                // In this order: who dies in between has woken one too many, not one too few.
                self.pass_on(self.bound(slot));
                return self.leave(slot);
            }
            if slot.clear(word) {
                return self.state.no_slot.notify();
            }
        }
    }

    /// Those with tickets below waited when `slot` was granted. Whatever is found in memory: nobody
    /// has a ticket yet to be drawn.
    fn bound(&self, slot: &Slot) -> u64 {
        slot.bound.load(Ordering::Relaxed).min(self.state.next.load(Ordering::Relaxed))
    }

    /// Free the slots of those who died waiting: of each the cheap proof only.
    fn clear_waiting(&self) {
        self.clear_waiting_if(facade::is_dead_quick);
    }

    fn clear_waiting_if(&self, mut is_dead: impl FnMut(Owner) -> bool) {
        for slot in self.used() {
            let word = slot.word.load(Ordering::Acquire);
            if word & STATE != GRANTED && Owner::in_word(word).is_some_and(&mut is_dead) {
                slot.clear(word);
            }
        }
    }

    /// Free what the dead have left, except for grants that a waiter may still inherit.
    fn clear_up(&self, mut is_dead: impl FnMut(Owner) -> bool) {
        // Those who wait first: they are no heirs.
        self.clear_waiting_if(&mut is_dead);
        for slot in self.used() {
            let word = slot.word.load(Ordering::Acquire);
            if word & STATE != GRANTED || !Owner::in_word(word).is_some_and(&mut is_dead) {
                continue;
            }
            let bound = self.bound(slot);
            if self.first(bound).is_none() {
                // In this order: who dies in between has woken one too many, not one too few.
                self.reach_those_without(bound);
                kill_point!("condvar.reached");
                slot.clear(word);
            }
        }
        self.state.no_slot.notify();
    }

    /// The same, with thorough looks at some of the owners, others in turn.
    fn clear_up_thoroughly(&self) {
        let first = turn().wrapping_mul(LOOKS) % self.slots.len().max(1);
        let mut at = 0;
        self.clear_up(|owner| {
            at += 1;
            let thorough = (at + self.slots.len() - first) % self.slots.len().max(1) < LOOKS;
            if thorough { facade::is_dead(owner) } else { facade::is_dead_quick(owner) }
        });
    }

    /// Of those who wait with a ticket below `bound`, the one with the lowest.
    fn first(&self, bound: u64) -> Option<(&'a Slot, u64)> {
        let waiting = self.used().iter().filter_map(|slot| {
            let word = slot.waiting()?;
            let ticket = slot.ticket.load(Ordering::Relaxed);
            (ticket < bound).then_some((ticket, slot, word))
        });
        waiting.min_by_key(|(ticket, ..)| *ticket).map(|(_, slot, word)| (slot, word))
    }

    /// Grant another of those who waited when this grant was given. The user's lock is not held.
    fn pass_on(&self, bound: u64) {
        while let Some((slot, word)) = self.first(bound) {
            let granted = slot.grant(word, bound);
            // If not, a late-comer of the same process has the slot by now: one too many is woken,
            // not one too few.
            if granted && slot.ticket.load(Ordering::Relaxed) < bound {
                kill_point!("condvar.passed_on");
                return;
            }
        }
        self.reach_those_without(bound);
    }

    /// Let all who have no slot go on whose tickets are below `bound`. SeqCst: with the
    /// registration of those who have none.
    fn reach_those_without(&self, bound: u64) {
        self.state.granted_below.fetch_max(bound, Ordering::SeqCst);
        self.state.no_slot.notify_all();
    }

    fn leave(&self, slot: &Slot) {
        slot.free();
        self.state.no_slot.notify();
    }

    /// The lock is held again after a `wait` that was granted: the end of it.
    pub fn consume(&self, waiting: Waiting, me: Owner) {
        if let Some(at) = waiting.slot
            && me == waiting.me
        {
            self.leave(&self.slots[at]);
            kill_point!("condvar.consumed");
        }
    }

    /// End a wait without having been woken: a grant that has come all the same goes to another.
    pub fn cancel(&self, waiting: Waiting, me: Owner) {
        if let Some(slot) = waiting.slot.map(|at| &self.slots[at]).filter(|_| me == waiting.me) {
            self.vacate(slot, me);
        }
    }

    /// Wake `most` of those who wait, the longest-waiting first; gives how many were found. The
    /// user's lock is held.
    pub fn notify(&self, most: u64) -> u64 {
        let bound = self.state.next.load(Ordering::Relaxed);
        // Ends, although slots that become free are taken anew: tickets below the bound are as many
        // as waited.
        let (mut left, mut looked) = (most, false);
        while left > 0 {
            match self.first(bound) {
                Some((slot, word)) => left -= u64::from(slot.grant(word, bound)),
                None if looked => break,
                // Then one more look: who has just found a slot sees this, or is seen there.
                None => {
                    self.reach_those_without(bound);
                    looked = true;
                }
            }
        }
        most - left
    }

    /// How many wait, at this instant.
    pub fn waiters(&self) -> usize {
        self.used().iter().filter(|slot| slot.waiting().is_some()).count()
    }

    /// Test aid: as if a death had just ended every waiter's slice.
    #[cfg(loom)]
    pub fn ring(&self) {
        self.slots.iter().for_each(|slot| slot.word.unpark(u32::MAX));
    }
}

/// A wait for a grant, in a slot.
struct GrantWait<'a, 'w> {
    condvar: Condvar<'a>,
    waiting: &'w mut Waiting,
    /// What it sleeps on.
    parked: u64,
}

impl<'a> GrantWait<'a, '_> {
    fn slot(&self) -> Result<(&'a Slot, u64)> {
        let slot = self.waiting.slot.and_then(|at| self.condvar.slots.get(at));
        // Acquire: pairs with the release of a grant.
        let word = slot.map_or(0, |slot| slot.word.load(Ordering::Acquire));
        match slot {
            Some(slot) if word & Owner::MASK == self.waiting.me.word() => Ok((slot, word)),
            _ => Err(Error::Corrupted("a condition's slot has changed hands")),
        }
    }

    /// Free the slot in which nothing has come.
    fn leave(&mut self, slot: &Slot, word: u64) -> bool {
        let left = slot.clear(word);
        if left {
            // From now on it may be another thread's.
            self.waiting.slot = None;
            self.condvar.state.no_slot.notify();
        }
        left
    }
}

impl Wait for GrantWait<'_, '_> {
    type Output = ();

    fn attempt(&mut self) -> Result<Option<()>> {
        let (slot, word) = self.slot()?;
        if word & STATE == GRANTED {
            return Ok(Some(()));
        }
        // Among those granted without a slot, just before it had one.
        let overlooked = self.condvar.state.granted_below.load(Ordering::Relaxed) > self.waiting.ticket;
        Ok((overlooked && self.leave(slot, word)).then_some(()))
    }

    fn spin(&self) -> Option<&'static Spin> {
        Some(&SPIN)
    }

    fn prepare(&mut self) -> Result<Prepared<()>> {
        if self.attempt()?.is_some() {
            return Ok(Prepared::Ready(()));
        }
        let (slot, word) = self.slot()?;
        self.parked = word | PARKED;
        // Not over a grant. Relaxed: the kernel compares the word itself.
        let marked = word & STATE != GRANTED
            && (word == self.parked
                || slot.word.compare_exchange(word, self.parked, Ordering::Relaxed, Ordering::Relaxed).is_ok());
        Ok(if marked { Prepared::Waiting } else { Prepared::Changed })
    }

    fn park(&mut self, until: u64) -> Result<Parked> {
        let (slot, _) = self.slot()?;
        kill_point!("condvar.parking");
        let parked = slot.word.park(self.parked, until);
        kill_point!("condvar.woken");
        parked
    }

    fn probe(&mut self, look: Look) -> Result<Found<()>> {
        if look != Look::Thorough {
            return Ok(Found::Nothing);
        }
        Ok(match self.condvar.inherit(self.waiting) {
            Liveness::Dead => Found::Ended(()),
            Liveness::Dying => Found::Dying,
            Liveness::Unknown => Found::Nothing,
        })
    }

    fn give_up(&mut self) -> Result<Option<()>> {
        let (slot, word) = self.slot()?;
        if word & STATE == GRANTED {
            return Ok(Some(()));
        }
        if self.leave(slot, word) { Err(Error::TimedOut) } else { Ok(None) }
    }
}

/// A wait for a slot; its end without one is a grant.
struct SlotWait<'a, 'w> {
    condvar: Condvar<'a>,
    waiting: &'w Waiting,
    /// What it sleeps on.
    parked: u32,
}

impl Wait for SlotWait<'_, '_> {
    type Output = Option<usize>;

    fn attempt(&mut self) -> Result<Option<Option<usize>>> {
        let (condvar, me, ticket) = (self.condvar, self.waiting.me, self.waiting.ticket);
        if condvar.is_overlooked(ticket) {
            return Ok(Some(None));
        }
        let Some(at) = condvar.claim(me, ticket) else { return Ok(None) };
        // One wake-up for each slot that became free, but the flag stood for all who sleep here.
        condvar.state.no_slot.notify();
        // Between the first look and the slot a notifier may have seen this one nowhere.
        if condvar.is_overlooked(ticket) {
            condvar.vacate(&condvar.slots[at], me);
            return Ok(Some(None));
        }
        Ok(Some(Some(at)))
    }

    fn spin(&self) -> Option<&'static Spin> {
        None
    }

    fn prepare(&mut self) -> Result<Prepared<Option<usize>>> {
        // Registered before both looks: whoever grants or frees something after them sees it.
        self.parked = self.condvar.state.no_slot.prepare_wait();
        Ok(self.attempt()?.map_or(Prepared::Waiting, Prepared::Ready))
    }

    fn park(&mut self, until: u64) -> Result<Parked> {
        self.condvar.state.no_slot.park(self.parked, until)
    }

    fn probe(&mut self, look: Look) -> Result<Found<Option<usize>>> {
        if look == Look::Thorough && may_probe(self.condvar.address()) {
            self.condvar.clear_up_thoroughly();
        }
        Ok(Found::Nothing)
    }

    fn give_up(&mut self) -> Result<Option<Option<usize>>> {
        // For those whose waits all end before a slice does: else the slots of the dead stay taken.
        if may_probe(self.condvar.address()) {
            self.condvar.clear_up_thoroughly();
            if let Some(done) = self.attempt()? {
                return Ok(Some(done));
            }
        }
        Err(Error::TimedOut)
    }
}
