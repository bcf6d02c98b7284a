//! The condition over a lock, with the death of a waiter whom a grant has reached.

use fastmp_core::facade::{Owner, die};
use fastmp_core::sync::condition::ConditionWait;
use fastmp_core::sync::condvar::{Condvar, CondvarState, Slot, Waiting};
use fastmp_core::sync::lock::LockState;
use fastmp_core::{Deadline, Error, Result};

use crate::{Guarded, model, on, owner};

struct Owned {
    lock: LockState,
    state: CondvarState,
    slots: Vec<Slot>,
}

impl Owned {
    fn new(slots: usize) -> Self {
        let slots = (0..slots).map(|_| Slot::new()).collect();
        Owned { lock: LockState::new(), state: CondvarState::new(), slots }
    }

    fn core(&self) -> Condvar<'_> {
        Condvar::new(&self.state, &self.slots)
    }

    fn locked<R>(&self, me: Owner, f: impl FnOnce(Condvar<'_>) -> R) -> R {
        let _ = self.lock.lock(me, 1, Deadline::Never).unwrap();
        let result = f(self.core());
        self.lock.unlock_once(me, 1).unwrap();
        result
    }

    fn prepare_wait(&self, me: Owner) -> Waiting {
        self.locked(me, |condvar| condvar.prepare_wait(me))
    }

    fn wait(&self, me: Owner, mut waiting: Waiting, deadline: Deadline) -> Result<()> {
        self.core().wait(&mut waiting, me, deadline)?;
        self.core().consume(waiting, me);
        Ok(())
    }

    fn notify(&self, me: Owner, n: u64) {
        self.locked(me, |condvar| condvar.notify(n));
    }
}

type Shared = Guarded<Owned>;

/// Wait until the guarded count is `least`, as programs do.
fn await_count(shared: &Shared, pid: u32, least: u32) {
    let (me, own) = (owner(pid), &shared.lock);
    let _ = own.lock.lock(me, 1, Deadline::Never).unwrap();
    while shared.counted() < least {
        let mut wait = ConditionWait::begin(own.core(), &own.lock, me, 1).unwrap();
        wait.wait(me, Deadline::Never).unwrap();
        let _ = wait.take_back(me, 1).unwrap();
        wait.end(me, 1);
    }
    own.lock.unlock_once(me, 1).unwrap();
}

fn count_and_notify(shared: &Shared, pid: u32, n: u64) {
    shared.lock.locked(owner(pid), |condvar| {
        shared.count();
        condvar.notify(n);
    });
}

#[test]
fn a_waiter_is_woken() {
    model(3, || {
        let shared = Guarded::new(Owned::new(1));
        let waiter = on(&shared, |shared| await_count(shared, 2, 1));
        count_and_notify(&shared, 1, 1);
        waiter.join().unwrap();
    });
}

#[test]
fn all_are_woken() {
    model(2, || {
        let shared = Guarded::new(Owned::new(2));
        let waiters = [2, 3].map(|pid| on(&shared, move |shared| await_count(shared, pid, 1)));
        count_and_notify(&shared, 1, u64::MAX);
        waiters.into_iter().for_each(|t| t.join().unwrap());
    });
}

#[test]
fn two_notifies_wake_two_who_waited() {
    model(2, || {
        let shared = Guarded::new(Owned::new(2));
        let waiters = [2, 3].map(|pid| {
            let waiting = shared.lock.prepare_wait(owner(pid));
            on(&shared, move |shared| shared.lock.wait(owner(pid), waiting, Deadline::Never).unwrap())
        });
        (0..2).for_each(|_| shared.lock.notify(owner(1), 1));
        waiters.into_iter().for_each(|t| t.join().unwrap());
    });
}

#[test]
fn a_late_comer_takes_nobodys_grant() {
    model(2, || {
        let shared = Guarded::new(Owned::new(2));
        let waiting = shared.lock.prepare_wait(owner(2));
        let early = on(&shared, |shared| shared.lock.wait(owner(2), waiting, Deadline::Never).unwrap());
        shared.lock.notify(owner(1), 1);
        let waiting = shared.lock.prepare_wait(owner(3));
        assert_eq!(shared.lock.wait(owner(3), waiting, Deadline::PASSED), Err(Error::TimedOut));
        early.join().unwrap();
    });
}

#[test]
fn a_grant_of_the_dead_passes_on() {
    model(2, || {
        let shared = Guarded::new(Owned::new(2));
        let _dead = shared.lock.prepare_wait(owner(2));
        let waiting = shared.lock.prepare_wait(owner(3));
        let heir = on(&shared, |shared| shared.lock.wait(owner(3), waiting, Deadline::Never).unwrap());
        // The first, who has the first claim, dies before or after the grant.
        shared.lock.notify(owner(1), 1);
        die(2);
        shared.lock.core().ring();
        heir.join().unwrap();
        assert_eq!(shared.lock.core().waiters(), 0);
    });
}

