//! Which instances are written without pickle, and the names of their classes.
//!
//! Pickle asks an object for its `__reduce_ex__`, which may be Python code. While a value is
//! encoded none may run, and nobody's is to run twice when pickle is asked after all. So instances
//! are written here only where the answer is known beforehand:
//!
//! | class | pickle's answer | here |
//! |---|---|---|
//! | plain: in Python all through, and no method has a say | `copyreg.__newobj__(cls)`, `__dict__` | [`How::State`] |
//! | a named tuple | `copyreg.__newobj__(cls, *items)` | [`How::Items`] |
//! | one of a few of the stdlib's in C | `cls(*args)` | [`How::Call`] |
//!
//! What is looked at runs no code either: no attribute is asked for that could be another's, and no
//! audit hook hears of it.
//!
//! In all of them nobody has registered a reducer, and the class is found by its name where pickle
//! would look for it. That may change at any time, so it is looked at for each message anew.
#![allow(unsafe_code)]

use std::ptr;

use pyo3::ffi;
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::{PyList, PyString, PyTuple, PyType};

use super::super::reducers;
use crate::once::once;

/// Classes in C that reduce to a call with arguments of a few types, and run no Python code for it.
const CALLED: [(&str, &str); 6] = [
    ("decimal", "Decimal"),
    ("datetime", "datetime"),
    ("datetime", "date"),
    ("datetime", "time"),
    ("datetime", "timedelta"),
    ("datetime", "timezone"),
];

/// What makes an instance anew.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum How {
    /// `__new__` without arguments, and its `__dict__`.
    State,
    /// `__new__` with the items of a tuple.
    Items,
    /// A call, with the arguments that the instance itself gives.
    Call,
}

/// A class whose instances may be written.
pub struct Class {
    pub how: How,
    pub module: Py<PyString>,
    pub name: Py<PyString>,
}

/// What is known of a class; None: its instances are left to pickle.
pub fn look_at(class: &Bound<'_, PyAny>) -> Option<Class> {
    let py = class.py();
    if !has_plain_metaclass(class)? || is_registered(class) {
        return None;
    }
    let name = class.getattr(intern!(py, "__qualname__")).ok()?.cast_into_exact::<PyString>().ok()?;
    let module = intern!(py, "__module__");
    // An ABC's could be anything's attribute, but for the one in its own dict.
    let module = if is_of_type(class) { class.getattr(module).ok()? } else { own(class, module)? };
    let module = module.cast_into_exact::<PyString>().ok()?;
    let how = how(class, &module, &name)?;
    is_found(class, &module, &name).then(|| Class { how, module: module.unbind(), name: name.unbind() })
}

/// Another metaclass could answer by Python code.
fn has_plain_metaclass(class: &Bound<'_, PyAny>) -> Option<bool> {
    let own = class.get_type_ptr();
    Some(plain_metaclasses(class.py())?.iter().any(|metaclass| metaclass.as_ptr().cast() == own))
}

/// Its instances, or itself?
fn is_registered(class: &Bound<'_, PyAny>) -> bool {
    let among = |class: &Bound<'_, PyAny>| reducers::is_registered(class).unwrap_or(true);
    among(class) || (!is_of_type(class) && among(class.get_type().as_any()))
}

/// Is its metaclass `type` itself?
fn is_of_type(class: &Bound<'_, PyAny>) -> bool {
    class.get_type_ptr() == &raw mut ffi::PyType_Type
}

fn plain_metaclasses(py: Python<'_>) -> Option<&[Py<PyAny>; 2]> {
    static PLAIN: PyOnceLock<[Py<PyAny>; 2]> = PyOnceLock::new();
    once(py, &PLAIN, || {
        let plain = py.import("builtins")?.getattr("type")?;
        Ok([plain.unbind(), py.import("abc")?.getattr("ABCMeta")?.unbind()])
    })
    .ok()
}

/// The module of that name, if it is there: unlike by the interpreter's own look nobody is waited
/// for who is importing it.
pub fn loaded<'py>(name: &Bound<'py, PyString>) -> Option<Bound<'py, PyAny>> {
    // SAFETY: attached; both are borrowed, and null with an exception or without if there is none.
    unsafe {
        let modules = ffi::PyImport_GetModuleDict();
        if modules.is_null() || ffi::Py_TYPE(modules) != &raw mut ffi::PyDict_Type {
            return None;
        }
        let found = ffi::PyDict_GetItemWithError(modules, name.as_ptr());
        if found.is_null() {
            ffi::PyErr_Clear();
        }
        Bound::from_borrowed_ptr_or_opt(name.py(), found).filter(|found| !found.is_none())
    }
}

