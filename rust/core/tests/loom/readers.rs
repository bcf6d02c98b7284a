//! Whose is a reader's slot? Of all that may happen to it at a time one comes first, and the others
//! find that out: none ends in a slot that somebody alive is said to have and nobody reads by, or
//! in another's.

use fastmp_core::Error;
use fastmp_core::facade::die;
use fastmp_core::sync::broadcast::Ticket;

use crate::broadcast::Model;
use crate::{model, on, owner};

/// So long ago that a reader given away then is unclaimed: in a model it is always the start of
/// time, and what comes from the future counts as the past.
const LONG_AGO: u64 = 1 << 40;

/// There are just these readers, and a message comes to each of them.
fn all_read(shared: &Model, tickets: &[Ticket]) {
    assert_eq!(shared.board().readers().len(), tickets.len(), "a slot that nobody reads by");
    let number = shared.state.sent();
    shared.send(9, 40);
    for ticket in tickets {
        assert_eq!(shared.try_recv(*ticket), Ok((number, 40)));
        shared.board().leave(*ticket);
    }
    assert!(!shared.board().has_readers());
}

/// As who attaches a reader that was sent to it.
fn arrive(shared: &Model, of: Ticket, pid: u32) -> Ticket {
    let mut guard = shared.lock(pid);
    let taken = guard.take_over(of, owner(pid));
    taken.unwrap_or_else(|| guard.join(owner(pid), Some(0)).unwrap().unwrap())
}

#[test]
fn left_while_it_is_taken_over() {
    model(3, || {
        let shared = Model::new(2, 2, false);
        let ticket = shared.join(1);
        let leaving = on(&shared, move |shared: &Model| shared.board().leave(ticket));
        let taken = arrive(&shared, ticket, 2);
        leaving.join().unwrap();
        all_read(&shared, &[taken]);
    });
}

#[test]
fn freed_as_unclaimed_while_it_is_taken_over() {
    model(3, || {
        let shared = Model::new(2, 2, false);
        let ticket = shared.join(1);
        shared.board().mark_given(ticket, LONG_AGO);
        let freeing = on(&shared, |shared: &Model| shared.board().drop_unclaimed());
        let taken = arrive(&shared, ticket, 2);
        freeing.join().unwrap();
        all_read(&shared, &[taken]);
    });
}

/// Its giver is dead: one finds that out, one sees that nobody has claimed it, one joins.
#[test]
fn freed_as_unclaimed_while_it_is_swept_and_joined() {
    model(3, || {
        let shared = Model::new(2, 1, false);
        let ticket = shared.join(1);
        shared.board().mark_given(ticket, LONG_AGO);
        die(1);
        let freeing = on(&shared, |shared: &Model| shared.board().drop_unclaimed());
        shared.board().sweep();
        let joined = shared.join(2);
        freeing.join().unwrap();
        all_read(&shared, &[joined]);
    });
}

#[test]
fn swept_while_it_is_taken_over() {
    model(3, || {
        let shared = Model::new(2, 2, false);
        let ticket = shared.join(1);
        die(1);
        let sweeping = on(&shared, |shared: &Model| shared.board().sweep());
        let taken = arrive(&shared, ticket, 2);
        sweeping.join().unwrap();
        all_read(&shared, &[taken]);
    });
}

/// Two find its owner dead, and one of them joins.
#[test]
fn swept_and_joined_while_it_is_swept() {
    model(3, || {
        let shared = Model::new(2, 1, false);
        shared.join(1);
        die(1);
        let sweeping = on(&shared, |shared: &Model| shared.board().sweep());
        shared.board().sweep();
        let joined = shared.lock(2).join(owner(2), None).unwrap();
        let swept = sweeping.join().unwrap();
        let joined = joined.unwrap_or_else(|| panic!("{swept} swept, and no slot is free"));
        all_read(&shared, &[joined]);
    });
}

/// The mark comes late, when the reader is another's already: who is waited for still is.
#[test]
fn marked_as_given_while_it_is_taken_over() {
    model(3, || {
        let shared = Model::new(2, 2, false);
        let ticket = shared.join(1);
        let marking = on(&shared, move |shared: &Model| shared.board().mark_given(ticket, LONG_AGO));
        let taken = arrive(&shared, ticket, 2);
        marking.join().unwrap();
        assert_eq!(shared.board().drop_unclaimed(), 0);
        all_read(&shared, &[taken]);
    });
}

/// One thread of a process puts it into a child's name, another one leaves.
#[test]
fn left_while_it_is_given() {
    model(3, || {
        let shared = Model::new(2, 2, false);
        let ticket = shared.join(1);
        let leaving = on(&shared, move |shared: &Model| shared.board().leave(ticket));
        shared.lock(1).give(ticket, owner(2));
        leaving.join().unwrap();
        let taken = arrive(&shared, ticket, 2);
        all_read(&shared, &[taken]);
    });
}

/// The other one joins anew meanwhile, and gets the same slot.
#[test]
fn left_and_joined_while_it_is_given() {
    model(3, || {
        let shared = Model::new(2, 1, false);
        let ticket = shared.join(1);
        let giving = on(&shared, move |shared: &Model| shared.lock(1).give(ticket, owner(2)));
        shared.board().leave(ticket);
        let joined = shared.lock(1).join(owner(1), None).unwrap();
        giving.join().unwrap();
        all_read(&shared, &[joined.unwrap()]);
    });
}

/// Its giver dies then, and is found dead: the reader is the child's all the same.
#[test]
fn swept_while_it_is_given_by_one_who_dies() {
    model(3, || {
        let shared = Model::new(2, 1, false);
        let ticket = shared.join(1);
        let giving = on(&shared, move |shared: &Model| {
            shared.lock(1).give(ticket, owner(2));
            die(1);
        });
        shared.board().sweep();
        giving.join().unwrap();
        shared.board().sweep();
        let taken = shared.lock(2).take_over(ticket, owner(2));
        all_read(&shared, &[taken.expect("it was given away")]);
    });
}

/// What a former reader of the slot has missed is not the next one's to count.
#[test]
fn left_and_joined_while_it_skips() {
    model(3, || {
        let shared = Model::new(1, 1, true);
        let ticket = shared.join(1);
        (0..3).for_each(|_| shared.send(9, 40));
        let skipping = on(&shared, move |shared: &Model| shared.try_recv(ticket).map(drop));
        shared.board().leave(ticket);
        let joined = shared.join(2);
        let skipped = skipping.join().unwrap();
        assert!(matches!(skipped, Ok(()) | Err(Error::NotOwner)), "{skipped:?}");
        assert_eq!(shared.board().missed(joined), Ok(0));
        all_read(&shared, &[joined]);
    });
}

/// But who takes it over goes on with the count.
#[test]
fn taken_over_while_it_skips() {
    model(3, || {
        let shared = Model::new(1, 1, true);
        let ticket = shared.join(1);
        (0..3).for_each(|_| shared.send(9, 40));
        let skipping = on(&shared, move |shared: &Model| shared.try_recv(ticket).map(drop));
        let taken = arrive(&shared, ticket, 2);
        let read = u64::from(skipping.join().unwrap().is_ok()) + u64::from(shared.try_recv(taken).is_ok());
        assert_eq!((read, shared.board().missed(taken)), (1, Ok(2)));
        all_read(&shared, &[taken]);
    });
}
