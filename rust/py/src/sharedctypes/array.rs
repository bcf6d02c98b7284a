//! Items and slices of a guarded array of simple items, and the array as a buffer.
#![allow(unsafe_code)]

use std::ffi::CStr;

use fastmp_core::cells::{Cells, Stride};
use pyo3::exceptions::PyAttributeError;
use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyInt, PyList, PySlice, PyTuple, PyType};

use crate::capi::call::{Answer, Container, Raised, container, made, subclass};
use crate::capi::construct::made_plainly;
use crate::sharedctypes::guarded::{Guarded, Items, Parts, outside, slowly};
use crate::sharedctypes::memory::Block;
use crate::sharedctypes::scalar::{Scalar, for_each_scalar};

#[inline(always)]
fn native<'a>(slf: Borrowed<'a, '_, Guarded>) -> Option<(&'a Parts, &'a Items)> {
    let parts = slf.get().parts()?;
    parts.native().filter(|items| items.is_array).map(|items| (parts, items))
}

/// What `key`, an int, means; it may be past the end. None if it is out of range otherwise.
#[inline(always)]
fn position(key: Borrowed<'_, '_, PyAny>, cells: &Cells<Py<Block>>) -> Option<usize> {
    // SAFETY: attached; what is no int raises.
    let i = unsafe { ffi::PyLong_AsSsize_t(key.as_ptr()) };
    // It may be too large.
    if i == -1 && PyErr::occurred(key.py()) && PyErr::take(key.py()).is_some() {
        return None;
    }
    let i = if i < 0 { i.checked_add_unsigned(cells.len())? } else { i };
    usize::try_from(i).ok()
}

/// The items that a slice means. Runs the `__index__` of what it consists of.
fn stride(key: Borrowed<'_, '_, PySlice>, len: usize) -> Result<Stride, Raised> {
    let indices = key.indices(len as isize)?;
    // Of none the start means nothing: with a negative step it may be -1.
    let start = if indices.slicelength == 0 { 0 } else { indices.start as usize };
    Ok(Stride { start, step: indices.step, count: indices.slicelength })
}

/// Private memory for `count` items. None: there is not so much.
fn scratch(count: usize, size: usize) -> Option<Vec<u8>> {
    let bytes = count.checked_mul(size)?;
    let mut scratch = Vec::new();
    scratch.try_reserve_exact(bytes).ok()?;
    scratch.resize(bytes, 0);
    Some(scratch)
}

/// The bits of an item of the scratch.
#[inline(always)]
fn bits(item: &[u8]) -> u64 {
    match *item {
        [a] => a.into(),
        [a, b] => u16::from_ne_bytes([a, b]).into(),
        [a, b, c, d] => u32::from_ne_bytes([a, b, c, d]).into(),
        [a, b, c, d, e, f, g, h] => u64::from_ne_bytes([a, b, c, d, e, f, g, h]),
        _ => 0,
    }
}

/// Make an item of the scratch the low bits of `bits`.
#[inline(always)]
fn put(item: &mut [u8], bits: u64) {
    match item.len() {
        1 => item.copy_from_slice(&(bits as u8).to_ne_bytes()),
        2 => item.copy_from_slice(&(bits as u16).to_ne_bytes()),
        4 => item.copy_from_slice(&(bits as u32).to_ne_bytes()),
        _ => item.copy_from_slice(&bits.to_ne_bytes()),
    }
}

/// What a slice of such an array is: bytes, a string or a list.
fn boxed<'py>(py: Python<'py>, scratch: &[u8], scalar: Scalar) -> Answer<'py> {
    match scalar {
        // SAFETY: attached; so many bytes are there.
        Scalar::Byte => unsafe {
            made(py, ffi::PyBytes_FromStringAndSize(scratch.as_ptr().cast(), scratch.len() as isize))
        },
        Scalar::Wide => {
            let text: Vec<_> = scratch.chunks_exact(4).map(|item| bits(item) as libc::wchar_t).collect();
            // SAFETY: attached; so many characters are there.
            unsafe { made(py, ffi::PyUnicode_FromWideChar(text.as_ptr(), text.len() as isize)) }
        }
        _ => for_each_scalar!(scalar, |scalar: Scalar| list(py, scratch, scalar)),
    }
}

