//! Messages that were taken out of a channel, and whose receiver a signal handler interrupted.
//!
//! Handlers run Python code, which may raise, wherever the interpreter looks for signals. A message
//! is safe from that until it is taken out: no handler runs in between. From then on it is this
//! process's alone, and an exception would lose it. So what has not reached its receiver is kept
//! back and given to the next one, before all that is still in the channel:
//!
//! - A signal that has come by the time that the object is complete is seen to at once, where the
//!   interpreter would look for it right after the call. If its handler raises, the object is kept.
//! - Unpickling may run Python code, and so handlers. If what one of them raises ends it, the
//!   message is kept as it came. It is a handler's if the traceback goes through one, or if it is a
//!   `KeyboardInterrupt`: that is raised by C code, which leaves no trace. Nobody else's is kept
//!   for ever: `ATTEMPTS` times are enough.
//!
//! A forked child has none of them: they are its parent's.

use std::collections::VecDeque;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use fastmp_core::sys::fork;
use pyo3::exceptions::PyKeyboardInterrupt;
use pyo3::prelude::*;
use pyo3::types::{PyByteArray, PyBytes};

use super::pickler;

/// So often a message is unpickled that ends with a `KeyboardInterrupt` of unknown origin.
const ATTEMPTS: u32 = 3;

/// A pickled message as it came.
pub struct Stream<'py> {
    pub bytes: Bound<'py, PyBytes>,
    pub buffers: Option<Vec<Bound<'py, PyByteArray>>>,
    pub fds: Vec<OwnedFd>,
}

enum Message {
    Object(Py<PyAny>),
    Pickled { bytes: Py<PyBytes>, buffers: Option<Vec<Py<PyByteArray>>>, fds: Vec<OwnedFd>, attempts: u32 },
}

#[derive(Default)]
struct Messages {
    generation: u64,
    queue: VecDeque<Message>,
}

/// One channel's. See the module.
#[derive(Default)]
pub struct KeptBack {
    /// Does the interpreter not look for signals on the object's way to its receiver?
    is_uninterrupted: bool,
    /// How many there are, or were in the parent.
    count: AtomicUsize,
    messages: Mutex<Messages>,
}

impl KeptBack {
    /// Of a channel whose objects are taken by an operator (see `Take`).
    pub fn uninterrupted() -> KeptBack {
        KeptBack { is_uninterrupted: true, ..KeptBack::default() }
    }

    fn lock(&self) -> MutexGuard<'_, Messages> {
        let mut messages = self.messages.lock().unwrap_or_else(PoisonError::into_inner);
        if messages.generation != fork::generation() {
            messages.generation = fork::generation();
            // Not dropped, as that could run Python code under the lock; nor is it this process's
            // to say.
            std::mem::forget(std::mem::take(&mut messages.queue));
            self.count.store(0, Ordering::Relaxed);
        }
        messages
    }

    /// How many messages are kept.
    pub fn len(&self) -> usize {
        if self.count.load(Ordering::Relaxed) == 0 { 0 } else { self.lock().queue.len() }
    }

    fn push(&self, message: Message) {
        let mut messages = self.lock();
        // The latest one that was taken out goes behind those before it.
        messages.queue.push_back(message);
        self.count.store(messages.queue.len(), Ordering::Relaxed);
    }

    /// The first message that is kept, if any.
    #[inline]
    pub fn take<'py>(&self, py: Python<'py>) -> Option<PyResult<Bound<'py, PyAny>>> {
        if self.count.load(Ordering::Relaxed) == 0 { None } else { self.take_one(py) }
    }

    #[cold]
    fn take_one<'py>(&self, py: Python<'py>) -> Option<PyResult<Bound<'py, PyAny>>> {
        let message = {
            let mut messages = self.lock();
            let message = messages.queue.pop_front();
            self.count.store(messages.queue.len(), Ordering::Relaxed);
            message?
        };
        Some(match message {
            Message::Object(object) => self.hand_over(object.into_bound(py)),
            Message::Pickled { bytes, buffers, fds, attempts } => {
                let buffers = buffers.map(|buffers| buffers.into_iter().map(|buffer| buffer.into_bound(py)).collect());
                self.unpickle(Stream { bytes: bytes.into_bound(py), buffers, fds }, attempts)
            }
        })
    }

    /// Give `object` to whoever asked for it, if no handler raises first.
    #[inline]
    pub fn hand_over<'py>(&self, object: Bound<'py, PyAny>) -> PyResult<Bound<'py, PyAny>> {
        if self.is_uninterrupted {
            return Ok(object);
        }
        match object.py().check_signals() {
            Ok(()) => Ok(object),
            Err(e) => {
                self.push(Message::Object(object.unbind()));
                Err(e)
            }
        }
    }

    /// The object in `stream`, which was tried before so many times.
    pub fn unpickle<'py>(&self, stream: Stream<'py>, attempts: u32) -> PyResult<Bound<'py, PyAny>> {
        let py = stream.bytes.py();
        let Stream { bytes, buffers, fds } = stream;
        // Descriptors may be gone after an attempt: copies are what it gets. Where there are no
        // numbers left for copies it gets what came, which was secured, and it is the only attempt.
        let copies: Option<Vec<_>> = fds.iter().map(|fd| fd.try_clone().ok()).collect();
        let (given, fds) = match copies {
            Some(copies) => (copies, Some(fds)),
            None => (fds, None),
        };
        let error = match pickler::unpickle(&bytes, buffers.as_deref(), given) {
            Ok(object) => return self.hand_over(object),
            Err(error) => error,
        };
        if let Some(fds) = fds
            && (is_from_handler(py, &error) || (attempts < ATTEMPTS && error.is_instance_of::<PyKeyboardInterrupt>(py)))
        {
            let buffers = buffers.map(|buffers| buffers.into_iter().map(Bound::unbind).collect());
            self.push(Message::Pickled { bytes: bytes.unbind(), buffers, fds, attempts: attempts + 1 });
        }
        Err(error)
    }
}

/// Does its traceback go through a signal handler?
fn is_from_handler(py: Python<'_>, error: &PyErr) -> bool {
    let Some(traceback) = error.traceback(py) else { return false };
    let Ok(handlers) = handlers(py) else { return false };
    let mut entry = traceback.into_any();
    while !entry.is_none() {
        let code = entry.getattr("tb_frame").and_then(|frame| frame.getattr("f_code"));
        if code.is_ok_and(|code| handlers.iter().any(|handler| handler.is(&code))) {
            return true;
        }
        match entry.getattr("tb_next") {
            Ok(next) => entry = next,
            Err(_) => return false,
        }
    }
    false
}

/// The code of all handlers that are written in Python.
fn handlers(py: Python<'_>) -> PyResult<Vec<Bound<'_, PyAny>>> {
    let signal = py.import("signal")?;
    let mut found = Vec::new();
    for number in signal.call_method0("valid_signals")?.try_iter()? {
        let handler = signal.call_method1("getsignal", (number?,))?;
        // A function; a method; a partial; any other object with a `__call__`.
        let ways: [&[&str]; 4] =
            [&["__code__"], &["__func__", "__code__"], &["func", "__code__"], &["__call__", "__func__", "__code__"]];
        found.extend(
            ways.into_iter().find_map(|way| way.iter().try_fold(handler.clone(), |at, name| at.getattr(*name)).ok()),
        );
    }
    Ok(found)
}
