"""Contexts and what stands in the package itself, held to what the stdlib has."""

import importlib
import inspect
import logging
import multiprocessing
import os
import subprocess
import sys

import pytest

NAMES = [
    "Lock",
    "RLock",
    "Semaphore",
    "BoundedSemaphore",
    "Event",
    "Queue",
    "Pipe",
    "Value",
    "Array",
    "RawValue",
    "RawArray",
    "Process",
    "current_process",
    "parent_process",
    "active_children",
    "cpu_count",
    "get_context",
    "set_start_method",
    "get_start_method",
    "get_all_start_methods",
    "freeze_support",
    "get_logger",
    "log_to_stderr",
    "set_executable",
    "allow_connection_pickling",
    "reducer",
]
ERRORS = ["ProcessError", "BufferTooShort", "TimeoutError", "AuthenticationError"]


def run_python(code, *args):
    """Runs code in an interpreter of its own, and gives what it printed."""
    done = subprocess.run([sys.executable, "-c", code, *args], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_get_context(mp, module):
    package = importlib.import_module(module)
    method = mp.get_start_method()
    assert method in ("fork", "spawn", "forkserver")
    assert package.get_context(method) is mp
    assert mp.get_context() is mp
    for other in ("fork", "spawn", "forkserver"):
        assert mp.get_context(other).get_start_method() == other
    for wrong in ("bogus", "", 5):
        with pytest.raises((ValueError, TypeError)):
            package.get_context(wrong)
        with pytest.raises((ValueError, TypeError)):
            mp.get_context(wrong)
    assert {"fork", "spawn", "forkserver"} == set(package.get_all_start_methods())


def test_contexts_are_fixed(mp):
    with pytest.raises(ValueError):
        mp.set_start_method("fork")


def test_names(mp, module):
    package = importlib.import_module(module)
    for name in NAMES:
        assert hasattr(package, name), name
        assert hasattr(mp, name) or name == "get_all_start_methods", name
    for name in ERRORS:
        assert getattr(package, name) is getattr(mp, name) is getattr(multiprocessing, name)


def parameters(function):
    """Names, kinds and defaults: annotations are our own affair."""
    return [(p.name, p.kind, p.default) for p in inspect.signature(function).parameters.values()]


def test_signatures(mp):
    theirs = multiprocessing.get_context(mp.get_start_method())
    for name in NAMES:
        if inspect.ismethod(getattr(theirs, name, None)):
            ours, known = parameters(getattr(mp, name)), parameters(getattr(theirs, name))
            assert ours[: len(known)] == known, name
            # What goes beyond the stdlib's has to be named, and may be left out.
            for _, kind, default in ours[len(known) :]:
                assert kind is inspect.Parameter.KEYWORD_ONLY, name
                assert default is not inspect.Parameter.empty, name


def test_types(mp):
    child = mp.Process()
    assert isinstance(child, multiprocessing.process.BaseProcess)
    assert isinstance(mp, multiprocessing.context.BaseContext)
    words = {"fork": "Fork", "spawn": "Spawn", "forkserver": "ForkServer"}
    assert type(child).__name__ == words[mp.get_start_method()] + "Process"
    assert type(mp).__name__ == words[mp.get_start_method()] + "Context"
    assert mp.cpu_count() == os.cpu_count()
    assert mp.freeze_support() is None
    assert isinstance(mp.get_logger(), logging.Logger)
    assert mp.get_logger() is multiprocessing.get_logger()
    assert mp.reducer is multiprocessing.reduction


def test_submodules(module, native):
    code = (
        "import sys; mp = __import__(sys.argv[1])\n"
        "for name in 'connection queues synchronize sharedctypes process context'.split(): getattr(mp, name)\n"
        "mp.connection.wait, mp.connection.Connection, mp.connection.Pipe, mp.process.current_process\n"
    )
    if not native:  # its submodules appear with their first use
        code = code.replace("\n", "; mp.Queue(), mp.Value('i'), mp.Pipe()\n", 1)
    run_python(code, module)


def test_start_method_is_set_once(mp, module):
    code = (
        "import sys; mp = __import__(sys.argv[1])\n"
        "try: mp.set_start_method('bogus')\n"
        "except ValueError: pass\n"
        "else: sys.exit(1)\n"
        "assert mp.get_start_method(allow_none=True) is None\n"
        "mp.set_start_method(sys.argv[2])\n"
        "assert mp.get_start_method() == sys.argv[2] == mp.get_context().get_start_method()\n"
        "for again in 'fork', 'spawn':\n"
        "    try: mp.set_start_method(again)\n"
        "    except RuntimeError: pass\n"
        "    else: sys.exit(2)\n"
        "for other in 'fork', 'spawn', sys.argv[2]:\n"
        "    mp.set_start_method(other, force=True)\n"
        "    assert mp.get_start_method() == other\n"
        "assert type(mp.Process()).__name__ == 'Process'\n"
        "print('done')\n"
    )
    assert run_python(code, module, mp.get_start_method()) == "done\n"


def test_default_start_method(module):
    code = "import sys; mp = __import__(sys.argv[1]); print(mp.get_start_method(), mp.get_context().get_start_method())"
    assert run_python(code, module) == run_python(code, "multiprocessing")


SCRIPT = """
import importlib, os, sys
mp = importlib.import_module(sys.argv[1])

def work(queue, lock, value, conn):
    assert mp.get_start_method() == sys.argv[2], mp.get_start_method()
    with lock, value.get_lock():
        value.value += 1
    conn.send(queue.get() * 2)

if __name__ == "__main__":
    mp.set_start_method(sys.argv[2])
    queue, lock, value, (mine, yours) = mp.Queue(), mp.Lock(), mp.Value("i", 4), mp.Pipe()
    child = mp.Process(target=work, args=(queue, lock, value, yours))
    child.start()
    queue.put(21)
    assert mine.recv() == 42
    child.join()
    assert (child.exitcode, value.value) == (0, 5)
    daemon = mp.Process(target=importlib.import_module("time").sleep, args=(1000,), daemon=True)
    daemon.start()
    print("done", daemon.pid)
"""


@pytest.mark.method("fork", "spawn", "forkserver")
def test_a_whole_program(mp, module, tmp_path):
    """The default context, a main module of a file, and a daemon that ends with its parent."""
    script = tmp_path / "program.py"
    script.write_text(SCRIPT)
    command = [sys.executable, str(script), module, mp.get_start_method()]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd="/")
    assert done.returncode == 0, done.stderr
    word, pid = done.stdout.split()
    assert word == "done"
    assert not os.path.exists(f"/proc/{pid}")
    assert done.stderr == ""


