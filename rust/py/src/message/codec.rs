//! Exact builtin values to bytes and back, without pickle.
//!
//! Only where the result is provably what pickle would give: exact `None`, `bool`, `int` (64 bits), `float`, `str`,
//! `bytes`, and tuples, lists and dicts of them. A container inside another is taken only if its reference count is one: nothing else
//! in the message can then refer to it, so there is no aliasing to keep. Anything else is refused, and goes to pickle.
//!
//! Bytes: a tag, then, little-endian: integers in 1, 4 or 8 bytes, floats in 8, lengths in 1 or 4.
#![allow(unsafe_code)]

use std::ffi::c_char;

use pyo3::ffi;
use pyo3::prelude::*;

use crate::errors::garbage;

const NONE: u8 = b'N';
const TRUE: u8 = b'T';
const FALSE: u8 = b'F';
const INT1: u8 = b'b';
const INT4: u8 = b'i';
const INT8: u8 = b'q';
const FLOAT: u8 = b'd';
/// Tags of sized things come in pairs: with a length of one byte, and (+ 1) of four.
const STR: u8 = 0x80;
const BYTES: u8 = 0x82;
const TUPLE: u8 = 0x84;
const LIST: u8 = 0x86;
const DICT: u8 = 0x88;

/// Deeper values are left to pickle, which knows how to refuse.
const DEEPEST: u32 = 12;
/// Longer ones too: pickle hands large bytes on without another copy.
const LONGEST: usize = 256 << 10;

/// Append `obj` to `out`; false (and `out` is garbage) if it is not of the kinds that this knows.
pub fn encode(obj: &Bound<'_, PyAny>, out: &mut Vec<u8>) -> bool {
    // SAFETY: `obj` is alive, and the interpreter is attached as its lifetime shows.
    unsafe { put(obj.as_ptr(), out, 0) }
}

fn sized(out: &mut Vec<u8>, tag: u8, len: usize) {
    if let Ok(len) = u8::try_from(len) {
        out.extend_from_slice(&[tag, len]);
    } else {
        out.push(tag + 1);
        out.extend_from_slice(&(len as u32).to_le_bytes());
    }
}

/// # Safety
/// `obj` is alive for the call, and the interpreter attached. No Python code runs in here, so borrowed items arrival.
unsafe fn put(obj: *mut ffi::PyObject, out: &mut Vec<u8>, depth: u32) -> bool {
    // SAFETY: the caller's; each function is used on an object of the type that it is for.
    unsafe {
        if ffi::PyUnicode_CheckExact(obj) != 0 {
            let mut len = 0;
            let at = ffi::PyUnicode_AsUTF8AndSize(obj, &mut len);
            if at.is_null() {
                // A lone surrogate.
                ffi::PyErr_Clear();
                return false;
            }
            return put_raw(out, STR, at.cast(), len);
        }
        if ffi::PyLong_CheckExact(obj) != 0 {
            let mut overflow = 0;
            let value = ffi::PyLong_AsLongLongAndOverflow(obj, &mut overflow);
            if overflow != 0 {
                return false;
            }
            if let Ok(value) = i8::try_from(value) {
                out.extend_from_slice(&[INT1, value as u8]);
            } else if let Ok(value) = i32::try_from(value) {
                out.push(INT4);
                out.extend_from_slice(&value.to_le_bytes());
            } else {
                out.push(INT8);
                out.extend_from_slice(&value.to_le_bytes());
            }
            return true;
        }
        if ffi::PyFloat_CheckExact(obj) != 0 {
            out.push(FLOAT);
            out.extend_from_slice(&ffi::PyFloat_AsDouble(obj).to_le_bytes());
            return true;
        }
        if obj == ffi::Py_None() {
            out.push(NONE);
            return true;
        }
        if obj == ffi::Py_True() {
            out.push(TRUE);
            return true;
        }
        if obj == ffi::Py_False() {
            out.push(FALSE);
            return true;
        }
        if ffi::PyBytes_CheckExact(obj) != 0 {
            return put_raw(out, BYTES, ffi::PyBytes_AsString(obj).cast(), ffi::PyBytes_Size(obj));
        }
        if depth >= DEEPEST || (depth > 0 && ffi::Py_REFCNT(obj) != 1) {
            return false;
        }
        if ffi::PyTuple_CheckExact(obj) != 0 {
            let n = ffi::PyTuple_Size(obj);
            sized(out, TUPLE, n as usize);
            return (0..n).all(|i| put(ffi::PyTuple_GetItem(obj, i), out, depth + 1));
        }
        if ffi::PyList_CheckExact(obj) != 0 {
            let n = ffi::PyList_Size(obj);
            sized(out, LIST, n as usize);
            return out.len() <= LONGEST && (0..n).all(|i| put(ffi::PyList_GetItem(obj, i), out, depth + 1));
        }
        if ffi::PyDict_CheckExact(obj) != 0 {
            sized(out, DICT, ffi::PyDict_Size(obj) as usize);
            let (mut position, mut key, mut value) = (0, std::ptr::null_mut(), std::ptr::null_mut());
            while ffi::PyDict_Next(obj, &mut position, &mut key, &mut value) != 0 {
                if !put(key, out, depth + 1) || !put(value, out, depth + 1) {
                    return false;
                }
            }
            return true;
        }
        false
    }
}

/// # Safety
/// `at` is valid for `len` bytes.
unsafe fn put_raw(out: &mut Vec<u8>, tag: u8, at: *const u8, len: isize) -> bool {
    if len as usize > LONGEST || out.len() > LONGEST {
        return false;
    }
    sized(out, tag, len as usize);
    // SAFETY: the caller's.
    out.extend_from_slice(unsafe { std::slice::from_raw_parts(at, len as usize) });
    true
}

