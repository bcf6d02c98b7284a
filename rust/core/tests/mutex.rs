//! Locks between threads and between processes, with holders and waiters killed at every step.
#![cfg(not(loom))]
// Forks, and lays test words over shared memory; a failure is to panic.
#![allow(unsafe_code, clippy::unwrap_used)]

mod common;

use std::time::{Duration, Instant};

use common::{Child, KILLED, OK, Words, until, words};
use fastmp_core::arena::Block;
use fastmp_core::layout::{Kind, Object};
use fastmp_core::sync::lock::LockState;
use fastmp_core::sync::mutex::{Acquired, Mutex};
use fastmp_core::sys::liveness::{me, thread_id};
use fastmp_core::{Deadline, Error};

fn lock() -> Object<LockState, Block> {
    common::shared(Kind::Lock)
}

fn mutex() -> Object<Mutex, Block> {
    common::shared(Kind::Lock)
}

fn soon() -> Deadline {
    Deadline::after(5.0)
}

fn take(lock: &LockState) -> Acquired {
    lock.lock(me(), thread_id(), soon()).unwrap()
}

/// Count under the lock in steps that lose counts if two are inside.
fn count(lock: &Mutex, words: &Words, times: u64) {
    for _ in 0..times {
        let _ = lock.lock(me(), Deadline::Never).unwrap();
        let seen = words.get(0);
        std::hint::spin_loop();
        words.set(0, seen + 1);
        lock.unlock();
    }
}

#[test]
fn threads_exclude_each_other() {
    let _turn = common::turn();
    let (lock, words) = (mutex(), words());
    std::thread::scope(|s| {
        for _ in 0..4 {
            s.spawn(|| count(&lock, &words, 20_000));
        }
    });
    assert_eq!(words.get(0), 80_000);
    assert_eq!((lock.owner(), lock.recoveries()), (None, 0));
}

#[test]
fn processes_exclude_each_other() {
    let _turn = common::turn();
    let (lock, words) = (mutex(), words());
    let mut children: Vec<_> = (0..4).map(|_| Child::fork(|| count(&lock, &words, 20_000))).collect();
    assert!(children.iter_mut().all(|c| c.wait() == OK));
    assert_eq!(words.get(0), 80_000);
    assert_eq!((lock.owner(), lock.recoveries()), (None, 0));
}

#[test]
fn a_deadline_is_kept() {
    let _turn = common::turn();
    let lock = mutex();
    assert!(lock.try_lock(me()));
    let start = Instant::now();
    assert_eq!(lock.lock(me(), Deadline::after(0.1)), Err(Error::TimedOut));
    assert!(start.elapsed() >= Duration::from_millis(100));
    assert_eq!(lock.lock(me(), Deadline::PASSED), Err(Error::TimedOut));
    lock.unlock();
    assert_eq!(lock.unlock_any(), Err(Error::Overflow));
}

#[test]
fn recursion_belongs_to_one_thread() {
    let _turn = common::turn();
    let lock = lock();
    let (me, thread) = (me(), thread_id());
    assert_eq!(take(&lock), Acquired::Clean);
    assert!(lock.try_reenter(me, thread).unwrap());
    assert_eq!(lock.depth(), 2);
    std::thread::scope(|s| {
        s.spawn(|| {
            assert!(!lock.is_mine(me, thread_id()));
            assert_eq!(lock.unlock_once(me, thread_id()), Err(Error::NotOwner));
        });
    });
    let mut child = Child::fork(|| {
        // A forked child is another process, although its only thread may go by the same name.
        assert!(!lock.is_mine(fastmp_core::sys::liveness::me(), thread));
        assert_eq!(lock.unlock_once(fastmp_core::sys::liveness::me(), thread_id()), Err(Error::NotOwner));
    });
    assert_eq!(child.wait(), OK);
    lock.unlock_once(me, thread).unwrap();
    assert_eq!(lock.depth(), 1);
    lock.unlock_once(me, thread).unwrap();
    assert_eq!((lock.depth(), lock.owner()), (0, None));
}

