//! A queue: one ring that many put into and many get from, unbounded or bounded by messages.
//!
//! Waiting is on the ring's wait sets (see `waitset`): try, spin, register, try again, park. A put or get that ends a wait hands the
//! wake-up on if there is room, or a message, for one more.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use crate::arena::Segment;
use crate::channel::extents::{CHUNK, ExtentState, Extents, Hold};
use crate::channel::ring::{self, BASE_MOST, Body, Ring, RingState, Shape, Tag, Taken};
use crate::deadline::Deadline;
use crate::error::{Error, Result};
use crate::facade::Ordering;
use crate::kill_point;
use crate::layout::Kind;
use crate::sync::spin::Spin;
use crate::sync::waitset::WaitSet;
use crate::sys::{eventfd, liveness};

/// Offsets in a channel's segment: the ring's words, the extents' table, the base.
pub(super) const RINGS: usize = 64;
pub(super) const TABLE: usize = 4096;
pub(super) const BASES: u64 = 8192;
const _: () = assert!(TABLE + size_of::<ExtentState>() <= BASES as usize);
const _: () = assert!(RINGS + 2 * size_of::<RingState>() <= TABLE);
const EXTENTS: u64 = (BASES + BASE_MOST).next_multiple_of(CHUNK);

const SHAPE: Shape = Shape { index: 0, base: BASES, overflows: true, extents: ring::COUNT_MOST };

static GET_SPIN: Spin = Spin::new(40_000);
static PUT_SPIN: Spin = Spin::new(40_000);

/// See the module.
#[derive(Debug)]
pub struct Queue {
    ring: Ring,
    extents: Arc<Extents>,
    segment: Arc<Segment>,
    event: OwnedFd,
}

impl Queue {
    /// A new queue; `maxsize` 0: unbounded.
    pub fn create(maxsize: u64) -> Result<Queue> {
        liveness::me();
        let segment = Segment::sparse("fastmp-queue", Kind::Queue, EXTENTS as usize, BASES as usize)?;
        let queue = Self::over(segment, eventfd::create(1)?)?;
        queue.extents.set_up(EXTENTS);
        queue.ring.set_up(maxsize)?;
        Ok(queue)
    }

    /// The queue that another process made, from the descriptors that it lent.
    pub fn attach(memfd: OwnedFd, event: OwnedFd) -> Result<Queue> {
        liveness::me();
        Self::over(Segment::attach(memfd, Kind::Queue, EXTENTS as usize)?, event)
    }

    fn over(segment: Segment, event: OwnedFd) -> Result<Queue> {
        let segment = Arc::new(segment);
        let extents = Arc::new(Extents::new(segment.clone(), TABLE)?);
        let ring = Ring::new(segment.clone(), RINGS, extents.clone(), SHAPE)?;
        Ok(Queue { ring, extents, segment, event })
    }

    /// The descriptors that another process needs to attach.
    pub fn handles(&self) -> (BorrowedFd<'_>, BorrowedFd<'_>) {
        (self.segment.as_fd(), self.event.as_fd())
    }

    /// The ring, to ask how full it is.
    pub fn ring(&self) -> &Ring {
        &self.ring
    }

    /// An extent for a message of `bytes`, to be filled before it is put.
    pub fn extent(&self, bytes: u64) -> Result<Hold> {
        self.extents.allocate(bytes, false, || self.ring.is_drained())
    }

    /// Put without sleeping.
    ///
    /// # Errors
    /// `Full`; `WouldBlock` if another is putting just now; those of [`put`](Self::put).
    #[inline]
    pub fn try_put(&self, tag: Tag, body: &mut Option<Body<'_>>) -> Result<()> {
        self.put_once(tag, body, None)
    }

    fn put_once(&self, tag: Tag, body: &mut Option<Body<'_>>, deadline: Option<Deadline>) -> Result<()> {
        let putting = self.ring.putting(deadline)?;
        if !putting.has_token() {
            eventfd::set(&self.event);
            kill_point!("queue.token_set");
            putting.set_token(true);
        }
        putting.put(tag, body)?;
        drop(putting);
        kill_point!("queue.put.before_wake");
        self.ring.state().not_empty.notify();
        Ok(())
    }