#[inline(always)]
fn list<'py>(py: Python<'py>, scratch: &[u8], scalar: Scalar) -> Answer<'py> {
    // SAFETY: attached. The list has so many items, and is filled before anybody sees it.
    let list = unsafe { made(py, ffi::PyList_New((scratch.len() / scalar.size()) as isize))? };
    for (i, item) in scratch.chunks_exact(scalar.size()).enumerate() {
        let item = scalar.boxed(py, bits(item))?;
        // SAFETY: as above; it takes the reference over.
        unsafe { ffi::PyList_SetItem(list.as_ptr(), i as isize, item.into_ptr()) };
    }
    Ok(list)
}

/// Convert the items of a list to scratch, or fail if one is not plain.
#[inline(always)]
fn from_list(list: Borrowed<'_, '_, PyList>, to: &mut [u8], scalar: Scalar) -> Option<()> {
    for (i, to) in to.chunks_exact_mut(scalar.size()).enumerate() {
        #[cfg(not(Py_GIL_DISABLED))]
        // SAFETY: the list keeps its item meanwhile: it changes only if Python code runs, which
        // none does here.
        let item = unsafe { Borrowed::from_ptr_or_opt(list.py(), ffi::PyList_GetItem(list.as_ptr(), i as isize)) };
        // Another thread may change the list at any time.
        #[cfg(Py_GIL_DISABLED)]
        let item = list.get_item(i).ok();
        let Some(item) = &item else {
            PyErr::take(list.py());
            return None;
        };
        #[cfg(Py_GIL_DISABLED)]
        let item = &item.as_borrowed();
        put(to, scalar.bits(*item)?);
    }
    Some(())
}

/// Convert `value`, which has to have `count` items, to scratch. None: it is not plain, and ctypes
/// has to look at it. No Python code runs.
fn converted(value: Borrowed<'_, '_, PyAny>, scalar: Scalar, count: usize) -> Option<Vec<u8>> {
    if let Ok(list) = value.cast_exact::<PyList>() {
        let mut to = (list.len() == count).then(|| scratch(count, scalar.size()))??;
        for_each_scalar!(scalar, |scalar| from_list(list, &mut to, scalar))?;
        Some(to)
    } else if let Ok(tuple) = value.cast_exact::<PyTuple>() {
        let mut to = (tuple.len() == count).then(|| scratch(count, scalar.size()))??;
        for (item, to) in tuple.iter_borrowed().zip(to.chunks_exact_mut(scalar.size())) {
            put(to, scalar.bits(item)?);
        }
        Some(to)
    } else if let Ok(bytes) = value.cast_exact::<PyBytes>()
        && matches!(scalar, Scalar::Byte | Scalar::U8 | Scalar::I8)
        && bytes.as_bytes().len() == count
    {
        let mut to = scratch(count, 1)?;
        to.copy_from_slice(bytes.as_bytes());
        Some(to)
    } else {
        None
    }
}

/// Item `i`, if it is there and natively to be had.
#[inline(always)]
fn get_at<'py>(
    py: Python<'py>,
    (parts, items): (&Parts, &Items),
    i: usize,
) -> Result<Option<Bound<'py, PyAny>>, Raised> {
    match parts.locked(|| items.cells.load(i))?.flatten() {
        Some(bits) => items.scalar.boxed(py, bits).map(Some),
        None => Ok(None),
    }
}

/// The items that a slice means, out of the way of the single ones. None: leave it to ctypes.
#[inline(never)]
fn get_slice<'py>(
    key: Borrowed<'_, 'py, PySlice>,
    (parts, items): (&Parts, &Items),
) -> Result<Option<Bound<'py, PyAny>>, Raised> {
    let stride = stride(key, items.cells.len())?;
    let Some(mut scratch) = scratch(stride.count, items.scalar.size()) else { return Ok(None) };
    match parts.locked(|| items.cells.read(stride, &mut scratch))? {
        Some(done) => {
            done.ok_or_else(outside)?;
            boxed(key.py(), &scratch, items.scalar).map(Some)
        }
        None => Ok(None),
    }
}

