//! What `close()` gives up as soon as no call uses it: at once, or with the last call that is under
//! way.
//!
//! Go's `fdMutex` does the same: one word has a bit for *closed* and counts the calls. Ours also
//! names the process, by its fork generation: the calls of its parent's other threads do not go on
//! in a forked child, and would be waited for there for ever. The thread that forks is never
//! inside: a call counts only while it runs code that has no way to Python.
//!
//! Who closes it while threads of this process wait in it has them come up (see the core's
//! [`closings`]): each then finds it closed, and the last one gives it
//! up.
//!
//! What a thread was holding at the fork inside such a call is not given back in the child. So the
//! child does not rely on it: [`Channel::abandon`] closes the descriptors by hand.
#![allow(unsafe_code)]

use std::cell::UnsafeCell;
use std::marker::PhantomData;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use fastmp_core::channel::{broadcast, pipe, queue};
use fastmp_core::deadline::Patience;
use fastmp_core::sync::closings;
use fastmp_core::sync::waiting::{self, in_between};
use fastmp_core::sys::fork;
use fastmp_core::{Error, Result};
use pyo3::prelude::*;

/// What can be closed.
pub trait Channel: Send + Sync {
    /// Have waits come to an end that this alone ends. Before it is closed.
    fn end_waits(&self) {}
    /// Wake whoever sleeps in it, to find it closed.
    fn wake_all(&self);
    /// Does that take long?
    const IS_SLOW: bool = false;
    /// Close its descriptors whatever still refers to it: threads that exist no more.
    fn abandon(&self);
}

impl Channel for pipe::End {
    fn end_waits(&self) {
        self.close();
    }
    fn wake_all(&self) {
        self.wake_all();
    }
    fn abandon(&self) {
        self.close_file();
    }
}

impl Channel for queue::Queue {
    fn wake_all(&self) {
        self.wake_all();
    }
    fn abandon(&self) {
        self.close_file();
    }
}

impl Channel for Arc<broadcast::Broadcast> {
    fn wake_all(&self) {
        (**self).wake_all();
    }
    fn abandon(&self) {
        self.close_segment();
    }
}

impl Channel for broadcast::Reader {
    // It may be the last to have read, and give the memory of all messages back.
    const IS_SLOW: bool = true;
    fn end_waits(&self) {
        self.leave();
    }
    // To leave does.
    fn wake_all(&self) {}
    // Other readers, and the broadcast itself, have the same descriptor.
    fn abandon(&self) {}
}

/// See the module.
pub struct Closing<T> {
    /// | bits | |
    /// |---|---|
    /// | 0..30 | calls under way in the process of this generation |
    /// | 30 | calls of another process's threads were forgotten |
    /// | 31 | closed |
    /// | 32..64 | generation |
    word: AtomicU64,
    /// Taken by whoever makes the word *closed* with no calls.
    value: UnsafeCell<Option<T>>,
}

// SAFETY: shared references are handed out while calls are counted; the value is taken once, when
// none are and none can come.
unsafe impl<T: Send + Sync> Sync for Closing<T> {}

const CALLS: u64 = (1 << 30) - 1;
const FORGOTTEN: u64 = 1 << 30;
const CLOSED: u64 = 1 << 31;

/// `word` as it is to be read in this process.
fn here(word: u64) -> u64 {
    let generation = fork::generation() << 32;
    if word >> 32 == generation >> 32 {
        return word;
    }
    let forgotten = if word & CALLS > 0 { FORGOTTEN } else { 0 };
    generation | word & (CLOSED | FORGOTTEN) | forgotten
}

impl<T: Channel> Closing<T> {
    /// Open.
    pub fn new(value: T) -> Self {
        Closing { word: AtomicU64::new(here(0)), value: UnsafeCell::new(Some(value)) }
    }

    pub fn is_closed(&self) -> bool {
        // Acquire: what `close` has left of it.
        self.word.load(Ordering::Acquire) & CLOSED != 0
    }

    /// Change the word; gives the new one. None if `change` refuses.
    fn update(&self, change: impl Fn(u64) -> Option<u64>) -> Option<u64> {
        // Acquire: as in `is_closed`, where `change` refuses.
        let mut word = self.word.load(Ordering::Acquire);
        loop {
            let new = change(here(word))?;
            // AcqRel: all that calls have done comes before the value is taken.
            match self.word.compare_exchange_weak(word, new, Ordering::AcqRel, Ordering::Acquire) {
                Ok(_) => return Some(new),
                Err(now) => word = now,
            }
        }
    }

