//! Who is dead, who is not, and of whom nothing can be known. Long, as all of it shares the ways in
//! which processes and threads end.
#![cfg(not(loom))]
// Forks, ends single threads, leaves namespaces; a failure is to panic.
#![allow(unsafe_code, clippy::unwrap_used)]

mod common;

use std::time::Duration;

use common::{Child, KILLED, OK, until, words};
use fastmp_core::sys::hold_token::HoldWatch;
use fastmp_core::sys::liveness::{
    Liveness, Owner, is_as_seen, is_dead, is_dead_from_now, is_dead_quick, is_local, me, probe, thread_id,
};

fn sleeper(words: &common::Words) -> Child {
    let child = Child::fork(|| {
        words.set(0, me().word());
        std::thread::sleep(Duration::from_secs(60));
    });
    until("a child tells who it is", || words.get(0) != 0);
    child
}

fn owner(words: &common::Words) -> Owner {
    Owner::in_word(words.get(0)).unwrap()
}

#[test]
fn alive_stopped_zombie_gone() {
    let _turn = common::turn();
    let words = words();
    let mut child = sleeper(&words);
    let owner = owner(&words);
    assert_eq!(owner.pid(), child.pid());
    assert!(!is_dead(owner) && !is_dead_quick(owner));
    child.signal(libc::SIGSTOP);
    child.until_stopped();
    assert!(!is_dead(owner) && !is_dead_quick(owner), "stopped is not dead");
    child.kill();
    child.zombify();
    assert!(is_dead(owner), "a zombie is dead");
    assert!(is_dead_quick(owner), "the cheap look sees a child of one's own");
    let mut other = Child::fork(|| assert!(is_dead(owner) && !is_dead_quick(owner), "but nobody else's"));
    assert_eq!(other.wait(), common::OK);
    assert_eq!(child.wait(), KILLED);
    assert!(is_dead(owner) && is_dead_quick(owner));
}

#[test]
fn who_has_been_looked_at_shows_signs_until_it_ends() {
    let _turn = common::turn();
    let words = words();
    let mut child = sleeper(&words);
    let owner = owner(&words);
    assert!(!is_as_seen(owner), "nobody has looked");
    assert!(!is_dead_from_now(owner) && is_as_seen(owner));
    child.signal(libc::SIGSTOP);
    child.until_stopped();
    assert!(is_as_seen(owner), "stopped is as before");
    child.kill();
    child.zombify();
    assert!(!is_as_seen(owner), "a zombie is not");
    let mut other = Child::fork(|| assert!(!is_as_seen(owner) && is_dead_from_now(owner)));
    assert_eq!(other.wait(), common::OK, "nor is anybody else's");
    assert_eq!(child.wait(), KILLED);
    assert!(!is_as_seen(owner));
}

/// What replaces its program by the same one has its list of robust futexes where it was.
#[test]
fn nobody_shows_signs_where_addresses_are_not_random() {
    let _turn = common::turn();
    let words = words();
    let _sleeper = sleeper(&words);
    let owner = owner(&words);
    let mut child = Child::fork(|| {
        // SAFETY: it changes what this process execs.
        assert!(unsafe { libc::personality(0x004_0000) } >= 0);
        assert!(!is_dead_from_now(owner) && !is_as_seen(owner));
    });
    assert_eq!(child.wait(), OK);
    assert!(!is_dead_from_now(owner) && is_as_seen(owner));
}

#[test]
fn a_leader_that_ended_before_its_threads_is_alive() {
    let _turn = common::turn();
    let words = words();
    let mut child = Child::fork(|| {
        words.set(0, me().word());
        std::thread::scope(|s| {
            s.spawn(|| {
                until("the leader ends", || common::state(me().pid()) == Some('Z'));
                words.set(1, 1);
                std::thread::sleep(Duration::from_secs(60));
            });
            // SAFETY: ends this thread alone.
            unsafe { libc::syscall(libc::SYS_exit, 0) };
        });
    });
    until("the leader is a zombie", || words.get(1) == 1);
    let owner = owner(&words);
    assert_eq!(common::state(child.pid()), Some('Z'));
    assert!(!is_dead(owner), "its other thread runs on");
    child.kill();
    child.zombify();
    assert!(is_dead(owner));
    assert_eq!(child.wait(), KILLED);
}

