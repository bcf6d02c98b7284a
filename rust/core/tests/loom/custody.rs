//! Custody of taken messages: the words of a queue as they are used there, on the locks and wait
//! sets as they ship, with deaths between any two steps of a taker.

use fastmp_core::Deadline;
use fastmp_core::facade::{AtomicU64, Ordering, die};
use fastmp_core::sync::custody::{Bay, Content, Custody, CustodyState, Found, Source, Taking, cursor};
use fastmp_core::sync::mutex::Mutex;
use fastmp_core::sync::waitset::WaitSet;
use loom::cell::UnsafeCell;
use loom::sync::Arc;
use loom::thread;

use crate::{model, on, owner};

/// Where a taker dies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Dies {
    Never,
    Locked,
    Begun,
    Committed,
    Held,
    Unlocked,
}

const BAYS: usize = 3;

struct Queue {
    get_lock: Mutex,
    put_lock: Mutex,
    head: AtomicU64,
    tail: u64,
    done: AtomicU64,
    front: AtomicU64,
    state: CustodyState,
    bays: [Bay; BAYS],
    /// What is in the memory of each bay: the numbers of its messages.
    memory: [UnsafeCell<Vec<u64>>; BAYS],
    not_empty: WaitSet,
}

// SAFETY: `memory` is touched by who may alone, which is what the models are to show.
unsafe impl Sync for Queue {}
// SAFETY: as above.
unsafe impl Send for Queue {}

impl Queue {
    fn with(messages: u64) -> Arc<Queue> {
        Arc::new(Queue {
            get_lock: Mutex::new(),
            put_lock: Mutex::new(),
            head: AtomicU64::new(0),
            tail: messages,
            done: AtomicU64::new(0),
            front: AtomicU64::new(0),
            state: CustodyState::new(),
            bays: std::array::from_fn(|_| Bay::new()),
            memory: std::array::from_fn(|_| UnsafeCell::new(Vec::new())),
            not_empty: WaitSet::new(),
        })
    }

    fn custody(&self) -> Custody<'_> {
        Custody::new(&self.state, &self.bays, &self.front)
    }

    fn lock(&self, lock: &Mutex, pid: u32) {
        let _ = lock.lock(owner(pid), Deadline::Never).unwrap();
    }

    fn settle(&self) {
        self.custody().settle(self.head.load(Ordering::SeqCst), self.done.load(Ordering::Acquire));
    }

    fn fill(&self, bay: usize, numbers: &[u64]) {
        // SAFETY: the bay is its owner's; loom checks.
        self.memory[bay].with_mut(|memory| unsafe { (*memory) = numbers.to_vec() });
    }

    fn look(&self, bay: usize, given: u64, most: u64) -> Vec<u64> {
        // SAFETY: as above.
        let memory = self.memory[bay].with(|memory| unsafe { (*memory).clone() });
        memory.into_iter().skip(given as usize).take(most as usize).collect()
    }

    /// Process `pid` takes `most` messages at most; None: it has died.
    fn take(&self, pid: u32, bay: usize, most: u64, dies: Dies) -> Option<Vec<u64>> {
        let dies_at = |step| {
            if dies == step {
                die(pid);
                self.get_lock.ring();
                self.put_lock.ring();
            }
            dies == step
        };
        let custody = self.custody();
        self.lock(&self.get_lock, pid);
        if dies_at(Dies::Locked) {
            return None;
        }
        self.settle();
        let head = self.head.load(Ordering::Relaxed);
        let front = if custody.in_front() > 0 { custody.first_in_front() } else { None };
        let (from, numbers, then) = match front {
            Some(from) => {
                let rest = custody.bay(from).unwrap().rest();
                let numbers = self.look(from, rest.given, most.min(rest.count));
                let then = cursor(rest.given + numbers.len() as u64, 0);
                (Some(from), numbers, then)
            }
            None => {
                let end = self.tail.min(head + most);
                (None, (head..end).collect(), end)
            }
        };
        if numbers.is_empty() {
            self.get_lock.unlock();
            return Some(numbers);
        }
        self.fill(bay, &numbers);
        custody.begin(
            bay,
            &Taking {
                source: from.map_or(Source::Ring, Source::Front),
                number: numbers[0],
                count: numbers.len() as u64,
                intents: [u64::MAX, then],
                content: Content::Records(0),
            },
        );
        if dies_at(Dies::Begun) {
            return None;
        }
        match from {
            Some(from) => custody.advance(from, then),
            None => self.head.store(then, Ordering::SeqCst),
        }
        if dies_at(Dies::Committed) {
            return None;
        }
        custody.taken(bay);
        if dies_at(Dies::Held) {
            return None;
        }
        let drained = from.filter(|&from| custody.drained(from, owner(pid)));
        self.get_lock.unlock();
        if dies_at(Dies::Unlocked) {
            return None;
        }
        if let Some(from) = drained {
            custody.cleaned(from);
        }
        Some(numbers)
    }

    /// Process `pid` looks after the dead.
    fn mend(&self, pid: u32) {
        let (me, custody) = (owner(pid), self.custody());
        for (index, dead) in custody.of_the_dead(me, usize::MAX, false) {
            self.lock(&self.get_lock, pid);
            self.lock(&self.put_lock, pid);
            self.settle();
            let found = custody.take_back(index, dead, me, true, || ());
            self.put_lock.unlock();
            self.get_lock.unlock();
            match found {
                Found::Returned(_) => self.not_empty.notify(),
                Found::ToClean => custody.cleaned(index),
                Found::Changed => (),
            }
        }
    }

    /// All that comes, to one who looks after the dead.
    fn take_all(&self, pid: u32, bay: usize) -> Vec<u64> {
        let mut all = Vec::new();
        loop {
            self.custody().acknowledge(bay, owner(pid));
            let some = self.take(pid, bay, 1, Dies::Never).unwrap();
            if !some.is_empty() {
                all.extend(some);
                continue;
            }
            self.mend(pid);
            if self.custody().in_front() == 0 {
                return all;
            }
        }
    }
}

