//! The barrier, with the death of a party.

use fastmp_core::facade::{Owner, die};
use fastmp_core::sync::barrier::{Arrived, Barrier, BarrierState, Place};
use fastmp_core::{Deadline, Error, Result};
use loom::sync::Arc;

use crate::{model, on, owner};

struct Owned {
    state: BarrierState,
    places: Vec<Place>,
}

impl Owned {
    fn new(parties: usize) -> Arc<Self> {
        Arc::new(Owned { state: BarrierState::new(), places: (0..parties).map(|_| Place::new()).collect() })
    }

    fn core(&self) -> Barrier<'_> {
        Barrier::new(&self.state, &self.places)
    }

    /// Come and wait, or act; gives how many came before.
    fn meet(&self, me: Owner, acts: bool) -> Result<u32> {
        let core = self.core();
        match core.arrive(me, acts, Deadline::Never)? {
            Arrived::Released(arrival) => Ok(arrival.index),
            Arrived::Act(arrival) => core.release(arrival, me).map(|()| arrival.index),
            Arrived::Wait(arrival) => core.wait(arrival, me, Deadline::Never).map(|()| arrival.index),
        }
    }
}

fn meeting(parties: u32, rounds: u32, acts: bool, preemptions: usize) {
    model(preemptions, move || {
        let shared = Owned::new(parties as usize);
        let party =
            move |pid| move |shared: &Owned| (0..rounds).map(|_| shared.meet(owner(pid), acts).unwrap()).sum::<u32>();
        let others: Vec<_> = (2..=parties).map(|pid| on(&shared, party(pid))).collect();
        let mine = party(1)(&shared);
        let all: u32 = mine + others.into_iter().map(|t| t.join().unwrap()).sum::<u32>();
        assert_eq!(all, rounds * parties * (parties - 1) / 2);
        assert_eq!((shared.core().waiting(), shared.core().is_broken()), (0, false));
    });
}

#[test]
fn two_parties() {
    meeting(2, 1, false, 3);
}

#[test]
fn two_parties_twice() {
    meeting(2, 2, false, 2);
}

#[test]
fn three_parties() {
    meeting(3, 1, false, 2);
}

#[test]
fn an_action_comes_before_all_go_on() {
    meeting(2, 2, true, 2);
}

#[test]
fn the_dead_break_it_for_all() {
    model(2, || {
        let shared = Owned::new(4);
        let Ok(Arrived::Wait(_)) = shared.core().arrive(owner(1), false, Deadline::Never) else { panic!("it waits") };
        let others = [2, 3].map(|pid| on(&shared, move |shared| shared.meet(owner(pid), false)));
        die(1);
        shared.core().ring();
        others.into_iter().for_each(|t| assert_eq!(t.join().unwrap(), Err(Error::Broken)));
        assert!(shared.core().is_broken());
    });
}

#[test]
fn the_dead_actor_breaks_it() {
    model(2, || {
        let shared = Owned::new(2);
        let other = on(&shared, |shared| shared.meet(owner(2), true));
        let came = shared.core().arrive(owner(1), true, Deadline::Never).unwrap();
        die(1);
        shared.core().ring();
        match came {
            // It died before its action was over, or while it waited for the other's.
            Arrived::Act(_) => assert_eq!(other.join().unwrap(), Err(Error::Broken)),
            _ => assert!(matches!(other.join().unwrap(), Ok(1) | Err(Error::Broken))),
        }
    });
}

#[test]
fn a_reset_or_the_last_party() {
    model(2, || {
        let shared = Owned::new(2);
        let Ok(Arrived::Wait(first)) = shared.core().arrive(owner(1), false, Deadline::Never) else {
            panic!("it waits")
        };
        let second = on(&shared, |shared| shared.core().arrive(owner(2), false, Deadline::Never).unwrap());
        shared.core().reset();
        let got = shared.core().wait(first, owner(1), Deadline::Never);
        match second.join().unwrap() {
            Arrived::Released(_) => assert_eq!(got, Ok(())),
            Arrived::Wait(_) => assert_eq!(got, Err(Error::Broken)),
            Arrived::Act(_) => panic!("no action"),
        }
    });
}

#[test]
fn a_time_out_or_the_last_party() {
    model(2, || {
        let shared = Owned::new(2);
        let hasty = on(&shared, |shared| match shared.core().arrive(owner(1), false, Deadline::Never) {
            Ok(Arrived::Wait(arrival)) => shared.core().wait(arrival, owner(1), Deadline::PASSED),
            Ok(_) => Ok(()),
            Err(e) => Err(e),
        });
        let mine = shared.meet(owner(2), false);
        assert_eq!(hasty.join().unwrap().is_ok(), mine.is_ok());
    });
}

#[test]
fn who_leaves_makes_room() {
    model(2, || {
        let shared = Owned::new(2);
        let Ok(Arrived::Wait(arrival)) = shared.core().arrive(owner(1), false, Deadline::Never) else {
            panic!("it waits")
        };
        let other = on(&shared, |shared| shared.meet(owner(2), false));
        if shared.core().leave(arrival, owner(1)) {
            assert!(matches!(shared.meet(owner(3), false), Ok(0 | 1)));
        } else {
            shared.core().wait(arrival, owner(1), Deadline::PASSED).unwrap();
        }
        assert!(matches!(other.join().unwrap(), Ok(0 | 1)));
    });
}
