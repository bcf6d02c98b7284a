//! Whose is a broadcast's reader? Processes that take it over, give it away, leave it or find it
//! dead, killed at every step, and another after them. The interleavings are in `loom/readers.rs`.
#![cfg(not(loom))]
// Forks, and lays test words over shared memory; a failure is to panic.
#![allow(unsafe_code, clippy::unwrap_used)]

mod common;

use std::sync::Arc;
use std::sync::atomic::Ordering;

use common::channel::soon;
use common::{Child, KILLED, OK, until, words};
use fastmp_core::channel::broadcast::{Broadcast, Lag, Reader};
use fastmp_core::channel::ring::Payload;
use fastmp_core::fault::{Action, arm, is_holding, let_go};
use fastmp_core::sync::broadcast::Ticket;
use fastmp_core::sys::mapping::Mapping;
use fastmp_core::{Deadline, Error, Result};

fn create(maxsize: u64) -> Arc<Broadcast> {
    Arc::new(Broadcast::create(maxsize, 0, Lag::Block).unwrap())
}

fn send(to: &Broadcast, number: u8) -> Result<()> {
    to.send(7, &mut Some(Payload::Inline(&[number; 3])), soon())
}

fn recv(reader: &Reader) -> Result<u8> {
    let mut bytes = Vec::new();
    reader.recv(&mut bytes, soon())?;
    assert_eq!(bytes, [bytes[0]; 3]);
    Ok(bytes[0])
}

/// By what another process would have it.
fn attached(broadcast: &Broadcast, (ticket, number): (Ticket, u64)) -> Result<Reader> {
    let fd = broadcast.handle().try_clone_to_owned().unwrap();
    let own = Arc::new(Broadcast::attach(fd, broadcast.maxsize()).unwrap());
    Reader::attach(own, ticket, number, soon())
}

/// As if it had been given away so long ago that it is unclaimed.
fn given_long_ago(broadcast: &Broadcast, ticket: Ticket) {
    let at = 8192 + ticket.index as usize * 64 + 40;
    let mapping = Mapping::new(broadcast.handle(), 0, 16384).unwrap();
    let mut word = [0; 8];
    mapping.read(at, &mut word).unwrap();
    let given = u64::from_ne_bytes(word);
    assert_ne!(given, 0);
    mapping.write(at, &(given - (11_000_000_000 >> 20)).to_ne_bytes()).unwrap();
}

/// Nobody is in anybody's way.
fn is_whole(broadcast: &Arc<Broadcast>, case: &str) {
    let reader = broadcast.reader(soon()).unwrap();
    for number in 0..5 {
        send(broadcast, number).unwrap();
        assert_eq!(recv(&reader), Ok(number), "{case}");
    }
    assert_eq!(broadcast.readers().len(), 1, "{case}");
    drop(reader);
    assert_eq!(broadcast.readers(), [], "{case}");
}

/// What the former owner does while another takes its reader over.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Meanwhile {
    Nothing,
    Leaves,
    Reads,
    GoesUnclaimed,
}
const ALL: [Meanwhile; 4] = [Meanwhile::Nothing, Meanwhile::Leaves, Meanwhile::Reads, Meanwhile::GoesUnclaimed];

#[test]
fn who_takes_a_reader_over_dies_and_who_finds_that_out_too() {
    let _turn = common::turn();
    for meanwhile in ALL {
        let case = format!("{meanwhile:?}");
        let broadcast = create(2);
        let former = broadcast.reader(soon()).unwrap();
        send(&broadcast, 1).unwrap();
        let ticket = former.ticket(soon()).unwrap();
        let mut taker = Child::doomed("broadcast.taking_over", 1, || _ = attached(&broadcast, ticket));
        assert_eq!(taker.wait(), KILLED, "{case}");
        match meanwhile {
            Meanwhile::Nothing => (),
            Meanwhile::Leaves => former.leave(),
            Meanwhile::Reads => assert_eq!(recv(&former), Err(Error::NotOwner)),
            Meanwhile::GoesUnclaimed => {
                given_long_ago(&broadcast, ticket.0);
                let mut dropping = Child::doomed("broadcast.unclaimed", 1, || _ = broadcast.board().drop_unclaimed());
                assert_eq!(dropping.wait(), KILLED, "{case}");
            }
        }
        let mut finder = Child::doomed("broadcast.dropped", 1, || {
            (0..3).for_each(|number| send(&broadcast, number).unwrap());
        });
        // It is the dead one's to leave: the slot names it.
        let is_there = meanwhile != Meanwhile::GoesUnclaimed;
        assert_eq!(finder.wait(), if is_there { KILLED } else { OK }, "{case}");
        assert!(!broadcast.board().has_readers(), "{case}");
        is_whole(&broadcast, &case);
        // Whoever comes for it still joins anew.
        let late = attached(&broadcast, ticket).unwrap();
        while late.recv(&mut Vec::new(), Deadline::PASSED).is_ok() {}
        send(&broadcast, 9).unwrap();
        assert_eq!(recv(&late), Ok(9), "{case}");
        drop((late, former));
        is_whole(&broadcast, &case);
    }
}

