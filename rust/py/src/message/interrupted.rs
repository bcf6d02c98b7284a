//! What signal handlers raise while a message is made into an object.
//!
//! Handlers run Python code, which may raise, wherever the interpreter looks for signals. A message
//! is safe from that until it is taken out, for no handler runs in between; and on its way to the
//! caller, who asks for it by an operator (see `operator`). To unpickle it may run Python code, and
//! so handlers. By then it is this process's alone, and an exception would lose it.
//!
//! So what a handler raises is put aside, and the object is made once more from the same bytes. It
//! is returned, and the exception comes just afterwards, as though the signal had come right after
//! the call: by a *pending call*, which the main thread makes where it looks for signals. Nothing
//! is kept in this process for a later call.
//!
//! - Handlers run in the main thread only. Elsewhere nothing is put aside.
//! - An exception is a handler's if its traceback goes through one: a call that was given the frame
//!   that it interrupts. (A function that is given its caller's frame looks the same. What it
//!   raises is tried again, no more.) A `KeyboardInterrupt` is one in any case: it is raised by C
//!   code, which leaves no trace.
//! - Where handlers raise again and again, `ATTEMPTS` are made. Then the message is lost, as with
//!   the stdlib.
//! - What an object's own code has changed in a large buffer by then is so the second time: it is
//!   the same buffer.
//! - Each handler's exception is raised, in the order in which they came. Those behind the first
//!   are not dropped or made its context: a `SystemExit` must not vanish behind a time-out.
#![allow(unsafe_code)]

use std::ffi::{c_int, c_void};

use fastmp_core::sys::fork;
use pyo3::exceptions::{PyKeyboardInterrupt, PyRuntimeError};
use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::types::PyTuple;

/// So often an object is begun.
const ATTEMPTS: usize = 5;

/// What `make` makes, which may run Python code. It is asked again where a signal handler's
/// exception ends it, and may refuse then, by None.
pub fn uninterrupted<T>(py: Python<'_>, mut make: impl FnMut() -> Option<PyResult<T>>) -> PyResult<T> {
    let mut raised = Vec::new();
    while raised.len() < ATTEMPTS {
        match make() {
            Some(Err(error)) if is_from_handler(py, &error) => raised.push(error),
            Some(made) if raised.is_empty() => return made,
            // No room among the pending calls: dozens of exceptions are on their way already.
            Some(made) => return raise_later(raised).and(made),
            None => break,
        }
    }
    // The message is lost. The first exception ends this call.
    let mut raised = raised.into_iter();
    let first = raised.next().unwrap_or_else(|| PyRuntimeError::new_err("the object was not even begun"));
    raise_later(raised)?;
    Err(first)
}

/// An exception for the main thread.
struct Pending {
    error: PyErr,
    /// It is not raised in a child that another thread forks in between: its main thread is
    /// another.
    generation: u64,
}

/// Have the main thread raise them, each where it looks for signals next. Gives one for which there
/// is no room.
#[cold]
fn raise_later(errors: impl IntoIterator<Item = PyErr>) -> PyResult<()> {
    for error in errors {
        let pending = Box::into_raw(Box::new(Pending { error, generation: fork::generation() }));
        // SAFETY: the function takes over what is given along, and is called once.
        if unsafe { ffi::Py_AddPendingCall(Some(raise), pending.cast()) } != 0 {
            // SAFETY: it was refused, and so is still ours.
            return Err(unsafe { Box::from_raw(pending) }.error);
        }
    }
    Ok(())
}

extern "C" fn raise(pending: *mut c_void) -> c_int {
    // SAFETY: pending calls are made attached; this is what `raise_later` gave away.
    let (py, pending) = unsafe { (Python::assume_attached(), Box::from_raw(pending.cast::<Pending>())) };
    if pending.generation != fork::generation() {
        return 0;
    }
    pending.error.restore(py);
    -1
}

/// Did a signal handler raise it, in this thread?
#[cold]
fn is_from_handler(py: Python<'_>, error: &PyErr) -> bool {
    is_main_thread(py).unwrap_or(false)
        && (error.is_instance_of::<PyKeyboardInterrupt>(py) || goes_through_handler(py, error).unwrap_or(false))
}

fn is_main_thread(py: Python<'_>) -> PyResult<bool> {
    let threading = py.import("threading")?;
    let main = threading.call_method0("main_thread")?.getattr("ident")?;
    main.eq(threading.call_method0("get_ident")?)
}

/// Has a frame in its traceback been given the frame behind it, as a handler is?
fn goes_through_handler(py: Python<'_>, error: &PyErr) -> PyResult<bool> {
    let Some(traceback) = error.traceback(py) else { return Ok(false) };
    let mut entry = traceback.into_any();
    while !entry.is_none() {
        let frame = entry.getattr("tb_frame")?;
        let interrupted = frame.getattr("f_back")?;
        if !interrupted.is_none() {
            for local in frame.getattr("f_locals")?.call_method0("values")?.try_iter()? {
                let local = local?;
                let is_among = |all: &Bound<'_, PyTuple>| all.iter().any(|one| one.is(&interrupted));
                if local.is(&interrupted) || local.cast_exact::<PyTuple>().is_ok_and(is_among) {
                    return Ok(true);
                }
            }
        }
        entry = entry.getattr("tb_next")?;
    }
    Ok(false)
}
