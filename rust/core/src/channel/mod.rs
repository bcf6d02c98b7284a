//! Channels: rings of messages in shared memory, and the queue and the pipe made of them;
//! and broadcasts, which many read.

pub mod broadcast;
pub mod extents;
pub mod file;
mod format;
pub mod front;
pub mod mapping_cache;
pub mod pipe;
pub mod queue;
pub mod ring;
pub mod transport;
mod wait;
pub mod writable;
