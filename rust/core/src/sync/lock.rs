//! The shared state of `Lock` and `RLock`: a mutex, the holding thread, and how often it holds.
//!
//! `thread` and `depth` are written by the holder alone, while it holds. A thread that reads its
//! own id in `thread`, with its process in the word, wrote it itself: nobody else stores that
//! value, and a release clears it first, whoever releases. So Relaxed does. They say nothing once
//! the holder is dead: whoever takes over writes them anew.

use crate::deadline::Deadline;
use crate::error::{Error, Result};
use crate::facade::{AtomicU32, Ordering, Owner};
use crate::kill_point;
use crate::overlay;
use crate::sync::mutex::{Acquired, Mutex};

overlay! {
    /// All zero is free.
    /// ```
    /// use fastmp_core::objects::Lock;
    /// use fastmp_core::sys::liveness::{me, thread_id};
    ///
    /// # fn main() -> Result<(), fastmp_core::Error> {
    /// let lock = Lock::create()?;
    /// assert!(lock.try_lock_once(me(), thread_id()));
    /// assert!(lock.try_reenter(me(), thread_id())?);
    /// assert_eq!(lock.depth(), 2);
    /// lock.unlock_once(me(), thread_id())?;
    /// lock.unlock_once(me(), thread_id())?;
    /// assert_eq!(lock.owner(), None);
    /// # Ok(())
    /// # }
    /// ```
    #[derive(Debug)]
    pub struct LockState {
        mutex: Mutex,
        thread: AtomicU32,
        depth: AtomicU32,
    }
}

impl LockState {
    /// Free.
    #[allow(clippy::new_without_default)]
    pub fn new() -> Self {
        LockState { mutex: Mutex::new(), thread: AtomicU32::new(0), depth: AtomicU32::new(0) }
    }

    /// Once if free or dead, not recursively. None: somebody holds it.
    #[inline]
    pub fn try_lock(&self, me: Owner, thread: u32) -> bool {
        let got = self.mutex.try_lock(me);
        if got {
            self.thread.store(thread, Ordering::Relaxed);
        }
        got
    }

    /// Not recursively, without waiting, from the dead too.
    pub fn try_lock_or_recover(&self, me: Owner, thread: u32) -> Option<Acquired> {
        let acquired = self.mutex.try_lock_or_recover(me)?;
        self.begin(thread);
        Some(acquired)
    }

    /// See [`Mutex::is_refused`]. Only for a thread that does not hold it.
    #[inline]
    pub fn is_refused(&self, me: Owner) -> bool {
        self.mutex.is_refused(me)
    }

    /// Not recursively.
    ///
    /// # Errors
    /// `TimedOut`, or `Interrupted` by a signal.
    pub fn lock(&self, me: Owner, thread: u32, deadline: Deadline) -> Result<Acquired> {
        let acquired = self.mutex.lock(me, deadline)?;
        self.begin(thread);
        Ok(acquired)
    }

    fn begin(&self, thread: u32) {
        kill_point!("lock.acquired");
        self.thread.store(thread, Ordering::Relaxed);
        self.depth.store(1, Ordering::Relaxed);
        kill_point!("lock.held");
    }

    /// Release, whoever holds it.
    ///
    /// # Errors
    /// `Overflow` if nobody does.
    #[inline]
    pub fn unlock_any(&self) -> Result<()> {
        // No name may stay: the next holder's process would find it there before it has written its
        // own. Before the release, for after it the name is the next one's.
        self.mutex.unlock_any_after(|| self.thread.store(0, Ordering::Relaxed))
    }

    /// Undo an acquisition of this thread's, whatever the kind of lock; nothing if another has
    /// released it meanwhile.
    #[inline]
    pub fn unlock_if_mine(&self, me: Owner, thread: u32) {
        if self.is_mine(me, thread) {
            self.depth.store(0, Ordering::Relaxed);
            self.thread.store(0, Ordering::Relaxed);
            self.mutex.unlock_mine(me);
        }
    }

    /// Release all that this thread holds of it; gives how often that was, for `lock_with_depth`.
    ///
    /// # Errors
    /// `NotOwner` if it holds nothing.
    pub fn unlock_all(&self, me: Owner, thread: u32) -> Result<u32> {
        if !self.is_mine(me, thread) {
            return Err(Error::NotOwner);
        }
        let depth = self.depth.load(Ordering::Relaxed).max(1);
        self.unlock_if_mine(me, thread);
        Ok(depth)
    }

    /// As `lock`, and held `depth` times at once.
    ///
    /// # Errors
    /// As for [`lock`](Self::lock).
    pub fn lock_with_depth(&self, me: Owner, thread: u32, depth: u32, deadline: Deadline) -> Result<Acquired> {
        let acquired = self.lock(me, thread, deadline)?;
        self.depth.store(depth, Ordering::Relaxed);
        Ok(acquired)
    }

    /// Does this thread hold it?
    #[inline]
    pub fn is_mine(&self, me: Owner, thread: u32) -> bool {
        self.mutex.owner() == Some(me) && self.thread.load(Ordering::Relaxed) == thread
    }

    /// Hold it once more, if this thread holds it. `Overflow` past 2^32 - 1 times.
    ///
    /// # Errors
    /// `Overflow` if it is held too often.
    #[inline]
    pub fn try_reenter(&self, me: Owner, thread: u32) -> Result<bool> {
        if !self.is_mine(me, thread) {
            return Ok(false);
        }
        let depth = self.depth.load(Ordering::Relaxed).checked_add(1).ok_or(Error::Overflow)?;
        self.depth.store(depth, Ordering::Relaxed);
        Ok(true)
    }

    /// As `try_lock`, and held once.
    #[inline]
    pub fn try_lock_once(&self, me: Owner, thread: u32) -> bool {
        let got = self.try_lock(me, thread);
        if got {
            self.depth.store(1, Ordering::Relaxed);
        }
        got
    }

    /// Release once what this thread holds.
    ///
    /// # Errors
    /// `NotOwner` if it does not.
    #[inline]
    pub fn unlock_once(&self, me: Owner, thread: u32) -> Result<()> {
        if !self.is_mine(me, thread) {
            return Err(Error::NotOwner);
        }
        match self.depth.load(Ordering::Relaxed) {
            0 | 1 => self.unlock_held(),
            depth => self.depth.store(depth - 1, Ordering::Relaxed),
        }
        Ok(())
    }

    /// Release what this thread holds once, of a lock that nobody else may release.
    #[inline]
    pub fn unlock_held(&self) {
        self.depth.store(0, Ordering::Relaxed);
        self.thread.store(0, Ordering::Relaxed);
        kill_point!("lock.releasing");
        self.mutex.unlock();
    }

    /// How often the holder holds it, at this instant.
    pub fn depth(&self) -> u32 {
        if self.mutex.owner().is_none() { 0 } else { self.depth.load(Ordering::Relaxed).max(1) }
    }

    /// The process and thread that hold it, at this instant.
    pub fn owner(&self) -> Option<(Owner, u32)> {
        self.mutex.owner().map(|owner| (owner, self.thread.load(Ordering::Relaxed)))
    }

    /// How often it was taken over from a dead holder.
    pub fn recoveries(&self) -> u32 {
        self.mutex.recoveries()
    }
}
