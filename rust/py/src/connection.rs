//! `Connection` and `Pipe`. Long, for it is one class with all that the stdlib's has, and its
//! operators.

use std::os::fd::{AsFd, BorrowedFd, RawFd};
use std::sync::atomic::{AtomicBool, Ordering};

use fastmp_core::channel::pipe::{self, End, Flags};
use fastmp_core::channel::ring::{INLINE, MessageMeta, Payload, Received};
use fastmp_core::channel::transport::{FOREIGN, Outgoing};
use fastmp_core::deadline::Graced;
use fastmp_core::sys::{epoll, socket};
use fastmp_core::{Deadline, Error};
use pyo3::buffer::PyBuffer;
use pyo3::exceptions::{PyAssertionError, PyAttributeError, PyTypeError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyTuple, PyType};

use crate::capi::call::{self, Answer, Args, Convention, Method};
use crate::capi::operator::Operator;
use crate::closing::Closing;
use crate::errors::{os_error, os_error_saying, raise, raise_receiving};
use crate::handles::{Descriptor, Token};
use crate::message::{Filled, Now, Prepared};
use crate::{blocking, closing, handles, message};

const READABLE: u32 = 1;
const WRITABLE: u32 = 2;
const SECOND: u32 = 4;

/// One end of a pipe of messages, made by `Pipe()`.
///
/// Or the stdlib's, over a descriptor of the program's.
#[pyclass(frozen, subclass, module = "fastmp.connection", dict, weakref)]
pub struct Connection {
    way: Way,
    /// Cleared when a message was refused for its size, as in the stdlib.
    readable: AtomicBool,
    writable: bool,
    /// Has a task waited for it?
    awaited: AtomicBool,
}

/// What `_attach()` is given: descriptors of the segment, of the token, of the file (or the segment
/// again) and of the socket; the offset; flags.
type Given = (Py<Descriptor>, Py<Descriptor>, Py<Descriptor>, Py<Descriptor>, usize, u32);
/// What `_export()` gives: the same, lent.
type Exported = (RawFd, Token, RawFd, RawFd, usize, u32);

// Most are pipes, and quick.
#[allow(clippy::large_enum_variant)]
enum Way {
    Pipe(Closing<End>),
    /// An object of the stdlib's class.
    Stdlib(Py<PyAny>),
}

/// Returns two connected ends.
///
/// With duplex=False the first only receives, the second only sends.
#[pyfunction]
#[pyo3(name = "Pipe", signature = (duplex = true))]
pub fn new_pipe(
    py: Python<'_>,
    #[pyo3(from_py_with = blocking::truth)] duplex: bool,
) -> PyResult<(Py<PyAny>, Py<PyAny>)> {
    let (first, second) = pipe::create(duplex).map_err(raise)?;
    let wrap = |end| Ok::<_, PyErr>(Py::new(py, Connection::over(end))?.into_any());
    Ok((wrap(first)?, wrap(second)?))
}

/// How long to wait on this end: not at all where the program has set O_NONBLOCK.
fn patience(end: &End) -> Graced {
    if end.is_nonblocking() { Graced::alone() } else { Deadline::Never.graced() }
}

/// A pipe's messages are not in its socket: over that alone a connection would wait for ever.
fn refuse_pipe(handle: &Bound<'_, PyAny>) -> PyResult<()> {
    // What else may be wrong with it the stdlib says.
    let Ok(fd) = handle.extract::<RawFd>() else { return Ok(()) };
    if !socket::is_end(fd) {
        return Ok(());
    }
    Err(PyValueError::new_err(format!(
        "descriptor {fd} is an end of a fastmp Pipe, whose messages lie in shared memory: \
         give the Connection itself to a Process, or use os.pipe() or socket.socketpair()"
    )))
}

fn closed() -> PyErr {
    os_error_saying(libc::EBADF, "handle is closed")
}

impl Connection {
    fn over(end: End) -> Self {
        let Flags { readable, writable, .. } = end.flags();
        Self::by(Way::Pipe(Closing::new(end)), readable, writable)
    }

