//! Which objects a message has already: their addresses, in a table with open addressing.
//!
//! To begin anew costs nothing: an entry counts only in the message that made it.

/// Slots of an empty table, a power of two.
const LEAST: usize = 64;
/// A larger one is not kept for the next message.
const KEPT: usize = 8192;
const UNSHARED: u32 = u32::MAX;

/// Whether an object is in the message already.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Met {
    /// It is not.
    First,
    /// It is, and was not referred to until now: its number from now on, and the place of its tag.
    Second(u32, usize),
    /// It is, under this number.
    Again(u32),
}

#[derive(Debug, Clone, Copy, Default)]
struct Entry {
    object: usize,
    at: usize,
    message: u32,
    number: u32,
}

/// See the module.
#[derive(Debug, Default)]
pub struct Memo {
    table: Vec<Entry>,
    used: usize,
    message: u32,
    /// Where the tags of those stand that are referred to, by number; with the number itself, to
    /// be sorted.
    shared: Vec<(usize, u32)>,
    numbers: Vec<u32>,
    /// The one met again last, and its number: columns repeat what they hold.
    last: (usize, u32),
}

impl Memo {
    /// A new message.
    pub fn begin(&mut self) {
        if self.table.len() > KEPT || self.table.is_empty() {
            self.table = vec![Entry::default(); LEAST];
            self.message = 0;
        }
        self.message = self.message.checked_add(1).unwrap_or_else(|| {
            self.table.fill(Entry::default());
            1
        });
        self.used = 0;
        self.last = (0, UNSHARED);
        if !self.shared.is_empty() {
            self.shared.clear();
            self.shared.shrink_to(KEPT);
            self.numbers.clear();
            self.numbers.shrink_to(KEPT);
        }
    }

    /// Look `object` up; if it is not there, note it, with its tag at `at`.
    #[inline]
    pub fn meet(&mut self, object: usize, at: usize) -> Met {
        if self.last.0 == object {
            return Met::Again(self.last.1);
        }
        let slot = self.slot(object);
        if self.table[slot].message == self.message {
            return self.met(slot);
        }
        self.fill(slot, object, at);
        Met::First
    }

    /// Look `object` up.
    #[inline]
    pub fn find(&mut self, object: usize) -> Met {
        if self.last.0 == object {
            return Met::Again(self.last.1);
        }
        let slot = self.slot(object);
        if self.table[slot].message == self.message { self.met(slot) } else { Met::First }
    }

    /// The numbers of those that are referred to, in the order of their tags.
    pub fn numbers_in_order(&mut self) -> &[u32] {
        self.shared.sort_unstable();
        self.numbers.extend(self.shared.iter().map(|&(_, number)| number));
        &self.numbers
    }

    fn met(&mut self, slot: usize) -> Met {
        let entry = &mut self.table[slot];
        if entry.number != UNSHARED {
            self.last = (entry.object, entry.number);
            return Met::Again(entry.number);
        }
        entry.number = self.shared.len() as u32;
        self.shared.push((entry.at, entry.number));
        Met::Second(entry.number, entry.at)
    }

    /// The slot where `object` is, or would be.
    #[inline]
    fn slot(&self, object: usize) -> usize {
        let mask = self.table.len() - 1;
        // Objects are 16 bytes apart; the high bits of the product are the mixed ones.
        let hash = (object as u64 >> 4).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let mut slot = (hash >> 32) as usize & mask;
        loop {
            let entry = &self.table[slot];
            if entry.message != self.message || entry.object == object {
                return slot;
            }
            slot = (slot + 1) & mask;
        }
    }

    #[inline]
    fn fill(&mut self, slot: usize, object: usize, at: usize) {
        self.table[slot] = Entry { object, at, message: self.message, number: UNSHARED };
        self.used += 1;
        if 2 * self.used > self.table.len() {
            self.grow();
        }
    }

    #[cold]
    fn grow(&mut self) {
        let larger = vec![Entry::default(); 4 * self.table.len()];
        for entry in std::mem::replace(&mut self.table, larger) {
            if entry.message == self.message {
                let slot = self.slot(entry.object);
                self.table[slot] = entry;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{KEPT, Memo, Met};

    #[test]
    fn tells_first_second_and_again() {
        let mut memo = Memo::default();
        for message in 0..3 {
            memo.begin();
            for object in 1..1000 {
                assert_eq!(memo.meet(object * 16, object + message), Met::First);
            }
            assert_eq!(memo.find(16_000), Met::First);
            assert_eq!(memo.meet(500 * 16, 0), Met::Second(0, 500 + message));
            assert_eq!(memo.find(2 * 16), Met::Second(1, 2 + message));
            assert_eq!(memo.meet(500 * 16, 0), Met::Again(0));
            assert_eq!(memo.find(2 * 16), Met::Again(1));
            assert_eq!(memo.numbers_in_order(), [1, 0]);
        }
    }

    #[test]
    fn a_large_table_is_not_kept() {
        let mut memo = Memo::default();
        memo.begin();
        for object in 1..100_000 {
            assert_eq!(memo.meet(object * 16, 0), Met::First);
            assert_eq!(memo.find(object * 16), Met::Second(object as u32 - 1, 0));
        }
        assert!(memo.table.len() > KEPT);
        memo.begin();
        assert!(memo.table.len() <= KEPT);
        assert!(memo.shared.capacity() <= KEPT);
        assert_eq!(memo.find(16), Met::First);
    }
}
