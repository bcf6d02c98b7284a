//! The memory file of a channel: made when it is needed, and had by everybody who needs it, whoever
//! dies meanwhile. Long, for it holds what is asked of queues and of pipes alike.
#![cfg(not(loom))]
// Forks, and lays test words over shared memory; a failure is to panic.
#![allow(unsafe_code, clippy::unwrap_used)]

mod common;

use std::os::fd::{AsFd, AsRawFd};

use common::channel::{Channel, INLINED, LARGE, SMALL, comes_to_rest, fds, got, ids, put, recv, send, soon};
use common::{Child, KILLED, OK, message, open_fds, read_message, readable, until, words};
use fastmp_core::channel::pipe::{self, End};
use fastmp_core::channel::queue::Queue;
use fastmp_core::deadline::Patience;
use fastmp_core::fault::{Action, arm};
use fastmp_core::sys::{memfd, socket};
use fastmp_core::{Deadline, Error};

#[test]
fn no_file_is_made_before_it_is_needed() {
    let _turn = common::turn();
    let before = open_fds();
    let queue = Queue::create(0).unwrap();
    let (a, b) = pipe::create(true).unwrap();
    for number in 0..100 {
        put(&queue, 1, number, 4000);
        put(&a, 1, number, [SMALL, 500][number % 2]);
    }
    for number in 0..100 {
        assert_eq!(got(&queue), (1, number));
        assert_eq!(got(&b), (1, number));
    }
    assert!(!queue.file().is_known() && !a.file().is_known());
    assert!(open_fds() <= before + 4 + 4, "two each, and segments that all share");
    put(&queue, 1, 0, LARGE);
    put(&a, 1, 0, LARGE);
    assert!(queue.file().is_known() && a.file().is_known() && b.file().is_known());
    assert_eq!((got(&queue), got(&b)), ((1, 0), (1, 0)));
    // A queue that its base is too small for.
    let queue = Queue::create(0).unwrap();
    (0..60).for_each(|number| put(&queue, 1, number, INLINED));
    assert!(queue.file().is_known());
    (0..60).for_each(|number| assert_eq!(got(&queue), (1, number)));
}

/// Processes that were there before the file was.
fn children(n: usize, f: impl Fn(usize)) -> Vec<Child> {
    (0..n).map(|who| Child::fork(|| f(who))).collect()
}

#[test]
fn all_who_have_a_queue_get_its_file() {
    let _turn = common::turn();
    // Those who get, those who put, and those who came later; of a queue that is watched or not.
    for watched in [false, true] {
        let (queue, words) = (Queue::create(0).unwrap(), words());
        if watched {
            queue.watch().unwrap();
        }
        let twin = queue.again().unwrap();
        let mut all = children(6, |who| {
            until("it is its turn", || words.get(0) == who as u64);
            assert!(!queue.file().is_known());
            match who % 2 {
                0 => put(&queue, 1, who, LARGE),
                _ => assert_eq!(got(&queue), (1, who - 1)),
            }
            words.add(0, 1);
            until("all had theirs", || words.get(0) >= 6);
        });
        assert!(all.iter_mut().all(|child| child.wait() == OK));
        assert!(!watched || !readable(&queue.sockets()[0]), "readable, and empty");
        put(&twin, 1, 7, LARGE);
        assert_eq!(got(&queue), (1, 7));
        let late = queue.again().unwrap();
        put(&late, 1, 8, LARGE);
        assert_eq!(got(&twin), (1, 8));
    }
}

#[test]
fn many_who_make_the_file_at_the_same_time_have_one() {
    let _turn = common::turn();
    for _ in 0..20 {
        let (queue, words) = (Queue::create(0).unwrap(), words());
        let mut all = children(8, |who| {
            words.add(0, 1);
            while words.get(0) < 8 {
                std::thread::yield_now();
            }
            put(&queue, who, 0, 70_000);
        });
        assert!(all.iter_mut().all(|child| child.wait() == OK));
        let mut seen: Vec<_> = (0..8).map(|_| got(&queue).0).collect();
        seen.sort_unstable();
        assert_eq!(seen, (0..8).collect::<Vec<_>>());
    }
}

#[test]
fn a_file_that_another_makes_and_uses_during_the_look_is_found() {
    let _turn = common::turn();
    for point in ["file.looking", "file.made"] {
        let queue = Queue::create(0).unwrap();
        let mut slow = Child::fork(|| {
            arm(point, 1, Action::Stop);
            put(&queue, 1, 0, LARGE);
        });
        slow.until_stopped();
        put(&queue, 2, 0, LARGE);
        slow.signal(libc::SIGCONT);
        assert_eq!(slow.wait(), OK, "{point}");
        assert_eq!((got(&queue), got(&queue)), ((2, 0), (1, 0)), "{point}");
    }
}

