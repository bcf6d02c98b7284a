//! Processes to kill: raw forks with a watchdog, words to share with them, and a look at what they
//! are doing.
//!
//! A child never returns into the test harness: it ends by `_exit`, by a signal, or by its
//! watchdog's SIGALRM. A panic in it is written to descriptor 2 without the harness's help and ends
//! it with [`PANICKED`].
#![allow(dead_code)]

pub mod blocks;
pub mod channel;
pub mod conditions;

use std::io::Read;
use std::os::fd::AsRawFd;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard};
use std::time::{Duration, Instant};

use fastmp_core::arena::Block;
use fastmp_core::fault::{self, Action};
use fastmp_core::layout::{Kind, Object};
use fastmp_core::overlays::Overlay;

/// Seconds after which a child counts as hung.
pub const WATCHDOG: u32 = 20;
/// A child's exit code after a panic.
pub const PANICKED: i32 = 101;

/// Tests of one binary take turns: a child forked by another test would hold copies of this one's
/// descriptors and mappings.
pub fn turn() -> MutexGuard<'static, ()> {
    static TURN: Mutex<()> = Mutex::new(());
    TURN.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}

/// How a child ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    Exit(i32),
    Signal(i32),
}

/// The calls that whoever waits sleeps in. Newer machines have no `poll`.
#[cfg(target_arch = "x86_64")]
const SLEEPS: [i64; 3] = [libc::SYS_futex, libc::SYS_ppoll, libc::SYS_poll];
#[cfg(not(target_arch = "x86_64"))]
const SLEEPS: [i64; 2] = [libc::SYS_futex, libc::SYS_ppoll];

pub const OK: End = End::Exit(0);
pub const KILLED: End = End::Signal(libc::SIGKILL);

/// A forked process; killed and reaped on drop.
#[derive(Debug)]
pub struct Child {
    pid: i32,
    reaped: bool,
}

impl Child {
    /// Run `f` in a forked process, then `_exit(0)`.
    pub fn fork(f: impl FnOnce()) -> Child {
        // SAFETY: the child runs on one thread and never returns into the harness; glibc makes
        // malloc usable in it.
        let pid = unsafe { libc::fork() };
        assert!(pid >= 0, "fork");
        if pid == 0 {
            become_child();
            let code = if catch_unwind(AssertUnwindSafe(f)).is_ok() { 0 } else { PANICKED };
            exit(code);
        }
        Child { pid, reaped: false }
    }

    /// The same, killed by its own hand the `nth` time that it comes to `point`.
    pub fn doomed(point: &str, nth: u32, f: impl FnOnce()) -> Child {
        Child::fork(|| {
            fault::arm(point, nth, Action::Kill);
            f();
        })
    }

    pub fn pid(&self) -> u32 {
        self.pid as u32
    }

    pub fn signal(&self, signal: i32) {
        if !self.reaped {
            // SAFETY: a child that is not reaped keeps its pid.
            unsafe { libc::kill(self.pid, signal) };
        }
    }

    pub fn kill(&self) {
        self.signal(libc::SIGKILL);
    }

    /// Has it ended? Reaps it if so.
    pub fn ended(&mut self) -> Option<End> {
        let mut status = 0;
        // SAFETY: writes to a local.
        let got = unsafe { libc::waitpid(self.pid, &mut status, libc::WNOHANG) };
        if got != self.pid {
            return None;
        }
        self.reaped = true;
        Some(if libc::WIFSIGNALED(status) {
            End::Signal(libc::WTERMSIG(status))
        } else {
            End::Exit(libc::WEXITSTATUS(status))
        })
    }

    /// Wait for its end and reap it.
    pub fn wait(&mut self) -> End {
        self.zombify();
        self.ended().expect("a zombie can be reaped")
    }

    /// Wait for its end, and leave it a zombie.
    pub fn zombify(&self) {
        // SAFETY: an all-zero siginfo is valid, and is only written to. The child's own watchdog
        // ends this wait.
        unsafe {
            let mut info: libc::siginfo_t = std::mem::zeroed();
            libc::waitid(libc::P_PID, self.pid as u32, &mut info, libc::WEXITED | libc::WNOWAIT);
        }
    }

    /// Wait until it has stopped.
    pub fn until_stopped(&self) {
        until("a child stops", || state(self.pid()) == Some('T'));
    }

    /// Wait until it sleeps in a futex or a poll, or has ended.
    pub fn until_parked(&self) {
        until("a child parks", || self.is_parked());
    }

    /// Does it sleep in a futex or a poll, or has it ended?
    pub fn is_parked(&self) -> bool {
        let call = std::fs::read_to_string(format!("/proc/{}/syscall", self.pid)).unwrap_or_default();
        let number: i64 = call.split(' ').next().and_then(|n| n.parse().ok()).unwrap_or(-1);
        SLEEPS.contains(&number) || state(self.pid()) == Some('Z')
    }

