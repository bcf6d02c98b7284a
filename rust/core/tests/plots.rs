//! Plots: handed out, given back, and not used again while anybody can reach them; what they keep
//! and what they give back to the system.
#![cfg(not(loom))]
// Forks, and looks at raw words; a failure is to panic.
#![allow(unsafe_code, clippy::unwrap_used)]

mod common;

use std::collections::HashSet;
use std::time::{Duration, Instant};

use common::channel::{Channel, SMALL, got, put};
use common::{Child, KILLED, OK, open_fds, until, words};

use fastmp_core::Error;
use fastmp_core::arena::{self, Block, Given, Shape};
use fastmp_core::channel::pipe;
use fastmp_core::channel::queue::Queue;
use fastmp_core::fault::{self, Action};
use fastmp_core::layout::{Backing, Kind};
use fastmp_core::sys::fork::{AtFork, Registration};
use fastmp_core::sys::memfd;

static SHAPE: Shape = Shape { number: 2, bytes: 1 << 20, words: 8192, pages: [(0, 16384), (16384, 0)] };

/// Registered before the arena is.
fn turn() -> std::sync::MutexGuard<'static, ()> {
    static REGISTRATION: Registration = Registration::new();
    REGISTRATION.ensure::<Waiting>();
    common::turn()
}

fn plot() -> Block {
    Block::alloc_plot(Kind::Memory, &SHAPE).unwrap()
}

fn place(plot: &Block) -> (usize, usize) {
    (std::ptr::from_ref(&**plot.mapping()) as usize, plot.offset())
}

/// Is one of these used again, if there is any way that it can be?
fn are_used_again(places: &HashSet<(usize, usize)>) -> bool {
    arena::sweep();
    let new: Vec<_> = (0..1000).map(|_| plot()).collect();
    new.iter().any(|plot| places.contains(&place(plot)))
}

fn resident(plot: &Block) -> u64 {
    memfd::resident(&**plot.segment_of()).unwrap()
}

#[test]
fn a_plot_is_used_again_with_its_pages_and_its_words_zeroed() {
    let _turn = turn();
    let first = plot();
    assert_eq!(first.offset() % 4096, 0);
    assert_eq!(first.header().unwrap().check(Kind::Memory), Ok((1 << 20) - 32));
    let (at, before) = (place(&first), resident(&first));
    first.mapping().write(first.payload(), &[7; 16_000]).unwrap();
    drop(first);
    let again = plot();
    assert_eq!((place(&again), resident(&again)), (at, before));
    let mut bytes = Vec::new();
    again.mapping().append_to(again.payload(), 16_000, &mut bytes).unwrap();
    assert!(bytes[..8192 - 32].iter().all(|&byte| byte == 0), "words are zero");
    assert!(bytes[8192 - 32..].iter().all(|&byte| byte == 7), "nothing else is touched");
}

/// Flags of this process's mappings whose file's name has that in it, by `/proc/self/smaps`.
fn flags_of(name: &str) -> Vec<String> {
    let (mut is_it, mut found) = (false, Vec::new());
    for line in std::fs::read_to_string("/proc/self/smaps").unwrap().lines() {
        match line.split_once(' ') {
            Some(("VmFlags:", flags)) if is_it => found.push(format!(" {flags} ")),
            // A range of addresses, and what is there.
            Some((range, what)) if range.contains('-') => is_it = what.contains(name),
            _ => (),
        }
    }
    found
}

