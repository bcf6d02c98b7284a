//! `Queue`.

use std::os::fd::{AsFd, BorrowedFd, RawFd};
use std::sync::OnceLock;

use fastmp_core as fcore;
use fastmp_core::channel::ring::{MessageMeta, Payload};
use fastmp_core::channel::transport::Outgoing;
use fastmp_core::{Deadline, Error};
use pyo3::exceptions::{PyAssertionError, PyAttributeError, PyRuntimeError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyTuple, PyType};

use crate::capi::call::{self, Answer, Args, Convention, Method};
use crate::capi::operator::Operator;
use crate::closing::Closing;
use crate::errors::{os_error_saying, raise};
use crate::handles::Descriptor;
use crate::{blocking, handles, message};

/// What `_attach()` is given: descriptors of the segment and of both ends of the socket; maxsize.
type Given = (Py<Descriptor>, Py<Descriptor>, Py<Descriptor>, u64);

/// Seconds to wait at most for a message that readiness has told of: its sender may be stopped.
const ANNOUNCED: f64 = 0.1;

/// A queue of messages; one that has been put survives the process that put it.
#[pyclass(frozen, subclass, module = "fastmp.queues")]
pub struct Queue {
    /// Made by `__init__`, or attached: a subclass may be called with arguments of its own.
    queue: OnceLock<Closing<fcore::channel::queue::Queue>>,
    /// What `close` saw.
    last: OnceLock<Last>,
}

/// A queue at an instant.
#[derive(Clone, Copy, Default)]
struct Last {
    len: u64,
    full: bool,
    used: bool,
    maxsize: u64,
}

impl Last {
    fn of(queue: &fcore::channel::queue::Queue) -> Last {
        let ring = queue.ring();
        Last { len: ring.len(), full: ring.is_full(), used: ring.was_used(), maxsize: ring.maxsize() }
    }
}

impl Queue {
    fn made(&self) -> PyResult<&Closing<fcore::channel::queue::Queue>> {
        self.queue.get().ok_or_else(|| PyAttributeError::new_err("__init__ has not been called"))
    }

    fn open<'a>(slf: &'a Bound<'_, Self>) -> PyResult<&'a Closing<fcore::channel::queue::Queue>> {
        let queue = slf.get().made()?;
        if queue.is_closed() { Err(Self::closed(slf)) } else { Ok(queue) }
    }

    /// The queue as it is, or as `close` saw it.
    fn now(&self, py: Python<'_>) -> PyResult<Last> {
        let last = || self.last.get().copied().unwrap_or_default();
        Ok(self.made()?.attached(py, Last::of).unwrap_or_else(last))
    }

    /// Get an object; wait for one for `timeout` seconds at most if `block`, else raise
    /// `queue.Empty` at once.
    fn get<'py>(slf: &Bound<'py, Self>, block: bool, timeout: Option<f64>) -> PyResult<Bound<'py, PyAny>> {
        let (py, queue) = (slf.py(), slf.get().made()?);
        message::with_inbox(|inbox| {
            let mut fds = Vec::new();
            let received = match queue.attached(py, |queue| queue.try_get(inbox, &mut fds)) {
                // Who was told by the descriptor finds the message, though its sender is not quite
                // done.
                Some(Err(Error::Empty)) if !block => match queue.attached(py, |queue| queue.is_announced()) {
                    Some(true) => {
                        let deadline = Deadline::after(ANNOUNCED);
                        queue.wait(py, |queue| queue.get(inbox, &mut fds, deadline))?
                    }
                    _ => Some(Err(Error::Empty)),
                },
                Some(Err(Error::Empty | Error::WouldBlock | Error::Interrupted)) => {
                    let deadline = blocking::deadline(if block { timeout } else { Some(0.0) });
                    queue.wait(py, |queue| queue.get(inbox, &mut fds, deadline))?
                }
                done => done,
            };
            message::decode(py, received.ok_or_else(|| Self::closed(slf))?.map_err(raise)?, inbox, fds)
        })
    }

    #[inline]
    fn put_one(
        slf: &Bound<'_, Self>,
        queue: &Closing<fcore::channel::queue::Queue>,
        meta: MessageMeta,
        payload: &mut Option<Payload<'_>>,
        fds: &[BorrowedFd<'_>],
        block: bool,
        deadline: Deadline,
    ) -> PyResult<()> {
        let py = slf.py();
        let mut outgoing = Outgoing { meta, payload, fds };
        let put = match queue.attached(py, |queue| queue.try_put(&mut outgoing)) {
            Some(Ok(())) => return Ok(()),
            Some(Err(Error::Full)) if !block => Some(Err(Error::Full)),
            Some(Err(Error::Full | Error::WouldBlock | Error::Interrupted)) => {
                queue.wait(py, |queue| queue.put(&mut outgoing, deadline))?
            }
            done => done,
        };
        put.ok_or_else(|| Self::closed(slf))?.map_err(raise)
    }

    fn closed(slf: &Bound<'_, Self>) -> PyErr {
        match slf.repr() {
            Ok(name) => PyValueError::new_err(format!("Queue {name} is closed")),
            Err(e) => e,
        }
    }
}

