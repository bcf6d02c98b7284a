//! `Queue`. Long, for it is one class with all that the stdlib's has, and its operators.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd, RawFd};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};

use fastmp_core as fcore;
use fastmp_core::channel::queue::{Joined, NO_DESCRIPTORS, TaskCount};
use fastmp_core::channel::ring::{MessageMeta, Payload, Received};
use fastmp_core::channel::transport::Outgoing;
use fastmp_core::deadline::{Graced, Patience};
use fastmp_core::sys::epoll;
use fastmp_core::{Deadline, Error};
use pyo3::exceptions::{PyAssertionError, PyAttributeError, PyRuntimeError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyTuple, PyType};

use crate::capi::call::{self, Answer, Args, Convention, Method, Raised};
use crate::capi::operator::Operator;
use crate::closing::Closing;
use crate::errors::{self, os_error_saying, raise};
use crate::handles::{Descriptor, Token};
use crate::message::{Now, Prepared};
use crate::requeue::{acknowledge_at_exit, no_descriptors};
use crate::{blocking, closing, handles, message};

/// What `_attach()` is given: descriptors of the segment, of the token and of both ends of the
/// socket; the offset; maxsize.
type Given = (Py<Descriptor>, Py<Descriptor>, Py<Descriptor>, Py<Descriptor>, usize, u64);

/// Seconds to wait at most for a message that readiness has told of: its sender may be stopped.
pub const ANNOUNCED: f64 = 0.1;

/// A queue of messages; one that has been put survives the process that put it.
#[pyclass(frozen, subclass, module = "fastmp.queues")]
pub struct Queue {
    /// Made by `__init__`, or attached: a subclass may be called with arguments of its own.
    queue: OnceLock<Closing<fcore::channel::queue::Queue>>,
    /// What `close` saw.
    last: OnceLock<Last>,
    /// What it has left: tasks are counted on, as in the stdlib.
    tasks: OnceLock<TaskCount>,
    /// Has a task waited for it?
    awaited: AtomicBool,
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

/// A message of `size` bytes has no room in a queue of `most` at any time.
#[cold]
pub fn too_large(most: Option<u64>, size: u64) -> PyErr {
    let most = most.unwrap_or_default();
    PyValueError::new_err(format!("a message of {size} bytes does not go into a queue of max_bytes={most}"))
}

impl Queue {
    fn made(&self) -> PyResult<&Closing<fcore::channel::queue::Queue>> {
        self.queue.get().ok_or_else(|| PyAttributeError::new_err("__init__ has not been called"))
    }

    pub fn open<'a>(slf: &'a Bound<'_, Self>) -> PyResult<&'a Closing<fcore::channel::queue::Queue>> {
        let queue = slf.get().made()?;
        if queue.is_closed() { Err(Self::closed(slf)) } else { Ok(queue) }
    }

    /// It is about to be asked how many messages there are: those count that dead takers had.
    #[inline]
    fn look_first(&self, py: Python<'_>) -> PyResult<&Closing<fcore::channel::queue::Queue>> {
        let queue = self.made()?;
        if queue.attached(py, |queue| queue.is_look_due()) == Some(true) {
            Self::look_now(py, queue);
        }
        Ok(queue)
    }

