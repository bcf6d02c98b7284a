//! Taking messages into custody, from the front and from the ring; and acknowledging tasks.

use std::os::fd::AsFd;
use std::sync::Arc;

use super::{BUFFER, Keeper, Look};
use crate::channel::extents::OwnedExtent;
use crate::channel::format::{Header, UNIT, record_bytes};
use crate::channel::queue::{Found, Queue};
use crate::channel::ring::{GetGuard, INLINE, MessageMeta, Received};
use crate::deadline::Patience;
use crate::error::{Error, Result};
use crate::sync::custody::{Content, Reference, Source, Taking, cursor};
use crate::sys::liveness;

/// What has been taken.
enum Taken {
    /// So many records, on the end of those given.
    Records(u64),
    /// One message, to be looked at where it is: so many bytes.
    Extent(MessageMeta, OwnedExtent, u64),
}

const DESCRIPTORS: Error = Error::Corrupted("descriptors, in a queue that takes none");
const GARBAGE: Error = Error::Corrupted("a bay with impossible records");

/// The record that `records` begin with: what it is, its payload's length.
fn first(records: &[u8]) -> Result<(MessageMeta, usize)> {
    let header = records.first_chunk::<{ UNIT as usize }>().ok_or(GARBAGE)?;
    let Header { meta, len, .. } = Header::read(header);
    if len > INLINE || record_bytes(len) > records.len() as u64 {
        return Err(GARBAGE);
    }
    if meta.fds > 0 {
        return Err(DESCRIPTORS);
    }
    Ok((meta, len))
}

/// The first `most` records at most: how many, and their bytes.
fn measure(records: &[u8], most: u64) -> Result<(u64, usize)> {
    let (mut count, mut bytes) = (0, 0);
    while count < most && bytes < records.len() {
        let (_, len) = first(&records[bytes..])?;
        bytes += record_bytes(len) as usize;
        count += 1;
    }
    Ok((count, bytes))
}

impl Queue {
    /// Get one message, as [`Queue::get`] does.
    pub(in crate::channel::queue) fn get_kept(
        &self,
        keeper: &Arc<Keeper>,
        scratch: &mut Vec<u8>,
        patience: Patience,
        told: bool,
    ) -> Result<Received> {
        let (transport, socket) = (&self.transport, self.reader.as_fd());
        transport.check_to_tell(1, patience)?;
        let taken = if told {
            // As `Transport::recv_told`.
            let mut tries = 4;
            loop {
                match self.take(keeper, 1, scratch, patience, true) {
                    Err(Error::Empty) if transport.clear_ready(socket, true, patience)? => break Err(Error::Empty),
                    Err(Error::Empty) if tries > 1 => tries -= 1,
                    Err(Error::Empty) => break Err(Error::WouldBlock),
                    taken => {
                        transport.after_take(socket, false, patience)?;
                        break taken;
                    }
                }
            }
        } else {
            let taken = self.take(keeper, 1, scratch, patience, false);
            transport.after_take(socket, matches!(taken, Err(Error::Empty)), patience)?;
            taken
        };
        let received = match taken {
            Ok(Taken::Records(_)) => first(scratch).map(|(meta, len)| {
                scratch.drain(..UNIT as usize);
                scratch.truncate(len);
                Received::new(meta, 0, None)
            }),
            Ok(Taken::Extent(meta, hold, len)) => Ok(Received::new(meta, 0, Some((hold, len as usize)))),
            Err(e) => Err(e),
        };
        self.after_get(received, patience)
    }

    /// Get several, as [`Queue::get_many`] does: all that are in custody together.
    pub(in crate::channel::queue) fn get_some_kept(
        &self,
        keeper: &Arc<Keeper>,
        scratch: &mut Vec<u8>,
        metas: &mut Vec<(MessageMeta, usize)>,
        most: usize,
        patience: Patience,
    ) -> Result<Found> {
        let mut records = Vec::new();
        self.transport.check_to_tell(most as u64, patience)?;
        let taken = self.take(keeper, most, &mut records, patience, false);
        self.transport.after_take(self.reader.as_fd(), matches!(taken, Err(Error::Empty)), patience)?;
        match taken {
            Ok(Taken::Records(count)) => {
                self.has_got();
                let mut at = 0;
                for _ in 0..count {
                    let (meta, len) = first(records.get(at..).unwrap_or_default())?;
                    scratch.extend_from_slice(&records[at + UNIT as usize..at + UNIT as usize + len]);
                    metas.push((meta, len));
                    at += record_bytes(len) as usize;
                }
                Ok(Found::Run(count as usize))
            }
            Ok(Taken::Extent(meta, hold, len)) => {
                self.has_got();
                let received = Received::new(meta, 0, Some((hold, len as usize)));
                Ok(Found::One(received, Vec::new(), Vec::new()))
            }
            Err(Error::Empty) => Err(self.after_nothing(patience)),
            Err(e) => Err(e),
        }
    }

