//! Broadcasts between processes: order, bounds, who is left behind; senders and readers killed at
//! every step. Long, for it holds all tests of one object.
#![cfg(not(loom))]
// Forks, and lays test words over shared memory; a failure is to panic.
#![allow(unsafe_code, clippy::unwrap_used)]

mod common;

use std::sync::Arc;
use std::time::{Duration, Instant};

use common::channel::{LARGE, SMALL, soon};
use common::{Child, Dice, KILLED, OK, message, read_message, resident, state, until, words};
use fastmp_core::channel::broadcast::{Broadcast, Lag, Message, READERS_MOST, Reader};
use fastmp_core::channel::ring::Payload;
use fastmp_core::deadline::Patience;
use fastmp_core::fault::{Action, arm, arm_in_turn};
use fastmp_core::sync::broadcast::{SMALL as CELL_MOST, Ticket};
use fastmp_core::sys::mapping::Mapping;
use fastmp_core::{Deadline, Error, Result};

/// What neither lies in a cell nor is given back at once.
const MEDIUM: usize = 5000;

fn create(maxsize: u64, lag: Lag) -> Arc<Broadcast> {
    Arc::new(Broadcast::create(maxsize, 0, lag).unwrap())
}

fn send(to: &Broadcast, producer: usize, number: usize, len: usize, deadline: Deadline) -> Result<()> {
    let bytes = message(producer, number, len);
    let mut payload = if len <= 64 << 10 {
        Some(Payload::Inline(&bytes))
    } else {
        let hold = to.extent(len as u64)?;
        hold.write(0, &bytes)?;
        Some(Payload::Extent(hold, len as u64))
    };
    to.send(7, &mut payload, deadline)
}

fn join(broadcast: &Arc<Broadcast>) -> Reader {
    broadcast.reader(soon()).unwrap()
}

fn copied(message: &Message, mut scratch: Vec<u8>) -> Vec<u8> {
    if let Some((hold, len)) = message.received.extent.as_deref() {
        scratch.resize(*len, 0);
        hold.read(0, &mut scratch).unwrap();
    }
    scratch
}

fn recv(reader: &Reader, deadline: Deadline) -> Result<(usize, usize)> {
    let mut scratch = Vec::new();
    let mut message = reader.recv(&mut scratch, deadline)?;
    let (pin, bytes) = (message.pin.take(), copied(&message, scratch));
    pin.map_or(Ok(()), |pin| pin.finish())?;
    assert_eq!(message.received.meta.format, 7);
    Ok(read_message(&bytes))
}

fn got(reader: &Reader) -> (usize, usize) {
    recv(reader, soon()).unwrap()
}

fn nothing(reader: &Reader) {
    assert_eq!(recv(reader, Deadline::PASSED), Err(Error::Empty));
}

/// Bytes that an idle broadcast may keep.
const IDLE: u64 = 9 << 20;

/// Who waits on it for a while gives back what nobody uses.
fn comes_to_rest(broadcast: &Arc<Broadcast>) {
    let reader = join(broadcast);
    until("it comes to rest", || {
        nothing_within(&reader, 0.2);
        resident(&broadcast.handle()) <= IDLE
    });
    drop(reader);
}

/// Nobody reads any more, and no message has memory.
fn nothing_is_left(broadcast: &Broadcast, case: &str) {
    // Not at once if a dead process has the lock.
    until(case, || {
        broadcast.collect();
        broadcast.readers().is_empty() && broadcast.extents_in_use() == Ok(0)
    });
}

fn nothing_within(reader: &Reader, seconds: f64) {
    assert_eq!(recv(reader, Deadline::after(seconds)), Err(Error::Empty));
}

#[test]
fn each_reader_gets_each_message_from_when_it_joined() {
    let _turn = common::turn();
    for lag in [Lag::Block, Lag::Skip] {
        let broadcast = create(16, lag);
        send(&broadcast, 1, 99, LARGE, Deadline::PASSED).unwrap();
        let first = join(&broadcast);
        nothing(&first);
        let lens = [SMALL, 16, CELL_MOST, CELL_MOST + 1, MEDIUM, 64 << 10, LARGE];
        for (number, len) in lens.into_iter().enumerate() {
            send(&broadcast, 1, number, len, Deadline::PASSED).unwrap();
        }
        let second = join(&broadcast);
        send(&broadcast, 1, lens.len(), SMALL, Deadline::PASSED).unwrap();
        (0..=lens.len()).for_each(|number| assert_eq!(got(&first), (1, number)));
        assert_eq!(got(&second), (1, lens.len()));
        nothing(&first);
        nothing(&second);
        assert_eq!((first.missed(soon()), second.missed(soon())), (Ok(0), Ok(0)));
        drop(second);
        assert_eq!(broadcast.stats().readers, 1);
        broadcast.shut(soon()).unwrap();
        assert_eq!(recv(&first, Deadline::Never), Err(Error::PeerGone));
        assert_eq!(send(&broadcast, 1, 0, SMALL, soon()), Err(Error::Closed));
    }
}

#[test]
fn what_is_there_when_the_end_is_announced_is_still_read() {
    let _turn = common::turn();
    let broadcast = create(4, Lag::Block);
    let reader = join(&broadcast);
    let mut waiting = Child::fork(|| {
        let own = broadcast.reader(soon()).unwrap();
        assert_eq!((got(&own), got(&own)), ((1, 0), (1, 1)));
        assert_eq!(recv(&own, Deadline::Never), Err(Error::PeerGone));
    });
    waiting.until_parked();
    (0..2).for_each(|number| send(&broadcast, 1, number, LARGE, soon()).unwrap());
    // Killed before it could wake anybody.
    let mut shutting = Child::doomed("broadcast.shut", 1, || broadcast.shut(soon()).unwrap());
    assert_eq!((shutting.wait(), waiting.wait()), (KILLED, OK));
    assert_eq!((got(&reader), got(&reader)), ((1, 0), (1, 1)));
    assert_eq!(recv(&reader, Deadline::Never), Err(Error::PeerGone));
}

