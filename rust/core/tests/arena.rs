//! Blocks: handed out, given back, and not used again while anybody can reach them.
#![cfg(not(loom))]
// Forks, and looks at raw words; a failure is to panic.
#![allow(unsafe_code, clippy::unwrap_used)]

mod common;

use std::collections::HashSet;
use std::os::fd::BorrowedFd;
use std::time::Duration;

use common::blocks::{are_used_again, arena_bytes, block, comes_back, place, read};
use common::{Child, KILLED, OK, until, words};
use fastmp_core::arena::{self, Block, Segment};
use fastmp_core::fault::{self, Action};
use fastmp_core::layout::{Backing, Kind};
use fastmp_core::sys::memfd;

fn segment(block: &Block) -> (u64, u64) {
    memfd::identity(block.export(None).unwrap().segment()).unwrap()
}

#[test]
fn blocks_are_apart_zeroed_and_aligned() {
    let _turn = common::turn();
    let mut blocks = Vec::new();
    for bytes in (0..200).chain([1000, 4064, 4096, 20_000, 32 << 10, 33 << 10, 1 << 20]) {
        let block = Block::alloc(Kind::Memory, bytes).unwrap();
        assert_eq!(block.bytes(), bytes);
        assert!((block.payload() - 32).is_multiple_of(64));
        assert!(read(&block).iter().all(|&b| b == 0));
        block.mapping().write(block.payload(), &vec![0xa5; bytes]).unwrap();
        blocks.push(block);
    }
    assert!(blocks.iter().all(|b| read(b).iter().all(|&b| b == 0xa5)));
    blocks.iter().for_each(|b| b.header().unwrap().check(Kind::Memory).map(drop).unwrap());
}

#[test]
fn too_much_is_refused() {
    let _turn = common::turn();
    for bytes in [usize::MAX, usize::MAX - 32, isize::MAX as usize, 1 << 55] {
        assert!(Block::alloc(Kind::Memory, bytes).is_err(), "{bytes}");
    }
    block();
}

#[test]
fn unforked_blocks_are_used_again_at_once() {
    let _turn = common::turn();
    let first = block();
    first.mapping().write(first.payload(), &[7; 200]).unwrap();
    let at = place(&first);
    drop(first);
    let again = block();
    assert_eq!(place(&again), at);
    assert!(read(&again).iter().all(|&b| b == 0));
}

#[test]
fn a_block_waits_for_every_child_that_can_reach_it() {
    let _turn = common::turn();
    let held: Vec<_> = (0..100).map(|_| block()).collect();
    let at: HashSet<_> = held.iter().map(place).collect();
    held[0].mapping().write(held[0].payload(), b"mine").unwrap();
    let words = words();
    let mut child = Child::fork(|| {
        until("the parent tries", || words.get(0) == 1);
        assert_eq!(&read(&held[0])[..4], b"mine");
        words.set(1, 1);
    });
    assert!(!comes_back(held), "used again under a living child");
    words.set(0, 1);
    assert_eq!(child.wait(), OK, "its block was used again");
    assert!(are_used_again(&at), "not used again although nobody can reach it");
}

#[test]
fn descriptors_do_not_scale_with_living_children() {
    let _turn = common::turn();
    arena::sweep();
    let before = common::open_fds();
    let (mut early, mut children) = (Vec::new(), Vec::new());
    for _ in 0..300 {
        early.push(block());
        children.push(Child::fork(sleep));
    }
    let more = common::open_fds() - before;
    assert!(more < 40, "{more} more for 300 children");
    let late = (early.split_off(150), children.split_off(150));
    drop(late);
    assert!(!comes_back(early), "used again under 150 children");
    drop(children);
    arena::sweep();
    assert!(common::open_fds() <= before + 2, "{} more", common::open_fds() - before);
}

#[test]
fn children_that_live_on_keep_little_from_those_that_share_a_token() {
    let _turn = common::turn();
    // So many that later forks share tokens.
    let workers: Vec<_> = (0..40)
        .map(|_| {
            std::mem::forget(block());
            Child::fork(sleep)
        })
        .collect();
    let before = arena_bytes();
    for _ in 0..1000 {
        let held: Vec<_> = (0..10).map(|_| block()).collect();
        assert_eq!(Child::fork(|| ()).wait(), OK);
        drop(held);
    }
    assert!(arena_bytes() <= before + (1 << 20), "{before} bytes, then {}", arena_bytes());
    drop(workers);
}

