//! Readiness for writing: a pipe's socket is writable while its ring has room, and only then; also
//! when those who fill it or clear it are killed on the way.
#![cfg(not(loom))]
// Forks, and uses sockets by hand; a failure is to panic.
#![allow(unsafe_code, clippy::unwrap_used)]

mod common;

use std::os::fd::{AsRawFd, BorrowedFd};

use common::channel::{INLINED, LARGE, SMALL, fds, got, ids, put, recv, send, soon};
use common::{Child, Dice, KILLED, OK, message, read_message, readable, until, words, writable, writable_within};
use fastmp_core::channel::pipe::{self, End};
use fastmp_core::fault::{self, Action};
use fastmp_core::sys::socket;
use fastmp_core::{Deadline, Error};

/// A message of this size never has to wait where the socket is writable.
const SURE: usize = 16_000;
/// Of messages of this size two may be unread.
const HUGE: usize = 9 << 20;

fn fd(end: &End) -> BorrowedFd<'_> {
    end.socket()
}

/// Send until there is no room; gives the number of the next message.
fn fill(b: &End, from: usize, len: usize) -> usize {
    let refused = |number: &usize| match send(b, &message(1, *number, len), &[], Deadline::PASSED) {
        Ok(()) => false,
        Err(Error::Full | Error::WouldBlock) => true,
        Err(e) => panic!("{e:?}"),
    };
    (from..).find(refused).unwrap()
}

/// All is read, and says so: writable, not readable, nothing left in the socket.
fn assert_idle(a: &End, b: &End, case: &str) {
    assert_eq!(recv(a, Deadline::PASSED).unwrap_err(), Error::Empty, "{case}");
    assert!(!readable(&fd(a)), "{case}: readable, and empty");
    assert_eq!(socket::unread_bytes(fd(a)), Some(0), "{case}");
    assert!(writable(&fd(b)), "{case}: empty, and not writable");
}

/// Read on until the other end is writable; gives the number of the next message.
fn read_until_writable(a: &End, b: &End, from: usize, to: usize, case: &str) -> usize {
    for number in from..=to {
        if writable(&fd(b)) {
            return number;
        }
        assert!(number < to, "{case}: all is read, and it is not writable");
        assert!(readable(&fd(a)), "{case}: a message without readiness");
        assert_eq!(got(a), (1, number), "{case}");
    }
    unreachable!()
}

#[test]
fn full_is_not_writable_and_room_is() {
    let _turn = common::turn();
    for duplex in [false, true] {
        for len in [16, SMALL, 1000, SURE, INLINED, LARGE, HUGE] {
            let case = format!("{len} bytes, duplex {duplex}");
            let (a, b) = pipe::create(duplex).unwrap();
            b.watch().unwrap();
            assert!(writable(&fd(&b)), "{case}: new");
            let (mut sent, mut read) = (0, 0);
            for _ in 0..3 {
                // By readiness alone.
                while writable(&fd(&b)) {
                    match send(&b, &message(1, sent, len), &[], Deadline::PASSED) {
                        Ok(()) => sent += 1,
                        Err(e) => {
                            assert!(e == Error::Full && len > SURE && len < LARGE, "{case}: writable, and {e:?}");
                            assert!(!writable(&fd(&b)), "{case}: it has just been refused");
                        }
                    }
                }
                let unread = (sent - read) * len;
                assert!(unread >= 64 << 10 || (len == 16 && unread > 20_000), "{case}: {unread} bytes are full");
                // Whatever is left it takes still, and goes on saying that it is full.
                sent = fill(&b, sent, len);
                assert!(!writable(&fd(&b)), "{case}: full");
                assert!(readable(&fd(&a)), "{case}: full, and not readable");
                let before = read;
                read = read_until_writable(&a, &b, read, sent, &case);
                assert!(read - before <= (sent - before) * 3 / 4 + 1, "{case}: {before}, {read} of {sent}");
            }
            (read..sent).for_each(|number| assert_eq!(got(&a), (1, number), "{case}"));
            assert_idle(&a, &b, &case);
        }
    }
}

