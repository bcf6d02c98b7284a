//! The waitset, under a store that is used as queues use it.

use fastmp_core::facade::{AtomicU32, Ordering};
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
            ticket = Some(self.waiting.register());
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