    /// Put, waiting until `deadline` for room.
    ///
    /// # Errors
    /// `Full` at the deadline; `Interrupted`; `OutOfMemory`. Nothing has been put then, and `body` is as it was.
    pub fn put(&self, tag: Tag, body: &mut Option<Body<'_>>, deadline: Deadline) -> Result<()> {
        let not_full = &self.ring.state().not_full;
        wait_for(
            not_full,
            &PUT_SPIN,
            Error::Full,
            deadline,
            || self.put_once(tag, body, Some(deadline)),
            || !self.ring.is_full(),
        )
    }

    /// Get without sleeping; see [`ring::Getting::get`] for `scratch`.
    ///
    /// # Errors
    /// `Empty`; `WouldBlock` if another is getting just now; those of [`get`](Self::get).
    #[inline]
    pub fn try_get(&self, scratch: &mut Vec<u8>) -> Result<Taken> {
        self.get_once(scratch, None)
    }

    fn get_once(&self, scratch: &mut Vec<u8>, deadline: Option<Deadline>) -> Result<Taken> {
        scratch.clear();
        let getting = self.ring.getting(deadline)?;
        let taken = getting.get(scratch, |_, _, _| Ok(()));
        drop(getting);
        let state = self.ring.state();
        if state.watched.load(Ordering::Relaxed) != 0 && self.ring.is_empty() {
            // A watcher who found nothing was called for nothing: a kill has left the descriptor readable.
            self.clear_if_empty(matches!(taken, Err(Error::Empty)));
        }
        let taken = taken?;
        state.not_full.notify();
        Ok(taken)
    }

    /// Get, waiting until `deadline` for a message.
    ///
    /// # Errors
    /// `Empty` at the deadline; `Interrupted`; `Corrupted`.
    pub fn get(&self, scratch: &mut Vec<u8>, deadline: Deadline) -> Result<Taken> {
        let not_empty = &self.ring.state().not_empty;
        wait_for(
            not_empty,
            &GET_SPIN,
            Error::Empty,
            deadline,
            || self.get_once(scratch, Some(deadline)),
            || self.ring.looks_ready(),
        )
    }

    /// A descriptor that is readable while a message is there, from now on.
    pub fn watch(&self) -> BorrowedFd<'_> {
        if self.ring.state().watched.swap(1, Ordering::SeqCst) == 0 {
            self.clear_if_empty(false);
        }
        self.event.as_fd()
    }

    #[cold]
    fn clear_if_empty(&self, anyway: bool) {
        // A signal may end this wait early; else the holder is done in a moment, or the descriptor stays readable.
        while let Err(Error::Interrupted) = self.ring.putting(Some(Deadline::PASSED)).map(|putting| {
            if putting.is_empty() && (anyway || putting.has_token()) {
                putting.set_token(false);
                kill_point!("queue.token_clearing");
                eventfd::clear(&self.event);
            }
        }) {}
    }
}

/// The one waiting shape. `attempt` gives `none` (`Full` or `Empty`) when it would have to wait; `more` tells whether there is something
/// for another waiter.
pub(super) fn wait_for<T>(
    waiters: &WaitSet,
    spin: &Spin,
    none: Error,
    deadline: Deadline,
    mut attempt: impl FnMut() -> Result<T>,
    more: impl Fn() -> bool,
) -> Result<T> {
    let mut ticket = None;
    loop {
        match attempt() {
            Err(e) if e == none || e == Error::WouldBlock => (),
            // A lock's own deadline is this one.
            Err(Error::TimedOut) => return Err(none),
            done => {
                if ticket.is_some() && more() {
                    waiters.notify();
                }
                return done;
            }
        }
        if deadline.passed() {
            return Err(none);
        }
        match ticket {
            None => {
                if spin.until(|| more().then_some(())).is_some() {
                    continue;
                }
                ticket = Some(waiters.register());
            }
            Some(t) => {
                waiters.park(t, deadline)?;
                kill_point!("channel.woken");
                ticket = Some(waiters.register());
            }
        }
    }
}
