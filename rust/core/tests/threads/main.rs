//! Every shared primitive between threads, with plain data beside it: under the thread sanitizer
//! (`make test-tsan`) a missing edge from one thread to the next is a reported race on that data.
//! No forks, which the sanitizer does not follow.
//!
//! `FASTMP_STRESS` multiplies the rounds.
#![cfg(not(loom))]
// Plain data that only the primitive under test guards; a failure is to panic.
#![allow(unsafe_code, clippy::unwrap_used)]

mod broadcasts;
#[path = "../common/mod.rs"]
mod common;
mod meetings;

use std::cell::UnsafeCell;
use std::os::fd::BorrowedFd;
use std::process::Command;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::mpsc::channel;
use std::sync::{Arc, Barrier};
use std::thread;
use std::time::Duration;

use common::channel::{Channel, INLINED, LARGE, SMALL, recv, send};
use common::{Dice, until};
use fastmp_core::arena::Block;
use fastmp_core::channel::pipe;
use fastmp_core::channel::queue::Queue;
use fastmp_core::channel::ring::INLINE;
use fastmp_core::facade::Parked;
use fastmp_core::layout::{Backing, Kind};
use fastmp_core::sync::event::EventState;
use fastmp_core::sync::lock::LockState;
use fastmp_core::sync::mutex::{Acquired, Mutex};
use fastmp_core::sync::semaphore::{MAX, Semaphore};
use fastmp_core::sync::waitset::WaitSet;
use fastmp_core::sys::liveness::{Owner, me, thread_id};
use fastmp_core::{Deadline, Error};

const THREADS: usize = 4;

fn times(rounds: u64) -> u64 {
    let factor = std::env::var("FASTMP_STRESS").ok().and_then(|text| text.parse().ok()).unwrap_or(1);
    // Miri takes a thousand times as long, and looks at each access.
    if cfg!(miri) { rounds.div_ceil(500) } else { rounds * factor }
}

/// Hung if it takes that long, also under a sanitizer.
fn soon() -> Deadline {
    Deadline::after(if cfg!(miri) { 600.0 } else { 30.0 })
}

/// In most rounds too soon for a waiter that has begun to sleep.
fn shortly() -> Deadline {
    Deadline::after(50e-6)
}

/// Run `work` in so many threads at once, each told its number.
fn together(threads: usize, work: impl Fn(usize) + Sync) {
    let start = Barrier::new(threads);
    thread::scope(|s| {
        for who in 0..threads {
            let (start, work) = (&start, &work);
            s.spawn(move || {
                start.wait();
                work(who);
            });
        }
    });
}

/// Data without any protection of its own.
#[derive(Default)]
struct Plain<T>(UnsafeCell<T>);

// SAFETY: none of its own: whatever guards it is what is tested.
unsafe impl<T: Send> Sync for Plain<T> {}

impl<T> Plain<T> {
    /// Use it, alone as the primitive under test has promised.
    #[allow(clippy::mut_from_ref)]
    fn alone<R>(&self, act: impl FnOnce(&mut T) -> R) -> R {
        // SAFETY: as above; the sanitizer watches.
        act(unsafe { &mut *self.0.get() })
    }
    /// Read it, while nobody writes.
    fn read<R>(&self, look: impl FnOnce(&T) -> R) -> R {
        // SAFETY: as above.
        look(unsafe { &*self.0.get() })
    }
}

/// One more; now and then slowly, so that waiters are done with spinning and go to sleep.
fn count(plain: &Plain<u64>) {
    let seen = plain.alone(|n| {
        *n += 1;
        *n
    });
    if seen.is_multiple_of(256) {
        thread::sleep(Duration::from_micros(100));
    }
    plain.alone(|n| assert_eq!(*n, seen, "somebody else was inside"));
}

/// Count in rounds inside what `enter` lets in and `leave` out.
fn exclude(rounds: u64, enter: impl Fn(u64) -> bool + Sync, leave: impl Fn(u64) + Sync) {
    let (plain, rounds) = (Plain::default(), times(rounds));
    together(THREADS, |_| {
        for round in 0..rounds {
            while !enter(round) {}
            count(&plain);
            leave(round);
        }
    });
    assert_eq!(plain.read(|n| *n), THREADS as u64 * rounds);
}

