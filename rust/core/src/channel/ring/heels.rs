//! A reader on its writer's heels.
//!
//! A stream's reader that is as quick as its writer reads each record just when it has been
//! written, out of the cache lines that the next one goes into: on two cores both then take two or
//! three times as long as for a record that has lain there for a while. So a reader that keeps
//! finding messages, and few at a time, lets its writer get ahead, once, by what it writes in some
//! microseconds.
//!
//! Only in a pipe, whose writer cannot get far ahead by itself. Not where it does not help: a
//! writer that waits for answers writes no more meanwhile. Then it is tried half as often each
//! time. Who finds nothing is no stream's reader, and begins to count anew.
//!
//! The get lock, and the interpreter, are held meanwhile: for no longer than it takes to copy the
//! largest message that is copied under the lock.
//!
//! What is counted is this process's own, and but a guess: all orders are relaxed.

use std::sync::atomic::{AtomicU32, Ordering};

use super::{Cursor, GetGuard};
use crate::deadline::now;
use crate::facade;

/// So many messages are few.
const FEW: u64 = 16;
/// Looks in a row that found few.
const LOOKS: u32 = 8;
/// Nanoseconds that the writer is given: some 40 messages.
const AHEAD: u64 = 4000;
/// Times in vain that are told apart.
const VAIN_MOST: u32 = 10;

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Heels {
    /// In a row.
    looks: AtomicU32,
    in_vain: AtomicU32,
}

impl GetGuard<'_> {
    /// It has found nothing.
    #[inline]
    pub(super) fn has_caught_up(&self) {
        self.ring.heels.looks.store(0, Ordering::Relaxed);
    }

    /// It has found what is up to `tail`. Gives how far that is now.
    #[inline]
    pub(super) fn let_get_ahead(&self, tail: Cursor, head: Cursor) -> Cursor {
        if self.ring.config.overflows {
            return tail;
        }
        let looks = &self.ring.heels.looks;
        let few = if tail.since(head) <= FEW { looks.load(Ordering::Relaxed).wrapping_add(1) } else { 0 };
        looks.store(few, Ordering::Relaxed);
        let in_vain = self.ring.heels.in_vain.load(Ordering::Relaxed).min(VAIN_MOST);
        if few < LOOKS << in_vain { tail } else { self.wait_for_more(tail, head, in_vain) }
    }

    #[cold]
    fn wait_for_more(&self, tail: Cursor, head: Cursor, in_vain: u32) -> Cursor {
        let heels = &self.ring.heels;
        heels.looks.store(0, Ordering::Relaxed);
        let end = now() + AHEAD;
        while !cfg!(any(loom, miri)) && now() < end {
            (0..4).for_each(|_| facade::spin());
        }
        let later = self.ring.tail();
        let has_helped = later.since(head) > tail.since(head) + FEW / 2;
        heels.in_vain.store(if has_helped { 0 } else { in_vain + 1 }, Ordering::Relaxed);
        later
    }
}