/// A stream of them uses few pages again and again, and not all the memory that there is.
#[test]
fn few_huge_ones_are_on_their_way() {
    let _turn = common::turn();
    let (a, b) = pipe::create(false).unwrap();
    assert_eq!(fill(&b, 0, HUGE), 2);
    // There is room for others.
    put(&b, 1, 2, INLINED);
    assert_eq!(got(&a), (1, 0));
    assert_eq!(send(&b, &message(1, 3, HUGE), &[], Deadline::PASSED), Ok(()));
    let (c, d) = pipe::create(false).unwrap();
    assert_eq!(fill(&d, 0, 4 << 20), 4);
    // Who waits is woken: one is read, and there is room for one.
    let mut child = Child::fork(|| (4..12).for_each(|number| put(&d, 1, number, HUGE)));
    (0..12).for_each(|number| assert_eq!(got(&c), (1, number)));
    assert_eq!(child.wait(), OK);
}

#[test]
fn nobody_pays_who_has_not_asked() {
    let _turn = common::turn();
    let (a, b) = pipe::create(true).unwrap();
    let sent = fill(&b, 0, 1000);
    assert!(writable(&fd(&b)));
    assert_eq!(socket::unread_bytes(fd(&a)), Some(1), "one ready packet");
    (0..sent).for_each(|number| assert_eq!(got(&a), (1, number)));
}

#[test]
fn asked_when_it_is_full_already() {
    let _turn = common::turn();
    for len in [SMALL, 10_000, INLINED, LARGE] {
        for sleeps in [false, true] {
            let case = format!("{len} bytes, a sender sleeps: {sleeps}");
            let (a, b) = pipe::create(false).unwrap();
            let mut sent = fill(&b, 0, len);
            let mut sender = sleeps.then(|| {
                sent += 1;
                Child::fork(|| put(&b, 1, sent - 1, len))
            });
            sender.iter().for_each(Child::until_parked);
            b.watch().unwrap();
            assert!(!writable(&fd(&b)) || (!sleeps && len == INLINED), "{case}");
            for number in 0..sent {
                assert_eq!(got(&a), (1, number), "{case}");
            }
            assert!(sender.iter_mut().all(|sender| sender.wait() == OK), "{case}");
            assert_idle(&a, &b, &case);
        }
    }
}

#[test]
fn whoever_sends_dies_at_every_point() {
    let _turn = common::turn();
    let points = [
        ("transport.asked", 1),
        ("transport.full_said", 1),
        ("transport.filler_sent", 1),
        ("transport.filler_sent", 2),
        // After its commit, before it fills: the only message that leaves the ring nearly full.
        ("ring.put.after_commit", 3),
    ];
    for (point, nth) in points {
        for len in [SMALL, SURE, LARGE] {
            for heir in [false, true] {
                let case = format!("{point} {nth}, {len} bytes, others send on: {heir}");
                let (a, b) = pipe::create(false).unwrap();
                if point != "transport.asked" {
                    b.watch().unwrap();
                }
                let words = words();
                let mut doomed = Child::doomed(point, nth, || {
                    b.watch().unwrap();
                    for number in 0.. {
                        let sent = send(&b, &message(1, number, len), &[], Deadline::PASSED);
                        if sent == Err(Error::Full) {
                            // It came by no such point: the first asking said nothing was full.
                            break;
                        }
                        sent.unwrap();
                        words.set(0, number as u64 + 1);
                    }
                });
                assert_eq!(doomed.wait(), KILLED, "{case}");
                // The one in its hands may have been committed.
                let least = words.get(0) as usize;
                let mut sent = least;
                if heir {
                    b.watch().unwrap();
                    sent = fill(&b, least, len);
                    assert!(!writable(&fd(&b)), "{case}: full");
                }
                // Whatever it left.
                let mut read = 0;
                let mut number = 0;
                while let Ok((bytes, _)) = recv(&a, Deadline::after(0.01)) {
                    let (_, got) = read_message(&bytes);
                    assert!(got == number || got + 1 == number, "{case}: {got} after {number}");
                    number = got + 1;
                    read += 1;
                }
                assert!((sent..=sent + 1).contains(&read), "{case}: {least}, {sent} sent, {read} came");
                assert_idle(&a, &b, &case);
                // It goes on telling.
                b.watch().unwrap();
                let sent = fill(&b, 0, len);
                assert!(!writable(&fd(&b)), "{case}: full again");
                (0..sent).for_each(|number| assert_eq!(got(&a), (1, number), "{case}"));
                assert_idle(&a, &b, &case);
            }
        }
    }
}

/// Points that a receiver passes when it tells that there is room.
const TELLING: [(&str, u32); 4] = [
    ("transport.filler_taken", 1),
    ("transport.filler_taken", 2),
    ("transport.filler_taken", 3),
    ("transport.room_telling", 1),
];

