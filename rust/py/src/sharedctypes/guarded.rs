//! `Guarded`: what the `Synchronized` classes have in common, a shared object and the lock that
//! guards it.
//!
//! Native access needs two things: a lock that is exactly one of ours, and an object of a simple
//! type that lies in a block of ours. (`ctypes.resize` may move any other.) Whatever lacks either
//! is left to Python methods of the subclass, and so is every conversion that is not a plain one.
//! They do it the stdlib's way, on the ctypes object and under the lock. While a lock is held here
//! no Python code runs.

use std::ffi::CStr;
use std::sync::OnceLock;

use fastmp_core as fcore;
use fastmp_core::cells::Cells;
use fastmp_core::objects::Shared;
use fastmp_core::sync::lock::LockState;
use fastmp_core::sys::liveness::{me, thread_id};
use pyo3::exceptions::{PyAttributeError, PyRuntimeError, PyValueError};
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::{PyDict, PyTuple, PyType};
use pyo3::{PyTraverseError, PyVisit};

use crate::capi::call::{Answer, Args, Convention, Method, Raised, bare_instance, call_python, method};
use crate::capi::fast_methods::{self, Acquire, FastLock, Release};
use crate::errors::raise;
use crate::once::imported;
use crate::sharedctypes::memory::Block;
use crate::sharedctypes::scalar::Scalar;
use crate::synchronize::lock::{self, Lock, RLock};

/// A ctypes object and the lock that guards it.
///
/// Subclasses have `_rebuild(type, block)`, which makes the object.
#[pyclass(frozen, subclass, module = "fastmp._native")]
pub struct Guarded {
    parts: OnceLock<Parts>,
}

pub struct Parts {
    guard: Guard,
    /// Where the object is, if native access is possible.
    pub items: Option<Items>,
    class: Py<PyAny>,
    /// Made when first asked for, if it lies in a block of ours.
    object: OnceLock<Py<PyAny>>,
}

/// A scalar, or an array of scalars, in a block.
pub struct Items {
    pub cells: Cells<Py<Block>>,
    pub scalar: Scalar,
    pub is_array: bool,
}

enum Guard {
    /// A `Lock`.
    Plain(Shared<LockState, Py<PyAny>>),
    /// An `RLock`.
    Recursive(Shared<LockState, Py<PyAny>>),
    /// Any other object.
    Foreign(Py<PyAny>),
}

impl Guard {
    fn of(lock: &Bound<'_, PyAny>) -> PyResult<Guard> {
        static PLAIN: PyOnceLock<Py<PyType>> = PyOnceLock::new();
        static RECURSIVE: PyOnceLock<Py<PyType>> = PyOnceLock::new();
        let (py, class) = (lock.py(), lock.get_type());
        // Exactly ours: a subclass may do other things in its `acquire`.
        if class.is(imported(py, &RECURSIVE, "fastmp.synchronize", "RLock")?) {
            return Ok(Guard::Recursive(RLock::share(lock.cast()?)));
        }
        if class.is(imported(py, &PLAIN, "fastmp.synchronize", "Lock")?) {
            return Ok(Guard::Plain(Lock::share(lock.cast()?)));
        }
        Ok(Guard::Foreign(lock.clone().unbind()))
    }

    /// The lock itself.
    fn object(&self) -> &Py<PyAny> {
        match self {
            Guard::Plain(state) | Guard::Recursive(state) => state.backing(),
            Guard::Foreign(lock) => lock,
        }
    }

    fn is_foreign(&self) -> bool {
        matches!(self, Guard::Foreign(_))
    }
}

impl Parts {
    fn new(lock: &Bound<'_, PyAny>, items: Option<Items>, class: Py<PyAny>) -> PyResult<Parts> {
        Ok(Parts { guard: Guard::of(lock)?, items, class, object: OnceLock::new() })
    }

    /// Run `f`, which runs no Python code, with the lock held. None: it is no lock of ours, and `f`
    /// has not run.
    ///
    /// # Errors
    /// What a signal handler raised during the wait, or the warning that the last owner died, if it
    /// is an error.
    #[inline(always)]
    pub fn locked<T>(&self, f: impl FnOnce() -> T) -> PyResult<Option<T>> {
        let (Guard::Plain(state) | Guard::Recursive(state)) = &self.guard else { return Ok(None) };
        let state: &LockState = state;
        let (mut owner, mut thread) = (me(), thread_id());
        let recursive = matches!(self.guard, Guard::Recursive(_));
        // Nothing else of this thread can run before it is given back: not even a count is needed.
        if recursive && state.is_mine(owner, thread) {
            return Ok(Some(f()));
        }
        if !state.try_lock_once(owner, thread) {
            self.wait_for(state)?;
            // A signal handler may have forked meanwhile: what was waited for is held as who this
            // is now.
            (owner, thread) = (me(), thread_id());
        }
        let result = f();
        if recursive {
            state.unlock_held()
        } else {
            state.unlock_if_mine(owner, thread)
        }
        Ok(Some(result))
    }

