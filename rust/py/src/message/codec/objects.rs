//! Bytes to instances.
//!
//! What runs Python code here, a `__new__`, `__setstate__` or `__hash__`, may do anything with what
//! it can reach of the message, if only by way of the garbage collector: so nothing is ever reached
//! that is not whole. And it runs in the order in which pickle would have it run: an instance's
//! `__setstate__` is looked for when its state is there, items are added when up to a thousand are.
#![allow(unsafe_code)]

use std::cell::{Cell, OnceCell};
use std::ptr;
use std::rc::Rc;

use pyo3::exceptions::{PyAttributeError, PyTypeError};
use pyo3::ffi;
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyString, PyTuple, PyType};

use super::read::Reader;
use super::{CALL, DICT, FIELDS, INSTANCE, LONG, NEW, NONE, RECORD, RECORDS, SHARED, classes};

/// Items that pickle adds to a list, dict or set at once.
pub const BATCH: usize = 1000;

/// A class of the message.
pub struct Class<'py> {
    class: Bound<'py, PyType>,
    /// Is an instance's `__dict__` all that there is to its state? And how much foreign code had
    /// run when that was found out: more may have changed the class.
    is_plain: Cell<(bool, u64)>,
}

impl Class<'_> {
    fn is_plain(&self, ran: u64) -> bool {
        let (is_plain, known_at) = self.is_plain.get();
        if known_at == ran {
            return is_plain;
        }
        let is_plain = classes::is_set_up_plainly(&self.class);
        self.is_plain.set((is_plain, ran));
        is_plain
    }
}

/// An instance's state.
enum State<'py> {
    /// The items of a dict that nobody else refers to.
    Items(Vec<(Bound<'py, PyAny>, Bound<'py, PyAny>)>),
    Whole(Bound<'py, PyAny>),
}

/// The keys of a dict that others are like.
pub struct Keys<'py> {
    pub given: Vec<Bound<'py, PyAny>>,
    interned: OnceCell<Vec<Bound<'py, PyAny>>>,
}

impl<'py> Keys<'py> {
    pub fn new(given: Vec<Bound<'py, PyAny>>) -> Self {
        Keys { given, interned: OnceCell::new() }
    }

    /// As the keys of a `__dict__` are.
    fn interned(&self) -> &[Bound<'py, PyAny>] {
        self.interned.get_or_init(|| self.given.iter().cloned().map(intern_text).collect())
    }
}