/// A child that died holding `lock` at `point`; then the lock is had again, and works.
fn dies_holding(point: &str, act: impl Fn(&LockState), reap: bool) {
    let lock = lock();
    let mut child = Child::doomed(point, 1, || act(&lock));
    child.zombify();
    let pid = child.pid();
    assert_eq!(lock.owner().map(|(owner, _)| owner.pid()), Some(pid), "{point}: it died holding");
    if reap {
        assert_eq!(child.wait(), KILLED);
    }
    let start = Instant::now();
    match take(&lock) {
        Acquired::Recovered(owner) => assert_eq!(owner.pid(), pid, "{point}"),
        Acquired::Clean => panic!("{point}: taken as if nobody had died"),
    }
    assert!(start.elapsed() < Duration::from_millis(1000), "{point}: {:?}", start.elapsed());
    assert_eq!((lock.recoveries(), lock.depth()), (1, 1), "{point}");
    assert!(lock.is_mine(me(), thread_id()));
    lock.unlock_once(me(), thread_id()).unwrap();
    let mut next = Child::fork(|| assert_eq!(take(&lock), Acquired::Clean));
    assert_eq!(next.wait(), OK);
    assert!(matches!(take(&lock), Acquired::Recovered(_)), "{point}: a normal end of the holder counts as well");
    assert_eq!(lock.recoveries(), 2);
}

#[test]
fn a_dead_holder_is_found_out_at_every_point() {
    let _turn = common::turn();
    for reap in [true, false] {
        for point in ["lock.acquired", "lock.held"] {
            dies_holding(point, |lock| assert_eq!(take(lock), Acquired::Clean), reap);
        }
        let release = |lock: &LockState| {
            let _ = take(lock);
            let _ = lock.unlock_once(me(), thread_id());
        };
        dies_holding("lock.releasing", release, reap);
    }
}

#[test]
fn a_waiter_takes_over_within_100_ms() {
    let _turn = common::turn();
    // The best of a few: the machine may be busy, the promise is about what is waited for.
    let best = (0..5).map(|_| {
        let (lock, words) = (lock(), words());
        let holder = Child::fork(|| {
            let _ = take(&lock);
            words.set(0, 1);
            std::thread::sleep(Duration::from_secs(60));
        });
        until("the lock is held", || words.get(0) == 1);
        let mut waiter = Child::fork(|| {
            assert!(matches!(lock.lock(me(), thread_id(), Deadline::Never).unwrap(), Acquired::Recovered(_)));
        });
        waiter.until_parked();
        let start = Instant::now();
        // Left a zombie: the harder case.
        holder.kill();
        assert_eq!(waiter.wait(), OK);
        start.elapsed()
    });
    let best = best.min().unwrap();
    assert!(best < Duration::from_millis(100), "{best:?}");
}

/// The holder dies, and so does who takes over from it, as soon as it has: a third one gets the
/// lock.
#[test]
fn a_lock_outlives_who_takes_it_over() {
    let _turn = common::turn();
    for reap in [true, false] {
        for polls in [true, false] {
            let lock = lock();
            let mut holder = Child::fork(|| assert_eq!(take(&lock), Acquired::Clean));
            holder.zombify();
            if reap {
                assert_eq!(holder.wait(), OK);
            }
            let mut heir = Child::doomed("mutex.recovered", 1, || {
                if polls {
                    until("a poll takes over", || lock.try_lock_or_recover(me(), thread_id()).is_some());
                } else {
                    let _ = take(&lock);
                }
            });
            heir.zombify();
            assert_eq!(lock.owner().map(|(owner, _)| owner.pid()), Some(heir.pid()), "it died holding");
            if reap {
                assert_eq!(heir.wait(), KILLED);
            }
            match take(&lock) {
                Acquired::Recovered(owner) => assert_eq!(owner.pid(), heir.pid()),
                Acquired::Clean => panic!("taken as if nobody had died"),
            }
            assert!(lock.is_mine(me(), thread_id()));
            lock.unlock_once(me(), thread_id()).unwrap();
        }
    }
}

