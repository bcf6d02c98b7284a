"""How tasks come into the queue: as many as it should hold, from whatever they are made of.

A *source* is what is left of a job: an iterator, and how an item of it becomes a task. Whoever
waits for the pool feeds it when there is room, as does the reserve; one thread at a time a source.
It iterates and pickles without any lock, for both run the code of users.

A *foreign* source iterates over what may take its time, or wait for a result of the pool's: a
generator. It is fed by a thread of its own, the *feeder*, as in the stdlib, and an item of it is not
held back from a worker that has nothing to do.

There is room for so many tasks, and so many bytes of large ones, that workers never wait and memory
does not hold everything twice. A job that comes when there is room, and nothing waits for it, is put
at once by its caller.
"""

from __future__ import annotations

import collections
import itertools
import threading
from itertools import islice
from time import monotonic

from .jobs import pickled_error
from .messages import RAISED, TIMED, size_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import Any

    from .jobs import Job
    from .messages import Task

WINDOW = 1 << 15  # tasks in flight at a time
LAZY = 512  # of a job whose items are made as they are asked for
BYTES = 8 << 20  # bytes of large tasks in flight, so that their memory is used again while it is warm
LARGE = 16 << 10  # bytes of data that are counted
TOGETHER = 64  # tasks that are put together
A_WHILE = 0.001  # seconds to make items for, before those that are there are put


class Source:
    """What is left to be put of a job."""

    def __init__(
        self,
        job: Job,
        stream: bytes,
        items: Iterator[Any],
        encode: Callable[[Any], tuple[int, Any]],
        limit: Callable[[], int],
        seconds: float | None = None,
        foreign: bool = False,
    ) -> None:
        self.job = job
        self.stream = stream
        self.items = items
        self.encode = encode
        self.limit = limit
        self.seconds = seconds
        self.foreign = foreign
        self.indices = itertools.count()
        self.fetched: collections.deque[tuple[Any, int]] = collections.deque()
        """Items that no task has been made of yet."""
        self.made: list[tuple[Task, int]] = []
        self.failures: list[tuple[int, BaseException]] = []
        """Of items that cannot be pickled, by index."""
        self.error: BaseException | None = None  # what the iterable has raised
        self.busy = False
        self.is_empty = False

    def make(self, room: int) -> None:
        """Makes the next tasks, `room` at most, with their sizes, or failures. No lock is held.

        A signal handler may raise in it anywhere: an item is with its index from the start, and leaves
        `fetched` last, so that at worst there is one more task of the same index.
        """
        until, count, total = monotonic() + A_WHILE, 1, 0
        number, stream, seconds = self.job.number, self.stream, self.seconds
        while True:
            while self.fetched:
                item, index = self.fetched[0]
                try:
                    kind, data = self.encode(item)
                except BaseException as e:
                    if _is_interrupt(e):
                        raise
                    self.failures.append((index, e))
                else:
                    size = size_of(data)
                    total += size
                    task: Any = (number, index, 0, kind, stream, data)
                    if seconds is not None:
                        task = (number, index, 0, kind | TIMED, stream, data, seconds)
                    self.made.append((task, size if size > LARGE else 0))
                self.fetched.popleft()
            if room <= 0 or self.is_empty or total > BYTES // 8 or monotonic() > until:
                return
            count = min(count, room)
            try:
                self.fetched.extend(zip(islice(self.items, count), self.indices))  # noqa: B905
            except BaseException as e:
                if _is_interrupt(e):
                    raise
                self.error = e
            self.is_empty = self.error is not None or len(self.fetched) < count
            room -= len(self.fetched)
            count *= 4


def _is_interrupt(error: BaseException) -> bool:
    """Does it go to the caller? In other threads it can only be the iterable's own, or the item's."""
    return not isinstance(error, Exception) and threading.current_thread() is threading.main_thread()


