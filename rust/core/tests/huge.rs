//! Large messages: on huge pages, and where there are none.
#![cfg(not(loom))]
// Limits and filters of a process's own; a failure is to panic.
#![allow(unsafe_code, clippy::unwrap_used)]

mod common;

use std::time::{Duration, Instant};

use common::channel::{Channel, IDLE, LARGE, SMALL, got, put, soon};
use common::{Child, KILLED, OK};
use fastmp_core::channel::pipe;
use fastmp_core::channel::queue::Queue;
use fastmp_core::channel::ring::{MessageMeta, Payload};
use fastmp_core::channel::transport::Outgoing;
use fastmp_core::sys::mapping::{HUGE, Mapping};
use fastmp_core::sys::memfd;

const MIB: usize = 1 << 20;
/// Around what asks for huge pages, and around the bytes that go past the caches.
const SIZES: [usize; 8] =
    [2 * MIB + 5, 4 * MIB - 1, 4 * MIB, 6 * MIB + 12_345, 16 * MIB + 1, 20 * MIB, 32 * MIB, 33 * MIB + 77];

/// Bytes that are elsewhere in no other place.
fn pattern(len: usize, seed: usize) -> Vec<u8> {
    (0..len).map(|at| (at ^ (at >> 8) ^ ((at >> 16) * 31) ^ seed) as u8).collect()
}

/// In pieces, as a pickle with its buffers is: a little first, a gap, the rest.
fn send_in_pieces(channel: &impl Channel, bytes: &[u8]) {
    let hold = channel.room(bytes.len() as u64).unwrap();
    hold.write(0, &bytes[..150]).unwrap();
    hold.write(192, &bytes[192..]).unwrap();
    let mut payload = Some(Payload::Extent(hold, bytes.len() as u64));
    let meta = MessageMeta { format: 7, fds: 0 };
    channel.put_outgoing(&mut Outgoing { meta, payload: &mut payload, fds: &[] }, soon()).unwrap();
}

fn arrives_whole(channel: &impl Channel, bytes: &[u8], over: bool) {
    let received = channel.get_letter(&mut Vec::new(), &mut Vec::new(), soon()).unwrap();
    let (extent, len) = *received.extent.unwrap();
    let mut there = vec![0; len];
    if over {
        extent.read_over(0, &mut there).unwrap()
    } else {
        extent.read(0, &mut there).unwrap()
    }
    // Not by `assert_eq!`, which would print them.
    assert!(there[..150] == bytes[..150] && there[192..] == bytes[192..], "{} bytes", bytes.len());
}

/// New extents and used ones, longer and shorter.
fn all_sizes_arrive_whole() {
    let queue = Queue::create(0).unwrap();
    for round in 0..4 {
        for len in SIZES {
            let bytes = pattern(len, round);
            send_in_pieces(&queue, &bytes);
            arrives_whole(&queue, &bytes, round % 2 == 0);
        }
    }
}

#[test]
fn large_messages_arrive_whole() {
    let _turn = common::turn();
    all_sizes_arrive_whole();
}

/// Linux before 5.14, and what stands in for it.
#[test]
fn large_messages_arrive_whole_where_the_kernel_gives_no_advice() {
    let _turn = common::turn();
    let mut child = Child::fork(|| {
        common::deny(libc::SYS_madvise);
        all_sizes_arrive_whole();
    });
    assert_eq!(child.wait(), OK);
}

/// Bytes of this process's mappings of shared memory that are in huge pages.
fn huge_bytes() -> u64 {
    let maps = std::fs::read_to_string("/proc/self/smaps").unwrap();
    let lines = maps.lines().filter_map(|line| line.strip_prefix("ShmemPmdMapped:"));
    lines.map(|line| line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() * 1024).sum()
}

/// Does this machine give so many bytes of them, and at once?
fn has_huge_pages(bytes: u64) -> bool {
    let fd = memfd::create("test", 0).unwrap();
    memfd::extend(&fd, bytes).unwrap();
    (0..bytes).step_by(HUGE as usize).for_each(|at| memfd::write(&fd, at, &[0]).unwrap());
    let mapping = Mapping::aligned(&fd, 0, bytes as usize).unwrap();
    let began = Instant::now();
    mapping.collapse(0, bytes as usize) && began.elapsed() < Duration::from_millis(5)
}

