"""Queues between processes."""

from __future__ import annotations

import errno
import functools
import threading
import time
import types
from multiprocessing import reduction

from . import _native, handles
from . import exceptions as exceptions  # now: there may be no descriptor to import it by when one is raised
from ._native import _get, _get_many, _put_many

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Coroutine, Iterable
    from queue import Empty, Full
    from typing import Any, NoReturn

    from .exceptions import ShutDown, WorkerDiedError
    from .queue_stats import QueueStats

SEM_VALUE_MAX = 2**31 - 1  # as the stdlib's queues say that they are unbounded

__all__ = ["Empty", "Full", "JoinableQueue", "Queue", "QueueStats", "ShutDown", "SimpleQueue"]


@_native._own_descriptors
class Queue(_native.Queue):
    """A first-in first-out queue that any number of processes put to and get from.

    With `requeue=True` what a process has got is not lost with it. An object that a thread has got is
    in its custody until it is *acknowledged*: when the same thread asks for its next one, when it
    calls `task_done` (of a JoinableQueue), when the thread ends, when the process ends normally (also
    by an exception, or `sys.exit`), or when the process closes the queue, or drops it. If the process
    is killed before, dies of a signal, calls `os._exit` or runs another program by `exec`, the object
    is delivered again, before all others, to whoever asks: **at least once**, so that what is done
    with one should bear being done twice. Of `get_many` that goes for all that one call has returned
    (and `task_done` acknowledges one after the other). The rest of the order stays.

    - A death is noticed by whoever waits in `get`, `get_async`, `join` or `_reader.poll`, as a rule
      within 100 ms. Whoever asks later without waiting finds what has come back, and counts it:
      `get_nowait`, `qsize`, `empty`, `full`, `stats`. The reader's descriptor tells of it only once
      somebody has asked, or waits in a call of the queue's own.
    - An object that kills whoever gets it comes back for ever. A program that cannot rule that out
      counts, in shared memory and before the work begins, and gives up::

          number, task = queue.get()
          deliveries[number] += 1  # of an mp.RawArray("i", count)
          if deliveries[number] > 3:
              continue  # and by asking for the next one acknowledges it

    - One that cannot be unpickled raises from `get`, and is acknowledged as any other.
    - `maxsize` counts what comes back, and may be exceeded by it; `max_bytes` does not count it.
    - Custody is the thread's that has got the object. It does not go with an object that is handed to
      another thread, nor to a forked child: who hands out work asks for the next object only when
      what it has got is done. The tasks of an event loop run in one thread: the next `get_async` of
      any of them acknowledges, and so does one that waits already when it gets something.
    - After `shutdown()` a `get` that finds nothing raises ShutDown, though others hold objects still.
      Should one of these come back, whoever asks then gets it.
    - `get_many` returns what fits into 64 KiB, or one object that is larger.
    - Objects that need descriptors (connections, locks, queues) are refused: they could not come back.
    - Up to 1,024 threads can get from such a queue at a time.

    Private names of the stdlib's queue that programs use are here too, as far as they mean
    something.
    """

    @classmethod
    def __class_getitem__(cls, item: Any, /) -> types.GenericAlias:
        return types.GenericAlias(cls, item)

    def __getstate__(self) -> tuple[Any, ...]:
        """What a subclass's own `__getstate__` adds to; the queue itself travels beside it."""
        handles.assert_travelling(self)
        return ()

    def __setstate__(self, state: tuple[()]) -> None:
        """Does nothing; a subclass's own takes off first what it has added."""

    # By operators: after a call the interpreter looks for signals, and a handler that raises would
    # lose the message that was taken out. None has arguments that go by name only: the interpreter
    # does not specialise calls of such functions, which costs half as much as all the rest.
    def get(self, block: bool = True, timeout: float | None = None, watch: Iterable[Any] | None = None) -> Any:
        """Gets an object; waits for one for `timeout` seconds at most if `block`.

        Args:
            block: wait for one if there is none.
            timeout: seconds to wait at most; None: for ever.
            watch: processes (children of this one) that are to put it. If one of them is killed, or
                ends with an error, and the queue is empty, it is not waited for.

        Raises:
            queue.Empty: none has come.
            ShutDown: none will come, for the queue has been shut down.
            WorkerDiedError: one of `watch` has died, and what it had put has been got.
            ValueError: the queue is closed.
        """
        if block and timeout is None and watch is None:
            return ~self
        if watch is None:
            return _get[self, block, timeout]
        return _watching(_get, (self, False, None), watch, block, timeout)

    def get_many(
        self, max_items: int, block: bool = True, timeout: float | None = None, watch: Iterable[Any] | None = None
    ) -> list[Any]:
        """Gets what is there, `max_items` objects at most; waits for the first as `get` does.

        They are taken together, at a fraction of the cost; also from other consumers: how many each
        of them gets is chance.

        Raises:
            BatchError: some could not be unpickled; it has the others.
            queue.Empty: none has come.
            ShutDown: none will come, for the queue has been shut down.
            WorkerDiedError: one of `watch` has died, and what it had put has been got.
            ValueError: the queue is closed, or `max_items` is not positive.
        """
        if watch is not None:
            return _watching(_get_many, (self, max_items, False, None), watch, block, timeout)
        return _get_many[self, max_items, block, timeout]

    def put_many(self, iterable: Iterable[Any], block: bool = True, timeout: float | None = None) -> None:
        """Pickles all objects of an iterable, then appends them, in order.

        As many as there is room for go in together, at a fraction of the cost. Those of other
        producers may come in between.

        Raises:
            queue.Full: there was no room for all in time; its `count` says how many went in.
            ShutDown: the queue has been shut down; with a `count` too.
            ValueError: the queue is closed, or a message larger than `max_bytes`: none went in.
            Exception: whatever pickling raises: none went in.
        """
        _put_many(self, iterable, block, timeout)

    def shutdown(self, immediate: bool = False) -> None:
        """Ends the queue, in all processes: `put` raises ShutDown, and `get` once nothing is left.

        Whoever waits in one of them is woken. With `immediate` what is left is thrown away. The
        queue's reader is readable from then on, and its writer writable: an event loop comes to
        call `get` or `put`, and learns of it.

        Raises:
            ValueError: the queue is closed.
        """
        self._shutdown(immediate)

    def stats(self) -> QueueStats:
        """What has gone through it, and how it is now; always counted, by all processes together.

        Raises:
            ValueError: the queue is closed.
        """
        from .queue_stats import QueueStats

        return QueueStats(*self._stats())

    # By `put` and `get`, which a subclass may have of its own.

    def put_nowait(self, obj: Any) -> None:
        """Puts an object if there is room, else raises `queue.Full`."""
        return self.put(obj, False)

    def get_nowait(self) -> Any:
        """Gets an object if there is one, else raises `queue.Empty`."""
        return self.get(False)

    async def get_async(self) -> Any:
        """Gets an object, in a task of an asyncio event loop, as `asyncio.Queue.get` does.

        A task that is cancelled while it waits takes nothing out.

        Raises:
            ValueError: the queue is closed.
            NotImplementedError: the event loop has no `add_reader`.
        """
        from .asynchronous import take

        if self._requeue:
            # Here: who waits in line asks for nothing until it is woken, nor if that was in vain.
            self._acknowledge_own()
        return await take(self)

    def put_async(self, obj: Any) -> Coroutine[Any, Any, None]:
        """Pickles the object at once; what it returns puts it when awaited, once there is room.

        A task that is cancelled while it waits puts nothing. Those that wait in one event loop put
        in the order in which they came.

        Raises:
            ValueError: the queue is closed.
            NotImplementedError: when awaited: the event loop has no `add_reader`.
            Exception: whatever pickling raises.
        """
        from .asynchronous import put

        return put(self, obj)

    def __reduce__(self) -> handles.Reduced:
        reduced = handles.reduce_queue(self)
        return reduced if type(self) is Queue else (*reduced, self.__getstate__())

    @property
    def _maxsize(self) -> int:
        """The most messages there can be."""
        return self._bound() or SEM_VALUE_MAX

    @property
    def _reader(self) -> _Reader:
        """What is waited for by `select` and its like, together with other things."""
        return _Reader(self)

    @property
    def _writer(self) -> _Writer:
        return _Writer(self)

    # Programs take these so as not to kill a process that holds them. Here none is held in a call,
    # so they need keep out nobody but this process's other threads.
    @functools.cached_property
    def _rlock(self) -> Any:
        return threading.Lock()

    @functools.cached_property
    def _wlock(self) -> Any:
        return threading.Lock()

    @property
    def _sem(self) -> _Room:
        return _Room(self)

    # No thread moves what has been put: it is in shared memory already.

    _thread = None

    @property
    def _buffer(self) -> tuple[()]:
        return ()

    @functools.cached_property
    def _notempty(self) -> threading.Condition:
        return threading.Condition(threading.Lock())


