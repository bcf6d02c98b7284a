//! Custody: messages that a thread has taken and not yet acknowledged. If its process is killed
//! they come back, in front of all others. So each is delivered at least once.
//!
//! # Words
//! Each thread that takes from such a queue has a *bay*, in a table beside the queue. A bay keeps
//! what its thread has taken at a time: a run of records, copied into memory of the bay's own, or
//! one large message, which stays in the extent in which it came. No process owns that memory, so
//! that no sweep takes it for a dead one's: a ring or a bay refers to it.
//!
//! A bay's `word` says whose it is and in which state, in one:
//!
//! | owner | state | meaning |
//! |---|---|---|
//! | 0 | 0 | free |
//! | process | `IDLE` | its thread's; nothing is in custody |
//! | process | `HELD` | what is in it from `cursor` on is in custody |
//! | process | `CLEANING` | nothing is in custody; the process gives its memory back |
//! | 0 | `RETURNED` | what is in it from `cursor` on is queued, in front |
//!
//! | word | changed by | meaning |
//! |---|---|---|
//! | `pending` | the get lock's holder | not 0: it was in the middle of a step with this bay |
//! | a bay's `cursor` | the get lock's holder | what was in it before is somebody else's, or done |
//! | a bay's other words | its owner, while `IDLE`, under the get lock | what is in it, from where |
//! | `front` (of the ring) | the get lock's holder | messages in front: the sum over bays that are `RETURNED` |
//!
//! The get lock is the ring's. Where a step makes the queue longer, the put lock is held too, for
//! readiness is told under that.
//!
//! # Protocol
//! Whoever holds the get lock and is about to change something *settles* first: see below.
//!
//! - **take**, from the ring: copy the records into the bay, or mark the large message's extent as
//!   the bay's; say what the head will be (`intents`); `pending` = the bay. Store the new head: the
//!   commit point, as of every get. Then `word` := `HELD`, `pending` := 0. (An even run is
//!   committed in two steps, the last message alone: two intents.)
//! - **take**, from the front, of the bay with the lowest number: the same, with that bay's `cursor`
//!   in place of the head; then `front`. A bay of which all is taken is cleaned.
//! - **acknowledge**, by the thread, when it asks for its next message, and by its process when the
//!   thread or the process ends normally: `word` := `IDLE`, or `CLEANING` where there is an extent
//!   to give back. That is the commit point, and needs no lock: nobody else changes a word with a
//!   live owner.
//! - **return**, by whoever proves the owner of a `HELD` bay dead, under both locks: make the
//!   descriptor readable; CAS `word` from what was seen to `RETURNED`, the commit point; count
//!   `front` anew; wake one who waits. Of any other bay of the dead: CAS to `CLEANING` in one's own
//!   name, and clean it.
//! - **clean**: give the extents back (see `reclaim` of extents; each is known by a number that is
//!   never used twice, so that it is nothing to do it again), then `word` := `IDLE` by its
//!   thread, or 0.
//! - **task_done** of a queue whose messages are tasks: under the get lock, `pending` = the bay,
//!   with the count of tasks done as it will be as its intent. Count: the commit point, for the
//!   task and for the message's custody at once. Then `cursor` goes on. So a task that comes back
//!   was never counted, and one that was counted never comes back.
//!
//! # Settling
//! `pending` not 0 says that the last holder died in the middle. Nobody has moved the head, a
//! `cursor` or the count since, for whoever does that settles first. So intent and word are
//! compared: equal, and the step was done, and the bay is `HELD` (by one who is dead; it will be
//! found); not equal, and nothing was. Then `front` is counted anew, and `pending` cleared last, so
//! that a second death leaves the same question to the next.
//!
//! # Death
//! - of a taker before the commit: nothing was taken; the bay is `IDLE`, and will be cleaned.
//! - after the commit, before `HELD`: settling makes it so, and it comes back.
//! - of one who holds something: it comes back, as often as it takes.
//! - of one who acknowledges, after the commit: the bay is cleaned by who finds it.
//! - of who returns, before the CAS: a needless ready packet, which goes with the next call that
//!   finds nothing. After it: `pending` says that `front` is to be counted; whoever waits looks at
//!   `pending` too. After that, before the wake-up: who waits finds it at the end of its slice.
//! - of who cleans: its own name is in the word; the next one goes on.
//! - of who takes what has come back: it is a taker like any other.
//!
//! # Who is looked at
//! Whoever waits for a message looks at the owners at the end of its slice, if nobody else has done
//! so for [`LOOK_EVERY`]. Each is asked about in a cheap way, a few ([`THOROUGH`]) thoroughly: so
//! many a look that waiting costs no more than a thousandth of a core. A killed process that nobody
//! has waited for (a zombie, not a child of who looks) needs the latter; where more than that many
//! hold something, and few wait, it is found a slice or some later.
//!
//! # What the words do not say
//! Fork: a bay names its process, so that a child holds nothing of its parent's. Whether a process
//! has ended normally: it says so itself, by acknowledging. What it has not acknowledged when it is
//! gone comes back. A live owner is never taken for dead, and *unknown counts as alive*: then
//! nothing comes back.
