//! `Broadcast` and its readers.

use std::os::fd::RawFd;
use std::sync::Arc;

use fastmp_core as fcore;
use fastmp_core::channel::broadcast::{Freed, Lag, MAXSIZE_MOST, Message};
use fastmp_core::channel::ring::Payload;
use fastmp_core::sync::broadcast::Ticket;
use fastmp_core::{Deadline, Error};
use pyo3::exceptions::{PyAssertionError, PyEOFError, PyOverflowError, PyTypeError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::PyType;

use crate::capi::call::{Answer, Args, Method};
use crate::capi::operator::Operator;
use crate::closing::Closing;
use crate::errors::raise;
use crate::handles::Descriptor;
use crate::message::channel_fds;
use crate::{blocking, handles, message};

/// What a broadcast's `_attach()` is given: its segment; maxsize.
type Given = (Py<Descriptor>, u64);
/// What a reader's is given: the same; index, tag and owner of its slot; the next message.
type GivenReader = (Py<Descriptor>, u64, u32, u16, u64, u64);

/// Messages that each of any number of readers gets.
#[pyclass(frozen, subclass, module = "fastmp.broadcast")]
pub struct Broadcast {
    broadcast: Closing<Arc<fcore::channel::broadcast::Broadcast>>,
    lag: Lag,
    maxsize: u64,
    max_bytes: u64,
}

fn closed() -> PyErr {
    PyValueError::new_err("the broadcast is closed")
}

/// An integer, of which only the sign is kept if it is larger than any that is allowed.
struct Bound64(i64);

impl<'a, 'py> FromPyObject<'a, 'py> for Bound64 {
    type Error = PyErr;
    fn extract(value: Borrowed<'a, 'py, PyAny>) -> PyResult<Self> {
        match value.extract::<i64>() {
            Err(error) if error.is_instance_of::<PyOverflowError>(value.py()) => Ok(Bound64(-1)),
            number => number.map(Bound64),
        }
    }
}

fn raise_sending(error: Error) -> PyErr {
    match error {
        Error::Closed => PyValueError::new_err("the broadcast has been shut down"),
        Error::TooLarge => PyValueError::new_err("message too large for max_bytes"),
        other => raise(other),
    }
}

impl Broadcast {
    fn over(core: fcore::channel::broadcast::Broadcast) -> Broadcast {
        let (lag, maxsize, max_bytes) = (core.lag(), core.maxsize(), core.max_bytes());
        Broadcast { broadcast: Closing::new(Arc::new(core)), lag, maxsize, max_bytes }
    }

    /// False: there was no room in time.
    fn send_one(
        &self,
        py: Python<'_>,
        format: u8,
        payload: &mut Option<Payload<'_>>,
        timeout: Option<f64>,
    ) -> PyResult<bool> {
        let mut freed = Freed::default();
        let tried = self.broadcast.attached(py, |broadcast| broadcast.try_send(format, payload, &mut freed));
        if !freed.is_quick_to_drop() {
            py.detach(|| drop(freed));
        }
        let sent = match tried {
            Some(Ok(())) => return Ok(true),
            Some(Err(Error::Full | Error::WouldBlock | Error::Interrupted)) => {
                let until = blocking::deadline(timeout).graced();
                self.broadcast.wait(py, |broadcast| broadcast.send(format, payload, until))?
            }
            done => done,
        };
        match sent.ok_or_else(closed)? {
            Err(Error::Full) => Ok(false),
            sent => sent.map(|()| true).map_err(raise_sending),
        }
    }
}

#[pymethods]
impl Broadcast {
    #[new]
    #[pyo3(signature = (maxsize = Bound64(128), *, max_bytes = None, lag = "block", ctx = None, _handle = None),
           text_signature = "(maxsize=128, *, max_bytes=None, lag='block', ctx=None)")]
    fn new(
        maxsize: Bound64,
        max_bytes: Option<Bound64>,
        lag: &str,
        ctx: Option<&Bound<'_, PyAny>>,
        _handle: Option<Given>,
    ) -> PyResult<Self> {
        let _ = ctx;
        if let Some((memfd, maxsize)) = _handle {
            let core = fcore::channel::broadcast::Broadcast::attach(memfd.get().own()?, maxsize);
            return Ok(Self::over(core.map_err(raise)?));
        }
        let lag = match lag {
            "block" => Lag::Block,
            "skip" => Lag::Skip,
            other => return Err(PyValueError::new_err(format!("lag is 'block' or 'skip', not {other:?}"))),
        };
        let maxsize = u64::try_from(maxsize.0).ok().filter(|maxsize| (1..=MAXSIZE_MOST).contains(maxsize));
        let maxsize = maxsize.ok_or_else(|| PyValueError::new_err(format!("maxsize is 1 to {MAXSIZE_MOST}")))?;
        let max_bytes = match max_bytes {
            None => 0,
            Some(bytes) => u64::try_from(bytes.0)
                .ok()
                .filter(|bytes| *bytes > 0)
                .ok_or_else(|| PyValueError::new_err("max_bytes is a positive number, or None"))?,
        };
        let core = fcore::channel::broadcast::Broadcast::create(maxsize, max_bytes, lag);
        Ok(Self::over(core.map_err(raise)?))
    }

    #[classmethod]
    fn _attach<'py>(cls: &Bound<'py, PyType>, memfd: Py<Descriptor>, maxsize: u64) -> PyResult<Bound<'py, PyAny>> {
        handles::attached::<Self>(cls, (memfd, maxsize))
    }

    fn _handle(&self, py: Python<'_>) -> PyResult<(RawFd, u64)> {
        let handle = self.broadcast.attached(py, |broadcast| handles::raw(broadcast.handle()));
        Ok((handle.ok_or_else(closed)?, self.maxsize))
    }

    /// Sends an object to all readers; waits for the slowest `timeout` seconds at most. False:
    /// there was no room in time.
    ///
    /// Raises:
    /// - ValueError: it is closed here, or shut down; the message is larger than max_bytes.
    /// - TypeError: the object has descriptors, which cannot go to many.
    #[pyo3(signature = (obj, timeout = None))]
    fn _send(&self, obj: &Bound<'_, PyAny>, timeout: Option<f64>) -> PyResult<bool> {
        let py = obj.py();
        // Found out before anything is pickled or copied.
        let at_once = timeout.is_some_and(|timeout| timeout <= 0.0);
        match self.broadcast.attached(py, |broadcast| (at_once && broadcast.would_be_full(), broadcast.is_shut())) {
            None => return Err(closed()),
            Some((_, true)) => return Err(raise_sending(Error::Closed)),
            Some((false, _)) => (),
            // Perhaps because of the dead alone.
            Some((true, _)) => {
                let is_full = |broadcast: &Arc<fcore::channel::broadcast::Broadcast>| {
                    broadcast.drop_dead();
                    broadcast.would_be_full()
                };
                if py.detach(|| self.broadcast.with(is_full)).ok_or_else(closed)? {
                    return Ok(false);
                }
            }
        }
        let encoding = message::encode(obj, message::Instances::Encoded);
        if let Some((meta, bytes)) = encoding.small() {
            return self.send_one(py, meta.format, &mut Some(Payload::Inline(bytes)), timeout);
        }
        let encoded = encoding.complete(obj)?;
        if !encoded.fds.is_empty() {
            encoded.undo.run();
            let class = obj.get_type().fully_qualified_name()?.to_string();
            return Err(PyTypeError::new_err(format!(
                "this {class} cannot be broadcast: it is, or holds, a lock, queue or other object that travels with \
                 descriptors, which go to one receiver alone; send such objects to each reader by itself"
            )));
        }
        let sent = encoded.with_payload(
            py,
            |bytes| self.broadcast.with(|broadcast| broadcast.extent(bytes)).unwrap_or(Err(Error::Closed)),
            |_| Ok(()),
            |payload| self.send_one(py, encoded.meta().format, payload, timeout),
        );
        // Closed while it was pickled, perhaps by what pickles it.
        sent.map_err(|error| if self.broadcast.is_closed() { closed() } else { error })
    }

    /// Who reads: pid, messages behind, messages missed; but for those who are known to be dead.
    fn _readers(&self, py: Python<'_>) -> PyResult<Vec<(u32, u64, u64)>> {
        let readers = py.detach(|| self.broadcast.with(|broadcast| broadcast.readers())).ok_or_else(closed)?;
        Ok(readers.into_iter().map(|reader| (reader.owner.pid(), reader.behind, reader.missed)).collect())
    }

    /// Messages sent, unread messages and their bytes, readers.
    fn _stats(&self, py: Python<'_>) -> PyResult<(u64, u64, u64, usize)> {
        let stats = self.broadcast.attached(py, |broadcast| broadcast.stats()).ok_or_else(closed)?;
        Ok((stats.sent, stats.unread, stats.unread_bytes, stats.readers))
    }

    /// Announces the end: readers get what is there, then EOFError; `send` raises ValueError.
    ///
    /// Raises:
    /// - ValueError: it is closed here.
    fn shutdown(&self, py: Python<'_>) -> PyResult<()> {
        self.broadcast.wait(py, |broadcast| broadcast.shut(Deadline::Never))?.ok_or_else(closed)?.map_err(raise)
    }

    /// Closes it for this process; its readers go on.
    ///
    /// A `send` that waits in another thread raises ValueError.
    fn close(&self, py: Python<'_>) {
        self.broadcast.close(py, |_| ());
    }

    /// Whether `close()` has been called in this process.
    #[getter]
    fn closed(&self) -> bool {
        self.broadcast.is_closed()
    }

    /// Messages that there may be at a time.
    #[getter]
    fn maxsize(&self) -> u64 {
        self.maxsize
    }

    /// Their bytes, at most; None: any number.
    #[getter]
    fn max_bytes(&self) -> Option<u64> {
        (self.max_bytes > 0).then_some(self.max_bytes)
    }

    /// What becomes of slow readers: 'block' or 'skip'.
    #[getter]
    fn lag(&self) -> &'static str {
        match self.lag {
            Lag::Block => "block",
            Lag::Skip => "skip",
        }
    }
}