#[pymethods]
impl Queue {
    #[new]
    #[pyo3(signature = (*_args, ctx = None, _handle = None, **_kwargs), text_signature = "(maxsize=0, *, ctx=None)")]
    fn new(
        _args: &Bound<'_, PyTuple>,
        ctx: Option<&Bound<'_, PyAny>>,
        _handle: Option<Given>,
        _kwargs: Option<&Bound<'_, PyDict>>,
    ) -> PyResult<Self> {
        let _ = ctx;
        let queue = OnceLock::new();
        if let Some((memfd, reader, writer, _)) = _handle {
            let core =
                fcore::channel::queue::Queue::attach(memfd.get().own()?, reader.get().own()?, writer.get().own()?);
            let _ = queue.set(Closing::new(core.map_err(raise)?));
        }
        Ok(Self { queue, last: OnceLock::new() })
    }

    #[pyo3(signature = (maxsize = 0, *, ctx = None))]
    fn __init__(&self, maxsize: i64, ctx: Option<&Bound<'_, PyAny>>) -> PyResult<()> {
        let _ = ctx;
        let queue = fcore::channel::queue::Queue::create(maxsize.max(0) as u64).map_err(raise)?;
        let again = |_| PyRuntimeError::new_err("__init__ has been called already");
        self.queue.set(Closing::new(queue)).map_err(again)
    }

    #[classmethod]
    fn _attach<'py>(
        cls: &Bound<'py, PyType>,
        memfd: Py<Descriptor>,
        reader: Py<Descriptor>,
        writer: Py<Descriptor>,
        maxsize: u64,
    ) -> PyResult<Bound<'py, PyAny>> {
        handles::attached::<Self>(cls, (memfd, reader, writer, maxsize))
    }

    fn _handle(&self, py: Python<'_>) -> PyResult<(RawFd, RawFd, RawFd, u64)> {
        let handle = self.made()?.attached(py, |queue| {
            let [memfd, reader, writer] = queue.handles().map(handles::raw);
            (memfd, reader, writer, queue.ring().maxsize())
        });
        handle.ok_or_else(|| os_error_saying(libc::EBADF, "handle is closed"))
    }

    /// The most messages that there may be; 0: any number.
    fn _bound(&self, py: Python<'_>) -> PyResult<u64> {
        Ok(self.now(py)?.maxsize)
    }

    /// Pickles the object and appends it.
    ///
    /// Raises:
    /// - queue.Full: there was no room in time.
    /// - ValueError: the queue is closed here.
    /// - Exception: whatever pickling raises; the queue is as before.
    #[pyo3(name = "_put", signature = (obj, block = true, timeout = None))]
    fn put(
        slf: &Bound<'_, Self>,
        obj: &Bound<'_, PyAny>,
        #[pyo3(from_py_with = blocking::truth)] block: bool,
        timeout: Option<f64>,
    ) -> PyResult<()> {
        let (py, queue) = (slf.py(), Self::open(slf)?);
        // Found out before anything is pickled or copied, as in the stdlib.
        let at_once = !block || timeout.is_some_and(|timeout| timeout <= 0.0);
        if at_once && queue.attached(py, |queue| queue.would_be_full()) == Some(true) {
            return Err(raise(Error::Full));
        }
        let deadline = blocking::deadline(if block { timeout } else { Some(0.0) });
        let encoding = message::encode(obj);
        if let Some((meta, bytes)) = encoding.small() {
            return Self::put_one(slf, queue, meta, &mut Some(Payload::Inline(bytes)), &[], block, deadline);
        }
        let encoded = encoding.complete(obj)?;
        let fds: Vec<_> = encoded.fds.iter().map(AsFd::as_fd).collect();
        encoded.with_payload(
            py,
            |bytes| queue.with(|queue| queue.extent(bytes)).unwrap_or(Err(Error::Closed)),
            |payload| Self::put_one(slf, queue, encoded.meta(), payload, &fds, block, deadline),
        )
    }

    /// The number of messages at this instant; once it is closed here, as they were then.
    fn qsize(&self, py: Python<'_>) -> PyResult<u64> {
        let len = self.made()?.attached(py, |queue| queue.ring().len());
        len.map_or_else(|| Ok(self.now(py)?.len), Ok)
    }

    /// Whether there is no message at this instant.
    ///
    /// Raises:
    /// - OSError: it was used, and is closed here.
    fn empty(&self, py: Python<'_>) -> PyResult<bool> {
        match self.made()?.attached(py, |queue| queue.ring().is_empty()) {
            Some(empty) => Ok(empty),
            None if self.now(py)?.used => Err(os_error_saying(libc::EBADF, "handle is closed")),
            None => Ok(true),
        }
    }

    /// Whether `maxsize` messages are there at this instant.
    ///
    /// Once it is closed here, whether they were then.
    fn full(&self, py: Python<'_>) -> PyResult<bool> {
        self.made()?.attached(py, |queue| queue.ring().is_full()).map_or_else(|| Ok(self.now(py)?.full), Ok)
    }

    /// Closes it for this process, and its descriptors with the last call that is under way.
    ///
    /// Messages stay.
    fn close(&self, py: Python<'_>) -> PyResult<()> {
        self.made()?.close(py, |queue| {
            let _ = self.last.set(Last::of(queue));
        });
        Ok(())
    }

    /// Does nothing, as there is no thread.
    ///
    /// Raises:
    /// - AssertionError: the queue has not been closed.
    fn join_thread(slf: &Bound<'_, Self>) -> PyResult<()> {
        if slf.get().made()?.is_closed() {
            return Ok(());
        }
        Err(PyAssertionError::new_err(format!("Queue {} not closed", slf.repr()?)))
    }

    /// Does nothing, as there is no thread.
    fn cancel_join_thread(&self) {}

    /// Waits for a message, which another may take; False if not in time (by default 0.0).
    ///
    /// Raises:
    /// - ValueError: the queue is closed here.
    #[pyo3(signature = (timeout = Some(0.0)))]
    fn _poll(slf: &Bound<'_, Self>, timeout: Option<f64>) -> PyResult<bool> {
        let (queue, deadline) = (Self::open(slf)?, blocking::deadline(timeout));
        match queue.wait(slf.py(), |queue| queue.wait(deadline))? {
            Some(Ok(())) => Ok(true),
            Some(Err(Error::Empty)) => Ok(false),
            Some(Err(other)) => Err(raise(other)),
            None => Err(Self::closed(slf)),
        }
    }

    /// A descriptor that is readable while there is a message, from now on.
    ///
    /// Raises:
    /// - ValueError: the queue is closed here.
    fn _watch(slf: &Bound<'_, Self>) -> PyResult<RawFd> {
        let watched = Self::open(slf)?.attached(slf.py(), |queue| queue.watch().map(handles::raw));
        watched.ok_or_else(|| Self::closed(slf))?.map_err(raise)
    }

    /// A descriptor that is writable while `put` need not wait for room, from now on.
    ///
    /// Raises:
    /// - ValueError: the queue is closed here.
    fn _watch_room(slf: &Bound<'_, Self>) -> PyResult<RawFd> {
        let watched = Self::open(slf)?.attached(slf.py(), |queue| handles::raw(queue.watch_sending()));
        watched.ok_or_else(|| Self::closed(slf))
    }

    #[getter]
    fn _closed(&self) -> PyResult<bool> {
        Ok(self.made()?.is_closed())
    }
}