fn sleep() {
    std::thread::sleep(Duration::from_secs(60));
}

#[test]
fn a_grandchild_whose_parent_died_can_still_reach_it() {
    let _turn = common::turn();
    let held: Vec<_> = (0..100).map(|_| block()).collect();
    let at: HashSet<_> = held.iter().map(place).collect();
    held[7].mapping().write(held[7].payload(), b"mine").unwrap();
    let words = words();
    let mut child = Child::fork(|| {
        let grandchild = Child::fork(|| {
            // SAFETY: it is to outlive its parent.
            unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, 0) };
            words.set(1, 1);
            until("the parent tries", || words.get(0) == 1);
            words.set(2, if &read(&held[7])[..4] == b"mine" { 1 } else { 2 });
        });
        until("the grandchild is there", || words.get(1) == 1);
        std::mem::forget(grandchild);
        // Killed, so that nothing of its own hand can tell the arena anything.
        fastmp_core::fault::arm("gone", 1, fastmp_core::fault::Action::Kill);
        fastmp_core::fault::reached("gone");
    });
    assert_eq!(child.wait(), KILLED);
    assert!(!comes_back(held), "used again under a living grandchild");
    words.set(0, 1);
    until("the grandchild looks", || words.get(2) != 0);
    assert_eq!(words.get(2), 1, "its block was used again");
    until("it comes back", || are_used_again(&at));
}

#[test]
fn a_child_that_execs_can_reach_nothing() {
    let _turn = common::turn();
    let held: Vec<_> = (0..100).map(|_| block()).collect();
    let child = Child::fork(|| {
        let args = [c"sleep".as_ptr(), c"60".as_ptr(), std::ptr::null()];
        // SAFETY: a null-terminated array of C strings.
        unsafe { libc::execvp(c"sleep".as_ptr(), args.as_ptr()) };
    });
    let comm = format!("/proc/{}/comm", child.pid());
    until("it execs", || std::fs::read_to_string(&comm).is_ok_and(|c| c.trim() == "sleep"));
    assert!(comes_back(held));
}

#[test]
fn a_child_hands_out_blocks_of_its_own() {
    let _turn = common::turn();
    let mine = block();
    let mut child = Child::fork(|| {
        let first = block();
        assert_ne!(segment(&first), segment(&mine));
        // Dropping what was inherited gives nothing away: what is new is still in a segment of its
        // own.
        let parents = segment(&mine);
        drop(mine);
        assert!((0..300).map(|_| block()).all(|b| segment(&b) != parents));
        assert!(comes_back(vec![first]));
    });
    assert_eq!(child.wait(), OK);
}

#[test]
fn a_segment_is_mapped_once_however_often_it_is_attached() {
    let _turn = common::turn();
    let (one, two) = (block(), block());
    let mut child = Child::fork(|| {
        let attach = |b: &Block| {
            let handle = b.export(None).unwrap();
            let copy = |fd: BorrowedFd<'_>| fd.try_clone_to_owned().unwrap();
            Block::attach(copy(handle.segment()), Some(copy(handle.token())), handle.offset(), Kind::Memory).unwrap()
        };
        let before = common::open_fds();
        let attached: Vec<_> = (0..100).flat_map(|_| [attach(&one), attach(&two)]).collect();
        // The segment's and the token's.
        assert!(common::open_fds() <= before + 2);
        let ways: HashSet<_> = attached.iter().map(|b| place(b).0).collect();
        assert_eq!(ways.len(), 1);
        attached[0].mapping().write(attached[0].payload(), b"hello").unwrap();
        assert_eq!(&read(&one)[..5], b"hello");
    });
    assert_eq!(child.wait(), OK);
    assert_eq!(&read(&one)[..5], b"hello");
}