/// Where who makes a queue's file dies, and how often it gets there: and whether the file is there.
const MAKING: [(&str, bool); 4] =
    [("file.looking", false), ("file.made", false), ("file.parked", true), ("extent.claimed", true)];

#[test]
fn who_makes_a_queues_file_dies_at_every_step_and_so_does_the_next() {
    let _turn = common::turn();
    for (first, _) in MAKING {
        for (second, _) in MAKING {
            common::watchdog();
            let case = format!("{first}, {second}");
            let queue = Queue::create(0).unwrap();
            // Both were there before.
            let mut next = Child::fork(|| {
                arm("here", 1, Action::Stop);
                fastmp_core::fault::reached("here");
                arm(second, 1, Action::Kill);
                put(&queue, 2, 0, LARGE);
            });
            next.until_stopped();
            let mut doomed = Child::doomed(first, 1, || put(&queue, 1, 0, LARGE));
            assert_eq!(doomed.wait(), KILLED, "{case}");
            next.signal(libc::SIGCONT);
            let ended = next.wait();
            // Nothing to make is left for it.
            let finds = !["file.looking", "file.made"].contains(&first)
                && !["file.looking", "extent.claimed"].contains(&second);
            assert_eq!(ended, if finds { OK } else { KILLED }, "{case}");
            put(&queue, 3, 0, LARGE);
            if finds {
                assert_eq!(got(&queue), (2, 0), "{case}");
            }
            assert_eq!(got(&queue), (3, 0), "{case}");
            assert_eq!(recv(&queue, Deadline::PASSED).unwrap_err(), Error::Empty, "{case}");
            comes_to_rest(&queue, &case);
        }
    }
}

#[test]
fn a_queue_gives_back_what_only_the_dead_had() {
    let _turn = common::turn();
    let queue = Queue::create(0).unwrap();
    let mut doomed = Child::fork(|| {
        put(&queue, 1, 0, 20 << 20);
        assert_eq!(got(&queue), (1, 0));
        let _held = queue.extent(1 << 20).unwrap();
        arm("here", 1, Action::Kill);
        fastmp_core::fault::reached("here");
    });
    assert_eq!(doomed.wait(), KILLED);
    assert!(!queue.file().is_known());
    until("it is found and given back", || {
        assert_eq!(recv(&queue, Deadline::after(1.2)).unwrap_err(), Error::Empty);
        queue.file().is_known() && queue.resident() <= common::channel::IDLE + (2 << 20)
    });
}

#[test]
fn a_message_is_had_though_its_sender_was_killed_and_its_first_receiver_too() {
    let _turn = common::turn();
    for with in [0, 2, 300] {
        for watched in [false, true] {
            common::watchdog();
            let (a, b) = pipe::create(true).unwrap();
            if watched {
                b.watch().unwrap();
            }
            let (lent, expected) = fds(with);
            // Receivers that share an end, from before.
            let words = words();
            let receive = |turn: u64, numbers: std::ops::Range<usize>| {
                until("it is its turn", || words.get(0) == turn);
                assert!(!b.file().is_known());
                for number in numbers {
                    let (bytes, fds) = recv(&b, soon()).unwrap();
                    assert_eq!((read_message(&bytes), ids(&fds)), ((1, number), expected.clone()));
                }
            };
            let mut first = Child::fork(|| {
                receive(1, 0..1);
                arm("ring.get.before_commit", 1, Action::Kill);
                receive_more(&b);
            });
            let mut second = Child::fork(|| receive(2, 1..3));
            let mut sender = Child::fork(|| {
                for number in 0..4 {
                    send(&a, &message(1, number, LARGE), &lent, soon()).unwrap();
                }
                words.set(0, 1);
                arm("here", 1, Action::Kill);
                fastmp_core::fault::reached("here");
            });
            let case = format!("{with} descriptors, watched: {watched}");
            assert_eq!(sender.wait(), KILLED, "{case}");
            assert_eq!(first.wait(), KILLED, "{case}");
            words.set(0, 2);
            assert_eq!(second.wait(), OK, "{case}");
            let (bytes, fds) = recv(&b, soon()).unwrap();
            assert_eq!((read_message(&bytes), ids(&fds)), ((1, 3), expected), "{case}");
            // And back, by the same file.
            send(&b, &message(2, 0, LARGE), &lent, soon()).unwrap();
            assert_eq!(read_message(&recv(&a, soon()).unwrap().0), (2, 0), "{case}");
        }
    }
}

