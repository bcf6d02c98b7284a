//! The simple ctypes types: numbers and characters, between shared memory and Python objects.
//!
//! A conversion here either gives exactly what ctypes would give, without running any Python code,
//! or it declines, and the caller leaves the matter to ctypes. Bits are the value's own bytes,
//! zero-extended.
#![allow(unsafe_code)]

use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::types::{PyBool, PyBytes, PyFloat, PyInt, PyString};

use crate::capi::call::{Answer, made};

/// A simple type.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scalar {
    I8,
    U8,
    I16,
    U16,
    I32,
    U32,
    I64,
    U64,
    F32,
    F64,
    Bool,
    /// `c_char`
    Byte,
    /// `c_wchar`
    Wide,
}

const fn integer(bytes: usize, signed: bool) -> Scalar {
    match (bytes, signed) {
        (1, true) => Scalar::I8,
        (1, false) => Scalar::U8,
        (2, true) => Scalar::I16,
        (2, false) => Scalar::U16,
        (4, true) => Scalar::I32,
        (4, false) => Scalar::U32,
        (_, true) => Scalar::I64,
        (_, false) => Scalar::U64,
    }
}

impl Scalar {
    /// The type that ctypes knows by this letter (its `_type_`).
    pub fn of(letter: char) -> Option<Scalar> {
        const LONG: usize = size_of::<libc::c_long>();
        Some(match letter {
            'b' => Scalar::I8,
            'B' => Scalar::U8,
            'h' => Scalar::I16,
            'H' => Scalar::U16,
            'i' => Scalar::I32,
            'I' => Scalar::U32,
            'l' => const { integer(LONG, true) },
            'L' => const { integer(LONG, false) },
            'q' => Scalar::I64,
            'Q' => Scalar::U64,
            'f' => Scalar::F32,
            'd' => Scalar::F64,
            '?' => Scalar::Bool,
            'c' => Scalar::Byte,
            'u' => Scalar::Wide,
            _ => return None,
        })
    }

    /// Bytes; the alignment too.
    #[inline(always)]
    pub fn size(self) -> usize {
        match self {
            Scalar::I8 | Scalar::U8 | Scalar::Bool | Scalar::Byte => 1,
            Scalar::I16 | Scalar::U16 => 2,
            Scalar::I32 | Scalar::U32 | Scalar::F32 | Scalar::Wide => 4,
            Scalar::I64 | Scalar::U64 | Scalar::F64 => 8,
        }
    }

    /// One of the integer types?
    #[inline(always)]
    pub fn is_integer(self) -> bool {
        !matches!(self, Scalar::F32 | Scalar::F64 | Scalar::Bool | Scalar::Byte | Scalar::Wide)
    }