#[test]
fn a_forked_child_is_somebody_else() {
    let _turn = common::turn();
    let words = words();
    let (parent, thread) = (me(), thread_id());
    let mut child = Child::fork(|| {
        words.set(0, me().word());
        words.set(1, u64::from(thread_id()));
        assert_ne!(me(), parent);
        assert_eq!(me().pid(), std::process::id());
        assert!(!is_dead(parent));
        let grandchild = me();
        let mut other = Child::fork(|| assert_ne!(me(), grandchild));
        assert_eq!(other.wait(), OK);
    });
    assert_eq!(child.wait(), OK);
    assert_eq!(owner(&words).pid(), child.pid());
    assert_ne!(words.get(1), u64::from(thread));
    assert_eq!((me(), thread_id()), (parent, thread));
}

#[test]
fn a_reused_pid_is_not_the_holder() {
    let _turn = common::turn();
    let words = words();
    let child = sleeper(&words);
    let live = owner(&words);
    // The same pid and namespace with another start time: bits 24-47 of the word.
    let former = Owner::in_word(live.word() ^ 1 << 24).unwrap();
    assert_eq!(former.pid(), child.pid());
    assert!(is_dead(former) && !is_dead(live));
    let unknown_start = Owner::in_word(live.word() & !(0xff_ffff << 24)).unwrap();
    assert!(!is_dead(unknown_start), "nothing is known of its start");
    let elsewhere = Owner::in_word(live.word() ^ 1 << 48).unwrap();
    assert!(!is_dead(elsewhere), "another namespace");
    drop(child);
    assert!(!is_dead(elsewhere), "whatever happens to that pid here");
}

#[test]
fn without_descriptors_nobody_is_taken_for_dead() {
    let _turn = common::turn();
    let words = words();
    let child = sleeper(&words);
    let live = owner(&words);
    let zombie = Child::fork(|| words.set(1, me().word()));
    zombie.zombify();
    let dead = Owner::in_word(words.get(1)).unwrap();
    let mut looker = Child::fork(|| {
        let none = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
        // SAFETY: reads a local.
        assert_eq!(unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &none) }, 0);
        assert!(!is_dead(live));
        assert!(!is_dead(dead), "it cannot be read that it is a zombie");
    });
    assert_eq!(looker.wait(), OK);
    assert!(is_dead(dead) && !is_dead(live));
    drop(child);
}

/// Run `f` in a child that has left the namespaces `flags`; false where that is not allowed.
fn apart(flags: i32, f: impl FnOnce()) -> bool {
    let mut child = Child::fork(|| {
        // SAFETY: a plain system call.
        if unsafe { libc::unshare(flags) } != 0 {
            common::exit(77);
        }
        f();
    });
    match child.wait() {
        common::End::Exit(77) => {
            eprintln!("skipped: unshare is not allowed here");
            false
        }
        end => {
            assert_eq!(end, OK);
            true
        }
    }
}

#[test]
fn another_pid_namespace_proves_nothing() {
    let _turn = common::turn();
    let words = words();
    let outside = sleeper(&words);
    let live = owner(&words);
    apart(libc::CLONE_NEWPID, || {
        // The first child is 1 in there; pids outside mean nothing to it.
        let mut inner = Child::fork(|| {
            assert_eq!(me().pid(), 1);
            assert!(!is_dead(live), "a holder outside");
            assert!(!is_dead(Owner::in_word(live.word() ^ 1 << 24).unwrap()), "whoever had that pid outside");
            words.set(2, me().word());
        });
        assert_eq!(inner.wait(), OK);
    });
    if let Some(inner) = Owner::in_word(words.get(2)) {
        assert_eq!(inner.pid(), 1);
        assert!(!is_dead(inner), "it has ended, but it cannot be known here");
    }
    drop(outside);
}

