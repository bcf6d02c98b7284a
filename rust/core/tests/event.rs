//! Events between threads and processes, with setters and waiters killed.
#![cfg(not(loom))]
// Forks, and lays test words over shared memory; a failure is to panic.
#![allow(unsafe_code, clippy::unwrap_used)]

mod common;

use std::time::{Duration, Instant};

use common::{Child, KILLED, OK, until, words};
use fastmp_core::arena::Block;
use fastmp_core::layout::{Kind, Object};
use fastmp_core::sync::event::EventState;
use fastmp_core::{Deadline, Error};

fn event() -> Object<EventState, Block> {
    common::shared(Kind::Event)
}

fn wait(event: &EventState) {
    event.wait(event.ticket(), Deadline::after(5.0)).unwrap();
}

#[test]
fn set_wakes_all_and_stays() {
    let _turn = common::turn();
    for _ in 0..20 {
        let event = event();
        let mut waiters: Vec<_> = (0..4).map(|_| Child::fork(|| wait(&event))).collect();
        waiters.iter().for_each(Child::until_parked);
        assert!(!event.is_set());
        event.set();
        assert!(waiters.iter_mut().all(|w| w.wait() == OK));
        assert!(event.is_set());
        wait(&event);
        event.set();
        wait(&event);
        event.clear();
        assert!(!event.is_set());
    }
}

#[test]
fn threads_see_what_was_written_before() {
    let _turn = common::turn();
    for _ in 0..200 {
        let (event, words) = (event(), words());
        std::thread::scope(|s| {
            s.spawn(|| {
                wait(&event);
                assert_eq!(words.0[0].load(std::sync::atomic::Ordering::Relaxed), 7);
            });
            words.0[0].store(7, std::sync::atomic::Ordering::Relaxed);
            event.set();
        });
    }
}

#[test]
fn a_deadline_is_kept() {
    let _turn = common::turn();
    let event = event();
    let start = Instant::now();
    assert_eq!(event.wait(event.ticket(), Deadline::after(0.1)), Err(Error::TimedOut));
    assert!(start.elapsed() >= Duration::from_millis(100));
    assert_eq!(event.wait(event.ticket(), Deadline::PASSED), Err(Error::TimedOut));
    event.set();
    event.wait(event.ticket(), Deadline::PASSED).unwrap();
}

#[test]
fn set_and_cleared_at_once_still_notifies() {
    let _turn = common::turn();
    let event = event();
    for _ in 0..50 {
        let mut waiters: Vec<_> = (0..2).map(|_| Child::fork(|| wait(&event))).collect();
        waiters.iter().for_each(Child::until_parked);
        event.set();
        event.clear();
        assert!(waiters.iter_mut().all(|w| w.wait() == OK));
    }
    let ticket = event.ticket();
    event.set();
    event.clear();
    event.wait(ticket, Deadline::PASSED).unwrap();
    assert_eq!(event.wait(event.ticket(), Deadline::PASSED), Err(Error::TimedOut));
}

#[test]
fn a_setter_that_dies_before_its_wake_up_has_set_it() {
    let _turn = common::turn();
    let event = event();
    let mut waiters: Vec<_> = (0..3).map(|_| Child::fork(|| wait(&event))).collect();
    waiters.iter().for_each(Child::until_parked);
    let mut doomed = Child::doomed("event.waking", 1, || event.set());
    assert_eq!(doomed.wait(), KILLED);
    assert!(event.is_set());
    assert!(waiters.iter_mut().all(|w| w.wait() == OK));
}

#[test]
fn waiters_that_die_harm_nobody() {
    let _turn = common::turn();
    let (event, words) = (event(), words());
    let mut dice = common::Dice(common::seed());
    let mut waiters: Vec<_> = (0..6).map(|_| Child::fork(|| wait(&event))).collect();
    for (index, waiter) in waiters.iter_mut().enumerate() {
        std::thread::sleep(Duration::from_micros(dice.below(500)));
        if index % 2 == 0 {
            waiter.kill();
            assert_eq!(waiter.wait(), KILLED);
        }
    }
    let mut setter = Child::fork(|| {
        event.set();
        words.set(0, 1);
    });
    assert_eq!(setter.wait(), OK);
    until("it is set", || words.get(0) == 1);
    assert!(waiters.iter_mut().skip(1).step_by(2).all(|w| w.wait() == OK));
}
