//! The waitset, under a store that is used as queues use it.

use fastmp_core::Deadline;
use fastmp_core::facade::{AtomicU32, Ordering};
use fastmp_core::sync::waitset::WaitSet;
use loom::sync::Arc;
use loom::thread;

use crate::model;

/// Things to wait for. Read-modify-write on both sides: loom makes less of SeqCst than the waitset relies on.
struct Store {
    waiting: WaitSet,
    things: AtomicU32,
}

impl Store {
    fn put(&self) {
        self.things.fetch_add(1, Ordering::SeqCst);
        self.waiting.notify();
    }

    fn take(&self) -> bool {
        let mut seen = self.things.fetch_add(0, Ordering::SeqCst);
        while seen > 0 {
            match self.things.compare_exchange(seen, seen - 1, Ordering::SeqCst, Ordering::SeqCst) {
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
                self.waiting.park(ticket, Deadline::Never).unwrap();
            }
            ticket = Some(self.waiting.register());
        }
        if ticket.is_some() && self.things.fetch_add(0, Ordering::SeqCst) > 0 {
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
