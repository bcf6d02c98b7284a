//! Where a channel's words and rings lie: in a [plot](crate::arena::Shape), or at the start of a
//! segment of its own.
//!
//! All offsets in `format` count from the front's start. A plot is address space for all that the
//! rings may grow to; pages are reserved as they do.

use std::sync::Arc;

use crate::arena::{Block, Given, Handle, Segment, Shape};
use crate::error::{Error, Result};
use crate::layout::{Backing, Header, Kind};
use crate::sys::mapping::Mapping;
use crate::sys::memfd;

/// See the module. What lives in it keeps it.
#[derive(Debug)]
pub struct Front {
    place: Place,
}

#[derive(Debug)]
enum Place {
    Plot(Block),
    Whole(Arc<Segment>),
}

impl Front {
    /// A new one, its words zero.
    ///
    /// # Errors
    /// `OutOfMemory`, or `Os` when descriptors have run out.
    pub fn create(kind: Kind, shape: &'static Shape) -> Result<Arc<Front>> {
        Ok(Arc::new(Front { place: Place::Plot(Block::alloc_plot(kind, shape)?) }))
    }

    /// One that another process has sent.
    ///
    /// # Errors
    /// `Corrupted` if no such thing is there; `OutOfMemory`.
    pub fn attach(given: Given, kind: Kind, shape: &Shape) -> Result<Arc<Front>> {
        let block = given.block(kind)?;
        // Whole pages are reserved in it.
        if block.bytes() < shape.bytes - Header::BYTES || !block.offset().is_multiple_of(4096) {
            return Err(Error::Corrupted("a channel of impossible size"));
        }
        Ok(Arc::new(Front { place: Place::Plot(block) }))
    }

    /// The start of `segment`.
    pub fn whole(segment: Arc<Segment>) -> Arc<Front> {
        Arc::new(Front { place: Place::Whole(segment) })
    }

    /// Where it starts in its mapping.
    pub fn offset(&self) -> usize {
        match &self.place {
            Place::Plot(block) => block.offset(),
            Place::Whole(_) => 0,
        }
    }

    /// Does another channel get it after this one?
    pub fn is_plot(&self) -> bool {
        matches!(self.place, Place::Plot(_))
    }

    /// Bytes of address space from its start that are its own.
    pub fn bytes(&self) -> usize {
        match &self.place {
            Place::Plot(block) => block.bytes() + Header::BYTES,
            Place::Whole(segment) => segment.mapping().len(),
        }
    }

    /// The segment that it lies in.
    pub fn segment(&self) -> &Arc<Segment> {
        match &self.place {
            Place::Plot(block) => block.segment_of(),
            Place::Whole(segment) => segment,
        }
    }

    /// Reserve pages from `at` on. Nobody else uses them yet.
    ///
    /// # Errors
    /// `OutOfMemory`; `Os` (EBADF) if the program has closed the segment's descriptor, and the
    /// mapping does not do it either.
    pub fn reserve(&self, at: u64, bytes: u64) -> Result<()> {
        if let Place::Plot(block) = &self.place {
            // First: who frees it has to know.
            block.header()?.grow();
        }
        let at = self.offset() as u64 + at;
        match self.segment().own_fd() {
            Ok(fd) => memfd::reserve_own(fd, at, bytes),
            // A daemon closes whatever is open, and goes on.
            Err(_) if self.segment().mapping().populate(at as usize, bytes as usize) => Ok(()),
            Err(closed) => Err(closed),
        }
    }

    /// A handle for another process. See [`Block::export`].
    ///
    /// # Errors
    /// `Os` (EBADF) if the program has closed the segment's descriptor.
    pub fn export(&self, with: Option<&Handle>) -> Result<Handle> {
        match &self.place {
            Place::Plot(block) => block.export(with),
            Place::Whole(_) => Err(Error::Corrupted("it is no block")),
        }
    }
}

impl Backing for Arc<Front> {
    fn mapping(&self) -> &Arc<Mapping> {
        self.segment().mapping()
    }
}
