"""`ProcessPoolExecutor`: the interface of `concurrent.futures`, on the workers of `pools.core`."""

from __future__ import annotations

import collections
import concurrent.futures
import concurrent.futures.process
import itertools
import os
import threading
import weakref
from concurrent.futures import _base
from concurrent.futures.process import BrokenProcessPool
from time import monotonic

from . import start_method
from .noting import RLock
from .pools import messages
from .pools.core import CLOSED, RUN, Core, start_or_end
from .pools.jobs import Job, anew, open_answer

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from multiprocessing.context import BaseContext
    from typing import Any, Literal

__all__ = ["BrokenProcessPool", "ProcessPoolExecutor", "with_timeout"]

Future = _base.Future
AHEAD = 0.004  # seconds: tasks that are queued for it, beyond those that are run, cannot be cancelled
MOST = 4096  # of those
ON_DEATH = ("raise", "retry", "break")

_cores: weakref.WeakSet[_Core] = weakref.WeakSet()
_is_exiting = False


def _at_exit() -> None:
    """As the stdlib's: the program ends when all that has been submitted is done."""
    global _is_exiting
    _is_exiting = True
    for core in list(_cores):
        if core.pid == os.getpid():
            core.close()
            core.join()


threading._register_atexit(_at_exit)  # type: ignore[attr-defined]


class _Timed:
    """A function that may take so long."""

    def __init__(self, function: Callable[..., Any], seconds: float) -> None:
        self.function = function
        self.seconds = seconds

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.function(*args, **kwargs)


def with_timeout(function: Callable[..., Any], seconds: float) -> Callable[..., Any]:
    """Returns what an executor's `submit` or `map` runs as `function`, for so many seconds at most.

    They count from when the call is begun. If it takes longer, its worker is ended and replaced, and
    its future fails with TimeoutError; other tasks go on. Each call of `map` counts for itself, or
    each chunk.

    Raises:
        TypeError: `seconds` is no number.
        ValueError: it is not positive.
    """
    limit = messages.seconds_of(seconds)
    return function if limit is None else _Timed(function, limit)


class _FutureJob(Job):
    """A future's task."""

    has_callbacks = True

    def __init__(self, number: int, future: Future[Any]) -> None:
        super().__init__(number)
        self.fed = True
        self.future: Future[Any] | None = future
        self.answer: tuple[int, Any] | None = None

    def arrive(self, index: int, code: int, data: Any) -> None:
        self.answer = code, data

    def end(self) -> None:
        future, answer = self.future, self.answer
        self.future = self.answer = None
        if future is None or answer is None:
            return
        try:
            succeeded, value = open_answer(*answer)
        except BaseException as e:  # SystemExit, from a result's own code
            succeeded, value = False, e
        try:
            if succeeded:
                future.set_result(value)
            elif answer[0] < messages.RAISED:
                # As in the stdlib, where it breaks the pool.
                error = BrokenProcessPool(f"a result could not be unpickled: {value!r}")
                error.__cause__ = value
                future.set_exception(error)
            else:
                future.set_exception(value)
        except _base.InvalidStateError:  # somebody else has set it
            return


