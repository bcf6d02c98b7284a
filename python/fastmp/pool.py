"""Pools of processes: the stdlib's names, on workers and queues of our own (see `pools.core`).

Long, for it is one module of the stdlib's: a class with all its methods, and what these return.
"""

from __future__ import annotations

import collections
import itertools
import multiprocessing.pool
import operator
import os
import warnings
import weakref
from abc import ABCMeta
from multiprocessing import util
from multiprocessing.pool import ThreadPool

from . import start_method
from .exceptions import TimeoutError
from .noting import RLock
from .pools import messages
from .pools.core import Core, start_or_end
from .pools.feeding import LAZY, WINDOW, Source
from .pools.jobs import Job, anew, open_answer
from .pools.worker import shared

TYPE_CHECKING = False
if TYPE_CHECKING:
    import types
    from collections.abc import Callable, Iterable, Iterator, Mapping
    from multiprocessing.context import BaseContext
    from typing import Any, Literal, NoReturn

__all__ = [
    "ApplyResult",
    "AsyncResult",
    "IMapIterator",
    "IMapUnorderedIterator",
    "MapResult",
    "MaybeEncodingError",
    "Pool",
    "RemoteTraceback",
    "ThreadPool",
    "shared",
]

_stdlibs: Any = multiprocessing.pool
MaybeEncodingError = _stdlibs.MaybeEncodingError
RemoteTraceback = _stdlibs.RemoteTraceback
job_counter = _stdlibs.job_counter

RUN, CLOSE, TERMINATE = "RUN", "CLOSE", "TERMINATE"
BUILTIN = {list, tuple, range, dict, set, frozenset, str, bytes}  # to iterate over them takes no time
ON_DEATH = ("raise", "retry", "break")


class ApplyResult(Job, metaclass=ABCMeta):
    """What `apply_async` returns."""

    def __class_getitem__(cls, item: Any, /) -> types.GenericAlias:
        from types import GenericAlias

        return GenericAlias(cls, item)

    def __init__(self, pool: Pool, callback: Any = None, error_callback: Any = None) -> None:
        super().__init__(next(job_counter))
        self._pool: Pool | None = pool
        self._core = pool._core
        self._answer: tuple[int, Any] | None = None
        self._outcome: tuple[bool, Any] | None = None
        self._callback = callback
        self._error_callback = error_callback
        if callback is not None or error_callback is not None:
            self.has_callbacks = True
            self._core.with_callbacks += 1

    @property
    def _job(self) -> int:
        return self.number

    def __len__(self) -> int:
        """Items that it is about."""
        return 1

    def __bool__(self) -> bool:
        return True

    @property
    def done_count(self) -> int:
        """Items of which the result, or the failure, has come."""
        if not self.is_done:
            self._core.collect()
        return self._done()

    def ready(self) -> bool:
        """Whether the call has completed."""
        if not self.is_done:
            self._core.collect()
        return self.is_done

    def successful(self) -> bool:
        """Whether it completed without raising.

        Raises:
            ValueError: it is not ready.
        """
        if not self.ready():
            raise ValueError(f"{self!r} not ready")
        return self._open()[0]

    def wait(self, timeout: float | None = None) -> None:
        """Waits until the result is there, for `timeout` seconds at most."""
        if not self.is_done:
            self._core.wait(self, self._is_ready, timeout)

    def get(self, timeout: float | None = None) -> Any:
        """Returns the result when it arrives.

        Raises:
            TimeoutError: it has not come in `timeout` seconds.
            Exception: what the call has raised.
            WorkerDiedError: the worker that ran it has died.
        """
        if not self.is_done and not self._core.wait(self, self._is_ready, timeout):
            raise TimeoutError
        succeeded, value = self._outcome or self._open()
        if succeeded:
            return value
        try:
            raise value
        finally:
            del value

    def _is_ready(self) -> bool:
        return self.is_done

    def _open(self) -> tuple[bool, Any]:
        """What has come of it; once it is done."""
        outcome = self._outcome
        if outcome is None:
            outcome = self._opened()
            with self._core.lock:
                # Two at a time: both have the same object.
                outcome = self._outcome = self._outcome or outcome
                answer, self._answer = self._answer, None
            del answer
        return outcome

    def _opened(self) -> tuple[bool, Any]:
        if self._answer is None:  # another thread has opened it meanwhile
            assert self._outcome is not None
            return self._outcome
        return open_answer(*self._answer)

    def _done(self) -> int:
        return int(not self.open)

    # See Job.

    def arrive(self, index: int, code: int, data: Any) -> None:
        self._answer = code, data

    def abandon(self, code: int, data: Any) -> None:
        self.fed = True
        if self._answer is None:
            self._answer = code, data

    def completed(self) -> None:
        self.is_done = True
        self._pool = None

    def end(self) -> None:
        succeeded, value = self._open()
        callback = self._callback if succeeded else self._error_callback
        self._callback = self._error_callback = None
        if callback:
            callback(value)


