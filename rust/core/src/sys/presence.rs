//! Is any process left that was forked while this token was open?
//!
//! A token is an empty memfd, mapped writable. A forked child inherits the mapping, and so do its own children; exec
//! and death drop it, and closing descriptors does not. The kernel answers without anybody's help: sealing a memfd
//! against writes fails with EBUSY as long as one writable mapping exists. A seal that succeeds proves that
//! nobody is left, and spoils nothing, for then the token is done.
use std::os::fd::OwnedFd;

use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, ftruncate, memfd_create};

use crate::error::Result;
use crate::sys::mapping::Mapping;

const BYTES: usize = 4096;

/// One token. The process that opened it keeps the descriptor; what its children hold is the mapping.
#[derive(Debug)]
pub struct Presence {
    fd: OwnedFd,
    mapping: Option<Mapping>,
}

impl Presence {
    /// An open token: children forked from now on hold it.
    pub fn open() -> Result<Presence> {
        let fd = memfd_create("fastmp-presence", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)?;
        ftruncate(&fd, BYTES as u64)?;
        let mapping = Some(Mapping::new(&fd, 0, BYTES)?);
        Ok(Presence { fd, mapping })
    }

    /// Children forked from now on do not hold it.
    pub fn close(&mut self) {
        self.mapping = None;
    }

    /// Is it still open for new children?
    pub fn is_open(&self) -> bool {
        self.mapping.is_some()
    }

    /// Certainly nobody holds it any more (an error of the kernel's proves nothing).
    pub fn is_gone(&self) -> bool {
        self.mapping.is_none() && fcntl_add_seals(&self.fd, SealFlags::WRITE).is_ok()
    }

    /// In a forked child: hold what was inherited until exec or death, and close the opener's descriptor.
    pub fn inherit(self) {
        std::mem::forget(self.mapping);
    }
}
