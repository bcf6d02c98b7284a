//! Values to bytes.
#![allow(unsafe_code)]

use std::ptr;

use pyo3::ffi;
use pyo3::prelude::*;

use super::instances::Known;
use super::memo::{Memo, Met};
use super::sink::Sink;
use super::small::Small;
use super::{
    BYTEARRAY, BYTES, DEEPEST, DICT, FALSE, FIELDS, FLOAT, FROZENSET, INT1, INT2, INT4, INT8, LIST, LONG, LONGEST,
    NONE, RECORD, RECORDS, REF1, REF4, SET, SHARED, SHORT_SHARED, SHORT_STR, SHORT_STR_MOST, STR, TRUE, TUPLE,
};

/// Items of a tuple that is looked at without a memo, at most.
const FLAT: usize = 8;

/// Lists up to this long are read without more ado.
#[cfg(not(Py_GIL_DISABLED))]
const SHORT: isize = 3;

/// The keys of a dict in this message.
#[derive(Clone, Copy, Default)]
pub struct Record {
    /// 0: none.
    fields: usize,
    keys: [usize; *FIELDS.end()],
}

impl Record {
    /// Forget it.
    pub fn clear(&mut self) {
        self.fields = 0;
    }
}

/// Writes one value.
pub struct Writer<'a> {
    #[cfg(not(Py_GIL_DISABLED))]
    pub py: Python<'a>,
    pub out: Sink<'a>,
    pub small: Small,
    pub memo: &'a mut Memo,
    pub records: &'a mut [Record; RECORDS],
    /// None: instances are left to pickle.
    pub classes: Option<&'a mut Vec<Known>>,
    /// Containers' copies: what the memo has noted stays alive with them.
    #[cfg(Py_GIL_DISABLED)]
    pub copies: Vec<Py<PyAny>>,
}

/// None: refused.
pub type Written = Option<()>;

/// Write a value that needs no memo: a number or a singleton. False: it is none.
///
/// # Safety
/// `obj` is alive for the call, and the interpreter attached.
#[inline(always)]
pub unsafe fn scalar(out: &mut Sink<'_>, small: Small, obj: *mut ffi::PyObject) -> bool {
    // SAFETY: the caller's; each function is used on an object of exactly the type that it is for.
    unsafe {
        let class = ffi::Py_TYPE(obj);
        if class == &raw mut ffi::PyLong_Type {
            return integer(out, small, obj).is_some();
        } else if class == &raw mut ffi::PyFloat_Type {
            let [a, b, c, d, e, f, g, h] = ffi::PyFloat_AsDouble(obj).to_le_bytes();
            out.put([FLOAT, a, b, c, d, e, f, g, h]);
        } else if obj == ffi::Py_None() {
            out.put([NONE]);
        } else if class == &raw mut ffi::PyBool_Type {
            out.put([if obj == ffi::Py_True() { TRUE } else { FALSE }]);
        } else {
            return false;
        }
        true
    }
}

/// Write a short string, or a short tuple of numbers, singletons and short strings of which none is
/// there twice: all that may be shared is seen at a glance, without a memo. False: it is none, and
/// what was written is garbage.
///
/// # Safety
/// `obj` is alive for the call, and the interpreter attached.
#[inline(never)]
pub unsafe fn flat(out: &mut Sink<'_>, small: Small, obj: *mut ffi::PyObject) -> bool {
    // SAFETY: the caller's; each function is used on an object of exactly the type that it is for.
    // A tuple's items are borrowed: it does not change, also where others have it.
    unsafe {
        if ffi::Py_TYPE(obj) == &raw mut ffi::PyUnicode_Type {
            return short_string(out, obj);
        }
        if ffi::Py_TYPE(obj) != &raw mut ffi::PyTuple_Type {
            return false;
        }
        let len = ffi::PyTuple_Size(obj) as usize;
        // The empty one is always the same object.
        if !(1..=FLAT).contains(&len) {
            return false;
        }
        out.put([TUPLE, len as u8]);
        let (mut strings, mut count) = ([ptr::null_mut(); FLAT], 0);
        for i in 0..len {
            let item = ffi::PyTuple_GetItem(obj, i as isize);
            if scalar(out, small, item) {
                continue;
            }
            if ffi::Py_TYPE(item) != &raw mut ffi::PyUnicode_Type
                || strings[..count].contains(&item)
                || !short_string(out, item)
            {
                return false;
            }
            strings[count] = item;
            count += 1;
        }
        true
    }
}

