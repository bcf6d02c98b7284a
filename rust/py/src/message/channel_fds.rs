//! Descriptors that ride along with a message: collected while an object is pickled for a channel, handed out while it
//! is unpickled.

use std::cell::RefCell;
use std::os::fd::{AsRawFd, BorrowedFd, IntoRawFd, OwnedFd, RawFd};

use fastmp_core::objects::Handle;
use fastmp_core::sys::socket::MAX_FDS;
use pyo3::exceptions::{PyRuntimeError, PyValueError};
use pyo3::prelude::*;

/// A token's descriptor under way. Until it is dropped the block that it goes with counts as reachable, and the
/// numbers stay open.
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
    /// The descriptor's number.
    fn fileno(&self) -> RawFd {
        self.handle.token().as_raw_fd()
    }
}

/// What is collected for one message.
#[derive(Default)]
struct Collected {
    /// Each number with its copy. It stays open until the message is complete, by whoever lends it or by the token.
    fds: Vec<(RawFd, OwnedFd)>,
    tokens: Vec<Handle>,
    /// The one under which other blocks may leave, too.
    shared: Option<Handle>,
}

thread_local! {
    static SENDING: RefCell<Option<Collected>> = const { RefCell::new(None) };
    static RECEIVED: RefCell<Vec<OwnedFd>> = const { RefCell::new(Vec::new()) };
}

/// The handle under which other blocks may leave in the message being pickled.
pub fn shared() -> Option<Handle> {
    SENDING.with_borrow(|sending| sending.as_ref().and_then(|sending| sending.shared.clone()))
}

/// Run `f` with an empty collection; gives what it collected. What an outer message was collecting stays apart.
pub fn collecting<T>(f: impl FnOnce() -> PyResult<T>) -> PyResult<(T, Vec<OwnedFd>)> {
    let outer = SENDING.replace(Some(Collected::default()));
    let result = f();
    let mine = SENDING.replace(outer).unwrap_or_default();
    result.map(|value| (value, mine.fds.into_iter().map(|(_, copy)| copy).collect()))
}

/// Run `f` with these descriptors to hand out copies of.
pub fn handing_out<T>(fds: Vec<OwnedFd>, f: impl FnOnce() -> T) -> T {
    let outer = RECEIVED.replace(fds);
    let result = f();
    drop(RECEIVED.replace(outer));
    result
}

/// Is an object being pickled for a channel that carries descriptors?
#[pyfunction]
#[pyo3(name = "_in_channel")]
pub fn in_channel() -> bool {
    SENDING.with_borrow(Option::is_some)
}

/// Have a copy of `fd`, a number or a token, travel with the message being pickled; gives its index there, the same
/// for the same `fd` (a number stays open until the message is sent: what is being pickled owns it).
#[pyfunction]
#[pyo3(name = "_channel_fd")]
#[allow(unsafe_code)]
pub fn channel_fd(fd: &Bound<'_, PyAny>) -> PyResult<usize> {
    let token = fd.cast::<Token>().ok().map(|token| &token.get().handle);
    let fd: RawFd = match token {
        Some(handle) => handle.token().as_raw_fd(),
        None => fd.extract()?,
    };
    SENDING.with_borrow_mut(|sending| {
        let Some(Collected { fds, tokens, shared }) = sending else {
            return Err(PyRuntimeError::new_err("no message is being pickled for a channel that carries descriptors"));
        };
        if let Some(index) = fds.iter().position(|(known, _)| *known == fd) {
            return Ok(index);
        }
        if fds.len() >= MAX_FDS {
            return Err(PyValueError::new_err(format!("a message can carry at most {MAX_FDS} descriptors")));
        }
        if fd < 0 {
            return Err(crate::errors::os_error(libc::EBADF));
        }
        // SAFETY: not -1, and borrowed for this call alone; if it is not open, the copy fails with EBADF.
        let copy = unsafe { BorrowedFd::borrow_raw(fd) }.try_clone_to_owned()?;
        fds.push((fd, copy));
        tokens.extend(token.cloned());
        *shared = shared.take().or_else(|| token.filter(|handle| handle.is_shared()).cloned());
        Ok(fds.len() - 1)
    })
}

/// A copy of the descriptor with this index of the message being unpickled, the caller's to close.
#[pyfunction]
#[pyo3(name = "_received_fd")]
pub fn received_fd(index: usize) -> PyResult<RawFd> {
    RECEIVED.with_borrow(|fds| match fds.get(index) {
        Some(fd) => Ok(fd.try_clone()?.into_raw_fd()),
        None => Err(PyRuntimeError::new_err("this object can only be unpickled where its message is received")),
    })
}