    /// Seconds of processor time so far.
    pub fn cpu(&self) -> f64 {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.pid)).expect("stat");
        let rest = stat.rsplit_once(')').expect("a name").1;
        let ticks = |n: usize| rest.split_ascii_whitespace().nth(n).and_then(|t| t.parse::<f64>().ok()).expect("ticks");
        (ticks(11) + ticks(12)) / 100.0
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        if !self.reaped {
            self.kill();
            self.wait();
        }
    }
}

/// In a fresh child: a watchdog, no orphans, panics told without the harness.
pub fn become_child() {
    watchdog();
    // SAFETY: a plain system call.
    unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) };
    std::panic::set_hook(Box::new(|info| {
        let told = format!("child {}: {info}\n", std::process::id());
        // SAFETY: writes from a live buffer.
        unsafe { libc::write(2, told.as_ptr().cast(), told.len()) };
    }));
}

/// From now on this process has so long.
pub fn watchdog() {
    // SAFETY: a plain system call.
    unsafe { libc::alarm(WATCHDOG) };
}

/// From now on this process, and what it starts, gets ENOSYS for this system call.
pub fn deny(call: libc::c_long) {
    deny_with(call, libc::ENOSYS);
}

/// The same, by another error.
pub fn deny_with(call: libc::c_long, errno: i32) {
    filter(call, libc::SECCOMP_RET_ERRNO | errno as u32);
}

/// Have `instead` run, by SIGSYS, for a system call, which then gives 0.
pub fn replace(call: libc::c_long, instead: fn()) {
    static INSTEAD: std::sync::OnceLock<fn()> = std::sync::OnceLock::new();
    extern "C" fn trapped(_: libc::c_int, _: *mut libc::siginfo_t, context: *mut libc::c_void) {
        INSTEAD.get().unwrap()();
        // SAFETY: the kernel's, which is what the thread goes on with.
        let context = unsafe { &mut (*context.cast::<libc::ucontext_t>()).uc_mcontext };
        #[cfg(target_arch = "x86_64")]
        (context.gregs[libc::REG_RAX as usize] = 0);
        #[cfg(target_arch = "aarch64")]
        (context.regs[0] = 0);
    }
    INSTEAD.set(instead).unwrap();
    // SAFETY: all zero is a valid one, and it lives through the call.
    unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        action.sa_sigaction = trapped as *const () as libc::sighandler_t;
        action.sa_flags = libc::SA_SIGINFO;
        assert_eq!(libc::sigaction(libc::SIGSYS, &action, std::ptr::null_mut()), 0);
    }
    filter(call, libc::SECCOMP_RET_TRAP);
}

fn filter(call: libc::c_long, action: u32) {
    let op = |code, k, jt, jf| libc::sock_filter { code, jt, jf, k };
    let mut filter = [
        // The number of the call; is it this one; what then; what else.
        op(0x20, 0, 0, 0),
        op(0x15, call as u32, 0, 1),
        op(0x06, action, 0, 0),
        op(0x06, libc::SECCOMP_RET_ALLOW, 0, 0),
    ];
    let program = libc::sock_fprog { len: filter.len() as u16, filter: filter.as_mut_ptr() };
    // SAFETY: a filter that lives through the call.
    unsafe {
        assert_eq!(libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), 0);
        assert_eq!(libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER, &program), 0);
    }
}

/// End this process at once: no destructor, no exit handler.
pub fn exit(code: i32) -> ! {
    // SAFETY: ends the process.
    unsafe { libc::_exit(code) }
}

/// A process's state letter; None if it has gone.
pub fn state(pid: u32) -> Option<char> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    stat.rsplit_once(')')?.1.trim_start().chars().next()
}

/// Wait for `what`, looking again and again; a panic after ten seconds.
pub fn until(what: &str, mut is: impl FnMut() -> bool) {
    let start = Instant::now();
    while !is() {
        assert!(start.elapsed() < Duration::from_secs(10), "in vain: {what}");
        std::thread::sleep(Duration::from_micros(200));
    }
}

/// A `T`, all zero, in memory that children share.
pub fn shared<T: Overlay>(kind: Kind) -> Object<T, Block> {
    let block = Block::alloc(kind, size_of::<T>()).expect("memory");
    let payload = block.payload();
    Object::new(block, payload).expect("a place for it")
}

fastmp_core::overlay! {
    /// Words for the tests' own bookkeeping.
    #[derive(Debug)]
    pub struct Words(pub [AtomicU64; 64]);
}

impl Words {
    pub fn get(&self, at: usize) -> u64 {
        self.0[at].load(Ordering::SeqCst)
    }
    pub fn set(&self, at: usize, to: u64) {
        self.0[at].store(to, Ordering::SeqCst);
    }
    pub fn add(&self, at: usize, n: u64) -> u64 {
        self.0[at].fetch_add(n, Ordering::SeqCst)
    }
    pub fn sub(&self, at: usize, n: u64) -> u64 {
        self.0[at].fetch_sub(n, Ordering::SeqCst)
    }
}

