//! Descriptors that Python has: those that have come in from another process, and those that it
//! makes here.

use std::os::fd::{FromRawFd, IntoRawFd, OwnedFd, RawFd};

use fastmp_core::objects::Incoming;
use fastmp_core::sys::{socket, standard, starting};
use pyo3::prelude::*;

use crate::errors::{os_error, raise};

/// A descriptor that came with a message, or to a started process.
///
/// Blocks share it, others take a copy.
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

    /// What an object of the core shares it by.
    pub fn incoming(&self) -> Incoming {
        self.incoming.clone()
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

    /// Returns a number that is the caller's from now on.
    ///
    /// Raises:
    /// - OSError: there is none left; or it has been used.
    fn detach(&self) -> PyResult<RawFd> {
        Ok(self.own()?.into_raw_fd())
    }
}

/// Returns a number above those of the standard streams for the file behind `fd`: that itself as a
/// rule; else `fd` is closed, even if there is no other number.
///
/// Raises:
/// - OSError: no descriptors are to be had.
#[pyfunction]
#[pyo3(name = "_beside_standard")]
pub fn beside_standard(fd: RawFd) -> PyResult<RawFd> {
    Ok(standard::beside(owned(fd)?).map_err(|errno| raise(errno.into()))?.into_raw_fd())
}

/// Returns the ends of a pipe, reader first, as `_beside_standard` has them.
///
/// Raises:
/// - OSError: no descriptors are to be had.
#[pyfunction]
#[pyo3(name = "_pipe")]
pub fn pipe() -> PyResult<(RawFd, RawFd)> {
    let (reader, writer) = starting::pipe().map_err(raise)?;
    Ok((reader.into_raw_fd(), writer.into_raw_fd()))
}

/// Returns the ends of a Unix socket of packets, as `_beside_standard` has them.
///
/// Raises:
/// - OSError: no descriptors are to be had.
#[pyfunction]
#[pyo3(name = "_socket_pair")]
pub fn socket_pair() -> PyResult<(RawFd, RawFd)> {
    let (one, other) = socket::pair().map_err(raise)?;
    Ok((one.into_raw_fd(), other.into_raw_fd()))
}

/// A descriptor that Python hands over.
#[allow(unsafe_code)]
fn owned(fd: RawFd) -> PyResult<OwnedFd> {
    if fd < 0 {
        return Err(os_error(libc::EBADF));
    }
    // SAFETY: who makes a `Descriptor` of a number gives it up, by its contract.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}
