//! What a forked child does around its `run()`, in the usual case without the interpreter.
//!
//! Nearly all that a short-lived child costs are pages. Whatever it writes to is copied by the
//! kernel, at some 2 us a page; and in Python every name that is looked up and every object that is
//! touched is written to: its count of references, the cache of types' attributes, the code's own
//! counters. So here names are looked up in modules' dictionaries, and what is found there is
//! borrowed. All that the child needs anew its parent has made before, once for all of its children.
//!
//! Where anything is not as the stdlib has it - somebody has put a function in the place of one, or
//! there is something to do - the function that is there is called as ever.

mod borrowed;
mod launch;
mod names;
mod threads;

use std::mem::ManuallyDrop;
use std::os::fd::RawFd;
use std::sync::atomic::{AtomicBool, Ordering};

use fastmp_core::sys::fork::generation;
use fastmp_core::sys::{lifelines, starting};
use pyo3::exceptions::{PyAttributeError, PyOSError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyString};

use crate::errors::raise;
use crate::requeue::acknowledge;
use borrowed::{has_at_most, is, look};
use launch::{KnownTo, Start, ask};
use names::{Names, names};

pub use launch::{Ends, Launch};
pub use threads::reset_threading;

/// What a process has ready for the next child that it forks, and that child for itself.
#[pyclass(frozen, module = "fastmp._native", name = "_Child")]
pub struct Child {
    names: &'static Names,
    has: Has,
    used: AtomicBool,
}

struct Has {
    /// The dictionaries of `multiprocessing.process`, `.util` and `.context`, of `threading`, of
    /// `sys` and of `os`.
    process: Py<PyDict>,
    util: Py<PyDict>,
    context: Py<PyDict>,
    threading: Py<PyDict>,
    sys: Py<PyDict>,
    os: Py<PyDict>,
    /// The stdlib's functions, those that were its own when this package was imported.
    bootstrap: Option<Py<PyAny>>,
    after_fork: Option<Py<PyAny>>,
    run_after_forkers: Option<Py<PyAny>>,
    close_stdin: Option<Py<PyAny>>,
    exit_function: Option<Py<PyAny>>,
    shutdown: Option<Py<PyAny>>,
    flush_std_streams: Option<Py<PyAny>>,
    exit: Option<Py<PyAny>>,
    /// The default context's attributes.
    default_context: Py<PyDict>,
    /// The child's count of its children, the set of them, its parent, and the attributes of that.
    counter: Py<PyAny>,
    children: Py<PyAny>,
    parent: Py<PyAny>,
    parent_dict: Py<PyDict>,
    /// What it has for its standard input: an empty file, and the descriptor of that.
    stdin: Option<(Py<PyAny>, RawFd)>,
    /// What is called first, and last, where this Python's version has it so.
    enter: Option<Py<PyAny>>,
    leave: Option<Py<PyAny>>,
    /// Tells of an exception, and returns the exit code.
    ended_by: Py<PyAny>,
    /// Not used but held: to free them takes long.
    #[allow(dead_code)]
    held: Py<PyAny>,
}

impl Has {
    fn of(has: &Bound<'_, PyDict>) -> PyResult<Has> {
        let dict = |name| Ok::<_, PyErr>(item(has, name)?.cast_into::<PyDict>()?.unbind());
        let any = |name| Ok::<_, PyErr>(item(has, name)?.unbind());
        let own = |name| Ok::<_, PyErr>(Some(item(has, name)?).filter(|own| !own.is_none()).map(Bound::unbind));
        Ok(Has {
            process: dict("process")?,
            util: dict("util")?,
            context: dict("context")?,
            threading: dict("threading")?,
            sys: dict("sys")?,
            os: dict("os")?,
            bootstrap: own("bootstrap")?,
            after_fork: own("after_fork")?,
            run_after_forkers: own("run_after_forkers")?,
            close_stdin: own("close_stdin")?,
            exit_function: own("exit_function")?,
            shutdown: own("shutdown")?,
            flush_std_streams: own("flush_std_streams")?,
            exit: own("exit")?,
            default_context: dict("default_context")?,
            counter: any("counter")?,
            children: any("children")?,
            parent: any("parent")?,
            parent_dict: dict("parent_dict")?,
            stdin: item(has, "stdin")?.extract()?,
            enter: own("enter")?,
            leave: own("leave")?,
            ended_by: any("ended_by")?,
            held: any("held")?,
        })
    }
}