/// The value that `encode` made these bytes from.
///
/// # Errors
/// `CorruptedError` for any other bytes.
pub fn decode<'py>(py: Python<'py>, bytes: &[u8]) -> PyResult<Bound<'py, PyAny>> {
    let mut reader = Reader { py, rest: bytes };
    let value = reader.value(0)?;
    if reader.rest.is_empty() { Ok(value) } else { Err(garbage()) }
}

struct Reader<'py, 'a> {
    py: Python<'py>,
    rest: &'a [u8],
}

impl<'py, 'a> Reader<'py, 'a> {
    #[inline]
    fn take(&mut self, n: usize) -> PyResult<&'a [u8]> {
        let Some((taken, rest)) = self.rest.split_at_checked(n) else { return Err(garbage()) };
        self.rest = rest;
        Ok(taken)
    }

    #[inline]
    fn array<const N: usize>(&mut self) -> PyResult<[u8; N]> {
        let Some((taken, rest)) = self.rest.split_first_chunk::<N>() else { return Err(garbage()) };
        self.rest = rest;
        Ok(*taken)
    }

    #[inline]
    fn len(&mut self, long: bool) -> PyResult<usize> {
        Ok(if long { u32::from_le_bytes(self.array()?) as usize } else { usize::from(self.array::<1>()?[0]) })
    }

    /// A length of which each item takes at least one byte: garbage cannot ask for more than it has.
    fn items(&mut self, long: bool) -> PyResult<usize> {
        let n = self.len(long)?;
        if n > self.rest.len() { Err(garbage()) } else { Ok(n) }
    }

    fn owned(&self, new: *mut ffi::PyObject) -> PyResult<Bound<'py, PyAny>> {
        // SAFETY: a new reference, or null with an exception set.
        unsafe { Bound::from_owned_ptr_or_err(self.py, new) }
    }

    fn value(&mut self, depth: u32) -> PyResult<Bound<'py, PyAny>> {
        let py = self.py;
        let tag = self.array::<1>()?[0];
        // SAFETY (of the calls below): the interpreter is attached; pointers and lengths come from slices; a tuple's or list's items
        // are each set once, with a new reference that it takes over, before anybody else sees it.
        match tag {
            NONE => Ok(py.None().into_bound(py)),
            TRUE | FALSE => Ok(pyo3::types::PyBool::new(py, tag == TRUE).to_owned().into_any()),
            INT1 => {
                let value = self.array::<1>()?[0] as i8;
                self.integer(i64::from(value))
            }
            INT4 => {
                let value = i32::from_le_bytes(self.array()?);
                self.integer(i64::from(value))
            }
            INT8 => {
                let value = i64::from_le_bytes(self.array()?);
                self.integer(value)
            }
            FLOAT => {
                let value = f64::from_le_bytes(self.array()?);
                // SAFETY: as above.
                self.owned(unsafe { ffi::PyFloat_FromDouble(value) })
            }
            _ if depth > DEEPEST => Err(garbage()),
            _ => {
                let long = tag & 1 == 1;
                match tag & !1 {
                    STR => {
                        let n = self.len(long)?;
                        let bytes = self.take(n)?;
                        let (at, len) = (bytes.as_ptr().cast::<c_char>(), bytes.len() as isize);
                        // SAFETY: as above.
                        self.owned(unsafe { ffi::PyUnicode_FromStringAndSize(at, len) })
                    }
                    BYTES => {
                        let n = self.len(long)?;
                        let bytes = self.take(n)?;
                        let (at, len) = (bytes.as_ptr().cast::<c_char>(), bytes.len() as isize);
                        // SAFETY: as above.
                        self.owned(unsafe { ffi::PyBytes_FromStringAndSize(at, len) })
                    }
                    TUPLE => {
                        let n = self.items(long)?;
                        // SAFETY: as above.
                        let tuple = self.owned(unsafe { ffi::PyTuple_New(n as isize) })?;
                        for i in 0..n {
                            let item = self.value(depth + 1)?;
                            // SAFETY: as above.
                            unsafe { ffi::PyTuple_SetItem(tuple.as_ptr(), i as isize, item.into_ptr()) };
                        }
                        Ok(tuple)
                    }
                    LIST => {
                        let n = self.items(long)?;
                        // SAFETY: as above.
                        let list = self.owned(unsafe { ffi::PyList_New(n as isize) })?;
                        for i in 0..n {
                            let item = self.value(depth + 1)?;
                            // SAFETY: as above.
                            unsafe { ffi::PyList_SetItem(list.as_ptr(), i as isize, item.into_ptr()) };
                        }
                        Ok(list)
                    }
                    DICT => {
                        let n = self.items(long)?;
                        // SAFETY: as above.
                        let dict = self.owned(unsafe { ffi::PyDict_New() })?;
                        for _ in 0..n {
                            let (key, value) = (self.value(depth + 1)?, self.value(depth + 1)?);
                            // SAFETY: as above; PyDict_SetItem takes references of its own.
                            if unsafe { ffi::PyDict_SetItem(dict.as_ptr(), key.as_ptr(), value.as_ptr()) } != 0 {
                                return Err(PyErr::fetch(py));
                            }
                        }
                        Ok(dict)
                    }
                    _ => Err(garbage()),
                }
            }
        }
    }

    #[inline]
    fn integer(&self, value: i64) -> PyResult<Bound<'py, PyAny>> {
        // SAFETY: the interpreter is attached.
        self.owned(unsafe { ffi::PyLong_FromLongLong(value) })
    }
}
