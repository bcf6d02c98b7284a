//! A timeout in seconds becomes one absolute monotonic deadline, computed once.

use std::time::Duration;

use rustix::time::{ClockId, Timespec, clock_gettime};

const NANOS: u64 = 1_000_000_000;

/// Nanoseconds on the monotonic clock, the clock of every deadline here.
pub fn now() -> u64 {
    let t = clock_gettime(ClockId::Monotonic);
    t.tv_sec as u64 * NANOS + t.tv_nsec as u64
}

/// When to give up. What overflows the clock means never.
/// ```
/// use fastmp_core::Deadline;
///
/// assert!(Deadline::after(-1.0).passed());
/// assert!(!Deadline::after(3600.0).passed());
/// assert_eq!(Deadline::after(f64::INFINITY), Deadline::Never);
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Deadline {
    /// Wait for ever.
    Never,
    /// Give up at this reading of the monotonic clock, in nanoseconds.
    At(u64),
}

impl Deadline {
    /// Already passed: try once.
    pub const PASSED: Deadline = Deadline::At(0);

    /// `seconds` from now; negative or NaN has already passed, too far is never.
    pub fn after(seconds: f64) -> Deadline {
        if seconds.is_nan() || seconds <= 0.0 {
            return Deadline::PASSED;
        }
        let nanos = seconds * NANOS as f64;
        if nanos >= (i64::MAX / 2) as f64 {
            return Deadline::Never;
        }
        Deadline::At(now() + nanos as u64)
    }

    /// Has it passed?
    pub fn passed(self) -> bool {
        match self {
            Deadline::Never => false,
            Deadline::At(0) => true,
            Deadline::At(at) => now() >= at,
        }
    }

    /// With the grace of a call that begins now.
    pub fn graced(self) -> Graced {
        match self {
            Deadline::Never => Graced { deadline: NEVER, end: NEVER },
            Deadline::At(at) => Graced { deadline: at, end: at.max(now() + GRACE) },
        }
    }

    /// The earlier of this deadline and `at`, a reading of the monotonic clock in nanoseconds.
    pub fn or_at(self, at: u64) -> u64 {
        match self {
            Deadline::Never => at,
            Deadline::At(deadline) => deadline.min(at),
        }
    }

    /// The earlier of this deadline and `slice` from now: no wait is longer than a slice, so that
    /// a death is noticed although nobody signals it.
    pub fn slice(self, slice: Duration) -> u64 {
        let end = now() + slice.as_nanos() as u64;
        match self {
            Deadline::Never => end,
            Deadline::At(at) => at.min(end),
        }
    }
}

/// Nanoseconds that a call has for locks, however short its timeout.
const GRACE: u64 = NANOS / 4;

/// A call's deadline with its *grace*: for locks that are held for microseconds as a rule it waits
/// until the deadline, and for a quarter of a second from its beginning in any case. A dead holder
/// is found out within that.
///
/// It is made once for each call, and handed down: a call that comes to several locks, tries again
/// or goes on after a signal has it once. So a stopped holder costs each call one grace at most.
/// ```
/// use fastmp_core::Deadline;
///
/// let call = Deadline::PASSED.graced();
/// assert!(call.deadline().passed() && !call.end().passed());
/// // What is done on the way has no more time than the call.
/// assert!(Deadline::PASSED.graced().brief().end() != call.end());
/// assert_eq!(call.brief().end(), call.end());
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Graced {
    deadline: u64,
    end: u64,
}

/// Of the clock: no reading is this one.
const NEVER: u64 = u64::MAX;

fn at(reading: u64) -> Deadline {
    if reading == NEVER { Deadline::Never } else { Deadline::At(reading) }
}

impl Graced {
    /// No grace: what is tried beyond its own time by a call that has nothing to lose.
    pub fn without(deadline: Deadline) -> Graced {
        let deadline = deadline.or_at(NEVER);
        Graced { deadline, end: deadline }
    }

    /// The grace of a call that begins now, and is not to wait.
    pub fn alone() -> Graced {
        Deadline::PASSED.graced()
    }

    /// The call's own deadline.
    pub fn deadline(self) -> Deadline {
        at(self.deadline)
    }

