//! A condition to wait for, beside a lock of the user's: tickets and grants.
//!
//! # Protocol
//! A waiter draws a ticket and takes a [`Slot`] while it holds the user's lock, releases that, and waits for a grant. Under the same lock a
//! notifier grants the slots with the lowest tickets, one for each wake-up asked for; so a grant goes to one who waited before it was
//! given, never to a late-comer. The slot's word names its holder beside its state:
//!
//! | bits | what |
//! |---|---|
//! | 0-1 | 1 `WAITING`, awake; 3 `PARKED`; 2 `GRANTED`; 0: being filled in, or free if the whole word is 0 |
//! | 2-63 | the waiter ([`Owner`]) |
//!
//! - prepare_wait: CAS 0 -> me, ticket, bound 0, store me `WAITING`: the commit point.
//! - notify: `bound` = the next ticket to be issued, CAS `WAITING` or `PARKED` -> `GRANTED`, the commit point; wake this one alone, if it is parked.
//! - take the grant: when the waiter has the user's lock again it stores 0, the commit point. Before it the grant is the dead's to leave
//!   behind, after it it is used.
//! - give up: CAS `WAITING` or `PARKED` -> 0. If that fails there is a grant: take it, or, if an exception is on its way, hand it on.
//!
//! # Death
//! - of a waiter: its slot stays `WAITING`. A grant that goes there passes on as any grant of the dead.
//! - of a granted one, before it took the grant: other waiters look for such slots at the end of each slice. One whose ticket is below the
//!   grant's bound, so that it waited already when the grant was given, takes it over: CAS dead `GRANTED` -> 0, the commit point, and then its
//!   own word -> `GRANTED`. If it has been granted itself meanwhile, it hands the grant that reaches further on. If none of those who waited then is left, the grant
//!   is void, as it is in a notify that finds nobody.
//! - of a notifier, after the CAS and before the wake-up: the waiter finds the grant at the end of its slice.
//! - while preparing: a slot that is nobody's, until it is cleared.
//!
//! Slots of the dead are cleared when a grant of the dead was found, and when no slot is free.
//!
//! # More waiters than slots
//! They wait for a slot, tickets in hand, on a [`WaitSet`]. A notify with more wake-ups than slots that wait sets `granted_below`: each of
//! those without a slot whose ticket is lower goes on. Beyond the number of slots a waiter may so be woken that need not have been; none is left out.
//!
//! Orders: the user's lock orders preparing and notifying. Release on a grant and Acquire on taking it, so that what a
//! notifier did before is seen also by one who does not care for the lock.

use crate::deadline::Deadline;
use crate::error::{Error, Result};
use crate::facade::{self, AtomicU32, AtomicU64, Liveness, Ordering, Owner, Parked, Word64};
use crate::kill_point;
use crate::overlay;
use crate::sync::probe::may_probe;
use crate::sync::spin::Spin;
use crate::sync::waitset::WaitSet;

const STATE: u64 = 3;
const WAITING: u64 = 1;
const GRANTED: u64 = 2;
const PARKED: u64 = 3;

