//! Pipes between processes: order, hang-up, readiness, descriptors; ends killed at every step.
//! Long, as all of it shares the processes that send and receive.
#![cfg(not(loom))]
// Forks, and lays test words over shared memory; a failure is to panic.
#![allow(unsafe_code, clippy::unwrap_used)]

mod common;

use std::io::Write;
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use common::channel::{INLINED, LARGE, SMALL, fds, got, ids, put, recv, send, soon};
use common::{Child, KILLED, OK, message, read_message, readable, until, words};
use fastmp_core::channel::pipe::{self, End};
use fastmp_core::{Deadline, Error};

#[test]
fn both_ways_between_processes() {
    let _turn = common::turn();
    let (a, b) = pipe::create(true).unwrap();
    let mut child = Child::fork(|| {
        for number in 0..300 {
            assert_eq!(got(&b), (1, number));
            put(&b, 2, number, 16 + number * 401);
        }
    });
    for number in 0..300 {
        put(&a, 1, number, 16 + number * 397);
        assert_eq!(got(&a), (2, number));
    }
    assert_eq!(child.wait(), OK);
}

#[test]
fn a_stream_waits_for_its_reader() {
    let _turn = common::turn();
    let (a, b) = pipe::create(false).unwrap();
    for len in [SMALL, INLINED, LARGE] {
        let times = if len == SMALL { 50_000 } else { 300 };
        let mut child = Child::fork(|| (0..times).for_each(|number| put(&b, 1, number, len)));
        (0..times).for_each(|number| assert_eq!(got(&a), (1, number)));
        assert_eq!(child.wait(), OK);
    }
}

#[test]
fn sharers_of_an_end_do_not_mix_messages() {
    let _turn = common::turn();
    let (a, b) = pipe::create(false).unwrap();
    let words = words();
    let mut senders: Vec<_> = (0..3).map(|who| Child::fork(move_each(&b, who))).collect();
    let mut receivers: Vec<_> = (0..2)
        .map(|_| {
            Child::fork(|| {
                let mut last = [0; 3];
                while words.add(0, 1) < 1500 {
                    let (who, number) = got(&a);
                    assert!(number >= last[who], "out of order");
                    last[who] = number + 1;
                    words.add(1 + who, number as u64);
                }
            })
        })
        .collect();
    assert!(senders.iter_mut().chain(&mut receivers).all(|c| c.wait() == OK));
    for who in 0..3 {
        assert_eq!(words.get(1 + who), 499 * 500 / 2, "each message once");
    }
}

fn move_each(end: &End, who: usize) -> impl FnOnce() + '_ {
    move || (0..500).for_each(|number| put(end, who, number, 16 + number * 97 % 70_000))
}

#[test]
fn every_end_of_the_peer_is_noticed() {
    let _turn = common::turn();
    for how in ["exit", "kill", "close"] {
        let ((a, b), words) = (pipe::create(true).unwrap(), words());
        let there = &words;
        let child = Child::fork(move || {
            put(&b, 1, 0, SMALL);
            there.set(0, 1);
            match how {
                "close" => drop(b),
                "exit" => common::exit(0),
                _ => (),
            }
            std::thread::sleep(Duration::from_secs(60));
        });
        // `b` went into the closure, and thus away here.
        let mut last = Child::fork(|| {
            assert_eq!(got(&a), (1, 0));
            assert_eq!(recv(&a, Deadline::Never).unwrap_err(), Error::PeerGone);
            assert_eq!(a.wait(Deadline::PASSED), Err(Error::PeerGone));
            assert_eq!(send(&a, b"x", &[], Deadline::Never), Err(Error::PeerGone));
        });
        if how == "kill" {
            until("the message is there", || words.get(0) == 1);
            last.until_parked();
            child.kill();
        }
        assert_eq!(last.wait(), OK, "{how}");
    }
}

#[test]
fn a_copy_left_keeps_the_pipe_open() {
    let _turn = common::turn();
    let (a, b) = pipe::create(false).unwrap();
    let mut keeper = Child::fork(|| std::thread::sleep(Duration::from_secs(60)));
    drop(b);
    assert_eq!(recv(&a, Deadline::after(0.1)).unwrap_err(), Error::Empty);
    keeper.kill();
    assert_eq!(keeper.wait(), KILLED);
    assert_eq!(recv(&a, soon()).unwrap_err(), Error::PeerGone);
}

