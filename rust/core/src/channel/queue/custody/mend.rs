//! What dead takers leave: their messages come back, and their memory.

use std::os::fd::AsFd;
use std::sync::Arc;

use super::{Keeper, brief};
use crate::channel::queue::Queue;
use crate::channel::transport::Transport;
use crate::channel::wait::Mender;
use crate::deadline::Patience;
use crate::error::Result;
use crate::kill_point;
use crate::sync::custody::Found;
use crate::sys::liveness::{self, Owner};

impl Queue {
    /// Look whether takers have died, unless somebody has just done so; `always`: look, and ask
    /// about each thoroughly. Has anything come back? Without patience: will it, if one with
    /// patience looks?
    pub fn mend_custody(&self, always: bool, patience: Patience) -> bool {
        self.keeper.get().is_some_and(|keeper| self.look_after(keeper, always, patience))
    }

    pub(in crate::channel::queue) fn look_after(&self, keeper: &Arc<Keeper>, always: bool, patience: Patience) -> bool {
        let (me, custody, ring) = (liveness::me(), keeper.custody(), self.ring());
        let patience = patience.brief();
        let mut has_come_back = false;
        if custody.is_unsettled()
            && let Ok(_getting) = ring.get_guard(Patience::Spin)
        {
            custody.settle(ring.head_word(), self.state.tasks.done());
            has_come_back = ring.in_front() > 0;
        }
        if !custody.is_due(always) {
            return has_come_back;
        }
        let dead = custody.of_the_dead(me, always);
        if !patience.sleeps() && !dead.is_empty() {
            custody.look_again();
            return true;
        }
        if !dead.is_empty() && self.find_file().is_err() {
            // What they have could not be given back.
            custody.look_again();
            return has_come_back;
        }
        for (index, dead) in dead {
            match self.take_back(keeper, index, dead, patience) {
                Ok(true) => has_come_back = true,
                Ok(false) => (),
                Err(_) => {
                    custody.look_again();
                    break;
                }
            }
        }
        if let Some(index) = custody.left_over() {
            let _ = self.take_left_over(keeper, index, patience);
        }
        has_come_back
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

impl Mender for Queue {
    fn mend(&self) -> bool {
        self.mend_custody(false, brief())
    }
}
