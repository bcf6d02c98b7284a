"""What the package promises to export, and what importing it costs nobody."""

import ast
import importlib
import inspect
import multiprocessing
import os
import pickle
import pkgutil
import subprocess
import sys
import types

import fastmp
import pytest

# All of it, name for name: a name that comes or goes is a change of the promise, and is made here
# as well.
PROMISED = [
    "Array",
    "AuthenticationError",
    "Barrier",
    "BatchError",
    "BoundedSemaphore",
    "Broadcast",
    "BufferTooShort",
    "Condition",
    "CorruptedError",
    "Event",
    "JoinableQueue",
    "Lock",
    "Manager",
    "OwnerDiedWarning",
    "Pipe",
    "Pool",
    "Process",
    "ProcessError",
    "ProcessPoolExecutor",
    "Queue",
    "RLock",
    "RawArray",
    "RawValue",
    "Semaphore",
    "ShutDown",
    "SimpleQueue",
    "TimeoutError",
    "Value",
    "WorkerDiedError",
    "WorkerDiedWarning",
    "accelerated",
    "active_children",
    "allow_connection_pickling",
    "cpu_count",
    "current_process",
    "freeze_support",
    "get_all_start_methods",
    "get_context",
    "get_logger",
    "get_start_method",
    "install",
    "log_to_stderr",
    "parent_process",
    "reducer",
    "set_executable",
    "set_forkserver_preload",
    "set_start_method",
    "uninstall",
    "with_timeout",
]
OURS = {
    "BatchError",
    "Broadcast",
    "CorruptedError",
    "OwnerDiedWarning",
    "ProcessPoolExecutor",
    "ShutDown",
    "WorkerDiedError",
    "WorkerDiedWarning",
    "accelerated",
    "install",
    "uninstall",
    "with_timeout",
}
# Found when they are asked for: their modules are not imported for nothing.
ON_DEMAND = {
    *("BatchError", "ProcessPoolExecutor", "ShutDown", "WorkerDiedError", "WorkerDiedWarning"),
    *("install", "uninstall", "with_timeout"),
}

# Modules of ours, and what each of them promises.
MODULES = {
    "broadcast": ["Broadcast", "BroadcastStats", "Reader", "ReaderInfo", "ReaderLaggingError"],
    "connection": ["Client", "Connection", "Listener", "Pipe", "wait"],
    "context": [
        "AuthenticationError",
        "BaseContext",
        "BufferTooShort",
        "DefaultContext",
        "ForkContext",
        "ForkProcess",
        "ForkServerContext",
        "ForkServerProcess",
        "Process",
        "ProcessError",
        "SpawnContext",
        "SpawnProcess",
        "TimeoutError",
        "assert_spawning",
        "get_spawning_popen",
        "set_spawning_popen",
    ],
    "exceptions": [
        "AuthenticationError",
        "BatchError",
        "BufferTooShort",
        "CorruptedError",
        "OwnerDiedWarning",
        "ProcessError",
        "ShutDown",
        "TimeoutError",
        "WorkerDiedError",
        "WorkerDiedWarning",
    ],
    "forkserver": ["ForkServer", "ensure_running", "get_inherited_fds", "set_forkserver_preload"],
    "futures": ["BrokenProcessPool", "ProcessPoolExecutor", "with_timeout"],
    "pool": [
        "ApplyResult",
        "AsyncResult",
        "IMapIterator",
        "IMapUnorderedIterator",
        "MapResult",
        "MaybeEncodingError",
        "Pool",
        "RemoteTraceback",
        "ThreadPool",
        "shared",
    ],
    "process": ["BaseProcess", "active_children", "current_process", "parent_process"],
    "queue_stats": ["QueueStats"],
    "queues": ["Empty", "Full", "JoinableQueue", "Queue", "QueueStats", "ShutDown", "SimpleQueue"],
    "sharedctypes": ["Array", "RawArray", "RawValue", "Value", "copy", "synchronized"],
    "spawn_main": ["freeze_support", "spawn_main"],
    "synchronize": [
        "Barrier",
        "BoundedSemaphore",
        "Condition",
        "Event",
        "Lock",
        "RLock",
        "SemLock",
        "Semaphore",
    ],
    "unchanged": ["install", "is_installed", "travelling", "uninstall"],
}
INTERNAL = {
    *("asynchronous", "bootstrap", "deferred", "forkserver_main", "handles", "interpreters", "launching"),
    *("lifelines", "noting", "on_import"),
    *("picklers", "pickling", "pickling_errors", "popen", "popen_fork", "popen_forkserver", "popen_spawn"),
    *("popen_spawn_as_told", "shared_tracker", "start_method", "threading_hook"),
}
INTERNAL |= {"__main__", "command", "doctor", "doctor_limits", "doctor_probes", "running"}

# The stdlib's modules themselves, which our package has under its own name.
SAME = {
    "dummy",
    "heap",
    "managers",
    "reduction",
    "resource_sharer",
    "resource_tracker",
    "shared_memory",
    "spawn",
    "util",
}
LEVELS = {"SUBDEBUG", "SUBWARNING"}  # which the stdlib has beside `__all__`


