//! Shutting a queue down: nothing more is put, and what is left may be got, or is thrown away.
//!
//! # Protocol
//! Under both locks (see [`shutting`](crate::channel::ring)):
//!
//! 1. The descriptor is made readable, and stays so: an event loop learns of the end as it does of
//!    a pipe's.
//! 2. If the rest is thrown away: `cut`, the number of tasks that were taken, is stored. The others
//!    are no tasks any more.
//! 3. One word is changed: the commit point. Puts are refused from there on, gets too if the rest
//!    is thrown away or there is none.
//! 4. Fillers are taken from the socket: it is writable, so that whoever waits for room learns of
//!    it.
//!
//! Then, without locks, everybody who waits is woken, and the rest is thrown away.
//!
//! # Death
//! - before the commit: nothing has been shut down. A needless ready packet goes with the next call
//!   that finds nothing. `cut` counts only with the commit.
//! - after it: who waits finds out at the end of its slice. A descriptor that does not tell,
//!   fillers, and what is to be thrown away are seen to by the next call that is refused.
//! - of one who throws away: after each message the ring is whole. The next call goes on.

use std::os::fd::AsFd;

use super::Queue;
use crate::deadline::{Deadline, Patience};
use crate::error::{Error, Result};
use crate::facade::Ordering;
use crate::kill_point;

/// Messages that a call which only finds out throws away at most.
const AT_A_TIME: usize = 4096;

impl Queue {
    /// Take no more messages; `immediate`: and throw away what is there.
    ///
    /// # Errors
    /// `Interrupted`: call it again; `Corrupted`.
    pub fn shut_down(&self, immediate: bool) -> Result<()> {
        self.shut_down_with(immediate, Patience::sleep(Deadline::Never))
    }

    /// The same, with so much patience for the locks: whoever holds one for ever is waited for, and
    /// garbage in a lock may say that somebody does.
    ///
    /// # Errors
    /// `Interrupted` and `TimedOut`: call it again; `Corrupted`.
    pub fn shut_down_with(&self, immediate: bool, patience: Patience) -> Result<()> {
        // What takers have died with is in front, and thrown away as well.
        self.mend_custody(true, patience);
        let cut = || {
            self.settle_custody();
            let taken = self.ring().messages_out().saturating_sub(self.ring().in_front());
            self.state.cut.store(taken, Ordering::Release);
        };
        self.with_found_file(|| {
            self.transport.shut(self.reader.as_fd(), self.writer.as_fd(), immediate.then_some(cut), patience)
        })?;
        kill_point!("queue.shut.before_wake");
        self.wake_all();
        self.drain(patience, usize::MAX)?;
        if self.ring().is_terminated() {
            // Descriptors of what was thrown away.
            self.with_found_file(|| self.transport.tell_shut(self.reader.as_fd(), self.writer.as_fd(), patience))?;
        }
        Ok(())
    }

    /// Throw away what is left of a queue that is terminated, `most` messages at most.
    fn drain(&self, patience: Patience, most: usize) -> Result<()> {
        if self.ring().is_terminated() {
            self.throw_front_away(patience)?;
        }
        let mut scratch = Vec::new();
        for _ in 0..most {
            let thrown = self.with_found_file(|| {
                let getting = self.ring().get_guard(patience)?;
                self.settle_custody();
                getting.throw_away(&mut scratch)
            });
            kill_point!("queue.thrown_away");
            match thrown {
                Ok(message) => drop(message),
                Err(Error::Empty) => break,
                Err(e) => return Err(e),
            }
        }
        Ok(())
    }

    /// Nothing was got. Is it because nothing will come any more? Then what a dead one has not
    /// finished is finished.
    #[cold]
    pub(super) fn after_nothing(&self, patience: Patience) -> Error {
        if self.keeps_messages() {
            // If it is to end this is the last chance for what a dead taker held. Who must not wait
            // comes again for the look.
            let is_last = self.ring().is_shut() && !self.ring().is_terminated() && self.may_come_back();
            if is_last && (patience == Patience::Spin || self.mend_custody(true, patience)) {
                return Error::WouldBlock;
            }
        } else if self.ring().in_front() > 0 {
            return Error::Corrupted("messages have come back to a queue that keeps none");
        }
        if !self.ring().is_shut() {
            return Error::Empty;
        }
        // Once more: it was put before that was said.
        if !self.ring().is_empty() {
            return Error::WouldBlock;
        }
        self.finish_shutting(patience.brief_at_least());
        Error::ShutDown
    }

    /// What a killed process may have left undone. Nobody waits for it, nor does it fail.
    #[cold]
    pub(super) fn finish_shutting(&self, patience: Patience) {
        let has_left = self.ring().is_terminated() && self.ring().looks_ready();
        if has_left {
            let _ = self.drain(patience, AT_A_TIME);
        }
        if has_left || !self.transport.has_told_shut() {
            let _ =
                self.with_found_file(|| self.transport.tell_shut(self.reader.as_fd(), self.writer.as_fd(), patience));
        }
    }
}