#[test]
fn a_blocked_sender_notices_the_end_of_its_reader() {
    let _turn = common::turn();
    for len in [SMALL, INLINED, LARGE] {
        let (a, b) = pipe::create(false).unwrap();
        let mut a = Some(a);
        let mut sender = Child::fork(|| {
            // Its copy of the reading end would keep the pipe open.
            a.take();
            let end = (0..).find_map(|number| send(&b, &message(1, number, len), &[], Deadline::Never).err());
            assert_eq!(end, Some(Error::PeerGone));
        });
        let reader = Child::fork(|| {
            got(a.as_ref().unwrap());
            std::thread::sleep(Duration::from_secs(60));
        });
        a.take();
        sender.until_parked();
        std::thread::sleep(Duration::from_millis(100));
        assert_eq!(sender.ended(), None, "the reader lives");
        reader.kill();
        assert_eq!(sender.wait(), OK);
    }
}

#[test]
fn closing_an_end_ends_the_waits_of_other_threads() {
    let _turn = common::turn();
    let (a, _b) = pipe::create(true).unwrap();
    std::thread::scope(|s| {
        let waiter = s.spawn(|| recv(&a, soon()).map(|_| ()));
        std::thread::sleep(Duration::from_millis(30));
        a.close();
        assert_eq!(waiter.join().unwrap(), Err(Error::Closed));
    });
    assert_eq!(send(&a, b"x", &[], soon()), Err(Error::Closed));
}

#[test]
fn deadlines_are_kept() {
    let _turn = common::turn();
    let (a, b) = pipe::create(false).unwrap();
    let start = Instant::now();
    assert_eq!(recv(&a, Deadline::after(0.1)).unwrap_err(), Error::Empty);
    assert_eq!(a.wait(Deadline::PASSED), Err(Error::Empty));
    let full = loop {
        if let Err(e) = send(&b, &[1; INLINED], &[], Deadline::after(0.1)) {
            break e;
        }
    };
    assert_eq!(full, Error::Full);
    assert!(start.elapsed() >= Duration::from_millis(200));
    a.wait(Deadline::PASSED).unwrap();
}

/// Kill points of a send and of a receive, with the messages that come to them.
const SENDING: [(&str, &[usize]); 8] = [
    ("ring.put.before_commit", &[SMALL, INLINED, LARGE]),
    ("ring.put.after_commit", &[SMALL, INLINED, LARGE]),
    ("transport.ready_sent", &[SMALL, LARGE]),
    ("channel.woken", &[INLINED, LARGE]),
    ("extent.taken", &[LARGE]),
    ("extent.claimed", &[LARGE]),
    ("extent.filled", &[LARGE]),
    ("extent.handing_over", &[LARGE]),
];
const RECEIVING: [(&str, &[usize]); 5] = [
    ("ring.get.before_commit", &[SMALL, INLINED, LARGE]),
    ("ring.get.after_commit", &[SMALL, INLINED, LARGE]),
    ("transport.ready_clearing", &[SMALL, LARGE]),
    ("pipe.parking", &[SMALL]),
    ("extent.receiving", &[LARGE]),
];

#[test]
fn senders_die_at_every_point() {
    let _turn = common::turn();
    for (point, lens) in SENDING {
        for (&len, nth) in lens.iter().flat_map(|len| [1, 3].map(|nth| (len, nth))) {
            let case = format!("{point} {nth}, {len} bytes");
            let (a, b) = pipe::create(false).unwrap();
            a.watch().unwrap();
            assert!(!readable(&a.watch().unwrap()), "{case}: watched and empty");
            let words = words();
            let mut doomed = Child::doomed(point, nth, || {
                for number in 0..40 {
                    put(&b, 1, number, len);
                    words.set(0, number as u64 + 1);
                }
            });
            // Reads on while the sender lives, so that it waits for room only now and then.
            let mut next = 0;
            let end = loop {
                if let Some(end) = doomed.ended() {
                    break end;
                }
                if point != "channel.woken" || next < 3 || state_is_parked(&doomed) {
                    next += usize::from(take_next(&a, next, &case));
                }
            };
            assert!(end == KILLED || end == OK, "{case}: {end:?}");
            while take_next(&a, next, &case) {
                next += 1;
            }
            let put_returned = words.get(0) as usize;
            assert!((put_returned..=put_returned + 1).contains(&next), "{case}: {put_returned} sent, {next} came");
            if point == "ring.put.after_commit" {
                assert_eq!(next, put_returned + 1, "{case}: it was committed");
            }
            // Others go on with it, in both hands' stead.
            let mut heir = Child::fork(|| (0..20).for_each(|number| put(&b, 2, number, len)));
            (0..20).for_each(|number| assert_eq!(got(&a), (2, number), "{case}"));
            assert_eq!(heir.wait(), OK, "{case}");
        }
    }
}

