//! A reader's slot: whose it is, and what may happen to that.
//!
//! # Words
//!
//! | word | changed by | meaning |
//! |---|---|---|
//! | `place` | see below | tag (16 bits), number (48 bits) of the next message that the reader wants |
//! | `owner` | the lock's holder | the process that the tag is for, or is about to be for |
//! | `pin` | the reader, by CAS | 0, or tag and number of the large message that it is copying |
//! | `missed` | the reader, by CAS | the tag with which it joined; how many messages were gone when it came for them |
//! | `given` | the reader, by CAS | 0, or the tag and when it was given away, to somebody who has still to take it over |
//! | `crowded` | the reader | not 0: a thread of it waits for another to be done with its pin |
//!
//! # Who has it
//! The *tag* says so: it is odd while somebody has the slot, even while nobody has, and changes
//! with each of these transitions. Each is one CAS on `place`, which is the word by which messages
//! are read as well. So of all that is tried at a time, reading included, one comes first, and the
//! others fail by it.
//!
//! | transition | tag | by |
//! |---|---|---|
//! | join | even -> + 1 | the lock's holder |
//! | take over | odd -> + 2 | the lock's holder |
//! | leave | odd -> + 1 | the reader |
//! | drop | odd -> + 1 | who has proved the named owner dead |
//! | drop | odd -> + 1 | who needs a slot, and finds it unclaimed |
//! | give | the same; another `owner` | the lock's holder: the reader |
//! | read | the same; another number | the reader |
//!
//! An owner's name fills a word by itself, so it is a word of its own. It is changed under the lock
//! alone, and before the tag that it is for:
//!
//! - Joining and taking over, one names itself, then changes the tag. If it dies in between, a slot
//!   that was free is free, and one that was another's is dropped by the name of the dead. If the
//!   CAS fails, since the former owner has left or was dropped just then, there is a name in a free
//!   slot, which means nothing.
//! - To give keeps the tag, which the child has in its memory, or will read. Who has found the
//!   giver dead looks at the name once more before it frees the slot: the dead gives nothing away,
//!   so if it is named still it has not done so. All others change the tag.
//!
//! What a word says that has another tag than `place` is void: it is by somebody who was late. So
//! nothing has to be cleared, and what was true of one reader never becomes true of the next.
//! `missed` keeps the tag with which the slot was joined, for who takes it over goes on with the
//! count.

use super::CLAIM;
use crate::facade::{self, AtomicU64, Ordering};
use crate::kill_point;
use crate::overlay;

const NUMBER_BITS: u32 = 48;
/// Messages that a broadcast may number.
pub(super) const NUMBER: u64 = (1 << NUMBER_BITS) - 1;
/// Nanoseconds in a tick of `given`, as a power of two: some 1 ms.
const TICK: u32 = 20;

overlay! {
    /// A reader. See the module.
    #[repr(align(64))]
    #[derive(Debug)]
    pub struct ReaderSlot {
        pub(super) owner: AtomicU64,
        pub(super) place: AtomicU64,
        pub(super) pin: AtomicU64,
        missed: AtomicU64,
        pub(super) crowded: AtomicU64,
        given: AtomicU64,
        _reserved: [AtomicU64; 2],
    }
}

/// A tag and a number, in one word.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Place(pub(super) u64);

impl Place {
    pub(super) fn new(tag: u16, number: u64) -> Place {
        Place(u64::from(tag) << NUMBER_BITS | number & NUMBER)
    }
    pub(super) fn tag(self) -> u16 {
        (self.0 >> NUMBER_BITS) as u16
    }
    pub(super) fn number(self) -> u64 {
        self.0 & NUMBER
    }
    /// Has anybody the slot?
    pub(super) fn is_owned(self) -> bool {
        self.tag() % 2 == 1
    }
}

/// By what a reader has its slot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ticket {
    /// Number of the slot.
    pub index: u32,
    /// The slot's tag.
    pub tag: u16,
    /// The word of the process that has it.
    pub owner: u64,
}

impl ReaderSlot {
    /// Free.
    #[allow(clippy::new_without_default)]
    pub fn new() -> Self {
        ReaderSlot {
            owner: AtomicU64::new(0),
            place: AtomicU64::new(0),
            pin: AtomicU64::new(0),
            missed: AtomicU64::new(0),
            crowded: AtomicU64::new(0),
            given: AtomicU64::new(0),
            _reserved: std::array::from_fn(|_| AtomicU64::new(0)),
        }
    }

    pub(super) fn place(&self) -> Place {
        // Acquire: what the reader has copied, it has copied before; and all that was stored before
        // the tag.
        Place(self.place.load(Ordering::Acquire))
    }

