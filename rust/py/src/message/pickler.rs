//! Python objects to messages and back: the codec where it knows the values, else pickle.
//!
//! Everything is serialised into private memory before any lock is taken, and copied into private memory before it is decoded: Python code
//! never runs under a lock of ours, and what it reads cannot change under its feet.
//!
//! Pickling honours `ForkingPickler` and `copyreg` registrations, also later ones. The C pickler is kept per thread and its memo cleared; an object whose
//! `__reduce__` itself puts something gets another one. Large buffers (protocol 5) are kept out of the stream and copied once, straight into the
//! message.
#![allow(unsafe_code)]

use std::cell::{Cell, RefCell};
use std::ffi::c_char;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex};

use fastmp_core::channel::extents::OwnedExtent;
use fastmp_core::channel::ring::{INLINE, MessageMeta, Payload, Received};
use fastmp_core::sys::mapping::Mapping;
use fastmp_core::{Deadline, Error, Result as CoreResult};
use pyo3::buffer::PyBuffer;
use pyo3::exceptions::PyKeyError;
use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::{PyByteArray, PyBytes, PyDict, PyList};

use crate::blocking;
use crate::errors::{CorruptedError, raise};
use crate::message::{channel_fds, codec};

/// A pickle stream.
const PICKLE: u8 = 0;
/// The codec's bytes.
const VALUE: u8 = 1;
/// What `send_bytes` sent.
pub const RAW: u8 = 2;
/// A `bytes` object.
const BYTES: u8 = 3;
/// A pickle stream with its buffers behind it: `u64` count of buffers, length of the stream, length of each buffer; then the
/// stream; then the buffers, each aligned to 64 bytes.
const OUT_OF_BAND: u8 = 4;

const ALIGN: usize = 64;
/// Smaller buffers are not worth keeping apart.
const APART: usize = 16 << 10;
/// Copies from this on are done detached, and onto huge pages where the system has them.
const DETACHED: usize = 1 << 20;

/// A message's bytes before they are sent: `scratch`, then `parts`.
pub struct Encoded {
    format: u8,
    scratch: Vec<u8>,
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
            // SAFETY: inside a contiguous buffer of bytes that the view keeps in place. Another thread may change it, as
            // it may under any buffer consumer: bytes have no invalid value.
            Part::Buffer(buffer, offset, size) => unsafe {
                std::slice::from_raw_parts(buffer.buf_ptr().cast::<u8>().add(*offset), *size)
            },
        }
    }
}

thread_local! {
    static SCRATCH: Cell<Vec<u8>> = const { Cell::new(Vec::new()) };
    static INBOX: Cell<Vec<u8>> = const { Cell::new(Vec::new()) };
    static PICKLER: RefCell<Option<Pickler>> = const { RefCell::new(None) };
}

/// Run `f` with this thread's receive buffer, emptied; a nested call gets a fresh one.
pub fn with_inbox<T>(f: impl FnOnce(&mut Vec<u8>) -> T) -> T {
    let mut inbox = INBOX.take();
    inbox.clear();
    let result = f(&mut inbox);
    INBOX.set(inbox);
    result
}

/// `obj` as a message.
pub fn encode(obj: &Bound<'_, PyAny>) -> PyResult<Encoded> {
    let py = obj.py();
    let mut encoded = Encoded { format: VALUE, scratch: SCRATCH.take(), parts: Vec::new(), fds: Vec::new() };
    encoded.scratch.clear();
    if codec::encode(obj, &mut encoded.scratch) {
        return Ok(encoded);
    }
    encoded.scratch.clear();
    if let Ok(bytes) = obj.cast_exact::<PyBytes>() {
        encoded.format = BYTES;
        encoded.parts.push(Part::Bytes(bytes.clone().unbind()));
        return Ok(encoded);
    }
    encoded.format = PICKLE;
    let (pickled, fds) = channel_fds::collecting(|| pickle(obj))?;
    encoded.fds = fds;
    if pickled.buffers.is_empty() {
        encoded.parts = pickled.frames.into_iter().map(Part::Bytes).collect();
    } else {
        encoded.split(py, pickled)?;
    }
    Ok(encoded)
}

