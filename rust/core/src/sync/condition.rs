//! A wait under a lock: give the lock up, wait for a grant, take the lock again.
//!
//! The steps are apart because signal handlers run between the tries of each. What `Interrupted`
//! ends is called again after them, or the wait is given up: [`ConditionWait::cancel`], and then
//! the lock is taken back all the same.
//!
//! The slot is taken before the lock is given up, so that a notifier that comes next finds it. The
//! grant is used up after the lock is had again: until then it passes on to another if this process
//! dies, wherever it is.

use crate::deadline::Deadline;
use crate::error::{Error, Result};
use crate::facade::Owner;
use crate::sync::condvar::{Condvar, Waiting};
use crate::sync::lock::LockState;
use crate::sync::mutex::Acquired;

/// One wait of a thread that holds the lock: [`begin`](Self::begin), [`wait`](Self::wait),
/// [`take_back`](Self::take_back), [`end`](Self::end).
/// ```
/// use fastmp_core::objects::{Condvar, Lock};
/// use fastmp_core::sync::condition::ConditionWait;
/// use fastmp_core::sys::liveness::{me, thread_id};
/// use fastmp_core::{Deadline, Error};
///
/// # fn main() -> Result<(), Error> {
/// let (lock, condvar) = (Lock::create()?, Condvar::create()?);
/// std::thread::scope(|threads| {
///     assert!(lock.try_lock_once(me(), thread_id()));
///     let mut wait = ConditionWait::begin(condvar.core(), &lock, me(), thread_id())?;
///     threads.spawn(|| {
///         lock.lock(me(), thread_id(), Deadline::Never).expect("free soon");
///         assert_eq!(condvar.core().notify(1), 1);
///         lock.unlock_any().expect("held");
///     });
///     wait.wait(me(), Deadline::Never)?;
///     let _ = wait.take_back(me(), thread_id())?;
///     wait.end(me(), thread_id());
///     assert!(lock.is_mine(me(), thread_id()));
///     Ok(())
/// })
/// # }
/// ```
#[derive(Debug)]
#[must_use]
pub struct ConditionWait<'a> {
    condvar: Condvar<'a>,
    lock: &'a LockState,
    depth: u32,
    /// Until it is over, or used.
    waiting: Option<Waiting>,
}

impl<'a> ConditionWait<'a> {
    /// Take a slot, and give the lock up, however often it is held.
    ///
    /// # Errors
    /// `NotOwner` if this thread does not hold it: nothing has changed then.
    pub fn begin(condvar: Condvar<'a>, lock: &'a LockState, me: Owner, thread: u32) -> Result<Self> {
        if !lock.is_mine(me, thread) {
            return Err(Error::NotOwner);
        }
        let waiting = condvar.prepare_wait(me);
        match lock.unlock_all(me, thread) {
            Ok(depth) => Ok(ConditionWait { condvar, lock, depth, waiting: Some(waiting) }),
            // Somebody else has released it in this very moment.
            Err(error) => {
                condvar.cancel(waiting, me);
                Err(error)
            }
        }
    }

    /// Wait to be notified. `me` is asked for anew at each call: a signal handler may have forked.
    ///
    /// # Errors
    /// `TimedOut`: over. `Interrupted`: call it again, or `cancel`.
    pub fn wait(&mut self, me: Owner, deadline: Deadline) -> Result<()> {
        let Some(waiting) = &mut self.waiting else { return Err(Error::TimedOut) };
        let ended = self.condvar.wait(waiting, me, deadline);
        if !matches!(ended, Ok(()) | Err(Error::Interrupted)) {
            self.cancel(me);
        }
        ended
    }

    /// Wait no longer: a notification that has come all the same goes to another.
    pub fn cancel(&mut self, me: Owner) {
        if let Some(waiting) = self.waiting.take() {
            self.condvar.cancel(waiting, me);
        }
    }

    /// Take the lock again, as often as it was held.
    ///
    /// # Errors
    /// `Interrupted`: call it again, or leave it at that.
    pub fn take_back(&mut self, me: Owner, thread: u32) -> Result<Acquired> {
        self.lock.lock_with_depth(me, thread, self.depth, Deadline::Never)
    }

    /// The end: with the lock in hand a notification is used up, without it goes to another.
    pub fn end(mut self, me: Owner, thread: u32) {
        if let Some(waiting) = self.waiting.take() {
            if self.lock.is_mine(me, thread) {
                self.condvar.consume(waiting, me);
            } else {
                self.condvar.cancel(waiting, me);
            }
        }
    }
}
