//! How an object's handle leaves for another process, and how it is attached there.

use std::os::fd::{AsRawFd, BorrowedFd, RawFd};

use fastmp_core::objects::{self, Export, Handle};
use pyo3::PyTypeInfo;
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyType};

use crate::capi::call::bare_instance;
pub use crate::descriptor::Descriptor;
use crate::errors::raise;
pub use crate::message::channel_fds::{Token, shared};

/// What an object's `_handle()` gives: the segment's descriptor, the token, the offset.
pub type Lent = (RawFd, Token, usize);
/// What its `_attach()` is given: descriptors of the segment and of the token (or the segment
/// again), the offset.
pub type Given = (Py<Descriptor>, Py<Descriptor>, usize);

/// The handle of an object, for `_handle()`.
pub fn handle(object: &impl Export) -> PyResult<Lent> {
    // In one message one token will do for many.
    Ok(lent(object.export(shared().as_ref()).map_err(raise)?))
}

/// What is lent of a handle.
pub fn lent(handle: Handle) -> Lent {
    (raw(handle.segment()), Token::new(handle.clone()), handle.offset())
}

/// What an object of the core is attached by.
pub fn given((segment, token, offset): Given) -> objects::Given {
    // The segment's stands for no token.
    let token = (!token.is(&segment)).then(|| token.get().incoming());
    objects::Given { segment: segment.get().incoming(), token, offset }
}

/// Its number.
pub fn raw(fd: BorrowedFd<'_>) -> RawFd {
    fd.as_raw_fd()
}

/// An instance of `cls`, which may be a Python subclass, made from another process's handle by the
/// `__new__` of the native class `T`: a subclass's own may do anything with what it is called with.
pub fn attached<'py, T: PyTypeInfo>(
    cls: &Bound<'py, PyType>,
    handle: impl IntoPyObject<'py>,
) -> PyResult<Bound<'py, PyAny>> {
    let kwargs = PyDict::new(cls.py());
    kwargs.set_item("_handle", handle)?;
    bare_instance::<T>(cls, Some(&kwargs))
}
