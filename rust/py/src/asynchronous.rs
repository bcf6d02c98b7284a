//! What tasks of an event loop do with channels: at once, or not at all. They wait in
//! `fastmp.asynchronous`.
//!
//! What takes a message out, or puts it, is an operator, as for those who may wait (see
//! `operator`).

use std::os::fd::RawFd;

use pyo3::exceptions::{PyAssertionError, PyTypeError};
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;

use crate::capi::call::{Answer, Args, Method};
use crate::capi::operator::Operator;
use crate::connection::Connection;
use crate::message::{Now, Prepared};
use crate::once::once;
use crate::queue::Queue;

/// There was no message, or no room. No message is this object.
static NOTHING: PyOnceLock<Py<PyAny>> = PyOnceLock::new();
/// Another is putting or getting just now. Likewise.
static BUSY: PyOnceLock<Py<PyAny>> = PyOnceLock::new();

/// What stands for them in Python.
pub fn answers(py: Python<'_>) -> PyResult<[(&'static str, Bound<'_, PyAny>); 2]> {
    Ok([("_NOTHING", answer(py, &NOTHING)?), ("_BUSY", answer(py, &BUSY)?)])
}

fn answer<'py>(py: Python<'py>, cell: &'static PyOnceLock<Py<PyAny>>) -> PyResult<Bound<'py, PyAny>> {
    let made = || Ok(py.import("builtins")?.getattr("object")?.call0()?.unbind());
    Ok(once(py, cell, made)?.bind(py).clone())
}

fn told<'py>(py: Python<'py>, now: Now<Bound<'py, PyAny>>) -> Answer<'py> {
    Ok(match now {
        Now::Done(object) => object,
        Now::Nothing => answer(py, &NOTHING)?,
        Now::Busy => answer(py, &BUSY)?,
    })
}

/// A message on its way into a channel.
#[pyclass(frozen, module = "fastmp._native")]
pub struct Message {
    #[pyo3(get)]
    channel: Py<PyAny>,
    prepared: Prepared,
}

/// Serialises an object for a queue or a connection.
///
/// Raises:
/// - ValueError: the queue is closed here.
/// - OSError: this end is closed or only reads.
/// - Exception: whatever pickling raises.
#[pyfunction]
#[pyo3(name = "_prepare")]
pub fn prepare(channel: &Bound<'_, PyAny>, obj: &Bound<'_, PyAny>) -> PyResult<Message> {
    let prepared = match channel.cast::<Queue>() {
        Ok(queue) => Queue::prepare(queue, obj)?,
        Err(_) => Connection::prepare(connection(channel)?, obj)?,
    };
    Ok(Message { channel: channel.clone().unbind(), prepared })
}

/// Has an epoll tell once, by `token`, when a queue or connection is readable, or writable.
///
/// Raises:
/// - ValueError: the queue is closed here.
/// - OSError: the connection is; or the kernel refuses.
#[pyfunction]
#[pyo3(name = "_arm")]
pub fn arm(channel: &Bound<'_, PyAny>, epoll: RawFd, token: u32, writing: bool) -> PyResult<()> {
    match channel.cast::<Queue>() {
        Ok(queue) => Queue::arm(queue, epoll, token, writing),
        Err(_) => Connection::arm(connection(channel)?, epoll, token, writing),
    }
}

fn connection<'a, 'py>(channel: &'a Bound<'py, PyAny>) -> PyResult<&'a Bound<'py, Connection>> {
    channel.cast::<Connection>().map_err(|_| PyTypeError::new_err("neither a queue nor a connection"))
}

/// `_take_now[channel, told]`.
pub struct TakeNow;

impl Method for TakeNow {
    type Of = Operator;
    fn call<'py>(slf: Borrowed<'_, 'py, Operator>, args: Args<'_, 'py>) -> Answer<'py> {
        let Some(key) = args.get(0) else { return Ok(Err(PyAssertionError::new_err("a key"))?) };
        let (channel, is_told) = key.extract::<(Bound<'_, PyAny>, bool)>()?;
        let taken = match channel.cast::<Queue>() {
            Ok(queue) => Queue::take_now(queue, is_told)?,
            Err(_) => Connection::take_now(connection(&channel)?, is_told)?,
        };
        told(slf.py(), taken)
    }
}

/// `_put_now[message, told]`: None once it is put.
pub struct PutNow;

impl Method for PutNow {
    type Of = Operator;
    fn call<'py>(slf: Borrowed<'_, 'py, Operator>, args: Args<'_, 'py>) -> Answer<'py> {
        let Some(key) = args.get(0) else { return Ok(Err(PyAssertionError::new_err("a key"))?) };
        let (py, (message, is_told)) = (slf.py(), key.extract::<(Bound<'_, Message>, bool)>()?);
        let Message { channel, prepared } = message.get();
        let channel = channel.bind(py);
        let put = match channel.cast::<Queue>() {
            Ok(queue) => Queue::put_now(queue, prepared, is_told)?,
            Err(_) => Connection::send_now(connection(channel)?, prepared, is_told)?,
        };
        told(
            py,
            match put {
                Now::Done(()) => Now::Done(py.None().into_bound(py)),
                Now::Nothing => Now::Nothing,
                Now::Busy => Now::Busy,
            },
        )
    }
}