class _Core(Core):
    """A pool whose jobs are futures: single tasks, few of them queued at a time, as those that are
    can no longer be cancelled."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.pending: collections.deque[tuple[Any, ...]] = collections.deque()
        self.window = self.size + 1
        self.idle = 0  # workers that were started for tasks that are done
        self.heard = 0
        self.heard_at = monotonic()

    def has_jobs(self) -> bool:
        return bool(self.jobs or self.pending)

    def is_wanted(self) -> bool:
        """Nobody else collects: it waits in the queue, which costs a task less than to be called there."""
        return True

    def hand_in(self, item: tuple[Any, ...]) -> None:
        self.pending.append(item)
        self.pump()
        self.want_reserve()

    def pump(self, foreign: bool = False) -> None:
        """Puts tasks while few are queued."""
        while self.pending and len(self.jobs) < self.window:
            try:
                item = self.pending.popleft()
            except IndexError:
                return
            self._put(*item)
        if not self.pending and self.state is CLOSED and not self.jobs:
            self.finish()  # what was left has been cancelled

    def _put(
        self,
        number: int,
        future: Future[Any],
        function: Any,
        starred: Any,
        args: Any,
        kwargs: Any,
        seconds: float | None,
    ) -> None:
        if not future.set_running_or_notify_cancel():
            return
        job = _FutureJob(number, future)
        try:
            stream, flags = messages.function_of(function)
            if starred is None:
                kind, data = messages.call_data(args, kwargs)
            else:
                kind, data = messages.STARRED | messages.PICKLED, messages.dumps(starred)
            self.put_one(job, kind | flags, stream, data, seconds)
        except Exception as e:
            error = e if self.broken is None else anew(self.broken)
            with self.lock:
                self.jobs.pop(number, None)
            future.set_exception(error)

    def check(self) -> None:
        if self.broken is not None:
            raise anew(self.broken)
        if self.state not in (RUN, CLOSED) or self.is_over:
            raise RuntimeError("cannot schedule new futures after shutdown")

    def close_job(self, job: Job) -> None:
        super().close_job(job)
        self.idle += 1
        self.heard += 1

    def after_closing(self) -> None:
        now = monotonic()
        if (past := now - self.heard_at) > 0.001:
            # So many as are done in a while: the workers do not wait for the next ones.
            self.window = self.size + 1 + min(int(self.heard / past * AHEAD), MOST)
            self.heard, self.heard_at = 0, now
        if threading.current_thread() is not self.reserve:
            if self.callbacks:
                self.want_reserve()
                self.bell.set()
            if self.state is CLOSED and not self.has_jobs():
                self.finish()

    def has_ended(self, job: Job) -> None:
        """Its future is set."""
        job.is_done = True
        if self.state is CLOSED and not self.has_jobs():
            self.finish()

    def fail_all(self, code: int, data: Any) -> None:
        super().fail_all(code, data)
        while self.pending:
            number, future, *_ = self.pending.popleft()
            if future.set_running_or_notify_cancel():
                job = _FutureJob(number, future)
                job.arrive(0, code, data)
                self.callbacks.append(job)
                self.after_closing()

    def wait_until_over(self) -> None:
        self.pump()
        super().wait_until_over()

    def cancel_pending(self) -> None:
        """Those that are not queued yet."""
        while self.pending:
            try:
                item = self.pending.popleft()
            except IndexError:
                return
            if item[1].cancel():
                item[1].set_running_or_notify_cancel()

    def end_abandoned(self) -> None:
        """As the stdlib's: what has been submitted is done, then it ends."""
        if self.state is RUN:
            self.close()

    def needs_worker(self) -> bool:
        """Is one to be started for the task that comes now? As the stdlib counts."""
        if self.idle > 0:
            self.idle -= 1
            return False
        return self.wanted < self.size and not self.is_over and not self.force


# Its methods have arguments that the stdlib's have not: to a type checker it is a class of its own.
_Stdlibs: Any = concurrent.futures.process.ProcessPoolExecutor


