//! Python bindings of `fastmp-core`: conversions and waiting, no logic of their own.

mod asynchronous;
mod batch;
mod blocking;
mod bootstrap;
mod broadcast;
mod capi;
mod closing;
mod connection;
mod descriptor;
mod errors;
mod handles;
mod message;
mod once;
mod queue;
mod requeue;
mod sharedctypes;
mod specialize;
mod starting;
mod synchronize;

/// The native half of fastmp.
#[pyo3::pymodule(gil_used = false)]
mod _native {
    #[pymodule_export]
    use crate::asynchronous::{Message, arm, prepare};
    #[pymodule_export]
    use crate::batch::put_many;
    #[pymodule_export]
    use crate::bootstrap::{Child, Ends, Launch, reset_threading};
    #[pymodule_export]
    use crate::broadcast::{Broadcast, BroadcastReader};
    #[pymodule_export]
    use crate::connection::{Connection, new_pipe};
    #[pymodule_export]
    use crate::descriptor::{Descriptor, beside_standard, pipe, socket_pair};
    #[pymodule_export]
    use crate::errors::{CorruptedError, OwnerDiedWarning};
    #[pymodule_export]
    use crate::message::channel_fds::{Token, channel_fd, in_channel, received_fd};
    #[pymodule_export]
    use crate::requeue::acknowledge;
    #[pymodule_export]
    use crate::sharedctypes::guarded::Guarded;
    #[pymodule_export]
    use crate::sharedctypes::memory::Block;
    #[pymodule_export]
    use crate::specialize::own_descriptors;
    #[pymodule_export]
    use crate::starting::{
        close_all, close_same, data_file, die_with, ended, inode, keep_lifeline, make_line, open_child, reap,
        receive_packet, send_packet, send_self, share_lifeline,
    };
    #[pymodule_export]
    use crate::synchronize::barrier::Barrier;
    #[pymodule_export]
    use crate::synchronize::condition::Condvar;
    #[pymodule_export]
    use crate::synchronize::event::Event;
    #[pymodule_export]
    use crate::synchronize::lock::{Lock, RLock};
    #[pymodule_export]
    use crate::synchronize::semaphore::{BoundedSemaphore, Semaphore};

    #[pymodule_init]
    fn init(module: &pyo3::Bound<'_, pyo3::types::PyModule>) -> pyo3::PyResult<()> {
        use pyo3::types::PyModuleMethods;

        use crate::capi::construct::class;

        use crate::asynchronous::{PutNow, TakeNow, answers};
        use crate::broadcast::RecvBroadcast;
        use crate::capi::operator;
        use crate::connection::{Recv, RecvBytes, RecvBytesInto};
        use crate::queue::Queue;

        let py = module.py();
        if let Some(missing) = fastmp_core::sys::missing() {
            let text = format!("fastmp needs {missing}, which this system does not have or does not allow");
            return Err(pyo3::exceptions::PyImportError::new_err(text));
        }
        fastmp_core::facade::return_for_signals();
        fastmp_core::objects::prepare();
        fastmp_core::channel::extents::watch_forks();
        crate::capi::fast_methods::install::<Lock>(py)?;
        crate::capi::fast_methods::install::<RLock>(py)?;
        crate::capi::fast_methods::install::<Semaphore>(py)?;
        crate::capi::fast_methods::install::<BoundedSemaphore>(py)?;
        crate::sharedctypes::guarded::install(&py.get_type::<Guarded>())?;
        crate::connection::install(&py.get_type::<Connection>())?;
        crate::queue::install(&py.get_type::<Queue>())?;
        module.add("Queue", crate::queue::class(py)?)?;
        module.add("_call", operator::new::<operator::Call>(py, c"fastmp._native.Call")?)?;
        module.add("_get", operator::new::<crate::queue::Get>(py, c"fastmp._native.Get")?)?;
        module.add("_get_many", operator::new::<crate::batch::GetMany>(py, c"fastmp._native.GetMany")?)?;
        module.add("_recv_broadcast", operator::new::<RecvBroadcast>(py, c"fastmp._native.RecvBroadcast")?)?;
        module.add("_recv", operator::new::<Recv>(py, c"fastmp._native.Recv")?)?;
        module.add("_recv_bytes", operator::new::<RecvBytes>(py, c"fastmp._native.RecvBytes")?)?;
        module.add("_recv_bytes_into", operator::new::<RecvBytesInto>(py, c"fastmp._native.RecvBytesInto")?)?;
        module.add("_take_now", operator::new::<TakeNow>(py, c"fastmp._native.TakeNow")?)?;
        module.add("_put_now", operator::new::<PutNow>(py, c"fastmp._native.PutNow")?)?;
        for (name, answer) in answers(py)? {
            module.add(name, answer)?;
        }
        module.add("Lock", class::<Lock>(py, c"fastmp._native.Lock")?)?;
        module.add("RLock", class::<RLock>(py, c"fastmp._native.RLock")?)?;
        module.add("Semaphore", class::<Semaphore>(py, c"fastmp._native.Semaphore")?)?;
        module.add("BoundedSemaphore", class::<BoundedSemaphore>(py, c"fastmp._native.BoundedSemaphore")?)?;
        module.add("Event", class::<Event>(py, c"fastmp._native.Event")?)?;
        module.add("GuardedValue", crate::sharedctypes::value::class(py)?)?;
        module.add("GuardedArray", crate::sharedctypes::array::class(py)?)
    }
}