AsyncResult = ApplyResult


class MapResult(ApplyResult):
    """What `map_async` returns."""

    def __init__(
        self, pool: Pool, chunksize: int, length: int, callback: Any, error_callback: Any, one_by_one: bool
    ) -> None:
        super().__init__(pool, callback, error_callback)
        self._chunksize = chunksize
        self._length = length
        self._one_by_one = one_by_one  # a task is an item, not a list of one
        self._parts: dict[int, tuple[int, Any]] = {}
        """Answers by chunk, opened or not."""
        self._opening = RLock()  # this job's own: what is unpickled under it is its results
        self._unopened: collections.deque[int] = collections.deque()
        self._failure: tuple[int, Any] | None = None
        self._heard = 0

    def __len__(self) -> int:
        return self._length

    def _done(self) -> int:
        return self._length if self.is_done else min(self._heard * max(self._chunksize, 1), self._length)

    def arrive(self, index: int, code: int, data: Any) -> None:
        self._heard += 1
        if code < messages.RAISED:
            if self._failure is None:
                self._parts[index] = code, data
                if code == messages.DONE_PICKLED:
                    self._unopened.append(index)
        elif self._failure is None:  # the first is kept
            self._failure = code, data

    def abandon(self, code: int, data: Any) -> None:
        self.fed = True
        if self._failure is None:
            self._failure = code, data

    def digest(self) -> None:
        if not self._unopened:
            return
        with self._opening:
            self._digest()

    def _digest(self) -> None:
        while self._unopened:
            index = self._unopened[0]
            code, data = self._parts[index]
            if code == messages.DONE_PICKLED:
                succeeded, value = open_answer(code, data)
                if not succeeded:
                    self._failure = self._failure or (messages.RAISED, _here(value))
                    return
                self._parts[index] = messages.DONE, value
            # Last: an interrupt before it does that again.
            self._unopened.popleft()

    def _opened(self) -> tuple[bool, Any]:
        with self._opening:
            if self._outcome is not None:
                return self._outcome
            self.digest()
            if self._failure is not None:
                return open_answer(*self._failure)
            parts = self._parts
            if self._one_by_one:
                return True, [parts[index][1] for index in range(len(parts))]
            value: list[Any] = []
            for index in range(len(parts)):
                value.extend(parts[index][1])
            return True, value

    def _open(self) -> tuple[bool, Any]:
        outcome = self._outcome
        if outcome is None:
            outcome = self._opened()
            with self._core.lock:
                outcome = self._outcome = self._outcome or outcome
                parts, self._parts = self._parts, {}
            del parts
        return outcome


def _here(value: Any) -> Any:
    from .pools.jobs import Here

    return Here(value)