#[test]
fn a_large_message_is_on_huge_pages_on_both_sides() {
    let _turn = common::turn();
    let bytes = pattern(20 * MIB + 5, 1);
    // Whoever else uses memory in between may spoil it once.
    let on_huge_pages = |_| {
        std::thread::sleep(Duration::from_millis(1100));
        if !has_huge_pages(20 << 20) {
            return true;
        }
        let queue = Queue::create(0).unwrap();
        let before = huge_bytes();
        send_in_pieces(&queue, &bytes);
        let sent = huge_bytes();
        let received = queue.get_letter(&mut Vec::new(), &mut Vec::new(), soon()).unwrap();
        let (extent, len) = *received.extent.unwrap();
        let loan = extent.lend(len).unwrap();
        let mut there = vec![0; len];
        loan.read(0, &mut there).unwrap();
        assert!(there[192..] == bytes[192..]);
        sent >= before + (20 << 20) && huge_bytes() >= sent + (20 << 20)
    };
    assert!((0..5).any(on_huge_pages));
}

#[test]
fn who_dies_with_huge_pages_in_its_hands_leaves_none() {
    let _turn = common::turn();
    let queue = Queue::create(0).unwrap();
    // So that this process knows the file.
    put(&queue, 1, 0, 70_000);
    assert_eq!(got(&queue), (1, 0));
    let mut doomed = Child::doomed("extent.filled", 1, || send_in_pieces(&queue, &pattern(20 * MIB, 0)));
    assert_eq!(doomed.wait(), KILLED);
    // The first is that of the piece in front.
    let mut doomed = Child::doomed("extent.filled", 2, || send_in_pieces(&queue, &pattern(20 * MIB, 0)));
    assert_eq!(doomed.wait(), KILLED);
    let left = queue.resident();
    assert!(left >= 20 * MIB as u64, "{left} bytes");
    common::until("it is given back", || {
        std::thread::sleep(Duration::from_millis(110));
        put(&queue, 1, 0, LARGE);
        assert_eq!(got(&queue), (1, 0));
        queue.resident() < IDLE
    });
    put(&queue, 2, 0, SMALL);
    assert_eq!(got(&queue), (2, 0));
}

#[test]
fn between_the_ends_of_a_pipe_too() {
    let _turn = common::turn();
    let (reader, writer) = pipe::create(false).unwrap();
    let bytes = pattern(33 * MIB + 77, 5);
    let mut sender = Child::fork(|| (0..8).for_each(|_| send_in_pieces(&writer, &bytes)));
    (0..8).for_each(|number| arrives_whole(&reader, &bytes, number % 2 == 0));
    assert_eq!(sender.wait(), OK);
}

#[test]
fn what_is_lent_on_huge_pages_is_a_forked_childs_own() {
    let _turn = common::turn();
    let queue = Queue::create(0).unwrap();
    let bytes = pattern(20 * MIB + 5, 3);
    send_in_pieces(&queue, &bytes);
    let received = queue.get_letter(&mut Vec::new(), &mut Vec::new(), soon()).unwrap();
    let (extent, len) = *received.extent.unwrap();
    let loan = extent.lend(len).unwrap();
    let is_whole = || {
        let mut there = vec![0; len];
        loan.read(0, &mut there).unwrap();
        there[192..] == bytes[192..]
    };
    let mut child = Child::fork(|| {
        assert!(is_whole());
        // SAFETY: its memory, which nobody else looks at.
        unsafe { std::ptr::write_bytes(loan.range(0, len).unwrap().as_ptr(), 255, len) };
    });
    assert_eq!(child.wait(), OK);
    // Nor does the next message, in pages that have come back.
    send_in_pieces(&queue, &pattern(20 * MIB + 5, 4));
    assert!(is_whole());
}