# Seconds: some 50 us of work each.
_A_WHILE = 0.5
_LOOK = 0.07  # where what another had comes back, which somebody has to look for


def _watching(operator: Any, key: tuple[Any, ...], watch: Iterable[Any], block: bool, timeout: float | None) -> Any:
    """`operator[key]`, a get that does not wait, again and again until a process in `watch` has died."""
    from multiprocessing.connection import wait
    from queue import Empty

    living = list(watch)
    reader = key[0]._reader
    a_while = _LOOK if key[0]._requeue else _A_WHILE
    deadline = None if timeout is None else time.monotonic() + timeout
    while True:
        # Looked at before the queue: what a dead one has put is there.
        dead = next((process for process in living if process.exitcode not in (None, 0)), None)
        if dead is not None:
            key[0]._look_after(True)
        try:
            return operator[key]
        except Empty:
            if dead is not None:
                raise worker_died(dead) from None
            left = None if deadline is None else deadline - time.monotonic()
            if not block or (left is not None and left <= 0):
                raise
        # One that has died since the look stays, and ends the wait at once.
        living = [process for process in living if process.exitcode != 0]
        # Another thread may close the queue, which no poll would notice.
        wait([reader, *(process.sentinel for process in living)], a_while if left is None else min(left, a_while))


def worker_died(process: Any) -> WorkerDiedError:
    """What says how a process has ended, which has."""
    from .exceptions import WorkerDiedError

    error = WorkerDiedError(pids=[process.pid], exitcode=process.exitcode)
    how = f"was killed by {error.signal}" if error.signal else f"ended with exit code {error.exitcode}"
    error.args = (f"{process.name} (pid {process.pid}) {how}, and nothing of it is left to be got",)
    return error