fn in_time<T>(got: Result<T, Error>) -> Option<T> {
    match got {
        Ok(got) => Some(got),
        Err(Error::TimedOut) => None,
        Err(e) => panic!("{e:?}"),
    }
}

#[test]
fn mutex_by_waiting() {
    let _turn = common::turn();
    let mutex = Mutex::new();
    exclude(3000, |_| mutex.lock(me(), soon()).is_ok(), |_| mutex.unlock());
    assert_eq!((mutex.owner(), mutex.recoveries()), (None, 0));
}

#[test]
fn mutex_by_every_other_way() {
    let _turn = common::turn();
    let mutex = Mutex::new();
    let enter = |round| match round % 6 {
        0 => mutex.try_lock(me()),
        1 => mutex.brief_spin(me()),
        2 => mutex.lock_with_grace(me(), Deadline::PASSED.graced()).is_ok(),
        3 => mutex.try_lock_or_recover(me()).is_some(),
        4 => in_time(mutex.lock(me(), shortly())).is_some(),
        _ => in_time(mutex.lock_with_grace(me(), shortly().graced())).is_some(),
    };
    exclude(1500, enter, |round| if round % 2 == 0 { mutex.unlock() } else { mutex.unlock_any().unwrap() });
    assert_eq!((mutex.owner(), mutex.recoveries()), (None, 0));
}

/// Somebody in this pid namespace who has died.
fn dead() -> Owner {
    let mut child = Command::new("true").spawn().unwrap();
    let pid = child.id();
    child.wait().unwrap();
    Owner::new(pid, 1, (me().word() >> 48) as u16)
}

#[test]
#[cfg_attr(miri, ignore = "processes are unknown to Miri")]
fn mutex_taken_over() {
    let _turn = common::turn();
    let (mutex, plain, dead) = (Mutex::new(), Plain::default(), dead());
    let rounds = times(100);
    let (died, recovered) = (AtomicU32::new(0), AtomicU32::new(0));
    together(THREADS, |who| {
        for round in 0..rounds {
            let acquired = mutex.lock(me(), soon()).unwrap();
            recovered.fetch_add(u32::from(acquired == Acquired::Recovered(dead)), Ordering::Relaxed);
            count(&plain);
            mutex.unlock();
            // As if somebody who does nothing more had got it next.
            if round % 8 == who as u64 && mutex.try_lock(dead) {
                died.fetch_add(1, Ordering::Relaxed);
            }
        }
    });
    // The last death may have come after everybody else was through.
    recovered.fetch_add(u32::from(mutex.try_lock_or_recover(me()) != Some(Acquired::Clean)), Ordering::Relaxed);
    assert_eq!(plain.read(|n| *n), THREADS as u64 * rounds);
    let died = died.into_inner();
    assert_eq!((recovered.into_inner(), mutex.recoveries()), (died, died));
}

#[test]
fn lock_held_again_and_again() {
    let _turn = common::turn();
    let (lock, plain) = (LockState::new(), Plain::default());
    let rounds = times(1500);
    together(THREADS, |who| {
        let thread = thread_id();
        for round in 0..rounds {
            if !(round % 2 == 0 && lock.try_lock_once(me(), thread)) {
                let _ = lock.lock(me(), thread, soon()).unwrap();
            }
            let depth = 1 + (round + who as u64) % 3;
            for _ in 1..depth {
                count(&plain);
                assert!(lock.try_reenter(me(), thread).unwrap());
            }
            for left in (1..=depth).rev() {
                assert_eq!(u64::from(lock.depth()), left);
                count(&plain);
                lock.unlock_once(me(), thread).unwrap();
            }
            // Another thread may hold it: this one does not.
            assert_eq!(lock.unlock_once(me(), thread), Err(Error::NotOwner));
            assert!(!lock.try_reenter(me(), thread).unwrap());
        }
    });
    assert_eq!((lock.owner(), lock.depth(), lock.recoveries()), (None, 0, 0));
}

#[test]
fn lock_not_recursive() {
    let _turn = common::turn();
    let lock = LockState::new();
    let enter = |round| match round % 3 {
        0 => lock.try_lock(me(), thread_id()),
        1 => lock.try_lock_or_recover(me(), thread_id()).is_some(),
        _ => in_time(lock.lock(me(), thread_id(), soon())).is_some(),
    };
    exclude(2000, enter, |round| {
        if round % 8 == 0 { lock.unlock_if_mine(me(), thread_id()) } else { lock.unlock_any().unwrap() }
    });
}