fn mount(source: &str, target: &str, kind: &str, flags: libc::c_ulong) -> bool {
    let c = |s: &str| std::ffi::CString::new(s).unwrap();
    let (source, target, kind) = (c(source), c(target), c(kind));
    // SAFETY: C strings that live through the call.
    unsafe { libc::mount(source.as_ptr(), target.as_ptr(), kind.as_ptr(), flags, std::ptr::null()) == 0 }
}

/// In a mount namespace of its own.
fn hide_proc() {
    if !mount("none", "/", "none", libc::MS_REC | libc::MS_PRIVATE) || !mount("none", "/proc", "tmpfs", 0) {
        common::exit(77);
    }
    assert!(std::fs::metadata("/proc/self").is_err());
}

fn close_all_descriptors() {
    // SAFETY: as programs do that become daemons. The last of them tell of panics.
    unsafe { libc::syscall(libc::SYS_close_range, 3, u32::MAX, 0) };
}

fn with_other_start(owner: Owner) -> Owner {
    Owner::in_word(owner.word() ^ 1 << 24).unwrap()
}

#[test]
fn a_proc_that_is_hidden_later_changes_nothing() {
    let _turn = common::turn();
    let words = words();
    let outside = sleeper(&words);
    let live = owner(&words);
    apart(libc::CLONE_NEWNS, || {
        me();
        hide_proc();
        for _ in 0..2 {
            assert!(!is_dead(live));
            assert!(is_dead(with_other_start(live)), "its start can be read still");
            let mut child = Child::fork(|| {
                assert!(!is_dead(live) && is_dead(with_other_start(live)));
                assert_eq!(me().pid(), std::process::id());
            });
            assert_eq!(child.wait(), OK);
        }
        // Tokens are made by way of it, too.
        let (watch, token) = HoldWatch::open().unwrap();
        assert!(!watch.is_unheld());
        drop(token);
        assert!(watch.is_unheld());
        // Without the descriptor there is no other way to it.
        close_all_descriptors();
        assert!(!is_dead(live));
        assert!(!is_dead(with_other_start(live)), "its start cannot be read");
    });
    drop(outside);
}

#[test]
fn who_first_asks_without_proc_is_known_and_knows() {
    let _turn = common::turn();
    for closing in [false, true] {
        let words = words();
        let outside = sleeper(&words);
        let live = owner(&words);
        apart(libc::CLONE_NEWNS, || {
            hide_proc();
            if closing {
                close_all_descriptors();
            }
            // Forked here, it has no identity yet.
            let mut child = Child::fork(|| {
                words.set(1, me().word());
                until("told to end", || words.get(2) == 1);
            });
            until("a child tells who it is", || words.get(1) != 0);
            let inner = Owner::in_word(words.get(1)).unwrap();
            assert!(!is_dead(inner) && !is_dead(live));
            words.set(2, 1);
            child.zombify();
            assert!(is_dead_quick(inner), "a zombie, one's own");
            let mut other = Child::fork(|| assert!(is_dead(inner), "a zombie, somebody else's"));
            assert_eq!(other.wait(), OK);
            assert_eq!(child.wait(), OK);
            assert!(is_dead(inner) && is_dead_quick(inner));
        });
        // Seen from where there is a `/proc`.
        if let Some(inner) = Owner::in_word(words.get(1)) {
            assert!(is_dead(inner), "closing: {closing}");
        }
        drop(outside);
    }
}

#[test]
fn another_proc_that_appears_later_changes_nothing() {
    let _turn = common::turn();
    let words = words();
    let outside = sleeper(&words);
    let live = owner(&words);
    // Number 1 of a namespace of its own mounts the `/proc` of that, and a process of this one goes
    // there.
    apart(libc::CLONE_NEWNS, || {
        if !mount("none", "/", "none", libc::MS_REC | libc::MS_PRIVATE) {
            common::exit(77);
        }
        me();
        let mut inside = Child::fork(|| {
            // SAFETY: a plain system call.
            assert_eq!(unsafe { libc::unshare(libc::CLONE_NEWPID) }, 0);
            let mut one = Child::fork(|| assert!(mount("none", "/proc", "proc", 0)));
            assert_eq!(one.wait(), OK);
        });
        assert_eq!(inside.wait(), OK);
        // It shows processes of a namespace that has ended: nobody at all.
        assert!(std::fs::metadata(format!("/proc/{}", live.pid())).is_err());
        assert!(!is_dead(live) && is_dead(with_other_start(live)));
        let mut child = Child::fork(|| assert!(!is_dead(live) && is_dead(with_other_start(live))));
        assert_eq!(child.wait(), OK);
        // Who has lost its own is left with one that is not to be believed.
        close_all_descriptors();
        assert!(!is_dead(live) && !is_dead(with_other_start(live)));
        let mut child = Child::fork(|| assert!(!is_dead(live) && !is_dead_quick(live)));
        assert_eq!(child.wait(), OK);
    });
    drop(outside);
}

