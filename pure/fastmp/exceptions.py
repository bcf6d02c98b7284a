"""The stdlib's exceptions, and fastmp's own, which nothing here raises."""

from __future__ import annotations

import platform
import sys
from multiprocessing.context import (
    AuthenticationError,
    BufferTooShort,
    ProcessError,
    TimeoutError,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Any, NoReturn

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


class OwnerDiedWarning(RuntimeWarning):
    """A lock was taken over from a process that died with it."""


class CorruptedError(RuntimeError):
    """Shared memory holds what cannot be."""


class WorkerDiedWarning(RuntimeWarning):
    """Processes have died with work that nobody else will do."""


class WorkerDiedError(ProcessError):
    """A process has died before it had done what is waited for."""

    def __init__(self, *args: Any, pids: Iterable[int] = (), exitcode: int | None = None) -> None:
        super().__init__(*args)
        self.pids = tuple(pids)
        self.pid = self.pids[0] if self.pids else None
        self.exitcode = exitcode
        self.signal = None


class BatchError(ProcessError):
    """Some of the messages of a batch could not be made into objects."""


if TYPE_CHECKING or sys.version_info < (3, 13):

    class ShutDown(Exception):
        """The queue has been shut down."""


def __getattr__(name: str) -> Any:
    if name == "ShutDown":  # the stdlib's, whose module is not imported for nothing
        import queue

        found = globals()["ShutDown"] = queue.ShutDown  # type: ignore[attr-defined, unused-ignore]
        return found
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


class Unavailable(NotImplementedError, AttributeError):
    """It is fastmp's alone. An AttributeError as well, so that `hasattr` and inspection go on."""


def unavailable(what: str) -> NoReturn:
    """Says that `what` is fastmp's alone.

    Raises:
        NotImplementedError: always.
    """
    here = f"{sys.platform} ({platform.machine()}, {platform.python_implementation()} {platform.python_version()})"
    raise Unavailable(f"{what} needs fastmp's core, and this is the portable fastmp without it, on {here}")
