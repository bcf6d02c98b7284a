//! Semaphores that know their holders, with holders and waiters killed at every step.
#![cfg(not(loom))]
// A failure is to panic.
#![allow(unsafe_code, clippy::unwrap_used)]

mod common;

use std::time::{Duration, Instant};

use common::conditions::with_slice;
use common::{Child, KILLED, OK, until, words};
use fastmp_core::arena::Block;
use fastmp_core::fault::{Action, arm};
use fastmp_core::layout::{Kind, WithSlice};
use fastmp_core::sync::mutex::Acquired;
use fastmp_core::sync::robust_semaphore::{Permit, RobustSemaphore, RobustSemaphoreState};
use fastmp_core::sys::liveness::me;
use fastmp_core::{Deadline, Error};

struct Semaphore(WithSlice<RobustSemaphoreState, Permit, Block>);

impl Semaphore {
    fn of(permits: usize) -> Self {
        Semaphore(with_slice(Kind::RobustSemaphore, permits))
    }

    fn core(&self) -> RobustSemaphore<'_> {
        RobustSemaphore::new(self.0.head(), self.0.slice())
    }

    fn acquire(&self) -> Acquired {
        self.core().acquire(me(), soon()).unwrap()
    }

    /// A child that holds so many, until it is killed.
    fn holder(&self, permits: u32) -> Child {
        let free = self.core().free();
        let child = Child::fork(|| {
            (0..permits).for_each(|_| assert_eq!(self.acquire(), Acquired::Clean));
            std::thread::sleep(Duration::from_secs(60));
        });
        until("it holds them", || self.core().free() == free - permits);
        child
    }
}

fn soon() -> Deadline {
    Deadline::after(10.0)
}

#[test]
fn permits_are_bounded_and_their_holders_known() {
    let _turn = common::turn();
    let semaphore = Semaphore::of(2);
    assert_eq!((semaphore.core().most(), semaphore.core().free()), (2, 2));
    assert_eq!(semaphore.core().release(me()), Err(Error::NotOwner));
    assert!(semaphore.core().try_acquire(me()) && semaphore.core().try_acquire(me()));
    assert!(!semaphore.core().try_acquire(me()));
    let mut child = Child::fork(|| assert_eq!(semaphore.core().release(me()), Err(Error::NotOwner)));
    assert_eq!(child.wait(), OK);
    let start = Instant::now();
    assert_eq!(semaphore.core().acquire(me(), Deadline::after(0.1)), Err(Error::TimedOut));
    assert!(start.elapsed() >= Duration::from_millis(100));
    semaphore.core().release(me()).unwrap();
    semaphore.core().release(me()).unwrap();
    assert_eq!((semaphore.core().free(), semaphore.core().recoveries()), (2, 0));
}

#[test]
fn all_permits_of_the_dead_come_back() {
    let _turn = common::turn();
    let mut worst = Duration::ZERO;
    for reap in [true, false] {
        let semaphore = Semaphore::of(3);
        let mut holder = semaphore.holder(3);
        let mut waiters: Vec<_> =
            (0..3).map(|_| Child::fork(|| assert!(matches!(semaphore.acquire(), Acquired::Recovered(_))))).collect();
        waiters.iter().for_each(Child::until_parked);
        holder.kill();
        let start = Instant::now();
        if reap {
            assert_eq!(holder.wait(), KILLED);
        }
        assert!(waiters.iter_mut().all(|w| w.wait() == OK));
        worst = worst.max(start.elapsed());
        assert_eq!(semaphore.core().recoveries(), 3);
        // The waiters have ended with them in hand.
        assert!((0..3).all(|_| matches!(semaphore.acquire(), Acquired::Recovered(_))));
        (0..3).for_each(|_| semaphore.core().release(me()).unwrap());
        assert_eq!(semaphore.core().free(), 3);
    }
    println!("recovered after {worst:?} at worst");
    assert!(worst < Duration::from_secs(1));
}

#[test]
fn one_of_many_holders_dies() {
    let _turn = common::turn();
    let semaphore = Semaphore::of(40);
    let mut holders: Vec<_> = (0..40).map(|_| semaphore.holder(1)).collect();
    for (at, reap) in [(3, true), (37, true), (21, false)] {
        let mut waiter = Child::fork(|| {
            assert!(matches!(semaphore.acquire(), Acquired::Recovered(_)));
            semaphore.core().release(me()).unwrap();
        });
        waiter.until_parked();
        holders[at].kill();
        if reap {
            assert_eq!(holders[at].wait(), KILLED);
        }
        assert_eq!(waiter.wait(), OK);
        holders.push(semaphore.holder(1));
    }
    assert_eq!(semaphore.core().recoveries(), 3);
}

#[test]
fn polling_finds_the_dead_too() {
    let _turn = common::turn();
    let semaphore = Semaphore::of(1);
    let holder = semaphore.holder(1);
    assert!(semaphore.core().try_acquire_or_recover(me()).is_none());
    holder.kill();
    holder.zombify();
    until("a poll takes over", || {
        matches!(semaphore.core().try_acquire_or_recover(me()), Some(Acquired::Recovered(_)))
    });
}

