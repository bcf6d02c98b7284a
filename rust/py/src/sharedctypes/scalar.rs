//! The simple ctypes types: numbers and characters, between shared memory and Python objects.
//!
//! A conversion here either gives exactly what ctypes would give, without running any Python code, or it declines, and the
//! caller leaves the matter to ctypes. Bits are the value's own bytes, zero-extended.
#![allow(unsafe_code)]

use std::sync::atomic::{AtomicU8, AtomicU16, AtomicU32, AtomicU64, Ordering};

use pyo3::ffi;

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

/// An operation on a shared integer.
#[derive(Debug, Clone, Copy)]
pub enum Update {
    Add,
    Sub,
    Or,
    And,
    Xor,
    Swap,
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

    /// Read, never torn.
    ///
    /// # Safety
    /// `at` is aligned shared memory of this size.
    #[inline(always)]
    pub unsafe fn load(self, at: *mut u8) -> u64 {
        // Acquire: pairs with the release in `store` and in `update`.
        const ORDER: Ordering = Ordering::Acquire;
        // SAFETY: the caller's.
        unsafe {
            match self.size() {
                1 => AtomicU8::from_ptr(at).load(ORDER).into(),
                2 => AtomicU16::from_ptr(at.cast()).load(ORDER).into(),
                4 => AtomicU32::from_ptr(at.cast()).load(ORDER).into(),
                _ => AtomicU64::from_ptr(at.cast()).load(ORDER),
            }
        }
    }

    /// Write, never torn.
    ///
    /// # Safety
    /// As for `load`.
    #[inline(always)]
    pub unsafe fn store(self, at: *mut u8, bits: u64) {
        // Release: pairs with the acquire in `load` and in `update`.
        const ORDER: Ordering = Ordering::Release;
        // SAFETY: the caller's.
        unsafe {
            match self.size() {
                1 => AtomicU8::from_ptr(at).store(bits as u8, ORDER),
                2 => AtomicU16::from_ptr(at.cast()).store(bits as u16, ORDER),
                4 => AtomicU32::from_ptr(at.cast()).store(bits as u32, ORDER),
                _ => AtomicU64::from_ptr(at.cast()).store(bits, ORDER),
            }
        }
    }

    /// Change an integer in one step, wrapping as C does; gives what it was.
    ///
    /// # Safety
    /// As for `load`.
    pub unsafe fn update(self, at: *mut u8, update: Update, by: u64) -> u64 {
        macro_rules! apply {
            ($atomic:ty, $word:ty) => {{
                // SeqCst: as documented; these are for algorithms that need no lock.
                // SAFETY: the caller's.
                let (word, by) = (unsafe { <$atomic>::from_ptr(at.cast()) }, by as $word);
                let was = match update {
                    Update::Add => word.fetch_add(by, Ordering::SeqCst),
                    Update::Sub => word.fetch_sub(by, Ordering::SeqCst),
                    Update::Or => word.fetch_or(by, Ordering::SeqCst),
                    Update::And => word.fetch_and(by, Ordering::SeqCst),
                    Update::Xor => word.fetch_xor(by, Ordering::SeqCst),
                    Update::Swap => word.swap(by, Ordering::SeqCst),
                };
                u64::from(was)
            }};
        }
        match self.size() {
            1 => apply!(AtomicU8, u8),
            2 => apply!(AtomicU16, u16),
            4 => apply!(AtomicU32, u32),
            _ => apply!(AtomicU64, u64),
        }
    }

    /// Put `new` where `expected` is, if it is there.
    ///
    /// # Safety
    /// As for `load`.
    pub unsafe fn compare_exchange(self, at: *mut u8, expected: u64, new: u64) -> bool {
        macro_rules! apply {
            ($atomic:ty, $word:ty) => {{
                // SAFETY: the caller's.
                let word = unsafe { <$atomic>::from_ptr(at.cast()) };
                // SeqCst: as in `update`.
                word.compare_exchange(expected as $word, new as $word, Ordering::SeqCst, Ordering::SeqCst).is_ok()
            }};
        }
        match self.size() {
            1 => apply!(AtomicU8, u8),
            2 => apply!(AtomicU16, u16),
            4 => apply!(AtomicU32, u32),
            _ => apply!(AtomicU64, u64),
        }
    }

