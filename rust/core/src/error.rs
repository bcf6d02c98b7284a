//! What can go wrong, told apart by what the caller can do about it.

use rustix::io::Errno;

/// The result of a core operation.
pub type Result<T> = std::result::Result<T, Error>;

/// Why an operation did not happen. Nothing was changed when one of these is returned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Error {
    /// The deadline passed first.
    TimedOut,
    /// A signal arrived while parked: run its handlers, then try again.
    Interrupted,
    /// The operation would have to wait, and was asked not to.
    WouldBlock,
    /// Release by a thread that does not hold the lock.
    NotOwner,
    /// Release of what nobody holds, or above a semaphore's maximum.
    Overflow,
    /// The barrier is broken, or was reset.
    Broken,
    /// The channel is at its bound.
    Full,
    /// The channel has no message.
    Empty,
    /// The queue has been shut down, and nothing is left in it.
    ShutDown,
    /// This end was closed, here.
    Closed,
    /// Every copy of the other end is gone.
    PeerGone,
    /// A message that could never fit.
    TooLarge,
    /// Bytes in shared memory that no fastmp process would have written.
    Corrupted(&'static str),
    /// The kernel refused memory.
    OutOfMemory,
    /// Any other refusal by the kernel.
    Os(Errno),
}

impl From<Errno> for Error {
    fn from(errno: Errno) -> Self {
        match errno {
            Errno::INTR => Error::Interrupted,
            // A file-size limit is a limit on memory here: segments are files.
            Errno::NOMEM | Errno::NOSPC | Errno::FBIG => Error::OutOfMemory,
            other => Error::Os(other),
        }
    }
}

impl std::fmt::Display for Error {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Error::TimedOut => f.write_str("timed out"),
            Error::Interrupted => f.write_str("interrupted by a signal"),
            Error::WouldBlock => f.write_str("would block"),
            Error::NotOwner => f.write_str("not held by this thread"),
            Error::Overflow => f.write_str("released too many times"),
            Error::Broken => f.write_str("the barrier is broken"),
            Error::Full => f.write_str("full"),
            Error::Empty => f.write_str("empty"),
            Error::ShutDown => f.write_str("shut down"),
            Error::Closed => f.write_str("closed"),
            Error::PeerGone => f.write_str("the other end is closed"),
            Error::TooLarge => f.write_str("message too large"),
            Error::Corrupted(what) => write!(f, "corrupted shared memory: {what}"),
            Error::OutOfMemory => f.write_str("the kernel refused memory"),
            Error::Os(errno) => write!(f, "{errno}"),
        }
    }
}

impl std::error::Error for Error {}
