"""A spawned child finds the same world as one of the stdlib's, however its program was started."""

import json
import os
import py_compile
import subprocess
import sys
import textwrap
import zipfile

import fastmp
import pytest

SITE = os.path.dirname(os.path.dirname(fastmp.__file__))

# What a child sees is written by this; MODULE is the implementation under test.
PROGRAM = '''\
"""The program's own words."""
import gc, importlib, json, os, sys
sys.path.append(os.environ["SITE"])  # under -S nothing else leads to it
LOADED_AS = __name__, globals().get("__file__"), globals().get("__package__"), type(globals().get("__spec__")).__name__
ARGV_AT_LOAD = list(sys.argv)
sys.modules["__main__"].__dict__.setdefault("loads", []).append(__name__)

NAMES = "__name__", "__file__", "__package__", "__doc__", "__cached__"

class Local:
    pass

def look(local: 1 + 1 = None):
    import multiprocessing
    from multiprocessing import process, util
    main = sys.modules["__main__"]
    return {
        "loaded as": LOADED_AS, "argv at load": ARGV_AT_LOAD, "class": repr(type(local)),
        "argv": sys.argv, "path": sys.path, "cwd": os.getcwd(),
        "flags": repr(sys.flags), "X": sys._xoptions, "W": sys.warnoptions,
        "main": {name: repr(getattr(main, name, "-")) for name in NAMES},
        "spec": getattr(main.__spec__, "name", None), "loader": repr(type(getattr(main, "__loader__", None))),
        "mp_main": main is sys.modules["__mp_main__"], "gc": gc.isenabled(),
        "name": process.current_process().name, "authkey": process.current_process().authkey.hex(),
        "daemon": process.current_process().daemon, "parent": multiprocessing.parent_process().name,
        "method": multiprocessing.get_start_method(), "orig_dir": process.ORIGINAL_DIR,
        "log": util._logger and util._logger.getEffectiveLevel(), "stderr": util._log_to_stderr,
        "annotations": repr(look.__annotations__),
        "environment": os.environ.get("SEEN"), "inheriting": hasattr(process.current_process(), "_inheriting"),
        "stdin": sys.stdin.read(), "subprocess": type(importlib.import_module("subprocess")).__name__,
        "pickle": importlib.import_module("multiprocessing.reduction").ForkingPickler.loads(b"N."),
    }

def report(out, local=None):
    with open(out, "w") as file:
        json.dump(look(local), file)

def run(out):
    mp = importlib.import_module(os.environ["MODULE"])
    mp.set_start_method("spawn", force=True)
    mp.current_process().authkey = b"secret"
    child = mp.Process(target=report, args=(out, Local()), name="some name", daemon=True)
    child.start()
    child.join()
    sys.exit(child.exitcode)

'''
GUARD = "if __name__ == '__main__':\n    run(sys.argv[1])\n"


@pytest.fixture
def compare(tmp_path):
    """Runs a command with both implementations, and demands that the children report the same."""

    def compare(command, cwd=None, environment=None, stdin="", code=0):
        seen = {}
        for module in ("multiprocessing", "fastmp"):
            out = tmp_path / "out.json"
            out.unlink(missing_ok=True)
            environ = {**os.environ, "MODULE": module, "SITE": SITE, "SEEN": "yes", **(environment or {})}
            done = subprocess.run(
                [sys.executable, *(argument.replace("OUT", str(out)) for argument in command)],
                input=stdin.replace("OUT", str(out)),
                capture_output=True,
                text=True,
                check=False,
                cwd=cwd or "/",
                env=environ,
                timeout=55,
            )
            assert done.returncode == code, (module, done.stdout, done.stderr)
            seen[module] = json.loads(out.read_text()) if out.exists() else None, done
        assert seen["fastmp"][0] == seen["multiprocessing"][0]
        return seen["fastmp"][0], seen["multiprocessing"][1], seen["fastmp"][1]

    return compare


def script(folder, name="program.py", code=PROGRAM + GUARD):
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(code)
    return path


FLAGS = [
    [],
    ["-I"],
    ["-E"],
    ["-S"],
    ["-s"],
    ["-O"],
    ["-OO"],
    ["-B"],
    ["-P"],
    ["-u"],
    ["-b"],
    ["-W", "error", "-W", "ignore::DeprecationWarning"],
    ["-X", "dev"],
    ["-X", "utf8=1", "-X", "faulthandler", "-X", "own=1"],
    ["-X", "importtime"],
    ["-X", "frozen_modules=off"],
]


@pytest.mark.parametrize("flags", FLAGS, ids=" ".join)
def test_flags(compare, tmp_path, flags):
    seen, _, _ = compare([*flags, str(script(tmp_path)), "OUT"])
    assert seen["loaded as"][0] == seen["main"]["__name__"].strip("'") == "__mp_main__"
    assert seen["argv at load"][0] == str(tmp_path / "program.py")


