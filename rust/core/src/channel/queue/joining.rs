//! A queue whose messages are tasks: see [`tasks`](crate::sync::tasks) and
//! [`takers`](super::takers).

use super::Queue;
use crate::deadline::Deadline;
use crate::error::Result;
use crate::facade::Ordering;

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
        self.state.tasks.unfinished(|| self.tasks_put())
    }

    /// Tasks that there have ever been: where the rest was thrown away, those that were taken.
    pub fn tasks_put(&self) -> u64 {
        if self.ring().is_terminated() { self.state.cut.load(Ordering::Acquire) } else { self.ring().messages_in() }
    }

    /// One is done.
    ///
    /// # Errors
    /// `Overflow` if none was left.
    pub fn task_done(&self) -> Result<()> {
        self.state.tasks.task_done(|| self.tasks_put())?;
        self.owes_less();
        Ok(())
    }

    /// Wait until no task is left, or was left since there were `since`. `judges`: or until nobody
    /// is left to do them.
    ///
    /// # Errors
    /// `TimedOut`; `Interrupted`.
    pub fn join(&self, since: u64, judges: bool, deadline: Deadline) -> Result<Joined> {
        let mut first = 0;
        let judge = || if judges { self.lost_tasks(&mut first) } else { Ok(None) };
        let joined = self.state.tasks.join(since, || self.tasks_put(), judge, deadline)?;
        Ok(joined.map_or(Joined::Done, Joined::Lost))
    }
}