#[test]
fn the_slowest_holds_senders_back_until_it_reads_or_leaves() {
    let _turn = common::turn();
    let broadcast = create(3, Lag::Block);
    let (slow, quick) = (join(&broadcast), join(&broadcast));
    for len in [SMALL, LARGE] {
        (0..3).for_each(|number| send(&broadcast, 1, number, len, Deadline::PASSED).unwrap());
        (0..3).for_each(|number| assert_eq!(got(&quick), (1, number)));
        assert!(broadcast.would_be_full());
        let start = Instant::now();
        assert_eq!(send(&broadcast, 1, 3, len, Deadline::after(0.1)), Err(Error::Full));
        assert!(start.elapsed() >= Duration::from_millis(100));
        let infos = broadcast.readers();
        assert_eq!(infos.iter().map(|info| info.behind).collect::<Vec<_>>(), [3, 0]);
        assert_eq!(got(&slow), (1, 0));
        send(&broadcast, 1, 3, len, Deadline::PASSED).unwrap();
        (1..4).for_each(|number| assert_eq!(got(&slow), (1, number)));
        assert_eq!(got(&quick), (1, 3));
    }
    (0..3).for_each(|number| send(&broadcast, 1, number, SMALL, Deadline::PASSED).unwrap());
    (0..3).for_each(|number| assert_eq!(got(&quick), (1, number)));
    let mut sender = Child::fork(|| send(&broadcast, 1, 3, SMALL, Deadline::Never).unwrap());
    sender.until_parked();
    drop(slow);
    assert_eq!(sender.wait(), OK);
    assert_eq!(got(&quick), (1, 3));
}

#[test]
fn bytes_are_bounded() {
    let _turn = common::turn();
    let broadcast = Arc::new(Broadcast::create(100, 3 * LARGE as u64, Lag::Block).unwrap());
    let reader = join(&broadcast);
    (0..3).for_each(|number| send(&broadcast, 1, number, LARGE, Deadline::PASSED).unwrap());
    assert_eq!(broadcast.stats().unread_bytes, 3 * LARGE as u64);
    assert_eq!(send(&broadcast, 1, 3, 16, Deadline::PASSED), Err(Error::Full));
    assert_eq!(got(&reader), (1, 0));
    send(&broadcast, 1, 3, SMALL, Deadline::PASSED).unwrap();
    assert_eq!(send(&broadcast, 1, 0, 3 * LARGE + 1, soon()), Err(Error::TooLarge));
    let skipping = Arc::new(Broadcast::create(100, 3 * LARGE as u64, Lag::Skip).unwrap());
    let reader = join(&skipping);
    (0..9).for_each(|number| send(&skipping, 1, number, LARGE, Deadline::PASSED).unwrap());
    (6..9).for_each(|number| assert_eq!(got(&reader), (1, number)));
    assert_eq!(reader.missed(soon()), Ok(6));
}

#[test]
fn who_is_left_behind_counts_what_it_missed() {
    let _turn = common::turn();
    for maxsize in [1, 4] {
        let broadcast = create(maxsize, Lag::Skip);
        let reader = join(&broadcast);
        let mut dice = Dice(maxsize);
        let (mut sent, mut received) = (0, 0);
        for _ in 0..300 {
            for _ in 0..dice.below(9) {
                let len = [SMALL, MEDIUM, 70_000][dice.below(3) as usize];
                send(&broadcast, 1, sent, len, Deadline::PASSED).unwrap();
                sent += 1;
            }
            for _ in 0..dice.below(5) {
                let Ok((_, number)) = recv(&reader, Deadline::PASSED) else { break };
                received += 1;
                assert_eq!(number as u64, received - 1 + reader.missed(soon()).unwrap());
            }
        }
        while recv(&reader, Deadline::PASSED).is_ok() {
            received += 1;
        }
        assert_eq!(received + reader.missed(soon()).unwrap(), sent as u64);
        assert!(received > 100 && reader.missed(soon()).unwrap() > 100);
        comes_to_rest(&broadcast);
    }
}

#[test]
fn what_is_being_copied_stays_however_many_are_sent() {
    let _turn = common::turn();
    let broadcast = create(2, Lag::Skip);
    let (reader, other) = (join(&broadcast), join(&broadcast));
    send(&broadcast, 1, 0, LARGE, soon()).unwrap();
    let mut held = reader.recv(&mut Vec::new(), soon()).unwrap();
    (1..60).for_each(|number| send(&broadcast, 1, number, LARGE, soon()).unwrap());
    // Its own other thread waits meanwhile.
    nothing(&reader);
    assert_eq!(read_message(&copied(&held, Vec::new())), (1, 0));
    held.pin.take().unwrap().finish().unwrap();
    assert_eq!((got(&reader), reader.missed(soon())), ((1, 58), Ok(57)));
    assert_eq!((got(&other), other.missed(soon())), ((1, 58), Ok(58)));
    // One that is not finished is read again.
    drop(reader.recv(&mut Vec::new(), soon()).unwrap());
    assert_eq!(got(&reader), (1, 59));
    assert_eq!(got(&other), (1, 59));
    assert_eq!(broadcast.extents_in_use(), Ok(0));
    drop((reader, other, held));
    comes_to_rest(&broadcast);
}