#[test]
fn waiters_that_die_harm_nobody() {
    let _turn = common::turn();
    for point in ["robust_semaphore.parking", "robust_semaphore.woken", "robust_semaphore.taken"] {
        let (semaphore, words) = (Semaphore::of(1), words());
        assert_eq!(semaphore.acquire(), Acquired::Clean);
        let mut first = Child::fork(|| {
            if point != "robust_semaphore.parking" {
                // Slices end in "woken" as well: arm when the wait is known to go on.
                let _ = semaphore.core().acquire(me(), Deadline::after(0.05));
            }
            arm(point, 1, Action::Kill);
            words.set(0, 1);
            let _ = semaphore.core().acquire(me(), Deadline::Never);
        });
        until("the first waits in earnest", || words.get(0) == 1);
        first.until_parked();
        let mut second = Child::fork(|| {
            let _ = semaphore.acquire();
            semaphore.core().release(me()).unwrap();
        });
        second.until_parked();
        semaphore.core().release(me()).unwrap();
        assert_eq!(first.wait(), KILLED, "{point}");
        assert_eq!(second.wait(), OK, "{point}");
        let left = semaphore.acquire();
        assert_eq!(left, Acquired::Clean, "{point}");
    }
}

#[test]
fn who_dies_giving_back_or_taking_over_leaves_the_permit() {
    let _turn = common::turn();
    let semaphore = Semaphore::of(1);
    let mut doomed = Child::doomed("robust_semaphore.released", 1, || {
        let _ = semaphore.acquire();
        semaphore.core().release(me()).unwrap();
    });
    assert_eq!(doomed.wait(), KILLED);
    assert_eq!(semaphore.core().free(), 1);
    let mut holder = semaphore.holder(1);
    holder.kill();
    assert_eq!(holder.wait(), KILLED);
    assert_eq!(
        Child::doomed("robust_semaphore.recovered", 1, || assert_eq!(semaphore.acquire(), Acquired::Clean)).wait(),
        KILLED
    );
    assert!(matches!(semaphore.acquire(), Acquired::Recovered(_)));
    semaphore.core().release(me()).unwrap();
    assert_eq!((semaphore.core().free(), semaphore.acquire()), (1, Acquired::Clean));
}

/// A holder of two dies; who takes one of them over dies as soon as it has, with no wake-up for the
/// others, who were asleep.
#[test]
fn permits_outlive_who_takes_them_over() {
    let _turn = common::turn();
    for reap in [true, false] {
        let semaphore = Semaphore::of(2);
        let mut holder = semaphore.holder(2);
        let mut mender = Child::doomed("robust_semaphore.recovered", 1, || {
            let _ = semaphore.acquire();
        });
        mender.until_parked();
        let mut others: Vec<_> =
            (0..2).map(|_| Child::fork(|| assert!(matches!(semaphore.acquire(), Acquired::Recovered(_))))).collect();
        for other in &others {
            other.until_parked();
            // Held still, so that the mender is the one who finds it.
            other.signal(libc::SIGSTOP);
            other.until_stopped();
        }
        holder.kill();
        if reap {
            assert_eq!(holder.wait(), KILLED);
        }
        mender.zombify();
        if reap {
            assert_eq!(mender.wait(), KILLED);
        }
        others.iter().for_each(|other| other.signal(libc::SIGCONT));
        assert!(others.iter_mut().all(|other| other.wait() == OK), "reap: {reap}");
    }
}

#[test]
fn random_kills_lose_no_permit() {
    let _turn = common::turn();
    let seed = common::seed();
    let mut dice = common::Dice(seed);
    let (semaphore, words) = (Semaphore::of(2), words());
    let work = || {
        loop {
            let _ = semaphore.acquire();
            words.add(0, 1);
            semaphore.core().release(me()).unwrap();
        }
    };
    let mut children: Vec<_> = (0..4).map(|_| Child::fork(work)).collect();
    for _ in 0..200 {
        std::thread::sleep(Duration::from_micros(dice.below(3000)));
        let at = dice.below(4) as usize;
        children[at].kill();
        assert_eq!(children[at].wait(), KILLED, "seed {seed}");
        children[at] = Child::fork(work);
    }
    let rounds = words.get(0);
    until("work goes on", || words.get(0) > rounds + 1000);
    for child in &mut children {
        child.kill();
        assert_eq!(child.wait(), KILLED, "seed {seed}");
    }
    (0..2).for_each(|_| assert!(matches!(semaphore.acquire(), Acquired::Clean | Acquired::Recovered(_))));
    assert!(!semaphore.core().try_acquire(me()), "seed {seed}");
}

/// As the extension has it: a wait of the main thread comes up at the end of each slice.
#[test]
fn the_dead_are_found_in_turn_by_a_wait_that_comes_up() {
    let _turn = common::turn();
    let semaphore = Semaphore::of(24);
    let holders: Vec<_> = (0..24).map(|_| semaphore.holder(1)).collect();
    let mut heir = Child::fork(|| {
        fastmp_core::facade::return_for_signals();
        let got = loop {
            match semaphore.core().acquire(me(), soon()) {
                Err(Error::Interrupted) => (),
                done => break done,
            }
        };
        assert!(matches!(got, Ok(Acquired::Recovered(_))), "{got:?}");
    });
    heir.until_parked();
    // Not reaped: only a thorough look tells.
    holders[20].kill();
    holders[20].zombify();
    assert_eq!(heir.wait(), OK);
}