#[test]
fn what_is_mostly_holes_is_neither_dumped_nor_locked() {
    let _turn = turn();
    let mut child = Child::fork(|| {
        // SAFETY: a plain system call. Where it is not allowed nothing is locked.
        let locked = unsafe { libc::mlockall(libc::MCL_FUTURE) } == 0;
        let pipes: Vec<_> = (0..20).map(|_| pipe::create(true).unwrap()).collect();
        let queue = Queue::create(0).unwrap();
        for number in 0..40 {
            put(&queue, 1, number, 60_000);
            if number % 2 == 1 {
                (number - 1..=number).for_each(|number| assert_eq!(got(&queue), (1, number)));
            }
        }
        // More than its base holds, and in a window.
        (0..60).for_each(|number| put(&queue, 1, number, 60_000));
        (0..60).for_each(|number| assert_eq!(got(&queue), (1, number)));
        let bytes: HashSet<_> = pipes.iter().map(|(a, _)| a.front().segment().id()).collect();
        let last = pipes.last().unwrap().0.front().segment();
        assert!(!locked || memfd::resident(&**last).unwrap() < 16 << 20, "{} segments, filled", bytes.len());
        for name in ["fastmp-plots", "fastmp-queue"] {
            let flags = flags_of(name);
            // Of a file's header alone there is nothing to leave out.
            let left = flags.iter().filter(|flags| flags.contains(" dd ")).count();
            assert!(left > usize::from(name == "fastmp-plots"), "{name}: {flags:?}");
            assert!(flags.iter().all(|flags| !(flags.contains(" dd ") && flags.contains(" lo "))), "{flags:?}");
        }
    });
    assert_eq!(child.wait(), OK);
    // Who has been given one maps it so as well.
    let queue = Queue::create(0).unwrap();
    let handle = queue.export(None).unwrap();
    let segment = handle.segment().try_clone_to_owned().unwrap();
    let before = flags_of("fastmp-plots").len();
    let twin = arena::Segment::attach(segment, Kind::Arena, 0).unwrap();
    let flags = flags_of("fastmp-plots");
    assert!(flags.len() > before && flags.iter().all(|flags| flags.contains(" dd ")), "{flags:?}");
    drop(twin);
}

#[test]
fn where_pages_are_refused_none_are_made() {
    let _turn = turn();
    let mut child = Child::fork(|| {
        let first = plot();
        let before = resident(&first);
        // As on a system that has no memory left: to look at a plot then would be a SIGBUS.
        common::deny_with(libc::SYS_fallocate, libc::ENOSPC);
        for _ in 0..3 {
            assert_eq!(Block::alloc_plot(Kind::Memory, &SHAPE).unwrap_err(), Error::OutOfMemory);
        }
        assert_eq!(resident(&first), before);
    });
    assert_eq!(child.wait(), OK);
}

#[test]
fn a_limit_on_the_size_of_files_is_none_for_channels_that_are_there() {
    let _turn = turn();
    let mut child = Child::fork(|| {
        let (queue, (a, b)) = (Queue::create(0).unwrap(), pipe::create(true).unwrap());
        let none = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
        // SAFETY: a plain system call.
        assert_eq!(unsafe { libc::setrlimit(libc::RLIMIT_FSIZE, &none) }, 0);
        // As a program that does not ignore it.
        // SAFETY: as above.
        unsafe { libc::signal(libc::SIGXFSZ, libc::SIG_DFL) };
        for number in 0..10 {
            put(&queue, 1, number, 60_000);
        }
        (0..10).for_each(|number| assert_eq!(got(&queue), (1, number)));
        for number in 0..10 {
            put(&a, 1, number, 6_000);
        }
        (0..10).for_each(|number| assert_eq!(got(&b), (1, number)));
        // What needs a longer file is refused.
        assert_eq!(queue.extent(100_000).map(drop), Err(Error::OutOfMemory));
        assert_eq!(a.extent(100_000).and_then(|hold| hold.write(0, b"x")), Err(Error::OutOfMemory));
        put(&queue, 1, 10, SMALL);
        assert_eq!(got(&queue), (1, 10));
    });
    assert_eq!(child.wait(), OK);
}

#[test]
fn what_a_plot_has_grown_by_is_given_back() {
    let _turn = turn();
    let queue = Queue::create(0).unwrap();
    let segment = queue.front().segment().clone();
    let before = memfd::resident(&*segment).unwrap();
    (0..200).for_each(|number| put(&queue, 1, number, 4000));
    assert!(memfd::resident(&*segment).unwrap() >= before + (900 << 10));
    drop(queue);
    assert!(memfd::resident(&*segment).unwrap() <= before);
    // Many at a time: most give all of it back.
    let many: Vec<_> = (0..300).map(|_| Queue::create(0).unwrap()).collect();
    drop(many);
    let segments: HashSet<_> = std::fs::read_dir("/proc/self/fd").unwrap().flatten().map(|fd| fd.path()).collect();
    let bytes = |path: &std::path::PathBuf| {
        use std::os::linux::fs::MetadataExt;
        let is_ours = std::fs::read_link(path).is_ok_and(|link| link.to_string_lossy().contains("fastmp-plots"));
        if is_ours { std::fs::metadata(path).map_or(0, |meta| meta.st_blocks() * 512) } else { 0 }
    };
    let kept: u64 = segments.iter().map(bytes).sum();
    assert!(kept < 8 << 20, "{kept} bytes kept by free plots, of each shape 64");
    drop((0..300).map(|_| Queue::create(0).unwrap()).collect::<Vec<_>>());
}

