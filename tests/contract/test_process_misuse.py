"""What a process object refuses, and in which words: the stdlib's."""

import fractions
import os
import signal
import sys
import time
from decimal import Decimal

import pytest
from children import processes
from children.common import wait_until


@pytest.fixture
def running(mp, crew):
    flag = mp.RawValue("b")
    child = crew.start(processes.wait_for, flag, daemon=False)
    yield child
    flag.value = 1
    crew.join()


def says(error, text):
    return pytest.raises(error, match=f"^{text}$")


def in_a_fork(function):
    """What it raises in a forked child: the type's name and the message."""
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            function()
            said = "nothing"
        except BaseException as error:
            said = f"{type(error).__name__}: {error}"
        os.write(writing, said.encode())
        os._exit(0)
    os.waitpid(pid, 0)
    os.close(writing)
    with open(reading) as pipe:
        return pipe.read()


def test_before_start(mp):
    child = mp.Process(target=processes.nothing)
    with says(AssertionError, "can only join a started process"):
        child.join()
    with says(ValueError, "process not started"):
        child.sentinel
    for end in (child.terminate, child.kill):
        with pytest.raises(AttributeError):
            end()
    assert (child.pid, child.exitcode, child.is_alive()) == (None, None, False)
    assert repr(child).endswith(f" parent={os.getpid()} initial>")
    assert in_a_fork(child.start) == ("AssertionError: can only start a process object created by current process")


def test_while_it_runs(running):
    with says(AssertionError, "cannot start a process twice"):
        running.start()
    with says(AssertionError, "process has already started"):
        running.daemon = True
    text = r"Cannot close a process while it is still running. You should first call join\(\) or terminate\(\)."
    with says(ValueError, text):
        running.close()
    assert repr(running).endswith(f" pid={running.pid} parent={os.getpid()} started>")
    assert in_a_fork(running.join) == "AssertionError: can only join a child process"
    assert in_a_fork(running.is_alive) == "AssertionError: can only test a child process"


def test_after_its_end(mp, crew):
    child = crew.start(processes.nothing)
    child.join()
    assert repr(child).endswith(f" pid={child.pid} parent={os.getpid()} stopped exitcode=0 daemon>")
    with says(AssertionError, "cannot start a process twice"):
        child.start()
    with says(AssertionError, "process has already started"):
        child.daemon = False
    child.close()
    for use in (child.join, child.is_alive, child.kill, child.terminate, child.start):
        with says(ValueError, "process object is closed"):
            use()
    for name in ("pid", "ident", "exitcode", "sentinel"):
        with says(ValueError, "process object is closed"):
            getattr(child, name)
    with says(ValueError, "process object is closed"):
        child.is_alive()
    assert repr(child).startswith(f"<{type(child).__name__} name={child.name!r} parent={os.getpid()} closed")
    child.close()


def test_names_and_keys(mp):
    child = mp.Process(name="a name")
    with says(AssertionError, "name must be a string"):
        child.name = 5
    child.authkey = b"some key"
    assert type(child.authkey).__name__ == "AuthenticationString"
    with pytest.raises(TypeError):
        child.authkey = "a text"
    with says(AssertionError, "group argument must be None for now"):
        mp.Process(group=1)
    assert mp.Process(daemon=1).daemon == 1


def test_repr_of_ends(mp, crew):
    for way, shown in (("SIGKILL", "-SIGKILL"), ("SIGTERM", "-SIGTERM"), ("sys.exit(3)", "3")):
        child = crew.start(processes.end_by, way)
        child.join()
        assert f" stopped exitcode={shown} " in repr(child)


def test_keyword_arguments_are_copied(mp):
    args, kwargs = [1], {"factor": 2}
    child = mp.Process(target=processes.store, args=args, kwargs=kwargs)
    args.append(2)
    kwargs["more"] = 1
    assert (child._args, child._kwargs) == ((1,), {"factor": 2})


NEWER = pytest.mark.fastmp_only("the stdlib has it on newer versions of Python")


@NEWER
def test_no_keyword_arguments(mp, crew):
    child = mp.Process(target=processes.nothing, kwargs=None)
    assert child._kwargs == {}
    child.start()
    child.join()
    assert child.exitcode == 0


@NEWER
def test_interrupt(mp, crew):
    out = mp.RawValue("i")
    child = crew.start(processes.note_interrupt, out)
    wait_until(lambda: out.value == 1)
    assert child.interrupt() is None
    child.join()
    assert (child.exitcode, out.value) == (0, 2)
    child.interrupt()  # nobody there any more
    child.close()
    with says(ValueError, "process object is closed"):
        child.interrupt()
    with pytest.raises(AttributeError):
        mp.Process().interrupt()


@NEWER
def test_an_interrupt_that_nobody_handles(mp, crew, capfd):
    running = mp.RawValue("b")
    child = crew.start(processes.sleep_for_ever, running)
    wait_until(lambda: running.value)
    child.interrupt()
    child.join()
    assert child.exitcode == 1


@pytest.mark.fastmp_only("the stdlib takes what its selectors take")
@pytest.mark.parametrize("timeout", [0.05, fractions.Fraction(1, 20), Decimal("0.05"), True, -1, -0.5, 0, Decimal(0)])
def test_any_real_number_is_a_timeout(running, timeout):
    started = time.monotonic()
    running.join(timeout)
    assert time.monotonic() - started >= float(timeout) - 0.002
    assert running.is_alive()


@pytest.mark.fastmp_only("the stdlib raises OverflowError")
@pytest.mark.parametrize("timeout", [1e9, 1e300, float("inf"), 10**12, 3_000_000])
def test_a_timeout_of_years(mp, crew, timeout):
    child = crew.start(processes.nothing)
    child.join(timeout)
    assert child.exitcode == 0


def test_what_is_no_timeout(running):
    for wrong in ("1", b"1", [], 1j):
        with pytest.raises(TypeError):
            running.join(wrong)
    assert running.is_alive()


@pytest.mark.skipif(sys.version_info < (3, 12), reason="Python warns from 3.12 on")
@pytest.mark.method("fork")
def test_a_fork_beside_threads_warns(mp, crew):
    import threading

    with pytest.warns(DeprecationWarning, match="multi-threaded, use of fork"):
        stop = threading.Event()
        thread = threading.Thread(target=stop.wait)
        thread.start()
        try:
            child = mp.Process(target=processes.nothing)
            child.start()
        finally:
            stop.set()
            thread.join()
    child.join()
    assert child.exitcode == 0


def test_signals_after_the_end(mp, crew):
    child = crew.start(processes.end_by, "SIGKILL")
    child.join()
    child.terminate()
    child.kill()
    assert child.exitcode == -signal.SIGKILL
