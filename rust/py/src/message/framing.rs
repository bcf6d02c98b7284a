//! A message's bytes: how they are laid out, gathered before they are sent, and read where they
//! arrive.
#![allow(unsafe_code)]

use std::cell::Cell;
use std::ffi::c_char;
use std::hint::black_box;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, Ordering};

use fastmp_core as fcore;
use fastmp_core::channel::extents::{Loan, OwnedExtent};
use fastmp_core::channel::ring::{INLINE, MessageMeta, Payload, Received};
use pyo3::buffer::PyBuffer;
use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::types::{PyByteArray, PyBytes};

use super::channel_fds::Undo;
use super::pickler::Pickled;
use crate::blocking;
use crate::errors::{garbage, raise};

/// A pickle stream.
pub const PICKLE: u8 = 0;
/// The codec's bytes, without a trailer.
pub const VALUE: u8 = 1;
/// The codec's bytes, with one.
pub const SHARED_VALUE: u8 = 5;
/// The codec's bytes, with one, and with instances among them: to decode them runs Python code.
pub const INSTANCES: u8 = 6;
/// What `send_bytes` sent.
pub const RAW: u8 = 2;
/// A `bytes` object.
pub const BYTES: u8 = 3;
/// A `bytearray`.
pub const BYTEARRAY: u8 = 7;
/// A pickle stream with its buffers behind it: `u64` count of buffers, length of the stream, length
/// of each buffer, with `PLAIN` or without; then the stream; then the buffers, each aligned to 64
/// bytes.
pub const OUT_OF_BAND: u8 = 4;

/// The buffer was a `bytes` or `bytearray`: what comes of the pickle may be the buffer itself, and
/// be used as one.
pub(super) const PLAIN: u64 = 1 << 63;
pub(super) const ALIGN: usize = 64;
/// Larger buffers a thread does not keep for the next message.
const KEPT: usize = 1 << 20;
/// Copies from this on are done detached, and onto huge pages where the system has them.
const DETACHED: usize = 1 << 20;
/// What the heap is taught to keep for one message.
const TAUGHT: usize = 2 << 20;

/// A message's bytes before they are sent: `scratch`, then `parts`.
pub struct Encoded {
    /// If it is not sent.
    pub undo: Undo,
    pub(super) format: u8,
    pub(super) scratch: Scratch,
    parts: Vec<Part>,
    /// Descriptors that go along.
    pub fds: Vec<OwnedFd>,
}

enum Part {
    Bytes(Py<PyBytes>),
    /// So many bytes from an offset of a buffer.
    Buffer(PyBuffer<u8>, usize, usize),
}

impl Part {
    fn as_slice<'a>(&'a self, py: Python<'a>) -> &'a [u8] {
        match self {
            Part::Bytes(bytes) => bytes.as_bytes(py),
            // SAFETY: inside a contiguous buffer of bytes that the view keeps in place. Another
            // thread may change it, as it may under any buffer consumer: bytes have no invalid
            // value.
            Part::Buffer(buffer, offset, size) => unsafe {
                std::slice::from_raw_parts(buffer.buf_ptr().cast::<u8>().add(*offset), *size)
            },
        }
    }
}

thread_local! {
    static SCRATCH: Cell<Vec<u8>> = const { Cell::new(Vec::new()) };
    static INBOX: Cell<Vec<u8>> = const { Cell::new(Vec::new()) };
}

/// Run `f` with this thread's receive buffer, emptied; a nested call gets a fresh one.
pub fn with_inbox<T>(f: impl FnOnce(&mut Vec<u8>) -> T) -> T {
    INBOX.with(|kept| {
        let mut inbox = kept.take();
        inbox.clear();
        let result = f(&mut inbox);
        if inbox.capacity() > KEPT {
            inbox = Vec::new();
        }
        kept.set(inbox);
        result
    })
}

/// What `send_bytes` is given, as a message: `size` bytes at `offset` of `buffer`, which has them.
pub fn raw(buffer: PyBuffer<u8>, offset: usize, size: usize) -> Encoded {
    let mut encoded = Encoded::new(RAW, Scratch::take());
    encoded.parts.push(Part::Buffer(buffer, offset, size));
    encoded
}

impl Encoded {
    pub(super) fn new(format: u8, scratch: Scratch) -> Encoded {
        Encoded { format, scratch, parts: Vec::new(), fds: Vec::new(), undo: Undo::default() }
    }

    /// It is this object.
    pub(super) fn set_bytes(&mut self, bytes: &Bound<'_, PyBytes>) {
        self.format = BYTES;
        self.parts.push(Part::Bytes(bytes.clone().unbind()));
    }

    /// It is this object.
    pub(super) fn set_bytearray(&mut self, array: &Bound<'_, PyByteArray>) -> PyResult<()> {
        let buffer = PyBuffer::<u8>::get(array)?;
        let len = buffer.len_bytes();
        self.format = BYTEARRAY;
        self.parts.push(Part::Buffer(buffer, 0, len));
        Ok(())
    }

