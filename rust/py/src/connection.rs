//! `Connection` and `Pipe`.

use std::os::fd::{AsFd, RawFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, PoisonError, RwLock};

use fastmp_core::channel::pipe::{self, End, Flags};
use fastmp_core::channel::ring::Received;
use fastmp_core::channel::transport::Outgoing;
use fastmp_core::{Deadline, Error};
use pyo3::buffer::PyBuffer;
use pyo3::exceptions::{PyOSError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyTuple, PyType};

use crate::errors::{raise, raise_receiving};
use crate::handles::Descriptor;
use crate::{blocking, handles, message};

const READABLE: u32 = 1;
const WRITABLE: u32 = 2;
const SECOND: u32 = 4;

/// One end of a pipe.
#[pyclass(frozen, subclass, module = "fastmp.connection", weakref)]
pub struct Connection {
    /// Received out by `close`; calls that are under way keep it until they end.
    end: RwLock<Option<Arc<End>>>,
    /// Cleared when a message was refused for its size, as in the stdlib.
    readable: AtomicBool,
    writable: bool,
}

/// Two connected ends. Not `duplex`: the first only receives, the second only sends.
#[pyfunction]
#[pyo3(name = "Pipe", signature = (duplex = true))]
pub fn new_pipe(py: Python<'_>, duplex: bool) -> PyResult<(Py<PyAny>, Py<PyAny>)> {
    let (first, second) = pipe::create(duplex).map_err(raise)?;
    let wrap = |end| Ok::<_, PyErr>(Py::new(py, Connection::over(end))?.into_any());
    Ok((wrap(first)?, wrap(second)?))
}

impl Connection {
    fn over(end: End) -> Self {
        let flags = end.flags();
        Self {
            end: RwLock::new(Some(Arc::new(end))),
            readable: AtomicBool::new(flags.readable),
            writable: flags.writable,
        }
    }

    fn end(&self) -> PyResult<Arc<End>> {
        let end = self.end.read().unwrap_or_else(PoisonError::into_inner);
        end.clone().ok_or_else(|| PyOSError::new_err("handle is closed"))
    }

    fn receiver(&self) -> PyResult<Arc<End>> {
        let end = self.end()?;
        if !self.readable.load(Ordering::Relaxed) {
            return Err(PyOSError::new_err("connection is write-only"));
        }
        Ok(end)
    }

    fn sender(&self) -> PyResult<Arc<End>> {
        let end = self.end()?;
        if !self.writable {
            return Err(PyOSError::new_err("connection is read-only"));
        }
        Ok(end)
    }

    fn transmit(py: Python<'_>, end: &End, encoded: &message::Encoded) -> PyResult<()> {
        let fds: Vec<_> = encoded.fds.iter().map(AsFd::as_fd).collect();
        encoded.with_payload(
            py,
            Deadline::Never,
            |bytes| end.extent(bytes),
            |payload| {
                let mut outgoing = Outgoing { meta: encoded.meta(), payload, fds: &fds };
                match end.try_send(&mut outgoing) {
                    Err(Error::Full | Error::WouldBlock | Error::Interrupted) => {
                        blocking::wait(py, || end.send(&mut outgoing, Deadline::Never))?.map_err(raise)
                    }
                    done => done.map_err(raise),
                }
            },
        )
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
            let received = match end.try_recv(inbox, &mut fds) {
                Err(Error::Empty | Error::WouldBlock | Error::Interrupted) => {
                    blocking::wait(py, || end.recv(inbox, &mut fds, Deadline::Never))?
                }
                done => done,
            };
            make(received.map_err(raise_receiving)?, inbox, fds)
        })
    }
}

#[pymethods]
impl Connection {
    #[new]
    #[pyo3(signature = (*, _handle))]
    fn new(_handle: (Py<Descriptor>, Py<Descriptor>, u32)) -> PyResult<Self> {
        let (memfd, socket, flags) = _handle;
        let flags =
            Flags { readable: flags & READABLE != 0, writable: flags & WRITABLE != 0, second: flags & SECOND != 0 };
        let (memfd, socket) = (memfd.get().own()?, socket.get().own()?);
        Ok(Self::over(End::attach(memfd, socket, flags).map_err(raise)?))
    }

