//! Barriers between processes, with parties killed at every step.
#![cfg(not(loom))]
// A failure is to panic.
#![allow(unsafe_code, clippy::unwrap_used)]

mod common;

use std::time::{Duration, Instant};

use common::conditions::with_slice;
use common::{Child, KILLED, OK, until, words};
use fastmp_core::arena::Block;
use fastmp_core::fault::{Action, arm};
use fastmp_core::layout::{Kind, WithSlice};
use fastmp_core::sync::barrier::{Arrival, Arrived, Barrier, BarrierState, Place};
use fastmp_core::sys::liveness::me;
use fastmp_core::{Deadline, Error, Result};

struct Meeting(WithSlice<BarrierState, Place, Block>);

impl Meeting {
    fn of(parties: usize) -> Self {
        Meeting(with_slice(Kind::Barrier, parties))
    }

    fn core(&self) -> Barrier<'_> {
        Barrier::new(self.0.head(), self.0.slice())
    }

    fn arrive(&self, acts: bool) -> Result<Arrived> {
        self.core().arrive(me(), acts, soon())
    }

    fn wait(&self, arrival: Arrival) -> Result<()> {
        self.core().wait(arrival, me(), soon())
    }

    fn meet(&self, acts: bool) -> Result<u32> {
        match self.arrive(acts)? {
            Arrived::Released(arrival) => Ok(arrival.index),
            Arrived::Act(arrival) => self.core().release(arrival, me()).map(|()| arrival.index),
            Arrived::Wait(arrival) => self.wait(arrival).map(|()| arrival.index),
        }
    }

    /// A child that comes and expects this, once it is known to sleep.
    fn party(&self, expected: Result<()>) -> Child {
        let before = self.core().waiting();
        let child = Child::fork(|| assert_eq!(self.meet(false).map(|_| ()), expected));
        until("it has come", || self.core().waiting() > before);
        child.until_parked();
        child
    }
}

fn soon() -> Deadline {
    Deadline::after(10.0)
}

fn waits(came: Result<Arrived>) -> Arrival {
    match came {
        Ok(Arrived::Wait(arrival)) => arrival,
        other => panic!("{other:?}"),
    }
}

#[test]
fn all_go_on_together_round_after_round() {
    let _turn = common::turn();
    const ROUNDS: u64 = 2000;
    for acts in [false, true] {
        let (meeting, words) = (Meeting::of(4), words());
        let mut children: Vec<_> = (0..4)
            .map(|_| {
                Child::fork(|| {
                    for round in 0..ROUNDS {
                        // Nobody is in a later round before all have come to this one.
                        words.add(0, 1);
                        let index = meeting.meet(acts).unwrap();
                        assert!(words.get(0) >= 4 * (round + 1));
                        words.add(1 + index as usize, 1);
                    }
                })
            })
            .collect();
        assert!(children.iter_mut().all(|c| c.wait() == OK));
        assert!((1..=4).all(|index| words.get(index) == ROUNDS), "each index once a round");
    }
}

#[test]
fn a_party_that_dies_waiting_breaks_it() {
    let _turn = common::turn();
    let mut delays = Vec::new();
    for point in ["", "barrier.arrived", "barrier.parking"] {
        for reap in [true, false] {
            let meeting = Meeting::of(4);
            let mut victim = match point {
                "" => meeting.party(Ok(())),
                point => Child::doomed(point, 1, || assert!(meeting.meet(false).is_err())),
            };
            if !point.is_empty() {
                assert_eq!(victim.wait(), KILLED);
            }
            let mut others: Vec<_> =
                (0..2).map(|_| Child::fork(|| assert_eq!(meeting.meet(false), Err(Error::Broken)))).collect();
            if point.is_empty() {
                until("all have come", || meeting.core().waiting() == 3);
                others.iter().for_each(Child::until_parked);
                victim.kill();
                if reap {
                    assert_eq!(victim.wait(), KILLED);
                }
            }
            let start = Instant::now();
            assert!(others.iter_mut().all(|c| c.wait() == OK), "{point}");
            delays.push(start.elapsed());
            assert!(meeting.core().is_broken());
            assert_eq!(meeting.meet(false), Err(Error::Broken));
            meeting.core().reset();
            let mut next: Vec<_> = (0..4).map(|_| Child::fork(|| assert!(meeting.meet(false).is_ok()))).collect();
            assert!(next.iter_mut().all(|c| c.wait() == OK), "{point}");
        }
    }
    println!("broken after {:?} at worst", delays.iter().max().unwrap());
    assert!(delays.iter().all(|&delay| delay < Duration::from_secs(1)));
}

#[test]
fn who_dies_before_it_is_counted_has_not_come() {
    let _turn = common::turn();
    let meeting = Meeting::of(2);
    assert_eq!(Child::doomed("barrier.named", 1, || assert!(meeting.meet(false).is_err())).wait(), KILLED);
    assert_eq!(meeting.core().waiting(), 0);
    let mut one = meeting.party(Ok(()));
    assert_eq!(meeting.meet(false), Ok(1));
    assert_eq!(one.wait(), OK);
}