    #[cold]
    fn look_now(py: Python<'_>, queue: &Closing<fcore::channel::queue::Queue>) {
        py.detach(|| queue.with(|queue| queue.look_before_answer(Patience::sleep(Graced::alone()))));
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
                Some(Err(e @ (Error::Empty | Error::WouldBlock | Error::Interrupted))) => {
                    let until = match (block, e) {
                        // Who was told by the descriptor finds the message, though its sender is
                        // not quite done.
                        (false, Error::Empty) => match Self::is_announced(py, queue)? {
                            Some(true) => Some(Graced::without(Deadline::after(ANNOUNCED))),
                            _ => None,
                        },
                        _ => Some(blocking::deadline(if block { timeout } else { Some(0.0) }).graced()),
                    };
                    match until {
                        Some(until) => Self::wait_to_get(py, queue, inbox, &mut fds, until)?,
                        None => Some(Err(Error::Empty)),
                    }
                }
                done => done,
            };
            message::decode(py, received.ok_or_else(|| Self::closed(slf))?.map_err(raise)?, inbox, fds)
        })
    }

    #[inline(never)]
    fn wait_to_get(
        py: Python<'_>,
        queue: &Closing<fcore::channel::queue::Queue>,
        inbox: &mut Vec<u8>,
        fds: &mut Vec<OwnedFd>,
        until: Graced,
    ) -> PyResult<Option<fcore::Result<Received>>> {
        queue.wait(py, |queue| queue.get(inbox, fds, until))
    }

    /// Is a message just being put? Not waited for attached; None if it is closed.
    pub fn is_announced(py: Python<'_>, queue: &Closing<fcore::channel::queue::Queue>) -> PyResult<Option<bool>> {
        match queue.attached(py, |queue| queue.is_announced(Patience::Spin)) {
            Some(Ok(false)) => Ok(Some(false)),
            _ => Ok(queue.wait(py, |queue| queue.is_announced(Patience::Moment))?.map(|is| is == Ok(true))),
        }
    }

    /// Is it full? Found out before anything is pickled or copied, as in the stdlib.
    #[inline]
    fn refuses(slf: &Bound<'_, Self>) -> PyResult<bool> {
        Ok(Self::open(slf)?.attached(slf.py(), |queue| queue.would_be_full()) == Some(true))
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
                Self::wait_to_put(py, queue, &mut outgoing, deadline)?
            }
            done => done,
        };
        put.ok_or_else(|| Self::closed(slf))?.map_err(|e| match (e, &*outgoing.payload) {
            (Error::TooLarge, Some(payload)) => {
                too_large(queue.attached(py, |queue| queue.ring().max_bytes()), payload.size())
            }
            (NO_DESCRIPTORS, _) if !fds.is_empty() => no_descriptors(),
            _ => raise(e),
        })
    }

    #[inline(never)]
    fn wait_to_put(
        py: Python<'_>,
        queue: &Closing<fcore::channel::queue::Queue>,
        outgoing: &mut Outgoing<'_, '_>,
        deadline: Deadline,
    ) -> PyResult<Option<fcore::Result<()>>> {
        let until = deadline.graced();
        queue.wait(py, |queue| queue.put(outgoing, until))
    }

    /// Do messages come back?
    pub fn requeues(py: Python<'_>, queue: &Closing<fcore::channel::queue::Queue>) -> bool {
        queue.attached(py, |queue| queue.keeps_messages()) == Some(true)
    }

    /// Get an object, for a task that cannot wait: `told` if it has waited for readiness.
    pub(crate) fn take_now<'py>(slf: &Bound<'py, Self>, told: bool) -> PyResult<Now<Bound<'py, PyAny>>> {
        let (py, queue) = (slf.py(), slf.get().made()?);
        message::with_inbox(|inbox| {
            let mut fds = Vec::new();
            let received = if told {
                queue.for_task(py, |queue, patience| queue.get_told(inbox, &mut fds, patience))?
            } else {
                queue.attached(py, |queue| queue.try_get(inbox, &mut fds))
            };
            match received.ok_or_else(|| Self::closed(slf))? {
                Ok(received) => message::decode(py, received, inbox, fds).map(Now::Done),
                Err(other) => Now::failed(other, raise),
            }
        })
    }

    /// An object as a message that can be put later.
    pub(crate) fn prepare(slf: &Bound<'_, Self>, obj: &Bound<'_, PyAny>) -> PyResult<Prepared> {
        let queue = Self::open(slf)?;
        let extent = |bytes| queue.with(|queue| queue.extent_at_once(bytes)).unwrap_or(Err(Error::Closed));
        let prepared = message::prepare(obj, extent, |size| Self::allows(slf.py(), queue, size))?;
        if Self::requeues(slf.py(), queue) && prepared.with(|outgoing| !outgoing.fds.is_empty()) {
            return Err(no_descriptors());
        }
        Ok(prepared)
    }

    /// May a message be so large?
    fn allows(py: Python<'_>, queue: &Closing<fcore::channel::queue::Queue>, size: u64) -> PyResult<()> {
        match queue.attached(py, |queue| queue.ring().max_bytes()) {
            Some(most) if most > 0 && size > most => Err(too_large(Some(most), size)),
            _ => Ok(()),
        }
    }

    /// Put a message, for a task, likewise.
    pub(crate) fn put_now(slf: &Bound<'_, Self>, message: &Prepared, told: bool) -> PyResult<Now<()>> {
        let (py, queue) = (slf.py(), slf.get().made()?);
        let put = message.with(|outgoing| {
            if told {
                return queue.for_task(py, |queue, patience| queue.put_told(outgoing, patience));
            }
            Ok(queue.attached(py, |queue| queue.try_put(outgoing)))
        })?;
        match put.ok_or_else(|| Self::closed(slf))? {
            Ok(()) => Ok(Now::Done(())),
            Err(Error::TooLarge) => {
                let most = queue.attached(py, |queue| queue.ring().max_bytes());
                Err(message.size().map_or_else(|| raise(Error::TooLarge), |size| too_large(most, size)))
            }
            Err(other) => Now::failed(other, raise),
        }
    }

    /// Have an epoll tell by `token` when there is a message, or, for who is `sending`, room.
    pub(crate) fn arm(slf: &Bound<'_, Self>, epoll: RawFd, token: u32, sending: bool) -> PyResult<()> {
        // Before it is looked whether it is open: who closes it looks at this afterwards.
        slf.get().awaited.store(true, Ordering::SeqCst);
        let arm = |queue: &fcore::channel::queue::Queue| {
            let fd = if sending { queue.watch_sending() } else { queue.watch()? };
            epoll::arm(epoll, fd, token, sending)
        };
        slf.get().made()?.attached(slf.py(), arm).ok_or_else(|| Self::closed(slf))?.map_err(raise)
    }

    pub fn closed(slf: &Bound<'_, Self>) -> PyErr {
        // A simple queue is as a pipe's two ends are.
        if slf.hasattr("_is_simple").unwrap_or(false) {
            return os_error_saying(libc::EBADF, "handle is closed");
        }
        match slf.repr() {
            Ok(name) => PyValueError::new_err(format!("Queue {name} is closed")),
            Err(e) => e,
        }
    }
}

