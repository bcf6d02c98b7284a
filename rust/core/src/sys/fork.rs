//! What has to happen around a fork: `pthread_atfork`, so that forks from C are seen too.
//!
//! This module knows nobody. Who must act registers itself ([`AtFork`], [`Registration`]), and who
//! builds on another registers after it. As with `pthread_atfork` itself, `before` runs in the
//! reverse of that order, and `in_parent` and `in_child` run in that order. The generation is
//! counted before anybody else's `in_child`.
#![allow(unsafe_code)]

use std::cell::UnsafeCell;
use std::mem::ManuallyDrop;
use std::sync::Once;
use std::sync::atomic::{AtomicU64, Ordering};

static GENERATION: AtomicU64 = AtomicU64::new(1);

/// What somebody does around each fork. The three must not panic: that ends the process.
pub trait AtFork {
    /// In the process that forks, just before. What it locks, the other two release.
    fn before() {}
    /// In the same process, just after.
    fn in_parent() {}
    /// In the child, before anything else runs there.
    fn in_child() {}
}

/// Whether one [`AtFork`] is registered: a static beside it.
#[derive(Debug)]
pub struct Registration(Once);

impl Registration {
    /// Not yet.
    #[allow(clippy::new_without_default)]
    pub const fn new() -> Registration {
        Registration(Once::new())
    }

    /// Have `H` called around every fork from now on.
    pub fn ensure<H: AtFork>(&self) {
        static COUNTED: Once = Once::new();
        COUNTED.call_once(register::<Generation>);
        self.0.call_once(register::<H>);
    }
}

fn register<H: AtFork>() {
    if cfg!(miri) {
        return; // it does not know the call, and nobody can fork in it
    }
    // SAFETY: the three never unwind (see `guarded`), and `AtFork` has them take only locks that no
    // thread holds while it forks.
    let refused = unsafe { libc::pthread_atfork(Some(before::<H>), Some(in_parent::<H>), Some(in_child::<H>)) };
    // No memory for three pointers. A fork that nobody sees would be worse than no process.
    if refused != 0 {
        std::process::abort();
    }
}

fn guarded(f: fn()) {
    if std::panic::catch_unwind(f).is_err() {
        std::process::abort();
    }
}

extern "C" fn before<H: AtFork>() {
    guarded(H::before);
}

extern "C" fn in_parent<H: AtFork>() {
    guarded(H::in_parent);
}

extern "C" fn in_child<H: AtFork>() {
    guarded(H::in_child);
}

struct Generation;

impl AtFork for Generation {
    fn in_child() {
        GENERATION.fetch_add(1, Ordering::Relaxed);
    }
}

/// Differs between a process and each process forked from it (by fork, not by a raw clone). Never
/// 0.
#[inline]
pub fn generation() -> u64 {
    GENERATION.load(Ordering::Relaxed)
}

/// A lock for a process's own data that a forked child finds free, whatever another thread was
/// doing at the time of the fork: the child then starts with new data, and leaves alone what may be
/// half-written.
#[derive(Debug)]
pub struct Local<T> {
    /// 0: free; else the generation of the process in which it is held.
    held: AtomicU64,
    value: UnsafeCell<ManuallyDrop<T>>,
}

// SAFETY: `with` gives one thread at a time access to the value.
unsafe impl<T: Send> Sync for Local<T> {}

impl<T: Default> Local<T> {
    /// Run `f` on the value. It must be short, and must not come back here. If it panics, the value
    /// stays as `f` left it, and the lock is free again.
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
                let _free = Free(&self.held);
                return f(value);
            }
            std::thread::yield_now();
        }
    }
}

/// Frees the lock, also when `f` panics.
struct Free<'a>(&'a AtomicU64);

impl Drop for Free<'_> {
    fn drop(&mut self) {
        // Release: pairs with the acquire of the next holder.
        self.0.store(0, Ordering::Release);
    }
}

impl<T> Local<T> {
    /// With `value` in it.
    pub const fn new(value: T) -> Self {
        Local { held: AtomicU64::new(0), value: UnsafeCell::new(ManuallyDrop::new(value)) }
    }
}

impl<T: Default> Default for Local<T> {
    fn default() -> Self {
        Local::new(T::default())
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

#[cfg(test)]
mod tests {
    use std::panic::{AssertUnwindSafe, catch_unwind};

    use super::*;

    #[test]
    fn a_panic_inside_frees_the_lock() {
        let local = Local::<Vec<u32>>::default();
        let panicked = catch_unwind(AssertUnwindSafe(|| {
            local.with(|value| {
                value.push(1);
                panic!("inside");
            })
        }));
        assert!(panicked.is_err());
        // Another thread, so that a lock that stays held fails the test and does not hang it.
        std::thread::scope(|s| {
            let other = s.spawn(|| local.with(|value| value.len()));
            let end = std::time::Instant::now() + std::time::Duration::from_secs(10);
            while !other.is_finished() && std::time::Instant::now() < end {
                std::thread::yield_now();
            }
            if !other.is_finished() {
                eprintln!("the lock is held for ever");
                std::process::abort();
            }
            assert!(matches!(other.join(), Ok(1)));
        });
    }

    #[test]
    #[cfg_attr(miri, ignore = "fork is unknown to Miri")]
    fn handlers_run_in_the_order_of_those_who_build_on_each_other() {
        static LOG: std::sync::Mutex<Vec<&str>> = std::sync::Mutex::new(Vec::new());
        static FIRST: Registration = Registration::new();
        static SECOND: Registration = Registration::new();
        fn log(what: &'static str) {
            // Other tests of this binary may fork as well: only who asks is logged.
            if ASKED.get() {
                LOG.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).push(what);
            }
        }
        thread_local! {
            static ASKED: std::cell::Cell<bool> = const { std::cell::Cell::new(false) };
            static OLD: std::cell::Cell<u64> = const { std::cell::Cell::new(0) };
        }
        struct First;
        impl AtFork for First {
            fn before() {
                log("first before");
            }
            fn in_parent() {
                log("first in parent");
            }
            fn in_child() {
                log(if generation() == OLD.get() + 1 { "first in child" } else { "first, of the old generation" });
            }
        }
        struct Second;
        impl AtFork for Second {
            fn before() {
                log("second before");
            }
            fn in_parent() {
                log("second in parent");
            }
            fn in_child() {
                log("second in child");
            }
        }
        for _ in 0..2 {
            FIRST.ensure::<First>();
            SECOND.ensure::<Second>();
        }
        ASKED.set(true);
        OLD.set(generation());
        let logged = || LOG.lock().map(|log| log.clone()).unwrap_or_default();
        // SAFETY: the child compares and ends.
        let pid = unsafe { libc::fork() };
        if pid == 0 {
            let right = logged() == ["second before", "first before", "first in child", "second in child"];
            // SAFETY: ends the process.
            unsafe { libc::_exit(if right { 0 } else { 1 }) };
        }
        let mut status = -1;
        // SAFETY: writes to a local.
        assert_eq!(unsafe { libc::waitpid(pid, &mut status, 0) }, pid);
        assert_eq!(status, 0, "in the child");
        assert_eq!(logged(), ["second before", "first before", "first in parent", "second in parent"]);
    }
}
