//! Something is closed by one thread while another waits in it: the word by which the bindings'
//! `Closing` counts calls, on the announcements, the one loop of all waits and a wait set as they
//! ship. Nobody else ends the wait: if it sleeps on, that is a deadlock, which loom reports.

use fastmp_core::facade::{AtomicU64, Ordering};
use fastmp_core::sync::broadcast::Ticket;
use fastmp_core::sync::closings::{announce, heeding};
use fastmp_core::{Deadline, Error};
use loom::sync::Arc;
use loom::thread;

use crate::broadcast::Model;
use crate::model;

const CALLS: u64 = 0xff;
const CLOSED: u64 = 0x100;

/// A reader that can be closed, and whether it has been given up.
struct Closing {
    word: AtomicU64,
    given_up: AtomicU64,
    shared: Arc<Model>,
    ticket: Ticket,
}

impl Closing {
    fn new() -> Arc<Closing> {
        let shared = Model::new(2, 1, false);
        let ticket = shared.join(1);
        Arc::new(Closing { word: AtomicU64::new(0), given_up: AtomicU64::new(0), shared, ticket })
    }

    fn update(&self, change: impl Fn(u64) -> Option<u64>) -> Option<u64> {
        let mut word = self.word.load(Ordering::Relaxed);
        loop {
            let new = change(word)?;
            match self.word.compare_exchange(word, new, Ordering::AcqRel, Ordering::Relaxed) {
                Ok(_) => return Some(new),
                Err(now) => word = now,
            }
        }
    }

    fn enter(&self) -> bool {
        self.update(|word| (word & CLOSED == 0).then_some(word + 1)).is_some()
    }

    fn leave(&self) {
        if self.update(|word| Some(word - 1)) == Some(CLOSED) {
            assert_eq!(self.given_up.fetch_add(1, Ordering::AcqRel), 0, "given up twice");
        }
    }

    /// Counted in while `f` runs; None: closed.
    fn with<R>(&self, f: impl FnOnce() -> R) -> Option<R> {
        if !self.enter() {
            return None;
        }
        assert_eq!(self.given_up.load(Ordering::Acquire), 0, "used when it was given up");
        let done = f();
        self.leave();
        Some(done)
    }

    /// A message; None: it has been closed.
    fn recv(&self) -> Option<(u64, u64)> {
        let (board, ticket) = (self.shared.board(), self.ticket);
        let attempt = || board.wait_for_news(ticket, Deadline::Never, || self.shared.try_recv(ticket), || ());
        loop {
            match heeding(|| self.with(attempt))? {
                Err(Error::Interrupted) => (),
                received => return Some(received.unwrap()),
            }
        }
    }

    fn close(&self) {
        if !self.enter() {
            return;
        }
        let closed = self.update(|word| (word & CLOSED == 0).then_some(word | CLOSED));
        if closed.is_some_and(|word| word & CALLS > 1) {
            announce();
            self.shared.state.news.notify_all();
        }
        self.leave();
    }
}

#[test]
fn who_waits_finds_it_closed() {
    model(3, || {
        let closing = Closing::new();
        let waiting = {
            let closing = closing.clone();
            thread::spawn(move || closing.recv())
        };
        closing.close();
        assert_eq!(waiting.join().unwrap(), None);
        assert_eq!(closing.given_up.load(Ordering::Acquire), 1);
    });
}

/// Two wait, two close it.
#[test]
fn all_find_it_closed_and_one_gives_it_up() {
    model(2, || {
        let closing = Closing::new();
        let others = [true, false].map(|waits| {
            let closing = closing.clone();
            thread::spawn(move || if waits { assert_eq!(closing.recv(), None) } else { closing.close() })
        });
        closing.close();
        others.into_iter().for_each(|other| other.join().unwrap());
        assert_eq!(closing.given_up.load(Ordering::Acquire), 1);
    });
}

/// What comes just then is received, or it is not; and what is closed beside it ends no wait.
#[test]
fn another_is_closed_and_a_message_comes() {
    model(2, || {
        let (closing, other) = (Closing::new(), Closing::new());
        let waiting = {
            let closing = closing.clone();
            thread::spawn(move || closing.recv())
        };
        // As if somebody were in it.
        assert!(other.enter());
        other.close();
        other.leave();
        closing.shared.send(9, 40);
        assert_eq!(waiting.join().unwrap(), Some((0, 40)));
    });
}