/// Process 1 dies at a step; two others get all, each message once.
fn taker_dies(dies: Dies, messages: u64, most: u64) {
    model(2, move || {
        let queue = Queue::with(messages);
        let doomed = on(&queue, move |queue| {
            let bay = queue.custody().claim(owner(1), 1).unwrap();
            // Nothing is left to take it by, if the other was quicker.
            assert!(queue.take(1, bay, most, dies).is_none_or(|got| got.is_empty()));
        });
        let other = on(&queue, |queue| {
            let bay = queue.custody().claim(owner(2), 2).unwrap();
            let got = queue.take_all(2, bay);
            queue.custody().leave(bay, owner(2));
            queue.custody().cleaned(bay);
            got
        });
        doomed.join().unwrap();
        let mut got = other.join().unwrap();
        let bay = queue.custody().claim(owner(3), 3).unwrap();
        got.extend(queue.take_all(3, bay));
        got.sort_unstable();
        assert_eq!(got, (0..messages).collect::<Vec<_>>());
        assert_eq!(queue.custody().in_front(), 0);
    });
}

/// As above, where the doomed one surely takes something: it comes first.
fn taker_dies_first(dies: Dies, messages: u64, most: u64) {
    model(1, move || {
        let queue = Queue::with(messages);
        let bay = queue.custody().claim(owner(1), 1).unwrap();
        assert_eq!(queue.take(1, bay, most, dies), None);
        let work = |pid: u32| {
            move |queue: &Queue| {
                let bay = queue.custody().claim(owner(pid), pid).unwrap();
                queue.take_all(pid, bay)
            }
        };
        let other = on(&queue, work(2));
        let mut got = work(3)(&queue);
        got.extend(other.join().unwrap());
        got.sort_unstable();
        assert_eq!(got, (0..messages).collect::<Vec<_>>(), "{dies:?}");
    });
}

#[test]
fn a_taker_dies_while_others_look() {
    for dies in [Dies::Locked, Dies::Begun, Dies::Committed] {
        taker_dies_first(dies, 1, 1);
    }
}

#[test]
fn a_taker_dies_with_something_in_custody() {
    for dies in [Dies::Held, Dies::Unlocked] {
        taker_dies_first(dies, 1, 1);
    }
}

#[test]
fn several_come_back() {
    for dies in [Dies::Committed, Dies::Unlocked] {
        taker_dies_first(dies, 2, 2);
    }
}

#[test]
fn a_taker_dies_at_any_time() {
    taker_dies(Dies::Unlocked, 2, 1);
}

/// Who takes what has come back dies as well.
#[test]
fn the_next_taker_dies_too() {
    for dies in [Dies::Begun, Dies::Committed, Dies::Held, Dies::Unlocked] {
        model(1, move || {
            let queue = Queue::with(2);
            let bay = queue.custody().claim(owner(1), 1).unwrap();
            assert_eq!(queue.take(1, bay, 2, Dies::Unlocked), None);
            queue.mend(2);
            let bay = queue.custody().claim(owner(2), 2).unwrap();
            let doomed = on(&queue, move |queue| {
                assert!(queue.take(2, bay, 1, dies).is_none_or(|got| got.is_empty()));
            });
            let bay = queue.custody().claim(owner(3), 3).unwrap();
            let mut got = queue.take_all(3, bay);
            doomed.join().unwrap();
            got.extend(queue.take_all(3, bay));
            got.sort_unstable();
            assert_eq!(got, [0, 1], "{dies:?}");
        });
    }
}

