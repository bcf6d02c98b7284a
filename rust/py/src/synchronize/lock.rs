//! `Lock` and `RLock`.

use std::ffi::{CStr, CString};

use fastmp_core as fcore;
use fastmp_core::sync::lock::LockState;
use fastmp_core::sync::mutex::Acquired;
use fastmp_core::sys::liveness::{Owner, me, thread_id};
use fastmp_core::{Deadline, Error, Result};
use pyo3::prelude::*;
use pyo3::types::{PyTuple, PyType};

use crate::blocking::truth;
use crate::capi::construct::SetUp;
use crate::capi::fast_methods::FastLock;
use crate::errors::{OwnerDiedWarning, raise};
use crate::handles::{Descriptor, Given, Lent};
use crate::{blocking, handles};

/// The slow path of both: whatever the fast path could not do at once.
#[cold]
pub fn acquire(py: Python<'_>, state: &LockState, name: &str, block: bool, timeout: Option<f64>) -> PyResult<bool> {
    let got: Result<Acquired> = if block {
        let deadline = blocking::deadline(timeout);
        // Who it is for is asked each time: a signal handler may have forked.
        blocking::wait(py, || state.lock(me(), thread_id(), deadline))?
    } else {
        state.try_lock_or_recover(me(), thread_id()).ok_or(Error::TimedOut)
    };
    match got {
        Ok(Acquired::Clean) => Ok(true),
        Ok(Acquired::Recovered(dead)) => {
            // A warning made an error: the caller must not end up with the lock.
            warn(py, name, dead).inspect_err(|_| state.unlock_if_mine(me(), thread_id()))?;
            Ok(true)
        }
        Err(Error::TimedOut) => Ok(false),
        Err(other) => Err(raise(other)),
    }
}

/// Take it, however long that takes; tells whom it was taken over from.
pub fn wait_for(py: Python<'_>, state: &LockState) -> PyResult<Option<Owner>> {
    match blocking::wait(py, || state.lock(me(), thread_id(), Deadline::Never))?.map_err(raise)? {
        Acquired::Clean => Ok(None),
        Acquired::Recovered(dead) => Ok(Some(dead)),
    }
}

/// Say that `name` was taken over from a dead process; fails if the program makes an error of it.
pub fn warn(py: Python<'_>, name: &str, dead: Owner) -> PyResult<()> {
    let text = format!("{name} was held by process {}, which died; what it guards may be half-done", dead.pid());
    PyErr::warn(py, &py.get_type::<OwnerDiedWarning>(), &CString::new(text).unwrap_or_default(), 1)
}

