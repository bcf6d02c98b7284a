//! `Guarded`: what the `Synchronized` classes have in common, a shared object and the lock that guards it.
//!
//! Native access needs two things: a lock that is exactly one of ours, and an object of a simple type that lies in a block of
//! ours (another ctypes object can be moved by `ctypes.resize`). Whatever lacks either, and whatever is not a plain conversion, is
//! left to Python methods of the subclass, which do it the stdlib's way, on the ctypes object and under the lock.
//! While a lock is held here no Python code runs.
#![allow(unsafe_code)]

use std::ffi::{CStr, c_void};
use std::ptr::{self, NonNull};
use std::sync::OnceLock;

use fastmp_core::sync::lock::LockState;
use fastmp_core::sys::liveness::{me, thread_id};
use pyo3::exceptions::{PyAttributeError, PyRuntimeError, PyValueError};
use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::{PyDict, PyTuple, PyType};
use pyo3::{PyTraverseError, PyTypeInfo, PyVisit};

use crate::capi::fast_methods::{self, FastLock};
use crate::errors::raise;
use crate::sharedctypes::memory::Block;
use crate::sharedctypes::scalar::Scalar;
use crate::synchronize::lock::{self, Lock, RLock};

/// A shared object and the lock that guards it.
#[pyclass(frozen, subclass, module = "fastmp._native")]
pub struct Guarded {
    parts: OnceLock<Parts>,
}

pub struct Parts {
    lock: Py<PyAny>,
    guard: Guard,
    /// Where the object is, if native access is possible.
    pub items: Option<Items>,
    class: Py<PyAny>,
    /// Made when first asked for, if it lies in a block of ours.
    object: PyOnceLock<Py<PyAny>>,
}

/// A scalar, or an array of scalars, in the memory of `block`.
pub struct Items {
    at: NonNull<u8>,
    pub scalar: Scalar,
    pub length: usize,
    pub is_array: bool,
    block: Py<Block>,
}

// SAFETY: shared memory, touched by atomics and copies alone, and an object that is kept.
unsafe impl Send for Items {}
// SAFETY: as above.
unsafe impl Sync for Items {}

enum Guard {
    /// A `Lock`, whose state is at this address for as long as the lock lives.
    Plain(NonNull<LockState>),
    /// An `RLock`.
    Recursive(NonNull<LockState>),
    /// Any other object.
    Foreign,
}

// SAFETY: atomics in shared memory, kept by `Parts::lock`.
unsafe impl Send for Guard {}
// SAFETY: as above.
unsafe impl Sync for Guard {}

impl Guard {
    fn of(lock: &Bound<'_, PyAny>) -> PyResult<Guard> {
        static PLAIN: PyOnceLock<Py<PyType>> = PyOnceLock::new();
        static RECURSIVE: PyOnceLock<Py<PyType>> = PyOnceLock::new();
        let (py, class) = (lock.py(), lock.get_type());
        // Exactly ours: a subclass may do other things in its `acquire`.
        if class.is(RECURSIVE.import(py, "fastmp.synchronize", "RLock")?) {
            return Ok(Guard::Recursive(NonNull::from(lock.cast::<RLock>()?.get().state())));
        }
        if class.is(PLAIN.import(py, "fastmp.synchronize", "Lock")?) {
            return Ok(Guard::Plain(NonNull::from(lock.cast::<Lock>()?.get().state())));
        }
        Ok(Guard::Foreign)
    }
}

impl Items {
    /// Where item `i` is.
    ///
    /// # Safety
    /// `i` is below `length`.
    #[inline(always)]
    pub unsafe fn at(&self, i: usize) -> *mut u8 {
        // SAFETY: `new` has checked that `length` items are in the block.
        unsafe { self.at.as_ptr().add(i * self.scalar.size()) }
    }
}

impl Parts {
    /// Run `f`, which runs no Python code, with the lock held. None: it is no lock of ours, and `f` has not run.
    ///
    /// # Errors
    /// What a signal handler raised during the wait, or the warning that the last owner died, if it is an error.
    #[inline(always)]
    pub fn locked<T>(&self, f: impl FnOnce() -> T) -> PyResult<Option<T>> {
        let (Guard::Plain(state) | Guard::Recursive(state)) = &self.guard else { return Ok(None) };
        // SAFETY: `self.lock` keeps it.
        let state = unsafe { state.as_ref() };
        let (mut owner, mut thread) = (me(), thread_id());
        // Nothing else of this thread can run before it is given back: not even a count is needed.
        if matches!(self.guard, Guard::Recursive(_)) && state.is_mine(owner, thread) {
            return Ok(Some(f()));
        }
        if !state.try_lock_once(owner, thread) {
            self.wait_for(state)?;
            // A signal handler may have forked meanwhile: what was waited for is held as who this is now.
            (owner, thread) = (me(), thread_id());
        }
        let result = f();
        state.unlock_if_mine(owner, thread);
        Ok(Some(result))
    }

