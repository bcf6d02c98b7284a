"""How a child's end is seen, whoever looks and whoever reaps; daemons that die with their parent."""

import os
import resource
import signal
import threading
import time
from multiprocessing.connection import wait

import fastmp
import pytest
from children import processes, starters
from children.common import look_at, wait_asleep, wait_until
from fastmp import popen

pytestmark = pytest.mark.skipif(not fastmp.accelerated, reason="the stdlib's own")

METHODS = ["fork", "spawn", "forkserver"]
OURS = [method for method in METHODS if method != "forkserver"]  # whose child is this process's own


@pytest.fixture(params=["pidfd", "pipe"])
def told_by(request, monkeypatch):
    """How a child's end is told: by a pidfd, or where the kernel has none."""
    if request.param == "pipe":
        monkeypatch.setattr(popen, "open_pidfd", lambda pid: None)
    return request.param


def has_exit_info():
    """Does the kernel tell how a process ended that has been reaped?"""
    release = tuple(int(part) for part in os.uname().release.split("-")[0].split(".")[:2])
    return release >= (6, 15)


@pytest.mark.parametrize("method", METHODS)
def test_codes(method, told_by):
    context = fastmp.get_context(method)
    for way, code in (("sys.exit(3)", 3), ("os._exit(7)", 7), ("SIGKILL", -9), ("raise", 1), ("return", 0)):
        child = context.Process(target=processes.end_by, args=(way,))
        child.start()
        if method in OURS:
            assert (child._popen._pidfd is not None) is (told_by == "pidfd")
        assert wait([child.sentinel], 30) == [child.sentinel]
        if told_by == "pipe":  # which a child closes a moment before it has ended
            child.join()
        assert child.exitcode == code  # at once
        assert not child.is_alive()
        child.join()
        assert look_at(child.pid) is None
        child.close()


