//! What starting a process asks of the kernel, each in one call.

use std::os::fd::{IntoRawFd, RawFd};

use fastmp_core::sys::{lifelines, starting};
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyList, PyTuple};

use crate::blocking::wait as until_done;
use crate::errors::raise;

/// Returns the inode of the file behind a descriptor.
///
/// Raises:
/// - OSError: it is not open.
#[pyfunction]
#[pyo3(name = "_inode")]
pub fn inode(fd: RawFd) -> PyResult<u64> {
    starting::inode(fd).map_err(raise)
}

/// Closes this number, if the file of that inode is behind it still.
#[pyfunction]
#[pyo3(name = "_close_same")]
pub fn close_same(fd: RawFd, inode: u64) {
    starting::close_same(fd, inode); // whose it is by now is nothing to the caller
}

/// Returns an empty file in memory, as `_beside_standard` has it. The name is for who looks at it.
///
/// Raises:
/// - OSError: no descriptor is to be had.
#[pyfunction]
#[pyo3(name = "_data_file")]
pub fn data_file(name: &str) -> PyResult<RawFd> {
    Ok(starting::data_file(name).map_err(raise)?.into_raw_fd())
}

/// Returns a pidfd of a child; None if there is none to be had, or the child has been reaped.
#[pyfunction]
#[pyo3(name = "_open_child")]
pub fn open_child(pid: i32) -> Option<RawFd> {
    starting::open_child(pid).map(IntoRawFd::into_raw_fd)
}

/// Returns how a child has ended, as its exit code, and leaves it to be reaped; None while it runs.
///
/// Raises:
/// - ChildProcessError: it has been reaped, or is no child of this process.
#[pyfunction]
#[pyo3(name = "_ended")]
pub fn ended(py: Python<'_>, pidfd: RawFd, wait: bool) -> PyResult<Option<i32>> {
    until_done(py, || starting::ended(pidfd, wait))?.map_err(raise)
}

/// Reaps a child that has ended, if nobody has.
#[pyfunction]
#[pyo3(name = "_reap")]
pub fn reap(pidfd: RawFd) {
    starting::reap(pidfd);
}

/// Closes descriptors and lifelines, and takes them from the list, with no step of Python's in
/// between. In it are numbers, tuples of some, and None.
#[pyfunction]
#[pyo3(name = "_close_all")]
pub fn close_all(fds: &Bound<'_, PyList>) -> PyResult<()> {
    while let Some(last) = fds.len().checked_sub(1) {
        let held = fds.get_item(last)?;
        let numbers = match held.cast::<PyTuple>() {
            Ok(some) => some.extract::<Vec<RawFd>>()?,
            Err(_) => held.extract::<Option<RawFd>>()?.into_iter().collect(),
        };
        fds.del_item(last)?;
        for fd in numbers {
            if !lifelines::close(fd) {
                starting::close(fd);
            }
        }
    }
    Ok(())
}

/// Sends a packet with descriptors.
///
/// Raises:
/// - OSError: as the kernel says.
/// - ValueError: there are more than 253 descriptors.
#[pyfunction]
#[pyo3(name = "_send_packet")]
pub fn send_packet(py: Python<'_>, line: RawFd, packet: &[u8], fds: Vec<RawFd>) -> PyResult<()> {
    until_done(py, || starting::send(line, packet, &fds))?.map_err(raise)
}

/// Sends a packet with a pidfd of this process, if there are any; an error is forgotten.
#[pyfunction]
#[pyo3(name = "_send_self")]
pub fn send_self(py: Python<'_>, line: RawFd, packet: &[u8]) -> PyResult<()> {
    // There may be nobody any more to read it.
    let _ = until_done(py, || starting::send_self(line, packet))?;
    Ok(())
}

/// Returns a packet's bytes, its descriptors, and whether some of those were lost; no bytes at a
/// hang-up.
///
/// Raises:
/// - BlockingIOError: there is none, and it is not to `wait`.
/// - OSError: as the kernel says.
#[pyfunction]
#[pyo3(name = "_receive_packet")]
pub fn receive_packet<'py>(
    py: Python<'py>,
    line: RawFd,
    wait: bool,
) -> PyResult<(Bound<'py, PyBytes>, Bound<'py, PyList>, bool)> {
    let got = until_done(py, || starting::receive(line, wait))?.map_err(raise)?;
    let bytes = PyBytes::new(py, got.bytes.get(..got.len).unwrap_or_default());
    let fds = PyList::new(py, got.fds.into_iter().map(IntoRawFd::into_raw_fd).collect::<Vec<_>>())?;
    Ok((bytes, fds, got.short))
}

/// Returns a connected pair of packet sockets, the first a lifeline of this process.
///
/// Raises:
/// - OSError: no descriptors are to be had.
#[pyfunction]
#[pyo3(name = "_make_line")]
pub fn make_line() -> PyResult<(RawFd, RawFd)> {
    let (mine, other) = lifelines::make_line().map_err(raise)?;
    Ok((mine, other.into_raw_fd()))
}

/// Makes a descriptor a lifeline of this process: no child forked from now on has it.
///
/// Raises:
/// - OSError: it is not open.
#[pyfunction]
#[pyo3(name = "_keep_lifeline")]
pub fn keep_lifeline(fd: RawFd) -> PyResult<()> {
    lifelines::keep(fd).map_err(raise)
}

/// Lets children that are forked from now on have a lifeline as well.
#[pyfunction]
#[pyo3(name = "_share_lifeline")]
pub fn share_lifeline(fd: RawFd) {
    lifelines::share(fd);
}

/// Has the kernel kill this process when the process ends whose lifeline `told` is about; where it
/// refuses, this process lives on.
#[pyfunction]
#[pyo3(name = "_die_with")]
pub fn die_with(told: RawFd) {
    lifelines::die_with(told);
}
