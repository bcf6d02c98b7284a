//! Loans where a fork finds another thread in the middle of their list.
#![cfg(not(loom))]
// Looks at raw memory; a failure is to panic.
#![allow(unsafe_code, clippy::unwrap_used)]

mod common;

use std::sync::Mutex;
use std::sync::mpsc::Sender;

use common::channel::{Channel, LARGE, put, soon};
use common::{Child, OK, read_message, until};
use fastmp_core::channel::extents::Loan;
use fastmp_core::channel::queue::Queue;
use fastmp_core::fault::{self, Action};
use fastmp_core::sys::fork::{AtFork, Registration};

/// Who is asked, between what loans do before a fork and the fork, to come to its point.
static ASK: Mutex<Option<Sender<()>>> = Mutex::new(None);

struct Waiting;

impl AtFork for Waiting {
    // Registered before the loans', and so called after it.
    fn before() {
        if let Some(ask) = &*ASK.lock().unwrap() {
            ask.send(()).unwrap();
            until("the other is there", fault::is_holding);
        }
    }
    fn in_parent() {
        fault::let_go();
    }
}

fn lent(queue: &Queue) -> std::sync::Arc<Loan> {
    let received = queue.get_letter(&mut Vec::new(), &mut Vec::new(), soon()).unwrap();
    let (extent, len) = *received.extent.unwrap();
    extent.lend(len).unwrap()
}

fn content(loan: &Loan) -> (usize, usize) {
    let mut bytes = vec![0; loan.len()];
    loan.read(0, &mut bytes).unwrap();
    read_message(&bytes)
}

/// The child starts with a new list then, and knows what is lent in it from what was lent before.
#[test]
fn a_child_that_finds_the_list_locked_tells_its_own_from_its_parents() {
    static REGISTRATION: Registration = Registration::new();
    REGISTRATION.ensure::<Waiting>();
    let _turn = common::turn();
    let queue = Queue::create(0).unwrap();
    (0..2).for_each(|number| put(&queue, 1, number, LARGE));
    let mut old = Some(lent(&queue));
    let dropped = lent(&queue);
    let (ask, asked) = std::sync::mpsc::channel();
    *ASK.lock().unwrap() = Some(ask);
    fault::arm("loan.leaving", 1, Action::Hold);
    let other = std::thread::spawn(move || {
        asked.recv().unwrap();
        drop(dropped);
    });
    let mut child = Child::fork(|| {
        *ASK.lock().unwrap() = None;
        put(&queue, 2, 0, LARGE);
        let own = lent(&queue);
        drop(old.take());
        let mut grandchild = Child::fork(|| {
            // SAFETY: its memory, which nobody else looks at.
            unsafe { std::ptr::write_bytes(own.range(0, own.len()).unwrap().as_ptr(), 7, own.len()) };
        });
        assert_eq!((grandchild.wait(), content(&own)), (OK, (2, 0)));
    });
    other.join().unwrap();
    *ASK.lock().unwrap() = None;
    assert_eq!(child.wait(), OK);
    assert_eq!(content(&old.unwrap()), (1, 0));
}
