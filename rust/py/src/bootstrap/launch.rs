//! What a start makes in the parent, and the step by which its child becomes known.
//!
//! Python runs signal handlers between its own steps, and one that raises loses what the last step
//! has returned. So the descriptors are closed with the object that has them, and a child is written
//! down in one go: in its handle, in its process object and among this process's children. What may
//! be lost all the same is what tracers, which put functions of Python's in the place of the stdlib's,
//! lose themselves.

use std::os::fd::{AsRawFd, IntoRawFd, OwnedFd, RawFd};
use std::sync::{Mutex, MutexGuard, PoisonError};

use fastmp_core::Result;
use fastmp_core::sys::fork::generation;
use fastmp_core::sys::lifelines::{self, Kept};
use fastmp_core::sys::starting;
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyList, PySet};

use super::borrowed::attributes;
use super::names::{Names, names};
use crate::errors::raise;

/// The pipes of a start, which are closed with it.
pub struct Start(lifelines::Both);

impl Start {
    pub fn new() -> Result<Start> {
        lifelines::make_both().map(Start)
    }

    pub fn told(&self) -> RawFd {
        self.0.told.as_raw_fd()
    }

    /// The child that this thread forks next holds its end of it.
    pub fn give_to_next_child(&self) {
        self.0.childs.give_to_next_child();
    }

    pub fn parent_sentinel(&self) -> RawFd {
        self.0.parent_sentinel.as_raw_fd()
    }

    /// What the parent keeps, once there is a child.
    pub fn parents(self) -> Parents {
        Parents { told: self.0.told, lifeline: self.0.lifeline }
    }
}

/// The parent's ends of them.
pub struct Parents {
    told: OwnedFd,
    lifeline: Kept,
}

/// Who is told of a child.
pub struct KnownTo<'a, 'py> {
    pub names: &'static Names,
    /// The dictionary of `multiprocessing.process`.
    pub process: &'a Bound<'py, PyDict>,
    pub obj: &'a Bound<'py, PyAny>,
    pub popen: &'a Bound<'py, PyAny>,
}

/// Ask for a pidfd.
pub fn ask(open_pidfd: &Bound<'_, PyAny>, pid: i32) -> PyResult<Option<RawFd>> {
    open_pidfd.call1((pid,))?.extract()
}

impl Parents {
    /// Write down a child. `keeps_told`: also beside a pidfd. An error of `pidfd` comes out after that.
    pub fn know(
        self,
        to: &KnownTo<'_, '_>,
        pid: i32,
        pidfd: impl FnOnce(i32) -> PyResult<Option<RawFd>>,
        keeps_told: bool,
    ) -> PyResult<()> {
        let (names, its) = (to.names, attributes(to.popen)?);
        let asked = pidfd(pid);
        let pidfd = asked.as_ref().ok().copied().flatten();
        let told = if pidfd.is_none() || keeps_told { Some(self.told.into_raw_fd()) } else { None };
        let Some(sentinel) = pidfd.or(told) else { return Ok(()) };
        let files = told.into_iter().chain(pidfd).map(|fd| (fd, starting::inode(fd).unwrap_or_default())).collect();
        let held = Some(Held { _lifeline: self.lifeline, files });
        its.set_item(&names.ends, Ends { owner: std::process::id(), held: Mutex::new(held) })?;
        if pidfd.is_some() {
            its.set_item(&names.pidfd, pidfd)?;
        }
        its.set_item(&names.its_sentinel, sentinel)?;
        its.set_item(&names.its_pid, pid)?;
        // As `start()` does when it gets the handle.
        if let Ok(its) = attributes(to.obj) {
            its.set_item(&names.sentinel, sentinel)?;
            its.set_item(&names.popen, to.popen)?;
        }
        if let Some(children) = to.process.get_item(&names.children)?
            && let Ok(children) = children.cast::<PySet>()
        {
            children.add(to.obj)?;
        }
        asked.map(drop)
    }
}

struct Held {
    _lifeline: Kept,
    /// Numbers, and the files behind them.
    files: Vec<(RawFd, u64)>,
}

/// What a child's handle has open, which is closed with it.
#[pyclass(frozen, module = "fastmp._native", name = "_Ends")]
pub struct Ends {
    owner: u32,
    held: Mutex<Option<Held>>,
}

#[pymethods]
impl Ends {
    /// Closes them; the next call finds nothing. A copy in a forked child has nothing of its parent's
    /// to close.
    fn _close(&self) {
        // Who has the lock closes them; in a forked child nobody may have it any more.
        let Some(held) = self.held.try_lock().ok().and_then(|mut held| held.take()) else { return };
        if self.owner != std::process::id() {
            std::mem::forget(held);
            return;
        }
        for (fd, file) in held.files {
            starting::close_same(fd, file);
        }
    }
}

impl Drop for Ends {
    fn drop(&mut self) {
        self._close();
    }
}