/// Run `f` in a child that has the same pid here as in the namespace above; its status.
fn twin(f: impl FnOnce()) -> i32 {
    let above = std::fs::read_link("/proc/self").unwrap().to_str().unwrap().parse::<i32>().unwrap();
    for number in above + 100..above + 1000 {
        let numbers = [number, number];
        // SAFETY: integers.
        let mut args: libc::clone_args = unsafe { std::mem::zeroed() };
        (args.exit_signal, args.set_tid, args.set_tid_size) =
            (libc::SIGCHLD as u64, numbers.as_ptr() as u64, numbers.len() as u64);
        // SAFETY: as fork, but nobody is told. Who has no identity yet has nothing to be told.
        match unsafe { libc::syscall(libc::SYS_clone3, &args, size_of_val(&args)) } {
            0 => {
                common::become_child();
                let ended = std::panic::catch_unwind(std::panic::AssertUnwindSafe(f));
                common::exit(if ended.is_ok() { 0 } else { common::PANICKED });
            }
            // Taken, here or above.
            -1 if std::io::Error::last_os_error().raw_os_error() == Some(libc::EEXIST) => continue,
            -1 => common::exit(77),
            pid => {
                let mut status = -1;
                // SAFETY: writes to a local.
                assert_eq!(i64::from(unsafe { libc::waitpid(pid as i32, &mut status, 0) }), pid);
                return status;
            }
        }
    }
    panic!("no number is free here and above");
}

/// The next process that is forked here has this pid, if it is free.
fn next_pid(pid: u32) {
    std::fs::write("/proc/sys/kernel/ns_last_pid", (pid - 1).to_string()).unwrap();
}

#[test]
fn the_proc_of_the_namespace_above_is_not_believed_though_the_numbers_agree() {
    let _turn = common::turn();
    let words = words();
    // Whose number a process in the namespace below will have.
    let outside = sleeper(&words);
    let number = owner(&words).pid();
    std::thread::sleep(Duration::from_millis(30));
    apart(libc::CLONE_NEWPID, || {
        let mut one = Child::fork(|| {
            assert_eq!(std::process::id(), 1);
            let ended = twin(|| {
                let shown = std::fs::read_link("/proc/self").unwrap();
                assert_eq!(shown.to_str(), Some(std::process::id().to_string().as_str()));
                me();
                next_pid(number);
                let holder = Child::fork(|| {
                    words.set(1, me().word());
                    std::thread::sleep(Duration::from_secs(60));
                });
                assert_eq!(holder.pid(), number);
                until("the holder tells who it is", || words.get(1) != 0);
                let live = Owner::in_word(words.get(1)).unwrap();
                assert_eq!(live.pid(), number);
                assert!(!is_dead(live) && !is_dead_quick(live), "it lives");
                holder.kill();
                holder.zombify();
                assert!(is_dead(live), "one's own child, even so");
                words.set(2, 1);
            });
            assert_eq!(ended, 0);
        });
        match one.wait() {
            common::End::Exit(77) => common::exit(77),
            end => assert_eq!(end, OK),
        }
        assert_eq!(words.get(2), 1);
    });
    drop(outside);
}