/// Is it where pickle would look for it?
fn is_found(class: &Bound<'_, PyAny>, module: &Bound<'_, PyString>, name: &Bound<'_, PyString>) -> bool {
    // A class in another, or in a function, is looked for in another way.
    if name.to_str().map_or(true, |name| name.contains('.')) {
        return false;
    }
    let Some(module) = loaded(module) else { return false };
    // SAFETY: attached; borrowed, or null, with an exception or without. A module of a class of its
    // own may run code to look a name up.
    unsafe {
        if ffi::Py_TYPE(module.as_ptr()) != &raw mut ffi::PyModule_Type {
            return false;
        }
        let at = ffi::PyDict_GetItemWithError(ffi::PyModule_GetDict(module.as_ptr()), name.as_ptr());
        if at.is_null() {
            ffi::PyErr_Clear();
        }
        at == class.as_ptr()
    }
}

fn how(class: &Bound<'_, PyAny>, module: &Bound<'_, PyString>, name: &Bound<'_, PyString>) -> Option<How> {
    let py = class.py();
    let native = |slot| native_slot(class, slot);
    if native(ffi::Py_tp_dealloc) != python_dealloc(py)? {
        let called = CALLED.iter().any(|&(of, called)| name == called && module == of);
        return called.then_some(How::Call);
    }
    // A class with attributes of its own making may have any method.
    if native(ffi::Py_tp_getattro) != ffi::PyObject_GenericGetAttr as *mut _ {
        return None;
    }
    let bases = class.getattr(intern!(py, "__mro__")).ok()?.cast_into_exact::<PyTuple>().ok()?;
    if is_named_tuple(class, &bases) {
        return Some(How::Items);
    }
    let plain = all_but_object(&bases).all(|base| {
        let is_pythons = native_slot(&base, ffi::Py_tp_dealloc) == native(ffi::Py_tp_dealloc);
        (is_pythons || is_generic(&base)) && lacks(&base, says(py)) == Some(true) && has_plain_dict(&base) == Some(true)
    });
    // What pickle notes down the first time that it asks for slots: there are none.
    let slots = own(class, intern!(py, "__slotnames__"))?;
    let no_slots = slots.cast_exact::<PyList>().is_ok_and(|slots| slots.is_empty());
    (plain && no_slots && is_bare(class)?).then_some(How::State)
}

/// What has a say in what becomes of an instance. All else about it is in its `__dict__`.
fn says(py: Python<'_>) -> [&Bound<'_, PyString>; 6] {
    [
        intern!(py, "__reduce_ex__"),
        intern!(py, "__reduce__"),
        intern!(py, "__getstate__"),
        intern!(py, "__getnewargs_ex__"),
        intern!(py, "__getnewargs__"),
        intern!(py, "__class__"),
    ]
}

/// Does it make an instance of its `__dict__` as pickle does without being told?
pub fn is_set_up_plainly(class: &Bound<'_, PyType>) -> bool {
    let py = class.py();
    let bases = class.getattr(intern!(py, "__mro__")).ok().and_then(|bases| bases.cast_into_exact::<PyTuple>().ok());
    let is_plain = |base: Bound<'_, PyAny>| {
        lacks(&base, [intern!(py, "__setstate__")]) == Some(true) && has_plain_dict(&base) == Some(true)
    };
    native_slot(class, ffi::Py_tp_getattro) == ffi::PyObject_GenericGetAttr as *mut _
        && bases.is_some_and(|bases| all_but_object(&bases).all(is_plain))
}

fn all_but_object<'a, 'py>(bases: &'a Bound<'py, PyTuple>) -> impl Iterator<Item = Bound<'py, PyAny>> + 'a {
    bases.iter().take(bases.len().saturating_sub(1))
}

/// A class's own dict, by way of a proxy. None: its metaclass may have a say in that.
fn attributes<'py>(class: &Bound<'py, PyAny>) -> Option<Bound<'py, PyAny>> {
    if !has_plain_metaclass(class)? {
        return None;
    }
    class.getattr(intern!(class.py(), "__dict__")).ok()
}

