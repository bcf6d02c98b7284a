//! The one map from the core's errors to Python's exceptions.

use fastmp_core::Error;
use pyo3::create_exception;
use pyo3::exceptions::{
    PyAssertionError, PyEOFError, PyMemoryError, PyOSError, PyRuntimeError, PyRuntimeWarning, PyTimeoutError,
    PyValueError,
};
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::PyType;

use crate::once::imported;

create_exception!(
    fastmp,
    OwnerDiedWarning,
    PyRuntimeWarning,
    "The last owner of a lock ended while holding it; what the lock guards may be half-changed."
);
create_exception!(
    fastmp,
    CorruptedError,
    PyRuntimeError,
    "Shared memory holds what no fastmp process has written there."
);

/// What an error means to somebody who called an operation of no special kind.
pub fn raise(error: Error) -> PyErr {
    match error {
        Error::OutOfMemory => PyMemoryError::new_err("the system refused shared memory; free some or raise its limits"),
        Error::Corrupted(what) => CorruptedError::new_err(what),
        Error::Os(errno) => os_error(errno.raw_os_error()),
        Error::NotOwner => PyAssertionError::new_err("attempt to release recursive lock not owned by thread"),
        Error::Overflow => PyValueError::new_err("semaphore or lock released too many times"),
        Error::PeerGone => os_error(libc::EPIPE),
        Error::Closed => os_error_saying(libc::EBADF, "handle is closed"),
        Error::TooLarge => PyValueError::new_err("message too large"),
        Error::Full => instance(&FULL, "queue", "Full"),
        Error::Empty => instance(&EMPTY, "queue", "Empty"),
        Error::ShutDown => instance(&SHUT_DOWN, "fastmp.exceptions", "ShutDown"),
        Error::Broken => instance(&BROKEN, "threading", "BrokenBarrierError"),
        Error::TimedOut | Error::WouldBlock => PyTimeoutError::new_err("timed out"),
        // Never leaves `blocking`.
        Error::Interrupted => os_error(libc::EINTR),
    }
}

/// What a message's bytes mean that no sender of ours wrote.
#[cold]
pub fn garbage() -> PyErr {
    CorruptedError::new_err("a message that was not written by fastmp")
}

/// As `raise`, for one who receives: that the other end is gone is an end of file.
pub fn raise_receiving(error: Error) -> PyErr {
    match error {
        Error::PeerGone | Error::Closed => PyEOFError::new_err(()),
        other => raise(other),
    }
}

/// The OSError subclass that goes with an error number, and says what the system says of it.
pub fn os_error(errno: i32) -> PyErr {
    let text = std::io::Error::from_raw_os_error(errno).to_string();
    let text = text.strip_suffix(&format!(" (os error {errno})")).unwrap_or(&text).to_owned();
    PyOSError::new_err((errno, text))
}

/// The same with a text of our own, where the stdlib has one without a number.
pub fn os_error_saying(errno: i32, text: &'static str) -> PyErr {
    PyOSError::new_err((errno, text))
}

static FULL: PyOnceLock<Py<PyType>> = PyOnceLock::new();
static EMPTY: PyOnceLock<Py<PyType>> = PyOnceLock::new();
static SHUT_DOWN: PyOnceLock<Py<PyType>> = PyOnceLock::new();
static BROKEN: PyOnceLock<Py<PyType>> = PyOnceLock::new();

/// `queue.Full`.
pub fn full(py: Python<'_>) -> PyResult<&Bound<'_, PyType>> {
    imported(py, &FULL, "queue", "Full")
}

fn instance(cell: &PyOnceLock<Py<PyType>>, module: &'static str, name: &'static str) -> PyErr {
    Python::attach(|py| match imported(py, cell, module, name) {
        Ok(class) => PyErr::from_type(class.clone(), ()),
        Err(e) => e,
    })
}
