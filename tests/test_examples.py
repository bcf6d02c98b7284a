"""The example program, run as a user runs it: whole, and with a worker killed half-way."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

WORDCOUNT = Path(__file__).resolve().parent.parent / "examples" / "wordcount.py"
KILLS = int(os.environ.get("FASTMP_EXAMPLE_KILLS", "4"))


def count_words(tmp_path, *options):
    """Return what the program prints; its exit status is 0 only if its total is right."""
    process = subprocess.Popen(
        [sys.executable, str(WORDCOUNT), *options],
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


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_wordcount(tmp_path, method):
    assert "the total is right\n" in count_words(tmp_path, "--method", method)


@pytest.mark.timeout(40 * KILLS)
@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_wordcount_with_a_worker_killed(tmp_path, method):
    for _ in range(KILLS):
        output = count_words(tmp_path, "--method", method, "--kill")
        assert "worker 0: killed\n" in output
        assert "the total is right" in output