/// Who was stopped as it copied costs senders a look at all extents now and then, not each of them.
#[test]
fn what_is_in_limbo_is_looked_for_now_and_then() {
    let _turn = common::turn();
    let broadcast = create(2, Lag::Skip);
    let reader = join(&broadcast);
    send(&broadcast, 1, 0, LARGE, soon()).unwrap();
    let mut held = reader.recv(&mut Vec::new(), soon()).unwrap();
    (1..4).for_each(|number| send(&broadcast, 1, number, SMALL, soon()).unwrap());
    let looks = || {
        let (guard, dead) = broadcast.board().lock(fastmp_core::sys::liveness::me(), Patience::sleep(soon())).unwrap();
        assert!(dead.is_none() && guard.has_limbo());
        guard.limbo_is_due().is_some()
    };
    // Who looks puts it off.
    for number in 4..6 {
        until("it is due", looks);
        let start = Instant::now();
        send(&broadcast, 1, number, SMALL, soon()).unwrap();
        assert!(!looks() || start.elapsed() > Duration::from_millis(90));
    }
    // Who is done with its copy has it looked for at once.
    assert_eq!(broadcast.extents_in_use(), Ok(1));
    held.pin.take().unwrap().finish().unwrap();
    send(&broadcast, 1, 6, SMALL, soon()).unwrap();
    assert_eq!(broadcast.extents_in_use(), Ok(0));
}

/// Numbers as they come from each producer: one behind the other, and how many.
#[derive(Default)]
struct Seen([usize; 8]);

impl Seen {
    fn add(&mut self, (producer, number): (usize, usize)) {
        assert_eq!(number, self.0[producer], "message of {producer}");
        self.0[producer] += 1;
    }
}

const SENDING: [(&str, &[usize]); 9] = [
    ("broadcast.send.before_commit", &[SMALL, MEDIUM, LARGE]),
    ("broadcast.send.after_commit", &[SMALL, MEDIUM, LARGE]),
    ("broadcast.send.before_wake", &[SMALL, LARGE]),
    ("broadcast.send.evicted", &[MEDIUM, LARGE]),
    ("broadcast.send.woken", &[SMALL, LARGE]),
    ("extent.reclaimed", &[MEDIUM, LARGE]),
    ("extent.handing_over", &[MEDIUM, LARGE]),
    ("extent.filled", &[LARGE]),
    ("extent.freed", &[MEDIUM, LARGE]),
];
/// Where the one dies that repairs.
const REPAIRING: [&str; 6] = [
    "mutex.recovered",
    "extent.settling",
    "broadcast.settled",
    "extent.reclaimed",
    "broadcast.send.before_commit",
    "broadcast.send.after_commit",
];

/// A sender dies at `point`, the one after it at `repair`, and nothing is lost but what was in
/// their hands.
fn senders_die(point: &str, nth: u32, len: usize, repair: &str, lag: Lag) {
    let case = format!("{point} {nth} {len} {repair} {lag:?}");
    let broadcast = create(2, lag);
    let reader = join(&broadcast);
    let sent = words();
    let send_all = |producer: usize, count: usize| {
        for number in 0..count {
            // The reader is to keep pace, so that nothing is missed.
            until("room", || broadcast.stats().unread < 2 || lag == Lag::Block);
            send(&broadcast, producer, number, len, Deadline::Never).unwrap();
            sent.set(producer, number as u64 + 1);
        }
    };
    let mut seen = Seen::default();
    let mut victims = [
        Child::doomed(point, nth, || send_all(1, 30)),
        Child::fork(|| {
            // When the first is dead.
            until("its turn", || sent.get(0) == 1);
            arm_in_turn(&[(repair, 1, Action::Kill)]);
            send_all(2, 30);
        }),
        Child::fork(|| {
            until("its turn", || sent.get(0) == 2);
            send_all(3, 30);
        }),
    ];
    for (turn, victim) in victims.iter_mut().enumerate() {
        loop {
            match recv(&reader, Deadline::after(0.005)) {
                Ok(one) => seen.add(one),
                Err(Error::Empty) if state(victim.pid()) == Some('Z') => break,
                Err(Error::Empty) => (),
                Err(e) => panic!("{case}: {e:?}"),
            }
        }
        let end = victim.wait();
        match turn {
            // The reader may be quick enough, and frees large ones itself.
            0 if point == "broadcast.send.woken" || (len == LARGE && point != "broadcast.send.before_commit") => {
                assert!(end == KILLED || end == OK, "{case}: {end:?}");
            }
            0 => assert_eq!(end, KILLED, "{case}"),
            1 => assert!(end == KILLED || end == OK, "{case}: {end:?}"),
            _ => assert_eq!(end, OK, "{case}"),
        }
        let (put, came) = (sent.get(turn + 1) as usize, seen.0[turn + 1]);
        assert!(came == put || came == put + 1, "{case}: {came} of {put}");
        sent.set(0, turn as u64 + 1);
    }
    assert_eq!((seen.0[3], reader.missed(soon())), (30, Ok(0)), "{case}");
    let infos = broadcast.readers();
    assert!(infos.len() == 1 && infos[0].behind == 0, "{case}: {infos:?}");
    drop(reader);
    nothing_is_left(&broadcast, &case);
}