fn state_is_parked(child: &Child) -> bool {
    common::state(child.pid()) == Some('S')
}

/// Take message `next` if it is there; readiness must have told so.
fn take_next(a: &End, next: usize, case: &str) -> bool {
    // Nobody else takes: what is there stays there, and must be told of.
    let there = a.wait(Deadline::PASSED).is_ok();
    assert!(!there || readable(&a.watch().unwrap()), "{case}: a message without readiness");
    match recv(a, Deadline::PASSED) {
        Ok((bytes, _)) => {
            assert_eq!(read_message(&bytes), (1, next), "{case}");
            true
        }
        Err(Error::Empty | Error::WouldBlock) => false,
        Err(e) => panic!("{case}: {e:?}"),
    }
}

#[test]
fn receivers_die_at_every_point() {
    let _turn = common::turn();
    for (point, lens) in RECEIVING {
        for (&len, nth) in lens.iter().flat_map(|len| [1, 2].map(|nth| (len, nth))) {
            let case = format!("{point} {nth}, {len} bytes");
            let (a, b) = pipe::create(false).unwrap();
            a.watch().unwrap();
            let words = words();
            let mut doomed = Child::doomed(point, nth, || {
                loop {
                    let (_, number) = got(&a);
                    words.set(0, number as u64 + 1);
                }
            });
            let mut sender = Child::fork(|| {
                for number in 0..40 {
                    put(&b, 1, number, len);
                    if point == "pipe.parking" || point.starts_with("transport") {
                        std::thread::sleep(Duration::from_millis(1));
                    }
                }
            });
            until("the receiver dies", || {
                assert_ne!(doomed.ended(), Some(OK));
                common::state(doomed.pid()).is_none_or(|s| s == 'Z')
                    || (point == "extent.receiving" && words.get(0) == 40)
            });
            doomed.kill();
            let had = words.get(0) as usize;
            // The last one may have died in its hands, or it may never have come to the point.
            if had >= 39 && recv(&a, Deadline::after(0.1)).is_err() {
                assert_eq!(sender.wait(), OK, "{case}");
                continue;
            }
            let first = got(&a).1;
            assert!((had..=had + 1).contains(&first), "{case}: {had} had, {first} comes");
            if point == "ring.get.before_commit" {
                assert_eq!(first, had, "{case}: it was not committed");
            }
            (first + 1..40).for_each(|number| assert_eq!(got(&a), (1, number), "{case}"));
            assert_eq!(sender.wait(), OK, "{case}");
            assert_eq!(recv(&a, Deadline::after(0.02)).unwrap_err(), Error::Empty, "{case}");
            assert!(!readable(&a.watch().unwrap()), "{case}: empty, and said to be ready");
        }
    }
}

#[test]
fn never_a_message_without_readiness() {
    let _turn = common::turn();
    let seed = common::seed();
    let mut dice = common::Dice(seed);
    let (a, b) = pipe::create(false).unwrap();
    a.watch().unwrap();
    let work = || {
        for number in 0.. {
            put(&b, 1, number, SMALL);
            if number % 7 == 0 {
                std::thread::sleep(Duration::from_micros(30));
            }
        }
    };
    for kills in 0..150 {
        let mut sender = Child::fork(work);
        for _ in 0..dice.below(60) {
            // Nobody else takes: what is there stays there.
            if a.wait(Deadline::after(0.05)).is_ok() {
                assert!(readable(&a.watch().unwrap()), "seed {seed}, after {kills} kills");
                (0..=dice.below(3)).for_each(|_| drop(recv(&a, Deadline::PASSED)));
            }
        }
        sender.kill();
        assert_eq!(sender.wait(), KILLED, "seed {seed}");
    }
    while recv(&a, Deadline::PASSED).is_ok() {}
    assert!(!readable(&a.watch().unwrap()), "seed {seed}: empty, and said to be ready");
}

