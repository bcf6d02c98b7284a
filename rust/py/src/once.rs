//! What is made once. `PyOnceLock`'s own ways wait while it is being made; but to make it may run
//! others' code, the garbage collector's if no other, and that may come here again: it would wait
//! for itself.

use pyo3::exceptions::PyRuntimeError;
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::type_object::PyTypeCheck;

/// What is in `cell`, or what `make` makes: several may do so at a time, and the first counts.
pub fn once<'a, T>(py: Python<'_>, cell: &'a PyOnceLock<T>, make: impl FnOnce() -> PyResult<T>) -> PyResult<&'a T> {
    if let Some(known) = cell.get(py) {
        return Ok(known);
    }
    let made = make()?;
    // Another may have been quicker.
    let _ = cell.set(py, made);
    cell.get(py).ok_or_else(|| PyRuntimeError::new_err("what was made is not there"))
}

/// An attribute of a module.
pub fn imported<'a, 'py: 'a, T: PyTypeCheck>(
    py: Python<'py>,
    cell: &'a PyOnceLock<Py<T>>,
    module: &str,
    name: &str,
) -> PyResult<&'a Bound<'py, T>> {
    let make = || Ok(py.import(module)?.getattr(name)?.cast_into::<T>()?.unbind());
    Ok(once(py, cell, make)?.bind(py))
}
