//! Who is dead, who is not, and of whom nothing can be known.
#![cfg(not(loom))]
// Forks, ends single threads, leaves namespaces; a failure is to panic.
#![allow(unsafe_code, clippy::unwrap_used)]

mod common;

use std::time::Duration;

use common::{Child, KILLED, OK, until, words};
use fastmp_core::sys::liveness::{Owner, is_dead, is_dead_quick, me, thread_id};

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

#[test]
fn a_hidden_proc_proves_nothing() {
    let _turn = common::turn();
    let words = words();
    let outside = sleeper(&words);
    let live = owner(&words);
    apart(libc::CLONE_NEWNS, || {
        let mount = |source: &str, target: &str, kind: &str, flags| {
            let c = |s: &str| std::ffi::CString::new(s).unwrap();
            // SAFETY: C strings that live through the call.
            unsafe {
                libc::mount(c(source).as_ptr(), c(target).as_ptr(), c(kind).as_ptr(), flags, std::ptr::null()) == 0
            }
        };
        if !mount("none", "/", "none", libc::MS_REC | libc::MS_PRIVATE) || !mount("none", "/proc", "tmpfs", 0) {
            common::exit(77);
        }
        // An identity made before, and one made now, without /proc.
        for _ in 0..2 {
            assert!(!is_dead(live));
            assert!(!is_dead(Owner::in_word(live.word() ^ 1 << 24).unwrap()), "its start cannot be read");
            let mut child = Child::fork(|| {
                assert!(!is_dead(live));
                assert_eq!(me().pid(), std::process::id());
            });
            assert_eq!(child.wait(), OK);
        }
    });
    drop(outside);
}

#[test]
fn another_user_is_not_dead() {
    let _turn = common::turn();
    let words = words();
    let other = sleeper(&words);
    let live = owner(&words);
    let mut looker = Child::fork(|| {
        // SAFETY: plain system calls. Without the right to, nothing changes and the test is the ordinary one.
        unsafe { libc::setresuid(65534, 65534, 65534) };
        assert!(!is_dead(live) && !is_dead_quick(live), "EPERM is not ESRCH");
    });
    assert_eq!(looker.wait(), OK);
    drop(other);
}
