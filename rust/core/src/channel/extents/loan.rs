//! Loans: an extent whose bytes a program looks at where they are.
//!
//! # Protocol
//! A loan is an extent that has been received and is kept. Its slot's `owner` names the process, as
//! from the commit by which it was got, until it is free: there is no word of its own, and no step
//! that others could see half done. Who holds it may read and write its bytes through a mapping, in
//! any thread. It returns as every extent does, when the last [`Arc<Loan>`](Loan) is dropped. Its
//! mapping is kept for the next message in the same extent, which then costs no page faults.
//!
//! | the holder | who gives the extent back |
//! |---|---|
//! | drops it | the holder: `owner` := 0, the pages kept (see [`kept`](super::kept)) |
//! | has closed the channel before | the holder, by its mapping: pages, `cap` := 0, `owner` := 0 |
//! | forks | the holder, before it forks; see below |
//! | dies, at any point | the sweep of whoever has the channel, as for all that the dead own |
//! | `exec`s | the same: it counts as dead |
//!
//! The sweeper may die too: then the slot is owned by another dead process.
//!
//! # Closing
//! A loan outlives its channel. It holds mappings, of the pages and of its slot's word, but
//! neither the memory file's descriptor nor the sockets': those go when the channel is closed.
//! From then on it gives its pages back by the mapping. Where that is refused they are left, free
//! and in no cell, to the others' sweep; if there is nobody else, they go with the mapping. All
//! else in the file the last who has the channel gives back, see [`last`](super::last).
//!
//! The slot's word may be in the channel's [plot](crate::arena::Shape), which another channel gets
//! once nobody can reach it. So a loan holds the plot as an attached channel does: else its return
//! could free an extent of that other channel, which this process may own.
//!
//! # Forks
//! What a process has, a forked child has a private copy of. A shared mapping would be shared with
//! the child, and the extent's owner is one process. So *before* the fork, in the process that
//! forks, each loan is made this process's private memory, where it is (see
//! [`twin`](crate::sys::twin)), and its extent returns. After that there is nothing to agree on
//! between parent and child, whoever dies: the kernel copies what either writes. This costs a copy
//! of each loan that is held while its process forks, once, and nothing if it is not held any more:
//! what receiving without a loan costs. `posix_spawn` and `vfork`, by which the stdlib's
//! `subprocess` starts programs, do not count.
//!
//! While a fork is under way no loan is made: receivers copy, as they do where the kernel refuses
//! a mapping, where the message came in memory of its own (see [`file`](crate::channel::file)),
//! and beyond `MOST` loans in one process, for each takes two of the mappings that the kernel
//! grants. So the child finds each loan private. If the kernel refuses to make one private, having
//! no room for a mapping more, the child must not see it: whoever looks at it there dies.
//!
//! # Trust
//! Only bytes that mean something to the program alone are lent. Lengths and pickles are copied out
//! before they are looked at. A process of the same user that has the channel, and means harm, can
//! change a lent buffer's content, as it could with the holder's own memory.

use std::cell::RefCell;
use std::collections::HashMap;
use std::ptr::NonNull;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Weak};

use super::owned::OwnedExtent;
use super::table::Slot;
use super::{CHUNK, Extents, PAGE};
use crate::channel::front::Front;
use crate::error::{Error, Result};
use crate::facade::Ordering;
use crate::kill_point;
use crate::layout;
use crate::sys::fork::{self, AtFork, Local, Registration};
use crate::sys::mapping::Mapping;
use crate::sys::twin::TwinMapping;
use crate::sys::{liveness, memfd};

/// Loans that a process holds at most: a quarter of the mappings that Linux grants by default.
const MOST: usize = 8192;

/// See the module.
#[derive(Debug)]
pub struct Loan {
    /// None: it is being dropped.
    memory: Option<TwinMapping>,
    /// Bytes of the message.
    len: usize,
    index: u64,
    offset: u64,
    /// The holder's.
    generation: u64,
    slot: layout::Object<Slot, Arc<Mapping>>,
    /// Gone when the channel is closed.
    extents: Weak<Extents>,
    /// In `LOANS`.
    number: u64,
    /// The plot that the slot is in: nobody uses that for another channel meanwhile.
    _front: Option<Arc<Front>>,
}