    /// The Python object, a new reference; null with an exception set if memory is short or no character has this code.
    ///
    /// # Safety
    /// Attached to the interpreter.
    #[inline(always)]
    pub unsafe fn boxed(self, bits: u64) -> *mut ffi::PyObject {
        // SAFETY: the caller's; plain constructors.
        unsafe {
            match self {
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
            }
        }
    }

    /// The bits of a Python object, if the conversion is a plain one. No Python code runs, and no exception is left.
    ///
    /// # Safety
    /// Attached to the interpreter, and `object` is one.
    #[inline(always)]
    pub unsafe fn bits(self, object: *mut ffi::PyObject) -> Option<u64> {
        // SAFETY: the caller's; what is called looks at objects of the types that were checked.
        unsafe {
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
///
/// # Safety
/// As for `Scalar::bits`.
#[inline(always)]
pub unsafe fn masked(object: *mut ffi::PyObject) -> Option<u64> {
    // SAFETY: the caller's.
    unsafe {
        if ffi::PyLong_CheckExact(object) == 0 && ffi::PyLong_Check(object) == 0 {
            return None;
        }
        Some(ffi::PyLong_AsUnsignedLongLongMask(object))
    }
}

#[inline(always)]
unsafe fn real(object: *mut ffi::PyObject) -> Option<f64> {
    // SAFETY: as in `Scalar::bits`.
    unsafe {
        // Of a subclass, as numpy's float64 is, the number itself counts too, whatever its methods say.
        if ffi::PyFloat_CheckExact(object) != 0 || ffi::PyFloat_Check(object) != 0 {
            return Some(ffi::PyFloat_AsDouble(object));
        }
        if ffi::PyLong_CheckExact(object) == 0 {
            return None;
        }
        let x = ffi::PyLong_AsDouble(object);
        if x == -1.0 && !ffi::PyErr_Occurred().is_null() {
            ffi::PyErr_Clear();
            return None;
        }
        Some(x)
    }
}

unsafe fn truth(object: *mut ffi::PyObject) -> Option<u64> {
    // SAFETY: as in `Scalar::bits`.
    unsafe {
        if object == ffi::Py_True() {
            Some(1)
        } else if object == ffi::Py_False() || object == ffi::Py_None() {
            Some(0)
        } else if ffi::PyLong_CheckExact(object) != 0 {
            Some((ffi::PyObject_IsTrue(object) == 1).into())
        } else {
            None
        }
    }
}

unsafe fn byte(object: *mut ffi::PyObject) -> Option<u64> {
    // SAFETY: as in `Scalar::bits`.
    unsafe {
        if ffi::PyBytes_CheckExact(object) == 0 || ffi::PyBytes_Size(object) != 1 {
            return None;
        }
        Some((*ffi::PyBytes_AsString(object).cast::<u8>()).into())
    }
}

unsafe fn wide(object: *mut ffi::PyObject) -> Option<u64> {
    // SAFETY: as in `Scalar::bits`.
    unsafe {
        if ffi::PyUnicode_CheckExact(object) == 0 || ffi::PyUnicode_GetLength(object) != 1 {
            return None;
        }
        Some(ffi::PyUnicode_ReadChar(object, 0).into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn integers_wrap_in_their_own_width() {
        let mut word = 0xffff_u64;
        let at: *mut u8 = (&raw mut word).cast();
        // SAFETY: eight aligned bytes.
        unsafe {
            assert_eq!(Scalar::U8.update(at, Update::Add, 2), 0xff);
            assert_eq!(Scalar::U16.load(at), 0xff01);
            assert_eq!(Scalar::I16.update(at, Update::Sub, 0xff02), 0xff01);
            assert_eq!(Scalar::U64.load(at), 0xffff);
            assert!(!Scalar::I32.compare_exchange(at, 0, 1));
            assert!(Scalar::I32.compare_exchange(at, 0xffff, u64::MAX));
        }
        assert_eq!(word, 0xffff_ffff);
    }
}