@_native._own_descriptors
class JoinableQueue(Queue):
    """A queue of tasks: whoever has got one says `task_done` once it is done.

    With `requeue=True` a task that comes back counts once: it stays unfinished until `task_done` has
    been called for it, whoever does. `task_done` is of the first task that its thread has in custody.
    A thread that has none says it of one that its process has got: acknowledged before, else the
    first that another thread has in custody. A process that has got none should not say it: what
    another has in custody comes back all the same.
    """

    def __init__(
        self, maxsize: int = 0, *, max_bytes: int | None = None, requeue: bool = False, ctx: Any = None
    ) -> None:
        super().__init__(maxsize, max_bytes=max_bytes, requeue=requeue, ctx=ctx)
        self._keep_takers()

    def task_done(self) -> None:
        """Says that a task that was got from the queue is done; also after `close`.

        Raises:
            ValueError: more have been done than were put; or the queue is closed here, and was made
                with `requeue=True`.
        """
        self._task_done()

    def join(self, *, on_death: str | None = None) -> None:
        """Waits until all tasks that were put are done; also after `close`.

        Tasks that were got by a process that has died since will never be. If no others are left, and
        none are queued, it warns, once, and waits on. (It cannot tell once more than 128 processes
        have got tasks, or one says `task_done` of what another got.)

        Args:
            on_death: "raise": raise WorkerDiedError instead of the warning.

        Raises:
            WorkerDiedError: those who got the rest have died; with on_death="raise" only.
            ValueError: `on_death` is something else.
        """
        if on_death not in (None, "raise"):
            raise ValueError(f'on_death is None or "raise", not {on_death!r}')
        lost = self._join(True)
        if lost is None:
            return
        count = self._unfinished()
        text = (
            f"{count} tasks will not be done: the processes that got them have died (pid {', '.join(map(str, lost))})"
        )
        from .exceptions import WorkerDiedError, WorkerDiedWarning

        if on_death == "raise":
            raise WorkerDiedError(text, pids=lost)
        import warnings

        warnings.warn(text, WorkerDiedWarning, stacklevel=2)
        self._join(False)

    @property
    def _unfinished_tasks(self) -> _Unfinished:
        return _Unfinished(self)


