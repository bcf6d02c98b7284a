//! The one loop of all waits.
//!
//! Try; spin for a bounded while; prepare; try again; park until an absolute deadline; cancel.
//! Each kind of wait says in a [`Wait`] what these are for it. The loop does the rest:
//!
//! - It sleeps in slices ([`facade::SLICE`]). At the end of each it looks at those whose death
//!   would end the wait, and comes up for signals: one that arrived just before the sleep has
//!   interrupted nothing.
//! - A slice has its own clock. Wake-ups that were in vain, and signals, do not put its end off,
//!   however often they come.
//! - It comes up likewise before it sleeps once something has been closed that it may wait by: see
//!   [`closings`].
//! - A wait that came up and is called again goes on where it was: the clock of its slice is kept
//!   by its thread.
//! - Who has never prepared leaves no trace. Who gives up afterwards says so ([`Wait::give_up`]).

use std::cell::Cell;

use crate::deadline::Deadline;
use crate::error::{Error, Result};
use crate::facade::{self, Parked};
use crate::sync::closings;
use crate::sync::spin::Spin;

/// What preparing has come to.
#[derive(Debug)]
pub enum Prepared<T> {
    /// There was no need: this is what was waited for.
    Ready(T),
    /// Something has changed meanwhile: try again.
    Changed,
    /// Whoever changes something from now on wakes this thread.
    Waiting,
}

/// How thoroughly to look at the living.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Look {
    /// Before the first sleep: somebody may have been dead for long. A system call or two.
    Quick,
    /// After a wake-up, which the finder of a death may have sent. A load or two, unless there is
    /// reason for more.
    Woken,
    /// At the end of a slice.
    Thorough,
}

/// What a look at those who could have died has shown.
#[derive(Debug)]
pub enum Found<T> {
    /// Somebody has, and this ends the wait.
    Ended(T),
    /// Somebody has, and something changed: try again.
    Changed,
    /// Somebody is about to: the next slice is short.
    Dying,
    /// Nothing is known.
    Nothing,
}

/// A wait for something. All that is shared is behind references; the value itself is one thread's.
pub trait Wait {
    /// What it is for.
    type Output;

    /// Take it, if that is possible at once.
    ///
    /// # Errors
    /// What ends the wait otherwise: a broken barrier, a corrupted word.
    fn attempt(&mut self) -> Result<Option<Self::Output>>;

    /// As `attempt`, in a spin: what is cheap when it is in vain.
    ///
    /// # Errors
    /// Those of `attempt`.
    fn glance(&mut self) -> Result<Option<Self::Output>> {
        self.attempt()
    }

    /// Does it pay to spin? Then by this budget.
    fn spin(&self) -> Option<&'static Spin>;

    /// May it spin after a wake-up before it has prepared again? Only if what it takes then says
    /// by itself that others may sleep still: a waker may have cleared the mark that stood for all.
    fn takes_for_others(&self) -> bool {
        false
    }

    /// Say that this thread is about to wait, and try once more.
    ///
    /// # Errors
    /// Those of `attempt`.
    fn prepare(&mut self) -> Result<Prepared<Self::Output>>;

    /// Sleep until woken, until a reading of the monotonic clock at the latest.
    ///
    /// # Errors
    /// `Interrupted` by a signal.
    fn park(&mut self, until: u64) -> Result<Parked>;

    /// Look at those whose death would end the wait, or whose work is to be done by another when
    /// they are dead.
    ///
    /// # Errors
    /// Those of `attempt`.
    fn probe(&mut self, look: Look) -> Result<Found<Self::Output>>;

    /// The deadline has passed: cancel, and pass on what may have come meanwhile. `None`: try
    /// again.
    ///
    /// # Errors
    /// `TimedOut`: it is over.
    fn give_up(&mut self) -> Result<Option<Self::Output>>;

