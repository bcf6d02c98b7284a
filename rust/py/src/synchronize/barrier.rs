//! `Barrier`: what a barrier shares; its action and default timeout are the Python class's.

use fastmp_core as fcore;
use fastmp_core::Error;
use fastmp_core::sync::barrier::Arrived;
use fastmp_core::sys::liveness::me;
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::types::PyType;

use crate::errors::raise;
use crate::handles::{Descriptor, Given, Lent};
use crate::{blocking, handles};

/// A meeting of so many parties.
#[pyclass(frozen, subclass, module = "fastmp.synchronize")]
pub struct Barrier {
    core: fcore::objects::Barrier,
}

fn create(parties: i64) -> PyResult<fcore::objects::Barrier> {
    let least = || PyValueError::new_err("parties must be at least 1");
    let parties = usize::try_from(parties).ok().filter(|&n| n > 0).ok_or_else(least)?;
    fcore::objects::Barrier::create(parties).map_err(raise)
}

#[pymethods]
impl Barrier {
    #[new]
    #[pyo3(signature = (parties = 0, *, _handle = None))]
    fn new(parties: i64, _handle: Option<Given>) -> PyResult<Self> {
        let core = match _handle {
            Some(handle) => fcore::objects::Barrier::attach(handles::given(handle)).map_err(raise)?,
            None => create(parties)?,
        };
        Ok(Self { core })
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

    /// Waits for the others; the last one calls `action`. Returns how many came before.
    ///
    /// Raises:
    /// - threading.BrokenBarrierError: it was broken or reset, a party died, or the time has
    ///   passed.
    #[pyo3(signature = (action = None, timeout = None))]
    fn wait(&self, py: Python<'_>, action: Option<&Bound<'_, PyAny>>, timeout: Option<f64>) -> PyResult<u32> {
        let (core, until) = (self.core.core(), blocking::deadline(timeout).graced());
        let acts = action.is_some();
        let came = blocking::wait(py, || core.arrive(me(), acts, until))?;
        let arrival = match came {
            Ok(Arrived::Released(arrival)) => arrival,
            Ok(Arrived::Act(arrival)) => {
                if let Some(Err(error)) = action.map(|action| action.call0()) {
                    core.break_off(arrival, me());
                    return Err(error);
                }
                core.release(arrival, me()).map_err(raise)?;
                arrival
            }
            Ok(Arrived::Wait(arrival)) => {
                // Its time begins when it has come, which an action of the round before may have
                // delayed.
                let deadline = blocking::deadline(timeout);
                let ended = blocking::wait(py, || core.wait(arrival, me(), deadline));
                if ended.is_err() {
                    py.detach(|| core.leave(arrival, me()));
                }
                ended?.map_err(raise)?;
                arrival
            }
            // Before it has come: that breaks nothing for the others.
            Err(Error::TimedOut) => return Err(raise(Error::Broken)),
            Err(other) => return Err(raise(other)),
        };
        Ok(arrival.index)
    }

    /// Breaks it.
    fn abort(&self) {
        self.core.core().abort();
    }

    /// Makes it whole and empty again; who waits gets BrokenBarrierError.
    fn reset(&self) {
        self.core.core().reset();
    }

    /// How many wait for each other.
    #[getter]
    fn parties(&self) -> usize {
        self.core.core().parties()
    }

    /// How many wait at this instant; 0 if it is broken.
    #[getter]
    fn n_waiting(&self) -> u32 {
        self.core.core().waiting()
    }

    /// Whether it is broken.
    #[getter]
    fn broken(&self) -> bool {
        self.core.core().is_broken()
    }

    fn _handle(&self) -> PyResult<Lent> {
        handles::handle(&self.core)
    }
}
