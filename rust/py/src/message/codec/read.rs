//! Bytes to values.
#![allow(unsafe_code)]

use std::ffi::c_char;
use std::ptr;
use std::rc::Rc;

use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::types::PyString;

use super::objects::{Class, Keys, set_item};
use super::small::Small;
use super::{
    BYTEARRAY, BYTES, CALL, DEEPEST, DICT, FALSE, FIELDS, FLOAT, INSTANCE, INT1, INT2, INT4, INT8, LIST, LONG, NONE,
    RECORD, RECORDS, REF1, REF4, SET, SHARED, SHORT_SHARED, SHORT_STR, SHORT_STR_MOST, STR, TRUE, TUPLE,
};
#[cfg(not(Py_GIL_DISABLED))]
use super::{SHORT_STR_END, keys, lists};

/// Lists up to this long are filled without more ado.
const SHORT: usize = 3;

const CALL_SHARED: u8 = CALL | SHARED;

/// A string. None: an exception is set.
#[inline]
pub fn text<'py>(py: Python<'py>, bytes: &[u8]) -> Option<Bound<'py, PyAny>> {
    // SAFETY: attached; pointer and length are a slice's. Gives a new reference, or null with an
    // exception set.
    unsafe {
        let new = ffi::PyUnicode_FromStringAndSize(bytes.as_ptr().cast::<c_char>(), bytes.len() as isize);
        Bound::from_owned_ptr_or_opt(py, new)
    }
}

/// Reads one value from bytes.
pub struct Reader<'py, 'a> {
    pub py: Python<'py>,
    pub rest: &'a [u8],
    small: Small,
    /// As `keys` counts them; 0: it has not asked.
    #[cfg(not(Py_GIL_DISABLED))]
    message: u64,
    /// May there be instances? Then Python code may run, and get hold of what is not complete.
    has_instances: bool,
    /// Counts calls of what may be Python code.
    pub ran: u64,
    /// Of the shared ones that are still to come.
    numbers: &'a [[u8; 4]],
    /// What few messages need, and is dropped by those alone.
    pub met: Option<Box<Met<'py>>>,
}

