"""The line that `fastmp[install]` brings: it does nothing, unless FASTMP_INSTALL=1 asks for it."""

import os
import subprocess
import sys
from pathlib import Path

import fastmp
import pytest

HOOK = Path(__file__).resolve().parent.parent / "hook" / "fastmp_install.pth"
pytestmark = pytest.mark.skipif(not fastmp.accelerated or not HOOK.exists(), reason="fastmp's core, and the sources")


@pytest.fixture
def interpreter(tmp_path):
    """One whose site-packages have the line, and a fastmp of which no other interpreter knows."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", tmp_path / "venv"], check=True)
    (packages,) = (tmp_path / "venv" / "lib").glob("python*/site-packages")
    (packages / HOOK.name).write_text(HOOK.read_text())
    (packages / "fastmp").symlink_to(os.path.dirname(fastmp.__file__))
    return str(tmp_path / "venv" / "bin" / "python")


WHOSE = """
import sys
early = "fastmp" in sys.modules
from multiprocessing import Lock
print(early, type(Lock()).__module__)
"""


def run(interpreter, program, *flags, **environment):
    kept = {name: value for name, value in os.environ.items() if name != "FASTMP_INSTALL"}
    done = subprocess.run(
        [interpreter, *flags, "-c", program], env=kept | environment, capture_output=True, text=True, timeout=50
    )
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout.strip()


def test_it_does_nothing_unless_asked(interpreter):
    theirs = "False multiprocessing.synchronize"
    assert run(interpreter, WHOSE) == theirs
    for other in "", "0", "no", "2":
        assert run(interpreter, WHOSE, FASTMP_INSTALL=other) == theirs


def test_it_installs(interpreter):
    ours = "True fastmp.synchronize"
    assert run(interpreter, WHOSE, FASTMP_INSTALL="1") == ours
    assert run(interpreter, WHOSE, "-I", FASTMP_INSTALL="1") == ours
    # In programs that a program starts by other means too.
    starts = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {WHOSE!r}], check=True)"
    assert run(interpreter, starts, FASTMP_INSTALL="1") == ours


def test_whoever_asks_without_site_packages_gets_nothing(interpreter):
    assert run(interpreter, WHOSE, "-S", FASTMP_INSTALL="1") == "False multiprocessing.synchronize"


def test_children_hear_of_only_and_except(interpreter, tmp_path):
    """The line says nothing of these, what travels to children does."""
    (tmp_path / "program.py").write_text(
        "import fastmp\n"
        "fastmp.install(except_=['__main__'])\n"
        "import multiprocessing\n"
        "def child():\n"
        "    print(type(multiprocessing.Lock()).__module__, flush=True)\n"
        "if __name__ == '__main__':\n"
        "    for method in 'spawn', 'forkserver', 'fork':\n"
        "        process = multiprocessing.get_context(method).Process(target=child)\n"
        "        process.start()\n"
        "        process.join()\n"
    )
    done = subprocess.run(
        [interpreter, "program.py"],
        cwd=tmp_path,
        env=os.environ | {"FASTMP_INSTALL": "1"},
        capture_output=True,
        text=True,
        timeout=50,
    )
    assert (done.stdout.split(), done.stderr) == (["multiprocessing.synchronize"] * 3, "")


def test_the_interpreter_starts_without_fastmp(interpreter):
    """The line is there, and what it needs is not: the interpreter says so, and goes on."""
    (packages,) = (Path(interpreter).parents[1] / "lib").glob("python*/site-packages")
    (packages / "fastmp").unlink()
    done = subprocess.run(
        [interpreter, "-c", "print('on')"],
        env=os.environ | {"FASTMP_INSTALL": "1"},
        capture_output=True,
        text=True,
        timeout=50,
    )
    assert (done.returncode, done.stdout) == (0, "on\n")
    assert "fastmp_install.pth" in done.stderr
    assert run(interpreter, "print('on')") == "on"
