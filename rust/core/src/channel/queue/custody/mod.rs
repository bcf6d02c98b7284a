//! A queue whose messages come back when their taker is killed before it has acknowledged them.
//!
//! The protocol is that of [`custody`](crate::sync::custody), which has the words. Here is what
//! they stand for: the ring's lock and head, the extents, readiness, and the threads of this
//! process. Taking is in `take`, what the dead leave in `mend`.
//!
//! # Memory
//! The table of bays lies in the queue's front, behind the ring's base. Its pages are reserved, and
//! zeroed, when such a queue is made: the plot may have been another queue's. They are reserved
//! again, for nothing, by whoever attaches it. Each bay has an extent of [`BUFFER`] bytes for
//! records. A taker looks at a large message in its extent, and the bay refers to that.
//!
//! So who takes has the queue's memory file (see [`file`](crate::channel::file)): it is made by the
//! first that asks for a message. Who mends looks for it before it gives back what a dead taker's
//! bay refers to. If there is none, no bay refers to anything.
//!
//! # Whose it is
//! A bay is of one thread and one handle: [`Queue`]. So two handles of one queue in one process do
//! not acknowledge each other's messages. A thread acknowledges
//!
//! - when it asks for its next message, before it looks for one;
//! - when it ends, by a destructor of its own (`Leaving`);
//! - with its process, which says when it ends normally ([`acknowledge_all`]).
//!
//! A task of an event loop asks when it begins to wait ([`Queue::acknowledge_own`]). While it waits
//! it tries again and again; that acknowledges nothing unless there is something to be had, for
//! another task of the thread may have got something since.
//!
//! Who closes the queue, that is drops this handle, acknowledges what was taken by it; not before a
//! large message has been copied out that another thread looks at in its extent. A forked child
//! knows by the names in the words that the bays that it inherited are its parent's.
//!
//! # What cannot come back
//! Descriptors, for the taker's are gone with it: messages that carry some are refused.

mod mend;
mod take;

pub(super) use mend::{Look, Waiter};

use std::cell::RefCell;
use std::sync::{Arc, Weak};

use super::Queue;
use crate::channel::extents::{Extents, OwnedExtent};
use crate::channel::format::{BASES, RINGS, UNIT};
use crate::channel::front::Front;
use crate::channel::ring::{BASE_MOST, RUN_BYTES, RingState};
use crate::deadline::{Graced, Patience};
use crate::error::{Error, Result};
use crate::facade::{self, AtomicU64, Ordering};
use crate::kill_point;
use crate::layout::{Backing, Object};
use crate::overlay;
use crate::sync::custody::{Bay, Custody, CustodyState, Reference, is_long_ago};
use crate::sys::fork::Local;
use crate::sys::liveness;

/// Threads that can take from such a queue at a time.
pub const BAYS: usize = 1024;
/// Bytes for records of a bay: of the largest message, or of some small ones.
pub const BUFFER: u64 = (RUN_BYTES as u64 + UNIT).next_multiple_of(4096) + 4096;

/// A bit of a ring's `flags`: messages are kept until they are acknowledged.
pub(super) const KEEPS: u32 = 4;

const TABLE_AT: u64 = BASES + BASE_MOST;
/// Where a queue's front ends.
pub(super) const TABLE_END: u64 = (TABLE_AT + size_of::<CustodyTable>() as u64).next_multiple_of(4096);

overlay! {
    /// All zero at first.
    #[derive(Debug)]
    pub struct CustodyTable {
        state: CustodyState,
        bays: [Bay; BAYS],
    }
}

/// The bays of a queue, as this process sees them.
#[derive(Debug)]
pub struct Keeper {
    table: Object<CustodyTable, Arc<Front>>,
    ring: Object<RingState, Arc<Front>>,
    extents: Arc<Extents>,
    /// This handle's, by thread.
    mine: Local<Vec<(u32, usize)>>,
    /// When this process last looked at all owners, and left nothing undone.
    looked: AtomicU64,
}

/// Those of this process, for its end.
static KEEPERS: Local<Vec<Weak<Keeper>>> = Local::new(Vec::new());

/// For what is held for a moment, by one who has other things to do.
pub(super) fn brief() -> Patience {
    Patience::sleep(Graced::alone())
}

