"""A signal handler raises in the middle of a start: there is no child, or one that is known.

Python runs handlers between its own steps: when a Python function begins, after a call into C, and
where a loop turns. The steps are gone through one by one, by a profiler, which is called just there
and raises what a handler would; and by the clock, with a real signal.
"""

import contextlib
import gc
import itertools
import multiprocessing
import os
import signal
import sys

import fastmp
import pytest
from children.common import wait_until

pytestmark = [
    pytest.mark.skipif(not fastmp.accelerated, reason="the stdlib's own"),
    # What a handler raises in a hook of a fork the interpreter prints, and goes on.
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
    # Shown by functions of Python's from within `os.fork`, which loses the child if one is interrupted.
    pytest.mark.filterwarnings("ignore:This process:DeprecationWarning"),
]

METHODS = ["fork", "spawn", "forkserver"]
MADE_ONCE = 1  # descriptor that a start may make for all that follow


class Interrupt(BaseException):
    """What the handler raises."""


def descriptors():
    """Those that are open, but for what the allocator keeps with blocks that it may not use yet."""
    return {fd for fd in os.listdir("/proc/self/fd") if "fastmp-hold-token" not in (where(fd) or "")}


def where(fd):
    with contextlib.suppress(OSError):
        return os.readlink(f"/proc/self/fd/{fd}")


strangers = set()  # the stdlib's own resource tracker and fork server, say, of tests before


@pytest.fixture(autouse=True)
def know_strangers():
    strangers.clear()
    strangers.update(children())


def children():
    """The pids of all that this process has started in a test and not reaped, but for servers of its own."""
    found = set()
    for task in os.listdir("/proc/self/task"):
        with contextlib.suppress(FileNotFoundError), open(f"/proc/self/task/{task}/children") as file:
            found.update(int(pid) for pid in file.read().split())
    server = sys.modules.get("fastmp.forkserver")
    return found - strangers - {server and server._forkserver._forkserver_pid}


@pytest.fixture
def context(request):
    """Of that method, with all made that is made once."""
    context = fastmp.get_context(request.param)
    child = context.Process(target=os.getpid)
    child.start()
    child.join()
    child.close()
    return context


def check(context, child, before):
    """After a start that may have been interrupted."""
    if child.pid is not None:
        assert child in fastmp.active_children() or child.exitcode is not None
        assert isinstance(child.sentinel, int)
    assert multiprocessing.context.get_spawning_popen() is None
    known = {each.pid for each in fastmp.active_children()}
    # A server's children are no children of this process.
    assert children() <= known | {child.pid}
    if child.pid is not None:
        child.join()
        # 1: it was interrupted before the child had got what it is started with.
        assert child.exitcode in ((0, 1) if context.get_start_method() == "forkserver" else (0,))
        child.close()
    assert children() == set()
    held = descriptors()
    assert len(held) <= before + MADE_ONCE, {fd: where(fd) for fd in held}


def in_logging(frame):
    """In its hook of a fork? What a handler raises there the interpreter prints, and `logging`'s lock
    stays locked: then threads that fork or log wait for ever, with the stdlib as well."""
    while frame is not None and frame.f_globals["__name__"] != "logging":
        frame = frame.f_back  # the handler may be in the middle of another
    return frame is not None


def raise_at(number):
    """Returns a profiler that raises at the n-th place at which a handler could."""
    me, count = os.getpid(), 0

    def profile(frame, event, arg):
        nonlocal count
        if event not in ("call", "c_return") or os.getpid() != me or arg is sys.setprofile:
            return
        if in_logging(frame):
            return
        count += 1
        if count == number:
            sys.setprofile(None)
            places.append((frame.f_code.co_qualname, frame.f_lineno, event, getattr(arg, "__qualname__", "")))
            raise Interrupt

    places = []
    return profile, places


@pytest.mark.parametrize("context", METHODS, indirect=True)
def test_at_every_step(context):
    before = len(descriptors())
    number = known = 0
    while True:
        number += 1
        child = context.Process(target=os.getpid)
        profile, places = raise_at(number)
        interrupted = False
        sys.setprofile(profile)
        try:
            child.start()
        except Interrupt:
            interrupted = True
        finally:
            sys.setprofile(None)
        known += interrupted and child.pid is not None
        try:
            check(context, child, before)
        except BaseException as error:
            error.add_note(f"interrupted at {places}, step {number}")
            raise
        if not places:
            break
    assert 0 < known < number - 1  # and the others without a child
    child = context.Process(target=os.getpid)
    child.start()
    child.join()
    assert child.exitcode == 0


@pytest.fixture
def timer():
    """Calls a function that a signal interrupts after so many seconds; was it?"""

    def interrupt(_, frame):
        if in_logging(frame):
            signal.setitimer(signal.ITIMER_REAL, 50e-6)
            return
        raise Interrupt

    def call(function, seconds):
        try:
            try:
                signal.setitimer(signal.ITIMER_REAL, seconds)
                function()
            finally:
                signal.setitimer(signal.ITIMER_REAL, 0)
        except Interrupt:
            return True
        except RuntimeError as error:  # what `threading` makes of it where it waits for a condition
            assert isinstance(error.__context__, Interrupt)
            return True
        return False

    handler = signal.signal(signal.SIGALRM, interrupt)
    yield call
    signal.setitimer(signal.ITIMER_REAL, 0)
    signal.signal(signal.SIGALRM, handler)


