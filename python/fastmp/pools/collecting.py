"""Who takes answers: whoever waits for one, and if nobody does, the reserve.

One thread at a time is the *leader*: it waits for the queue, takes what is there, and writes it into
the table. The others that wait, *followers*, sleep on a lock of their own. Who takes an answer for a
follower wakes it; a leader that leaves wakes one of them, which leads from then on. A follower
registers before it looks once more whether there is a leader, and the leader looks for followers
after it has left: one of both sees the other.

The reserve leads when there is something to be collected for nobody who waits: for callbacks,
futures, or room for tasks. It comes only when no caller has led for a while: callers that come again
and again (`next(iterator)`) lead themselves, which is cheaper by two switches of threads.
"""

from __future__ import annotations

import collections
import contextlib
import os
import sys
import threading
import time
from time import monotonic

from .._native import _get_many

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

BATCH = 256  # answers that are taken at a time
SLICE = 1.0  # seconds: what a signal handler that raises at the wrong place can cost a follower
TURN = 0.004  # seconds: how soon the reserve looks again whether callers collect; doubled each time
LONG = 0.06


class Collecting:
    """That part of a pool's core."""

    lock: Any
    answers: Any
    pid: int
    sources: Any
    jobs: dict[int, Any]
    is_over: bool
    is_closed: bool
    state: str

    if TYPE_CHECKING:

        def has_ended(self, job: Any) -> None: ...

        def has_jobs(self) -> bool: ...

        def apply(self) -> None: ...

        def cannot_go_on(self, error: BaseException) -> None: ...

        def pump(self, foreign: bool = False) -> None: ...

    def __init__(self) -> None:
        self.arrivals: collections.deque[Any] = collections.deque()
        self.leader: object = None
        self.followers: list[Any] = []
        self.callbacks: collections.deque[Any] = collections.deque()
        self.with_callbacks = 0  # jobs that have some
        self.reserve: threading.Thread | None = None
        self.bell = threading.Event()
        self.is_reserve_asleep = False

    def wait(self, job: Any, ready: Callable[[], bool], timeout: float | None = None) -> bool:
        """Waits until `ready()`, of this job, for `timeout` seconds at most; returns whether it is.

        `ready` is called under the lock, too.

        Raises:
            ValueError: it is another process's pool.
        """
        if ready():
            return True
        if os.getpid() != self.pid:
            raise ValueError("a pool works in the process that made it alone")
        try:
            return self._wait(job, ready, timeout)
        finally:
            self._hand_over()

    def _wait(self, job: Any, ready: Callable[[], bool], timeout: float | None) -> bool:
        until = None if timeout is None else monotonic() + timeout
        left = timeout
        while True:
            if self.sources:
                self.pump()
                if ready():
                    return True
            if not self._lead(left, ready):
                self._follow(job, ready, left)
            job.digest()
            if ready():
                return True
            if until is not None:
                left = until - monotonic()
                if left <= 0:
                    return False

    def collect(self) -> None:
        """Takes what is there, if nobody else is about to."""
        try:
            self._lead(0.0)
        finally:
            self._hand_over()

    def collect_answered(self) -> None:
        """Takes what has been answered by now, or waits until another thread has, for `SLICE` at most."""
        until = monotonic() + SLICE
        with contextlib.suppress(ValueError, OSError):  # closed
            self.collect()
            while not self.answers.empty() and monotonic() < until:
                time.sleep(0.0005)
                self.collect()
            # The last of it may be in the leader's hands.
            leader = self.leader
            if leader is not None:
                self.wake_leader()
                while self.leader is leader and monotonic() < until:
                    time.sleep(0.0005)

    def _lead(self, left: float | None, ready: Callable[[], bool] | None = None) -> bool:
        """Takes one batch, as the leader, unless it is `ready`; False: somebody else is, or none comes."""
        from queue import Empty

        token = object()
        try:
            with self.lock:
                # Looked at now: who changes it from here on sees a leader, and wakes it.
                if ready is not None and ready():
                    return True
                if self.leader is None:
                    self.leader = token
            if self.leader is not token:
                return False
            if not self.arrivals:
                # Who ends it wakes the leader that it sees, or is seen here.
                if self.is_over and left is None:
                    return False
                try:
                    # In one expression: between calls a signal handler may raise.
                    self.arrivals.extend(_get_many[self.answers, BATCH, True, left])
                except Empty:
                    return True
                except (ValueError, OSError):
                    if self.is_closed:
                        return True
                    raise
            self.apply()
            return True
        finally:
            try:
                with self.lock:
                    if self.leader is token:
                        self.leader = None
            finally:
                # Waiting for the lock a handler may have raised, and nobody could lead from now on.
                if self.leader is token:
                    self.leader = None

    def _follow(self, job: Any, ready: Callable[[], bool], left: float | None) -> None:
        waiter = threading.Lock()
        waiter.acquire()
        with self.lock:
            if ready():
                return
            self.followers.append(waiter)
            job.waiters.append(waiter)
        try:
            if self.leader is not None or self.is_over:
                waiter.acquire(True, SLICE if left is None else max(min(left, SLICE), 0))
        finally:
            with self.lock:
                if waiter in self.followers:
                    self.followers.remove(waiter)
                if waiter in job.waiters:
                    job.waiters.remove(waiter)

    def _hand_over(self) -> None:
        """Who has led goes: somebody else is to lead."""
        if self.followers:
            with self.lock:
                waiter = self.followers.pop() if self.leader is None and self.followers else None
            if waiter is not None:
                _release(waiter)
        if self.callbacks or self.is_reserve_asleep:
            self.bell.set()

    def wake(self, waiters: list[Any]) -> None:
        """Wakes those who wait for a job. Under the lock."""
        while waiters:
            _release(waiters.pop())

    def wake_all(self) -> None:
        """Wakes whoever waits. Under the lock."""
        self.wake(self.followers)

    def wake_leader(self) -> None:
        """Has the leader look whether what it waits for has come in another way."""
        if self.leader is not None:
            try:
                self.answers.put(None)
            except Exception:  # closed, or no memory: it is to end anyway, or comes up by itself
                return

    # The reserve.

    def is_wanted(self) -> bool:
        return bool(self.with_callbacks or self.sources)

    def want_reserve(self) -> None:
        """Somebody has to collect though nobody may wait."""
        if self.reserve is None:
            with self.lock:
                if self.reserve is not None:
                    return
                if not self.is_over:
                    self.reserve = threading.Thread(target=self._serve, name="fastmp-pool-collector", daemon=True)
            if self.reserve is None:  # it was ended just now
                self.end_callbacks()
                return
            try:
                self.reserve.start()
            except RuntimeError as e:  # no more threads, or the program ends
                self.reserve = None
                self.cannot_go_on(e)
                self.end_callbacks()
        elif self.is_reserve_asleep:
            self.bell.set()

    def join_reserve(self) -> None:
        thread = self.reserve
        if thread is not None and thread.ident is not None:
            self.bell.set()
            thread.join()

    def end_callbacks(self) -> None:
        """Calls those of jobs that are done."""
        while self.callbacks:
            job = self.callbacks.popleft()
            if not job.is_done:
                try:
                    job.end()
                except BaseException:
                    threading.excepthook(threading.ExceptHookArgs((*sys.exc_info(), threading.current_thread())))
                with self.lock:
                    self.with_callbacks -= 1
                self.has_ended(job)
            job = None

    def _serve(self) -> None:
        pause = TURN
        while True:
            self.bell.clear()
            self.end_callbacks()
            if self.is_over:
                if self.callbacks:
                    continue
                if not self.has_jobs():
                    return
                self.bell.wait()  # who ends the pool is about to fail them
                continue
            if not self.is_wanted():
                self.is_reserve_asleep = True
                # Looked at once more, now that who wants it rings.
                if not self.is_wanted() and not self.callbacks and not self.is_over:
                    self.bell.wait()
                self.is_reserve_asleep = False
                pause = TURN
                continue
            try:
                self.pump()
                if self.is_wanted() and self._lead(None):
                    pause = TURN
                    continue
            finally:
                self._hand_over()
            if self.callbacks or not self.is_wanted():
                continue
            self.is_reserve_asleep = pause >= LONG
            self.bell.wait(pause)
            self.is_reserve_asleep = False
            pause = min(pause * 2, LONG)


def _release(waiter: Any) -> None:
    with contextlib.suppress(RuntimeError):  # by two at a time
        waiter.release()
