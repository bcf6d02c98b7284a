//! Descriptors that ride along with a message: collected while an object is pickled for a channel,
//! handed out while it is unpickled.

use std::cell::RefCell;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd, RawFd};

use fastmp_core::objects::Handle;
use fastmp_core::sys::socket::MAX_FDS;
use pyo3::exceptions::{PyRuntimeError, PyValueError};
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;

use crate::descriptor::Descriptor;
use crate::once::imported;

/// A descriptor that keeps an object's memory while a handle to it is under way.
// Until it is dropped the numbers stay open too.
#[pyclass(frozen, module = "fastmp._native")]
pub struct Token {
    handle: Handle,
}

impl Token {
    /// That of `handle`.
    pub fn new(handle: Handle) -> Token {
        Token { handle }
    }
}

#[pymethods]
impl Token {
    /// The descriptor, that of the object's segment if there is no token.
    fn fileno(&self) -> RawFd {
        self.handle.token().as_raw_fd()
    }
}

/// What is to be done if a message that was pickled, or was about to be, goes nowhere.
#[derive(Default)]
pub struct Undo(Vec<Box<dyn FnOnce() + Send + Sync>>);

impl Undo {
    /// Do it.
    pub fn run(self) {
        self.0.into_iter().for_each(|undo| undo());
    }
}

/// What is collected for one message.
struct Collected {
    /// The process that was being started when the pickling of this message began, if any.
    spawning: Option<Py<PyAny>>,
    /// Each copy, with the number that others may share it by. That stays open until the message is
    /// complete, by whoever lends it or by the token.
    fds: Vec<(Option<RawFd>, OwnedFd)>,
    tokens: Vec<Handle>,
    /// The one under which other blocks may leave, too.
    shared: Option<Handle>,
    undo: Undo,
}

thread_local! {
    static SENDING: RefCell<Option<Collected>> = const { RefCell::new(None) };
    static RECEIVED: RefCell<Vec<Arrived>> = const { RefCell::new(Vec::new()) };
}

/// A descriptor of the message that is being unpickled.
enum Arrived {
    Fd(OwnedFd),
    /// One that blocks share.
    Shared(Py<Descriptor>),
    /// Gone to its one object.
    Taken,
}

/// The handle under which other blocks may leave in the message being pickled.
pub fn shared() -> Option<Handle> {
    SENDING.with_borrow(|sending| sending.as_ref().and_then(|sending| sending.shared.clone()))
}

/// Run `f` with an empty collection; gives what it collected. What an outer message was collecting
/// stays apart. `spawning` is the process that is being started, if any.
pub fn collecting<T>(
    spawning: Option<Bound<'_, PyAny>>,
    f: impl FnOnce() -> PyResult<T>,
) -> PyResult<(T, Vec<OwnedFd>, Undo)> {
    let spawning = spawning.filter(|popen| !popen.is_none()).map(Bound::unbind);
    let mine = Collected { spawning, fds: Vec::new(), tokens: Vec::new(), shared: None, undo: Undo::default() };
    let outer = SENDING.replace(Some(mine));
    let result = f();
    let mine = SENDING.replace(outer);
    let Some(mine) = mine else { return result.map(|value| (value, Vec::new(), Undo::default())) };
    let fds = mine.fds.into_iter().map(|(_, copy)| copy).collect();
    match result {
        Ok(value) => Ok((value, fds, mine.undo)),
        Err(error) => {
            mine.undo.run();
            Err(error)
        }
    }
}

/// Have this done if the message that is being pickled goes nowhere: if pickling fails, or who
/// sends it refuses it.
pub fn if_it_fails(undo: impl FnOnce() + Send + Sync + 'static) {
    SENDING.with_borrow_mut(|sending| {
        if let Some(mine) = sending {
            mine.undo.0.push(Box::new(undo));
        }
    });
}