#[test]
fn the_last_party_dies_before_its_wake_ups() {
    let _turn = common::turn();
    let meeting = Meeting::of(3);
    let mut others = [meeting.party(Ok(())), meeting.party(Ok(()))];
    assert_eq!(Child::doomed("barrier.waking", 1, || assert!(meeting.meet(false).is_err())).wait(), KILLED);
    // The round was over: they find out at the end of their slices.
    assert!(others.iter_mut().all(|c| c.wait() == OK));
    assert!(!meeting.core().is_broken());
}

#[test]
fn the_acting_party_dies() {
    let _turn = common::turn();
    let meeting = Meeting::of(2);
    let mut other = meeting.party(Err(Error::Broken));
    // An early one waits for the next round, and finds it broken.
    let mut actor = Child::fork(|| {
        let Ok(Arrived::Act(arrival)) = meeting.arrive(true) else { panic!("it is the last") };
        arm("barrier.acted", 1, Action::Stop);
        meeting.core().release(arrival, me()).unwrap();
    });
    actor.until_stopped();
    let mut early = Child::fork(|| assert_eq!(meeting.meet(true), Err(Error::Broken)));
    early.until_parked();
    actor.kill();
    assert_eq!(actor.wait(), KILLED);
    assert_eq!(other.wait(), OK);
    assert_eq!(early.wait(), OK);
}

#[test]
fn an_early_party_waits_for_its_own_round() {
    let _turn = common::turn();
    let meeting = Meeting::of(2);
    let mut other = meeting.party(Ok(()));
    let Ok(Arrived::Act(arrival)) = meeting.arrive(true) else { panic!("it is the last") };
    let mut early = Child::fork(|| assert_eq!(meeting.meet(false), Ok(0)));
    early.until_parked();
    assert_eq!(meeting.core().waiting(), 2);
    meeting.core().release(arrival, me()).unwrap();
    assert_eq!(other.wait(), OK);
    until("the early one has come", || meeting.core().waiting() == 1);
    assert_eq!(meeting.meet(false), Ok(1));
    assert_eq!(early.wait(), OK);
}

#[test]
fn who_leaves_makes_room_and_who_dies_leaving_breaks_it() {
    let _turn = common::turn();
    for dies in [false, true] {
        let meeting = Meeting::of(3);
        let mut quitter = Child::fork(|| {
            let arrival = waits(meeting.arrive(false));
            until("another has come", || meeting.core().waiting() == 2);
            if dies {
                arm("barrier.left", 1, Action::Kill);
            }
            assert!(meeting.core().leave(arrival, me()));
        });
        until("the first has come", || meeting.core().waiting() >= 1);
        let mut second = Child::fork(|| assert_eq!(meeting.meet(false).is_ok(), !dies));
        assert_eq!(quitter.wait(), if dies { KILLED } else { OK });
        if dies {
            assert_eq!(second.wait(), OK);
            assert!(meeting.core().is_broken());
            continue;
        }
        assert_eq!(meeting.core().waiting(), 1);
        let mut third = meeting.party(Ok(()));
        // Its name has moved to the leaver's place, where its death is seen as anywhere.
        assert!(meeting.meet(false).is_ok());
        assert_eq!(second.wait(), OK);
        assert_eq!(third.wait(), OK);
    }
}

#[test]
fn a_moved_name_is_watched_too() {
    let _turn = common::turn();
    let meeting = Meeting::of(4);
    let mine = waits(meeting.arrive(false));
    let mut second = meeting.party(Err(Error::Broken));
    let third = meeting.party(Ok(()));
    assert!(meeting.core().leave(mine, me()));
    assert_eq!(meeting.core().waiting(), 2);
    third.kill();
    assert_eq!(second.wait(), OK);
}

#[test]
fn a_time_out_breaks_it() {
    let _turn = common::turn();
    let meeting = Meeting::of(3);
    let mut other = meeting.party(Err(Error::Broken));
    let arrival = waits(meeting.arrive(false));
    let start = Instant::now();
    assert_eq!(meeting.core().wait(arrival, me(), Deadline::after(0.05)), Err(Error::Broken));
    assert!(start.elapsed() >= Duration::from_millis(50));
    assert_eq!(other.wait(), OK);
    assert_eq!((meeting.core().is_broken(), meeting.core().waiting()), (true, 0));
}

#[test]
fn abort_and_reset() {
    let _turn = common::turn();
    let meeting = Meeting::of(2);
    meeting.core().reset();
    assert!(!meeting.core().is_broken());
    for end in [Barrier::reset, Barrier::abort] {
        let mut party = meeting.party(Err(Error::Broken));
        end(&meeting.core());
        assert_eq!(party.wait(), OK);
    }
    assert_eq!(meeting.meet(false), Err(Error::Broken));
    meeting.core().reset();
    let mut party = meeting.party(Ok(()));
    assert_eq!(meeting.meet(false), Ok(1));
    assert_eq!(party.wait(), OK);
}

