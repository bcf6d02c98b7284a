//! `Semaphore` and `BoundedSemaphore`.

use std::ffi::CStr;
use std::os::fd::RawFd;
use std::sync::OnceLock;

use fastmp_core as fcore;
use fastmp_core::sync::mutex::Acquired;
use fastmp_core::sync::robust_semaphore::MAX as MOST_NAMED;
use fastmp_core::sync::semaphore::MAX;
use fastmp_core::sys::liveness::me;
use fastmp_core::{Deadline, Error, Result};
use pyo3::exceptions::{PyAttributeError, PyOverflowError, PyRuntimeError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::{PyTuple, PyType};

use crate::blocking::truth;
use crate::capi::construct::SetUp;
use crate::capi::fast_methods::FastLock;
use crate::errors::{os_error, raise};
use crate::handles::{Descriptor, Given};
use crate::message::channel_fds::Token;
use crate::synchronize::lock::warn;
use crate::{blocking, handles};

/// Permits that are counted, or kept by name of their holders.
enum Permits {
    Counted(fcore::objects::Semaphore),
    Named(fcore::objects::RobustSemaphore),
}

fn create(value: i64, bounded: bool, recover: bool) -> PyResult<Permits> {
    // The stdlib's answers to impossible values.
    if value > i64::from(MAX) {
        return Err(PyOverflowError::new_err("signed integer is greater than maximum"));
    }
    let permits = u32::try_from(value).map_err(|_| os_error(libc::EINVAL))?;
    if recover {
        if permits == 0 {
            // Only who holds a permit may give one back: nobody ever could.
            return Err(PyValueError::new_err("a semaphore that recovers has at least one permit"));
        }
        if permits as usize > MOST_NAMED {
            let text = format!("a semaphore that recovers has at most {MOST_NAMED} permits");
            return Err(PyValueError::new_err(text));
        }
        return fcore::objects::RobustSemaphore::create(permits as usize).map(Permits::Named).map_err(raise);
    }
    let most = if bounded { permits } else { MAX };
    fcore::objects::Semaphore::create(permits, most).map(Permits::Counted).map_err(raise)
}

fn attach(handle: Given, recover: bool) -> PyResult<Permits> {
    let given = handles::given(handle);
    let attached = if recover {
        fcore::objects::RobustSemaphore::attach(given).map(Permits::Named)
    } else {
        fcore::objects::Semaphore::attach(given).map(Permits::Counted)
    };
    attached.map_err(raise)
}

impl Permits {
    #[inline(always)]
    fn try_acquire(&self) -> bool {
        match self {
            Permits::Counted(counted) => counted.try_acquire(),
            Permits::Named(named) => named.core().try_acquire(me()),
        }
    }

    #[inline(always)]
    fn is_refused(&self) -> bool {
        match self {
            // None was left, and nobody's death gives one back.
            Permits::Counted(_) => true,
            Permits::Named(named) => named.core().is_refused(),
        }
    }

    #[inline(always)]
    fn release(&self) -> Result<()> {
        match self {
            Permits::Counted(counted) => counted.release(),
            // What the stdlib says of too many releases is said of this one as well.
            Permits::Named(named) => named.core().release(me()).map_err(|_| Error::Overflow),
        }
    }

    fn acquire(&self, py: Python<'_>, name: &str, block: bool, timeout: Option<f64>) -> PyResult<bool> {
        let deadline = if block { blocking::deadline(timeout) } else { Deadline::PASSED };
        let got = match self {
            Permits::Counted(_) if !block => Err(Error::TimedOut),
            Permits::Counted(counted) => blocking::wait(py, || counted.acquire(deadline))?.map(|()| Acquired::Clean),
            Permits::Named(named) if !block => named.core().try_acquire_or_recover(me()).ok_or(Error::TimedOut),
            // Who it is for is asked each time: a signal handler may have forked.
            Permits::Named(named) => blocking::wait(py, || named.core().acquire(me(), deadline))?,
        };
        match got {
            Ok(Acquired::Clean) => Ok(true),
            Ok(Acquired::Recovered(dead)) => {
                // A warning made an error: the caller must not end up with the permit.
                warn(py, name, dead).inspect_err(|_| self.release().unwrap_or(()))?;
                Ok(true)
            }
            Err(Error::TimedOut) => Ok(false),
            Err(other) => Err(raise(other)),
        }
    }

    fn permits(&self) -> u32 {
        match self {
            Permits::Counted(counted) => counted.permits(),
            Permits::Named(named) => named.core().free(),
        }
    }

    fn most(&self) -> u32 {
        match self {
            Permits::Counted(counted) => counted.most(),
            Permits::Named(named) => named.core().most(),
        }
    }

    fn recoveries(&self) -> u32 {
        match self {
            Permits::Counted(_) => 0,
            Permits::Named(named) => named.core().recoveries(),
        }
    }
}

macro_rules! semaphore_class {
    ($class:ident, $doc:literal, $release:literal, $bounded:literal) => {
        #[doc = $doc]
        #[pyclass(frozen, subclass, module = "fastmp.synchronize")]
        pub struct $class {
            /// Made by `__init__`, or attached: a subclass may be called with arguments of its own.
            permits: OnceLock<Permits>,
        }

        impl $class {
            fn permits(&self) -> PyResult<&Permits> {
                self.permits.get().ok_or_else(|| PyAttributeError::new_err("__init__ has not been called"))
            }
        }

        impl FastLock for $class {
            const ACQUIRE: &'static CStr = c"acquire($self, block=True, timeout=None)\n--\n\nTakes a permit; returns False if none was to be had in time.\n\nWarns:\n- OwnerDiedWarning: with `recover`, the permit was a dead process's. If the warning is made an\n  error, the permit is free again when it is raised.";
            const RELEASE: &'static CStr = $release;

            #[inline(always)]
            fn try_acquire(&self) -> bool {
                self.permits.get().is_some_and(Permits::try_acquire)
            }

            #[inline(always)]
            fn is_refused(&self) -> bool {
                self.permits.get().is_some_and(Permits::is_refused)
            }

            #[inline(always)]
            fn try_release(&self) -> bool {
                self.permits.get().is_some_and(|permits| permits.release().is_ok())
            }
        }

        impl SetUp for $class {
            #[inline(always)]
            fn set_up(&self, args: Borrowed<'_, '_, PyTuple>) -> bool {
                let value = match args.len() {
                    0 => Some(1),
                    1 => args.get_borrowed_item(0).ok().and_then(|value| value.extract().ok()),
                    _ => None,
                };
                let permits = value.and_then(|value| create(value, $bounded, false).ok());
                permits.is_some_and(|permits| self.permits.set(permits).is_ok())
            }
        }

        #[pymethods]
        impl $class {
            #[new]
            #[pyo3(signature = (*, _handle = None), text_signature = "(value=1, *, recover=False, ctx=None)")]
            fn new(_handle: Option<(Py<Descriptor>, Py<Descriptor>, usize, bool)>) -> PyResult<Self> {
                let permits = OnceLock::new();
                if let Some((fd, token, offset, recover)) = _handle {
                    let _ = permits.set(attach((fd, token, offset), recover)?);
                }
                Ok(Self { permits })
            }

            // Of whatever is not the common case.
            #[pyo3(signature = (value = 1, *, recover = false, ctx = None))]
            fn __init__(
                &self,
                value: i64,
                #[pyo3(from_py_with = truth)] recover: bool,
                ctx: Option<&Bound<'_, PyAny>>,
            ) -> PyResult<()> {
                let _ = ctx;
                let again = |_| PyRuntimeError::new_err("__init__ has been called already");
                self.permits.set(create(value, $bounded, recover)?).map_err(again)
            }

            #[classmethod]
            fn _attach<'py>(
                cls: &Bound<'py, PyType>,
                fd: Py<Descriptor>,
                token: Py<Descriptor>,
                offset: usize,
                recover: bool,
            ) -> PyResult<Bound<'py, PyAny>> {
                handles::attached::<Self>(cls, (fd, token, offset, recover))
            }

            #[pyo3(signature = (block = true, timeout = None))]
            fn _acquire(
                &self,
                py: Python<'_>,
                #[pyo3(from_py_with = truth)] block: bool,
                timeout: Option<f64>,
            ) -> PyResult<bool> {
                let permits = self.permits()?;
                if permits.try_acquire() {
                    return Ok(true);
                }
                permits.acquire(py, stringify!($class), block, timeout)
            }

            fn _release(&self) -> PyResult<()> {
                self.permits()?.release().map_err(raise)
            }

            /// The number of permits left.
            fn get_value(&self) -> PyResult<u32> {
                Ok(self.permits()?.permits())
            }

            fn _get_value(&self) -> PyResult<u32> {
                Ok(self.permits()?.permits())
            }

            fn _is_zero(&self) -> PyResult<bool> {
                Ok(self.permits()?.permits() == 0)
            }

            /// Whether no permit is left.
            fn locked(&self) -> PyResult<bool> {
                Ok(self.permits()?.permits() == 0)
            }

            /// The most permits there can be.
            #[getter]
            fn maxvalue(&self) -> PyResult<u32> {
                Ok(self.permits()?.most())
            }

            /// How often a permit was taken over from a process that had ended; 0 without
            /// `recover`.
            #[getter]
            fn recoveries(&self) -> PyResult<u32> {
                Ok(self.permits()?.recoveries())
            }

            fn _handle(&self) -> PyResult<(RawFd, Token, usize, bool)> {
                let ((fd, token, offset), recover) = match self.permits()? {
                    Permits::Counted(counted) => (handles::handle(counted)?, false),
                    Permits::Named(named) => (handles::handle(named)?, true),
                };
                Ok((fd, token, offset, recover))
            }
        }
    };
}

semaphore_class!(
    Semaphore,
    "A count of permits: `acquire` takes one, waiting while there is none; `release` adds one.",
    c"release($self)\n--\n\nAdds a permit.\n\nRaises:\n- ValueError: the count would overflow; with `recover`, this process holds none.",
    false
);
semaphore_class!(
    BoundedSemaphore,
    "A count of permits that never exceeds what it was at first.",
    c"release($self)\n--\n\nGives a permit back.\n\nRaises:\n- ValueError: all of them are there already; with `recover`, this process holds none.",
    true
);
