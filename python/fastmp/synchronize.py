"""Locks, semaphores, events, conditions and barriers: the native ones, with the stdlib's looks.

Every method that a program calls in a loop is native; here are only what it prints and how it
travels.
"""

from __future__ import annotations

import os
import threading
import time
from multiprocessing.process import current_process

from . import _native, handles

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, Self

__all__ = ["Barrier", "BoundedSemaphore", "Condition", "Event", "Lock", "RLock", "SemLock", "Semaphore"]


class SemLock:
    """What locks and semaphores have in common."""

    @property
    def _semlock(self) -> Self:
        """Where the stdlib's own Queue, Condition and executor look for the inner lock."""
        return self

    def __getstate__(self) -> tuple[Any, ...]:
        """What a subclass's own `__getstate__` adds to; the object itself travels beside it."""
        handles.assert_travelling(self)
        return ()

    def __setstate__(self, state: tuple[()]) -> None:
        """Does nothing; a subclass's own takes off first what it has added."""

    def __reduce__(self) -> handles.Reduced:
        reduced = handles.reduce_block(self)
        return reduced if type(self) in _plain else (*reduced, self.__getstate__())


def _owner_name(lock: Lock | RLock) -> str:
    if lock._is_mine():
        thread = threading.current_thread().name
        name = current_process().name
        return name if thread == "MainThread" else f"{name}|{thread}"
    owner = lock.owner
    if owner is None:
        return "None"
    return "SomeOtherThread" if owner[0] == os.getpid() else "SomeOtherProcess"


@_native._own_descriptors
class Lock(SemLock, _native.Lock):
    """A lock for processes and threads, not recursive; any process may release it."""

    def __repr__(self) -> str:
        try:
            name = _owner_name(self)
        except Exception:
            name = "unknown"
        return f"<{type(self).__name__}(owner={name})>"


@_native._own_descriptors
class RLock(SemLock, _native.RLock):
    """A lock that its owner, a thread of a process, may take again."""

    def __repr__(self) -> str:
        try:
            name = _owner_name(self)
            count = self._count() if self._is_mine() else 0 if name == "None" else "nonzero"
        except Exception:
            name = count = "unknown"
        return f"<{type(self).__name__}({name}, {count})>"


@_native._own_descriptors
class Semaphore(SemLock, _native.Semaphore):
    """A count of permits that processes and threads take and give back."""

    def __repr__(self) -> str:
        return f"<{type(self).__name__}(value={_value(self)})>"


@_native._own_descriptors
class BoundedSemaphore(SemLock, _native.BoundedSemaphore):
    """A semaphore that never has more permits than at first."""

    def __repr__(self) -> str:
        return f"<{type(self).__name__}(value={_value(self)}, maxvalue={self.maxvalue})>"


# What has no state but the shared one.
_plain = {Lock, RLock, Semaphore, BoundedSemaphore}


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
        # Its attributes go along, as those of the stdlib's do.
        state = self.__getstate__()
        reduced = handles.reduce_block(self)
        return reduced if state is None else (*reduced, state)


class Condvar(_native.Condvar):
    """What a condition adds to its lock."""

    def __reduce__(self) -> handles.Reduced:
        return handles.reduce_block(self)


