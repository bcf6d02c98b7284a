"""`python -m fastmp run`: a program runs as by `python` alone, but for whose multiprocessing it is."""

import os
import re
import signal
import subprocess
import sys
import textwrap
import time
import zipfile

import fastmp
import pytest

LOOK = """
import sys
print(sorted(globals()), __name__, __file__, __spec__ and __spec__.name, __package__, __doc__)
print(sys.argv, sys.path, sys.modules["__main__"].__dict__ is globals(), type(__loader__).__name__, sys.excepthook)
"""
RAISE = """
def inner(n):
    raise ValueError(n)
def outer():
    try:
        inner(1)
    except ValueError as error:
        raise KeyError("outer") from error
outer()
"""
HOOK = """
import sys, traceback
def hook(kind, value, tb):
    print("hooked", kind.__name__, value, len(traceback.extract_tb(tb)), len(traceback.extract_tb(value.__traceback__)))
sys.excepthook = hook
1 / 0
"""
PICKLES = """
import pickle
class Own:
    def __init__(self, x): self.x = x
print(pickle.loads(pickle.dumps(Own(3))).x, Own.__module__)
"""
CHILDREN = """
import multiprocessing as mp, sys
def square(x):
    return x * x, __name__
if __name__ == "__main__":
    for method in "fork", "spawn", "forkserver":
        with mp.get_context(method).Pool(2) as pool:
            print(sorted(pool.map(square, range(3))))
"""
# What each of them prints and how it ends has to be as with the interpreter alone.
SCRIPTS = {
    "look": LOOK,
    "raise": RAISE,
    "hook": HOOK,
    "pickles": PICKLES,
    "children": CHILDREN,
    "syntax": "print(1)\nif x\n",
    "late_syntax": "compile('if x', 'name', 'exec')",
    "own_traceback": "class Own(Exception):\n    __traceback__ = property(lambda self: None)\nraise Own",
    "exit": "import sys; sys.exit(7)",
    "exit_text": "import sys; sys.exit('why')",
    "exit_true": "raise SystemExit(True)",
    "interrupt": "raise KeyboardInterrupt",
    "killed": "import os, signal; os.kill(os.getpid(), signal.SIGTERM)",
    "unicode": "# -*- coding: latin-1 -*-\nprint(ascii('\xe4'))",
    "thread": "import threading, time\nthreading.Thread(target=lambda: (time.sleep(0.1), print('late'))).start()",
    "atexit": "import atexit\natexit.register(print, 'bye', __name__)\nraise ValueError",
    "group": "raise ExceptionGroup('several', [ValueError(1), TypeError(2)])",
    "closed": "import sys, os\nprint('x' * 10)\nos.close(1)",
    "future": "from __future__ import annotations\ndef f(x: nowhere): pass\nprint(f.__annotations__)",
    "no_future": "x: int = 3\nprint(__annotations__)" if sys.version_info < (3, 14) else "x: int = 3",
    "stdin": "print(input(), input())",
    "recursion": "def f(): f()\ntry: f()\nexcept RecursionError: print('deep')",
    "warns": "import warnings\nwarnings.warn('so')",
}


def run(cwd, *command, flags=(), **options):
    done = subprocess.run(
        [sys.executable, *flags, *command],
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=50,
        input="a\nb\n",
        **options,
    )
    return done.returncode, done.stdout, re.sub(r"0x[0-9a-f]+", "0x", done.stderr)


def same(cwd, *command, flags=(), **options):
    plain = run(cwd, *command, flags=flags, **options)
    ours = run(cwd, "-m", "fastmp", "run", *command, flags=flags, **options)
    assert ours == plain
    return plain


@pytest.mark.parametrize("name", SCRIPTS)
def test_a_script(tmp_path, name):
    (tmp_path / "scripts").mkdir()
    path = tmp_path / "scripts" / f"{name}.py"
    path.write_text(SCRIPTS[name], encoding="latin-1")
    same(tmp_path, f"scripts/{name}.py", "-x", "--method", "3")


