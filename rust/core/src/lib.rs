//! Kill-safe shared memory, locks and channels between processes, for Linux.
//!
//! Arrows run one way: `error, deadline -> sys -> facade -> layout -> arena -> sync -> channel`.
//!
//! Every word that other processes can see lives in a sealed memfd (no names, nothing in `/dev/shm`).
//! Words that grant exclusion name their owner, so that a waiter can prove the owner dead and take over;
//! every structure changes by one atomic store, so that whoever takes over finds it whole.
#![cfg_attr(not(test), warn(missing_docs))]

#[cfg(not(target_os = "linux"))]
compile_error!("fastmp needs Linux: memfd and futex have no counterpart elsewhere");

pub mod arena;
// Loom models locks; a ring is made of real shared memory.
#[cfg(not(loom))]
pub mod channel;
pub mod deadline;
pub mod error;
pub mod facade;
pub mod fault;
pub mod layout;
pub mod sync;
pub mod sys;

pub use deadline::Deadline;
pub use error::{Error, Result};