/// What a start by another program has, until its child is known, or it has failed.
#[pyclass(frozen, module = "fastmp._native", name = "_Launch")]
pub struct Launch {
    names: &'static Names,
    /// Until it is closed: an exception that the process object keeps may keep this.
    of: Mutex<Option<Of>>,
    generation: u64,
    data: Mutex<Option<OwnedFd>>,
    start: Mutex<Option<Start>>,
    /// Their numbers.
    #[pyo3(get, name = "data")]
    data_fd: RawFd,
    #[pyo3(get)]
    told: RawFd,
    #[pyo3(get)]
    lifeline: RawFd,
    #[pyo3(get)]
    parent_sentinel: RawFd,
}

/// What a start is about.
struct Of {
    process: Py<PyDict>,
    obj: Py<PyAny>,
    popen: Py<PyAny>,
    open_pidfd: Py<PyAny>,
    pids: Py<PyList>,
}

impl Of {
    fn clone_ref(&self, py: Python<'_>) -> Of {
        Of {
            process: self.process.clone_ref(py),
            obj: self.obj.clone_ref(py),
            popen: self.popen.clone_ref(py),
            open_pidfd: self.open_pidfd.clone_ref(py),
            pids: self.pids.clone_ref(py),
        }
    }
}

impl Launch {
    fn of(&self, py: Python<'_>) -> Option<Of> {
        locked(&self.of).as_ref().map(|of| of.clone_ref(py))
    }

    fn know(
        &self,
        of: &Of,
        py: Python<'_>,
        pid: i32,
        pidfd: impl FnOnce(i32) -> PyResult<Option<RawFd>>,
        keeps_told: bool,
    ) -> PyResult<()> {
        let Some(start) = locked(&self.start).take() else { return Ok(()) };
        let (process, obj, popen) = (of.process.bind(py), of.obj.bind(py), of.popen.bind(py));
        start.parents().know(&KnownTo { names: self.names, process, obj, popen }, pid, pidfd, keeps_told)
    }

    fn know_first(&self, of: &Of, py: Python<'_>) -> PyResult<()> {
        let pid = of.pids.bind(py).get_item(0)?.extract()?;
        self.know(of, py, pid, |pid| ask(of.open_pidfd.bind(py), pid), false)
    }
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[pymethods]
impl Launch {
    /// `process`: the dictionary of `multiprocessing.process`. `pids`: gets the child's, where this
    /// process itself starts it. `open_pidfd` is asked for a pidfd of that.
    ///
    /// Raises:
    /// - OSError: no descriptors are to be had.
    #[new]
    fn new(
        process: &Bound<'_, PyDict>,
        obj: &Bound<'_, PyAny>,
        popen: &Bound<'_, PyAny>,
        open_pidfd: &Bound<'_, PyAny>,
        pids: &Bound<'_, PyList>,
    ) -> PyResult<Launch> {
        let data = starting::data_file("fastmp:start").map_err(raise)?;
        let start = Start::new().map_err(raise)?;
        Ok(Launch {
            names: names(process.py())?,
            of: Mutex::new(Some(Of {
                process: process.clone().unbind(),
                obj: obj.clone().unbind(),
                popen: popen.clone().unbind(),
                open_pidfd: open_pidfd.clone().unbind(),
                pids: pids.clone().unbind(),
            })),
            generation: generation(),
            data_fd: data.as_raw_fd(),
            told: start.told(),
            lifeline: start.0.childs.number(),
            parent_sentinel: start.parent_sentinel(),
            data: Mutex::new(Some(data)),
            start: Mutex::new(Some(start)),
        })
    }

    /// Is this the process that starts it, and no copy that a signal handler has forked meanwhile?
    fn _is_here(&self) -> bool {
        self.generation == generation()
    }

    /// The next child that this thread forks is the one that is started.
    fn _give_to_next_child(&self) {
        if let Some(start) = locked(&self.start).as_ref() {
            start.give_to_next_child();
        }
    }

    /// Writes down the child of the pid that has come, in `popen`, `obj` and among the children, in one
    /// step; the next call finds nothing to do.
    fn _know(&self, py: Python<'_>) -> PyResult<()> {
        self.of(py).map_or(Ok(()), |of| self.know_first(&of, py))
    }

    /// The same of one that another process has started. A pidfd may have come: it is taken from `fds`.
    /// The pipe is kept beside it.
    fn _know_by(&self, pid: i32, fds: &Bound<'_, PyList>) -> PyResult<()> {
        let pidfd = |_| match fds.len() {
            0 => Ok(None),
            _ => {
                let pidfd = fds.get_item(0)?.extract()?;
                fds.del_item(0)?;
                Ok(Some(pidfd))
            }
        };
        let py = fds.py();
        self.of(py).map_or(Ok(()), |of| self.know(&of, py, pid, pidfd, true))
    }

    /// Closes what is left; the next call finds nothing. A child of which the pid has come is known
    /// then; any other that is not known finds nothing to run.
    fn _close(&self, py: Python<'_>) -> PyResult<()> {
        let of = locked(&self.of).take();
        let known = match &of {
            Some(of) if self._is_here() && !of.pids.bind(py).is_empty() => self.know_first(of, py),
            _ => Ok(()),
        };
        let data = locked(&self.data).take();
        let start = locked(&self.start).take();
        if let (Some(data), Some(_), true) = (data, start, self._is_here()) {
            starting::empty(&data);
        }
        known
    }
}