#[test]
fn semaphore_of_one() {
    let _turn = common::turn();
    let semaphore = Semaphore::new(1, 1);
    let enter = |round| match round % 3 {
        0 => semaphore.try_acquire(),
        1 => in_time(semaphore.acquire(shortly())).is_some(),
        _ => in_time(semaphore.acquire(soon())).is_some(),
    };
    exclude(3000, enter, |_| semaphore.release().unwrap());
    assert_eq!(semaphore.permits(), 1);
}

#[test]
fn semaphores_pass_slots_on() {
    let _turn = common::turn();
    const SLOTS: usize = 3;
    let (free, filled) = (Semaphore::new(SLOTS as u32, MAX), Semaphore::new(0, MAX));
    let slots: [Plain<u64>; SLOTS] = Default::default();
    let rounds = times(10_000);
    together(2, |who| {
        for round in 0..rounds {
            let slot = &slots[round as usize % SLOTS];
            if who == 0 {
                free.acquire(soon()).unwrap();
                slot.alone(|n| *n = round);
                filled.release().unwrap();
            } else {
                filled.acquire(soon()).unwrap();
                slot.alone(|n| assert_eq!(std::mem::take(n), round));
                free.release().unwrap();
            }
        }
    });
}

#[test]
fn semaphore_of_several_wakes_all() {
    let _turn = common::turn();
    let (semaphore, inside) = (Semaphore::new(0, MAX), AtomicU32::new(0));
    let (plain, rounds) = (Plain::default(), times(300));
    // Several sleep at a time, and permits come in pairs: the first one woken sees to the next.
    together(THREADS + 1, |who| {
        for _ in 0..rounds {
            if who > 0 {
                semaphore.acquire(soon()).unwrap();
                plain.read(|n: &u64| assert_eq!(*n, 7));
                inside.fetch_add(1, Ordering::Relaxed);
            } else {
                if plain.read(|n| *n) == 0 {
                    plain.alone(|n| *n = 7);
                }
                (0..2).for_each(|_| semaphore.release().unwrap());
                thread::sleep(Duration::from_micros(50));
                (2..THREADS).for_each(|_| semaphore.release().unwrap());
            }
        }
    });
    assert_eq!((semaphore.permits(), u64::from(inside.into_inner())), (0, THREADS as u64 * rounds));
}

#[test]
fn events_there_and_back() {
    let _turn = common::turn();
    let events = [EventState::new(), EventState::new()];
    let (plain, rounds) = (Plain::default(), times(3000));
    events[0].set();
    together(2, |who| {
        let (mine, other) = (&events[who], &events[1 - who]);
        for round in 0..rounds {
            if round % 3 == 0 {
                until("it is set", || mine.is_set());
            } else {
                mine.wait(mine.ticket(), soon()).unwrap();
            }
            mine.clear();
            count(&plain);
            other.set();
        }
    });
    assert_eq!(plain.read(|n| *n), 2 * rounds);
}

#[test]
fn event_set_and_cleared_at_once() {
    let _turn = common::turn();
    let (event, start, end) = (EventState::new(), Barrier::new(THREADS), Barrier::new(THREADS));
    let plain = Plain::default();
    together(THREADS, |who| {
        for round in 1..=times(300) {
            let ticket = event.ticket();
            start.wait();
            if who == 0 {
                plain.alone(|n| *n = round);
                event.set();
                event.clear();
            } else {
                event.wait(ticket, soon()).unwrap();
                plain.read(|n| assert_eq!(*n, round));
            }
            end.wait();
        }
    });
}

/// Wait until `is`, as the module says.
fn wait_until(waiters: &WaitSet, is: impl Fn() -> bool) {
    if is() {
        return;
    }
    loop {
        // Also after a wake-up, before the look: its mark stood for all who sleep.
        let ticket = waiters.prepare_wait();
        if is() {
            return;
        }
        // No slice that would hide a lost wake-up.
        let parked = waiters.park(ticket, soon().or_at(u64::MAX)).unwrap();
        assert_eq!(parked, Parked::Woken, "a wake-up was lost");
    }
}