fn receive_more(end: &End) {
    let _ = recv(end, soon());
}

#[test]
fn a_pipes_file_goes_with_messages_of_every_kind() {
    let _turn = common::turn();
    let mut dice = common::Dice(common::seed());
    let (lent, expected) = fds(2);
    for round in 0..12 {
        common::watchdog();
        let (a, b) = pipe::create(round % 2 == 0).unwrap();
        if round % 3 == 0 {
            b.watch().unwrap();
            a.watch().unwrap();
        }
        let (words, seed) = (words(), dice.next());
        let kind = |number: u64| {
            let mut dice = common::Dice(seed.wrapping_add(number));
            let len = [SMALL, 3000, INLINED, 70_000, LARGE][dice.below(5) as usize];
            (len, dice.below(3) == 0)
        };
        // Two who send in turn, two who receive: none has the file at first.
        let mut senders = children(2, |who| {
            for number in (who as u64..60).step_by(2) {
                until("it is its turn", || words.get(0) == number);
                let (len, with) = kind(number);
                let sent: &[_] = if with { &lent } else { &[] };
                send(&b, &message(1, number as usize, len), sent, soon()).unwrap();
                words.add(0, 1);
            }
        });
        let mut receivers = children(2, |who| {
            for number in (who as u64..60).step_by(2) {
                until("it is its turn", || words.get(1) == number);
                let (len, with) = kind(number);
                let (bytes, fds) = recv(&a, soon()).unwrap();
                assert_eq!((read_message(&bytes), bytes.len()), ((1, number as usize), len), "seed {seed}");
                assert_eq!(ids(&fds), if with { &expected[..] } else { &[] }, "seed {seed}, {number}");
                words.add(1, 1);
            }
        });
        assert!(senders.iter_mut().chain(&mut receivers).all(|child| child.wait() == OK), "seed {seed}");
        assert_eq!(recv(&a, Deadline::PASSED).unwrap_err(), Error::Empty);
        assert!(round % 3 > 0 || !readable(&a.socket()), "readable, and empty");
    }
}

/// Where who sends a pipe's first large message dies: and is the message there?
const SENDING: [(&str, bool); 7] = [
    ("file.made", false),
    ("file.said", false),
    ("extent.filled", false),
    ("transport.file_sent", false),
    ("transport.file_handed", false),
    ("ring.put.before_commit", false),
    ("ring.put.after_commit", true),
];

#[test]
fn who_sends_the_first_large_message_dies_at_every_step_and_so_does_the_next() {
    let _turn = common::turn();
    for watched in [false, true] {
        for (first, is_sent) in SENDING {
            for (second, _) in SENDING {
                common::watchdog();
                let case = format!("{first}, {second}, watched: {watched}");
                let (a, b) = pipe::create(false).unwrap();
                if watched {
                    a.watch().unwrap();
                }
                let next = |arms: bool| {
                    arm("here", 1, Action::Stop);
                    fastmp_core::fault::reached("here");
                    if arms {
                        arm(second, 1, Action::Kill);
                    }
                    put(&b, 2, usize::from(!arms), LARGE);
                };
                // All were there before.
                let mut second_one = Child::fork(|| next(true));
                let mut third = Child::fork(|| next(false));
                let mut receiver = Child::fork(|| {
                    let mut seen = Vec::new();
                    while seen.last() != Some(&(3, 0)) {
                        seen.push(got(&a));
                    }
                    if is_sent {
                        assert_eq!(seen.remove(0), (1, 0));
                    }
                    assert!(seen.ends_with(&[(2, 1), (3, 0)]), "{seen:?}");
                    assert!(seen.len() == 2 || (seen.len() == 3 && seen[0] == (2, 0)), "{seen:?}");
                });
                second_one.until_stopped();
                third.until_stopped();
                let mut doomed = Child::doomed(first, 1, || put(&b, 1, 0, LARGE));
                assert_eq!(doomed.wait(), KILLED, "{case}");
                second_one.signal(libc::SIGCONT);
                // It may be past what it was to die at: then it sends.
                let _ = second_one.wait();
                third.signal(libc::SIGCONT);
                assert_eq!(third.wait(), OK, "{case}");
                put(&b, 3, 0, LARGE);
                assert_eq!(receiver.wait(), OK, "{case}");
            }
        }
    }
}

