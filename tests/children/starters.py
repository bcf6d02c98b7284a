"""Processes that start others, and are killed."""

import concurrent.futures
import importlib
import os
import signal
import socket
import sys
import time
from multiprocessing import resource_tracker

from children.common import wait_until


def add_one(counter, code=0):
    with counter.get_lock():
        counter.value += 1
    sys.exit(code)


def note_parent(out):
    out.value = os.getppid()


def note_uid(out):
    out.value = os.getuid()


def start_and_note_parent(out, module, method):
    """By a forkserver, from a child of whatever kind."""
    context = importlib.import_module(module).get_context("forkserver")
    child = context.Process(target=note_parent, args=(out,))
    child.start()
    child.join()
    assert child.exitcode == 0


def announce_and_sleep(pids, at):
    pids[at] = os.getpid()
    while True:
        time.sleep(100)


def start_daemons(pids, method, ready, raw_fork):
    """Starts daemons from a thread that ends, then sleeps until it is killed."""
    context = importlib.import_module("fastmp").get_context(method)

    def start():
        for at in range(len(pids)):
            context.Process(target=announce_and_sleep, args=(pids, at), daemon=True).start()

    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        pool.submit(start).result()
    wait_until(lambda: all(pids), "the daemons")
    if raw_fork and os.fork() == 0:  # it has none of the lifelines
        time.sleep(100)
        os._exit(0)
    time.sleep(0.05)  # the thread has ended for a while
    ready.value = 1
    time.sleep(100)


def start_daemons_for_ever(pids, method, go):
    context = importlib.import_module("fastmp").get_context(method)
    go.value = 1
    at = 0
    while True:
        child = context.Process(target=announce_and_sleep, args=(pids, at), daemon=True)
        child.start()
        at += 1


def note_all(pids, at, method):
    pids[at] = os.getpid()


def count_descriptors(out):
    out.value = len(os.listdir("/proc/self/fd")) - 1


def count_files(out, ends):
    out.value = len({os.fstat(end.fileno()).st_ino for end in ends})


def note_interrupt(out, running):
    try:
        running.value = 1
        time.sleep(100)
    except KeyboardInterrupt:
        out.value = 1


def exit_when(flag, code):
    wait_until(lambda: flag.value, "the end")
    sys.exit(code)


def start_as_nobody(out, uids):
    """Of a forked child: with fewer rights, it starts a process by a server."""
    os.setgroups([])
    os.setresgid(65534, 65534, 65534)
    os.setresuid(65534, 65534, 65534)
    os.chdir("/")
    context = importlib.import_module("fastmp").get_context("forkserver")
    child = context.Process(target=note_uid, args=(uids,))
    child.start()
    child.join()
    out.value = child.exitcode + 1


def use_after_closing_everything(out, method):
    """As a daemon does, and then has its own descriptors under the same numbers."""
    resource_tracker._resource_tracker._fd = None  # the stdlib's would be written to
    held = max(map(int, os.listdir("/proc/self/fd"))) + 20
    os.closerange(3, held)
    pairs = [socket.socketpair() for _ in range(held)]
    context = importlib.import_module("fastmp").get_context(method)
    child = context.Process(target=os.getpid)
    child.start()
    child.join()
    assert child.exitcode == 0
    pid = os.fork()
    if pid == 0:
        untouched = all(_is_silent(end) for pair in pairs for end in pair)
        os._exit(0 if untouched else 1)
    out.value = 1 + os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def _is_silent(end):
    end.setblocking(False)
    try:
        end.recv(1)
    except BlockingIOError:
        return True
    except OSError:
        return False
    return False  # something has been written, or the other end closed


def ignore_and_end(running):
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    running.value = 1
    time.sleep(100)