#[pymethods]
impl Queue {
    #[new]
    #[pyo3(signature = (*_args, ctx = None, _handle = None, **_kwargs), text_signature = "(maxsize=0, *, max_bytes=None, requeue=False, ctx=None)")]
    fn new(
        py: Python<'_>,
        _args: &Bound<'_, PyTuple>,
        ctx: Option<&Bound<'_, PyAny>>,
        _handle: Option<Given>,
        _kwargs: Option<&Bound<'_, PyDict>>,
    ) -> PyResult<Self> {
        let _ = ctx;
        let queue = OnceLock::new();
        if let Some((segment, token, reader, writer, offset, _)) = _handle {
            let (reader, writer) = (reader.get().own()?, writer.get().own()?);
            let core = fcore::channel::queue::Queue::attach(handles::given((segment, token, offset)), reader, writer);
            let core = core.map_err(raise)?;
            if core.keeps_messages() {
                acknowledge_at_exit(py)?;
            }
            let _ = queue.set(Closing::new(core));
        }
        Ok(Self { queue, last: OnceLock::new(), tasks: OnceLock::new(), awaited: AtomicBool::new(false) })
    }

    #[pyo3(signature = (maxsize = 0, *, max_bytes = None, requeue = false, ctx = None))]
    fn __init__(
        &self,
        py: Python<'_>,
        maxsize: i64,
        max_bytes: Option<i64>,
        #[pyo3(from_py_with = blocking::truth)] requeue: bool,
        ctx: Option<&Bound<'_, PyAny>>,
    ) -> PyResult<()> {
        let _ = ctx;
        let max_bytes = match max_bytes {
            Some(bytes) if bytes <= 0 => return Err(PyValueError::new_err("max_bytes must be positive")),
            bytes => bytes.unwrap_or(0) as u64,
        };
        let queue = fcore::channel::queue::Queue::create(maxsize.max(0) as u64).map_err(raise)?;
        queue.bound_bytes(max_bytes);
        if requeue {
            queue.keep_messages().map_err(raise)?;
            acknowledge_at_exit(py)?;
        }
        let again = |_| PyRuntimeError::new_err("__init__ has been called already");
        self.queue.set(Closing::new(queue)).map_err(again)
    }