/// The one string of this text, if it is an exact string.
fn intern_text(key: Bound<'_, PyAny>) -> Bound<'_, PyAny> {
    if !key.is_exact_instance_of::<PyString>() {
        return key;
    }
    let py = key.py();
    let mut key = key.into_ptr();
    // SAFETY: attached; a string, owned here. It is replaced by another owned one, if at all.
    unsafe {
        ffi::PyUnicode_InternInPlace(&mut key);
        Bound::from_owned_ptr(py, key)
    }
}

/// Set an item. None: an exception is set.
///
/// # Safety
/// Attached; it is a dict.
pub unsafe fn set_item(dict: &Bound<'_, PyAny>, key: &Bound<'_, PyAny>, value: &Bound<'_, PyAny>) -> Option<()> {
    // SAFETY: the caller's; it takes references of its own.
    (unsafe { ffi::PyDict_SetItem(dict.as_ptr(), key.as_ptr(), value.as_ptr()) } == 0).then_some(())
}

/// In all of them None is an error: Python's, if an exception is set, else of the bytes.
impl<'py> Reader<'py, '_> {
    /// An instance.
    pub fn instance(&mut self, tag: u8, depth: u32) -> Option<Bound<'py, PyAny>> {
        let number = self.number(tag & SHARED != 0)?;
        let class = self.class()?;
        match tag & !SHARED {
            INSTANCE => {
                let new = self.made(&class, &PyTuple::empty(self.py))?;
                self.keep(number, &new);
                self.state(&new, &class, depth + 1)?;
                Some(new)
            }
            NEW => {
                let arguments = self.arguments(depth)?;
                let new = self.made(&class, &arguments)?;
                self.keep(number, &new);
                Some(new)
            }
            CALL => {
                let arguments = self.arguments(depth)?;
                self.ran += 1;
                let new = self.raised(class.class.call1(arguments))?;
                self.keep(number, &new);
                Some(new)
            }
            _ => None,
        }
    }

    /// What has raised an exception is None.
    fn raised<T>(&self, result: PyResult<T>) -> Option<T> {
        result.map_err(|error| error.restore(self.py)).ok()
    }

    /// A class, by its number, or by its names if it is the first time.
    fn class(&mut self) -> Option<Rc<Class<'py>>> {
        let py = self.py;
        let number = usize::from(self.array::<1>()?[0]);
        if let Some(class) = self.met.as_ref()?.classes.get(number) {
            return Some(class.clone());
        }
        let mut names = [None, None];
        for name in &mut names {
            let len = usize::from(self.array::<1>()?[0]);
            *name = super::read::text(py, self.take(len)?);
        }
        let [Some(module), Some(name)] = names else { return None };
        let (module, name) = (module.cast_exact::<PyString>().ok()?, name.cast_exact::<PyString>().ok()?);
        // As pickle does; what is loaded already and has the name need not be imported.
        let found = match classes::loaded(module).and_then(|module| module.getattr(name).ok()) {
            Some(found) => found,
            None => {
                self.ran += 1;
                let module = self.raised(py.import(module))?;
                self.raised(module.getattr(name))?
            }
        };
        let class = match found.cast_into::<PyType>() {
            Ok(class) => class,
            Err(_) => {
                let error = py.import("pickle").and_then(|pickle| pickle.getattr("UnpicklingError"));
                let error = error.and_then(|class| class.call1(("NEWOBJ class argument must be a type",)));
                return self.raised(error.and_then(|error| Err(PyErr::from_value(error))));
            }
        };
        let is_plain = Cell::new((classes::is_set_up_plainly(&class), self.ran));
        let class = Rc::new(Class { class, is_plain });
        let classes = &mut self.met.as_mut()?.classes;
        // It may have been loaded with a message of its own, but that has another reader.
        if classes.len() != number {
            return None;
        }
        classes.push(class.clone());
        Some(class)
    }

    fn arguments(&mut self, depth: u32) -> Option<Bound<'py, PyTuple>> {
        let n = usize::from(self.array::<1>()?[0]);
        if n > self.rest.len() { None } else { self.tuple_with_instances(n, depth) }
    }

    /// What the class's `__new__` makes, as `copyreg.__newobj__` does.
    fn made(&mut self, class: &Class<'py>, arguments: &Bound<'py, PyTuple>) -> Option<Bound<'py, PyAny>> {
        let class = class.class.as_type_ptr();
        // SAFETY: attached; the slot of a class takes it, a tuple, and a dict or null, and gives a
        // new reference, or null with an exception set.
        unsafe {
            let slot = ffi::PyType_GetSlot(class, ffi::Py_tp_new);
            if slot.is_null() {
                return None;
            }
            self.ran += u64::from(slot != ffi::PyType_GetSlot(&raw mut ffi::PyBaseObject_Type, ffi::Py_tp_new));
            let new: ffi::newfunc = std::mem::transmute(slot);
            Bound::from_owned_ptr_or_opt(self.py, new(class, arguments.as_ptr(), ptr::null_mut()))
        }
    }

    /// Give `new` its state, as pickle does.
    fn state(&mut self, new: &Bound<'py, PyAny>, class: &Class<'py>, depth: u32) -> Option<()> {
        let state = match *self.rest.first()? & !LONG {
            NONE => return self.take(1).map(drop),
            DICT => State::Items(self.read_items(depth)?),
            RECORD => State::Items(self.read_record(depth)?),
            _ => State::Whole(self.value(depth)?),
        };
        let is_of = new.get_type_ptr() == class.class.as_type_ptr();
        if is_of
            && class.is_plain(self.ran)
            && let Some(dict) = own_dict(new)
        {
            let items = match state {
                State::Items(items) => items,
                State::Whole(state) => items_of(&state)?,
            };
            for (key, value) in items {
                // SAFETY: attached; a dict.
                unsafe { set_item(&dict, &intern_text(key), &value)? };
            }
            return Some(());
        }
        self.ran += 1;
        let state = match state {
            State::Items(items) => self.raised(dict_of(self.py, items))?,
            State::Whole(state) => state,
        };
        self.raised(set_state(new, &state))
    }

    /// The items of a dict that is not shared.
    fn read_items(&mut self, depth: u32) -> Option<Vec<(Bound<'py, PyAny>, Bound<'py, PyAny>)>> {
        let tag = self.array::<1>()?[0];
        let n = self.items(tag, 2)?;
        let mut items = Vec::with_capacity(n);
        let mut texts = 0;
        for _ in 0..n {
            let key = self.value(depth + 1)?;
            texts += usize::from(key.is_exact_instance_of::<PyString>());
            items.push((key, self.value(depth + 1)?));
        }
        if FIELDS.contains(&n) && texts == n {
            let keys = items.iter().map(|(key, _)| key.clone()).collect();
            self.met.as_mut()?.keys[n % RECORDS] = Some(Rc::new(Keys::new(keys)));
        }
        Some(items)
    }

    /// Those of a record that is not shared.
    fn read_record(&mut self, depth: u32) -> Option<Vec<(Bound<'py, PyAny>, Bound<'py, PyAny>)>> {
        let tag = self.array::<1>()?[0];
        let n = self.items(tag, 1)?;
        let keys = self.keys(n)?;
        let mut items = Vec::with_capacity(n);
        for key in keys.interned() {
            items.push((key.clone(), self.value(depth + 1)?));
        }
        Some(items)
    }

    /// Those of the last dict with `n` items.
    pub fn keys(&self, n: usize) -> Option<Rc<Keys<'py>>> {
        let keys = self.met.as_ref()?.keys[n % RECORDS].as_ref()?;
        (keys.given.len() == n).then(|| keys.clone())
    }

    /// A dict, where Python code may run.
    pub fn dict_with_instances(&mut self, tag: u8, shared: bool, depth: u32) -> Option<Bound<'py, PyAny>> {
        let is_record = tag & !(LONG | SHARED) == RECORD;
        let (number, n) = (self.number(shared)?, self.items(tag, if is_record { 1 } else { 2 })?);
        let like = if is_record { Some(self.keys(n)?) } else { None };
        let dict = PyDict::new(self.py).into_any();
        self.keep(number, &dict);
        let mut keys = Vec::with_capacity(if like.is_none() && FIELDS.contains(&n) { n } else { 0 });
        let mut texts = 0;
        let mut items = Vec::with_capacity(BATCH.min(n));
        for i in 0..n {
            let key = match &like {
                Some(keys) => keys.given[i].clone(),
                None => self.value(depth + 1)?,
            };
            texts += usize::from(key.is_exact_instance_of::<PyString>());
            if keys.capacity() > 0 {
                keys.push(key.clone());
            }
            items.push((key, self.value(depth + 1)?));
            if items.len() == BATCH || i + 1 == n {
                self.ran += u64::from(texts <= i);
                for (key, value) in items.drain(..) {
                    // SAFETY: attached; a dict.
                    unsafe { set_item(&dict, &key, &value)? };
                }
            }
        }
        if like.is_none() && FIELDS.contains(&n) && texts == n {
            self.met.as_mut()?.keys[n % RECORDS] = Some(Rc::new(Keys::new(keys)));
        }
        Some(dict)
    }

    /// The items of a list or set, where Python code may run: added as pickle adds them.
    pub fn add_in_batches(&mut self, n: usize, depth: u32, add: impl Fn(&Bound<'py, PyAny>) -> bool) -> Option<()> {
        let mut items = Vec::with_capacity(n.min(BATCH));
        for i in 0..n {
            items.push(self.value(depth + 1)?);
            let is_full = items.len() == BATCH || i + 1 == n;
            self.ran += u64::from(is_full);
            if is_full && !items.drain(..).all(|item| add(&item)) {
                return None;
            }
        }
        Some(())
    }

    /// `n` values, and a tuple of them when they are all there.
    pub fn tuple_with_instances(&mut self, n: usize, depth: u32) -> Option<Bound<'py, PyTuple>> {
        let mut items = Vec::with_capacity(n);
        for _ in 0..n {
            items.push(self.value(depth + 1)?);
        }
        self.raised(PyTuple::new(self.py, items))
    }
}

