//! Locks over shared words. No unsafe code here: its review is about orders alone.

pub mod barrier;
pub mod broadcast;
pub mod closings;
pub mod condition;
pub mod condvar;
pub mod custody;
pub mod event;
pub mod lock;
pub mod mutex;
pub mod probe;
pub mod robust_semaphore;
pub mod semaphore;
pub mod spin;
pub mod tasks;
pub mod turns;
pub mod waiting;
pub mod waitset;