@pytest.mark.parametrize("method", METHODS)
def test_threads_that_join_at_once_all_get_the_code(method, told_by):
    context = fastmp.get_context(method)
    for turn in range(20 if method != "spawn" else 4):
        child = context.Process(target=processes.end_by, args=("sys.exit(3)",))
        child.start()
        seen = []

        def look(child=child, seen=seen, turn=turn, polls=False):
            while polls and child._popen.poll() is None:
                pass
            child._popen.wait(None if turn % 2 else 30)
            seen.append(child._popen.poll())

        threads = [threading.Thread(target=look, kwargs={"polls": at % 2 == 0}) for at in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert seen == [3] * 4
        child.close()


@pytest.mark.parametrize("method", METHODS)
def test_a_thread_that_comes_late_to_a_closed_child(method, told_by, monkeypatch):
    """It has not been told yet, and another child has got the descriptors' numbers."""
    context = fastmp.get_context(method)
    child = context.Process(target=processes.end_by, args=("sys.exit(3)",))
    child.start()
    handle = child._popen
    look = type(handle)._look
    inside, late, codes = threading.Event(), threading.Event(), []

    def look_late(self, *args):
        if threading.current_thread() is thread:
            inside.set()
            late.wait()
        return look(self, *args)

    monkeypatch.setattr(type(handle), "_look", look_late)
    thread = threading.Thread(target=lambda: codes.append(handle.wait()), daemon=True)
    thread.start()
    inside.wait()
    child.join()
    child.close()
    other = context.Process(target=processes.sleep_for_ever, daemon=True)
    other.start()
    late.set()
    thread.join(30)
    assert codes == [3]
    assert other.is_alive()
    assert handle._ends is None
    other.kill()
    other.join()
    assert other.exitcode == -signal.SIGKILL


@pytest.mark.parametrize("method", OURS)
def test_reaped_by_somebody_else(method, told_by):
    child = fastmp.get_context(method).Process(target=processes.end_by, args=("sys.exit(3)",))
    child.start()
    assert os.waitpid(child.pid, 0)[0] == child.pid
    child.terminate()  # nobody is hit
    child.join()
    assert not child.is_alive()
    assert child.exitcode == (3 if told_by == "pidfd" and has_exit_info() else popen.UNKNOWN)
    assert child not in fastmp.active_children()
    child.close()


@pytest.mark.parametrize("method", OURS)
def test_nobody_reaps(method, told_by):
    before = signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    try:
        for timeout in (None, 30):
            flag = fastmp.RawValue("b")
            child = fastmp.get_context(method).Process(target=starters.exit_when, args=(flag, 3))
            child.start()
            assert child.is_alive()
            flag.value = 1
            child.join(timeout)
            assert not child.is_alive()
            assert child.exitcode in (3, popen.UNKNOWN)
    finally:
        signal.signal(signal.SIGCHLD, before)


@pytest.mark.parametrize("method", OURS)
def test_no_descriptor_is_left_for_a_pidfd(method):
    """The start works, and the pipe serves."""
    context = fastmp.get_context(method)
    warm = context.Process(target=os.getpid)
    warm.start()
    warm.join()
    warm.close()
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    highest = max(int(each) for each in os.listdir("/proc/self/fd"))
    gaps = [os.dup(0)]  # what earlier tests have open may lie above numbers that are free
    while gaps[-1] < highest:
        gaps.append(os.dup(0))
    first_free = gaps[-1] + 1
    outcomes = set()
    try:
        for more in range(3, 30):
            resource.setrlimit(resource.RLIMIT_NOFILE, (first_free + more, limits[1]))
            child = context.Process(target=processes.end_by, args=("SIGKILL",))
            try:
                child.start()
            except OSError:
                outcomes.add("refused")
                continue
            outcomes.add("pipe" if child._popen._pidfd is None else "pidfd")
            assert child._popen.wait() == -9
            child.close()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
        for gap in gaps:
            os.close(gap)
    assert {"refused", "pidfd"} <= outcomes


def test_a_child_of_the_parent_is_not_its_childs(told_by):
    """A forked child has the objects too, and does not take living ones for dead."""
    running = fastmp.RawValue("b")
    child = fastmp.get_context("fork").Process(target=processes.sleep_for_ever, args=(running,))
    child.start()
    pid = os.fork()
    if pid == 0:
        os._exit(0 if child._popen.poll() is None else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    child.kill()
    child.join()
    assert child.exitcode == -9


def test_waiting_for_a_descriptor():
    reading, writing = os.pipe()
    try:
        for timeout in (0.05, 0.0005):
            began = time.monotonic()
            assert popen.wait_readable(reading, timeout) is False
            assert time.monotonic() - began >= timeout
        assert popen.wait_readable(reading, 0) is False
        assert popen.wait_readable(reading, -1) is False
        os.write(writing, b".")
        for timeout in (None, 0, 1e9, float("inf")):
            assert popen.wait_readable(reading, timeout) is True
    finally:
        os.close(reading)
        os.close(writing)


# --- Children of a killed parent ---


@pytest.mark.parametrize("raw_fork", [False, True])
@pytest.mark.parametrize("method", METHODS)
def test_daemons_die_with_the_process_and_not_with_the_thread(method, raw_fork):
    pids, ready = fastmp.RawArray("i", 2), fastmp.RawValue("b")
    parent = fastmp.get_context("fork").Process(target=starters.start_daemons, args=(pids, method, ready, raw_fork))
    parent.start()
    wait_until(lambda: ready.value, "the daemons")
    assert all(look_at(pid).state in "SR" for pid in pids)
    parent.kill()
    parent.join()
    wait_until(lambda: all(has_ended(pid) for pid in pids), "the daemons' end")


def has_ended(pid):
    return (seen := look_at(pid)) is None or seen.state in "ZX"


@pytest.mark.parametrize("method", METHODS)
def test_a_parent_killed_at_any_point_of_a_start_leaves_no_daemon(method):
    for turn in range(12 if method != "spawn" else 5):
        pids, go = fastmp.RawArray("i", 5000), fastmp.RawValue("b")
        parent = fastmp.get_context("fork").Process(target=starters.start_daemons_for_ever, args=(pids, method, go))
        parent.start()
        wait_until(lambda: go.value, "the start")  # noqa: B023
        time.sleep(0.001 + 0.0173 * turn)
        parent.kill()
        parent.join()
        wait_until(lambda: all(pid == 0 or has_ended(pid) for pid in pids), "the daemons' end")  # noqa: B023
        time.sleep(0.05)  # for those that have not said yet who they are
        wait_until(lambda: all(pid == 0 or has_ended(pid) for pid in pids), "the daemons' end")  # noqa: B023


def test_a_daemon_that_is_not_allowed_to_die_so_lives(monkeypatch, crew_of_one):
    """Where the kernel refuses it is as in the stdlib."""
    import fcntl

    def refuse(*arguments):
        raise PermissionError

    monkeypatch.setattr(fcntl, "fcntl", refuse)
    running = fastmp.RawValue("b")
    child = crew_of_one(running)
    wait_until(lambda: running.value, "the child")
    wait_asleep(child.pid)
    assert child.is_alive()


@pytest.fixture
def crew_of_one():
    children = []

    def start(running):
        child = fastmp.get_context("fork").Process(target=processes.sleep_for_ever, args=(running,), daemon=True)
        child.start()
        children.append(child)
        return child

    yield start
    for child in children:
        child.kill()
        child.join()
