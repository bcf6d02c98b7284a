//! `Semaphore` and `BoundedSemaphore`.

use std::os::fd::RawFd;

use fastmp_core::arena::Block;
use fastmp_core::layout::{Kind, Object, WithSlice};
use fastmp_core::sync::mutex::Acquired;
use fastmp_core::sync::robust_semaphore::{MAX as MOST_NAMED, Permit, RobustSemaphore, RobustSemaphoreState};
use fastmp_core::sync::semaphore::{MAX, Semaphore as State};
use fastmp_core::sys::liveness::me;
use fastmp_core::{Deadline, Error, Result};
use pyo3::exceptions::{PyOverflowError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::PyType;

use crate::capi::fast_methods::FastLock;
use crate::errors::{os_error, raise};
use crate::handles::Given;
use crate::message::channel_fds::Token;
use crate::synchronize::lock::warn;
use crate::{blocking, handles};

/// RobustSemaphore that are counted, or kept by name of their holders.
enum Shared {
    Counted(Object<State, Block>),
    Named(WithSlice<RobustSemaphoreState, Permit, Block>),
}

fn named(block: Block) -> Result<Shared> {
    block.with_slice().map(Shared::Named)
}

fn counted(block: Block) -> Result<Shared> {
    let payload = block.payload();
    Object::new(block, payload).map(Shared::Counted)
}

fn create(value: i64, bounded: bool, recover: bool) -> PyResult<Shared> {
    // The stdlib's answers to impossible values.
    if value > i64::from(MAX) {
        return Err(PyOverflowError::new_err("signed integer is greater than maximum"));
    }
    let permits = u32::try_from(value).map_err(|_| os_error(libc::EINVAL))?;
    if recover {
        if permits as usize > MOST_NAMED {
            let text = format!("a semaphore that recovers has at most {MOST_NAMED} permits");
            return Err(PyValueError::new_err(text));
        }
        let bytes = WithSlice::<RobustSemaphoreState, Permit, Block>::bytes(permits as usize).ok_or(Error::OutOfMemory);
        return bytes.and_then(|bytes| Block::alloc(Kind::RobustSemaphore, bytes)).and_then(named).map_err(raise);
    }
    let shared = Block::alloc(Kind::Semaphore, size_of::<State>()).and_then(counted).map_err(raise)?;
    if let Shared::Counted(state) = &shared {
        state.set_up(permits, if bounded { permits } else { MAX });
    }
    Ok(shared)
}

fn attach(handle: Given, recover: bool) -> PyResult<Shared> {
    let kind = if recover { Kind::RobustSemaphore } else { Kind::Semaphore };
    let block = handles::attach(handle, kind)?;
    if recover { named(block) } else { counted(block) }.map_err(raise)
}

impl Shared {
    fn core(row: &WithSlice<RobustSemaphoreState, Permit, Block>) -> RobustSemaphore<'_> {
        RobustSemaphore::new(row.head(), row.slice())
    }

    #[inline(always)]
    fn try_acquire(&self) -> bool {
        match self {
            Shared::Counted(state) => state.try_acquire(),
            Shared::Named(row) => Self::core(row).try_acquire(me()),
        }
    }

    #[inline(always)]
    fn release(&self) -> Result<()> {
        match self {
            Shared::Counted(state) => state.release(),
            // What the stdlib says of too many releases is said of this one as well.
            Shared::Named(row) => Self::core(row).release(me()).map_err(|_| Error::Overflow),
        }
    }

    fn acquire(&self, py: Python<'_>, name: &str, block: bool, timeout: Option<f64>) -> PyResult<bool> {
        let deadline = if block { blocking::deadline(timeout) } else { Deadline::PASSED };
        let got = match self {
            Shared::Counted(_) if !block => Err(Error::TimedOut),
            Shared::Counted(state) => blocking::wait(py, || state.acquire(deadline))?.map(|()| Acquired::Clean),
            Shared::Named(row) if !block => Self::core(row).try_acquire_or_recover(me()).ok_or(Error::TimedOut),
            // Who it is for is asked each time: a signal handler may have forked.
            Shared::Named(row) => blocking::wait(py, || Self::core(row).acquire(me(), deadline))?,
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
            Shared::Counted(state) => state.permits(),
            Shared::Named(row) => Self::core(row).free(),
        }
    }

    fn most(&self) -> u32 {
        match self {
            Shared::Counted(state) => state.most(),
            Shared::Named(row) => Self::core(row).most(),
        }
    }

    fn recoveries(&self) -> u32 {
        match self {
            Shared::Counted(_) => 0,
            Shared::Named(row) => Self::core(row).recoveries(),
        }
    }

    fn backing(&self) -> &Block {
        match self {
            Shared::Counted(state) => state.backing(),
            Shared::Named(row) => row.backing(),
        }
    }
}

macro_rules! semaphore_class {
    ($class:ident, $doc:literal, $bounded:literal) => {
        #[doc = $doc]
        #[pyclass(frozen, subclass, module = "fastmp.synchronize")]
        pub struct $class {
            state: Shared,
        }

        impl FastLock for $class {
            #[inline(always)]
            fn try_acquire(&self) -> bool {
                self.state.try_acquire()
            }

            #[inline(always)]
            fn try_release(&self) -> bool {
                self.state.release().is_ok()
            }
        }

        #[pymethods]
        impl $class {
            #[new]
            #[pyo3(signature = (value = 1, *, recover = false, ctx = None, _handle = None))]
            fn new(
                value: i64,
                recover: bool,
                ctx: Option<&Bound<'_, PyAny>>,
                _handle: Option<(RawFd, RawFd, usize, bool)>,
            ) -> PyResult<Self> {
                let _ = ctx;
                let state = match _handle {
                    Some((fd, token, offset, recover)) => attach((fd, token, offset), recover)?,
                    None => create(value, $bounded, recover)?,
                };
                Ok(Self { state })
            }

            #[classmethod]
            fn _attach<'py>(
                cls: &Bound<'py, PyType>,
                fd: RawFd,
                token: RawFd,
                offset: usize,
                recover: bool,
            ) -> PyResult<Bound<'py, PyAny>> {
                handles::attached(cls, (fd, token, offset, recover))
            }

            #[pyo3(signature = (block = true, timeout = None))]
            fn _acquire(&self, py: Python<'_>, block: bool, timeout: Option<f64>) -> PyResult<bool> {
                if self.state.try_acquire() {
                    return Ok(true);
                }
                self.state.acquire(py, stringify!($class), block, timeout)
            }

            fn _release(&self) -> PyResult<()> {
                self.state.release().map_err(raise)
            }

            /// RobustSemaphore left.
            fn get_value(&self) -> u32 {
                self.state.permits()
            }

            fn _get_value(&self) -> u32 {
                self.state.permits()
            }

            fn _is_zero(&self) -> bool {
                self.state.permits() == 0
            }

            /// The most permits there can be.
            #[getter]
            fn maxvalue(&self) -> u32 {
                self.state.most()
            }

            /// How often a permit was taken over from a process that died holding it.
            #[getter]
            fn recoveries(&self) -> u32 {
                self.state.recoveries()
            }

            fn _handle(&self) -> PyResult<(RawFd, Token, usize, bool)> {
                let (fd, token, offset) = handles::handle(self.state.backing())?;
                Ok((fd, token, offset, matches!(self.state, Shared::Named(_))))
            }
        }
    };
}

semaphore_class!(
    Semaphore,
    "A counter of permits: `acquire` takes one, waiting while there is none; `release` adds one.",
    false
);
semaphore_class!(BoundedSemaphore, "A semaphore that cannot be released above its initial value.", true);
