//! A queue whose messages are tasks: see [`tasks`](crate::sync::tasks) and
//! [`takers`](super::takers).

use super::Queue;
use super::custody::brief;
use crate::deadline::{Deadline, Patience};
use crate::error::Result;

/// How a [`join`](Queue::join) ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Joined {
    /// No task is left.
    Done,
    /// Some are, and those who took them have died: these processes.
    Lost(Vec<u32>),
}

impl Queue {
    /// Tasks that are not done.
    pub fn unfinished(&self) -> u64 {
        self.counted().unfinished()
    }

    /// Tasks that there have ever been: where the rest was thrown away, those that were taken.
    pub fn tasks_put(&self) -> u64 {
        self.counted().tasks_put()
    }

    /// One is done.
    ///
    /// # Errors
    /// `Overflow` if none was left.
    pub fn task_done(&self) -> Result<()> {
        self.task_done_with(Patience::sleep(Deadline::Never))
    }

    /// The same, with so much patience for the lock that a queue which keeps its messages needs for
    /// it.
    ///
    /// # Errors
    /// `Overflow` if none was left; those of the lock.
    pub fn task_done_with(&self, patience: Patience) -> Result<()> {
        match self.keeper.get() {
            Some(keeper) => self.with_found_file(|| self.task_done_kept(keeper, patience)),
            None => {
                self.state.tasks.task_done(|| self.tasks_put())?;
                self.counted().owes_less();
                Ok(())
            }
        }
    }

    /// Wait until no task is left, or was left since there were `since`. `judges`: or until nobody
    /// is left to do them.
    ///
    /// # Errors
    /// `TimedOut`; `Interrupted`.
    pub fn join(&self, since: u64, judges: bool, deadline: Deadline) -> Result<Joined> {
        let mut first = 0;
        let judge = || {
            // What comes back will be done by somebody.
            self.mend_custody(false, brief());
            if judges { self.counted().lost_tasks(&mut first, || self.may_come_back()) } else { Ok(None) }
        };
        let joined = self.state.tasks.join(since, || self.tasks_put(), judge, deadline)?;
        Ok(joined.map_or(Joined::Done, Joined::Lost))
    }
}
