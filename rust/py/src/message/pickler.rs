//! Objects to pickle streams and back, by the interpreter's own pickler.
//!
//! It is kept per thread; an object whose `__reduce__` itself puts something gets another one. Its
//! memo is cleared after each object, which takes as long as the table is large: after an object
//! that may have made it large it gets a new one.
//!
//! Registrations with `ForkingPickler` and `copyreg` are honoured, also later ones. Large buffers
//! (protocol 5) are kept out of the stream.
#![allow(unsafe_code)]

use std::cell::Cell;
use std::os::fd::OwnedFd;
use std::sync::{Mutex, MutexGuard, PoisonError};

use pyo3::exceptions::PyException;
use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::{PyBytes, PyDict, PyList};

use super::channel_fds;
use super::reducers::Reducers;
use crate::once::imported;

/// Smaller buffers are not worth keeping apart.
pub(super) const APART: usize = 16 << 10;
/// An object with a longer stream may have made the memo large: each entry takes two bytes at
/// least.
const LONG: usize = 1 << 10;

thread_local! {
    static PICKLER: Cell<Option<Pickler>> = const { Cell::new(None) };
}

/// `callable(argument)`.
pub(super) fn call<'py>(callable: &Bound<'py, PyAny>, argument: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyAny>> {
    // SAFETY: attached; arguments up to a null pointer. Gives a new reference, or null with an
    // exception set. (PyO3 would make a tuple, for the sake of old versions of the limited API.)
    unsafe {
        let result = ffi::PyObject_CallFunctionObjArgs(
            callable.as_ptr(),
            argument.as_ptr(),
            std::ptr::null_mut::<ffi::PyObject>(),
        );
        Bound::from_owned_ptr_or_err(callable.py(), result)
    }
}

/// The object in a pickle stream, with the buffers that were kept out of it and descriptors.
pub fn unpickle<'py>(
    stream: &Bound<'py, PyBytes>,
    buffers: Option<&[Bound<'py, PyAny>]>,
    fds: Vec<OwnedFd>,
) -> PyResult<Bound<'py, PyAny>> {
    static LOADS: PyOnceLock<Py<PyAny>> = PyOnceLock::new();
    let py = stream.py();
    let loads = imported(py, &LOADS, "pickle", "loads")?;
    let kwargs = match buffers {
        Some(buffers) => {
            let kwargs = PyDict::new(py);
            kwargs.set_item(pyo3::intern!(py, "buffers"), PyList::new(py, buffers)?)?;
            Some(kwargs)
        }
        None => None,
    };
    channel_fds::handing_out(fds, || match &kwargs {
        Some(kwargs) => loads.call((stream,), Some(kwargs)),
        None => call(loads, stream),
    })
}

/// A pickle stream, in frames, the buffers that were kept out of it, and descriptors.
pub struct Pickled {
    /// If it goes nowhere.
    pub undo: channel_fds::Undo,
    pub frames: Vec<Py<PyBytes>>,
    pub buffers: Vec<Py<PyAny>>,
    pub fds: Vec<OwnedFd>,
}

/// A C pickler with its ends.
struct Pickler {
    pickler: Py<PyAny>,
    dump: Py<PyAny>,
    clear_memo: Py<PyAny>,
    frames: Py<FrameWriter>,
    buffers: Py<OutOfBand>,
    /// This thread's attributes of `multiprocessing.context._tls`.
    spawning: Py<PyDict>,
}

impl Pickler {
    fn new(py: Python<'_>) -> PyResult<Pickler> {
        let frames = Py::new(py, FrameWriter { frames: Mutex::default() })?;
        let buffers = Py::new(py, OutOfBand { buffers: Mutex::default() })?;
        let kwargs = PyDict::new(py);
        kwargs.set_item("buffer_callback", &buffers)?;
        let pickler = py.import("pickle")?.getattr("Pickler")?.call((&frames, 5), Some(&kwargs))?;
        pickler.setattr("dispatch_table", Reducers::get(py)?)?;
        let spawning = py.import("multiprocessing.context")?.getattr("_tls")?.getattr("__dict__")?;
        Ok(Pickler {
            dump: pickler.getattr("dump")?.unbind(),
            clear_memo: pickler.getattr("clear_memo")?.unbind(),
            pickler: pickler.unbind(),
            frames,
            buffers,
            spawning: spawning.cast_into()?.unbind(),
        })
    }

    fn forget(&self, py: Python<'_>, written: usize) -> PyResult<()> {
        if written > LONG {
            self.pickler.bind(py).setattr(pyo3::intern!(py, "memo"), PyDict::new(py))
        } else {
            self.clear_memo.bind(py).call0().map(drop)
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Pickle `obj`.
pub fn pickle(obj: &Bound<'_, PyAny>) -> PyResult<Pickled> {
    let py = obj.py();
    // Taken, not borrowed: what pickles here may itself put.
    let kept = match PICKLER.take() {
        Some(kept) => kept,
        None => Pickler::new(py)?,
    };
    let spawning = kept.spawning.bind(py).get_item(pyo3::intern!(py, "spawning_popen"))?;
    let dumped = channel_fds::collecting(spawning, || call(kept.dump.bind(py), obj));
    let frames = std::mem::take(&mut *lock(&kept.frames.get().frames));
    let buffers = std::mem::take(&mut *lock(&kept.buffers.get().buffers));
    // After a failure the pickler may be in the middle of anything: it is not used again.
    let (_, fds, undo) = dumped.map_err(|error| explained(py, error, obj))?;
    kept.forget(py, frames.iter().map(|frame| frame.as_bytes(py).len()).sum())?;
    PICKLER.set(Some(kept));
    Ok(Pickled { frames, buffers, fds, undo })
}

/// The error, which now says what part of the object it is about; or what a signal handler has
/// raised meanwhile.
#[cold]
fn explained(py: Python<'_>, error: PyErr, obj: &Bound<'_, PyAny>) -> PyErr {
    if !error.is_instance_of::<PyException>(py) {
        return error;
    }
    let explain = py.import("fastmp.pickling_errors").and_then(|module| module.getattr("explain_sending"));
    match explain.and_then(|explain| explain.call1((error.value(py), obj))) {
        Err(other) if !other.is_instance_of::<PyException>(py) => other,
        _ => error,
    }
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