@pytest.mark.parametrize("context", METHODS, indirect=True)
def test_at_any_time(context, timer):
    """By the clock. A start takes some 0.5 ms, for spawn and a busy machine a few."""
    before = len(descriptors())
    interrupted = 0
    for at in range(300 if context.get_start_method() != "spawn" else 60):
        child = context.Process(target=os.getpid)
        interrupted += timer(child.start, (at % 100 + 1) * 20e-6)
        check(context, child, before)
    assert interrupted > 0
    child = context.Process(target=os.getpid)
    child.start()
    child.join()
    assert child.exitcode == 0


@pytest.mark.parametrize("context", METHODS, indirect=True)
def test_many_children_at_once(context, timer):
    """They are known while others are started."""
    before = len(descriptors())
    for _ in range(4):
        them = [context.Process(target=os.getpid) for _ in range(8)]

        def start_all(them=them):
            for each in them:
                each.start()

        timer(start_all, 3e-3)
        started = [each for each in them if each.pid is not None]
        for each in started:
            each.join()
            each.close()
        assert children() == set()
        assert fastmp.active_children() == []
    assert len(descriptors()) <= before + MADE_ONCE


def test_while_a_server_is_launched():
    """At every step: then there is no server, or one that is known."""
    server = fastmp.forkserver._forkserver

    def end():
        if (pid := server._forkserver_pid) is not None:
            os.kill(pid, signal.SIGKILL)
        server._stop()

    server.ensure_running()
    end()
    before = len(descriptors())
    for number in itertools.count(1):
        profile, places = raise_at(number)
        try:
            sys.setprofile(profile)
            server.ensure_running()
        except Interrupt:
            pass
        finally:
            sys.setprofile(None)
        assert children() == set(), places
        end()
        held = descriptors()
        assert len(held) <= before + MADE_ONCE, (places, {fd: where(fd) for fd in held})
        if not places:
            break
    assert number > 50
    child = fastmp.get_context("forkserver").Process(target=os.getpid)
    child.start()
    child.join()
    assert child.exitcode == 0


@pytest.mark.parametrize("context", METHODS, indirect=True)
def test_a_pool(context, timer):
    """It is there, or none of its workers."""
    with context.Pool(2) as pool:
        assert pool.map(abs, [-1]) == [1]
    pool.join()
    del pool
    gc.collect()
    before = len(descriptors())
    interrupted = 0
    made = []
    for at in range(100):
        interrupted += timer(lambda: made.append(context.Pool(2)), (at + 1) * 50e-6)
        while made:
            pool = made.pop()
            assert pool.apply(abs, (-1,)) == 1
            pool.terminate()
            pool.join()
            del pool
        # One that was made and that nobody got is ended by its watcher, in a moment.
        wait_until(lambda: not children() and not fastmp.active_children())
        wait_until(lambda: gc.collect() >= 0 and len(descriptors()) <= before + MADE_ONCE)
    assert interrupted > 0


@pytest.mark.parametrize("context", METHODS, indirect=True)
def test_a_handle_that_is_closed_in_the_meantime(context):
    """At every step of `close()`; called again, if it has been interrupted."""
    before = len(descriptors())
    for number in itertools.count(1):
        child = context.Process(target=os.getpid)
        child.start()
        child.join()
        profile, places = raise_at(number)
        try:
            sys.setprofile(profile)
            child.close()
        except Interrupt:
            with contextlib.suppress(ValueError):  # it is closed
                child.close()
        finally:
            sys.setprofile(None)
        del child
        held = descriptors()
        assert len(held) <= before + MADE_ONCE, (places, {fd: where(fd) for fd in held})
        if not places:
            break
    assert number > 3


@pytest.mark.parametrize("context", ["spawn", "forkserver"], indirect=True)
def test_a_handler_forks_in_the_middle(context, monkeypatch):
    """What its child does as it ends is nothing to the start."""
    forked = []

    def fork_behind(function):
        def call(*args):
            done = function(*args)
            if (pid := os.fork()) == 0:
                raise SystemExit
            forked.append(pid)
            return done

        return call

    if context.get_start_method() == "forkserver":
        monkeypatch.setattr(fastmp.forkserver.ForkServer, "_ask", fork_behind(fastmp.forkserver.ForkServer._ask))
    else:
        monkeypatch.setattr(fastmp.interpreters, "start", fork_behind(fastmp.interpreters.start))
    me = os.getpid()
    child = context.Process(target=os.getpid)
    try:
        child.start()
    finally:
        if os.getpid() != me:
            os._exit(7 if isinstance(sys.exc_info()[1], SystemExit) else 8)
    child.join()
    assert child.exitcode == 0
    assert os.waitstatus_to_exitcode(os.waitpid(forked[0], 0)[1]) == 7
