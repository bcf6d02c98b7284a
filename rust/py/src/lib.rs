//! Python bindings of `fastmp-core`: conversions and waiting, no logic of their own.

mod array;
mod barrier;
mod blocking;
mod bound;
mod codec;
mod condition;
mod connection;
mod descriptors;
mod errors;
mod event;
mod guarded;
mod hot;
mod lock;
mod memory;
mod passing;
mod pickling;
mod queue;
mod scalar;
mod semaphore;
mod value;

/// The native half of fastmp.
#[pyo3::pymodule(gil_used = false)]
mod _native {
    #[pymodule_export]
    use crate::barrier::Barrier;
    #[pymodule_export]
    use crate::condition::Condvar;
    #[pymodule_export]
    use crate::connection::{Connection, new_pipe};
    #[pymodule_export]
    use crate::descriptors::own_descriptors;
    #[pymodule_export]
    use crate::errors::{CorruptedError, OwnerDiedWarning};
    #[pymodule_export]
    use crate::event::Event;
    #[pymodule_export]
    use crate::guarded::Guarded;
    #[pymodule_export]
    use crate::lock::{Lock, RLock};
    #[pymodule_export]
    use crate::memory::Block;
    #[pymodule_export]
    use crate::passing::{Token, channel_fd, in_channel, received_fd};
    #[pymodule_export]
    use crate::queue::Queue;
    #[pymodule_export]
    use crate::semaphore::{BoundedSemaphore, Semaphore};

    #[pymodule_init]
    fn init(module: &pyo3::Bound<'_, pyo3::types::PyModule>) -> pyo3::PyResult<()> {
        use pyo3::types::PyModuleMethods;
        let py = module.py();
        if let Some(missing) = fastmp_core::sys::missing() {
            let text = format!("fastmp needs {missing}, which this system does not have or does not allow");
            return Err(pyo3::exceptions::PyImportError::new_err(text));
        }
        fastmp_core::facade::let_waits_come_up();
        crate::hot::install::<Lock>(py)?;
        crate::hot::install::<RLock>(py)?;
        crate::hot::install::<Semaphore>(py)?;
        crate::hot::install::<BoundedSemaphore>(py)?;
        crate::guarded::install(&py.get_type::<Guarded>())?;
        module.add("GuardedValue", crate::value::class(py)?)?;
        module.add("GuardedArray", crate::array::class(py)?)
    }
}