#[inline(never)]
fn item<'py>(has: &Bound<'py, PyDict>, name: &str) -> PyResult<Bound<'py, PyAny>> {
    has.as_any().get_item(name)
}

#[pymethods]
impl Child {
    #[new]
    fn new(has: &Bound<'_, PyDict>) -> PyResult<Self> {
        Ok(Child { names: names(has.py())?, has: Has::of(has)?, used: AtomicBool::new(false) })
    }

    /// Is it in use by this process itself?
    fn _is_used(&self) -> bool {
        self.used.load(Ordering::Relaxed)
    }

    /// Forks a child that runs a process object, of which `popen` and that object know when this
    /// returns, or raises: no step of Python's is between the fork and that, but for what hooks do.
    ///
    /// `open_pidfd` is asked for a pidfd of the child. `intent` is told in the child that the fork
    /// is over.
    ///
    /// Raises:
    /// - OSError: there was no memory or descriptors for it, or not the right to.
    /// - Whatever `os.fork` raises, if that is not the stdlib's.
    #[pyo3(signature = (obj, popen, open_pidfd, intent = None))]
    fn _fork(
        &self,
        obj: &Bound<'_, PyAny>,
        popen: &Bound<'_, PyAny>,
        open_pidfd: &Bound<'_, PyAny>,
        intent: Option<&Bound<'_, PyAny>>,
    ) -> PyResult<()> {
        let (py, names) = (obj.py(), self.names);
        let missing = || PyAttributeError::new_err(names.fork.clone_ref(py));
        let fork = self.has.os.bind(py).get_item(&names.fork)?.ok_or_else(missing)?;
        let start = Start::new().map_err(raise)?;
        let before = generation();
        start.give_to_next_child();
        // With all that it does besides: hooks, the import lock, the warning about threads.
        let forked = fork.call0().and_then(|pid| pid.extract::<i32>());
        if generation() != before || forked.as_ref().is_ok_and(|pid| *pid == 0) {
            let _end = End; // no child goes on as its parent, by an error, a panic or whatever
            let start = ManuallyDrop::new(start); // nothing of it is to be closed here
            let done = forked.and_then(|_| {
                intent.map_or(Ok(()), |intent| intent.setattr(&names.preserve_fd, false))?;
                self._run(obj, start.parent_sentinel(), true, Some(start.told()), None)
            });
            if let Err(e) = done {
                e.display(py); // never as `print`, by which a SystemExit ends the process
            }
            return Ok(());
        }
        let known_to = KnownTo { names, process: self.has.process.bind(py), obj, popen };
        start.parents().know(&known_to, forked?, |pid| ask(open_pidfd, pid), false)
    }

    /// Runs a process object as this process, and ends it.
    ///
    /// `unused` is closed first. `stdin`: it has its parent's standard input still. `ending` is
    /// called with the exit code last of all.
    #[pyo3(signature = (obj, parent_sentinel, stdin = true, unused = None, ending = None))]
    fn _run(
        &self,
        obj: &Bound<'_, PyAny>,
        parent_sentinel: RawFd,
        stdin: bool,
        unused: Option<RawFd>,
        ending: Option<Bound<'_, PyAny>>,
    ) -> PyResult<()> {
        let py = obj.py();
        self.used.store(true, Ordering::Relaxed);
        if let Some(fd) = unused {
            starting::close(fd);
        }
        // Not by the property, which is Python's code.
        let config = obj.getattr(&self.names.config)?.cast_into::<PyDict>()?;
        if config.get_item(&self.names.daemon)?.is_some_and(|is| is.is_truthy().unwrap_or(false)) {
            lifelines::die_with(parent_sentinel);
        }
        let code = self.bootstrap(obj, parent_sentinel, stdin);
        if let Some(leave) = &self.has.leave {
            leave.call0(py)?;
        }
        // To end so is to end normally: what was got from queues is dealt with.
        acknowledge(false);
        let code = code.unwrap_or_else(|e| {
            e.print(py);
            1
        });
        if let Some(ending) = ending {
            ending.call1((code,))?;
        }
        if is(&self.has.os, &self.names.exit, py, &self.has.exit) {
            starting::exit(code)
        }
        match self.has.os.bind(py).get_item(&self.names.exit)? {
            Some(exit) => exit.call1((code,)).map(drop),
            None => Ok(()),
        }
    }
}