def run_python(code):
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)


def test_all_is_what_is_promised():
    assert fastmp.__all__ == PROMISED
    for name in PROMISED:
        assert hasattr(fastmp, name), name


def test_all_of_the_stdlib_is_there():
    assert set(PROMISED) - OURS == set(multiprocessing.__all__)


def test_nothing_else_is_public():
    public = {
        name
        for name, value in vars(fastmp).items()
        if not name.startswith("_") and (name in PROMISED or not isinstance(value, types.ModuleType))
    }
    assert public | ON_DEMAND == {*PROMISED, *LEVELS}


def test_star_import():
    names = {}
    exec("from fastmp import *", names)
    assert set(names) - {"__builtins__"} == set(PROMISED)


def test_every_module_is_known():
    files = {name.partition(".")[0] for name in os.listdir(os.path.dirname(fastmp.__file__)) if name.endswith(".py")}
    assert files - {"__init__"} == set(MODULES) | INTERNAL | SAME


@pytest.mark.parametrize("name", MODULES)
def test_modules_export_what_is_promised(name):
    module = importlib.import_module(f"fastmp.{name}")
    assert module.__all__ == MODULES[name]
    for promised in MODULES[name]:
        assert hasattr(module, promised), promised


@pytest.mark.parametrize(
    "name", sorted((set(MODULES) | SAME) & {module.name for module in pkgutil.iter_modules(multiprocessing.__path__)})
)
def test_modules_have_all_that_the_stdlibs_have(name):
    """Private names too: programs use them.

    By an import, and by what a program finds without one.
    """
    for code in (f"import fastmp.{name}; ours = fastmp.{name}", f"import fastmp; ours = fastmp.{name}"):
        done = run_python(
            f"{code}\n"
            f"import multiprocessing.{name} as theirs\n"
            "print(ours is theirs, *[name for name in dir(theirs) if not hasattr(ours, name)])"
        )
        assert (done.stdout, done.stderr) == (f"{name in SAME}\n", "")


def test_a_submodule_of_a_module_that_is_the_stdlibs():
    done = run_python(
        "import fastmp.dummy.connection as ours\n"
        "import multiprocessing.dummy.connection as theirs\n"
        "assert ours is theirs\n"
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_our_errors():
    assert issubclass(fastmp.OwnerDiedWarning, RuntimeWarning)
    assert issubclass(fastmp.CorruptedError, RuntimeError)
    assert issubclass(fastmp.WorkerDiedWarning, RuntimeWarning)
    assert issubclass(fastmp.WorkerDiedError, fastmp.ProcessError)
    for error in (fastmp.OwnerDiedWarning, fastmp.CorruptedError, fastmp.WorkerDiedError, fastmp.WorkerDiedWarning):
        assert error.__module__.startswith("fastmp")
        assert inspect.getdoc(error)
        assert error("text").args == ("text",)
    died = pickle.loads(pickle.dumps(fastmp.WorkerDiedError("text", pids=[7, 8], exitcode=-9)))
    assert (died.args, died.pid, died.pids, died.exitcode, died.signal) == (("text",), 7, (7, 8), -9, "SIGKILL")
    bad = pickle.loads(pickle.dumps(fastmp.BatchError([1], [(0, ValueError("so"))])))
    assert (bad.objects, bad.errors[0][0], str(bad.errors[0][1])) == ([1], 0, "so")


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


@pytest.mark.not_emulated("the emulator has threads of its own")
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
    heavy = {"ctypes", "socket", "subprocess", "selectors", "tempfile", "logging", "random", "dataclasses", "queue"}
    assert not heavy & set(done.stdout.split())


def test_it_can_be_imported_again_and_reloaded_by_children():
    done = run_python("import fastmp, sys; del sys.modules['fastmp']; import fastmp; fastmp.Lock().acquire()")
    assert done.returncode == 0, done.stderr


def test_levels_of_the_logger():
    for name in LEVELS:
        assert getattr(fastmp, name) == getattr(multiprocessing, name)


def documented():
    """What the stub says of the native module's public names, each with its text."""
    path = os.path.join(os.path.dirname(fastmp.__file__), "_native.pyi")
    with open(path) as file:
        top = ast.parse(file.read()).body
    for item in top:
        if isinstance(item, (ast.ClassDef, ast.FunctionDef)) and not item.name.startswith("_"):
            yield item.name, ast.get_docstring(item)
            for inner in getattr(item, "body", []):
                if isinstance(inner, ast.FunctionDef) and not inner.name.startswith("_"):
                    yield f"{item.name}.{inner.name}", ast.get_docstring(inner)


def words(text):
    """Its words, without the dashes of a list."""
    return [word for word in text.split() if word != "-"]


def test_the_stub_says_what_the_module_says():
    from fastmp import _native

    names = {name: text for name, text in documented() if text}
    assert len(names) > 70
    for name, text in names.items():
        found = _native
        for part in name.split("."):
            found = getattr(found, part)
        assert words(inspect.getdoc(found)) == words(text), name
