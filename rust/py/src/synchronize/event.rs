//! `Event`.

use fastmp_core as fcore;
use pyo3::prelude::*;
use pyo3::types::{PyTuple, PyType};

use crate::capi::construct::SetUp;
use crate::errors::raise;
use crate::handles::{Descriptor, Given, Lent};
use crate::{blocking, handles};

/// A flag to wait for.
#[pyclass(frozen, subclass, module = "fastmp.synchronize")]
pub struct Event {
    core: fcore::objects::Event,
}

impl SetUp for Event {
    #[inline(always)]
    fn set_up(&self, args: Borrowed<'_, '_, PyTuple>) -> bool {
        args.is_empty()
    }
}

#[pymethods]
impl Event {
    #[new]
    #[pyo3(signature = (*, _handle = None), text_signature = "(*, ctx=None)")]
    fn new(_handle: Option<Given>) -> PyResult<Self> {
        let core = match _handle {
            Some(handle) => fcore::objects::Event::attach(handles::given(handle)),
            None => fcore::objects::Event::create(),
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

    /// Whether the flag is set.
    fn is_set(&self) -> bool {
        self.core.is_set()
    }

    /// Sets the flag, and wakes all who wait.
    fn set(&self) {
        self.core.set();
    }

    /// Clears the flag.
    fn clear(&self) {
        self.core.clear();
    }

    /// Waits until the flag is set; returns False if it was not in time.
    #[pyo3(signature = (timeout = None))]
    fn wait(&self, py: Python<'_>, timeout: Option<f64>) -> PyResult<bool> {
        if self.core.is_set() {
            return Ok(true);
        }
        let (ticket, deadline) = (self.core.ticket(), blocking::deadline(timeout));
        match blocking::wait(py, || self.core.wait(ticket, deadline))? {
            Ok(()) => Ok(true),
            Err(fcore::Error::TimedOut) => Ok(false),
            Err(other) => Err(raise(other)),
        }
    }

    fn _handle(&self) -> PyResult<Lent> {
        handles::handle(&self.core)
    }
}
