//! `Block`: plain shared memory with the buffer protocol, under `Value` and `Array`.
#![allow(unsafe_code)]

use std::ffi::{c_int, c_void};
use std::os::fd::RawFd;

use fastmp_core as fcore;
use pyo3::exceptions::PyValueError;
use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::types::PyType;

use crate::errors::raise;
use crate::handles::{self, Descriptor};
use crate::message::channel_fds::Token;

/// Zeroed shared memory; a writable buffer of `size` bytes, one-dimensional, of format 'B'.
#[pyclass(frozen, subclass, module = "fastmp.sharedctypes")]
pub struct Block {
    core: fcore::objects::Memory,
}

impl Block {
    /// What is shared.
    pub fn memory(&self) -> &fcore::objects::Memory {
        &self.core
    }
}

#[pymethods]
impl Block {
    #[new]
    #[pyo3(signature = (size = 0, *, _handle = None))]
    fn new(size: isize, _handle: Option<(Py<Descriptor>, Py<Descriptor>, usize, usize)>) -> PyResult<Self> {
        if let Some((fd, token, offset, size)) = _handle {
            let given = handles::given((fd, token, offset));
            return Ok(Self { core: fcore::objects::Memory::attach(given, size).map_err(raise)? });
        }
        let size = usize::try_from(size).map_err(|_| PyValueError::new_err("size must not be negative"))?;
        Ok(Self { core: fcore::objects::Memory::create(size).map_err(raise)? })
    }

    #[classmethod]
    fn _attach<'py>(
        cls: &Bound<'py, PyType>,
        fd: Py<Descriptor>,
        token: Py<Descriptor>,
        offset: usize,
        size: usize,
    ) -> PyResult<Bound<'py, PyAny>> {
        handles::attached::<Self>(cls, (fd, token, offset, size))
    }

    /// Length in bytes.
    #[getter]
    fn size(&self) -> usize {
        self.core.len()
    }

    /// Where it is mapped in this process.
    #[getter]
    fn address(&self) -> PyResult<usize> {
        Ok(self.core.address().map_err(raise)?.addr().get())
    }

    fn __len__(&self) -> usize {
        self.core.len()
    }

    fn _handle(&self) -> PyResult<(RawFd, Token, usize, usize)> {
        let (fd, token, offset) = handles::handle(&self.core)?;
        Ok((fd, token, offset, self.core.len()))
    }

    unsafe fn __getbuffer__(slf: Bound<'_, Self>, view: *mut ffi::Py_buffer, flags: c_int) -> PyResult<()> {
        let memory = slf.get().memory();
        let (at, size) = (memory.address().map_err(raise)?.as_ptr().cast::<c_void>(), memory.len());
        // SAFETY: `view` is the interpreter's; the memory stays mapped while the view holds its
        // reference to the object, and a block's memory never moves.
        let status = unsafe { ffi::PyBuffer_FillInfo(view, slf.as_ptr(), at, size as isize, 0, flags) };
        if status == 0 { Ok(()) } else { Err(PyErr::fetch(slf.py())) }
    }
}