/// False: it is longer, or none that has UTF-8.
///
/// # Safety
/// As for `scalar`; it is a string.
#[inline(always)]
unsafe fn short_string(out: &mut Sink<'_>, obj: *mut ffi::PyObject) -> bool {
    let mut len = 0;
    // SAFETY: the caller's. The bytes belong to the string, which does not change.
    let bytes = unsafe {
        let at = ffi::PyUnicode_AsUTF8AndSize(obj, &mut len);
        if at.is_null() {
            ffi::PyErr_Clear();
            return false;
        }
        std::slice::from_raw_parts(at.cast::<u8>(), len as usize)
    };
    let is_short = bytes.len() <= SHORT_STR_MOST;
    if is_short {
        out.put_short(SHORT_STR + bytes.len() as u8, bytes);
    }
    is_short
}

/// None: too large.
///
/// # Safety
/// As for `scalar`; it is an int.
#[inline(always)]
unsafe fn integer(out: &mut Sink<'_>, small: Small, obj: *mut ffi::PyObject) -> Written {
    if let Some(value) = small.value(obj) {
        put_integer(out, value);
        return Some(());
    }
    let mut overflow = 0;
    // SAFETY: the caller's.
    let value = unsafe { ffi::PyLong_AsLongLongAndOverflow(obj, &mut overflow) };
    if overflow != 0 {
        return None;
    }
    put_integer(out, value);
    Some(())
}

#[inline(always)]
fn put_integer(out: &mut Sink<'_>, value: i64) {
    if (0..i64::from(SHORT_STR)).contains(&value) {
        out.put([value as u8]);
    } else if let Ok(value) = i8::try_from(value) {
        out.put([INT1, value as u8]);
    } else if let Ok(value) = i16::try_from(value) {
        let [a, b] = value.to_le_bytes();
        out.put([INT2, a, b]);
    } else if let Ok(value) = i32::try_from(value) {
        let [a, b, c, d] = value.to_le_bytes();
        out.put([INT4, a, b, c, d]);
    } else {
        let [a, b, c, d, e, f, g, h] = value.to_le_bytes();
        out.put([INT8, a, b, c, d, e, f, g, h]);
    }
}