/// False: leave it to ctypes.
#[inline(never)]
fn set_slice(
    key: Borrowed<'_, '_, PySlice>,
    value: Borrowed<'_, '_, PyAny>,
    (parts, items): (&Parts, &Items),
) -> Result<bool, Raised> {
    let stride = stride(key, items.cells.len())?;
    let Some(scratch) = converted(value, items.scalar, stride.count) else { return Ok(false) };
    match parts.locked(|| items.cells.write(stride, &scratch))? {
        Some(done) => done.ok_or_else(outside).map(|()| true),
        None => Ok(false),
    }
}

/// Its items.
struct Array;

impl Container for Array {
    type Of = Guarded;

    fn len(slf: Borrowed<'_, '_, Guarded>) -> Result<usize, Raised> {
        match native(slf) {
            Some((_, items)) => Ok(items.cells.len()),
            None => Ok(slf.getattr("_obj")?.len()?),
        }
    }

    #[inline(always)]
    fn get<'py>(slf: Borrowed<'_, 'py, Guarded>, key: Borrowed<'_, 'py, PyAny>) -> Answer<'py> {
        if let Some(native) = native(slf) {
            let got = if key.is_exact_instance_of::<PyInt>() {
                match position(key, &native.1.cells) {
                    Some(i) => get_at(slf.py(), native, i)?,
                    None => None,
                }
            } else if let Ok(key) = key.cast::<PySlice>() {
                get_slice(key, native)?
            } else {
                None
            };
            if let Some(got) = got {
                return Ok(got);
            }
        }
        slowly(slf, "_get_item", &[key])
    }

    #[inline(always)]
    fn set<'py>(
        slf: Borrowed<'_, 'py, Guarded>,
        key: Borrowed<'_, 'py, PyAny>,
        value: Option<Borrowed<'_, 'py, PyAny>>,
    ) -> Result<(), Raised> {
        let Some(value) = value else { return Err(PyAttributeError::new_err("__delitem__").into()) };
        if let Some((parts, items)) = native(slf) {
            if key.is_exact_instance_of::<PyInt>() {
                if let Some(i) = position(key, &items.cells)
                    && let Some(bits) = items.scalar.bits(value)
                    && let Some(Some(())) = parts.locked(|| items.cells.store(i, bits))?
                {
                    return Ok(());
                }
            } else if let Ok(key) = key.cast::<PySlice>()
                && set_slice(key, value, (parts, items))?
            {
                return Ok(());
            }
        }
        slowly(slf, "_set_item", &[key, value]).map(drop)
    }

    #[inline(always)]
    fn item<'py>(slf: Borrowed<'_, 'py, Guarded>, i: isize) -> Answer<'py> {
        if let (Some(native), Ok(i)) = (native(slf), usize::try_from(i))
            && let Some(got) = get_at(slf.py(), native, i)?
        {
            return Ok(got);
        }
        let key = i.into_pyobject(slf.py()).map_err(PyErr::from)?;
        slowly(slf, "_get_item", &[key.as_any().as_borrowed()])
    }

    // The ctypes object's own buffer: its format and shape.
    fn buffer<'py>(slf: Borrowed<'_, 'py, Guarded>) -> Result<(Bound<'py, PyAny>, Option<&'static CStr>), Raised> {
        // ctypes has a name for wide characters that numpy does not know; this is PEP 3118's.
        let wide = native(slf).is_some_and(|(_, items)| matches!(items.scalar, Scalar::Wide));
        Ok((slf.getattr("_obj")?, wide.then_some(c"w")))
    }
}

const DOC: &str = "An array, whose buffer is the ctypes object's.

Subclasses have `_get_item(key)` and `_set_item(key, value)`, for what is not done natively.";

/// A subclass of `Guarded` with items.
pub fn class(py: Python<'_>) -> PyResult<Bound<'_, PyType>> {
    let class = subclass::<Guarded>(py, c"fastmp._native.GuardedArray", made_plainly(container::<Array>()))?;
    class.setattr("__doc__", DOC)?;
    Ok(class)
}
