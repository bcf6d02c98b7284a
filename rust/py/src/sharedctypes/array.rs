//! Items and slices of a guarded array of simple items, and the array as a buffer.
#![allow(unsafe_code)]

use std::ffi::{c_int, c_void};
use std::ptr;

use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::types::PyType;

use crate::sharedctypes::guarded::{Items, Parts, restore, slowly, subclass, this};
use crate::sharedctypes::scalar::{Scalar, for_each_scalar};

/// # Safety
/// As for `this`.
#[inline(always)]
unsafe fn native<'a>(slf: *mut ffi::PyObject) -> Option<(&'a Parts, &'a Items)> {
    // SAFETY: the caller's.
    let parts = unsafe { this(slf) }.parts()?;
    parts.native().filter(|items| items.is_array).map(|items| (parts, items))
}

/// What `key`, an int, means: None if it is out of range.
///
/// # Safety
/// Attached, and `key` is an int.
#[inline(always)]
unsafe fn position(key: *mut ffi::PyObject, length: usize) -> Option<usize> {
    // SAFETY: the caller's.
    let i = unsafe { ffi::PyLong_AsSsize_t(key) };
    if i == -1 {
        // SAFETY: the caller's. -1 may also say that it was too large.
        unsafe {
            if !ffi::PyErr_Occurred().is_null() {
                ffi::PyErr_Clear();
                return None;
            }
        }
    }
    let i = if i < 0 { i.checked_add_unsigned(length)? } else { i };
    usize::try_from(i).ok().filter(|&i| i < length)
}

/// The items that a slice means.
struct Range {
    start: isize,
    step: isize,
    count: usize,
}

impl Range {
    /// None, with an exception set, if the slice makes no sense. Runs the `__index__` of what it consists of.
    ///
    /// # Safety
    /// Attached, and `key` is a slice.
    unsafe fn of(key: *mut ffi::PyObject, length: usize) -> Option<Range> {
        let (mut start, mut stop, mut step) = (0, 0, 0);
        // SAFETY: the caller's.
        unsafe {
            if ffi::PySlice_Unpack(key, &mut start, &mut stop, &mut step) < 0 {
                return None;
            }
            let count = ffi::PySlice_AdjustIndices(length as isize, &mut start, &mut stop, step);
            Some(Range { start, step, count: count as usize })
        }
    }

    /// Copy from the items to `scratch`, which is `count` items long.
    ///
    /// # Safety
    /// Made for the length of `items`.
    unsafe fn load(&self, items: &Items, scratch: &mut [u64]) {
        let size = items.scalar.size();
        let to: *mut u8 = scratch.as_mut_ptr().cast();
        // SAFETY: every index that the slice means is below the length, and `scratch` has room.
        unsafe {
            if self.step == 1 && self.count > 0 {
                ptr::copy_nonoverlapping(items.at(self.start as usize), to, self.count * size);
                return;
            }
            for i in 0..self.count {
                let at = items.at((self.start + i as isize * self.step) as usize);
                ptr::copy_nonoverlapping(at, to.add(i * size), size);
            }
        }
    }

    /// Copy from `scratch` to the items.
    ///
    /// # Safety
    /// As for `load`.
    unsafe fn store(&self, items: &Items, scratch: *const u8) {
        let size = items.scalar.size();
        // SAFETY: as in `load`.
        unsafe {
            if self.step == 1 && self.count > 0 {
                ptr::copy_nonoverlapping(scratch, items.at(self.start as usize), self.count * size);
                return;
            }
            for i in 0..self.count {
                let at = items.at((self.start + i as isize * self.step) as usize);
                ptr::copy_nonoverlapping(scratch.add(i * size), at, size);
            }
        }
    }
}

/// Private memory for `count` items, aligned for any. None: there is not so much.
fn scratch(count: usize, size: usize) -> Option<Vec<u64>> {
    let words = count.checked_mul(size)?.div_ceil(8);
    let mut scratch = Vec::new();
    scratch.try_reserve_exact(words).ok()?;
    scratch.resize(words, 0);
    Some(scratch)
}

