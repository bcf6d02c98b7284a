//! Looking for dead owners, and taking back what they held.

use super::{
    Bay, CLEANING, Custody, Found, HELD, IDLE, LOOK_EVERY, LOOK_EVERY_A_BAY, LOOK_MOST, RECORDS, RECOUNT, RETURNED,
};
use crate::facade::{self, Ordering, Owner};
use crate::kill_point;

/// Is a look due, if the last was at `last`? Garbage from the future ends like the past. In a model
/// time stands still.
pub fn is_long_ago(last: u64, now: u64) -> bool {
    is_ago(LOOK_EVERY, last, now)
}

fn is_ago(nanoseconds: u64, last: u64, now: u64) -> bool {
    cfg!(loom) || now.abs_diff(last) >= nanoseconds
}

impl Custody<'_> {
    /// Has nobody looked at the owners for a while?
    pub fn is_time(&self) -> bool {
        is_ago(self.interval(), self.state.looked.load(Ordering::Relaxed), facade::now())
    }

    /// The nanoseconds between two looks: waiting costs no more where there are many to look at.
    fn interval(&self) -> u64 {
        (LOOK_EVERY_A_BAY * self.used().len() as u64).clamp(LOOK_EVERY, LOOK_MOST)
    }

    /// Is it time that somebody looks at the owners? Said to one. `always`: whenever it was.
    pub fn is_due(&self, always: bool) -> bool {
        let (looked, now) = (&self.state.looked, facade::now());
        let last = looked.load(Ordering::Relaxed);
        let is_time = always || is_ago(self.interval(), last, now);
        let is_first = is_time && looked.compare_exchange(last, now, Ordering::Relaxed, Ordering::Relaxed).is_ok();
        always || is_first
    }

    /// What has been found could not be done: it is time again.
    pub fn look_again(&self) {
        self.state.looked.store(0, Ordering::Relaxed);
    }

    /// Has any other process a bay?
    pub fn is_used_by_others(&self, me: Owner) -> bool {
        self.used().iter().any(|bay| bay.owner().is_some_and(|owner| owner != me))
    }

    /// Could anything come back, if others were dead?
    pub fn is_held_by_others(&self, me: Owner) -> bool {
        let others = |bay: &&Bay| bay.holds() && bay.owner().is_some_and(|owner| owner != me);
        self.is_unsettled() || self.used().iter().any(|bay| others(&bay))
    }

    /// The bays of dead owners. `most` owners are asked about thoroughly; who holds something comes
    /// first, for what others have only wants to be cleaned. `by_signs`: who looks as it did when
    /// it was asked about is taken for alive, for two seconds at most.
    pub fn of_the_dead(&self, me: Owner, most: usize, by_signs: bool) -> Vec<(usize, Owner)> {
        let bays = self.used();
        let len = bays.len();
        if len == 0 {
            return Vec::new();
        }
        let first = self.state.next.load(Ordering::Relaxed) as usize % len;
        let of = |index: usize| Some((index, bays[index].owner().filter(|&owner| owner != me)?));
        let mut owned: Vec<_> = (0..len).filter_map(|step| of((first + step) % len)).collect();
        owned.sort_by_key(|(index, _)| !bays[*index].holds());
        let (mut known, mut found) = (Vec::<(Owner, bool)>::new(), Vec::new());
        let (mut asked, mut next) = (0, first);
        for (index, owner) in owned {
            let dead = match known.iter().find(|(known, _)| *known == owner) {
                Some(&(_, dead)) => dead,
                None if by_signs && facade::is_as_seen(owner) => {
                    known.push((owner, false));
                    false
                }
                None => {
                    let mut dead = facade::is_dead_quick(owner);
                    if !dead && asked < most {
                        asked += 1;
                        next = index + 1;
                        dead = facade::is_dead_from_now(owner);
                    }
                    known.push((owner, dead));
                    dead
                }
            };
            if dead {
                found.push((index, owner));
            }
        }
        self.state.next.store(next as u64, Ordering::Relaxed);
        found
    }

    /// Under both locks, settled: what `dead`, which is proved to be, left in bay `index` comes
    /// back; or it is to be cleaned. `keeps`: false of a queue whose messages are nobody's any
    /// more. `tell` makes the descriptor readable, before anything comes back.
    pub fn take_back(&self, index: usize, dead: Owner, me: Owner, keeps: bool, tell: impl FnOnce()) -> Found {
        let bay = &self.bays[index];
        // Acquire: pairs with the release of the dead.
        let word = bay.word.load(Ordering::Acquire);
        if Owner::in_word(word) != Some(dead) {
            return Found::Changed;
        }
        let (state, left) = (word & !Owner::MASK, bay.left());
        if state == HELD && left > 0 && keeps {
            tell();
            self.state.pending.store(RECOUNT, Ordering::Release);
            kill_point!("custody.returning");
            // Commit point.
            let returned = bay.word.compare_exchange(word, RETURNED, Ordering::AcqRel, Ordering::Relaxed);
            kill_point!("custody.returned");
            self.count_front();
            self.state.pending.store(0, Ordering::Release);
            return if returned.is_ok() { Found::Returned(left) } else { Found::Changed };
        }
        if state == IDLE {
            // What is named there may be the ring's still.
            bay.kind.store(RECORDS, Ordering::Relaxed);
        }
        let mine = me.word() | CLEANING;
        match bay.word.compare_exchange(word, mine, Ordering::AcqRel, Ordering::Relaxed) {
            Ok(_) => Found::ToClean,
            Err(_) => Found::Changed,
        }
    }

    /// Under the get lock, settled: nothing comes back any more. Gives the bays that are to be
    /// cleaned.
    pub fn throw_away(&self, me: Owner) -> Vec<usize> {
        let mine = me.word() | CLEANING;
        let bays = self.used().iter().enumerate();
        let thrown = bays.filter(|(_, bay)| {
            if bay.word.load(Ordering::Acquire) == RETURNED && bay.left() == 0 {
                // What was its message is another's.
                bay.kind.store(RECORDS, Ordering::Relaxed);
            }
            bay.word.compare_exchange(RETURNED, mine, Ordering::AcqRel, Ordering::Relaxed).is_ok()
        });
        let thrown = thrown.map(|(index, _)| index).collect();
        self.count_front();
        thrown
    }

    /// A bay from which all has been taken, by one who died before it could clean it.
    pub fn left_over(&self) -> Option<usize> {
        self.used().iter().position(|bay| bay.word.load(Ordering::Relaxed) == RETURNED && bay.left() == 0)
    }
}
