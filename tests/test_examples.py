"""The example programs, run as a user runs them: whole, and with a worker killed half-way."""

import os
import signal
import subprocess
import sys
import sysconfig
from pathlib import Path

import fastmp
import pytest

EXAMPLES = Path(__file__).resolve().parent.parent / "examples"
KILLS = int(os.environ.get("FASTMP_EXAMPLE_KILLS", "4"))
# More than a hundred files. All of the library takes ten seconds of computing: once will do.
FEWER = os.path.join(sysconfig.get_path("stdlib"), "encodings")


def run(tmp_path, program, *options):
    """Return what the program prints; its exit status is 0 only if what it checks is right."""
    process = subprocess.Popen(
        [sys.executable, str(EXAMPLES / program), *options],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    try:
        output, _ = process.communicate(timeout=30)
    finally:
        if process.returncode is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    assert process.returncode == 0, output
    return output


@pytest.mark.parametrize(("method", "files"), [("fork", []), ("spawn", [FEWER])], ids=["fork", "spawn"])
def test_wordcount(tmp_path, method, files):
    assert "the total is right\n" in run(tmp_path, "wordcount.py", "--method", method, *files)


@pytest.mark.timeout(40 * KILLS)
@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_wordcount_with_a_worker_killed(tmp_path, method):
    for _ in range(KILLS):
        output = run(tmp_path, "wordcount.py", "--method", method, "--kill", FEWER)
        assert "worker 0: killed\n" in output
        assert "the total is right" in output


@pytest.mark.skipif(not fastmp.accelerated, reason="for fastmp's core alone")
def test_pool(tmp_path):
    assert " files\n" in run(tmp_path, "pool.py")
    output = run(tmp_path, "pool.py", "--kill")
    # Between two files it costs nothing.
    assert "was killed by SIGKILL while it ran count_lines" in output or "lost" not in output


@pytest.mark.skipif(not fastmp.accelerated, reason="for fastmp's core alone")
@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_broadcast_with_a_worker_killed_and_a_slow_one(tmp_path, method):
    output = run(tmp_path, "broadcast.py", "--method", method)
    assert "worker 0: killed\n" in output
    for worker in (1, 2, 3):
        assert f"worker {worker}: frames {0 if worker == 1 else 20} to 59; " in output


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_frames_beside_the_standard_library(tmp_path, method):
    pytest.importorskip("numpy")
    lines = run(tmp_path, "frames.py", "--method", method, "--frames", "40").splitlines()
    assert [line.partition(":")[0] for line in lines[:2]] == ["multiprocessing", "fastmp"]
    assert all(line.endswith("frames per second; each came once, whole") for line in lines[:2])
    assert lines[2].endswith("times as many")