@_native._own_descriptors
class SimpleQueue(_native.Queue):
    """A queue with `put`, `get`, `empty` and `close`; `put` never waits."""

    _is_simple = True  # the native class's errors are a pipe's then

    def __init__(self, *, ctx: Any = None) -> None:
        super().__init__(ctx=ctx)

    @classmethod
    def __class_getitem__(cls, item: Any, /) -> types.GenericAlias:
        return types.GenericAlias(cls, item)

    def get(self) -> Any:
        """Gets an object; waits for one.

        Raises:
            EOFError: this process has closed `_writer`, and its parent, whose end is told so, has
                ended.
            OSError: the queue is closed.
        """
        if _Writer in vars(self).get("_closed_ends", ()):
            return _get_from_parent(self)
        return ~self

    def empty(self) -> bool:
        """Whether there is no message at this instant.

        Raises:
            OSError: the queue is closed.
        """
        if self._closed:
            raise OSError(errno.EBADF, "handle is closed")
        return super().empty()

    def __reduce__(self) -> handles.Reduced:
        return handles.reduce_queue(self)

    @property
    def _reader(self) -> _Reader:
        return _Reader(self)

    @property
    def _writer(self) -> _Writer:
        return _Writer(self)

    @functools.cached_property
    def _rlock(self) -> Any:
        return threading.Lock()

    @functools.cached_property
    def _wlock(self) -> Any:
        return threading.Lock()


class _Absent:
    """What the stdlib's simple queue does not have, and the native class has."""

    def __set_name__(self, owner: type, name: str) -> None:
        self._name = name

    def __get__(self, instance: object, owner: type) -> NoReturn:
        raise AttributeError(f"{owner.__name__!r} object has no attribute {self._name!r}")


for _name in ("qsize", "full", "join_thread", "cancel_join_thread"):
    _absent = _Absent()
    _absent.__set_name__(SimpleQueue, _name)
    setattr(SimpleQueue, _name, _absent)
del _name, _absent


def _get_from_parent(queue: SimpleQueue) -> Any:
    """Gets where this process has closed its writing end, as a pool's worker does.

    With the stdlib's it is the end of the file once the others are gone too. Here the parent's death
    says so.
    """
    from multiprocessing.connection import wait
    from multiprocessing.process import parent_process
    from queue import Empty

    parent = parent_process()
    reader: Any = queue._reader
    while True:
        try:
            return _get[queue, False, None]
        except Empty:
            pass
        if parent is None:
            return ~queue
        if parent.sentinel in wait([reader, parent.sentinel]) and not queue._poll():
            raise EOFError