/// Item `i` of the scratch.
///
/// # Safety
/// It has been filled for so many items.
#[inline(always)]
unsafe fn read(scratch: *const u8, scalar: Scalar, i: usize) -> u64 {
    // SAFETY: the caller's; aligned as the scratch is.
    unsafe {
        match scalar.size() {
            1 => scratch.add(i).read().into(),
            2 => scratch.cast::<u16>().add(i).read().into(),
            4 => scratch.cast::<u32>().add(i).read().into(),
            _ => scratch.cast::<u64>().add(i).read(),
        }
    }
}

/// As `read`.
///
/// # Safety
/// It has room for so many items.
#[inline(always)]
unsafe fn write(scratch: *mut u8, scalar: Scalar, i: usize, bits: u64) {
    // SAFETY: as in `read`.
    unsafe {
        match scalar.size() {
            1 => scratch.add(i).write(bits as u8),
            2 => scratch.cast::<u16>().add(i).write(bits as u16),
            4 => scratch.cast::<u32>().add(i).write(bits as u32),
            _ => scratch.cast::<u64>().add(i).write(bits),
        }
    }
}

/// What a slice of such an array is: bytes, a string or a list.
///
/// # Safety
/// Attached, and the scratch has been filled for so many items.
unsafe fn boxed(scratch: *const u8, scalar: Scalar, count: usize) -> *mut ffi::PyObject {
    // SAFETY: the caller's; the list is filled before it is seen.
    unsafe {
        match scalar {
            Scalar::Byte => return ffi::PyBytes_FromStringAndSize(scratch.cast(), count as isize),
            Scalar::Wide => return ffi::PyUnicode_FromWideChar(scratch.cast(), count as isize),
            _ => {}
        }
        let list = ffi::PyList_New(count as isize);
        if list.is_null() {
            return list;
        }
        if !for_each_scalar!(scalar, |scalar| fill(list, scratch, scalar, count)) {
            ffi::Py_DECREF(list);
            return ptr::null_mut();
        }
        list
    }
}

/// # Safety
/// As for `boxed`; the list has so many items.
#[inline(always)]
unsafe fn fill(list: *mut ffi::PyObject, scratch: *const u8, scalar: Scalar, count: usize) -> bool {
    for i in 0..count {
        // SAFETY: the caller's.
        unsafe {
            let item = scalar.boxed(read(scratch, scalar, i));
            if item.is_null() || ffi::PyList_SetItem(list, i as isize, item) < 0 {
                return false;
            }
        }
    }
    true
}

/// Without the interpreter's lock another thread may change a list at any time.
const STILL: bool = cfg!(not(Py_GIL_DISABLED));

/// Convert the items of a list to scratch, or fail if one is not plain.
///
/// # Safety
/// Attached; it is a list, and the scratch has room for `count` items.
#[inline(always)]
unsafe fn take_list(list: *mut ffi::PyObject, to: *mut u8, scalar: Scalar, count: usize) -> Option<()> {
    for i in 0..count {
        // SAFETY: the caller's; an item is borrowed only if nothing can drop it: no Python code runs here.
        unsafe {
            let item = if STILL {
                ffi::PyList_GetItem(list, i as isize)
            } else {
                ffi::compat::PyList_GetItemRef(list, i as isize)
            };
            if item.is_null() {
                ffi::PyErr_Clear();
                return None;
            }
            let bits = scalar.bits(item);
            if !STILL {
                ffi::Py_DECREF(item);
            }
            write(to, scalar, i, bits?);
        }
    }
    Some(())
}

/// Convert `value`, which has to have `count` items, to scratch. None: it is not plain, and ctypes has to look at it. No Python code runs.
///
/// # Safety
/// Attached, and `value` is an object.
unsafe fn converted(value: *mut ffi::PyObject, scalar: Scalar, count: usize) -> Option<Vec<u64>> {
    let mut scratch = scratch(count, scalar.size())?;
    let to: *mut u8 = scratch.as_mut_ptr().cast();
    // SAFETY: the caller's; each length is checked before it is relied on.
    unsafe {
        if ffi::PyList_CheckExact(value) != 0 {
            if ffi::PyList_Size(value) as usize != count {
                return None;
            }
            for_each_scalar!(scalar, |scalar| take_list(value, to, scalar, count))?;
        } else if ffi::PyTuple_CheckExact(value) != 0 {
            if ffi::PyTuple_Size(value) as usize != count {
                return None;
            }
            for i in 0..count {
                write(to, scalar, i, scalar.bits(ffi::PyTuple_GetItem(value, i as isize))?);
            }
        } else if ffi::PyBytes_CheckExact(value) != 0 && matches!(scalar, Scalar::Byte | Scalar::U8 | Scalar::I8) {
            if ffi::PyBytes_Size(value) as usize != count {
                return None;
            }
            ptr::copy_nonoverlapping(ffi::PyBytes_AsString(value).cast(), to, count);
        } else {
            return None;
        }
    }
    Some(scratch)
}