/// This process ends normally: what its threads have taken, from whatever queue, is acknowledged.
/// It can be called more than once.
pub fn acknowledge_all() {
    acknowledge(None);
}

/// The calling thread ends normally, likewise, and others may go on.
pub fn acknowledge_thread() {
    acknowledge(Some(liveness::thread_id()));
}

fn acknowledge(of: Option<u32>) {
    let keepers: Vec<_> = KEEPERS.with(|keepers| keepers.iter().filter_map(Weak::upgrade).collect());
    for keeper in keepers {
        keeper.custody().acknowledge_all(liveness::me(), of);
    }
}

/// The handles by which a thread has taken something.
struct Leaving(RefCell<Vec<Weak<Keeper>>>);

thread_local! {
    static LEAVING: Leaving = const { Leaving(RefCell::new(Vec::new())) };
}

impl Drop for Leaving {
    fn drop(&mut self) {
        for keeper in self.0.get_mut().drain(..).filter_map(|keeper| keeper.upgrade()) {
            keeper.leave(liveness::thread_id());
        }
    }
}

impl Keeper {
    fn new(front: &Arc<Front>, extents: &Arc<Extents>) -> Result<Arc<Keeper>> {
        front.reserve(TABLE_AT, TABLE_END - TABLE_AT)?;
        let keeper = Arc::new(Keeper {
            table: Object::new(front.clone(), front.offset() + TABLE_AT as usize)?,
            ring: Object::new(front.clone(), front.offset() + RINGS)?,
            extents: extents.clone(),
            mine: Local::default(),
            looked: AtomicU64::new(0),
        });
        keeper.list();
        Ok(keeper)
    }

    /// Among those of this process.
    fn list(self: &Arc<Self>) {
        KEEPERS.with(|keepers| {
            keepers.retain(|keeper| keeper.strong_count() > 0);
            if !keepers.iter().any(|keeper| keeper.as_ptr() == Arc::as_ptr(self)) {
                keepers.push(Arc::downgrade(self));
            }
        });
    }

    /// The words.
    fn custody(&self) -> Custody<'_> {
        Custody::new(&self.table.state, &self.table.bays, &self.ring.front)
    }

    /// See [`Queue::is_look_due`].
    fn is_look_due(&self) -> bool {
        self.custody().is_held_by_others(liveness::me())
            && is_long_ago(self.looked.load(Ordering::Relaxed), facade::now())
    }

    /// A look has ended that began `at`; 0: in vain.
    fn has_looked(&self, at: u64) {
        self.looked.store(at, Ordering::Relaxed);
    }

    /// This thread's bay, if it has one. What is in it stays.
    fn known_bay(&self) -> Option<usize> {
        let (me, thread) = (liveness::me(), liveness::thread_id());
        let index = self.mine.with(|mine| mine.iter().find(|(of, _)| *of == thread).map(|(_, index)| *index))?;
        // A forked child's thread may have the number of one of its parent's.
        self.custody().bay(index).is_some_and(|bay| bay.is_of(me, thread)).then_some(index)
    }

    /// This thread's bay, with room for records and nothing in custody: it asks for its next
    /// message. None: all bays are others'.
    fn own_bay(self: &Arc<Self>) -> Result<Option<usize>> {
        if let Some(index) = self.known_bay() {
            self.acknowledge(index);
            self.lodge(index)?;
            return Ok(Some(index));
        }
        let (me, thread, custody) = (liveness::me(), liveness::thread_id(), self.custody());
        let Some(index) = custody.claim(me, thread) else { return Ok(None) };
        // Again: a forked child may have lost the list, see `Local`.
        self.list();
        self.mine.with(|mine| {
            mine.retain(|&(of, index)| of != thread && custody.bay(index).is_some_and(|bay| bay.owner() == Some(me)));
            mine.push((thread, index));
        });
        // In the last moments of a thread its destructor may have run already.
        let _ = LEAVING.try_with(|leaving| {
            if let Ok(mut keepers) = leaving.0.try_borrow_mut() {
                keepers.retain(|keeper| keeper.strong_count() > 0);
                keepers.push(Arc::downgrade(self));
            }
        });
        self.lodge(index)?;
        Ok(Some(index))
    }

    /// See to it that the bay has an extent for records.
    fn lodge(&self, index: usize) -> Result<()> {
        let custody = self.custody();
        let Some(bay) = custody.bay(index).filter(|bay| bay.buffer().is_none()) else { return Ok(()) };
        let hold = self.extents.allocate(BUFFER)?;
        hold.reserve(BUFFER)?;
        let number = custody.new_number();
        // In this order: nobody owns it only when it is known whose it is.
        bay.set_buffer(Reference { slot: hold.index(), number });
        kill_point!("custody.lodging");
        hold.deposit(number)
    }

    /// The extent for records of a bay.
    fn buffer(&self, bay: &Bay) -> Result<OwnedExtent> {
        let buffer = bay.buffer().ok_or(Error::Corrupted("a bay without memory"))?;
        self.extents.view(buffer.slot, buffer.number, BUFFER)
    }

    /// What this thread holds in bay `index`, its own, is done.
    fn acknowledge(&self, index: usize) {
        let me = liveness::me();
        if let Some(extent) = self.custody().acknowledge(index, me) {
            self.give_back([Some(extent), None]);
            self.custody().idle(index, me);
        }
    }

    fn give_back(&self, references: [Option<Reference>; 2]) {
        for extent in references.into_iter().flatten() {
            drop(self.extents.reclaim(extent.slot, extent.number));
        }
    }

    /// Bay `index`, which is this process's to clean, is free.
    fn clean(&self, index: usize) {
        self.give_back(self.custody().to_clean(index));
        self.custody().cleaned(index);
    }

    /// `thread` takes no more by this handle, and has done what it has taken.
    fn leave(&self, thread: u32) {
        let me = liveness::me();
        let left = self.mine.with(|mine| {
            let at = mine.iter().position(|(of, _)| *of == thread)?;
            Some(mine.swap_remove(at).1)
        });
        let is_own = |&index: &usize| self.custody().bay(index).is_some_and(|bay| bay.is_of(me, thread));
        if let Some(index) = left.filter(is_own) {
            self.custody().leave(index, me);
            self.clean(index);
        }
    }
}