#[test]
fn frequent_signals_do_not_hide_a_death() {
    let _turn = common::turn();
    extern "C" fn nothing(_: i32) {}
    let lock = lock();
    let mut holder = Child::fork(|| assert_eq!(take(&lock), Acquired::Clean));
    holder.zombify();
    let mut waiter = Child::fork(|| {
        // SAFETY: a handler that does nothing, without SA_RESTART: it ends system calls.
        let this = unsafe {
            let mut action: libc::sigaction = std::mem::zeroed();
            action.sa_sigaction = nothing as *const () as usize;
            libc::sigaction(libc::SIGUSR1, &action, std::ptr::null_mut());
            libc::pthread_self() as u64
        };
        std::thread::spawn(move || {
            loop {
                std::thread::sleep(Duration::from_millis(7));
                // SAFETY: that thread ends with the process.
                unsafe { libc::pthread_kill(this as libc::pthread_t, libc::SIGUSR1) };
            }
        });
        let start = Instant::now();
        let how = loop {
            match lock.lock(me(), thread_id(), Deadline::Never) {
                Err(Error::Interrupted) => assert!(start.elapsed() < Duration::from_secs(3)),
                done => break done.unwrap(),
            }
        };
        assert!(matches!(how, Acquired::Recovered(_)));
    });
    assert_eq!(waiter.wait(), OK);
    assert_eq!(holder.wait(), OK);
}

#[test]
fn one_of_many_waiters_recovers() {
    let _turn = common::turn();
    for round in 0..10 {
        let (lock, words) = (mutex(), words());
        let holder = Child::fork(|| {
            assert!(lock.try_lock(me()));
            words.set(2, 1);
            std::thread::sleep(Duration::from_secs(60));
        });
        until("the lock is held", || words.get(2) == 1);
        let mut waiters: Vec<_> = (0..6)
            .map(|_| {
                Child::fork(|| {
                    let how = lock.lock(me(), Deadline::Never).unwrap();
                    words.add(usize::from(how != Acquired::Clean), 1);
                    lock.unlock();
                })
            })
            .collect();
        if round % 2 == 0 {
            waiters.iter().for_each(Child::until_parked);
        }
        holder.kill();
        assert!(waiters.iter_mut().all(|w| w.wait() == OK));
        assert_eq!((words.get(0), words.get(1), lock.recoveries()), (5, 1, 1));
    }
}

#[test]
fn a_waiter_that_dies_parking_harms_nobody() {
    let _turn = common::turn();
    let lock = mutex();
    assert!(lock.try_lock(me()));
    let mut doomed = Child::doomed("mutex.parking", 1, || assert!(lock.lock(me(), Deadline::Never).is_err()));
    assert_eq!(doomed.wait(), KILLED);
    let mut other = Child::fork(|| assert_eq!(lock.lock(me(), Deadline::Never), Ok(Acquired::Clean)));
    other.until_parked();
    lock.unlock();
    assert_eq!(other.wait(), OK);
}

#[test]
fn a_wake_up_handed_to_the_dying_is_not_lost() {
    let _turn = common::turn();
    let lock = mutex();
    assert!(lock.try_lock(me()));
    // The first to park is the first to be woken. Its slices end in "woken" too: kill it at the
    // wake-up by arming late.
    let words = words();
    let mut first = Child::fork(|| {
        // A slice is 45 ms long: parked anew some 20 ms before the release, it wakes by the
        // release.
        let _ = lock.lock(me(), Deadline::after(0.3));
        words.set(0, 1);
        fastmp_core::fault::arm("mutex.woken", 1, fastmp_core::fault::Action::Kill);
        let _ = lock.lock(me(), Deadline::Never);
    });
    until("the first waits in earnest", || words.get(0) == 1);
    let mut second = Child::fork(|| assert_eq!(lock.lock(me(), Deadline::Never), Ok(Acquired::Clean)));
    first.until_parked();
    lock.unlock();
    assert_eq!(first.wait(), KILLED);
    assert_eq!(second.wait(), OK);
    assert!(lock.recoveries() <= 1);
}

#[test]
fn a_holder_that_dies_before_its_wake_up_harms_nobody() {
    let _turn = common::turn();
    let (lock, words) = (mutex(), words());
    let mut holder = Child::doomed("mutex.waking", 1, || {
        assert!(lock.try_lock(me()));
        words.set(0, 1);
        until("somebody waits", || words.get(1) == 1);
        lock.unlock();
    });
    until("the lock is held", || words.get(0) == 1);
    let mut waiters: Vec<_> = (0..3)
        .map(|_| {
            Child::fork(|| {
                assert_eq!(lock.lock(me(), Deadline::Never), Ok(Acquired::Clean));
                lock.unlock();
            })
        })
        .collect();
    waiters.iter().for_each(Child::until_parked);
    words.set(1, 1);
    assert_eq!(holder.wait(), KILLED);
    assert!(waiters.iter_mut().all(|w| w.wait() == OK));
    assert_eq!(lock.recoveries(), 0, "it was free");
}