    /// It is this stream; buffers that were kept out of it come behind, with all lengths in front.
    pub(super) fn set_pickled(&mut self, py: Python<'_>, pickled: Pickled) -> PyResult<()> {
        self.format = PICKLE;
        self.fds = pickled.fds;
        self.undo = pickled.undo;
        self.parts = pickled.frames.into_iter().map(Part::Bytes).collect();
        if pickled.buffers.is_empty() {
            return Ok(());
        }
        let stream: usize = self.parts.iter().map(|part| part.as_slice(py).len()).sum();
        for word in [pickled.buffers.len(), stream] {
            self.scratch.extend_from_slice(&(word as u64).to_le_bytes());
        }
        for buffer in pickled.buffers {
            let raw = buffer.bind(py).call_method0("raw")?;
            let view = PyBuffer::<u8>::get(&raw)?;
            let len = view.len_bytes();
            let exporter = raw.getattr(pyo3::intern!(py, "obj"))?;
            let is_plain = exporter.is_instance_of::<PyBytes>() || exporter.is_instance_of::<PyByteArray>();
            let word = len as u64 | if is_plain { PLAIN } else { 0 };
            self.scratch.extend_from_slice(&word.to_le_bytes());
            self.parts.push(Part::Buffer(view, 0, len));
        }
        self.format = OUT_OF_BAND;
        Ok(())
    }

    /// Each piece with its place in the message, and the message's length.
    fn layout<'a>(&'a self, py: Python<'a>) -> (Vec<(usize, &'a [u8])>, usize) {
        let mut pieces = vec![(0, &self.scratch[..])];
        let mut at = self.scratch.len();
        for part in &self.parts {
            if self.format == OUT_OF_BAND && matches!(part, Part::Buffer(..)) {
                at = at.next_multiple_of(ALIGN);
            }
            let bytes = part.as_slice(py);
            pieces.push((at, bytes));
            at += bytes.len();
        }
        (pieces, at)
    }

    /// What goes with the bytes.
    pub fn meta(&self) -> MessageMeta {
        MessageMeta { format: self.format, fds: self.fds.len() as u16 }
    }

    /// Call `send` with the message's payload: the bytes themselves, or an extent from `extent`
    /// that has them. `allow` is asked before one that large is made.
    pub fn with_payload<T>(
        &self,
        py: Python<'_>,
        extent: impl Fn(u64) -> fcore::Result<OwnedExtent> + Sync,
        allow: impl FnOnce(u64) -> PyResult<()>,
        send: impl FnOnce(&mut Option<Payload<'_>>) -> PyResult<T>,
    ) -> PyResult<T> {
        if self.parts.is_empty() && self.scratch.len() <= INLINE {
            return send(&mut Some(Payload::Inline(&self.scratch)));
        }
        if let ([part], []) = (&self.parts[..], &self.scratch[..]) {
            let bytes = part.as_slice(py);
            if bytes.len() <= INLINE {
                return send(&mut Some(Payload::Inline(bytes)));
            }
        }
        let (pieces, len) = self.layout(py);
        if len <= INLINE {
            let mut whole = vec![0; len];
            for (at, bytes) in pieces {
                whole[at..at + bytes.len()].copy_from_slice(bytes);
            }
            return send(&mut Some(Payload::Inline(&whole)));
        }
        allow(len as u64)?;
        // Whoever sends makes its messages, and drops them.
        teach_heap();
        let hold = blocking::wait(py, || extent(len as u64))?.map_err(raise)?;
        for (at, bytes) in pieces {
            let copy = || hold.write(at as u64, bytes);
            let copied = if bytes.len() >= DETACHED { py.detach(copy) } else { copy() };
            copied.map_err(raise)?;
        }
        send(&mut Some(Payload::Extent(hold, len as u64)))
    }
}

/// This thread's send buffer, emptied; a nested message gets a fresh one.
pub struct Scratch(Vec<u8>);

impl Scratch {
    #[inline]
    pub fn take() -> Scratch {
        let mut scratch = SCRATCH.take();
        scratch.clear();
        Scratch(scratch)
    }
}

impl std::ops::Deref for Scratch {
    type Target = Vec<u8>;
    fn deref(&self) -> &Vec<u8> {
        &self.0
    }
}

impl std::ops::DerefMut for Scratch {
    fn deref_mut(&mut self) -> &mut Vec<u8> {
        &mut self.0
    }
}

impl Drop for Scratch {
    #[inline]
    fn drop(&mut self) {
        let mut scratch = std::mem::take(&mut self.0);
        if scratch.capacity() > KEPT {
            scratch = Vec::new();
        }
        SCRATCH.set(scratch);
    }
}