impl Drop for Keeper {
    fn drop(&mut self) {
        let threads: Vec<_> = self.mine.with(|mine| mine.iter().map(|(thread, _)| *thread).collect());
        threads.into_iter().for_each(|thread| self.leave(thread));
    }
}

impl Queue {
    /// From now on messages are kept until they are acknowledged, and come back if their taker is
    /// killed before. Before anybody else has the queue. A message in an extent is looked at there:
    /// copy it out before the same thread asks for the next one.
    ///
    /// # Errors
    /// `OutOfMemory`; `Corrupted`.
    pub fn keep_messages(&self) -> Result<()> {
        let (front, keeper) = (self.front(), Keeper::new(self.front(), &self.extents)?);
        front.mapping().zero(front.offset() + TABLE_AT as usize, (TABLE_END - TABLE_AT) as usize)?;
        self.ring().state().flags.fetch_or(KEEPS, Ordering::Relaxed);
        let _ = self.keeper.set(keeper);
        Ok(())
    }

    /// The same of a queue that has been attached, if it is one.
    pub(super) fn attach_keeper(&self) -> Result<()> {
        let flags = self.ring().state().flags.load(Ordering::Relaxed);
        if flags & KEEPS != 0 {
            let _ = self.keeper.set(Keeper::new(self.front(), &self.extents)?);
        }
        Ok(())
    }

    /// This thread asks for its next message, by one who will wait: what it has got is done.
    pub fn acknowledge_own(&self) {
        if let Some(keeper) = self.keeper.get()
            && let Some(index) = keeper.known_bay()
        {
            keeper.acknowledge(index);
        }
    }

    /// Had another got, before it was killed, what this thread has got last and not acknowledged?
    pub fn has_come_back(&self) -> bool {
        let Some(keeper) = self.keeper.get() else { return false };
        keeper.known_bay().is_some_and(|index| keeper.custody().has_come_back(index, liveness::me()))
    }

    /// Are messages kept until they are acknowledged?
    #[inline]
    pub fn keeps_messages(&self) -> bool {
        self.keeper.get().is_some()
    }

    /// Does a get have more to do than to take: are messages kept, or takers?
    #[inline]
    pub(super) fn notes_gets(&self) -> bool {
        self.keeps_messages() || self.keeps_takers()
    }
}
