//! Waiting for room where bytes are bounded: for each message it is another room.
//!
//! A get wakes one waiter. That one may find too little room for its own message, while there is
//! enough for another's, which sleeps on. And small messages may take the room, each time, that a
//! large one waits for. Both are cured by an order among those who wait:
//!
//! - A waiter that has been woken in vain claims the room: it CASes its process's name into
//!   `holder`, if nobody's is there. From then on others who may wait do so, whatever room there
//!   is, and the holder sleeps on a wait set of its own, which gets notify.
//! - Once it has put, gives up, or comes up for signals (and claims anew when it goes on), it takes
//!   its name away and notifies one of the others, who hands the wake-up on as everywhere while
//!   there is room.
//!
//! So whoever sleeps is either first, and woken by each get, or behind who is first. Who has not
//! slept yet and does not wait (a put with `block=False`) takes no notice, as with reservations.
//!
//! # Who is woken
//! A get notifies the holder's set; then, if there is no holder, the common one. If it sees a
//! holder that is just leaving, the holder sees the get's room: each side changes its own word, has
//! a full fence, and looks at the other's. The holder's notify is then the wake-up.
//!
//! # Death
//! - of the holder: who waits behind it looks at its name at the end of each slice, and proved dead
//!   CASes it away; so does who comes anew, before its first sleep. Two that do it at a time: one
//!   CAS fails, and finds what is there.
//! - after the CAS that clears a dead name, before anything else: the others find no holder at the
//!   end of their slice.
//! - of the holder between its clearing and its notify: likewise.
//!
//! A holder that is stopped would keep out others although all has been read. So who finds at the
//! end of a slice that the queue is empty, where any message has room, waits for it no longer.
//!
//! Threads of one process have one name. The waiter itself knows whether the name is its own, and
//! it waits for another thread's as for another process's.

use std::sync::atomic::AtomicU32;

use super::Queue;
use crate::deadline::Deadline;
use crate::error::{Error, Result};
use crate::facade::{AtomicU64, Ordering, Parked};
use crate::kill_point;
use crate::overlay;
use crate::sync::spin::Spin;
use crate::sync::waiting::{self, Found, Look, Prepared, Wait, comes_up, goes_on};
use crate::sync::waitset::WaitSet;
use crate::sys::liveness::{self, Liveness, Owner};

overlay! {
    /// See the module.
    #[derive(Debug)]
    pub struct LargeRoom {
        /// Whose message is first; 0: nobody's.
        holder: AtomicU64,
        /// Where that waits.
        waiter: WaitSet,
        _reserved: AtomicU32,
    }
}

static PUT_SPIN: Spin = Spin::new(40_000);

impl LargeRoom {
    /// Is the room somebody's, who waits for more?
    #[inline]
    pub(super) fn is_held(&self) -> bool {
        self.holder.load(Ordering::Relaxed) != 0
    }

    /// Whoever is first looks again.
    pub(super) fn wake(&self) {
        self.waiter.notify_all();
    }
}

impl Queue {
    /// A get has made room.
    #[inline(never)]
    pub(super) fn tell_room(&self) {
        // Its fence stands between the get's commit and the look at the holder.
        self.state.room.waiter.notify();
        if !self.state.room.is_held() {
            self.ring().state().not_full.notify();
        }
    }

    /// Put by `attempt`, waiting until `deadline` for room.
    ///
    /// # Errors
    /// Those of [`put`](Self::put).
    pub(super) fn wait_for_room<T>(&self, deadline: Deadline, attempt: impl FnMut() -> Result<T>) -> Result<T> {
        let mut wait = RoomWait {
            queue: self,
            attempt,
            claimed: None,
            ticket: 0,
            slept: goes_on(),
            prepared: false,
            overdue: false,
            deadline,
        };
        let done = waiting::wait(&mut wait, deadline);
        comes_up(&done, wait.slept);
        wait.end();
        done.map_err(|e| if e == Error::TimedOut { Error::Full } else { e })
    }
}

