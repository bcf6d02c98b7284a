//! Atomics and parking: the real ones, or loom's.
//!
//! A lock's algorithm is written once, against this. With `--cfg loom` a word carries a loom mutex
//! and condition variable to sleep on: a stub that merely yields would hide lost wake-ups.

use std::time::Duration;

pub use imp::*;

/// How a wait on a word ended.
pub use crate::sys::futex::Parked;

/// No wait sleeps longer than this at a stretch, so that a death is noticed within 100 ms although
/// nobody signals it. Waking up may cost an idle virtual machine 100 us, so that some 14 a second
/// are 0.15 % of a core.
pub const SLICE: Duration = Duration::from_millis(70);
/// The next stretch of one who has seen the holder dying.
pub const DYING: Duration = Duration::from_millis(10);

#[cfg(not(loom))]
mod imp {
    #![allow(unsafe_code)]
    use std::cell::Cell;
    use std::sync::atomic::AtomicBool;
    pub use std::sync::atomic::{AtomicU32, AtomicU64, Ordering, fence};

    pub use crate::deadline::now;
    use crate::error::{Error, Result};
    use crate::sys::futex::{self, Parked};
    use crate::sys::liveness;
    pub use crate::sys::liveness::{
        Liveness, Owner, is_as_seen, is_dead, is_dead_from_now, is_dead_quick, is_local, probe,
    };