    /// Count a call, if it is open. From attached code only as long as that neither detaches nor
    /// calls Python.
    fn enter(&self) -> Option<Call<'_, T>> {
        self.update(|word| (word & CLOSED == 0).then_some(word + 1))?;
        Some(Call { closing: self, here: PhantomData })
    }

    /// Run `f` without detaching; None if it is closed. `Send` keeps what could call Python, or
    /// detach, out of `f`.
    #[inline]
    pub fn attached<R>(&self, _py: Python<'_>, f: impl FnOnce(&T) -> R + Send) -> Option<R> {
        if cfg!(Py_GIL_DISABLED) {
            return self.with(f);
        }
        if self.is_closed() {
            return None;
        }
        // SAFETY: not closed, and `close` needs the interpreter as well, which `f` does not let go:
        // the value stays.
        let value = unsafe { (*self.value.get()).as_ref() };
        value.map(f)
    }

    /// Run `f`, from detached code too; None if it is closed.
    pub fn with<R>(&self, f: impl FnOnce(&T) -> R + Send) -> Option<R> {
        let call = self.enter()?;
        // SAFETY: this call is counted, so nobody takes the value.
        let value = unsafe { (*call.closing.value.get()).as_ref() };
        value.map(f)
    }

    /// Call `attempt` detached until it ends otherwise than by a signal; None if it is closed,
    /// perhaps by a signal handler, or by another thread while it waits. While handlers run no call
    /// counts.
    pub fn wait<R: Send>(
        &self,
        py: Python<'_>,
        mut attempt: impl FnMut(&T) -> Result<R> + Send,
    ) -> PyResult<Option<Result<R>>> {
        loop {
            match py.detach(|| closings::heeding(|| self.with(&mut attempt))) {
                Some(Err(Error::Interrupted)) => in_between(|| py.check_signals())?,
                None => {
                    waiting::is_over();
                    return Ok(None);
                }
                done => return Ok(done),
            }
        }
    }

    /// Call `attempt` for a task, which must not wait: attached, and detached for a moment if what
    /// it comes to is `WouldBlock`. Others are held up for a moment at most, as by any lock.
    pub fn for_task<R: Send>(
        &self,
        py: Python<'_>,
        mut attempt: impl FnMut(&T, Patience) -> Result<R> + Send,
    ) -> PyResult<Option<Result<R>>> {
        match self.attached(py, |value| attempt(value, Patience::Spin)) {
            Some(Err(Error::WouldBlock | Error::Interrupted)) => {
                self.wait(py, |value| attempt(value, Patience::Moment))
            }
            done => Ok(done),
        }
    }

    /// Close it, now or with the last call that is under way in this process. `last` sees what it
    /// was, if it was open.
    pub fn close<R: Send>(&self, py: Python<'_>, last: impl FnOnce(&T) -> R + Send) -> Option<R> {
        // Counted, so that it stays to be woken; nothing on the way calls Python.
        let call = self.enter()?;
        // SAFETY: as in `with`.
        let value = unsafe { (*self.value.get()).as_ref() }?;
        let end = || {
            value.end_waits();
            last(value)
        };
        let seen = if T::IS_SLOW { py.detach(end) } else { end() };
        // Attached: see `attached`.
        let closed = self.update(|word| (word & CLOSED == 0).then_some(word | CLOSED));
        if closed.is_some_and(|word| word & CALLS > 1) {
            closings::announce();
            value.wake_all();
        }
        std::mem::forget(call);
        // What is mapped may take long to unmap.
        py.detach(|| self.leave());
        closed.map(|_| seen)
    }

    /// A call ends; the last one of what is closed gives it up.
    fn leave(&self) {
        if let Some(word) = self.update(|word| Some(word - (word & CALLS).min(1)))
            && word & (CLOSED | CALLS) == CLOSED
        {
            self.give_up(word);
        }
    }

    /// Drop what is left of it, detached.
    pub fn drop_detached(&mut self) {
        let Some(value) = self.value.get_mut().take() else { return };
        // Not called: the interpreter is on its way out, or this is not one of its threads.
        let mut value = Some(value);
        Python::try_attach(|py| py.detach(|| drop(value.take())));
    }

    /// `word`: closed, without calls; by who has made it so.
    fn give_up(&self, word: u64) {
        // SAFETY: no call is under way, and none can begin; and this happens once.
        let value = unsafe { (*self.value.get()).take() };
        if let Some(value) = value
            && word & FORGOTTEN != 0
        {
            value.abandon();
        }
    }
}

/// Have the tasks that wait for `channel`, which has just been closed, find that out.
#[cold]
pub fn tell_tasks(channel: &Bound<'_, PyAny>) -> PyResult<()> {
    // While the interpreter ends it may be gone, and its tasks with it.
    match channel.py().import("fastmp.asynchronous") {
        Ok(module) => module.call_method1("_closed", (channel,)).map(drop),
        Err(_) => Ok(()),
    }
}

/// A call that is counted; it ends in the thread where it began.
struct Call<'a, T: Channel> {
    closing: &'a Closing<T>,
    here: PhantomData<*const ()>,
}

impl<T: Channel> Drop for Call<'_, T> {
    fn drop(&mut self) {
        self.closing.leave();
    }
}