    /// When it gives locks up.
    pub fn end(self) -> Deadline {
        at(self.end)
    }

    /// For what a call does besides, and can do without: no more than a grace from now, and no more
    /// than it has itself.
    pub fn brief(self) -> Graced {
        Graced { deadline: 0, end: self.end.min(now() + GRACE) }
    }
}

impl From<Deadline> for Graced {
    fn from(deadline: Deadline) -> Graced {
        deadline.graced()
    }
}

/// Whether a call may sleep for a lock that is held for microseconds as a rule.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Patience {
    /// No: it spins for a microsecond, then gives `WouldBlock`.
    Spin,
    /// For a third of a millisecond, as long as it takes a holder that has a core, or whose core
    /// the caller has taken, then it gives `WouldBlock`.
    Moment,
    /// Yes, until this deadline, with its grace.
    Sleep(Graced),
}

impl Patience {
    /// Does who has it wait for nothing else, any more?
    pub fn is_over(self) -> bool {
        match self {
            Patience::Sleep(until) => until.deadline().passed(),
            _ => true,
        }
    }

    /// When a moment that begins now is over.
    pub fn moment() -> Deadline {
        Deadline::At(now() + NANOS / 3000)
    }

    /// Until `deadline`, with a grace from now.
    pub fn sleep(deadline: impl Into<Graced>) -> Patience {
        Patience::Sleep(deadline.into())
    }

    /// For what a call does besides, and can do without: see [`Graced::brief`]. Whoever does not
    /// sleep does not sleep for that.
    #[cold]
    pub fn brief(self) -> Patience {
        match self {
            Patience::Sleep(until) => Patience::Sleep(until.brief()),
            other => other,
        }
    }

    /// The same, but it is worth a grace of its own to who has not slept.
    #[cold]
    pub fn brief_at_least(self) -> Patience {
        match self {
            Patience::Sleep(until) => Patience::Sleep(until.brief()),
            _ => Patience::Sleep(Graced::alone()),
        }
    }
}

/// An absolute reading as the kernel wants it.
pub fn timespec(at: u64) -> Timespec {
    Timespec { tv_sec: (at / NANOS) as i64, tv_nsec: (at % NANOS) as _ }
}

/// A span in nanoseconds as the kernel wants it.
pub fn span(nanos: u64) -> Timespec {
    timespec(nanos)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn saturates() {
        assert_eq!(Deadline::after(1e300), Deadline::Never);
        assert_eq!(Deadline::after(f64::INFINITY), Deadline::Never);
        assert_eq!(Deadline::after(-1.0), Deadline::PASSED);
        assert_eq!(Deadline::after(f64::NAN), Deadline::PASSED);
        assert!(Deadline::after(0.0).passed());
        assert!(!Deadline::after(100.0).passed());
        assert!(!Deadline::Never.passed());
    }

    #[test]
    fn a_grace_is_of_a_call() {
        let before = now();
        let call = Deadline::At(before + 5).graced();
        assert_eq!(call.deadline(), Deadline::At(before + 5));
        let Deadline::At(end) = call.end() else { panic!() };
        assert!(end >= before + GRACE && end <= now() + GRACE);
        assert_eq!(Deadline::At(end + NANOS).graced().end(), Deadline::At(end + NANOS), "late enough");
        assert_eq!(Deadline::Never.graced().end(), Deadline::Never);
        // Whatever is done in it.
        for inner in [call.brief(), call.brief().brief()] {
            assert_eq!((inner.deadline(), inner.end()), (Deadline::PASSED, call.end()));
        }
        let spent = Graced { deadline: 0, end: before };
        assert!(spent.brief().end().passed());
        // What would wait for ever waits for this no longer than a grace.
        let Deadline::At(end) = Deadline::Never.graced().brief().end() else { panic!() };
        assert!(end >= before + GRACE && end <= now() + GRACE);
        assert_eq!(Patience::Spin.brief(), Patience::Spin);
        assert_eq!(Patience::Sleep(call).brief(), Patience::Sleep(call.brief()));
    }

    #[test]
    fn slices() {
        let s = Duration::from_millis(50);
        assert!(Deadline::Never.slice(s) >= now());
        assert_eq!(Deadline::At(5).slice(s), 5);
    }
}
