//! The shared structs' layout is a promise to other processes, and nothing that a peer may write is
//! believed unchecked.
#![cfg(not(loom))]
// Lays shared structs over bytes; a failure is to panic.
#![allow(unsafe_code, clippy::unwrap_used)]

mod common;

use std::time::SystemTime;

use fastmp_core::Error;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use fastmp_core::arena::{Block, Given, Handle, Incoming, Segment};
use fastmp_core::channel::extents::ExtentState;
use fastmp_core::channel::pipe;
use fastmp_core::channel::queue::Queue;
use fastmp_core::channel::ring::RingState;
use fastmp_core::layout::{Header, Kind, Object, VERSION, view};
use fastmp_core::sync::event::EventState;
use fastmp_core::sync::lock::LockState;
use fastmp_core::sync::mutex::Mutex;
use fastmp_core::sync::semaphore::Semaphore;
use fastmp_core::sync::turns::FairWaitSet;
use fastmp_core::sync::waitset::WaitSet;
use fastmp_core::sys::liveness::me;
use fastmp_core::sys::mapping::Mapping;
use fastmp_core::sys::{memfd, socket};

#[test]
fn sizes_and_alignments_are_promises() {
    // Changing one means changing VERSION.
    fn is<T>(size: usize, align: usize) {
        assert_eq!((size_of::<T>(), align_of::<T>()), (size, align), "{}", std::any::type_name::<T>());
    }
    assert_eq!(VERSION, 1);
    is::<Header>(32, 8);
    is::<Mutex>(16, 8);
    is::<LockState>(24, 8);
    is::<Semaphore>(8, 4);
    is::<EventState>(4, 4);
    is::<WaitSet>(4, 4);
    is::<FairWaitSet>(8, 4);
    is::<RingState>(256, 64);
    is::<ExtentState>(64 + 60 * 64, 64);
}

#[test]
fn all_zero_is_the_state_of_rest() {
    let _turn = common::turn();
    let lock: Object<LockState, Block> = common::shared(Kind::Lock);
    assert_eq!((lock.owner(), lock.depth(), lock.recoveries()), (None, 0, 0));
    let event: Object<EventState, Block> = common::shared(Kind::Event);
    assert!(!event.is_set());
    let semaphore: Object<Semaphore, Block> = common::shared(Kind::Semaphore);
    assert_eq!((semaphore.permits(), semaphore.most()), (0, 0));
    let ring: Object<RingState, Block> = {
        // 64-byte alignment: payloads start 32 bytes into a block.
        let block = Block::alloc(Kind::Memory, 256).unwrap();
        let at = block.payload().next_multiple_of(64);
        Object::new(block, at).unwrap()
    };
    assert!(!ring.not_empty.is_waited_on() && !ring.not_full.is_waited_on());
}

#[test]
fn a_header_tells_what_where_by_whom_and_when() {
    let _turn = common::turn();
    let block = Block::alloc(Kind::Event, 100).unwrap();
    let handle = block.export(None).unwrap();
    let (fd, offset) = (handle.segment(), handle.offset());
    let bytes = memfd::size(fd).unwrap() as usize;
    let looker = Mapping::read_only(fd, 0, bytes).unwrap();
    let header: &Header = view(&looker, offset).unwrap();
    assert_eq!(header.check(Kind::Event), Ok(100));
    assert_eq!(header.creator(), Some(me()));
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_nanos() as u64;
    assert!(now.abs_diff(header.created()) < 60_000_000_000);
    assert_eq!(view::<Header>(&looker, 0).unwrap().check(Kind::Arena), Ok((bytes - Header::BYTES) as u64));
}

fn refused<T: std::fmt::Debug>(result: fastmp_core::Result<T>, why: &str) {
    assert!(matches!(result, Err(Error::Corrupted(_))), "{why}: {result:?}");
}

#[test]
fn a_header_with_any_wrong_bit_is_refused() {
    let _turn = common::turn();
    let segment = Segment::create("test", Kind::Lock, 4096).unwrap();
    let mapping = segment.mapping();
    let mut good = [0u8; 32];
    mapping.read(0, &mut good).unwrap();
    let header: &Header = view(mapping, 0).unwrap();
    // Magic, kind and version: bits that must all be right, but for those that say that a handle
    // was given away, and that it has grown.
    const GROWN: usize = 46;
    const EXPORTED: usize = 47;
    for bit in (0..64).filter(|bit| ![EXPORTED, GROWN].contains(bit)) {
        let mut bad = good;
        bad[bit / 8] ^= 1 << (bit % 8);
        mapping.write(0, &bad).unwrap();
        refused(header.check(Kind::Lock), &format!("bit {bit}"));
    }
    mapping.write(0, &good).unwrap();
    header.check(Kind::Lock).unwrap();
    assert!(!header.is_exported());
    header.export();
    assert!(header.is_exported());
    header.check(Kind::Lock).unwrap();
    for other in [Kind::Arena, Kind::Semaphore, Kind::Event, Kind::Memory, Kind::Queue, Kind::Pipe] {
        refused(header.check(other), "another kind");
    }
    header.erase();
    refused(header.check(Kind::Lock), "erased");
}

