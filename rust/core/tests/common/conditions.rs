//! A lock with a condition, in memory that children share.

use fastmp_core::arena::Block;
use fastmp_core::layout::{Kind, Object, WithSlice};
use fastmp_core::overlays::Overlay;
use fastmp_core::sync::condition::ConditionWait;
use fastmp_core::sync::condvar::{Condvar, CondvarState, SLOTS, Slot};
use fastmp_core::sync::lock::LockState;
use fastmp_core::sync::mutex::Acquired;
use fastmp_core::sys::liveness::{me, thread_id};
use fastmp_core::{Deadline, Error};

/// A `T` and a row of so many `U`s, all zero.
pub fn with_slice<T: Overlay, U: Overlay>(kind: Kind, len: usize) -> WithSlice<T, U, Block> {
    let bytes = WithSlice::<T, U, Block>::bytes(len).expect("few");
    Block::alloc(kind, bytes).and_then(Block::with_slice).expect("memory")
}

pub struct Watched {
    pub lock: Object<LockState, Block>,
    row: WithSlice<CondvarState, Slot, Block>,
}

impl Watched {
    pub fn new() -> Self {
        Self::with_slots(SLOTS)
    }

    pub fn with_slots(slots: usize) -> Self {
        Watched { lock: super::shared(Kind::Lock), row: with_slice(Kind::Condition, slots) }
    }

    pub fn condvar(&self) -> Condvar<'_> {
        Condvar::new(self.row.head(), self.row.slice())
    }

    pub fn enter(&self) -> Acquired {
        self.lock.lock(me(), thread_id(), Deadline::Never).expect("no signals")
    }

    pub fn leave(&self) {
        self.lock.unlock_once(me(), thread_id()).expect("it is held");
    }

    /// Under the lock: give it up until notified; was it in time?
    pub fn wait(&self, deadline: Deadline) -> bool {
        let mut wait = ConditionWait::begin(self.condvar(), &self.lock, me(), thread_id()).expect("it is held");
        let woken = wait.wait(me(), deadline);
        let _ = wait.take_back(me(), thread_id()).expect("no signals");
        assert!(matches!(woken, Ok(()) | Err(Error::TimedOut)), "{woken:?}");
        wait.end(me(), thread_id());
        woken.is_ok()
    }

    /// One whole wait; was it woken in time?
    pub fn wait_once(&self, deadline: Deadline) -> bool {
        let _ = self.enter();
        let woken = self.wait(deadline);
        self.leave();
        woken
    }

    pub fn notify(&self, n: u64) {
        let _ = self.enter();
        self.condvar().notify(n);
        self.leave();
    }
}
