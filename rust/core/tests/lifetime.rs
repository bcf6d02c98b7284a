//! Handles that leave: a block is not used again while anybody can reach it by one, and is when
//! nobody can.
#![cfg(not(loom))]
// Forks, and closes descriptors behind the library's back; a failure is to panic.
#![allow(unsafe_code, clippy::unwrap_used)]

mod common;

use std::collections::HashSet;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use common::blocks::{are_used_again, arena_bytes, block, comes_back, place, read};
use common::{Child, KILLED, OK, until, words};
use fastmp_core::arena::{self, Block, Handle};
use fastmp_core::fault::{self, Action};
use fastmp_core::layout::{Backing, Kind};
use fastmp_core::sys::hold_token::{HoldToken, HoldWatch};
use fastmp_core::sys::memfd;
use fastmp_core::sys::socket::{self, Packet};

fn copy(fd: impl AsFd) -> OwnedFd {
    fd.as_fd().try_clone_to_owned().unwrap()
}

fn attach(handle: &Handle) -> Block {
    Block::attach(copy(handle.segment()), Some(copy(handle.token())), handle.offset(), Kind::Memory).unwrap()
}

fn is_ready(handle: &Handle) -> bool {
    memfd::identity(handle.segment()) != memfd::identity(handle.token())
}

/// 100 blocks that say "mine", and where they are.
fn some() -> (Vec<Block>, HashSet<(usize, usize)>) {
    let held: Vec<_> = (0..100).map(|_| block()).collect();
    held.iter().for_each(|b| b.mapping().write(b.payload(), b"mine").unwrap());
    let places = held.iter().map(place).collect();
    (held, places)
}

fn are_mine(blocks: &[Block]) -> bool {
    blocks.iter().all(|b| &read(b)[..4] == b"mine")
}

/// A message with a handle's two descriptors, its number the offset.
fn send(socket: &OwnedFd, handle: &Handle) {
    assert!(socket::send_fds(socket, handle.offset() as u64, &[handle.segment(), handle.token()]).unwrap());
}

fn send_all(socket: &OwnedFd, blocks: &[Block]) {
    blocks.iter().for_each(|b| send(socket, &b.export(None).unwrap()));
}

fn receive(socket: &OwnedFd) -> Vec<Block> {
    let mut blocks = Vec::new();
    while let Packet::Fds(offset, mut fds) = socket::peek(socket).unwrap() {
        socket::pop(socket);
        let (token, segment) = (fds.pop().unwrap(), fds.pop().unwrap());
        blocks.push(Block::attach(segment, Some(token), offset as usize, Kind::Memory).unwrap());
    }
    blocks
}

fn close_all_descriptors() {
    // SAFETY: as programs do that become daemons.
    unsafe { libc::syscall(libc::SYS_close_range, 3, u32::MAX, 0) };
}

fn kill_myself() {
    fault::arm("here", 1, Action::Kill);
    fault::reached("here");
}

// ---- tokens

#[test]
fn a_token_is_held_by_descriptors() {
    let _turn = common::turn();
    let (watch, pass) = HoldWatch::open().unwrap();
    assert!(!watch.is_unheld());
    let other = copy(pass.fd().unwrap());
    drop(pass);
    assert!(!watch.is_unheld());
    drop(other);
    assert!(watch.is_unheld());
}

#[test]
fn a_token_is_held_by_a_message_under_way() {
    let _turn = common::turn();
    for read in [true, false] {
        let (left, right) = socket::pair().unwrap();
        let (watch, pass) = HoldWatch::open().unwrap();
        socket::send_fds(&left, 1, &[pass.fd().unwrap()]).unwrap();
        drop((pass, left));
        assert!(!watch.is_unheld());
        if read {
            socket::pop(&right);
        }
        drop(right);
        until("the kernel throws the message away", || watch.is_unheld());
    }
}

#[test]
fn a_token_is_held_by_a_mapping() {
    let _turn = common::turn();
    let (watch, pass) = HoldWatch::open().unwrap();
    let received = HoldToken::receive(copy(pass.fd().unwrap())).unwrap();
    drop(pass);
    // Closed, and the number somebody else's.
    let number = received.fd().unwrap().as_raw_fd();
    let null = std::fs::File::open("/dev/null").unwrap();
    // SAFETY: the descriptor is this test's.
    assert_eq!(unsafe { libc::dup2(null.as_raw_fd(), number) }, number);
    assert!(!watch.is_unheld());
    assert!(received.fd().is_none());
    drop(received);
    assert!(watch.is_unheld());
    // SAFETY: as above.
    assert_eq!(unsafe { libc::close(number) }, 0, "it closed a number that was not its own");
}

