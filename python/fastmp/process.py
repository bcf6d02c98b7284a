"""Processes: the stdlib's objects, started by our own popen modules."""

from __future__ import annotations

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

__all__ = ["BaseProcess", "active_children", "current_process", "parent_process"]


class _Process(BaseProcess):
    _start_method: str | None = None

    def _bootstrap(self, parent_sentinel: int | None = None) -> int:
        # The base does the same for the stdlib's own default context.
        if self._start_method is not None:
            start_method.choose(self._start_method)
        return super()._bootstrap(parent_sentinel)


class ForkProcess(_Process):
    """A process that starts as a copy of this one."""

    _start_method = "fork"

    @staticmethod
    def _Popen(process_obj: BaseProcess) -> popen_fork.Popen:
        from .popen_fork import Popen

        return Popen(process_obj)


class SpawnProcess(_Process):
    """A process that starts as a fresh interpreter."""

    _start_method = "spawn"

    @staticmethod
    def _Popen(process_obj: BaseProcess) -> popen_fork.Popen:
        from .popen_spawn import Popen

        return Popen(process_obj)

    @staticmethod
    def _after_fork() -> None:
        """A fresh interpreter has nothing to put right."""


CLASSES: dict[str, type[_Process]] = {"fork": ForkProcess, "spawn": SpawnProcess}


class Process(_Process):
    """A process that starts by the default context's method."""

    @staticmethod
    def _Popen(process_obj: BaseProcess) -> popen_fork.Popen:
        return CLASSES[start_method.settle()]._Popen(process_obj)

    @staticmethod
    def _after_fork() -> None:
        CLASSES[start_method.settle()]._after_fork()
