//! `put_many` and `get_many`: several messages at a time.

use std::ops::Range;
use std::os::fd::{AsFd, OwnedFd};

use fastmp_core::channel::extents::OwnedExtent;
use fastmp_core::channel::queue::Found;
use fastmp_core::channel::ring::{MessageMeta, Payload, RUN_BYTES, Received};
use fastmp_core::channel::transport::BatchMessage;
use fastmp_core::deadline::Graced;
use fastmp_core::{Deadline, Error};
use pyo3::exceptions::{PyAssertionError, PyException, PyValueError};
use pyo3::prelude::*;
use pyo3::types::PyList;

use crate::capi::call::{Answer, Args, Method};
use crate::capi::operator::Operator;
use crate::errors::raise;
use crate::queue::{ANNOUNCED, Queue, too_large};
use crate::requeue::no_descriptors;
use crate::{blocking, message};

/// Room for so many results is made at once.
const FEW: usize = 256;

/// Messages before they are put: the bytes of the small ones one behind the other.
#[derive(Default)]
struct Outbox {
    bytes: Vec<u8>,
    entries: Vec<Entry>,
}

struct Entry {
    meta: MessageMeta,
    body: Body,
    fds: Vec<OwnedFd>,
}

enum Body {
    Bytes(Range<usize>),
    Extent(Option<(OwnedExtent, u64)>),
}

impl Outbox {
    fn push_bytes(&mut self, meta: MessageMeta, bytes: &[u8], fds: Vec<OwnedFd>) {
        let start = self.bytes.len();
        self.bytes.extend_from_slice(bytes);
        self.entries.push(Entry { meta, body: Body::Bytes(start..self.bytes.len()), fds });
    }

    /// Add an object's message, which must go into `queue` at all.
    fn push(&mut self, queue: &Bound<'_, Queue>, obj: &Bound<'_, PyAny>, most: u64) -> PyResult<()> {
        let py = queue.py();
        let allow = |size: u64| if most > 0 && size > most { Err(too_large(Some(most), size)) } else { Ok(()) };
        let encoding = message::encode(obj, message::Instances::Encoded);
        if let Some((meta, bytes)) = encoding.small() {
            allow(bytes.len() as u64)?;
            self.push_bytes(meta, bytes, Vec::new());
            return Ok(());
        }
        let mut encoded = encoding.complete(obj)?;
        let (meta, fds) = (encoded.meta(), std::mem::take(&mut encoded.fds));
        let open = Queue::open(queue)?;
        if !fds.is_empty() && Queue::requeues(py, open) {
            return Err(no_descriptors());
        }
        encoded.with_payload(
            py,
            |bytes| open.with(|queue| queue.extent(bytes)).unwrap_or(Err(Error::Closed)),
            allow,
            |payload| {
                match payload.take() {
                    Some(Payload::Inline(bytes)) => {
                        allow(bytes.len() as u64)?;
                        self.push_bytes(meta, bytes, fds);
                    }
                    Some(Payload::Extent(hold, size)) => {
                        self.entries.push(Entry { meta, body: Body::Extent(Some((hold, size))), fds });
                    }
                    None => (),
                }
                Ok(())
            },
        )
    }

    fn messages(&mut self) -> Vec<BatchMessage<'_>> {
        let bytes = &self.bytes;
        let message = |entry: &'_ mut Entry| {
            let payload = match &mut entry.body {
                Body::Bytes(place) => Some(Payload::Inline(&bytes[place.clone()])),
                Body::Extent(extent) => extent.take().map(|(hold, size)| Payload::Extent(hold, size)),
            };
            (entry.meta, payload)
        };
        let (mut payloads, mut messages) = (Vec::new(), Vec::new());
        payloads.extend(self.entries.iter_mut().map(message));
        messages.extend(payloads.into_iter().zip(&self.entries).map(|((meta, payload), entry)| BatchMessage {
            meta,
            payload,
            fds: entry.fds.iter().map(AsFd::as_fd).collect(),
        }));
        messages
    }
}

