//! What a program sees of a loan: a writable buffer, which keeps it.
#![allow(unsafe_code)]

use std::ffi::{c_int, c_void};
use std::sync::Arc;

use fastmp_core::channel::extents::Loan;
use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::types::PyMemoryView;

use crate::errors::raise;

/// So many bytes of a message that stay where it is. Nobody asks for its name: what a program has
/// are views of it.
#[pyclass(frozen, name = "Loan", module = "fastmp._native")]
pub struct Lent {
    /// None: it is being dropped.
    loan: Option<Arc<Loan>>,
    at: usize,
    len: usize,
}

impl Lent {
    /// A view of `len` bytes of a loan, from `at` on.
    pub fn view<'py>(py: Python<'py>, loan: Arc<Loan>, at: usize, len: usize) -> PyResult<Bound<'py, PyAny>> {
        let lent = Bound::new(py, Lent { loan: Some(loan), at, len })?;
        Ok(PyMemoryView::from(&lent)?.into_any())
    }
}

#[pymethods]
impl Lent {
    /// # Safety
    /// The buffer protocol's.
    unsafe fn __getbuffer__(slf: Bound<'_, Self>, view: *mut ffi::Py_buffer, flags: c_int) -> PyResult<()> {
        let Lent { loan, at, len } = slf.get();
        let memory = loan.as_ref().map_or(Err(fastmp_core::Error::Closed), |loan| loan.range(*at, *len));
        let memory = memory.map_err(raise)?.as_ptr().cast::<c_void>();
        // SAFETY: `view` is the interpreter's; the memory stays mapped, and where it is, while the
        // view holds its reference to the object. Others may change it, as any buffer's: bytes have
        // no invalid value.
        let status = unsafe { ffi::PyBuffer_FillInfo(view, slf.as_ptr(), memory, *len as isize, 0, flags) };
        if status == 0 { Ok(()) } else { Err(PyErr::fetch(slf.py())) }
    }
}

impl Drop for Lent {
    fn drop(&mut self) {
        let Some(loan) = self.loan.take() else { return };
        if Arc::strong_count(&loan) > 1 || loan.is_quick_to_return() {
            return;
        }
        // To give memory back takes time, in which others may go on. Where there is no interpreter
        // any more the loan has gone with the closure.
        let mut loan = Some(loan);
        Python::try_attach(|py| py.detach(|| drop(loan.take())));
    }
}
