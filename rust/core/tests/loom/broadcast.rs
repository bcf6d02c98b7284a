//! A broadcast: what is sent is read whole, or missed and counted; what is being copied stays.

use fastmp_core::deadline::Patience;
use fastmp_core::facade::{AtomicU64, die};
use fastmp_core::sync::broadcast::{Board, BroadcastState, CELL, ReaderSlot, SendGuard, Stored, Taken, Ticket};
use fastmp_core::{Deadline, Error};
use loom::cell::UnsafeCell;
use loom::sync::Arc;
use loom::thread;

use crate::{model, owner};

/// A broadcast with room for so many messages and readers; and what its extents hold, which loom
/// watches: a copy of what is being filled is a race.
pub struct Model {
    pub state: BroadcastState,
    slots: Vec<ReaderSlot>,
    cells: Vec<AtomicU64>,
    extents: Vec<UnsafeCell<u64>>,
}

// SAFETY: `extents` are guarded by the protocol, which is what the models are to show.
unsafe impl Sync for Model {}
// SAFETY: as above.
unsafe impl Send for Model {}

impl Model {
    pub fn new(maxsize: usize, readers: usize, skips: bool) -> Arc<Model> {
        Model::bounded(maxsize, 0, readers, skips)
    }

    fn bounded(maxsize: usize, max_bytes: u64, readers: usize, skips: bool) -> Arc<Model> {
        Arc::new(Model {
            state: BroadcastState::new(max_bytes, skips),
            slots: (0..readers).map(|_| ReaderSlot::new()).collect(),
            cells: (0..maxsize * CELL).map(|_| AtomicU64::new(0)).collect(),
            extents: (0..3).map(|_| UnsafeCell::new(0)).collect(),
        })
    }

    pub fn board(&self) -> Board<'_> {
        Board::new(&self.state, &self.slots, &self.cells)
    }

    pub fn lock(&self, pid: u32) -> SendGuard<'_> {
        self.board().lock(owner(pid), Patience::sleep(Deadline::Never)).unwrap().0
    }

    pub fn join(&self, pid: u32) -> Ticket {
        self.lock(pid).join(owner(pid), None).unwrap().unwrap()
    }

    pub fn send(&self, pid: u32, value: u64) {
        let mut attempt = || {
            let mut guard = self.lock(pid);
            let bytes = value.to_le_bytes();
            let message = Stored::Here(&bytes);
            guard.make_room(&message, &mut Vec::new())?;
            guard.write(&message, 7)?;
            guard.commit();
            Ok(())
        };
        self.board().wait_for_room(Deadline::Never, &mut attempt).unwrap();
        self.state.news.notify_all();
    }

    /// By extent number `value`, which nobody uses.
    fn send_large(&self, pid: u32, value: u64, free: &mut Vec<u64>) {
        let mut guard = self.lock(pid);
        let mut evicted = Vec::new();
        // Whatever is in limbo, and whatever is evicted now.
        let message = Stored::Extent { index: free[0], len: 8 };
        guard.make_room(&message, &mut evicted).unwrap();
        let extent = free.remove(0);
        // SAFETY: it is free; loom checks.
        self.extents[extent as usize].with_mut(|at| unsafe { *at = value });
        guard.write(&Stored::Extent { index: extent, len: 8 }, 7).unwrap();
        guard.commit();
        free.extend(evicted.iter().map(|one| one.extent));
        drop(guard);
        self.state.news.notify_all();
    }

    /// The next message, if there is one: its number, and what it says.
    pub fn try_recv(&self, ticket: Ticket) -> Result<(u64, u64), Error> {
        let mut bytes = Vec::new();
        match self.board().take(ticket, &mut bytes)? {
            Taken::Small { format, number } => {
                assert_eq!(format, 7);
                Ok((number, u64::from_le_bytes(bytes.try_into().unwrap())))
            }
            Taken::Pinned { number, extent, len, .. } => {
                assert_eq!(len, 8);
                // SAFETY: it is pinned; loom checks.
                let value = self.extents[extent as usize].with(|at| unsafe { *at });
                self.board().finish(ticket, number)?;
                Ok((number, value))
            }
        }
    }

    fn recv(&self, ticket: Ticket) -> (u64, u64) {
        self.board().wait_for_news(ticket, Deadline::Never, || self.try_recv(ticket), || ()).unwrap()
    }
}

/// A reader joined, and waits; a sender wakes it. All is read, in order.
#[test]
fn a_broadcast_wakes_its_readers() {
    model(2, || {
        let shared = Model::new(2, 2, false);
        let tickets = [1, 2].map(|pid| shared.join(pid));
        let readers = tickets.map(|ticket| {
            let shared = shared.clone();
            thread::spawn(move || assert_eq!(shared.recv(ticket), (0, 40)))
        });
        shared.send(9, 40);
        readers.into_iter().for_each(|reader| reader.join().unwrap());
    });
}

