//! Blocks, and whether a place is used again.

use std::collections::HashSet;

use fastmp_core::arena::{self, Block};
use fastmp_core::layout::{Backing, Kind};

pub fn block() -> Block {
    Block::alloc(Kind::Memory, 200).unwrap()
}

/// Where a block is, whoever asks.
pub fn place(block: &Block) -> (usize, usize) {
    (std::ptr::from_ref(&**block.mapping()) as usize, block.payload())
}

pub fn read(block: &Block) -> Vec<u8> {
    let mut bytes = Vec::new();
    block.mapping().append_to(block.payload(), block.bytes(), &mut bytes).unwrap();
    bytes
}

/// Is any of these places used again, if there is any way that it can be? What was freed last is
/// used first.
pub fn are_used_again(places: &HashSet<(usize, usize)>) -> bool {
    arena::sweep();
    let new: Vec<_> = (0..3000).map(|_| block()).collect();
    new.iter().any(|b| places.contains(&place(b)))
}

/// Give `held` back; is it used again?
pub fn comes_back(held: Vec<Block>) -> bool {
    let places = held.iter().map(place).collect();
    drop(held);
    are_used_again(&places)
}

/// Bytes of shared memory that this process's segments take.
pub fn arena_bytes() -> u64 {
    let mut seen = HashSet::new();
    let fds = std::fs::read_dir("/proc/self/fd").unwrap().flatten();
    fds.filter_map(|fd| {
        let link = std::fs::read_link(fd.path()).ok()?;
        link.to_string_lossy().contains("fastmp-").then_some(())?;
        let meta = std::fs::metadata(fd.path()).ok()?;
        use std::os::linux::fs::MetadataExt;
        seen.insert(meta.st_ino()).then(|| meta.st_blocks() * 512)
    })
    .sum()
}
