//! Conditions between processes, with waiters and notifiers killed at every step.
#![cfg(not(loom))]
// A failure is to panic.
#![allow(unsafe_code, clippy::unwrap_used)]

mod common;

use std::time::{Duration, Instant};

use common::conditions::Watched;
use common::{Child, KILLED, OK, until, words};
use fastmp_core::Deadline;
use fastmp_core::fault::{Action, arm, arm_in_turn};
use fastmp_core::sync::condvar::SLOTS;

fn soon() -> Deadline {
    Deadline::after(10.0)
}

/// A child that waits once, and is known to sleep.
fn waiter(watched: &Watched) -> Child {
    let before = watched.condvar().waiters();
    let child = Child::fork(|| assert!(watched.wait_once(soon()), "never woken"));
    until("it waits", || watched.condvar().waiters() > before);
    child.until_parked();
    child
}

/// The same, to be killed when it comes to `point` after it has once slept in vain: slices end in
/// "woken" too.
fn doomed(watched: &Watched, point: &str) -> Child {
    let words = words();
    let child = Child::fork(|| {
        assert!(!watched.wait_once(Deadline::after(0.02)));
        arm(point, 1, Action::Kill);
        words.set(0, 1);
        let _ = watched.wait_once(soon());
    });
    until("it waits in earnest", || words.get(0) == 1 && watched.condvar().waiters() == 1);
    child.until_parked();
    child
}

#[test]
fn one_notify_wakes_one_the_first() {
    let _turn = common::turn();
    let watched = Watched::new();
    let mut waiters: Vec<_> = (0..4).map(|_| waiter(&watched)).collect();
    for left in (0..4).rev() {
        watched.notify(1);
        assert_eq!(waiters.remove(0).wait(), OK);
        assert_eq!(watched.condvar().waiters(), left);
        assert!(waiters.iter_mut().all(|w| w.ended().is_none()));
    }
    watched.notify(1);
    assert!(!watched.wait_once(Deadline::after(0.01)), "a notify without waiters is void");
}

#[test]
fn as_many_wake_as_are_told() {
    let _turn = common::turn();
    let watched = Watched::new();
    let mut waiters: Vec<_> = (0..5).map(|_| waiter(&watched)).collect();
    // One gives up in between: it takes no wake-up with it.
    assert!(!watched.wait_once(Deadline::after(0.01)));
    watched.notify(3);
    for mut woken in waiters.drain(..3) {
        assert_eq!(woken.wait(), OK);
    }
    assert_eq!(watched.condvar().waiters(), 2);
    watched.notify(u64::MAX);
    assert!(waiters.iter_mut().all(|w| w.wait() == OK));
}

#[test]
fn more_waiters_than_slots() {
    let _turn = common::turn();
    for (slots, threads) in [(2, 12), (SLOTS, 200)] {
        let (watched, words) = (Watched::with_slots(slots), words());
        let mut crowd = Child::fork(|| {
            std::thread::scope(|s| {
                for _ in 0..threads {
                    s.spawn(|| {
                        let _ = watched.enter();
                        words.add(0, 1);
                        assert!(watched.wait(soon()));
                        words.add(1, 1);
                        watched.leave();
                    });
                }
            });
        });
        let in_lock = |word| {
            let _ = watched.enter();
            let count = words.get(word);
            watched.leave();
            count
        };
        until("all wait", || in_lock(0) == threads);
        for told in 1..=slots as u64 / 2 {
            watched.notify(1);
            until("one more is woken", || in_lock(1) >= told);
        }
        watched.notify(u64::MAX);
        assert_eq!(crowd.wait(), OK);
        assert_eq!((words.get(1), watched.condvar().waiters()), (threads, 0));
    }
}

#[test]
fn who_dies_before_it_sleeps_harms_nobody() {
    let _turn = common::turn();
    for point in ["condvar.claimed", "condvar.prepared", "condvar.parking"] {
        let watched = Watched::new();
        assert_eq!(Child::doomed(point, 1, || assert!(!watched.wait_once(soon()))).wait(), KILLED, "{point}");
        let mut other = waiter_after_the_dead(&watched);
        // The dead may have the first claim to it.
        watched.notify(1);
        assert_eq!(other.wait(), OK, "{point}");
    }
}

fn waiter_after_the_dead(watched: &Watched) -> Child {
    let child = Child::fork(|| assert!(watched.wait_once(soon()), "never woken"));
    child.until_parked();
    until("it waits", || watched.condvar().waiters() > 0);
    child.until_parked();
    child
}

