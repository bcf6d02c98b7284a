//! Loans that outlive their channel: what else is in its file goes with the last who has the
//! channel.
#![cfg(not(loom))]
// Forks; a failure is to panic.
#![allow(unsafe_code, clippy::unwrap_used)]

mod common;

use std::sync::Arc;

use common::channel::{Channel, LARGE, got, put, soon};
use common::{Child, KILLED, OK, read_message, until};
use fastmp_core::arena::Segment;
use fastmp_core::channel::extents::Loan;
use fastmp_core::channel::pipe;
use fastmp_core::channel::queue::Queue;
use fastmp_core::sys::memfd;

/// The file's header, a loan's place to the page, and the table.
const LITTLE: u64 = 64 << 10;
const SMALL_ONES: usize = 20_000;

fn lent(channel: &impl Channel) -> Arc<Loan> {
    let received = channel.get_letter(&mut Vec::new(), &mut Vec::new(), soon()).unwrap();
    let (extent, len) = *received.extent.unwrap();
    extent.lend(len).unwrap()
}

fn content(loan: &Loan) -> (usize, usize) {
    let mut bytes = vec![0; loan.len()];
    loan.read(0, &mut bytes).unwrap();
    read_message(&bytes)
}

/// Its file, with ten large messages, small ones in chunks, and an extent that is kept.
fn full(queue: &Queue) -> Arc<Segment> {
    put(queue, 1, 100, LARGE);
    (0..10).for_each(|number| put(queue, 1, number, LARGE));
    (0..SMALL_ONES).for_each(|number| put(queue, 2, number % 1000, 300));
    assert_eq!(got(queue), (1, 100));
    queue.file().get().unwrap()
}

fn bytes(file: &Segment) -> u64 {
    memfd::resident(file).unwrap()
}

#[test]
fn what_nobody_has_read_goes_with_the_queue() {
    let _turn = common::turn();
    let queue = Queue::create(0).unwrap();
    let file = full(&queue);
    let loan = lent(&queue);
    assert!(bytes(&file) >= 10 * LARGE as u64 + (4 << 20));
    drop(queue);
    assert!(bytes(&file) <= LARGE as u64 + LITTLE, "{} bytes", bytes(&file));
    assert_eq!(content(&loan), (1, 0));
    drop(loan);
    assert!(bytes(&file) <= LITTLE, "{} bytes", bytes(&file));
}

#[test]
fn who_is_not_the_last_takes_nothing_along() {
    let _turn = common::turn();
    let mut queue = Some(Queue::create(0).unwrap());
    let file = full(queue.as_ref().unwrap());
    let words = common::words();
    let mut child = Child::fork(|| {
        let own = queue.take().unwrap();
        let loan = lent(&own);
        drop(own);
        words.set(0, 1);
        until("the last has left", || words.get(1) == 1);
        assert_eq!(content(&loan), (1, 0));
    });
    until("the child has left", || words.get(0) == 1);
    // Nor does this one, of two here.
    let again = queue.as_ref().unwrap().again().unwrap();
    let loan = lent(&again);
    drop(queue);
    (2..6).for_each(|number| assert_eq!(got(&again), (1, number)));
    drop(again);
    assert!(bytes(&file) <= 2 * LARGE as u64 + LITTLE, "{} bytes", bytes(&file));
    words.set(1, 1);
    assert_eq!((child.wait(), content(&loan)), (OK, (1, 1)));
}

#[test]
fn a_queue_on_its_way_is_one_that_somebody_has() {
    let _turn = common::turn();
    let queue = Queue::create(0).unwrap();
    let file = full(&queue);
    let loan = lent(&queue);
    let handle = queue.export(None).unwrap();
    let [reader, writer] = queue.sockets().map(|fd| fd.try_clone_to_owned().unwrap());
    drop(queue);
    let queue = Queue::attach(fastmp_core::arena::Given::copy_of(&handle).unwrap(), reader, writer).unwrap();
    (1..10).for_each(|number| assert_eq!(got(&queue), (1, number)));
    (0..SMALL_ONES).for_each(|number| assert_eq!(got(&queue), (2, number % 1000)));
    drop((queue, handle));
    assert!(bytes(&file) <= LARGE as u64 + LITTLE, "{} bytes", bytes(&file));
    assert_eq!(content(&loan), (1, 0));
}

#[test]
fn who_dies_as_the_last_harms_no_loan() {
    let _turn = common::turn();
    for point in ["extent.punched", "extent.left"] {
        let mut queue = Some(Queue::create(0).unwrap());
        let file = full(queue.as_ref().unwrap());
        let words = common::words();
        let mut doomed = Child::doomed(point, 3, || {
            let own = queue.take().unwrap();
            until("the other has left", || words.get(0) == 1);
            drop(own);
        });
        let loan = lent(queue.as_ref().unwrap());
        drop(queue);
        words.set(0, 1);
        assert_eq!((doomed.wait(), content(&loan)), (KILLED, (1, 0)), "{point}");
        drop((loan, file));
    }
}

#[test]
fn what_was_sent_goes_with_the_last_sender() {
    let _turn = common::turn();
    let (reader, writer) = pipe::create(false).unwrap();
    (0..4).for_each(|number| put(&writer, 1, number, LARGE));
    let loan = lent(&reader);
    let file = reader.file().get().unwrap();
    drop(reader);
    assert!(bytes(&file) >= 4 * LARGE as u64);
    drop(writer);
    assert!(bytes(&file) <= LARGE as u64 + LITTLE, "{} bytes", bytes(&file));
    assert_eq!(content(&loan), (1, 0));
}

#[test]
fn what_was_sent_is_there_for_all_who_share_an_end() {
    let _turn = common::turn();
    let (reader, writer) = pipe::create(false).unwrap();
    (0..4).for_each(|number| put(&writer, 1, number, LARGE));
    assert_eq!(got(&reader), (1, 0));
    let loan = lent(&reader);
    let (again, file) = (reader.again().unwrap(), reader.file().get().unwrap());
    drop(writer);
    drop(reader);
    // What was kept is gone.
    assert!(bytes(&file) <= 3 * LARGE as u64 + LITTLE, "{} bytes", bytes(&file));
    (2..4).for_each(|number| assert_eq!(got(&again), (1, number)));
    assert_eq!(content(&loan), (1, 1));
}
