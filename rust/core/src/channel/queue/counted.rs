//! What the tasks of a queue are counted by: of one that is open, and of what is left of one that
//! has been closed here.
//!
//! Who closes a queue puts and gets no more by it. But what was got before may still be done, and
//! waited for, as in the stdlib. That takes words alone: no socket, no memory file. So a closed
//! queue's descriptors go, and its front stays for as long as a [`TaskCount`].

use std::sync::Arc;

use super::custody::KEEPS;
use super::joining::Joined;
use super::state::QueueState;
use super::takers::OwnEntry;
use super::{CONFIG, Queue};
use crate::channel::extents::Extents;
use crate::channel::file::File;
use crate::channel::format::{QUEUE, RINGS, TABLE};
use crate::channel::front::Front;
use crate::channel::ring::Ring;
use crate::deadline::Deadline;
use crate::error::{Error, Result};
use crate::facade::Ordering;
use crate::layout::Object;

/// See the module.
#[derive(Clone, Copy)]
pub(super) struct Counted<'a> {
    pub(super) ring: &'a Ring,
    pub(super) state: &'a QueueState,
    pub(super) own: &'a OwnEntry,
}

impl Counted<'_> {
    /// Tasks that are not done.
    pub(super) fn unfinished(self) -> u64 {
        self.state.tasks.unfinished(|| self.tasks_put())
    }

    /// Tasks that there have ever been: where the rest was thrown away, those that were taken.
    pub(super) fn tasks_put(self) -> u64 {
        if self.ring.is_terminated() { self.state.cut.load(Ordering::Acquire) } else { self.ring.messages_in() }
    }
}

impl Queue {
    #[inline]
    pub(super) fn counted(&self) -> Counted<'_> {
        Counted { ring: self.ring(), state: &self.state, own: &self.own }
    }

    /// What goes on when it is closed.
    ///
    /// # Errors
    /// `Corrupted`.
    pub fn task_count(&self) -> Result<TaskCount> {
        let front = self.front().clone();
        // Nothing is ever taken from this ring.
        let extents = Arc::new(Extents::new(front.clone(), TABLE, File::default())?);
        let ring = Ring::new(front.clone(), RINGS, extents, CONFIG)?;
        let at = front.offset() + QUEUE;
        Ok(TaskCount { ring, state: Object::new(front, at)?, own: OwnEntry::default() })
    }
}

/// The tasks of a queue that has been closed here. See the module.
#[derive(Debug)]
pub struct TaskCount {
    ring: Ring,
    state: Object<QueueState, Arc<Front>>,
    own: OwnEntry,
}

impl TaskCount {
    fn counted(&self) -> Counted<'_> {
        Counted { ring: &self.ring, state: &self.state, own: &self.own }
    }

    /// Which message a task is has to be known where messages come back, and a thread that has
    /// closed the queue has none any more.
    fn keeps_messages(&self) -> bool {
        self.ring.state().flags.load(Ordering::Relaxed) & KEEPS != 0
    }

    /// As [`Queue::unfinished`].
    pub fn unfinished(&self) -> u64 {
        self.counted().unfinished()
    }

    /// As [`Queue::tasks_put`].
    pub fn tasks_put(&self) -> u64 {
        self.counted().tasks_put()
    }

    /// As [`Queue::task_done`].
    ///
    /// # Errors
    /// `Overflow` if none was left; `Closed` if messages come back.
    pub fn task_done(&self) -> Result<()> {
        if self.keeps_messages() {
            return Err(Error::Closed);
        }
        let counted = self.counted();
        self.state.tasks.task_done(|| counted.tasks_put())?;
        counted.owes_less();
        Ok(())
    }

    /// As [`Queue::join`]. Where messages come back there is no judgement.
    ///
    /// # Errors
    /// `TimedOut`; `Interrupted`.
    pub fn join(&self, since: u64, judges: bool, deadline: Deadline) -> Result<Joined> {
        let (judges, counted, mut first) = (judges && !self.keeps_messages(), self.counted(), 0);
        let judge = || if judges { counted.lost_tasks(&mut first, || false) } else { Ok(None) };
        let joined = self.state.tasks.join(since, || counted.tasks_put(), judge, deadline)?;
        Ok(joined.map_or(Joined::Done, Joined::Lost))
    }
}