/// Pickles all of the objects, then appends them, as many at a time as there is room for.
///
/// Raises:
/// - queue.Full, ShutDown: not all went in; `count` of them did.
/// - ValueError: the queue is closed here, or one is larger than `max_bytes`; none was appended.
/// - Exception: whatever iterating and pickling raise; none was appended.
#[pyfunction]
#[pyo3(name = "_put_many", signature = (queue, objects, block = true, timeout = None))]
pub fn put_many(
    queue: &Bound<'_, Queue>,
    objects: &Bound<'_, PyAny>,
    #[pyo3(from_py_with = blocking::truth)] block: bool,
    timeout: Option<f64>,
) -> PyResult<()> {
    let (py, open) = (queue.py(), Queue::open(queue)?);
    let deadline = blocking::deadline(if block { timeout } else { Some(0.0) });
    let most = open.attached(py, |queue| queue.ring().max_bytes()).unwrap_or_default();
    let mut outbox = Outbox::default();
    for obj in objects.try_iter()? {
        outbox.push(queue, &obj?, most)?;
    }
    // One lock is held for as much at a time: enough for a call that keeps the interpreter.
    let is_small = outbox.bytes.len() <= RUN_BYTES;
    let mut messages = outbox.messages();
    let mut done = 0;
    let put = match open.attached(py, |queue| {
        if is_small { queue.try_put_many(&mut messages, &mut done) } else { Err(Error::WouldBlock) }
    }) {
        Some(Err(Error::Full)) if !block => Some(Err(Error::Full)),
        Some(Err(Error::Full | Error::WouldBlock | Error::Interrupted)) => {
            let until = deadline.graced();
            open.wait(py, |queue| queue.put_many(&mut messages, &mut done, until))?
        }
        done => done,
    };
    put.ok_or_else(|| Queue::closed(queue))?.map_err(|e| {
        let error = raise(e);
        match error.value(py).setattr("count", done) {
            Ok(()) => error,
            Err(e) => e,
        }
    })
}

/// Messages that were got, in order.
#[derive(Default)]
struct Inbox {
    metas: Vec<(MessageMeta, usize)>,
    parts: Vec<Part>,
    count: usize,
}

enum Part {
    /// So many, described in `metas`.
    Run(usize),
    One(Received, Vec<u8>, Vec<OwnedFd>),
}

impl Inbox {
    fn add(&mut self, found: Found) {
        let (many, part) = match found {
            Found::Run(many) => (many, Part::Run(many)),
            Found::One(received, bytes, fds) => (1, Part::One(received, bytes, fds)),
        };
        self.count += many;
        self.parts.push(part);
    }

    /// The objects in them. What is wrong with one is no other's loss.
    fn decode<'py>(self, py: Python<'py>, bytes: &[u8]) -> PyResult<Bound<'py, PyList>> {
        let mut objects = Vec::with_capacity(self.count);
        let mut errors = Vec::new();
        let mut keep = |index: usize, decoded: PyResult<Bound<'py, PyAny>>| match decoded {
            Ok(object) => objects.push(object),
            Err(error) => errors.push((index, error)),
        };
        let (mut at, mut index) = (0, 0);
        let mut metas = self.metas.into_iter();
        for part in self.parts {
            match part {
                Part::Run(many) => {
                    for (meta, len) in metas.by_ref().take(many) {
                        let message = &bytes[at..at + len];
                        keep(index, message::decode(py, Received::of_run(meta), message, Vec::new()));
                        at += len;
                        index += 1;
                    }
                }
                Part::One(received, bytes, fds) => {
                    keep(index, message::decode(py, received, &bytes, fds));
                    index += 1;
                }
            }
        }
        let objects = PyList::new(py, objects)?;
        if errors.is_empty() {
            return Ok(objects);
        }
        Err(failed(py, &objects, errors).unwrap_or_else(|e| e))
    }
}