/// A message's bytes on this side: in the inbox, or in their extent still, which may be lent
/// already.
pub(super) enum Source<'a> {
    Inbox(&'a [u8]),
    Extent(&'a OwnedExtent, usize),
    Loan(&'a Loan),
}

impl Source<'_> {
    pub(super) fn len(&self) -> usize {
        match self {
            Source::Inbox(bytes) => bytes.len(),
            Source::Extent(_, len) => *len,
            Source::Loan(loan) => loan.len(),
        }
    }

    pub(super) fn read(&self, py: Python<'_>, at: usize, to: &mut [u8]) -> PyResult<()> {
        let end = at.checked_add(to.len()).filter(|&end| end <= self.len()).ok_or_else(garbage)?;
        match self {
            Source::Inbox(bytes) => to.copy_from_slice(&bytes[at..end]),
            Source::Extent(hold, _) if to.len() >= DETACHED => py.detach(|| hold.read(at as u64, to)).map_err(raise)?,
            Source::Extent(hold, _) => hold.read(at as u64, to).map_err(raise)?,
            Source::Loan(loan) => loan.read(at, to).map_err(raise)?,
        }
        Ok(())
    }

    pub(super) fn check(&self, at: usize, len: usize) -> PyResult<()> {
        match at.checked_add(len) {
            Some(end) if end <= self.len() => Ok(()),
            _ => Err(garbage()),
        }
    }

    pub(super) fn bytes<'py>(&self, py: Python<'py>, at: usize, len: usize) -> PyResult<Bound<'py, PyBytes>> {
        self.check(at, len)?;
        // SAFETY: a new bytes object of this length, which nobody else has seen and which is filled
        // before anybody does.
        unsafe {
            let new = ffi::PyBytes_FromStringAndSize(std::ptr::null::<c_char>(), len as isize);
            let new = Bound::from_owned_ptr_or_err(py, new)?.cast_into_unchecked::<PyBytes>();
            let to = std::slice::from_raw_parts_mut(ffi::PyBytes_AsString(new.as_ptr()).cast(), len);
            on_huge_pages(to);
            self.read(py, at, to)?;
            Ok(new)
        }
    }

    pub(super) fn bytearray<'py>(&self, py: Python<'py>, at: usize, len: usize) -> PyResult<Bound<'py, PyByteArray>> {
        self.check(at, len)?;
        // SAFETY: as in `bytes`.
        unsafe {
            let new = ffi::PyByteArray_FromStringAndSize(std::ptr::null::<c_char>(), len as isize);
            let new = Bound::from_owned_ptr_or_err(py, new)?.cast_into_unchecked::<PyByteArray>();
            let to = std::slice::from_raw_parts_mut(ffi::PyByteArray_AsString(new.as_ptr()).cast(), len);
            on_huge_pages(to);
            self.read(py, at, to)?;
            Ok(new)
        }
    }

    /// Copy all into a writable buffer at `offset`, where the caller has seen that it fits.
    pub(super) fn read_into(&self, py: Python<'_>, target: &PyBuffer<u8>, offset: usize) -> PyResult<()> {
        let end = offset.checked_add(self.len());
        assert!(end.is_some_and(|end| end <= target.len_bytes()) && !target.readonly());
        if self.len() == 0 {
            return Ok(()); // an empty buffer may be nowhere
        }
        // SAFETY: inside a writable contiguous buffer that the view keeps in place (checked above).
        // Another thread may look at it, or write, as it may under any consumer of a buffer: bytes
        // have no invalid value.
        let to = unsafe { std::slice::from_raw_parts_mut(target.buf_ptr().cast::<u8>().add(offset), self.len()) };
        match self {
            Source::Extent(hold, len) if *len >= DETACHED => py.detach(|| hold.read_over(0, to)).map_err(raise),
            _ => self.read(py, 0, to),
        }
    }
}

/// Have glibc's heap keep what large messages use. It gives free memory at its end back as soon as
/// that is twice what was the largest block of its own so far, at first 128 KiB: with messages of
/// more than 64 KiB that is with every other one, and new pages cost more than all the rest. To
/// free one larger block teaches it better, as a program's own large objects do. The block is never
/// touched. Who has set the limits by hand is left alone, and other allocators do not care.
fn teach_heap() {
    static TAUGHT_ALREADY: AtomicBool = AtomicBool::new(false);
    if !TAUGHT_ALREADY.load(Ordering::Relaxed) {
        TAUGHT_ALREADY.store(true, Ordering::Relaxed);
        drop(black_box(Vec::<u8>::with_capacity(TAUGHT)));
    }
}

/// Ask for huge pages under a large result that is about to be written for the first time.
fn on_huge_pages(to: &mut [u8]) {
    const HUGE: usize = 2 << 20;
    let start = (to.as_ptr() as usize).next_multiple_of(HUGE);
    let end = (to.as_ptr() as usize + to.len()) & !(HUGE - 1);
    if end > start {
        // SAFETY: inside a live allocation; the advice changes no content. Refusal costs time only.
        unsafe { libc::madvise(start as *mut libc::c_void, end - start, libc::MADV_HUGEPAGE) };
    }
}

/// The bytes of a message that came into `inbox`, or by an extent.
pub(super) fn source<'a>(received: &'a Received, inbox: &'a [u8]) -> Source<'a> {
    match received.extent.as_deref() {
        Some((hold, len)) => {
            teach_heap();
            Source::Extent(hold, *len)
        }
        None => Source::Inbox(inbox),
    }
}

/// Give up a message's extent, whose bytes have been read: detached if that takes time.
pub(super) fn give_back(py: Python<'_>, received: Received) {
    if received.is_quick_to_drop() {
        drop(received);
    } else {
        py.detach(|| drop(received));
    }
}