@_native._own_descriptors
class Condition(_native.Guarded):
    """A lock, and a place to wait for what happens under it."""

    def __init__(self, lock: Lock | RLock | None = None, *, ctx: object = None) -> None:
        lock = lock or RLock()
        _ = lock.acquire, lock.release  # what has neither is refused at once
        self._set(lock, Condvar())

    def __getstate__(self) -> Any:
        handles.assert_travelling(self)
        return self._lock, self._condvar

    def __setstate__(self, state: tuple[Lock | RLock, Condvar]) -> None:
        self._set(*state)

    # Not `__setstate__` itself, which a subclass may have of its own.
    def _set(self, lock: Lock | RLock, condvar: Condvar) -> None:
        self._condvar = condvar
        self._guard(condvar, lock)

    # What `with` does natively with a lock of ours, for a subclass of one.

    def _enter(self) -> Any:
        return self._lock.__enter__()

    def _exit(self, *args: object) -> Any:
        return self._lock.__exit__(*args)

    def __repr__(self) -> str:
        try:
            waiters: int | str = self._condvar.waiters()
        except Exception:
            waiters = "unknown"
        return f"<{type(self).__name__}({self._lock}, {waiters})>"

    def wait(self, timeout: float | None = None) -> bool:
        """Releases the lock, however often it is held, waits to be notified, and takes it again.

        Returns:
            False if that took longer than `timeout` seconds.

        Raises:
            AssertionError: this thread does not hold the lock.

        Warns:
            OwnerDiedWarning: whoever held the lock last ended while holding it. The lock is held,
                also if the warning is made an error.
        """
        return self._condvar.wait(self._lock, timeout)

    def notify(self, n: int = 1) -> None:
        """Wakes `n` of those who wait, longest-waiting first; a dead one's goes to another.

        Raises:
            AssertionError: this thread does not hold the lock.
        """
        self._condvar.notify(self._lock, n)

    def notify_all(self) -> None:
        """Wakes all who wait.

        Raises:
            AssertionError: this thread does not hold the lock.
        """
        self._condvar.notify_all(self._lock)

    def wait_for(self, predicate: Callable[[], Any], timeout: float | None = None) -> Any:
        """Waits until `predicate()` is true, for `timeout` seconds at most.

        Returns what it returned last.
        """
        result = predicate()
        end = None
        if timeout is not None:
            from math import fsum  # not worth its import before

            end = fsum((time.monotonic(), timeout))  # of any real number
        left = None
        while not result:
            if end is not None:
                left = end - time.monotonic()
                if left <= 0:
                    break
            self.wait(left)
            result = predicate()
        return result


class _Barrier(_native.Barrier):
    def __reduce__(self) -> handles.Reduced:
        return handles.reduce_block(self)


class Barrier(threading.Barrier):
    """So many parties wait for each other.

    If one of them dies waiting, the others get BrokenBarrierError.
    """

    def __init__(
        self,
        parties: int,
        action: Callable[[], Any] | None = None,
        timeout: float | None = None,
        *,
        ctx: object = None,
    ) -> None:
        """Makes a barrier.

        Args:
            parties: how many wait for each other, at least 1.
            action: called by the last of them before all go on.
            timeout: of each wait that names none, in seconds.

        Raises:
            ValueError: fewer than one party.
        """
        self._barrier, self._action, self._timeout = _Barrier(parties), action, timeout

    def __getstate__(self) -> Any:
        handles.assert_travelling(self)
        return self._barrier, self._action, self._timeout

    def __setstate__(self, state: tuple[_Barrier, Callable[[], Any] | None, float | None]) -> None:
        self._barrier, self._action, self._timeout = state

    def wait(self, timeout: float | None = None) -> int:
        """Waits for the other parties; returns how many of them came before this one.

        Raises:
            threading.BrokenBarrierError: the barrier was broken or reset, by a party that died too,
                or this wait has taken longer than `timeout` seconds, which breaks it.
        """
        return self._barrier.wait(self._action, self._timeout if timeout is None else timeout)

    def reset(self) -> None:
        """Makes the barrier whole and empty again; those who wait get BrokenBarrierError."""
        self._barrier.reset()

    def abort(self) -> None:
        """Breaks the barrier: who waits, or comes before a `reset`, gets BrokenBarrierError."""
        self._barrier.abort()

    @property
    def parties(self) -> int:
        """How many wait for each other."""
        return self._barrier.parties

    @property
    def n_waiting(self) -> int:
        """How many wait at this instant; 0 if it is broken."""
        return self._barrier.n_waiting

    @property
    def broken(self) -> bool:
        """Whether it is broken."""
        return self._barrier.broken


def __getattr__(name: str) -> Any:
    # The stdlib's, whatever is not ours.
    from multiprocessing import synchronize

    return getattr(synchronize, name)