def test_relative_path_after_a_change_of_directory(compare, tmp_path):
    code = PROGRAM + "import multiprocessing\nif __name__ == '__main__':\n    os.chdir('/tmp')\n    run(sys.argv[1])\n"
    script(tmp_path, "some/folder/program.py", code)
    seen, _, _ = compare(["folder/program.py", "OUT"], cwd=tmp_path / "some")
    assert (seen["cwd"], seen["orig_dir"]) == ("/tmp", str(tmp_path / "some"))


def test_directory_of_hostile_names(compare, tmp_path):
    """What lies beside a program is no part of what its children start with."""
    for name in ("lifelines", "process", "deferred", "handles", "spawn_main", "queues"):
        script(tmp_path, f"{name}.py", "raise SystemExit('the wrong module')")
    compare([str(script(tmp_path)), "OUT"], cwd=tmp_path)


def test_compiled_script(compare, tmp_path):
    path = script(tmp_path)
    compiled = py_compile.compile(str(path), cfile=str(tmp_path / "compiled.pyc"))
    path.unlink()
    compare([compiled, "OUT"])


def test_script_without_a_suffix(compare, tmp_path):
    compare([str(script(tmp_path, "program")), "OUT"])


def test_source_in_another_encoding(compare, tmp_path):
    path = tmp_path / "program.py"
    code = "# coding: latin-1\n" + PROGRAM.replace("own words", "öwn wörds") + GUARD
    path.write_bytes(code.encode("latin-1"))
    compare([str(path), "OUT"])
    path.write_bytes(b"\xef\xbb\xbf" + (PROGRAM + GUARD).replace("\n", "\r\n").encode())
    compare([str(path), "OUT"])


@pytest.mark.parametrize("name", ["module", "package.module", "package"])
def test_module_by_name(compare, tmp_path, name):
    path = {"package": "package/__main__.py"}.get(name, name.replace(".", "/") + ".py")
    script(tmp_path, path)
    if "package" in name:
        script(tmp_path, "package/__init__.py", "")
    if name == "package":  # nothing of it is run in children: what they need is in a module
        script(tmp_path, "package/other.py", PROGRAM)
        script(tmp_path, path, "from .other import *\n" + GUARD)
    for flags in ([], ["-O"]):
        compare([*flags, "-m", name, "OUT"], cwd=tmp_path)


@pytest.mark.parametrize("kind", ["directory", "archive"])
def test_program_in_a(compare, tmp_path, kind):
    folder = tmp_path / "folder"
    script(folder, "other.py", PROGRAM)
    script(folder, "__main__.py", "from other import *\n" + GUARD)
    path = folder
    if kind == "archive":
        path = tmp_path / "program.pyz"
        with zipfile.ZipFile(path, "w") as archive:
            for name in ("other.py", "__main__.py"):
                archive.write(folder / name, name)
    seen, _, _ = compare([str(path), "OUT"])
    assert seen["main"]["__name__"] == "'__main__'"


def test_command(compare, tmp_path):
    script(tmp_path, "other.py", PROGRAM)
    compare(["-c", "import sys, other\nother.run(sys.argv[1])", "OUT"], cwd=tmp_path)


def test_script_on_stdin(compare, tmp_path):
    """There is no such file to be run in the child, so that it fails, and says so."""
    script(tmp_path, "other.py", PROGRAM)
    for command in (["-", "OUT"], []):
        _, theirs, ours = compare(command, tmp_path, stdin="import sys, other\nother.run('OUT')\n", code=1)
        assert "<stdin>" in ours.stderr
        assert ours.stderr.splitlines()[-1:] == theirs.stderr.splitlines()[-1:]


@pytest.mark.parametrize("command", [["-i"], ["-i", "-", "OUT"], ["-i", "program.py", "OUT"]], ids=" ".join)
def test_interactive(compare, tmp_path, command):
    script(tmp_path, "other.py", PROGRAM)
    script(tmp_path, code="x = 1\n")
    seen, _, _ = compare(command, tmp_path, stdin="import sys, other\nother.run('OUT')\n\n")
    assert seen["mp_main"]


@pytest.mark.parametrize("name", ["ipython", "ipython.py", "program.py"])
def test_ipythons_script_is_left_alone(compare, tmp_path, name):
    script(tmp_path, "other.py", PROGRAM)
    path = script(tmp_path, name, "import sys, other\nif __name__ != '__mp_main__': other.run(sys.argv[1])\n")
    seen, _, _ = compare([str(path), "OUT"], environment={"PYTHONPATH": str(tmp_path)})
    assert seen["main"]["__name__"] == ("'__mp_main__'" if name == "program.py" else "'__main__'")


def test_main_module_that_is_none(compare, tmp_path):
    """As a notebook's: it has neither a file nor a name to be found by."""
    script(tmp_path, "other.py", PROGRAM)
    code = "import sys, types, other; sys.modules['__main__'] = types.ModuleType('__main__'); other.run(sys.argv[1])"
    compare([str(script(tmp_path, "launcher.py", code)), "OUT"], environment={"PYTHONPATH": str(tmp_path)})


