//! `Semaphore` and `BoundedSemaphore`.

use std::os::fd::RawFd;

use fastmp_core::arena::Block;
use fastmp_core::layout::{Kind, Object};
use fastmp_core::sync::semaphore::{MAX, Semaphore as State};
use fastmp_core::{Deadline, Error};
use pyo3::exceptions::PyOverflowError;
use pyo3::prelude::*;
use pyo3::types::PyType;

use crate::errors::{os_error, raise};
use crate::hot::Hot;
use crate::passing::{Given, Lent};
use crate::{blocking, passing};

type Shared = Object<State, Block>;

fn create(value: i64, bounded: bool) -> PyResult<Shared> {
    // The stdlib's answers to impossible values.
    if value > i64::from(MAX) {
        return Err(PyOverflowError::new_err("signed integer is greater than maximum"));
    }
    let permits = u32::try_from(value).map_err(|_| os_error(libc::EINVAL))?;
    let block = Block::alloc(Kind::Semaphore, size_of::<State>()).map_err(raise)?;
    let payload = block.payload();
    let state: Shared = Object::new(block, payload).map_err(raise)?;
    state.set_up(permits, if bounded { permits } else { MAX });
    Ok(state)
}

fn attach(handle: Given) -> PyResult<Shared> {
    let block = passing::attach(handle, Kind::Semaphore)?;
    let payload = block.payload();
    Object::new(block, payload).map_err(raise)
}

macro_rules! semaphore_class {
    ($class:ident, $doc:literal, $bounded:literal) => {
        #[doc = $doc]
        #[pyclass(frozen, subclass, module = "fastmp.synchronize")]
        pub struct $class {
            state: Shared,
        }

        impl Hot for $class {
            #[inline(always)]
            fn take(&self) -> bool {
                self.state.try_acquire()
            }

            #[inline(always)]
            fn give(&self) -> bool {
                self.state.release().is_ok()
            }
        }

        #[pymethods]
        impl $class {
            #[new]
            #[pyo3(signature = (value = 1, *, ctx = None, _handle = None))]
            fn new(value: i64, ctx: Option<&Bound<'_, PyAny>>, _handle: Option<Given>) -> PyResult<Self> {
                let _ = ctx;
                let state = match _handle {
                    Some(handle) => attach(handle)?,
                    None => create(value, $bounded)?,
                };
                Ok(Self { state })
            }

            #[classmethod]
            fn _attach<'py>(
                cls: &Bound<'py, PyType>,
                fd: RawFd,
                token: RawFd,
                offset: usize,
            ) -> PyResult<Bound<'py, PyAny>> {
                passing::attached(cls, (fd, token, offset))
            }

            #[pyo3(signature = (block = true, timeout = None))]
            fn _acquire(&self, py: Python<'_>, block: bool, timeout: Option<f64>) -> PyResult<bool> {
                if self.state.try_acquire() {
                    return Ok(true);
                }
                if !block {
                    return Ok(false);
                }
                let deadline: Deadline = blocking::deadline(timeout);
                match blocking::wait(py, || self.state.acquire(deadline))? {
                    Ok(()) => Ok(true),
                    Err(Error::TimedOut) => Ok(false),
                    Err(other) => Err(raise(other)),
                }
            }

            fn _release(&self) -> PyResult<()> {
                self.state.release().map_err(raise)
            }

            /// Permits left.
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

            fn _handle(&self) -> PyResult<Lent> {
                passing::handle(self.state.keeper())
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