#[test]
fn whoever_receives_dies_at_every_point() {
    let _turn = common::turn();
    let commits = [1, 2, 3, 4, 8].map(|nth| ("ring.get.after_commit", nth));
    for (point, nth) in TELLING.into_iter().chain(commits).chain([("transport.ready_clearing", 1)]) {
        for len in [SMALL, SURE, LARGE] {
            let case = format!("{point} {nth}, {len} bytes");
            let (a, b) = pipe::create(false).unwrap();
            b.watch().unwrap();
            let sent = fill(&b, 0, len);
            let words = words();
            let mut doomed = Child::doomed(point, nth, || {
                for number in 0..sent {
                    assert_eq!(got(&a), (1, number));
                    words.set(0, number as u64 + 1);
                }
            });
            let end = doomed.wait();
            assert!(
                end == KILLED || (end == OK && point.ends_with("commit") && nth as usize > sent),
                "{case}: {end:?}"
            );
            let had = words.get(0) as usize;
            if had < sent {
                // The one in its hands is gone, or was left.
                if let Ok((bytes, _)) = recv(&a, Deadline::after(0.01)) {
                    let (_, next) = read_message(&bytes);
                    assert!((had..=had + 1).contains(&next), "{case}");
                    read_until_writable(&a, &b, next + 1, sent, &case);
                }
            }
            while recv(&a, Deadline::after(0.01)).is_ok() {}
            assert_idle(&a, &b, &case);
        }
    }
}

#[test]
fn who_mends_dies_too() {
    let _turn = common::turn();
    for sender in ["transport.full_said", "transport.filler_sent"] {
        for (receiver, nth) in TELLING {
            let case = format!("{sender}, then {receiver} {nth}");
            let (a, b) = pipe::create(true).unwrap();
            b.watch().unwrap();
            let mut first = Child::doomed(sender, 1, || _ = fill(&b, 0, SURE));
            assert_eq!(first.wait(), KILLED, "{case}");
            let mut second = Child::doomed(receiver, nth, || while recv(&a, Deadline::PASSED).is_ok() {});
            // There may have been fewer fillers.
            let end = second.wait();
            assert!(end == KILLED || (end == OK && receiver == "transport.filler_taken"), "{case}: {end:?}");
            // A sender goes on, and dies again; and a receiver.
            let mut third = Child::doomed(sender, 1, || _ = fill(&b, 0, SURE));
            assert_eq!(third.wait(), KILLED, "{case}");
            let mut fourth = Child::doomed("ring.get.after_commit", 2, || _ = (got(&a), got(&a)));
            assert_eq!(fourth.wait(), KILLED, "{case}");
            while recv(&a, Deadline::after(0.01)).is_ok() {}
            assert_idle(&a, &b, &case);
        }
    }
}

#[test]
fn a_sender_that_stalls_before_its_fillers() {
    let _turn = common::turn();
    let (a, b) = pipe::create(false).unwrap();
    b.watch().unwrap();
    let words = words();
    let mut stalled = Child::fork(|| {
        fault::arm("transport.full_said", 1, Action::Stop);
        words.set(0, fill(&b, 0, SURE) as u64);
    });
    stalled.until_stopped();
    // Room is made, which the sender can no longer see.
    let mut read = 0;
    while recv(&a, Deadline::PASSED).is_ok() {
        read += 1;
    }
    assert!(read > 4, "{read}");
    stalled.signal(libc::SIGCONT);
    assert_eq!(stalled.wait(), OK);
    // What it sent since tells the receiver to come.
    until("it is readable", || readable(&fd(&a)));
    while recv(&a, Deadline::PASSED).is_ok() {
        read += 1;
    }
    assert_eq!(words.get(0), read);
    assert_idle(&a, &b, "it stalled");
}

#[test]
fn descriptors_find_their_way_between_fillers() {
    let _turn = common::turn();
    for every in [1, 3, 50] {
        let case = format!("every {every}");
        let (a, b) = pipe::create(false).unwrap();
        b.watch().unwrap();
        let (lent, expected) = fds(1);
        let (mut sent, mut read) = (0, 0);
        for round in 0..6 {
            loop {
                let with = if sent % every == 0 { &lent[..] } else { &[] };
                match send(&b, &message(1, sent, [SMALL, 3000][round % 2]), with, Deadline::PASSED) {
                    Ok(()) => sent += 1,
                    Err(Error::Full) => break,
                    Err(e) => panic!("{case}: {e:?}"),
                }
            }
            assert!(!writable(&fd(&b)), "{case}: full");
            let some = if round == 5 { sent } else { read + (sent - read) * 3 / 4 };
            for number in read..some {
                assert!(readable(&fd(&a)), "{case}: a message without readiness");
                let (bytes, fds) = recv(&a, soon()).unwrap();
                assert_eq!(read_message(&bytes), (1, number), "{case}");
                assert_eq!(ids(&fds), if number % every == 0 { &expected[..] } else { &[] }, "{case}");
            }
            read = some;
        }
        assert_idle(&a, &b, &case);
    }
}