    #[cold]
    #[inline(never)]
    fn wait_for(&self, state: &LockState) -> PyResult<()> {
        let name = if matches!(self.guard, Guard::Plain(_)) { "Lock" } else { "RLock" };
        Python::attach(|py| {
            // Whoever is warned must not find the lock held by an access of its own: first the
            // warning, then the lock.
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
            Guard::Foreign(_) => None,
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

fn items(block: &Bound<'_, Block>, letter: char, array: Option<usize>) -> PyResult<Items> {
    let scalar = Scalar::of(letter).ok_or_else(|| PyValueError::new_err("not a simple type"))?;
    let cells = block.get().memory().cells(block.clone().unbind(), scalar.size(), array.unwrap_or(1));
    let cells = cells.map_err(|_| PyValueError::new_err("the block is too small for that"))?;
    Ok(Items { cells, scalar, is_array: array.is_some() })
}

#[pymethods]
impl Guarded {
    #[new]
    #[pyo3(signature = (*_args, **_kwargs))]
    fn new(_args: &Bound<'_, PyTuple>, _kwargs: Option<&Bound<'_, PyDict>>) -> Self {
        Guarded { parts: OnceLock::new() }
    }

    /// Sets what is guarded, once.
    ///
    /// An object that lies at the start of `block`, of the simple type that ctypes knows by
    /// `letter`, or an array of `length` such, is got at natively.
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
        let parts = Parts::new(&lock, items, obj.get_type().into_any().unbind())?;
        let _ = parts.object.set(obj.unbind());
        self.set(parts)
    }

    /// Guards a simple object in `block`, which is made when it is asked for.
    ///
    /// Does without `__init__`.
    #[classmethod]
    fn _make<'py>(
        cls: &Bound<'py, PyType>,
        class: Bound<'py, PyAny>,
        letter: char,
        block: &Bound<'py, Block>,
        lock: Bound<'py, PyAny>,
    ) -> PyResult<Bound<'py, PyAny>> {
        let new = bare_instance::<Guarded>(cls, None)?;
        let parts = Parts::new(&lock, Some(items(block, letter, None)?), class.unbind())?;
        new.cast::<Guarded>()?.get().set(parts)?;
        Ok(new)
    }

    /// Writes a simple object without the lock, if the conversion is a plain one.
    ///
    /// Returns whether it was.
    fn _store(&self, value: &Bound<'_, PyAny>) -> PyResult<bool> {
        let Some(items) = self.known()?.items.as_ref().filter(|items| !items.is_array) else { return Ok(false) };
        let bits = items.scalar.bits(value.as_borrowed());
        Ok(bits.is_some_and(|bits| items.cells.store(0, bits).is_some()))
    }

    #[getter]
    fn _obj(slf: &Bound<'_, Self>) -> PyResult<Py<PyAny>> {
        let (py, parts) = (slf.py(), slf.get().known()?);
        if let Some(object) = parts.object.get() {
            return Ok(object.clone_ref(py));
        }
        let block = parts.items.as_ref().map(|items| items.cells.backing());
        let new = slf.call_method1("_rebuild", (&parts.class, block))?.unbind();
        Ok(parts.object.get_or_init(|| new).clone_ref(py))
    }

    /// Returns the object itself, unguarded.
    fn get_obj(slf: &Bound<'_, Self>) -> PyResult<Py<PyAny>> {
        Self::_obj(slf)
    }

    #[getter]
    fn _lock(&self, py: Python<'_>) -> PyResult<Py<PyAny>> {
        Ok(self.known()?.guard.object().clone_ref(py))
    }

    #[pyo3(signature = (*args, **kwargs))]
    fn _acquire<'py>(
        &self,
        args: &Bound<'py, PyTuple>,
        kwargs: Option<&Bound<'py, PyDict>>,
    ) -> PyResult<Bound<'py, PyAny>> {
        self.known()?.guard.object().bind(args.py()).call_method("acquire", args, kwargs)
    }

    fn _release(&self, py: Python<'_>) -> PyResult<Py<PyAny>> {
        self.known()?.guard.object().call_method0(py, "release")
    }

    // Every cycle goes through some other object, which can clear it.
    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        let Some(parts) = self.parts.get() else { return Ok(()) };
        visit.call(parts.guard.object())?;
        visit.call(&parts.class)?;
        let object = parts.object.get();
        if let Some(items) = &parts.items {
            visit.call(items.cells.backing())?;
        }
        object.map_or(Ok(()), |object| visit.call(object))
    }
}

