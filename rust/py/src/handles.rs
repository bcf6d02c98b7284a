//! How an object's handle leaves for another process, and how it is attached there.

use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

use fastmp_core::objects::{self, Export};
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyType};

use crate::errors::raise;
use crate::message::channel_fds::{self, Token};

/// What an object's `_handle()` gives: the segment's descriptor, the token, the offset.
pub type Lent = (RawFd, Token, usize);
/// What its `_attach()` is given: descriptors of the segment and of the token (or the segment again), the offset.
pub type Given = (RawFd, RawFd, usize);

/// The handle of an object, for `_handle()`.
pub fn handle(object: &impl Export) -> PyResult<Lent> {
    // In one message one token will do for many.
    let with = channel_fds::shared();
    let handle = object.export(with.as_ref()).map_err(raise)?;
    Ok((raw(handle.segment()), Token::new(handle.clone()), handle.offset()))
}

/// What an object of the core is attached by.
pub fn given((fd, token, offset): Given) -> PyResult<objects::Given> {
    // Started processes get each number once, the segment's also where it stands for no token.
    let token = if token == fd { None } else { Some(owned(token)?) };
    Ok(objects::Given { segment: owned(fd)?, token, offset })
}

/// A descriptor that Python hands over.
#[allow(unsafe_code)]
pub fn owned(fd: RawFd) -> PyResult<OwnedFd> {
    if fd < 0 {
        return Err(crate::errors::os_error(libc::EBADF));
    }
    // SAFETY: the caller of an `_attach` gives up ownership, by its contract.
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