/// This process ends where this goes out of scope.
struct End;

impl Drop for End {
    fn drop(&mut self) {
        starting::exit(1)
    }
}

impl Child {
    /// Returns the exit code.
    fn bootstrap(&self, obj: &Bound<'_, PyAny>, parent_sentinel: RawFd, stdin: bool) -> PyResult<i32> {
        let (py, names) = (obj.py(), self.names);
        if let Some(enter) = &self.has.enter {
            enter.call0(py)?;
        }
        // Of the stdlib's module, or somebody's? Asked now: they come and go.
        let bootstrap = obj.get_type().getattr(&names.bootstrap)?;
        if !self.has.bootstrap.as_ref().is_some_and(|own| bootstrap.is(own)) {
            let kwargs = PyDict::new(py);
            kwargs.set_item(&names.parent_sentinel, parent_sentinel)?;
            return obj.getattr(&names.bootstrap)?.call((), Some(&kwargs))?.extract();
        }
        let code = match self.run(obj, parent_sentinel, stdin) {
            Ok(()) => Ok(0),
            Err(e) => self.has.ended_by.call1(py, (obj, e.into_value(py))).and_then(|code| code.extract(py)),
        };
        self.end(py, *code.as_ref().unwrap_or(&1))?;
        code
    }

    fn run(&self, obj: &Bound<'_, PyAny>, parent_sentinel: RawFd, stdin: bool) -> PyResult<()> {
        self.begin(obj, parent_sentinel, stdin)?;
        let done = obj.call_method0(&self.names.run);
        // From 3.13 on it is one of those that `leave` calls.
        if self.has.leave.is_none() {
            self.exit(obj.py())?;
        }
        done.map(drop)
    }

    /// Make this process that of a process object.
    fn begin(&self, obj: &Bound<'_, PyAny>, parent_sentinel: RawFd, stdin: bool) -> PyResult<()> {
        let (py, names, has) = (obj.py(), self.names, &self.has);
        let method = obj.getattr(&names.start_method)?;
        if !method.is_none() {
            self.follow(&method)?;
        }
        let process = has.process.bind(py);
        process.set_item(&names.process_counter, &has.counter)?;
        process.set_item(&names.children, &has.children)?;
        if stdin {
            self.close_stdin(py)?;
        }
        let old = process.get_item(&names.current_process)?;
        process.set_item(&names.current_process, obj)?;
        let parent = has.parent_dict.bind(py);
        parent.set_item(&names.name, obj.getattr(&names.parent_name)?)?;
        parent.set_item(&names.pid, obj.getattr(&names.parent_pid)?)?;
        parent.set_item(&names.sentinel, parent_sentinel)?;
        process.set_item(&names.parent_process, &has.parent)?;
        if let Some(main) = has.threading.bind(py).get_item(&names.main_thread)? {
            main.setattr(&names.native_id, starting::thread_id())?;
        }
        let done = self.after_fork(obj);
        drop(old); // not before the hooks have run
        done?;
        self.log(py, || "child process calling self.run()".to_owned())
    }

    /// The default start method is this one from now on.
    fn follow(&self, method: &Bound<'_, PyAny>) -> PyResult<()> {
        let (py, names) = (method.py(), self.names);
        let Some(contexts) = self.has.context.bind(py).get_item(&names.concrete_contexts)? else { return Ok(()) };
        let concrete = contexts.get_item(method)?;
        if look(&self.has.default_context, &names.actual_context, py, |actual| actual.is(&concrete)) == Some(true) {
            return Ok(());
        }
        self.has.default_context.bind(py).set_item(&names.actual_context, concrete)
    }

