//! `.value` of a guarded number or character, and the operations on integers that take no lock.
#![allow(unsafe_code)]

use std::ffi::{CStr, c_int, c_void};
use std::ptr;

use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::types::PyType;

use crate::capi::fast_methods;
use crate::sharedctypes::guarded::{Items, Parts, restore, slowly, subclass, this};
use crate::sharedctypes::scalar::{Update, masked};

/// # Safety
/// As for `this`.
#[inline(always)]
unsafe fn native<'a>(slf: *mut ffi::PyObject) -> Option<(&'a Parts, &'a Items)> {
    // SAFETY: the caller's.
    let parts = unsafe { this(slf) }.parts()?;
    parts.native().filter(|items| !items.is_array).map(|items| (parts, items))
}

unsafe extern "C" fn get(slf: *mut ffi::PyObject, _: *mut c_void) -> *mut ffi::PyObject {
    // SAFETY: a descriptor of `Guarded` is called attached, with an instance of it; item 0 of one item.
    unsafe {
        if let Some((parts, items)) = native(slf) {
            match parts.locked(|| items.scalar.load(items.at(0))) {
                Ok(Some(bits)) => return items.scalar.boxed(bits),
                Ok(None) => {}
                Err(error) => {
                    restore(error);
                    return ptr::null_mut();
                }
            }
        }
        slowly(slf, c"_get_value", [])
    }
}

unsafe extern "C" fn set(slf: *mut ffi::PyObject, value: *mut ffi::PyObject, _: *mut c_void) -> c_int {
    // SAFETY: as in `get`; `value` is an object, or null when the attribute is deleted.
    unsafe {
        if value.is_null() {
            ffi::PyErr_SetString(ffi::PyExc_AttributeError, c"property 'value' has no deleter".as_ptr());
            return -1;
        }
        if let Some((parts, items)) = native(slf)
            && let Some(bits) = items.scalar.bits(value)
        {
            match parts.locked(|| items.scalar.store(items.at(0), bits)) {
                Ok(Some(())) => return 0,
                Ok(None) => {}
                Err(error) => {
                    restore(error);
                    return -1;
                }
            }
        }
        let done = slowly(slf, c"_set_value", [value]);
        if done.is_null() {
            return -1;
        }
        ffi::Py_DECREF(done);
        0
    }
}

/// The integer of `slf`, or null with an exception set.
///
/// # Safety
/// As for `this`.
unsafe fn integer<'a>(slf: *mut ffi::PyObject) -> Option<&'a Items> {
    // SAFETY: the caller's; no lock is taken, so whose it is does not matter.
    unsafe {
        let items = this(slf).parts().and_then(|parts| parts.items.as_ref());
        let items = items.filter(|items| !items.is_array && items.scalar.is_integer());
        if items.is_none() {
            let text = c"only an integer in fastmp's shared memory can be changed atomically";
            ffi::PyErr_SetString(ffi::PyExc_TypeError, text.as_ptr());
        }
        items
    }
}

/// # Safety
/// As for `masked`.
unsafe fn operand(object: *mut ffi::PyObject) -> Option<u64> {
    // SAFETY: the caller's.
    unsafe {
        let bits = masked(object);
        if bits.is_none() {
            ffi::PyErr_SetString(ffi::PyExc_TypeError, c"an int is required".as_ptr());
        }
        bits
    }
}

/// # Safety
/// As for `this`; `by` is an object.
#[inline(always)]
unsafe fn change(slf: *mut ffi::PyObject, by: *mut ffi::PyObject, update: Update) -> *mut ffi::PyObject {
    // SAFETY: the caller's; item 0 of one item.
    unsafe {
        match (integer(slf), operand(by)) {
            (Some(items), Some(by)) => items.scalar.boxed(items.scalar.update(items.at(0), update, by)),
            _ => ptr::null_mut(),
        }
    }
}

macro_rules! updates {
    ($($name:ident: $update:ident),*) => {
        $(unsafe extern "C" fn $name(slf: *mut ffi::PyObject, by: *mut ffi::PyObject) -> *mut ffi::PyObject {
            // SAFETY: a method of `Guarded` with one argument, called attached.
            unsafe { change(slf, by, Update::$update) }
        })*
    };
}

updates!(fetch_add: Add, fetch_sub: Sub, fetch_or: Or, fetch_and: And, fetch_xor: Xor, exchange: Swap);

unsafe extern "C" fn compare_exchange(
    slf: *mut ffi::PyObject,
    args: *mut *mut ffi::PyObject,
    nargs: ffi::Py_ssize_t,
) -> *mut ffi::PyObject {
    // SAFETY: a method of `Guarded`, called attached with nargs arguments; item 0 of one item.
    unsafe {
        if nargs != 2 {
            ffi::PyErr_SetString(ffi::PyExc_TypeError, c"compare_exchange() takes exactly two arguments".as_ptr());
            return ptr::null_mut();
        }
        match (integer(slf), operand(*args), operand(*args.add(1))) {
            (Some(items), Some(expected), Some(new)) => {
                ffi::PyBool_FromLong(items.scalar.compare_exchange(items.at(0), expected, new).into())
            }
            _ => ptr::null_mut(),
        }
    }
}

/// A subclass of `Guarded` with `.value` and the rest.
pub fn class(py: Python<'_>) -> PyResult<Bound<'_, PyType>> {
    let class = subclass(py, c"fastmp._native.GuardedValue", &[])?;
    install(&class)?;
    Ok(class)
}

/// Give a subclass of `Guarded` `.value` and the rest.
pub fn install(class: &Bound<'_, PyType>) -> PyResult<()> {
    let one = |function| (ffi::PyMethodDefPointer { PyCFunction: function }, ffi::METH_O);
    type Entry = (&'static CStr, (ffi::PyMethodDefPointer, c_int), &'static CStr);
    let methods: [Entry; 7] = [
        (c"fetch_add", one(fetch_add), c"fetch_add($self, n, /)\n--\n\nAdds; returns the previous value."),
        (c"fetch_sub", one(fetch_sub), c"fetch_sub($self, n, /)\n--\n\nSubtracts; returns the previous value."),
        (c"fetch_or", one(fetch_or), c"fetch_or($self, n, /)\n--\n\nSets bits; returns the previous value."),
        (c"fetch_and", one(fetch_and), c"fetch_and($self, n, /)\n--\n\nKeeps bits; returns the previous value."),
        (c"fetch_xor", one(fetch_xor), c"fetch_xor($self, n, /)\n--\n\nFlips bits; returns the previous value."),
        (c"exchange", one(exchange), c"exchange($self, n, /)\n--\n\nReplaces; returns the previous value."),
        (
            c"compare_exchange",
            (ffi::PyMethodDefPointer { PyCFunctionFast: compare_exchange }, ffi::METH_FASTCALL),
            c"compare_exchange($self, expected, new, /)\n--\n\nReplaces what is expected; returns whether it was there.",
        ),
    ];
    for (name, (pointer, flags), doc) in methods {
        class.setattr(name.to_string_lossy(), fast_methods::method(class, name, pointer, flags, doc)?)?;
    }
    let definition = Box::leak(Box::new(ffi::PyGetSetDef {
        name: c"value".as_ptr(),
        get: Some(get),
        set: Some(set),
        doc: c"The number or character.".as_ptr(),
        closure: ptr::null_mut(),
    }));
    // SAFETY: the definition lives for ever, and the class is one that `this` expects.
    let value =
        unsafe { Bound::from_owned_ptr_or_err(class.py(), ffi::PyDescr_NewGetSet(class.as_type_ptr(), definition))? };
    class.setattr("value", value)
}