def test_a_script_by_other_paths(tmp_path):
    (tmp_path / "real").mkdir()
    script = tmp_path / "real" / "look.py"
    script.write_text(LOOK)
    (tmp_path / "link.py").symlink_to(script)
    (tmp_path / "odd name").write_text(LOOK)
    for path in str(script), "link.py", "./real/../real/look.py", "odd name":
        same(tmp_path, path)
    same(tmp_path, str(script), flags=("-P",))
    same(tmp_path, str(script), flags=("-I",))
    same(tmp_path, "real/look.py", flags=("-O", "-W", "error"))


def test_a_hook_that_the_program_has_deleted(tmp_path):
    (tmp_path / "script.py").write_text("import sys\ndel sys.excepthook\n1 / 0\n")
    status, _, error = run(tmp_path, "-m", "fastmp", "run", "script.py")
    assert (status, error.count("Traceback"), "fastmp" in error) == (1, 1, False), error


def test_what_is_not_there(tmp_path):
    (tmp_path / "empty").mkdir()
    assert same(tmp_path, "nothing.py")[0] == 2
    assert same(tmp_path, "empty")[0] == 1
    assert same(tmp_path, "-m", "nothing")[0] == 1
    assert same(tmp_path, "-m", "nothing.nor_this")[0] == 1


def test_directories_archives_and_compiled_files(tmp_path):
    (tmp_path / "dir").mkdir()
    (tmp_path / "dir" / "__main__.py").write_text(LOOK + RAISE)
    same(tmp_path, "dir", "a")
    same(tmp_path, "dir", flags=("-P",))  # it is on the path all the same
    with zipfile.ZipFile(tmp_path / "app.zip", "w") as archive:
        archive.writestr("__main__.py", LOOK + RAISE)
    same(tmp_path, "app.zip", "a")
    same(tmp_path, "app.zip", flags=("-I",))
    (tmp_path / "look.py").write_text(LOOK)
    run(tmp_path, "-c", "import py_compile; py_compile.compile('look.py', 'look.pyc')")
    same(tmp_path, "look.pyc", "a")


def test_a_module(tmp_path):
    package = tmp_path / "package"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "__main__.py").write_text(LOOK + RAISE)
    (package / "other.py").write_text(CHILDREN)
    (package / "look.py").write_text(LOOK)
    (package / "broken.py").write_text("import no_such_module")
    for name in "package", "package.other", "package.look", "package.broken", "package.none":
        same(tmp_path, "-m", name, "-m", "--only", "x")


def test_code(tmp_path):
    same(tmp_path, "-c", "import sys; print(sys.argv, sys.path[0], sorted(globals()), __name__)", "-c", "x")
    code, out, error = run(tmp_path, "-m", "fastmp", "run", "-c", "raise ValueError(3)")
    assert (code, out, error.splitlines()[-1]) == (1, "", "ValueError: 3")
    assert "fastmp" not in error


def test_a_script_from_stdin(tmp_path):
    for arguments in ["-"], ["-", "a", "b"]:
        outs = []
        for command in [], ["-m", "fastmp", "run"]:
            done = subprocess.run(
                [sys.executable, *command, *arguments], cwd=tmp_path, input=RAISE, capture_output=True, text=True
            )
            outs.append((done.returncode, done.stdout, done.stderr))
        assert outs[0][0] == outs[1][0] == 1
        if sys.version_info < (3, 13):  # it shows the lines from then on
            assert outs[0] == outs[1]


def test_it_is_fastmp_there_and_in_children(tmp_path):
    (tmp_path / "program.py").write_text(
        textwrap.dedent(
            """
            import multiprocessing, sys
            from multiprocessing import Lock
            def whose(_=None):
                return type(Lock()).__module__.partition(".")[0], multiprocessing.get_start_method()
            if __name__ == "__main__":
                print(*whose())
                with multiprocessing.Pool(1) as pool:
                    print(*pool.apply(whose))
                if len(sys.argv) > 1:
                    multiprocessing.set_start_method(sys.argv[1])
                    print(*whose())
            """
        )
    )
    default = fastmp.get_all_start_methods()[0]

    def lines(*options):
        code, out, error = run(tmp_path, "-m", "fastmp", "run", *options)
        assert (code, error) == (0, "")
        return out.splitlines()

    assert lines("program.py") == [f"fastmp {default}"] * 2
    for method in "fork", "spawn", "forkserver":
        assert lines("--method", method, "program.py") == [f"fastmp {method}"] * 2
    assert lines("--method=spawn", "--", "program.py") == ["fastmp spawn"] * 2
    assert lines("--only", "somebody,somebody.else", "program.py") == [f"multiprocessing {default}"] * 2
    assert lines("--except=__main__", "program.py") == [f"multiprocessing {default}"] * 2


