//! Tasks that are waited for until all are done: what `task_done` and `join` of a queue count.
//!
//! A task is a message that has been put: nothing counts it anew. So only those that are done have
//! a word, `done`, and how many there are is asked of the queue (`total`, which only grows, and
//! which a commit of `put` changes). A process that dies after its put leaves its task, one that
//! dies before it none.
//!
//! # Protocol
//! - `task_done`: load `done`, then the total; refuse if no task is left; CAS `done` up by one, the
//!   commit point. If that is all there are, at this instant, raise `all_done` to that number and
//!   wake who waits.
//! - `join`: over when no task is left, or when none was at some instant since it began: `all_done`
//!   has then reached the total that it began with. (Tasks that are put all the time must not keep
//!   it from seeing that once there was none.)
//!
//! `done` is loaded before the total, always. Then `done` = total says that at the instant of the
//! second load no task was left: `done` had not shrunk, nor been more than the total.
//!
//! # Orders
//! The CAS is AcqRel, and so all of them are one release sequence: who sees the last one sees what
//! was done in every task. The eventcount's fences do the rest, after the CAS and after a waiter's
//! mark. A total that is made less (by a read-modify-write, before `look_again`) and a last `done`
//! meet as well: a fence stands behind each, before the look at the other.
//!
//! # Death
//! - after the CAS, before `all_done` or the wake-up: who waits finds no task left at the end of
//!   its slice. Only if another has been put since then does it go on to wait, for that one too.
//! - of one that has taken a task, before its `task_done`: nobody will do it. Who waits may ask
//!   about that; `judge` is called at the end of each slice.

use crate::deadline::Deadline;
use crate::error::{Error, Result};
use crate::facade::{self, AtomicU32, AtomicU64, Ordering, Parked};
use crate::kill_point;
use crate::overlay;
use crate::sync::spin::Spin;
use crate::sync::waiting::{self, Found, Look, Prepared, Wait};
use crate::sync::waitset::WaitSet;

overlay! {
    /// See the module. All zero: nothing has been done.
    #[derive(Debug)]
    pub struct Tasks {
        done: AtomicU64,
        all_done: AtomicU64,
        joiners: WaitSet,
        _reserved: AtomicU32,
    }
}

static JOIN_SPIN: Spin = Spin::new(20_000);

impl Tasks {
    /// Nothing has been done.
    #[allow(clippy::new_without_default)]
    pub fn new() -> Self {
        Tasks {
            done: AtomicU64::new(0),
            all_done: AtomicU64::new(0),
            joiners: WaitSet::new(),
            _reserved: AtomicU32::new(0),
        }
    }

    /// Tasks that are not done, at an instant between call and return.
    pub fn unfinished(&self, total: impl Fn() -> u64) -> u64 {
        // Acquire: see the module.
        let done = self.done.load(Ordering::Acquire);
        total().saturating_sub(done)
    }

    /// Tasks that are done.
    pub fn done(&self) -> u64 {
        self.done.load(Ordering::Acquire)
    }

    /// One is done.
    ///
    /// # Errors
    /// `Overflow` if none was left.
    pub fn task_done(&self, total: impl Fn() -> u64) -> Result<()> {
        let mut done = self.done.load(Ordering::Acquire);
        loop {
            if done >= total() {
                return Err(Error::Overflow);
            }
            match self.done.compare_exchange(done, done + 1, Ordering::AcqRel, Ordering::Acquire) {
                Ok(_) => break,
                Err(now) => done = now,
            }
        }
        kill_point!("tasks.done");
        // Before the look at the total, for one that makes it less and then looks at `done`.
        facade::fence_after_rmw();
        // More, if meanwhile what was not taken is no task any more.
        if done + 1 >= total() {
            self.all_done.fetch_max(done + 1, Ordering::AcqRel);
            kill_point!("tasks.all_done");
            self.joiners.notify_all();
        }
        Ok(())
    }

    /// The total has changed otherwise than by a put: who waits looks again.
    pub fn look_again(&self) {
        self.joiners.notify_all();
    }

    /// Wait until none is left, or was left since there were `since`. None: none is. `judge` may
    /// end the wait otherwise.
    ///
    /// # Errors
    /// `TimedOut`; `Interrupted` by a signal; those of `judge`.
    pub fn join<T>(
        &self,
        since: u64,
        total: impl Fn() -> u64,
        judge: impl FnMut() -> Result<Option<T>>,
        deadline: Deadline,
    ) -> Result<Option<T>> {
        waiting::wait(&mut JoinWait { tasks: self, since, total, judge, ticket: 0 }, deadline)
    }
}

struct JoinWait<'a, N, J> {
    tasks: &'a Tasks,
    since: u64,
    total: N,
    judge: J,
    ticket: u32,
}

impl<T, N: Fn() -> u64, J: FnMut() -> Result<Option<T>>> Wait for JoinWait<'_, N, J> {
    type Output = Option<T>;

    fn attempt(&mut self) -> Result<Option<Option<T>>> {
        let is_over =
            self.tasks.unfinished(&self.total) == 0 || self.tasks.all_done.load(Ordering::Acquire) >= self.since;
        Ok(is_over.then_some(None))
    }

    fn spin(&self) -> Option<&'static Spin> {
        Some(&JOIN_SPIN)
    }

    fn prepare(&mut self) -> Result<Prepared<Option<T>>> {
        self.ticket = self.tasks.joiners.prepare_wait();
        Ok(self.attempt()?.map_or(Prepared::Waiting, Prepared::Ready))
    }

    fn park(&mut self, until: u64) -> Result<Parked> {
        self.tasks.joiners.park(self.ticket, until)
    }

    fn probe(&mut self, look: Look) -> Result<Found<Option<T>>> {
        if look == Look::Thorough
            && let Some(judged) = (self.judge)()?
        {
            return Ok(Found::Ended(Some(judged)));
        }
        Ok(Found::Nothing)
    }

    fn give_up(&mut self) -> Result<Option<Option<T>>> {
        Err(Error::TimedOut)
    }
}
