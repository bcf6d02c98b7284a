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

    /// This deadline, but at least a moment from now: for a lock that is held for microseconds as a
    /// rule, and that must be waited for also by a call that is not to wait. A dead holder is found
    /// out within that moment.
    pub fn with_grace(self) -> Deadline {
        const MOMENT: u64 = NANOS / 4;
        match self {
            Deadline::Never => Deadline::Never,
            Deadline::At(at) => Deadline::At(at.max(now() + MOMENT)),
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

/// Whether a call may sleep for a lock that is held for microseconds as a rule.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Patience {
    /// No: it spins for a microsecond, then gives `WouldBlock`.
    Spin,
    /// For a third of a millisecond, as long as it takes a holder that has a core, or whose core
    /// the caller has taken, then it gives `WouldBlock`.
    Moment,
    /// Yes, until this deadline, and for a moment in any case.
    Sleep(Deadline),
}

impl Patience {
    /// When a moment that begins now is over.
    pub fn moment() -> Deadline {
        Deadline::At(now() + NANOS / 3000)
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
    fn slices() {
        let s = Duration::from_millis(50);
        assert!(Deadline::Never.slice(s) >= now());
        assert_eq!(Deadline::At(5).slice(s), 5);
    }
}