    fn by(way: Way, readable: bool, writable: bool) -> Self {
        Self { way, readable: AtomicBool::new(readable), writable, awaited: AtomicBool::new(false) }
    }

    /// The pipe's end, if it may receive.
    fn receiver(&self) -> PyResult<&Closing<End>> {
        let Way::Pipe(end) = &self.way else { return Err(closed()) };
        if !self.readable.load(Ordering::Relaxed) {
            return Err(if end.is_closed() {
                closed()
            } else {
                os_error_saying(libc::EBADF, "connection is write-only")
            });
        }
        Ok(end)
    }

    /// The pipe's end, if it may send.
    fn sender(&self) -> PyResult<&Closing<End>> {
        let Way::Pipe(end) = &self.way else { return Err(closed()) };
        if !self.writable {
            return Err(if end.is_closed() {
                closed()
            } else {
                os_error_saying(libc::EBADF, "connection is read-only")
            });
        }
        Ok(end)
    }

    fn transmit(py: Python<'_>, end: &Closing<End>, encoded: &message::Encoded) -> PyResult<()> {
        let fds: Vec<_> = encoded.fds.iter().map(AsFd::as_fd).collect();
        encoded.with_payload(
            py,
            |bytes| end.with(|end| end.extent(bytes)).unwrap_or(Err(Error::Closed)),
            |_| Ok(()),
            |payload| Self::send_one(py, end, encoded.meta(), payload, &fds),
        )
    }

    #[inline]
    fn send_one(
        py: Python<'_>,
        end: &Closing<End>,
        meta: MessageMeta,
        payload: &mut Option<Payload<'_>>,
        fds: &[BorrowedFd<'_>],
    ) -> PyResult<()> {
        let mut outgoing = Outgoing { meta, payload, fds };
        let sent = match end.attached(py, |end| end.try_send(&mut outgoing)) {
            Some(Ok(())) => return Ok(()),
            Some(Err(Error::Full | Error::WouldBlock | Error::Interrupted)) => {
                let mut until = None;
                match end.wait(py, |end| end.send(&mut outgoing, *until.get_or_insert_with(|| patience(end))))? {
                    Some(Err(Error::Full)) => return Err(os_error(libc::EAGAIN)),
                    done => done,
                }
            }
            done => done,
        };
        sent.unwrap_or(Err(Error::Closed)).map_err(raise)
    }

    /// Receive a message and make something of it.
    fn receive<T>(
        &self,
        py: Python<'_>,
        make: impl FnOnce(Received, &[u8], Vec<std::os::fd::OwnedFd>) -> PyResult<T>,
    ) -> PyResult<T> {
        let end = self.receiver()?;
        message::with_inbox(|inbox| {
            let mut fds = Vec::new();
            let received = match end.attached(py, |end| end.try_recv(inbox, &mut fds)) {
                Some(Err(Error::Empty | Error::WouldBlock | Error::Interrupted)) => {
                    let mut until = None;
                    match end.wait(py, |end| end.recv(inbox, &mut fds, *until.get_or_insert_with(|| patience(end))))? {
                        Some(Err(Error::Empty)) => return Err(os_error(libc::EAGAIN)),
                        // While it waited.
                        done => Some(done.unwrap_or(Err(Error::Closed))),
                    }
                }
                done => done,
            };
            make(received.ok_or_else(closed)?.map_err(raise_receiving)?, inbox, fds)
        })
    }

    /// Receive an object.
    fn recv<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        if let Way::Stdlib(connection) = &self.way {
            return connection.bind(py).call_method0("recv");
        }
        self.receive(py, |received, inbox, fds| message::decode(py, received, inbox, fds))
    }

