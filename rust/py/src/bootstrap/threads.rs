//! What `threading` does in a forked child, where that has but the main thread.

use fastmp_core::sys::starting;
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyString};

use super::borrowed::{has_at_most, is_only_value, look};
use super::names::names;

/// Does what `threading`'s hook does in a child whose only thread was its parent's only one, in
/// that module's dictionary; False: it is not such a child, or not such a module, and nothing has
/// been done.
#[pyfunction]
#[pyo3(name = "_reset_threading")]
pub fn reset_threading(threading: &Bound<'_, PyDict>) -> PyResult<bool> {
    let (py, names) = (threading.py(), names(threading.py())?);
    let found = |name: &Py<PyString>| threading.get_item(name);
    let dict = threading.as_unbound();
    let Some(main) = found(&names.main_thread)? else { return Ok(false) };
    let class = main.get_type_ptr().cast();
    if look(dict, &names.main_thread_class, py, |its| its.as_ptr() == class) != Some(true)
        || !is_only_value(dict, &names.active, py, &main)
        || !has_at_most(dict, &names.limbo, py, 0)
        || main.getattr(&names.ident)?.extract::<u64>().ok() != Some(starting::this_thread())
    {
        return Ok(false);
    }
    // It is in there itself.
    let Some(dangling) = found(&names.dangling)? else { return Ok(false) };
    if dangling.getattr(&names.data)?.len()? != 1 {
        return Ok(false);
    }
    for lock in [&names.active_limbo_lock, &names.shutdown_locks_lock] {
        if let Some(lock) = found(lock)? {
            lock.call_method0(&names.at_fork_reinit)?;
        }
    }
    if !has_at_most(dict, &names.shutdown_locks, py, 0) {
        found(&names.shutdown_locks)?.map(|locks| locks.call_method0(&names.clear)).transpose()?;
    }
    let condition = main.getattr(&names.started)?.getattr(&names.cond)?;
    condition.getattr(&names.lock)?.call_method0(&names.at_fork_reinit)?;
    let waiters = condition.getattr(&names.waiters)?;
    if waiters.len()? > 0 {
        waiters.call_method0(&names.clear)?;
    }
    let lock = main.getattr(&names.tstate_lock)?;
    if !lock.is_none() {
        lock.call_method0(&names.at_fork_reinit)?;
        lock.call_method0(&names.acquire)?;
    }
    Ok(true)
}
