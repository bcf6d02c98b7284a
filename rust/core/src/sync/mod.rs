//! Locks over shared words. No unsafe code here: its review is about orders alone.

pub mod barrier;
pub mod condvar;
pub mod event;
pub mod mutex;
pub mod permits;
pub mod probe;
pub mod rlock;
pub mod semaphore;
pub mod spin;
pub mod waitset;
