//! Tasks: `join` against `task_done`, and against puts.

use fastmp_core::Deadline;
use fastmp_core::facade::{AtomicU32, AtomicU64, Ordering};
use fastmp_core::sync::tasks::Tasks;
use loom::sync::Arc;
use loom::thread;

use crate::model;

/// What a queue has: how many were put, by a commit.
struct Queue {
    tasks: Tasks,
    put: AtomicU64,
    work: [AtomicU32; 2],
}

impl Queue {
    fn with(put: u64) -> Arc<Queue> {
        Arc::new(Queue { tasks: Tasks::new(), put: AtomicU64::new(put), work: [0; 2].map(AtomicU32::new) })
    }

    fn total(&self) -> u64 {
        self.put.load(Ordering::SeqCst)
    }

    fn join(&self) {
        let joined = self.tasks.join(self.total(), || self.total(), || Ok(None::<()>), Deadline::Never);
        assert_eq!(joined, Ok(None));
    }

    fn do_one(&self, which: usize) {
        // Relaxed: join orders it.
        self.work[which].store(1, Ordering::Relaxed);
        self.tasks.task_done(|| self.total()).unwrap();
    }
}

#[test]
fn who_joins_is_woken_and_sees_what_was_done() {
    model(2, || {
        let queue = Queue::with(2);
        let workers = [0, 1].map(|which| {
            let queue = queue.clone();
            thread::spawn(move || queue.do_one(which))
        });
        queue.join();
        for done in &queue.work {
            assert_eq!(done.load(Ordering::Relaxed), 1);
        }
        workers.into_iter().for_each(|t| t.join().unwrap());
        assert!(queue.tasks.task_done(|| queue.total()).is_err());
    });
}

#[test]
fn two_that_join_are_woken() {
    model(2, || {
        let queue = Queue::with(1);
        let joiner = {
            let queue = queue.clone();
            thread::spawn(move || queue.join())
        };
        let worker = {
            let queue = queue.clone();
            thread::spawn(move || queue.do_one(0))
        };
        queue.join();
        joiner.join().unwrap();
        worker.join().unwrap();
    });
}

/// Once there was no task: that another is put at once does not keep a joiner from having seen it.
#[test]
fn an_instant_without_tasks_is_enough() {
    model(2, || {
        let queue = Queue::with(1);
        let worker = {
            let queue = queue.clone();
            thread::spawn(move || {
                queue.do_one(0);
                queue.put.fetch_add(1, Ordering::SeqCst);
            })
        };
        queue.join();
        assert_eq!(queue.work[0].load(Ordering::Relaxed), 1);
        worker.join().unwrap();
    });
}

/// The rest was thrown away, and is no task any more.
#[test]
fn a_total_that_shrinks_is_seen() {
    model(2, || {
        let queue = Queue::with(2);
        let worker = {
            let queue = queue.clone();
            thread::spawn(move || queue.do_one(0))
        };
        let other = {
            let queue = queue.clone();
            thread::spawn(move || {
                queue.put.swap(1, Ordering::SeqCst);
                queue.tasks.look_again();
            })
        };
        queue.join();
        worker.join().unwrap();
        other.join().unwrap();
        assert_eq!(queue.tasks.unfinished(|| queue.total()), 0);
    });
}