    /// Receive an object, for a task that cannot wait: `told` if it has waited for readiness.
    pub(crate) fn take_now<'py>(slf: &Bound<'py, Self>, told: bool) -> PyResult<Now<Bound<'py, PyAny>>> {
        let (py, this) = (slf.py(), slf.get());
        if let Way::Stdlib(connection) = &this.way {
            let connection = connection.bind(py);
            // Whoever shares the descriptor may have been quicker.
            if !told || !connection.call_method1("poll", (0.0,))?.is_truthy()? {
                return Ok(Now::Nothing);
            }
            return connection.call_method0("recv").map(Now::Done);
        }
        let end = this.receiver()?;
        message::with_inbox(|inbox| {
            let mut fds = Vec::new();
            let received = if told {
                // As for a `recv` that was waiting when it was closed.
                let received = end.for_task(py, |end, patience| end.recv_told(inbox, &mut fds, patience))?;
                received.unwrap_or(Err(Error::Closed))
            } else {
                end.attached(py, |end| end.try_recv(inbox, &mut fds)).ok_or_else(closed)?
            };
            match received {
                Ok(received) => message::decode(py, received, inbox, fds).map(Now::Done),
                Err(other) => Now::failed(other, raise_receiving),
            }
        })
    }

    /// An object as a message that can be sent later.
    pub(crate) fn prepare(slf: &Bound<'_, Self>, obj: &Bound<'_, PyAny>) -> PyResult<Prepared> {
        let (py, this) = (slf.py(), slf.get());
        if let Way::Stdlib(connection) = &this.way {
            // What is wrong with it, it says itself.
            connection.call_method0(py, "_check_closed")?;
            connection.call_method0(py, "_check_writable")?;
            let class = py.import("multiprocessing.reduction")?.getattr("ForkingPickler")?;
            return Ok(Prepared::pickled(class.call_method1("dumps", (obj,))?.unbind()));
        }
        let end = this.sender()?;
        if end.is_closed() {
            return Err(closed());
        }
        message::prepare(obj, |bytes| end.with(|end| end.extent(bytes)).unwrap_or(Err(Error::Closed)), |_| Ok(()))
    }

    /// Send a message, for a task, likewise.
    pub(crate) fn send_now(slf: &Bound<'_, Self>, message: &Prepared, told: bool) -> PyResult<Now<()>> {
        let (py, this) = (slf.py(), slf.get());
        if let Way::Stdlib(connection) = &this.way {
            let Some(pickled) = message.as_pickled().filter(|_| told) else { return Ok(Now::Nothing) };
            return connection.call_method1(py, "send_bytes", (pickled,)).map(|_| Now::Done(()));
        }
        let end = this.sender()?;
        let sent = message.with(|outgoing| end.for_task(py, |end, patience| end.send_told(outgoing, patience)))?;
        match sent.ok_or_else(closed)? {
            Ok(()) => Ok(Now::Done(())),
            Err(other) => Now::failed(other, raise),
        }
    }

    /// Have an epoll tell by `token` when there is a message or the end, or, for who is `sending`,
    /// room.
    pub(crate) fn arm(slf: &Bound<'_, Self>, epoll: RawFd, token: u32, sending: bool) -> PyResult<()> {
        let (py, this) = (slf.py(), slf.get());
        // Before it is looked whether it is open: who closes it looks at this afterwards.
        this.awaited.store(true, Ordering::SeqCst);
        let Way::Pipe(end) = &this.way else {
            return epoll::arm_number(epoll, this.fileno(py)?, token, sending).map_err(raise);
        };
        let arm = |end: &End| {
            let fd = if sending { end.watch_sending() } else { end.watch_receiving()? };
            epoll::arm(epoll, fd, token, sending)
        };
        end.attached(py, arm).ok_or_else(closed)?.map_err(raise)
    }

    /// Receive the bytes of one message, of at most `maxlength`.
    fn recv_bytes<'py>(slf: &Bound<'py, Self>, maxlength: Option<isize>) -> PyResult<Bound<'py, PyBytes>> {
        let (py, this) = (slf.py(), slf.get());
        if let Way::Stdlib(connection) = &this.way {
            return Ok(connection.bind(py).call_method1("recv_bytes", (maxlength,))?.cast_into::<PyBytes>()?);
        }
        if maxlength.is_some_and(|n| n < 0) {
            return Err(PyValueError::new_err("negative maxlength"));
        }
        let bytes = this.receive(py, |received, inbox, fds| message::decode_bytes(py, received, inbox, fds))?;
        if maxlength.is_some_and(|n| bytes.as_bytes().len() > n as usize) {
            // As the stdlib's: this direction is of no more use.
            if this.writable {
                this.readable.store(false, Ordering::Relaxed);
            } else {
                Self::close(slf)?;
            }
            return Err(os_error_saying(libc::EMSGSIZE, "bad message length"));
        }
        Ok(bytes)
    }

    /// Receive the bytes of one message into a writable buffer at `offset`; returns their number.
    fn recv_bytes_into(&self, py: Python<'_>, buf: &Bound<'_, PyAny>, offset: isize) -> PyResult<usize> {
        if let Way::Stdlib(connection) = &self.way {
            return connection.bind(py).call_method1("recv_bytes_into", (buf, offset))?.extract();
        }
        if self.receiver()?.is_closed() {
            return Err(closed());
        }
        let target = byte_buffer(buf)?;
        if target.readonly() {
            return Err(pyo3::exceptions::PyBufferError::new_err("Underlying buffer is not writable"));
        }
        let offset = usize::try_from(offset).map_err(|_| PyValueError::new_err("negative offset"))?;
        if offset > target.len_bytes() {
            return Err(PyValueError::new_err("offset too large"));
        }
        let into = (&target, offset);
        match self.receive(py, |received, inbox, fds| message::decode_into(py, received, inbox, fds, into))? {
            Filled::Whole(len) => Ok(len),
            Filled::TooShort(bytes) => {
                let class = py.import("multiprocessing.context")?.getattr("BufferTooShort")?;
                Err(PyErr::from_value(class.call1((bytes,))?))
            }
        }
    }
}