#[test]
fn a_child_of_a_raw_clone_in_a_namespace_of_its_own_proves_nothing() {
    let _turn = common::turn();
    let words = words();
    let outside = sleeper(&words);
    let live = owner(&words);
    let mut looker = Child::fork(|| {
        me();
        let flags = libc::c_long::from(libc::CLONE_NEWPID | libc::SIGCHLD);
        // SAFETY: as fork, but nobody is told; the child only looks and ends.
        match unsafe { libc::syscall(libc::SYS_clone, flags, 0, 0, 0, 0) } {
            -1 => common::exit(77),
            0 => {
                let wrong = is_dead(live) || is_dead_quick(live) || is_dead(with_other_start(live));
                common::exit(if wrong { 1 } else { 0 });
            }
            pid => {
                let mut status = -1;
                // SAFETY: writes to a local.
                assert_eq!(i64::from(unsafe { libc::waitpid(pid as i32, &mut status, 0) }), pid);
                assert_eq!(status, 0, "somebody outside was taken for dead");
            }
        }
    });
    let end = looker.wait();
    assert!(end == OK || end == common::End::Exit(77), "{end:?}");
    drop(outside);
}

#[test]
fn another_time_namespace_proves_nothing() {
    const CLONE_NEWTIME: i32 = 0x80;
    let _turn = common::turn();
    let words = words();
    let outside = sleeper(&words);
    let live = owner(&words);
    apart(CLONE_NEWTIME, || {
        std::fs::write("/proc/self/timens_offsets", "boottime 1000 0").unwrap();
        let born_there = |at| {
            words.set(at, me().word());
            assert!(!is_dead(live), "its start looks like another one there");
        };
        let mut child = Child::fork(|| born_there(3));
        assert_eq!(child.wait(), OK);
        assert!(is_dead(Owner::in_word(words.get(3)).unwrap()));
        // And one who goes there in the middle.
        me();
        assert!(is_dead(with_other_start(live)));
        let there = std::fs::File::open("/proc/self/ns/time_for_children").unwrap();
        // SAFETY: an open descriptor.
        assert_eq!(unsafe { libc::setns(std::os::fd::AsRawFd::as_raw_fd(&there), CLONE_NEWTIME) }, 0);
        assert!(!is_dead(live));
    });
    drop(outside);
}

#[test]
fn a_holder_that_execs_has_ended() {
    let _turn = common::turn();
    let words = words();
    let mut child = Child::fork(|| {
        words.set(0, me().word());
        until("told to exec", || words.get(1) == 1);
        exec(c"sleep", c"60");
    });
    until("a child tells who it is", || words.get(0) != 0);
    let forked = owner(&words);
    assert!(!is_dead(forked));
    words.set(1, 1);
    until("its program is over", || is_dead(forked));
    assert!(child.ended().is_none(), "the process runs on");
    // Also to those who may not look into that process.
    let mut looker = Child::fork(|| {
        // SAFETY: plain system calls. Without the right to, nothing changes and the test is the
        // ordinary one.
        unsafe { libc::setresuid(65534, 65534, 65534) };
        assert!(is_dead(forked));
    });
    assert_eq!(looker.wait(), OK);
}

fn exec(program: &std::ffi::CStr, arg: &std::ffi::CStr) {
    let args = [program.as_ptr(), arg.as_ptr(), std::ptr::null()];
    // SAFETY: a null-terminated array of C strings.
    unsafe { libc::execvp(program.as_ptr(), args.as_ptr()) };
}

/// Start this test binary as another program, which runs one of the tests below alone.
fn program(name: &str) -> std::process::Command {
    let mut command = std::process::Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", name, "--ignored", "--nocapture", "--test-threads=1"]);
    command
}

#[test]
fn a_program_that_execs_another_has_ended() {
    use std::io::{BufRead, BufReader, Write};
    use std::process::Stdio;
    let _turn = common::turn();
    let mut child = program("program_that_execs").stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let mut told = BufReader::new(child.stdout.take().unwrap()).lines();
    let word = told.find_map(|line| line.unwrap().split_once("owner ")?.1.trim().parse().ok()).unwrap();
    let owner = Owner::in_word(word).unwrap();
    assert_eq!(owner.pid(), child.id());
    assert!(!is_dead(owner));
    child.stdin.take().unwrap().write_all(b"go\n").unwrap();
    until("its program is over", || is_dead(owner));
    assert!(child.try_wait().unwrap().is_none(), "the process runs on");
    child.kill().unwrap();
    child.wait().unwrap();
}

