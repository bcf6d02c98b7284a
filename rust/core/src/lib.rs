//! Kill-safe shared memory, locks and channels between processes, for Linux.
//!
//! Floors, top to bottom, of which none imports one above it (`tests/test_floors.py` holds that):
//! `channel -> {arena -> layout, sync} -> overlays -> facade -> sys -> {error, deadline, fault}`;
//! [`objects`] and [`cells`] stand on `arena` and `sync`. Start reading at [`objects`] or
//! [`channel::queue`].
//!
//! Every word that other processes can see lives in a sealed memfd (no names, nothing in
//! `/dev/shm`). Words that grant exclusion name their owner, so that a waiter can prove the owner
//! dead and take over; every structure changes by one atomic store, so that whoever takes over
//! finds it whole.
#![cfg_attr(not(test), warn(missing_docs))]

#[cfg(not(target_os = "linux"))]
compile_error!("fastmp needs Linux: memfd and futex have no counterpart elsewhere");

// Loom models locks; the rest is made of real shared memory.
#[cfg(not(loom))]
pub mod arena;
#[cfg(not(loom))]
pub mod cells;
#[cfg(not(loom))]
pub mod channel;
pub mod deadline;
pub mod error;
pub mod facade;
pub mod fault;
#[cfg(not(loom))]
pub mod layout;
#[cfg(not(loom))]
pub mod objects;
pub mod overlays;
pub mod sync;
pub mod sys;

pub use deadline::Deadline;
pub use error::{Error, Result};
