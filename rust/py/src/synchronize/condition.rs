//! `Condvar`: what a `Condition` adds to its lock.

use fastmp_core as fcore;
use fastmp_core::sync::lock::LockState;
use fastmp_core::sys::liveness::{me, thread_id};
use fastmp_core::{Error, Result};
use pyo3::exceptions::{PyAssertionError, PyAttributeError};
use pyo3::prelude::*;
use pyo3::types::PyType;

use crate::errors::raise;
use crate::handles::{Descriptor, Given, Lent};
use crate::synchronize::lock::{Lock, RLock, take_back};
use crate::{blocking, handles};

/// The lock that goes with it, which the calling thread holds.
#[derive(Clone, Copy)]
struct Guard<'a> {
    state: &'a LockState,
    name: &'static str,
}

impl<'a> Guard<'a> {
    fn of(lock: &'a Bound<'_, PyAny>, unheld: &'static str) -> PyResult<Self> {
        let guard = if let Ok(lock) = lock.cast::<RLock>() {
            Guard { state: lock.get().state(), name: "RLock" }
        } else if let Ok(lock) = lock.cast::<Lock>() {
            Guard { state: lock.get().state(), name: "Lock" }
        } else {
            return Err(PyAttributeError::new_err("a Condition works with a Lock or RLock of fastmp"));
        };
        if !guard.state.is_mine(me(), thread_id()) {
            return Err(PyAssertionError::new_err(unheld));
        }
        Ok(guard)
    }
}

/// Waiting and waking under a lock that the calling thread holds.
#[pyclass(frozen, subclass, module = "fastmp.synchronize")]
pub struct Condvar {
    core: fcore::objects::Condvar,
}

#[pymethods]
impl Condvar {
    #[new]
    #[pyo3(signature = (*, _handle = None))]
    fn new(_handle: Option<Given>) -> PyResult<Self> {
        let core = match _handle {
            Some(handle) => fcore::objects::Condvar::attach(handles::given(handle)),
            None => fcore::objects::Condvar::create(),
        };
        Ok(Self { core: core.map_err(raise)? })
    }

    #[classmethod]
    fn _attach<'py>(
        cls: &Bound<'py, PyType>,
        fd: Py<Descriptor>,
        token: Py<Descriptor>,
        offset: usize,
    ) -> PyResult<Bound<'py, PyAny>> {
        handles::attached(cls, (fd, token, offset))
    }

    /// Release the lock, wait until notified or for `timeout` seconds, take the lock again; was it notified?
    #[pyo3(signature = (lock, timeout = None))]
    fn wait(&self, py: Python<'_>, lock: &Bound<'_, PyAny>, timeout: Option<f64>) -> PyResult<bool> {
        let guard = Guard::of(lock, "must acquire() condition before using wait()")?;
        let core = self.core.core();
        let deadline = blocking::deadline(timeout);
        let mut waiting = core.prepare_wait(me());
        let depth = match guard.state.unlock_all(me(), thread_id()) {
            Ok(depth) => depth,
            // Somebody else has released it in this very moment.
            Err(error) => {
                core.cancel(waiting, me());
                return Err(raise(error));
            }
        };
        let ended: PyResult<Result<()>> = blocking::wait(py, || core.wait(&mut waiting, me(), deadline));
        let woken = matches!(ended, Ok(Ok(())));
        let mut waiting = Some(waiting);
        if !woken && let Some(waiting) = waiting.take() {
            core.cancel(waiting, me());
        }
        let taken = take_back(py, guard.state, guard.name, depth);
        if let Some(waiting) = waiting {
            // Only with the lock in hand is the wake-up used; it is, also if the warning has become an error.
            if guard.state.is_mine(me(), thread_id()) {
                core.consume(waiting, me());
            } else {
                core.cancel(waiting, me());
            }
        }
        if let Err(error) = taken {
            if let Err(first) = ended {
                error.value(py).setattr("__context__", first.into_value(py))?;
            }
            return Err(error);
        }
        match ended? {
            Ok(()) => Ok(true),
            Err(Error::TimedOut) => Ok(false),
            Err(other) => Err(raise(other)),
        }
    }

    /// Wake `n` of those who wait, the longest-waiting first.
    #[pyo3(signature = (lock, n = 1))]
    fn notify(&self, lock: &Bound<'_, PyAny>, n: i64) -> PyResult<()> {
        Guard::of(lock, "lock is not owned")?;
        self.core.core().notify(u64::try_from(n).unwrap_or(0));
        Ok(())
    }

    /// Wake all who wait.
    fn notify_all(&self, lock: &Bound<'_, PyAny>) -> PyResult<()> {
        Guard::of(lock, "lock is not owned")?;
        self.core.core().notify(u64::MAX);
        Ok(())
    }

    /// How many wait, at this instant.
    fn waiters(&self) -> usize {
        self.core.core().waiters()
    }

    fn _handle(&self) -> PyResult<Lent> {
        handles::handle(&self.core)
    }
}
