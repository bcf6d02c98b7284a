//! Making an object by calling its class, without a look at arguments that are not there.
//!
//! `__new__` makes an object, and `__init__` sets it up: so a subclass can be called with arguments
//! of its own and hand up what it likes. PyO3 would look at all arguments in both, which takes as
//! long as making a lock. So a class of which programs make many is a subclass of PyO3's: its
//! `__new__` looks at none, and its `__init__` leaves to PyO3's what is not the common case.
#![allow(unsafe_code)]

use std::ffi::{CStr, c_int, c_void};

use pyo3::prelude::*;
use pyo3::pyclass::boolean_struct::True;
use pyo3::types::{PyDict, PyTuple, PyType};
use pyo3::{PyClass, PyTypeInfo, ffi, intern};

use super::call::{Slots, slot, subclass};

/// What `__init__` does as a rule.
pub trait SetUp: PyClass<Frozen = True> + Sync {
    /// Set up with these arguments, none by name but perhaps a context; false: nothing is done, and
    /// PyO3's has to look at them.
    fn set_up(&self, args: Borrowed<'_, '_, PyTuple>) -> bool;
}

unsafe extern "C" fn new<T: PyTypeInfo>(
    class: *mut ffi::PyTypeObject,
    _args: *mut ffi::PyObject,
    _kwargs: *mut ffi::PyObject,
) -> *mut ffi::PyObject {
    // SAFETY: the interpreter calls attached, with a class that has inherited the slot, and so is
    // derived from `T`. The slot takes a class, a tuple, and a dict or null; none is given away.
    unsafe {
        let new: ffi::newfunc = slot::<T, _>(Python::assume_attached(), ffi::Py_tp_new);
        let none = ffi::PyTuple_New(0);
        let made = new(class, none, std::ptr::null_mut());
        ffi::Py_DECREF(none);
        made
    }
}

unsafe extern "C" fn init<T: SetUp>(
    slf: *mut ffi::PyObject,
    args: *mut ffi::PyObject,
    kwargs: *mut ffi::PyObject,
) -> c_int {
    // SAFETY: the interpreter calls attached, with an instance of a class that has the slot, and so
    // of `T`; with a tuple, and a dict or null. PyO3's slot takes the same.
    unsafe {
        let py = Python::assume_attached();
        let this: Borrowed<'_, '_, T> = Borrowed::from_ptr(py, slf).cast_unchecked();
        let positional: Borrowed<'_, '_, PyTuple> = Borrowed::from_ptr(py, args).cast_unchecked();
        let named: Option<Borrowed<'_, '_, PyDict>> =
            Borrowed::from_ptr_or_opt(py, kwargs).map(|named| named.cast_unchecked());
        if named.is_none_or(is_context) && this.get().set_up(positional) {
            return 0;
        }
        let init: ffi::initproc = slot::<T, _>(py, ffi::Py_tp_init);
        init(slf, args, kwargs)
    }
}

/// Is it the one that is taken and not looked at, as in the stdlib?
fn is_context(named: Borrowed<'_, '_, PyDict>) -> bool {
    named.len() == 1 && named.contains(intern!(named.py(), "ctx")).unwrap_or(false)
}

/// The same slots, and the one by which `__new__` looks at no argument.
pub fn made_plainly<T: PyTypeInfo>(slots: Slots<T>) -> Slots<T> {
    slots.and(Slots::of([(ffi::Py_tp_new, new::<T> as *mut c_void)]))
}

/// The class to be called: a subclass of `T`, with its text.
pub fn class<'py, T: SetUp>(py: Python<'py>, name: &'static CStr) -> PyResult<Bound<'py, PyType>> {
    let slots = made_plainly(Slots::of([(ffi::Py_tp_init, init::<T> as *mut c_void)]));
    let class = subclass::<T>(py, name, slots)?;
    class.setattr(intern!(py, "__doc__"), T::type_object(py).getattr(intern!(py, "__doc__"))?)?;
    Ok(class)
}