#[test]
fn a_grant_of_the_dead_passes_on() {
    let _turn = common::turn();
    let mut worst = Duration::ZERO;
    for reap in [true, false] {
        for _ in 0..5 {
            let watched = Watched::new();
            let mut first = waiter(&watched);
            let mut second = waiter(&watched);
            first.signal(libc::SIGSTOP);
            first.until_stopped();
            watched.notify(1);
            // Who comes after the notify has no claim.
            let mut late = waiter_after_the_dead(&watched);
            first.kill();
            let killed = Instant::now();
            if reap {
                assert_eq!(first.wait(), KILLED);
            }
            assert_eq!(second.wait(), OK);
            worst = worst.max(killed.elapsed());
            assert!(late.ended().is_none());
            watched.notify(1);
            assert_eq!(late.wait(), OK);
        }
    }
    println!("passed on after {worst:?} at worst");
    assert!(worst < Duration::from_secs(1));
}

#[test]
fn a_wake_up_handed_to_the_dying_is_not_lost() {
    let _turn = common::turn();
    let watched = Watched::new();
    let mut first = doomed(&watched, "condvar.woken");
    let mut second = waiter(&watched);
    watched.notify(1);
    assert_eq!(first.wait(), KILLED);
    assert_eq!(second.wait(), OK);
}

#[test]
fn a_grant_once_taken_is_used() {
    let _turn = common::turn();
    let watched = Watched::new();
    let mut first = doomed(&watched, "condvar.consumed");
    let mut second = waiter(&watched);
    watched.notify(1);
    assert_eq!(first.wait(), KILLED);
    // Nothing to inherit, as far as anybody can tell; the next one is for the next.
    std::thread::sleep(Duration::from_millis(150));
    assert!(second.ended().is_none());
    watched.notify(1);
    assert_eq!(second.wait(), OK);
}

#[test]
fn a_notifier_that_dies_before_its_wake_up_harms_nobody() {
    let _turn = common::turn();
    let watched = Watched::new();
    let mut waiter = waiter(&watched);
    assert_eq!(Child::doomed("condvar.granted", 1, || watched.notify(1)).wait(), KILLED);
    // It finds its grant at the end of its slice, and the lock with a dead owner.
    assert_eq!(waiter.wait(), OK);
    assert_eq!(watched.lock.recoveries(), 1);
}

/// The first, who was granted, dies; so does its heir, at each step of taking over. A third one,
/// who waited when the wake-up was given, gets it.
#[test]
fn a_grant_outlives_its_heir() {
    let _turn = common::turn();
    for point in ["condvar.inherited", "condvar.vacated"] {
        let watched = Watched::new();
        let mut first = waiter(&watched);
        let mut heir = Child::fork(|| {
            arm(point, 1, Action::Kill);
            let _ = watched.wait_once(soon());
        });
        until("both wait", || watched.condvar().waiters() == 2);
        heir.until_parked();
        let mut third = waiter(&watched);
        // Held still, so that the heir is the one who finds it.
        third.signal(libc::SIGSTOP);
        third.until_stopped();
        first.signal(libc::SIGSTOP);
        first.until_stopped();
        watched.notify(1);
        let mut late = waiter_after_the_dead(&watched);
        first.kill();
        assert_eq!(first.wait(), KILLED);
        assert_eq!(heir.wait(), KILLED, "{point}");
        third.signal(libc::SIGCONT);
        assert_eq!(third.wait(), OK, "{point}: who waited when the wake-up was given never gets it");
        assert!(late.ended().is_none(), "{point}: woken by nobody");
        watched.notify(1);
        assert_eq!(late.wait(), OK, "{point}");
        assert_eq!(watched.condvar().waiters(), 0, "{point}");
    }
}

