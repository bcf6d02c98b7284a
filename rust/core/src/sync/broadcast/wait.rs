//! How senders wait for room, and readers for messages: by the one loop of all waits.

use super::{Board, Ticket};
use crate::deadline::Deadline;
use crate::error::{Error, Result};
use crate::facade::{self, Liveness, Ordering, Parked};
use crate::kill_point;
use crate::sync::spin::Spin;
use crate::sync::turns::Turn;
use crate::sync::waiting::{self, Found, Look, Prepared, Wait};

/// Readers that are looked at thoroughly at the end of a slice: some 10 us each.
const THOROUGH: usize = 8;

static ROOM_SPIN: Spin = Spin::new(20_000);
static NEWS_SPIN: Spin = Spin::new(40_000);

impl Board<'_> {
    /// Attempt a send until it ends otherwise than by `Full`, until `deadline` at the latest. Dead
    /// readers are dropped.
    ///
    /// # Errors
    /// `Full` at the deadline; `Interrupted`; those of `attempt`.
    pub fn wait_for_room<T>(&self, deadline: Deadline, attempt: impl FnMut() -> Result<T>) -> Result<T> {
        let mut wait = RoomWait {
            board: *self,
            attempt,
            turn: Turn::new(&self.state.room),
            deadline,
            first: 0,
            woken: false,
            passed_on: None,
        };
        let done = waiting::wait(&mut wait, deadline);
        wait.turn.end(done.is_ok());
        if wait.turn.is_prepared() && self.looks_roomy() {
            self.state.room.notify();
        }
        // The lock's own deadline is this one.
        done.map_err(|e| if e == Error::TimedOut { Error::Full } else { e })
    }

    /// Attempt a read until it ends otherwise than by `Empty`, until `deadline` at the latest.
    /// `idle` is called now and then by who waits for long.
    ///
    /// # Errors
    /// `Empty` at the deadline; `Interrupted`; those of `attempt`.
    pub fn wait_for_news<T>(
        &self,
        ticket: Ticket,
        deadline: Deadline,
        attempt: impl FnMut() -> Result<T>,
        idle: impl Fn(),
    ) -> Result<T> {
        let mut wait = NewsWait { board: *self, ticket, attempt, idle, word: 0 };
        waiting::wait(&mut wait, deadline).map_err(|e| if e == Error::TimedOut { Error::Empty } else { e })
    }

    /// Look at the slowest readers, on whose account there is no room; thoroughly at some of the
    /// living alone, in turn from `first` on. Of the dead there may be many at a time, and each of
    /// them is looked at once.
    fn look_at_slowest(&self, look: Look, first: &mut usize) -> Liveness {
        let least = self.waited_for().map(|(_, place)| place.number()).min();
        let slowest = self.waited_for().filter(|(_, place)| Some(place.number()) == least);
        let slowest: Vec<_> = slowest.collect();
        let mut thorough = if look == Look::Thorough { THOROUGH } else { 0 };
        let (begin, mut worst) = (*first, Liveness::Unknown);
        for step in 0..slowest.len() {
            let (slot, place) = slowest[begin.wrapping_add(step) % slowest.len()];
            let is_thorough = thorough > 0;
            let found = self.look_at(slot, place, |owner| match is_thorough {
                true => facade::probe(owner),
                false if facade::is_dead_quick(owner) => Liveness::Dead,
                false => Liveness::Unknown,
            });
            match found {
                Liveness::Dead => worst = Liveness::Dead,
                Liveness::Dying if worst == Liveness::Unknown => worst = Liveness::Dying,
                _ => (),
            }
            if is_thorough && found != Liveness::Dead {
                thorough -= 1;
                *first = first.wrapping_add(1);
            }
        }
        worst
    }
}

struct RoomWait<'a, A> {
    board: Board<'a>,
    attempt: A,
    turn: Turn<'a>,
    deadline: Deadline,
    /// Who is looked at next.
    first: usize,
    /// Was it woken, and has not tried since?
    woken: bool,
    /// What the slowest was to read when it last woke another.
    passed_on: Option<u64>,
}