    fn close_stdin(&self, py: Python<'_>) -> PyResult<()> {
        let has = &self.has;
        let own = is(&has.util, &self.names.close_stdin, py, &has.close_stdin);
        let sys = has.sys.bind(py);
        let (true, Some((empty, fd)), Some(stdin)) = (own, &has.stdin, sys.get_item(&self.names.stdin)?) else {
            return self.call(&has.util, &self.names.close_stdin, py);
        };
        if stdin.is_none() {
            return Ok(());
        }
        if !starting::is_null_device(*fd) {
            // Who daemonizes closes every descriptor.
            return self.call(&has.util, &self.names.close_stdin, py);
        }
        forgive(stdin.call_method0(&self.names.close), |e| {
            e.is_instance_of::<PyOSError>(py) || e.is_instance_of::<PyValueError>(py)
        })?;
        sys.set_item(&self.names.stdin, empty)
    }

    fn after_fork(&self, obj: &Bound<'_, PyAny>) -> PyResult<()> {
        let (py, names, has) = (obj.py(), self.names, &self.has);
        let hook = obj.getattr(&names.after_fork)?;
        let own = has.after_fork.as_ref().is_some_and(|own| hook.is(own))
            && is(&has.util, &names.run_after_forkers, py, &has.run_after_forkers);
        let registry = if own { has.util.bind(py).get_item(&names.afterfork_registry)? } else { None };
        match registry {
            Some(registry) if registry.getattr(&names.data)?.len()? == 0 => {}
            _ => return hook.call0().map(drop),
        }
        if has_at_most(&has.util, &names.finalizer_registry, py, 0) {
            return Ok(());
        }
        match has.util.bind(py).get_item(&names.finalizer_registry)? {
            Some(registry) => registry.call_method0(&names.clear).map(drop),
            None => Ok(()),
        }
    }

    /// What the stdlib's exit function would do.
    fn exit(&self, py: Python<'_>) -> PyResult<()> {
        let (names, has) = (self.names, &self.has);
        if is(&has.util, &names.exit_function, py, &has.exit_function)
            && has_at_most(&has.util, &names.finalizer_registry, py, 0)
            && has_at_most(&has.process, &names.children, py, 0)
            && has_at_most(&has.util, &names.logger, py, 0)
        {
            return has.util.bind(py).set_item(&names.exiting, true);
        }
        self.call(&has.util, &names.exit_function, py)
    }

    /// End what `run()` may have left.
    fn end(&self, py: Python<'_>, exit_code: i32) -> PyResult<()> {
        let (names, has) = (self.names, &self.has);
        let alone = is(&has.threading, &names.shutdown, py, &has.shutdown)
            && has_at_most(&has.threading, &names.active, py, 1)
            && has_at_most(&has.threading, &names.limbo, py, 0)
            && has_at_most(&has.threading, &names.threading_atexits, py, 0);
        if !alone {
            self.call(&has.threading, &names.shutdown, py)?;
        }
        self.log(py, || format!("process exiting with exitcode {exit_code}"))?;
        if !is(&has.util, &names.flush_std_streams, py, &has.flush_std_streams) {
            return self.call(&has.util, &names.flush_std_streams, py);
        }
        for name in [&names.stdout, &names.stderr] {
            if let Some(stream) = has.sys.bind(py).get_item(name)? {
                forgive(stream.call_method0(&names.flush), |e| {
                    e.is_instance_of::<PyAttributeError>(py) || e.is_instance_of::<PyValueError>(py)
                })?;
            }
        }
        Ok(())
    }

    fn log(&self, py: Python<'_>, text: impl FnOnce() -> String) -> PyResult<()> {
        if has_at_most(&self.has.util, &self.names.logger, py, 0) {
            return Ok(());
        }
        match self.has.util.bind(py).get_item(&self.names.info)? {
            Some(info) => info.call1((text(),)).map(drop),
            None => Ok(()),
        }
    }

    fn call(&self, module: &Py<PyDict>, function: &Py<PyString>, py: Python<'_>) -> PyResult<()> {
        match module.bind(py).get_item(function)? {
            Some(function) => function.call0().map(drop),
            None => Err(PyAttributeError::new_err(function.clone_ref(py))),
        }
    }
}

/// Errors that are `minor` are passed over.
fn forgive<T>(done: PyResult<T>, minor: impl FnOnce(&PyErr) -> bool) -> PyResult<()> {
    match done {
        Err(e) if !minor(&e) => Err(e),
        _ => Ok(()),
    }
}