#[test]
fn a_token_is_held_by_forked_children_until_they_exec() {
    let _turn = common::turn();
    for closing in [false, true] {
        let (watch, pass) = HoldWatch::open().unwrap();
        pass.map().unwrap();
        let words = words();
        let mut child = Child::fork(|| {
            if closing {
                close_all_descriptors();
            }
            words.set(1, 1);
            until("the parent looks", || words.get(0) == 1);
            let args = [c"sleep".as_ptr(), c"60".as_ptr(), std::ptr::null()];
            // SAFETY: a null-terminated array of C strings.
            unsafe { libc::execvp(c"sleep".as_ptr(), args.as_ptr()) };
        });
        until("the child is there", || words.get(1) == 1);
        drop(pass);
        assert!(!watch.is_unheld());
        words.set(0, 1);
        until("it execs", || watch.is_unheld());
        assert!(child.ended().is_none());
    }
}

#[test]
fn a_token_whose_opener_lost_its_descriptor_is_never_gone() {
    let _turn = common::turn();
    for leases in [true, false] {
        fault::deny_leases(!leases);
        let before: HashSet<_> = common_fds();
        let (watch, pass) = HoldWatch::open_for_forks().unwrap();
        drop(pass);
        let mine: Vec<_> = common_fds().difference(&before).copied().collect();
        let other = memfd::create("other", 4096).unwrap();
        for &number in &mine {
            // SAFETY: the descriptors are this test's.
            unsafe { libc::dup2(other.as_raw_fd(), number) };
        }
        assert!(!watch.is_unheld());
        drop(watch);
        // SAFETY: as above.
        assert!(mine.iter().all(|&number| unsafe { libc::close(number) } == 0));
    }
    fault::deny_leases(false);
}

fn common_fds() -> HashSet<i32> {
    // The directory's own number is closed by the time that anybody looks.
    let names = std::fs::read_dir("/proc/self/fd").unwrap().flatten();
    let all: Vec<i32> = names.filter_map(|e| e.file_name().to_str()?.parse().ok()).collect();
    // SAFETY: a question.
    all.into_iter().filter(|&fd| unsafe { libc::fcntl(fd, libc::F_GETFD) } >= 0).collect()
}

#[test]
fn what_is_no_pass_is_refused() {
    let _turn = common::turn();
    let (watch, pass) = HoldWatch::open().unwrap();
    let (end, _other) = socket::pair().unwrap();
    assert!(HoldToken::receive(end).is_err());
    assert!(HoldToken::receive(std::fs::File::open("/dev/zero").unwrap().into()).is_err());
    drop(pass);
    assert!(watch.is_unheld());
}

// ---- blocks

#[test]
fn an_exported_block_comes_back_when_its_handle_is_dropped() {
    let _turn = common::turn();
    let (held, places) = some();
    let handles: Vec<_> = held.iter().map(|b| b.export(None).unwrap()).collect();
    assert!(handles.iter().all(is_ready));
    assert!(!comes_back(held), "used again under a handle");
    drop(handles);
    assert!(are_used_again(&places));
}

#[test]
fn a_message_unread_keeps_a_block_also_when_its_sender_is_dead() {
    let _turn = common::turn();
    let (left, right) = socket::pair().unwrap();
    let (held, places) = some();
    send_all(&left, &held);
    drop(left);
    assert!(!comes_back(held), "used again under an unread message");
    let received = receive(&right);
    assert!(received.len() == 100 && are_mine(&received));
    assert!(!are_used_again(&places), "used again under a receiver");
    drop(received);
    assert!(are_used_again(&places));
}

#[test]
fn a_message_that_nobody_will_read_lets_go() {
    let _turn = common::turn();
    let (left, right) = socket::pair().unwrap();
    let (held, places) = some();
    send_all(&left, &held);
    drop((left, right, held));
    until("it comes back", || are_used_again(&places));
}