#[test]
fn a_waiter_that_gives_up_hands_its_wake_up_on() {
    let _turn = common::turn();
    // Woken, robbed by a passer-by, out of time: unless it says that others wait, they sleep on
    // when the lock becomes free.
    let lock = mutex();
    let mut rounds = 0;
    while rounds < 10 {
        assert!(lock.try_lock(me()));
        let mut quitter = Child::fork(|| {
            if lock.lock(me(), Deadline::after(0.1)).is_ok() {
                lock.unlock();
            }
        });
        quitter.until_parked();
        let mut other = Child::fork(|| {
            assert_eq!(lock.lock(me(), Deadline::Never), Ok(Acquired::Clean));
            lock.unlock();
        });
        other.until_parked();
        quitter.signal(libc::SIGSTOP);
        // On a busy machine its time may be over: that round does not count.
        until("it stops, or has ended", || matches!(common::state(quitter.pid()), Some('T' | 'Z')));
        rounds += u32::from(common::state(quitter.pid()) == Some('T'));
        lock.unlock();
        let robbed = lock.try_lock_or_recover(me()).is_some();
        std::thread::sleep(Duration::from_millis(100));
        quitter.signal(libc::SIGCONT);
        assert_eq!(quitter.wait(), OK);
        if robbed {
            lock.unlock();
        }
        assert_eq!(other.wait(), OK);
    }
}

/// Processes that hold the lock for long, and take it again as soon as they have given it up: each
/// is quicker than whoever has to wake up. All the same each gets its turns.
#[test]
fn nobody_starves_beside_those_who_come_back_at_once() {
    let _turn = common::turn();
    for processes in [2, 4] {
        let (lock, words) = (mutex(), words());
        // Word 63: all begin; then they have so many turns between them.
        const TURNS: u64 = 1000;
        let mut hogs: Vec<_> = (0..processes)
            .map(|at| {
                let (lock, words) = (&lock, &words);
                Child::fork(move || {
                    until("all are there", || words.get(63) == 1);
                    loop {
                        let _ = lock.lock(me(), Deadline::Never).unwrap();
                        let turn = words.add(62, 1);
                        let start = Instant::now();
                        while turn < TURNS && start.elapsed() < Duration::from_micros(300) {
                            std::hint::spin_loop();
                        }
                        lock.unlock();
                        if turn >= TURNS {
                            break;
                        }
                        words.add(at, 1);
                    }
                })
            })
            .collect();
        words.set(63, 1);
        assert!(hogs.iter_mut().all(|hog| hog.wait() == OK));
        let turns: Vec<_> = (0..processes).map(|at| words.get(at)).collect();
        let least = turns.iter().min().unwrap() * processes as u64;
        assert!(least >= TURNS / 2, "less than half of an even share: {turns:?}");
    }
}

/// A waiter that is always too slow to wake up: from its second time on the lock is kept for it. It
/// never comes, and so who waits beside it has the lock soon after.
#[test]
fn a_release_is_for_the_one_that_has_slept() {
    let _turn = common::turn();
    let (lock, words) = (mutex(), words());
    assert!(lock.try_lock(me()));
    let slow = ("mutex.woken", 1, fastmp_core::fault::Action::Stop);
    let mut waiter = Child::fork(|| {
        fastmp_core::fault::arm_in_turn(&[slow; 4]);
        let _ = lock.lock(me(), Deadline::Never).unwrap();
        words.set(0, 1);
        lock.unlock();
    });
    for round in 0..4 {
        waiter.until_parked();
        std::thread::sleep(Duration::from_millis(3));
        lock.unlock();
        let start = Instant::now();
        if round == 2 {
            // Who does not wait is not kept from it for ever: nobody has it.
            assert!(!lock.try_lock(me()), "it is not reserved");
            assert!(lock.brief_spin(me()));
        } else {
            assert_eq!(lock.lock(me(), Deadline::Never), Ok(Acquired::Clean));
        }
        let took = if round == 2 { Duration::MAX } else { start.elapsed() };
        waiter.until_stopped();
        assert!(round == 0 || took >= Duration::from_micros(200), "round {round}: taken again after {took:?}");
        // Then it is out of patience, and it is long ago that another was served.
        std::thread::sleep(Duration::from_millis(3));
        waiter.signal(libc::SIGCONT);
    }
    waiter.until_parked();
    lock.unlock();
    assert_eq!(waiter.wait(), OK);
    assert_eq!(words.get(0), 1);
}