macro_rules! lock_class {
    ($class:ident, $recursive:literal, $doc:literal, $acquire:literal, $release:literal, $attempt:expr, $end:expr) => {
        #[doc = $doc]
        #[pyclass(frozen, subclass, module = "fastmp.synchronize")]
        pub struct $class {
            core: fcore::objects::Lock,
        }

        impl $class {
            /// What is shared.
            pub fn state(&self) -> &LockState {
                &self.core
            }

            /// The same, for one who comes to it again and again.
            pub fn share(this: &Bound<'_, Self>) -> fcore::objects::Shared<LockState, Py<PyAny>> {
                this.get().core.share(this.clone().into_any().unbind())
            }

            /// Take it if that is possible without waiting.
            #[inline(always)]
            fn attempt(&self) -> Result<bool> {
                ($attempt)(&self.core)
            }

            #[inline(always)]
            fn end(&self) -> Result<()> {
                ($end)(&self.core)
            }

            /// `try_acquire` of such a lock whose state this is.
            #[inline(always)]
            pub fn take(state: &LockState) -> bool {
                matches!(($attempt)(state), Ok(true))
            }

            /// `is_refused` of such a lock.
            #[inline(always)]
            pub fn refuses(state: &LockState) -> bool {
                // What cannot be held once more is for `_acquire` to say.
                !($recursive && state.is_mine(me(), thread_id())) && state.is_refused(me())
            }

            /// `try_release` of such a lock.
            #[inline(always)]
            pub fn give(state: &LockState) -> bool {
                ($end)(state).is_ok()
            }
        }

        impl FastLock for $class {
            const ACQUIRE: &'static CStr = $acquire;
            const RELEASE: &'static CStr = $release;

            #[inline(always)]
            fn try_acquire(&self) -> bool {
                Self::take(&self.core)
            }

            #[inline(always)]
            fn is_refused(&self) -> bool {
                Self::refuses(&self.core)
            }

            #[inline(always)]
            fn try_release(&self) -> bool {
                Self::give(&self.core)
            }
        }

        impl SetUp for $class {
            #[inline(always)]
            fn set_up(&self, args: Borrowed<'_, '_, PyTuple>) -> bool {
                args.is_empty()
            }
        }

        #[pymethods]
        impl $class {
            #[new]
            #[pyo3(signature = (*, _handle = None), text_signature = "(*, ctx=None)")]
            fn new(_handle: Option<Given>) -> PyResult<Self> {
                let core = match _handle {
                    Some(handle) => fcore::objects::Lock::attach(handles::given(handle)),
                    None => fcore::objects::Lock::create(),
                };
                Ok(Self { core: core.map_err(raise)? })
            }

            // Of whatever is not the common case.
            #[pyo3(signature = (*, ctx = None))]
            fn __init__(&self, ctx: Option<&Bound<'_, PyAny>>) {
                let _ = ctx;
            }

            #[classmethod]
            fn _attach<'py>(
                cls: &Bound<'py, PyType>,
                fd: Py<Descriptor>,
                token: Py<Descriptor>,
                offset: usize,
            ) -> PyResult<Bound<'py, PyAny>> {
                handles::attached::<Self>(cls, (fd, token, offset))
            }

            #[pyo3(signature = (block = true, timeout = None))]
            fn _acquire(
                &self,
                py: Python<'_>,
                #[pyo3(from_py_with = truth)] block: bool,
                timeout: Option<f64>,
            ) -> PyResult<bool> {
                match self.attempt().map_err(raise)? {
                    true => Ok(true),
                    false => acquire(py, &self.core, stringify!($class), block, timeout),
                }
            }

            fn _release(&self) -> PyResult<()> {
                self.end().map_err(raise)
            }

            /// How often it was taken over from an owner that had ended.
            #[getter]
            fn recoveries(&self) -> u32 {
                self.core.recoveries()
            }

            /// Process id and thread id of who holds it, if anyone does.
            #[getter]
            fn owner(&self) -> Option<(u32, u32)> {
                self.core.owner().map(|(owner, thread)| (owner.pid(), thread))
            }

            fn _is_mine(&self) -> bool {
                self.core.is_mine(me(), thread_id())
            }

            fn _count(&self) -> u32 {
                match self.core.owner() {
                    Some((owner, _)) if owner == me() => self.core.depth(),
                    _ => 0,
                }
            }

            fn _get_value(&self) -> u32 {
                u32::from(self.core.owner().is_none())
            }

            fn _is_zero(&self) -> bool {
                self.state().owner().is_some()
            }

            /// Whether anybody holds it.
            fn locked(&self) -> bool {
                self.state().owner().is_some()
            }

            fn _handle(&self) -> PyResult<Lent> {
                handles::handle(&self.core)
            }
        }
    };
}

lock_class!(
    Lock,
    false,
    "A lock that is not recursive, and that any process or thread may release.\n\nIf its owner ends, the next `acquire` has it within 100 ms, and warns.",
    c"acquire($self, block=True, timeout=None)\n--\n\nTakes the lock; returns False if it was not to be had in time.\n\nWarns:\n- OwnerDiedWarning: the last owner ended while holding it. If the warning is made an error, the\n  lock is free again when it is raised.",
    c"release($self)\n--\n\nGives the lock back.\n\nRaises:\n- ValueError: nobody holds it.",
    |state: &LockState| -> Result<bool> { Ok(state.try_lock_once(me(), thread_id())) },
    |state: &LockState| state.unlock_any()
);

lock_class!(
    RLock,
    true,
    "A lock that its owner, a thread of a process, may take again.\n\nOnly the owner may release it. If it ends, the next `acquire` has it within 100 ms, and warns.",
    c"acquire($self, block=True, timeout=None)\n--\n\nTakes the lock, once more if this thread has it; returns False if not in time.\n\nWarns:\n- OwnerDiedWarning: as for `Lock.acquire`.",
    c"release($self)\n--\n\nUndoes one `acquire`.\n\nRaises:\n- AssertionError: this thread does not hold it.",
    |state: &LockState| -> Result<bool> {
        let (me, thread) = (me(), thread_id());
        if state.try_lock_once(me, thread) { Ok(true) } else { state.try_reenter(me, thread) }
    },
    |state: &LockState| state.unlock_once(me(), thread_id())
);
