//! Models of the locks under loom: every interleaving of a few threads, within a bound on
//! preemptions. Parking never times out here, so that a lost wake-up is a deadlock, which loom
//! reports.
//!
//! `RUSTFLAGS="--cfg loom" cargo test -p fastmp-core --release --test loom`
#![cfg(loom)]
// Guards a cell that loom watches; a failure is to panic.
#![allow(unsafe_code, clippy::unwrap_used)]

mod barrier;
mod broadcast;
mod closing;
mod condvar;
mod custody;
mod event;
mod mutex;
mod readers;
mod ring;
mod robust_semaphore;
mod semaphore;
mod shutdown;
mod tasks;
mod waitset;

use fastmp_core::facade::Owner;
use loom::cell::UnsafeCell;
use loom::sync::Arc;
use loom::thread::{self, JoinHandle};

fn owner(pid: u32) -> Owner {
    Owner::new(pid, 1, 1)
}

/// Explore `f`, with that many preemptions at most.
fn model(preemptions: usize, f: impl Fn() + Sync + Send + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(preemptions);
    builder.check(f);
}

/// What a lock guards: loom reports two accesses that are not ordered by it.
struct Guarded<L> {
    lock: L,
    value: UnsafeCell<u32>,
}

impl<L> Guarded<L> {
    fn new(lock: L) -> Arc<Self> {
        Arc::new(Guarded { lock, value: UnsafeCell::new(0) })
    }

    fn count(&self) {
        // SAFETY: the lock is held; loom checks.
        self.value.with_mut(|value| unsafe { *value += 1 });
    }

    fn counted(&self) -> u32 {
        // SAFETY: as above.
        self.value.with(|value| unsafe { *value })
    }
}

// SAFETY: `value` is only touched under the lock, which is what the models are to show.
unsafe impl<L: Sync> Sync for Guarded<L> {}
// SAFETY: as above.
unsafe impl<L: Send> Send for Guarded<L> {}

/// Run `f` on a thread of its own, with something shared.
fn on<T: Send + Sync + 'static, R: 'static>(shared: &Arc<T>, f: impl FnOnce(&T) -> R + 'static) -> JoinHandle<R> {
    let shared = shared.clone();
    thread::spawn(move || f(&shared))
}