#[test]
fn who_shares_the_senders_end_of_a_one_way_pipe_gets_the_file_back_from_its_reader() {
    let _turn = common::turn();
    for dies in [false, true] {
        let ((a, b), words) = (pipe::create(false).unwrap(), words());
        let mut other = Child::fork(|| {
            for number in 0..2 {
                until("the last one has been received", || words.get(0) == 1 + number as u64);
                put(&b, 2, number, LARGE);
            }
            assert_eq!(b.file().is_known(), !dies);
        });
        let mut reader = Child::fork(|| {
            if dies {
                arm("file.returning", 1, Action::Kill);
            }
            assert_eq!((got(&a), got(&a)), ((1, 0), (1, 1)));
            // Nobody lacks the file, for all one knows.
            assert!(!readable(&b.socket()));
            words.set(0, 1);
            assert_eq!(got(&a), (2, 0));
            assert!(readable(&b.socket()));
        });
        (0..2).for_each(|number| put(&b, 1, number, LARGE));
        assert_eq!(reader.wait(), if dies { KILLED } else { OK });
        words.set(0, 2);
        assert_eq!(other.wait(), OK);
        assert_eq!(got(&a), (2, 1));
        put(&b, 1, 2, LARGE);
        assert_eq!(got(&a), (1, 2));
    }
}

#[test]
fn who_has_no_file_sends_loose_extents() {
    let _turn = common::turn();
    let (a, b) = pipe::create(true).unwrap();
    let (lent, expected) = fds(3);
    let words = words();
    let mut other = Child::fork(|| {
        until("there is a file", || words.get(0) == 1);
        for number in 0..20 {
            send(&b, &message(2, number, LARGE), if number % 3 == 0 { &lent } else { &[] }, soon()).unwrap();
        }
        assert!(!b.file().is_known());
    });
    put(&b, 1, 0, LARGE);
    words.set(0, 1);
    assert_eq!(got(&a), (1, 0));
    for number in 0..20 {
        let (bytes, fds) = recv(&a, soon()).unwrap();
        assert_eq!(read_message(&bytes), (2, number));
        assert_eq!(ids(&fds), if number % 3 == 0 { &expected[..] } else { &[] });
    }
    assert_eq!(other.wait(), OK);
    // One whose descriptors are gone is lost, and no other.
    let before = open_fds();
    for point in ["transport.fds_sent", "ring.put.before_commit", "ring.put.after_commit"] {
        let (a, b) = pipe::create(true).unwrap();
        let words = common::words();
        let mut doomed = Child::fork(|| {
            until("there is a file", || words.get(0) == 1);
            arm(point, 1, Action::Kill);
            put(&b, 2, 0, LARGE);
        });
        put(&b, 1, 0, LARGE);
        words.set(0, 1);
        assert_eq!(doomed.wait(), KILLED, "{point}");
        put(&b, 1, 1, LARGE);
        let mut expected = vec![(1, 0)];
        expected.extend((point == "ring.put.after_commit").then_some((2, 0)));
        expected.push((1, 1));
        expected.iter().for_each(|expected| assert_eq!(got(&a), *expected, "{point}"));
    }
    assert!(open_fds() <= before + 8);
}

#[test]
fn a_sender_that_cannot_mend_for_want_of_the_file_waits_for_who_can() {
    let _turn = common::turn();
    let ((a, b), words) = (pipe::create(true).unwrap(), words());
    let mut second = Child::fork(|| {
        until("the first is dead", || words.get(0) == 1);
        put(&b, 2, 0, SMALL);
        assert!(!b.file().is_known());
    });
    let mut first = Child::fork(|| {
        (0..30).for_each(|number| put(&b, 1, number, 70_000));
        arm("ring.put.before_commit", 1, Action::Kill);
        put(&b, 1, 30, SMALL);
    });
    // More than there are slots beside the words.
    let held: Vec<_> = (0..30).map(|_| a.recv(&mut Vec::new(), &mut Vec::new(), soon()).unwrap()).collect();
    assert_eq!(first.wait(), KILLED);
    words.set(0, 1);
    second.until_parked();
    assert_eq!(got(&a), (2, 0));
    assert_eq!(second.wait(), OK);
    drop(held);
}