/// An attribute in the class's own dict.
fn own<'py>(class: &Bound<'py, PyAny>, name: &Bound<'py, PyString>) -> Option<Bound<'py, PyAny>> {
    let attributes = attributes(class)?;
    if attributes.contains(name).ok()? { attributes.get_item(name).ok() } else { None }
}

/// Has the class itself none of these? None: it is no plain class.
fn lacks<const N: usize>(class: &Bound<'_, PyAny>, names: [&Bound<'_, PyString>; N]) -> Option<bool> {
    let own = attributes(class)?;
    Some(!names.iter().any(|name| own.contains(name).unwrap_or(true)))
}

/// Is an instance's `__dict__` what the interpreter has made, as far as this class says?
fn has_plain_dict(class: &Bound<'_, PyAny>) -> Option<bool> {
    let py = class.py();
    let attributes = attributes(class)?;
    let name = intern!(py, "__dict__");
    if !attributes.contains(name).ok()? {
        return Some(true);
    }
    static DESCRIPTOR: PyOnceLock<Py<PyAny>> = PyOnceLock::new();
    // That of a class in Python is of the type that all of them have.
    let known = once(py, &DESCRIPTOR, || {
        let sample = py.import("functools")?.getattr("partialmethod")?.getattr("__dict__")?.get_item("__dict__")?;
        Ok(sample.get_type().into_any().unbind())
    });
    Some(attributes.get_item(name).ok()?.get_type().is(known.ok()?))
}

/// The class's slot, whoever it inherits it from.
fn native_slot(class: &Bound<'_, PyAny>, slot: std::ffi::c_int) -> *mut std::ffi::c_void {
    // SAFETY: attached, and a type: its metaclass is `type`, or derived from it; or it is a base.
    unsafe { ffi::PyType_GetSlot(class.as_ptr().cast(), slot) }
}

/// `typing.Generic`, where that is a class in C; its instances are but objects.
fn is_generic(class: &Bound<'_, PyAny>) -> bool {
    static GENERIC: PyOnceLock<Option<Py<PyAny>>> = PyOnceLock::new();
    let py = class.py();
    let generic = || Some(py.import("_typing").ok()?.getattr("Generic").ok()?.unbind());
    once(py, &GENERIC, || Ok(generic())).ok().and_then(Option::as_ref).is_some_and(|generic| class.is(generic))
}

/// Has an instance nothing but its `__dict__`? There may be more to one of a class in C, and pickle
/// refuses that: as it counts, there is an object, and a pointer each to the dict and to the list
/// of weak references, where the interpreter does not keep these elsewhere.
fn is_bare(class: &Bound<'_, PyAny>) -> Option<bool> {
    let py = class.py();
    let number = |name: &Bound<'_, PyString>| class.getattr(name).ok()?.extract::<isize>().ok();
    let pointer = size_of::<usize>() as isize;
    let rest = number(intern!(py, "__basicsize__"))? - size_of::<ffi::PyObject>() as isize;
    if rest <= 0 {
        return Some(true);
    }
    let has = |offset: isize| if offset > 0 { pointer } else { 0 };
    Some(rest <= has(number(intern!(py, "__dictoffset__"))?) + has(number(intern!(py, "__weakrefoffset__"))?))
}

/// How instances of all classes in Python end: those of classes in C have ways of their own.
fn python_dealloc(py: Python<'_>) -> Option<*mut std::ffi::c_void> {
    static PYTHONS: PyOnceLock<Py<PyAny>> = PyOnceLock::new();
    let class = once(py, &PYTHONS, || Ok(py.import("abc")?.getattr("ABC")?.unbind())).ok()?;
    Some(native_slot(class.bind(py), ffi::Py_tp_dealloc))
}

