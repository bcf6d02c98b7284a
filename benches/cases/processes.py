"""Starting: a process, and the module itself."""

import statistics
import subprocess
import sys
from pathlib import Path

from .base import case

PROGRAM = Path(__file__).resolve().parent.parent / "starts.py"


def start(mp, method, count, budget, *gib):
    """By a program of its own."""
    command = [sys.executable, str(PROGRAM), mp.__name__, method, str(count), str(budget), *map(str, gib)]
    return float(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout)


def _register(method, goal, goal_8):
    @case(f"start-join-{method}", f"start + join, {method}", goal=goal)
    def one(mp, budget):
        return start(mp, method, 1, budget)

    @case(f"start-8-{method}", f"8 processes started, then joined, {method}", goal=goal_8)
    def eight(mp, budget):
        return start(mp, method, 8, budget)


_register("fork", 1.3, 1.3)
_register("spawn", 1.5, 1.5)
_register("forkserver", 5, 8)


@case("start-2GiB", "start + join, 2 GiB in the parent: forkserver against fork", goal=30)
def start_from_a_large_process(mp, budget):
    """Ours by forkserver, the stdlib's by fork: what a program of this size would use."""
    return start(mp, "fork" if mp.__name__ == "multiprocessing" else "forkserver", 1, budget, 2)


@case("import", "import", goal=1 / 1.2)
def import_module(mp, budget):
    code = f"from time import perf_counter as now; t = now(); import {mp.__name__}; print(now() - t)"
    samples = []
    while len(samples) < 5 or sum(samples) < budget:
        run = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
        samples.append(float(run.stdout))
    return statistics.median(samples)
