//! Locks over shared words. No unsafe code here: its review is about orders alone.

pub mod event;
pub mod mutex;
pub mod rlock;
pub mod semaphore;
pub mod spin;
pub mod waitset;