/// Made by `collections.namedtuple`, and nothing added that has a say?
fn is_named_tuple(class: &Bound<'_, PyAny>, bases: &Bound<'_, PyTuple>) -> bool {
    let py = class.py();
    let is_tuple = |base: Bound<'_, PyAny>| base.as_ptr() == (&raw mut ffi::PyTuple_Type).cast();
    let has_no_dict = || class.getattr(intern!(py, "__dictoffset__")).ok()?.extract::<isize>().ok();
    bases.len() == 3 && bases.get_item(1).is_ok_and(is_tuple) && has_no_dict() == Some(0) && {
        let [reduce_ex, reduce, getstate, newargs_ex, newargs, its_class] = says(py);
        // Its arguments are `tuple(self)`.
        let items = [intern!(py, "__iter__"), intern!(py, "__len__"), intern!(py, "__length_hint__")];
        lacks(class, [reduce_ex, reduce, getstate, newargs_ex, its_class]) == Some(true)
            && lacks(class, items) == Some(true)
            && made_by_named_tuple(class, newargs) == Some(true)
    }
}

/// Is its `__getnewargs__` every named tuple's? They have their globals and the name in common. (To
/// ask for its code is told to audit hooks.)
fn made_by_named_tuple(class: &Bound<'_, PyAny>, newargs: &Bound<'_, PyString>) -> Option<bool> {
    let (own, known) = (own(class, newargs)?, named_tuple_function(class.py())?);
    let py = class.py();
    fn of<'py>(function: &Bound<'py, PyAny>, name: &Bound<'py, PyString>) -> Option<Bound<'py, PyAny>> {
        function.getattr(name).ok()
    }
    let (globals, name) = (intern!(py, "__globals__"), intern!(py, "__name__"));
    Some(
        own.get_type_ptr() == known.get_type_ptr()
            && of(&own, globals)?.is(&of(known, globals)?)
            && of(&own, name)?.cast_exact::<PyString>().ok()?.to_str().ok()? == "__getnewargs__",
    )
}

/// That of one that the stdlib itself has.
fn named_tuple_function(py: Python<'_>) -> Option<&Bound<'_, PyAny>> {
    static FUNCTION: PyOnceLock<Option<Py<PyAny>>> = PyOnceLock::new();
    let known = || own(&py.import("functools").ok()?.getattr("_CacheInfo").ok()?, intern!(py, "__getnewargs__"));
    once(py, &FUNCTION, || Ok(known().map(Bound::unbind)))
        .ok()
        .and_then(Option::as_ref)
        .map(|function| function.bind(py))
}

/// What an instance of one of the classes in C is called with.
pub fn arguments<'py>(obj: &Bound<'py, PyAny>) -> Option<Bound<'py, PyTuple>> {
    let py = obj.py();
    // Its `__reduce__` asks `copyreg`, which is Python code.
    if obj.get_type().qualname().ok()? == "timezone" {
        return obj.call_method0(intern!(py, "__getinitargs__")).ok()?.cast_into_exact().ok();
    }
    let reduced = obj.call_method1(intern!(py, "__reduce_ex__"), (5,)).ok()?.cast_into_exact::<PyTuple>().ok()?;
    let function = reduced.get_item(0).ok()?;
    let is_call = reduced.len() == 2 && function.as_ptr() == obj.get_type_ptr().cast();
    if is_call { reduced.get_item(1).ok()?.cast_into_exact().ok() } else { None }
}

/// Find out beforehand what takes Python code.
pub fn prepare(py: Python<'_>) {
    let _ = (plain_metaclasses(py), python_dealloc(py), named_tuple_function(py), reducers::Reducers::get(py));
    if let Ok(class) = py.import("functools").and_then(|functools| functools.getattr("partialmethod")) {
        let _ = (is_generic(&class), has_plain_dict(&class));
    }
}

/// Are all keys of an instance's `__dict__` strings, and none such that it hides a method that
/// pickle asks for?
///
/// # Safety
/// Attached; it is a dict.
pub unsafe fn has_plain_keys(dict: *mut ffi::PyObject) -> bool {
    let (mut position, mut key, mut len) = (0, ptr::null_mut(), 0);
    // SAFETY: the caller's. A string's bytes belong to it.
    unsafe {
        while ffi::PyDict_Next(dict, &mut position, &mut key, ptr::null_mut()) != 0 {
            if ffi::Py_TYPE(key) != &raw mut ffi::PyUnicode_Type {
                return false;
            }
            let at = ffi::PyUnicode_AsUTF8AndSize(key, &mut len);
            if at.is_null() {
                ffi::PyErr_Clear();
                return false;
            }
            if std::slice::from_raw_parts(at.cast::<u8>(), len as usize).starts_with(b"__") {
                return false;
            }
        }
    }
    true
}
