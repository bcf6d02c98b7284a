//! The waitset, under a store that is used as queues use it.

use fastmp_core::Deadline;
use fastmp_core::facade::{AtomicU32, Ordering};
use fastmp_core::sync::turns::{FairWaitSet, Turn};
use fastmp_core::sync::waitset::WaitSet;
use loom::sync::Arc;
use loom::thread;

use crate::model;

/// Things to wait for: looks at them are loads, as in queues.
struct Store {
    waiting: WaitSet,
    things: AtomicU32,
}

impl Store {
    fn put(&self) {
        self.things.fetch_add(1, Ordering::Release);
        self.waiting.notify();
    }

    fn take(&self) -> bool {
        let mut seen = self.things.load(Ordering::Relaxed);
        while seen > 0 {
            match self.things.compare_exchange(seen, seen - 1, Ordering::Acquire, Ordering::Relaxed) {
                Ok(_) => return true,
                Err(now) => seen = now,
            }
        }
        false
    }

    /// The waiting config of queues.
    fn get(&self) {
        let mut ticket = None;
        while !self.take() {
            if let Some(ticket) = ticket {
                self.waiting.park(ticket, u64::MAX).unwrap();
            }
            ticket = Some(self.waiting.prepare_wait());
        }
        if ticket.is_some() && self.things.load(Ordering::Relaxed) > 0 {
            self.waiting.notify();
        }
    }
}

fn waitset(getters: u32, preemptions: usize) {
    model(preemptions, move || {
        let store = Arc::new(Store { waiting: WaitSet::new(), things: AtomicU32::new(0) });
        let getters: Vec<_> = (0..getters)
            .map(|_| {
                let store = store.clone();
                thread::spawn(move || store.get())
            })
            .collect();
        getters.iter().for_each(|_| store.put());
        getters.into_iter().for_each(|t| t.join().unwrap());
        assert_eq!(store.things.load(Ordering::SeqCst), 0);
    });
}

#[test]
fn waitset_with_one_waiter() {
    waitset(1, 3);
}

#[test]
fn waitset_hands_wake_ups_on() {
    waitset(2, 2);
}

/// The same things, waited for in turn: as `channel/wait.rs` does, but for its spins.
struct FairStore {
    waiting: FairWaitSet,
    things: AtomicU32,
}

impl FairStore {
    fn put(&self) {
        self.things.fetch_add(1, Ordering::Release);
        self.waiting.notify();
    }

    fn take(&self, turn: &mut Turn<'_>) -> bool {
        if turn.is_held_up(Deadline::Never) {
            return false;
        }
        let taken = |seen: u32| seen.checked_sub(1);
        self.things.fetch_update(Ordering::Acquire, Ordering::Relaxed, taken).is_ok()
    }

    fn get(&self) {
        let mut turn = Turn::new(&self.waiting);
        let mut taken = self.take(&mut turn);
        while !taken {
            turn.prepare_wait();
            taken = self.take(&mut turn);
            if !taken {
                turn.lost();
                turn.park(u64::MAX).unwrap();
            }
        }
        turn.end(true);
        if turn.is_prepared() && self.things.load(Ordering::Relaxed) > 0 {
            self.waiting.notify();
        }
    }
}

/// Everyone reserves as soon as it has been woken in vain: a reservation holds others up, and loses
/// no wake-up.
fn turns(gets: &'static [u32], preemptions: usize) {
    model(preemptions, move || {
        let store = Arc::new(FairStore { waiting: FairWaitSet::new(), things: AtomicU32::new(0) });
        let getters: Vec<_> = gets
            .iter()
            .map(|&gets| {
                let store = store.clone();
                thread::spawn(move || (0..gets).for_each(|_| store.get()))
            })
            .collect();
        (0..gets.iter().sum()).for_each(|_: u32| store.put());
        getters.into_iter().for_each(|t| t.join().unwrap());
        assert_eq!(store.things.load(Ordering::SeqCst), 0);
    });
}

#[test]
fn waitset_turns_of_one_and_of_one_that_comes_back() {
    turns(&[1, 2], 2);
}

#[test]
fn waitset_turns_of_three() {
    turns(&[1, 1, 1], 1);
}
