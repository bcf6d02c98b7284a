//! What dead takers leave: their messages come back, and their memory.

use std::os::fd::AsFd;
use std::sync::Arc;

use super::Keeper;
use crate::channel::queue::Queue;
use crate::channel::transport::Transport;
use crate::channel::wait::Mender;
use crate::deadline::{Graced, Patience};
use crate::error::{Error, Result};
use crate::facade;
use crate::kill_point;
use crate::sync::custody::{AT_ONCE, Found, THOROUGH};
use crate::sys::liveness::{self, Owner};

/// Why the owners are looked at, and so when.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::channel::queue) enum Look {
    /// Somebody asks for a message, or waits for one: unless anybody has just looked.
    Asked,
    /// Somebody is to be told how many there are: unless this process has just looked.
    Told,
    /// Whenever that was, and each is asked about thoroughly.
    Always,
}

impl Queue {
    /// Look whether takers have died, unless somebody has just done so; `always`: look, and ask
    /// about each thoroughly. Has anything come back?
    pub fn mend_custody(&self, always: bool, patience: Patience) -> bool {
        let look = if always { Look::Always } else { Look::Asked };
        self.keeper.get().is_some_and(|keeper| self.look_after(keeper, look, patience))
    }

    /// Is it to be looked whether takers have died, before anybody is told how many messages there
    /// are? Others hold some, and this process has not looked for a while. Cheap.
    pub fn is_look_due(&self) -> bool {
        self.keeper.get().is_some_and(|keeper| keeper.is_look_due())
    }

    /// That look. Has anything come back?
    pub fn look_before_answer(&self, patience: Patience) -> bool {
        let keeper = self.keeper.get().filter(|keeper| keeper.is_look_due());
        keeper.is_some_and(|keeper| self.look_after(keeper, Look::Told, patience))
    }

    pub(in crate::channel::queue) fn look_after(&self, keeper: &Arc<Keeper>, look: Look, patience: Patience) -> bool {
        let (custody, ring) = (keeper.custody(), self.ring());
        let mut has_come_back = false;
        if custody.is_unsettled()
            && let Ok(_getting) = ring.get_guard(Patience::Spin)
        {
            custody.settle(ring.head_word(), self.state.tasks.done());
            has_come_back = ring.in_front() > 0;
        }
        if !custody.is_due(look != Look::Asked) {
            return has_come_back;
        }
        let began = facade::now();
        let most = match look {
            Look::Asked => THOROUGH,
            Look::Told => AT_ONCE,
            Look::Always => usize::MAX,
        };
        match self.take_back_all(keeper, most, look == Look::Asked, patience.brief()) {
            Ok(count) => {
                keeper.has_looked(began);
                has_come_back || count > 0
            }
            Err((count, _)) => {
                custody.look_again();
                keeper.has_looked(0);
                has_come_back || count > 0
            }
        }
    }

    /// What dead takers had. How many of their bays have come back? With an error: before that.
    fn take_back_all(
        &self,
        keeper: &Keeper,
        most: usize,
        by_signs: bool,
        patience: Patience,
    ) -> std::result::Result<usize, (usize, Error)> {
        let custody = keeper.custody();
        let dead = custody.of_the_dead(liveness::me(), most, by_signs);
        if !dead.is_empty() && self.find_file().is_err() {
            // What they have could not be given back. In a while there may be a descriptor for it.
            return Ok(0);
        }
        let mut count = 0;
        for (index, dead) in dead {
            count += usize::from(self.take_back(keeper, index, dead, patience).map_err(|e| (count, e))?);
        }
        if let Some(index) = custody.left_over() {
            let _ = self.take_left_over(keeper, index, patience);
        }
        Ok(count)
    }

    /// For one who must not wait, and so does not look: is it to come again, and look?
    pub(in crate::channel::queue) fn leaves_a_look(&self, keeper: &Keeper) -> bool {
        let custody = keeper.custody();
        if !custody.is_time() {
            return false;
        }
        if custody.is_unsettled() || custody.is_used_by_others(liveness::me()) {
            return true;
        }
        // There is nobody to be found, nor need anyone ask that again for a while.
        custody.is_due(false);
        false
    }

    #[cold]
    fn take_back(&self, keeper: &Keeper, index: usize, dead: Owner, patience: Patience) -> Result<bool> {
        let (custody, ring) = (keeper.custody(), self.ring());
        let getting = ring.get_guard(patience)?;
        let putting = ring.put_guard(patience)?;
        custody.settle(ring.head_word(), self.state.tasks.done());
        let tell = || {
            // A socket that is too full for it is readable.
            let _ = Transport::make_ready(&putting, self.writer.as_fd());
        };
        let found = custody.take_back(index, dead, liveness::me(), !ring.is_terminated(), tell);
        if matches!(found, Found::Returned(_)) {
            putting.note_returned();
        }
        drop(putting);
        drop(getting);
        match found {
            Found::Returned(count) => {
                self.counted().owed_by_another(dead, count);
                kill_point!("custody.before_wake");
                ring.state().not_empty.notify();
                if ring.tells_room() {
                    self.transport.tell_if_full(self.writer.as_fd(), patience, false);
                }
                Ok(true)
            }
            Found::ToClean => {
                keeper.clean(index);
                Ok(false)
            }
            Found::Changed => Ok(false),
        }
    }

    fn take_left_over(&self, keeper: &Keeper, index: usize, patience: Patience) -> Result<()> {
        self.find_file()?;
        let getting = self.ring().get_guard(patience)?;
        keeper.custody().settle(self.ring().head_word(), self.state.tasks.done());
        let is_mine = keeper.custody().drained(index, liveness::me());
        drop(getting);
        if is_mine {
            keeper.clean(index);
        }
        Ok(())
    }

    /// Of a queue that is terminated: what is in front is nobody's.
    pub(in crate::channel::queue) fn throw_front_away(&self, patience: Patience) -> Result<()> {
        let Some(keeper) = self.keeper.get() else { return Ok(()) };
        self.find_file()?;
        let getting = self.ring().get_guard(patience)?;
        self.settle_custody();
        let thrown = keeper.custody().throw_away(liveness::me());
        drop(getting);
        kill_point!("custody.thrown_away");
        thrown.into_iter().for_each(|index| keeper.clean(index));
        Ok(())
    }

    /// Under the get lock, by one who moves the head otherwise: see [`Custody::settle`].
    ///
    /// [`Custody::settle`]: crate::sync::custody::Custody::settle
    pub(in crate::channel::queue) fn settle_custody(&self) {
        if let Some(keeper) = self.keeper.get() {
            keeper.custody().settle(self.ring().head_word(), self.state.tasks.done());
        }
    }

    /// Does anybody hold messages that may come back?
    pub(in crate::channel::queue) fn may_come_back(&self) -> bool {
        self.keeper.get().is_some_and(|keeper| keeper.custody().is_anything_held())
    }
}

/// Who waits for a message, with its call's time.
pub(in crate::channel::queue) struct Waiter<'a> {
    queue: &'a Queue,
    until: Graced,
}

impl<'a> Waiter<'a> {
    pub(in crate::channel::queue) fn new(queue: &'a Queue, until: Graced) -> Waiter<'a> {
        Waiter { queue, until }
    }
}

impl Mender for Waiter<'_> {
    fn mend(&self) -> bool {
        self.queue.mend_custody(false, Patience::Sleep(self.until))
    }
}