#[test]
fn wait_set_in_turns() {
    let _turn = common::turn();
    let (waiters, next) = (WaitSet::new(), AtomicU64::new(0));
    let (plain, rounds) = (Plain::default(), times(500));
    together(THREADS, |who| {
        for round in 0..rounds {
            let number = round * THREADS as u64 + who as u64;
            wait_until(&waiters, || next.load(Ordering::SeqCst) == number);
            count(&plain);
            next.store(number + 1, Ordering::SeqCst);
            waiters.notify_all();
        }
    });
    assert_eq!(plain.read(|n| *n), THREADS as u64 * rounds);
}

#[test]
fn wait_set_hands_wake_ups_down() {
    let _turn = common::turn();
    let (waiters, stock) = (WaitSet::new(), AtomicU64::new(0));
    let rounds = times(1500);
    let take = || {
        let one_less = |n: u64| n.checked_sub(1);
        stock.fetch_update(Ordering::SeqCst, Ordering::SeqCst, one_less).is_ok()
    };
    together(THREADS + 1, |who| {
        for _ in 0..rounds {
            if who == 0 {
                stock.fetch_add(THREADS as u64, Ordering::SeqCst);
                waiters.notify();
            } else {
                wait_until(&waiters, take);
                if stock.load(Ordering::SeqCst) > 0 {
                    waiters.notify();
                }
            }
        }
    });
    assert_eq!(stock.into_inner(), 0);
}

/// All words of a block's payload, as plain data.
fn fill(block: &Block, mut write: impl FnMut(&mut u64)) {
    let at = block.mapping().range(block.payload(), block.bytes()).unwrap().cast::<u64>();
    for index in 0..block.bytes() / 8 {
        // SAFETY: in the block, which is this thread's now; the payload is aligned to 32 bytes.
        write(unsafe { at.add(index).as_mut() });
    }
}

#[test]
#[cfg_attr(miri, ignore = "leases are unknown to Miri")]
fn blocks_change_hands() {
    let _turn = common::turn();
    let (senders, receivers): (Vec<_>, Vec<_>) = (0..THREADS).map(|_| channel::<(u64, Block)>()).unzip();
    let receivers: Vec<_> = receivers.into_iter().map(std::sync::Mutex::new).collect();
    let rounds = times(2000);
    together(THREADS, |who| {
        let mut dice = Dice(who as u64);
        let mut held = Vec::new();
        let inbox = receivers[who].lock().unwrap();
        for round in 0..rounds {
            let (mark, bytes) = (round << 8 | who as u64, 8 * dice.below(if round % 50 == 0 { 5000 } else { 40 }));
            let block = Block::alloc(Kind::Memory, bytes as usize).unwrap();
            fill(&block, |word| assert_eq!(std::mem::replace(word, mark), 0, "not zeroed"));
            held.push((mark, block));
            held.extend(inbox.try_iter());
            while held.len() > 8 {
                let (mark, block) = held.swap_remove(dice.below(held.len() as u64) as usize);
                fill(&block, |word| assert_eq!(*word, mark, "another's block as well"));
                // Some go away here, some elsewhere.
                if dice.below(2) == 0 {
                    senders[dice.below(THREADS as u64) as usize].send((mark, block)).unwrap();
                }
            }
        }
    });
}

#[test]
#[cfg_attr(miri, ignore = "leases are unknown to Miri")]
fn blocks_attached_by_many_are_one_mapping() {
    let _turn = common::turn();
    for round in 0..times(40) {
        let block = Block::alloc(Kind::Memory, if round % 2 == 0 { 100 } else { 100_000 }).unwrap();
        let handle = block.export(None).unwrap();
        let attached = std::sync::Mutex::new(Vec::new());
        together(THREADS, |_| {
            let copy = |fd: BorrowedFd<'_>| fd.try_clone_to_owned().unwrap();
            let (segment, token) = (copy(handle.segment()), copy(handle.token()));
            let mine = Block::attach(segment, Some(token), handle.offset(), Kind::Memory).unwrap();
            assert_eq!(mine.bytes(), block.bytes());
            attached.lock().unwrap().push(mine);
        });
        let attached = attached.into_inner().unwrap();
        assert!(attached.iter().all(|other| Arc::ptr_eq(other.mapping(), attached[0].mapping())));
    }
}

