//! `Event`.

use std::os::fd::RawFd;

use fastmp_core::Error;
use fastmp_core::arena::Block;
use fastmp_core::layout::{Kind, Object};
use fastmp_core::sync::event::EventState;
use pyo3::prelude::*;
use pyo3::types::PyType;

use crate::errors::raise;
use crate::handles::{Given, Lent};
use crate::{blocking, handles};

/// A flag that processes wait for.
#[pyclass(frozen, subclass, module = "fastmp.synchronize")]
pub struct Event {
    state: Object<EventState, Block>,
}

impl Event {
    fn over(block: Block) -> PyResult<Self> {
        let payload = block.payload();
        Ok(Self { state: Object::new(block, payload).map_err(raise)? })
    }
}

#[pymethods]
impl Event {
    #[new]
    #[pyo3(signature = (*, ctx = None, _handle = None))]
    fn new(ctx: Option<&Bound<'_, PyAny>>, _handle: Option<Given>) -> PyResult<Self> {
        let _ = ctx;
        let block = match _handle {
            Some(handle) => handles::attach(handle, Kind::Event)?,
            None => Block::alloc(Kind::Event, size_of::<EventState>()).map_err(raise)?,
        };
        Self::over(block)
    }

    #[classmethod]
    fn _attach<'py>(cls: &Bound<'py, PyType>, fd: RawFd, token: RawFd, offset: usize) -> PyResult<Bound<'py, PyAny>> {
        handles::attached(cls, (fd, token, offset))
    }

    /// Is it set?
    fn is_set(&self) -> bool {
        self.state.is_set()
    }

    /// Set it: all who wait go on.
    fn set(&self) {
        self.state.set();
    }

    /// Clear it.
    fn clear(&self) {
        self.state.clear();
    }

    /// Wait until it is set, for `timeout` seconds at most; was it?
    #[pyo3(signature = (timeout = None))]
    fn wait(&self, py: Python<'_>, timeout: Option<f64>) -> PyResult<bool> {
        if self.state.is_set() {
            return Ok(true);
        }
        let (ticket, deadline) = (self.state.ticket(), blocking::deadline(timeout));
        match blocking::wait(py, || self.state.wait(ticket, deadline))? {
            Ok(()) => Ok(true),
            Err(Error::TimedOut) => Ok(false),
            Err(other) => Err(raise(other)),
        }
    }

    fn _handle(&self) -> PyResult<Lent> {
        handles::handle(self.state.backing())
    }
}