/// Slots of a condition in shared memory: with its head they fill a page.
pub const SLOTS: usize = 166;

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
        self.bound.store(0, Ordering::Relaxed);
        // Release: its stores are over. SeqCst: with the registration of those who wait for a slot, before the look at whether there are any.
        self.word.store(0, Ordering::SeqCst);
    }

    fn clear(&self, word: u64) -> bool {
        // Acquire: what the dead have stored is visible to whoever clears up after them. SeqCst: as in `free`.
        self.word.compare_exchange(word, 0, Ordering::SeqCst, Ordering::Relaxed).is_ok()
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

    /// Begin to wait. The user's lock is held.
    pub fn prepare_wait(&self, me: Owner) -> Waiting {
        let ticket = self.state.next.fetch_add(1, Ordering::Relaxed);
        let mut slot = self.claim(me, ticket);
        if slot.is_none() && may_probe() {
            // With the interpreter held, as a rule: the cheap proof.
            self.clear_up(facade::is_dead_quick);
            slot = self.claim(me, ticket);
        }
        Waiting { me, ticket, slot }
    }

    fn claim(&self, me: Owner, ticket: u64) -> Option<usize> {
        for (at, slot) in self.slots.iter().enumerate() {
            // SeqCst: as in `free`. Loom makes less of it than the memory model does, so there the CAS alone has to do.
            if !cfg!(loom) && slot.word.load(Ordering::SeqCst) != 0 {
                continue;
            }
            // Acquire: pairs with the release in `free`: its last user's stores are over.
            if slot.word.compare_exchange(0, me.word(), Ordering::Acquire, Ordering::Relaxed).is_ok() {
                kill_point!("condvar.claimed");
                // Before the slot waits, so that no notifier stops looking ahead of it.
                self.state.used.fetch_max(at as u32 + 1, Ordering::Relaxed);
                slot.bound.store(0, Ordering::Relaxed);
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

    /// Wait for a grant until `deadline`, the user's lock not being held; with the lock in hand again it is to be `consume`. Who was forked in the middle, by a signal handler, has no slot
    /// of its own: it goes on as if woken.
    ///
    /// # Errors
    /// `TimedOut`: over, without a grant. `Interrupted` by a signal: still waiting, call again or `cancel`.
    pub fn wait(&self, waiting: &mut Waiting, me: Owner, deadline: Deadline) -> Result<()> {
        if me != waiting.me {
            return Ok(());
        }
        let Some(at) = (match waiting.slot {
            Some(at) => Some(at),
            None => self.wait_for_slot(waiting, deadline)?,
        }) else {
            return Ok(());
        };
        let slot = &self.slots[at];
        let mine = |word: u64| word & Owner::MASK == waiting.me.word() && word & 1 == WAITING;
        if deadline != Deadline::PASSED {
            SPIN.until(|| (!mine(slot.word.load(Ordering::Relaxed))).then_some(()));
        }
        let mut slice = facade::SLICE;
        loop {
            // Acquire: pairs with the release of a grant.
            let word = slot.word.load(Ordering::Acquire);
            if word & Owner::MASK != waiting.me.word() {
                return Err(Error::Corrupted("a condition's slot has changed hands"));
            }
            if word & STATE == GRANTED {
                return Ok(());
            }
            let overlooked = self.state.granted_below.load(Ordering::Relaxed) > waiting.ticket;
            let late = deadline.passed();
            if overlooked || late {
                if !slot.clear(word) {
                    continue;
                }
                // From now on it may be another thread's.
                waiting.slot = None;
                self.state.no_slot.notify();
                return if overlooked { Ok(()) } else { Err(Error::TimedOut) };
            }
            let parked = word | PARKED;
            if word != parked && slot.word.compare_exchange(word, parked, Ordering::Relaxed, Ordering::Relaxed).is_err()
            {
                continue;
            }
            kill_point!("condvar.parking");
            let how = slot.word.park(parked, deadline.slice(slice));
            kill_point!("condvar.woken");
            slice = facade::SLICE;
            // Signals that come more often than slices end must not keep a death from being noticed.
            if how == Ok(Parked::TimedOut) || (how.is_err() && may_probe()) {
                match self.inherit(waiting, slot) {
                    Liveness::Dead => return Ok(()),
                    Liveness::Dying => slice = facade::DYING,
                    Liveness::Unknown => (),
                }
            }
            if how? == Parked::TimedOut && slice == facade::SLICE && !deadline.passed() {
                facade::end_slice()?;
            }
        }
    }

    /// Wait for a slot; None: granted without one.
    fn wait_for_slot(&self, waiting: &mut Waiting, deadline: Deadline) -> Result<Option<usize>> {
        loop {
            // Registered before both looks: whoever grants or frees something after them sees it.
            let seen = self.state.no_slot.register();
            // An RMW, and not a load, for loom's sake.
            if self.state.granted_below.fetch_max(0, Ordering::SeqCst) > waiting.ticket {
                return Ok(None);
            }
            waiting.slot = self.claim(waiting.me, waiting.ticket);
            if waiting.slot.is_some() {
                // One wake-up for each slot that became free, but the flag stood for all who sleep here.
                self.state.no_slot.notify();
                // Between the first look and the slot a notifier may have seen this one nowhere. An RMW: as above.
                if self.state.granted_below.fetch_max(0, Ordering::SeqCst) <= waiting.ticket {
                    return Ok(waiting.slot);
                }
                let slotted = Waiting { slot: waiting.slot.take(), ..*waiting };
                self.cancel(slotted, waiting.me);
                return Ok(None);
            }
            if deadline.passed() {
                return Err(Error::TimedOut);
            }
            if self.state.no_slot.park(seen, deadline)? == Parked::TimedOut {
                if may_probe() {
                    self.clear_up(facade::is_dead);
                }
                if !deadline.passed() {
                    facade::end_slice()?;
                }
            }
        }
    }

    /// Take a grant that was given to one who is dead by now, if there is one for this waiter: `Dead` if so.
    fn inherit(&self, waiting: &Waiting, mine: &Slot) -> Liveness {
        let mut seen = Liveness::Unknown;
        for slot in self.used() {
            let word = slot.word.load(Ordering::Acquire);
            let Some(owner) = Owner::in_word(word).filter(|&owner| owner != waiting.me) else { continue };
            let bound = slot.bound.load(Ordering::Relaxed);
            if word & STATE != GRANTED || bound <= waiting.ticket {
                continue;
            }
            match facade::probe(owner) {
                Liveness::Dead if slot.clear(word) => {
                    kill_point!("condvar.inherited");
                    let word = mine.word.load(Ordering::Acquire);
                    if word & STATE == GRANTED || !mine.grant(word, bound) {
                        // Two grants: the one that reaches further is more likely to find somebody.
                        self.pass_on(bound.max(mine.bound.load(Ordering::Relaxed)));
                    }
                    self.clear_waiting();
                    self.state.no_slot.notify();
                    return Liveness::Dead;
                }
                Liveness::Dying => seen = Liveness::Dying,
                _ => (),
            }
        }
        seen
    }

    /// Free the slots of those who died waiting: of each the cheap proof only.
    fn clear_waiting(&self) {
        for slot in self.used() {
            if let Some(word) = slot.waiting()
                && Owner::in_word(word).is_some_and(facade::is_dead_quick)
            {
                slot.clear(word);
            }
        }
    }

    /// Free what the dead have left, except for grants that a waiter may still inherit.
    fn clear_up(&self, is_dead: impl Fn(Owner) -> bool) {
        for slot in self.used() {
            let word = slot.word.load(Ordering::Acquire);
            if !Owner::in_word(word).is_some_and(&is_dead) {
                continue;
            }
            let bound = slot.bound.load(Ordering::Relaxed);
            if word & STATE == GRANTED {
                if self.first(bound).is_some() {
                    continue;
                }
                self.reach_those_without(bound);
            }
            slot.clear(word);
        }
        self.state.no_slot.notify();
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
            // If not, a late-comer of the same process has the slot by now: one too many is woken, not one too few.
            if granted && slot.ticket.load(Ordering::Relaxed) < bound {
                kill_point!("condvar.passed_on");
                return;
            }
        }
        self.reach_those_without(bound);
    }

    /// Let all who have no slot go on whose tickets are below `bound`. SeqCst: with the registration of those who have none.
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
        let Some(slot) = waiting.slot.map(|at| &self.slots[at]).filter(|_| me == waiting.me) else { return };
        loop {
            let word = slot.word.load(Ordering::Acquire);
            if word & Owner::MASK != waiting.me.word() {
                return;
            }
            if word & STATE == GRANTED {
                // In this order: who dies in between has woken one too many, not one too few.
                self.pass_on(slot.bound.load(Ordering::Relaxed));
                return self.leave(slot);
            }
            if slot.clear(word) {
                return self.state.no_slot.notify();
            }
        }
    }

    /// Wake `most` of those who wait, the longest-waiting first. The user's lock is held.
    pub fn notify(&self, most: u64) {
        let bound = self.state.next.load(Ordering::Relaxed);
        // Ends, although slots that become free are taken anew: tickets below the bound are as many as waited.
        let (mut left, mut looked) = (most, false);
        while left > 0 {
            match self.first(bound) {
                Some((slot, word)) => left -= u64::from(slot.grant(word, bound)),
                None if looked => return,
                // Then one more look: who has just found a slot sees this, or is seen there.
                None => {
                    self.reach_those_without(bound);
                    looked = true;
                }
            }
        }
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