#[test]
fn a_receiver_that_cannot_mend_a_senders_lock_for_want_of_the_file_waits_too() {
    let _turn = common::turn();
    let ((a, b), words) = (pipe::create(true).unwrap(), words());
    let mut other = Child::fork(|| {
        until("the sender is dead", || words.get(0) == 1);
        let start = std::time::Instant::now();
        assert_eq!(recv(&a, Deadline::after(0.3)).unwrap_err(), Error::Empty);
        assert!(start.elapsed().as_secs_f64() >= 0.3);
        let (mut bytes, mut fds) = (Vec::new(), Vec::new());
        assert_eq!(a.try_recv(&mut bytes, &mut fds).unwrap_err(), Error::Empty);
        a.watch().unwrap();
        let told = a.recv_told(&mut bytes, &mut fds, Patience::Spin).unwrap_err();
        assert_eq!(told, Error::WouldBlock);
        words.set(0, 2);
        assert_eq!(got(&a), (3, 0));
        assert!(!a.file().is_known());
    });
    let mut sender = Child::fork(|| {
        (0..30).for_each(|number| put(&b, 1, number, 70_000));
        until("the socket is empty", || words.get(1) == 1);
        arm("ring.put.before_commit", 1, Action::Kill);
        put(&b, 1, 30, SMALL);
    });
    let held: Vec<_> = (0..30).map(|_| a.recv(&mut Vec::new(), &mut Vec::new(), soon()).unwrap()).collect();
    // The file is taken out with all that it was sent for; or was sent again meanwhile.
    assert_eq!(recv(&a, Deadline::after(0.01)).unwrap_err(), Error::Empty);
    socket::drain(a.socket());
    words.set(1, 1);
    assert_eq!(sender.wait(), KILLED);
    words.set(0, 1);
    until("the other waits for ever", || words.get(0) == 2);
    other.until_parked();
    let cpu = other.cpu();
    std::thread::sleep(std::time::Duration::from_millis(500));
    assert!(other.cpu() - cpu <= 0.1, "it is busy");
    put(&b, 3, 0, SMALL);
    assert_eq!(other.wait(), OK);
    drop(held);
}

#[test]
fn one_descriptor_is_enough_for_a_file() {
    let _turn = common::turn();
    let mut child = Child::fork(|| {
        let (queue, (a, b)) = (Queue::create(0).unwrap(), pipe::create(true).unwrap());
        let late = queue.again().unwrap();
        let limit = libc::rlimit { rlim_cur: 100, rlim_max: 100 };
        // SAFETY: a plain system call.
        assert_eq!(unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &limit) }, 0);
        let mut others: Vec<_> = std::iter::from_fn(|| std::fs::File::open("/dev/null").ok()).collect();
        // Without any it is an error, and nothing has happened.
        let none = Err(Error::Os(rustix::io::Errno::MFILE));
        assert_eq!(send(&queue, &message(1, 0, LARGE), &[], soon()), none);
        assert_eq!(send(&a, &message(1, 0, LARGE), &[], soon()), none);
        others.pop();
        put(&queue, 1, 1, LARGE);
        assert_eq!(recv(&late, soon()).map(drop), none);
        others.pop();
        assert_eq!(got(&late), (1, 1));
        others.pop();
        put(&a, 1, 2, LARGE);
        assert_eq!(got(&b), (1, 2));
    });
    assert_eq!(child.wait(), OK);
}

#[test]
fn others_files_on_their_way_keep_nobody_waiting() {
    let _turn = common::turn();
    let mut child = Child::fork(|| {
        let descriptors = |soft, hard| {
            let limit = libc::rlimit { rlim_cur: soft, rlim_max: hard };
            // SAFETY: a plain system call.
            assert_eq!(unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &limit) }, 0);
        };
        descriptors(1000, 1000);
        // root may have any number on their way.
        // SAFETY: plain system calls.
        unsafe {
            if libc::geteuid() == 0 {
                assert_eq!(libc::setuid(65534), 0);
            }
        }
        let (sender, _receiver) = socket::pair().unwrap();
        assert!(socket::send_fds(&sender, 1, &[sender.as_fd(); 250]).unwrap());
        // Each of these in a socket would be one too many.
        descriptors(240, 1000);
        let (queue, (a, b)) = (Queue::create(0).unwrap(), pipe::create(true).unwrap());
        put(&queue, 1, 0, LARGE);
        put(&a, 1, 0, LARGE);
        assert_eq!((got(&queue), got(&b)), ((1, 0), (1, 0)));
        let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
        // SAFETY: writes to a local.
        unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &mut limit) };
        assert_eq!((limit.rlim_cur, limit.rlim_max), (240, 1000));
        // Where the system allows no more it is an error at once, and no wait for ever.
        descriptors(240, 240);
        let (queue, (c, d)) = (Queue::create(0).unwrap(), pipe::create(true).unwrap());
        let too_many = Err(Error::Os(rustix::io::Errno::TOOMANYREFS));
        let never = Deadline::Never;
        assert_eq!(send(&queue, &message(1, 1, LARGE), &[], never), too_many);
        assert_eq!(send(&c, &message(1, 1, LARGE), &[], never), too_many);
        put(&c, 1, 2, INLINED);
        assert_eq!(got(&d), (1, 2));
        // Who has the file already goes on.
        put(&b, 1, 3, INLINED);
        assert_eq!(got(&a), (1, 3));
    });
    assert_eq!(child.wait(), OK);
}