impl<A> RoomWait<'_, A> {
    /// There is not room enough for this one: there may be for another, with a smaller message.
    /// Once for each message that the slowest goes on: those who are woken so wake each other no
    /// further.
    fn pass_on(&mut self) {
        if !std::mem::take(&mut self.woken) || !self.board.looks_roomy() {
            return;
        }
        let least = self.board.slowest();
        if self.passed_on.replace(least) != Some(least) {
            self.board.state.room.notify();
        }
    }
}

impl<T, A: FnMut() -> Result<T>> Wait for RoomWait<'_, A> {
    type Output = T;

    fn attempt(&mut self) -> Result<Option<T>> {
        if self.turn.is_held_up(self.deadline) {
            return Ok(None);
        }
        match (self.attempt)() {
            Err(Error::Full | Error::WouldBlock) => Ok(None),
            done => done.map(Some),
        }
    }

    fn glance(&mut self) -> Result<Option<T>> {
        if self.board.looks_roomy() { self.attempt() } else { Ok(None) }
    }

    fn spin(&self) -> Option<&'static Spin> {
        Some(&ROOM_SPIN)
    }

    fn prepare(&mut self) -> Result<Prepared<T>> {
        self.turn.prepare_wait();
        if let Some(done) = self.attempt()? {
            return Ok(Prepared::Ready(done));
        }
        self.turn.lost();
        self.pass_on();
        Ok(Prepared::Waiting)
    }

    fn park(&mut self, until: u64) -> Result<Parked> {
        let parked = self.turn.park(until);
        self.woken = matches!(parked, Ok(Parked::Woken));
        kill_point!("broadcast.send.woken");
        parked
    }

    fn probe(&mut self, look: Look) -> Result<Found<T>> {
        Ok(match self.board.look_at_slowest(look, &mut self.first) {
            Liveness::Dead => Found::Changed,
            Liveness::Dying => Found::Dying,
            Liveness::Unknown => Found::Nothing,
        })
    }

    fn give_up(&mut self) -> Result<Option<T>> {
        Err(Error::TimedOut)
    }
}

struct NewsWait<'a, A, I> {
    board: Board<'a>,
    ticket: Ticket,
    attempt: A,
    idle: I,
    /// What it sleeps on.
    word: u32,
}

impl<T, A: FnMut() -> Result<T>, I: Fn()> Wait for NewsWait<'_, A, I> {
    type Output = T;

    fn attempt(&mut self) -> Result<Option<T>> {
        match (self.attempt)() {
            Err(Error::Empty | Error::WouldBlock) => Ok(None),
            done => done.map(Some),
        }
    }

    fn glance(&mut self) -> Result<Option<T>> {
        if self.board.looks_ready(self.ticket) { self.attempt() } else { Ok(None) }
    }

    fn spin(&self) -> Option<&'static Spin> {
        Some(&NEWS_SPIN)
    }

    fn prepare(&mut self) -> Result<Prepared<T>> {
        self.word = self.board.state.news.prepare_wait();
        Ok(self.attempt()?.map_or(Prepared::Waiting, Prepared::Ready))
    }

    fn park(&mut self, until: u64) -> Result<Parked> {
        self.board.state.news.park(self.word, until)
    }

    fn probe(&mut self, look: Look) -> Result<Found<T>> {
        // A sender that died has sent or not: the next look at the words tells.
        if look == Look::Thorough {
            self.board.sweep_now_and_then();
            (self.idle)();
        }
        Ok(Found::Nothing)
    }

    fn give_up(&mut self) -> Result<Option<T>> {
        Err(Error::TimedOut)
    }
}

impl Board<'_> {
    /// What the slowest is to read.
    fn slowest(&self) -> u64 {
        let oldest = self.state.oldest.load(Ordering::Acquire);
        self.least_place(oldest, self.state.next.load(Ordering::Acquire))
    }

    /// Is there anything that could be freed?
    pub fn keeps_read(&self) -> bool {
        let oldest = self.state.oldest.load(Ordering::Acquire);
        let next = self.state.next.load(Ordering::Acquire);
        oldest < next || self.state.limbo.load(Ordering::Relaxed) != 0
    }
}
