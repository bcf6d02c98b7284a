"""Parents, children, grandchildren and fork servers are killed at random: nobody is left, none hangs."""

import contextlib
import os
import random
import signal
import subprocess
import sys
import time

import fastmp
import pytest
from children import families
from children.common import process_table, wait_until

pytestmark = pytest.mark.skipif(not fastmp.accelerated, reason="the stdlib leaves orphans")

# Families that are killed, by way of starting: FASTMP_TEST_FAMILIES=170 makes it some 500 of each.
FAMILIES = int(os.environ.get("FASTMP_TEST_FAMILIES", "6"))


def family_of(tag):
    """All processes that were started with this mark in their environment."""
    found = []
    for process in process_table():
        try:
            with open(f"/proc/{process.pid}/environ", "rb") as file:
                if f"{families.MARK}={tag}".encode() in file.read().split(b"\0") and process.state not in "ZX":
                    found.append(process.pid)
        except OSError:
            continue
    return found


@pytest.mark.timeout(600)
@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_random_kills(method):
    chance = random.Random(f"{method} 11")
    for number in range(FAMILIES):
        tag = f"{os.getpid()}-{method}-{number}"
        program = subprocess.Popen(
            [sys.executable, "-m", "children.families", method, str(chance.random())],
            env=os.environ | {families.MARK: tag, "PYTHONPATH": os.path.dirname(os.path.abspath(__file__))},
            stdout=subprocess.PIPE,
            text=True,
        )
        with program:
            assert program.stdout.readline() == "begun\n"
            # Two of the family, and then its head: what is left has to end by itself.
            for _ in range(2):
                time.sleep(chance.uniform(0, 0.4))
                members = family_of(tag)
                if members and chance.random() < 0.8:
                    victim = chance.choice(members)
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(victim, signal.SIGKILL)
            program.kill()
        wait_until(lambda: family_of(tag) == [], "the end of a family")  # noqa: B023
