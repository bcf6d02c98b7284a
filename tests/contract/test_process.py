"""Process, held to what the stdlib's does."""

import importlib
import multiprocessing
import os
import signal
import threading
import time
from multiprocessing.connection import wait

import pytest
from children import processes, subclasses
from children.common import look_at, process_table, wait_until


def test_life_of_a_process(mp, crew):
    flag = mp.RawValue("b")
    child = mp.Process(target=processes.wait_for, args=(flag,), name="some name")
    assert (child.name, child.pid, child.ident, child.exitcode) == ("some name", None, None, None)
    assert child.is_alive() is False
    with pytest.raises(ValueError):
        _ = child.sentinel
    with pytest.raises(AssertionError):
        child.join()
    assert child not in mp.active_children()
    assert child.start() is None
    assert child.pid == child.ident == look_at(child.pid).pid
    if mp.get_start_method() != "forkserver":
        assert look_at(child.pid).parent == os.getpid()
    assert child.is_alive() is True
    assert child.exitcode is None
    assert child in mp.active_children()
    with pytest.raises(AssertionError):
        child.start()
    started = time.monotonic()
    assert child.join(0.1) is None
    assert time.monotonic() - started >= 0.098
    assert child.is_alive()
    for timeout in (0, -1):
        child.join(timeout)
        assert child.is_alive()
    flag.value = 1
    child.join()
    assert (child.exitcode, child.is_alive()) == (0, False)
    assert child not in mp.active_children()
    assert look_at(child.pid) is None
    child.join()
    child.join(0)
    child.close()


def test_arguments(mp):
    out = mp.RawValue("i")
    child = mp.Process(None, processes.store, None, (out, 6), {"factor": 7})
    child.start()
    child.join()
    assert out.value == 42
    child = mp.Process(target=processes.store, args=[out, 6], kwargs={"factor": 2})
    child.start()
    child.join()
    assert out.value == 12
    with pytest.raises(AssertionError):
        mp.Process("a group")
    with pytest.raises(TypeError):
        mp.Process(None, processes.nothing, None, (), {}, True)  # daemon is by keyword only
    with pytest.raises(TypeError):
        mp.Process(args=1)


def test_no_target(mp):
    child = mp.Process()
    child.start()
    child.join()
    assert child.exitcode == 0


def test_names(mp):
    first, second = mp.Process(), mp.Process()
    assert first.name != second.name
    assert "Process-" in first.name
    first.name = "renamed"
    assert first.name == "renamed"
    assert repr(first).endswith("initial>")
    assert "name='renamed'" in repr(first)


@pytest.mark.parametrize(
    ("way", "code"),
    [
        ("return", 0),
        ("sys.exit()", 0),
        ("sys.exit(3)", 3),
        ("sys.exit(text)", 1),
        ("os._exit(7)", 7),
        ("raise", 1),
        ("SIGKILL", -signal.SIGKILL),
        ("SIGTERM", -signal.SIGTERM),
    ],
)
def test_exit_codes(mp, crew, way, code):
    child = crew.start(processes.end_by, way)
    child.join()
    assert child.exitcode == code
    assert "stopped" in repr(child)


def test_terminate_and_kill(mp, crew):
    for end, code in (("terminate", -signal.SIGTERM), ("kill", -signal.SIGKILL)):
        running = mp.RawValue("b")
        child = crew.start(processes.sleep_for_ever, running)
        wait_until(lambda flag=running: flag.value)
        assert getattr(child, end)() is None
        child.join()
        assert child.exitcode == code
        getattr(child, end)()
    running = mp.RawValue("b")
    child = crew.start(processes.ignore_sigterm, running)
    wait_until(lambda: running.value)
    child.terminate()
    child.join(0.1)
    assert child.is_alive()
    child.kill()
    child.join()
    assert child.exitcode == -signal.SIGKILL


def test_close(mp, crew):
    child = crew.start(processes.sleep_for_ever)
    with pytest.raises(ValueError):
        child.close()
    child.kill()
    child.join()
    child.close()
    child.close()
    for use in (
        child.join,
        child.is_alive,
        child.kill,
        child.terminate,
        child.start,
        lambda: child.pid,
        lambda: child.exitcode,
        lambda: child.sentinel,
    ):
        with pytest.raises(ValueError):
            use()
    assert "closed" in repr(child)


def test_closing_frees_descriptors(mp):
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(5):
        child = mp.Process(target=processes.nothing)
        child.start()
        child.join()
        child.close()
    # What leads to the program's resource tracker is there from the first start on.
    assert len(os.listdir("/proc/self/fd")) <= before + 3


def test_sentinel(mp, crew):
    flag = mp.RawValue("b")
    child = crew.start(processes.wait_for, flag)
    assert type(child.sentinel) is int
    assert wait([child.sentinel], 0.05) == []
    flag.value = 1
    assert wait([child.sentinel]) == [child.sentinel]
    crew.join()