class _Unfinished:
    """The tasks that are left, as the semaphore that the stdlib's queue counts them by."""

    def __init__(self, queue: JoinableQueue) -> None:
        self._queue = queue

    @property
    def _semlock(self) -> _Unfinished:
        return self

    def get_value(self) -> int:
        return self._queue._unfinished()

    _get_value = get_value

    def _is_zero(self) -> bool:
        return self.get_value() == 0


class _Room:
    """The room in a queue, as the semaphore that the stdlib's counts it by."""

    def __init__(self, queue: Queue) -> None:
        self._queue = queue

    @property
    def _semlock(self) -> _Room:
        return self

    def get_value(self) -> int:
        return self._queue._maxsize - self._queue.qsize()

    _get_value = get_value

    def _is_zero(self) -> bool:
        return self._queue.full()

    locked = _is_zero

    def release(self) -> None:
        """Does nothing: the room came free when the message was taken."""


class _End:
    """One end of a queue, as the Connection that the stdlib's has there."""

    readable = writable = False

    def __init__(self, queue: Queue | SimpleQueue) -> None:
        self._queue = queue
        self._closed = vars(queue).setdefault("_closed_ends", set())

    def __eq__(self, other: object) -> bool:
        return type(other) is type(self) and other._queue is self._queue

    def __hash__(self) -> int:
        return hash((type(self), id(self._queue)))

    def _open_queue(self) -> Queue | SimpleQueue:
        if self.closed:
            raise OSError(errno.EBADF, "handle is closed")
        return self._queue

    @property
    def closed(self) -> bool:
        return type(self) in self._closed or self._queue._closed

    def close(self) -> None:
        """Closes this end, here: its own methods are of no more use. The queue's go on."""
        self._closed.add(type(self))


class _Reader(_End):
    readable = True

    def fileno(self) -> int:
        """A descriptor that is readable while there is a message."""
        return self._open_queue()._watch()

    def poll(self, timeout: float | None = 0.0) -> bool:
        """Waits until there is a message; returns False if there was none in time."""
        return self._open_queue()._poll(timeout)

    def recv(self) -> Any:
        return self._open_queue().get()

    def recv_bytes(self) -> bytes:
        """Returns the next message as a pickle, whatever it was in the queue."""
        return bytes(reduction.ForkingPickler.dumps(self.recv()))


class _Writer(_End):
    writable = True

    def fileno(self) -> int:
        """A descriptor that is writable while `put` need not wait for room."""
        return self._open_queue()._watch_room()

    def send(self, obj: Any) -> None:
        self._open_queue().put(obj)

    def send_bytes(self, buf: Any) -> None:
        """Puts the object that `buf` is the pickle of."""
        self.send(reduction.ForkingPickler.loads(buf))


_acknowledges_at_exit = False


def _acknowledge_at_exit() -> None:
    """Has this process, and those forked from it, say so when they end normally. Called by the
    native queue, once such a queue is there."""
    global _acknowledges_at_exit
    if _acknowledges_at_exit:
        return
    _acknowledges_at_exit = True
    import atexit
    from multiprocessing import util

    atexit.register(_native._acknowledge)
    # A process that the stdlib has forked ends without these, on older Pythons. Other threads may
    # go on: each acknowledges by itself when it ends.
    util.register_after_fork(_acknowledge_at_exit, _acknowledge_at_end)
    _acknowledge_at_end()


def _acknowledge_at_end(_: object = None) -> None:
    from multiprocessing import util

    util.Finalize(None, _native._acknowledge, (True,), exitpriority=-1000)


def __getattr__(name: str) -> Any:
    if name == "QueueStats":
        from .queue_stats import QueueStats

        return QueueStats
    if name == "ShutDown":
        from .exceptions import ShutDown

        return ShutDown
    # The stdlib's, whatever is not ours; its import is not cheap.
    from multiprocessing import queues

    return getattr(queues, name)
