//! `acquire`, `release`, `__enter__` and `__exit__` of the locks, as bare C methods.
//!
//! An uncontended lock takes two atomics, some 10 ns; a bound method of PyO3's adds as much again in checks that these four do not need. So
//! their common case is written against the C API, and everything else - other arguments, waiting, errors - is handed to the PyO3
//! methods `_acquire` and `_release` of the same class. No Python object is dropped here and nothing unwinds.
#![allow(unsafe_code)]

use std::ffi::CStr;
use std::ptr;

use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::types::PyType;
use pyo3::{PyClass, PyTypeInfo};

use crate::capi::bound_method;

/// What a lock can do without waiting or failing.
pub trait FastLock: PyClass<Frozen = pyo3::pyclass::boolean_struct::True> + Sync {
    /// Take it if that is possible at once.
    fn try_acquire(&self) -> bool;
    /// Release it if it is this thread's to release; false if not.
    fn try_release(&self) -> bool;
}

/// # Safety
/// `slf` is an instance of `T`: the method descriptor has checked it.
#[inline(always)]
unsafe fn this<'a, T: FastLock>(slf: *mut ffi::PyObject) -> &'a T {
    // SAFETY: a C method runs attached; the caller's for the type. The reference is used during the call alone, for which
    // the interpreter keeps `slf` alive.
    unsafe {
        let py = Python::assume_attached();
        let this: Borrowed<'a, 'a, T> = Borrowed::from_ptr(py, slf).cast_unchecked();
        &*ptr::from_ref(this.get())
    }
}

#[inline(always)]
fn truth() -> *mut ffi::PyObject {
    // SAFETY: attached; True is immortal or counted by this.
    unsafe {
        let truth = ffi::Py_True();
        ffi::Py_INCREF(truth);
        truth
    }
}

#[inline(always)]
fn none() -> *mut ffi::PyObject {
    // SAFETY: as in `truth`.
    unsafe {
        let none = ffi::Py_None();
        ffi::Py_INCREF(none);
        none
    }
}

unsafe extern "C" fn acquire<T: FastLock>(
    slf: *mut ffi::PyObject,
    args: *const *mut ffi::PyObject,
    nargs: ffi::Py_ssize_t,
    kwnames: *mut ffi::PyObject,
) -> *mut ffi::PyObject {
    // SAFETY: the interpreter's calling convention: nargs arguments, then those that kwnames names. A name that
    // is looked up is interned once by the interpreter.
    unsafe {
        let plain =
            kwnames.is_null() && (nargs == 0 || (nargs == 1 && (*args == ffi::Py_True() || *args == ffi::Py_False())));
        if plain && this::<T>(slf).try_acquire() {
            return truth();
        }
        call_python(slf, c"_acquire", args, nargs, kwnames)
    }
}

/// Call the method `name` of `slf` with these arguments.
///
/// # Safety
/// The interpreter's calling convention, as in `acquire`.
#[cold]
pub unsafe fn call_python(
    slf: *mut ffi::PyObject,
    name: &CStr,
    args: *const *mut ffi::PyObject,
    nargs: ffi::Py_ssize_t,
    kwnames: *mut ffi::PyObject,
) -> *mut ffi::PyObject {
    // SAFETY: the caller's; each new reference is checked, and released or given away once.
    unsafe {
        let method = ffi::PyObject_GetAttrString(slf, name.as_ptr());
        let tuple = ffi::PyTuple_New(nargs);
        let keywords = if kwnames.is_null() { ptr::null_mut() } else { ffi::PyDict_New() };
        let mut ok = !method.is_null() && !tuple.is_null() && (kwnames.is_null() || !keywords.is_null());
        for i in 0..if ok { nargs } else { 0 } {
            let arg = *args.offset(i);
            ffi::Py_INCREF(arg);
            ok &= ffi::PyTuple_SetItem(tuple, i, arg) == 0;
        }
        for i in 0..if ok && !kwnames.is_null() { ffi::PyTuple_Size(kwnames) } else { 0 } {
            ok &= ffi::PyDict_SetItem(keywords, ffi::PyTuple_GetItem(kwnames, i), *args.offset(nargs + i)) == 0;
        }
        let result = if ok { ffi::PyObject_Call(method, tuple, keywords) } else { ptr::null_mut() };
        for object in [method, tuple, keywords] {
            ffi::Py_XDECREF(object);
        }
        result
    }
}