/// What `send_bytes` is given, as a message: `size` bytes at `offset` of `buffer`, which has them.
pub fn raw(buffer: PyBuffer<u8>, offset: usize, size: usize) -> Encoded {
    let mut scratch = SCRATCH.take();
    scratch.clear();
    Encoded { format: RAW, scratch, parts: vec![Part::Buffer(buffer, offset, size)], fds: Vec::new() }
}

impl Encoded {
    /// Put the stream's lengths in front and its buffers behind.
    fn split(&mut self, py: Python<'_>, pickled: Pickled) -> PyResult<()> {
        let mut parts: Vec<Part> = pickled.frames.into_iter().map(Part::Bytes).collect();
        let stream: usize = parts.iter().map(|part| part.as_slice(py).len()).sum();
        for word in [pickled.buffers.len(), stream] {
            self.scratch.extend_from_slice(&(word as u64).to_le_bytes());
        }
        for buffer in pickled.buffers {
            let raw = buffer.bind(py).call_method0("raw")?;
            let view = PyBuffer::<u8>::get(&raw)?;
            let len = view.len_bytes();
            self.scratch.extend_from_slice(&(len as u64).to_le_bytes());
            parts.push(Part::Buffer(view, 0, len));
        }
        self.parts = parts;
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
        MessageMeta { format: self.format, fds: self.fds.len() as u8 }
    }

    /// Call `send` with the message's payload: the bytes themselves, or an extent from `extent` that has them.
    pub fn with_payload<T>(
        &self,
        py: Python<'_>,
        deadline: Deadline,
        extent: impl Fn(u64) -> CoreResult<OwnedExtent> + Sync,
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
        let hold = slot(py, deadline, || extent(len as u64))?;
        let mapping = hold.map().map_err(raise)?;
        for (at, bytes) in pieces {
            let copied =
                if bytes.len() >= DETACHED { py.detach(|| mapping.write(at, bytes)) } else { mapping.write(at, bytes) };
            copied.map_err(raise)?;
        }
        send(&mut Some(Payload::Extent(hold, len as u64)))
    }
}

impl Drop for Encoded {
    fn drop(&mut self) {
        SCRATCH.set(std::mem::take(&mut self.scratch));
    }
}

/// Every slot of a channel's table is in use for a moment: wait for one, until `deadline` at the latest.
fn slot(
    py: Python<'_>,
    deadline: Deadline,
    attempt: impl Fn() -> CoreResult<OwnedExtent> + Sync,
) -> PyResult<OwnedExtent> {
    let deadline = deadline.with_grace();
    loop {
        match blocking::wait(py, &attempt)? {
            Err(Error::WouldBlock) if deadline.passed() => return Err(raise(Error::Full)),
            Err(Error::WouldBlock) => {
                py.detach(|| std::thread::sleep(std::time::Duration::from_micros(200)));
                py.check_signals()?;
            }
            done => return done.map_err(raise),
        }
    }
}

/// A message's bytes on this side: in the inbox, or still in their extent.
enum Source<'a> {
    Inbox(&'a [u8]),
    Extent(Arc<Mapping>, usize),
}

impl Source<'_> {
    fn len(&self) -> usize {
        match self {
            Source::Inbox(bytes) => bytes.len(),
            Source::Extent(_, len) => *len,
        }
    }

    fn read(&self, py: Python<'_>, at: usize, to: &mut [u8]) -> PyResult<()> {
        let end = at.checked_add(to.len()).filter(|&end| end <= self.len()).ok_or_else(garbage)?;
        match self {
            Source::Inbox(bytes) => to.copy_from_slice(&bytes[at..end]),
            Source::Extent(mapping, _) if to.len() >= DETACHED => {
                on_huge_pages(to);
                py.detach(|| mapping.read(at, to)).map_err(raise)?;
            }
            Source::Extent(mapping, _) => mapping.read(at, to).map_err(raise)?,
        }
        Ok(())
    }

    fn word(&self, py: Python<'_>, index: usize) -> PyResult<usize> {
        let mut word = [0; 8];
        self.read(py, 8 * index, &mut word)?;
        usize::try_from(u64::from_le_bytes(word)).map_err(|_| garbage())
    }

    fn check(&self, at: usize, len: usize) -> PyResult<()> {
        match at.checked_add(len) {
            Some(end) if end <= self.len() => Ok(()),
            _ => Err(garbage()),
        }
    }

    fn bytes<'py>(&self, py: Python<'py>, at: usize, len: usize) -> PyResult<Bound<'py, PyBytes>> {
        self.check(at, len)?;
        // SAFETY: a new bytes object of this length, which nobody else has seen and which is filled before anybody does.
        unsafe {
            let new = ffi::PyBytes_FromStringAndSize(std::ptr::null::<c_char>(), len as isize);
            let new = Bound::from_owned_ptr_or_err(py, new)?.cast_into_unchecked::<PyBytes>();
            let to = std::slice::from_raw_parts_mut(ffi::PyBytes_AsString(new.as_ptr()).cast(), len);
            self.read(py, at, to)?;
            Ok(new)
        }
    }

    fn bytearray<'py>(&self, py: Python<'py>, at: usize, len: usize) -> PyResult<Bound<'py, PyByteArray>> {
        self.check(at, len)?;
        // SAFETY: as in `bytes`.
        unsafe {
            let new = ffi::PyByteArray_FromStringAndSize(std::ptr::null::<c_char>(), len as isize);
            let new = Bound::from_owned_ptr_or_err(py, new)?.cast_into_unchecked::<PyByteArray>();
            let to = std::slice::from_raw_parts_mut(ffi::PyByteArray_AsString(new.as_ptr()).cast(), len);
            self.read(py, at, to)?;
            Ok(new)
        }
    }
}