/// Run `f` with these descriptors to hand out.
pub fn handing_out<T>(fds: Vec<OwnedFd>, f: impl FnOnce() -> T) -> T {
    let outer = RECEIVED.replace(fds.into_iter().map(Arrived::Fd).collect());
    let result = f();
    drop(RECEIVED.replace(outer));
    result
}

/// Whether this thread is pickling a message for a channel of ours.
// The innermost pickling counts: while a message is pickled a process may be started, and the other
// way round.
#[pyfunction]
#[pyo3(name = "_in_channel")]
pub fn in_channel(py: Python<'_>) -> PyResult<bool> {
    static GET: PyOnceLock<Py<PyAny>> = PyOnceLock::new();
    let known = SENDING.with_borrow(|sending| {
        sending.as_ref().map(|mine| mine.spawning.as_ref().map_or(std::ptr::null_mut(), Py::as_ptr))
    });
    let Some(known) = known else { return Ok(false) };
    let popen = imported(py, &GET, "multiprocessing.context", "get_spawning_popen")?.call0()?;
    Ok(popen.is_none() || popen.as_ptr() == known)
}

/// Sends a descriptor with the message that is being pickled; returns its index there.
///
/// Unless it is for one object's own use, it has the same index each time.
///
/// Raises:
/// - RuntimeError: no message is being pickled in this thread.
// The descriptor stays open until the message is sent: what is being pickled owns it.
#[pyfunction]
#[pyo3(name = "_channel_fd")]
#[allow(unsafe_code)]
pub fn channel_fd(fd: &Bound<'_, PyAny>, own: bool) -> PyResult<usize> {
    let token = fd.cast::<Token>().ok().map(|token| &token.get().handle);
    let fd: RawFd = match token {
        Some(handle) => handle.token().as_raw_fd(),
        None => fd.extract()?,
    };
    SENDING.with_borrow_mut(|sending| {
        let Some(Collected { fds, tokens, shared, .. }) = sending else {
            return Err(PyRuntimeError::new_err("no message is being pickled for a channel that carries descriptors"));
        };
        if let Some(index) = fds.iter().position(|(known, _)| *known == Some(fd))
            && !own
        {
            return Ok(index);
        }
        if fds.len() >= MAX_FDS {
            return Err(PyValueError::new_err(format!("a message can carry at most {MAX_FDS} descriptors")));
        }
        if fd < 0 {
            return Err(crate::errors::os_error(libc::EBADF));
        }
        // SAFETY: not -1, and borrowed for this call alone; if it is not open, the copy fails with
        // EBADF.
        let copy = unsafe { BorrowedFd::borrow_raw(fd) }.try_clone_to_owned()?;
        fds.push(((!own).then_some(fd), copy));
        tokens.extend(token.cloned());
        *shared = shared.take().or_else(|| token.filter(|handle| handle.is_shared()).cloned());
        Ok(fds.len() - 1)
    })
}

/// Returns a descriptor that came with the message being unpickled.
///
/// Raises:
/// - RuntimeError: no message is being unpickled in this thread, or another has taken it for its
///   own.
// It is there already: what the message needs was secured before the message was taken.
#[pyfunction]
#[pyo3(name = "_received_fd")]
pub fn received_fd(py: Python<'_>, index: usize, own: bool) -> PyResult<Py<Descriptor>> {
    RECEIVED.with_borrow_mut(|arrived| {
        let missing = || PyRuntimeError::new_err("this object can only be unpickled where its message is received");
        let one = arrived.get_mut(index).ok_or_else(missing)?;
        match std::mem::replace(one, Arrived::Taken) {
            Arrived::Fd(fd) => {
                let descriptor = Py::new(py, Descriptor::received(fd, own))?;
                if !own {
                    *one = Arrived::Shared(descriptor.clone_ref(py));
                }
                Ok(descriptor)
            }
            Arrived::Shared(descriptor) => {
                *one = Arrived::Shared(descriptor.clone_ref(py));
                Ok(descriptor)
            }
            Arrived::Taken => Err(missing()),
        }
    })
}