/// A child that receives blocks and nothing else of this process's, does `then`, and looks at them
/// when told.
fn receiver(words: &common::Words, right: &OwnedFd, then: impl FnOnce(&[Block])) -> Child {
    Child::fork(|| {
        until("the parent sends", || words.get(0) >= 1);
        let blocks = receive(right);
        then(&blocks);
        words.set(1, 1);
        until("the parent tries", || words.get(0) >= 2);
        assert!(are_mine(&blocks));
        until("the parent lets it go", || words.get(0) == 3);
    })
}

#[test]
fn a_receiver_keeps_a_block_until_it_ends_or_is_killed() {
    let _turn = common::turn();
    for (closing, killed) in [(false, true), (false, false), (true, false), (true, true)] {
        let words = words();
        let (left, right) = socket::pair().unwrap();
        let mut child = receiver(&words, &right, |_| {
            if closing {
                close_all_descriptors();
            }
        });
        // Made after the fork: only the handles lead there.
        let (held, places) = some();
        send_all(&left, &held);
        words.set(0, 1);
        until("it has them", || words.get(1) == 1);
        assert!(!comes_back(held), "used again under a receiver");
        words.set(0, 2);
        if killed {
            child.kill();
            assert_eq!(child.wait(), KILLED);
        } else {
            words.set(0, 3);
            assert_eq!(child.wait(), OK, "its block was used again");
        }
        assert!(are_used_again(&places), "not used again: {closing} {killed}");
    }
}

#[test]
fn a_receivers_child_keeps_a_block_when_the_receiver_was_killed() {
    let _turn = common::turn();
    let words = words();
    let (left, right) = socket::pair().unwrap();
    let mut child = Child::fork(|| {
        until("the parent sends", || words.get(0) >= 1);
        let blocks = receive(&right);
        std::mem::forget(Child::fork(|| {
            // SAFETY: it is to outlive its parent.
            unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, 0) };
            close_all_descriptors();
            words.set(1, 1);
            until("the parent tries", || words.get(0) >= 2);
            words.set(2, if are_mine(&blocks) { 1 } else { 2 });
        }));
        until("the grandchild is there", || words.get(1) == 1);
        kill_myself();
    });
    let (held, places) = some();
    send_all(&left, &held);
    words.set(0, 1);
    assert_eq!(child.wait(), KILLED);
    assert!(!comes_back(held), "used again under a grandchild");
    words.set(0, 2);
    until("the grandchild looks", || words.get(2) != 0);
    assert_eq!(words.get(2), 1, "its block was used again");
    until("it comes back", || are_used_again(&places));
}

#[test]
fn a_receiver_sends_the_same_token_on() {
    let _turn = common::turn();
    let words = words();
    let (left, right) = socket::pair().unwrap();
    let (up, down) = socket::pair().unwrap();
    let mut child = receiver(&words, &right, |blocks| {
        send_all(&up, blocks);
        kill_myself();
    });
    let (held, places) = some();
    send_all(&left, &held);
    words.set(0, 1);
    assert_eq!(child.wait(), KILLED);
    assert!(!comes_back(held), "used again under a message of a dead receiver's");
    let received = receive(&down);
    assert!(received.len() == 100 && are_mine(&received));
    drop(received);
    assert!(are_used_again(&places));
}

#[test]
fn what_a_forked_child_sends_is_kept_and_comes_back() {
    let _turn = common::turn();
    for depth in [1, 2] {
        let (left, right) = socket::pair().unwrap();
        let (held, places) = some();
        let words = words();
        let mut child = Child::fork(|| {
            if depth == 1 {
                send_all(&left, &held);
            } else {
                // With blocks of its own, and so with a token of its own.
                let own = block();
                assert_eq!(Child::fork(|| send_all(&left, &held)).wait(), OK);
                assert!(is_ready(&own.export(None).unwrap()));
            }
            words.set(0, 1);
        });
        assert_eq!(child.wait(), OK);
        assert_eq!(words.get(0), 1);
        assert!(held.iter().all(|b| !b.header().unwrap().is_exported()));
        assert!(!comes_back(held), "used again under an unread message of a child's");
        let received = receive(&right);
        assert!(received.len() == 100 && are_mine(&received));
        drop(received);
        assert!(are_used_again(&places));
    }
}

