//! Events.

use fastmp_core::Deadline;
use fastmp_core::facade::{AtomicU32, Ordering};
use fastmp_core::sync::event::EventState;
use loom::sync::Arc;
use loom::thread;

use crate::model;

#[test]
fn an_event_wakes_all() {
    model(2, || {
        let event = Arc::new(EventState::new());
        let past = Arc::new(AtomicU32::new(0));
        let waiters = [0; 2].map(|_| {
            let (event, past) = (event.clone(), past.clone());
            thread::spawn(move || {
                event.wait(event.ticket(), Deadline::Never).unwrap();
                // Relaxed: the event itself orders it.
                assert_eq!(past.load(Ordering::Relaxed), 1);
            })
        });
        past.store(1, Ordering::Relaxed);
        event.set();
        waiters.into_iter().for_each(|t| t.join().unwrap());
    });
}

#[test]
fn an_event_set_and_cleared_has_been_set() {
    model(3, || {
        let event = Arc::new(EventState::new());
        let ticket = event.ticket();
        let waiter = {
            let event = event.clone();
            thread::spawn(move || event.wait(ticket, Deadline::Never).unwrap())
        };
        event.set();
        event.clear();
        waiter.join().unwrap();
        assert!(!event.is_set());
    });
}

/// `event.clear(); if not ready: event.wait()` against `ready = True; event.set()`: the set that
/// `clear` wiped away must have made `ready` visible.
#[test]
fn what_clear_wiped_away_has_been_seen() {
    model(3, || {
        let event = Arc::new(EventState::new());
        let ready = Arc::new(AtomicU32::new(0));
        let consumer = {
            let (event, ready) = (event.clone(), ready.clone());
            thread::spawn(move || {
                event.clear();
                // Relaxed, here and below: the event itself orders it.
                if ready.load(Ordering::Relaxed) == 0 {
                    event.wait(event.ticket(), Deadline::Never).unwrap();
                }
            })
        };
        ready.store(1, Ordering::Relaxed);
        event.set();
        consumer.join().unwrap();
    });
}

/// `data = 1; event.set()` against `if event.is_set(): data`.
#[test]
fn who_sees_it_set_sees_what_came_before() {
    model(3, || {
        let event = Arc::new(EventState::new());
        let past = Arc::new(AtomicU32::new(0));
        let looker = {
            let (event, past) = (event.clone(), past.clone());
            thread::spawn(move || {
                if event.is_set() {
                    assert_eq!(past.load(Ordering::Relaxed), 1);
                }
            })
        };
        past.store(1, Ordering::Relaxed);
        event.set();
        looker.join().unwrap();
    });
}

/// `mine.set(); theirs.is_set()` on both sides: one at least sees that the other is there.
#[test]
fn of_two_that_set_and_look_one_sees_the_other() {
    model(3, || {
        let events = Arc::new([EventState::new(), EventState::new()]);
        let enter = |mine: usize| {
            let events = events.clone();
            move || {
                events[mine].set();
                events[1 - mine].is_set()
            }
        };
        let other = thread::spawn(enter(1));
        let saw = enter(0)();
        assert!(saw | other.join().unwrap(), "neither saw the other");
    });
}

/// The same with `clear`: two that lower their flags, and then ask whether the other's is still up.
#[test]
fn of_two_that_clear_and_look_one_sees_the_other() {
    model(3, || {
        let events = Arc::new([EventState::new(), EventState::new()]);
        events.iter().for_each(EventState::set);
        let leave = |mine: usize| {
            let events = events.clone();
            move || {
                events[mine].clear();
                !events[1 - mine].is_set()
            }
        };
        let other = thread::spawn(leave(1));
        let saw = leave(0)();
        assert!(saw | other.join().unwrap(), "neither saw the other");
    });
}

/// A flag raised, then `wait` for an answer, on both sides.
#[test]
fn two_that_set_and_wait_for_each_other_meet() {
    model(2, || {
        let events = Arc::new([EventState::new(), EventState::new()]);
        let meet = |mine: usize| {
            let events = events.clone();
            move || {
                events[mine].set();
                let theirs = &events[1 - mine];
                theirs.wait(theirs.ticket(), Deadline::Never).unwrap();
            }
        };
        let other = thread::spawn(meet(1));
        meet(0)();
        other.join().unwrap();
    });
}