#[test]
fn offsets_and_sizes_from_outside_are_checked() {
    let _turn = common::turn();
    let block = Block::alloc(Kind::Lock, 24).unwrap();
    let handle = block.export(None).unwrap();
    let (fd, offset) = (handle.segment(), handle.offset());
    let dup = || fd.try_clone_to_owned().unwrap();
    assert_eq!(Block::attach(dup(), None, offset, Kind::Lock).unwrap().payload(), block.payload());
    refused(Block::attach(dup(), None, offset, Kind::Semaphore), "another kind");
    for wrong in
        [0, 1, 7, 8, offset + 1, offset + 4, offset + 64, 1 << 40, usize::MAX, usize::MAX - 31, usize::MAX & !63]
    {
        refused(Block::attach(dup(), None, wrong, Kind::Lock), &format!("offset {wrong}"));
    }
    for token in [std::fs::File::open("/dev/null").unwrap().into(), socket::pair().unwrap().0] {
        refused(Block::attach(dup(), Some(token), offset, Kind::Lock), "no token");
    }
    // A block that claims to reach past its segment.
    let mapping = Mapping::new(fd, 0, memfd::size(fd).unwrap() as usize).unwrap();
    for claim in [u64::MAX, u64::MAX - 63, 1 << 40, 64 << 10] {
        mapping.write(offset + 8, &claim.to_ne_bytes()).unwrap();
        refused(Block::attach(dup(), None, offset, Kind::Lock), &format!("size {claim}"));
    }
}

#[test]
fn only_sealed_segments_of_the_right_kind_are_attached() {
    let _turn = common::turn();
    let other = || memfd::create("test", 4096).unwrap();
    let file = || std::fs::File::open("/dev/null").unwrap().into();
    let given = |fd: OwnedFd| Given { segment: Incoming::new(fd), token: None, offset: 4096 };
    refused(Queue::attach(given(file()), other(), other()), "no memfd");
    refused(Block::attach(file(), None, 64, Kind::Lock), "no memfd");
    refused(Queue::attach(given(memfd::create("test", 4096).unwrap()), other(), other()), "too short");
    refused(Queue::attach(given(memfd::create("test", 64 << 20).unwrap()), other(), other()), "all zero");
    let queue = Queue::create(0).unwrap();
    let (a, _b) = pipe::create(true).unwrap();
    let flags = a.flags();
    let of = |handle: Handle| Given::copy_of(&handle).unwrap();
    refused(pipe::End::attach(of(queue.export(None).unwrap()), other(), None, flags), "a queue as a pipe");
    refused(pipe::End::attach(of(a.export(None).unwrap()), other(), Some(other()), flags), "not its file");
    refused(Queue::attach(of(a.export(None).unwrap()), other(), other()), "a pipe as a queue");
    // A segment that could be shrunk under our feet.
    let name = std::ffi::CString::new("unsealed").unwrap();
    // SAFETY: a new descriptor, owned from here on.
    let fd = unsafe {
        use std::os::fd::FromRawFd;
        std::os::fd::OwnedFd::from_raw_fd(libc::memfd_create(name.as_ptr(), libc::MFD_CLOEXEC))
    };
    memfd::extend(&fd, 64 << 20).unwrap();
    Mapping::new(&fd, 0, 4096)
        .unwrap()
        .write(0, &{
            let mut header = [0u8; 32];
            queue.front().segment().mapping().read(0, &mut header).unwrap();
            header
        })
        .unwrap();
    refused(Queue::attach(given(fd), other(), other()), "not sealed");
}

#[test]
fn segments_are_sealed_and_cloexec() {
    let _turn = common::turn();
    let queue = Queue::create(0).unwrap();
    drop(queue.extent(70_000).unwrap());
    let file = queue.file().get().unwrap();
    for (segment, name) in [(&file, "fastmp-queue"), (queue.front().segment(), "fastmp-plots")] {
        is_sealed_and_cloexec(segment.as_fd(), name);
    }
}

fn is_sealed_and_cloexec(fd: BorrowedFd<'_>, name: &str) {
    use std::os::fd::AsRawFd;
    // SAFETY: plain system calls on a live descriptor.
    unsafe {
        assert_eq!(libc::ftruncate(fd.as_raw_fd(), 0), -1, "shrinks");
        assert_ne!(libc::fcntl(fd.as_raw_fd(), libc::F_GETFD) & libc::FD_CLOEXEC, 0);
        assert_eq!(libc::fcntl(fd.as_raw_fd(), libc::F_ADD_SEALS, libc::F_SEAL_GROW), -1, "growth could be stopped");
    }
    let link = std::fs::read_link(format!("/proc/self/fd/{}", fd.as_raw_fd())).unwrap();
    assert!(link.to_string_lossy().contains(name), "{link:?}");
}