#[pymethods]
impl Connection {
    /// A connection over a descriptor that is handed over; `_handle`: an end from another process.
    // Both names are given: one by the stdlib, the other is what all classes attach by.
    #[allow(clippy::duplicate_underscore_argument)]
    #[new]
    #[pyo3(signature = (handle = None, readable = None, writable = None, *, _handle = None))]
    fn new(
        py: Python<'_>,
        handle: Option<&Bound<'_, PyAny>>,
        readable: Option<&Bound<'_, PyAny>>,
        writable: Option<&Bound<'_, PyAny>>,
        _handle: Option<Given>,
    ) -> PyResult<Self> {
        if let Some((segment, token, file, socket, offset, flags)) = _handle {
            let flags =
                Flags { readable: flags & READABLE != 0, writable: flags & WRITABLE != 0, second: flags & SECOND != 0 };
            // The segment's stands for no file.
            let file = if file.is(&segment) { None } else { Some(file.get().own()?) };
            let socket = socket.get().own()?;
            let given = handles::given((segment, token, offset));
            return Ok(Self::over(End::attach(given, socket, file, flags).map_err(raise)?));
        }
        let handle = handle.ok_or_else(|| PyTypeError::new_err("Connection() needs a descriptor"))?;
        let truth = |argument: Option<&Bound<'_, PyAny>>| argument.map_or(Ok(true), |argument| argument.is_truthy());
        let (readable, writable) = (truth(readable)?, truth(writable)?);
        refuse_pipe(handle)?;
        let class = py.import("multiprocessing.connection")?.getattr("Connection")?;
        let connection = class.call1((handle, readable, writable))?;
        Ok(Self::by(Way::Stdlib(connection.unbind()), readable, writable))
    }

