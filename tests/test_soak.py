"""The soaks for a little while: FASTMP_TEST_SOAK seconds; `make soak` runs it for ten minutes."""

import os
import subprocess
import sys

import pytest

SECONDS = float(os.environ.get("FASTMP_TEST_SOAK", "10"))


KILLS = int(SECONDS * 15)


@pytest.mark.timeout(240 + 10 * SECONDS, method="signal")
@pytest.mark.parametrize("mode", ["raise", "retry", "break"])
def test_a_pool_under_random_kills(mode):
    program = os.path.join(os.path.dirname(os.path.abspath(__file__)), "soak_pool.py")
    command = [sys.executable, program, "--kills", str(KILLS), "--mode", mode, "--pace", "0.05"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    print(done.stdout, done.stderr)
    assert done.returncode == 0


@pytest.mark.timeout(120 + 2 * SECONDS, method="signal")
@pytest.mark.parametrize(
    ("program", "method"), [("soak.py", "fork"), ("soak.py", "spawn"), ("soak_channels.py", "fork")]
)
def test_under_random_kills(program, method):
    program = os.path.join(os.path.dirname(os.path.abspath(__file__)), program)
    pace = "0.03" if method == "fork" else "0.3"  # a spawned worker takes a while to be there
    command = [sys.executable, program, "--seconds", str(SECONDS), "--method", method, "--pace", pace]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    print(done.stdout, done.stderr)
    assert done.returncode == 0


@pytest.mark.timeout(240, method="signal")
@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_families_under_random_kills(method):
    """`make soak` kills 500 of each."""
    program = os.path.join(os.path.dirname(os.path.abspath(__file__)), "soak_processes.py")
    command = [sys.executable, program, "--kills", str(int(2 * SECONDS)), "--method", method, "--pace", "0.05"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    print(done.stdout, done.stderr)
    assert done.returncode == 0