/// A reader of a broadcast: gets each message from the moment it was made.
#[pyclass(frozen, subclass, module = "fastmp.broadcast")]
pub struct BroadcastReader {
    reader: Closing<fcore::channel::broadcast::Reader>,
    maxsize: u64,
}

impl Drop for BroadcastReader {
    fn drop(&mut self) {
        // As for `close`.
        self.reader.drop_detached();
    }
}

fn closed_reader() -> PyErr {
    PyValueError::new_err("the reader is closed")
}

fn raise_reading(error: Error) -> PyErr {
    match error {
        Error::Closed => closed_reader(),
        Error::PeerGone => PyEOFError::new_err(()),
        Error::NotOwner => PyValueError::new_err("the reader belongs to another process now"),
        Error::OutOfMemory => raise(Error::OutOfMemory),
        other => raise(other),
    }
}

impl BroadcastReader {
    fn recv<'py>(&self, py: Python<'py>, timeout: Option<f64>) -> PyResult<Bound<'py, PyAny>> {
        message::with_inbox(|inbox| {
            let received = match self.reader.attached(py, |reader| reader.try_recv(inbox)) {
                Some(Err(Error::Empty | Error::WouldBlock | Error::TimedOut | Error::Interrupted)) => {
                    let until = blocking::deadline(timeout).graced();
                    self.reader.wait(py, |reader| reader.recv(inbox, until))?
                }
                done => done,
            };
            let Message { received, pin } = received.ok_or_else(closed_reader)?.map_err(raise_reading)?;
            message::decode_then(py, received, inbox, Vec::new(), || match pin {
                Some(pin) => py.detach(|| pin.finish()).map_err(|error| match error {
                    Error::NotOwner if self.reader.is_closed() => closed_reader(),
                    error => raise_reading(error),
                }),
                None => Ok(()),
            })
        })
    }
}