    /// The deadline that counts just now, if it is not always the caller's.
    ///
    /// # Errors
    /// `Corrupted`.
    fn deadline(&self, deadline: Deadline) -> Result<Deadline> {
        Ok(deadline)
    }
}

/// Short slices in a row, for one who is dying. After so many it is taking its time, and so do its
/// waiters.
const DYING_MOST: u8 = 10;

/// When a wait looks at the others again. Kept by its thread when it comes up for signals, for the
/// call that goes on.
#[derive(Debug, Clone, Copy)]
struct Pace {
    look: u64,
    dying: u8,
}

/// Waits that one may be inside of: a channel's, and that for its lock.
const LEVELS: usize = 2;

facade::local! {
    /// Did this thread's last wait on a channel come up for signals, having slept?
    static SLEPT: Cell<bool> = Cell::new(false);
}

facade::local! {
    /// By level: a wait inside another one keeps its own.
    static CAME_UP: Cell<[Option<Pace>; LEVELS]> = Cell::new([None; LEVELS]);
}

facade::local! {
    /// Waits that this thread is inside of.
    static DEPTH: Cell<usize> = Cell::new(0);
}

/// One wait's place among those that it is inside of.
struct Level(usize);

impl Level {
    fn enter() -> Level {
        let level = DEPTH.with(Cell::get);
        DEPTH.with(|depth| depth.set(level + 1));
        Level(level)
    }

    /// What was kept for the call that goes on.
    fn take(&self) -> Option<Pace> {
        CAME_UP.with(|came_up| {
            let mut all = came_up.get();
            let kept = all.get_mut(self.0).and_then(Option::take);
            came_up.set(all);
            kept
        })
    }

    /// Keep it; None: the wait is over, and so is what was inside it.
    fn keep(&self, pace: Option<Pace>) {
        let mut all = CAME_UP.with(Cell::get);
        match pace {
            Some(_) => all.iter_mut().skip(self.0).take(1).for_each(|kept| *kept = pace),
            None => all.iter_mut().skip(self.0).for_each(|kept| *kept = None),
        }
        CAME_UP.with(|came_up| came_up.set(all));
    }
}

impl Drop for Level {
    fn drop(&mut self) {
        DEPTH.with(|depth| depth.set(self.0));
    }
}

impl Pace {
    fn begin() -> Pace {
        Pace { look: facade::now() + facade::SLICE.as_nanos() as u64, dying: 0 }
    }

    /// Has the slice ended? In a model it ends whenever a sleep does.
    fn is_over(&self, parked: &Result<Parked>) -> bool {
        if cfg!(loom) { matches!(parked, Ok(Parked::TimedOut)) } else { facade::now() >= self.look }
    }

    fn next(&mut self, dying: bool) {
        self.dying = if dying { self.dying.saturating_add(1) } else { 0 };
        let slice = if dying && self.dying <= DYING_MOST { facade::DYING } else { facade::SLICE };
        self.look = facade::now() + slice.as_nanos() as u64;
    }
}

/// Run `handlers`, which may wait for other things, between a wait that came up and the call that
/// goes on: they neither use up nor change what is kept for it. If they fail nothing goes on, and
/// nothing is kept.
///
/// # Errors
/// Those of `handlers`.
pub fn in_between<T, E>(handlers: impl FnOnce() -> std::result::Result<T, E>) -> std::result::Result<T, E> {
    let kept = CAME_UP.with(|came_up| came_up.replace([None; LEVELS]));
    let slept = SLEPT.with(Cell::take);
    let _ = facade::resumed();
    let done = handlers()?;
    CAME_UP.with(|came_up| came_up.set(kept));
    SLEPT.with(|cell| cell.set(slept));
    Ok(done)
}

/// The wait that came up does not go on: what it was for has been closed.
pub fn is_over() {
    CAME_UP.with(|came_up| came_up.set([None; LEVELS]));
    SLEPT.with(Cell::take);
    let _ = facade::resumed();
}

