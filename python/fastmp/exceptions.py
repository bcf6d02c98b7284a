"""The stdlib's exceptions, so that one `except` clause serves both, and fastmp's own."""

from __future__ import annotations

import sys
from multiprocessing.context import (
    AuthenticationError,
    BufferTooShort,
    ProcessError,
    TimeoutError,
)

from ._native import CorruptedError, OwnerDiedWarning

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Any

__all__ = [
    "AuthenticationError",
    "BatchError",
    "BufferTooShort",
    "CorruptedError",
    "OwnerDiedWarning",
    "ProcessError",
    "ShutDown",
    "TimeoutError",
    "WorkerDiedError",
    "WorkerDiedWarning",
]


class WorkerDiedWarning(RuntimeWarning):
    """Processes have died with work that nobody else will do."""


class WorkerDiedError(ProcessError):
    """A process has been killed, or ended with an error, before it had done what is waited for.

    Attributes:
        pid: its number, or that of the first of several.
        pids: the numbers of all of them.
        exitcode: what it ended with, as `Process.exitcode`; None if that is not known.
        signal: the name of the signal that killed it, "SIGKILL" for one; None if none did, or that
            is not known.
    """

    def __init__(self, *args: Any, pids: Iterable[int] = (), exitcode: int | None = None) -> None:
        super().__init__(*args)
        self.pids = tuple(pids)
        self.pid = self.pids[0] if self.pids else None
        self.exitcode = exitcode
        self.signal = _signal_name(exitcode)

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), self.args, vars(self)


class BatchError(ProcessError):
    """Some of the messages that `get_many` took could not be made into objects.

    Attributes:
        objects: those that could, in order. No message is lost but the others.
        errors: for each of the others its place in the batch, and what was raised.
    """

    def __init__(self, objects: list[Any], errors: list[tuple[int, Exception]]) -> None:
        super().__init__(objects, errors)
        self.objects = objects
        self.errors = errors

    def __str__(self) -> str:
        index, error = self.errors[0]
        count = len(self.objects) + len(self.errors)
        return f"{len(self.errors)} of {count} messages were not read; number {index}: {error!r}"


def _signal_name(exitcode: int | None) -> str | None:
    if exitcode is None or exitcode >= 0:
        return None
    import signal

    try:
        return signal.Signals(-exitcode).name
    except ValueError:
        return f"signal {-exitcode}"


if TYPE_CHECKING or sys.version_info < (3, 13):

    class ShutDown(Exception):
        """The queue has been shut down: nothing more is put, nor left to be got."""


def __getattr__(name: str) -> Any:
    if name == "ShutDown":  # the stdlib's, whose module is not imported for nothing
        import queue

        found = globals()["ShutDown"] = queue.ShutDown  # type: ignore[attr-defined, unused-ignore]
        return found
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
