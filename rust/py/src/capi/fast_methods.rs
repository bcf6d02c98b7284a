//! `acquire`, `release`, `__enter__` and `__exit__` of the locks.
//!
//! An uncontended lock takes two atomics, some 10 ns; a bound method of PyO3's adds as much again
//! in checks that these four do not need. So their common case, and `acquire(False)` of a lock that
//! is held, go straight from the interpreter to the core. Everything else - other arguments,
//! waiting, errors - is left to the methods `_acquire` and `_release` of the same class.

use std::ffi::CStr;
use std::marker::PhantomData;

use pyo3::prelude::*;
use pyo3::pyclass::boolean_struct::True;
use pyo3::types::{PyBool, PyInt, PyType};
use pyo3::{PyClass, PyTypeInfo, intern};

use crate::capi::bound_method;
use crate::capi::call::{Answer, Args, Convention, Method, call_python, method};

/// What a lock can do without waiting or failing.
pub trait FastLock: PyClass<Frozen = True> + Sync {
    /// What `acquire` says of itself, its signature first.
    const ACQUIRE: &'static CStr;
    /// The same of `release`.
    const RELEASE: &'static CStr;
    /// Take it if that is possible at once.
    fn try_acquire(&self) -> bool;
    /// Is it certain that a live process holds it, so that not to wait is not to get it?
    fn is_refused(&self) -> bool;
    /// Release it if it is this thread's to release; false if not.
    fn try_release(&self) -> bool;
}

/// May the caller wait, by its argument `block`? None: that takes more than a look.
#[inline(always)]
fn may_wait(args: Args<'_, '_>) -> Option<bool> {
    match (args.len(), args.names()) {
        (0, None) => Some(true),
        (1, None) => truth(args.get(0)?),
        // Names in a program are interned.
        (0, Some(names)) if names.len() == 1 => {
            let block = intern!(names.py(), "block");
            names.get_borrowed_item(0).is_ok_and(|name| name.is(block)).then(|| args.get(0).and_then(truth))?
        }
        _ => None,
    }
}

#[inline(always)]
fn truth(arg: Borrowed<'_, '_, PyAny>) -> Option<bool> {
    if arg.is(PyBool::new(arg.py(), false)) {
        return Some(false);
    }
    if arg.is(PyBool::new(arg.py(), true)) {
        return Some(true);
    }
    if arg.is_exact_instance_of::<PyInt>() { arg.is_truthy().ok() } else { None }
}

/// `acquire`, and `__enter__`.
pub struct Acquire<T>(PhantomData<T>);

impl<T: FastLock> Method for Acquire<T> {
    type Of = T;
    #[inline(always)]
    fn call<'py>(slf: Borrowed<'_, 'py, T>, args: Args<'_, 'py>) -> Answer<'py> {
        if let Some(waits) = may_wait(args) {
            let got = slf.get().try_acquire();
            if got || (!waits && slf.get().is_refused()) {
                return Ok(PyBool::new(slf.py(), got).to_owned().into_any());
            }
        }
        call_python(slf.as_any(), "_acquire", args)
    }
}

/// `release`, and `__exit__`, which looks at none of its arguments.
pub struct Release<T>(PhantomData<T>);

impl<T: FastLock> Method for Release<T> {
    type Of = T;
    #[inline(always)]
    fn call<'py>(slf: Borrowed<'_, 'py, T>, _args: Args<'_, 'py>) -> Answer<'py> {
        if slf.get().try_release() {
            return Ok(slf.py().None().into_bound(slf.py()));
        }
        call_python(slf.as_any(), "_release", Args::none(slf.py()))
    }
}

/// Give the class `T` these methods.
pub fn install<T: FastLock + PyTypeInfo>(py: Python<'_>) -> PyResult<()> {
    install_in::<T>(&py.get_type::<T>())
}

/// Give a subclass of `T` these methods, as its own: the interpreter specialises a call only where
/// an object is exactly of the class that the method's descriptor names.
pub fn install_in<T: FastLock + PyTypeInfo>(class: &Bound<'_, PyType>) -> PyResult<()> {
    class.setattr("acquire", method::<Acquire<T>>(class, c"acquire", Convention::Named, T::ACQUIRE)?)?;
    class.setattr("release", method::<Release<T>>(class, c"release", Convention::Plain, T::RELEASE)?)?;
    let enter = method::<Acquire<T>>(class, c"__enter__", Convention::Plain, c"Acquire it.")?;
    class.setattr("__enter__", bound_method::descriptor::<Acquire<T>>(class, enter, 0)?)?;
    let exit = method::<Release<T>>(class, c"__exit__", Convention::Fast, c"Release it.")?;
    class.setattr("__exit__", bound_method::descriptor::<Release<T>>(class, exit, 3)?)
}