#[test]
fn a_receiver_does_not_burn_after_a_death_at_the_token() {
    let _turn = common::turn();
    let (a, b) = pipe::create(false).unwrap();
    a.watch().unwrap();
    let mut receiver = Child::fork(|| assert_eq!(got(&a), (2, 0)));
    receiver.until_parked();
    let mut doomed = Child::doomed("transport.ready_sent", 1, || put(&b, 1, 0, SMALL));
    assert_eq!(doomed.wait(), KILLED);
    std::thread::sleep(Duration::from_millis(20));
    let before = receiver.cpu();
    std::thread::sleep(Duration::from_millis(500));
    let burnt = receiver.cpu() - before;
    assert!(burnt <= 0.05, "{burnt} s of half a second, waiting");
    assert!(!readable(&a.watch().unwrap()), "the token of a message that never was");
    put(&b, 2, 0, SMALL);
    assert_eq!(receiver.wait(), OK);
}

#[test]
fn descriptors_come_with_their_message() {
    let _turn = common::turn();
    let (a, b) = pipe::create(true).unwrap();
    let before = common::open_fds();
    let mut child = Child::fork(|| {
        for number in 0..100 {
            let (mut fds, _) = fds(number % 4);
            for fd in &mut fds {
                let mut file = std::fs::File::from(fd.try_clone().unwrap());
                file.write_all(&[number as u8]).unwrap();
            }
            send(&b, &message(1, number, 16 + number * 900), &fds, soon()).unwrap();
        }
    });
    for number in 0..100 {
        let (bytes, fds) = recv(&a, soon()).unwrap();
        assert_eq!(read_message(&bytes), (1, number));
        assert_eq!(fds.len(), number % 4);
        for fd in &fds {
            let mut byte = [0; 1];
            rustix_read(fd, &mut byte);
            assert_eq!(byte[0], number as u8, "the descriptor of another message");
        }
    }
    assert_eq!(child.wait(), OK);
    // The file, and what tells when nobody has the pipe any more.
    assert!(common::open_fds() <= before + 3);
}

fn rustix_read(fd: &OwnedFd, to: &mut [u8]) {
    use std::os::unix::fs::FileExt;
    std::fs::File::from(fd.try_clone().unwrap()).read_exact_at(to, 0).unwrap();
}

#[test]
fn descriptors_of_a_message_that_never_was_are_skipped() {
    let _turn = common::turn();
    let (a, b) = pipe::create(false).unwrap();
    for point in ["transport.fds_sent", "transport.ready_sent", "ring.put.before_commit"] {
        for _ in 0..3 {
            let (dead, _) = fds(2);
            let mut doomed = Child::doomed(point, 1, || send(&b, &message(1, 0, SMALL), &dead, soon()).unwrap());
            assert_eq!(doomed.wait(), KILLED);
        }
        let (live, expected) = fds(1);
        send(&b, &message(2, 0, SMALL), &live, soon()).unwrap();
        let (bytes, fds) = recv(&a, soon()).unwrap();
        assert_eq!(read_message(&bytes), (2, 0));
        assert_eq!(ids(&fds), expected, "{point}: descriptors of a dead sender's message");
    }
}

#[test]
fn descriptors_of_a_send_that_gave_up_are_skipped() {
    let _turn = common::turn();
    let (a, b) = pipe::create(false).unwrap();
    let mut sent = 0;
    while send(&b, &message(1, sent, INLINED), &[], Deadline::PASSED).is_ok() {
        sent += 1;
    }
    let (given_up, _) = fds(1);
    let refused = send(&b, &message(1, sent, INLINED), &given_up, Deadline::after(0.15));
    assert_eq!(refused, Err(Error::Full));
    // One is read, not all: what is in the socket stays there.
    assert_eq!(got(&a), (1, 0));
    let (live, expected) = fds(2);
    send(&b, &message(1, sent, SMALL), &live, soon()).unwrap();
    (1..sent).for_each(|number| assert_eq!(got(&a), (1, number)));
    let (bytes, fds) = recv(&a, soon()).unwrap();
    assert_eq!(read_message(&bytes), (1, sent));
    assert_eq!(ids(&fds), expected, "descriptors of a send that gave up");
}

