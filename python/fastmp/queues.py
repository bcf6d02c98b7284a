"""Queues between processes."""

from __future__ import annotations

import errno
import functools
import threading
import types
from multiprocessing import reduction

from . import _native, handles
from ._native import _get

TYPE_CHECKING = False
if TYPE_CHECKING:
    from multiprocessing.queues import JoinableQueue, SimpleQueue
    from queue import Empty, Full
    from typing import Any

SEM_VALUE_MAX = 2**31 - 1  # as the stdlib's queues say that they are unbounded

__all__ = ["Empty", "Full", "JoinableQueue", "Queue", "SimpleQueue"]


@_native._own_descriptors
class Queue(_native.Queue):
    """A first-in first-out queue that any number of processes put to and get from.

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
    # lose the message that was taken out.
    def get(self, block: bool = True, timeout: float | None = None) -> Any:
        """Gets an object; waits for one for `timeout` seconds at most if `block`.

        Raises:
            queue.Empty: none has come.
            ValueError: the queue is closed.
        """
        if block and timeout is None:
            return ~self
        return _get[self, block, timeout]

    # By `put` and `get`, which a subclass may have of its own.

    def put_nowait(self, obj: Any) -> None:
        """Puts an object if there is room, else raises `queue.Full`."""
        return self.put(obj, False)

    def get_nowait(self) -> Any:
        """Gets an object if there is one, else raises `queue.Empty`."""
        return self.get(False)

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

    def __init__(self, queue: Queue) -> None:
        self._queue = queue
        self._closed = vars(queue).setdefault("_closed_ends", set())

    def __eq__(self, other: object) -> bool:
        return type(other) is type(self) and other._queue is self._queue

    def __hash__(self) -> int:
        return hash((type(self), id(self._queue)))

    def _open_queue(self) -> Queue:
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


def __getattr__(name: str) -> Any:
    # The stdlib's, whatever is not ours; its import is not cheap.
    from multiprocessing import queues

    return getattr(queues, name)