class ProcessPoolExecutor(_Stdlibs):
    """Processes that run functions, each call with a future.

    As the stdlib's, and an instance of its class. When a worker dies all futures fail with
    BrokenProcessPool, and the executor is of no more use; with `on_worker_death="raise"` the future of
    its task alone fails, with WorkerDiedError, which is a BrokenProcessPool too; with "retry" the task
    is run again, up to `retries` times. Both replace the worker.
    """

    def __init__(
        self,
        max_workers: int | None = None,
        mp_context: BaseContext | None = None,
        initializer: Callable[..., object] | None = None,
        initargs: tuple[Any, ...] = (),
        *,
        max_tasks_per_child: int | None = None,
        on_worker_death: Literal["raise", "retry", "break"] = "break",
        retries: int = 3,
        shared: Any = None,
    ) -> None:
        """Workers are started when there is something to do: with fork all at once, else one by one.

        Args:
            max_workers: at most so many, by default one for each CPU.
            mp_context: what they are started by, by default the program's start method, or with
                `max_tasks_per_child` spawn.
            initializer: called with `initargs` by each worker when it starts.
            initargs: what `initializer` is called with.
            max_tasks_per_child: after so many tasks a worker is replaced; not with fork.
            on_worker_death: what becomes of the task of a worker that dies: see above.
            retries: how often a task is run again at most, with "retry".
            shared: what `fastmp.pool.shared()` returns in the workers; pickled once at most.

        Raises:
            ValueError: an argument is out of its range.
            TypeError: an argument is of a wrong type.
        """
        if max_workers is None:
            max_workers = (os.process_cpu_count() if hasattr(os, "process_cpu_count") else os.cpu_count()) or 1
        elif max_workers <= 0:
            raise ValueError("max_workers must be greater than 0")
        self._max_workers = max_workers
        if mp_context is None:
            if max_tasks_per_child is None:
                mp_context = start_method.default_context()
            else:  # as in the stdlib
                mp_context = start_method.named_context("spawn")
        self._mp_context = mp_context
        forks = mp_context.get_start_method(allow_none=False) == "fork"
        self._safe_to_dynamically_spawn_children = not forks
        if initializer is not None and not callable(initializer):
            raise TypeError("initializer must be a callable")
        if max_tasks_per_child is not None:
            if not isinstance(max_tasks_per_child, int):
                raise TypeError("max_tasks_per_child must be an integer")
            if max_tasks_per_child <= 0:
                raise ValueError("max_tasks_per_child must be >= 1")
            if forks:
                raise ValueError(
                    "max_tasks_per_child is incompatible with the 'fork' multiprocessing start method; "
                    "supply a different mp_context."
                )
        if on_worker_death not in ON_DEATH:
            raise ValueError(f"on_worker_death must be one of {', '.join(ON_DEATH)}, not {on_worker_death!r}")
        self._initializer = initializer
        self._initargs = initargs
        self._max_tasks_per_child = max_tasks_per_child
        self._shutdown_lock = RLock()
        self._shutdown_thread = False
        self._numbers = itertools.count()
        core = self._core = _Core(
            max_workers,
            _starter(mp_context),
            on_death=on_worker_death,
            retries=retries,
            most=max_tasks_per_child,
            executor=True,
        )
        core.wanted = 0
        core.setup.begin(initializer, initargs, shared, forks)
        core.owner = weakref.ref(self, core.abandon)
        _cores.add(core)
        self._is_started = False

    # What programs look at.

    @property
    def _processes(self) -> dict[int, Any] | None:
        if self._shutdown_thread and self._core.is_closed:
            return None
        return {process.pid: process for process in list(self._core.processes)}

    @_processes.setter
    def _processes(self, _: Any) -> None:
        """Nobody but the core changes it."""

    @property
    def _broken(self) -> Any:
        return False if self._core.broken is None else str(self._core.broken) or True

    @property
    def _force_shutting_down(self) -> bool:
        return bool(self._core.force)

    @_force_shutting_down.setter
    def _force_shutting_down(self, value: bool) -> None:
        self._core.force = "terminate" if value else ""

    @property
    def _executor_manager_thread(self) -> Any:
        return self._core.watcher.thread

    @property
    def _call_queue(self) -> Any:
        return _Queue(self._core)

    def _start(self) -> None:
        """Starts what is missing. Under the executor's own lock."""
        core = self._core
        if not self._is_started:
            if not self._safe_to_dynamically_spawn_children:
                core.wanted = core.size
                core.start_workers()
            core.watcher.start()
            self._is_started = True  # last: a signal handler may have raised
        if self._safe_to_dynamically_spawn_children and core.needs_worker():
            core.wanted += 1
            try:
                core.start_workers(1)
            except BaseException:
                core.wanted -= 1  # the next to come tries again
                raise
            core.watcher.wake()

    def _submit(self, function: Any, starred: Any, args: Any, kwargs: Any) -> Future[Any]:
        core = self._core
        with self._shutdown_lock:
            if core.broken is not None:
                raise anew(core.broken)
            if self._shutdown_thread:
                raise RuntimeError("cannot schedule new futures after shutdown")
            if _is_exiting:
                raise RuntimeError("cannot schedule new futures after interpreter shutdown")
            future: Future[Any] = Future()
            seconds = None
            if type(function) is _Timed:
                function, seconds = function.function, function.seconds
            if not self._is_started or core.wanted < core.size:
                self._start()
            core.hand_in((next(self._numbers), future, function, starred, args, kwargs, seconds))
        return future

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        """Has a worker call `fn(*args, **kwargs)`, and returns its future.

        Raises:
            RuntimeError: the executor has been shut down, or the program ends.
            BrokenProcessPool: a worker has died.
        """
        return self._submit(fn, None, args, kwargs)

    def map(
        self,
        fn: Callable[..., Any],
        *iterables: Iterable[Any],
        timeout: float | None = None,
        chunksize: int = 1,
        buffersize: int | None = None,
    ) -> Iterator[Any]:
        """Returns an iterator over the results of `fn` with each item of the iterables, in order.

        Args:
            fn: what is called.
            iterables: of its arguments; asked for them at once, unless there is a `buffersize`.
            timeout: seconds from now, after which `next` raises TimeoutError.
            chunksize: items that make a task.
            buffersize: tasks that are submitted at a time whose results have not been taken.

        Raises:
            ValueError: `chunksize` or `buffersize` is not positive.
            TypeError: `buffersize` is not an integer.
        """
        if chunksize < 1:
            raise ValueError("chunksize must be >= 1.")
        if buffersize is not None and not isinstance(buffersize, int):
            raise TypeError("buffersize must be an integer or None")
        if buffersize is not None and buffersize < 1:
            raise ValueError("buffersize must be None or > 0")
        until = None if timeout is None else monotonic() + timeout
        zipped = zip(*iterables, strict=False)
        if chunksize == 1:
            tasks: Iterator[Any] = zipped
        else:
            tasks = iter(lambda: tuple(itertools.islice(zipped, chunksize)), ())
        submit = self._submit
        futures = collections.deque(
            submit(fn, None, one, {}) if chunksize == 1 else submit(fn, one, None, None)
            for one in (itertools.islice(tasks, buffersize) if buffersize else tasks)
        )
        owner = weakref.ref(self)

        def each() -> Iterator[Any]:
            while futures:
                if buffersize and (executor := owner()) is not None and (one := next(tasks, None)) is not None:
                    if chunksize == 1:
                        futures.append(executor._submit(fn, None, one, {}))
                    else:
                        futures.append(executor._submit(fn, one, None, None))
                    del executor, one
                left = None if until is None else until - monotonic()
                # What has been handed out is not kept here.
                if chunksize == 1:
                    yield _base._result_or_cancel(futures.popleft(), left)  # type: ignore[attr-defined]
                    continue
                chunk = _base._result_or_cancel(futures.popleft(), left)  # type: ignore[attr-defined]
                chunk.reverse()
                while chunk:
                    yield chunk.pop()

        def results() -> Iterator[Any]:
            try:
                yield from each()
            finally:
                for future in futures:
                    future.cancel()

        return results()

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Takes no more; ends when what has been submitted is done, and waits for that if `wait`.

        With `cancel_futures` what no worker has been given yet is cancelled.
        """
        core = self._core
        with self._shutdown_lock:
            self._shutdown_thread = True
        if core.pid != os.getpid():
            return  # a forked child's copy: it is its parent's
        if cancel_futures:
            core.cancel_pending()
        if core.state is RUN:
            core.close()
        if not self._is_started:
            core.is_over = True
            core.close_queues()
        elif wait:
            core.join()
        else:
            core.is_abandoned = True
            core.watcher.wake()

    def terminate_workers(self) -> None:
        """Shuts down, and ends the workers by SIGTERM: futures that are not done fail."""
        self._force_shutdown(operation="terminate")

    def kill_workers(self) -> None:
        """Shuts down, and ends the workers by SIGKILL: futures that are not done fail."""
        self._force_shutdown(operation="kill")

    def _force_shutdown(self, operation: str) -> None:
        if operation not in ("terminate", "kill"):
            raise ValueError(f"Unsupported operation: {operation!r}")
        core = self._core
        core.force = operation
        processes = list(core.processes)
        core.on_death = "break"
        self.shutdown(wait=False, cancel_futures=True)
        for process in processes:
            try:
                if process.is_alive():
                    getattr(process, operation)()
            except (ValueError, ProcessLookupError):
                continue


class _Queue:
    """What programs wait for at the end, as the stdlib's has a thread that puts."""

    def __init__(self, core: _Core) -> None:
        self._core = core

    def join_thread(self) -> None:
        """Does nothing: there is none."""

    close = join_thread


def _starter(context: Any) -> Callable[[Callable[..., None], tuple[Any, ...]], Any]:
    def start(target: Callable[..., None], args: tuple[Any, ...]) -> Any:
        worker = context.Process(target=target, args=args)
        start_or_end(worker)
        return worker

    return start


def __getattr__(name: str) -> Any:
    return getattr(concurrent.futures, name)  # whatever is not ours