#[test]
fn a_receiver_that_dies_with_descriptors_leaves_none_for_the_next() {
    let _turn = common::turn();
    for (point, lost) in
        [("ring.get.before_commit", false), ("ring.get.after_commit", true), ("transport.fds_taken", true)]
    {
        let (a, b) = pipe::create(false).unwrap();
        let sent: Vec<_> = (0..3)
            .map(|number| {
                let (fds, ids) = fds(1);
                send(&b, &message(1, number, SMALL), &fds, soon()).unwrap();
                ids
            })
            .collect();
        let mut doomed = Child::doomed(point, 1, || drop(recv(&a, soon())));
        assert_eq!(doomed.wait(), KILLED);
        for (number, expected) in sent.iter().enumerate().skip(usize::from(lost)) {
            let (bytes, fds) = recv(&a, soon()).unwrap();
            assert_eq!(read_message(&bytes), (1, number), "{point}");
            assert_eq!(&ids(&fds), expected, "{point}");
        }
        assert_eq!(recv(&a, Deadline::after(0.02)).unwrap_err(), Error::Empty);
        assert!(!readable(&b.watch().unwrap()));
    }
}

#[test]
fn a_receiver_that_stalls_with_descriptors_keeps_its_packet() {
    let _turn = common::turn();
    let (a, b) = pipe::create(false).unwrap();
    let (first, first_ids) = fds(1);
    let (second, second_ids) = fds(2);
    send(&b, &message(1, 0, SMALL), &first, soon()).unwrap();
    let mut stalled = Child::fork(|| {
        fastmp_core::fault::arm("transport.fds_taken", 1, fastmp_core::fault::Action::Stop);
        let (bytes, fds) = recv(&a, soon()).unwrap();
        assert_eq!((read_message(&bytes), ids(&fds)), ((1, 0), first_ids));
    });
    stalled.until_stopped();
    // Its message is gone from the ring, its packet is not: nobody else may clear it away, or it
    // takes the next one's.
    assert_eq!(recv(&a, Deadline::after(0.05)).unwrap_err(), Error::Empty);
    a.watch().unwrap();
    assert_eq!(a.wait(Deadline::after(0.05)), Err(Error::Empty));
    send(&b, &message(1, 1, SMALL), &second, soon()).unwrap();
    stalled.signal(libc::SIGCONT);
    assert_eq!(stalled.wait(), OK);
    let (bytes, fds) = recv(&a, soon()).unwrap();
    assert_eq!((read_message(&bytes), ids(&fds)), ((1, 1), second_ids));
}

#[test]
fn descriptors_survive_the_end_of_their_sender() {
    let _turn = common::turn();
    for duplex in [true, false] {
        let (a, b) = pipe::create(duplex).unwrap();
        let (live, expected) = fds(3);
        send(&b, &message(1, 0, SMALL), &live, soon()).unwrap();
        send(&b, &message(1, 1, LARGE), &live, soon()).unwrap();
        drop((b, live));
        for number in 0..2 {
            let (bytes, fds) = recv(&a, soon()).unwrap();
            assert_eq!(read_message(&bytes), (1, number));
            assert_eq!(ids(&fds), expected);
        }
        assert_eq!(recv(&a, soon()).unwrap_err(), Error::PeerGone);
    }
}

#[test]
fn a_socket_full_of_descriptors_makes_senders_wait() {
    let _turn = common::turn();
    let (a, b) = pipe::create(false).unwrap();
    let (one, expected) = fds(1);
    let mut sent = 0;
    let refused = loop {
        match send(&b, &message(1, sent, 16), &one, Deadline::after(0.05)) {
            Ok(()) => sent += 1,
            Err(e) => break e,
        }
    };
    assert_eq!(refused, Error::Full);
    assert!(sent > 50, "{sent}");
    let mut child = Child::fork(|| send(&b, &message(1, sent, 16), &one, soon()).unwrap());
    child.until_parked();
    for number in 0..=sent {
        let (bytes, fds) = recv(&a, soon()).unwrap();
        assert_eq!(read_message(&bytes), (1, number));
        assert_eq!(ids(&fds), expected);
    }
    assert_eq!(child.wait(), OK);
}

