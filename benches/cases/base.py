"""What every case shares: its record, and the two ways to take a time."""

import math
import multiprocessing
import timeit
from collections.abc import Callable
from dataclasses import dataclass, field
from time import perf_counter
from types import ModuleType

CASES: dict[str, "Case"] = {}


@dataclass(frozen=True)
class Case:
    """One row of the table.

    Attributes:
        name: what `--only` matches.
        title: what the table shows.
        measure: takes the module under test (fastmp or multiprocessing) and the least time to
            measure for, in seconds; returns seconds per operation (a percentage where `most` is
            given).
        goal: the ratio to multiprocessing that the design asks for; above 1, fastmp is faster.
        floor: the ratio that must hold already, where it differs.
        most: for a row about fastmp alone: the percentage it may reach.
        peers: the packages in `peers` that can do it, each with the ratio to reach, or None.
    """

    name: str
    title: str
    measure: Callable[[ModuleType, float], float]
    goal: float | None = None
    floor: float | None = None
    most: float | None = None
    peers: dict[str, float | None] = field(default_factory=dict)


def case(name, title, **limits):
    """Register the decorated function as the measure of a case."""

    def register(measure):
        CASES[name] = Case(name, title, measure, **limits)
        return measure

    return register


def time_statement(statement, setup, names, budget, unroll=1):
    """Return seconds per `statement`, by timeit: what `setup` assigns is a local of it.

    `unroll` repeats it inside the loop, so that the loop costs little beside a statement of a few
    nanoseconds. The garbage collector runs, as it does in a program.
    """
    timer = timeit.Timer("\n".join([statement] * unroll), f"import gc; gc.enable()\n{setup}", globals=names)
    return time_counted(timer.timeit, 1, budget) / unroll


def time_counted(run, count, budget):
    """Call `run(count)`, which returns seconds, with growing counts until it takes `budget`.

    Returns seconds per operation of the last call; those before it warm up.
    """
    while (elapsed := run(count)) < budget:
        count = math.ceil(count * min(max(1.3 * budget / elapsed, 2), 50))
    return elapsed / count


def race(mp, *roles):
    """Run each function of `roles` in a forked process of its own, all started before the clock is.

    Returns the seconds from the starting shot until the last has returned, and what they returned.
    The control pipes are multiprocessing's for both modules: they are no part of what is measured.
    """
    processes, controls = [], []
    for role in roles:
        mine, theirs = multiprocessing.Pipe()
        process = mp.Process(target=_run_role, args=(role, theirs))
        process.start()
        theirs.close()
        processes.append(process)
        controls.append(mine)
    for control in controls:
        control.recv()
    began = perf_counter()
    for control in controls:
        control.send(None)
    ends, results = zip(*(control.recv() for control in controls), strict=True)
    for process in processes:
        process.join()
    return max(ends) - began, results


def _run_role(role, control):
    control.send(None)
    control.recv()
    result = role()
    control.send((perf_counter(), result))