/// Two mend at a time: it comes back once.
#[test]
fn two_find_a_dead_one() {
    model(2, || {
        let queue = Queue::with(1);
        let bay = queue.custody().claim(owner(1), 1).unwrap();
        assert_eq!(queue.take(1, bay, 1, Dies::Unlocked), None);
        let other = on(&queue, |queue| queue.mend(2));
        queue.mend(3);
        other.join().unwrap();
        assert_eq!(queue.custody().in_front(), 1);
        let bay = queue.custody().claim(owner(3), 3).unwrap();
        assert_eq!(queue.take_all(3, bay), [0]);
    });
}

/// Whoever waits is woken by the one who mends.
#[test]
fn who_waits_is_woken() {
    model(2, || {
        let queue = Queue::with(1);
        let bay = queue.custody().claim(owner(1), 1).unwrap();
        assert_eq!(queue.take(1, bay, 1, Dies::Unlocked), None);
        let waiter = on(&queue, |queue| {
            let bay = queue.custody().claim(owner(2), 2).unwrap();
            loop {
                let ticket = queue.not_empty.prepare_wait();
                let got = queue.take(2, bay, 1, Dies::Never).unwrap();
                if !got.is_empty() {
                    return got;
                }
                let _ = queue.not_empty.park(ticket, u64::MAX);
            }
        });
        queue.mend(3);
        assert_eq!(waiter.join().unwrap(), [0]);
    });
}

/// What has been acknowledged does not come back, and what has not does.
#[test]
fn an_acknowledgement_is_seen() {
    model(2, || {
        let queue = Queue::with(2);
        let doomed = on(&queue, |queue| {
            let bay = queue.custody().claim(owner(1), 1).unwrap();
            assert_eq!(queue.take(1, bay, 1, Dies::Never), Some(vec![0]));
            assert_eq!(queue.custody().acknowledge(bay, owner(1)), None);
            assert_eq!(queue.take(1, bay, 1, Dies::Unlocked), None);
        });
        let other = on(&queue, |queue| queue.mend(2));
        doomed.join().unwrap();
        other.join().unwrap();
        let bay = queue.custody().claim(owner(3), 3).unwrap();
        assert_eq!(queue.take_all(3, bay), [1]);
    });
}

/// A task that was counted does not come back, one that was not does, wherever its taker dies.
#[test]
fn a_task_is_done_once() {
    for counted in [false, true] {
        model(2, move || {
            let queue = Queue::with(2);
            let doomed = on(&queue, move |queue| {
                let bay = queue.custody().claim(owner(1), 1).unwrap();
                assert_eq!(queue.take(1, bay, 2, Dies::Never), Some(vec![0, 1]));
                queue.lock(&queue.get_lock, 1);
                queue.settle();
                queue.custody().begin_done(bay, 1, cursor(1, 0));
                if counted {
                    queue.done.fetch_add(1, Ordering::AcqRel);
                }
                die(1);
                queue.get_lock.ring();
            });
            let other = {
                let queue = queue.clone();
                thread::spawn(move || queue.mend(2))
            };
            doomed.join().unwrap();
            other.join().unwrap();
            let bay = queue.custody().claim(owner(3), 3).unwrap();
            let got = queue.take_all(3, bay);
            assert_eq!(got, if counted { vec![1] } else { vec![0, 1] });
        });
    }
}

/// A thread says that a task is done which another thread of its process has, who acknowledges it
/// just then and leaves; and whoever has the bay next takes something.
#[test]
fn a_task_is_done_by_another_thread() {
    model(2, || {
        let queue = Queue::with(2);
        let bay = queue.custody().claim(owner(1), 1).unwrap();
        assert_eq!(queue.take(1, bay, 1, Dies::Never), Some(vec![0]));
        let taker = on(&queue, move |queue| {
            let _ = queue.custody().acknowledge(bay, owner(1));
            queue.custody().leave(bay, owner(1));
            queue.custody().cleaned(bay);
        });
        let other = on(&queue, |queue| {
            queue.lock(&queue.get_lock, 1);
            queue.settle();
            if let (1, Some(index)) = queue.custody().held_by(owner(1)) {
                queue.custody().begin_done(index, 1, cursor(1, 0));
                queue.done.fetch_add(1, Ordering::AcqRel);
                queue.custody().end_done(index, true);
            }
            queue.get_lock.unlock();
        });
        let mine = queue.custody().claim(owner(2), 2).unwrap();
        assert_eq!(queue.take(2, mine, 1, Dies::Never), Some(vec![1]));
        taker.join().unwrap();
        other.join().unwrap();
        assert!(queue.custody().holds(mine, owner(2)));
        // It comes back if its taker dies.
        die(2);
        let bay = queue.custody().claim(owner(3), 3).unwrap();
        assert_eq!(queue.take_all(3, bay), [1]);
    });
}