#[test]
fn descriptors_are_two_a_channel() {
    let _turn = turn();
    let before = open_fds();
    let pipes: Vec<_> = (0..200).map(|_| pipe::create(true).unwrap()).collect();
    let queues: Vec<_> = (0..200).map(|_| Queue::create(0).unwrap()).collect();
    let each: HashSet<_> = queues.iter().map(|queue| (queue.front().segment().id(), queue.front().offset())).collect();
    assert_eq!(each.len(), 200);
    let now = open_fds();
    assert!(now <= before + 800 + 12, "{} descriptors for 400 channels", now - before);
    for (number, (a, b)) in pipes.iter().enumerate() {
        put(a, 1, number, SMALL);
        assert_eq!(got(b), (1, number));
    }
    for (number, queue) in queues.iter().enumerate() {
        put(queue, 1, number, SMALL);
    }
    queues.iter().enumerate().for_each(|(number, queue)| assert_eq!(got(queue), (1, number)));
    drop((pipes, queues));
    // The segments stay, for the next: as many as above, if this is the process's first test.
    assert!(open_fds() <= before + 12);
}

#[test]
fn nobody_gets_a_plot_that_a_child_or_a_handle_can_reach() {
    let _turn = turn();
    let (mine, words) = (plot(), words());
    mine.mapping().write(mine.offset() + 8192, b"mine").unwrap();
    let there = &words;
    let mut child = Child::fork(|| {
        let still = || {
            let mut bytes = [0; 4];
            mine.mapping().read(mine.offset() + 8192, &mut bytes).unwrap();
            bytes == *b"mine" && mine.header().unwrap().check(Kind::Memory).is_ok()
        };
        assert!(still());
        there.set(0, 1);
        until("it was tried", || there.get(1) == 1);
        assert!(still());
    });
    until("the child looks", || words.get(0) == 1);
    let places = HashSet::from([place(&mine)]);
    // The child has its copy; this process's goes.
    let at = (mine.segment_of().clone(), mine.offset());
    drop(mine);
    assert!(!are_used_again(&places));
    assert!(at.0.mapping().range(at.1, 4).is_ok());
    words.set(1, 1);
    assert_eq!(child.wait(), OK);
    until("it is used again", || are_used_again(&places));
    // A handle, and what is attached by it.
    let mine = plot();
    let handle = mine.export(None).unwrap();
    let places = HashSet::from([place(&mine)]);
    drop(mine);
    assert!(!are_used_again(&places));
    let twin = Given::copy_of(&handle).unwrap().block(Kind::Memory).unwrap();
    drop(handle);
    assert!(!are_used_again(&places));
    drop(twin);
    until("it is used again", || are_used_again(&places));
}

#[test]
fn children_that_die_in_a_loop_leave_memory_flat() {
    let _turn = turn();
    let mut least = [(u64::MAX, usize::MAX); 3];
    for round in 0..120 {
        let queue = Queue::create(0).unwrap();
        let mut child = Child::fork(|| {
            (0..100).for_each(|number| put(&queue, 1, number, 4000));
            fault::arm("here", 1, Action::Kill);
            fault::reached("here");
        });
        assert_eq!(child.wait(), KILLED);
        (0..100).for_each(|number| assert_eq!(got(&queue), (1, number)));
        drop(queue);
        let (bytes, fds) = &mut least[round / 40];
        (*bytes, *fds) = ((*bytes).min(common::blocks::arena_bytes()), (*fds).min(open_fds()));
    }
    assert!(least[2].0 <= least[1].0 + (1 << 20) && least[2].1 <= least[1].1 + 4, "{least:?}");
}

