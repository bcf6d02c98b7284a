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
