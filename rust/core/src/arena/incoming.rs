//! A descriptor that came in and serves any number of blocks.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, Mutex, PoisonError};

use rustix::io::{Errno, FdFlags, fcntl_dupfd_cloexec, fcntl_setfd};

use crate::arena::{Block, Handle, Segment};
use crate::error::{Error, Result};
use crate::layout::Kind;
use crate::sys::hold_token::HoldToken;
use crate::sys::{memfd, standard};

/// The descriptor of a segment or of a token, as it came from another process.
///
/// The first block that is attached by it takes it over, and the others share what it led to. So
/// attaching needs no further descriptor, and cannot fail for want of one. A clone is the same one.
#[derive(Debug, Clone)]
pub struct Incoming {
    state: Arc<Mutex<State>>,
}

#[derive(Debug)]
enum State {
    /// Nobody has asked for what is behind it yet.
    Fd(OwnedFd),
    Segment(Arc<Segment>),
    /// None: it is the segment's descriptor, which stands for no token.
    Token(Option<Arc<HoldToken>>),
    /// Taken out, or of no use to the one who asked first.
    Spent,
}

/// What has come in from another process.
#[derive(Debug)]
pub struct Given {
    /// The segment that the object lies in.
    pub segment: Incoming,
    /// What keeps its block from being used again; None if it left without.
    pub token: Option<Incoming>,
    /// Bytes from the segment's start.
    pub offset: usize,
}

impl Given {
    /// As if the handle had travelled.
    ///
    /// # Errors
    /// `Os` when descriptors have run out.
    pub fn copy_of(handle: &Handle) -> Result<Given> {
        let copy = |fd: BorrowedFd<'_>| fcntl_dupfd_cloexec(fd, 3).map(Incoming::new);
        Ok(Given { segment: copy(handle.segment())?, token: Some(copy(handle.token())?), offset: handle.offset() })
    }

    /// The block, if it is a `kind`.
    ///
    /// # Errors
    /// Those of [`Block::attach`].
    pub fn block(self, kind: Kind) -> Result<Block> {
        Block::attach_by(&self.segment, self.token.as_ref(), self.offset, kind)
    }
}

impl Incoming {
    /// Take `fd` over.
    pub fn new(fd: OwnedFd) -> Incoming {
        Incoming { state: Arc::new(Mutex::new(State::Fd(fd))) }
    }

    /// Take `fd` over, which has just come through an exec, and shall not through another.
    ///
    /// # Errors
    /// `Os` (EBADF) if it is not open.
    pub fn inherited(fd: OwnedFd) -> Result<Incoming> {
        fcntl_setfd(&fd, FdFlags::CLOEXEC)?;
        Ok(Self::new(standard::beside(fd)?))
    }

    /// Run `f` on the state, which is `Spent` meanwhile.
    fn replace<T>(&self, f: impl FnOnce(State) -> Result<(State, T)>) -> Result<T> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let (new, value) = f(std::mem::replace(&mut *state, State::Spent))?;
        *state = new;
        Ok(value)
    }

    /// The descriptor itself.
    ///
    /// # Errors
    /// `Os` (EBADF) once it has been used or taken.
    pub fn take(&self) -> Result<OwnedFd> {
        self.replace(|state| match state {
            State::Fd(fd) => Ok((State::Spent, fd)),
            _ => Err(Error::Os(Errno::BADF)),
        })
    }

    /// A copy of it.
    ///
    /// # Errors
    /// `Os`: EMFILE where there is no number left, EBADF once it has been used or taken.
    pub fn copy(&self) -> Result<OwnedFd> {
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        match &*state {
            State::Fd(fd) => Ok(fcntl_dupfd_cloexec(fd.as_fd(), 3)?),
            _ => Err(Error::Os(Errno::BADF)),
        }
    }

    pub(super) fn segment(&self) -> Result<Arc<Segment>> {
        self.replace(|state| {
            let segment = match state {
                State::Fd(fd) => {
                    let id = memfd::identity(&fd)?;
                    Block::segment(fd, id)?
                }
                State::Segment(segment) => segment,
                State::Token(_) | State::Spent => return Err(Error::Corrupted("the descriptor is no segment")),
            };
            Ok((State::Segment(segment.clone()), segment))
        })
    }

    /// None if it is another descriptor of `segment`.
    pub(super) fn token(&self, segment: &Segment) -> Result<Option<Arc<HoldToken>>> {
        self.replace(|state| {
            let token = match state {
                State::Fd(fd) => Block::token(fd, segment.id())?,
                State::Token(token) => token,
                State::Segment(_) | State::Spent => return Err(Error::Corrupted("the descriptor is no token")),
            };
            Ok((State::Token(token.clone()), token))
        })
    }
}