#[derive(Default)]
pub struct Met<'py> {
    /// The shared ones that are here, by number.
    shared: Vec<Option<Bound<'py, PyAny>>>,
    /// The dicts that records are like; where Python code may change these, their keys.
    records: [Option<Bound<'py, PyAny>>; RECORDS],
    pub keys: [Option<Rc<Keys<'py>>>; RECORDS],
    pub classes: Vec<Rc<Class<'py>>>,
}

/// In all of them None is an error: Python's, if an exception is set, else of the bytes.
impl<'py, 'a> Reader<'py, 'a> {
    /// Of these bytes.
    pub fn new(py: Python<'py>, bytes: &'a [u8]) -> Self {
        Reader {
            py,
            rest: bytes,
            small: Small::get(py),
            #[cfg(not(Py_GIL_DISABLED))]
            message: 0,
            has_instances: false,
            ran: 0,
            numbers: &[],
            met: None,
        }
    }

    /// Has it read everything?
    pub fn is_at_end(&self) -> bool {
        self.rest.is_empty()
    }

    /// Take the trailer off first.
    pub fn split_trailer(&mut self) -> Option<()> {
        let (rest, count) = self.rest.split_last_chunk::<4>()?;
        let count = u32::from_le_bytes(*count) as usize;
        let (rest, numbers) = rest.split_at_checked(rest.len().checked_sub(count.checked_mul(4)?)?)?;
        self.rest = rest;
        self.numbers = numbers.as_chunks().0;
        self.met.get_or_insert_default().shared.resize(count, None);
        Some(())
    }

    /// There may be instances, then.
    pub fn expect_instances(&mut self) {
        self.has_instances = true;
        self.met.get_or_insert_default();
    }

    #[inline]
    pub fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (taken, rest) = self.rest.split_first_chunk::<N>()?;
        self.rest = rest;
        Some(*taken)
    }

    #[inline]
    pub fn take(&mut self, n: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.rest.split_at_checked(n)?;
        self.rest = rest;
        Some(taken)
    }

    #[inline]
    fn len(&mut self, tag: u8) -> Option<usize> {
        Some(if tag & LONG != 0 {
            u32::from_le_bytes(self.array()?) as usize
        } else {
            usize::from(self.array::<1>()?[0])
        })
    }

    /// A length of which each item takes at least `least` bytes: garbage cannot ask for more than
    /// it has.
    pub fn items(&mut self, tag: u8, least: usize) -> Option<usize> {
        let n = self.len(tag)?;
        (n <= self.rest.len() / least).then_some(n)
    }

    #[inline]
    fn owned(&self, new: *mut ffi::PyObject) -> Option<Bound<'py, PyAny>> {
        // SAFETY: a new reference, or null with an exception set.
        unsafe { Bound::from_owned_ptr_or_opt(self.py, new) }
    }

    /// The number of the shared one that comes now.
    pub fn number(&mut self, shared: bool) -> Option<Option<usize>> {
        if !shared {
            return Some(None);
        }
        let (number, numbers) = self.numbers.split_first()?;
        self.numbers = numbers;
        let number = u32::from_le_bytes(*number) as usize;
        (number < self.met.as_ref()?.shared.len()).then_some(Some(number))
    }

    #[inline]
    pub fn keep(&mut self, number: Option<usize>, value: &Bound<'py, PyAny>) {
        if let (Some(number), Some(met)) = (number, &mut self.met) {
            met.shared[number] = Some(value.clone());
        }
    }

    fn string(&mut self, n: usize, shared: bool) -> Option<Bound<'py, PyAny>> {
        let number = self.number(shared)?;
        let value = text(self.py, self.take(n)?)?;
        self.keep(number, &value);
        Some(value)
    }

    /// One value of many: often a number, or one that is here already.
    #[inline(always)]
    fn item(&mut self, depth: u32) -> Option<Bound<'py, PyAny>> {
        match self.simple() {
            Some(item) => item,
            None => self.value(depth),
        }
    }

    /// A number, or what is here already: what is made without running any code of
    /// others, the garbage collector's included. None: it is something else.
    #[inline(always)]
    #[expect(clippy::option_option, reason = "the inner one is an error")]
    fn simple(&mut self) -> Option<Option<Bound<'py, PyAny>>> {
        Some(match self.rest {
            [value @ 0..SHORT_STR, rest @ ..] => {
                self.rest = rest;
                self.integer(i64::from(*value))
            }
            [FLOAT, a, b, c, d, e, f, g, h, rest @ ..] => {
                self.rest = rest;
                let value = f64::from_le_bytes([*a, *b, *c, *d, *e, *f, *g, *h]);
                // SAFETY: attached.
                self.owned(unsafe { ffi::PyFloat_FromDouble(value) })
            }
            [REF1, number, rest @ ..] => {
                self.rest = rest;
                self.met.as_ref().and_then(|met| met.shared.get(usize::from(*number))?.clone())
            }
            [INT1, value, rest @ ..] => {
                self.rest = rest;
                self.integer(i64::from(*value as i8))
            }
            [INT2, a, b, rest @ ..] => {
                self.rest = rest;
                self.integer(i64::from(i16::from_le_bytes([*a, *b])))
            }
            _ => return None,
        })
    }

    /// Set a new list's `n` items.
    #[inline(never)]
    fn fill(&mut self, list: &Bound<'py, PyAny>, n: usize, depth: u32) -> Option<()> {
        let mut i = 0;
        while i < n {
            #[cfg(not(Py_GIL_DISABLED))]
            // SAFETY: an exact list. It is looked at anew after each value that may have set off
            // the garbage collector, and so anything.
            if let Some(items) = unsafe { lists::items(self.py, list.as_ptr(), n) } {
                while i < n
                    && let Some(item) = self.simple()
                {
                    // SAFETY: one of the `n` places; it was null, if only we have been there.
                    unsafe { *items.add(i) = item?.into_ptr() };
                    i += 1;
                }
                if i == n {
                    break;
                }
            }
            let item = self.value(depth + 1)?;
            // SAFETY: attached; it takes the reference over.
            if unsafe { ffi::PyList_SetItem(list.as_ptr(), i as isize, item.into_ptr()) } != 0 {
                return None;
            }
            i += 1;
        }
        Some(())
    }

    /// A dict's key: often one of the last message's.
    #[inline(always)]
    fn key(&mut self, depth: u32) -> Option<Bound<'py, PyAny>> {
        #[cfg(not(Py_GIL_DISABLED))]
        if let [tag @ SHORT_STR..SHORT_STR_END, rest @ ..] = self.rest {
            let (bytes, rest) = rest.split_at_checked(usize::from(tag - SHORT_STR))?;
            self.rest = rest;
            if self.message == 0 {
                self.message = keys::begin(self.py);
            }
            return keys::key(self.py, bytes, self.message);
        }
        self.value(depth)
    }

    /// One value. None: see the impl block.
    pub fn value(&mut self, depth: u32) -> Option<Bound<'py, PyAny>> {
        let py = self.py;
        let tag = self.array::<1>()?[0];
        match tag {
            0..SHORT_STR => self.integer(i64::from(tag)),
            SHORT_STR..STR => self.string(usize::from(tag) & SHORT_STR_MOST, tag & SHORT_SHARED != 0),
            REF1 | REF4 => {
                let number = self.len(tag & LONG)?;
                self.met.as_ref()?.shared.get(number)?.clone()
            }
            NONE => Some(py.None().into_bound(py)),
            TRUE | FALSE => Some(pyo3::types::PyBool::new(py, tag == TRUE).to_owned().into_any()),
            INT1 => {
                let value = self.array::<1>()?[0] as i8;
                self.integer(i64::from(value))
            }
            INT2 => {
                let value = i16::from_le_bytes(self.array()?);
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
                // SAFETY: attached.
                self.owned(unsafe { ffi::PyFloat_FromDouble(value) })
            }
            TUPLE if depth <= DEEPEST => self.tuple(tag, depth),
            STR..NONE if depth <= DEEPEST => self.sized(tag, depth),
            INSTANCE..=CALL_SHARED if depth <= DEEPEST && self.has_instances => self.instance(tag, depth),
            _ => None,
        }
    }

    #[inline]
    fn tuple(&mut self, tag: u8, depth: u32) -> Option<Bound<'py, PyAny>> {
        let n = self.items(tag, 1)?;
        if self.has_instances {
            return self.tuple_with_instances(n, depth).map(Bound::into_any);
        }
        // SAFETY: attached; each item is set once, with a new reference that it takes over. Until
        // all are set no Python code can find it but through the collector's own interfaces.
        let tuple = self.owned(unsafe { ffi::PyTuple_New(n as isize) })?;
        for i in 0..n {
            let item = self.value(depth + 1)?;
            // SAFETY: as above.
            unsafe { ffi::PyTuple_SetItem(tuple.as_ptr(), i as isize, item.into_ptr()) };
        }
        Some(tuple)
    }

    /// What has a length.
    fn sized(&mut self, tag: u8, depth: u32) -> Option<Bound<'py, PyAny>> {
        let shared = tag & SHARED != 0;
        // SAFETY (of the calls below): attached; pointers and lengths are slices'. A tuple's or
        // list's items are each set once, with a new reference that it takes over; until all are
        // set no Python code can find it but through the garbage collector's own interfaces.
        match tag & !(LONG | SHARED) {
            STR => {
                let n = self.len(tag)?;
                self.string(n, shared)
            }
            BYTES => {
                let (number, n) = (self.number(shared)?, self.len(tag)?);
                let at = self.take(n)?.as_ptr().cast::<c_char>();
                // SAFETY: as above.
                let value = self.owned(unsafe { ffi::PyBytes_FromStringAndSize(at, n as isize) })?;
                self.keep(number, &value);
                Some(value)
            }
            BYTEARRAY => {
                let (number, n) = (self.number(shared)?, self.len(tag)?);
                let at = self.take(n)?.as_ptr().cast::<c_char>();
                // SAFETY: as above.
                let value = self.owned(unsafe { ffi::PyByteArray_FromStringAndSize(at, n as isize) })?;
                self.keep(number, &value);
                Some(value)
            }
            TUPLE => {
                let number = self.number(shared)?;
                let tuple = self.tuple(tag, depth)?;
                self.keep(number, &tuple);
                Some(tuple)
            }
            LIST => {
                let (number, n) = (self.number(shared)?, self.items(tag, 1)?);
                let in_batches = self.has_instances;
                // SAFETY: as above.
                let list = self.owned(unsafe { ffi::PyList_New(if in_batches { 0 } else { n as isize }) })?;
                self.keep(number, &list);
                if in_batches {
                    // SAFETY: as above; it takes a reference of its own.
                    self.add_in_batches(n, depth, |item| unsafe {
                        ffi::PyList_Append(list.as_ptr(), item.as_ptr()) == 0
                    })?;
                    return Some(list);
                }
                if n > SHORT {
                    self.fill(&list, n, depth)?;
                    return Some(list);
                }
                for i in 0..n {
                    let item = self.value(depth + 1)?;
                    // SAFETY: as above.
                    unsafe { ffi::PyList_SetItem(list.as_ptr(), i as isize, item.into_ptr()) };
                }
                Some(list)
            }
            DICT | RECORD if self.has_instances => self.dict_with_instances(tag, shared, depth),
            DICT => self.dict(tag, shared, depth),
            RECORD => self.record(tag, shared, depth),
            kind => {
                let (number, n) = (self.number(shared)?, self.items(tag, 1)?);
                // SAFETY: as above. A frozenset may be added to while nobody else has it.
                let set = self.owned(unsafe {
                    if kind == SET { ffi::PySet_New(ptr::null_mut()) } else { ffi::PyFrozenSet_New(ptr::null_mut()) }
                })?;
                if kind == SET {
                    self.keep(number, &set);
                }
                if kind != SET && self.has_instances {
                    let items = self.tuple_with_instances(n, depth)?;
                    self.ran += 1;
                    // SAFETY: as above.
                    let set = self.owned(unsafe { ffi::PyFrozenSet_New(items.as_ptr()) })?;
                    self.keep(number, &set);
                    return Some(set);
                }
                if self.has_instances {
                    // SAFETY: as above; it takes a reference of its own.
                    self.add_in_batches(n, depth, |item| unsafe { ffi::PySet_Add(set.as_ptr(), item.as_ptr()) == 0 })?;
                    return Some(set);
                }
                for _ in 0..n {
                    let item = self.value(depth + 1)?;
                    // SAFETY: as above; the set takes a reference of its own.
                    if unsafe { ffi::PySet_Add(set.as_ptr(), item.as_ptr()) } != 0 {
                        return None;
                    }
                }
                if kind != SET {
                    self.keep(number, &set);
                }
                Some(set)
            }
        }
    }

    /// A dict, where no Python code runs.
    #[inline(never)]
    fn dict(&mut self, tag: u8, shared: bool, depth: u32) -> Option<Bound<'py, PyAny>> {
        let (number, n) = (self.number(shared)?, self.items(tag, 2)?);
        // SAFETY: attached.
        let dict = self.owned(unsafe { ffi::PyDict_New() })?;
        self.keep(number, &dict);
        let mut texts = 0;
        for _ in 0..n {
            let (key, value) = (self.key(depth + 1)?, self.item(depth + 1)?);
            texts += usize::from(key.is_exact_instance_of::<PyString>());
            // SAFETY: attached; a dict.
            unsafe { set_item(&dict, &key, &value)? };
        }
        if FIELDS.contains(&n) && texts == n {
            self.met.get_or_insert_default().records[n % RECORDS] = Some(dict.clone());
        }
        Some(dict)
    }

    /// A dict with an earlier one's keys, where no Python code runs.
    #[inline(never)]
    fn record(&mut self, tag: u8, shared: bool, depth: u32) -> Option<Bound<'py, PyAny>> {
        let (number, n) = (self.number(shared)?, self.items(tag, 1)?);
        let like = self.met.as_ref()?.records[n % RECORDS].as_ref()?;
        // SAFETY: attached; a dict.
        let dict = self.owned(unsafe { ffi::PyDict_Copy(like.as_ptr()) })?;
        // SAFETY: the same.
        if unsafe { ffi::PyDict_Size(dict.as_ptr()) } as usize != n {
            return None;
        }
        self.keep(number, &dict);
        let (mut position, mut key) = (0, ptr::null_mut());
        for _ in 0..n {
            let value = self.item(depth + 1)?;
            // SAFETY: attached; a dict. The keys stay as they are while values are set: the
            // iteration may go on, and the key that it lends stays alive in the dict.
            unsafe {
                if ffi::PyDict_Next(dict.as_ptr(), &mut position, &mut key, ptr::null_mut()) == 0
                    || ffi::PyDict_SetItem(dict.as_ptr(), key, value.as_ptr()) != 0
                {
                    return None;
                }
            }
        }
        Some(dict)
    }

    #[inline]
    fn integer(&self, value: i64) -> Option<Bound<'py, PyAny>> {
        // SAFETY: attached.
        self.owned(self.small.object(value).unwrap_or_else(|| unsafe { ffi::PyLong_FromLongLong(value) }))
    }
}