#[test]
fn senders_die_at_every_step() {
    let _turn = common::turn();
    let mut repair = 0;
    for (point, lens) in SENDING {
        for &len in lens {
            for lag in [Lag::Block, Lag::Skip] {
                repair += 1;
                // The first reader may be at rest before there is anything to evict.
                senders_die(point, 5, len, REPAIRING[repair % REPAIRING.len()], lag);
            }
        }
    }
    for repair in REPAIRING {
        senders_die("broadcast.send.before_commit", 3, LARGE, repair, Lag::Block);
        senders_die("broadcast.send.evicted", 3, LARGE, repair, Lag::Skip);
    }
}

const READING: [(&str, &[usize]); 7] = [
    ("broadcast.recv.before_commit", &[SMALL]),
    ("broadcast.recv.after_commit", &[SMALL]),
    ("broadcast.recv.pinned", &[MEDIUM, LARGE]),
    ("broadcast.recv.finished", &[MEDIUM, LARGE]),
    ("broadcast.left", &[SMALL, LARGE]),
    ("broadcast.join.before_commit", &[SMALL]),
    ("broadcast.join.after_commit", &[SMALL, LARGE]),
];

#[test]
fn readers_die_at_every_step_and_block_nobody() {
    let _turn = common::turn();
    for (point, lens) in READING {
        for &len in lens {
            for lag in [Lag::Block, Lag::Skip] {
                let broadcast = create(3, lag);
                let reader = join(&broadcast);
                let mut victim = Child::fork(|| {
                    arm(point, if point.contains("recv") { 3 } else { 1 }, Action::Kill);
                    let own = join(&broadcast);
                    (0..5).for_each(|_| _ = got(&own));
                });
                let mut number = 0;
                while state(victim.pid()) != Some('Z') || number < 20 {
                    send(&broadcast, 1, number, len, soon()).unwrap();
                    assert_eq!(got(&reader), (1, number), "{point} {len} {lag:?}");
                    number += 1;
                }
                // Where it lags behind the end nobody has had to find that out yet.
                assert!(broadcast.stats().readers <= 2);
                assert_eq!(broadcast.readers().len(), 1, "{point} {len} {lag:?}");
                assert_eq!(victim.wait(), KILLED, "{point} {len} {lag:?}");
                send(&broadcast, 1, number, LARGE, soon()).unwrap();
                assert_eq!((got(&reader), reader.missed(soon())), ((1, number), Ok(0)));
                drop(reader);
                nothing_is_left(&broadcast, point);
            }
        }
    }
}

#[test]
fn who_frees_what_all_have_read_may_die_of_it() {
    let _turn = common::turn();
    for point in ["broadcast.send.evicted", "extent.reclaimed", "extent.freed"] {
        for lag in [Lag::Block, Lag::Skip] {
            let broadcast = create(3, lag);
            let ready = words();
            let mut only = Child::fork(|| {
                arm(point, 2, Action::Kill);
                let own = join(&broadcast);
                ready.set(0, 1);
                (0..3).for_each(|number| assert_eq!(got(&own), (1, number)));
            });
            until("it has joined", || ready.get(0) == 1);
            (0..3).for_each(|number| send(&broadcast, 1, number, LARGE, soon()).unwrap());
            assert_eq!(only.wait(), KILLED, "{point} {lag:?}");
            let reader = join(&broadcast);
            // The second death, of one that looks for what the first has left.
            let mut repairing = Child::doomed("extent.reclaimed", 1, || {
                (0..3).for_each(|number| send(&broadcast, 2, number, LARGE, soon()).unwrap());
            });
            let end = repairing.wait();
            assert!(end == KILLED || end == OK, "{point} {lag:?}: {end:?}");
            while recv(&reader, Deadline::PASSED).is_ok() {}
            send(&broadcast, 3, 0, LARGE, soon()).unwrap();
            assert_eq!((got(&reader), reader.missed(soon())), ((3, 0), Ok(0)), "{point} {lag:?}");
            drop(reader);
            nothing_is_left(&broadcast, point);
        }
    }
}

#[test]
fn a_sender_that_waits_for_a_dead_reader_goes_on() {
    let _turn = common::turn();
    for len in [SMALL, LARGE] {
        let broadcast = create(2, Lag::Block);
        let ready = words();
        let idle = Child::fork(|| {
            let _reader = join(&broadcast);
            ready.set(0, 1);
            loop {
                std::thread::sleep(Duration::from_secs(1));
            }
        });
        until("it has joined", || ready.get(0) == 1);
        let mut sender = Child::fork(|| {
            (0..3).for_each(|number| send(&broadcast, 1, number, len, Deadline::Never).unwrap());
        });
        sender.until_parked();
        // Stopped is alive.
        idle.signal(libc::SIGSTOP);
        idle.until_stopped();
        std::thread::sleep(Duration::from_millis(250));
        assert!(sender.ended().is_none());
        // The first to find the death dies of it, and the second goes on.
        let mut finder = Child::doomed("broadcast.dropped", 1, || {
            send(&broadcast, 2, 0, len, Deadline::Never).unwrap();
        });
        finder.until_parked();
        idle.kill();
        assert_eq!(sender.wait(), OK);
        assert!([OK, KILLED].contains(&finder.wait()));
        assert_eq!(broadcast.readers(), []);
    }
}

#[test]
fn who_finds_a_death_may_die_of_it() {
    let _turn = common::turn();
    let broadcast = create(2, Lag::Block);
    let mut reader = Child::fork(|| std::mem::forget(join(&broadcast)));
    assert_eq!(reader.wait(), OK);
    let send_all = || (0..5).for_each(|number| send(&broadcast, 1, number, SMALL, Deadline::Never).unwrap());
    let mut finder = Child::doomed("broadcast.dropped", 1, send_all);
    assert_eq!(finder.wait(), KILLED);
    let mut second = Child::fork(send_all);
    assert_eq!(second.wait(), OK);
}

