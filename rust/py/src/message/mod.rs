//! Python objects to messages and back.

pub mod channel_fds;
pub mod codec;
pub mod pickler;
