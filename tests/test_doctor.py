"""`python -m fastmp doctor`: what it finds here, what it says of what is not here, and how it ends."""

import errno
import json
import os
import subprocess
import sys

import fastmp
import pytest

pytestmark = pytest.mark.skipif(not fastmp.accelerated, reason="fastmp's core alone")

NEEDED = "shared memory (memfd)", "waiting and waking (futex)", "start method fork", "a killed holder's lock"


def doctor(*options, before="", limit=""):
    """Runs it after a few lines that break something."""
    code = f"import errno, fcntl, os, sys\n{before}\nfrom fastmp.command import main\nmain(['doctor', *sys.argv[1:]])"
    command = [sys.executable, "-c", code, *options]
    if limit:
        command = ["bash", "-c", f'{limit} && exec "$0" "$@"', *command]
    done = subprocess.run(command, capture_output=True, text=True, timeout=55)
    assert done.stderr == ""
    return done.returncode, done.stdout


def probes(out):
    return {probe["name"]: probe for probe in json.loads(out)["probes"]}


def test_as_text_and_as_json():
    code, text = doctor()
    assert code == 0
    code, out = doctor("--json")
    assert code == 0
    found = json.loads(out)
    assert found["verdict"] in ("ok", "degraded")
    assert found["accelerated"] is True
    assert f"{sys.version_info[0]}.{sys.version_info[1]}." in found["python"]
    for name, probe in probes(out).items():
        assert name in text
        assert probe["state"] in ("ok", "degraded", "unknown"), probe
        assert probe["without"]
    for name in NEEDED:
        assert probes(out)[name]["state"] == "ok"
    for name, value in found["limits"].items():
        assert isinstance(value, str)
        assert name in text
    assert "python" in text.lower()


@pytest.mark.parametrize(
    ("before", "name"),
    [
        ("del os.pidfd_open", "pidfd"),
        ("def no(*a): raise OSError(errno.ENOSYS, 'no pidfd')\nos.pidfd_open = no", "pidfd"),
        (
            "real = fcntl.fcntl\nfcntl.fcntl = lambda fd, c, *a: 0 if c == fcntl.F_SETLEASE else real(fd, c, *a)",
            "leases",
        ),
        (
            "real = fcntl.fcntl\nfcntl.fcntl = lambda fd, c, *a: 0 if c == fcntl.F_ADD_SEALS else real(fd, c, *a)",
            "seals",
        ),
        ("os.getpid = lambda: 1", "/proc"),
    ],
)
def test_what_has_a_fallback_is_degraded(before, name):
    code, out = doctor("--json", before=before)
    assert code == 0
    assert json.loads(out)["verdict"] == "degraded"
    assert {name for name, probe in probes(out).items() if probe["state"] != "ok"} == {name}
    assert probes(out)[name]["detail"]


@pytest.mark.parametrize(
    ("before", "name"),
    [
        ("def no(*a): raise OSError(errno.EPERM, 'no')\nos.posix_fallocate = no", "shared memory (memfd)"),
        ("import fastmp\nfastmp.Event = lambda: type('E', (), {'wait': lambda s, t: 0})()",
         "waiting and waking (futex)"),
        ("from fastmp.process import ForkProcess\nForkProcess._Popen = None", "start method fork"),
    ],
)  # fmt: skip
def test_what_is_needed_is_missing(before, name):
    code, out = doctor("--json", before=before)
    assert code == 1
    assert json.loads(out)["verdict"] == "missing"
    assert probes(out)[name]["state"] == "missing"
    code, text = doctor(before=before)
    assert code == 1
    assert f"MISSING   {name}" in text
    assert "without it" in text


def test_no_memory_at_all_is_said_of_every_probe_that_wants_some():
    code, out = doctor("--json", limit="ulimit -f 0")
    assert code == 1
    assert {probes(out)[name]["state"] for name in ("shared memory (memfd)", "waiting and waking (futex)")} == {
        "missing"
    }


def test_limits_are_this_process_s():
    _, out = doctor("--json", limit="ulimit -S -n 77; ulimit -f 1024")
    limits = json.loads(out)["limits"]
    assert limits["open files (ulimit -n)"].startswith("77, may be raised to ")
    assert limits["size of files (ulimit -f)"] == "1 MiB"


def test_it_leaves_nothing_behind():
    done = subprocess.run(
        [
            sys.executable,
            "-c",
            "import gc, os\n"
            "from fastmp.doctor import report\n"
            "def count():\n"
            "    gc.collect()\n"
            "    paths = (f'/proc/self/fd/{fd}' for fd in os.listdir('/proc/self/fd'))\n"
            "    names = [os.readlink(path) for path in paths if os.path.exists(path)]\n"
            "    # The core gives tokens back some time later.\n"
            "    return sum('hold-token' not in name for name in names)\n"
            "report(); before = count()\n"
            "for _ in range(3): report()\n"
            "print(count() - before)\n",
        ],
        capture_output=True,
        text=True,
        timeout=55,
    )
    assert (done.stdout, done.stderr) == ("0\n", "")


def test_the_probes_are_those_of_an_errno():
    """An error of the system is told in its own words."""
    from fastmp.doctor import _probe

    def no():
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))

    assert _probe("x", no, "y") == {
        "name": "x",
        "state": "degraded",
        "detail": f"[Errno {errno.ENOSYS}] {os.strerror(errno.ENOSYS)}",
        "without": "y",
    }
