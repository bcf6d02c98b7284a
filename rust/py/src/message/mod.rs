//! Python objects to messages and back: the codec where it knows the values, else pickle.
//!
//! Everything is serialised into private memory before any lock is taken, and copied into private
//! memory before it is decoded: Python code never runs under a lock of ours, and what it reads
//! cannot change under its feet. Large buffers are copied once, straight into the message, where
//! their receiver then looks at them (see [`out_of_band`]).

pub mod channel_fds;
mod codec;
mod framing;
mod interrupted;
mod lent;
mod out_of_band;
mod pickler;
mod prepared;
mod reducers;

use std::os::fd::OwnedFd;

use fastmp_core::channel::ring::{INLINE, MessageMeta, Received};
use pyo3::buffer::PyBuffer;
use pyo3::prelude::*;
use pyo3::types::{PyByteArray, PyBytes};

use crate::errors::garbage;

use framing::Scratch;
pub use framing::{Encoded, raw, with_inbox};
pub use prepared::{Now, Prepared, prepare};

/// What goes with the bytes of `send_bytes`.
pub const RAW_BYTES: MessageMeta = MessageMeta { format: framing::RAW, fds: 0 };

/// What the codec made of an object.
pub struct Encoding {
    scratch: Scratch,
    /// None: it is left to pickle.
    format: Option<u8>,
}

/// What the codec does with instances.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Instances {
    /// Where it can.
    Encoded,
    /// They go by pickle: who asks for the message's bytes gets a pickle without having the
    /// classes.
    Pickled,
}

/// Try the codec, which most small messages take.
#[inline]
pub fn encode(obj: &Bound<'_, PyAny>, instances: Instances) -> Encoding {
    let mut scratch = Scratch::take();
    let format = match codec::encode(obj, &mut scratch, instances == Instances::Encoded) {
        codec::Encoded::Plain => Some(framing::VALUE),
        codec::Encoded::WithShared => Some(framing::SHARED_VALUE),
        codec::Encoded::WithInstances => Some(framing::INSTANCES),
        codec::Encoded::Refused => None,
    };
    Encoding { scratch, format }
}

impl Encoding {
    /// The message, if it is complete and small.
    #[inline]
    pub fn small(&self) -> Option<(MessageMeta, &[u8])> {
        let format = self.format.filter(|_| self.scratch.len() <= INLINE)?;
        Some((MessageMeta { format, fds: 0 }, &self.scratch))
    }

    /// The message, whatever it is; it is of the same `obj`.
    pub fn complete(mut self, obj: &Bound<'_, PyAny>) -> PyResult<Encoded> {
        if let Some(format) = self.format {
            return Ok(Encoded::new(format, self.scratch));
        }
        self.scratch.clear();
        let mut encoded = Encoded::new(framing::RAW, self.scratch);
        if let Ok(bytes) = obj.cast_exact::<PyBytes>() {
            encoded.set_bytes(bytes);
            return Ok(encoded);
        }
        if let Ok(array) = obj.cast_exact::<PyByteArray>() {
            encoded.set_bytearray(array)?;
            return Ok(encoded);
        }
        encoded.set_pickled(obj.py(), pickler::pickle(obj)?)?;
        Ok(encoded)
    }
}

/// The object that a message holds.
#[inline]
pub fn decode<'py>(
    py: Python<'py>,
    received: Received,
    inbox: &[u8],
    fds: Vec<OwnedFd>,
) -> PyResult<Bound<'py, PyAny>> {
    decode_then(py, received, inbox, fds, || Ok(()))
}

/// The same. `copied` is called when all bytes have been copied, before any Python code runs: it
/// may say that they are worth nothing.
pub fn decode_then<'py>(
    py: Python<'py>,
    received: Received,
    inbox: &[u8],
    fds: Vec<OwnedFd>,
    copied: impl FnOnce() -> PyResult<()>,
) -> PyResult<Bound<'py, PyAny>> {
    let format = received.meta.format;
    if received.extent.is_none() && format == framing::VALUE {
        copied()?;
        return codec::decode(py, inbox, codec::Encoded::Plain);
    }
    if format == framing::OUT_OF_BAND {
        let (stream, buffers) = out_of_band::take_apart(py, received, inbox)?;
        copied()?;
        return unpickle(py, &stream, Some(&buffers), fds);
    }
    let source = framing::source(&received, inbox);
    let len = source.len();
    match format {
        framing::VALUE | framing::SHARED_VALUE | framing::INSTANCES => match &source {
            framing::Source::Inbox(bytes) => {
                copied()?;
                value(py, format, bytes)
            }
            framing::Source::Extent(..) | framing::Source::Loan(_) => {
                let bytes = source.bytes(py, 0, len)?;
                framing::give_back(py, received);
                copied()?;
                value(py, format, bytes.as_bytes())
            }
        },
        framing::BYTES => {
            let bytes = source.bytes(py, 0, len)?;
            copied()?;
            Ok(bytes.into_any())
        }
        framing::BYTEARRAY => {
            let array = source.bytearray(py, 0, len)?;
            copied()?;
            Ok(array.into_any())
        }
        framing::PICKLE | framing::RAW => {
            let bytes = source.bytes(py, 0, len)?;
            // The extent is free for the next message before any Python code runs.
            framing::give_back(py, received);
            copied()?;
            unpickle(py, &bytes, None, fds)
        }
        _ => {
            // It would be no better the next time.
            copied()?;
            Err(garbage())
        }
    }
}