#[test]
fn a_slow_party_hears_how_its_own_round_ended() {
    let _turn = common::turn();
    for (was_reset, later) in [(true, 5), (false, 5), (true, 0), (false, 0), (true, 20)] {
        let meeting = Meeting::of(2);
        let mut slow = meeting.party(if was_reset { Err(Error::Broken) } else { Ok(()) });
        slow.signal(libc::SIGSTOP);
        slow.until_stopped();
        if was_reset {
            meeting.core().reset()
        } else {
            assert_eq!(meeting.meet(false), Ok(1))
        }
        for round in 0..later {
            let arrival = waits(meeting.arrive(false));
            // Rounds of both kinds follow.
            if round % 2 == 0 {
                meeting.core().reset();
            } else {
                assert!(matches!(meeting.arrive(false), Ok(Arrived::Released(_))));
                meeting.wait(arrival).unwrap();
            }
        }
        slow.signal(libc::SIGCONT);
        assert_eq!(slow.wait(), OK, "reset: {was_reset}, then {later} rounds");
    }
}

/// A party dies; who breaks the barrier for it dies before it wakes the others.
#[test]
fn a_break_outlives_who_makes_it() {
    let _turn = common::turn();
    for reap in [true, false] {
        let meeting = Meeting::of(4);
        let mut first = meeting.party(Err(Error::Broken));
        let mut mender = Child::doomed("barrier.waking", 1, || {
            let _ = meeting.meet(false);
        });
        until("the mender has come", || meeting.core().waiting() == 2);
        mender.until_parked();
        let mut third = meeting.party(Err(Error::Broken));
        // Held still, so that the mender is the one who finds it.
        third.until_parked();
        third.signal(libc::SIGSTOP);
        third.until_stopped();
        first.kill();
        if reap {
            assert_eq!(first.wait(), KILLED);
        }
        assert_eq!(mender.wait(), KILLED);
        assert!(meeting.core().is_broken());
        third.signal(libc::SIGCONT);
        assert_eq!(third.wait(), OK);
    }
}

/// One who comes dies with the gate in hand, its name left behind; and so does who takes the gate
/// over.
#[test]
fn a_gate_outlives_who_takes_it_over() {
    let _turn = common::turn();
    for second in ["mutex.recovered", "barrier.named", "barrier.arrived"] {
        let meeting = Meeting::of(3);
        for (point, arrived) in [("barrier.named", 0), (second, u32::from(second == "barrier.arrived"))] {
            let mut doomed = Child::doomed(point, 1, || {
                let _ = meeting.arrive(false);
            });
            assert_eq!(doomed.wait(), KILLED, "{second}");
            assert_eq!(meeting.core().waiting(), arrived, "{second}");
        }
        // Who died after it was counted breaks the barrier for those who wait; who died before was
        // never there.
        if second == "barrier.arrived" {
            assert_eq!(meeting.meet(false), Err(Error::Broken));
            meeting.core().reset();
        }
        let (mut one, mut other) = (meeting.party(Ok(())), meeting.party(Ok(())));
        assert!(meeting.meet(false).is_ok());
        assert_eq!((one.wait(), other.wait()), (OK, OK), "{second}");
    }
}

#[test]
fn random_kills_leave_nobody_waiting() {
    let _turn = common::turn();
    let seed = common::seed();
    let mut dice = common::Dice(seed);
    let (meeting, words) = (Meeting::of(3), words());
    let work = || {
        loop {
            match meeting.meet(words.add(1, 1) % 5 == 0) {
                Ok(_) => words.add(0, 1),
                Err(Error::Broken) => {
                    meeting.core().reset();
                    0
                }
                Err(e) => panic!("{e:?}"),
            };
        }
    };
    let mut children: Vec<_> = (0..3).map(|_| Child::fork(work)).collect();
    for _ in 0..60 {
        std::thread::sleep(Duration::from_micros(dice.below(5000)));
        let at = dice.below(3) as usize;
        children[at].kill();
        assert_eq!(children[at].wait(), KILLED, "seed {seed}");
        children[at] = Child::fork(work);
        let rounds = words.get(0);
        until("they meet again", || words.get(0) > rounds + 10);
    }
}

#[test]
fn the_action_may_take_longer_than_the_others_would_wait() {
    let _turn = common::turn();
    let meeting = Meeting::of(2);
    let short = || Deadline::after(0.1);
    let mut other = Child::fork(|| {
        let arrival = waits(meeting.arrive(false));
        assert_eq!(meeting.core().wait(arrival, me(), short()), Ok(()));
    });
    until("it has come", || meeting.core().waiting() == 1);
    let Ok(Arrived::Act(arrival)) = meeting.arrive(true) else { panic!("it is the last") };
    // Who is early has its own time, which begins with its own round.
    let mut early = Child::fork(|| {
        let Ok(Arrived::Wait(arrival)) = meeting.core().arrive(me(), true, short()) else { panic!("it waits") };
        assert_eq!(meeting.core().wait(arrival, me(), short()), Err(Error::Broken));
    });
    std::thread::sleep(Duration::from_millis(200));
    meeting.core().release(arrival, me()).unwrap();
    assert_eq!(other.wait(), OK);
    assert_eq!(early.wait(), OK);
}
