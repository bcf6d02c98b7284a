//! How a channel's put and get wait: by the one loop of all waits, on the ring's wait sets.

use crate::deadline::Deadline;
use crate::error::{Error, Result};
use crate::facade::{AtomicU64, Ordering, Parked};
use crate::kill_point;
use crate::sync::spin::Spin;
use crate::sync::turns::{FairWaitSet, Turn};
use crate::sync::waiting::{self, Found, Look, Prepared, Wait, comes_up, goes_on};

/// Where one side of a channel waits.
pub(super) struct WaitPlace<'a> {
    pub waiters: &'a FairWaitSet,
    pub spin: &'static Spin,
    /// What an attempt gives when it would have to wait: `Full` or `Empty`.
    pub none: Error,
    /// Who waits sees to what the channel keeps.
    pub tend: &'a dyn Fn(),
    /// Where those who have slept are counted.
    pub waits: Option<&'a AtomicU64>,
    /// Who looks after those who have died with what another may get.
    pub mender: Option<&'a dyn Mender>,
}

/// See [`WaitPlace`].
pub(super) trait Mender {
    /// Look; has something come back?
    fn mend(&self) -> bool;
}

impl WaitPlace<'_> {
    /// Attempt until it ends otherwise, until `deadline` at the latest. `more` tells whether there
    /// is something for another waiter: the wake-up is then handed on, also when this wait ends by
    /// an error.
    ///
    /// # Errors
    /// `none` at the deadline; `Interrupted`; those of `attempt`.
    pub fn wait<T>(
        &self,
        deadline: Deadline,
        attempt: impl FnMut() -> Result<T>,
        more: impl Fn() -> bool,
    ) -> Result<T> {
        let turn = Turn::new(self.waiters);
        let mut wait = ChannelWait { place: self, attempt, more, turn, deadline, slept: goes_on() };
        let done = waiting::wait(&mut wait, deadline);
        comes_up(&done, wait.slept);
        wait.turn.end(done.is_ok());
        if wait.turn.is_prepared() && (wait.more)() {
            self.waiters.notify();
        }
        // A lock's own deadline is this one.
        done.map_err(|e| if e == Error::TimedOut { self.none } else { e })
    }
}

struct ChannelWait<'a, A, M> {
    place: &'a WaitPlace<'a>,
    attempt: A,
    more: M,
    turn: Turn<'a>,
    deadline: Deadline,
    slept: bool,
}

impl<T, A: FnMut() -> Result<T>, M: Fn() -> bool> Wait for ChannelWait<'_, A, M> {
    type Output = T;

    fn attempt(&mut self) -> Result<Option<T>> {
        if self.turn.is_held_up(self.deadline) {
            return Ok(None);
        }
        match (self.attempt)() {
            Err(e) if e == self.place.none || e == Error::WouldBlock => Ok(None),
            done => done.map(Some),
        }
    }

    fn glance(&mut self) -> Result<Option<T>> {
        if (self.more)() { self.attempt() } else { Ok(None) }
    }

    fn spin(&self) -> Option<&'static Spin> {
        Some(self.place.spin)
    }

    fn prepare(&mut self) -> Result<Prepared<T>> {
        self.turn.prepare_wait();
        if let Some(done) = self.attempt()? {
            return Ok(Prepared::Ready(done));
        }
        self.turn.lost();
        Ok(Prepared::Waiting)
    }

    fn park(&mut self, until: u64) -> Result<Parked> {
        if !std::mem::replace(&mut self.slept, true)
            && let Some(waits) = self.place.waits
        {
            waits.fetch_add(1, Ordering::Relaxed);
        }
        let parked = self.turn.park(until);
        kill_point!("channel.woken");
        parked
    }

    fn probe(&mut self, look: Look) -> Result<Found<T>> {
        // Whose death matters is the lock's affair. What the dead held, and what nobody uses, is
        // given back meanwhile.
        if look == Look::Thorough {
            (self.place.tend)();
        }
        let mends = look != Look::Woken && self.place.mender.is_some_and(Mender::mend);
        Ok(if mends { Found::Changed } else { Found::Nothing })
    }

    fn give_up(&mut self) -> Result<Option<T>> {
        Err(Error::TimedOut)
    }
}