/// What is lent in this process. A forked child may begin with none, whatever it inherits.
#[derive(Debug, Default)]
struct Loans {
    live: HashMap<u64, Weak<Loan>>,
    /// Forks under way.
    forks: u32,
}

static LOANS: Local<Option<Loans>> = Local::new(None);

/// The number of the next loan. A forked child goes on with it, so that what it drops of its
/// parent's is not taken for one of its own.
static NEXT: AtomicU64 = AtomicU64::new(0);

fn loans<R>(f: impl FnOnce(&mut Loans) -> R) -> R {
    LOANS.with(|loans| f(loans.get_or_insert_default()))
}

impl OwnedExtent {
    /// Keep it, with a message of `len` bytes in it, for as long as somebody looks at those.
    ///
    /// # Errors
    /// It comes back if it is to be copied out instead: see the module.
    pub fn lend(self, len: usize) -> std::result::Result<Arc<Loan>, OwnedExtent> {
        watch_forks();
        let Ok((memory, slot)) = self.mapped_to_lend(len) else { return Err(self) };
        kill_point!("loan.mapped");
        let mut memory = Some(memory);
        let loan = loans(|loans| {
            if loans.forks > 0 || loans.live.len() >= MOST {
                return None;
            }
            let number = NEXT.fetch_add(1, Ordering::Relaxed);
            let (index, offset, generation) = (self.index(), self.offset(), fork::generation());
            let extents = Arc::downgrade(self.extents());
            let memory = memory.take();
            let _front = self.extents().table.plot_of(index);
            let loan = Arc::new(Loan { memory, len, index, offset, generation, slot, extents, number, _front });
            loans.live.insert(number, Arc::downgrade(&loan));
            Some(loan)
        });
        if let Some(memory) = memory {
            self.extents().maps.keep_lent(self.offset(), memory);
        }
        let Some(loan) = loan else { return Err(self) };
        // It is the loan's from now on.
        self.forget();
        kill_point!("loan.taken");
        Ok(loan)
    }

    /// Its memory, and its slot's word.
    fn mapped_to_lend(&self, len: usize) -> Result<(TwinMapping, layout::Object<Slot, Arc<Mapping>>)> {
        if self.loose_fd().is_some() {
            return Err(Error::OutOfMemory);
        }
        let (extents, offset) = (self.extents(), self.offset());
        let (segment, slot) = (extents.segment()?, extents.table.slot_alone(self.index())?);
        let (need, cap) = ((len as u64).checked_next_multiple_of(PAGE).unwrap_or(0), slot.cap());
        if need == 0 || need > cap || !self.is_ours() {
            return Err(Error::OutOfMemory);
        }
        // All of its pages, for a longer message to come, unless that would be far too much.
        let bytes = if cap / 4 <= need.max(CHUNK) { cap } else { need };
        if let Some(memory) = extents.maps.take_lent(offset, need) {
            return Ok((memory, slot));
        }
        let segment = segment.own_fd()?;
        // The file may end with a near place's bytes. Who claims a far one has made it long enough.
        if self.is_near() {
            memfd::extend_to(segment, offset + bytes)?;
        } else if memfd::size(segment)? < offset + bytes {
            return Err(Error::Corrupted("an extent outside its segment"));
        }
        let bytes = usize::try_from(bytes).map_err(|_| Error::OutOfMemory)?;
        Ok((TwinMapping::new(segment, offset, bytes)?, slot))
    }
}

impl Loan {
    /// Bytes of the message.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Is it of no bytes?
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Where `len` of its bytes from `at` on are, for as long as it lives. Threads of this process
    /// may write there, and peers that mean harm.
    ///
    /// # Errors
    /// `Corrupted` if they are not inside.
    pub fn range(&self, at: usize, len: usize) -> Result<NonNull<u8>> {
        let inside = at.checked_add(len).is_some_and(|end| end <= self.len);
        let memory = self.memory.as_ref().filter(|_| inside);
        memory.ok_or(Error::Corrupted("more than a message holds"))?.range(at, len)
    }

