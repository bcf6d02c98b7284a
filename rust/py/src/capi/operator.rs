//! Calls in the form of operators.
//!
//! After a call into C the interpreter looks for signals at once, while the result has reached
//! nobody: what a handler raises there loses it. After an operator it does not, nor where a
//! function in Python returns. So what takes a message out of a channel is a function in Python
//! round `operator[key]`; the hottest, a queue's `get` without arguments, round `~queue`, which is
//! quicker.

use std::ffi::CStr;

use pyo3::exceptions::PyTypeError;
use pyo3::prelude::*;
use pyo3::types::PyTuple;

use super::call::{self, Answer, Args, Method};

/// An object of which `object[key]` is a call.
#[pyclass(frozen, subclass, module = "fastmp._native")]
pub struct Operator;

#[pymethods]
impl Operator {
    #[new]
    fn new() -> Operator {
        Operator
    }
}

/// The operator of which `[key]` is a call of `M`, with the key for its one argument.
pub fn new<'py, M: Method<Of = Operator>>(py: Python<'py>, class: &'static CStr) -> PyResult<Bound<'py, PyAny>> {
    call::bare_instance::<Operator>(&call::subclass(py, class, call::by_key::<M>())?, None)
}

/// `_call[function]`, or with `, *args`: of a function of C's.
pub struct Call;

impl Method for Call {
    type Of = Operator;
    fn call<'py>(_slf: Borrowed<'_, 'py, Operator>, args: Args<'_, 'py>) -> Answer<'py> {
        let Some(key) = args.get(0) else { return Ok(Err(PyTypeError::new_err("a key"))?) };
        match key.cast::<PyTuple>() {
            Ok(key) => Ok(key.get_item(0)?.call1(key.get_slice(1, key.len()))?),
            Err(_) => Ok(key.call0()?),
        }
    }
}