    /// A thread's own.
    macro_rules! local {
        ($(#[$about:meta])* static $name:ident: $type:ty = $value:expr;) => {
            std::thread_local! { $(#[$about])* static $name: $type = const { $value }; }
        };
    }
    pub(crate) use local;

    static RETURNS: AtomicBool = AtomicBool::new(false);

    /// From now on a wait of the main thread comes up with `Interrupted` at the end of every slice:
    /// a signal that arrived just before the thread went to sleep has interrupted nothing, and its
    /// handler still has to be run.
    pub fn return_for_signals() {
        RETURNS.store(true, Ordering::Relaxed);
    }

    /// At the end of a slice in which nothing happened: must this wait come up?
    ///
    /// # Errors
    /// `Interrupted`: it must.
    pub fn end_slice() -> Result<()> {
        if RETURNS.load(Ordering::Relaxed) && liveness::thread_id() == liveness::me().pid() {
            RESUMED.set(true);
            return Err(Error::Interrupted);
        }
        Ok(())
    }

    thread_local! {
        static RESUMED: Cell<bool> = const { Cell::new(false) };
    }

    /// Does this wait go on after it came up at the end of a slice? Said once; there is nothing to
    /// spin for then.
    pub fn resumed() -> bool {
        RESUMED.take()
    }

    /// A full fence between an atomic read-modify-write and a look at another word, so that of two
    /// threads that each change one word and then look at the other's at least one sees the change.
    /// SeqCst accesses would say so too, but only if every access to both words were SeqCst, and
    /// loom makes less of them than the memory model does.
    ///
    /// On x86 a read-modify-write is a full fence already, whatever its order: there the compiler
    /// alone is to be held.
    #[inline]
    pub fn fence_after_rmw() {
        if cfg!(all(target_arch = "x86_64", not(miri))) {
            std::sync::atomic::compiler_fence(Ordering::SeqCst);
        } else {
            fence(Ordering::SeqCst);
        }
    }

    /// One step of a busy wait.
    #[inline]
    pub fn spin() {
        std::hint::spin_loop();
    }

    /// Let another thread have the core.
    #[inline]
    pub fn give_way() {
        rustix::thread::sched_yield();
    }

    /// A 32-bit word to sleep on.
    #[repr(transparent)]
    #[derive(Debug)]
    pub struct Word32(AtomicU32);

    impl Word32 {
        /// A word holding `value`.
        pub fn new(value: u32) -> Self {
            Word32(AtomicU32::new(value))
        }

        /// Sleep while the word is `expected`, until `until` at the latest.
        ///
        /// # Errors
        /// `Interrupted` by a signal.
        pub fn park(&self, expected: u32, until: u64) -> Result<Parked> {
            futex::wait(&self.0, expected, until)
        }

        /// Wake up to `n` sleepers.
        pub fn unpark(&self, n: u32) {
            futex::wake(&self.0, n);
        }
    }

    impl std::ops::Deref for Word32 {
        type Target = AtomicU32;
        #[inline]
        fn deref(&self) -> &AtomicU32 {
            &self.0
        }
    }

    /// A 64-bit word to sleep on: a sleeper sees changes of the low half only.
    #[repr(transparent)]
    #[derive(Debug)]
    pub struct Word64(AtomicU64);

    impl Word64 {
        /// A word holding `value`.
        pub fn new(value: u64) -> Self {
            Word64(AtomicU64::new(value))
        }

        #[cfg(not(miri))]
        fn low(&self) -> &AtomicU32 {
            let at = std::ptr::from_ref(&self.0).cast::<AtomicU32>();
            // SAFETY: the half of a live, aligned 64-bit word; only the kernel reads it through
            // this reference.
            unsafe { &*at.add(usize::from(cfg!(target_endian = "big"))) }
        }

        /// Sleep while the low half is that of `expected`, until `until` at the latest.
        ///
        /// # Errors
        /// `Interrupted` by a signal.
        pub fn park(&self, expected: u64, until: u64) -> Result<Parked> {
            // To Miri the kernel's look at half of the word is a look of ours, and mixed sizes are
            // undefined.
            #[cfg(miri)]
            return crate::sys::miri::park(&self.0, expected as u32, until);
            #[cfg(not(miri))]
            futex::wait(self.low(), expected as u32, until)
        }

        /// Wake up to `n` sleepers.
        pub fn unpark(&self, n: u32) {
            #[cfg(miri)]
            return crate::sys::miri::unpark(n);
            #[cfg(not(miri))]
            futex::wake(self.low(), n);
        }
    }

    impl std::ops::Deref for Word64 {
        type Target = AtomicU64;
        #[inline]
        fn deref(&self) -> &AtomicU64 {
            &self.0
        }
    }
}

#[cfg(loom)]
mod imp {
    pub use loom::sync::atomic::{AtomicU32, AtomicU64, Ordering, fence};
    use loom::sync::{Condvar, Mutex};

    use crate::error::Result;
    use crate::sys::futex::Parked;
    pub use crate::sys::liveness::{Liveness, Owner};

    /// A thread's own: each model's threads begin anew.
    macro_rules! local {
        ($(#[$about:meta])* static $name:ident: $type:ty = $value:expr;) => {
            loom::thread_local! { $(#[$about])* static $name: $type = $value; }
        };
    }
    pub(crate) use local;

    loom::lazy_static! {
        /// Owners that a model has declared dead, as bits by pid. Read by read-modify-write: the
        /// kernel's answer is never an old one, and what the dead had stored is visible to whoever
        /// has it.
        static ref DEAD: AtomicU64 = AtomicU64::new(0);
    }

    fn dead() -> u64 {
        DEAD.fetch_or(0, Ordering::AcqRel)
    }

    /// From now on `pid` counts as dead.
    pub fn die(pid: u32) {
        DEAD.fetch_or(1 << pid, Ordering::AcqRel);
    }

    loom::thread_local! {
        /// The deaths that this thread has been woken for, by the word that it slept on: slices end
        /// again and again, on each of them.
        static SEEN: std::cell::RefCell<Vec<(usize, u64)>> = std::cell::RefCell::new(Vec::new());
    }

    /// Is this the first sleep of this thread on the word at `at` since the last death?
    fn is_first_since(dead: u64, at: usize) -> bool {
        SEEN.with(|seen| {
            let mut seen = seen.borrow_mut();
            let first = !seen.contains(&(at, dead));
            if first && dead != 0 {
                seen.push((at, dead));
            }
            first && dead != 0
        })
    }

    /// Has the model declared it dead?
    pub fn is_dead(owner: Owner) -> bool {
        dead() >> owner.pid() & 1 == 1
    }

    /// As the model has it: nobody is dying.
    pub fn probe(owner: Owner) -> Liveness {
        if is_dead(owner) { Liveness::Dead } else { Liveness::Unknown }
    }

    /// The same.
    pub fn is_dead_quick(owner: Owner) -> bool {
        is_dead(owner)
    }

    /// The same.
    pub fn is_dead_from_now(owner: Owner) -> bool {
        is_dead(owner)
    }

    /// Nothing is known of any.
    pub fn is_as_seen(_owner: Owner) -> bool {
        false
    }

    /// All are.
    pub fn is_local(_owner: Owner) -> bool {
        true
    }

    /// Slices have no end in a model.
    pub fn end_slice() -> Result<()> {
        Ok(())
    }

    /// No wait comes up.
    pub fn resumed() -> bool {
        false
    }

    /// Time stands still in a model.
    pub fn now() -> u64 {
        1
    }

    /// See the real one.
    pub fn fence_after_rmw() {
        fence(Ordering::SeqCst);
    }

    /// One step of a busy wait.
    pub fn spin() {
        loom::thread::yield_now();
    }

    /// Let another thread run.
    pub fn give_way() {
        loom::thread::yield_now();
    }

    macro_rules! word {
        ($name:ident, $atomic:ty, $int:ty) => {
            /// A word to sleep on.
            #[derive(Debug)]
            pub struct $name {
                value: $atomic,
                gate: Mutex<()>,
                bell: Condvar,
            }

            impl $name {
                /// A word holding `value`.
                pub fn new(value: $int) -> Self {
                    Self { value: <$atomic>::new(value), gate: Mutex::new(()), bell: Condvar::new() }
                }

                /// Sleep while the word is `expected`. Never times out: a lost wake-up shows as a
                /// deadlock. A death rings every bell (`ring`), as the end of a slice does outside
                /// the model.
                pub fn park(&self, expected: $int, _until: u64) -> Result<Parked> {
                    let gate = self.gate.lock().expect("loom");
                    // The kernel's own look at the word is ordered with wake-ups by its lock.
                    if self.value.load(Ordering::SeqCst) as u32 != expected as u32 {
                        return Ok(Parked::Woken);
                    }
                    // A death ends the slice of whoever parks after it as well, once.
                    let dead = dead();
                    if is_first_since(dead, std::ptr::from_ref(self).addr()) {
                        return Ok(Parked::TimedOut);
                    }
                    drop(self.bell.wait(gate).expect("loom"));
                    // A slice ends by a death alone: else it was a wake-up.
                    let ended = is_first_since(self::dead(), std::ptr::from_ref(self).addr());
                    Ok(if ended { Parked::TimedOut } else { Parked::Woken })
                }

                /// Wake up to `n` sleepers.
                pub fn unpark(&self, n: u32) {
                    let _gate = self.gate.lock().expect("loom");
                    if n == 1 {
                        self.bell.notify_one();
                    } else {
                        self.bell.notify_all();
                    }
                }
            }

            impl std::ops::Deref for $name {
                type Target = $atomic;
                fn deref(&self) -> &$atomic {
                    &self.value
                }
            }
        };
    }

    word!(Word32, AtomicU32, u32);
    word!(Word64, AtomicU64, u64);
}
