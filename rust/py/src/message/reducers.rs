//! What a pickler asks for objects of types that it does not know itself.
//!
//! Registrations with `ForkingPickler` and `copyreg` come first, as they are at the time.
//!
//! # Writable buffers
//! An array that may not be written to here may be there, as when the standard library sends it by
//! an older protocol. Protocol 5 would keep it read-only: what is reduced to a read-only buffer is
//! reduced again by protocol 4, but for numpy's arrays, which are spared the copies.
#![allow(unsafe_code)]

use std::ffi::c_int;

use pyo3::buffer::PyBuffer;
use pyo3::exceptions::{PyAttributeError, PyKeyError};
use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::{PyDict, PyTuple, PyType};

use super::pickler::call;
use crate::once::{imported, once};

/// A pickler's dispatch table: ForkingPickler's registrations, then copyreg's, both as they are at
/// the time; then what the pickler would do itself.
#[pyclass(frozen)]
pub struct Reducers {
    registered: [Py<PyDict>; 2],
    /// `reduce`. A type that is not found would cost the pickler an exception.
    others: Py<PyAny>,
}

impl Reducers {
    /// The only one.
    pub fn get(py: Python<'_>) -> PyResult<&Py<Reducers>> {
        static REDUCERS: PyOnceLock<Py<Reducers>> = PyOnceLock::new();
        once(py, &REDUCERS, || {
            let ours = py.import("multiprocessing.reduction")?.getattr("ForkingPickler")?.getattr("_extra_reducers")?;
            let standard = py.import("copyreg")?.getattr("dispatch_table")?;
            let others = pyo3::wrap_pyfunction!(reduce, py)?.into_any().unbind();
            let registered = [ours.cast_into()?.unbind(), standard.cast_into()?.unbind()];
            Py::new(py, Reducers { registered, others })
        })
    }
}

/// Has a reducer been registered for this class?
pub fn is_registered(class: &Bound<'_, PyAny>) -> PyResult<bool> {
    let reducers = Reducers::get(class.py())?.get();
    let has = |table: &Py<PyDict>| table.bind(class.py()).contains(class);
    Ok(has(&reducers.registered[0])? || has(&reducers.registered[1])?)
}

#[pymethods]
impl Reducers {
    fn __getitem__<'py>(&self, class: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyAny>> {
        let py = class.py();
        for table in &self.registered {
            if let Some(reducer) = table.bind(py).get_item(class)? {
                return Ok(reducer);
            }
        }
        let kind = class.cast::<PyType>()?.as_type_ptr();
        // SAFETY: attached; both are types. (`issubclass` would ask Python code.)
        let is_metaclass = unsafe { ffi::PyType_IsSubtype(kind, &raw mut ffi::PyType_Type) != 0 };
        // Classes are pickled by name.
        if is_metaclass {
            return Err(PyKeyError::new_err(class.clone().unbind()));
        }
        Ok(self.others.bind(py).clone())
    }
}

/// What a pickler does with an object of no registered type.
#[pyfunction]
fn reduce<'py>(obj: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyAny>> {
    let py = obj.py();
    let reduced = match obj.getattr(pyo3::intern!(py, "__reduce_ex__")) {
        Ok(method) => call(&method, protocol(py, &FIVE, 5)?)?,
        Err(e) if e.is_instance_of::<PyAttributeError>(py) => {
            return obj.call_method0(pyo3::intern!(py, "__reduce__"));
        }
        Err(e) => return Err(e),
    };
    match reduced.cast_exact::<PyTuple>() {
        // Of another length it is none, as the pickler says.
        Ok(tuple) if tuple.len() >= 2 => writable(obj, tuple),
        _ => Ok(reduced),
    }
}

static FIVE: PyOnceLock<Py<PyAny>> = PyOnceLock::new();
static FOUR: PyOnceLock<Py<PyAny>> = PyOnceLock::new();

fn protocol<'py>(
    py: Python<'py>,
    cell: &'static PyOnceLock<Py<PyAny>>,
    number: c_int,
) -> PyResult<&'py Bound<'py, PyAny>> {
    Ok(cell.get_or_try_init(py, || Ok::<_, PyErr>(number.into_pyobject(py)?.into_any().unbind()))?.bind(py))
}