/// Does the wait that begins go on with one that has slept?
pub fn goes_on() -> bool {
    SLEPT.with(Cell::take)
}

/// What the next wait is to be told by [`goes_on`]: this one ended so, and has slept or not.
pub fn comes_up<T>(done: &Result<T>, slept: bool) {
    SLEPT.with(|cell| cell.set(slept && matches!(done, Err(Error::Interrupted))));
}

fn spin<W: Wait>(wait: &mut W) -> Option<Result<W::Output>> {
    wait.spin()?.until(|| wait.glance().transpose())
}

/// Wait until there is what is waited for, until `deadline` at the latest.
///
/// # Errors
/// `TimedOut`; `Interrupted` by a signal, or to look for one: run handlers, and call it again with
/// a wait like this one; what the wait itself ends with.
pub fn wait<W: Wait>(wait: &mut W, deadline: Deadline) -> Result<W::Output> {
    let level = Level::enter();
    let kept = level.take();
    // A wait that goes on has nothing to spin for. Both are asked: either may have come up.
    let resumed = facade::resumed() | kept.is_some();
    let mut pace = kept.unwrap_or_else(Pace::begin);
    let done = go_on(wait, deadline, resumed, &mut pace);
    level.keep(matches!(done, Err(Error::Interrupted)).then_some(pace));
    done
}

fn go_on<W: Wait>(wait: &mut W, deadline: Deadline, resumed: bool, pace: &mut Pace) -> Result<W::Output> {
    let mut comes_up = facade::now() + facade::SLICE.as_nanos() as u64;
    if !resumed
        && deadline != Deadline::PASSED
        && let Some(done) = spin(wait)
    {
        return done;
    }
    let (mut prepared, mut looked, mut woken, mut due) = (false, resumed, false, false);
    loop {
        if woken && wait.takes_for_others() {
            woken = false;
            if let Some(done) = spin(wait) {
                return done;
            }
        }
        let deadline = wait.deadline(deadline)?;
        let late = deadline.passed();
        if late && !prepared {
            if let Some(done) = wait.attempt()? {
                return Ok(done);
            }
        } else {
            match wait.prepare()? {
                Prepared::Ready(done) => return Ok(done),
                Prepared::Changed => continue,
                Prepared::Waiting => prepared = true,
            }
        }
        if !looked {
            looked = true;
            match wait.probe(Look::Quick)? {
                Found::Ended(done) => return Ok(done),
                Found::Changed => continue,
                Found::Dying | Found::Nothing => (),
            }
        }
        if late {
            match wait.give_up()? {
                Some(done) => return Ok(done),
                None => continue,
            }
        }
        if woken {
            woken = false;
            if let Some(done) = spin(wait) {
                return done;
            }
        }
        // Prepared, so that no wake-up is used up by one who comes up.
        if closings::is_due() {
            return Err(Error::Interrupted);
        }
        if std::mem::take(&mut due) {
            facade::end_slice()?;
        }
        let parked = wait.park(deadline.or_at(pace.look));
        if !pace.is_over(&parked) {
            match parked {
                // Somebody has just changed something, and another may have been quicker: as at
                // first.
                Ok(Parked::Woken) => {
                    if let Found::Ended(done) = wait.probe(Look::Woken)? {
                        return Ok(done);
                    }
                    woken = true;
                }
                Ok(Parked::TimedOut) => (),
                Err(error) => return Err(error),
            }
            continue;
        }
        let found = wait.probe(Look::Thorough)?;
        pace.next(matches!(found, Found::Dying));
        match found {
            Found::Ended(done) => return Ok(done),
            Found::Changed => continue,
            Found::Dying | Found::Nothing => (),
        }
        parked?;
        // Not at the end of a short slice, and not if there is time for one more try only.
        if facade::now() >= comes_up && !deadline.passed() {
            comes_up = facade::now() + facade::SLICE.as_nanos() as u64;
            due = true;
        }
    }
}