#[test]
fn a_grant_of_the_dead_goes_to_one_of_two() {
    model(2, || {
        let shared = Guarded::new(Owned::new(3));
        let _dead = shared.lock.prepare_wait(owner(2));
        let heirs = [3, 4].map(|pid| {
            let waiting = shared.lock.prepare_wait(owner(pid));
            on(&shared, move |shared| shared.lock.wait(owner(pid), waiting, Deadline::Never).unwrap())
        });
        shared.lock.notify(owner(1), 1);
        die(2);
        // One inherits, and the second notify is for the other: or the other way round.
        shared.lock.notify(owner(1), 1);
        shared.lock.core().ring();
        heirs.into_iter().for_each(|t| t.join().unwrap());
    });
}

#[test]
fn who_withdraws_hands_the_grant_on() {
    model(2, || {
        let shared = Guarded::new(Owned::new(2));
        let leaving = shared.lock.prepare_wait(owner(2));
        let waiting = shared.lock.prepare_wait(owner(3));
        let other = on(&shared, |shared| shared.lock.wait(owner(3), waiting, Deadline::Never).unwrap());
        let quitter = on(&shared, |shared| shared.lock.core().cancel(leaving, owner(2)));
        shared.lock.notify(owner(1), 1);
        quitter.join().unwrap();
        other.join().unwrap();
    });
}

#[test]
fn a_grant_is_taken_or_left_to_the_next() {
    model(2, || {
        let shared = Guarded::new(Owned::new(2));
        let hasty = shared.lock.prepare_wait(owner(2));
        let waiting = shared.lock.prepare_wait(owner(3));
        let hasty = on(&shared, |shared| shared.lock.wait(owner(2), hasty, Deadline::PASSED));
        shared.lock.notify(owner(1), 1);
        if hasty.join().unwrap().is_err() {
            // It gave up before the grant, which then was the other's.
            shared.lock.wait(owner(3), waiting, Deadline::PASSED).unwrap();
        } else {
            assert_eq!(shared.lock.wait(owner(3), waiting, Deadline::PASSED), Err(Error::TimedOut));
        }
    });
}

#[test]
fn who_has_no_slot_is_woken_too() {
    model(2, || {
        let shared = Guarded::new(Owned::new(1));
        let waiters = [2, 3].map(|pid| {
            let waiting = shared.lock.prepare_wait(owner(pid));
            on(&shared, move |shared| shared.lock.wait(owner(pid), waiting, Deadline::Never).unwrap())
        });
        shared.lock.notify(owner(1), u64::MAX);
        waiters.into_iter().for_each(|t| t.join().unwrap());
    });
}

#[test]
fn who_has_no_slot_gets_the_next_one() {
    model(2, || {
        let shared = Guarded::new(Owned::new(1));
        let waiters = [2, 3].map(|pid| {
            let waiting = shared.lock.prepare_wait(owner(pid));
            on(&shared, move |shared| shared.lock.wait(owner(pid), waiting, Deadline::Never).unwrap())
        });
        (0..2).for_each(|_| shared.lock.notify(owner(1), 1));
        waiters.into_iter().for_each(|t| t.join().unwrap());
    });
}

/// The heir of a grant dies in its turn, before or after it has taken the grant over: a third one
/// gets it.
#[test]
fn a_grant_of_the_dead_outlives_its_heir() {
    model(2, || {
        let shared = Guarded::new(Owned::new(3));
        let _dead = shared.lock.prepare_wait(owner(2));
        let heir = shared.lock.prepare_wait(owner(3));
        let waiting = shared.lock.prepare_wait(owner(4));
        shared.lock.notify(owner(1), 1);
        die(2);
        // It dies as soon as it has the grant, and never uses it.
        let heir = on(&shared, move |shared| {
            let mut heir = heir;
            shared.lock.core().wait(&mut heir, owner(3), Deadline::Never).unwrap();
            die(3);
            shared.lock.core().ring();
        });
        let third = on(&shared, |shared| {
            shared.lock.wait(owner(4), waiting, Deadline::Never).unwrap();
            // It may have been quicker than the heir, who then needs another.
            shared.lock.notify(owner(4), 1);
        });
        shared.lock.core().ring();
        heir.join().unwrap();
        third.join().unwrap();
    });
}

/// Threads of one process look the same in a slot's word: one that has just got the slot is granted
/// what was meant for the one before. When it dies, another that waited at the time gets it.
#[test]
fn a_slot_that_changes_hands_under_a_notifier_keeps_the_grant() {
    model(2, || {
        let shared = Guarded::new(Owned::new(2));
        let (leaving, waiting) = (shared.lock.prepare_wait(owner(2)), shared.lock.prepare_wait(owner(3)));
        let mut without = shared.lock.prepare_wait(owner(2));
        let crowd = on(&shared, move |shared| {
            shared.lock.core().cancel(leaving, owner(2));
            // It gets the slot, and perhaps the grant, and never uses it.
            shared.lock.core().wait(&mut without, owner(2), Deadline::Never).unwrap();
            die(2);
            shared.lock.core().ring();
        });
        shared.lock.notify(owner(1), 1);
        shared.lock.wait(owner(3), waiting, Deadline::Never).unwrap();
        // It may have had a grant of its own, and then the other needs one.
        shared.lock.notify(owner(3), 1);
        crowd.join().unwrap();
    });
}