class Feeding:
    """That part of a pool's core."""

    lock: Any
    jobs: dict[int, Job]
    timed: dict[tuple[int, int], float]
    tasks: Any
    size: int
    is_over: bool

    if TYPE_CHECKING:

        def check(self) -> None: ...

        def settle(self, number: int, index: int, code: int, data: Any) -> None: ...

        def after_closing(self) -> None: ...

        def wake_leader(self) -> None: ...

        def want_reserve(self) -> None: ...

        def look_at_times(self, seconds: float) -> None: ...

        def close_job(self, job: Job) -> None: ...

    def __init__(self) -> None:
        self.sources: list[Source] = []
        self.count = 0  # tasks that are open
        self.bytes = 0  # of the large ones among them
        self.feeder: threading.Thread | None = None
        self.has_room = threading.Event()  # for foreign sources, perhaps

    def has_freed(self, size: int) -> None:
        """Under the lock."""
        self.bytes -= size

    def _room(self) -> int:
        if self.bytes > BYTES and self.count > 2 * self.size:
            return 0
        return WINDOW - self.count

    def add(self, job: Job) -> None:
        """Under the lock: it stands in the table."""
        self.jobs[job.number] = job

    def put_one(self, job: Job, kind: int, stream: bytes, data: Any, seconds: float | None = None) -> None:
        """Hands in a job that is one task."""
        size = size_of(data)
        size = size if size > LARGE else 0
        if self.sources or self._room() <= 0:
            source = Source(job, stream, iter((None,)), lambda _: (kind, data), lambda: 1, seconds)
            self.submit(source, True)
            return
        with self.lock:
            self.check()
            self.jobs[job.number] = job
            job.open[0] = size
            job.fed = True
            self.count += 1
            self.bytes += size
            if seconds is not None:
                self.timed[job.number, 0] = seconds
        task: Any = (job.number, 0, 0, kind, stream, data)
        if seconds is not None:
            task = (job.number, 0, 0, kind | TIMED, stream, data, seconds)
            self.look_at_times(seconds)
        try:
            self.tasks.put(task)
        except BaseException as e:
            self.settle(job.number, 0, RAISED, pickled_error(e))
            if not isinstance(e, Exception):
                raise  # from a signal handler: nobody gets the job

    def submit(self, source: Source, in_background: bool) -> None:
        """Hands in a job, and puts what there is room for; somebody does the rest."""
        with self.lock:
            self.check()
            self.jobs[source.job.number] = source.job
            self.sources.append(source)
        if source.foreign:
            self._want_feeder()
        else:
            self.pump()
        if in_background and self.sources:
            self.want_reserve()

    def _want_feeder(self) -> None:
        with self.lock:
            is_new = self.feeder is None
            if is_new:
                self.feeder = threading.Thread(target=self._feed_foreign, name="fastmp-pool-feeder", daemon=True)
        if is_new:
            self.feeder.start()  # type: ignore[union-attr]
        else:
            self.has_room.set()

    def _feed_foreign(self) -> None:
        """The feeder. It ends with the pool, but for an iterator that never returns."""
        while True:
            self.has_room.clear()
            self.pump(True)
            if self.is_over:
                return
            self.has_room.wait()

    def pump(self, foreign: bool = False) -> None:
        """Puts what there is room for."""
        while not self.is_over:
            mine: list[Source] = []
            try:
                with self.lock:
                    room = self._room()
                    self._choose(foreign, room, mine)
                if not mine:
                    return
                self._feed(mine[0], room)
            finally:
                if mine:
                    mine[0].busy = False

    def _choose(self, foreign: bool, room: int, mine: list[Source]) -> None:
        """Finds a source that is to be fed, which is the caller's then. Under the lock."""
        for source in self.sources:
            if source.foreign == foreign and not source.busy and self._wants(source, room):
                # No call in between: a signal handler may raise behind one.
                source.busy = True
                mine.append(source)
                return

    def _wants(self, source: Source, room: int) -> bool:
        if source.made:
            return True  # after an interrupt: they have taken their room, and are not put yet
        return room > 0 and (source.is_empty or len(source.job.open) < source.limit())

    def _feed(self, source: Source, room: int) -> None:
        job = source.job
        room = min(room, source.limit() - len(job.open), TOGETHER)
        if source.foreign and self.count < 2 * self.size:
            room = min(room, 1)
        if not source.made and not source.failures:  # else a signal handler has raised before they were put
            source.make(room)
        made, failed = source.made, bool(source.failures)
        with self.lock:
            is_there = job.number in self.jobs
            if is_there:
                self._open(source, made)
        if is_there and made:
            if source.seconds is not None:
                self.look_at_times(source.seconds)
            try:
                self.tasks.put_many([task for task, _ in made])
            except Exception as e:
                for task, _ in made:
                    self.settle(job.number, task[1], RAISED, pickled_error(e))
        source.made, source.failures = [], []
        with self.lock:
            is_empty = source.is_empty and not source.fetched
            if (is_empty or not is_there) and source in self.sources:
                self.sources.remove(source)
            if is_empty and not job.open and job.number in self.jobs:
                self.close_job(job)
        self.after_closing()
        if failed or is_empty:
            self.wake_leader()  # who may have nothing to wait for

    def _open(self, source: Source, made: list[tuple[Any, int]]) -> None:
        """Writes tasks that are about to be put into the table. Under the lock."""
        job = source.job
        for task, size in made:
            if task[1] not in job.open:  # else it comes again, after an interrupt
                # No call in between, as in `_close`.
                job.open[task[1]] = size
                self.bytes += size
                self.count += 1
            if source.seconds is not None:
                self.timed[job.number, task[1]] = source.seconds
        for index, error in source.failures:
            job.arrive(index, RAISED, pickled_error(error))
        if source.is_empty and not source.fetched:
            if source.error is not None:
                job.broken_off(RAISED, pickled_error(source.error))
            job.exhausted()
