"""Debuggers, coverage and tracers put functions of theirs in the place of the stdlib's: they are called.

What they replace, as their sources have it:

- coverage.py (`concurrency = multiprocessing`): `BaseProcess._bootstrap`; `spawn.get_preparation_data`, into whose
  answer it puts an object that does the same in the child when it is unpickled; `os._exit`.
- pydevd (debugpy, PyCharm): `os.fork`, `os.exec*`, `os.spawn*`, and `_posixsubprocess.fork_exec`, whose arguments it
  changes.
- VizTracer: `spawn.get_command_line`, whose program it replaces by its own, which ends in the stdlib's `spawn_main`;
  `util.register_after_fork`.
- OpenTelemetry: `os.register_at_fork`; its users, and other tracers: `BaseProcess.__init__`, `start`, `run` and `join`.
"""

import os
import subprocess
import sys

import fastmp
import pytest

pytestmark = pytest.mark.skipif(not fastmp.accelerated, reason="the portable package is the stdlib")

METHODS = ["fork", "spawn", "forkserver"]

HEAD = """
import functools, os, sys
import _posixsubprocess
import multiprocessing.process, multiprocessing.spawn, multiprocessing.util, multiprocessing.context
{early}
import fastmp
from children.traced import put_and_send, say, Stowaway, work
BaseProcess = multiprocessing.process.BaseProcess
main_pid = os.getpid()

def wrap(owner, name):
    original = getattr(owner, name)

    @functools.wraps(original)
    def wrapper(*args, **kwargs):
        say("hook", name, "in", "parent" if os.getpid() == main_pid else "child")
        return original(*args, **kwargs)

    setattr(owner, name, wrapper)

"""


def run(code, method, early=""):
    program = HEAD.replace("{early}", early) + code.replace("METHOD", repr(method))
    environment = {**os.environ, "PYTHONPATH": os.path.dirname(os.path.abspath(__file__))}
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False, env=environment)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout.splitlines()


START = """
context = fastmp.get_context(METHOD)
child = context.Process(target=work)
child.start()
child.join()
say("exit code", child.exitcode)
"""


@pytest.mark.parametrize(
    ("method", "owner", "name", "where"),
    [
        *((method, "BaseProcess", name, "parent") for method in METHODS for name in ("__init__", "start", "join")),
        *(("fork", "BaseProcess", name, "child") for name in ("_bootstrap", "run")),
        ("fork", "os", "fork", "parent"),
        ("fork", "os", "_exit", "child"),
        ("fork", "multiprocessing.util", "_exit_function", "child"),
        ("fork", "multiprocessing.util", "_run_after_forkers", "child"),
        ("fork", "multiprocessing.util", "_flush_std_streams", "parent"),
        ("spawn", "multiprocessing.spawn", "get_preparation_data", "parent"),
        ("forkserver", "multiprocessing.spawn", "get_preparation_data", "parent"),
        ("spawn", "multiprocessing.spawn", "get_command_line", "parent"),
        ("spawn", "multiprocessing.spawn", "get_executable", "parent"),
        ("spawn", "multiprocessing.util", "spawnv_passfds", "parent"),
        ("spawn", "multiprocessing.util", "_args_from_interpreter_flags", "parent"),
        ("spawn", "_posixsubprocess", "fork_exec", "parent"),
        ("spawn", "multiprocessing.context.reduction", "dump", "parent"),
        ("forkserver", "multiprocessing.context.reduction", "dump", "parent"),
    ],
)
def test_what_is_replaced_is_called(method, owner, name, where):
    lines = run(f"wrap({owner}, {name!r})\n" + START, method)
    assert f"hook {name} in {where}" in lines
    assert [line for line in lines if not line.startswith("hook")] == ["at work", "exit code 0"]


PROXY = """
class Proxy:
    def __init__(self, original):
        self.original = original
    def __getattr__(self, name):
        return getattr(self.original, name)
    def __call__(self, *args, **kwargs):
        os.write(1, b"proxy called\\n")
        return self.original(*args, **kwargs)
"""


