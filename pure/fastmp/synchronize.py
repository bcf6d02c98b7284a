"""The stdlib's locks, which say so where they are asked for what is fastmp's alone."""

from __future__ import annotations

import multiprocessing.synchronize
from multiprocessing.synchronize import Barrier, Condition, Event, SemLock

from .exceptions import unavailable

TYPE_CHECKING = False
if TYPE_CHECKING:
    from multiprocessing.context import BaseContext
    from typing import Any, NoReturn

__all__ = ["Barrier", "BoundedSemaphore", "Condition", "Event", "Lock", "RLock", "SemLock", "Semaphore"]


class _Recovering:
    _semlock: Any

    def locked(self) -> bool:
        """Is it held, or has it no permit? As newer versions of the stdlib have it."""
        return bool(self._semlock._is_zero())

    @property
    def recoveries(self) -> NoReturn:
        """Raises NotImplementedError."""
        unavailable(f"{type(self).__name__}.recoveries")


class _Owned(_Recovering):
    @property
    def owner(self) -> NoReturn:
        """Raises NotImplementedError."""
        unavailable(f"{type(self).__name__}.owner")


class Lock(_Owned, multiprocessing.synchronize.Lock):
    """A lock that is not recursive."""


class RLock(_Owned, multiprocessing.synchronize.RLock):
    """A lock that its owner, a thread of a process, may take again."""


class Semaphore(_Recovering, multiprocessing.synchronize.Semaphore):
    """A semaphore; `recover=True` raises NotImplementedError."""

    def __init__(self, value: int = 1, *, ctx: BaseContext, recover: bool = False) -> None:
        if recover:
            unavailable("Semaphore(recover=True)")
        super().__init__(value, ctx=ctx)


class BoundedSemaphore(_Recovering, multiprocessing.synchronize.BoundedSemaphore):
    """A semaphore that never has more permits than at first; `recover` as for Semaphore."""

    def __init__(self, value: int = 1, *, ctx: BaseContext, recover: bool = False) -> None:
        if recover:
            unavailable("BoundedSemaphore(recover=True)")
        super().__init__(value, ctx=ctx)


def __getattr__(name: str) -> Any:
    return getattr(multiprocessing.synchronize, name)
