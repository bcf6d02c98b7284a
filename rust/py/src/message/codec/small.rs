//! The integers of which the interpreter has one object each.
//!
//! CPython has those from -5 to 256 once, one behind the other, for as long as it runs. Whether
//! that is so here is found out by asking for each of them. Then an address tells the integer, and
//! the integer its object, without a call.
#![allow(unsafe_code)]

use std::sync::atomic::{AtomicUsize, Ordering};

use pyo3::ffi;
use pyo3::prelude::*;

const LEAST: i64 = -5;
const MOST: i64 = 256;
/// Bytes from one to the next.
const STEP: usize = 32;
const SPAN: usize = (MOST - LEAST + 1) as usize * STEP;

/// No object is there.
const UNKNOWN: usize = 1;
/// In `FOUND`: the objects' references are counted, or not (since 3.12).
const COUNTED: usize = 2;

/// 0: nobody has looked yet.
static FOUND: AtomicUsize = AtomicUsize::new(0);

/// Where they are.
#[derive(Clone, Copy)]
pub struct Small {
    first: usize,
    is_counted: bool,
}

impl Small {
    /// As the interpreter has them.
    #[inline(always)]
    pub fn get(py: Python<'_>) -> Small {
        // Relaxed: it leads to nothing that is not there from the start.
        let found = match FOUND.load(Ordering::Relaxed) {
            0 => find(py),
            found => found,
        };
        Small { first: found & !COUNTED, is_counted: found & COUNTED != 0 }
    }

    /// The integer that this object is, if it is one of them.
    #[inline(always)]
    pub fn value(self, object: *mut ffi::PyObject) -> Option<i64> {
        let at = object.addr().wrapping_sub(self.first);
        (at < SPAN && at.is_multiple_of(STEP)).then_some((at / STEP) as i64 + LEAST)
    }

    /// A new reference to the object of an integer, if it is one of them.
    #[inline(always)]
    pub fn object(self, value: i64) -> Option<*mut ffi::PyObject> {
        if self.first == UNKNOWN || !(LEAST..=MOST).contains(&value) {
            return None;
        }
        let at = self.first + (value - LEAST) as usize * STEP;
        let object = std::ptr::with_exposed_provenance_mut::<ffi::PyObject>(at);
        if self.is_counted {
            // SAFETY: the object of that integer, as `find` has seen, which lives for ever. There
            // is a GIL, and who has an interpreter's `Small` is attached to it.
            #[cfg(not(Py_GIL_DISABLED))]
            unsafe {
                count(object);
            }
        }
        Some(object)
    }
}

/// What the interpreter's own macro does in the stable ABI of 3.11; it is asked for there only.
///
/// # Safety
/// Attached; an object, of an interpreter with a GIL that is older than 3.12.
#[cfg(not(Py_GIL_DISABLED))]
#[inline(always)]
unsafe fn count(object: *mut ffi::PyObject) {
    // SAFETY: the caller's; the count is an object's first word.
    unsafe { *object.cast::<isize>() += 1 }
}

#[cold]
fn find(py: Python<'_>) -> usize {
    // SAFETY: attached; gives a new reference, or null with an exception.
    let ask = |value| unsafe { Bound::from_owned_ptr_or_opt(py, ffi::PyLong_FromLongLong(value)) };
    let objects: Option<Vec<_>> = (LEAST..=MOST).map(ask).collect();
    let again: Option<Vec<_>> = (LEAST..=MOST).map(ask).collect();
    let (Some(objects), Some(again)) = (objects, again) else {
        drop(PyErr::take(py));
        return UNKNOWN;
    };
    let first = objects[0].as_ptr().expose_provenance();
    let is_so = first.is_multiple_of(size_of::<usize>())
        && objects.iter().zip(&again).enumerate().all(|(index, (object, again))| {
            object.is(again) && object.as_ptr().expose_provenance() == first + index * STEP
        });
    let is_counted = py.version_info() < (3, 12);
    let is_usable = is_so && !(is_counted && cfg!(Py_GIL_DISABLED));
    // They are the interpreter's for ever; these references make sure of it.
    objects.into_iter().for_each(std::mem::forget);
    let found = if is_usable { first | if is_counted { COUNTED } else { 0 } } else { UNKNOWN };
    FOUND.store(found, Ordering::Relaxed);
    found
}
