//! What stands in dictionaries, looked at without a reference of one's own: to count one copies a
//! page.
#![allow(unsafe_code)]

use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyList, PySet, PyString};

/// The dictionary of an object's attributes, by no code of Python's; an error if it has none.
pub fn attributes<'py>(of: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyDict>> {
    // SAFETY: `of` is live, this thread has the interpreter, and what is returned is a reference of
    // the caller's, or null with an error set.
    let dict = unsafe {
        Bound::from_owned_ptr_or_err(of.py(), ffi::PyObject_GenericGetDict(of.as_ptr(), std::ptr::null_mut()))
    };
    Ok(dict?.cast_into::<PyDict>()?)
}

/// Look at what a dictionary has by that name, if anything. `look` runs no code of Python's.
pub fn look<R>(
    dict: &Py<PyDict>,
    name: &Py<PyString>,
    py: Python<'_>,
    look: impl FnOnce(&Bound<'_, PyAny>) -> R,
) -> Option<R> {
    if cfg!(Py_GIL_DISABLED) {
        // Another thread may have something else put there meanwhile.
        return dict.bind(py).get_item(name).ok().flatten().map(|found| look(&found));
    }
    // SAFETY: both are live. What is found is borrowed for `look`, and as that runs no code of
    // Python's, and this thread has the interpreter, the dictionary has it all the while.
    let found = unsafe {
        let found = ffi::PyDict_GetItemWithError(dict.as_ptr(), name.as_ptr());
        if found.is_null() && !ffi::PyErr_Occurred().is_null() {
            ffi::PyErr_Clear();
        }
        Borrowed::from_ptr_or_opt(py, found)
    };
    found.map(|found| look(&found))
}

/// Is it this very one?
pub fn is(dict: &Py<PyDict>, name: &Py<PyString>, py: Python<'_>, known: &Option<Py<PyAny>>) -> bool {
    known.as_ref().is_some_and(|known| look(dict, name, py, |found| found.is(known)).unwrap_or(false))
}

/// How many has a container whose length is no code of Python's?
fn plain_len(found: &Bound<'_, PyAny>) -> Option<usize> {
    if let Ok(dict) = found.cast_exact::<PyDict>() {
        return Some(dict.len());
    }
    if let Ok(list) = found.cast_exact::<PyList>() {
        return Some(list.len());
    }
    found.cast_exact::<PySet>().ok().map(|set| set.len())
}

/// Is it a container with so many at most? None counts as empty; what is unknown does not.
pub fn has_at_most(dict: &Py<PyDict>, name: &Py<PyString>, py: Python<'_>, most: usize) -> bool {
    let few = |found: &Bound<'_, PyAny>| found.is_none() || plain_len(found).is_some_and(|len| len <= most);
    look(dict, name, py, few).unwrap_or(false)
}

/// Is it a dictionary with this value and no other?
pub fn is_only_value(dict: &Py<PyDict>, name: &Py<PyString>, py: Python<'_>, value: &Bound<'_, PyAny>) -> bool {
    let is_only = |found: &Bound<'_, PyAny>| {
        let Ok(found) = found.cast_exact::<PyDict>() else { return false };
        let mut values = found.iter();
        values.next().is_some_and(|(_, only)| only.is(value)) && values.next().is_none()
    };
    look(dict, name, py, is_only).unwrap_or(false)
}