/// Item `i`.
///
/// # Safety
/// Attached; `i` is below the length.
#[inline(always)]
unsafe fn get_at(parts: &Parts, items: &Items, i: usize) -> Option<*mut ffi::PyObject> {
    // SAFETY: the caller's.
    unsafe {
        match parts.locked(|| items.scalar.load(items.at(i))) {
            Ok(Some(bits)) => Some(items.scalar.boxed(bits)),
            Ok(None) => None,
            Err(error) => {
                restore(error);
                Some(ptr::null_mut())
            }
        }
    }
}

/// # Safety
/// As for `get_at`. None: leave it to ctypes.
#[inline(always)]
unsafe fn set_at(parts: &Parts, items: &Items, i: usize, value: *mut ffi::PyObject) -> Option<c_int> {
    // SAFETY: the caller's.
    unsafe {
        let bits = items.scalar.bits(value)?;
        match parts.locked(|| items.scalar.store(items.at(i), bits)) {
            Ok(done) => done.map(|()| 0),
            Err(error) => {
                restore(error);
                Some(-1)
            }
        }
    }
}

/// # Safety
/// Attached; `key` is a slice. None: leave it to ctypes.
unsafe fn get_slice(parts: &Parts, items: &Items, key: *mut ffi::PyObject) -> Option<*mut ffi::PyObject> {
    // SAFETY: the caller's; the scratch is as long as the range.
    unsafe {
        let Some(range) = Range::of(key, items.length) else { return Some(ptr::null_mut()) };
        let mut scratch = scratch(range.count, items.scalar.size())?;
        match parts.locked(|| range.load(items, &mut scratch)) {
            Ok(done) => done.map(|()| boxed(scratch.as_ptr().cast(), items.scalar, range.count)),
            Err(error) => {
                restore(error);
                Some(ptr::null_mut())
            }
        }
    }
}

/// # Safety
/// As for `get_slice`; `value` is an object.
unsafe fn set_slice(parts: &Parts, items: &Items, key: *mut ffi::PyObject, value: *mut ffi::PyObject) -> Option<c_int> {
    // SAFETY: the caller's; what is converted is as long as the range.
    unsafe {
        let Some(range) = Range::of(key, items.length) else { return Some(-1) };
        let scratch = converted(value, items.scalar, range.count)?;
        match parts.locked(|| range.store(items, scratch.as_ptr().cast())) {
            Ok(done) => done.map(|()| 0),
            Err(error) => {
                restore(error);
                Some(-1)
            }
        }
    }
}

unsafe extern "C" fn subscript(slf: *mut ffi::PyObject, key: *mut ffi::PyObject) -> *mut ffi::PyObject {
    // SAFETY: a slot of the class, called attached.
    unsafe {
        if let Some((parts, items)) = native(slf) {
            let got = if ffi::PyLong_CheckExact(key) != 0 {
                position(key, items.length).and_then(|i| get_at(parts, items, i))
            } else if ffi::PySlice_Check(key) != 0 {
                get_slice(parts, items, key)
            } else {
                None
            };
            if let Some(got) = got {
                return got;
            }
        }
        slowly(slf, c"_get_item", [key])
    }
}