/// Copy `data` into a writable buffer at `offset`, where the caller has seen that it fits.
pub fn fill(target: &PyBuffer<u8>, offset: usize, data: &[u8]) {
    assert!(offset + data.len() <= target.len_bytes() && !target.readonly());
    // SAFETY: inside a writable contiguous buffer that the view keeps in place (checked above).
    unsafe {
        let to = target.buf_ptr().cast::<u8>().add(offset);
        std::ptr::copy(data.as_ptr(), to, data.len());
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

#[cold]
fn garbage() -> PyErr {
    CorruptedError::new_err("a message that was not written by fastmp")
}

/// The object that a message holds.
pub fn decode<'py>(
    py: Python<'py>,
    received: Received,
    inbox: &[u8],
    fds: Vec<OwnedFd>,
) -> PyResult<Bound<'py, PyAny>> {
    if received.extent.is_none() && received.meta.format == VALUE {
        return codec::decode(py, inbox);
    }
    let source = source(&received, inbox)?;
    let len = source.len();
    match received.meta.format {
        VALUE => codec::decode(py, source.bytes(py, 0, len)?.as_bytes()),
        BYTES => Ok(source.bytes(py, 0, len)?.into_any()),
        PICKLE | RAW => {
            let stream = source.bytes(py, 0, len)?;
            // The extent is free for the next message before any Python code runs.
            drop(received);
            channel_fds::handing_out(fds, || loads(py)?.call1((stream,)))
        }
        OUT_OF_BAND => {
            let (count, stream) = (source.word(py, 0)?, source.word(py, 1)?);
            // Each buffer has its length in front.
            if count > len / 8 {
                return Err(garbage());
            }
            let mut at = 16 + 8 * count;
            let pickled = source.bytes(py, at, stream)?;
            at += stream;
            let buffers = PyList::empty(py);
            for index in 0..count {
                let size = source.word(py, 2 + index)?;
                at = at.next_multiple_of(ALIGN);
                buffers.append(source.bytearray(py, at, size)?)?;
                at += size;
            }
            drop(received);
            let kwargs = PyDict::new(py);
            kwargs.set_item(pyo3::intern!(py, "buffers"), buffers)?;
            channel_fds::handing_out(fds, || loads(py)?.call((pickled,), Some(&kwargs)))
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
    if matches!(received.meta.format, RAW | PICKLE) {
        let source = source(&received, inbox)?;
        return source.bytes(py, 0, source.len());
    }
    let object = decode(py, received, inbox, fds)?;
    Ok(py.import("pickle")?.call_method1("dumps", (object,))?.cast_into::<PyBytes>()?)
}

fn source<'a>(received: &Received, inbox: &'a [u8]) -> PyResult<Source<'a>> {
    match &received.extent {
        Some((hold, len)) => Ok(Source::Extent(hold.map().map_err(raise)?, *len)),
        None => Ok(Source::Inbox(inbox)),
    }
}

