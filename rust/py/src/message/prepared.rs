//! A message that is complete and waits in this process for its turn.

use std::os::fd::{AsFd, OwnedFd};
use std::sync::Mutex;

use fastmp_core as fcore;
use fastmp_core::Error;
use fastmp_core::channel::extents::OwnedExtent;
use fastmp_core::channel::ring::{MessageMeta, Payload};
use fastmp_core::channel::transport::Outgoing;
use pyo3::prelude::*;

/// What a call comes to that does not wait.
pub enum Now<T> {
    /// It is done.
    Done(T),
    /// There was no message, or no room.
    Nothing,
    /// Another is putting or getting just now: the descriptor does not tell when that ends.
    Busy,
}

impl<T> Now<T> {
    /// What an error of the core comes to, which else is raised.
    pub fn failed(error: Error, raise: impl FnOnce(Error) -> PyErr) -> PyResult<Now<T>> {
        match error {
            Error::Empty | Error::Full => Ok(Now::Nothing),
            Error::WouldBlock => Ok(Now::Busy),
            other => Err(raise(other)),
        }
    }
}

/// See the module. Whatever its object held is copied.
pub struct Prepared {
    meta: MessageMeta,
    fds: Vec<OwnedFd>,
    content: Content,
}

enum Content {
    Small(Box<[u8]>),
    /// In an extent of the channel that it is for; none once it is sent.
    Large(Mutex<Option<Payload<'static>>>),
    /// For a connection of the stdlib's.
    Pickled(Py<PyAny>),
}

/// `obj` as a message; a large one is in what `extent` gives, which is of the message's channel.
pub fn prepare(
    obj: &Bound<'_, PyAny>,
    extent: impl Fn(u64) -> fcore::Result<OwnedExtent> + Sync,
    allow: impl FnOnce(u64) -> PyResult<()>,
) -> PyResult<Prepared> {
    let encoding = super::encode(obj, super::Instances::Pickled);
    if let Some((meta, bytes)) = encoding.small() {
        return Ok(Prepared { meta, fds: Vec::new(), content: Content::Small(bytes.into()) });
    }
    let mut encoded = encoding.complete(obj)?;
    let meta = encoded.meta();
    let content = encoded.with_payload(obj.py(), extent, allow, |payload| {
        Ok(match payload.take() {
            Some(Payload::Extent(extent, len)) => Content::Large(Mutex::new(Some(Payload::Extent(extent, len)))),
            Some(Payload::Inline(bytes)) => Content::Small(bytes.into()),
            None => Content::Small(Box::default()),
        })
    })?;
    Ok(Prepared { meta, fds: std::mem::take(&mut encoded.fds), content })
}

impl Prepared {
    /// Bytes of a small one.
    pub fn size(&self) -> Option<u64> {
        if let Content::Small(bytes) = &self.content { Some(bytes.len() as u64) } else { None }
    }

    /// What the stdlib's pickler made of an object.
    pub fn pickled(pickled: Py<PyAny>) -> Prepared {
        Prepared { meta: super::RAW_BYTES, fds: Vec::new(), content: Content::Pickled(pickled) }
    }

    /// That.
    pub fn as_pickled(&self) -> Option<&Py<PyAny>> {
        if let Content::Pickled(pickled) = &self.content { Some(pickled) } else { None }
    }

    /// Attempt to send it; it is as before if that fails. One attempt at a time.
    pub fn with<T>(&self, attempt: impl FnOnce(&mut Outgoing<'_, '_>) -> T) -> T {
        let fds: Vec<_> = self.fds.iter().map(AsFd::as_fd).collect();
        match &self.content {
            Content::Small(bytes) => {
                let payload = &mut Some(Payload::Inline(bytes));
                attempt(&mut Outgoing { meta: self.meta, payload, fds: &fds })
            }
            Content::Pickled(_) => attempt(&mut Outgoing { meta: self.meta, payload: &mut None, fds: &fds }),
            Content::Large(kept) => {
                // Not held meanwhile: the attempt may detach, and run signal handlers.
                let lock = || kept.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
                let mut payload = lock().take();
                let done = attempt(&mut Outgoing { meta: self.meta, payload: &mut payload, fds: &fds });
                *lock() = payload;
                done
            }
        }
    }
}
