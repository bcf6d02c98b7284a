"""What every test shares: the implementations under test, a watchdog, and the end of stray
children.

A test that asks for `mp` runs for fastmp and for the stdlib, each with fork and with spawn; for
fastmp with forkserver too; and one that is marked `fastmp_only(reason)` for fastmp alone. Where the
fastmp that is installed is the portable one, it is the stdlib, and is tested as such.
What child processes run lives in the package `children`, which spawned children import by name: it
imports neither pytest nor the tests, whatever import mode pytest is in.
"""

import contextlib
import ctypes
import faulthandler
import gc
import importlib
import itertools
import multiprocessing
import os
import signal
import sys
import zlib

import fastmp
import pytest

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))

from children.common import children_of, look_at

METHODS = ("fork", "spawn", "forkserver")
collect_ignore = ["portable"] if fastmp.accelerated else []
# What these show is the core's, whichever interpreter it is in: with FASTMP_TEST_SHARE=1/2 some half
# of their tests is run, with 2/2 the others. With FASTMP_TEST_PART so it is of all tests.
CORE = {
    *("test_foreign", "test_growth", "test_kill", "test_kill_sync", "test_leaks", "test_lifetime", "test_soak"),
    *("test_barrier", "test_condition", "test_event", "test_lock", "test_rlock", "test_semaphore", "test_value"),
    *("test_array", "test_joinable_queue", "test_pipe", "test_pipe_writable", "test_queue", "test_simple_queue"),
    *("test_fork", "test_kill_processes", "test_loans", "test_pool_deaths", "test_queue_requeue"),
}
LIMIT = 60.0  # seconds for a test that names no limit of its own
PR_SET_CHILD_SUBREAPER = 36

_stderr = None  # the terminal, however much pytest captures


def pytest_configure(config):
    global _stderr
    config.addinivalue_line("markers", "fastmp_only(reason): the stdlib differs, or has no such thing")
    config.addinivalue_line("markers", "not_emulated(reason): qemu's user mode is not as a kernel is there")
    config.addinivalue_line("markers", "method(name...): it is about some start methods alone")
    capture = config.pluginmanager.getplugin("capturemanager")
    with capture.global_and_fixture_disabled():
        _stderr = os.dup(2)
    # A spawned child imports its parent's main module: pytest's is slow, and of no use to it.
    main = sys.modules["__main__"]
    main.__spec__ = None
    vars(main).pop("__file__", None)
    # A shell starts what it puts in the background with SIGINT ignored, and so are all its descendants.
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    # Orphaned grandchildren become ours, so that they can be found and ended.
    ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def pytest_generate_tests(metafunc):
    if "mp" not in metafunc.fixturenames:
        return
    only = metafunc.definition.get_closest_marker("fastmp_only")
    modules = ("fastmp",) if only or not fastmp.accelerated else ("multiprocessing", "fastmp")
    one = metafunc.definition.get_closest_marker("method")
    pairs = [
        (module, method)
        for module in modules
        for method in (one.args if one else METHODS)
        if one or (module, method) != ("multiprocessing", "forkserver")  # nobody's but the stdlib's
    ]
    metafunc.parametrize("mp", pairs, indirect=True, ids=[f"{module}-{method}" for module, method in pairs])


def is_in(part, item):
    """Is this test in that part of all, as "1/2" is?"""
    number, parts = map(int, part.split("/"))
    return zlib.crc32(f"{item.path.stem}::{item.name}".encode()) % parts == number - 1


def pytest_collection_modifyitems(config, items):
    share, part = (os.environ.get(f"FASTMP_TEST_{name}", "1/1") for name in ("SHARE", "PART"))
    left_out = [item for item in items if not is_in(part, item) or (item.path.stem in CORE and not is_in(share, item))]
    config.hook.pytest_deselected(items=left_out)
    items[:] = [item for item in items if item not in left_out]
    for item in items:
        if item.get_closest_marker("timeout") is None:
            item.add_marker(pytest.mark.timeout(LIMIT, method="signal"))
        emulated = os.environ.get("FASTMP_TEST_EMULATED") and item.get_closest_marker("not_emulated")
        if emulated:
            item.add_marker(pytest.mark.skip(reason=f"emulated: {emulated.args[0]}"))
        only = item.get_closest_marker("fastmp_only")
        if only and not fastmp.accelerated:
            item.add_marker(pytest.mark.skip(reason=f"for fastmp's core alone: {only.args[0]}"))


