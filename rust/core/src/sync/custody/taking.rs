//! The steps of one who holds the get lock: settling, taking, and doing a task.

use super::{
    Bay, CLEANING, Content, Custody, DONE, EXTENT, HELD, IDLE, RECORDS, RECOUNT, RETURNED, RING, Source, Taking,
};
use crate::facade::{Ordering, Owner};
use crate::kill_point;

impl Custody<'_> {
    /// May the last holder of the get lock have died in the middle?
    pub fn is_unsettled(&self) -> bool {
        self.state.pending.load(Ordering::Relaxed) != 0
    }

    /// Under the get lock, before anything else: finish what its last holder has begun. `head` is
    /// the ring's word, `done` the count of tasks.
    pub fn settle(&self, head: u64, done: u64) {
        match self.state.pending.load(Ordering::Relaxed) {
            0 => (),
            RECOUNT => self.settled(),
            index => match self.bays.get((index - 1) as usize) {
                Some(bay) => self.settle_step(bay, head, done),
                // Not written by us.
                None => self.settled(),
            },
        }
    }

    fn settled(&self) {
        self.count_front();
        kill_point!("custody.settling");
        self.state.pending.store(0, Ordering::Release);
    }

    #[cold]
    fn settle_step(&self, bay: &Bay, head: u64, done: u64) {
        let [all_but_one, all] = [0, 1].map(|which| bay.intents[which].load(Ordering::Relaxed));
        let end = bay.end.load(Ordering::Relaxed);
        let source = bay.source.load(Ordering::Relaxed);
        if source == DONE {
            if done == all {
                bay.cursor.store(bay.after.load(Ordering::Relaxed), Ordering::Relaxed);
            }
            return self.settled();
        }
        let now = match source {
            RING => Some(head),
            // Acquire: pairs with `advance`.
            _ => self.bays.get((source - 1) as usize).map(|from| from.cursor.load(Ordering::Acquire)),
        };
        let taken = match now {
            Some(now) if now == all => end,
            Some(now) if now == all_but_one => end.saturating_sub(1),
            _ => 0,
        };
        // Again after a second death: what is so already stays.
        if bay.word.load(Ordering::Relaxed) & !Owner::MASK == IDLE {
            self.finish(bay, taken);
        }
        self.settled();
    }

    fn finish(&self, bay: &Bay, taken: u64) {
        if taken == 0 {
            bay.kind.store(RECORDS, Ordering::Relaxed);
            return;
        }
        bay.end.store(taken, Ordering::Relaxed);
        let owner = bay.word.load(Ordering::Relaxed) & Owner::MASK;
        // Release: pairs with the acquire of who returns it. Nobody changes an idle bay meanwhile:
        // its owner, or who settles for it, has the lock.
        bay.word.store(owner | HELD, Ordering::Release);
    }

    /// Under the get lock, settled: the owner of bay `index`, which is idle, is about to take this.
    pub fn begin(&self, index: usize, taking: &Taking) {
        let bay = &self.bays[index];
        bay.number.store(taking.number, Ordering::Relaxed);
        bay.end.store(taking.count, Ordering::Relaxed);
        bay.cursor.store(0, Ordering::Relaxed);
        for (word, intent) in bay.intents.iter().zip(taking.intents) {
            word.store(intent, Ordering::Relaxed);
        }
        let source = match taking.source {
            Source::Ring => RING,
            Source::Front(from) => from as u64 + 1,
        };
        bay.source.store(source, Ordering::Relaxed);
        match taking.content {
            Content::Records(bytes) => {
                bay.kind.store(RECORDS, Ordering::Relaxed);
                bay.bytes.store(bytes, Ordering::Relaxed);
            }
            Content::Extent(extent, bytes, format) => {
                bay.extent.store(extent.slot, Ordering::Relaxed);
                bay.extent_number.store(extent.number, Ordering::Relaxed);
                bay.extent_bytes.store(bytes, Ordering::Relaxed);
                bay.format.store(u32::from(format), Ordering::Relaxed);
                bay.kind.store(EXTENT, Ordering::Relaxed);
            }
        }
        // Release: all that stands above is there for who settles.
        self.state.pending.store(index as u64 + 1, Ordering::Release);
        kill_point!("custody.pending");
    }

    /// After the source's commit.
    pub fn taken(&self, index: usize) {
        let bay = &self.bays[index];
        self.finish(bay, bay.end.load(Ordering::Relaxed));
        kill_point!("custody.held");
        if bay.source.load(Ordering::Relaxed) != RING {
            self.count_front();
        }
        self.state.pending.store(0, Ordering::Release);
    }

    /// Instead of that commit.
    pub fn not_taken(&self, index: usize) {
        self.bays[index].kind.store(RECORDS, Ordering::Relaxed);
        self.state.pending.store(0, Ordering::Release);
    }

    /// Under the get lock, settled: the bay whose messages are first in front.
    pub fn first_in_front(&self) -> Option<usize> {
        let bays = self.used().iter().enumerate();
        let returned = bays.filter(|(_, bay)| bay.word.load(Ordering::Acquire) == RETURNED && bay.left() > 0);
        let first = returned.min_by_key(|(_, bay)| bay.rest().number).map(|(index, _)| index);
        if first.is_none() && self.in_front() != 0 {
            self.count_front();
        }
        first
    }

    /// The commit point of a take from bay `from`, which is in front.
    pub fn advance(&self, from: usize, cursor: u64) {
        kill_point!("custody.front.before_commit");
        // Release: pairs with the acquire in `settle`.
        self.bays[from].cursor.store(cursor, Ordering::Release);
        kill_point!("custody.front.after_commit");
    }

    /// Under the get lock, settled: if all of bay `from`, which was in front, has been taken it is
    /// the caller's to clean. What was its message is another's.
    pub fn drained(&self, from: usize, me: Owner) -> bool {
        let bay = &self.bays[from];
        if bay.word.load(Ordering::Acquire) != RETURNED || bay.left() > 0 {
            return false;
        }
        bay.kind.store(RECORDS, Ordering::Relaxed);
        let mine = me.word() | CLEANING;
        bay.word.compare_exchange(RETURNED, mine, Ordering::AcqRel, Ordering::Relaxed).is_ok()
    }

    /// Under the get lock, settled: the process that has bay `index`, which holds something, is
    /// about to count the first of it as done, so that `done` are; `cursor` is what comes after it.
    /// It may be another thread than the owner, who may acknowledge all of it meanwhile, and even
    /// leave the bay to others: until one of these takes something, under this lock, what stands
    /// there means nothing.
    pub fn begin_done(&self, index: usize, done: u64, cursor: u64) {
        let bay = &self.bays[index];
        bay.source.store(DONE, Ordering::Relaxed);
        bay.intents[1].store(done, Ordering::Relaxed);
        bay.after.store(cursor, Ordering::Relaxed);
        self.state.pending.store(index as u64 + 1, Ordering::Release);
        kill_point!("custody.done_pending");
    }

    /// After that: has it been counted?
    pub fn end_done(&self, index: usize, counted: bool) {
        let bay = &self.bays[index];
        if counted {
            kill_point!("custody.done_counted");
            bay.cursor.store(bay.after.load(Ordering::Relaxed), Ordering::Relaxed);
        }
        self.state.pending.store(0, Ordering::Release);
    }

    /// Under the get lock, settled: how much process `me` holds, and the bay of the oldest. (Its
    /// threads may be acknowledging it.)
    pub fn held_by(&self, me: Owner) -> (u64, Option<usize>) {
        let held = self.used().iter().enumerate().filter(|(_, bay)| bay.holds() && bay.owner() == Some(me));
        let (mut count, mut oldest) = (0u64, None::<(u64, usize)>);
        for (index, bay) in held {
            let rest = bay.rest();
            count = count.saturating_add(rest.count);
            oldest = Some(oldest.map_or((rest.number, index), |oldest| oldest.min((rest.number, index))));
        }
        (count, oldest.map(|(_, index)| index))
    }

    /// Had others taken what is in bay `index` before, who were killed? By the thread whose it is: a
    /// bay's source is changed by its own steps alone, and says `DONE` once its first task is done.
    pub fn has_come_back(&self, index: usize, me: Owner) -> bool {
        self.holds(index, me) && !matches!(self.bays[index].source.load(Ordering::Relaxed), RING | DONE)
    }

    /// Does the thread whose bay this is hold anything?
    pub fn holds(&self, index: usize, me: Owner) -> bool {
        let bay = &self.bays[index];
        bay.word.load(Ordering::Relaxed) == me.word() | HELD && bay.left() > 0
    }
}
