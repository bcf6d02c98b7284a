//! What has to happen around a fork: `pthread_atfork`, so that forks from C are seen too.
#![allow(unsafe_code)]

use std::cell::UnsafeCell;
use std::mem::ManuallyDrop;
use std::sync::Once;
use std::sync::atomic::{AtomicU64, Ordering};

static GENERATION: AtomicU64 = AtomicU64::new(1);
static REGISTER: Once = Once::new();

/// Differs between a process and each process forked from it (by fork, not by a raw clone). Never 0.
#[inline]
pub fn generation() -> u64 {
    GENERATION.load(Ordering::Relaxed)
}

/// A lock for a process's own data that a forked child finds free, whatever another thread was doing at the time of the fork: the
/// child then starts with new data, and leaves alone what may be half-written.
#[derive(Debug)]
pub struct Local<T> {
    /// 0: free; else the generation of the process in which it is held.
    held: AtomicU64,
    value: UnsafeCell<ManuallyDrop<T>>,
}

// SAFETY: `with` gives one thread at a time access to the value.
unsafe impl<T: Send> Sync for Local<T> {}

impl<T: Default> Local<T> {
    /// Run `f` on the value. It must be short, and must not come back here.
    pub fn with<R>(&self, f: impl FnOnce(&mut T) -> R) -> R {
        let mine = generation();
        loop {
            let held = self.held.load(Ordering::Relaxed);
            if held != mine
                // Acquire: pairs with the release of the last holder.
                && self.held.compare_exchange(held, mine, Ordering::Acquire, Ordering::Relaxed).is_ok()
            {
                // SAFETY: this thread alone holds it until the store below.
                let value = unsafe { &mut *self.value.get() };
                if held != 0 {
                    // Held at the fork by a thread that does not exist here.
                    *value = ManuallyDrop::new(T::default());
                }
                let result = f(value);
                self.held.store(0, Ordering::Release);
                return result;
            }
            std::thread::yield_now();
        }
    }
}

impl<T: Default> Default for Local<T> {
    fn default() -> Self {
        Local { held: AtomicU64::new(0), value: UnsafeCell::new(ManuallyDrop::new(T::default())) }
    }
}

impl<T> Drop for Local<T> {
    fn drop(&mut self) {
        if *self.held.get_mut() == 0 {
            // SAFETY: not held, so whole, and never used again.
            unsafe { ManuallyDrop::drop(self.value.get_mut()) };
        }
    }
}

/// Have the arena's and the identity's handlers called around every fork from now on.
pub fn watch() {
    REGISTER.call_once(|| {
        // SAFETY: the three functions never unwind (see `guarded`) and take only locks that no thread
        // holds while it forks.
        unsafe { libc::pthread_atfork(Some(before), Some(in_parent), Some(in_child)) };
    });
}

fn guarded(f: impl FnOnce() + std::panic::UnwindSafe) {
    if std::panic::catch_unwind(f).is_err() {
        std::process::abort();
    }
}

extern "C" fn before() {
    #[cfg(not(loom))]
    guarded(crate::arena::before_fork);
}

extern "C" fn in_parent() {
    #[cfg(not(loom))]
    guarded(crate::arena::after_fork_in_parent);
}

extern "C" fn in_child() {
    GENERATION.fetch_add(1, Ordering::Relaxed);
    guarded(crate::sys::liveness::after_fork_in_child);
    #[cfg(not(loom))]
    guarded(crate::arena::after_fork_in_child);
}
