//! `Block`: plain shared memory with the buffer protocol, under `Value` and `Array`.
#![allow(unsafe_code)]

use std::ffi::{c_int, c_void};
use std::os::fd::RawFd;
use std::ptr::NonNull;

use fastmp_core::arena::Block as Core;
use fastmp_core::layout::{Backing, Kind};
use pyo3::exceptions::PyValueError;
use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::types::PyType;

use crate::errors::raise;
use crate::handles;
use crate::message::channel_fds::Token;

/// Zeroed shared memory of `size` bytes, as a writable buffer.
#[pyclass(frozen, subclass, module = "fastmp.sharedctypes")]
pub struct Block {
    block: Core,
    size: usize,
}

impl Block {
    /// Where the memory is, for as long as this object lives, and how many bytes.
    pub fn memory(&self) -> PyResult<(NonNull<u8>, usize)> {
        let at = self.block.mapping().range(self.block.payload(), self.size).map_err(raise)?;
        Ok((at, self.size))
    }
}

/// An empty object still needs an address.
const LEAST: usize = 8;

#[pymethods]
impl Block {
    #[new]
    #[pyo3(signature = (size = 0, *, _handle = None))]
    fn new(size: isize, _handle: Option<(RawFd, RawFd, usize, usize)>) -> PyResult<Self> {
        if let Some((fd, token, offset, size)) = _handle {
            let block = handles::attach((fd, token, offset), Kind::Memory)?;
            if size > block.bytes() {
                return Err(PyValueError::new_err("the block is smaller than that"));
            }
            return Ok(Self { block, size });
        }
        let size = usize::try_from(size).map_err(|_| PyValueError::new_err("size must not be negative"))?;
        Ok(Self { block: Core::alloc(Kind::Memory, size.max(LEAST)).map_err(raise)?, size })
    }

    #[classmethod]
    fn _attach<'py>(
        cls: &Bound<'py, PyType>,
        fd: RawFd,
        token: RawFd,
        offset: usize,
        size: usize,
    ) -> PyResult<Bound<'py, PyAny>> {
        handles::attached(cls, (fd, token, offset, size))
    }

    /// Bytes.
    #[getter]
    fn size(&self) -> usize {
        self.size
    }

    /// Where it is mapped in this process.
    #[getter]
    fn address(&self) -> PyResult<usize> {
        Ok(self.memory()?.0.addr().get())
    }

    fn __len__(&self) -> usize {
        self.size
    }

    fn _handle(&self) -> PyResult<(RawFd, Token, usize, usize)> {
        let (fd, token, offset) = handles::handle(&self.block)?;
        Ok((fd, token, offset, self.size))
    }

    unsafe fn __getbuffer__(slf: Bound<'_, Self>, view: *mut ffi::Py_buffer, flags: c_int) -> PyResult<()> {
        let (at, size) = slf.get().memory()?;
        let at: *mut c_void = at.as_ptr().cast();
        // SAFETY: `view` is the interpreter's; the memory stays mapped while the view holds its reference to the
        // object, and a block's memory never moves.
        let status = unsafe { ffi::PyBuffer_FillInfo(view, slf.as_ptr(), at, size as isize, 0, flags) };
        if status == 0 { Ok(()) } else { Err(PyErr::fetch(slf.py())) }
    }
}
