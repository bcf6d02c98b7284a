//! What is where in a channel's [front](super::front), and what a record looks like.
//!
//! A record is a header of 16 bytes, then its payload:
//!
//! | bytes of the header | what |
//! |---|---|
//! | 0-3 | length of the payload |
//! | 4 | kind |
//! | 5 | format: the caller's business |
//! | 6-7 | descriptors that travel beside it |
//! | 8-15 | a link: byte offset of the next record; else: the number of descriptors sent last |

use crate::channel::extents::ExtentState;
use crate::channel::ring::{MessageMeta, RingState};

/// Offsets in a channel's front: the rings' words, a queue's or a pipe's own, the extents' words,
/// the bases.
pub(super) const RINGS: usize = 64;
pub(super) const QUEUE: usize = RINGS + 2 * size_of::<RingState>();
pub(super) const TABLE: usize = 4096;
pub(super) const BASES: u64 = 8192;
const _: () = assert!(TABLE + size_of::<ExtentState>() <= BASES as usize);
const _: () = assert!(QUEUE.is_multiple_of(64) && QUEUE <= TABLE);

/// Bytes of a unit, and of a record's header.
pub const UNIT: u64 = 16;

/// The payload is the message.
pub(super) const DATA: u8 = 1;
/// The payload says which extent has the message: number of its slot, bytes of the message.
pub(super) const EXTENT: u8 = 2;
/// The next record is elsewhere.
pub(super) const LINK: u8 = 3;
/// The message is in memory of its own, the last of the descriptors beside it. The payload is as
/// that of an extent, without a slot.
pub(super) const LOOSE: u8 = 4;
/// Payload of an `EXTENT`, and of a `LOOSE`.
pub(super) const EXTENT_BYTES: usize = 16;

pub(super) fn header(kind: u8, meta: MessageMeta, len: usize, more: u64) -> [u8; UNIT as usize] {
    let word = len as u64 | u64::from(kind) << 32 | u64::from(meta.format) << 40 | u64::from(meta.fds) << 48;
    let mut bytes = [0; UNIT as usize];
    bytes[..8].copy_from_slice(&word.to_le_bytes());
    bytes[8..].copy_from_slice(&more.to_le_bytes());
    bytes
}

/// What a header says.
pub(super) struct Header {
    pub kind: u8,
    pub meta: MessageMeta,
    pub len: usize,
    pub more: u64,
}

impl Header {
    pub fn read(bytes: &[u8; UNIT as usize]) -> Header {
        let first = word(bytes, 0);
        let meta = MessageMeta { format: (first >> 40) as u8, fds: (first >> 48) as u16 };
        Header { kind: (first >> 32) as u8, meta, len: first as u32 as usize, more: word(bytes, 1) }
    }
}

/// Word `index` of a payload.
pub(super) fn word(bytes: &[u8], index: usize) -> u64 {
    let mut word = [0; 8];
    word.copy_from_slice(&bytes[8 * index..8 * index + 8]);
    u64::from_le_bytes(word)
}

/// Bytes of a record with `len` bytes of payload.
pub(super) fn record_bytes(len: usize) -> u64 {
    UNIT + (len as u64).next_multiple_of(UNIT)
}
