//! A list's items, where the interpreter has them.
//!
//! Where they are is no part of the stable ABI: it is relied on in the versions of CPython that
//! are known to have them there, with a GIL, and after a look at lists that are made for it.
#![cfg(not(Py_GIL_DISABLED))]
#![allow(unsafe_code)]

use std::sync::atomic::{AtomicU8, Ordering};

use pyo3::ffi;
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::{PyList, PyType};

/// CPython's `PyListObject`.
#[repr(C)]
struct List {
    head: ffi::PyVarObject,
    items: *mut *mut ffi::PyObject,
    allocated: isize,
}

const LATEST: (u8, u8) = (3, 15);

/// 0: nobody has looked yet; 1: they are elsewhere; 2: they are there.
static FOUND: AtomicU8 = AtomicU8::new(0);

/// Before the first message is encoded: to look may set off the garbage collector, and so change
/// what is being written.
pub fn prepare(py: Python<'_>) {
    is_known(py);
}

/// Are they where `List` says?
#[inline(always)]
fn is_known(py: Python<'_>) -> bool {
    // Relaxed: it leads to nothing that is not there from the start.
    match FOUND.load(Ordering::Relaxed) {
        0 => find(py),
        found => found == 2,
    }
}

/// A list's `n` items, borrowed. None: it has fewer, or none, or they are asked for one by one.
///
/// # Safety
/// It is an exact list. They stay while nobody changes it.
#[inline(always)]
pub unsafe fn items(py: Python<'_>, list: *mut ffi::PyObject, n: usize) -> Option<*mut *mut ffi::PyObject> {
    if !is_known(py) {
        return None;
    }
    // SAFETY: the caller's, and that its items are there has been seen.
    let list = unsafe { &*list.cast::<List>() };
    (n > 0 && list.head.ob_size as usize >= n).then_some(list.items)
}

#[cold]
fn find(py: Python<'_>) -> bool {
    let version = py.version_info();
    let size = py.get_type::<PyList>().getattr(intern!(py, "__basicsize__")).and_then(|size| size.extract::<usize>());
    let is_known = (version.major, version.minor) <= LATEST
        && size.is_ok_and(|size| size == size_of::<List>())
        && [1, 3, 50].into_iter().all(|n| is_so(py, n));
    FOUND.store(if is_known { 2 } else { 1 }, Ordering::Relaxed);
    is_known
}

/// Of a list of `n` items?
fn is_so(py: Python<'_>, n: usize) -> bool {
    let objects: Vec<Bound<'_, PyType>> = (0..n).map(|_| py.get_type::<PyType>()).collect();
    let Ok(list) = PyList::new(py, &objects) else { return false };
    // SAFETY: an object of that size, which the caller has seen. What has been made as long as it
    // is has as much allocated; then the word beside is the address of that many words.
    unsafe {
        let list = &*list.as_ptr().cast::<List>();
        list.head.ob_size == n as isize
            && list.allocated == n as isize
            && !list.items.is_null()
            && list.items.is_aligned()
            && objects.iter().enumerate().all(|(i, object)| *list.items.add(i) == object.as_ptr())
    }
}