    #[cold]
    fn wait_for(&self, state: &LockState) -> PyResult<()> {
        let name = if matches!(self.guard, Guard::Plain(_)) { "Lock" } else { "RLock" };
        Python::attach(|py| {
            // Whoever is warned must not find the lock held by an access of its own: first the warning, then the lock.
            while let Some(dead) = lock::wait_for(py, state)? {
                state.unlock_if_mine(me(), thread_id());
                lock::warn(py, name, dead)?;
            }
            Ok(())
        })
    }

    /// The items, if they can be got at natively.
    #[inline(always)]
    pub fn native(&self) -> Option<&Items> {
        match self.guard {
            Guard::Foreign => None,
            _ => self.items.as_ref(),
        }
    }
}

impl Guarded {
    /// None before `__init__`.
    #[inline(always)]
    pub fn parts(&self) -> Option<&Parts> {
        self.parts.get()
    }

    fn known(&self) -> PyResult<&Parts> {
        self.parts().ok_or_else(|| PyAttributeError::new_err("__init__ has not been called"))
    }

    fn set(&self, parts: Parts) -> PyResult<()> {
        self.parts.set(parts).map_err(|_| PyRuntimeError::new_err("__init__ has been called already"))
    }
}

/// The native part of `slf`.
///
/// # Safety
/// `slf` is an instance of `Guarded`, and the caller is attached to the interpreter, which keeps `slf` alive.
#[inline(always)]
pub unsafe fn this<'a>(slf: *mut ffi::PyObject) -> &'a Guarded {
    // SAFETY: the caller's.
    unsafe {
        let this: Borrowed<'a, 'a, Guarded> = Borrowed::from_ptr(Python::assume_attached(), slf).cast_unchecked();
        &*ptr::from_ref(this.get())
    }
}

/// Raise it, from a C function. Out of the way of the fast paths.
#[cold]
pub fn restore(error: PyErr) {
    Python::attach(|py| error.restore(py));
}

/// The stdlib's way: the Python method `name` of `slf`.
///
/// # Safety
/// Attached; `slf` and the arguments are objects.
#[cold]
pub unsafe fn slowly<const N: usize>(
    slf: *mut ffi::PyObject,
    name: &CStr,
    args: [*mut ffi::PyObject; N],
) -> *mut ffi::PyObject {
    // SAFETY: the caller's, and N arguments without names.
    unsafe { fast_methods::call_python(slf, name, args.as_ptr(), N as ffi::Py_ssize_t, ptr::null_mut()) }
}

fn items(block: &Bound<'_, Block>, letter: char, array: Option<usize>) -> PyResult<Items> {
    let length = array.unwrap_or(1);
    let scalar = Scalar::of(letter).ok_or_else(|| PyValueError::new_err("not a simple type"))?;
    let memory = block.get().memory();
    let (at, size) = (memory.address().map_err(raise)?, memory.len());
    let fits = length.checked_mul(scalar.size()).is_some_and(|bytes| bytes <= size);
    if !fits || !at.addr().get().is_multiple_of(scalar.size()) {
        return Err(PyValueError::new_err("the block is too small for that"));
    }
    Ok(Items { at, scalar, length, is_array: array.is_some(), block: block.clone().unbind() })
}

/// An instance of `cls`, a subclass of `Guarded`, for which `__init__` is not called.
fn bare_instance<'py>(cls: &Bound<'py, PyType>) -> PyResult<Bound<'py, PyAny>> {
    let py = cls.py();
    let none = PyTuple::empty(py);
    // SAFETY: a class that can be called has the slot, which takes a class derived from its own, a tuple, and a dict or null.
    unsafe {
        let slot = ffi::PyType_GetSlot(Guarded::type_object_raw(py), ffi::Py_tp_new);
        let new = std::mem::transmute::<*mut c_void, ffi::newfunc>(slot);
        Bound::from_owned_ptr_or_err(py, new(cls.as_type_ptr(), none.as_ptr(), ptr::null_mut()))
    }
}

#[pymethods]
impl Guarded {
    #[new]
    #[pyo3(signature = (*_args, **_kwargs))]
    fn new(_args: &Bound<'_, PyTuple>, _kwargs: Option<&Bound<'_, PyDict>>) -> Self {
        Guarded { parts: OnceLock::new() }
    }

