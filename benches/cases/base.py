"""What every case shares: its record, and how processes are timed that race."""

import multiprocessing
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