    /// Take `most` at most of what comes first. Records are all that is in `records` then. `told`:
    /// for one who waits by the descriptor, and asked a while ago ([`Queue::acknowledge_own`]);
    /// others of its thread may have got something since, which is acknowledged only if there is
    /// something for this one too.
    fn take(
        &self,
        keeper: &Arc<Keeper>,
        most: usize,
        records: &mut Vec<u8>,
        patience: Patience,
        told: bool,
    ) -> Result<Taken> {
        // However much there is to take: what comes back comes first. To look takes time, so that
        // who must not wait leaves it to its next attempt, which may.
        let looks = patience != Patience::Spin;
        if looks {
            self.look_after(keeper, Look::Asked, patience);
        } else if self.leaves_a_look(keeper) {
            return Err(Error::WouldBlock);
        }
        let mut take = || {
            let is_quiet = told && !self.ring().looks_ready() && !keeper.custody().is_unsettled();
            if is_quiet { Err(Error::Empty) } else { self.take_now(keeper, most, records, patience) }
        };
        match take() {
            Err(Error::Empty) if patience.is_over() && keeper.is_look_due() => {
                if !looks {
                    return Err(Error::WouldBlock);
                }
                self.look_after(keeper, Look::Told, patience);
                take()
            }
            taken => taken,
        }
    }

    fn take_now(&self, keeper: &Arc<Keeper>, most: usize, records: &mut Vec<u8>, patience: Patience) -> Result<Taken> {
        records.clear();
        let index = self.bay(keeper, patience)?;
        let (me, custody, ring) = (liveness::me(), keeper.custody(), self.ring());
        // It may be found before the lock is taken: a look at a table.
        let taker = self.taker();
        let getting = ring.get_guard(patience)?;
        custody.settle(ring.head_word(), self.state.tasks.done());
        let taking = |count| {
            if let Some(taker) = taker {
                taker.takes(count);
            }
        };
        let (mut drained, mut chunk) = (None, None);
        let from = if ring.in_front() > 0 && !ring.is_terminated() { custody.first_in_front() } else { None };
        let taken = match from {
            Some(from) => {
                let taken = take_front(keeper, index, from, most, records, taking);
                if taken.is_ok() && custody.drained(from, me) {
                    drained = Some(from);
                }
                taken
            }
            None => {
                let number = || ring.messages_out();
                let not_taking = |count| {
                    if let Some(taker) = taker {
                        taker.has_not_taken(count);
                    }
                };
                take_first(keeper, &getting, index, most, records, (number, taking, not_taking), &mut chunk)
            }
        };
        drop(getting);
        drop(chunk);
        if let Some(from) = drained {
            keeper.clean(from);
        }
        taken
    }

    /// This thread's bay; it acknowledges what it held.
    fn bay(&self, keeper: &Arc<Keeper>, patience: Patience) -> Result<usize> {
        let own = || self.with_made_file(|| keeper.own_bay());
        if let Some(index) = own()? {
            return Ok(index);
        }
        if patience == Patience::Spin {
            return Err(Error::WouldBlock);
        }
        self.look_after(keeper, Look::Always, patience);
        own()?.ok_or(Error::Os(rustix::io::Errno::USERS))
    }

    /// One is done, of a queue that keeps its tasks: the first that this thread holds comes back no
    /// more. One that holds nothing says it of another's, see [`Queue::of_another_thread`].
    pub(in crate::channel::queue) fn task_done_kept(&self, keeper: &Arc<Keeper>, patience: Patience) -> Result<()> {
        let (me, custody, tasks) = (liveness::me(), keeper.custody(), &self.state.tasks);
        let index = keeper.known_bay();
        // It may be found before the lock is taken: a look at a table.
        let taker = self.taker();
        let getting = self.ring().get_guard(patience)?;
        custody.settle(self.ring().head_word(), tasks.done());
        let own = index.filter(|&index| custody.holds(index, me));
        let holding = own.or_else(|| self.of_another_thread(keeper, taker?.owed()));
        let after = match holding.map(|index| (index, keeper.after_first(index))) {
            Some((index, Ok(after))) => Some((index, after)),
            // The other thread gives it up just now.
            Some((index, Err(_))) if own.is_none() && !custody.holds(index, me) => None,
            Some((_, Err(e))) => return Err(e),
            None => None,
        };
        let done = match after {
            Some((index, after)) => {
                custody.begin_done(index, tasks.done() + 1, after);
                let done = tasks.task_done(|| self.tasks_put());
                custody.end_done(index, done.is_ok());
                done
            }
            None => tasks.task_done(|| self.tasks_put()),
        };
        if done.is_ok() {
            // Under the lock, for the next one's judgement.
            self.counted().owes_less();
        }
        drop(getting);
        if let Some(index) = own.filter(|&index| done.is_ok() && !custody.holds(index, me)) {
            keeper.acknowledge(index);
        }
        done
    }