    #[classmethod]
    fn _attach<'py>(
        cls: &Bound<'py, PyType>,
        memfd: Py<Descriptor>,
        socket: Py<Descriptor>,
        flags: u32,
    ) -> PyResult<Bound<'py, PyAny>> {
        handles::attached(cls, (memfd, socket, flags))
    }

    fn _handle(&self) -> PyResult<(RawFd, RawFd, u32)> {
        let end = self.end()?;
        let (memfd, socket, flags) = end.handles();
        let bit = |set: bool, bit: u32| if set { bit } else { 0 };
        let flags = bit(flags.readable, READABLE) | bit(flags.writable, WRITABLE) | bit(flags.second, SECOND);
        Ok((handles::raw(memfd), handles::raw(socket), flags))
    }

    /// Send an object.
    fn send(&self, obj: &Bound<'_, PyAny>) -> PyResult<()> {
        let end = self.sender()?;
        Self::transmit(obj.py(), &end, &message::encode(obj)?)
    }

    /// Receive an object.
    fn recv<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        self.receive(py, |received, inbox, fds| message::decode(py, received, inbox, fds))
    }

    /// Send `size` bytes (default: all) of a bytes-like object, from `offset` on.
    #[pyo3(signature = (buf, offset = 0, size = None))]
    fn send_bytes(&self, buf: &Bound<'_, PyAny>, offset: isize, size: Option<isize>) -> PyResult<()> {
        let end = self.sender()?;
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
        Self::transmit(buf.py(), &end, &message::raw(buffer, offset, size))
    }

    /// Receive the bytes of one message, of at most `maxlength`.
    #[pyo3(signature = (maxlength = None))]
    fn recv_bytes<'py>(&self, py: Python<'py>, maxlength: Option<isize>) -> PyResult<Bound<'py, PyBytes>> {
        if maxlength.is_some_and(|n| n < 0) {
            return Err(PyValueError::new_err("negative maxlength"));
        }
        let bytes = self.receive(py, |received, inbox, fds| message::decode_bytes(py, received, inbox, fds))?;
        if maxlength.is_some_and(|n| bytes.as_bytes().len() > n as usize) {
            // As the stdlib's: this direction is of no more use.
            if self.writable {
                self.readable.store(false, Ordering::Relaxed);
            } else {
                self.close();
            }
            return Err(PyOSError::new_err("bad message length"));
        }
        Ok(bytes)
    }

    /// Receive the bytes of one message into a writable buffer at `offset`; returns their number.
    #[pyo3(signature = (buf, offset = 0))]
    fn recv_bytes_into(&self, py: Python<'_>, buf: &Bound<'_, PyAny>, offset: isize) -> PyResult<usize> {
        self.receiver()?;
        let target = byte_buffer(buf)?;
        if target.readonly() {
            return Err(pyo3::exceptions::PyBufferError::new_err("Underlying buffer is not writable"));
        }
        let offset = usize::try_from(offset).map_err(|_| PyValueError::new_err("negative offset"))?;
        if offset > target.len_bytes() {
            return Err(PyValueError::new_err("offset too large"));
        }
        let bytes = self.receive(py, |received, inbox, fds| message::decode_bytes(py, received, inbox, fds))?;
        let data = bytes.as_bytes();
        if data.len() > target.len_bytes() - offset {
            let class = py.import("multiprocessing.context")?.getattr("BufferTooShort")?;
            return Err(PyErr::from_value(class.call1((bytes,))?));
        }
        message::fill(&target, offset, data);
        Ok(data.len())
    }

    /// Is there a message, or will there be within `timeout` seconds (None: ever)? Also true at the end of the stream.
    #[pyo3(signature = (timeout = Some(0.0)))]
    fn poll(&self, py: Python<'_>, timeout: Option<f64>) -> PyResult<bool> {
        let end = self.receiver()?;
        let deadline = blocking::deadline(timeout);
        match blocking::wait(py, || end.wait(deadline))? {
            Ok(()) | Err(Error::PeerGone) => Ok(true),
            Err(Error::Empty) => Ok(false),
            Err(other) => Err(raise(other)),
        }
    }

    /// A descriptor that is readable when a message, or the end of the stream, is there.
    fn fileno(&self) -> PyResult<RawFd> {
        let end = self.end()?;
        Ok(handles::raw(end.watch().map_err(raise)?))
    }

    /// Close this end here; a `recv` that waits on it in another thread raises `EOFError`.
    fn close(&self) {
        let end = self.end.write().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(end) = end {
            end.close();
        }
    }

    /// Is it closed?
    #[getter]
    fn closed(&self) -> bool {
        self.end.read().unwrap_or_else(PoisonError::into_inner).is_none()
    }

    /// May it receive?
    #[getter]
    fn readable(&self) -> bool {
        self.readable.load(Ordering::Relaxed)
    }

    /// May it send?
    #[getter]
    fn writable(&self) -> bool {
        self.writable
    }

    fn __enter__(slf: Bound<'_, Self>) -> Bound<'_, Self> {
        slf
    }

    #[pyo3(signature = (*_args))]
    fn __exit__(&self, _args: &Bound<'_, PyTuple>) {
        self.close();
    }
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
