//! Loans: bytes that a receiver looks at where they are, while others go on, fork, close and die.
//! Long, for it holds all tests of one object.
#![cfg(not(loom))]
// Looks at raw memory, forks; a failure is to panic.
#![allow(unsafe_code, clippy::unwrap_used)]

mod common;

use std::os::fd::{AsFd, AsRawFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use common::channel::{Channel, IDLE, LARGE, comes_to_rest, got, put, recv, send, soon};
use common::{Child, End, KILLED, OK, deny, message, open_fds, read_message, until};
use fastmp_core::channel::extents::{Loan, OwnedExtent};
use fastmp_core::channel::pipe;
use fastmp_core::channel::queue::Queue;
use fastmp_core::fault::{Action, arm};
use fastmp_core::sys::memfd;
use fastmp_core::sys::twin::TwinMapping;
use fastmp_core::{Deadline, Error};
use rustix::io::Errno;

/// In a near place, and in a far one.
const SIZES: [usize; 2] = [70_000, LARGE + 10];

fn receive(channel: &impl Channel) -> (OwnedExtent, usize) {
    let received = channel.get_letter(&mut Vec::new(), &mut Vec::new(), soon()).unwrap();
    *received.extent.unwrap()
}

fn lent(channel: &impl Channel) -> Arc<Loan> {
    let (extent, len) = receive(channel);
    extent.lend(len).unwrap()
}

fn bytes(loan: &Loan) -> Vec<u8> {
    let mut bytes = vec![0; loan.len()];
    loan.read(0, &mut bytes).unwrap();
    bytes
}

fn content(loan: &Loan) -> (usize, usize) {
    read_message(&bytes(loan))
}

fn at(loan: &Loan) -> *mut u8 {
    loan.range(0, loan.len()).unwrap().as_ptr()
}

/// Write all of it.
fn fill(loan: &Loan, byte: u8) {
    // SAFETY: its memory, which nobody else looks at meanwhile.
    unsafe { std::ptr::write_bytes(at(loan), byte, loan.len()) };
}

fn is_filled(loan: &Loan, byte: u8) -> bool {
    bytes(loan).iter().all(|&one| one == byte)
}

fn memory(queue: &Queue) -> u64 {
    queue.resident()
}

#[test]
fn what_is_lent_stays_until_it_returns() {
    let _turn = common::turn();
    for len in SIZES {
        let queue = Queue::create(0).unwrap();
        put(&queue, 1, 0, len);
        let first = lent(&queue);
        assert_eq!(first.len(), len);
        for number in 1..20 {
            put(&queue, 1, number, len);
            assert_eq!(got(&queue), (1, number));
        }
        assert_eq!(content(&first), (1, 0));
        fill(&first, 7);
        put(&queue, 1, 20, len);
        let second = lent(&queue);
        assert!(is_filled(&first, 7));
        assert_eq!(content(&second), (1, 20));
        // What has returned is used again, and is where it was.
        let place = at(&first);
        drop(first);
        let more: Vec<_> = (21..24).map(|number| (put(&queue, 1, number, len), lent(&queue)).1).collect();
        assert!(more.iter().any(|loan| at(loan) == place));
        more.iter().zip(21..).for_each(|(loan, number)| assert_eq!(content(loan), (1, number)));
        assert_eq!(content(&second), (1, 20));
    }
}

#[test]
fn ranges_end_with_the_message() {
    let _turn = common::turn();
    let queue = Queue::create(0).unwrap();
    put(&queue, 1, 0, 70_000);
    let loan = lent(&queue);
    assert!(loan.range(69_999, 1).is_ok() && loan.range(70_000, 0).is_ok());
    for (at, len) in [(70_000, 1), (0, 70_001), (usize::MAX, 2), (2, usize::MAX)] {
        assert!(matches!(loan.range(at, len), Err(Error::Corrupted(_))));
    }
    assert!(matches!(loan.read(69_999, &mut [0; 2]), Err(Error::Corrupted(_))));
}

#[test]
fn hundreds_may_be_lent_in_any_order() {
    let _turn = common::turn();
    let (reader, writer) = pipe::create(false).unwrap();
    let mut held = Vec::new();
    for number in 0..400 {
        put(&writer, 1, number, SIZES[number % 2]);
        held.push((number, lent(&reader)));
        if number % 5 == 4 {
            held.swap_remove(number * 7 % held.len());
        }
    }
    held.iter().for_each(|(number, loan)| assert_eq!(content(loan), (1, *number)));
    while let Some((number, loan)) = (!held.is_empty()).then(|| held.swap_remove(held.len() / 3)) {
        assert_eq!(content(&loan), (1, number));
        fill(&loan, 0);
    }
    assert!(reader.resident() <= IDLE + (32 << 20));
}

/// A bound on bytes is one on what is unread: what is lent is its holder's own.
#[test]
fn what_is_lent_keeps_nobody_from_putting() {
    let _turn = common::turn();
    let queue = Queue::create(2).unwrap();
    queue.bound_bytes(3 << 20);
    let held: Vec<_> = (0..20)
        .map(|number| {
            send(&queue, &message(1, number, LARGE), &[], Deadline::PASSED).unwrap();
            lent(&queue)
        })
        .collect();
    (0..2).for_each(|number| put(&queue, 2, number, LARGE));
    assert_eq!(send(&queue, &message(2, 2, LARGE), &[], Deadline::PASSED), Err(Error::Full));
    held.iter().enumerate().for_each(|(number, loan)| assert_eq!(content(loan), (1, number)));
}

/// Memory that larger messages have left is not kept by small ones, for as long as they are held.
#[test]
fn what_is_lent_keeps_little_more_than_itself() {
    let _turn = common::turn();
    for (large, small, count) in [(1_000_000, 70_000, 60), (16 << 20, 5 << 20, 10)] {
        let queue = Queue::create(0).unwrap();
        let held: Vec<_> = (0..count)
            .map(|number| {
                put(&queue, 1, number, large);
                assert_eq!(got(&queue), (1, number));
                put(&queue, 2, number, small);
                lent(&queue)
            })
            .collect();
        held.iter().enumerate().for_each(|(number, loan)| assert_eq!(content(loan), (2, number)));
        // What is free is kept for the next.
        let most = 2 * count * (small + 4096) + 3 * large + (1 << 20);
        assert!(memory(&queue) <= most as u64, "{} bytes, of {most}", memory(&queue));
    }
}

/// Each step of a loan's life at which its holder may die.
const POINTS: [&str; 6] =
    ["loan.mapped", "loan.taken", "loan.leaving", "loan.returning", "loan.returned", "extent.freed"];

fn borrow(queue: &Queue) {
    let loan = lent(queue);
    assert_eq!(content(&loan), (1, 0));
    fill(&loan, 1);
}

#[test]
fn what_the_dead_had_on_loan_returns() {
    let _turn = common::turn();
    for point in POINTS {
        for len in SIZES {
            let (case, queue) = (format!("{point}, {len}"), Queue::create(0).unwrap());
            put(&queue, 1, 0, len);
            put(&queue, 1, 1, len);
            assert_eq!(Child::doomed(point, 1, || borrow(&queue)).wait(), KILLED, "{case}");
            assert_eq!(got(&queue), (1, 1), "{case}");
            comes_to_rest(&queue, &case);
        }
    }
}

#[test]
fn what_the_dead_had_on_loan_returns_though_who_mends_dies_too() {
    let _turn = common::turn();
    for point in &POINTS[..4] {
        for second in ["extent.sweeping", "extent.punched"] {
            let (case, queue) = (format!("{point}, {second}"), Queue::create(0).unwrap());
            put(&queue, 1, 0, 20 << 20);
            assert_eq!(Child::doomed(point, 1, || borrow(&queue)).wait(), KILLED, "{case}");
            std::thread::sleep(Duration::from_millis(110));
            assert_eq!(Child::doomed(second, 1, || put(&queue, 1, 1, LARGE)).wait(), KILLED, "{case}");
            std::thread::sleep(Duration::from_millis(110));
            put(&queue, 1, 2, LARGE);
            assert_eq!(got(&queue), (1, 2), "{case}");
            comes_to_rest(&queue, &case);
        }
    }
}

#[test]
fn a_killed_holder_of_many_gives_all_back() {
    let _turn = common::turn();
    let queue = Queue::create(0).unwrap();
    for round in 0..3 {
        (0..100).for_each(|number| put(&queue, 1, number, SIZES[number % 2]));
        let mut holder = Child::fork(|| {
            let _held: Vec<_> = (0..100).map(|_| lent(&queue)).collect();
            arm("here", 1, Action::Stop);
            fastmp_core::fault::reached("here");
        });
        holder.until_stopped();
        assert!(memory(&queue) >= 50 * LARGE as u64, "{round}");
        holder.kill();
        assert_eq!(holder.wait(), KILLED);
        comes_to_rest(&queue, "many");
    }
}

// --- Forks ---

#[test]
fn a_forked_child_has_its_own() {
    let _turn = common::turn();
    for len in SIZES {
        let queue = Queue::create(0).unwrap();
        put(&queue, 1, 0, len);
        put(&queue, 1, 1, len);
        let (first, second) = (lent(&queue), lent(&queue));
        let (theirs, words) = (at(&first), common::words());
        let mut child = Child::fork(|| {
            assert_eq!((content(&first), at(&first)), ((1, 0), theirs));
            fill(&first, 2);
            words.set(0, 1);
            until("the parent writes", || words.get(1) == 1);
            assert!(is_filled(&first, 2));
            assert_eq!(content(&second), (1, 1));
            // It has what comes as anybody has.
            put(&queue, 2, 0, len);
            let own = lent(&queue);
            fill(&own, 3);
            assert_eq!(content(&second), (1, 1));
        });
        until("the child writes", || words.get(0) == 1);
        assert_eq!(content(&first), (1, 0));
        fill(&first, 4);
        words.set(1, 1);
        assert_eq!(child.wait(), OK);
        assert!(is_filled(&first, 4));
        assert_eq!(content(&second), (1, 1));
        // The extents returned before the fork.
        (0..10).for_each(|number| put(&queue, 3, number, len));
        (0..10).for_each(|number| assert_eq!(got(&queue), (3, number)));
        assert!(is_filled(&first, 4));
        assert_eq!(content(&second), (1, 1));
        // Another fork costs nothing more, and changes nothing.
        assert_eq!(Child::fork(|| fill(&first, 5)).wait(), OK);
        assert!(is_filled(&first, 4));
        // Nor does what a child does with its own.
        let mut held = Some(second);
        assert_eq!(Child::fork(|| drop(held.take())).wait(), OK);
        let second = held.unwrap();
        assert_eq!(content(&second), (1, 1));
        drop((first, second));
        comes_to_rest(&queue, "forked");
    }
}

#[test]
fn a_forked_child_outlives_its_parent_with_what_was_lent_to_that() {
    let _turn = common::turn();
    let queue = Queue::create(0).unwrap();
    let words = common::words();
    put(&queue, 1, 0, LARGE);
    let mut parent = Child::fork(|| {
        let loan = lent(&queue);
        // SAFETY: the grandchild returns into this closure alone.
        if unsafe { libc::fork() } == 0 {
            common::watchdog();
            words.set(0, 1);
            until("all has been used again", || words.get(1) == 1);
            words.set(2, 1 + u64::from(content(&loan) == (1, 0)));
            common::exit(0);
        }
        until("the grandchild is there", || words.get(0) == 1);
        arm("here", 1, Action::Kill);
        fastmp_core::fault::reached("here");
    });
    assert_eq!(parent.wait(), KILLED);
    comes_to_rest(&queue, "orphaned");
    (0..10).for_each(|number| put(&queue, 3, number, LARGE));
    (0..10).for_each(|number| assert_eq!(got(&queue), (3, number)));
    words.set(1, 1);
    until("the grandchild looks", || words.get(2) > 0);
    assert_eq!(words.get(2), 2);
}

/// What it wrote last each of these threads finds again, however many forks come in between.
#[test]
fn no_write_is_lost_while_others_fork() {
    let _turn = common::turn();
    let queue = Queue::create(0).unwrap();
    let (stop, forks) = (AtomicBool::new(false), AtomicU64::new(0));
    std::thread::scope(|s| {
        for who in 0..2_usize {
            let (queue, stop, forks) = (&queue, &stop, &forks);
            s.spawn(move || {
                let mut count = 0_u64;
                while !stop.load(Ordering::Relaxed) {
                    let extent = queue.extent(LARGE as u64).unwrap();
                    extent.write(0, &message(who, 0, LARGE)).unwrap();
                    let Ok(loan) = extent.lend(LARGE) else { continue };
                    let words = at(&loan).cast::<u64>();
                    let until = forks.load(Ordering::Relaxed) + 1;
                    let mut written = [0; 64];
                    while forks.load(Ordering::Relaxed) <= until && !stop.load(Ordering::Relaxed) {
                        let turn = count as usize % 64;
                        // A word of each of many pages.
                        // SAFETY: inside of the loan, aligned, and of this thread alone.
                        unsafe {
                            let word = words.add(turn * 512 * 4 + who);
                            assert!(written[turn] == 0 || word.read_volatile() == written[turn], "a write was lost");
                            count += 1;
                            written[turn] = count;
                            word.write_volatile(count);
                        }
                    }
                }
            });
        }
        for _ in 0..200 {
            assert_eq!(Child::fork(|| ()).wait(), OK);
            forks.fetch_add(1, Ordering::Relaxed);
        }
        stop.store(true, Ordering::Relaxed);
    });
}

/// Whatever other threads are doing with loans when one forks, the child shares nothing.
#[test]
fn forks_amid_loans_that_come_and_go() {
    let _turn = common::turn();
    let queue = Queue::create(0).unwrap();
    let (stop, kept) = (AtomicBool::new(false), std::sync::Mutex::new(Vec::<Arc<Loan>>::new()));
    std::thread::scope(|s| {
        for who in 0..2 {
            let (queue, stop, kept) = (&queue, &stop, &kept);
            s.spawn(move || {
                let mut number = 0;
                while !stop.load(Ordering::Relaxed) {
                    number += 1;
                    put(queue, who, number, 70_000);
                    let (extent, len) = receive(queue);
                    match extent.lend(len) {
                        Ok(loan) => {
                            content(&loan);
                            let mut kept = kept.lock().unwrap();
                            kept.push(loan);
                            if kept.len() > 6 {
                                kept.remove(number % 6);
                            }
                        }
                        // A fork is under way.
                        Err(extent) => {
                            let mut bytes = vec![0; len];
                            extent.read(0, &mut bytes).unwrap();
                            read_message(&bytes);
                        }
                    }
                }
            });
        }
        for _ in 0..200 {
            let held = kept.lock().unwrap();
            let mut child = Child::fork(|| held.iter().for_each(|loan| fill(loan, 1)));
            let bytes: Vec<_> = held.iter().map(|loan| content(loan)).collect();
            assert_eq!(child.wait(), OK);
            assert_eq!(bytes, held.iter().map(|loan| content(loan)).collect::<Vec<_>>());
        }
        stop.store(true, Ordering::Relaxed);
    });
    kept.lock().unwrap().iter().for_each(|loan| assert!(content(loan).0 < 2));
}

/// Linux before 5.14, and what stands in for it.
#[test]
fn forks_where_the_kernel_gives_no_advice() {
    let _turn = common::turn();
    let mut child = Child::fork(|| {
        deny(libc::SYS_madvise);
        a_fork_shares_nothing(OK);
    });
    assert_eq!(child.wait(), OK);
}

/// As where a process has all the mappings that it may have.
#[test]
fn who_cannot_be_given_its_own_must_not_look() {
    let _turn = common::turn();
    let mut child = Child::fork(|| {
        deny(libc::SYS_mremap);
        a_fork_shares_nothing(End::Signal(libc::SIGSEGV));
    });
    assert_eq!(child.wait(), OK);
}

/// The kernel takes away what is in the way before it looks whether it can move anything there.
#[test]
fn a_hole_in_the_place_of_memory_is_no_refusal() {
    let _turn = common::turn();
    let file = memfd::create("fastmp-test", 1 << 20).unwrap();
    for refused in [true, false] {
        let mut child = Child::fork(|| {
            memfd::write(&file, 0, &message(1, 0, 70_000)).unwrap();
            let memory = TwinMapping::new(&file, 0, 1 << 20).unwrap();
            let at = memory.range(0, 1 << 20).unwrap().as_ptr();
            // SAFETY: nobody looks at it until there is something again.
            assert_eq!(unsafe { libc::munmap(at.cast(), 1 << 20) }, 0);
            if refused {
                deny(libc::SYS_mremap);
            }
            assert!(memory.make_private(|| ()));
            let mut bytes = vec![0; 70_000];
            memory.read(0, &mut bytes).unwrap();
            assert_eq!(read_message(&bytes), (1, 0));
        });
        assert_eq!(child.wait(), if refused { End::Signal(libc::SIGABRT) } else { OK });
    }
}

fn a_fork_shares_nothing(ends: End) {
    let queue = Queue::create(0).unwrap();
    put(&queue, 1, 0, LARGE);
    let loan = lent(&queue);
    for _ in 0..2 {
        let mut child = Child::fork(|| fill(&loan, 1));
        assert_eq!(child.wait(), ends);
        (0..5).for_each(|number| put(&queue, 3, number, LARGE));
        (0..5).for_each(|number| assert_eq!(got(&queue), (3, number)));
        assert_eq!(content(&loan), (1, 0));
    }
    fill(&loan, 2);
    drop(loan);
    put(&queue, 1, 1, LARGE);
    assert_eq!(content(&lent(&queue)), (1, 1));
}

#[test]
fn who_dies_while_it_forks_leaves_nothing() {
    let _turn = common::turn();
    for point in ["loan.private", "loan.returning", "extent.freed"] {
        let queue = Queue::create(0).unwrap();
        put(&queue, 1, 0, 20 << 20);
        let mut doomed = Child::doomed(point, 1, || {
            let _loan = lent(&queue);
            Child::fork(|| ()).wait();
        });
        assert_eq!(doomed.wait(), KILLED, "{point}");
        comes_to_rest(&queue, point);
    }
}

#[test]
fn memory_that_is_locked_becomes_private_as_any_other() {
    let _turn = common::turn();
    let mut child = Child::fork(|| {
        let queue = Queue::create(0).unwrap();
        put(&queue, 1, 0, LARGE);
        // SAFETY: plain system calls. Where it is not allowed there is nothing to test.
        if unsafe { libc::mlockall(libc::MCL_FUTURE) } != 0 {
            return;
        }
        let (extent, len) = receive(&queue);
        let Ok(loan) = extent.lend(len) else { return };
        // After all that could be locked has been.
        fill(&loan, 6);
        // A fork inherits no lock.
        assert_eq!(Child::fork(|| assert!(is_filled(&loan, 6))).wait(), OK);
        assert!(is_filled(&loan, 6));
    });
    assert_eq!(child.wait(), OK);
}

#[test]
fn where_nothing_more_can_be_mapped_it_is_copied() {
    let _turn = common::turn();
    let mut child = Child::fork(|| {
        let queue = Queue::create(0).unwrap();
        put(&queue, 1, 0, 20 << 20);
        let pages = std::fs::read_to_string("/proc/self/statm").unwrap();
        let used = pages.split(' ').next().unwrap().parse::<u64>().unwrap() * 4096 + (30 << 20);
        let limit = libc::rlimit { rlim_cur: used, rlim_max: used };
        let (extent, len) = receive(&queue);
        // SAFETY: reads a local.
        assert_eq!(unsafe { libc::setrlimit(libc::RLIMIT_AS, &limit) }, 0);
        let extent = extent.lend(len).unwrap_err();
        let mut head = [0; 16];
        extent.read(0, &mut head).unwrap();
        assert_eq!(head, message(1, 0, 20 << 20)[..16]);
    });
    assert_eq!(child.wait(), OK);
}

// --- Closing ---

#[test]
fn a_loan_outlives_its_channel_and_keeps_no_descriptor() {
    let _turn = common::turn();
    // What its words are in stays, for others.
    drop(Queue::create(0).unwrap());
    for len in SIZES {
        let before = open_fds();
        let queue = Queue::create(0).unwrap();
        // So that the slot of the last is in a further page of the table.
        (0..40).for_each(|number| put(&queue, 1, number, len));
        let loans: Vec<_> = (0..40).map(|_| lent(&queue)).collect();
        drop(queue);
        assert_eq!(open_fds(), before);
        for (number, loan) in loans.iter().enumerate() {
            assert_eq!(content(loan), (1, number));
            fill(loan, 1);
        }
    }
}

/// Its slot's word is where another channel's would be otherwise.
#[test]
fn a_loan_keeps_others_out_of_its_channels_plot() {
    let _turn = common::turn();
    for by_fork in [false, true] {
        let queue = Queue::create(0).unwrap();
        let place = |queue: &Queue| (queue.front().segment().id(), queue.front().offset());
        let its = place(&queue);
        put(&queue, 1, 0, LARGE);
        let loan = lent(&queue);
        drop(queue);
        let others: Vec<_> = (0..8).map(|_| Queue::create(0).unwrap()).collect();
        assert!(others.iter().all(|other| place(other) != its));
        // The same slot of each is this process's.
        let extents: Vec<_> = others.iter().map(|other| other.extent(70_000).unwrap()).collect();
        assert_eq!(content(&loan), (1, 0));
        if by_fork {
            assert_eq!(Child::fork(|| ()).wait(), OK);
        }
        drop(loan);
        // Nobody else gets them.
        for (other, extent) in others.iter().zip(&extents) {
            assert_ne!(other.extent(70_000).unwrap().index(), extent.index());
        }
        drop((extents, others));
        if !by_fork {
            // And it comes back.
            let others: Vec<_> = (0..16).map(|_| Queue::create(0).unwrap()).collect();
            assert!(others.iter().any(|other| place(other) == its));
        }
    }
}

/// Programs close descriptors wholesale, and open others, of the same numbers.
#[test]
fn what_returns_touches_no_file_of_the_programs() {
    let _turn = common::turn();
    let queue = Queue::create(0).unwrap();
    for len in [1 << 20, 4 << 20] {
        (0..20).for_each(|number| put(&queue, 1, number, len - 100));
        let mut child = Child::fork(|| {
            let loans: Vec<_> = (0..20).map(|_| lent(&queue)).collect();
            let theirs = memfd::create("fastmp-test", 0).unwrap();
            // Where near places are, and far ones.
            let places = (0..100).flat_map(|slot| [(128 << 20) + (slot << 20), (slot + 1) << 40]);
            places.for_each(|at| memfd::write(&theirs, at, &[7; 4096]).unwrap());
            let before = memfd::resident(&theirs).unwrap();
            let number = queue.file().get().unwrap().as_fd().as_raw_fd();
            // SAFETY: the number is the queue's, which is to find out.
            assert_eq!(unsafe { libc::dup2(theirs.as_raw_fd(), number) }, number);
            drop(loans);
            // What is mapped can be used still; where more is asked for it is refused.
            let mut filled = Vec::new();
            let refused = (0..100).find_map(|_| {
                let extent = queue.extent(len as u64).unwrap();
                let done = extent.write(0, &vec![1; len]);
                filled.push(extent);
                done.err()
            });
            assert_eq!(refused, Some(Error::Os(Errno::BADF)));
            drop((filled, queue.again()));
            assert_eq!(memfd::resident(&theirs).unwrap(), before);
        });
        assert_eq!(child.wait(), OK);
    }
    comes_to_rest(&queue, "closed by the program");
}

/// A queue in two processes: here, and in a child, which has loans and no queue any more.
fn after_closing(queue: &Queue, then: impl FnOnce(Arc<Loan>)) -> Child {
    Child::fork(move || {
        let own = queue.again().unwrap();
        let loan = lent(&own);
        drop(own);
        then(loan);
    })
}

#[test]
fn what_returns_to_a_closed_channel_is_given_back_for_others() {
    let _turn = common::turn();
    for len in [70_000, 20 << 20] {
        let queue = Queue::create(0).unwrap();
        put(&queue, 1, 0, len);
        let words = common::words();
        let mut child = after_closing(&queue, |loan| {
            assert_eq!(content(&loan), (1, 0));
            words.set(0, 1);
            until("the parent looks", || words.get(1) == 1);
            drop(loan);
            words.set(0, 2);
            until("the parent has looked", || words.get(1) == 2);
        });
        until("it is lent", || words.get(0) == 1);
        assert!(memory(&queue) >= len as u64);
        words.set(1, 1);
        until("it has returned", || words.get(0) == 2);
        assert!(memory(&queue) < (1 << 20).min(len as u64 + 20_000), "{} bytes", memory(&queue));
        words.set(1, 2);
        assert_eq!(child.wait(), OK);
        put(&queue, 1, 1, len);
        assert_eq!(got(&queue), (1, 1));
    }
}

#[test]
fn where_pages_cannot_be_given_back_by_the_mapping_others_do() {
    let _turn = common::turn();
    let queue = Queue::create(0).unwrap();
    put(&queue, 1, 0, 20 << 20);
    let mut child = after_closing(&queue, |loan| {
        deny(libc::SYS_madvise);
        drop(loan);
    });
    assert_eq!(child.wait(), OK);
    comes_to_rest(&queue, "no advice");
}

#[test]
fn a_fork_returns_what_was_lent_by_a_closed_channel() {
    let _turn = common::turn();
    let queue = Queue::create(0).unwrap();
    put(&queue, 1, 0, 20 << 20);
    let words = common::words();
    let mut child = after_closing(&queue, |loan| {
        let mut own = Child::fork(|| assert_eq!(content(&loan), (1, 0)));
        words.set(0, 1);
        until("the parent has looked", || words.get(1) == 1);
        assert_eq!((own.wait(), content(&loan)), (OK, (1, 0)));
    });
    until("it has forked", || words.get(0) == 1);
    assert!(memory(&queue) < 1 << 20, "{} bytes", memory(&queue));
    words.set(1, 1);
    assert_eq!(child.wait(), OK);
}

#[test]
fn who_dies_returning_to_a_closed_channel_leaves_nothing() {
    let _turn = common::turn();
    for point in ["loan.returning", "loan.punched", "loan.returned"] {
        let queue = Queue::create(0).unwrap();
        put(&queue, 1, 0, 20 << 20);
        let mut doomed = after_closing(&queue, |loan| {
            arm(point, 1, Action::Kill);
            drop(loan);
        });
        assert_eq!(doomed.wait(), KILLED, "{point}");
        comes_to_rest(&queue, point);
    }
}

#[test]
fn what_a_peer_scribbles_is_no_crash() {
    let _turn = common::turn();
    let queue = Queue::create(0).unwrap();
    put(&queue, 1, 0, LARGE);
    let (extent, len) = receive(&queue);
    // More than there is.
    let extent = extent.lend(len + (8 << 20)).unwrap_err();
    let extent = extent.lend(usize::MAX).unwrap_err();
    let extent = extent.lend(0).unwrap_err();
    assert_eq!(content(&extent.lend(len).unwrap()), (1, 0));
    assert_eq!(recv(&queue, Deadline::PASSED).unwrap_err(), Error::Empty);
}