/// Whoever else is to be waited for: as long as there are dead ones a sender that has slept goes on
/// to look, and does not sleep again for each few.
#[test]
fn many_that_die_at_a_time_are_found_at_a_time() {
    let _turn = common::turn();
    let broadcast = create(2, Lag::Block);
    let ready = words();
    let dead: Vec<_> = (0..40)
        .map(|_| {
            Child::fork(|| {
                std::mem::forget(join(&broadcast));
                ready.add(0, 1);
            })
        })
        .collect();
    dead.iter().for_each(Child::zombify);
    assert_eq!(ready.get(0), 40);
    // To it they are another's zombies: no cheap look tells.
    let mut sender = Child::doomed("broadcast.send.woken", 2, || {
        (0..3).for_each(|number| send(&broadcast, 1, number, SMALL, Deadline::Never).unwrap());
    });
    assert_eq!(sender.wait(), OK);
    assert_eq!(broadcast.board().readers(), []);
}

#[test]
fn a_stopped_reader_is_named_and_goes_on() {
    let _turn = common::turn();
    let broadcast = create(2, Lag::Block);
    let ready = words();
    let mut slow = Child::fork(|| {
        let reader = join(&broadcast);
        ready.set(0, 1);
        (0..3).for_each(|number| assert_eq!(got(&reader), (1, number)));
        assert_eq!(recv(&reader, Deadline::Never), Err(Error::PeerGone));
    });
    until("it has joined", || ready.get(0) == 1);
    slow.signal(libc::SIGSTOP);
    slow.until_stopped();
    (0..2).for_each(|number| send(&broadcast, 1, number, SMALL, Deadline::PASSED).unwrap());
    assert_eq!(send(&broadcast, 1, 2, SMALL, Deadline::after(0.3)), Err(Error::Full));
    let infos = broadcast.readers();
    assert_eq!(infos.iter().map(|info| (info.owner.pid(), info.behind)).collect::<Vec<_>>(), [(slow.pid(), 2)]);
    slow.signal(libc::SIGCONT);
    send(&broadcast, 1, 2, SMALL, soon()).unwrap();
    broadcast.shut(soon()).unwrap();
    assert_eq!(slow.wait(), OK);
}

#[test]
fn an_unused_reader_goes_to_the_forked_child_and_a_used_one_is_copied() {
    let _turn = common::turn();
    let broadcast = create(8, Lag::Block);
    let (unused, used) = (join(&broadcast), join(&broadcast));
    send(&broadcast, 1, 0, LARGE, soon()).unwrap();
    assert_eq!(got(&used), (1, 0));
    send(&broadcast, 1, 1, SMALL, soon()).unwrap();
    let mut child = Child::fork(|| {
        assert_eq!((got(&unused), got(&unused)), ((1, 0), (1, 1)));
        assert_eq!(got(&used), (1, 1));
        assert_eq!((unused.missed(soon()), used.missed(soon())), (Ok(0), Ok(0)));
        assert_eq!(broadcast.stats().readers, 3);
    });
    assert_eq!(child.wait(), OK);
    assert_eq!(recv(&unused, soon()), Err(Error::NotOwner));
    assert_eq!(got(&used), (1, 1));
    // Its death was the taken one's: nobody waits for that.
    (2..20).for_each(|number| {
        send(&broadcast, 1, number, SMALL, soon()).unwrap();
        assert_eq!(got(&used), (1, number));
    });
    assert_eq!(broadcast.readers().len(), 1);
    // The parent of a child that has done nothing yet closes its copy.
    let third = join(&broadcast);
    let go = words();
    let mut child = Child::fork(|| {
        until("it is left", || go.get(0) == 1);
        assert_eq!(got(&third), (2, 1));
        assert_eq!(third.missed(soon()), Ok(1));
    });
    third.leave();
    send(&broadcast, 2, 0, LARGE, soon()).unwrap();
    assert_eq!(got(&used), (2, 0));
    send(&broadcast, 2, 1, LARGE, soon()).unwrap();
    go.set(0, 1);
    assert_eq!(child.wait(), OK);
    assert_eq!(recv(&third, soon()), Err(Error::Closed));
}

#[test]
fn a_reader_that_is_sent_goes_on_where_it_was() {
    let _turn = common::turn();
    let broadcast = create(8, Lag::Block);
    let reader = join(&broadcast);
    (0..4).for_each(|number| send(&broadcast, 1, number, LARGE, soon()).unwrap());
    assert_eq!(got(&reader), (1, 0));
    let attach = || {
        let fd = broadcast.handle().try_clone_to_owned().unwrap();
        let own = Arc::new(Broadcast::attach(fd, broadcast.maxsize()).unwrap());
        let (ticket, number) = reader.ticket(soon()).unwrap();
        Reader::attach(own, ticket, number, soon()).unwrap()
    };
    // In this very process; the old one has nothing any more, not even to leave.
    let moved = attach();
    assert_eq!(recv(&reader, soon()), Err(Error::NotOwner));
    reader.leave();
    assert_eq!(got(&moved), (1, 1));
    assert_eq!(broadcast.stats().readers, 1);
    // Taken over by one that dies of it; the next finds nothing, and joins at the same message.
    let (ticket, number) = moved.ticket(soon()).unwrap();
    let take = || {
        let fd = broadcast.handle().try_clone_to_owned().unwrap();
        let own = Arc::new(Broadcast::attach(fd, broadcast.maxsize()).unwrap());
        Reader::attach(own, ticket, number, soon()).unwrap()
    };
    let mut child = Child::doomed("broadcast.taking_over", 1, || drop(take()));
    assert_eq!(child.wait(), KILLED);
    let next = take();
    assert_eq!((got(&next), got(&next), next.missed(soon())), ((1, 2), (1, 3), Ok(0)));
    nothing(&next);
    assert_eq!(recv(&moved, soon()), Err(Error::NotOwner));
}

