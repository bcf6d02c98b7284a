//! `Condvar`: what a `Condition` adds to its lock.

use fastmp_core::sync::condition::ConditionWait;
use fastmp_core::sync::lock::LockState;
use fastmp_core::sync::mutex::Acquired;
use fastmp_core::sys::liveness::{me, thread_id};
use fastmp_core::{self as fcore, Error};
use pyo3::exceptions::{PyAssertionError, PyAttributeError};
use pyo3::prelude::*;
use pyo3::types::{PyInt, PyType};

use crate::errors::raise;
use crate::handles::{Descriptor, Given, Lent};
use crate::synchronize::lock::{Lock, RLock, warn};
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

/// A place to wait under a lock, which each call names and the calling thread holds.
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
        handles::attached::<Self>(cls, (fd, token, offset))
    }

    /// Releases the lock, waits, takes it again; returns False if not notified in time.
    ///
    /// Raises:
    /// - AssertionError: this thread does not hold the lock.
    /// - AttributeError: it is no lock of fastmp.
    #[pyo3(signature = (lock, timeout = None))]
    fn wait(&self, py: Python<'_>, lock: &Bound<'_, PyAny>, timeout: Option<f64>) -> PyResult<bool> {
        let guard = Guard::of(lock, "must acquire() condition before using wait()")?;
        let core = self.core.core();
        let deadline = blocking::deadline(timeout);
        let mut wait = ConditionWait::begin(core, guard.state, me(), thread_id()).map_err(raise)?;
        // Who it is for is asked each time: a signal handler may have forked.
        let ended = blocking::wait(py, || wait.wait(me(), deadline));
        if ended.is_err() {
            wait.cancel(me());
        }
        let taken = blocking::wait(py, || wait.take_back(me(), thread_id()));
        wait.end(me(), thread_id());
        // The lock is held also if the warning is made an error: the caller is inside a `with`.
        let taken = taken.and_then(|taken| match taken.map_err(raise)? {
            Acquired::Clean => Ok(()),
            Acquired::Recovered(dead) => warn(py, guard.name, dead),
        });
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

    /// Wakes `n` of those who wait, the longest-waiting first.
    ///
    /// Raises:
    /// - AssertionError: this thread does not hold the lock.
    /// - AttributeError: it is no lock of fastmp.
    // As in the stdlib `n` is whatever can be compared with a number.
    fn notify(&self, lock: &Bound<'_, PyAny>, n: &Bound<'_, PyAny>) -> PyResult<()> {
        Guard::of(lock, "lock is not owned")?;
        if n.is_exact_instance_of::<PyInt>() {
            // What does not fit is more than can wait, or negative.
            let most = n.extract::<i64>().or_else(|_| Ok::<_, PyErr>(if n.gt(0)? { i64::MAX } else { 0 }))?;
            self.core.core().notify(u64::try_from(most).unwrap_or(0));
            return Ok(());
        }
        let mut woken = 0u64;
        while n.gt(woken)? && self.core.core().notify(1) > 0 {
            woken += 1;
        }
        Ok(())
    }

    /// Wakes all who wait; raises as `notify` does.
    fn notify_all(&self, lock: &Bound<'_, PyAny>) -> PyResult<()> {
        Guard::of(lock, "lock is not owned")?;
        self.core.core().notify(u64::MAX);
        Ok(())
    }

    /// How many wait at this instant.
    fn waiters(&self) -> usize {
        self.core.core().waiters()
    }

    fn _handle(&self) -> PyResult<Lent> {
        handles::handle(&self.core)
    }
}