    #[classmethod]
    fn _attach<'py>(
        cls: &Bound<'py, PyType>,
        segment: Py<Descriptor>,
        token: Py<Descriptor>,
        reader: Py<Descriptor>,
        writer: Py<Descriptor>,
        offset: usize,
        maxsize: u64,
    ) -> PyResult<Bound<'py, PyAny>> {
        handles::attached::<Self>(cls, (segment, token, reader, writer, offset, maxsize))
    }

    fn _handle(&self, py: Python<'_>) -> PyResult<(RawFd, Token, RawFd, RawFd, usize, u64)> {
        let with = handles::shared();
        let handle = self.made()?.attached(py, |queue| {
            let [reader, writer] = queue.sockets().map(handles::raw);
            Ok((queue.export(with.as_ref())?, reader, writer, queue.ring().maxsize()))
        });
        let handle = handle.ok_or_else(|| os_error_saying(libc::EBADF, "handle is closed"))?;
        let (handle, reader, writer, maxsize) = handle.map_err(raise)?;
        let (segment, token, offset) = handles::lent(handle);
        Ok((segment, token, reader, writer, offset, maxsize))
    }

    /// The most messages that there may be; 0: any number.
    fn _bound(&self, py: Python<'_>) -> PyResult<u64> {
        Ok(self.now(py)?.maxsize)
    }

    /// Pickles the object and appends it.
    ///
    /// Raises:
    /// - queue.Full: there was no room in time.
    /// - ValueError: the queue is closed here, or the message larger than `max_bytes`.
    /// - Exception: whatever pickling raises; the queue is as before.
    // Not inlined: it would be in two places.
    #[inline(never)]
    #[pyo3(name = "_put", signature = (obj, block = true, timeout = None))]
    fn put(
        slf: &Bound<'_, Self>,
        obj: &Bound<'_, PyAny>,
        #[pyo3(from_py_with = blocking::truth)] block: bool,
        timeout: Option<f64>,
    ) -> PyResult<()> {
        let (py, queue) = (slf.py(), Self::open(slf)?);
        let at_once = !block || timeout.is_some_and(|timeout| timeout <= 0.0);
        if at_once && Self::refuses(slf)? {
            return Err(raise(Error::Full));
        }
        let deadline = blocking::deadline(if block { timeout } else { Some(0.0) });
        let encoding = message::encode(obj, message::Instances::Encoded);
        if let Some((meta, bytes)) = encoding.small() {
            return Self::put_one(slf, queue, meta, &mut Some(Payload::Inline(bytes)), &[], block, deadline);
        }
        let encoded = encoding.complete(obj)?;
        let fds: Vec<_> = encoded.fds.iter().map(AsFd::as_fd).collect();
        let extent = |queue: &fcore::channel::queue::Queue, bytes| match at_once {
            true => queue.extent_at_once(bytes),
            false => queue.extent(bytes),
        };
        encoded.with_payload(
            py,
            |bytes| queue.with(|queue| extent(queue, bytes)).unwrap_or(Err(Error::Closed)),
            |size| Self::allows(py, queue, size),
            |payload| Self::put_one(slf, queue, encoded.meta(), payload, &fds, block, deadline),
        )
    }

    /// Takes no more messages; with `immediate` those that are there are thrown away.
    ///
    /// Raises:
    /// - ValueError: the queue is closed here.
    #[pyo3(signature = (immediate = false))]
    fn _shutdown(slf: &Bound<'_, Self>, #[pyo3(from_py_with = blocking::truth)] immediate: bool) -> PyResult<()> {
        let shut = Self::open(slf)?.wait(slf.py(), |queue| queue.shut_down(immediate))?;
        shut.ok_or_else(|| Self::closed(slf))?.map_err(raise)
    }

    /// From now on it is noted who takes messages that are tasks. Nobody else has the queue yet.
    fn _keep_takers(&self, py: Python<'_>) -> PyResult<()> {
        self.made()?.attached(py, |queue| queue.keep_takers());
        Ok(())
    }

    /// One of the tasks is done. Also once it is closed here.
    ///
    /// Raises:
    /// - ValueError: all of them are done; it is closed here, and its messages come back.
    fn _task_done(slf: &Bound<'_, Self>) -> PyResult<()> {
        let (py, queue) = (slf.py(), slf.get().made()?);
        let mut done = queue.attached(py, |queue| queue.task_done_with(Patience::Spin));
        if let Some(Err(Error::WouldBlock | Error::Interrupted)) = done {
            done = queue.wait(py, |queue| queue.task_done_with(Patience::sleep(Deadline::Never)))?;
        }
        let done = done.or_else(|| slf.get().tasks.get().map(TaskCount::task_done));
        done.unwrap_or(Err(Error::Closed)).map_err(|e| match e {
            Error::Overflow => PyValueError::new_err("task_done() called too many times"),
            Error::Closed => Self::closed(slf),
            other => raise(other),
        })
    }

    /// Tasks that are not done. Also once it is closed here.
    fn _unfinished(slf: &Bound<'_, Self>) -> PyResult<u64> {
        let unfinished = slf.get().made()?.attached(slf.py(), |queue| queue.unfinished());
        let left = || slf.get().tasks.get().map(TaskCount::unfinished);
        unfinished.or_else(left).ok_or_else(|| Self::closed(slf))
    }

    /// Waits until all tasks are done, and returns None; or, if it `judges`, until all who took
    /// those that are left have died, and returns their numbers. Also once it is closed here.
    fn _join(slf: &Bound<'_, Self>, judges: bool) -> PyResult<Option<Vec<u32>>> {
        let (py, queue) = (slf.py(), slf.get().made()?);
        let put = queue.attached(py, |queue| queue.tasks_put());
        let mut joined = match put {
            Some(put) => queue.wait(py, |queue| queue.join(put, judges, Deadline::Never))?,
            None => None,
        };
        // Perhaps closed as it waited.
        if let (None, Some(tasks)) = (&joined, slf.get().tasks.get()) {
            let put = put.unwrap_or_else(|| tasks.tasks_put());
            joined = Some(blocking::wait(py, || tasks.join(put, judges, Deadline::Never))?);
        }
        match joined.ok_or_else(|| Self::closed(slf))?.map_err(raise)? {
            Joined::Done => Ok(None),
            Joined::Lost(pids) => Ok(Some(pids)),
        }
    }

    /// Whether messages come back whose taker is killed.
    #[getter]
    fn _requeue(&self, py: Python<'_>) -> PyResult<bool> {
        Ok(Self::requeues(py, self.made()?))
    }

    /// A task of this thread asks for its next message: what the thread has got is acknowledged.
    fn _acknowledge_own(&self, py: Python<'_>) -> PyResult<()> {
        let queue = self.made()?;
        queue.attached(py, fcore::channel::queue::Queue::acknowledge_own);
        Ok(())
    }

    /// Whether another process had got, before it was killed, what this thread has got last.
    ///
    /// False once it has been acknowledged.
    fn _has_come_back(&self, py: Python<'_>) -> PyResult<bool> {
        Ok(self.made()?.attached(py, fcore::channel::queue::Queue::has_come_back) == Some(true))
    }

    /// Looks whether takers have died: returns True if what they had has come back.
    ///
    /// Unless somebody has just done so, and for no more than a moment; with `always` in any case,
    /// and for as long as it takes to take locks over from the dead.
    #[pyo3(signature = (always = false))]
    fn _look_after(&self, py: Python<'_>, always: bool) -> PyResult<bool> {
        let queue = self.made()?;
        if !Self::requeues(py, queue) {
            return Ok(false);
        }
        let look = |queue: &fcore::channel::queue::Queue| {
            let patience = if always { Patience::sleep(Graced::alone()) } else { Patience::Moment };
            queue.mend_custody(always, patience)
        };
        Ok(py.detach(|| queue.with(look)) == Some(true))
    }

    /// (depth, high-water mark, messages in, out, bytes in, out, waits to get, to put).
    ///
    /// Raises:
    /// - ValueError: the queue is closed here.
    fn _stats(slf: &Bound<'_, Self>) -> PyResult<[u64; 8]> {
        Self::open(slf)?;
        let stats = slf.get().look_first(slf.py())?.attached(slf.py(), |queue| queue.stats());
        let now = stats.ok_or_else(|| Self::closed(slf))?;
        let all = now.totals;
        Ok([
            now.depth,
            all.high_water,
            all.messages_in,
            all.messages_out,
            all.bytes_in,
            all.bytes_out,
            now.get_waits,
            now.put_waits,
        ])
    }

    /// The most bytes that may be unread; 0: any number.
    ///
    /// Raises:
    /// - ValueError: the queue is closed here.
    #[getter]
    fn _max_bytes(slf: &Bound<'_, Self>) -> PyResult<u64> {
        let bound = Self::open(slf)?.attached(slf.py(), |queue| queue.ring().max_bytes());
        bound.ok_or_else(|| Self::closed(slf))
    }

    /// The number of messages at this instant; once it is closed here, as they were then.
    fn qsize(&self, py: Python<'_>) -> PyResult<u64> {
        let len = self.look_first(py)?.attached(py, |queue| queue.ring().len());
        len.map_or_else(|| Ok(self.now(py)?.len), Ok)
    }

    /// Whether there is no message at this instant.
    ///
    /// Raises:
    /// - OSError: it was used, and is closed here.
    fn empty(&self, py: Python<'_>) -> PyResult<bool> {
        match self.look_first(py)?.attached(py, |queue| queue.ring().is_empty()) {
            Some(empty) => Ok(empty),
            None if self.now(py)?.used => Err(os_error_saying(libc::EBADF, "handle is closed")),
            None => Ok(true),
        }
    }

    /// Whether `maxsize` messages are there at this instant, or no byte more has room.
    ///
    /// Once it is closed here, whether they were then.
    fn full(&self, py: Python<'_>) -> PyResult<bool> {
        self.look_first(py)?.attached(py, |queue| queue.ring().is_full()).map_or_else(|| Ok(self.now(py)?.full), Ok)
    }

    /// Closes it for this process, and its descriptors with the last call that is under way.
    ///
    /// Calls that wait in other threads raise ValueError, but for one that waits until tasks are
    /// done. Messages stay.
    fn close(slf: &Bound<'_, Self>) -> PyResult<()> {
        let this = slf.get();
        this.made()?.close(slf.py(), |queue| {
            let _ = this.last.set(Last::of(queue));
            if let (true, Ok(tasks)) = (queue.keeps_takers(), queue.task_count()) {
                let _ = this.tasks.set(tasks);
            }
        });
        if this.awaited.load(Ordering::SeqCst) { closing::tell_tasks(slf) } else { Ok(()) }
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
        let until = deadline.graced();
        match queue.wait(slf.py(), |queue| queue.wait(until))? {
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
        Self::open(slf)?;
        let watched = slf.get().look_first(slf.py())?.attached(slf.py(), |queue| queue.watch().map(handles::raw));
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

/// `put`: of an object, and perhaps `block`, here, with other arguments by `_put`.
struct Put;

impl Method for Put {
    type Of = Queue;
    #[inline(always)]
    fn call<'py>(slf: Borrowed<'_, 'py, Queue>, args: Args<'_, 'py>) -> Answer<'py> {
        let Some(obj) = args.get(0).filter(|_| args.names().is_none()) else {
            return call::call_python(slf.as_any(), "_put", args);
        };
        let block = match (args.len(), args.get(1)) {
            (1, _) => true,
            (2, Some(block)) => blocking::truth(&block)?,
            _ => return call::call_python(slf.as_any(), "_put", args),
        };
        if !block && Queue::refuses(&slf)? {
            return Err(Raised::bare(errors::full(slf.py())?));
        }
        Queue::put(&slf, &obj, block, None)?;
        Ok(slf.py().None().into_bound(slf.py()))
    }
}

/// Give the class, `Queue` or a subclass, its own `put`.
pub fn install(class: &Bound<'_, PyType>) -> PyResult<()> {
    let doc = c"put($self, obj, block=True, timeout=None)\n--\n\nPickles the object and appends it.\n\nRaises:\n- queue.Full: there was no room in time.\n- ValueError: the queue is closed here, or the message larger than `max_bytes`.\n- Exception: whatever pickling raises; the queue is as before.";
    class.setattr("put", call::method::<Put>(class, c"put", Convention::Named, doc)?)
}
