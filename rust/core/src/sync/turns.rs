//! A wait set whose waiters get their turn.
//!
//! What waiters of a [`WaitSet`] wait for goes to whoever comes first: one that puts or gets again
//! at once is quicker than a waiter that has to wake up. That is what makes a channel fast, and
//! what would starve its waiters, as with a lock's (see [`mutex`](super::mutex)). The cure is the
//! same, in a second word:
//!
//! | bits | what |
//! |---|---|
//! | 0 | `RESERVED`: the next one is for a waiter that has slept |
//! | 1-31 | when that was last used, in ticks of some 65 us that wrap |
//!
//! - A waiter that was woken and found that another had been quicker, and that has waited for
//!   `PATIENCE`, sets `RESERVED`; not more often than once in that time for all waiters, unless it
//!   has waited for `URGENT` times as long.
//! - Who comes now and may wait prepares as a waiter does and sleeps, for `RESERVATION` at most.
//!   After that it has slept.
//! - A waiter that has slept takes as if nothing were reserved, and takes the reservation away.
//!
//! Why that is fair: the loser of a race is asleep and the winner awake, so the winner of one wins
//! the next, until it sleeps. A reservation sends the winner to sleep and leaves the waiter awake.
//! So the roles change at least once in `PATIENCE` and a wake-up, and in the long run each has the
//! winner's equally often. In between everything goes at full speed.
//!
//! The reservation names nobody, and only fairness depends on it. A waiter that dies leaves one
//! that holds up each who comes for `RESERVATION`, until the first of them has what it came for.
//! Callers that do not wait take no notice: they could not tell when it is their turn. All orders
//! are Relaxed: the wait set's own word sees to it that no wake-up is lost.

use std::ops::Deref;

use crate::deadline::Deadline;
use crate::error::Result;
use crate::facade::{self, AtomicU32, Ordering, Parked};
use crate::kill_point;
use crate::overlay;
use crate::sync::waitset::WaitSet;

const RESERVED: u32 = 1;
/// Nanoseconds that a waiter lets others be quicker. In a model time stands still, and everyone is
/// out of patience.
const PATIENCE: u64 = if cfg!(loom) { 0 } else { 1_000_000 };
/// Waiting for so many times its patience, a waiter no longer minds how long ago another had its
/// turn.
const URGENT: u64 = 16;
/// Nanoseconds that somebody is held up at most: for a waiter that has a core some 50 us are enough
/// to wake up.
const RESERVATION: u64 = 250_000;
/// Of the clock: nanoseconds in a tick, as a power of two.
const TICK: u32 = 16;

overlay! {
    /// See the module. All zero: nobody waits.
    #[derive(Debug)]
    pub struct FairWaitSet {
        waiters: WaitSet,
        turn: AtomicU32,
    }
}

impl Deref for FairWaitSet {
    type Target = WaitSet;
    fn deref(&self) -> &WaitSet {
        &self.waiters
    }
}

impl FairWaitSet {
    /// Nobody waits.
    #[allow(clippy::new_without_default)]
    pub fn new() -> Self {
        FairWaitSet { waiters: WaitSet::new(), turn: AtomicU32::new(0) }
    }

    /// Is it a waiter's turn? Then who may wait does.
    #[inline]
    pub fn is_reserved(&self) -> bool {
        self.turn.load(Ordering::Relaxed) & RESERVED != 0
    }
}

fn ticks(now: u64) -> u32 {
    (now >> TICK) as u32 & (u32::MAX >> 1)
}

/// One wait on such a set.
#[derive(Debug)]
pub struct Turn<'a> {
    set: &'a FairWaitSet,
    ticket: Option<u32>,
    /// When it first went to sleep; 0: not yet.
    asleep_since: u64,
    /// Was it woken, and has not prepared since?
    woken: bool,
    /// Does it sleep only because others are to be first?
    held_up: bool,
    /// Has it set the reservation that stands?
    reserves: bool,
}

impl<'a> Turn<'a> {
    /// A wait that begins.
    pub fn new(set: &'a FairWaitSet) -> Self {
        Turn { set, ticket: None, asleep_since: 0, woken: false, held_up: false, reserves: false }
    }

    /// Are others to be first? Nobody is held up beyond its `deadline`.
    pub fn is_held_up(&mut self, deadline: Deadline) -> bool {
        self.held_up = self.asleep_since == 0 && self.set.is_reserved() && !deadline.passed();
        self.held_up
    }

    /// Prepare. Between this and [`park`](Self::park) look once more at what is waited for.
    pub fn prepare_wait(&mut self) {
        self.ticket = Some(self.set.prepare_wait());
    }

    /// Has it prepared?
    pub fn is_prepared(&self) -> bool {
        self.ticket.is_some()
    }

    /// The look after preparing was in vain: reserve the next one if it is time.
    pub fn lost(&mut self) {
        if !std::mem::take(&mut self.woken) || self.asleep_since == 0 {
            return;
        }
        let (now, turn) = (facade::now(), self.set.turn.load(Ordering::Relaxed));
        let waited = now.saturating_sub(self.asleep_since);
        let since = u64::from(ticks(now).wrapping_sub(turn >> 1) & (u32::MAX >> 1)) << TICK;
        if waited >= PATIENCE && (since >= PATIENCE || waited >= URGENT * PATIENCE) && turn & RESERVED == 0 {
            let reserved = self.set.turn.compare_exchange(turn, turn | RESERVED, Ordering::Relaxed, Ordering::Relaxed);
            self.reserves = reserved.is_ok();
            kill_point!("turns.reserved");
        }
    }

    /// Sleep until woken, until a reading of the monotonic clock at the latest.
    ///
    /// # Errors
    /// `Interrupted` by a signal.
    pub fn park(&mut self, until: u64) -> Result<Parked> {
        let ticket = match self.ticket {
            Some(ticket) => ticket,
            None => self.set.prepare_wait(),
        };
        let now = facade::now();
        let until = if self.held_up { until.min(now + RESERVATION) } else { until };
        let parked = self.set.park(ticket, until);
        if self.asleep_since == 0 {
            self.asleep_since = now;
        }
        self.woken = matches!(parked, Ok(Parked::Woken));
        parked
    }

    /// The wait is over; has it got what it waited for?
    pub fn end(&mut self, got: bool) {
        let slept = self.asleep_since != 0;
        if (self.reserves || (slept && got)) && self.set.is_reserved() {
            // Whoever set it anew meanwhile asks again.
            let served =
                if got { ticks(facade::now()) << 1 } else { self.set.turn.load(Ordering::Relaxed) & !RESERVED };
            self.set.turn.store(served, Ordering::Relaxed);
        }
    }
}
