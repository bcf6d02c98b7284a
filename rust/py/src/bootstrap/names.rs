//! The names that are looked up in a forked child: made before, for to make one there copies pages.

use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::PyString;

use crate::once::once;

macro_rules! names {
    ($($field:ident = $name:literal),* $(,)?) => {
        /// See the module.
        pub struct Names {
            $(pub $field: Py<PyString>,)*
        }

        impl Names {
            fn new(py: Python<'_>) -> Names {
                Names { $($field: interned(py, $name),)* }
            }
        }
    };
}

names! {
    acquire = "acquire",
    active = "_active",
    active_limbo_lock = "_active_limbo_lock",
    actual_context = "_actual_context",
    after_fork = "_after_fork",
    afterfork_registry = "_afterfork_registry",
    at_fork_reinit = "_at_fork_reinit",
    bootstrap = "_bootstrap",
    children = "_children",
    clear = "clear",
    close = "close",
    close_stdin = "_close_stdin",
    concrete_contexts = "_concrete_contexts",
    cond = "_cond",
    config = "_config",
    current_process = "_current_process",
    daemon = "daemon",
    dangling = "_dangling",
    data = "data",
    exit = "_exit",
    exit_function = "_exit_function",
    exiting = "_exiting",
    ends = "_ends",
    finalizer_registry = "_finalizer_registry",
    flush = "flush",
    flush_std_streams = "_flush_std_streams",
    fork = "fork",
    ident = "_ident",
    info = "info",
    its_pid = "pid",
    its_sentinel = "sentinel",
    limbo = "_limbo",
    lock = "_lock",
    logger = "_logger",
    main_thread = "_main_thread",
    main_thread_class = "_MainThread",
    name = "_name",
    native_id = "_native_id",
    parent_name = "_parent_name",
    parent_pid = "_parent_pid",
    parent_process = "_parent_process",
    parent_sentinel = "parent_sentinel",
    pid = "_pid",
    pidfd = "_pidfd",
    popen = "_popen",
    preserve_fd = "preserve_fd",
    process_counter = "_process_counter",
    run = "run",
    run_after_forkers = "_run_after_forkers",
    sentinel = "_sentinel",
    shutdown = "_shutdown",
    shutdown_locks = "_shutdown_locks",
    shutdown_locks_lock = "_shutdown_locks_lock",
    start_method = "_start_method",
    started = "_started",
    stderr = "stderr",
    stdin = "stdin",
    stdout = "stdout",
    threading_atexits = "_threading_atexits",
    tstate_lock = "_tstate_lock",
    waiters = "_waiters",
}

#[inline(never)]
fn interned(py: Python<'_>, name: &str) -> Py<PyString> {
    PyString::intern(py, name).unbind()
}

/// They are made at the first call.
pub fn names(py: Python<'_>) -> PyResult<&'static Names> {
    static NAMES: PyOnceLock<Names> = PyOnceLock::new();
    once(py, &NAMES, || Ok(Names::new(py)))
}