/// `~queue` is `queue.get()`: see `operator`.
struct GetOne;

impl Method for GetOne {
    type Of = Queue;
    #[inline(always)]
    fn call<'py>(slf: Borrowed<'_, 'py, Queue>, _args: Args<'_, 'py>) -> Answer<'py> {
        Ok(Queue::get(&slf, true, None)?)
    }
}

/// `_get[queue, block, timeout]` is that with arguments.
pub struct Get;

impl Method for Get {
    type Of = Operator;
    fn call<'py>(_slf: Borrowed<'_, 'py, Operator>, args: Args<'_, 'py>) -> Answer<'py> {
        let Some(key) = args.get(0) else { return Ok(Err(PyAssertionError::new_err("a key"))?) };
        let (queue, block, timeout) = key.extract::<(Bound<'_, Queue>, Bound<'_, PyAny>, Option<f64>)>()?;
        Ok(Queue::get(&queue, blocking::truth(&block)?, timeout)?)
    }
}

/// The class that programs see: with the operator.
pub fn class(py: Python<'_>) -> PyResult<Bound<'_, PyType>> {
    call::subclass(py, c"fastmp._native.Queue", call::inverted::<GetOne>())
}

/// `put`: of an object alone here, with other arguments by `_put`.
struct Put;

impl Method for Put {
    type Of = Queue;
    #[inline(always)]
    fn call<'py>(slf: Borrowed<'_, 'py, Queue>, args: Args<'_, 'py>) -> Answer<'py> {
        match (args.len(), args.names(), args.get(0)) {
            (1, None, Some(obj)) => {
                Queue::put(&slf, &obj, true, None)?;
                Ok(slf.py().None().into_bound(slf.py()))
            }
            _ => call::call_python(slf.as_any(), "_put", args),
        }
    }
}

/// Give the class, `Queue` or a subclass, its own `put`.
pub fn install(class: &Bound<'_, PyType>) -> PyResult<()> {
    let doc = c"put($self, obj, block=True, timeout=None)\n--\n\nPickles the object and appends it.\n\nRaises:\n- queue.Full: there was no room in time.\n- ValueError: the queue is closed here.\n- Exception: whatever pickling raises; the queue is as before.";
    class.setattr("put", call::method::<Put>(class, c"put", Convention::Named, doc)?)
}