/// `__enter__`.
///
/// # Safety
/// `slf` is an instance of `T`, and the caller is attached.
pub unsafe extern "C" fn enter<T: FastLock>(slf: *mut ffi::PyObject, _: *mut ffi::PyObject) -> *mut ffi::PyObject {
    // SAFETY: as in `acquire`.
    unsafe { acquire::<T>(slf, ptr::null(), 0, ptr::null_mut()) }
}

/// `release`.
///
/// # Safety
/// As for `enter`.
pub unsafe extern "C" fn release<T: FastLock>(slf: *mut ffi::PyObject, _: *mut ffi::PyObject) -> *mut ffi::PyObject {
    // SAFETY: as in `acquire`.
    unsafe {
        if this::<T>(slf).try_release() {
            return none();
        }
        call_python(slf, c"_release", ptr::null(), 0, ptr::null_mut())
    }
}

unsafe extern "C" fn exit<T: FastLock>(
    slf: *mut ffi::PyObject,
    _args: *mut *mut ffi::PyObject,
    _nargs: ffi::Py_ssize_t,
) -> *mut ffi::PyObject {
    // SAFETY: as in `acquire`.
    unsafe { release::<T>(slf, ptr::null_mut()) }
}

/// Give the class `T` these methods.
pub fn install<T: FastLock + PyTypeInfo>(py: Python<'_>) -> PyResult<()> {
    install_in::<T>(&py.get_type::<T>())
}

/// Give a subclass of `T` these methods, as its own: the interpreter specialises a call only where an object is exactly of the class that
/// the method's descriptor names.
pub fn install_in<T: FastLock + PyTypeInfo>(class: &Bound<'_, PyType>) -> PyResult<()> {
    let acquire_doc = c"acquire($self, block=True, timeout=None)\n--\n\nTake it, waiting for `timeout` seconds at most (None: for ever) if `block`; was it got?";
    let release_doc =
        c"release($self)\n--\n\nGive it up.\n\nRaises ValueError (a recursive lock: AssertionError) if it is not held.";
    let methods = [
        (
            c"acquire",
            ffi::PyMethodDefPointer { PyCFunctionFastWithKeywords: acquire::<T> },
            ffi::METH_FASTCALL | ffi::METH_KEYWORDS,
            acquire_doc,
        ),
        (c"release", ffi::PyMethodDefPointer { PyCFunction: release::<T> }, ffi::METH_NOARGS, release_doc),
        (c"__enter__", ffi::PyMethodDefPointer { PyCFunction: enter::<T> }, ffi::METH_NOARGS, c"Acquire it."),
        (c"__exit__", ffi::PyMethodDefPointer { PyCFunctionFast: exit::<T> }, ffi::METH_FASTCALL, c"Release it."),
    ];
    for (name, pointer, flags, doc) in methods {
        let plain = method(class, name, pointer, flags, doc)?;
        let shown = match name.to_bytes() {
            b"__enter__" => bound_method::descriptor(class, plain, enter::<T>, 0)?,
            b"__exit__" => bound_method::descriptor(class, plain, release::<T>, 3)?,
            _ => plain,
        };
        class.setattr(name.to_string_lossy(), shown)?;
    }
    Ok(())
}

/// A method descriptor for `class`.
pub fn method<'py>(
    class: &Bound<'py, PyType>,
    name: &'static CStr,
    pointer: ffi::PyMethodDefPointer,
    flags: i32,
    doc: &'static CStr,
) -> PyResult<Bound<'py, PyAny>> {
    let definition =
        ffi::PyMethodDef { ml_name: name.as_ptr(), ml_meth: pointer, ml_flags: flags, ml_doc: doc.as_ptr() };
    // A descriptor refers to its definition for as long as the class lives: for ever.
    let definition = Box::leak(Box::new(definition));
    // SAFETY: the definition matches its function's convention, and the class is the one that `this` expects.
    unsafe {
        let new = ffi::PyDescr_NewMethod(class.as_type_ptr(), definition);
        Bound::from_owned_ptr_or_err(class.py(), new)
    }
}