#[test]
fn ten_thousand_blocks_take_few_descriptors() {
    let _turn = common::turn();
    let before = common::open_fds();
    let blocks: Vec<_> = (0..10_000).map(|_| Block::alloc(Kind::Lock, 24).unwrap()).collect();
    assert!(common::open_fds() < before + 20, "{} more", common::open_fds() - before);
    let places: HashSet<_> = blocks.iter().map(place).collect();
    assert_eq!(places.len(), 10_000);
}

#[test]
fn create_share_kill_drop_stays_flat() {
    let _turn = common::turn();
    let words = words();
    let cycle = |n: u64| {
        let held: Vec<_> = (0..20).map(|_| block()).collect();
        let mut child = Child::fork(|| {
            words.set(0, held.len() as u64);
            if n.is_multiple_of(3) {
                std::thread::sleep(Duration::from_secs(60));
            }
        });
        if n.is_multiple_of(3) {
            child.kill();
        }
        drop(held);
        child.wait();
    };
    (0..200).for_each(cycle);
    let (fds, bytes) = (common::open_fds(), arena_bytes());
    (0..1500).for_each(cycle);
    // Tokens of children that have ended are looked through now and then.
    assert!(common::open_fds() <= fds + 20, "{fds} descriptors, then {}", common::open_fds());
    assert!(arena_bytes() <= bytes + (64 << 10), "{bytes} bytes, then {}", arena_bytes());
}

#[test]
fn forks_while_other_threads_allocate() {
    let _turn = common::turn();
    let stop = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|s| {
        for _ in 0..2 {
            s.spawn(|| {
                while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                    let held: Vec<_> = (0..10).map(|_| block()).collect();
                    assert!(held.iter().all(|b| read(b).iter().all(|&b| b == 0)));
                }
            });
        }
        for _ in 0..100 {
            let mut child = Child::fork(|| {
                let held: Vec<_> = (0..10).map(|_| block()).collect();
                assert!(held.iter().all(|b| read(b).iter().all(|&b| b == 0)));
            });
            assert_eq!(child.wait(), OK);
        }
        stop.store(true, std::sync::atomic::Ordering::Relaxed);
    });
}

#[test]
fn nobody_waits_for_the_segment_that_another_needs() {
    let _turn = common::turn();
    let mut child = Child::fork(|| {
        let small: Vec<_> = (0..10).map(|_| Block::alloc(Kind::Memory, 40).unwrap()).collect();
        fault::arm("arena.segment_made", 1, Action::Hold);
        std::thread::scope(|threads| {
            // Of the largest sort: after a few of them there is no room.
            threads.spawn(|| (0..20).map(|_| Block::alloc(Kind::Memory, 30_000).unwrap()).collect::<Vec<_>>());
            until("a segment is made", fault::is_holding);
            // The one block or the other comes back, or is new.
            drop(small);
            (0..10).for_each(|_| drop(Block::alloc(Kind::Memory, 40).unwrap()));
            // So does one that takes a segment as well, and both are used.
            let others: Vec<_> = (0..5).map(|_| Block::alloc(Kind::Memory, 30_000).unwrap()).collect();
            assert!(fault::is_holding());
            fault::let_go();
            drop(others);
        });
    });
    assert_eq!(child.wait(), OK);
    // Who dies with it in its hands leaves nothing behind: others did not know of it.
    let mut doomed = Child::doomed("arena.segment_made", 1, || {
        drop((0..20).map(|_| Block::alloc(Kind::Memory, 30_000).unwrap()).collect::<Vec<_>>())
    });
    assert_eq!(doomed.wait(), KILLED);
}

#[test]
fn a_large_block_goes_with_its_last_holder() {
    let _turn = common::turn();
    let before = arena_bytes();
    let large = Block::alloc(Kind::Memory, 8 << 20).unwrap();
    assert!(arena_bytes() >= before + (8 << 20));
    drop(large);
    assert_eq!(arena_bytes(), before);
    let segment = Segment::create("fastmp-test", Kind::Memory, 1 << 20).unwrap();
    assert!(segment.mapping().range(1 << 20, 1).is_err());
    assert!(segment.mapping().range(usize::MAX, 2).is_err());
}