impl FastLock for Guarded {
    const ACQUIRE: &'static CStr =
        c"acquire($self, block=True, timeout=None)\n--\n\nTakes the lock, as its own `acquire` does.";
    const RELEASE: &'static CStr = c"release($self)\n--\n\nGives the lock back, as its own `release` does.";

    #[inline(always)]
    fn try_acquire(&self) -> bool {
        match self.parts().map(|parts| &parts.guard) {
            Some(Guard::Plain(state)) => Lock::take(state),
            Some(Guard::Recursive(state)) => RLock::take(state),
            _ => false,
        }
    }

    #[inline(always)]
    fn is_refused(&self) -> bool {
        match self.parts().map(|parts| &parts.guard) {
            Some(Guard::Plain(state)) => Lock::refuses(state),
            Some(Guard::Recursive(state)) => RLock::refuses(state),
            _ => false,
        }
    }

    #[inline(always)]
    fn try_release(&self) -> bool {
        match self.parts().map(|parts| &parts.guard) {
            Some(Guard::Plain(state)) => Lock::give(state),
            Some(Guard::Recursive(state)) => RLock::give(state),
            _ => false,
        }
    }
}

/// `get_lock`.
struct GetLock;

impl Method for GetLock {
    type Of = Guarded;
    fn call<'py>(slf: Borrowed<'_, 'py, Guarded>, _args: Args<'_, 'py>) -> Answer<'py> {
        let lock = slf.get().known()?.guard.object();
        Ok(lock.bind(slf.py()).clone())
    }
}

/// Is its lock none of ours, so that its own `__enter__` and `__exit__` count?
fn is_foreign(slf: Borrowed<'_, '_, Guarded>) -> bool {
    slf.get().parts().is_none_or(|parts| parts.guard.is_foreign())
}

/// `__enter__`.
struct Enter;

impl Method for Enter {
    type Of = Guarded;
    fn call<'py>(slf: Borrowed<'_, 'py, Guarded>, args: Args<'_, 'py>) -> Answer<'py> {
        if is_foreign(slf) { call_python(slf.as_any(), "_enter", args) } else { Acquire::call(slf, args) }
    }
}

/// `__exit__`.
struct Exit;

impl Method for Exit {
    type Of = Guarded;
    fn call<'py>(slf: Borrowed<'_, 'py, Guarded>, args: Args<'_, 'py>) -> Answer<'py> {
        if is_foreign(slf) { call_python(slf.as_any(), "_exit", args) } else { Release::call(slf, args) }
    }
}

/// The stdlib's way: the Python method `name` of `slf`.
#[cold]
#[inline(never)]
pub fn slowly<'py>(slf: Borrowed<'_, 'py, Guarded>, name: &str, args: &[Borrowed<'_, 'py, PyAny>]) -> Answer<'py> {
    Ok(slf.as_any().call_method1(name, PyTuple::new(slf.py(), args)?)?)
}

/// What an index that was checked, or a length that was, says no to: never.
#[cold]
#[inline(never)]
pub fn outside() -> Raised {
    raise(fcore::Error::Corrupted("an item outside its array")).into()
}

/// Give the class, `Guarded` or a subclass, its bare methods.
pub fn install(class: &Bound<'_, PyType>) -> PyResult<()> {
    fast_methods::install_in::<Guarded>(class)?;
    let get_lock_doc = c"get_lock($self)\n--\n\nReturns the lock.";
    class.setattr("__enter__", method::<Enter>(class, c"__enter__", Convention::Plain, c"Acquires the lock.")?)?;
    class.setattr("__exit__", method::<Exit>(class, c"__exit__", Convention::Fast, c"Releases the lock.")?)?;
    class.setattr("get_lock", method::<GetLock>(class, c"get_lock", Convention::Plain, get_lock_doc)?)
}
