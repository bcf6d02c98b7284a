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
        its.set_item(&names.lifeline, self.lifeline.into_number())?;
        its.set_item(&names.owner, std::process::id())?;
        match (told, pidfd) {
            (Some(told), Some(pidfd)) => its.set_item(&names.owned, (told, pidfd))?,
            _ => its.set_item(&names.owned, (sentinel,))?,
        }
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

/// What a start by another program has, until its child is known, or it has failed.
#[pyclass(frozen, module = "fastmp._native", name = "_Launch")]
pub struct Launch {
    process: Py<PyDict>,
    names: &'static Names,
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

impl Launch {
    fn to_know<'a, 'py>(&'a self, obj: &'a Bound<'py, PyAny>, popen: &'a Bound<'py, PyAny>) -> KnownTo<'a, 'py> {
        KnownTo { names: self.names, process: self.process.bind(obj.py()), obj, popen }
    }

    /// The parent's ends, if there is still anything to know.
    fn parents(&self) -> Option<Parents> {
        locked(&self.start).take().map(Start::parents)
    }
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[pymethods]
impl Launch {
    /// `process`: the dictionary of `multiprocessing.process`.
    ///
    /// Raises:
    /// - OSError: no descriptors are to be had.
    #[new]
    fn new(process: &Bound<'_, PyDict>) -> PyResult<Launch> {
        let data = starting::data_file("fastmp:start").map_err(raise)?;
        let start = Start::new().map_err(raise)?;
        Ok(Launch {
            process: process.clone().unbind(),
            names: names(process.py())?,
            data_fd: data.as_raw_fd(),
            told: start.told(),
            lifeline: start.0.childs.number(),
            parent_sentinel: start.parent_sentinel(),
            data: Mutex::new(Some(data)),
            start: Mutex::new(Some(start)),
        })
    }

    /// The next child that this thread forks is the one that is started.
    fn _give_to_next_child(&self) {
        if let Some(start) = locked(&self.start).as_ref() {
            start.give_to_next_child();
        }
    }

    /// Writes down a child in `popen`, `obj` and among the children, in one step; the next call finds
    /// nothing to do.
    fn _know(
        &self,
        obj: &Bound<'_, PyAny>,
        popen: &Bound<'_, PyAny>,
        pid: i32,
        open_pidfd: &Bound<'_, PyAny>,
    ) -> PyResult<()> {
        let Some(parents) = self.parents() else { return Ok(()) };
        parents.know(&self.to_know(obj, popen), pid, |pid| ask(open_pidfd, pid), false)
    }

    /// The same of one of which a pidfd has come, if any: it is taken from `fds`. The pipe is kept
    /// beside it.
    fn _know_by(
        &self,
        obj: &Bound<'_, PyAny>,
        popen: &Bound<'_, PyAny>,
        pid: i32,
        fds: &Bound<'_, PyList>,
    ) -> PyResult<()> {
        let pidfd = |_| match fds.len() {
            0 => Ok(None),
            _ => {
                let pidfd = fds.get_item(0)?.extract()?;
                fds.del_item(0)?;
                Ok(Some(pidfd))
            }
        };
        let Some(parents) = self.parents() else { return Ok(()) };
        parents.know(&self.to_know(obj, popen), pid, pidfd, true)
    }

    /// Closes what is left; the next call finds nothing.
    fn _close(&self) {
        drop(locked(&self.data).take());
        drop(locked(&self.start).take());
    }
}