    /// Copy bytes out from `at` on.
    ///
    /// # Errors
    /// `Corrupted` if they are not inside.
    pub fn read(&self, at: usize, to: &mut [u8]) -> Result<()> {
        let inside = at.checked_add(to.len()).is_some_and(|end| end <= self.len);
        let memory = self.memory.as_ref().filter(|_| inside);
        memory.ok_or(Error::Corrupted("more than a message holds"))?.read(at, to)
    }

    /// Does dropping it give no memory back to the system? That would take time.
    pub fn is_quick_to_return(&self) -> bool {
        match self.extents.upgrade() {
            Some(extents) if self.lent().is_some() => extents.has_room_for(self.slot.cap()),
            _ => false,
        }
    }

    /// The extent's memory, while that is this process's.
    fn lent(&self) -> Option<&Mapping> {
        let memory = self.memory.as_ref().filter(|_| self.generation == fork::generation());
        memory.and_then(TwinMapping::shared)
    }

    /// The extent, which is `pages`, is free from now on.
    fn return_extent(&self, pages: Option<&Mapping>) {
        kill_point!("loan.returning");
        if let Some(extents) = self.extents.upgrade() {
            extents.free(self.index);
            return;
        }
        let me = liveness::me().word();
        if self.slot.owner.load(Ordering::Relaxed) != me {
            return; // garbage
        }
        let cap = usize::try_from(self.slot.cap()).unwrap_or(usize::MAX);
        // What has pages still is left to others' sweep.
        if pages.is_some_and(|pages| pages.len() >= cap && pages.punch(cap)) {
            kill_point!("loan.punched");
            self.slot.life.fetch_add(1, Ordering::Relaxed);
            self.slot.cap.store(0, Ordering::Release);
        }
        // Release: pairs with the acquire of who claims it.
        let _ = self.slot.owner.compare_exchange(me, 0, Ordering::Release, Ordering::Relaxed);
    }

    /// Make the bytes this process's own, and let the extent go. False: refused.
    fn make_private(&self) -> bool {
        let (Some(memory), Some(lent)) = (&self.memory, self.lent()) else { return true };
        // The channel is closed: the pages are to be given back by a mapping that stays shared.
        let pages = if self.extents.strong_count() == 0 { lent.again().ok() } else { None };
        memory.make_private(|| {
            kill_point!("loan.private");
            self.return_extent(pages.as_ref());
        })
    }
}

impl Drop for Loan {
    fn drop(&mut self) {
        loans(|loans| {
            kill_point!("loan.leaving");
            loans.live.remove(&self.number)
        });
        if let Some(pages) = self.lent() {
            self.return_extent(Some(pages));
            kill_point!("loan.returned");
            // For the next message there.
            if let (Some(extents), Some(memory)) = (self.extents.upgrade(), self.memory.take()) {
                extents.maps.keep_lent(self.offset, memory);
            }
        }
    }
}

static FORKS: Registration = Registration::new();

/// Have forks seen from now on, before the first loan: no fork must be under way then. (Who lends
/// does it too.)
pub fn watch_forks() {
    FORKS.ensure::<Forking>();
}

thread_local! {
    /// What could not be made private for the fork that this thread makes.
    static REFUSED: RefCell<Vec<Arc<Loan>>> = const { RefCell::new(Vec::new()) };
}

/// Around a fork: see the module.
struct Forking;

impl AtFork for Forking {
    fn before() {
        let live: Vec<_> = loans(|loans| {
            loans.forks += 1;
            loans.live.values().filter_map(Weak::upgrade).collect()
        });
        let refused = live.into_iter().filter(|loan| !loan.make_private());
        REFUSED.set(refused.collect());
    }

    fn in_parent() {
        loans(|loans| loans.forks = loans.forks.saturating_sub(1));
        REFUSED.take();
    }

    fn in_child() {
        loans(|loans| loans.forks = 0);
        for loan in REFUSED.take() {
            if let Some(memory) = &loan.memory {
                memory.forbid();
            }
        }
    }
}