/// With room for one the sender waits for the slowest each time, and is woken by it.
#[test]
fn a_reader_makes_room() {
    model(2, || {
        let shared = Model::new(1, 1, false);
        let ticket = shared.join(1);
        let reader = {
            let shared = shared.clone();
            thread::spawn(move || {
                for number in 0..2 {
                    assert_eq!(shared.recv(ticket), (number, 40 + number));
                }
            })
        };
        (0..2).for_each(|number| shared.send(9, 40 + number));
        reader.join().unwrap();
        assert_eq!(shared.board().missed(ticket), Ok(0));
    });
}

/// Who is left behind reads whole messages, and misses exactly the others.
#[test]
fn what_is_overwritten_is_missed_and_never_torn() {
    model(2, || {
        let shared = Model::new(1, 1, true);
        let ticket = shared.join(1);
        let reader = {
            let shared = shared.clone();
            thread::spawn(move || {
                let mut received = 0;
                for _ in 0..2 {
                    if let Ok((number, value)) = shared.try_recv(ticket) {
                        assert_eq!(value, 40 + number);
                        received += 1;
                    }
                }
                received
            })
        };
        (0..3).for_each(|number| shared.send(9, 40 + number));
        let mut received = reader.join().unwrap();
        while shared.try_recv(ticket).is_ok() {
            received += 1;
        }
        assert_eq!(received + shared.board().missed(ticket).unwrap(), 3);
    });
}

/// The extent of a large message is not filled anew while somebody copies it.
#[test]
fn what_is_pinned_is_not_used_again() {
    model(3, || {
        let shared = Model::new(1, 1, true);
        let ticket = shared.join(1);
        let reader = {
            let shared = shared.clone();
            thread::spawn(move || match shared.try_recv(ticket) {
                Ok((number, value)) => {
                    assert_eq!(value, 40 + number);
                    1
                }
                Err(_) => 0,
            })
        };
        let mut free = vec![0, 1];
        for number in 0..3 {
            if !free.is_empty() {
                shared.send_large(9, 40 + number, &mut free);
            }
        }
        reader.join().unwrap();
        // What was in limbo, if anything, can be told now that nobody reads.
        let guard = shared.lock(9);
        assert!(guard.next() >= 2 && guard.is_free(0) == Some(true));
        assert_eq!(guard.has_limbo(), free.is_empty());
    });
}

/// Joining races with a send: the message is read exactly if it was sent afterwards.
#[test]
fn who_joins_gets_all_from_then_on() {
    model(3, || {
        let shared = Model::new(4, 2, false);
        let first = shared.join(1);
        let joiner = {
            let shared = shared.clone();
            thread::spawn(move || {
                let ticket = shared.join(2);
                let sent = shared.state.sent();
                (ticket, sent)
            })
        };
        (0..2).for_each(|number| shared.send(9, 40 + number));
        let (second, sent) = joiner.join().unwrap();
        // All from some message on, which was not sent before `join` was called.
        let mut next = None;
        while let Ok((number, value)) = shared.try_recv(second) {
            assert_eq!((value, next.unwrap_or(number)), (40 + number, number));
            next = Some(number + 1);
        }
        assert!(next.is_none_or(|next| next == 2));
        assert!(sent == 2 || next == Some(2), "what came after the join was not read");
        assert_eq!((shared.recv(first), shared.recv(first)), ((0, 40), (1, 41)));
    });
}

/// A reader dies while a sender waits for it: the sender goes on, and another reader has all.
#[test]
fn a_dead_reader_blocks_nobody() {
    model(2, || {
        let shared = Model::new(1, 1, false);
        let _dead = shared.join(1);
        shared.send(9, 40);
        let sender = {
            let shared = shared.clone();
            thread::spawn(move || shared.send(8, 41))
        };
        die(1);
        shared.state.room.ring();
        sender.join().unwrap();
        assert!(!shared.board().has_readers());
    });
}

/// A reader is taken over while its former owner reads: each message comes to one of the two.
#[test]
fn a_reader_that_is_taken_over_loses_nothing() {
    model(3, || {
        let shared = Model::new(2, 1, false);
        let ticket = shared.join(1);
        let mut free = vec![0, 1, 2];
        shared.send(9, 40);
        shared.send_large(9, 41, &mut free);
        let former = {
            let shared = shared.clone();
            thread::spawn(move || {
                let mut values = Vec::new();
                for _ in 0..2 {
                    match shared.try_recv(ticket) {
                        Ok((_, value)) => values.push(value),
                        Err(Error::NotOwner) => break,
                        Err(e) => panic!("{e:?}"),
                    }
                }
                values
            })
        };
        let taken = shared.lock(2).take_over(ticket, owner(2)).unwrap();
        let mut values = Vec::new();
        while let Ok((_, value)) = shared.try_recv(taken) {
            values.push(value);
        }
        let mut all = former.join().unwrap();
        all.extend(values);
        assert_eq!(all, [40, 41]);
        assert!(matches!(shared.try_recv(ticket), Err(Error::NotOwner)));
    });
}