#[pymethods]
impl BroadcastReader {
    #[new]
    #[pyo3(signature = (broadcast = None, *, _handle = None), text_signature = "(broadcast)")]
    fn new(py: Python<'_>, broadcast: Option<&Bound<'_, Broadcast>>, _handle: Option<GivenReader>) -> PyResult<Self> {
        let (maxsize, reader) = match (broadcast, _handle) {
            (Some(of), None) => {
                let of = of.get();
                let joined = of.broadcast.wait(py, |broadcast| broadcast.reader(Deadline::Never))?;
                (of.maxsize, joined.ok_or_else(closed)?)
            }
            (None, Some((memfd, maxsize, index, tag, owner, number))) => {
                let core = fcore::channel::broadcast::Broadcast::attach(memfd.get().own()?, maxsize).map_err(raise)?;
                let (core, ticket) = (Arc::new(core), Ticket { index, tag, owner });
                let arrive = || fcore::channel::broadcast::Reader::attach_or_later(core.clone(), ticket, number);
                (maxsize, blocking::wait(py, arrive)?)
            }
            _ => return Err(PyTypeError::new_err("a reader is made of a broadcast")),
        };
        Ok(BroadcastReader { reader: Closing::new(reader.map_err(raise)?), maxsize })
    }

    #[classmethod]
    fn _attach<'py>(
        cls: &Bound<'py, PyType>,
        memfd: Py<Descriptor>,
        maxsize: u64,
        index: u32,
        tag: u16,
        owner: u64,
        number: u64,
    ) -> PyResult<Bound<'py, PyAny>> {
        handles::attached::<Self>(cls, (memfd, maxsize, index, tag, owner, number))
    }

    fn _handle(slf: &Bound<'_, Self>) -> PyResult<(RawFd, u64, u32, u16, u64, u64)> {
        let (py, this) = (slf.py(), slf.get());
        let here = this.reader.wait(py, |reader| {
            let was_given = reader.is_given();
            let (ticket, number) = reader.ticket(Deadline::Never)?;
            Ok((handles::raw(reader.handle()), ticket, number, was_given))
        })?;
        let (fd, ticket, number, was_given) = here.ok_or_else(closed_reader)?.map_err(raise_reading)?;
        if !was_given {
            let reader = slf.clone().unbind();
            channel_fds::if_it_fails(move || _ = reader.get().reader.with(|reader| reader.keep()));
        }
        Ok((fd, this.maxsize, ticket.index, ticket.tag, ticket.owner, number))
    }

    /// The child `pid`, just started, was given this reader; `execs`: it runs a program.
    fn _give(&self, py: Python<'_>, pid: u32, execs: bool) {
        py.detach(|| self.reader.with(|reader| reader.give(pid, execs)));
    }

    /// Messages that were gone when this reader came for them.
    ///
    /// Raises:
    /// - ValueError: it is closed, or belongs to another process now.
    #[getter]
    fn missed(&self, py: Python<'_>) -> PyResult<u64> {
        let missed = self.reader.wait(py, |reader| reader.missed(Deadline::Never))?;
        missed.ok_or_else(closed_reader)?.map_err(raise_reading)
    }

    /// Leaves: nobody waits for this reader any more. A `recv` that waits in another thread raises
    /// ValueError.
    fn close(&self, py: Python<'_>) {
        self.reader.close(py, |_| ());
    }

    /// Whether `close()` has been called in this process.
    #[getter]
    fn closed(&self) -> bool {
        self.reader.is_closed()
    }
}

/// `_recv_broadcast[reader, timeout]`.
pub struct RecvBroadcast;

impl Method for RecvBroadcast {
    type Of = Operator;
    fn call<'py>(slf: Borrowed<'_, 'py, Operator>, args: Args<'_, 'py>) -> Answer<'py> {
        let Some(key) = args.get(0) else { return Ok(Err(PyAssertionError::new_err("a key"))?) };
        let (reader, timeout) = key.extract::<(Bound<'_, BroadcastReader>, Option<f64>)>()?;
        Ok(reader.get().recv(slf.py(), timeout)?)
    }
}
