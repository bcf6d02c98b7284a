//! The only layer that calls the kernel. It knows nothing of locks or channels.

pub mod fdpass;
pub mod forked;
pub mod futex;
pub mod liveness;
pub mod mapping;
pub mod memfd;
pub mod presence;
