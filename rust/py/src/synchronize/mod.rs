//! The classes of `fastmp.synchronize`.

pub mod barrier;
pub mod condition;
pub mod event;
pub mod lock;
pub mod semaphore;
