//! The mutex, recursive or not, with the death of a holder.

use fastmp_core::facade::die;
use fastmp_core::sync::lock::LockState;
use fastmp_core::sync::mutex::{Acquired, Mutex};
use fastmp_core::{Deadline, Error};
use loom::sync::Arc;
use loom::thread;

use crate::{Guarded, model, owner};

fn exclusion(threads: u32, preemptions: usize) {
    model(preemptions, move || {
        let shared = Guarded::new(Mutex::new());
        let work = move |shared: Arc<Guarded<Mutex>>, pid| {
            assert_eq!(shared.lock.lock(owner(pid), Deadline::Never), Ok(Acquired::Clean));
            shared.count();
            shared.lock.unlock();
        };
        let others: Vec<_> = (2..=threads)
            .map(|pid| {
                let shared = shared.clone();
                thread::spawn(move || work(shared, pid))
            })
            .collect();
        work(shared.clone(), 1);
        others.into_iter().for_each(|t| t.join().unwrap());
        assert_eq!(shared.lock.lock(owner(1), Deadline::PASSED), Ok(Acquired::Clean));
        assert_eq!(shared.counted(), threads);
    });
}

#[test]
fn mutex_of_two() {
    exclusion(2, 3);
}

#[test]
fn mutex_of_three() {
    exclusion(3, 2);
}

#[test]
fn mutex_taken_twice_by_each() {
    model(3, || {
        let shared = Guarded::new(Mutex::new());
        let work = |shared: Arc<Guarded<Mutex>>, pid| {
            for _ in 0..2 {
                assert_eq!(shared.lock.lock(owner(pid), Deadline::Never), Ok(Acquired::Clean));
                shared.count();
                // As for a plain `Lock`, which anybody may release.
                shared.lock.unlock_any().unwrap();
            }
        };
        let other = {
            let shared = shared.clone();
            thread::spawn(move || work(shared, 2))
        };
        work(shared.clone(), 1);
        other.join().unwrap();
        assert_eq!(shared.lock.unlock_any(), Err(Error::Overflow));
    });
}

/// Process 1 dies holding the lock; the others wait for it, and one of them recovers it.
fn death_of_a_holder(waiters: u32, preemptions: usize) {
    model(preemptions, move || {
        let shared = Guarded::new(Mutex::new());
        assert!(shared.lock.try_lock(owner(1)));
        let waiters: Vec<_> = (2..2 + waiters)
            .map(|pid| {
                let shared = shared.clone();
                thread::spawn(move || {
                    let how = shared.lock.lock(owner(pid), Deadline::Never).unwrap();
                    shared.count();
                    shared.lock.unlock();
                    u32::from(how == Acquired::Recovered(owner(1)))
                })
            })
            .collect();
        die(1);
        shared.lock.ring();
        let recovered: u32 = waiters.into_iter().map(|t| t.join().unwrap()).sum();
        assert_eq!((recovered, shared.lock.recoveries()), (1, 1));
        assert_eq!(shared.lock.owner(), None);
    });
}

#[test]
fn a_dead_holder_and_one_waiter() {
    death_of_a_holder(1, 3);
}

#[test]
fn a_dead_holder_and_two_waiters() {
    death_of_a_holder(2, 2);
}

#[test]
fn a_poller_and_a_waiter_find_a_dead_holder() {
    model(2, || {
        let shared = Guarded::new(Mutex::new());
        assert!(shared.lock.try_lock(owner(1)));
        die(1);
        let waiter = {
            let shared = shared.clone();
            thread::spawn(move || {
                let how = shared.lock.lock(owner(2), Deadline::Never).unwrap();
                shared.count();
                shared.lock.unlock();
                u32::from(how != Acquired::Clean)
            })
        };
        let polled = shared.lock.try_lock_or_recover(owner(3));
        if polled.is_some() {
            shared.count();
            shared.lock.unlock();
        }
        let recovered = waiter.join().unwrap() + u32::from(polled.is_some_and(|how| how != Acquired::Clean));
        assert_eq!((recovered, shared.lock.recoveries()), (1, 1));
    });
}

#[test]
fn recursion_keeps_others_out() {
    model(2, || {
        let shared = Guarded::new(LockState::new());
        let work = |shared: Arc<Guarded<LockState>>, thread| {
            // Threads of one process.
            let me = owner(1);
            assert!(!shared.lock.is_mine(me, thread));
            assert_eq!(shared.lock.lock(me, thread, Deadline::Never), Ok(Acquired::Clean));
            assert!(shared.lock.try_reenter(me, thread).unwrap());
            shared.lock.unlock_once(me, thread).unwrap();
            shared.count();
            shared.lock.unlock_once(me, thread).unwrap();
            assert_eq!(shared.lock.unlock_once(me, thread), Err(Error::NotOwner));
        };
        let other = {
            let shared = shared.clone();
            thread::spawn(move || work(shared, 12))
        };
        work(shared.clone(), 11);
        other.join().unwrap();
    });
}

/// A plain lock is of the thread that took it last, not of one of the same process that had it
/// before.
#[test]
fn a_lock_that_another_thread_holds_is_not_mine() {
    model(3, || {
        let shared = Guarded::new(LockState::new());
        let me = owner(1);
        assert_eq!(shared.lock.lock(me, 11, Deadline::Never), Ok(Acquired::Clean));
        shared.lock.unlock_any().unwrap();
        let other = {
            let shared = shared.clone();
            thread::spawn(move || {
                assert_eq!(shared.lock.lock(me, 12, Deadline::Never), Ok(Acquired::Clean));
                assert!(shared.lock.is_mine(me, 12));
                shared.lock.unlock_any().unwrap();
            })
        };
        assert!(!shared.lock.is_mine(me, 11));
        other.join().unwrap();
    });
}

/// The same when it was a third thread that gave it up for the first.
#[test]
fn a_lock_that_another_has_released_is_nobodys() {
    model(2, || {
        let shared = Guarded::new(LockState::new());
        let me = owner(1);
        assert_eq!(shared.lock.lock(me, 11, Deadline::Never), Ok(Acquired::Clean));
        let releaser = {
            let shared = shared.clone();
            thread::spawn(move || shared.lock.unlock_any().unwrap())
        };
        let next = {
            let shared = shared.clone();
            thread::spawn(move || {
                assert_eq!(shared.lock.lock(me, 12, Deadline::Never), Ok(Acquired::Clean));
                assert!(shared.lock.is_mine(me, 12));
            })
        };
        releaser.join().unwrap();
        assert!(!shared.lock.is_mine(me, 11));
        next.join().unwrap();
    });
}