#[test]
fn descriptors_of_the_dead_do_not_keep_it_full() {
    let _turn = common::turn();
    let (a, b) = pipe::create(false).unwrap();
    b.watch().unwrap();
    let (dead, _) = fds(1);
    put(&b, 1, 0, SURE);
    for _ in 0..5 {
        let mut doomed = Child::doomed("transport.fds_sent", 1, || {
            let _ = send(&b, b"x", &dead, Deadline::PASSED);
        });
        assert_eq!(doomed.wait(), KILLED);
    }
    let sent = fill(&b, 1, SURE);
    assert!(!writable(&fd(&b)));
    let read = read_until_writable(&a, &b, 0, sent, "descriptors of the dead");
    assert!(read < sent, "only an empty ring is writable");
    (read..sent).for_each(|number| assert_eq!(got(&a), (1, number)));
    assert_idle(&a, &b, "descriptors of the dead");
}

#[test]
fn what_the_program_sends_itself_is_left_to_it() {
    let _turn = common::turn();
    for bytes in [&b"h"[..], b"a longer one"] {
        let (a, b) = pipe::create(false).unwrap();
        b.watch().unwrap();
        let sent = fill(&b, 0, SURE);
        // SAFETY: reads from a slice.
        let by_hand = unsafe { libc::send(fd(&b).as_raw_fd(), bytes.as_ptr().cast(), bytes.len(), 0) };
        assert_eq!(by_hand as usize, bytes.len());
        (0..sent).for_each(|number| assert_eq!(got(&a), (1, number)));
        // It is at the head, and stays there; fillers have gone.
        assert!(matches!(recv(&a, Deadline::PASSED), Err(Error::Os(_))));
        assert_eq!(socket::head(fd(&a)), socket::Head::Foreign);
        assert!(writable(&fd(&b)));
        let mut taken = [0u8; 20];
        // SAFETY: writes to a local.
        let n = unsafe { libc::recv(fd(&a).as_raw_fd(), taken.as_mut_ptr().cast(), taken.len(), libc::MSG_DONTWAIT) };
        assert_eq!(&taken[..n as usize], bytes);
        assert_idle(&a, &b, "by hand");
    }
}

#[test]
fn an_end_is_told_of_beside_fillers() {
    let _turn = common::turn();
    for duplex in [false, true] {
        let (a, b) = pipe::create(duplex).unwrap();
        b.watch().unwrap();
        fill(&b, 0, SURE);
        assert!(!writable(&fd(&b)));
        let mut sender = Child::fork(|| {
            // Its copy of the reading end would keep the pipe open.
            socket_of_peer_closed(&a);
            assert!(writable_within(&fd(&b), 20_000), "nobody reads, and it does not tell");
            assert_eq!(send(&b, b"x", &[], soon()), Err(Error::PeerGone));
        });
        sender.until_parked();
        drop(a);
        assert_eq!(sender.wait(), OK);
        let (a, b) = pipe::create(duplex).unwrap();
        b.watch().unwrap();
        let sent = fill(&b, 0, SURE);
        drop(b);
        (0..sent).for_each(|number| assert_eq!(got(&a), (1, number)));
        assert_eq!(recv(&a, soon()).unwrap_err(), Error::PeerGone);
        assert!(readable(&fd(&a)), "an end is something to read");
    }
}

fn socket_of_peer_closed(end: &End) {
    // SAFETY: this process ends without using it again.
    unsafe { libc::close(fd(end).as_raw_fd()) };
}

#[test]
fn send_buffers_of_any_size() {
    let _turn = common::turn();
    for bytes in [1, 3000, 20_000, 4 << 20] {
        let case = format!("a buffer of {bytes}");
        let (a, b) = pipe::create(false).unwrap();
        rustix_set_buffer(fd(&b), bytes);
        b.watch().unwrap();
        let sent = fill(&b, 0, SURE);
        assert!(!writable(&fd(&b)), "{case}: full");
        read_until_writable(&a, &b, 0, sent, &case);
        while recv(&a, Deadline::PASSED).is_ok() {}
        assert_idle(&a, &b, &case);
    }
}

