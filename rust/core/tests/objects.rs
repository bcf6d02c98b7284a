//! Every small object: created, exported, attached; and what is no such object is refused.

use fastmp_core::objects::{Barrier, Condvar, Event, Export, Given, Handle, Lock, Memory, RobustSemaphore, Semaphore};
use fastmp_core::sys::liveness::{me, thread_id};
use fastmp_core::{Error, Result};

fn handle(object: &impl Export) -> Handle {
    object.export(None).expect("a handle")
}

fn given(handle: &Handle) -> Given {
    Given::copy_of(handle).expect("descriptors")
}

#[test]
fn what_is_attached_is_what_was_exported() {
    let lock = Lock::create().expect("memory");
    let twin = Lock::attach(given(&handle(&lock))).expect("a lock");
    assert!(lock.try_lock_once(me(), thread_id()));
    assert!(twin.is_mine(me(), thread_id()));

    let event = Event::create().expect("memory");
    let twin = Event::attach(given(&handle(&event))).expect("an event");
    event.set();
    assert!(twin.is_set());

    let semaphore = Semaphore::create(3, 5).expect("memory");
    let twin = Semaphore::attach(given(&handle(&semaphore))).expect("a semaphore");
    assert_eq!((twin.permits(), twin.most()), (3, 5));

    let robust = RobustSemaphore::create(3).expect("memory");
    let twin = RobustSemaphore::attach(given(&handle(&robust))).expect("a robust semaphore");
    assert!(robust.core().try_acquire(me()));
    assert_eq!((twin.core().free(), twin.core().most()), (2, 3));

    let condvar = Condvar::create().expect("memory");
    let twin = Condvar::attach(given(&handle(&condvar))).expect("a condition");
    let waiting = condvar.core().prepare_wait(me());
    assert_eq!(twin.core().waiters(), 1);
    condvar.core().cancel(waiting, me());
    assert_eq!(twin.core().waiters(), 0);

    let barrier = Barrier::create(2).expect("memory");
    let twin = Barrier::attach(given(&handle(&barrier))).expect("a barrier");
    barrier.core().abort();
    assert!(twin.core().is_broken());
    assert_eq!(twin.core().parties(), 2);

    let memory = Memory::create(16).expect("memory");
    let twin = Memory::attach(given(&handle(&memory)), 16).expect("memory");
    memory.cells((), 8, 2).expect("cells").store(1, 7).expect("inside");
    assert_eq!(twin.cells((), 8, 2).expect("cells").load(1), Some(7));
    assert_eq!(twin.len(), 16);
}

#[test]
fn an_object_outlives_the_one_that_it_was_attached_by() {
    let event = Event::create().expect("memory");
    let sent = handle(&event);
    let twin = Event::attach(given(&sent)).expect("an event");
    drop((event, sent));
    // None of these may be given its block.
    let others: Vec<_> = (0..1000).map(|_| Event::create().expect("memory")).collect();
    others.iter().for_each(|event| event.set());
    assert!(!twin.is_set());
}

#[test]
fn what_is_no_such_object_is_refused() {
    let lock = Lock::create().expect("memory");
    let sent = handle(&lock);
    type Attach = fn(Given) -> Result<()>;
    let attempts: [(&str, Attach); 6] = [
        ("event", |given| Event::attach(given).map(drop)),
        ("semaphore", |given| Semaphore::attach(given).map(drop)),
        ("robust semaphore", |given| RobustSemaphore::attach(given).map(drop)),
        ("condition", |given| Condvar::attach(given).map(drop)),
        ("barrier", |given| Barrier::attach(given).map(drop)),
        ("memory", |given| Memory::attach(given, 1).map(drop)),
    ];
    for (name, attach) in attempts {
        assert!(matches!(attach(given(&sent)), Err(Error::Corrupted(_))), "{name}");
    }
    for offset in [8, 64 << 10, usize::MAX] {
        let wrong = Given { offset: sent.offset().wrapping_add(offset), ..given(&sent) };
        assert!(matches!(Lock::attach(wrong), Err(Error::Corrupted(_))), "{offset}");
    }
    let memory = Memory::create(100).expect("memory");
    assert!(matches!(Memory::attach(given(&handle(&memory)), 4096), Err(Error::Corrupted(_))));
}

#[test]
fn more_than_a_word_counts_is_refused() {
    assert!(matches!(Barrier::create(1 << 32), Err(Error::OutOfMemory)));
    assert!(matches!(RobustSemaphore::create(usize::MAX), Err(Error::OutOfMemory)));
    assert!(matches!(Memory::create(usize::MAX), Err(Error::OutOfMemory)));
}