class IMapIterator(Job, metaclass=ABCMeta):
    """What `imap` returns: the results in the order of the items.

    One that has failed raises from `next`, and the next one is the next item's.
    """

    def __init__(
        self, pool: Pool, length: int | None = None, chunked: bool = False, buffersize: int | None = None
    ) -> None:
        super().__init__(next(job_counter))
        self._pool: Pool | None = pool
        self._core = pool._core
        self._known = length
        self._chunked = chunked
        self._room = buffersize
        self._answers: dict[int, tuple[int, Any]] = {}
        """By task, until they are handed out."""
        self._index = 0  # of the next task whose answer is handed out
        self._abandoned: tuple[int, Any] | None = None
        self._chunk: Iterator[Any] = iter(())
        self._heard = 0

    @property
    def _job(self) -> int:
        return self.number

    def _set_length(self, length: int) -> None:
        """It is known by itself. What is put into the stdlib's queue of tasks has this with it."""

    def __iter__(self) -> IMapIterator:
        return self

    def __len__(self) -> int:
        """Items in all, if the iterable has a length.

        Raises:
            TypeError: it has none.
        """
        if self._known is None:
            raise TypeError("the length of what it iterates over is not known")
        return self._known

    def __length_hint__(self) -> int:
        return self._known or 0

    def __bool__(self) -> bool:
        return True

    @property
    def done_count(self) -> int:
        """Tasks of which the result, or the failure, has come; of chunks, chunks."""
        if not self.is_done:
            self._core.collect()
        return self._heard

    def next(self, timeout: float | None = None) -> Any:
        """The next result.

        Raises:
            StopIteration: there is none.
            TimeoutError: it has not come in `timeout` seconds.
            Exception: what the call has raised.
        """
        if self._chunked:
            for item in self._chunk:
                return item
        while True:
            answer = self._take()
            if answer is None:
                if self.is_done and not self._has_one():
                    self._pool = None
                    # What has ended the iterable, or the pool, is told once.
                    answer, self._abandoned = self._abandoned, None
                    if answer is None:
                        raise StopIteration from None
                elif not self._core.wait(self, self._is_ready, timeout):
                    raise TimeoutError from None
                else:
                    continue
            if self._room is not None:
                self._core.has_room.set()
                self._core.pump()
            succeeded, value = open_answer(*answer)
            if not succeeded:
                try:
                    raise value
                finally:
                    del value
            if not self._chunked:
                return value
            self._chunk = iter(value)
            for item in self._chunk:
                return item

    __next__ = next

    def _has_one(self) -> bool:
        return self._index in self._answers

    def _take(self) -> tuple[int, Any] | None:
        """The next answer, if it is there. Several threads may ask."""
        with self._core.lock:
            answer = self._answers.pop(self._index, None)
            if answer is not None:
                self._index += 1
        return answer

    def _is_ready(self) -> bool:
        return self.is_done or self._has_one()

    def limit(self) -> int:
        """Tasks of it that may be open."""
        return LAZY if self._room is None else self._room - len(self._answers)

    # See Job.

    def arrive(self, index: int, code: int, data: Any) -> None:
        self._heard += 1
        self._answers[index] = code, data
        if self.waiters and self._has_one():
            self._core.wake(self.waiters)

    def broken_off(self, code: int, data: Any) -> None:
        # Behind all results: a loop over them ends with it, and what was done is not lost.
        self._abandoned = code, data

    def abandon(self, code: int, data: Any) -> None:
        if not self.fed:
            self._abandoned = code, data
        self.fed = True

    def completed(self) -> None:
        self.is_done = True
        self._pool = None