fn rustix_set_buffer(socket: BorrowedFd<'_>, bytes: i32) {
    let size = size_of::<i32>() as u32;
    // SAFETY: reads a local of that size.
    let done = unsafe {
        libc::setsockopt(socket.as_raw_fd(), libc::SOL_SOCKET, libc::SO_SNDBUF, (&raw const bytes).cast(), size)
    };
    assert_eq!(done, 0);
}

#[test]
fn where_the_kernel_does_not_tell_what_is_unread() {
    let _turn = common::turn();
    let (a, b) = pipe::create(false).unwrap();
    b.watch().unwrap();
    // Nothing is sent that could not be taken away.
    let mut denied = Child::fork(|| {
        common::deny(libc::SYS_ioctl);
        let sent = fill(&b, 0, SURE);
        assert!(writable(&fd(&b)));
        (0..sent).for_each(|number| assert_eq!(got(&a), (1, number)));
        assert_eq!(recv(&a, Deadline::PASSED).unwrap_err(), Error::Empty);
    });
    assert_eq!(denied.wait(), OK);
    assert_idle(&a, &b, "neither knew");
    // The sender knows, the receiver does not: then it takes all, when it comes to the end.
    let sent = fill(&b, 0, SURE);
    assert!(!writable(&fd(&b)));
    let mut denied = Child::fork(|| {
        common::deny(libc::SYS_ioctl);
        (0..sent).for_each(|number| assert_eq!(got(&a), (1, number)));
    });
    assert_eq!(denied.wait(), OK);
    assert_idle(&a, &b, "the sender knew");
}

#[test]
fn many_send_by_readiness_alone() {
    let _turn = common::turn();
    const EACH: usize = 700;
    for duplex in [false, true] {
        let (a, b) = pipe::create(duplex).unwrap();
        let words = words();
        let mut senders: Vec<_> = (0..3)
            .map(|who| {
                let (b, words) = (&b, &words);
                Child::fork(move || {
                    b.watch().unwrap();
                    let mut number = 0;
                    while number < EACH {
                        assert!(writable_within(&fd(b), 15_000), "not writable for 15 seconds");
                        match send(b, &message(who, number, 16 + number * 97 % INLINED), &[], Deadline::PASSED) {
                            Ok(()) => number += 1,
                            Err(Error::Full | Error::WouldBlock) => drop(words.add(9, 1)),
                            Err(e) => panic!("{e:?}"),
                        }
                    }
                })
            })
            .collect();
        let mut receivers: Vec<_> = (0..2)
            .map(|_| {
                Child::fork(|| {
                    while words.add(0, 1) < 3 * EACH as u64 {
                        let (who, number) = got(&a);
                        words.add(1 + who, number as u64);
                    }
                })
            })
            .collect();
        assert!(senders.iter_mut().chain(&mut receivers).all(|child| child.wait() == OK));
        for who in 0..3 {
            assert_eq!(words.get(1 + who) as usize, (EACH - 1) * EACH / 2, "each message once");
        }
        assert_idle(&a, &b, "all came");
    }
}

#[test]
fn killed_anywhere_it_tells_the_truth_again() {
    let _turn = common::turn();
    let seed = common::seed();
    let mut dice = Dice(seed);
    let (a, b) = pipe::create(true).unwrap();
    b.watch().unwrap();
    let sending = || {
        for number in 0.. {
            if writable_within(&fd(&b), 20) {
                let len = [SURE, LARGE, SMALL, SURE][number % 4];
                let _ = send(&b, &message(1, number, len), &[], Deadline::PASSED);
            }
        }
    };
    let receiving = || {
        loop {
            let _ = recv(&a, Deadline::after(0.01));
        }
    };
    for round in 0..120 {
        let mut both = [Child::fork(sending), Child::fork(receiving)];
        std::thread::sleep(std::time::Duration::from_micros(dice.below(6000)));
        let first = dice.below(2) as usize;
        for at in [first, 1 - first] {
            both[at].kill();
            assert_eq!(both[at].wait(), KILLED);
        }
        if round % 4 == 0 {
            let case = format!("seed {seed}, round {round}");
            while recv(&a, Deadline::after(0.3)).is_ok() {}
            assert_idle(&a, &b, &case);
            b.watch().unwrap();
            let sent = fill(&b, 0, SURE);
            assert!(!writable(&fd(&b)), "{case}: full");
            read_until_writable(&a, &b, 0, sent, &case);
        }
    }
}