/// `reduced`, which stands for `obj`, without read-only buffers. See the module.
fn writable<'py>(obj: &Bound<'py, PyAny>, reduced: &Bound<'py, PyTuple>) -> PyResult<Bound<'py, PyAny>> {
    let py = obj.py();
    let arguments = reduced.get_item(1)?;
    let state = if reduced.len() > 2 { reduced.get_item(2)? } else { py.None().into_bound(py) };
    if !has_read_only(&arguments)? && !has_read_only(&state)? {
        return Ok(reduced.clone().into_any());
    }
    if reduced.len() == 2 && is_numpy_array(obj)? {
        let mut arguments: Vec<_> = arguments.cast_into::<PyTuple>()?.iter().collect();
        for argument in &mut arguments {
            if is_read_only(argument)? {
                let view = PyBuffer::get(&argument.call_method0("raw")?)?;
                *argument = argument.get_type().call1((Unprotected { view },))?;
            }
        }
        return Ok((reduced.get_item(0)?, PyTuple::new(py, arguments)?).into_pyobject(py)?.into_any());
    }
    call(&obj.getattr(pyo3::intern!(py, "__reduce_ex__"))?, protocol(py, &FOUR, 4)?)
}

/// Is it a read-only `PickleBuffer`, or a container of any?
fn has_read_only(part: &Bound<'_, PyAny>) -> PyResult<bool> {
    let class = buffer_class(part.py())?;
    if let Ok(parts) = part.cast_exact::<PyTuple>() {
        return Ok(parts.iter_borrowed().any(|part| part.get_type_ptr() == class) && any_read_only(parts.iter())?);
    }
    if let Ok(parts) = part.cast_exact::<PyDict>() {
        return Ok(parts.iter().any(|(_, part)| part.get_type_ptr() == class) && any_read_only(parts.values().iter())?);
    }
    is_read_only(part)
}

fn any_read_only<'py>(parts: impl Iterator<Item = Bound<'py, PyAny>>) -> PyResult<bool> {
    for part in parts {
        if is_read_only(&part)? {
            return Ok(true);
        }
    }
    Ok(false)
}

fn buffer_class(py: Python<'_>) -> PyResult<*mut ffi::PyTypeObject> {
    static CLASS: PyOnceLock<Py<PyType>> = PyOnceLock::new();
    Ok(imported(py, &CLASS, "pickle", "PickleBuffer")?.as_type_ptr())
}

fn is_read_only(part: &Bound<'_, PyAny>) -> PyResult<bool> {
    if part.get_type_ptr() != buffer_class(part.py())? {
        return Ok(false);
    }
    let mut view = ffi::Py_buffer::new();
    // SAFETY: attached; the view is filled, read and released here, or not filled.
    unsafe {
        if ffi::PyObject_GetBuffer(part.as_ptr(), &mut view, ffi::PyBUF_FULL_RO) != 0 {
            return Err(PyErr::fetch(part.py()));
        }
        let read_only = view.readonly != 0;
        ffi::PyBuffer_Release(&mut view);
        Ok(read_only)
    }
}

fn is_numpy_array(obj: &Bound<'_, PyAny>) -> PyResult<bool> {
    let class = obj.get_type();
    Ok(class.name()? == "ndarray" && class.module()? == "numpy")
}

/// The bytes of a read-only buffer, as a buffer that may be written to: nobody does, a pickler only
/// asks whether one may.
#[pyclass(frozen)]
struct Unprotected {
    view: PyBuffer<u8>,
}

#[pymethods]
impl Unprotected {
    /// # Safety
    /// The buffer protocol's.
    unsafe fn __getbuffer__(slf: Bound<'_, Self>, view: *mut ffi::Py_buffer, flags: c_int) -> PyResult<()> {
        let inner = &slf.get().view;
        // SAFETY: the memory is what the inner view keeps in place, which lives as long as `slf`,
        // and so as long as the view that is filled. The caller's for `view`.
        let filled = unsafe {
            ffi::PyBuffer_FillInfo(view, slf.as_ptr(), inner.buf_ptr(), inner.len_bytes() as isize, 0, flags)
        };
        if filled == 0 { Ok(()) } else { Err(PyErr::fetch(slf.py())) }
    }
}