class IMapUnorderedIterator(IMapIterator):
    """What `imap_unordered` returns: the results in the order in which they come."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self._order: collections.deque[int] = collections.deque()
        self._last = -1

    def _has_one(self) -> bool:
        return bool(self._order)

    def _take(self) -> tuple[int, Any] | None:
        with self._core.lock:
            return self._answers.pop(self._order.popleft(), None) if self._order else None

    def arrive(self, index: int, code: int, data: Any) -> None:
        if index == self._last:
            return  # again, after an interrupt
        self._answers[index] = code, data
        self._order.append(index)
        self._last = index
        self._heard += 1
        if self.waiters:
            self._core.wake(self.waiters)


def _one(item: Any) -> tuple[int, Any]:
    if type(item) in messages.PLAIN:
        return messages.ITEM, item
    return messages.ITEM | messages.PICKLED, messages.dumps(item)


def _starred(chunk: tuple[Any, ...]) -> tuple[int, Any]:
    return messages.STARRED | messages.PICKLED, messages.dumps(chunk)


def _chunk(chunk: Any) -> tuple[int, Any]:
    if type(chunk) is tuple and len(chunk) <= messages.FEW and messages.all_plain(chunk):
        return messages.CHUNK, chunk
    return messages.CHUNK | messages.PICKLED, messages.dumps(chunk)


def _chunksize(length: int, processes: int) -> int:
    """Items that make a task where the caller does not say.

    The stdlib makes four tasks a worker. Here a task costs so little that there are more of them, and
    who is done early finds something to do; but none is cut up that is small already.
    """
    fair = -(-length // (processes * 4))
    return max(-(-length // (processes * 16)), min(fair, 32))


def _chunks(iterable: Any, size: int) -> Iterator[Any]:
    if type(iterable) in (list, tuple, range):
        return (iterable[at : at + size] for at in range(0, len(iterable), size))
    return _chunks_of_any(iterable, size)


def _chunks_of_any(iterable: Iterable[Any], size: int) -> Iterator[tuple[Any, ...]]:
    items = iter(iterable)
    chunk: list[Any] = []
    while True:
        # What was made before the iterable raised is a chunk.
        chunk = []
        error = None
        try:
            chunk.extend(itertools.islice(items, size))
        except Exception as e:
            error = e
        if error is not None:
            # As in the stdlib: the chunk that it was in is lost with it.
            raise error
        if not chunk:
            return
        yield tuple(chunk)


# Its methods have arguments that the stdlib's have not: to a type checker it is a class of its own.
_Stdlibs: Any = multiprocessing.pool.Pool


class Pool(_Stdlibs, metaclass=ABCMeta):
    """Processes that run functions; its methods are those of the stdlib's.

    A worker that is killed takes nobody with it but its task: another takes its place within 150 ms,
    and the task

    - fails with WorkerDiedError (`on_worker_death="raise"`): its own result, or its `map`, or its item
      of `imap`, which goes on behind it. It is not run again.
    - with "retry" is run again, up to `retries` times: it may run, in part, more than once.
    - with "break": all fail, and the pool is of no more use, as an executor of the stdlib's is.

    Results are collected by the threads that wait for them.
    """

    _state = "INIT"

    def __init__(
        self,
        processes: int | None = None,
        initializer: Callable[..., object] | None = None,
        initargs: Iterable[Any] = (),
        maxtasksperchild: int | None = None,
        context: BaseContext | None = None,
        *,
        on_worker_death: Literal["raise", "retry", "break"] = "raise",
        retries: int = 3,
        shared: Any = None,
    ) -> None:
        """Starts `processes` workers, by default one for each CPU.

        Args:
            processes: how many work at a time, at least 1.
            initializer: called with `initargs` by each worker when it starts.
            initargs: what `initializer` is called with.
            maxtasksperchild: after so many tasks a worker is replaced by a new one.
            context: what the workers are started by, by default the program's start method.
            on_worker_death: what becomes of the task of a worker that dies: see above.
            retries: how often a task is run again at most, with "retry".
            shared: what `fastmp.pool.shared()` returns in the workers; pickled once at most.

        Raises:
            ValueError: an argument is out of its range.
            TypeError: `initializer` cannot be called.
        """
        self._pool: list[Any] = []
        self._ctx = context or start_method.default_context()
        if processes is None:
            processes = os.process_cpu_count() if hasattr(os, "process_cpu_count") else os.cpu_count()
            processes = processes or 1
        if processes < 1:
            raise ValueError("Number of processes must be at least 1")
        processes = operator.index(processes)
        if maxtasksperchild is not None and (not isinstance(maxtasksperchild, int) or maxtasksperchild <= 0):
            raise ValueError("maxtasksperchild must be a positive int or None")
        if initializer is not None and not callable(initializer):
            raise TypeError("initializer must be a callable")
        if on_worker_death not in ON_DEATH:
            raise ValueError(f"on_worker_death must be one of {', '.join(ON_DEATH)}, not {on_worker_death!r}")
        if not isinstance(retries, int) or retries < 0:
            raise ValueError("retries must be an int, 0 or more")
        self._maxtasksperchild = maxtasksperchild
        self._initializer = initializer
        self._initargs = initargs
        self._processes = processes
        core = self._core = Core(
            processes,
            _starter(self.Process, self._ctx),
            on_death=on_worker_death,
            retries=retries,
            most=maxtasksperchild,
        )
        try:
            core.setup.begin(initializer, initargs, shared, self._ctx.get_start_method() == "fork")
            self._pool = core.processes
            self._cache = core.jobs
            core.start_workers()
            core.watcher.start()
            # At exit, before daemonic children are ended. When it is collected, that may be between
            # any two lines of the core's: the watcher ends it then.
            self._terminate = core.at_exit = util.Finalize(None, core.terminate, exitpriority=15)
            self._abandon = weakref.ref(self, core.abandon)
            core.owner = self._abandon
            self._state = RUN
        except BaseException:  # of a signal handler, too: nobody has the pool
            core.discard()
            raise

    def __del__(self, _warn: Any = warnings.warn, RUN: str = RUN) -> None:
        core = getattr(self, "_core", None)
        if self._state == RUN and core is not None and core.pid == os.getpid():
            _warn(f"unclosed running multiprocessing pool {self!r}", ResourceWarning, source=self)

    def __repr__(self) -> str:
        cls = type(self)
        return f"<{cls.__module__}.{cls.__qualname__} state={self._state} pool_size={len(self._pool)}>"

    def _repopulate_pool(self) -> None:
        """Starts workers in the place of those that have ended. The pool does so by itself."""
        self._core.watcher.wake()

    def _check_running(self) -> None:
        if self._core.broken is not None:
            raise anew(self._core.broken)
        if self._state != RUN:
            raise ValueError("Pool not running")

    def apply(self, func: Callable[..., Any], args: Iterable[Any] = (), kwds: Mapping[str, Any] = {}) -> Any:
        """Calls `func(*args, **kwds)` in a worker, and returns what it returns."""
        return self.apply_async(func, args, kwds).get()

    def apply_async(
        self,
        func: Callable[..., Any],
        args: Iterable[Any] = (),
        kwds: Mapping[str, Any] = {},
        callback: Callable[[Any], object] | None = None,
        error_callback: Callable[[BaseException], object] | None = None,
        *,
        task_timeout: float | None = None,
    ) -> ApplyResult:
        """Has a worker call `func(*args, **kwds)`.

        Args:
            func: what is called.
            args: by position.
            kwds: by name.
            callback: called with the result, in a thread of the pool's.
            error_callback: called with what it has raised, likewise.
            task_timeout: seconds that it may take, from when it is begun. If it takes longer its worker
                is ended and replaced, and the result is a TimeoutError.

        Raises:
            ValueError: the pool has been closed, or `task_timeout` is not positive.
            TypeError: `task_timeout` is no number.
        """
        self._check_running()
        task_timeout = messages.seconds_of(task_timeout)
        result = ApplyResult(self, callback, error_callback)
        try:
            stream, flags = messages.function_of(func)
            kind, data = messages.call_data(args, kwds)
        except Exception as e:
            return self._failed(result, e)
        self._hand_in(result, lambda: self._core.put_one(result, kind | flags, stream, data, task_timeout))
        return result

    def _hand_in(self, result: ApplyResult, submit: Callable[[], None]) -> None:
        if not result.has_callbacks:
            submit()
            return
        try:
            submit()
        except BaseException:
            with self._core.lock:
                self._core.with_callbacks -= 1
            raise
        self._core.want_reserve()

    def _failed(self, result: Any, error: BaseException) -> Any:
        """Its function or arguments cannot be pickled."""

        def submit() -> None:
            with self._core.lock:
                self._core.check()
                self._core.jobs[result.number] = result
                result.open[0] = 0
                self._core.count += 1
                result.fed = True
            self._core.settle(result.number, 0, messages.RAISED, _here(error))

        self._hand_in(result, submit)
        return result

    def map(self, func: Callable[[Any], Any], iterable: Iterable[Any], chunksize: int | None = None) -> list[Any]:
        """Calls `func` with each item, and returns the list of the results, in their order."""
        return self._map(func, iterable, False, chunksize, waits=True).get()

    def starmap(self, func: Callable[..., Any], iterable: Iterable[Any], chunksize: int | None = None) -> list[Any]:
        """As `map`, where each item is an iterable of arguments."""
        return self._map(func, iterable, True, chunksize, waits=True).get()

    def map_async(
        self,
        func: Callable[[Any], Any],
        iterable: Iterable[Any],
        chunksize: int | None = None,
        callback: Callable[[list[Any]], object] | None = None,
        error_callback: Callable[[BaseException], object] | None = None,
        *,
        task_timeout: float | None = None,
    ) -> MapResult:
        """As `map`, and returns at once. `task_timeout`: of each chunk, see `apply_async`."""
        return self._map(func, iterable, False, chunksize, callback, error_callback, task_timeout)

    def starmap_async(
        self,
        func: Callable[..., Any],
        iterable: Iterable[Any],
        chunksize: int | None = None,
        callback: Callable[[list[Any]], object] | None = None,
        error_callback: Callable[[BaseException], object] | None = None,
        *,
        task_timeout: float | None = None,
    ) -> MapResult:
        """As `starmap`, and returns at once. `task_timeout`: of each chunk, see `apply_async`."""
        return self._map(func, iterable, True, chunksize, callback, error_callback, task_timeout)

    def _map(
        self,
        func: Callable[..., Any],
        iterable: Any,
        starred: bool,
        chunksize: int | None = None,
        callback: Any = None,
        error_callback: Any = None,
        task_timeout: float | None = None,
        waits: bool = False,
    ) -> MapResult:
        self._check_running()
        task_timeout = messages.seconds_of(task_timeout)
        if not hasattr(iterable, "__len__"):
            iterable = list(iterable)
        length = len(iterable)
        if chunksize is None:
            chunksize = _chunksize(length, self._processes)
        if length == 0:
            chunksize = 0
        one_by_one = chunksize == 1 and not starred
        result = MapResult(self, chunksize, length, callback, error_callback, one_by_one)
        if length == 0:
            if result.has_callbacks:
                # As in the stdlib, they are not called.
                self._core.with_callbacks -= 1
            result.has_callbacks = False
            result.fed = True
            result.completed()
            return result
        try:
            stream, flags = messages.function_of(func)
        except Exception as e:
            return self._failed(result, e)
        if one_by_one:
            items: Any = iterable
            encode: Any = _one
        else:
            items = _chunks(iterable, chunksize)
            encode = _starred if starred else _chunk
        source = Source(
            result,
            stream,
            iter(items),
            _with(encode, flags),
            lambda: WINDOW,
            task_timeout,
            foreign=not waits and type(iterable) not in BUILTIN,
        )
        self._hand_in(result, lambda: self._core.submit(source, not waits))
        return result

    def imap(
        self, func: Callable[[Any], Any], iterable: Iterable[Any], chunksize: int = 1, *, buffersize: int | None = None
    ) -> IMapIterator:
        """Returns an iterator over the results, in the order of the items.

        Args:
            func: called with each item.
            iterable: the items; asked for them ahead of the results.
            chunksize: items that make a task.
            buffersize: tasks, at most, that are begun or whose results nobody has taken yet.
        """
        return self._imap(IMapIterator, func, iterable, chunksize, buffersize)

    def imap_unordered(
        self, func: Callable[[Any], Any], iterable: Iterable[Any], chunksize: int = 1, *, buffersize: int | None = None
    ) -> IMapUnorderedIterator:
        """As `imap`, in the order in which results come."""
        results: Any = self._imap(IMapUnorderedIterator, func, iterable, chunksize, buffersize)
        return results

    def _imap(
        self,
        cls: type[IMapIterator],
        func: Callable[[Any], Any],
        iterable: Any,
        chunksize: int,
        buffersize: int | None,
    ) -> IMapIterator:
        self._check_running()
        if chunksize < 1:
            raise ValueError(f"Chunksize must be 1+, not {chunksize}")
        if buffersize is not None and buffersize < 1:
            raise ValueError("buffersize must be None or at least 1")
        length = len(iterable) if hasattr(iterable, "__len__") else None
        return self._begin(cls(self, length, chunksize > 1, buffersize), func, iterable, chunksize)

    def _begin(self, result: IMapIterator, func: Callable[[Any], Any], iterable: Any, chunksize: int) -> IMapIterator:
        try:
            stream, flags = messages.function_of(func)
        except Exception as e:
            return self._failed_items(result, e)
        try:
            items = iter(iterable) if chunksize == 1 else _chunks(iterable, chunksize)
        except TypeError as e:
            if not hasattr(iterable, "__iter__"):
                raise
            return self._failed_items(result, e)
        encode = _one if chunksize == 1 else _chunk
        foreign = type(iterable) not in BUILTIN
        source = Source(result, stream, items, _with(encode, flags), result.limit, foreign=foreign)
        self._core.submit(source, True)
        return result

    # A recipe that many programs have: their own `istarmap` (a progress bar over `starmap`), which makes
    # an IMapIterator and puts tasks for it into the stdlib's queue of tasks.

    @property
    def _taskqueue(self) -> _TaskQueue:
        return _TaskQueue(self)

    def _guarded_task_generation(self, result_job: int, func: Any, iterable: Any) -> tuple[Any, Any]:
        return func, iterable

    def _failed_items(self, result: IMapIterator, error: BaseException) -> IMapIterator:
        with self._core.lock:
            self._core.check()
            self._core.jobs[result.number] = result
            result.open[0] = 0
            self._core.count += 1
            result.fed = True
        self._core.settle(result.number, 0, messages.RAISED, _here(error))
        return result

    def close(self) -> None:
        """Takes no more tasks. When those that are there are done, the workers end."""
        util.debug("closing pool")
        if self._state == RUN:
            self._state = CLOSE
            self._core.close()

    def terminate(self) -> None:
        """Ends the workers at once. What is not done fails with ProcessError."""
        util.debug("terminating pool")
        self._state = TERMINATE
        self._terminate()

    def join(self) -> None:
        """Waits until the workers have ended.

        Raises:
            ValueError: neither `close` nor `terminate` has been called.
        """
        util.debug("joining pool")
        if self._state == RUN and self._core.broken is None:
            raise ValueError("Pool is still running")
        self._core.join()

    def __enter__(self) -> Pool:
        self._check_running()
        return self

    def __exit__(self, *_: object) -> None:
        self.terminate()

    def __reduce__(self) -> NoReturn:
        raise NotImplementedError("pool objects cannot be passed between processes or pickled")


class _TaskQueue:
    """What is put here begins as by `imap`."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    def put(self, item: tuple[tuple[Any, Any], Any]) -> None:
        (func, iterable), set_length = item
        result = getattr(set_length, "__self__", None)
        if not isinstance(result, IMapIterator):
            raise NotImplementedError("only for an IMapIterator are tasks taken from elsewhere")
        self._pool._begin(result, func, iterable, 1)


# Pools of threads are the stdlib's, and so is what they return: of these classes as well, as
# they are there.
Pool.register(ThreadPool)
for _name in "ApplyResult", "MapResult", "IMapIterator", "IMapUnorderedIterator":
    globals()[_name].register(getattr(_stdlibs, _name))
del _name


def _with(encode: Callable[[Any], tuple[int, Any]], flags: int) -> Callable[[Any], tuple[int, Any]]:
    def encode_with(item: Any) -> tuple[int, Any]:
        kind, data = encode(item)
        return kind | flags, data

    return encode_with if flags else encode


def _starter(process: Any, context: Any) -> Callable[[Callable[..., None], tuple[Any, ...]], Any]:
    """How a worker is started. Without the pool, which nothing is to keep alive."""

    def start(target: Callable[..., None], args: tuple[Any, ...]) -> Any:
        worker = process(context, target=target, args=args)
        worker.name = worker.name.replace("Process", "PoolWorker")
        worker.daemon = True
        start_or_end(worker, lambda: util.debug("added worker"))
        return worker

    return start


def __getattr__(name: str) -> Any:
    return getattr(multiprocessing.pool, name)  # whatever is not ours
