//! The words of a queue that are not its ring's, and what its statistics say.

use super::Queue;
use super::room::LargeRoom;
use super::takers::{TAKERS, Taker};
use crate::channel::format::{QUEUE, TABLE};
use crate::channel::ring::Totals;
use crate::facade::{AtomicU64, Ordering};
use crate::overlay;
use crate::sync::tasks::Tasks;

overlay! {
    /// All zero at rest.
    #[derive(Debug)]
    pub struct QueueState {
        /// Calls that slept for want of a message.
        pub(super) get_waits: AtomicU64,
        /// Calls that slept for want of room.
        pub(super) put_waits: AtomicU64,
        /// Who waits for room for a large message.
        pub(super) room: LargeRoom,
        /// Messages as tasks.
        pub(super) tasks: Tasks,
        /// Tasks that were taken before the rest was thrown away.
        pub(super) cut: AtomicU64,
        /// Who has taken them.
        pub(super) takers: [Taker; TAKERS],
    }
}

const _: () = assert!(QUEUE + size_of::<QueueState>() <= TABLE);

/// What has gone through a queue, and how it is now.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Stats {
    /// Messages there now.
    pub depth: u64,
    /// What has been counted since the queue was made.
    pub totals: Totals,
    /// Calls that slept for want of a message.
    pub get_waits: u64,
    /// Calls that slept for want of room.
    pub put_waits: u64,
}

impl Queue {
    /// How it is, whoever is using it. No lock is taken: the figures are of nearly the same
    /// instant.
    pub fn stats(&self) -> Stats {
        let (mut totals, depth) = (self.ring().totals(), self.ring().len());
        totals.high_water = totals.high_water.max(depth);
        Stats {
            depth,
            totals,
            get_waits: self.state.get_waits.load(Ordering::Relaxed),
            put_waits: self.state.put_waits.load(Ordering::Relaxed),
        }
    }
}