    /// Guard `obj` by `lock`; if it lies at the start of `block`, it is of the simple type `letter`, or
    /// an array of `length` such items.
    #[pyo3(signature = (obj, lock, block = None, letter = None, length = None))]
    fn _guard(
        &self,
        obj: Bound<'_, PyAny>,
        lock: Bound<'_, PyAny>,
        block: Option<&Bound<'_, Block>>,
        letter: Option<char>,
        length: Option<usize>,
    ) -> PyResult<()> {
        let items = match (block, letter) {
            (Some(block), Some(letter)) => Some(items(block, letter, length)?),
            _ => None,
        };
        let (py, guard, class) = (obj.py(), Guard::of(&lock)?, obj.get_type().into_any().unbind());
        let object = PyOnceLock::new();
        let _ = object.set(py, obj.unbind());
        self.set(Parts { lock: lock.unbind(), guard, items, class, object })
    }

    /// An instance that guards a value in `block` of the simple type `class`, whose object is made when it is asked for.
    #[classmethod]
    fn _make<'py>(
        cls: &Bound<'py, PyType>,
        class: Bound<'py, PyAny>,
        letter: char,
        block: &Bound<'py, Block>,
        lock: Bound<'py, PyAny>,
    ) -> PyResult<Bound<'py, PyAny>> {
        let new = bare_instance(cls)?;
        let items = Some(items(block, letter, None)?);
        let (guard, class) = (Guard::of(&lock)?, class.unbind());
        new.cast::<Guarded>()?.get().set(Parts {
            lock: lock.unbind(),
            guard,
            items,
            class,
            object: PyOnceLock::new(),
        })?;
        Ok(new)
    }

    /// Write without the lock, before anybody shares it, if the conversion is a plain one; was it?
    fn _store(&self, value: &Bound<'_, PyAny>) -> PyResult<bool> {
        let Some(items) = self.known()?.items.as_ref().filter(|items| !items.is_array) else { return Ok(false) };
        // SAFETY: attached; item 0 of one item.
        unsafe {
            let bits = items.scalar.bits(value.as_ptr());
            Ok(bits.map(|bits| items.scalar.store(items.at(0), bits)).is_some())
        }
    }

    #[getter]
    fn _obj(slf: &Bound<'_, Self>) -> PyResult<Py<PyAny>> {
        let (py, parts) = (slf.py(), slf.get().known()?);
        if let Some(object) = parts.object.get(py) {
            return Ok(object.clone_ref(py));
        }
        let block = parts.items.as_ref().map(|items| &items.block);
        let new = slf.call_method1("_rebuild", (&parts.class, block))?.unbind();
        Ok(parts.object.get_or_init(py, || new).clone_ref(py))
    }

    /// The object itself, unguarded.
    fn get_obj(slf: &Bound<'_, Self>) -> PyResult<Py<PyAny>> {
        Self::_obj(slf)
    }

    #[getter]
    fn _lock(&self, py: Python<'_>) -> PyResult<Py<PyAny>> {
        Ok(self.known()?.lock.clone_ref(py))
    }

    #[pyo3(signature = (*args, **kwargs))]
    fn _acquire<'py>(
        &self,
        args: &Bound<'py, PyTuple>,
        kwargs: Option<&Bound<'py, PyDict>>,
    ) -> PyResult<Bound<'py, PyAny>> {
        self.known()?.lock.bind(args.py()).call_method("acquire", args, kwargs)
    }

    fn _release(&self, py: Python<'_>) -> PyResult<Py<PyAny>> {
        self.known()?.lock.call_method0(py, "release")
    }

    // Every cycle goes through some other object, which can clear it.
    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        let Some(parts) = self.parts.get() else { return Ok(()) };
        visit.call(&parts.lock)?;
        visit.call(&parts.class)?;
        // SAFETY: a collection runs attached; nothing is called but the visitor.
        let object = parts.object.get(unsafe { Python::assume_attached() });
        if let Some(items) = &parts.items {
            visit.call(&items.block)?;
        }
        object.map_or(Ok(()), |object| visit.call(object))
    }
}

impl FastLock for Guarded {
    #[inline(always)]
    fn try_acquire(&self) -> bool {
        match self.parts() {
            Some(Parts { guard: Guard::Plain(state), .. }) => {
                // SAFETY: `Parts::lock` keeps it.
                unsafe { state.as_ref() }.try_lock_once(me(), thread_id())
            }
            Some(Parts { guard: Guard::Recursive(state), .. }) => {
                // SAFETY: as above.
                let state = unsafe { state.as_ref() };
                let (me, thread) = (me(), thread_id());
                state.try_lock_once(me, thread) || matches!(state.try_reenter(me, thread), Ok(true))
            }
            _ => false,
        }
    }

