//! Objects to pickle streams and back.
//!
//! Registrations with `ForkingPickler` and `copyreg` are honoured, also later ones. The C pickler is kept per thread and its
//! memo cleared; an object whose `__reduce__` itself puts something gets another one. Large buffers
//! (protocol 5) are kept out of the stream.

use std::cell::RefCell;
use std::sync::Mutex;

use pyo3::exceptions::PyKeyError;
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::{PyBytes, PyDict};

/// Smaller buffers are not worth keeping apart.
const APART: usize = 16 << 10;

thread_local! {
    static PICKLER: RefCell<Option<Pickler>> = const { RefCell::new(None) };
}

/// `pickle.loads`.
pub fn loads(py: Python<'_>) -> PyResult<&Bound<'_, PyAny>> {
    static LOADS: PyOnceLock<Py<PyAny>> = PyOnceLock::new();
    LOADS.import(py, "pickle", "loads")
}

/// A pickle stream, in frames, and the buffers that were kept out of it.
pub struct Pickled {
    pub frames: Vec<Py<PyBytes>>,
    pub buffers: Vec<Py<PyAny>>,
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

/// Pickle `obj`.
pub fn pickle(obj: &Bound<'_, PyAny>) -> PyResult<Pickled> {
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
