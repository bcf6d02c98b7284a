//! A counting semaphore.
//!
//! # Protocol
//! One word: bit 31 says that somebody may be parked, bits 0-30 count permits.
//!
//! - acquire: CAS n -> n - 1 (the commit point), the flag kept.
//! - wait: with no permit left, CAS in the flag, park while the word is unchanged.
//! - release: CAS n -> n + 1, the flag cleared (the commit point); if it was set, wake one.
//!
//! A woken waiter takes its permit and sets the flag again, as others may be parked still; a second
//! release that came while the flag was down woke nobody, so if permits are left the woken one
//! wakes the next. Death between a release's CAS and its wake-up, or of a woken waiter: the others
//! find the permit at the end of their slice. Of a waiter: the flag costs one call. What a dead
//! holder owed is not known here.

use crate::deadline::Deadline;
use crate::error::{Error, Result};
use crate::facade::{AtomicU32, Ordering, Parked, Word32};
use crate::kill_point;
use crate::overlay;
use crate::sync::spin::Spin;
use crate::sync::waiting::{self, Found, Look, Prepared, Wait};

const WAITERS: u32 = 1 << 31;
/// The most permits there can be.
pub const MAX: u32 = WAITERS - 1;

overlay! {
    /// The permits and their upper bound.
    /// ```
    /// use fastmp_core::{Deadline, Error};
    /// use fastmp_core::sync::semaphore::Semaphore;
    ///
    /// # fn main() -> Result<(), Error> {
    /// let semaphore = Semaphore::new(1, 1);
    /// semaphore.acquire(Deadline::Never)?;
    /// assert_eq!(semaphore.acquire(Deadline::after(0.01)), Err(Error::TimedOut));
    /// semaphore.release()?;
    /// assert_eq!(semaphore.release(), Err(Error::Overflow));
    /// # Ok(())
    /// # }
    /// ```
    #[derive(Debug)]
    pub struct Semaphore {
        word: Word32,
        most: AtomicU32,
    }
}

static SPIN: Spin = Spin::new(20_000);

impl Semaphore {
    /// `permits` now, `most` at any time.
    pub fn new(permits: u32, most: u32) -> Self {
        Semaphore { word: Word32::new(permits & MAX), most: AtomicU32::new(most & MAX) }
    }

    /// The same, in memory that is all zero.
    pub fn set_up(&self, permits: u32, most: u32) {
        self.word.store(permits & MAX, Ordering::Relaxed);
        self.most.store(most & MAX, Ordering::Release);
    }

    /// Take a permit if there is one.
    #[inline]
    pub fn try_acquire(&self) -> bool {
        let mut word = self.word.load(Ordering::Relaxed);
        while word & MAX > 0 {
            // Acquire: pairs with the release in `release`.
            match self.word.compare_exchange(word, word - 1, Ordering::Acquire, Ordering::Relaxed) {
                Ok(_) => return true,
                Err(now) => word = now,
            }
        }
        false
    }

    /// Take a permit, waiting until `deadline`.
    ///
    /// # Errors
    /// `TimedOut`, or `Interrupted` by a signal.
    #[inline]
    pub fn acquire(&self, deadline: Deadline) -> Result<()> {
        if self.try_acquire() { Ok(()) } else { self.acquire_slow(deadline) }
    }

    #[cold]
    fn acquire_slow(&self, deadline: Deadline) -> Result<()> {
        waiting::wait(&mut PermitWait { semaphore: self, flag: 0 }, deadline)
    }

    /// Give a permit back.
    ///
    /// # Errors
    /// `Overflow` if all are there.
    #[inline]
    pub fn release(&self) -> Result<()> {
        let most = self.most();
        let mut word = self.word.load(Ordering::Relaxed);
        loop {
            let permits = word & MAX;
            if permits >= most {
                return Err(Error::Overflow);
            }
            // Release: pairs with the acquire of whoever takes it.
            match self.word.compare_exchange(word, permits + 1, Ordering::Release, Ordering::Relaxed) {
                Ok(_) => {
                    if word & WAITERS != 0 {
                        self.wake();
                    }
                    return Ok(());
                }
                Err(now) => word = now,
            }
        }
    }

    #[cold]
    fn wake(&self) {
        kill_point!("semaphore.waking");
        self.word.unpark(1);
    }

    /// Permits left, at this instant.
    pub fn permits(&self) -> u32 {
        self.word.load(Ordering::Relaxed) & MAX
    }

    /// The upper bound, whatever stands there: one more permit than `MAX` would be a flag.
    pub fn most(&self) -> u32 {
        self.most.load(Ordering::Relaxed).min(MAX)
    }
}

struct PermitWait<'a> {
    semaphore: &'a Semaphore,
    /// `WAITERS` once it has slept: others may sleep still.
    flag: u32,
}

impl PermitWait<'_> {
    /// Take a permit if `word` still says that there is one.
    fn take(&self, word: u32) -> bool {
        let taken = (word - 1) | self.flag;
        // Acquire: as in `try_acquire`.
        let got = self.semaphore.word.compare_exchange(word, taken, Ordering::Acquire, Ordering::Relaxed).is_ok();
        if got {
            kill_point!("semaphore.taken");
            if self.flag != 0 && taken & MAX > 0 {
                self.semaphore.word.unpark(1);
            }
        }
        got
    }
}

impl Wait for PermitWait<'_> {
    type Output = ();

    fn attempt(&mut self) -> Result<Option<()>> {
        let word = self.semaphore.word.load(Ordering::Relaxed);
        Ok((word & MAX > 0 && self.take(word)).then_some(()))
    }

    fn spin(&self) -> Option<&'static Spin> {
        Some(&SPIN)
    }

    fn takes_for_others(&self) -> bool {
        true
    }

    fn prepare(&mut self) -> Result<Prepared<()>> {
        let word = self.semaphore.word.load(Ordering::Relaxed);
        if word & MAX > 0 {
            return Ok(if self.take(word) { Prepared::Ready(()) } else { Prepared::Changed });
        }
        // Relaxed: the kernel compares the word itself.
        let marked = word == WAITERS
            || self.semaphore.word.compare_exchange(word, WAITERS, Ordering::Relaxed, Ordering::Relaxed).is_ok();
        Ok(if marked { Prepared::Waiting } else { Prepared::Changed })
    }

    fn park(&mut self, until: u64) -> Result<Parked> {
        kill_point!("semaphore.parking");
        let parked = self.semaphore.word.park(WAITERS, until);
        kill_point!("semaphore.woken");
        self.flag = WAITERS;
        parked
    }

    fn probe(&mut self, _: Look) -> Result<Found<()>> {
        // Nobody knows who holds its permits.
        Ok(Found::Nothing)
    }

    fn give_up(&mut self) -> Result<Option<()>> {
        // The flag, just set again, stands for those who sleep on.
        Err(Error::TimedOut)
    }
}