#[test]
fn another_file_that_has_the_files_number_is_left_alone() {
    let _turn = common::turn();
    let mut child = Child::fork(|| {
        let (queue, (a, b)) = (Queue::create(0).unwrap(), pipe::create(true).unwrap());
        put(&queue, 1, 0, LARGE);
        put(&a, 1, 0, LARGE);
        let held = [queue.extent(30 << 20).unwrap(), queue.extent(30 << 20).unwrap(), a.extent(30 << 20).unwrap()];
        held.iter().for_each(|hold| hold.write(0, &[5; 100_000]).unwrap());
        // As a program that closes all descriptors and opens others: here a file with data
        // wherever ours has some.
        let other = memfd::create("other", 4096).unwrap();
        memfd::extend(&other, 64 << 40).unwrap();
        let places: Vec<_> = held.iter().map(|hold| hold.offset()).chain([129 << 20]).collect();
        places.iter().for_each(|at| memfd::write(&other, *at, &[7; 4096]).unwrap());
        for file in [queue.file(), a.file()] {
            // SAFETY: the number stays open, and is nobody's to close but the child's end.
            assert!(unsafe { libc::dup2(other.as_raw_fd(), file.get().unwrap().as_fd().as_raw_fd()) } >= 0);
        }
        let before = memfd::resident(&other).unwrap();
        let gone = Error::Os(rustix::io::Errno::BADF);
        assert_eq!(held[0].write(0, &[9; 100_000]), Err(gone));
        assert_eq!(held[0].read(0, &mut [0; 4096]), Err(gone));
        held.into_iter().for_each(|hold| hold.discard());
        for channel in [&queue as &dyn Large, &a] {
            assert_eq!(channel.send_large(), Err(gone));
        }
        assert!(a.lent_file().is_none());
        assert!(recv(&queue, soon()).is_err() && recv(&b, soon()).is_err());
        drop((queue, a, b));
        assert_eq!(memfd::resident(&other).unwrap(), before);
        for at in places {
            let mut bytes = [0; 4096];
            memfd::read(&other, at, &mut bytes).unwrap();
            assert_eq!(bytes, [7; 4096]);
        }
    });
    assert_eq!(child.wait(), OK);
}

/// To send a large message by either kind.
trait Large {
    fn send_large(&self) -> fastmp_core::Result<()>;
}

impl<T: Channel> Large for T {
    fn send_large(&self) -> fastmp_core::Result<()> {
        send(self, &message(1, 1, LARGE), &[], Deadline::PASSED)
    }
}

#[test]
fn an_end_that_travels_has_the_file_with_it() {
    let _turn = common::turn();
    let (a, b) = pipe::create(true).unwrap();
    put(&a, 1, 0, LARGE);
    let (left, right) = (a.again().unwrap(), b.again().unwrap());
    assert!(left.file().is_known() && right.file().is_known());
    assert_eq!(got(&right), (1, 0));
    put(&right, 1, 1, LARGE);
    assert_eq!(got(&left), (1, 1));
}

#[test]
fn a_queues_file_that_was_taken_out_is_missed_and_no_other_is_made() {
    let _turn = common::turn();
    let queue = Queue::create(0).unwrap();
    let late = queue.again().unwrap();
    put(&queue, 1, 0, LARGE);
    socket::pop(queue.sockets()[1]);
    assert!(matches!(recv(&late, Deadline::after(0.1)).unwrap_err(), Error::Corrupted(_)));
    assert!(matches!(late.extent(LARGE as u64).unwrap_err(), Error::Corrupted(_)));
    // Who has it goes on.
    assert_eq!(got(&queue), (1, 0));
    put(&queue, 1, 1, LARGE);
    assert_eq!(got(&queue), (1, 1));
}