impl Writer<'_> {
    #[inline]
    fn sized(&mut self, tag: u8, len: usize) -> Written {
        if let Ok(len) = u8::try_from(len) {
            self.out.put([tag, len]);
        } else {
            let [a, b, c, d] = u32::try_from(len).ok()?.to_le_bytes();
            self.out.put([tag | LONG, a, b, c, d]);
        }
        Some(())
    }

    /// A reference to `object`, if it is noted. If not, it is now, as what comes next.
    #[inline]
    pub fn again(&mut self, object: *mut ffi::PyObject) -> bool {
        match self.memo.meet(object as usize, self.out.len()) {
            Met::First => false,
            Met::Again(number) => {
                self.reference(number);
                true
            }
            Met::Second(number, at) => {
                self.share(at);
                self.reference(number);
                true
            }
        }
    }

    #[inline]
    fn share(&mut self, at: usize) {
        let tag = self.out.byte_mut(at);
        *tag |= if *tag < STR { SHORT_SHARED } else { SHARED };
    }

    #[inline]
    fn reference(&mut self, number: u32) {
        if let Ok(number) = u8::try_from(number) {
            self.out.put([REF1, number]);
        } else {
            let [a, b, c, d] = number.to_le_bytes();
            self.out.put([REF4, a, b, c, d]);
        }
    }

    /// Write it, if anything is shared, or in any case.
    pub fn trailer(&mut self, always: bool) -> bool {
        let numbers = self.memo.numbers_in_order();
        if numbers.is_empty() && !always {
            return false;
        }
        for number in numbers {
            self.out.put(number.to_le_bytes());
        }
        self.out.put((numbers.len() as u32).to_le_bytes());
        true
    }

    /// # Safety
    /// `obj` is alive for the call, and the interpreter attached.
    pub unsafe fn value(&mut self, obj: *mut ffi::PyObject, depth: u32) -> Written {
        // SAFETY: the caller's; each function is used on an object of exactly the type that it is
        // for. Items are borrowed while no Python code runs and nobody else can change what holds
        // them (see the module).
        unsafe {
            let class = ffi::Py_TYPE(obj);
            if class == &raw mut ffi::PyUnicode_Type {
                self.string(obj, ffi::Py_REFCNT(obj) != 1)
            } else if class == &raw mut ffi::PyLong_Type {
                integer(&mut self.out, self.small, obj)
            } else if class == &raw mut ffi::PyFloat_Type {
                let [a, b, c, d, e, f, g, h] = ffi::PyFloat_AsDouble(obj).to_le_bytes();
                self.out.put([FLOAT, a, b, c, d, e, f, g, h]);
                Some(())
            } else if obj == ffi::Py_None() {
                self.out.put([NONE]);
                Some(())
            } else if class == &raw mut ffi::PyBool_Type {
                self.out.put([if obj == ffi::Py_True() { TRUE } else { FALSE }]);
                Some(())
            } else {
                self.container(obj, class, depth)
            }
        }
    }

    /// A string; `maybe_again`: it may be elsewhere in the message.
    ///
    /// # Safety
    /// As for `value`.
    #[inline]
    unsafe fn string(&mut self, obj: *mut ffi::PyObject, maybe_again: bool) -> Written {
        if maybe_again && self.again(obj) {
            return Some(());
        }
        let mut len = 0;
        // SAFETY: the caller's. The bytes belong to the string, which does not change.
        let bytes = unsafe {
            let at = ffi::PyUnicode_AsUTF8AndSize(obj, &mut len);
            if at.is_null() {
                // A lone surrogate.
                ffi::PyErr_Clear();
                return None;
            }
            std::slice::from_raw_parts(at.cast::<u8>(), len as usize)
        };
        if bytes.len() <= SHORT_STR_MOST {
            self.out.put_short(SHORT_STR + bytes.len() as u8, bytes);
            Some(())
        } else {
            self.raw(STR, bytes)
        }
    }

    fn raw(&mut self, tag: u8, bytes: &[u8]) -> Written {
        if bytes.len() > LONGEST {
            return None;
        }
        self.sized(tag, bytes.len())?;
        self.out.put_long(bytes);
        Some(())
    }

    /// # Safety
    /// As for `value`; `class` is its type.
    unsafe fn container(&mut self, obj: *mut ffi::PyObject, class: *mut ffi::PyTypeObject, depth: u32) -> Written {
        // SAFETY: as in `value`.
        unsafe {
            // What is outermost may be met again, too: inside itself.
            let maybe_again = depth == 0 || ffi::Py_REFCNT(obj) != 1;
            let at = self.out.len();
            if class == &raw mut ffi::PyDict_Type {
                if depth >= DEEPEST || (maybe_again && self.again(obj)) {
                    return (depth < DEEPEST).then_some(());
                }
                self.dict(obj, depth)
            } else if class == &raw mut ffi::PyList_Type {
                if depth >= DEEPEST || (maybe_again && self.again(obj)) {
                    return (depth < DEEPEST).then_some(());
                }
                self.list(obj, depth)
            } else if class == &raw mut ffi::PyTuple_Type {
                // Noted when it is complete, for its items come before it. In a circle it is met
                // again and again, until it is too deep.
                if depth >= DEEPEST || (maybe_again && self.known(obj)) {
                    return (depth < DEEPEST).then_some(());
                }
                let n = ffi::PyTuple_Size(obj);
                self.sized(TUPLE, n as usize)?;
                for i in 0..n {
                    self.value(ffi::PyTuple_GetItem(obj, i), depth + 1)?;
                }
                // The empty one is the only one. One that was met inside itself, by way of a list
                // or dict, is there twice by now: pickle makes one of it.
                if maybe_again && n > 0 && self.memo.meet(obj as usize, at) != Met::First {
                    return None;
                }
                Some(())
            } else if class == &raw mut ffi::PyBytes_Type {
                if maybe_again && self.again(obj) {
                    return Some(());
                }
                let (start, len) = (ffi::PyBytes_AsString(obj), ffi::PyBytes_Size(obj));
                self.raw(BYTES, std::slice::from_raw_parts(start.cast(), len as usize))
            } else if class == &raw mut ffi::PySet_Type {
                if depth >= DEEPEST || (maybe_again && self.again(obj)) {
                    return (depth < DEEPEST).then_some(());
                }
                self.set(SET, obj, depth)
            } else if class == &raw mut ffi::PyFrozenSet_Type {
                if depth >= DEEPEST || (maybe_again && self.known(obj)) {
                    return (depth < DEEPEST).then_some(());
                }
                self.set(FROZENSET, obj, depth)?;
                // As with tuples: one that was met inside itself is there twice.
                (!maybe_again || self.memo.meet(obj as usize, at) == Met::First).then_some(())
            } else if cfg!(not(Py_GIL_DISABLED)) && class == &raw mut ffi::PyByteArray_Type {
                if maybe_again && self.again(obj) {
                    return Some(());
                }
                let (start, len) = (ffi::PyByteArray_AsString(obj), ffi::PyByteArray_Size(obj));
                self.raw(BYTEARRAY, std::slice::from_raw_parts(start.cast(), len as usize))
            } else {
                self.instance(obj, class, depth)
            }
        }
    }

    /// A reference to `object`, if it is noted.
    pub fn known(&mut self, object: *mut ffi::PyObject) -> bool {
        match self.memo.find(object as usize) {
            Met::First => false,
            Met::Again(number) => {
                self.reference(number);
                true
            }
            Met::Second(number, at) => {
                self.share(at);
                self.reference(number);
                true
            }
        }
    }

    /// # Safety
    /// As for `value`; it is a dict.
    unsafe fn dict(&mut self, dict: *mut ffi::PyObject, depth: u32) -> Written {
        // SAFETY: as in `value`.
        unsafe {
            #[cfg(Py_GIL_DISABLED)]
            let dict = self.copy(ffi::PyDict_Copy(dict))?;
            self.items(dict, depth)
        }
    }

    /// A dict's items, behind its tag.
    ///
    /// # Safety
    /// As for `value`; it is a dict that nobody changes.
    pub unsafe fn items(&mut self, dict: *mut ffi::PyObject, depth: u32) -> Written {
        // SAFETY: as in `value`.
        unsafe {
            let n = ffi::PyDict_Size(dict) as usize;
            if FIELDS.contains(&n) && self.records[n % RECORDS].fields == n {
                let mut values = [ptr::null_mut(); *FIELDS.end()];
                if same_keys(&self.records[n % RECORDS].keys[..n], dict, &mut values[..n]) {
                    self.out.put([RECORD, n as u8]);
                    for &value in &values[..n] {
                        self.item(value, depth)?;
                    }
                    return Some(());
                }
            }
            self.sized(DICT, n)?;
            let mut texts = 0;
            let (mut position, mut key, mut value) = (0, ptr::null_mut(), ptr::null_mut());
            while ffi::PyDict_Next(dict, &mut position, &mut key, &mut value) != 0 {
                if ffi::Py_TYPE(key) == &raw mut ffi::PyUnicode_Type {
                    self.string(key, true)?;
                    texts += 1;
                } else {
                    self.value(key, depth + 1)?;
                }
                self.value(value, depth + 1)?;
            }
            if FIELDS.contains(&n) && texts == n {
                self.remember(dict, n);
            }
            Some(())
        }
    }

    /// The next dict with these keys is a record.
    ///
    /// # Safety
    /// As for `value`; it is a dict of so many items.
    unsafe fn remember(&mut self, dict: *mut ffi::PyObject, n: usize) {
        let record = &mut self.records[n % RECORDS];
        let (mut position, mut key) = (0, ptr::null_mut());
        for place in &mut record.keys[..n] {
            // SAFETY: the caller's.
            unsafe { ffi::PyDict_Next(dict, &mut position, &mut key, ptr::null_mut()) };
            *place = key as usize;
        }
        record.fields = n;
    }

    /// # Safety
    /// As for `value`; it is a list.
    unsafe fn list(&mut self, list: *mut ffi::PyObject, depth: u32) -> Written {
        // SAFETY: as in `value`.
        unsafe {
            #[cfg(Py_GIL_DISABLED)]
            let list = self.copy(ffi::PyList_AsTuple(list))?;
            #[cfg(Py_GIL_DISABLED)]
            let (n, get) = (ffi::PyTuple_Size(list), ffi::PyTuple_GetItem);
            #[cfg(not(Py_GIL_DISABLED))]
            let (n, get) = (ffi::Py_SIZE(list), ffi::PyList_GetItem);
            self.sized(LIST, n as usize)?;
            #[cfg(not(Py_GIL_DISABLED))]
            if n > SHORT
                && let Some(items) = super::lists::items(self.py, list, n as usize)
            {
                for i in 0..n as usize {
                    self.item(*items.add(i), depth)?;
                }
                return Some(());
            }
            for i in 0..n {
                self.value(get(list, i), depth + 1)?;
            }
            Some(())
        }
    }

    /// An item of a list or record, inside what is at `depth`: often a number.
    ///
    /// # Safety
    /// As for `value`.
    #[inline(always)]
    unsafe fn item(&mut self, item: *mut ffi::PyObject, depth: u32) -> Written {
        // SAFETY: as in `value`.
        unsafe {
            let class = ffi::Py_TYPE(item);
            if class == &raw mut ffi::PyLong_Type {
                integer(&mut self.out, self.small, item)
            } else if class == &raw mut ffi::PyFloat_Type {
                let [a, b, c, d, e, f, g, h] = ffi::PyFloat_AsDouble(item).to_le_bytes();
                self.out.put([FLOAT, a, b, c, d, e, f, g, h]);
                Some(())
            } else {
                self.value(item, depth + 1)
            }
        }
    }

    /// # Safety
    /// As for `value`; it is a set or frozenset.
    unsafe fn set(&mut self, tag: u8, set: *mut ffi::PyObject, depth: u32) -> Written {
        // SAFETY: as in `value`. The iterator gives owned references to what the set holds anyway.
        unsafe {
            #[cfg(Py_GIL_DISABLED)]
            let set = self.copy(ffi::PySequence_Tuple(set))?;
            self.sized(tag, ffi::PyObject_Size(set) as usize)?;
            // A new object may set off the garbage collector, and that runs Python code. This is
            // the only one that is made here.
            #[cfg(not(Py_GIL_DISABLED))]
            let collects = ffi::PyGC_Disable();
            let items = ffi::PyObject_GetIter(set);
            #[cfg(not(Py_GIL_DISABLED))]
            if collects != 0 {
                ffi::PyGC_Enable();
            }
            if items.is_null() {
                ffi::PyErr_Clear();
                return None;
            }
            let mut written = Some(());
            while written.is_some() {
                let item = ffi::PyIter_Next(items);
                if item.is_null() {
                    break;
                }
                // The set has one, and the iterator has just made one.
                let class = ffi::Py_TYPE(item);
                written = if class == &raw mut ffi::PyUnicode_Type {
                    self.string(item, ffi::Py_REFCNT(item) != 2)
                } else {
                    self.value(item, depth + 1)
                };
                ffi::Py_DECREF(item);
            }
            ffi::Py_DECREF(items);
            written
        }
    }

    /// Keep a container's copy until the end.
    ///
    /// # Safety
    /// `copy` is a new reference, or null with an exception set.
    #[cfg(Py_GIL_DISABLED)]
    pub unsafe fn copy(&mut self, copy: *mut ffi::PyObject) -> Option<*mut ffi::PyObject> {
        // SAFETY: the caller's; and that shows that the interpreter is attached.
        unsafe {
            if copy.is_null() {
                ffi::PyErr_Clear();
                return None;
            }
            self.copies.push(Bound::from_owned_ptr(Python::assume_attached(), copy).unbind());
        }
        Some(copy)
    }
}

/// Has the dict these keys in this order? Its values, then.
///
/// # Safety
/// Attached; it is a dict with as many items as there are `keys` and places for `values`.
unsafe fn same_keys(keys: &[usize], dict: *mut ffi::PyObject, values: &mut [*mut ffi::PyObject]) -> bool {
    let (mut position, mut key) = (0, ptr::null_mut());
    keys.iter().zip(values).all(|(&known, value)| {
        // SAFETY: the caller's.
        unsafe { ffi::PyDict_Next(dict, &mut position, &mut key, value) != 0 && key as usize == known }
    })
}