/// Who waits for a reserved lock, and the waiter that it is reserved for dies or gives up: the next
/// one has it all the same.
#[test]
fn a_reservation_outlives_no_waiter_for_long() {
    let _turn = common::turn();
    for dies in [true, false] {
        for _ in 0..10 {
            let lock = mutex();
            assert!(lock.try_lock(me()));
            // Two waiters: the first is woken again and again in vain, and asks for a reservation.
            let mut waiter = Child::fork(|| {
                let patience = if dies { Deadline::Never } else { Deadline::after(0.05) };
                if lock.lock(me(), patience).is_ok() {
                    lock.unlock();
                }
            });
            waiter.until_parked();
            let asked = Instant::now();
            while asked.elapsed() < Duration::from_millis(5) && lock.owner().is_some() {
                lock.unlock();
                let _ = lock.try_lock_or_recover(me());
            }
            if dies {
                waiter.kill();
            }
            let _ = waiter.wait();
            if lock.owner().is_some_and(|owner| owner == me()) {
                lock.unlock();
            }
            // Neither for ever nor for a slice.
            let start = Instant::now();
            assert!(lock.lock(me(), soon()).is_ok());
            assert!(start.elapsed() < Duration::from_secs(2));
            lock.unlock();
            // And then the lock is as quick as any: nothing of it stays.
            assert!(lock.try_lock(me()));
            lock.unlock();
        }
    }
}

#[test]
fn a_stopped_holder_keeps_its_lock() {
    let _turn = common::turn();
    let (lock, words) = (lock(), words());
    let mut holder = Child::fork(|| {
        let _ = take(&lock);
        words.set(0, 1);
        std::thread::sleep(Duration::from_secs(60));
    });
    until("the lock is held", || words.get(0) == 1);
    holder.signal(libc::SIGSTOP);
    holder.until_stopped();
    assert_eq!(lock.lock(me(), thread_id(), Deadline::after(0.25)), Err(Error::TimedOut));
    assert!(lock.try_lock_or_recover(me(), thread_id()).is_none());
    holder.kill();
    assert_eq!(holder.wait(), KILLED);
    assert!(matches!(take(&lock), Acquired::Recovered(_)));
}

#[test]
fn polling_finds_the_dead_too() {
    let _turn = common::turn();
    for reap in [true, false] {
        let lock = lock();
        let mut child = Child::fork(|| {
            let _ = take(&lock);
            common::exit(0);
        });
        child.zombify();
        if reap {
            child.wait();
        }
        let mut got = None;
        until("a poll takes over", || {
            got = lock.try_lock_or_recover(me(), thread_id());
            got.is_some()
        });
        assert!(matches!(got, Some(Acquired::Recovered(_))));
    }
}

#[test]
fn exclusion_survives_random_kills() {
    let _turn = common::turn();
    let seed = common::seed();
    let mut dice = common::Dice(seed);
    let (lock, words) = (lock(), words());
    // Word 0: who is inside. Word 1: rounds. Word 2: violations.
    let work = || {
        loop {
            let how = lock.lock(me(), thread_id(), Deadline::Never).unwrap();
            let before = words.0[0].swap(u64::from(me().pid()), std::sync::atomic::Ordering::SeqCst);
            if before != 0 && how == Acquired::Clean {
                words.add(2, 1);
            }
            words.add(1, 1);
            if words.get(0) != u64::from(me().pid()) {
                words.add(2, 1);
            }
            words.set(0, 0);
            lock.unlock_once(me(), thread_id()).unwrap();
        }
    };
    let mut children: Vec<_> = (0..4).map(|_| Child::fork(work)).collect();
    for _ in 0..250 {
        std::thread::sleep(Duration::from_micros(dice.below(3000)));
        let at = dice.below(children.len() as u64) as usize;
        children[at].kill();
        assert_eq!(children[at].wait(), KILLED, "seed {seed}");
        children[at] = Child::fork(work);
    }
    let rounds = words.get(1);
    until("work goes on", || words.get(1) > rounds + 100);
    for child in &mut children {
        child.kill();
        assert_eq!(child.wait(), KILLED, "seed {seed}");
    }
    let _ = take(&lock);
    assert_eq!(words.get(2), 0, "two inside at a time; seed {seed}");
}