    #[classmethod]
    fn _attach<'py>(
        cls: &Bound<'py, PyType>,
        segment: Py<Descriptor>,
        token: Py<Descriptor>,
        file: Py<Descriptor>,
        socket: Py<Descriptor>,
        offset: usize,
        flags: u32,
    ) -> PyResult<Bound<'py, PyAny>> {
        handles::attached::<Self>(cls, (segment, token, file, socket, offset, flags))
    }

    /// Descriptors of the segment, of the token, of the file (the segment's, if there is none) and
    /// of the socket; the offset, and flags.
    ///
    /// None for a connection of the stdlib's kind.
    fn _export(&self, py: Python<'_>) -> PyResult<Option<Exported>> {
        let Way::Pipe(end) = &self.way else { return Ok(None) };
        let with = handles::shared();
        let exported = end.attached(py, |end| {
            let file = end.lent_file().map(|file| handles::raw(file.as_fd()));
            Ok((end.export(with.as_ref())?, file, handles::raw(end.socket()), end.flags()))
        });
        let (handle, file, socket, flags) = exported.ok_or_else(closed)?.map_err(raise)?;
        let bit = |set: bool, bit: u32| if set { bit } else { 0 };
        let flags = bit(flags.readable, READABLE) | bit(flags.writable, WRITABLE) | bit(flags.second, SECOND);
        let (segment, token, offset) = handles::lent(handle);
        Ok(Some((segment, token, file.unwrap_or(segment), socket, offset, flags)))
    }

    /// Pickles the object and sends it.
    ///
    /// Raises:
    /// - BrokenPipeError: nobody has the other end any more.
    /// - OSError: this end is closed or only reads.
    #[pyo3(name = "_send")]
    fn send(&self, obj: &Bound<'_, PyAny>) -> PyResult<()> {
        if let Way::Stdlib(connection) = &self.way {
            return connection.call_method1(obj.py(), "send", (obj,)).map(drop);
        }
        let end = self.sender()?;
        if end.is_closed() {
            return Err(closed());
        }
        let encoding = message::encode(obj, message::Instances::Pickled);
        if let Some((meta, bytes)) = encoding.small() {
            return Self::send_one(obj.py(), end, meta, &mut Some(Payload::Inline(bytes)), &[]);
        }
        Self::transmit(obj.py(), end, &encoding.complete(obj)?)
    }

    /// Sends `size` bytes from `offset` on, all that follow by default, as one message.
    ///
    /// Raises:
    /// - ValueError: offset or size does not lie within the buffer.
    /// - BrokenPipeError: nobody has the other end any more.
    /// - OSError: this end is closed or only reads.
    #[pyo3(name = "_send_bytes", signature = (buf, offset = 0, size = None))]
    fn send_bytes(&self, buf: &Bound<'_, PyAny>, offset: isize, size: Option<isize>) -> PyResult<()> {
        if let Way::Stdlib(connection) = &self.way {
            return connection.call_method1(buf.py(), "send_bytes", (buf, offset, size)).map(drop);
        }
        let end = self.sender()?;
        if end.is_closed() {
            return Err(closed());
        }
        if let Ok(bytes) = buf.cast_exact::<PyBytes>()
            && (offset, size) == (0, None)
            && bytes.as_bytes().len() <= INLINE
        {
            let payload = &mut Some(Payload::Inline(bytes.as_bytes()));
            return Self::send_one(buf.py(), end, message::RAW_BYTES, payload, &[]);
        }
        let buffer = byte_buffer(buf)?;
        let len = buffer.len_bytes();
        let offset = usize::try_from(offset).map_err(|_| PyValueError::new_err("offset is negative"))?;
        if len < offset {
            return Err(PyValueError::new_err("buffer length < offset"));
        }
        let size = match size {
            None => len - offset,
            Some(size) => usize::try_from(size).map_err(|_| PyValueError::new_err("size is negative"))?,
        };
        if size > len - offset {
            return Err(PyValueError::new_err("buffer length < offset + size"));
        }
        Self::transmit(buf.py(), end, &message::raw(buffer, offset, size))
    }

    /// Waits for something to receive, the end included; returns False if not in time (0.0).
    ///
    /// Raises:
    /// - OSError: this end is closed or only writes.
    #[pyo3(signature = (timeout = Some(0.0)))]
    fn poll(&self, py: Python<'_>, timeout: Option<f64>) -> PyResult<bool> {
        if let Way::Stdlib(connection) = &self.way {
            return connection.bind(py).call_method1("poll", (timeout,))?.is_truthy();
        }
        let until = blocking::deadline(timeout).graced();
        match self.receiver()?.wait(py, |end| end.wait(until))?.ok_or_else(closed)? {
            // Also where a descriptor waits that the program has sent by itself.
            Ok(()) | Err(Error::PeerGone | FOREIGN) => Ok(true),
            Err(Error::Empty) => Ok(false),
            Err(other) => Err(raise(other)),
        }
    }

    /// A descriptor that is readable when there is something to receive, the end included.
    ///
    /// Raises:
    /// - OSError: this end is closed.
    fn fileno(&self, py: Python<'_>) -> PyResult<RawFd> {
        match &self.way {
            Way::Pipe(end) => {
                let fd = end.attached(py, |end| end.watch().map(handles::raw));
                fd.ok_or_else(closed)?.map_err(raise)
            }
            Way::Stdlib(connection) => connection.bind(py).call_method0("fileno")?.extract(),
        }
    }

    /// `fileno()`, or None if it is closed.
    #[getter]
    fn _handle(&self, py: Python<'_>) -> PyResult<Option<RawFd>> {
        if self.closed(py)? { Ok(None) } else { self.fileno(py).map(Some) }
    }

    /// The stdlib's, over a descriptor of the program's, can be told to forget it by setting None.
    #[setter(_handle)]
    fn set_handle(&self, handle: &Bound<'_, PyAny>) -> PyResult<()> {
        match &self.way {
            Way::Pipe(_) => Err(PyAttributeError::new_err("an end of a pipe has the descriptor that it has")),
            Way::Stdlib(connection) => connection.setattr(handle.py(), "_handle", handle),
        }
    }

    /// Closes this end; a recv that waits in another thread raises EOFError, another call OSError.
    fn close(slf: &Bound<'_, Self>) -> PyResult<()> {
        let (py, this) = (slf.py(), slf.get());
        match &this.way {
            Way::Pipe(end) => {
                end.close(py, |_| ());
            }
            Way::Stdlib(connection) => {
                connection.call_method0(py, "close")?;
            }
        }
        if this.awaited.load(Ordering::SeqCst) { closing::tell_tasks(slf) } else { Ok(()) }
    }

    /// Whether this end is closed.
    #[getter]
    fn closed(&self, py: Python<'_>) -> PyResult<bool> {
        match &self.way {
            Way::Pipe(end) => Ok(end.is_closed()),
            Way::Stdlib(connection) => connection.getattr(py, "closed")?.is_truthy(py),
        }
    }

    /// Whether this end receives.
    #[getter]
    fn readable(&self, py: Python<'_>) -> PyResult<bool> {
        match &self.way {
            Way::Pipe(_) => Ok(self.readable.load(Ordering::Relaxed)),
            Way::Stdlib(connection) => connection.getattr(py, "readable")?.is_truthy(py),
        }
    }

    /// Whether this end sends.
    #[getter]
    fn writable(&self) -> bool {
        self.writable
    }

    fn __enter__(slf: Bound<'_, Self>) -> Bound<'_, Self> {
        slf
    }

    #[pyo3(signature = (*args))]
    fn __exit__(slf: &Bound<'_, Self>, args: &Bound<'_, PyTuple>) -> PyResult<()> {
        let _ = args;
        Self::close(slf)
    }

    fn __reduce__<'py>(slf: &Bound<'py, Self>) -> PyResult<Bound<'py, PyAny>> {
        slf.py().import("fastmp.handles")?.call_method1("reduce_connection", (slf,))
    }

    /// The class that it shows: one that is the stdlib's as well, once that is there for anybody to
    /// ask.
    #[getter(__class__)]
    fn shown_class<'py>(slf: &Bound<'py, Self>) -> PyResult<Bound<'py, PyAny>> {
        let (py, class) = (slf.py(), slf.get_type());
        let modules = py.import("sys")?.getattr("modules")?;
        if !modules.contains(pyo3::intern!(py, "multiprocessing.connection"))? {
            return Ok(class.into_any());
        }
        py.import("fastmp.connection")?.call_method1("_shown_class", (class,))
    }
}

