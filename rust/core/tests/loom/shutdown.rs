//! A queue that is shut down, against those who wait for a message or for room: the words of its
//! ring, in the order in which they are used there, on the locks and wait sets as they ship.

use fastmp_core::facade::{AtomicU32, AtomicU64, Ordering};
use fastmp_core::sync::mutex::Mutex;
use fastmp_core::sync::waitset::WaitSet;
use fastmp_core::{Deadline, Error};
use loom::sync::Arc;
use loom::thread;

use crate::{model, owner};

struct Ring {
    put_lock: Mutex,
    get_lock: Mutex,
    tail: AtomicU64,
    head: AtomicU64,
    shut: AtomicU32,
    maxsize: u64,
    not_empty: WaitSet,
    not_full: WaitSet,
}

impl Ring {
    fn with(messages: u64, maxsize: u64) -> Arc<Ring> {
        Arc::new(Ring {
            put_lock: Mutex::new(),
            get_lock: Mutex::new(),
            tail: AtomicU64::new(messages),
            head: AtomicU64::new(0),
            shut: AtomicU32::new(0),
            maxsize,
            not_empty: WaitSet::new(),
            not_full: WaitSet::new(),
        })
    }

    fn put_once(&self, me: u32) -> Result<(), Error> {
        let _ = self.put_lock.lock(owner(me), Deadline::Never).unwrap();
        let tail = self.tail.load(Ordering::Relaxed);
        let put = if self.shut.load(Ordering::Acquire) != 0 {
            Err(Error::ShutDown)
        } else if tail - self.head.load(Ordering::SeqCst) >= self.maxsize {
            Err(Error::Full)
        } else {
            self.tail.store(tail + 1, Ordering::SeqCst);
            Ok(())
        };
        self.put_lock.unlock();
        if put.is_ok() {
            self.not_empty.notify();
        }
        put
    }

    fn get_once(&self, me: u32) -> Result<(), Error> {
        let _ = self.get_lock.lock(owner(me), Deadline::Never).unwrap();
        let head = self.head.load(Ordering::Relaxed);
        let is_empty = self.tail.load(Ordering::SeqCst) == head;
        if !is_empty {
            self.head.store(head + 1, Ordering::SeqCst);
        }
        self.get_lock.unlock();
        if !is_empty {
            self.not_full.notify();
            return Ok(());
        }
        // After the look at `shut`: nothing comes later than that.
        if self.shut.load(Ordering::Acquire) == 0 {
            return Err(Error::Empty);
        }
        let is_empty = self.tail.load(Ordering::SeqCst) == self.head.load(Ordering::SeqCst);
        Err(if is_empty { Error::ShutDown } else { Error::WouldBlock })
    }

    fn shut_down(&self, me: u32) {
        let _ = self.get_lock.lock(owner(me), Deadline::Never).unwrap();
        let _ = self.put_lock.lock(owner(me), Deadline::Never).unwrap();
        self.shut.fetch_or(1, Ordering::SeqCst);
        self.put_lock.unlock();
        self.get_lock.unlock();
        self.not_empty.notify_all();
        self.not_full.notify_all();
    }
}

/// Try, prepare, try again, park.
fn wait(set: &WaitSet, mut attempt: impl FnMut() -> Result<(), Error>) -> Result<(), Error> {
    loop {
        let ticket = set.prepare_wait();
        match attempt() {
            Err(Error::Empty | Error::Full) => drop(set.park(ticket, u64::MAX)),
            Err(Error::WouldBlock) => (),
            done => return done,
        }
    }
}

#[test]
fn a_waiting_get_learns_of_it() {
    model(2, || {
        let ring = Ring::with(0, 1);
        let getter = {
            let ring = ring.clone();
            thread::spawn(move || wait(&ring.not_empty, || ring.get_once(2)))
        };
        ring.shut_down(1);
        assert_eq!(getter.join().unwrap(), Err(Error::ShutDown));
    });
}

#[test]
fn a_waiting_put_learns_of_it() {
    model(2, || {
        let ring = Ring::with(1, 1);
        let putter = {
            let ring = ring.clone();
            thread::spawn(move || wait(&ring.not_full, || ring.put_once(2)))
        };
        ring.shut_down(1);
        assert_eq!(putter.join().unwrap(), Err(Error::ShutDown));
    });
}

/// Whose put returned has its message got before anybody is told of the end.
#[test]
fn what_was_put_is_got_first() {
    model(2, || {
        let ring = Ring::with(0, 1);
        let putter = {
            let ring = ring.clone();
            thread::spawn(move || ring.put_once(2))
        };
        let getter = {
            let ring = ring.clone();
            thread::spawn(move || {
                let mut got = 0;
                while wait(&ring.not_empty, || ring.get_once(3)).is_ok() {
                    got += 1;
                }
                got
            })
        };
        ring.shut_down(1);
        let put = u32::from(putter.join().unwrap().is_ok());
        assert_eq!(getter.join().unwrap(), put);
    });
}