#[test]
fn a_child_without_the_tokens_descriptor_says_that_a_block_is_lost() {
    let _turn = common::turn();
    let (held, places) = some();
    let mut child = Child::fork(|| {
        // All but the segment's own descriptor.
        let keep = held[0].export(None).unwrap().segment().as_raw_fd();
        // SAFETY: as programs do.
        (3..512).filter(|&fd| fd != keep).for_each(|fd| assert!(unsafe { libc::close(fd) } <= 0));
        let one = held.iter().find(|b| b.export(None).is_ok_and(|h| !is_ready(&h))).unwrap();
        assert!(one.header().unwrap().is_exported());
    });
    assert_eq!(child.wait(), OK);
    let lost: HashSet<_> = held.iter().filter(|b| b.header().unwrap().is_exported()).map(place).collect();
    assert!(!lost.is_empty());
    drop(held);
    assert!(are_used_again(&places));
    assert!(!are_used_again(&lost));
}

#[test]
fn a_started_process_keeps_a_block_by_an_inherited_descriptor() {
    let _turn = common::turn();
    let (held, places) = some();
    let handles: Vec<_> = held.iter().map(|b| b.export(None).unwrap()).collect();
    let tokens: HashSet<_> = handles.iter().map(|h| h.token().as_raw_fd()).collect();
    // As a spawned child before it has attached anything: no fork token, only numbers.
    let mut child = Child::fork(|| {
        tokens.iter().for_each(|&fd| {
            // SAFETY: open descriptors.
            unsafe { libc::fcntl(fd, libc::F_SETFD, 0) };
        });
        let args = [c"sleep".as_ptr(), c"60".as_ptr(), std::ptr::null()];
        // SAFETY: a null-terminated array of C strings.
        unsafe { libc::execvp(c"sleep".as_ptr(), args.as_ptr()) };
    });
    let comm = format!("/proc/{}/comm", child.pid());
    until("it execs", || std::fs::read_to_string(&comm).is_ok_and(|c| c.trim() == "sleep"));
    drop(handles);
    assert!(!comes_back(held), "used again under a started process");
    child.kill();
    child.wait();
    assert!(are_used_again(&places));
}

#[test]
fn the_maker_may_receive_its_own() {
    let _turn = common::turn();
    let (held, places) = some();
    let again: Vec<_> = held.iter().map(|b| attach(&b.export(None).unwrap())).collect();
    assert!(!comes_back(held));
    assert!(are_mine(&again));
    drop(again);
    assert!(are_used_again(&places));
}

#[test]
fn one_long_holder_makes_few_others_wait() {
    let _turn = common::turn();
    let held: Vec<_> = (0..2000).map(|_| block()).collect();
    let handles: Vec<_> = held.iter().map(|b| b.export(None).unwrap()).collect();
    let kept = attach(&handles[1000]);
    let places: Vec<_> = held.iter().map(place).collect();
    drop((handles, held));
    arena::sweep();
    let new: Vec<_> = (0..3000).map(|_| block()).collect();
    let back: HashSet<_> = new.iter().map(place).collect();
    let waiting = places.iter().filter(|p| !back.contains(p)).count();
    assert!((1..=64 * 8).contains(&waiting), "{waiting} wait");
    drop(kept);
}

#[test]
fn ten_thousand_handles_take_few_descriptors() {
    let _turn = common::turn();
    let before = common::open_fds();
    let held: Vec<_> = (0..10_000).map(|_| block()).collect();
    let handles: Vec<_> = held.iter().map(|b| b.export(None).unwrap()).collect();
    // Each token: both of its sides here, where everything is under way at once.
    assert!(common::open_fds() < before + 100, "{} more", common::open_fds() - before);
    let tokens: HashSet<_> = handles.iter().map(|h| memfd::identity(h.token()).unwrap()).collect();
    assert!(tokens.len() < 45, "{} tokens", tokens.len());
    drop(handles);
    // All in one message.
    let first = held[0].export(None).unwrap();
    let with = |b: &Block| memfd::identity(b.export(Some(&first)).unwrap().token()).unwrap();
    assert_eq!(held.iter().map(with).collect::<HashSet<_>>().len(), 1);
}

#[test]
fn what_is_held_does_not_keep_the_tokens_of_others() {
    let _turn = common::turn();
    // So much waits for one holder that no sweep comes by for long.
    let held: Vec<_> = (0..500).map(|_| block()).collect();
    let first = held[0].export(None).unwrap();
    let kept = attach(&first);
    for each in &held[1..] {
        drop(each.export(Some(&first)).unwrap());
    }
    drop((first, held));
    arena::sweep();
    let before = common::open_fds();
    for _ in 0..1800 {
        // A tenth of all that one token stands for.
        drop(Block::alloc(Kind::Memory, 24 << 10).unwrap().export(None).unwrap());
    }
    assert!(common::open_fds() < before + 20, "{} more", common::open_fds() - before);
    drop(kept);
}