/// A reader is left while another thread of it copies a large message, whose extent is then filled
/// anew: what was copied is not taken for the message.
#[test]
fn what_is_copied_while_the_reader_leaves_is_thrown_away() {
    model(3, || {
        let shared = Model::new(1, 1, true);
        let ticket = shared.join(1);
        let (mut free, mut evicted) = (vec![0, 1], Vec::new());
        shared.send_large(9, 40, &mut free);
        let mut bytes = Vec::new();
        let Ok(Taken::Pinned { number, .. }) = shared.board().take(ticket, &mut bytes) else { panic!() };
        let other = {
            let shared = shared.clone();
            thread::spawn(move || shared.board().leave(ticket))
        };
        // Is it free before `finish`, which says that it was whole?
        shared.lock(9).free_read(&mut evicted).unwrap();
        let finished = shared.board().finish(ticket, number);
        other.join().unwrap();
        assert!(evicted.is_empty() || finished == Err(Error::NotOwner));
    });
}

/// Two threads of one reader: one waits while the other copies, and is woken when it is done.
#[test]
fn threads_of_one_reader_take_turns() {
    model(2, || {
        let shared = Model::new(2, 1, false);
        let ticket = shared.join(1);
        let mut free = vec![0, 1, 2];
        (0..2).for_each(|number| shared.send_large(9, 40 + number, &mut free));
        let other = {
            let shared = shared.clone();
            thread::spawn(move || shared.recv(ticket))
        };
        let mut both = [shared.recv(ticket), other.join().unwrap()];
        both.sort_unstable();
        assert_eq!(both, [(0, 40), (1, 41)]);
    });
}

/// A sender waits for two readers: the slowest wakes it, whichever that is.
#[test]
fn the_slowest_wakes_the_sender() {
    model(2, || {
        let shared = Model::new(1, 2, false);
        let tickets = [1, 2].map(|pid| shared.join(pid));
        shared.send(9, 40);
        let readers = tickets.map(|ticket| {
            let shared = shared.clone();
            thread::spawn(move || assert_eq!(shared.try_recv(ticket), Ok((0, 40))))
        });
        shared.send(9, 41);
        readers.into_iter().for_each(|reader| reader.join().unwrap());
    });
}

/// A reader is put into a child's name while that takes it over: it is the child's, and none is
/// left in its name that nobody reads by.
#[test]
fn what_is_given_is_taken_over() {
    model(3, || {
        let shared = Model::new(2, 2, false);
        let ticket = shared.join(1);
        let giver = {
            let shared = shared.clone();
            thread::spawn(move || shared.lock(1).give(ticket, owner(2)))
        };
        let taken = shared.lock(2).take_over(ticket, owner(2)).expect("it is there");
        giver.join().unwrap();
        shared.send(9, 40);
        assert_eq!(shared.try_recv(taken), Ok((0, 40)));
        assert!(matches!(shared.try_recv(ticket), Err(Error::NotOwner)));
        assert_eq!(shared.board().readers().len(), 1);
        shared.board().leave(taken);
        assert!(!shared.board().has_readers());
    });
}

/// The cell that a reader is copying was freed by one sender, and is overwritten by another, which
/// evicts nothing itself: what was copied is thrown away all the same.
#[test]
fn what_another_has_freed_is_never_torn() {
    /// A message of `len` bytes, each of which says its number.
    fn send(shared: &Model, pid: u32, number: u64, len: usize) {
        let mut guard = shared.lock(pid);
        if guard.next() != number {
            return;
        }
        let bytes = vec![40 + number as u8; len];
        let message = Stored::Here(&bytes);
        guard.make_room(&message, &mut Vec::new()).unwrap();
        guard.write(&message, 7).unwrap();
        guard.commit();
    }
    model(3, || {
        let shared = Model::bounded(4, 6, 1, true);
        (0..4).for_each(|number| send(&shared, 9, number, if number == 2 { 3 } else { 1 }));
        let ticket = shared.lock(1).join(owner(1), Some(1)).unwrap().unwrap();
        // This one frees 0 to 2 for its bytes, and takes the cell of 0; the next the one of 1.
        let senders = [(8, 4, 3), (7, 5, 1)].map(|(pid, number, len)| {
            let shared = shared.clone();
            thread::spawn(move || send(&shared, pid, number, len))
        });
        let mut bytes = Vec::new();
        if let Ok(Taken::Small { number, .. }) = shared.board().take(ticket, &mut bytes) {
            assert!(bytes.iter().all(|byte| *byte == 40 + number as u8), "message {number} says {bytes:?}");
        }
        senders.into_iter().for_each(|sender| sender.join().unwrap());
    });
}