#[test]
fn who_gives_a_reader_away_may_drop_it_at_once() {
    let _turn = common::turn();
    let broadcast = create(8, Lag::Block);
    let (go, reader) = (words(), join(&broadcast));
    let mut child = Child::fork(|| {
        until("it is dropped", || go.get(0) == 1);
        assert_eq!((got(&reader), reader.missed(soon())), ((1, 0), Ok(0)));
    });
    reader.give(child.pid(), false);
    assert_eq!(recv(&reader, soon()), Err(Error::NotOwner));
    assert_eq!(broadcast.readers().iter().map(|info| info.owner.pid()).collect::<Vec<_>>(), [child.pid()]);
    drop(reader);
    (0..8).for_each(|number| send(&broadcast, 1, number, SMALL, soon()).unwrap());
    go.set(0, 1);
    assert_eq!(child.wait(), OK);
    assert_eq!(broadcast.readers(), []);
    // A child that dies before it has used it.
    let reader = join(&broadcast);
    let mut child = Child::fork(|| until("its death", || false));
    reader.give(child.pid(), false);
    reader.leave();
    (0..8).for_each(|number| send(&broadcast, 1, number, SMALL, soon()).unwrap());
    child.kill();
    send(&broadcast, 1, 8, SMALL, soon()).unwrap();
    assert_eq!(child.wait(), KILLED);
    assert_eq!(broadcast.readers(), []);
    // Sent and dropped; what is not sent leaves.
    let sent = join(&broadcast);
    let (ticket, number) = sent.ticket(soon()).unwrap();
    drop((sent, join(&broadcast)));
    assert_eq!(broadcast.readers().len(), 1);
    let fd = broadcast.handle().try_clone_to_owned().unwrap();
    let own = Arc::new(Broadcast::attach(fd, broadcast.maxsize()).unwrap());
    let received = Reader::attach(own, ticket, number, soon()).unwrap();
    send(&broadcast, 1, 0, SMALL, soon()).unwrap();
    assert_eq!((got(&received), received.missed(soon())), ((1, 0), Ok(0)));
    drop(received);
    assert_eq!(broadcast.readers(), []);
}

/// By what another process would have it.
fn attached(broadcast: &Broadcast, ticket: Ticket, number: u64) -> Reader {
    let fd = broadcast.handle().try_clone_to_owned().unwrap();
    let own = Arc::new(Broadcast::attach(fd, broadcast.maxsize()).unwrap());
    Reader::attach(own, ticket, number, soon()).unwrap()
}

#[test]
fn what_nobody_reads_is_counted_as_missed() {
    let _turn = common::turn();
    for lag in [Lag::Block, Lag::Skip] {
        for lens in [[SMALL; 3], [LARGE; 3], [SMALL, LARGE, SMALL], [LARGE, SMALL, MEDIUM]] {
            let broadcast = create(8, lag);
            let given = join(&broadcast);
            send(&broadcast, 1, 0, MEDIUM, Deadline::PASSED).unwrap();
            let (ticket, number) = given.ticket(soon()).unwrap();
            // The end that it was given away by is closed, as that of a pipe.
            given.leave();
            assert_eq!(broadcast.stats().readers, 0);
            for (number, len) in lens.into_iter().enumerate() {
                send(&broadcast, 1, number + 1, len, Deadline::PASSED).unwrap();
            }
            // The second dies between its two stores, the third as it repairs that.
            for _ in 0..2 {
                let mut dies = Child::doomed("broadcast.send.for_nobody", 1, || {
                    send(&broadcast, 2, 0, LARGE, Deadline::PASSED).unwrap();
                });
                assert_eq!(dies.wait(), KILLED);
            }
            assert_eq!(broadcast.stats().sent, 6, "{lag:?} {lens:?}");
            let received = attached(&broadcast, ticket, number);
            nothing(&received);
            assert_eq!(received.missed(soon()), Ok(6), "{lag:?} {lens:?}");
            send(&broadcast, 3, 0, LARGE, Deadline::PASSED).unwrap();
            assert_eq!((got(&received), received.missed(soon())), ((3, 0), Ok(6)));
            drop(received);
            nothing_is_left(&broadcast, "it was given away");
        }
    }
    // What is small is there still for who comes late.
    let broadcast = create(2, Lag::Block);
    let given = join(&broadcast);
    let (ticket, number) = given.ticket(soon()).unwrap();
    given.leave();
    (0..5).for_each(|number| send(&broadcast, 1, number, SMALL, Deadline::PASSED).unwrap());
    let received = attached(&broadcast, ticket, number);
    assert_eq!((got(&received), received.missed(soon())), ((1, 4), Ok(4)));
}

