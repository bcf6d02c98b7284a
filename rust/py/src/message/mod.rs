//! Python objects to messages and back: the codec where it knows the values, else pickle.
//!
//! Everything is serialised into private memory before any lock is taken, and copied into private
//! memory before it is decoded: Python code never runs under a lock of ours, and what it reads
//! cannot change under its feet. Large buffers are copied once, straight into the message.

pub mod channel_fds;
mod codec;
mod framing;
mod kept_back;
mod pickler;
mod reducers;

use std::os::fd::OwnedFd;

use fastmp_core::channel::ring::Received;
use pyo3::prelude::*;
use pyo3::types::PyBytes;

use crate::errors::garbage;
use kept_back::Stream;

pub use framing::{Encoded, fill, raw, with_inbox};
pub use kept_back::KeptBack;

/// `obj` as a message.
pub fn encode(obj: &Bound<'_, PyAny>) -> PyResult<Encoded> {
    let mut encoded = Encoded::new();
    match codec::encode(obj, &mut encoded.scratch) {
        codec::Encoded::Plain => {
            encoded.format = framing::VALUE;
            return Ok(encoded);
        }
        codec::Encoded::WithShared => {
            encoded.format = framing::SHARED_VALUE;
            return Ok(encoded);
        }
        codec::Encoded::Refused => encoded.scratch.clear(),
    }
    if let Ok(bytes) = obj.cast_exact::<PyBytes>() {
        encoded.set_bytes(bytes);
        return Ok(encoded);
    }
    encoded.set_pickled(obj.py(), pickler::pickle(obj)?)?;
    Ok(encoded)
}

/// The object that a message holds. If a signal handler's exception ends this, `kept` has the
/// message.
pub fn decode<'py>(
    py: Python<'py>,
    received: Received,
    inbox: &[u8],
    fds: Vec<OwnedFd>,
    kept: &KeptBack,
) -> PyResult<Bound<'py, PyAny>> {
    let format = received.meta.format;
    if received.extent.is_none() && format == framing::VALUE {
        return kept.hand_over(codec::decode(py, inbox, false)?);
    }
    let source = framing::source(&received, inbox);
    let len = source.len();
    match format {
        framing::VALUE | framing::SHARED_VALUE => {
            let with_shared = format == framing::SHARED_VALUE;
            let object = match &source {
                framing::Source::Inbox(bytes) => codec::decode(py, bytes, with_shared),
                framing::Source::Extent(..) => {
                    let bytes = source.bytes(py, 0, len)?;
                    framing::give_back(py, received);
                    codec::decode(py, bytes.as_bytes(), with_shared)
                }
            };
            kept.hand_over(object?)
        }
        framing::BYTES => kept.hand_over(source.bytes(py, 0, len)?.into_any()),
        framing::PICKLE | framing::RAW | framing::OUT_OF_BAND => {
            let (bytes, buffers) = if format == framing::OUT_OF_BAND {
                let (bytes, buffers) = source.out_of_band(py)?;
                (bytes, Some(buffers))
            } else {
                (source.bytes(py, 0, len)?, None)
            };
            // The extent is free for the next message before any Python code runs.
            framing::give_back(py, received);
            kept.unpickle(Stream { bytes, buffers, fds }, 0)
        }
        _ => Err(garbage()),
    }
}

/// A message as `recv_bytes` gives it: what `send_bytes` sent, or an object's pickle.
pub fn decode_bytes<'py>(
    py: Python<'py>,
    received: Received,
    inbox: &[u8],
    fds: Vec<OwnedFd>,
) -> PyResult<Bound<'py, PyBytes>> {
    if matches!(received.meta.format, framing::RAW | framing::PICKLE) {
        let source = framing::source(&received, inbox);
        return source.bytes(py, 0, source.len());
    }
    let object = decode(py, received, inbox, fds, &KeptBack::default())?;
    Ok(py.import("pickle")?.call_method1("dumps", (object,))?.cast_into::<PyBytes>()?)
}