#[test]
fn send_receive_drop_stays_flat() {
    let _turn = common::turn();
    let (left, right) = socket::pair().unwrap();
    let mut forks = 0;
    let mut cycle = |n: usize| {
        let held: Vec<_> = (0..20).map(|_| block()).collect();
        send_all(&left, &held);
        if n.is_multiple_of(10) {
            forks += 1;
            let child = Child::fork(|| {
                let _blocks = receive(&right);
                until("killed", || false);
            });
            if forks % 2 == 0 {
                std::thread::sleep(std::time::Duration::from_millis(1));
            }
            child.kill();
        }
        drop(receive(&right));
    };
    (0..200).for_each(&mut cycle);
    let (fds, bytes) = (common::open_fds(), arena_bytes());
    (200..5000).for_each(&mut cycle);
    assert!(common::open_fds() <= fds + 20, "{fds} descriptors, then {}", common::open_fds());
    assert!(arena_bytes() <= bytes + (64 << 10), "{bytes} bytes, then {}", arena_bytes());
}

// ---- without leases

#[test]
fn without_leases_forks_are_covered_and_handles_are_lost() {
    let _turn = common::turn();
    fault::deny_leases(true);
    // What is open was opened with leases: this closes it.
    arena::sweep();
    let (held, _) = some();
    let handles: Vec<_> = held.iter().map(|b| b.export(None).unwrap()).collect();
    assert!(!handles.iter().any(is_ready));
    drop(handles);
    assert!(!comes_back(held), "used again although nobody knows");

    let (held, places) = some();
    let words = words();
    let mut child = Child::fork(|| {
        until("the parent tries", || words.get(0) == 1);
        assert!(are_mine(&held));
    });
    assert!(!comes_back(held), "used again under a living child");
    words.set(0, 1);
    assert_eq!(child.wait(), OK);
    assert!(are_used_again(&places));

    let (held, _) = some();
    let mut child = Child::fork(|| held.iter().for_each(|b| drop(b.export(None))));
    assert_eq!(child.wait(), OK);
    assert!(!comes_back(held), "used again although a child gave it away");
    fault::deny_leases(false);
}

#[test]
fn without_descriptors_nothing_is_used_again_too_early() {
    let _turn = common::turn();
    let mut child = Child::fork(|| {
        let (held, places) = some();
        let words = words();
        let limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
        let mut old = limit;
        // SAFETY: reads and writes locals.
        unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &mut old) };
        let none = libc::rlimit { rlim_cur: 3, rlim_max: old.rlim_max };
        // SAFETY: as above.
        unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &none) };
        // Many forks, none of which can have a token.
        for _ in 0..100 {
            drop(block());
            assert_eq!(Child::fork(|| ()).wait(), OK);
        }
        let mut child = Child::fork(|| {
            until("the parent tries", || words.get(0) == 1);
            assert!(are_mine(&held));
        });
        assert!(!is_ready(&held[0].export(None).unwrap()));
        // SAFETY: as above.
        unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &old) };
        assert!(!comes_back(held), "used again under a child without a token");
        words.set(0, 1);
        assert_eq!(child.wait(), OK);
        assert!(!are_used_again(&places));
        let (held, _) = some();
        assert!(comes_back(held), "what came later is used again");
    });
    assert_eq!(child.wait(), OK);
}

#[test]
fn a_program_that_closes_all_descriptors_sends_no_foreign_ones() {
    let _turn = common::turn();
    let mut child = Child::fork(|| {
        let mine = block();
        let handle = mine.export(None).unwrap();
        let number = handle.segment().as_raw_fd();
        close_all_descriptors();
        assert!(mine.export(None).is_err());
        let null = std::fs::File::open("/dev/null").unwrap();
        // SAFETY: the numbers are free.
        unsafe { libc::dup2(null.as_raw_fd(), number) };
        assert!(mine.export(None).is_err());
        drop((handle, mine));
        // SAFETY: a question about an open descriptor.
        let kept = unsafe { BorrowedFd::borrow_raw(number) };
        assert!(kept.try_clone_to_owned().is_ok(), "it closed a number that was not its own");
    });
    assert_eq!(child.wait(), OK);
}
