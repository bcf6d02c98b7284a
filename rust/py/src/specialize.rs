//! Descriptors of a subclass's own.

use pyo3::exceptions::PyTypeError;
use pyo3::prelude::*;
use pyo3::types::PyType;

use crate::queue::{self, Queue};
use crate::sharedctypes::guarded::Guarded;
use crate::synchronize::lock::{Lock, RLock};
use crate::synchronize::semaphore::{BoundedSemaphore, Semaphore};
use crate::{capi::fast_methods, sharedctypes::guarded, sharedctypes::value};

/// Gives a subclass of a lock or `Guarded` descriptors that name it as their class.
///
/// The interpreter specialises calls of methods only where the object is exactly of the class that
/// they name.
#[pyfunction]
#[pyo3(name = "_own_descriptors")]
pub fn own_descriptors<'py>(cls: Bound<'py, PyType>) -> PyResult<Bound<'py, PyType>> {
    if cls.is_subclass_of::<Guarded>()? {
        guarded::install(&cls)?;
        if cls.hasattr("fetch_add")? {
            value::install(&cls)?;
        }
    } else if cls.is_subclass_of::<Lock>()? {
        fast_methods::install_in::<Lock>(&cls)?;
    } else if cls.is_subclass_of::<RLock>()? {
        fast_methods::install_in::<RLock>(&cls)?;
    } else if cls.is_subclass_of::<Semaphore>()? {
        fast_methods::install_in::<Semaphore>(&cls)?;
    } else if cls.is_subclass_of::<BoundedSemaphore>()? {
        fast_methods::install_in::<BoundedSemaphore>(&cls)?;
    } else if cls.is_subclass_of::<Queue>()? {
        queue::install(&cls)?;
    } else {
        return Err(PyTypeError::new_err("a class without bare methods"));
    }
    Ok(cls)
}
