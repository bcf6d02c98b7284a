"""Starting: a process, and the module itself."""

import os
import statistics
import subprocess
import sys

from .base import case, time_statement


def _register_start(method, goal):
    @case(f"start-join-{method}", f"start + join, {method}", goal=goal)
    def measure(mp, budget):
        # A target from a module that every child has loaded: its import is no part of the start.
        names = {"Process": mp.get_context(method).Process, "target": os.getpid}
        return time_statement("p = Process(target=target); p.start(); p.join()", "pass", names, budget)


_register_start("fork", 1.3)
_register_start("spawn", 1.5)


@case("import", "import", goal=1 / 1.2)
def import_module(mp, budget):
    code = f"from time import perf_counter as now; t = now(); import {mp.__name__}; print(now() - t)"
    samples = []
    while len(samples) < 5 or sum(samples) < budget:
        run = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
        samples.append(float(run.stdout))
    return statistics.median(samples)