    /// The Python object.
    ///
    /// # Errors
    /// Memory is short, or no character has this code.
    #[inline(always)]
    pub fn boxed(self, py: Python<'_>, bits: u64) -> Answer<'_> {
        // SAFETY: attached; plain constructors, the last two of one item that is there.
        unsafe {
            let new = match self {
                Scalar::I8 => ffi::PyLong_FromLong((bits as i8).into()),
                Scalar::U8 => ffi::PyLong_FromLong((bits as u8).into()),
                Scalar::I16 => ffi::PyLong_FromLong((bits as i16).into()),
                Scalar::U16 => ffi::PyLong_FromLong((bits as u16).into()),
                Scalar::I32 => ffi::PyLong_FromLong((bits as i32).into()),
                Scalar::U32 => ffi::PyLong_FromUnsignedLongLong((bits as u32).into()),
                Scalar::I64 => ffi::PyLong_FromLongLong(bits as i64),
                Scalar::U64 => ffi::PyLong_FromUnsignedLongLong(bits),
                Scalar::F32 => ffi::PyFloat_FromDouble(f32::from_bits(bits as u32).into()),
                Scalar::F64 => ffi::PyFloat_FromDouble(f64::from_bits(bits)),
                Scalar::Bool => ffi::PyBool_FromLong((bits != 0).into()),
                Scalar::Byte => ffi::PyBytes_FromStringAndSize((&raw const bits).cast(), 1),
                Scalar::Wide => {
                    let wide = bits as u32;
                    ffi::PyUnicode_FromWideChar((&raw const wide).cast(), 1)
                }
            };
            made(py, new)
        }
    }

    /// The bits of a Python object, if the conversion is a plain one. No Python code runs, and no
    /// exception is left.
    #[inline(always)]
    pub fn bits(self, object: Borrowed<'_, '_, PyAny>) -> Option<u64> {
        match self {
            Scalar::F64 => real(object).map(f64::to_bits),
            // Out of its range it is an infinity, as in C.
            Scalar::F32 => real(object).map(|x| (x as f32).to_bits().into()),
            Scalar::Bool => truth(object),
            Scalar::Byte => byte(object),
            Scalar::Wide => wide(object),
            _ => masked(object),
        }
    }
}

/// Call `$work` with the scalar as a constant, so that a loop in it is compiled for each type.
macro_rules! for_each_scalar {
    ($scalar:expr, $work:expr) => {
        match $scalar {
            Scalar::I8 => $work(Scalar::I8),
            Scalar::U8 => $work(Scalar::U8),
            Scalar::I16 => $work(Scalar::I16),
            Scalar::U16 => $work(Scalar::U16),
            Scalar::I32 => $work(Scalar::I32),
            Scalar::U32 => $work(Scalar::U32),
            Scalar::I64 => $work(Scalar::I64),
            Scalar::U64 => $work(Scalar::U64),
            Scalar::F32 => $work(Scalar::F32),
            Scalar::F64 => $work(Scalar::F64),
            other => $work(other),
        }
    };
}
pub(crate) use for_each_scalar;

/// An int, a bool, or of a subclass: ctypes takes its lowest bits, whatever its methods say.
#[inline(always)]
pub fn masked(object: Borrowed<'_, '_, PyAny>) -> Option<u64> {
    if !object.is_exact_instance_of::<PyInt>() && !object.is_instance_of::<PyInt>() {
        return None;
    }
    // SAFETY: attached, and it is an int.
    Some(unsafe { ffi::PyLong_AsUnsignedLongLongMask(object.as_ptr()) })
}

#[inline(always)]
fn real(object: Borrowed<'_, '_, PyAny>) -> Option<f64> {
    // Of a subclass, as numpy's float64 is, the number itself counts too, whatever its methods say.
    if object.is_exact_instance_of::<PyFloat>() || object.is_instance_of::<PyFloat>() {
        // SAFETY: attached, and it is a float.
        return Some(unsafe { ffi::PyFloat_AsDouble(object.as_ptr()) });
    }
    if !object.is_exact_instance_of::<PyInt>() {
        return None;
    }
    // SAFETY: attached, and it is an int.
    let x = unsafe { ffi::PyLong_AsDouble(object.as_ptr()) };
    // It may be too large.
    (x != -1.0 || PyErr::take(object.py()).is_none()).then_some(x)
}

fn truth(object: Borrowed<'_, '_, PyAny>) -> Option<u64> {
    let py = object.py();
    if object.is(PyBool::new(py, true)) {
        Some(1)
    } else if object.is(PyBool::new(py, false)) || object.is_none() {
        Some(0)
    } else if object.is_exact_instance_of::<PyInt>() {
        object.is_truthy().ok().map(u64::from)
    } else {
        None
    }
}

fn byte(object: Borrowed<'_, '_, PyAny>) -> Option<u64> {
    match object.cast_exact::<PyBytes>().ok()?.as_bytes() {
        [byte] => Some((*byte).into()),
        _ => None,
    }
}

fn wide(object: Borrowed<'_, '_, PyAny>) -> Option<u64> {
    if !object.is_exact_instance_of::<PyString>() {
        return None;
    }
    // SAFETY: attached, and it is a string, of one character where the first is read.
    unsafe {
        let object = object.as_ptr();
        (ffi::PyUnicode_GetLength(object) == 1).then(|| ffi::PyUnicode_ReadChar(object, 0).into())
    }
}
