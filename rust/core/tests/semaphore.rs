//! Semaphores between threads and processes, with waiters and releasers killed at every step.
#![cfg(not(loom))]
// Forks, and lays test words over shared memory; a failure is to panic.
#![allow(unsafe_code, clippy::unwrap_used)]

mod common;

use std::time::{Duration, Instant};

use common::{Child, KILLED, OK, Words, until, words};
use fastmp_core::arena::Block;
use fastmp_core::layout::{Kind, Object};
use fastmp_core::sync::semaphore::{MAX, Semaphore};
use fastmp_core::{Deadline, Error};

fn semaphore(permits: u32, most: u32) -> Object<Semaphore, Block> {
    let semaphore: Object<Semaphore, Block> = common::shared(Kind::Semaphore);
    semaphore.set_up(permits, most);
    semaphore
}

fn soon() -> Deadline {
    Deadline::after(5.0)
}

/// Go in and out; word 0 counts who is in, word 1 those who found too many, word 2 rounds.
fn pass(semaphore: &Semaphore, words: &Words, most: u64, times: u32) {
    for _ in 0..times {
        semaphore.acquire(Deadline::Never).unwrap();
        if words.add(0, 1) >= most {
            words.add(1, 1);
        }
        words.add(2, 1);
        words.sub(0, 1);
        semaphore.release().unwrap();
    }
}

#[test]
fn threads_and_processes_never_exceed_the_permits() {
    let _turn = common::turn();
    for permits in [1, 3] {
        let (semaphore, words) = (semaphore(permits, MAX), words());
        let work = || {
            std::thread::scope(|s| {
                for _ in 0..2 {
                    s.spawn(|| pass(&semaphore, &words, permits.into(), 4_000));
                }
            });
        };
        let mut children: Vec<_> = (0..3).map(|_| Child::fork(work)).collect();
        assert!(children.iter_mut().all(|c| c.wait() == OK));
        assert_eq!((words.get(0), words.get(1), words.get(2)), (0, 0, 24_000));
        assert_eq!(semaphore.permits(), permits);
    }
}

#[test]
fn bounds_and_deadlines_are_kept() {
    let _turn = common::turn();
    let semaphore = semaphore(1, 2);
    semaphore.release().unwrap();
    assert_eq!(semaphore.release(), Err(Error::Overflow));
    assert!(semaphore.try_acquire() && semaphore.try_acquire() && !semaphore.try_acquire());
    let start = Instant::now();
    assert_eq!(semaphore.acquire(Deadline::after(0.1)), Err(Error::TimedOut));
    assert!(start.elapsed() >= Duration::from_millis(100));
    assert_eq!(semaphore.acquire(Deadline::PASSED), Err(Error::TimedOut));
    assert_eq!((semaphore.permits(), semaphore.most()), (0, 2));
    semaphore.release().unwrap();
    semaphore.acquire(Deadline::PASSED).unwrap();
}

#[test]
fn as_many_wake_as_are_released() {
    let _turn = common::turn();
    for _ in 0..20 {
        let semaphore = semaphore(0, MAX);
        let mut waiters: Vec<_> = (0..4).map(|_| Child::fork(|| semaphore.acquire(soon()).unwrap())).collect();
        waiters.iter().for_each(Child::until_parked);
        (0..4).for_each(|_| semaphore.release().unwrap());
        assert!(waiters.iter_mut().all(|w| w.wait() == OK));
        assert_eq!(semaphore.permits(), 0);
    }
}

#[test]
fn a_waiter_that_dies_parking_harms_nobody() {
    let _turn = common::turn();
    let semaphore = semaphore(0, MAX);
    let mut doomed = Child::doomed("semaphore.parking", 1, || assert!(semaphore.acquire(Deadline::Never).is_err()));
    assert_eq!(doomed.wait(), KILLED);
    let mut other = Child::fork(|| semaphore.acquire(soon()).unwrap());
    other.until_parked();
    semaphore.release().unwrap();
    assert_eq!(other.wait(), OK);
    semaphore.release().unwrap();
    assert_eq!(semaphore.permits(), 1, "the dead waiter took none");
}

/// A first waiter dies at `point` when permits come; `permits` released, `left` of them for those
/// who come after.
fn dies_woken(point: &str, permits: u32, others: usize) {
    let (semaphore, words) = (semaphore(0, MAX), words());
    let mut first = Child::fork(|| {
        // Slices end in "woken" as well: arm when the wait is known to go on.
        let _ = semaphore.acquire(Deadline::after(0.1));
        fastmp_core::fault::arm(point, 1, fastmp_core::fault::Action::Kill);
        words.set(0, 1);
        let _ = semaphore.acquire(Deadline::Never);
    });
    until("the first waits in earnest", || words.get(0) == 1);
    first.until_parked();
    let mut rest: Vec<_> = (0..others).map(|_| Child::fork(|| semaphore.acquire(soon()).unwrap())).collect();
    rest.iter().for_each(Child::until_parked);
    (0..permits).for_each(|_| semaphore.release().unwrap());
    assert_eq!(first.wait(), KILLED, "{point}");
    assert!(rest.iter_mut().all(|w| w.wait() == OK), "{point}");
}

#[test]
fn a_wake_up_handed_to_the_dying_is_not_lost() {
    let _turn = common::turn();
    // It dies before it takes a permit: the others get all.
    dies_woken("semaphore.woken", 2, 2);
    // It dies having taken one, before it hands the next wake-up on.
    dies_woken("semaphore.taken", 3, 2);
}

#[test]
fn a_releaser_that_dies_before_its_wake_up_harms_nobody() {
    let _turn = common::turn();
    let (semaphore, words) = (semaphore(0, MAX), words());
    let mut waiters: Vec<_> = (0..2).map(|_| Child::fork(|| semaphore.acquire(soon()).unwrap())).collect();
    waiters.iter().for_each(Child::until_parked);
    let mut doomed = Child::doomed("semaphore.waking", 1, || {
        semaphore.release().unwrap();
        words.set(0, 1);
    });
    assert_eq!(doomed.wait(), KILLED);
    assert_eq!(words.get(0), 0);
    semaphore.release().unwrap();
    assert!(waiters.iter_mut().all(|w| w.wait() == OK));
    assert_eq!(semaphore.permits(), 0);
}

#[test]
fn kills_never_make_permits() {
    let _turn = common::turn();
    let seed = common::seed();
    let mut dice = common::Dice(seed);
    let (semaphore, words) = (semaphore(16, MAX), words());
    let work = || {
        loop {
            semaphore.acquire(Deadline::Never).unwrap();
            words.add(2, 1);
            semaphore.release().unwrap();
        }
    };
    let mut children: Vec<_> = (0..3).map(|_| Child::fork(work)).collect();
    for round in 0..12 {
        std::thread::sleep(Duration::from_micros(dice.below(4000)));
        let at = round % children.len();
        children[at].kill();
        assert_eq!(children[at].wait(), KILLED);
        children[at] = Child::fork(work);
    }
    let rounds = words.get(2);
    until("work goes on", || words.get(2) > rounds + 100);
    for child in &mut children {
        child.kill();
        assert_eq!(child.wait(), KILLED);
    }
    // Each of 15 dead may have kept one, and nobody made any.
    let left = semaphore.permits();
    assert!((1..=16).contains(&left), "{left} of 16 permits; seed {seed}");
}