def test_the_program_may_still_choose_its_start_method(tmp_path):
    code = "import multiprocessing as mp; mp.set_start_method('spawn'); print(mp.get_start_method())"
    assert run(tmp_path, "-m", "fastmp", "run", "--method", "fork", "-c", code) == (0, "spawn\n", "")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_signals(tmp_path, number):
    """It is one process, with the handlers that the interpreter gives."""
    (tmp_path / "program.py").write_text("import time\nprint('ready', flush=True)\ntime.sleep(50)\n")
    ended = []
    for command in [], ["-m", "fastmp", "run"]:
        with subprocess.Popen(
            [sys.executable, *command, "program.py"],
            cwd=tmp_path,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        ) as child:
            assert child.stdout.readline() == "ready\n"
            time.sleep(0.05)
            child.send_signal(number)
            error = child.communicate(timeout=20)[1]
        ended.append((child.returncode, error))
    assert ended[0] == ended[1]
    assert ended[0][0] == -number


def test_a_program_that_forks_and_goes_on(tmp_path):
    """In the child too an exception comes up to the end of the program, and says where it was."""
    (tmp_path / "program.py").write_text("import os\nif pid := os.fork():\n    os.waitpid(pid, 0)\n1 / 0\n")
    same(tmp_path, "program.py")


@pytest.mark.parametrize(
    "arguments",
    [["none"], ["run"], ["run", "--none", "x"], ["run", "--method"], ["run", "-m"], ["run", "-c"]]
    + [["run", "--method", "none", "x.py"], ["doctor", "--none"]],
)
def test_what_is_no_command(tmp_path, arguments):
    code, out, error = run(tmp_path, "-m", "fastmp", *arguments)
    assert (code, out) == (2, "")
    assert error.startswith("python -m fastmp: ")
    assert "usage:" in error


def test_usage_and_version(tmp_path):
    for arguments in [], ["--help"], ["-h"], ["help"], ["run", "--help"], ["doctor", "-h"]:
        code, out, error = run(tmp_path, "-m", "fastmp", *arguments)
        assert (code, error) == (0, "")
        assert out.startswith("usage: python -m fastmp run")
    code, out, error = run(tmp_path, "-m", "fastmp", "--version")
    assert (code, error) == (0, "")
    assert re.fullmatch(r"fastmp (\d+\.\d+\S*|unknown)\n", out)


def test_an_environment_that_is_no_different(tmp_path):
    code = "import os; print(sorted(os.environ.items()))"
    same(tmp_path, "-c", code, env={**os.environ, "FASTMP_TEST": "x"})


@pytest.mark.parametrize("name", ["context.SpawnProcess", "queues.Queue", "pool.Pool", "connection.Pipe", "Queue"])
def test_what_a_spawned_child_looks_up_first(tmp_path, name):
    """uvicorn's workers import it before fastmp's own modules have run there."""
    module, _, what = f"multiprocessing.{name}".rpartition(".")
    (tmp_path / "early.py").write_text(f"from {module} import {what}\ndef f(): raise SystemExit(3)\n")
    (tmp_path / "main.py").write_text(
        "import multiprocessing, early\n"
        "if __name__ == '__main__':\n"
        "    child = multiprocessing.get_context('spawn').Process(target=early.f)\n"
        "    child.start(); child.join(); print(child.exitcode, early.__name__)\n"
    )
    assert run(tmp_path, "-m", "fastmp", "run", "main.py") == (0, "3 early\n", "")