#[test]
fn a_stalled_sender_does_not_hold_up_a_deadline() {
    let _turn = common::turn();
    let (a, b) = pipe::create(false).unwrap();
    a.watch().unwrap();
    let stalled = Child::fork(|| {
        fastmp_core::fault::arm("ring.put.before_commit", 1, fastmp_core::fault::Action::Stop);
        put(&b, 1, 0, SMALL);
    });
    stalled.until_stopped();
    let mut reader = Child::fork(|| {
        let start = Instant::now();
        assert_eq!(recv(&a, Deadline::after(0.2)).unwrap_err(), Error::Empty);
        assert_eq!(send(&b, b"x", &[], Deadline::after(0.2)), Err(Error::Full));
        assert!(start.elapsed() < Duration::from_secs(3));
    });
    assert_eq!(reader.wait(), OK);
    stalled.signal(libc::SIGCONT);
    assert_eq!(got(&a), (1, 0));
}

#[test]
fn senders_that_die_with_descriptors_do_not_block_the_socket() {
    let _turn = common::turn();
    for polls in [false, true] {
        let (a, b) = pipe::create(false).unwrap();
        let (dead, _) = fds(1);
        for _ in 0..200 {
            let mut doomed = Child::doomed("transport.fds_sent", 1, || {
                let _ = send(&b, b"x", &dead, Deadline::after(0.01));
            });
            doomed.wait();
        }
        let (live, expected) = fds(2);
        let mut sender = Child::fork(|| send(&b, &message(2, 0, SMALL), &live, soon()).unwrap());
        sender.until_parked();
        if polls {
            // Never waits, only looks.
            until("the message is there", || a.wait(Deadline::PASSED).is_ok());
        }
        let (bytes, fds) = recv(&a, soon()).unwrap();
        assert_eq!((read_message(&bytes), ids(&fds)), ((2, 0), expected));
        assert_eq!(sender.wait(), OK);
    }
}

#[test]
fn a_shortage_of_descriptors_leaves_the_message_where_it_is() {
    let _turn = common::turn();
    for count in [1, 5, 300] {
        let (a, b) = pipe::create(false).unwrap();
        let (lent, expected) = fds(count);
        send(&b, &message(1, 0, SMALL), &lent, soon()).unwrap();
        send(&b, &message(1, 1, SMALL), &lent[..1], soon()).unwrap();
        let mut child = Child::fork(|| {
            drop(lent);
            let limit = libc::rlimit { rlim_cur: 700, rlim_max: 4096 };
            // SAFETY: reads a local.
            assert_eq!(unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &limit) }, 0);
            for spare in 0..count.min(8) {
                let mut fill: Vec<_> = std::iter::from_fn(|| std::fs::File::open("/dev/null").ok()).collect();
                fill.truncate(fill.len() - spare);
                let refused = recv(&a, Deadline::after(0.01)).unwrap_err();
                assert!(matches!(refused, Error::Os(_)), "{refused:?}");
                // What was looked at is closed again: as many numbers are free as before.
                let free: Vec<_> = std::iter::from_fn(|| std::fs::File::open("/dev/null").ok()).collect();
                assert_eq!(free.len(), spare, "numbers leak");
            }
            let (bytes, fds) = recv(&a, soon()).unwrap();
            assert_eq!((read_message(&bytes), &ids(&fds)), ((1, 0), &expected));
            let (bytes, fds) = recv(&a, soon()).unwrap();
            assert_eq!((read_message(&bytes), &ids(&fds)[..]), ((1, 1), &expected[..1]));
        });
        assert_eq!(child.wait(), OK, "{count}");
    }
}

#[test]
fn hundreds_of_descriptors_come_with_one_message() {
    let _turn = common::turn();
    let (a, b) = pipe::create(false).unwrap();
    let before = common::open_fds();
    for count in [64, 65, 253, 254, 600] {
        let (lent, expected) = fds(count);
        send(&b, &message(1, count, SMALL), &lent, soon()).unwrap();
        drop(lent);
        let (bytes, fds) = recv(&a, soon()).unwrap();
        assert_eq!((read_message(&bytes), ids(&fds)), ((1, count), expected));
    }
    assert_eq!(common::open_fds(), before);
}
