//! Models of the locks under loom: every interleaving of a few threads, within a bound on preemptions. Parking never times out here,
//! so that a lost wake-up is a deadlock, which loom reports.
//!
//! `RUSTFLAGS="--cfg loom" cargo test -p fastmp-core --release --test loom`
#![cfg(loom)]
// Guards a cell that loom watches; a failure is to panic.
#![allow(unsafe_code, clippy::unwrap_used)]

use std::sync::atomic::Ordering as Real;

use fastmp_core::facade::{AtomicU32, DEAD, Ordering, Owner};
use fastmp_core::sync::event::EventState;
use fastmp_core::sync::mutex::{Acquired, Mutex};
use fastmp_core::sync::rlock::LockState;
use fastmp_core::sync::semaphore::{MAX, Semaphore};
use fastmp_core::sync::waitset::WaitSet;
use fastmp_core::{Deadline, Error};
use loom::cell::UnsafeCell;
use loom::sync::Arc;
use loom::thread;

fn owner(pid: u32) -> Owner {
    Owner::new(pid, 1, 1)
}

/// Explore `f`, with that many preemptions at most.
fn model(preemptions: usize, f: impl Fn() + Sync + Send + 'static) {
    // The dead are a fact of the whole process: one model at a time.
    static TURN: std::sync::Mutex<()> = std::sync::Mutex::new(());
    let _turn = TURN.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(preemptions);
    builder.check(move || {
        DEAD.store(0, Real::SeqCst);
        f();
    });
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

fn exclusion(threads: u32, preemptions: usize) {
    model(preemptions, move || {
        let shared = Guarded::new(Mutex::new());
        let work = move |shared: Arc<Guarded<Mutex>>, pid| {
            assert_eq!(shared.lock.lock(owner(pid), Deadline::Never), Ok(Acquired::Clean));
            shared.count();
            shared.lock.unlock();
        };
        let others: Vec<_> = (2..=threads)
            .map(|pid| {
                let shared = shared.clone();
                thread::spawn(move || work(shared, pid))
            })
            .collect();
        work(shared.clone(), 1);
        others.into_iter().for_each(|t| t.join().unwrap());
        assert_eq!(shared.lock.lock(owner(1), Deadline::PASSED), Ok(Acquired::Clean));
        assert_eq!(shared.counted(), threads);
    });
}

#[test]
fn mutex_of_two() {
    exclusion(2, 3);
}

#[test]
fn mutex_of_three() {
    exclusion(3, 2);
}

#[test]
fn mutex_taken_twice_by_each() {
    model(3, || {
        let shared = Guarded::new(Mutex::new());
        let work = |shared: Arc<Guarded<Mutex>>, pid| {
            for _ in 0..2 {
                assert_eq!(shared.lock.lock(owner(pid), Deadline::Never), Ok(Acquired::Clean));
                shared.count();
                // As for a plain `Lock`, which anybody may release.
                shared.lock.unlock_any().unwrap();
            }
        };
        let other = {
            let shared = shared.clone();
            thread::spawn(move || work(shared, 2))
        };
        work(shared.clone(), 1);
        other.join().unwrap();
        assert_eq!(shared.lock.unlock_any(), Err(Error::Overflow));
    });
}

/// Process 1 dies holding the lock; the others wait for it, and one of them recovers it.
fn death_of_a_holder(waiters: u32, preemptions: usize) {
    model(preemptions, move || {
        let shared = Guarded::new(Mutex::new());
        assert!(shared.lock.try_lock(owner(1)));
        let waiters: Vec<_> = (2..2 + waiters)
            .map(|pid| {
                let shared = shared.clone();
                thread::spawn(move || {
                    let how = shared.lock.lock(owner(pid), Deadline::Never).unwrap();
                    shared.count();
                    shared.lock.unlock();
                    u32::from(how == Acquired::Recovered(owner(1)))
                })
            })
            .collect();
        // What it has written is ordered by its death, which is no part of the model: it writes nothing.
        DEAD.store(1 << 1, Real::SeqCst);
        shared.lock.ring();
        let recovered: u32 = waiters.into_iter().map(|t| t.join().unwrap()).sum();
        assert_eq!((recovered, shared.lock.recoveries()), (1, 1));
        assert_eq!(shared.lock.owner(), None);
    });
}

#[test]
fn a_dead_holder_and_one_waiter() {
    death_of_a_holder(1, 3);
}

#[test]
fn a_dead_holder_and_two_waiters() {
    death_of_a_holder(2, 2);
}

#[test]
fn a_poller_and_a_waiter_find_a_dead_holder() {
    model(2, || {
        let shared = Guarded::new(Mutex::new());
        assert!(shared.lock.try_lock(owner(1)));
        DEAD.store(1 << 1, Real::SeqCst);
        let waiter = {
            let shared = shared.clone();
            thread::spawn(move || {
                let how = shared.lock.lock(owner(2), Deadline::Never).unwrap();
                shared.count();
                shared.lock.unlock();
                u32::from(how != Acquired::Clean)
            })
        };
        let polled = shared.lock.try_lock_or_recover(owner(3));
        if polled.is_some() {
            shared.count();
            shared.lock.unlock();
        }
        let recovered = waiter.join().unwrap() + u32::from(polled.is_some_and(|how| how != Acquired::Clean));
        assert_eq!((recovered, shared.lock.recoveries()), (1, 1));
    });
}

#[test]
fn recursion_keeps_others_out() {
    model(2, || {
        let shared = Guarded::new(LockState::new());
        let work = |shared: Arc<Guarded<LockState>>, thread| {
            // Threads of one process.
            let me = owner(1);
            assert!(!shared.lock.is_mine(me, thread));
            assert_eq!(shared.lock.lock(me, thread, Deadline::Never), Ok(Acquired::Clean));
            assert!(shared.lock.relock(me, thread).unwrap());
            shared.lock.unlock_once(me, thread).unwrap();
            shared.count();
            shared.lock.unlock_once(me, thread).unwrap();
            assert_eq!(shared.lock.unlock_once(me, thread), Err(Error::NotOwner));
        };
        let other = {
            let shared = shared.clone();
            thread::spawn(move || work(shared, 12))
        };
        work(shared.clone(), 11);
        other.join().unwrap();
    });
}

#[test]
fn semaphore_of_one_permit() {
    model(3, || {
        let shared = Guarded::new(Semaphore::new(1, 1));
        let work = |shared: Arc<Guarded<Semaphore>>| {
            shared.lock.acquire(Deadline::Never).unwrap();
            shared.count();
            shared.lock.release().unwrap();
        };
        let other = {
            let shared = shared.clone();
            thread::spawn(move || work(shared))
        };
        work(shared.clone());
        other.join().unwrap();
        assert_eq!(shared.lock.permits(), 1);
    });
}

#[test]
fn semaphore_of_one_permit_and_three_threads() {
    model(2, || {
        let shared = Guarded::new(Semaphore::new(1, MAX));
        let work = |shared: Arc<Guarded<Semaphore>>| {
            shared.lock.acquire(Deadline::Never).unwrap();
            shared.count();
            shared.lock.release().unwrap();
        };
        let others = [0; 2].map(|_| {
            let shared = shared.clone();
            thread::spawn(move || work(shared))
        });
        work(shared.clone());
        others.into_iter().for_each(|t| t.join().unwrap());
        assert_eq!(shared.lock.permits(), 1);
    });
}

#[test]
fn two_releases_wake_two_waiters() {
    // The second release finds the flag down and wakes nobody: the first one woken has to hand the wake-up on.
    model(3, || {
        let semaphore = Arc::new(Semaphore::new(0, MAX));
        let waiters = [0; 2].map(|_| {
            let semaphore = semaphore.clone();
            thread::spawn(move || semaphore.acquire(Deadline::Never).unwrap())
        });
        semaphore.release().unwrap();
        semaphore.release().unwrap();
        waiters.into_iter().for_each(|t| t.join().unwrap());
        assert_eq!(semaphore.permits(), 0);
    });
}

#[test]
fn a_passer_by_robs_no_waiter_of_the_next_permit() {
    model(2, || {
        let semaphore = Arc::new(Semaphore::new(0, MAX));
        let waiter = {
            let semaphore = semaphore.clone();
            thread::spawn(move || semaphore.acquire(Deadline::Never).unwrap())
        };
        let passer_by = {
            let semaphore = semaphore.clone();
            thread::spawn(move || {
                if semaphore.try_acquire() {
                    semaphore.release().unwrap();
                }
            })
        };
        semaphore.release().unwrap();
        waiter.join().unwrap();
        passer_by.join().unwrap();
        assert_eq!(semaphore.permits(), 0);
    });
}

/// Things to wait for. Read-modify-write on both sides: loom makes less of SeqCst than the waitset relies on.
struct Store {
    waiting: WaitSet,
    things: AtomicU32,
}

impl Store {
    fn put(&self) {
        self.things.fetch_add(1, Ordering::SeqCst);
        self.waiting.notify();
    }

    fn take(&self) -> bool {
        let mut seen = self.things.fetch_add(0, Ordering::SeqCst);
        while seen > 0 {
            match self.things.compare_exchange(seen, seen - 1, Ordering::SeqCst, Ordering::SeqCst) {
                Ok(_) => return true,
                Err(now) => seen = now,
            }
        }
        false
    }

    /// The waiting shape of queues.
    fn get(&self) {
        let mut ticket = None;
        while !self.take() {
            if let Some(ticket) = ticket {
                self.waiting.park(ticket, Deadline::Never).unwrap();
            }
            ticket = Some(self.waiting.register());
        }
        if ticket.is_some() && self.things.fetch_add(0, Ordering::SeqCst) > 0 {
            self.waiting.notify();
        }
    }
}

fn waitset(getters: u32, preemptions: usize) {
    model(preemptions, move || {
        let store = Arc::new(Store { waiting: WaitSet::new(), things: AtomicU32::new(0) });
        let getters: Vec<_> = (0..getters)
            .map(|_| {
                let store = store.clone();
                thread::spawn(move || store.get())
            })
            .collect();
        getters.iter().for_each(|_| store.put());
        getters.into_iter().for_each(|t| t.join().unwrap());
        assert_eq!(store.things.load(Ordering::SeqCst), 0);
    });
}

#[test]
fn waitset_with_one_waiter() {
    waitset(1, 3);
}

#[test]
fn waitset_hands_wake_ups_on() {
    waitset(2, 2);
}

#[test]
fn an_event_wakes_all() {
    model(2, || {
        let event = Arc::new(EventState::new());
        let past = Arc::new(AtomicU32::new(0));
        let waiters = [0; 2].map(|_| {
            let (event, past) = (event.clone(), past.clone());
            thread::spawn(move || {
                event.wait(event.ticket(), Deadline::Never).unwrap();
                // Relaxed: the event itself orders it.
                assert_eq!(past.load(Ordering::Relaxed), 1);
            })
        });
        past.store(1, Ordering::Relaxed);
        event.set();
        waiters.into_iter().for_each(|t| t.join().unwrap());
    });
}

#[test]
fn an_event_set_and_cleared_has_been_set() {
    model(3, || {
        let event = Arc::new(EventState::new());
        let ticket = event.ticket();
        let waiter = {
            let event = event.clone();
            thread::spawn(move || event.wait(ticket, Deadline::Never).unwrap())
        };
        event.set();
        event.clear();
        waiter.join().unwrap();
        assert!(!event.is_set());
    });
}
