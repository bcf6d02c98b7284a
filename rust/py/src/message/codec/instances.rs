//! Instances to bytes.
//!
//! A tag, the number of the class among those of the message, its names when it is the first of its
//! class; then the instance's `__dict__`, or the count and the items of what it is made with.
#![allow(unsafe_code)]

use std::ptr;

use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::types::PyString;

use super::classes::{self, Class, How};
use super::memo::Met;
use super::write::{Writer, Written};
use super::{CALL, DEEPEST, INSTANCE, NEW, NONE};

/// Classes in a message, at most.
const MOST: usize = 255;

/// A class that was met in this message.
pub struct Known {
    class: usize,
    /// None: its instances are left to pickle.
    how: Option<How>,
    /// Until they are written: its module's and its own.
    names: Option<(Py<PyString>, Py<PyString>)>,
}

/// New objects may set off the garbage collector, and that runs Python code.
struct NoCollection(bool);

impl NoCollection {
    #[inline]
    fn begin() -> Self {
        // SAFETY: attached, as who encodes is. Without a GIL collecting is not this thread's
        // affair.
        NoCollection(cfg!(not(Py_GIL_DISABLED)) && unsafe { ffi::PyGC_Disable() } != 0)
    }
}

impl Drop for NoCollection {
    #[inline]
    fn drop(&mut self) {
        if self.0 {
            // SAFETY: as above.
            unsafe { ffi::PyGC_Enable() };
        }
    }
}

impl Writer<'_> {
    /// An instance of a class that is none of the codec's own types.
    ///
    /// # Safety
    /// As for `value`; `class` is its type.
    pub unsafe fn instance(&mut self, obj: *mut ffi::PyObject, class: *mut ffi::PyTypeObject, depth: u32) -> Written {
        if depth >= DEEPEST {
            return None;
        }
        let (number, how) = self.known_class(class)?;
        // SAFETY: the caller's.
        let maybe_again = depth == 0 || unsafe { ffi::Py_REFCNT(obj) } != 1;
        // SAFETY: the caller's: what is called by `how` is of such a class.
        unsafe {
            match how {
                How::State => {
                    if maybe_again && self.again(obj) {
                        return Some(());
                    }
                    self.class(INSTANCE, number)?;
                    self.state(obj, depth)
                }
                // Noted when they are complete, as tuples are: what they are made with comes
                // before.
                _ if maybe_again && self.known(obj) => Some(()),
                How::Items => {
                    let at = self.out.len();
                    let n = ffi::PyTuple_Size(obj);
                    self.class(NEW, number)?;
                    self.out.put([u8::try_from(n).ok()?]);
                    for i in 0..n {
                        self.value(ffi::PyTuple_GetItem(obj, i), depth + 1)?;
                    }
                    (!maybe_again || self.memo.meet(obj as usize, at) == Met::First).then_some(())
                }
                How::Call => {
                    let at = self.out.len();
                    self.class(CALL, number)?;
                    self.arguments(obj, depth)?;
                    (!maybe_again || self.memo.meet(obj as usize, at) == Met::First).then_some(())
                }
            }
        }
    }

    /// The class's number, and what is known of it.
    #[inline]
    fn known_class(&mut self, class: *mut ffi::PyTypeObject) -> Option<(u8, How)> {
        let classes = self.classes.as_mut()?;
        let found = match classes.iter().position(|known| known.class == class as usize) {
            Some(found) => found,
            None => Self::meet_class(classes, class)?,
        };
        Some((found as u8, classes[found].how?))
    }

    fn meet_class(classes: &mut Vec<Known>, class: *mut ffi::PyTypeObject) -> Option<usize> {
        if classes.len() >= MOST {
            return None;
        }
        let _no_collection = NoCollection::begin();
        // SAFETY: who encodes is attached; the class of a living object.
        let (how, names) = unsafe {
            let class = Borrowed::from_ptr(Python::assume_attached(), class.cast::<ffi::PyObject>());
            match classes::look_at(&class) {
                Some(Class { how, module, name }) => (Some(how), Some((module, name))),
                None => (None, None),
            }
        };
        classes.push(Known { class: class as usize, how, names });
        Some(classes.len() - 1)
    }

    /// The tag and the class.
    fn class(&mut self, tag: u8, number: u8) -> Written {
        self.out.put([tag, number]);
        let names = self.classes.as_mut()?[usize::from(number)].names.take();
        let Some((module, name)) = names else { return Some(()) };
        for text in [module, name] {
            let mut len = 0;
            // SAFETY: attached; a string, whose bytes belong to it.
            let bytes = unsafe {
                let at = ffi::PyUnicode_AsUTF8AndSize(text.as_ptr(), &mut len);
                if at.is_null() {
                    ffi::PyErr_Clear();
                    return None;
                }
                std::slice::from_raw_parts(at.cast::<u8>(), len as usize)
            };
            self.out.put([u8::try_from(bytes.len()).ok()?]);
            self.out.put_long(bytes);
        }
        Some(())
    }

    /// Its `__dict__`.
    ///
    /// # Safety
    /// As for `value`; its class is one whose instances have one.
    unsafe fn state(&mut self, obj: *mut ffi::PyObject, depth: u32) -> Written {
        // SAFETY: the caller's. Gives a new reference, or null with an exception set.
        let dict = unsafe {
            let _no_collection = NoCollection::begin();
            let dict = ffi::PyObject_GenericGetDict(obj, ptr::null_mut());
            if dict.is_null() {
                ffi::PyErr_Clear();
                return None;
            }
            Bound::from_owned_ptr(Python::assume_attached(), dict)
        };
        // SAFETY: the caller's; it is a dict, and the instance keeps it.
        unsafe {
            if ffi::Py_TYPE(dict.as_ptr()) != &raw mut ffi::PyDict_Type {
                return None;
            }
            #[cfg(Py_GIL_DISABLED)]
            let items = self.copy(ffi::PyDict_Copy(dict.as_ptr()))?;
            #[cfg(not(Py_GIL_DISABLED))]
            let items = dict.as_ptr();
            // None is how pickle has it.
            if ffi::PyDict_Size(items) == 0 {
                self.out.put([NONE]);
                return Some(());
            }
            if !classes::has_plain_keys(items) || depth + 1 >= DEEPEST {
                return None;
            }
            if self.again(dict.as_ptr()) {
                return Some(());
            }
            // Its address has been noted.
            #[cfg(Py_GIL_DISABLED)]
            self.copies.push(dict.into_any().unbind());
            self.items(items, depth + 1)
        }
    }

    /// What it gives to be called with.
    ///
    /// # Safety
    /// As for `value`; its class is one of those that run no Python code for that.
    unsafe fn arguments(&mut self, obj: *mut ffi::PyObject, depth: u32) -> Written {
        // SAFETY: the caller's.
        let obj = unsafe { Borrowed::from_ptr(Python::assume_attached(), obj) };
        let arguments = {
            let _no_collection = NoCollection::begin();
            classes::arguments(&obj)?
        };
        self.out.put([u8::try_from(arguments.len()).ok()?]);
        for argument in arguments.iter_borrowed() {
            // SAFETY: the caller's; the tuple keeps it alive. What was made just now nobody else
            // has, and is not noted.
            unsafe { self.value(argument.as_ptr(), depth + 1)? };
        }
        Some(())
    }
}
