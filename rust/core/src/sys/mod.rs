//! The only layer that calls the kernel. It knows nothing of locks or channels.

pub mod epoll;
pub mod fork;
pub mod futex;
pub mod hold_token;
pub mod lease;
pub mod lifelines;
mod limits;
pub mod liveness;
pub mod mapping;
pub mod memfd;
#[cfg(miri)]
pub(crate) mod miri;
pub mod owner;
mod pidfd;
mod procfs;
mod signs;
pub mod socket;
pub mod standard;
pub mod starting;
mod streaming;
pub mod twin;
pub mod verified_fd;

/// What of the two things that fastmp cannot do without is missing here, if anything.
pub fn missing() -> Option<&'static str> {
    use rustix::fs::{MemfdFlags, memfd_create};
    use rustix::io::Errno;
    let refused = |errno| matches!(errno, Errno::NOSYS | Errno::PERM | Errno::INVAL);
    let sealed = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    if memfd_create("fastmp-probe", sealed).is_err_and(refused) {
        return Some("memfd_create with seals");
    }
    let word = std::sync::atomic::AtomicU32::new(0);
    if futex::wait(&word, 1, 0).is_err() {
        return Some("futex");
    }
    None
}