unsafe extern "C" fn ass_subscript(
    slf: *mut ffi::PyObject,
    key: *mut ffi::PyObject,
    value: *mut ffi::PyObject,
) -> c_int {
    // SAFETY: as in `subscript`; a null value means deletion.
    unsafe {
        if value.is_null() {
            ffi::PyErr_SetString(ffi::PyExc_AttributeError, c"__delitem__".as_ptr());
            return -1;
        }
        if let Some((parts, items)) = native(slf) {
            let done = if ffi::PyLong_CheckExact(key) != 0 {
                position(key, items.length).and_then(|i| set_at(parts, items, i, value))
            } else if ffi::PySlice_Check(key) != 0 {
                set_slice(parts, items, key, value)
            } else {
                None
            };
            if let Some(done) = done {
                return done;
            }
        }
        let done = slowly(slf, c"_set_item", [key, value]);
        if done.is_null() {
            return -1;
        }
        ffi::Py_DECREF(done);
        0
    }
}

// The sequence's slot, by which a loop goes over the items.
unsafe extern "C" fn item(slf: *mut ffi::PyObject, i: ffi::Py_ssize_t) -> *mut ffi::PyObject {
    // SAFETY: as in `subscript`.
    unsafe {
        if let Some((parts, items)) = native(slf)
            && (i as usize) < items.length
            && let Some(got) = get_at(parts, items, i as usize)
        {
            return got;
        }
        let key = ffi::PyLong_FromSsize_t(i);
        if key.is_null() {
            return key;
        }
        let got = slowly(slf, c"_get_item", [key]);
        ffi::Py_DECREF(key);
        got
    }
}

// For those in C who ask for it; the interpreter itself has no use for it.
unsafe extern "C" fn ass_item(slf: *mut ffi::PyObject, i: ffi::Py_ssize_t, value: *mut ffi::PyObject) -> c_int {
    // SAFETY: as in `subscript`; the key is a new reference.
    unsafe {
        let key = ffi::PyLong_FromSsize_t(i);
        if key.is_null() {
            return -1;
        }
        let status = ass_subscript(slf, key, value);
        ffi::Py_DECREF(key);
        status
    }
}

unsafe extern "C" fn length(slf: *mut ffi::PyObject) -> ffi::Py_ssize_t {
    // SAFETY: as in `subscript`; the object is a new reference.
    unsafe {
        if let Some((_, items)) = native(slf) {
            return items.length as isize;
        }
        let object = ffi::PyObject_GetAttrString(slf, c"_obj".as_ptr());
        if object.is_null() {
            return -1;
        }
        let length = ffi::PyObject_Size(object);
        ffi::Py_DECREF(object);
        length
    }
}

// The ctypes object's own buffer: its format and shape, and it is what the view keeps.
unsafe extern "C" fn buffer(slf: *mut ffi::PyObject, view: *mut ffi::Py_buffer, flags: c_int) -> c_int {
    // SAFETY: as in `length`; `view` is the interpreter's.
    unsafe {
        (*view).obj = ptr::null_mut();
        let object = ffi::PyObject_GetAttrString(slf, c"_obj".as_ptr());
        if object.is_null() {
            return -1;
        }
        let status = ffi::PyObject_GetBuffer(object, view, flags);
        ffi::Py_DECREF(object);
        // ctypes has a name for wide characters that numpy does not know; this is PEP 3118's. Nobody frees either.
        let wide = native(slf).is_some_and(|(_, items)| matches!(items.scalar, Scalar::Wide));
        if status == 0 && wide && !(*view).format.is_null() {
            (*view).format = c"w".as_ptr().cast_mut();
        }
        status
    }
}

/// A subclass of `Guarded` with items.
pub fn class(py: Python<'_>) -> PyResult<Bound<'_, PyType>> {
    let slot = |slot, pfunc: *mut c_void| ffi::PyType_Slot { slot, pfunc };
    let slots = [
        slot(ffi::Py_mp_length, length as *mut c_void),
        slot(ffi::Py_mp_subscript, subscript as *mut c_void),
        slot(ffi::Py_mp_ass_subscript, ass_subscript as *mut c_void),
        slot(ffi::Py_sq_length, length as *mut c_void),
        slot(ffi::Py_sq_item, item as *mut c_void),
        slot(ffi::Py_sq_ass_item, ass_item as *mut c_void),
        slot(ffi::Py_bf_getbuffer, buffer as *mut c_void),
    ];
    subclass(py, c"fastmp._native.GuardedArray", &slots)
}