/// An heir that is granted something itself before it has left its own slot hands that on, and dies
/// doing it or after.
#[test]
fn an_heir_with_two_grants_takes_none_with_it() {
    let _turn = common::turn();
    for point in ["condvar.passed_on", "condvar.vacated"] {
        let watched = Watched::new();
        let mut first = waiter(&watched);
        let mut heir = Child::fork(|| {
            arm_in_turn(&[("condvar.inherited", 1, Action::Stop), (point, 1, Action::Kill)]);
            let _ = watched.wait_once(soon());
        });
        until("both wait", || watched.condvar().waiters() == 2);
        heir.until_parked();
        let (mut third, mut fourth) = (waiter(&watched), waiter(&watched));
        for child in [&first, &third, &fourth] {
            child.signal(libc::SIGSTOP);
            child.until_stopped();
        }
        watched.notify(1);
        first.kill();
        assert_eq!(first.wait(), KILLED);
        heir.until_stopped();
        // It has the first one's grant, and its own slot still waits: this one goes there.
        watched.notify(1);
        heir.signal(libc::SIGCONT);
        assert_eq!(heir.wait(), KILLED, "{point}");
        third.signal(libc::SIGCONT);
        fourth.signal(libc::SIGCONT);
        assert_eq!((third.wait(), fourth.wait()), (OK, OK), "{point}: two wake-ups for two");
    }
}

/// One without a slot finds that the granted one has died, lets all without a slot go on, and dies
/// before it has freed the slot.
#[test]
fn those_without_a_slot_outlive_who_clears_up() {
    let _turn = common::turn();
    let (watched, words) = (Watched::with_slots(1), words());
    let mut first = waiter(&watched);
    let without = |word: usize, point: &'static str| {
        let child = Child::fork(|| {
            arm(point, 1, Action::Kill);
            let _ = watched.enter();
            words.set(word, 1);
            assert!(watched.wait(soon()), "never woken");
            watched.leave();
        });
        until("it waits", || words.get(word) == 1);
        child.until_parked();
        child
    };
    let (mut mender, mut other) = (without(0, "condvar.reached"), without(1, "none"));
    other.signal(libc::SIGSTOP);
    other.until_stopped();
    first.signal(libc::SIGSTOP);
    first.until_stopped();
    watched.notify(1);
    first.kill();
    assert_eq!(first.wait(), KILLED);
    assert_eq!(mender.wait(), KILLED);
    other.signal(libc::SIGCONT);
    assert_eq!(other.wait(), OK);
    // The slot can be used again.
    let mut next = Child::fork(|| assert!(watched.wait_once(soon()), "never woken"));
    until("it has the slot", || watched.condvar().waiters() == 1);
    watched.notify(1);
    assert_eq!(next.wait(), OK);
}

#[test]
fn who_withdraws_hands_its_grant_on() {
    let _turn = common::turn();
    for dies in [false, true] {
        let (watched, words) = (Watched::new(), words());
        let mut quitter = Child::fork(|| {
            let me = fastmp_core::sys::liveness::me();
            let _ = watched.enter();
            let waiting = watched.condvar().prepare_wait(me);
            watched.leave();
            words.set(0, 1);
            until("it is granted", || words.get(1) == 1);
            if dies {
                arm("condvar.passed_on", 1, Action::Kill);
            }
            watched.condvar().cancel(waiting, me);
        });
        until("the first is prepared", || words.get(0) == 1);
        let mut second = Child::fork(|| assert!(watched.wait_once(soon())));
        until("both wait", || watched.condvar().waiters() == 2);
        second.until_parked();
        watched.notify(1);
        words.set(1, 1);
        assert_eq!(quitter.wait(), if dies { KILLED } else { OK });
        assert_eq!(second.wait(), OK);
    }
}

#[test]
fn the_dead_do_not_use_up_notifies() {
    let _turn = common::turn();
    let watched = Watched::new();
    let mut dead: Vec<_> = (0..8).map(|_| waiter(&watched)).collect();
    for victim in &mut dead {
        victim.kill();
        assert_eq!(victim.wait(), KILLED);
    }
    for _ in 0..3 {
        let mut live = Child::fork(|| assert!(watched.wait_once(soon())));
        live.until_parked();
        until("it waits", || watched.condvar().waiters() > 0);
        let start = Instant::now();
        watched.notify(1);
        assert_eq!(live.wait(), OK);
        assert!(start.elapsed() < Duration::from_secs(2));
    }
    // The first grant that was inherited has cleared the others of the dead.
    assert_eq!(watched.condvar().waiters(), 0);
}

#[test]
fn a_full_row_is_cleared_of_the_dead() {
    let _turn = common::turn();
    let watched = Watched::with_slots(3);
    let mut dead: Vec<_> = (0..3).map(|_| waiter(&watched)).collect();
    for victim in &mut dead {
        victim.kill();
        assert_eq!(victim.wait(), KILLED);
    }
    let mut live = Child::fork(|| assert!(watched.wait_once(soon())));
    until("it has a slot", || watched.condvar().waiters() == 1);
    live.until_parked();
    watched.notify(1);
    assert_eq!(live.wait(), OK);
}

