//! The one loop of every wait: detach from the interpreter, park, run signal handlers, go on.

use fastmp_core::sync::waiting::in_between;
use fastmp_core::{Deadline, Error, Result};
use pyo3::prelude::*;

/// Call `attempt` detached until it ends otherwise than by a signal. Handlers run in between; what
/// one raises ends the wait.
pub fn wait<T: Send>(py: Python<'_>, mut attempt: impl FnMut() -> Result<T> + Send) -> PyResult<Result<T>> {
    loop {
        match py.detach(&mut attempt) {
            Err(Error::Interrupted) => in_between(|| py.check_signals())?,
            done => return Ok(done),
        }
    }
}

/// A timeout in seconds, None: for ever.
pub fn deadline(timeout: Option<f64>) -> Deadline {
    timeout.map_or(Deadline::Never, Deadline::after)
}

/// Whether an argument is true, as Python's `if` takes it.
pub fn truth(argument: &Bound<'_, PyAny>) -> PyResult<bool> {
    argument.is_truthy()
}
