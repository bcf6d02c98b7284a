//! A mapped segment with its descriptor, and which of them this process has.

use std::collections::HashMap;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, Weak};

use rustix::io::Errno;

use crate::error::{Error, Result};
use crate::layout::{self, Backing, Header, Kind};
use crate::sys::mapping::Mapping;
use crate::sys::memfd;
use crate::sys::verified_fd::VerifiedFd;

/// A mapped segment with its descriptor.
#[derive(Debug)]
pub struct Segment {
    mapping: Arc<Mapping>,
    fd: VerifiedFd,
}

impl Segment {
    /// A new segment of `bytes`, its pages reserved, whose header says `kind`.
    ///
    /// # Errors
    /// `OutOfMemory`, or `Os` when descriptors have run out.
    pub fn create(name: &str, kind: Kind, bytes: usize) -> Result<Segment> {
        Self::sparse(name, kind, bytes, bytes)
    }

    /// The same, with only the first `reserved` bytes reserved so far.
    ///
    /// # Errors
    /// `OutOfMemory`, or `Os` when descriptors have run out.
    pub fn sparse(name: &str, kind: Kind, bytes: usize, reserved: usize) -> Result<Segment> {
        let fd = memfd::create(name, reserved as u64)?;
        if bytes > reserved {
            memfd::extend(&fd, bytes as u64)?;
        }
        let map = if bytes > reserved { Mapping::sparse } else { Mapping::new };
        let mapping = Arc::new(map(&fd, 0, bytes)?);
        layout::view::<Header>(&mapping, 0)?.write(kind, (bytes - Header::BYTES) as u64);
        Ok(Segment { mapping, fd: VerifiedFd::new(fd)? })
    }

    /// Map the first `bytes` (0: all) of a segment that another process made, if it is a `kind`.
    ///
    /// # Errors
    /// `Corrupted` if it is no such segment; `OutOfMemory`.
    pub fn attach(fd: OwnedFd, kind: Kind, bytes: usize) -> Result<Segment> {
        memfd::check(&fd)?;
        let size = memfd::size(&fd)? as usize;
        if size < Header::BYTES || size < bytes {
            return Err(Error::Corrupted("the segment is too short"));
        }
        let len = if bytes == 0 { size } else { bytes };
        let map = if memfd::resident(&fd)? < len as u64 { Mapping::sparse } else { Mapping::new };
        let mapping = Arc::new(map(&fd, 0, len)?);
        layout::view::<Header>(&mapping, 0)?.check(kind)?;
        Ok(Segment { mapping, fd: VerifiedFd::new(fd)? })
    }

    /// The mapping.
    pub fn mapping(&self) -> &Arc<Mapping> {
        &self.mapping
    }

    /// What tells it from other segments.
    pub fn id(&self) -> (u64, u64) {
        self.fd.id()
    }

    /// Its descriptor, to be sent. The program may have closed it, and the number be another
    /// file's.
    ///
    /// # Errors
    /// `Os` (EBADF) if the program has closed it.
    pub fn own_fd(&self) -> Result<BorrowedFd<'_>> {
        self.fd.get().ok_or(Error::Os(Errno::BADF))
    }
}

impl Segment {
    /// Close the descriptor, and leave the mapping to whoever still has it: for a process that can
    /// never drop it, because threads of the process that it was forked from had it.
    pub fn close_fd(&self) {
        self.fd.close();
    }
}

impl AsFd for Segment {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl Backing for Arc<Segment> {
    fn mapping(&self) -> &Arc<Mapping> {
        &self.mapping
    }
}

/// What this process holds of one sort, by the identity of its file, each once.
#[derive(Debug)]
pub(super) struct Registry<T> {
    entries: HashMap<(u64, u64), Weak<T>>,
    /// How many were left when dead entries were last thrown out.
    left: usize,
}

impl<T> Default for Registry<T> {
    fn default() -> Self {
        Registry { entries: HashMap::new(), left: 0 }
    }
}

impl<T> Registry<T> {
    pub fn get(&self, id: (u64, u64)) -> Option<Arc<T>> {
        self.entries.get(&id).and_then(Weak::upgrade)
    }

    pub fn insert(&mut self, id: (u64, u64), one: &Arc<T>) {
        if self.entries.len() >= 16.max(2 * self.left) {
            self.entries.retain(|_, entry| entry.strong_count() > 0);
            self.left = self.entries.len();
        }
        self.entries.insert(id, Arc::downgrade(one));
    }
}