#[test]
fn nothing_is_kept_when_nobody_reads_any_more() {
    let _turn = common::turn();
    // It left while a sender waited.
    for lag in [Lag::Block, Lag::Skip] {
        let broadcast = create(2, lag);
        let reader = join(&broadcast);
        (0..2).for_each(|number| send(&broadcast, 1, number, LARGE, Deadline::PASSED).unwrap());
        let mut sender = Child::fork(|| send(&broadcast, 1, 2, LARGE, Deadline::Never).unwrap());
        if lag == Lag::Block {
            sender.until_parked();
        }
        drop(reader);
        assert_eq!(sender.wait(), OK);
        assert_eq!(broadcast.extents_in_use(), Ok(0), "{lag:?}");
        // It died, and senders who leave the slow behind find that out by and by.
        let mut dies = Child::fork(|| std::mem::forget(join(&broadcast)));
        assert_eq!(dies.wait(), OK);
        let start = Instant::now();
        until("nobody reads", || {
            _ = send(&broadcast, 1, 0, LARGE, Deadline::PASSED);
            assert!(start.elapsed() < Duration::from_secs(10));
            broadcast.stats().readers == 0
        });
        send(&broadcast, 1, 0, SMALL, Deadline::PASSED).unwrap();
        assert_eq!(broadcast.extents_in_use(), Ok(0), "{lag:?}");
        // What is kept for messages to come goes too, as senders go on.
        until("it comes to rest", || {
            send(&broadcast, 1, 0, SMALL, Deadline::PASSED).unwrap();
            resident(&broadcast.handle()) <= IDLE
        });
    }
    // It was found dead by who asked for the readers.
    let broadcast = create(8, Lag::Skip);
    let mut dies = Child::fork(|| std::mem::forget(join(&broadcast)));
    assert_eq!(dies.wait(), OK);
    (0..4).for_each(|number| send(&broadcast, 1, number, LARGE, Deadline::PASSED).unwrap());
    assert_eq!((broadcast.readers(), broadcast.extents_in_use()), (vec![], Ok(0)));
}

/// What a reader's slot says of when it was given away: as if that had been so many seconds
/// earlier.
fn given_before(broadcast: &Broadcast, ticket: Ticket, seconds: u64) {
    let at = 8192 + ticket.index as usize * 64 + 40;
    let mapping = Mapping::new(broadcast.handle(), 0, 16384).unwrap();
    let mut word = [0; 8];
    mapping.read(at, &mut word).unwrap();
    let given = u64::from_ne_bytes(word);
    assert_ne!(given, 0);
    // In ticks of 2^20 ns.
    mapping.write(at, &given.wrapping_sub((seconds * 1_000_000_000) >> 20).to_ne_bytes()).unwrap();
}

#[test]
fn what_was_given_away_and_is_not_claimed_holds_back_nobody() {
    let _turn = common::turn();
    let broadcast = create(2, Lag::Block);
    let (reader, given) = (join(&broadcast), join(&broadcast));
    (0..2).for_each(|number| send(&broadcast, 1, number, LARGE, Deadline::PASSED).unwrap());
    (0..2).for_each(|number| assert_eq!(got(&reader), (1, number)));
    let (ticket, number) = given.ticket(soon()).unwrap();
    drop(given);
    let mut sender = Child::fork(|| send(&broadcast, 1, 2, LARGE, Deadline::Never).unwrap());
    sender.until_parked();
    assert_eq!(send(&broadcast, 1, 2, LARGE, Deadline::after(0.2)), Err(Error::Full));
    given_before(&broadcast, ticket, 11);
    assert_eq!(sender.wait(), OK);
    assert_eq!(got(&reader), (1, 2));
    for number in 3..6 {
        send(&broadcast, 1, number, LARGE, Deadline::PASSED).unwrap();
        assert_eq!(got(&reader), (1, number));
    }
    assert_eq!(broadcast.extents_in_use(), Ok(0));
    // It comes late, and is waited for again.
    let late = attached(&broadcast, ticket, number);
    nothing(&late);
    assert_eq!(late.missed(soon()), Ok(6));
    (6..8).for_each(|number| send(&broadcast, 1, number, SMALL, Deadline::PASSED).unwrap());
    assert_eq!(send(&broadcast, 1, 8, SMALL, Deadline::PASSED), Err(Error::Full));
    assert_eq!((got(&reader), got(&reader), got(&late)), ((1, 6), (1, 7), (1, 6)));
    send(&broadcast, 1, 8, SMALL, Deadline::PASSED).unwrap();
    // The giver may go on with what it has not got rid of.
    let (ticket, _) = late.ticket(soon()).unwrap();
    given_before(&broadcast, ticket, 11);
    assert_eq!((got(&late), got(&late), late.missed(soon())), ((1, 7), (1, 8), Ok(6)));
    nothing(&late);
    assert_eq!(got(&reader), (1, 8));
    (9..11).for_each(|number| send(&broadcast, 1, number, SMALL, Deadline::PASSED).unwrap());
    (9..11).for_each(|number| assert_eq!(got(&reader), (1, number)));
    assert_eq!(send(&broadcast, 1, 11, SMALL, Deadline::PASSED), Err(Error::Full));
}

#[test]
fn slots_of_the_unclaimed_are_used_again() {
    let _turn = common::turn();
    let broadcast = create(2, Lag::Block);
    let given: Vec<_> = (0..64).map(|_| join(&broadcast)).collect();
    let tickets: Vec<_> = given.iter().map(|reader| reader.ticket(soon()).unwrap()).collect();
    drop(given);
    tickets.iter().for_each(|(ticket, _)| given_before(&broadcast, *ticket, 11));
    let all: Vec<_> = (0..64).map(|_| join(&broadcast)).collect();
    let pages = broadcast.board().more_slots.load(std::sync::atomic::Ordering::SeqCst);
    assert_eq!((pages, broadcast.readers().len()), (0, 64));
    send(&broadcast, 1, 0, SMALL, Deadline::PASSED).unwrap();
    let (ticket, number) = tickets[0];
    let late = attached(&broadcast, ticket, number);
    assert_eq!((got(&late), late.missed(soon())), ((1, 0), Ok(0)));
    assert!(all.iter().all(|reader| got(reader) == (1, 0)));
}