/// The object in the codec's bytes, whatever signal handlers raise meanwhile.
fn value<'py>(py: Python<'py>, format: u8, bytes: &[u8]) -> PyResult<Bound<'py, PyAny>> {
    match format {
        framing::VALUE => codec::decode(py, bytes, codec::Encoded::Plain),
        framing::SHARED_VALUE => codec::decode(py, bytes, codec::Encoded::WithShared),
        _ => interrupted::uninterrupted(py, || Some(codec::decode(py, bytes, codec::Encoded::WithInstances))),
    }
}

/// The object in a pickle stream, whatever signal handlers raise meanwhile.
fn unpickle<'py>(
    py: Python<'py>,
    stream: &Bound<'py, PyBytes>,
    buffers: Option<&[Bound<'py, PyAny>]>,
    mut fds: Vec<OwnedFd>,
) -> PyResult<Bound<'py, PyAny>> {
    let mut is_over = false;
    interrupted::uninterrupted(py, || {
        if is_over {
            return None;
        }
        // An attempt may take descriptors with it: copies are what it gets. Where there are no
        // numbers left for copies it gets what came, which was secured, and it is the last.
        let copies: Option<Vec<_>> = fds.iter().map(|fd| fd.try_clone().ok()).collect();
        is_over = copies.is_none();
        let given = copies.unwrap_or_else(|| std::mem::take(&mut fds));
        Some(pickler::unpickle(stream, buffers, given))
    })
}

/// A message as `recv_bytes` gives it: what `send_bytes` sent, or an object's pickle.
pub fn decode_bytes<'py>(
    py: Python<'py>,
    received: Received,
    inbox: &[u8],
    fds: Vec<OwnedFd>,
) -> PyResult<Bound<'py, PyBytes>> {
    if is_bytes(&received) {
        if received.extent.is_none() {
            return Ok(PyBytes::new(py, inbox));
        }
        let source = framing::source(&received, inbox);
        return source.bytes(py, 0, source.len());
    }
    let object = decode(py, received, inbox, fds)?;
    let pickled = |py: Python<'py>| Ok(py.import("pickle")?.call_method1("dumps", (&object,))?.cast_into()?);
    interrupted::uninterrupted(py, || Some(pickled(py)))
}

fn is_bytes(received: &Received) -> bool {
    matches!(received.meta.format, framing::RAW | framing::PICKLE)
}

/// What has become of a message that was to go into a buffer.
pub enum Filled<'py> {
    /// It is there: so many bytes.
    Whole(usize),
    /// There was no room for it.
    TooShort(Bound<'py, PyBytes>),
}

/// The same, into a writable buffer from `offset` on: what `send_bytes` sent is copied once.
pub fn decode_into<'py>(
    py: Python<'py>,
    received: Received,
    inbox: &[u8],
    fds: Vec<OwnedFd>,
    (target, offset): (&PyBuffer<u8>, usize),
) -> PyResult<Filled<'py>> {
    let room = target.len_bytes() - offset;
    if is_bytes(&received) {
        let source = framing::source(&received, inbox);
        let len = source.len();
        if len <= room {
            source.read_into(py, target, offset)?;
            framing::give_back(py, received);
            return Ok(Filled::Whole(len));
        }
    }
    let bytes = decode_bytes(py, received, inbox, fds)?;
    let data = bytes.as_bytes();
    if data.len() > room {
        return Ok(Filled::TooShort(bytes));
    }
    framing::Source::Inbox(data).read_into(py, target, offset)?;
    Ok(Filled::Whole(data.len()))
}
