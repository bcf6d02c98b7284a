"""What a spawned interpreter runs: it gets ready, then becomes the process it was started for."""

from __future__ import annotations

import os
import pickle
import sys
from multiprocessing import resource_tracker, spawn
from multiprocessing.process import current_process

from . import lifelines

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import NoReturn

__all__ = ["freeze_support", "spawn_main"]


def freeze_support() -> None:
    """Runs the child, and does not return, if this frozen program was started as one."""
    if spawn.is_forking(sys.argv):
        pairs = (argument.split("=") for argument in sys.argv[2:])
        spawn_main(**{name: int(fd) for name, fd in pairs})


def spawn_main(data: int, parent_sentinel: int, lifeline: int, tracker: int) -> NoReturn:
    """Runs the process that the parent described, and exits.

    Args:
        data: a file with preparation data, the start method among them, then the process object.
        parent_sentinel: becomes readable when the parent ends.
        lifeline: open as long as this process lives.
        tracker: leads to the program's resource tracker.
    """
    assert spawn.is_forking(sys.argv), "Not forking"
    os.set_inheritable(parent_sentinel, False)
    os.set_inheritable(lifeline, False)
    lifelines.keep(lifeline)
    os.set_inheritable(tracker, False)
    resource_tracker._resource_tracker._fd = tracker  # type: ignore[attr-defined]
    process = current_process()
    with open(data, "rb") as file:
        # Starting a process would be a mistake: the main module is being imported.
        process._inheriting = True  # type: ignore[attr-defined]
        try:
            spawn.prepare(pickle.load(file))
            child = pickle.load(file)
        finally:
            del process._inheriting  # type: ignore[attr-defined]
    sys.exit(child._bootstrap(parent_sentinel))