    /// The bay of the task of which a thread says that it is done that holds none, if it is in
    /// custody still; this process `owes` so many. Under the get lock, settled.
    ///
    /// It is of what another thread of this process has got. If all that the process owes is in
    /// custody it is one of those: the oldest, for all one knows. Else some have been acknowledged
    /// and not done, and it is one of these.
    fn of_another_thread(&self, keeper: &Keeper, owes: u64) -> Option<usize> {
        let (held, oldest) = keeper.custody().held_by(liveness::me());
        oldest.filter(|_| owes <= held)
    }
}

impl Keeper {
    /// A message of `len` bytes, where it is: in custody. Whoever drops the queue meanwhile
    /// acknowledges it once nobody looks any more.
    fn look_at(self: &Arc<Self>, message: Reference, len: u64) -> Result<OwnedExtent> {
        Ok(self.extents.view(message.slot, message.number, len)?.staying_by(self.clone()))
    }

    /// The cursor of bay `index` behind the first message that is left in it.
    fn after_first(&self, index: usize) -> Result<u64> {
        let custody = self.custody();
        let bay = custody.bay(index).ok_or(GARBAGE)?;
        let rest = bay.rest();
        match rest.content {
            Content::Extent(..) => Ok(cursor(rest.given + 1, 0)),
            Content::Records(_) => {
                let mut header = [0; UNIT as usize];
                self.buffer(bay)?.read(rest.at, &mut header)?;
                let Header { len, .. } = Header::read(&header);
                Ok(cursor(rest.given + 1, rest.at + record_bytes(len.min(INLINE))))
            }
        }
    }
}

/// Take from the ring, under the lock, settled.
fn take_first(
    keeper: &Arc<Keeper>,
    getting: &GetGuard<'_>,
    index: usize,
    most: usize,
    records: &mut Vec<u8>,
    (number, taking, not_taking): (impl Fn() -> u64, impl Fn(u64), impl Fn(u64)),
    chunk: &mut Option<OwnedExtent>,
) -> Result<Taken> {
    let custody = keeper.custody();
    let bay = custody.bay(index).ok_or(GARBAGE)?;
    let ahead = getting.look_ahead(records, most, BUFFER as usize)?;
    let count = ahead.count();
    let (content, taken) = match ahead.extent {
        None => {
            first(records)?;
            keeper.buffer(bay)?.write(0, records)?;
            (Content::Records(records.len() as u64), Taken::Records(count))
        }
        Some((meta, ..)) if meta.fds > 0 => return Err(DESCRIPTORS),
        Some((meta, slot, len)) => {
            let known = Reference { slot, number: custody.new_number() };
            keeper.extents.keep(slot, len, known.number)?;
            let hold = keeper.look_at(known, len)?;
            (Content::Extent(known, len, meta.format), Taken::Extent(meta, hold, len))
        }
    };
    taking(count);
    let (source, intents) = (Source::Ring, ahead.intents());
    custody.begin(index, &Taking { source, number: number(), count, intents, content });
    match getting.take_ahead(&ahead) {
        Ok(left) => {
            custody.taken(index);
            *chunk = left;
            Ok(taken)
        }
        Err(e) => {
            custody.not_taken(index);
            not_taking(count);
            Err(e)
        }
    }
}

/// Take from bay `from`, which is first in front, likewise.
fn take_front(
    keeper: &Arc<Keeper>,
    index: usize,
    from: usize,
    most: usize,
    records: &mut Vec<u8>,
    taking: impl Fn(u64),
) -> Result<Taken> {
    let custody = keeper.custody();
    let (Some(bay), Some(source)) = (custody.bay(index), custody.bay(from)) else { return Err(GARBAGE) };
    let rest = source.rest();
    let (count, bytes, content, taken) = match rest.content {
        Content::Extent(extent, len, format) => {
            let hold = keeper.look_at(extent, len)?;
            (1, 0, rest.content, Taken::Extent(MessageMeta { format, fds: 0 }, hold, len))
        }
        Content::Records(end) => {
            let hold = keeper.buffer(source)?;
            let mut bytes = end.min(BUFFER).checked_sub(rest.at).ok_or(GARBAGE)? as usize;
            if most == 1 {
                let mut header = [0; UNIT as usize];
                hold.read(rest.at, &mut header)?;
                bytes = bytes.min(record_bytes(Header::read(&header).len) as usize);
            }
            records.resize(bytes, 0);
            hold.read(rest.at, records)?;
            let (count, bytes) = measure(records, rest.count.min(most as u64))?;
            if count == 0 {
                return Err(GARBAGE);
            }
            records.truncate(bytes);
            keeper.buffer(bay)?.write(0, records)?;
            (count, bytes as u64, Content::Records(bytes as u64), Taken::Records(count))
        }
    };
    taking(count);
    let then = cursor(rest.given + count, rest.at + bytes);
    let intents = [u64::MAX, then];
    custody.begin(index, &Taking { source: Source::Front(from), number: rest.number, count, intents, content });
    custody.advance(from, then);
    custody.taken(index);
    Ok(taken)
}
