//! What every wait has in common: it comes up for signals and looks at the living, also when it is
//! woken again and again in vain.
#![cfg(not(loom))]
// A failure is to panic.
#![allow(unsafe_code, clippy::unwrap_used)]

mod common;

use std::time::Duration;

use common::channel::send;
use common::conditions::with_slice;
use common::{Child, KILLED, OK, until, words};
use fastmp_core::arena::Block;
use fastmp_core::channel::queue::Queue;
use fastmp_core::fault::{Action, arm, arm_in_turn};
use fastmp_core::layout::{Kind, Object, WithSlice};
use fastmp_core::sync::mutex::Mutex;
use fastmp_core::sync::robust_semaphore::{Permit, RobustSemaphore, RobustSemaphoreState};
use fastmp_core::sync::semaphore::{MAX, Semaphore};
use fastmp_core::sys::liveness::me;
use fastmp_core::{Deadline, Error, Result, facade};

/// Rounds of being woken in vain: some 300 ms.
const ROUNDS: usize = 100;

/// `wait`, which stops at `woken` whenever it is woken. While it is stopped what it was woken for
/// is gone again. It comes up for signals all the same, though no slice of it ever ends in peace.
fn comes_up(woken: &str, wait: impl Fn() -> Result<()>, give: impl Fn(), take: impl Fn() -> bool) {
    let words = words();
    assert!(take());
    let mut waiter = Child::fork(|| {
        // As the extension has it.
        facade::return_for_signals();
        arm_in_turn(&[(woken, 1, Action::Stop); ROUNDS]);
        assert_eq!(wait(), Err(Error::Interrupted), "{woken}: in peace");
        words.set(0, 1);
    });
    for _ in 0..ROUNDS {
        until("it sleeps", || {
            // The end of a slice stops it as well.
            if common::state(waiter.pid()) == Some('T') {
                waiter.signal(libc::SIGCONT);
            }
            waiter.is_parked()
        });
        if words.get(0) == 1 || common::state(waiter.pid()) == Some('Z') {
            break;
        }
        give();
        until("it is woken, or has come up", || matches!(common::state(waiter.pid()), Some('T' | 'Z')));
        assert!(take(), "{woken}: nobody else is awake");
        waiter.signal(libc::SIGCONT);
        std::thread::sleep(Duration::from_millis(2));
    }
    if words.get(0) == 0 {
        waiter.kill();
        assert_eq!(waiter.wait(), KILLED);
    } else {
        assert_eq!(waiter.wait(), OK);
    }
    assert_eq!(words.get(0), 1, "{woken}: never comes up while it is woken in vain");
}

#[test]
fn a_wait_that_is_woken_in_vain_comes_up_for_signals() {
    let _turn = common::turn();
    let mutex: Object<Mutex, Block> = common::shared(Kind::Lock);
    comes_up(
        "mutex.woken",
        || mutex.lock(me(), Deadline::after(20.0)).map(|_| ()),
        || mutex.unlock(),
        || mutex.try_lock_or_recover(me()).is_some(),
    );
    let semaphore: Object<Semaphore, Block> = common::shared(Kind::Semaphore);
    semaphore.set_up(1, MAX);
    comes_up(
        "semaphore.woken",
        || semaphore.acquire(Deadline::after(20.0)),
        || semaphore.release().unwrap(),
        || semaphore.try_acquire(),
    );
    let row: WithSlice<RobustSemaphoreState, Permit, Block> = with_slice(Kind::RobustSemaphore, 1);
    let robust = || RobustSemaphore::new(row.head(), row.slice());
    comes_up(
        "robust_semaphore.woken",
        || robust().acquire(me(), Deadline::after(20.0)).map(|_| ()),
        || robust().release(me()).unwrap(),
        || robust().try_acquire(me()),
    );
}

extern "C" fn nothing(_: i32) {}

/// A signal every 30 ms, for as long as this process lives.
fn interrupt_often() {
    // SAFETY: the handler does nothing; both calls copy what they are given.
    unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        action.sa_sigaction = nothing as *const () as usize;
        libc::sigaction(libc::SIGALRM, &action, std::ptr::null_mut());
        let often = libc::timeval { tv_sec: 0, tv_usec: 30_000 };
        let timer = libc::itimerval { it_interval: often, it_value: often };
        libc::setitimer(libc::ITIMER_REAL, &timer, std::ptr::null_mut());
    }
}

#[test]
fn signals_put_off_no_look_at_the_holder_of_a_lock_inside_another_wait() {
    let queue = Queue::create(0).unwrap();
    let holder = Child::fork(|| {
        arm("ring.put.before_commit", 1, Action::Stop);
        let _ = send(&queue, b"1", &[], Deadline::Never);
    });
    until("it holds the put lock", || common::state(holder.pid()) == Some('T'));
    let mut putter = Child::fork(|| {
        interrupt_often();
        let end = Deadline::after(10.0);
        while send(&queue, b"2", &[], end) == Err(Error::Interrupted) {}
        assert!(!end.passed(), "not before it had to give up");
    });
    until("it waits", || putter.is_parked());
    // Nobody reaps it: only a thorough look sees that it is dead.
    holder.signal(libc::SIGKILL);
    assert_eq!(putter.wait(), OK);
}