#[test]
fn a_forked_child_that_only_looks_takes_nothing_over() {
    let _turn = common::turn();
    let broadcast = create(2, Lag::Skip);
    let reader = join(&broadcast);
    (0..3).for_each(|number| send(&broadcast, 1, number, SMALL, Deadline::PASSED).unwrap());
    let mut child = Child::fork(|| {
        assert_eq!(reader.missed(soon()), Ok(0));
        reader.ticket(soon()).unwrap();
    });
    assert_eq!(child.wait(), OK);
    assert_eq!((got(&reader), got(&reader), reader.missed(soon())), ((1, 1), (1, 2), Ok(1)));
    // What it hands on is whoever's who gets it.
    let unused = join(&broadcast);
    send(&broadcast, 1, 3, SMALL, Deadline::PASSED).unwrap();
    let given = words();
    let mut child = Child::fork(|| {
        let (ticket, number) = unused.ticket(soon()).unwrap();
        [u64::from(ticket.index), u64::from(ticket.tag), ticket.owner, number]
            .into_iter()
            .enumerate()
            .for_each(|(at, word)| given.set(at, word));
    });
    assert_eq!(child.wait(), OK);
    let ticket = Ticket { index: given.get(0) as u32, tag: given.get(1) as u16, owner: given.get(2) };
    let received = attached(&broadcast, ticket, given.get(3));
    assert_eq!((got(&received), received.missed(soon())), ((1, 3), Ok(0)));
    assert_eq!(recv(&unused, soon()), Err(Error::NotOwner));
}

#[test]
fn readers_come_and_go_by_the_hundred() {
    let _turn = common::turn();
    let broadcast = create(4, Lag::Block);
    let mut dies = Child::doomed("broadcast.slots_reserved", 1, || {
        let _all: Vec<_> = (0..300).map(|_| join(&broadcast)).collect();
    });
    assert_eq!(dies.wait(), KILLED);
    for round in 0..3 {
        let all: Vec<_> = (0..300).map(|_| join(&broadcast)).collect();
        send(&broadcast, 1, round, MEDIUM, soon()).unwrap();
        assert!(all.iter().all(|reader| got(reader) == (1, round)));
        assert_eq!(broadcast.readers().len(), 300);
        let mut child = Child::fork(|| (0..300).for_each(|_| std::mem::forget(join(&broadcast))));
        assert_eq!(child.wait(), OK);
        drop(all);
    }
    let pages = broadcast.board().more_slots.load(std::sync::atomic::Ordering::SeqCst) as usize;
    assert!(pages * 64 < 1200 && READERS_MOST > 1200, "{pages} pages");
    assert_eq!(broadcast.readers(), []);
}

/// Senders and readers that are killed at any time.
#[test]
fn random_kills_leave_nothing_behind() {
    let _turn = common::turn();
    let seed = common::seed();
    for lag in [Lag::Block, Lag::Skip] {
        let broadcast = create(4, lag);
        let lens = [SMALL, SMALL, MEDIUM, 70_000, LARGE];
        let sender = |producer: usize| {
            let mut dice = Dice(seed + producer as u64);
            for number in 0.. {
                send(&broadcast, producer, number, lens[dice.below(5) as usize], Deadline::Never).unwrap();
            }
        };
        let reader = || {
            let own = join(&broadcast);
            let mut next = [0; 64];
            let mut dice = Dice(seed ^ u64::from(std::process::id()));
            loop {
                let (producer, number) = recv(&own, Deadline::Never).unwrap();
                let wanted = std::mem::replace(&mut next[producer], number + 1);
                assert!(wanted == 0 || number >= wanted, "{producer}'s {number} after {wanted}");
                assert!(wanted == 0 || number == wanted || lag == Lag::Skip, "{producer}'s {wanted} is missing");
                if dice.below(50) == 0 {
                    std::thread::sleep(Duration::from_micros(300));
                }
            }
        };
        let mut dice = Dice(seed);
        let mut senders: Vec<_> = (0..2).map(|producer| Child::fork(|| sender(producer))).collect();
        let mut readers: Vec<_> = (0..3).map(|_| Child::fork(reader)).collect();
        let start = Instant::now();
        let mut producer = 2;
        while start.elapsed() < Duration::from_millis(1500) {
            std::thread::sleep(Duration::from_micros(dice.below(20_000)));
            let (victims, fresh) = match dice.below(2) {
                0 if producer < 60 => {
                    producer += 1;
                    (&mut senders, Child::fork(|| sender(producer)))
                }
                _ => (&mut readers, Child::fork(reader)),
            };
            let at = dice.below(victims.len() as u64) as usize;
            let mut victim = std::mem::replace(&mut victims[at], fresh);
            victim.kill();
            assert_eq!(victim.wait(), KILLED, "seed {seed}");
        }
        let mut all: Vec<_> = senders.into_iter().chain(readers).collect();
        for child in &mut all {
            assert_eq!(child.ended(), None, "seed {seed}");
            child.kill();
            child.wait();
        }
        let own = join(&broadcast);
        send(&broadcast, 63, 0, LARGE, soon()).unwrap();
        assert_eq!(got(&own), (63, 0), "seed {seed}");
        drop(own);
        nothing_is_left(&broadcast, "after all kills");
        comes_to_rest(&broadcast);
    }
}
