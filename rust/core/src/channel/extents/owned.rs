//! An extent in this process's hands.

use std::any::Any;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, OnceLock};

use super::huge::FAR_AND_HUGE;
use super::table::{self, Slot, SlotRef};
use super::{Extents, IN_RING, PAGE};
use crate::error::{Error, Result};
use crate::facade::Ordering;
use crate::kill_point;
use crate::sys::mapping::Mapping;
use crate::sys::{fork, memfd};

/// So many bytes and their copy are in no cache when the copy is looked at.
const BEYOND_CACHES: usize = 32 << 20;

/// An extent that this process owns; freed on drop unless published.
#[derive(Debug)]
pub struct OwnedExtent {
    extents: Arc<Extents>,
    index: u64,
    /// Where it is in the segment.
    offset: u64,
    generation: u64,
    /// Has this process used these pages often enough to map them? Found out by the first copy.
    worth: OnceLock<bool>,
    /// It is memory of its own instead, without a slot. See [`file`](crate::channel::file).
    loose: Option<OwnedFd>,
    /// Of one that is only looked at: who has it stay while this lives.
    stays_by: Option<Arc<dyn Any + Send + Sync>>,
}

impl Extents {
    /// Memory for one message of `bytes`, where this process does not have the file.
    ///
    /// # Errors
    /// `OutOfMemory`, or `Os` when descriptors have run out.
    pub fn loose(self: &Arc<Self>, bytes: u64) -> Result<OwnedExtent> {
        memfd::check_left(bytes)?;
        Ok(OwnedExtent::loose(self, memfd::create("fastmp-message", 0)?))
    }

    /// The same, with a message of `bytes` in it, as it has come in.
    ///
    /// # Errors
    /// `Corrupted` if it is no such memory.
    pub(in crate::channel) fn loose_received(self: &Arc<Self>, fd: OwnedFd, bytes: u64) -> Result<OwnedExtent> {
        memfd::check(&fd)?;
        if memfd::size(&fd)? < bytes || (bytes >= super::COMPARED && memfd::resident(&fd)? < bytes) {
            return Err(Error::Corrupted("a message larger than its memory"));
        }
        Ok(OwnedExtent::loose(self, fd))
    }
}

impl OwnedExtent {
    fn loose(extents: &Arc<Extents>, fd: OwnedFd) -> OwnedExtent {
        let (generation, worth) = (fork::generation(), OnceLock::from(false));
        OwnedExtent {
            extents: extents.clone(),
            index: 0,
            offset: 0,
            generation,
            worth,
            loose: Some(fd),
            stays_by: None,
        }
    }