ONE_CHOICE = """
import importlib, sys
import fastmp, multiprocessing
chooser, other = map(importlib.import_module, sys.argv[1:3])

def report(conn):
    conn.send((fastmp.get_start_method(), multiprocessing.get_start_method()))

def answers(module, context):
    mine, yours = context.Pipe()
    child = context.Process(target=report, args=(yours,))
    child.start()
    print(module.__name__, *mine.recv())
    child.join()

if __name__ == "__main__":
    assert chooser.get_start_method(allow_none=True) is other.get_start_method(allow_none=True) is None
    chooser.set_start_method(sys.argv[3])
    print(fastmp.get_start_method(), multiprocessing.get_start_method())
    for module in fastmp, multiprocessing:
        answers(module, module)
        for method in module.get_all_start_methods():
            answers(module, module.get_context(method))
    for again in fastmp, multiprocessing:
        try: again.set_start_method("fork")
        except RuntimeError: print("set already")
    other.set_start_method(None, force=True)
    print(chooser.get_start_method(allow_none=True))
"""


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
@pytest.mark.parametrize(("chooser", "other"), [("fastmp", "multiprocessing"), ("multiprocessing", "fastmp")])
def test_one_choice_for_the_stdlib_and_us(tmp_path, chooser, other, method):
    """Whoever of the two makes it.

    A child's default is how it was started itself, as in the stdlib.
    """
    script = tmp_path / "program.py"
    script.write_text(ONE_CHOICE)
    command = [sys.executable, str(script), chooser, other, method]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd="/")
    assert (done.returncode, done.stderr) == (0, "")
    expected = [f"{method} {method}"]
    for module in "fastmp", "multiprocessing":
        for started in [method, *multiprocessing.get_all_start_methods()]:
            expected.append(f"{module} {started} {started}")
    assert done.stdout.splitlines() == [*expected, "set already", "set already", "None"]


def test_start_methods_in_the_stdlibs_order(module):
    code = "import sys; mp = __import__(sys.argv[1]); print(mp.get_all_start_methods())"
    assert run_python(code, module) == run_python(code, "multiprocessing")


def test_program_without_the_main_guard_is_told(module, tmp_path):
    script = tmp_path / "program.py"
    script.write_text(
        "import sys; mp = __import__(sys.argv[1]); mp.set_start_method('spawn')\n"
        "p = mp.Process(target=print); p.start(); p.join(); sys.exit(p.exitcode)\n"
    )
    done = subprocess.run([sys.executable, str(script), module], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "bootstrapping phase" in done.stderr or "context has already been set" in done.stderr