#[test]
#[ignore = "a program that a test starts"]
fn program_that_execs() {
    common::watchdog();
    println!("owner {}", me().word());
    std::io::stdin().read_line(&mut String::new()).unwrap();
    exec(c"sleep", c"60");
}

#[test]
fn programs_that_never_had_a_proc() {
    let _turn = common::turn();
    for name in ["program_without_proc", "program_without_proc_and_pidfds"] {
        let mut command = program(name);
        apart(libc::CLONE_NEWNS, || {
            hide_proc();
            assert!(command.status().unwrap().success());
        });
    }
}

#[test]
#[ignore = "a program that a test starts"]
fn program_without_proc() {
    assert!(std::fs::metadata("/proc/self").is_err());
    deaths_without_proc(true);
}

#[test]
#[ignore = "a program that a test starts"]
fn program_without_proc_and_pidfds() {
    assert!(std::fs::metadata("/proc/self").is_err());
    common::deny(libc::SYS_pidfd_open);
    deaths_without_proc(false);
}

/// A process that no longer exists is proved dead, and one's own child that has ended.
fn deaths_without_proc(pidfds: bool) {
    common::watchdog();
    let words = words();
    let mut child = sleeper(&words);
    let owner = owner(&words);
    assert!(!is_dead(owner) && !is_dead_quick(owner));
    child.kill();
    child.zombify();
    assert!(is_dead(owner) && is_dead_quick(owner), "one's own zombie");
    let mut other = Child::fork(|| {
        assert!(is_local(owner) && !is_dead_quick(owner));
        assert_eq!(is_dead(owner), pidfds, "another's zombie");
    });
    assert_eq!(other.wait(), OK);
    assert_eq!(child.wait(), KILLED);
    assert!(is_dead(owner) && is_dead_quick(owner), "gone");
    let mut other = Child::fork(|| assert!(is_dead(owner), "gone, to another"));
    assert_eq!(other.wait(), OK);
    // Below, the same numbers are other processes.
    let live = sleeper(&words);
    let owner = Owner::in_word(words.get(0)).unwrap();
    apart(libc::CLONE_NEWPID, || {
        let mut inner = Child::fork(|| assert!(!is_dead(owner) && !is_dead_quick(owner)));
        assert_eq!(inner.wait(), OK);
    });
    drop(live);
}

#[test]
fn who_asks_after_its_leader_ended_is_known() {
    let _turn = common::turn();
    let words = words();
    let mut child = Child::fork(|| {
        std::thread::scope(|s| {
            s.spawn(|| {
                let pid = std::process::id();
                until("the leader ends", || common::state(pid) == Some('Z'));
                words.set(0, me().word());
                std::thread::sleep(Duration::from_secs(60));
            });
            // SAFETY: ends this thread alone.
            unsafe { libc::syscall(libc::SYS_exit, 0) };
        });
    });
    until("a child tells who it is", || words.get(0) != 0);
    let owner = owner(&words);
    assert!(is_local(owner) && owner.pid() == child.pid());
    assert_eq!(probe(owner), Liveness::Unknown, "its other thread runs on: no reason to hurry");
    assert!(is_dead(with_other_start(owner)), "and its start is known");
    child.kill();
    child.zombify();
    assert!(is_dead(owner));
    assert_eq!(child.wait(), KILLED);
}

#[test]
fn another_user_is_not_dead() {
    let _turn = common::turn();
    let words = words();
    let other = sleeper(&words);
    let live = owner(&words);
    let mut looker = Child::fork(|| {
        // SAFETY: plain system calls. Without the right to, nothing changes and the test is the
        // ordinary one.
        unsafe { libc::setresuid(65534, 65534, 65534) };
        assert!(!is_dead(live) && !is_dead_quick(live), "EPERM is not ESRCH");
    });
    assert_eq!(looker.wait(), OK);
    drop(other);
}