def test_sentinels_of_many(mp, crew):
    flags = [mp.RawValue("b") for _ in range(3)]
    members = [crew.start(processes.wait_for, flag) for flag in flags]
    for i in (1, 2, 0):
        flags[i].value = 1
        assert wait([members[i].sentinel]) == [members[i].sentinel]
        members[i].join()
        assert all(members[j].is_alive() == (not flags[j].value) for j in range(3))
    crew.join()


def test_what_a_child_knows(mp, module, crew):
    ours, theirs = mp.Pipe()
    child = mp.Process(target=processes.describe, args=(theirs, module), name="child's name")
    child.start()
    seen = ours.recv()
    child.join()
    me = importlib.import_module(module).current_process()
    assert seen["name"] == "child's name"
    assert seen["pid"] == seen["ident"] == seen["getpid"] == child.pid
    assert seen["getppid"] == os.getpid() or mp.get_start_method() == "forkserver"
    assert seen["daemon"] is False
    assert seen["alive"] is True
    assert seen["same"] is True
    assert seen["authkey"] == bytes(me.authkey)
    assert seen["class"] == type(child).__name__
    assert seen["parent"] == (me.name, os.getpid(), os.getpid(), True)
    assert seen["children"] == []
    if mp.get_start_method() == "spawn":
        assert seen["method"] == "spawn"


def test_this_process(mp, module):
    package = importlib.import_module(module)
    assert package.current_process().name == mp.current_process().name == "MainProcess"
    assert package.current_process().pid == os.getpid()
    assert package.current_process() is multiprocessing.current_process()
    assert package.parent_process() is None
    assert mp.active_children() == []


def test_subclass(mp, module):
    child = subclasses.OF[module, mp.get_start_method()](mp.RawValue("i"))
    child.start()
    child.join()
    assert child.exitcode == 0
    assert child.out.value == child.pid


def test_daemons(mp, module, crew):
    for daemon in (True, False):
        child = mp.Process(daemon=daemon)
        assert child.daemon is daemon
    assert mp.Process().daemon is False
    child = mp.Process(target=processes.start_forbidden, args=(module, mp.get_start_method()))
    child.daemon = True
    child.start()
    with pytest.raises(AssertionError):
        child.daemon = False
    child.join()
    assert child.exitcode == 0


def test_grandchild(mp, module, crew):
    out = mp.RawValue("i")
    child = crew.start(processes.start_grandchild, out, module, mp.get_start_method(), daemon=False)
    crew.join()
    assert out.value == child.pid


def test_end_of_the_parent_is_seen(mp, module, crew):
    out = mp.RawValue("i")
    child = crew.start(processes.start_and_be_killed, out, module, mp.get_start_method(), daemon=False)
    child.join()
    assert child.exitcode == -signal.SIGKILL
    wait_until(lambda: out.value >= 2, "the grandchild to see it")
    assert out.value == 2


@pytest.mark.method("spawn")
def test_failed_start_leaves_nothing(mp):
    before = {p.pid for p in process_table() if p.parent == os.getpid() and not p.is_resource_tracker()}
    child = mp.Process(target=processes.nothing, args=(threading.Lock(),))
    with pytest.raises(TypeError):
        child.start()
    after = {p.pid for p in process_table() if p.parent == os.getpid() and not p.is_resource_tracker()}
    assert after == before
    assert mp.active_children() == []
    out = mp.RawValue("i")
    child = mp.Process(target=processes.store, args=(out, 1))
    child.start()
    child.join()
    assert out.value == 1


@pytest.mark.method("fork")
def test_standard_input_is_empty(mp, crew):
    out = mp.RawValue("i", -1)
    crew.run(processes.note_standard_input, out)
    assert out.value == 1


def test_finalizers_run_in_the_child(mp, crew):
    out = mp.RawValue("i")
    crew.run(processes.run_at_exit, out)
    assert out.value == 5


def test_only_the_parent_may_join(mp, crew):
    flag = mp.RawValue("b")
    child = crew.start(processes.wait_for, flag)
    pid = os.fork()
    if pid == 0:
        try:
            child.join(0)
        except AssertionError:
            os._exit(0)
        os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    flag.value = 1
    crew.join()


def test_many_at_once(mp, crew):
    outs = [mp.RawValue("i") for _ in range(10)]
    for i, out in enumerate(outs):
        crew.start(processes.store, out, i + 1)
    assert len(mp.active_children()) <= 10
    crew.join()
    assert [out.value for out in outs] == list(range(1, 11))


def test_joined_from_another_thread(mp, crew):
    flag = mp.RawValue("b")
    child = crew.start(processes.wait_for, flag)
    threading.Timer(0.05, setattr, (flag, "value", 1)).start()
    thread = threading.Thread(target=child.join)
    thread.start()
    thread.join()
    assert child.exitcode == 0


@pytest.mark.method("spawn")
def test_spawned_child_inherits_no_descriptors(mp, crew):
    out = mp.RawValue("i", -1)
    crew.run(processes.count_descriptors, out)
    baseline = out.value
    held = [os.open("/dev/null", os.O_RDONLY) for _ in range(50)]
    for fd in held:
        os.set_inheritable(fd, False)
    crew.run(processes.count_descriptors, out)
    for fd in held:
        os.close(fd)
    assert out.value == baseline
