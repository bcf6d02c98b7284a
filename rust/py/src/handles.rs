//! How an object's handle leaves for another process, and how it is attached there.

use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, IntoRawFd, OwnedFd, RawFd};

use fastmp_core::objects::{self, Export, Incoming};
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyType};

use crate::errors::raise;
use crate::message::channel_fds::{self, Token};

/// What an object's `_handle()` gives: the segment's descriptor, the token, the offset.
pub type Lent = (RawFd, Token, usize);
/// What its `_attach()` is given: descriptors of the segment and of the token (or the segment again), the offset.
pub type Given = (Py<Descriptor>, Py<Descriptor>, usize);

/// A descriptor that came with a message, or to a started process.
#[pyclass(frozen, module = "fastmp._native")]
pub struct Descriptor {
    incoming: Incoming,
    /// It is for one object alone: that takes it. Else each that cannot share it has a copy.
    lone: bool,
}

impl Descriptor {
    /// One that came with a message.
    pub fn received(fd: OwnedFd, lone: bool) -> Descriptor {
        Descriptor { incoming: Incoming::new(fd), lone }
    }

    /// A descriptor for an object that shares it with nobody.
    pub fn own(&self) -> PyResult<OwnedFd> {
        if self.lone { self.incoming.take() } else { self.incoming.copy() }.map_err(raise)
    }
}

#[pymethods]
impl Descriptor {
    /// The one that this process has inherited as number `fd`.
    #[new]
    fn new(fd: RawFd) -> PyResult<Descriptor> {
        Ok(Descriptor { incoming: Incoming::inherited(owned(fd)?).map_err(raise)?, lone: false })
    }

    /// The number of a descriptor that is the caller's from now on.
    fn detach(&self) -> PyResult<RawFd> {
        Ok(self.own()?.into_raw_fd())
    }
}

/// The handle of an object, for `_handle()`.
pub fn handle(object: &impl Export) -> PyResult<Lent> {
    // In one message one token will do for many.
    let with = channel_fds::shared();
    let handle = object.export(with.as_ref()).map_err(raise)?;
    Ok((raw(handle.segment()), Token::new(handle.clone()), handle.offset()))
}

/// What an object of the core is attached by.
pub fn given((segment, token, offset): Given) -> objects::Given {
    // The segment's stands for no token.
    let token = (!token.is(&segment)).then(|| token.get().incoming.clone());
    objects::Given { segment: segment.get().incoming.clone(), token, offset }
}

/// A descriptor that Python hands over.
#[allow(unsafe_code)]
fn owned(fd: RawFd) -> PyResult<OwnedFd> {
    if fd < 0 {
        return Err(crate::errors::os_error(libc::EBADF));
    }
    // SAFETY: who makes a `Descriptor` of a number gives it up, by its contract.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Its number.
pub fn raw(fd: BorrowedFd<'_>) -> RawFd {
    fd.as_raw_fd()
}

/// An instance of `cls`, which may be a Python subclass, made by its `__new__` from another process's handle.
pub fn attached<'py>(cls: &Bound<'py, PyType>, handle: impl IntoPyObject<'py>) -> PyResult<Bound<'py, PyAny>> {
    let kwargs = PyDict::new(cls.py());
    kwargs.set_item("_handle", handle)?;
    cls.call_method("__new__", (cls,), Some(&kwargs))
}
