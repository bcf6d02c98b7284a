"""Locks, semaphores and events: the native ones, with the stdlib's looks.

Every method that a program calls in a loop is native; here are only what it prints and how it travels.
"""

from __future__ import annotations

import os
import threading
from multiprocessing.process import current_process

from . import _native, handles

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Self

__all__ = ["BoundedSemaphore", "Event", "Lock", "RLock", "SemLock", "Semaphore"]


class SemLock:
    """What locks and semaphores have in common."""

    @property
    def _semlock(self) -> Self:
        """Where the stdlib's own Queue, Condition and executor look for the inner lock."""
        return self

    def __reduce__(self) -> handles.Reduced:
        return handles.reduce_block(self)


def _owner_name(lock: Lock | RLock) -> str:
    if lock._is_mine():
        thread = threading.current_thread().name
        name = current_process().name
        return name if thread == "MainThread" else f"{name}|{thread}"
    owner = lock.owner
    if owner is None:
        return "None"
    return "SomeOtherThread" if owner[0] == os.getpid() else "SomeOtherProcess"


class Lock(SemLock, _native.Lock):
    """A lock for processes and threads, not recursive; any process may release it."""

    def __repr__(self) -> str:
        try:
            name = _owner_name(self)
        except Exception:
            name = "unknown"
        return f"<{type(self).__name__}(owner={name})>"


class RLock(SemLock, _native.RLock):
    """A lock that its owner, a thread of a process, may take again."""

    def __repr__(self) -> str:
        try:
            name = _owner_name(self)
            count = self._count() if self._is_mine() else 0 if name == "None" else "nonzero"
        except Exception:
            name = count = "unknown"
        return f"<{type(self).__name__}({name}, {count})>"


class Semaphore(SemLock, _native.Semaphore):
    """A count of permits that processes and threads take and give back."""

    def __repr__(self) -> str:
        return f"<{type(self).__name__}(value={_value(self)})>"


class BoundedSemaphore(SemLock, _native.BoundedSemaphore):
    """A semaphore that never has more permits than at first."""

    def __repr__(self) -> str:
        return f"<{type(self).__name__}(value={_value(self)}, maxvalue={self.maxvalue})>"


def _value(semaphore: Semaphore | BoundedSemaphore) -> int | str:
    try:
        return semaphore.get_value()
    except Exception:
        return "unknown"


class Event(_native.Event):
    """A flag that processes and threads wait for."""

    def __repr__(self) -> str:
        state = "set" if self.is_set() else "unset"
        return f"<{type(self).__qualname__} at {id(self):#x} {state}>"

    def __reduce__(self) -> handles.Reduced:
        return handles.reduce_block(self)
