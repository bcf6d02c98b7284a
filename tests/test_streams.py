"""The numbers 0, 1 and 2 are those of the program's standard streams, also while they are closed."""

import os
import subprocess
import sys

import pytest
from children import streams

pytestmark = pytest.mark.fastmp_only("the stdlib takes whatever number is free")
PROGRAM = """
import sys
sys.path.insert(0, {path!r})
from children import streams
if __name__ == "__main__":
    sys.exit(streams.run({kind!r}, {method!r}))
"""
HERE = os.path.dirname(os.path.abspath(__file__))


@pytest.mark.parametrize("kind", [*streams.KINDS, "Process", "Pool", "executor"])
@pytest.mark.timeout(120)
def test_made_where_the_standard_streams_are_closed(mp, kind, tmp_path):
    program = tmp_path / "daemon.py"
    program.write_text(PROGRAM.format(path=HERE, kind=kind, method=mp.get_start_method()))
    done = subprocess.run([sys.executable, str(program)], capture_output=True, text=True, timeout=100, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
