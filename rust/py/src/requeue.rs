//! What queues with `requeue=True` ask of their process: to say when it ends.

use fastmp_core::channel::queue::custody;
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;

/// What carries descriptors cannot come back once its taker is killed.
#[cold]
pub fn no_descriptors() -> PyErr {
    PyValueError::new_err(
        "a queue with requeue=True takes no object that needs descriptors (a connection, a lock, a queue): \
         give it to the processes when they are started",
    )
}

/// Have this process say so when it ends normally.
#[cold]
pub fn acknowledge_at_exit(py: Python<'_>) -> PyResult<()> {
    py.import("fastmp.queues")?.call_method0("_acknowledge_at_exit").map(drop)
}

/// What this process has taken from queues with requeue=True is dealt with, for it ends; or what
/// this thread has.
#[pyfunction]
#[pyo3(name = "_acknowledge", signature = (thread = false))]
pub fn acknowledge(thread: bool) {
    if thread { custody::acknowledge_thread() } else { custody::acknowledge_all() }
}
