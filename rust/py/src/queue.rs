//! `Queue`.

use std::os::fd::{AsFd, RawFd};
use std::sync::atomic::{AtomicBool, Ordering};

use fastmp_core::Error;
use fastmp_core::channel::queue::Queue as Core;
use fastmp_core::channel::transport::Outgoing;
use pyo3::exceptions::{PyAssertionError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::PyType;

use crate::errors::raise;
use crate::handles::Descriptor;
use crate::{blocking, handles, message};

/// What `_attach()` is given: descriptors of the segment and of both ends of the socket; maxsize.
type Given = (Py<Descriptor>, Py<Descriptor>, Py<Descriptor>, u64);

/// A queue of objects that many processes put into and get from.
///
/// An object is pickled by `put` itself and is then in shared memory: the process that put it may exit or be killed.
#[pyclass(frozen, subclass, module = "fastmp.queues")]
pub struct Queue {
    queue: Core,
    closed: AtomicBool,
}

impl Queue {
    fn check_open(slf: &Bound<'_, Self>) -> PyResult<()> {
        if slf.get().closed.load(Ordering::Relaxed) {
            return Err(PyValueError::new_err(format!("Queue {} is closed", slf.repr()?)));
        }
        Ok(())
    }
}

#[pymethods]
impl Queue {
    #[new]
    #[pyo3(signature = (maxsize = 0, *, ctx = None, _handle = None))]
    fn new(maxsize: i64, ctx: Option<&Bound<'_, PyAny>>, _handle: Option<Given>) -> PyResult<Self> {
        let _ = ctx;
        let queue = match _handle {
            Some((memfd, reader, writer, _)) => {
                Core::attach(memfd.get().own()?, reader.get().own()?, writer.get().own()?)
            }
            None => Core::create(maxsize.max(0) as u64),
        };
        Ok(Self { queue: queue.map_err(raise)?, closed: AtomicBool::new(false) })
    }

    #[classmethod]
    fn _attach<'py>(
        cls: &Bound<'py, PyType>,
        memfd: Py<Descriptor>,
        reader: Py<Descriptor>,
        writer: Py<Descriptor>,
        maxsize: u64,
    ) -> PyResult<Bound<'py, PyAny>> {
        handles::attached(cls, (memfd, reader, writer, maxsize))
    }

    fn _handle(&self) -> (RawFd, RawFd, RawFd, u64) {
        let [memfd, reader, writer] = self.queue.handles().map(handles::raw);
        (memfd, reader, writer, self.queue.ring().maxsize())
    }

    /// Put `obj`; wait for room for `timeout` seconds at most if `block`, else raise `queue.Full` at once.
    #[pyo3(signature = (obj, block = true, timeout = None))]
    fn put(slf: &Bound<'_, Self>, obj: &Bound<'_, PyAny>, block: bool, timeout: Option<f64>) -> PyResult<()> {
        Self::check_open(slf)?;
        let (py, queue) = (slf.py(), &slf.get().queue);
        let deadline = blocking::deadline(if block { timeout } else { Some(0.0) });
        let encoded = message::encode(obj)?;
        let fds: Vec<_> = encoded.fds.iter().map(AsFd::as_fd).collect();
        encoded.with_payload(
            py,
            deadline,
            |bytes| queue.extent(bytes),
            |payload| {
                let mut outgoing = Outgoing { meta: encoded.meta(), payload, fds: &fds };
                match queue.try_put(&mut outgoing) {
                    Err(Error::Full) if !block => Err(raise(Error::Full)),
                    Err(Error::Full | Error::WouldBlock | Error::Interrupted) => {
                        blocking::wait(py, || queue.put(&mut outgoing, deadline))?.map_err(raise)
                    }
                    done => done.map_err(raise),
                }
            },
        )
    }

    /// Put `obj` if there is room, else raise `queue.Full`.
    fn put_nowait(slf: &Bound<'_, Self>, obj: &Bound<'_, PyAny>) -> PyResult<()> {
        Self::put(slf, obj, false, None)
    }

    /// Get an object; wait for one for `timeout` seconds at most if `block`, else raise `queue.Empty` at once.
    #[pyo3(signature = (block = true, timeout = None))]
    fn get<'py>(slf: &Bound<'py, Self>, block: bool, timeout: Option<f64>) -> PyResult<Bound<'py, PyAny>> {
        Self::check_open(slf)?;
        let (py, queue) = (slf.py(), &slf.get().queue);
        message::with_inbox(|inbox| {
            let mut fds = Vec::new();
            let received = match queue.try_get(inbox, &mut fds) {
                Ok(received) => received,
                Err(Error::Empty) if !block => return Err(raise(Error::Empty)),
                Err(Error::Empty | Error::WouldBlock | Error::Interrupted) => {
                    let deadline = blocking::deadline(if block { timeout } else { Some(0.0) });
                    blocking::wait(py, || queue.get(inbox, &mut fds, deadline))?.map_err(raise)?
                }
                Err(other) => return Err(raise(other)),
            };
            message::decode(py, received, inbox, fds)
        })
    }

    /// Get an object if there is one, else raise `queue.Empty`.
    fn get_nowait<'py>(slf: &Bound<'py, Self>) -> PyResult<Bound<'py, PyAny>> {
        Self::get(slf, false, None)
    }

    /// Objects in the queue, at an instant during the call.
    fn qsize(&self) -> u64 {
        self.queue.ring().len()
    }

    /// Was it empty, at an instant during the call?
    fn empty(&self) -> bool {
        self.queue.ring().is_empty()
    }

    /// Was it full, at an instant during the call?
    fn full(&self) -> bool {
        self.queue.ring().is_full()
    }

    /// No more use of it here: `put` and `get` raise `ValueError` from now on. Others are not affected.
    fn close(&self) {
        self.closed.store(true, Ordering::Relaxed);
    }

    /// Returns at once: what was put is in shared memory already. As in the stdlib, only after `close`.
    fn join_thread(slf: &Bound<'_, Self>) -> PyResult<()> {
        if slf.get().closed.load(Ordering::Relaxed) {
            return Ok(());
        }
        Err(PyAssertionError::new_err(format!("Queue {} not closed", slf.repr()?)))
    }

    /// Does nothing: nothing would be joined.
    fn cancel_join_thread(&self) {}

    #[getter]
    fn _closed(&self) -> bool {
        self.closed.load(Ordering::Relaxed)
    }
}
