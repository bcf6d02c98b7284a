//! Conditions, barriers, and permits that know their holders.

use fastmp_core::sync::barrier::{Arrived, Barrier, BarrierState, Place};
use fastmp_core::sync::condition::ConditionWait;
use fastmp_core::sync::condvar::{Condvar, CondvarState, SLOTS, Slot};
use fastmp_core::sync::lock::LockState;
use fastmp_core::sync::robust_semaphore::{Permit, RobustSemaphore, RobustSemaphoreState};
use fastmp_core::sys::liveness::{me, thread_id};
use fastmp_core::{Deadline, Error};

use crate::{Plain, THREADS, common, exclude, in_time, shortly, soon, times, together};

/// A lock with a condition that has so many slots.
struct Watched {
    lock: LockState,
    state: CondvarState,
    slots: Vec<Slot>,
}

impl Watched {
    fn new(slots: usize) -> Self {
        let slots = (0..slots).map(|_| Slot::new()).collect();
        Watched { lock: LockState::new(), state: CondvarState::new(), slots }
    }

    fn condvar(&self) -> Condvar<'_> {
        Condvar::new(&self.state, &self.slots)
    }

    fn locked<R>(&self, act: impl FnOnce() -> R) -> R {
        let _ = self.lock.lock(me(), thread_id(), soon()).unwrap();
        let result = act();
        self.lock.unlock_once(me(), thread_id()).unwrap();
        result
    }

    /// Under the lock: give it up until notified.
    fn wait(&self, deadline: Deadline) -> bool {
        let mut wait = ConditionWait::begin(self.condvar(), &self.lock, me(), thread_id()).unwrap();
        let woken = in_time(wait.wait(me(), deadline)).is_some();
        let _ = wait.take_back(me(), thread_id()).unwrap();
        wait.end(me(), thread_id());
        woken
    }
}

/// A buffer of one, between as many who fill it as empty it.
fn call_python(slots: usize, patience: impl Fn() -> Deadline + Sync) {
    let (watched, place, rounds) = (Watched::new(slots), Plain::<Option<u64>>::default(), times(2000));
    together(THREADS, |who| {
        for round in 0..rounds {
            watched.locked(|| {
                while place.read(Option::is_some) == (who % 2 == 0) {
                    watched.wait(patience());
                }
                place.alone(|place| *place = (who % 2 == 0).then_some(round));
                // All: those who wait for the other thing as well.
                watched.condvar().notify(u64::MAX);
            });
        }
    });
    assert_eq!((place.read(|place| *place), watched.condvar().waiters()), (None, 0));
}

#[test]
fn condition() {
    let _turn = common::turn();
    call_python(SLOTS, soon);
}

#[test]
fn condition_with_time_outs() {
    let _turn = common::turn();
    call_python(SLOTS, shortly);
}

#[test]
fn condition_with_fewer_slots_than_waiters() {
    let _turn = common::turn();
    call_python(1, soon);
}

#[test]
fn condition_wakes_as_many_as_told() {
    let _turn = common::turn();
    // Each who is woken was told to by one: with a wake-up too few it ends by its watchdog, with
    // one too many by this count.
    let (watched, tokens, rounds) = (Watched::new(SLOTS), Plain::<u64>::default(), times(2000));
    together(THREADS, |who| {
        for _ in 0..rounds {
            watched.locked(|| {
                if who == 0 {
                    tokens.alone(|n| *n += THREADS as u64 - 1);
                    watched.condvar().notify(THREADS as u64 - 1);
                    return;
                }
                while tokens.read(|n| *n == 0) {
                    assert!(watched.wait(soon()), "never woken");
                }
                tokens.alone(|n| *n -= 1);
            });
        }
    });
    assert_eq!(tokens.read(|n| *n), 0);
}

#[test]
fn barrier() {
    let _turn = common::turn();
    let state = BarrierState::new();
    let places: Vec<_> = (0..THREADS).map(|_| Place::new()).collect();
    let (barrier, rounds) = (Barrier::new(&state, &places), times(2000));
    let written: Vec<Plain<u64>> = (0..2 * THREADS).map(|_| Plain::default()).collect();
    together(THREADS, |who| {
        for round in 0..rounds {
            // Two sets in turn: what is written for the next round is not what is still read of
            // this one.
            let set = &written[(round % 2) as usize * THREADS..][..THREADS];
            set[who].alone(|n| *n = round);
            let arrival = match barrier.arrive(me(), round % 3 == 0, soon()).unwrap() {
                Arrived::Released(arrival) => arrival,
                Arrived::Act(arrival) => {
                    set.iter().for_each(|plain| plain.alone(|n| *n += 1));
                    barrier.release(arrival, me()).unwrap();
                    arrival
                }
                Arrived::Wait(arrival) => {
                    barrier.wait(arrival, me(), soon()).unwrap();
                    arrival
                }
            };
            assert!((arrival.index as usize) < THREADS);
            let all = round + u64::from(round % 3 == 0);
            assert!(set.iter().all(|plain| plain.read(|n| *n) == all));
        }
    });
    assert_eq!((barrier.waiting(), barrier.is_broken()), (0, false));
}

fn permits(permits: usize) -> (RobustSemaphoreState, Vec<Permit>) {
    (RobustSemaphoreState::new(), (0..permits).map(|_| Permit::new()).collect())
}

#[test]
fn one_permit_by_name() {
    let _turn = common::turn();
    let (state, row) = permits(1);
    let permits = RobustSemaphore::new(&state, &row);
    let enter = |round| match round % 3 {
        0 => permits.try_acquire(me()),
        1 => in_time(permits.acquire(me(), shortly())).is_some(),
        _ => permits.acquire(me(), soon()).is_ok(),
    };
    exclude(2000, enter, |_| permits.release(me()).unwrap());
    assert_eq!((permits.free(), permits.release(me())), (1, Err(Error::NotOwner)));
}

#[test]
fn several_permits_by_name() {
    let _turn = common::turn();
    let (state, row) = permits(3);
    let (permits, inside) = (RobustSemaphore::new(&state, &row), std::sync::atomic::AtomicU64::new(0));
    together(THREADS + 2, |_| {
        for _ in 0..times(1000) {
            let _ = permits.acquire(me(), soon()).unwrap();
            assert!(inside.fetch_add(1, std::sync::atomic::Ordering::Relaxed) < 3);
            inside.fetch_sub(1, std::sync::atomic::Ordering::Relaxed);
            permits.release(me()).unwrap();
        }
    });
    assert_eq!(permits.free(), 3);
}