def test_logging(compare, tmp_path):
    code = PROGRAM + (
        "if __name__ == '__main__':\n    mp = importlib.import_module(os.environ['MODULE'])\n"
        "    mp.log_to_stderr(mp.SUBDEBUG)\n    run(sys.argv[1])\n"
    )
    seen, _, ours = compare([str(script(tmp_path, code=code)), "OUT"])
    assert (seen["log"], seen["stderr"]) == (5, True)
    assert "[INFO/some name] child process calling self.run()" in ours.stderr


def test_no_guard(compare, tmp_path):
    """What starts processes when it is imported is told so."""
    _, theirs, ours = compare([str(script(tmp_path, code=PROGRAM + "run('OUT')\n"))], code=1)
    assert "An attempt has been made to start a new process before" in ours.stderr
    assert ours.stderr.splitlines()[-10:] == theirs.stderr.splitlines()[-10:]


@pytest.mark.parametrize("error", ["1 / 0", "sys.exit(7)", "sys.exit('so it ends')", "x ="])
def test_main_module_that_fails_in_the_child(compare, tmp_path, error):
    code = f"{PROGRAM}if __name__ == '__main__':\n    run(sys.argv[1])\nelif 'x' in 'x':\n    exec({error!r})\n"
    _, theirs, ours = compare([str(script(tmp_path, code=code)), "OUT"], code=7 if "7" in error else 1)
    assert ours.stderr.splitlines()[-1:] == theirs.stderr.splitlines()[-1:]


def test_frozen_program(compare, tmp_path):
    """It is its own interpreter: it is started anew with other arguments."""
    launcher = tmp_path / "frozen"
    path = tmp_path / "program.py"
    launcher.write_text(f'#!/bin/sh\nexec {sys.executable} {path} "$@"\n')
    launcher.chmod(0o755)
    script(tmp_path, "other.py", PROGRAM)
    code = f"""
        import importlib, os, sys
        sys.frozen = True
        sys.executable = {str(launcher)!r}
        if "-c" in sys.argv:  # the resource tracker: whoever freezes programs sees to that
            exec(sys.argv[-1])
            sys.exit()
        mp = importlib.import_module(os.environ["MODULE"])
        mp.set_executable(sys.executable)
        if sys.argv[1] == "--multiprocessing-fork" and os.environ["MODULE"] == "multiprocessing":
            from multiprocessing.spawn import freeze_support  # on Windows alone by its usual name, up to 3.13
            freeze_support()
        mp.freeze_support()
        import other
        other.run(sys.argv[1])
    """
    script(tmp_path, code=textwrap.dedent(code))
    compare([str(path), "OUT"], environment={"PYTHONPATH": str(tmp_path)})


def test_hook_of_a_tool(compare, tmp_path):
    """As coverage's: something in the preparation data that changes the child before it begins."""
    code = """
        class Stowaway:
            def __setstate__(self, state):
                import multiprocessing.spawn
                real = multiprocessing.spawn.prepare
                def prepare(data):
                    os.environ["SEEN"] = f"hooked: {sorted(data)}"
                    real(data)
                multiprocessing.spawn.prepare = prepare
            def __getstate__(self):
                return {"a": 1}
    """
    script(tmp_path, "hook.py", "import os\n" + textwrap.dedent(code))
    start = """
        import hook
        from multiprocessing import spawn
        real = spawn.get_preparation_data
        spawn.get_preparation_data = lambda name: {**real(name), "stowaway": hook.Stowaway()}
        run(sys.argv[1])
    """
    code = PROGRAM + "if __name__ == '__main__':\n" + textwrap.indent(textwrap.dedent(start), "    ")
    seen, _, _ = compare([str(script(tmp_path, code=code)), "OUT"], environment={"PYTHONPATH": str(tmp_path)})
    # The stdlib's child calls what it has found before its data: ours, what is there by then.
    assert seen["name"] == "some name"


@pytest.mark.parametrize("method", ["spawn", "forkserver"])
def test_a_daemon_without_standard_streams(tmp_path, method):
    """None of what its child gets has the number of one: the child has no stream either."""
    script, out = tmp_path / "program.py", tmp_path / "out"
    script.write_text(
        "import os, sys, fastmp as mp\n"
        "def target(path):\n"
        "    print('into nothing', flush=True)\n"
        "    with open(path, 'w') as file:\n"
        "        file.write(repr((sys.stdin, sys.stdout)))\n"
        "if __name__ == '__main__':\n"
        f"    child = mp.get_context({method!r}).Process(target=target, args=({str(out)!r},))\n"
        "    child.start()\n"
        "    child.join()\n"
        "    sys.exit(child.exitcode)\n"
    )
    command = f"exec {sys.executable} {script} <&- >&-"
    done = subprocess.run(["sh", "-c", command], stderr=subprocess.PIPE, text=True, timeout=100)
    assert (done.returncode, done.stderr) == (0, "")
    if method == "spawn":  # the server opens a standard input for all of its children
        assert out.read_text() == "(None, None)"
