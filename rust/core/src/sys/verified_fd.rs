//! A descriptor that knows its file, so that a number closed behind our back is not taken for ours.
//!
//! Programs close descriptors wholesale (`os.closerange`, daemons); the number is then somebody
//! else's. Such a number is neither lent nor closed. Between the look and the use another thread
//! may still close it: that cannot be told apart from a program that closes the descriptors of
//! others.
#![allow(unsafe_code)]

use std::mem::ManuallyDrop;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use crate::error::Result;
use crate::sys::memfd;

/// A descriptor and its file's (device, inode).
#[derive(Debug)]
pub struct VerifiedFd {
    fd: ManuallyDrop<OwnedFd>,
    id: (u64, u64),
}

impl VerifiedFd {
    /// Take `fd`.
    ///
    /// # Errors
    /// `Os` (EBADF) if it is not open.
    pub fn new(fd: OwnedFd) -> Result<VerifiedFd> {
        let id = memfd::identity(&fd)?;
        Ok(VerifiedFd { fd: ManuallyDrop::new(fd), id })
    }

    /// (device, inode).
    pub fn id(&self) -> (u64, u64) {
        self.id
    }

    /// The descriptor, if it is still that of the file.
    pub fn get(&self) -> Option<BorrowedFd<'_>> {
        memfd::identity(&*self.fd).is_ok_and(|id| id == self.id).then(|| self.fd.as_fd())
    }

    /// Close the descriptor now, where what holds this will never be dropped. From then on it is
    /// not known any more.
    pub fn close(&self) {
        if let Some(fd) = self.get() {
            // SAFETY: the number is ours, and open. It is not closed again: from now on `get` knows
            // it no more.
            drop(unsafe { OwnedFd::from_raw_fd(fd.as_raw_fd()) });
        }
    }
}

/// The number, whosever it is by now.
impl AsFd for VerifiedFd {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl Drop for VerifiedFd {
    fn drop(&mut self) {
        if self.get().is_some() {
            // SAFETY: dropped here alone, and nothing touches the field afterwards.
            unsafe { ManuallyDrop::drop(&mut self.fd) };
        }
    }
}
