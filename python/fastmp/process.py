"""Processes: the stdlib's objects, started by our own popen modules."""

from __future__ import annotations

import multiprocessing.process
from multiprocessing.process import (
    BaseProcess,
    active_children,
    current_process,
    parent_process,
)

from . import start_method

TYPE_CHECKING = False
if TYPE_CHECKING:
    from multiprocessing import popen_fork
    from typing import Any

__all__ = ["BaseProcess", "active_children", "current_process", "parent_process"]


class ForkProcess(BaseProcess):
    """A process that starts as a copy of this one."""

    _start_method = "fork"

    @staticmethod
    def _Popen(process_obj: BaseProcess) -> popen_fork.Popen:
        from .popen_fork import Popen

        return Popen(process_obj)


class SpawnProcess(BaseProcess):
    """A process that starts as a fresh interpreter."""

    _start_method = "spawn"

    @staticmethod
    def _Popen(process_obj: BaseProcess) -> popen_fork.Popen:
        from .popen_spawn import Popen

        return Popen(process_obj)

    @staticmethod
    def _after_fork() -> None:
        """A fresh interpreter has nothing to put right."""


class ForkServerProcess(BaseProcess):
    """A process that starts as a copy of a small server process."""

    _start_method = "forkserver"

    @staticmethod
    def _Popen(process_obj: BaseProcess) -> popen_fork.Popen:
        from .popen_forkserver import Popen

        return Popen(process_obj)


CLASSES: dict[str, type[ForkProcess | SpawnProcess | ForkServerProcess]] = {
    "fork": ForkProcess,
    "spawn": SpawnProcess,
    "forkserver": ForkServerProcess,
}


class Process(BaseProcess):
    """A process that starts by the default context's method."""

    _start_method: str | None = None

    @staticmethod
    def _Popen(process_obj: BaseProcess) -> popen_fork.Popen:
        return CLASSES[start_method.settle()]._Popen(process_obj)

    @staticmethod
    def _after_fork() -> None:
        CLASSES[start_method.settle()]._after_fork()  # type: ignore[union-attr]


def __getattr__(name: str) -> Any:
    return getattr(multiprocessing.process, name)  # whatever is not ours
