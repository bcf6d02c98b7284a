//! Huge pages under large messages: they are made in a quarter of the time, and mapping them costs
//! nobody a page fault for each 4 KiB.
//!
//! Settings that a program cannot change keep most systems from giving shared memory huge pages
//! unasked. So one page is made in each of what will be huge, and the kernel is asked to put the
//! rest to it (`MADV_COLLAPSE`). Where it refuses (Linux before 6.1, `deny`, no such memory in one
//! piece), pages are made one by one, and it is not asked again for a while.
//!
//! Nothing here is a step of the protocol: an owner may have more pages than `cap` says, and that
//! they are huge is a hint.

use super::table::Slot;
use super::{OwnedExtent, PAGE};
use crate::deadline::now;
use crate::error::{Error, Result};
use crate::facade::Ordering;
use crate::kill_point;
use crate::sys::mapping::HUGE;
use crate::sys::memfd;

/// What has to be missing for it. To ask takes as long as making some hundred pages, and a few
/// milliseconds where another core is slow to say that it has no page in hand.
const LEAST: u64 = 4 << 20;
/// So much at a time, before a look at the clock.
const STEP: u64 = 4 << 20;
/// The kernel may have to move others' pages to have so much memory in one piece; or a host has to
/// give it first. Slower than so many nanoseconds for all and for each byte is slower than making
/// pages one by one.
const PATIENCE: u64 = 5_000_000;
const PER_BYTE: u64 = 1;
/// Nanoseconds for which a kernel that has refused is not asked again; and so many times as long as
/// that took. It waits for each core to empty what it has in hand: where a program of the highest
/// priority keeps one for itself that may be a second.
const REFUSED_FOR: u64 = 1_000_000_000;
const RARELY: u64 = 128;
/// In `far`: the pages are huge, at least for the most part.
pub(super) const FAR_AND_HUGE: u32 = 2;

/// When this process may ask again, by the monotonic clock.
static NOT_BEFORE: std::sync::atomic::AtomicU64 = std::sync::atomic::AtomicU64::new(0);

impl OwnedExtent {
    /// Where most of what `bytes` need at `at` has no pages: make them, huge ones, and fill them.
    /// Gives how many bytes are filled, 0 where the caller has to do it page by page.
    pub(super) fn write_to_huge(&self, slot: &Slot, at: u64, bytes: &[u8]) -> usize {
        let (cap, end) = (slot.cap(), at + bytes.len() as u64);
        let until = end & !(HUGE - 1);
        if self.is_near() || at > cap || until.saturating_sub(cap) < LEAST || now() < NOT_BEFORE.load(Ordering::Relaxed)
        {
            return 0;
        }
        let began = now();
        let filled = self.fill_huge(slot, cap, at, &bytes[..(until - at) as usize], end.next_multiple_of(PAGE));
        filled.unwrap_or_else(|_| {
            let ended = now();
            NOT_BEFORE.store(ended + REFUSED_FOR.max((ended - began) * RARELY), Ordering::Relaxed);
            0
        })
    }

    /// `bytes` end with a huge page; the extent will have `whole` bytes.
    fn fill_huge(&self, slot: &Slot, cap: u64, at: u64, bytes: &[u8], whole: u64) -> Result<usize> {
        let (extents, until) = (self.extents(), at + bytes.len() as u64);
        let segment = extents.segment()?;
        let fd = segment.own_fd()?;
        memfd::extend_to(fd, self.offset() + whole)?;
        for first in (cap.next_multiple_of(HUGE)..until).step_by(HUGE as usize) {
            memfd::write(fd, self.offset() + first, &[0])?;
        }
        let mapping =
            extents.maps.get(&segment, self.offset(), usize::try_from(whole).map_err(|_| Error::OutOfMemory)?)?;
        let began = now();
        // Not what is there already: others may have it mapped page by page, which takes long.
        let from = cap & !(HUGE - 1);
        for at in (from..until).step_by(STEP as usize) {
            let is_slow = now() - began > PATIENCE + PER_BYTE * (at - from);
            if is_slow || !mapping.collapse(at as usize, STEP.min(until - at) as usize) {
                return Err(Error::OutOfMemory);
            }
        }
        mapping.write(at as usize, bytes)?;
        kill_point!("extent.filled");
        slot.far.store(FAR_AND_HUGE, Ordering::Relaxed);
        slot.cap.store(until, Ordering::Release);
        Ok(bytes.len())
    }
}