/// In the middle of taking over it waits, and goes on when the other has done what it does.
#[test]
fn what_the_former_owner_does_meanwhile_is_before_or_after() {
    let _turn = common::turn();
    for meanwhile in ALL {
        let case = format!("{meanwhile:?}");
        let mut child = Child::fork(|| {
            let broadcast = create(4);
            let former = broadcast.reader(soon()).unwrap();
            send(&broadcast, 1).unwrap();
            let ticket = former.ticket(soon()).unwrap();
            arm("broadcast.taking_over", 1, Action::Hold);
            let taken = std::thread::scope(|scope| {
                let taking = scope.spawn(|| attached(&broadcast, ticket).unwrap());
                until("it takes over", is_holding);
                match meanwhile {
                    Meanwhile::Nothing => (),
                    Meanwhile::Leaves => former.leave(),
                    Meanwhile::Reads => assert_eq!(recv(&former), Ok(1)),
                    Meanwhile::GoesUnclaimed => {
                        given_long_ago(&broadcast, ticket.0);
                        assert_eq!(broadcast.board().drop_unclaimed(), 1);
                    }
                }
                let_go();
                taking.join().unwrap()
            });
            assert_eq!(broadcast.board().readers().len(), 1, "{case}");
            send(&broadcast, 2).unwrap();
            if meanwhile != Meanwhile::Reads {
                assert_eq!(recv(&taken), Ok(1), "{case}");
            }
            assert_eq!((recv(&taken), taken.missed(soon())), (Ok(2), Ok(0)), "{case}");
            assert!(recv(&former).is_err());
            drop((former, taken));
            assert!(!broadcast.board().has_readers(), "{case}");
            is_whole(&broadcast, &case);
        });
        assert_eq!(child.wait(), OK, "{case}");
    }
}

/// A forked child's copy is closed by one thread as another one first reads by it.
#[test]
fn a_reader_that_is_closed_as_it_arrives_is_nobodys() {
    let _turn = common::turn();
    for used in [false, true] {
        let broadcast = create(4);
        let reader = broadcast.reader(soon()).unwrap();
        if used {
            send(&broadcast, 1).unwrap();
            assert_eq!(recv(&reader), Ok(1));
        }
        let mut child = Child::fork(|| {
            arm(if used { "broadcast.join.after_commit" } else { "broadcast.taking_over" }, 1, Action::Hold);
            std::thread::scope(|scope| {
                let reading = scope.spawn(|| recv(&reader));
                until("it arrives", is_holding);
                reader.leave();
                let_go();
                assert_eq!(reading.join().unwrap(), Err(Error::Closed));
            });
            let mine = std::process::id();
            assert!(broadcast.readers().iter().all(|info| info.owner.pid() != mine));
        });
        assert_eq!(child.wait(), OK);
        drop(reader);
        is_whole(&broadcast, "closed");
    }
}