/// An instance's `__dict__`, if it is a plain one.
fn own_dict<'py>(new: &Bound<'py, PyAny>) -> Option<Bound<'py, PyAny>> {
    // SAFETY: attached; a new reference, or null with an exception set.
    let dict =
        unsafe { Bound::from_owned_ptr_or_opt(new.py(), ffi::PyObject_GenericGetDict(new.as_ptr(), ptr::null_mut())) };
    if dict.is_none() {
        drop(PyErr::take(new.py()));
    }
    dict.filter(|dict| dict.is_exact_instance_of::<PyDict>())
}

/// What is in a dict at this moment; what is done with it may change it.
fn items_of<'py>(dict: &Bound<'py, PyAny>) -> Option<Vec<(Bound<'py, PyAny>, Bound<'py, PyAny>)>> {
    Some(dict.cast_exact::<PyDict>().ok()?.items().iter().filter_map(|pair| pair.extract().ok()).collect())
}

fn dict_of<'py>(py: Python<'py>, items: Vec<(Bound<'py, PyAny>, Bound<'py, PyAny>)>) -> PyResult<Bound<'py, PyAny>> {
    let dict = PyDict::new(py);
    for (key, value) in items {
        dict.set_item(key, value)?;
    }
    Ok(dict.into_any())
}

/// What pickle does with a state: `__setstate__`, or else the items into `__dict__`, whatever these
/// are.
fn set_state<'py>(new: &Bound<'py, PyAny>, state: &Bound<'py, PyAny>) -> PyResult<()> {
    let py = new.py();
    match new.getattr(intern!(py, "__setstate__")) {
        Ok(set_state) => return super::super::pickler::call(&set_state, state).map(drop),
        Err(error) if error.is_instance_of::<PyAttributeError>(py) => (),
        Err(error) => return Err(error),
    }
    let items = items_of(state).ok_or_else(|| PyTypeError::new_err("state is not a dictionary"))?;
    let dict = new.getattr(intern!(py, "__dict__"))?;
    for (key, value) in items {
        dict.set_item(intern_text(key), value)?;
    }
    Ok(())
}