/// What says that some messages could not be made into objects, and has the others.
#[cold]
fn failed(py: Python<'_>, objects: &Bound<'_, PyList>, errors: Vec<(usize, PyErr)>) -> PyResult<PyErr> {
    // An interrupt is not to be hidden in another exception.
    if let Some((_, error)) = errors.iter().find(|(_, error)| !error.is_instance_of::<PyException>(py)) {
        error.value(py).setattr("objects", objects)?;
        return Ok(error.clone_ref(py));
    }
    let cause = errors.first().map(|(_, error)| error.clone_ref(py));
    let errors = errors.into_iter().map(|(index, error)| (index, error.into_value(py)));
    let errors = PyList::new(py, errors.collect::<Vec<_>>())?;
    let class = py.import("fastmp.exceptions")?.getattr("BatchError")?;
    let error = PyErr::from_value(class.call1((objects, errors))?);
    error.set_cause(py, cause);
    Ok(error)
}

fn get_many<'py>(
    slf: &Bound<'py, Queue>,
    most: usize,
    block: bool,
    timeout: Option<f64>,
) -> PyResult<Bound<'py, PyList>> {
    if most == 0 {
        return Err(PyValueError::new_err("max_items must be positive"));
    }
    let (py, queue) = (slf.py(), Queue::open(slf)?);
    message::with_inbox(|bytes| {
        let mut inbox = Inbox { metas: Vec::with_capacity(most.min(FEW)), ..Inbox::default() };
        let (metas, mut call) = (&mut inbox.metas, None);
        let first = match queue.attached(py, |queue| queue.try_get_many(bytes, metas, most)) {
            // As for `get`.
            Some(Err(Error::Empty)) if !block => match Queue::is_announced(py, queue)? {
                Some(true) => {
                    let until = Graced::without(Deadline::after(ANNOUNCED));
                    queue.wait(py, |queue| queue.get_many(bytes, metas, most, until))?
                }
                _ => Some(Err(Error::Empty)),
            },
            Some(Err(Error::Empty | Error::WouldBlock | Error::Interrupted)) => {
                let until = *call.insert(blocking::deadline(if block { timeout } else { Some(0.0) }).graced());
                queue.wait(py, |queue| queue.get_many(bytes, metas, most, until))?
            }
            done => done,
        };
        inbox.add(first.ok_or_else(|| Queue::closed(slf))?.map_err(raise)?);
        // The rest of what is there, with the call's grace. No error comes before what has been
        // got. Where what is got comes back if it must, that is what was taken in one step.
        let goes_on = !Queue::requeues(py, queue);
        while goes_on && inbox.count < most && queue.attached(py, |queue| queue.ring().looks_ready()) == Some(true) {
            let (left, metas) = (most - inbox.count, &mut inbox.metas);
            let until = call.get_or_insert_with(Graced::alone).brief();
            let more = || queue.with(|queue| queue.get_many(bytes, metas, left, until));
            match py.detach(more) {
                Some(Ok(found)) => inbox.add(found),
                _ => break,
            }
        }
        inbox.decode(py, bytes)
    })
}

/// `_get_many[queue, max_items, block, timeout]`.
pub struct GetMany;

impl Method for GetMany {
    type Of = Operator;
    fn call<'py>(_slf: Borrowed<'_, 'py, Operator>, args: Args<'_, 'py>) -> Answer<'py> {
        let Some(key) = args.get(0) else { return Ok(Err(PyAssertionError::new_err("a key"))?) };
        let (queue, most, block, timeout) = key.extract::<(Bound<'_, Queue>, i64, Bound<'_, PyAny>, Option<f64>)>()?;
        let most = usize::try_from(most).unwrap_or(0);
        Ok(get_many(&queue, most, blocking::truth(&block)?, timeout)?.into_any())
    }
}
