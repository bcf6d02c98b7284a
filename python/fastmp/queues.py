"""Queues between processes."""

from __future__ import annotations

from . import _native, handles

TYPE_CHECKING = False
if TYPE_CHECKING:
    from multiprocessing.queues import JoinableQueue, SimpleQueue
    from queue import Empty, Full
    from typing import Any

__all__ = ["Empty", "Full", "JoinableQueue", "Queue", "SimpleQueue"]


class Queue(_native.Queue):
    """A first-in first-out queue that any number of processes put to and get from."""

    def __init__(self, maxsize: int = 0, *, ctx: object = None) -> None:
        """Finds the work done, by `__new__`; subclasses call this as they call the stdlib's.

        Raises:
            TypeError: a subclass hands on another maxsize than it was called with.
        """
        if maxsize > 0 and maxsize != self._bound():
            raise TypeError(f"{type(self).__name__} has been made without maxsize={maxsize}: call it with that")

    # An operator instead of a call: see `_take`. A message that was taken out is not lost to a signal.
    def get(self, block: bool = True, timeout: float | None = None) -> Any:
        """Gets an object; waits for one for `timeout` seconds at most if `block`.

        Raises:
            queue.Empty: none has come.
            ValueError: the queue is closed.
        """
        if block is True and timeout is None:
            return _native._take @ self
        return _native._take @ (self, block, timeout)

    def get_nowait(self) -> Any:
        """Gets an object if there is one, else raises `queue.Empty`."""
        return _native._take @ (self, False, None)

    def __reduce__(self) -> handles.Reduced:
        return handles.reduce_queue(self)


def __getattr__(name: str) -> Any:
    # The stdlib's, whatever is not ours; fastmp itself does not need it, and importing it is not
    # cheap.
    from multiprocessing import queues

    return getattr(queues, name)