/// A message of at least `len` bytes that says where something lies which only its receiver may
/// touch.
fn send_parcel(channel: &impl Channel, from: usize, number: u64, len: usize) {
    let fds_id = Box::new([from as u64, number, len as u64]);
    let mut bytes = (Box::into_raw(fds_id) as u64).to_le_bytes().to_vec();
    bytes.resize(len.max(8), number as u8);
    send(channel, &bytes, &[], soon()).unwrap();
}

/// From whom, and the number.
fn open_parcel(bytes: &[u8]) -> (usize, u64) {
    let at = u64::from_le_bytes(bytes[..8].try_into().unwrap());
    // SAFETY: each parcel comes once, which is what is tested.
    let fds_id = unsafe { Box::from_raw(at as *mut [u64; 3]) };
    let [from, number, len] = *fds_id;
    assert_eq!(bytes.len(), len.max(8) as usize, "message {number} of {from}");
    let step = if cfg!(miri) { 1021 } else { 1 };
    let whole = bytes[8..].iter().step_by(step).all(|&byte| byte == number as u8);
    assert!(whole, "message {number} of {from} came damaged");
    (from as usize, number)
}

/// Small as a rule; of each kind now and then.
fn some_len(dice: &mut Dice) -> usize {
    match dice.below(64) {
        _ if cfg!(miri) => [SMALL, SMALL, 3000, INLINE + 1][dice.below(4) as usize],
        0 => INLINED,
        1 => LARGE / 4,
        2..8 => 3000,
        _ => SMALL,
    }
}

/// Two threads send through `to`, two receive through `from`: each parcel comes once, and each
/// sender's come in order.
fn stream<C: Channel + Sync>(to: &C, from: &C, rounds: u64) {
    const SENDERS: usize = 2;
    let (left, came) = (AtomicU64::new(SENDERS as u64 * rounds), AtomicU64::new(0));
    together(2 * SENDERS, |who| {
        let mut dice = Dice(who as u64);
        if who < SENDERS {
            (0..rounds).for_each(|number| send_parcel(to, who, number, some_len(&mut dice)));
            return;
        }
        let mut next = [0; SENDERS];
        while left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |n| n.checked_sub(1)).is_ok() {
            let (bytes, fds) = recv(from, soon()).unwrap();
            assert!(fds.is_empty());
            let (sender, number) = open_parcel(&bytes);
            assert!(number >= next[sender], "{sender}'s {number} after {}", next[sender]);
            next[sender] = number + 1;
            came.fetch_add(number, Ordering::Relaxed);
        }
    });
    assert_eq!(came.into_inner(), SENDERS as u64 * (rounds * (rounds - 1) / 2), "each once");
}

#[test]
fn queue_unbounded() {
    let _turn = common::turn();
    let queue = Queue::create(0).unwrap();
    stream(&queue, &queue, times(2000));
    assert!(queue.ring().is_empty());
}

#[test]
fn queue_bounded() {
    let _turn = common::turn();
    let queue = Queue::create(3).unwrap();
    stream(&queue, &queue, times(1500));
}

#[test]
#[cfg_attr(miri, ignore = "sockets are unknown to Miri")]
fn queue_watched() {
    let _turn = common::turn();
    let queue = Queue::create(0).unwrap();
    queue.watch().unwrap();
    stream(&queue, &queue, times(1000));
    assert!(!common::readable(&queue.watch().unwrap()));
}

#[test]
#[cfg_attr(miri, ignore = "sockets are unknown to Miri")]
fn pipe_with_shared_ends() {
    let _turn = common::turn();
    let (reader, writer) = pipe::create(false).unwrap();
    stream(&writer, &reader, times(1500));
}

#[test]
#[cfg_attr(miri, ignore = "sockets are unknown to Miri")]
fn pipe_there_and_back() {
    let _turn = common::turn();
    let (a, b) = pipe::create(true).unwrap();
    let ends = [a, b];
    let rounds = times(2000);
    together(2, |who| {
        let (mine, mut dice) = (&ends[who], Dice(who as u64));
        for number in 0..rounds {
            if who == 0 {
                send_parcel(mine, who, number, some_len(&mut dice));
            }
            let (bytes, _) = recv(mine, soon()).unwrap();
            assert_eq!(open_parcel(&bytes), (1 - who, number));
            if who == 1 {
                send_parcel(mine, who, number, some_len(&mut dice));
            }
        }
    });
}