struct RoomWait<'a, A> {
    queue: &'a Queue,
    attempt: A,
    /// What it has written into `holder`.
    claimed: Option<u64>,
    ticket: u32,
    slept: bool,
    prepared: bool,
    /// The holder could have had what it waits for.
    overdue: bool,
    deadline: Deadline,
}

impl<A> RoomWait<'_, A> {
    fn claim(&mut self) {
        let me = liveness::me().word();
        // SeqCst: before the look at the room that follows.
        let claimed = self.queue.state.room.holder.compare_exchange(0, me, Ordering::SeqCst, Ordering::Relaxed);
        if claimed.is_ok() {
            self.claimed = Some(me);
            kill_point!("queue.room.claimed");
        }
    }

    fn end(&mut self) {
        let room = &self.queue.state.room;
        if let Some(me) = self.claimed.take() {
            // SeqCst: before the look at the room below.
            let _ = room.holder.compare_exchange(me, 0, Ordering::SeqCst, Ordering::Relaxed);
            kill_point!("queue.room.left");
        }
        if self.prepared && !room.is_held() && !self.queue.ring().is_full() {
            self.queue.ring().state().not_full.notify();
        }
    }
}

impl<T, A: FnMut() -> Result<T>> Wait for RoomWait<'_, A> {
    type Output = T;

    fn attempt(&mut self) -> Result<Option<T>> {
        let may_ignore = self.claimed.is_some() || self.overdue || self.queue.ring().is_shut();
        if !may_ignore && self.queue.state.room.is_held() && !self.deadline.passed() {
            return Ok(None);
        }
        match (self.attempt)() {
            Err(Error::Full | Error::WouldBlock) => Ok(None),
            done => done.map(Some),
        }
    }

    fn glance(&mut self) -> Result<Option<T>> {
        if self.queue.ring().is_full() { Ok(None) } else { self.attempt() }
    }

    fn spin(&self) -> Option<&'static Spin> {
        Some(&PUT_SPIN)
    }

    fn prepare(&mut self) -> Result<Prepared<T>> {
        if self.slept && self.claimed.is_none() {
            self.claim();
        }
        let set =
            if self.claimed.is_some() { &self.queue.state.room.waiter } else { &*self.queue.ring().state().not_full };
        self.ticket = set.prepare_wait();
        self.prepared = true;
        Ok(self.attempt()?.map_or(Prepared::Waiting, Prepared::Ready))
    }

    fn park(&mut self, until: u64) -> Result<Parked> {
        if !self.slept {
            self.queue.state.put_waits.fetch_add(1, Ordering::Relaxed);
        }
        self.slept = true;
        let set =
            if self.claimed.is_some() { &self.queue.state.room.waiter } else { &*self.queue.ring().state().not_full };
        set.park(self.ticket, until)
    }

    fn probe(&mut self, look: Look) -> Result<Found<T>> {
        if look == Look::Thorough {
            self.queue.tend();
        }
        let holder = &self.queue.state.room.holder;
        let word = holder.load(Ordering::Relaxed);
        let Some(owner) = Owner::in_word(word).filter(|_| self.claimed.is_none()) else { return Ok(Found::Nothing) };
        let liveness = match look {
            Look::Quick if liveness::is_dead_quick(owner) => Liveness::Dead,
            Look::Quick | Look::Woken => Liveness::Unknown,
            Look::Thorough => liveness::probe(owner),
        };
        Ok(match liveness {
            Liveness::Dead => {
                let _ = holder.compare_exchange(word, 0, Ordering::SeqCst, Ordering::Relaxed);
                kill_point!("queue.room.recovered");
                Found::Changed
            }
            Liveness::Dying => Found::Dying,
            Liveness::Unknown if look == Look::Thorough && self.queue.ring().is_empty() => {
                self.overdue = true;
                Found::Changed
            }
            Liveness::Unknown => Found::Nothing,
        })
    }

    fn give_up(&mut self) -> Result<Option<T>> {
        Err(Error::TimedOut)
    }
}