    /// Whose is it, or is it about to be? To be asked after the place.
    pub(super) fn owner(&self) -> u64 {
        self.owner.load(Ordering::Acquire)
    }

    /// Change the tag from `tag`, whatever number the reader has come to. False: it is another's,
    /// or nobody's, already.
    fn change_tag(&self, tag: u16, to: u16) -> bool {
        let mut place = self.place();
        while place.tag() == tag && place.is_owned() {
            let new = Place::new(to, place.number());
            // Commit point. Release: what the reader has copied, and the name; acquire: what
            // the former owner has.
            match self.place.compare_exchange(place.0, new.0, Ordering::AcqRel, Ordering::Acquire) {
                Ok(_) => return true,
                Err(now) => place = Place(now),
            }
        }
        false
    }

    /// Nobody has it any more, if it is that of `tag` still.
    pub(super) fn free(&self, tag: u16) -> bool {
        self.change_tag(tag, tag.wrapping_add(1))
    }

    /// `owner`'s from now on, if it is that of `tag` still: by another tag. Under the lock.
    pub(super) fn take_over(&self, tag: u16, owner: u64) -> Option<u16> {
        // Before the tag: if this process dies in between it is its slot, and its death.
        self.owner.store(owner, Ordering::Release);
        kill_point!("broadcast.taking_over");
        let mine = tag.wrapping_add(2);
        self.change_tag(tag, mine).then_some(mine)
    }

    /// From free, as `place` has it, to `owner`'s who is to read message `number` next and has
    /// missed so many. Under the lock. None: somebody writes garbage.
    pub(super) fn join(&self, place: Place, owner: u64, number: u64, missed: u64) -> Option<u16> {
        let tag = place.tag().wrapping_add(1);
        self.pin.store(0, Ordering::Relaxed);
        self.given.store(0, Ordering::Relaxed);
        // An exchange for loom's sake, to which a store may come before a late `miss`.
        self.missed.swap(Place::new(tag, missed).0, Ordering::AcqRel);
        self.owner.store(owner, Ordering::Relaxed);
        kill_point!("broadcast.join.before_commit");
        let mine = Place::new(tag, number);
        // Commit point. Release: the other words.
        let joined = self.place.compare_exchange(place.0, mine.0, Ordering::AcqRel, Ordering::Relaxed);
        kill_point!("broadcast.join.after_commit");
        joined.is_ok().then_some(tag)
    }

    /// Large message `number` is being copied by who has the slot.
    pub(super) fn pins(&self, number: u64) -> bool {
        // Acquire, and first this: whoever pins has seen its own tag, and then it is seen here. If
        // `place` has another one, what is being copied will be thrown away.
        let pin = Place(self.pin.load(Ordering::Acquire));
        pin.0 != 0 && pin.number() == number & NUMBER && self.place().tag() == pin.tag()
    }

    /// Messages missed; and by whom, to be asked before something is done by which more are missed.
    pub(super) fn counted(&self) -> Place {
        Place(self.missed.load(Ordering::Acquire))
    }

    /// So many more are missed by who was counted for before.
    pub(super) fn miss(&self, counted: Place, more: u64) {
        let mut now = counted;
        while now.tag() == counted.tag() {
            let sum = Place::new(now.tag(), now.number().wrapping_add(more));
            match self.missed.compare_exchange(now.0, sum.0, Ordering::AcqRel, Ordering::Acquire) {
                Ok(_) => return,
                Err(other) => now = Place(other),
            }
        }
    }

    /// The reader of `tag` was given away at `at`; 0: it was not.
    pub(super) fn mark_given(&self, tag: u16, at: u64) {
        let mut before = self.given.load(Ordering::Acquire);
        let mark = if at == 0 { 0 } else { Place::new(tag, at >> TICK).0 };
        // Another's mark, which is void or will be, is in nobody's way; none is cleared but one's
        // own.
        while self.place().tag() == tag && (at != 0 || Place(before).tag() == tag) {
            match self.given.compare_exchange(before, mark, Ordering::AcqRel, Ordering::Acquire) {
                Ok(_) => return,
                Err(now) => before = now,
            }
        }
    }

    /// Was the reader of `tag` given away long ago, and not taken over since?
    pub(super) fn is_unclaimed(&self, tag: u16) -> bool {
        let given = Place(self.given.load(Ordering::Relaxed));
        // Garbage from the future ends like the past.
        given.0 != 0 && given.tag() == tag && (facade::now() >> TICK).abs_diff(given.number()) >= CLAIM >> TICK
    }
}