#[test]
fn who_dies_while_it_makes_one_leaves_the_others_theirs() {
    let _turn = turn();
    for point in ["arena.segment_made", "plot.reserved", "plot.zeroed"] {
        let queue = Queue::create(0).unwrap();
        let mut doomed = Child::doomed(point, 1, || {
            let mine: Vec<_> = (0..20).map(|_| Queue::create(0).unwrap()).collect();
            mine.iter().for_each(|queue| put(queue, 1, 0, SMALL));
        });
        assert_eq!(doomed.wait(), KILLED, "{point}");
        put(&queue, 1, 0, SMALL);
        assert_eq!(got(&queue), (1, 0));
    }
}

/// While one thread forks, before the fork, another makes and drops channels; it is waited for.
mod waited_for {
    use std::sync::Mutex;
    use std::sync::mpsc::{Receiver, Sender};

    pub static ASK: Mutex<Option<(Sender<()>, Receiver<()>)>> = Mutex::new(None);
}

struct Waiting;

impl AtFork for Waiting {
    // Registered before the arena's, and so called after it.
    fn before() {
        if let Some((ask, answer)) = &*waited_for::ASK.lock().unwrap() {
            ask.send(()).unwrap();
            answer.recv_timeout(Duration::from_secs(10)).unwrap();
        }
    }
}

#[test]
fn channels_are_made_and_dropped_while_a_fork_waits_for_that() {
    let _turn = turn();
    let mut child = Child::fork(|| {
        let kept: Vec<_> = (0..10).map(|_| Queue::create(0).unwrap()).collect();
        let (ask, asked) = std::sync::mpsc::channel();
        let (answer, answered) = std::sync::mpsc::channel();
        *waited_for::ASK.lock().unwrap() = Some((ask, answered));
        let other = std::thread::spawn(move || {
            asked.recv().unwrap();
            let start = Instant::now();
            drop(kept);
            let new = Queue::create(0).unwrap();
            drop(pipe::create(true).unwrap());
            assert!(start.elapsed() < Duration::from_secs(5));
            answer.send(()).unwrap();
            new
        });
        let _ = &other;
        let mut grandchild = Child::fork(|| {
            let queue = Queue::create(0).unwrap();
            put(&queue, 1, 0, SMALL);
            assert_eq!(got(&queue), (1, 0));
        });
        let queue = other.join().unwrap();
        put(&queue, 1, 0, SMALL);
        assert_eq!(got(&queue), (1, 0));
        *waited_for::ASK.lock().unwrap() = None;
        assert_eq!(grandchild.wait(), OK);
        // What was dropped meanwhile is not lost.
        arena::sweep();
        let before = open_fds();
        let again: Vec<_> = (0..10).map(|_| Queue::create(0).unwrap()).collect();
        assert!(open_fds() <= before + 21);
        drop(again);
    });
    assert_eq!(child.wait(), OK);
}

#[test]
fn a_program_that_closes_all_descriptors_makes_new_channels_that_grow_and_travel() {
    let _turn = turn();
    let mut child = Child::fork(|| {
        drop((0..3).map(|_| (Queue::create(0).unwrap(), pipe::create(true).unwrap())).collect::<Vec<_>>());
        // SAFETY: nothing else of this process needs them.
        unsafe { libc::syscall(libc::SYS_close_range, 3, u32::MAX, 0) };
        let queue = Queue::create(0).unwrap();
        let (a, b) = pipe::create(true).unwrap();
        for number in 0..100 {
            put(&queue, 1, number, 4000);
        }
        let twin = queue.again().unwrap();
        (0..100).for_each(|number| assert_eq!(got(&twin), (1, number)));
        (0..10).for_each(|number| put(&a, 1, number, 4000));
        let other = b.again().unwrap();
        (0..10).for_each(|number| assert_eq!(got(&other), (1, number)));
    });
    assert_eq!(child.wait(), OK);
}

#[test]
fn a_channel_that_has_travelled_is_the_same() {
    let _turn = turn();
    let queue = Queue::create(0).unwrap();
    let twin = queue.again().unwrap();
    put(&queue, 1, 0, SMALL);
    assert_eq!(got(&twin), (1, 0));
    let (a, b) = pipe::create(true).unwrap();
    let other = b.again().unwrap();
    drop(b);
    put(&a, 1, 1, SMALL);
    assert_eq!(got(&other), (1, 1));
}
