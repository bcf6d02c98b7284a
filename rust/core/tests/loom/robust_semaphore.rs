//! The semaphore that knows its holders, with the death of one.

use fastmp_core::facade::{Owner, die};
use fastmp_core::sync::mutex::Acquired;
use fastmp_core::sync::robust_semaphore::{Permit, RobustSemaphore, RobustSemaphoreState};
use fastmp_core::{Deadline, Error};

use crate::{Guarded, model, on, owner};

struct Owned {
    state: RobustSemaphoreState,
    permits: Vec<Permit>,
}

impl Owned {
    fn new(permits: usize) -> Self {
        Owned { state: RobustSemaphoreState::new(), permits: (0..permits).map(|_| Permit::new()).collect() }
    }

    fn core(&self) -> RobustSemaphore<'_> {
        RobustSemaphore::new(&self.state, &self.permits)
    }

    fn acquire(&self, me: Owner) -> Acquired {
        self.core().acquire(me, Deadline::Never).unwrap()
    }
}

fn exclusion(threads: u32, preemptions: usize) {
    model(preemptions, move || {
        let shared = Guarded::new(Owned::new(1));
        let work = |pid| {
            move |shared: &Guarded<Owned>| {
                assert_eq!(shared.lock.acquire(owner(pid)), Acquired::Clean);
                shared.count();
                shared.lock.core().release(owner(pid)).unwrap();
                assert_eq!(shared.lock.core().release(owner(pid)), Err(Error::NotOwner));
            }
        };
        let others: Vec<_> = (2..=threads).map(|pid| on(&shared, work(pid))).collect();
        work(1)(&shared);
        others.into_iter().for_each(|t| t.join().unwrap());
        assert_eq!((shared.lock.core().free(), shared.counted()), (1, threads));
    });
}

#[test]
fn one_permit_for_two() {
    exclusion(2, 3);
}

#[test]
fn one_permit_for_three() {
    exclusion(3, 2);
}

#[test]
fn two_releases_wake_two() {
    model(2, || {
        let shared = Guarded::new(Owned::new(2));
        (0..2).for_each(|_| assert_eq!(shared.lock.acquire(owner(1)), Acquired::Clean));
        let waiters = [2, 3].map(|pid| on(&shared, move |shared| shared.lock.acquire(owner(pid))));
        (0..2).for_each(|_| shared.lock.core().release(owner(1)).unwrap());
        waiters.into_iter().for_each(|t| assert_eq!(t.join().unwrap(), Acquired::Clean));
        assert_eq!(shared.lock.core().free(), 0);
    });
}

#[test]
fn a_dead_holder_and_two_waiters() {
    model(2, || {
        let shared = Guarded::new(Owned::new(1));
        assert_eq!(shared.lock.acquire(owner(1)), Acquired::Clean);
        let waiters = [2, 3].map(|pid| {
            on(&shared, move |shared| {
                let how = shared.lock.acquire(owner(pid));
                shared.count();
                shared.lock.core().release(owner(pid)).unwrap();
                u32::from(how == Acquired::Recovered(owner(1)))
            })
        });
        die(1);
        shared.lock.core().ring();
        let recovered: u32 = waiters.into_iter().map(|t| t.join().unwrap()).sum();
        assert_eq!((recovered, shared.lock.core().recoveries(), shared.lock.core().free()), (1, 1, 1));
    });
}

#[test]
fn both_permits_of_the_dead_come_back() {
    model(2, || {
        let shared = Guarded::new(Owned::new(2));
        (0..2).for_each(|_| assert_eq!(shared.lock.acquire(owner(1)), Acquired::Clean));
        let waiters = [2, 3].map(|pid| on(&shared, move |shared| shared.lock.acquire(owner(pid))));
        die(1);
        shared.lock.core().ring();
        waiters.into_iter().for_each(|t| assert_eq!(t.join().unwrap(), Acquired::Recovered(owner(1))));
        assert_eq!(shared.lock.core().recoveries(), 2);
    });
}