    #[inline(always)]
    fn try_release(&self) -> bool {
        match self.parts() {
            // SAFETY: as in `take`.
            Some(Parts { guard: Guard::Plain(state), .. }) => unsafe { state.as_ref() }.unlock_any(thread_id()).is_ok(),
            Some(Parts { guard: Guard::Recursive(state), .. }) => {
                // SAFETY: as in `take`.
                unsafe { state.as_ref() }.unlock_once(me(), thread_id()).is_ok()
            }
            _ => false,
        }
    }
}

unsafe extern "C" fn get_lock(slf: *mut ffi::PyObject, _: *mut ffi::PyObject) -> *mut ffi::PyObject {
    // SAFETY: a method of `Guarded`, called attached.
    unsafe {
        match this(slf).parts() {
            Some(parts) => {
                let lock = parts.lock.as_ptr();
                ffi::Py_INCREF(lock);
                lock
            }
            None => ffi::PyObject_GetAttrString(slf, c"_lock".as_ptr()),
        }
    }
}

/// Is its lock none of ours, so that its own `__enter__` and `__exit__` count?
///
/// # Safety
/// As for `this`.
unsafe fn is_foreign(slf: *mut ffi::PyObject) -> bool {
    // SAFETY: the caller's.
    unsafe { this(slf) }.parts().is_none_or(|parts| matches!(parts.guard, Guard::Foreign))
}

unsafe extern "C" fn enter(slf: *mut ffi::PyObject, _: *mut ffi::PyObject) -> *mut ffi::PyObject {
    // SAFETY: as in `get_lock`.
    unsafe {
        match is_foreign(slf) {
            true => slowly(slf, c"_enter", []),
            false => fast_methods::enter::<Guarded>(slf, ptr::null_mut()),
        }
    }
}

unsafe extern "C" fn exit(
    slf: *mut ffi::PyObject,
    args: *mut *mut ffi::PyObject,
    nargs: ffi::Py_ssize_t,
) -> *mut ffi::PyObject {
    // SAFETY: as in `get_lock`, with nargs arguments.
    unsafe {
        match is_foreign(slf) {
            true => fast_methods::call_python(slf, c"_exit", args, nargs, ptr::null_mut()),
            false => fast_methods::release::<Guarded>(slf, ptr::null_mut()),
        }
    }
}

/// A subclass of `Guarded` with these slots and no other state, to be subclassed in its turn.
pub fn subclass<'py>(py: Python<'py>, name: &'static CStr, slots: &[ffi::PyType_Slot]) -> PyResult<Bound<'py, PyType>> {
    let mut slots: Vec<_> =
        slots.iter().copied().chain([ffi::PyType_Slot { slot: 0, pfunc: ptr::null_mut() }]).collect();
    let mut spec = ffi::PyType_Spec {
        name: name.as_ptr(),
        basicsize: 0,
        itemsize: 0,
        flags: (ffi::Py_TPFLAGS_DEFAULT | ffi::Py_TPFLAGS_BASETYPE) as _,
        slots: slots.as_mut_ptr(),
    };
    let base = py.get_type::<Guarded>();
    // SAFETY: a complete spec, which outlives the call; size, memory and collection are inherited.
    let class = unsafe {
        let new = ffi::PyType_FromSpecWithBases(&mut spec, base.as_ptr());
        Bound::from_owned_ptr_or_err(py, new)?
    };
    Ok(class.cast_into()?)
}

/// Give the class, `Guarded` or a subclass, its bare methods.
pub fn install(class: &Bound<'_, PyType>) -> PyResult<()> {
    fast_methods::install_in::<Guarded>(class)?;
    let no_arguments = |function| ffi::PyMethodDefPointer { PyCFunction: function };
    let exit = ffi::PyMethodDefPointer { PyCFunctionFast: exit };
    let get_lock_doc = c"get_lock($self)\n--\n\nReturns the lock.";
    for (name, pointer, flags, doc) in [
        (c"__enter__", no_arguments(enter), ffi::METH_NOARGS, c"Acquires the lock."),
        (c"__exit__", exit, ffi::METH_FASTCALL, c"Releases the lock."),
        (c"get_lock", no_arguments(get_lock), ffi::METH_NOARGS, get_lock_doc),
    ] {
        class.setattr(name.to_string_lossy(), fast_methods::method(class, name, pointer, flags, doc)?)?;
    }
    Ok(())
}