/// The giver dies as it gives, the receiver before it takes over, and who finds that out as well.
#[test]
fn who_gives_a_reader_away_dies_and_so_does_the_receiver() {
    let _turn = common::turn();
    for dies in [false, true] {
        let broadcast = create(2);
        let (tickets, go) = (words(), words());
        let mut receiver = Child::fork(|| {
            until("it may take over", || go.get(0) == 1);
            let ticket = Ticket { index: tickets.get(0) as u32, tag: tickets.get(1) as u16, owner: tickets.get(2) };
            let taken = attached(&broadcast, (ticket, tickets.get(3))).unwrap();
            assert_eq!((recv(&taken), recv(&taken), taken.missed(soon())), (Ok(1), Ok(2), Ok(0)));
        });
        let mut giver = Child::doomed("broadcast.given", 1, || {
            let reader = broadcast.reader(soon()).unwrap();
            send(&broadcast, 1).unwrap();
            let (ticket, number) = reader.ticket(soon()).unwrap();
            let all = [u64::from(ticket.index), u64::from(ticket.tag), ticket.owner, number];
            all.into_iter().enumerate().for_each(|(at, word)| tickets.set(at, word));
            reader.give(receiver.pid(), false);
        });
        assert_eq!(giver.wait(), KILLED);
        let pids = || broadcast.readers().iter().map(|info| info.owner.pid()).collect::<Vec<_>>();
        assert_eq!(pids(), [receiver.pid()]);
        send(&broadcast, 2).unwrap();
        assert!(broadcast.would_be_full());
        if dies {
            receiver.kill();
            assert_eq!(receiver.wait(), KILLED);
            let mut finder = Child::doomed("broadcast.dropped", 1, || send(&broadcast, 3).unwrap());
            assert_eq!(finder.wait(), KILLED);
        } else {
            go.set(0, 1);
            assert_eq!(receiver.wait(), OK);
        }
        assert_eq!(pids(), []);
        is_whole(&broadcast, "given");
    }
}

/// Who drops the unclaimed for want of a slot dies, and who joins in its stead too.
#[test]
fn who_drops_the_unclaimed_dies() {
    let _turn = common::turn();
    let broadcast = create(2);
    let given: Vec<_> = (0..64).map(|_| broadcast.reader(soon()).unwrap()).collect();
    let tickets: Vec<_> = given.iter().map(|reader| reader.ticket(soon()).unwrap()).collect();
    drop(given);
    // One of them comes in time.
    let kept = attached(&broadcast, tickets[5]).unwrap();
    tickets.iter().enumerate().filter(|(index, _)| *index != 5).for_each(|(_, (ticket, _))| {
        given_long_ago(&broadcast, *ticket);
    });
    for point in ["broadcast.unclaimed", "broadcast.join.before_commit", "broadcast.join.after_commit"] {
        let mut joiner = Child::doomed(point, 1, || _ = broadcast.reader(soon()));
        assert_eq!(joiner.wait(), KILLED, "{point}");
        assert!(broadcast.board().readers().iter().any(|info| info.owner.pid() == std::process::id()), "{point}");
    }
    let all: Vec<_> = (0..63).map(|_| broadcast.reader(soon()).unwrap()).collect();
    assert_eq!(broadcast.board().more_slots.load(Ordering::SeqCst), 0);
    send(&broadcast, 1).unwrap();
    assert!(all.iter().chain([&kept]).all(|reader| recv(reader) == Ok(1)));
    drop((all, kept));
    is_whole(&broadcast, "unclaimed");
}

/// A forked child that has not read by what it was given starts a child with it, which dies.
#[test]
fn what_was_given_and_is_given_on_is_the_last_ones() {
    let _turn = common::turn();
    for dies in [false, true] {
        let broadcast = create(2);
        let reader = broadcast.reader(soon()).unwrap();
        let (go, last) = (words(), words());
        let mut middle = Child::fork(|| {
            until("it is its own", || go.get(0) == 1);
            let mut leaf = Child::fork(|| {
                until("it may read", || go.get(0) > 1 && !dies);
                assert_eq!((recv(&reader), recv(&reader), reader.missed(soon())), (Ok(1), Ok(2), Ok(0)));
            });
            reader.give(leaf.pid(), false);
            last.set(0, u64::from(leaf.pid()));
            until("it is over", || go.get(0) > 1);
            if dies {
                leaf.kill();
            }
            assert_eq!(leaf.wait(), if dies { KILLED } else { OK });
            assert_eq!(recv(&reader), Err(Error::NotOwner));
            until("the others have looked", || go.get(0) == 3);
        });
        reader.give(middle.pid(), false);
        go.set(0, 1);
        until("it is given on", || last.get(0) > 0);
        let pids = || broadcast.readers().iter().map(|info| u64::from(info.owner.pid())).collect::<Vec<_>>();
        assert_eq!(pids(), [last.get(0)]);
        (1..=2).for_each(|number| send(&broadcast, number).unwrap());
        go.set(0, 2);
        if dies {
            // Though the middle one is alive.
            send(&broadcast, 3).unwrap();
        }
        go.set(0, 3);
        assert_eq!(middle.wait(), OK);
        assert_eq!(pids(), []);
        is_whole(&broadcast, "given on");
    }
}