fn loads(py: Python<'_>) -> PyResult<&Bound<'_, PyAny>> {
    static LOADS: PyOnceLock<Py<PyAny>> = PyOnceLock::new();
    LOADS.import(py, "pickle", "loads")
}

/// A pickle stream, in frames, and the buffers that were kept out of it.
struct Pickled {
    frames: Vec<Py<PyBytes>>,
    buffers: Vec<Py<PyAny>>,
}

/// A C pickler with its ends.
struct Pickler {
    pickler: Py<PyAny>,
    sink: Py<FrameWriter>,
    apart: Py<OutOfBand>,
}

impl Pickler {
    fn new(py: Python<'_>) -> PyResult<Pickler> {
        let sink = Py::new(py, FrameWriter { frames: Mutex::default() })?;
        let apart = Py::new(py, OutOfBand { buffers: Mutex::default() })?;
        let kwargs = PyDict::new(py);
        kwargs.set_item("buffer_callback", &apart)?;
        let pickler = py.import("pickle")?.getattr("Pickler")?.call((&sink, 5), Some(&kwargs))?;
        let registered =
            py.import("multiprocessing.reduction")?.getattr("ForkingPickler")?.getattr("_extra_reducers")?;
        let standard = py.import("copyreg")?.getattr("dispatch_table")?;
        let tables = Tables { tables: [registered.cast_into()?.unbind(), standard.cast_into()?.unbind()] };
        pickler.setattr("dispatch_table", Py::new(py, tables)?)?;
        Ok(Pickler { pickler: pickler.unbind(), sink, apart })
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}

fn pickle(obj: &Bound<'_, PyAny>) -> PyResult<Pickled> {
    let py = obj.py();
    // Taken, not borrowed: what pickles here may itself put.
    let kept = match PICKLER.take() {
        Some(kept) => kept,
        None => Pickler::new(py)?,
    };
    let pickler = kept.pickler.bind(py);
    let dumped = pickler.call_method1(pyo3::intern!(py, "dump"), (obj,));
    let frames = std::mem::take(&mut *lock(&kept.sink.get().frames));
    let buffers = std::mem::take(&mut *lock(&kept.apart.get().buffers));
    if dumped.is_ok() {
        // After a failure the pickler may be in the middle of anything: it is not used again.
        pickler.call_method0(pyo3::intern!(py, "clear_memo"))?;
        PICKLER.set(Some(kept));
    }
    dumped.map(|_| Pickled { frames, buffers })
}

/// What a pickler writes to.
#[pyclass(frozen)]
struct FrameWriter {
    frames: Mutex<Vec<Py<PyBytes>>>,
}

#[pymethods]
impl FrameWriter {
    fn write(&self, data: &Bound<'_, PyAny>) -> PyResult<usize> {
        let frame = match data.cast_exact::<PyBytes>() {
            Ok(bytes) => bytes.clone(),
            // A large bytearray comes as itself or as a view, and may change later.
            Err(_) => data.py().get_type::<PyBytes>().call1((data,))?.cast_into::<PyBytes>()?,
        };
        let len = frame.as_bytes().len();
        lock(&self.frames).push(frame.unbind());
        Ok(len)
    }
}

/// A pickler's `buffer_callback`: keeps large buffers apart.
#[pyclass(frozen)]
struct OutOfBand {
    buffers: Mutex<Vec<Py<PyAny>>>,
}

#[pymethods]
impl OutOfBand {
    /// True: into the stream.
    fn __call__(&self, buffer: &Bound<'_, PyAny>) -> PyResult<bool> {
        let Ok(raw) = buffer.call_method0("raw") else {
            // Not contiguous: pickle says so.
            return Ok(true);
        };
        if raw.len()? < APART {
            return Ok(true);
        }
        lock(&self.buffers).push(buffer.clone().unbind());
        Ok(false)
    }
}

/// A pickler's dispatch table: ForkingPickler's registrations, then copyreg's, both as they are at the time.
#[pyclass(frozen)]
struct Tables {
    tables: [Py<PyDict>; 2],
}

#[pymethods]
impl Tables {
    fn __getitem__<'py>(&self, key: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyAny>> {
        for table in &self.tables {
            if let Some(reducer) = table.bind(key.py()).get_item(key)? {
                return Ok(reducer);
            }
        }
        Err(PyKeyError::new_err(key.clone().unbind()))
    }
}