/// `_recv[connection]`.
pub struct Recv;

impl Method for Recv {
    type Of = Operator;
    #[inline(always)]
    fn call<'py>(slf: Borrowed<'_, 'py, Operator>, args: Args<'_, 'py>) -> Answer<'py> {
        let Some(key) = args.get(0) else { return Ok(Err(PyAssertionError::new_err("a key"))?) };
        let connection = key.cast::<Connection>().map_err(PyErr::from)?;
        Ok(connection.get().recv(slf.py())?)
    }
}

/// `_recv_bytes[connection]`, or `_recv_bytes[connection, maxlength]`.
pub struct RecvBytes;

impl Method for RecvBytes {
    type Of = Operator;
    #[inline(always)]
    fn call<'py>(_slf: Borrowed<'_, 'py, Operator>, args: Args<'_, 'py>) -> Answer<'py> {
        let Some(key) = args.get(0) else { return Ok(Err(PyAssertionError::new_err("a key"))?) };
        if let Ok(connection) = key.cast::<Connection>() {
            return Ok(Connection::recv_bytes(&connection, None)?.into_any());
        }
        let (connection, maxlength) = key.extract::<(Bound<'_, Connection>, Option<isize>)>()?;
        Ok(Connection::recv_bytes(&connection, maxlength)?.into_any())
    }
}

/// `_recv_bytes_into[connection, buf, offset]`.
pub struct RecvBytesInto;

impl Method for RecvBytesInto {
    type Of = Operator;
    fn call<'py>(slf: Borrowed<'_, 'py, Operator>, args: Args<'_, 'py>) -> Answer<'py> {
        let Some(key) = args.get(0) else { return Ok(Err(PyAssertionError::new_err("a key"))?) };
        let (connection, buf, offset) = key.extract::<(Bound<'_, Connection>, Bound<'_, PyAny>, isize)>()?;
        let len = connection.get().recv_bytes_into(slf.py(), &buf, offset)?;
        Ok(len.into_pyobject(slf.py()).map_err(PyErr::from)?.into_any())
    }
}

/// `send`: of an object alone here, with a name by `_send`.
struct Send;

impl Method for Send {
    type Of = Connection;
    #[inline(always)]
    fn call<'py>(slf: Borrowed<'_, 'py, Connection>, args: Args<'_, 'py>) -> Answer<'py> {
        match (args.len(), args.names(), args.get(0)) {
            (1, None, Some(obj)) => {
                slf.get().send(&obj)?;
                Ok(slf.py().None().into_bound(slf.py()))
            }
            _ => call::call_python(slf.as_any(), "_send", args),
        }
    }
}

/// `send_bytes`: of a buffer alone here, with other arguments by `_send_bytes`.
struct SendBytes;

impl Method for SendBytes {
    type Of = Connection;
    #[inline(always)]
    fn call<'py>(slf: Borrowed<'_, 'py, Connection>, args: Args<'_, 'py>) -> Answer<'py> {
        match (args.len(), args.names(), args.get(0)) {
            (1, None, Some(buf)) => {
                slf.get().send_bytes(&buf, 0, None)?;
                Ok(slf.py().None().into_bound(slf.py()))
            }
            _ => call::call_python(slf.as_any(), "_send_bytes", args),
        }
    }
}

/// Give the class what sends.
pub fn install(class: &Bound<'_, PyType>) -> PyResult<()> {
    let send = c"send($self, obj)\n--\n\nPickles the object and sends it.\n\nRaises:\n- BrokenPipeError: nobody has the other end any more.\n- OSError: this end is closed or only reads.";
    class.setattr("send", call::method::<Send>(class, c"send", Convention::Named, send)?)?;
    let bytes = c"send_bytes($self, buf, offset=0, size=None)\n--\n\nSends `size` bytes from `offset` on, all that follow by default, as one message.\n\nRaises:\n- ValueError: offset or size does not lie within the buffer.\n- BrokenPipeError: nobody has the other end any more.\n- OSError: this end is closed or only reads.";
    class.setattr("send_bytes", call::method::<SendBytes>(class, c"send_bytes", Convention::Named, bytes)?)
}

/// Any contiguous buffer as bytes.
fn byte_buffer(buf: &Bound<'_, PyAny>) -> PyResult<PyBuffer<u8>> {
    if let Ok(buffer) = PyBuffer::<u8>::get(buf)
        && buffer.is_c_contiguous()
    {
        return Ok(buffer);
    }
    let view = buf.py().import("builtins")?.getattr("memoryview")?.call1((buf,))?;
    PyBuffer::get(&view.call_method1("cast", ("B",))?)
}
