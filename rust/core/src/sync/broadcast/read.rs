//! A reader's side of a broadcast, which needs no lock.

use super::send::{format, kind, length};
use super::slot::{NUMBER, Place};
use super::{Board, DATA, EXTENT, HEAD, LOOK, ReaderSlot, SMALL, Ticket};
use crate::error::{Error, Result};
use crate::facade::{self, Ordering};
use crate::kill_point;

/// How often a read begins anew, because others are quicker, before it counts as in vain.
const TRIES: usize = 64;

/// What was read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Taken {
    /// A message that has been copied, and is this reader's past.
    Small {
        /// How its bytes are to be read.
        format: u8,
        /// Its number.
        number: u64,
    },
    /// One whose extent stays until [`Board::finish`] or [`Board::unpin`].
    Pinned {
        /// How its bytes are to be read.
        format: u8,
        /// Its number.
        number: u64,
        /// The extent that it is in.
        extent: u64,
        /// Its bytes.
        len: u64,
    },
}

impl Board<'_> {
    fn slot_of(&self, ticket: Ticket) -> Result<(&ReaderSlot, Place)> {
        let slot = self.slot(ticket.index)?;
        let place = slot.place();
        if place.tag() != ticket.tag || !place.is_owned() || slot.owner() != ticket.owner {
            return Err(Error::NotOwner);
        }
        Ok((slot, place))
    }

    /// Is there a message for this reader, or something else that ends its wait? Cheap.
    pub fn looks_ready(&self, ticket: Ticket) -> bool {
        let next = self.state.next.load(Ordering::Relaxed);
        let waits = |place: Place| place.tag() == ticket.tag && place.number() == next;
        !self.slot(ticket.index).is_ok_and(|slot| waits(slot.place())) || self.state.is_shut()
    }

    /// The number of the message that it wants next.
    pub fn place_of(&self, ticket: Ticket) -> Result<u64> {
        Ok(self.slot_of(ticket)?.1.number())
    }

    /// Read the next message; a small one onto the end of `bytes`.
    ///
    /// # Errors
    /// `Empty`; `PeerGone` if there will be none; `WouldBlock` while another thread is copying one;
    /// `NotOwner` if the slot has gone to another; `Corrupted`.
    pub fn take(&self, ticket: Ticket, bytes: &mut Vec<u8>) -> Result<Taken> {
        for _ in 0..TRIES {
            // In this order. No message comes after `shut`; `oldest` never passes `next`.
            let shut = self.state.is_shut();
            let (slot, place) = self.slot_of(ticket)?;
            let number = place.number();
            let oldest = self.state.oldest.load(Ordering::Acquire);
            // SeqCst: acquire for the cell, and one half of the agreement with waiters.
            let next = self.state.next.load(Ordering::SeqCst);
            if number == next {
                return Err(if shut { Error::PeerGone } else { Error::Empty });
            }
            // Not by how much it is ahead of `oldest`, which is older than the look at `next`.
            if number > next || oldest > next || next >= NUMBER {
                return Err(Error::Corrupted("a reader ahead of the messages"));
            }
            if number < oldest {
                self.skip(slot, place, oldest)?;
                continue;
            }
            if let Some(taken) = self.take_one(slot, place, bytes)? {
                return Ok(taken);
            }
        }
        Err(Error::WouldBlock)
    }

    /// It has been left behind: go on with the oldest.
    fn skip(&self, slot: &ReaderSlot, place: Place, oldest: u64) -> Result<()> {
        // Pinned by another thread of this reader, which has it all the same.
        others_pin(slot, place)?;
        // In this order: it is counted for who has the slot at the exchange, or takes it over.
        let counted = slot.counted();
        let on = Place::new(place.tag(), oldest);
        if slot.place.compare_exchange(place.0, on.0, Ordering::AcqRel, Ordering::Relaxed).is_ok() {
            slot.miss(counted, oldest - place.number());
        }
        Ok(())
    }

    /// Is the message there still? Asked after its cell, or its pin.
    fn is_there(&self, number: u64) -> bool {
        self.state.oldest.load(Ordering::Relaxed) <= number
    }

    /// Read the message at `place`; None: others were quicker.
    fn take_one(&self, slot: &ReaderSlot, place: Place, bytes: &mut Vec<u8>) -> Result<Option<Taken>> {
        let number = place.number();
        let cell = self.cell(number);
        let [stamp, word, _, extent] = [0, 1, 2, 3].map(|at: usize| cell[at].load(Ordering::Relaxed));
        let (format, len) = (format(word), length(word));
        let start = bytes.len();
        if kind(word) == DATA && len <= SMALL as u64 {
            let len = len as usize;
            for word in &cell[HEAD..HEAD + len.div_ceil(8)] {
                bytes.extend_from_slice(&word.load(Ordering::Relaxed).to_le_bytes());
            }
            bytes.truncate(start + len);
        } else if kind(word) == EXTENT {
            let pin = others_pin(slot, place)?;
            if slot.pin.compare_exchange(pin, place.0, Ordering::AcqRel, Ordering::Relaxed).is_err() {
                return Ok(None);
            }
        }
        // (A) and (B): with the fence behind the change of `oldest`. What is still there now was
        // whole, and the pin is seen.
        if kind(word) == EXTENT {
            facade::fence_after_rmw();
        } else {
            facade::fence(Ordering::Acquire);
        }
        let is_whole = self.is_there(number) && slot.place() == place;
        if is_whole && stamp == number.wrapping_add(1) && kind(word) == EXTENT {
            kill_point!("broadcast.recv.pinned");
            return Ok(Some(Taken::Pinned { format, number, extent, len }));
        }
        if kind(word) == EXTENT {
            unpin(slot, place);
        }
        if is_whole && stamp == number.wrapping_add(1) && bytes.len() == start + len as usize {
            kill_point!("broadcast.recv.before_commit");
            // Commit point. Release: the copy. An exchange, for the senders' wait set.
            let on = Place::new(place.tag(), number + 1);
            if slot.place.compare_exchange(place.0, on.0, Ordering::AcqRel, Ordering::Relaxed).is_ok() {
                kill_point!("broadcast.recv.after_commit");
                self.made_room(number);
                return Ok(Some(Taken::Small { format, number }));
            }
        } else if is_whole {
            bytes.truncate(start);
            return Err(Error::Corrupted("a broadcast's cell that holds no message"));
        }
        bytes.truncate(start);
        Ok(None)
    }

    /// Large message `number` has been copied: it is this reader's past.
    ///
    /// # Errors
    /// `NotOwner` if the slot has gone to another meanwhile: what was copied may be anything, and
    /// the message is the other's.
    pub fn finish(&self, ticket: Ticket, number: u64) -> Result<()> {
        let slot = self.slot(ticket.index)?;
        let place = Place::new(ticket.tag, number);
        let on = Place::new(ticket.tag, number + 1);
        // Commit point. Release: the copy.
        let done = slot.place.compare_exchange(place.0, on.0, Ordering::AcqRel, Ordering::Relaxed);
        kill_point!("broadcast.recv.finished");
        self.unpin(ticket, number);
        self.made_room(number);
        done.map(drop).map_err(|_| Error::NotOwner)
    }

    /// Large message `number` is no longer being copied. What all have read is to be freed then.
    pub fn unpin(&self, ticket: Ticket, number: u64) {
        let Ok(slot) = self.slot(ticket.index) else { return };
        unpin(slot, Place::new(ticket.tag, number));
        // With the fence in `evict`: either who has evicted it saw no pin, or it is seen here that
        // it is gone, and its extent is in limbo.
        facade::fence_after_rmw();
        let limbo = self.state.limbo.load(Ordering::Relaxed);
        if limbo != 0 && !self.is_there(number) {
            // If it fails somebody has just looked, or another one asks for it. 0 if all were free.
            let _ = self.state.limbo.compare_exchange(limbo, LOOK, Ordering::Relaxed, Ordering::Relaxed);
        }
        // With the fence in `others_pin`, and that above: the other thread sees no pin, or this one
        // that it waits.
        if slot.crowded.load(Ordering::Relaxed) != 0 {
            slot.crowded.store(0, Ordering::Relaxed);
            self.state.news.notify_all();
        }
    }

    /// A reader has gone on from message `number`, by a read-modify-write.
    fn made_room(&self, number: u64) {
        let is_slowest = || !self.waited_for().any(|(_, place)| place.number() < number);
        if self.state.room.is_waited_on() && is_slowest() {
            self.state.room.notify();
        }
    }
}

/// The pin, if it is none of this reader's: 0, or what another one has left.
///
/// # Errors
/// `WouldBlock` while another thread of this reader copies a large message: that will wake this
/// one.
fn others_pin(slot: &ReaderSlot, place: Place) -> Result<u64> {
    let look = || {
        let pin = slot.pin.load(Ordering::Relaxed);
        if pin == 0 || Place(pin).tag() != place.tag() { Ok(pin) } else { Err(Error::WouldBlock) }
    };
    look().or_else(|_| {
        slot.crowded.swap(1, Ordering::Relaxed);
        facade::fence_after_rmw();
        look()
    })
}

fn unpin(slot: &ReaderSlot, pin: Place) {
    // Release: the copy. Another's is left alone.
    let _ = slot.pin.compare_exchange(pin.0, 0, Ordering::AcqRel, Ordering::Relaxed);
}
