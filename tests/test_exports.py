"""What the package promises to export, and what importing it costs nobody."""

import inspect
import multiprocessing
import os
import subprocess
import sys
import types

import fastmp
import pytest

PROMISED = {
    "Array",
    "AuthenticationError",
    "BoundedSemaphore",
    "BufferTooShort",
    "CorruptedError",
    "Event",
    "Lock",
    "OwnerDiedWarning",
    "Pipe",
    "Process",
    "ProcessError",
    "Queue",
    "RLock",
    "RawArray",
    "RawValue",
    "Semaphore",
    "TimeoutError",
    "Value",
    "active_children",
    "allow_connection_pickling",
    "cpu_count",
    "current_process",
    "freeze_support",
    "get_all_start_methods",
    "get_context",
    "get_logger",
    "get_start_method",
    "log_to_stderr",
    "parent_process",
    "reducer",
    "set_executable",
    "set_start_method",
}


def run_python(code):
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)


def test_all_is_what_is_promised():
    assert set(fastmp.__all__) >= PROMISED
    assert len(fastmp.__all__) == len(set(fastmp.__all__))
    for name in fastmp.__all__:
        assert hasattr(fastmp, name), name


def test_nothing_else_is_public():
    public = {
        name
        for name, value in vars(fastmp).items()
        if not name.startswith("_") and not isinstance(value, types.ModuleType)
    }
    assert public <= set(fastmp.__all__)


def test_star_import():
    names = {}
    exec("from fastmp import *", names)
    assert set(names) >= PROMISED


def test_all_is_of_the_stdlib_or_ours():
    ours = {"OwnerDiedWarning", "CorruptedError"}
    assert {name for name in fastmp.__all__ if not name.startswith("__")} - ours <= set(multiprocessing.__all__) | {
        "RawArray",
        "RawValue",
    }


def test_our_errors():
    assert issubclass(fastmp.OwnerDiedWarning, RuntimeWarning)
    assert issubclass(fastmp.CorruptedError, RuntimeError)
    for error in (fastmp.OwnerDiedWarning, fastmp.CorruptedError):
        assert error.__module__.startswith("fastmp")
        assert inspect.getdoc(error)
        assert error("text").args == ("text",)


def test_typed():
    directory = os.path.dirname(fastmp.__file__)
    assert os.path.exists(os.path.join(directory, "py.typed"))
    assert os.path.exists(os.path.join(directory, "_native.pyi"))


@pytest.mark.parametrize("name", ["darwin", "win32", "freebsd14"])
def test_other_platforms_are_told(name):
    done = run_python(f"import sys; sys.platform = {name!r}\nimport fastmp")
    assert done.returncode != 0
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("ImportError")
    assert "Linux" in last


def test_importing_starts_nothing():
    done = run_python(
        "import os\n"
        "before = set(os.listdir('/proc/self/fd'))\n"
        "import fastmp, threading\n"
        "assert threading.active_count() == 1\n"
        "assert len(os.listdir('/proc/self/task')) == 1\n"
        "import glob\n"
        "assert not any(open(p).read() for p in glob.glob('/proc/self/task/*/children'))\n"
        "assert len(os.listdir('/proc/self/fd')) <= len(before)\n"
        "assert '/memfd:' not in open('/proc/self/maps').read()\n"
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_importing_pulls_in_little():
    done = run_python(
        "import sys, multiprocessing\n"
        "before = set(sys.modules)\n"
        "import fastmp\n"
        "print(*sorted(m for m in set(sys.modules) - before if not m.startswith('fastmp')))\n"
    )
    assert done.returncode == 0, done.stderr
    heavy = {"ctypes", "socket", "subprocess", "selectors", "tempfile", "logging", "random"}
    assert not heavy & set(done.stdout.split())


def test_it_can_be_imported_again_and_reloaded_by_children():
    done = run_python("import fastmp, sys; del sys.modules['fastmp']; import fastmp; fastmp.Lock().acquire()")
    assert done.returncode == 0, done.stderr