pub fn words() -> Object<Words, Block> {
    shared(Kind::Memory)
}

fastmp_core::overlay! {
    /// Who put what, and what came: a row of counts for each producer.
    pub struct Tally {
        /// Messages whose put has returned.
        pub put: [AtomicU64; Tally::PRODUCERS],
        /// How often each came.
        pub came: [[AtomicU8; Tally::MESSAGES]; Tally::PRODUCERS],
    }
}

impl Tally {
    pub const PRODUCERS: usize = 512;
    pub const MESSAGES: usize = 2048;

    pub fn has_put(&self, producer: usize) -> usize {
        self.put[producer].load(Ordering::SeqCst) as usize
    }

    /// (messages put that never came, messages that came twice, messages that came although their
    /// put never returned).
    pub fn verdict(&self, producers: usize) -> (usize, usize, usize) {
        let (mut lost, mut doubled, mut extra) = (0, 0, 0);
        for producer in 0..producers {
            let put = self.has_put(producer);
            for (number, came) in self.came[producer].iter().enumerate() {
                match came.load(Ordering::SeqCst) {
                    0 => lost += usize::from(number < put),
                    1 => extra += usize::from(number >= put),
                    _ => doubled += 1,
                }
            }
        }
        (lost, doubled, extra)
    }
}

/// A message of `len` bytes (at least 16): who put it, its number, and a pattern that follows from
/// them.
pub fn message(producer: usize, number: usize, len: usize) -> Vec<u8> {
    let len = len.max(16);
    let mut bytes = Vec::with_capacity(len + 8);
    bytes.extend_from_slice(&(producer as u32).to_le_bytes());
    bytes.extend_from_slice(&(number as u32).to_le_bytes());
    bytes.extend_from_slice(&(len as u64).to_le_bytes());
    let mut word = (producer as u64) << 32 ^ number as u64 ^ 0x9e37_79b9_7f4a_7c15;
    while bytes.len() < len {
        word = word.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(1);
        bytes.extend_from_slice(&word.to_le_bytes());
    }
    bytes.truncate(len);
    bytes
}

/// Whose message it is, and which; a panic if a byte is wrong.
pub fn read_message(bytes: &[u8]) -> (usize, usize) {
    let word = |at: usize| u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes")) as usize;
    let (producer, number) = (word(0), word(4));
    assert!(bytes == message(producer, number, bytes.len()), "message {number} of {producer} came damaged");
    assert_eq!(word(8), bytes.len(), "message {number} of {producer} came with another length");
    (producer, number)
}

/// Is a descriptor readable now?
pub fn readable(fd: &impl AsRawFd) -> bool {
    let mut fds = libc::pollfd { fd: fd.as_raw_fd(), events: libc::POLLIN, revents: 0 };
    // SAFETY: one pollfd, a local.
    unsafe { libc::poll(&mut fds, 1, 0) == 1 && fds.revents & libc::POLLIN != 0 }
}

/// Is a descriptor writable now?
pub fn writable(fd: &impl AsRawFd) -> bool {
    writable_within(fd, 0)
}

/// Will it be, within so many milliseconds?
pub fn writable_within(fd: &impl AsRawFd, milliseconds: i32) -> bool {
    let mut fds = libc::pollfd { fd: fd.as_raw_fd(), events: libc::POLLOUT, revents: 0 };
    // SAFETY: one pollfd, a local.
    unsafe { libc::poll(&mut fds, 1, milliseconds) == 1 && fds.revents & libc::POLLOUT != 0 }
}

/// Bytes of memory that a segment really takes.
pub fn resident(fd: &impl AsRawFd) -> u64 {
    // SAFETY: an all-zero stat is valid, and is only written to.
    unsafe {
        let mut stat: libc::stat = std::mem::zeroed();
        assert_eq!(libc::fstat(fd.as_raw_fd(), &mut stat), 0);
        stat.st_blocks as u64 * 512
    }
}

/// Descriptors open in this process.
pub fn open_fds() -> usize {
    std::fs::read_dir("/proc/self/fd").expect("proc").count()
}

/// Small, fast, the same every time.
#[derive(Debug, Clone)]
pub struct Dice(pub u64);

impl Dice {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
    pub fn below(&mut self, n: u64) -> u64 {
        self.next() % n
    }
}

/// Real entropy, printed by whoever wants to repeat a run.
pub fn seed() -> u64 {
    if let Some(seed) = std::env::var("FASTMP_SEED").ok().and_then(|s| s.parse().ok()) {
        return seed;
    }
    let mut bytes = [0; 8];
    std::fs::File::open("/dev/urandom").and_then(|mut f| f.read_exact(&mut bytes)).expect("urandom");
    u64::from_le_bytes(bytes) >> 16
}