def pytest_collection_finish():
    set_aside()


def set_aside():
    """Tests collect garbage again and again: what is there now is not looked through each time."""
    gc.unfreeze()
    gc.collect()
    gc.freeze()


@pytest.fixture
def mp(request):
    """The context under test: `multiprocessing` or `fastmp`, with fork or spawn."""
    module, method = request.param
    return importlib.import_module(module).get_context(method)


@pytest.fixture
def module(mp):
    """The name of the package that `mp` is of."""
    return type(mp).__module__.partition(".")[0]


@pytest.fixture
def native(module):
    """Is it fastmp with its core, and not the stdlib by whatever name?"""
    return module == "fastmp" and fastmp.accelerated


@pytest.fixture(autouse=True)
def watchdog(request):
    """Ends the run, with every thread's stack, where the timeout's signal is not even looked at."""
    limit = request.node.get_closest_marker("timeout").args[0]
    faulthandler.dump_traceback_later(limit + 20, exit=True, file=_stderr)
    yield
    faulthandler.cancel_dump_traceback_later()


def forkservers():
    """The numbers of the servers that run, the stdlib's and ours: they do for all tests."""
    numbers = []
    for package in ("multiprocessing", "fastmp"):
        module = sys.modules.get(f"{package}.forkserver")
        number = module and module._forkserver._forkserver_pid
        if number and (seen := look_at(number)) is not None and seen.state == "Z":  # killed by a test
            module._forkserver._stop()
        elif number:
            numbers.append(number)
    return numbers


def tracker():
    """The number of the stdlib's other helper: until its program runs it cannot be told by name."""
    module = sys.modules.get("multiprocessing.resource_tracker")
    return module and module._resource_tracker._pid


def is_stray(process, servers):
    return process.pid not in (*servers, tracker()) and not process.is_resource_tracker()


_tests = itertools.count(1)


@pytest.fixture(autouse=True)
def no_strays():
    yield
    for child in multiprocessing.active_children():
        child.kill()
        child.join()
    servers = forkservers()
    parents = [os.getpid(), *servers]
    while strays := [p for parent in parents for p in children_of(parent) if is_stray(p, servers)]:
        for stray in strays:
            with contextlib.suppress(ProcessLookupError):
                os.kill(stray.pid, signal.SIGKILL)
            with contextlib.suppress(ChildProcessError):
                os.waitpid(stray.pid, 0)
    gc.collect()
    if next(_tests) % 50 == 0:
        set_aside()  # pytest keeps something of each test


class Crew:
    """Child processes of one test."""

    def __init__(self, mp):
        self.mp = mp
        self.members = []

    def start(self, target, *args, daemon=True, **kwargs):
        member = self.mp.Process(target=target, args=args, kwargs=kwargs, daemon=daemon)
        member.start()
        self.members.append(member)
        return member

    def join(self):
        """Waits for all that were started, and expects that each ended well."""
        for member in self.members:
            member.join()
        assert [member.exitcode for member in self.members] == [0] * len(self.members)

    def run(self, target, *args):
        """One child, from start to good end."""
        member = self.mp.Process(target=target, args=args)
        member.start()
        member.join()
        assert member.exitcode == 0

    def kill(self, member):
        """SIGKILL, waited for; the victim is no longer expected to end well."""
        if member in self.members:
            self.members.remove(member)
        member.kill()
        member.join()
        assert member.exitcode == -signal.SIGKILL


@pytest.fixture
def crew(mp):
    return Crew(mp)