    /// Its memory's descriptor, if it has memory of its own.
    pub fn loose_fd(&self) -> Option<BorrowedFd<'_>> {
        self.loose.as_ref().map(AsFd::as_fd)
    }

    /// What owns slot `index`.
    pub(super) fn new(extents: &Arc<Extents>, index: u64) -> OwnedExtent {
        let offset = extents.table.slot(index).map_or(0, |slot| slot.place(index).0);
        let (generation, worth) = (fork::generation(), OnceLock::new());
        OwnedExtent { extents: extents.clone(), index, offset, generation, worth, loose: None, stays_by: None }
    }

    /// What looks at slot `index` without owning it.
    pub(super) fn viewed(extents: &Arc<Extents>, index: u64) -> OwnedExtent {
        let mut viewed = OwnedExtent::new(extents, index);
        viewed.generation = 0;
        viewed
    }

    /// The same, for as long as `by` lives, which this sees to.
    pub(in crate::channel) fn staying_by(mut self, by: Arc<dyn Any + Send + Sync>) -> OwnedExtent {
        self.stays_by = Some(by);
        self
    }

    /// The same, where its slot now says that it is.
    pub(super) fn located(mut self) -> Result<OwnedExtent> {
        self.offset = self.slot()?.place(self.index).0;
        Ok(self)
    }

    pub(super) fn slot(&self) -> Result<SlotRef<'_>> {
        self.extents.table.slot(self.index)
    }

    /// The number of its slot.
    pub fn index(&self) -> u64 {
        self.index
    }

    /// Where it is in the segment, in bytes.
    pub fn offset(&self) -> u64 {
        self.offset
    }

    /// The channel's.
    pub(super) fn extents(&self) -> &Arc<Extents> {
        &self.extents
    }

    pub(super) fn is_near(&self) -> bool {
        self.offset == table::near(self.index)
    }

    /// Bytes that have pages.
    fn cap(&self) -> Result<u64> {
        Ok(self.slot()?.cap())
    }

    /// Have so many bytes been filled, or reserved?
    pub fn holds(&self, bytes: u64) -> bool {
        if let Some(fd) = &self.loose {
            return memfd::size(fd).is_ok_and(|size| bytes <= size);
        }
        self.cap().is_ok_and(|cap| bytes <= cap)
    }

    /// Does it belong to this process, and not to the one that this was forked from?
    pub fn is_ours(&self) -> bool {
        self.generation == fork::generation()
    }

    /// Reserve the first `bytes`.
    ///
    /// # Errors
    /// `OutOfMemory`; `Interrupted`.
    pub fn reserve(&self, bytes: u64) -> Result<()> {
        let slot = self.slot()?;
        let cap = slot.cap();
        if bytes > slot.place(self.index).1 {
            return Err(Error::OutOfMemory);
        }
        if cap < bytes {
            let bytes = bytes.next_multiple_of(PAGE);
            memfd::reserve_own(self.extents.segment()?.own_fd()?, self.offset + cap, bytes - cap)?;
            slot.cap.store(bytes, Ordering::Release);
        }
        Ok(())
    }

    /// A mapping of its memory, and where in there it starts, if this process uses these very pages
    /// again and again, or they are huge: else what is used once or twice is copied faster by a
    /// system call.
    fn mapped(&self, slot: &Slot, cap: u64) -> Option<(Arc<Mapping>, usize)> {
        let maps = &self.extents.maps;
        let life = slot.life.load(Ordering::Relaxed);
        let is_huge = slot.far.load(Ordering::Relaxed) == FAR_AND_HUGE;
        if !is_huge && !*self.worth.get_or_init(|| maps.is_worth(self.index, life)) {
            return None;
        }
        let segment = &*self.extents.segment().ok()?;
        if self.is_near() {
            let (mapping, start) = maps.window(segment, self.offset).ok()?;
            return Some((mapping, (self.offset - start) as usize));
        }
        Some((maps.get(segment, self.offset, usize::try_from(cap).ok()?).ok()?, 0))
    }

    /// Fill the bytes from `at` on. What had no pages gets them, in the same system call: that is
    /// twice as fast as reserving them and writing to a mapping, a page fault each. Each piece
    /// begins in or right behind what is filled.
    ///
    /// # Errors
    /// `OutOfMemory`; `Corrupted` if they would not be inside.
    pub fn write(&self, at: u64, bytes: &[u8]) -> Result<()> {
        if let Some(fd) = &self.loose {
            return memfd::write(fd, at, bytes);
        }
        let slot = self.slot()?;
        let cap = slot.cap();
        let end = at.checked_add(bytes.len() as u64).filter(|&end| end <= slot.place(self.index).1);
        let end = end.ok_or(Error::Corrupted("more than an extent can hold"))?;
        if end <= cap
            && let Some((mapping, start)) = self.mapped(&slot, cap)
        {
            if self.worth.get() == Some(&true) && self.extents.maps.is_first_mapped(self.index) {
                // All page faults in one call. Where that is refused they come one by one.
                let (page, first) = (PAGE as usize, start + at as usize);
                mapping.populate(first - first % page, bytes.len().next_multiple_of(page));
            }
            return mapping.write(start + at as usize, bytes);
        }
        let done = self.write_to_huge(&slot, at, bytes);
        let (at, bytes, cap) = (at + done as u64, &bytes[done..], slot.cap());
        if bytes.is_empty() {
            return Ok(());
        }
        // Never into another's file, whose number it is by now.
        let segment = self.extents.segment()?;
        let segment = segment.own_fd()?;
        let filled = memfd::write(segment, self.offset + at, bytes).and_then(|()| {
            kill_point!("extent.filled");
            if at <= cap && end > cap {
                let cap = end.next_multiple_of(PAGE);
                // The file may end with the bytes, and what is to be mapped has to be inside: whole
                // pages. A window sees to it by itself.
                if !self.is_near() {
                    memfd::extend_to(segment, self.offset + cap)?;
                }
                slot.cap.store(cap, Ordering::Release);
            }
            Ok(())
        });
        if filled.is_err() && end > cap {
            // Nobody would know of pages beyond `cap`, and they may be all that the system has.
            memfd::punch(segment, self.offset + cap, end - cap);
        }
        filled
    }

    /// Copy bytes out from `at` on.
    ///
    /// # Errors
    /// `Corrupted` if they are not inside.
    pub fn read(&self, at: u64, to: &mut [u8]) -> Result<()> {
        self.copy_out(at, to, false)
    }

    /// The same, into memory that has been used before: what is large goes past the caches.
    ///
    /// # Errors
    /// `Corrupted` if they are not inside.
    pub fn read_over(&self, at: u64, to: &mut [u8]) -> Result<()> {
        self.copy_out(at, to, true)
    }

    fn copy_out(&self, at: u64, to: &mut [u8], over: bool) -> Result<()> {
        if let Some(fd) = &self.loose {
            return memfd::read(fd, at, to);
        }
        let slot = self.slot()?;
        let cap = slot.cap();
        if at.checked_add(to.len() as u64).is_none_or(|end| end > cap) {
            return Err(Error::Corrupted("more than an extent holds"));
        }
        match self.mapped(&slot, cap) {
            Some((mapping, start)) if over && to.len() >= BEYOND_CACHES => mapping.read_over(start + at as usize, to),
            Some((mapping, start)) => mapping.read(start + at as usize, to),
            None => memfd::read(self.extents.segment()?.own_fd()?, self.offset + at, to),
        }
    }

    /// Does dropping it give no pages back, its own or others'? That would take time.
    pub fn is_quick_to_free(&self) -> bool {
        let is_last = self.stays_by.as_ref().is_some_and(|by| Arc::strong_count(by) == 1);
        !is_last
            && self.loose.is_none()
            && (!self.is_ours() || self.cap().is_ok_and(|cap| self.extents.has_room_for(cap)))
    }

    /// It is of no use to anybody: give its pages back.
    pub fn discard(self) {
        if self.loose.is_none()
            && let Ok(slot) = self.slot()
        {
            self.extents.give_back(self.index, &slot);
            slot.owner.store(0, Ordering::Release);
        }
        self.forget();
    }

    /// Under the put lock of ring `ring`, before its tail is committed as `intent`: the ring has
    /// it.
    ///
    /// # Errors
    /// `Corrupted`, and nothing has happened.
    pub fn hand_over(&self, ring: u32, intent: u64) -> Result<()> {
        let slot = self.slot()?;
        slot.put_ring.store(ring, Ordering::Relaxed);
        slot.put_intent.store(intent, Ordering::Release);
        kill_point!("extent.handing_over");
        slot.owner.store(IN_RING, Ordering::Release);
        Ok(())
    }

    /// After that commit. A reader may have it by now, or even the next writer.
    pub fn published(self, intent: u64) {
        if let Ok(slot) = self.slot() {
            let _ = slot.put_intent.compare_exchange(intent, 0, Ordering::Release, Ordering::Relaxed);
        }
        self.forget();
    }

    /// It is no longer this process's.
    pub(super) fn forget(mut self) {
        self.generation = 0;
    }

    /// After a head's commit, under the lock: it is this process's.
    pub fn received(&self) {
        if let Ok(slot) = self.slot() {
            slot.get_intent.store(0, Ordering::Release);
        }
    }

    /// Instead of that commit, under the lock: the ring still has it.
    pub fn not_received(self) {
        if let Ok(slot) = self.slot() {
            slot.owner.store(IN_RING, Ordering::Release);
            slot.get_intent.store(0, Ordering::Release);
        }
        self.forget();
    }
}

impl Drop for OwnedExtent {
    fn drop(&mut self) {
        // A forked child's copy is not the owner; nor is one whose extent went to a ring.
        if self.is_ours() && self.loose.is_none() {
            self.extents.free(self.index);
        }
    }
}
