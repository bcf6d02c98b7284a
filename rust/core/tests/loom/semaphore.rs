//! The counting semaphore.

use fastmp_core::Deadline;
use fastmp_core::sync::semaphore::{MAX, Semaphore};
use loom::sync::Arc;
use loom::thread;

use crate::{Guarded, model};

#[test]
fn semaphore_of_one_permit() {
    model(3, || {
        let shared = Guarded::new(Semaphore::new(1, 1));
        let work = |shared: Arc<Guarded<Semaphore>>| {
            shared.lock.acquire(Deadline::Never).unwrap();
            shared.count();
            shared.lock.release().unwrap();
        };
        let other = {
            let shared = shared.clone();
            thread::spawn(move || work(shared))
        };
        work(shared.clone());
        other.join().unwrap();
        assert_eq!(shared.lock.permits(), 1);
    });
}

#[test]
fn semaphore_of_one_permit_and_three_threads() {
    model(2, || {
        let shared = Guarded::new(Semaphore::new(1, MAX));
        let work = |shared: Arc<Guarded<Semaphore>>| {
            shared.lock.acquire(Deadline::Never).unwrap();
            shared.count();
            shared.lock.release().unwrap();
        };
        let others = [0; 2].map(|_| {
            let shared = shared.clone();
            thread::spawn(move || work(shared))
        });
        work(shared.clone());
        others.into_iter().for_each(|t| t.join().unwrap());
        assert_eq!(shared.lock.permits(), 1);
    });
}

#[test]
fn two_releases_wake_two_waiters() {
    // The second release finds the flag down and wakes nobody: the first one woken has to hand the
    // wake-up on.
    model(3, || {
        let semaphore = Arc::new(Semaphore::new(0, MAX));
        let waiters = [0; 2].map(|_| {
            let semaphore = semaphore.clone();
            thread::spawn(move || semaphore.acquire(Deadline::Never).unwrap())
        });
        semaphore.release().unwrap();
        semaphore.release().unwrap();
        waiters.into_iter().for_each(|t| t.join().unwrap());
        assert_eq!(semaphore.permits(), 0);
    });
}

#[test]
fn a_passer_by_robs_no_waiter_of_the_next_permit() {
    model(2, || {
        let semaphore = Arc::new(Semaphore::new(0, MAX));
        let waiter = {
            let semaphore = semaphore.clone();
            thread::spawn(move || semaphore.acquire(Deadline::Never).unwrap())
        };
        let passer_by = {
            let semaphore = semaphore.clone();
            thread::spawn(move || {
                if semaphore.try_acquire() {
                    semaphore.release().unwrap();
                }
            })
        };
        semaphore.release().unwrap();
        waiter.join().unwrap();
        passer_by.join().unwrap();
        assert_eq!(semaphore.permits(), 0);
    });
}