@pytest.mark.parametrize("early", [True, False])
@pytest.mark.parametrize(
    ("method", "name"),
    [
        ("spawn", "multiprocessing.spawn.get_command_line"),
        ("fork", "threading._shutdown"),
        *(
            ("fork", f"multiprocessing.util.{name}")
            for name in ("_close_stdin", "_exit_function", "_run_after_forkers")
        ),
    ],
)
def test_what_is_replaced_by_a_proxy_is_called(method, name, early):
    """As by wrapt: what takes the place is no function, and has all the attributes of what was there."""
    put = PROXY + f"import threading\n{name} = Proxy({name})\n"
    lines = run(START, method, put) if early else run(put + START, method)
    assert "proxy called" in lines
    assert [line for line in lines if line != "proxy called"] == ["at work", "exit code 0"]


@pytest.mark.parametrize("method", ["spawn", "forkserver"])
def test_a_stowaway_in_the_preparation_data(method):
    """As coverage.py gets into children."""
    code = """
original = multiprocessing.spawn.get_preparation_data
def get_preparation_data(name):
    return {**original(name), "stowaway": Stowaway()}
multiprocessing.spawn.get_preparation_data = get_preparation_data
"""
    lines = run(code + START, method)
    assert lines == ["a stowaway's _bootstrap", "at work", "exit code 0"]


def test_a_debugger_that_changes_what_is_run():
    """As pydevd gets into spawned children: by the arguments after `-c`."""
    code = """
original = _posixsubprocess.fork_exec
def fork_exec(args, *rest):
    args = list(args)
    at = args.index("-c" if "-c" in args else b"-c") + 1
    program = args[at] if isinstance(args[at], bytes) else args[at].encode()
    if b"spawn_main" in program:  # not the stdlib's tracker
        args[at] = b"import os; os.write(1, b'debugged\\\\n'); " + program
    return original(args, *rest)
_posixsubprocess.fork_exec = fork_exec
"""
    assert run(code + START, "spawn") == ["debugged", "at work", "exit code 0"]


@pytest.mark.parametrize("early", [False, True])
def test_a_command_line_of_a_tracers_own(early):
    """As VizTracer gets into spawned children, whether it was there first or fastmp."""
    code = """
import multiprocessing.spawn
def get_command_line(**fds):
    program = "import os; os.write(1, b'traced\\\\n'); from multiprocessing.spawn import spawn_main; "
    program += f"spawn_main({', '.join(f'{name}={fd!r}' for name, fd in fds.items())})"
    return [multiprocessing.spawn.get_executable(), "-c", program, "--multiprocessing-fork"]
multiprocessing.spawn.get_command_line = functools.wraps(multiprocessing.spawn.get_command_line)(get_command_line)
"""
    start = """
context = fastmp.get_context("spawn")
lock, queue, (mine, yours) = context.Lock(), context.Queue(), context.Pipe()
child = context.Process(target=put_and_send, args=(lock, queue, yours))
child.start()
say(queue.get(), mine.recv())
child.join()
say("exit code", child.exitcode)
"""
    lines = run(start if early else code + start, "spawn", early=f"import functools\n{code}" if early else "")
    assert lines == ["traced", "5 6", "exit code 0"]


def test_another_interpreter(tmp_path):
    """`set_executable`, of ours or the stdlib's, names the program that is run."""
    other = tmp_path / "python"
    other.write_text(f'#!/bin/sh\necho other\nexec {sys.executable} "$@"\n')
    other.chmod(0o755)
    for setter in ("fastmp.set_executable", "multiprocessing.set_executable", "context.set_executable"):
        code = START.replace("child =", f"{setter}({str(other)!r})\nchild =", 1)
        assert run(code, "spawn")[0] == "other"


def test_callbacks_at_a_fork():
    code = """
os.register_at_fork(before=lambda: say("before"), after_in_parent=lambda: say("parent"))
os.register_at_fork(after_in_child=lambda: say("child"))
class Tracer:
    pass
tracer = Tracer()
multiprocessing.util.register_after_fork(tracer, lambda tracer: say("after fork"))
"""
    lines = run(code + START, "fork")
    assert sorted(lines) == sorted(["before", "parent", "child", "after fork", "at work", "exit code 0"])