#[test]
fn a_bounded_buffer_survives_random_kills() {
    let _turn = common::turn();
    let seed = common::seed();
    let mut dice = common::Dice(seed);
    // Word 0: how many are in the buffer of four. Word 1: turns. Word 2: violations.
    let (watched, words) = (Watched::new(), words());
    let work = |fills: bool| {
        loop {
            let _ = watched.enter();
            let recoveries = watched.lock.recoveries();
            loop {
                if words.get(0) > 4 {
                    words.add(2, 1);
                }
                if fills == (words.get(0) < 4) || (!fills && words.get(0) > 0) {
                    break;
                }
                watched.wait(Deadline::Never);
                if watched.lock.recoveries() != recoveries {
                    // Its last holder may have died between its change and its notify: so one for
                    // it.
                    watched.condvar().notify(u64::MAX);
                }
            }
            if fills {
                words.add(0, 1)
            } else {
                words.sub(0, 1)
            };
            words.add(1, 1);
            watched.condvar().notify(u64::MAX);
            watched.leave();
        }
    };
    let mut children: Vec<_> = (0..6).map(|at| Child::fork(|| work(at % 2 == 0))).collect();
    for _ in 0..150 {
        std::thread::sleep(Duration::from_micros(dice.below(3000)));
        let at = dice.below(children.len() as u64) as usize;
        children[at].kill();
        assert_eq!(children[at].wait(), KILLED, "seed {seed}");
        children[at] = Child::fork(|| work(at.is_multiple_of(2)));
    }
    let turns = words.get(1);
    until("work goes on", || words.get(1) > turns + 1000);
    for child in &mut children {
        child.kill();
        assert_eq!(child.wait(), KILLED, "seed {seed}");
    }
    assert_eq!(words.get(2), 0, "seed {seed}");
}

#[test]
fn a_slot_being_filled_in_is_nobodys_grant() {
    let _turn = common::turn();
    let watched = Watched::new();
    let (mut first, mut second) = (waiter(&watched), waiter(&watched));
    let mut third = waiter(&watched);
    first.signal(libc::SIGSTOP);
    first.until_stopped();
    watched.notify(1);
    first.kill();
    assert_eq!(first.wait(), KILLED);
    // One of the two has it. The slot that it came from is the next to be filled in.
    until("an heir goes on", || watched.condvar().waiters() == 1);
    assert_eq!(Child::doomed("condvar.claimed", 1, || assert!(!watched.wait_once(soon()))).wait(), KILLED);
    std::thread::sleep(Duration::from_millis(250));
    assert_eq!(watched.condvar().waiters(), 1, "woken by nobody");
    watched.notify(1);
    assert_eq!((second.wait(), third.wait()), (OK, OK));
}

#[test]
fn a_grant_handed_on_reaches_those_without_a_slot() {
    let _turn = common::turn();
    let (watched, words) = (Watched::with_slots(1), words());
    let mut quitter = Child::fork(|| {
        let me = fastmp_core::sys::liveness::me();
        let _ = watched.enter();
        let waiting = watched.condvar().prepare_wait(me);
        watched.leave();
        words.set(0, 1);
        until("it is granted", || words.get(0) == 2);
        watched.condvar().cancel(waiting, me);
    });
    until("the slot is taken", || words.get(0) == 1);
    let mut without = Child::fork(|| {
        let _ = watched.enter();
        words.set(1, 1);
        assert!(watched.wait(soon()));
        watched.leave();
    });
    until("the other has no slot", || words.get(1) == 1);
    without.until_parked();
    watched.notify(1);
    words.set(0, 2);
    assert_eq!(quitter.wait(), OK);
    assert_eq!(without.wait(), OK);
}

#[test]
fn who_dies_waiting_for_the_lock_leaves_the_wake_up_to_another() {
    let _turn = common::turn();
    let watched = Watched::new();
    let (mut first, mut second) = (waiter(&watched), waiter(&watched));
    let _ = watched.enter();
    watched.condvar().notify(1);
    // It is awake, and asleep again for the lock.
    until("the first has its grant", || watched.condvar().waiters() == 1);
    std::thread::sleep(Duration::from_millis(20));
    first.until_parked();
    first.kill();
    assert_eq!(first.wait(), KILLED);
    watched.leave();
    assert_eq!(second.wait(), OK);
    assert_eq!(watched.lock.recoveries(), 0);
}
