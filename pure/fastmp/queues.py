"""The stdlib's queues, which say so where they are asked for what is fastmp's alone."""

from __future__ import annotations

import multiprocessing.queues
from multiprocessing.queues import SimpleQueue
from queue import Empty, Full

from .exceptions import unavailable

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from multiprocessing.context import BaseContext
    from typing import Any, NoReturn

    from .exceptions import ShutDown
    from .queue_stats import QueueStats

__all__ = ["Empty", "Full", "JoinableQueue", "Queue", "QueueStats", "ShutDown", "SimpleQueue"]


class _Bounded:
    """What both have; each method but `get` raises NotImplementedError."""

    def __init__(self, maxsize: int = 0, *, ctx: BaseContext, max_bytes: int | None = None) -> None:
        if max_bytes is not None:
            unavailable("Queue(max_bytes=)")
        super().__init__(maxsize, ctx=ctx)  # type: ignore[call-arg]

    def get(self, block: bool = True, timeout: float | None = None, *, watch: Iterable[Any] | None = None) -> Any:
        """Gets an object; `watch` raises NotImplementedError."""
        if watch is not None:
            unavailable("Queue.get(watch=)")
        return super().get(block, timeout)  # type: ignore[misc]

    def get_async(self) -> NoReturn:
        """Raises NotImplementedError."""
        unavailable("Queue.get_async")

    def put_async(self, obj: Any) -> NoReturn:
        """Raises NotImplementedError."""
        unavailable("Queue.put_async")

    def get_many(self, max_items: int, *args: Any, **kwargs: Any) -> NoReturn:
        """Raises NotImplementedError."""
        unavailable("Queue.get_many")

    def put_many(self, iterable: Iterable[Any], *args: Any, **kwargs: Any) -> NoReturn:
        """Raises NotImplementedError."""
        unavailable("Queue.put_many")

    def shutdown(self, immediate: bool = False) -> NoReturn:
        """Raises NotImplementedError."""
        unavailable("Queue.shutdown")

    def stats(self) -> NoReturn:
        """Raises NotImplementedError."""
        unavailable("Queue.stats")


class Queue(_Bounded, multiprocessing.queues.Queue):
    """A first-in first-out queue."""


class JoinableQueue(Queue, multiprocessing.queues.JoinableQueue):
    """A queue of tasks; `join(on_death=)` raises NotImplementedError."""

    def join(self, *, on_death: str | None = None) -> None:
        """Waits until all tasks are done."""
        if on_death is not None:
            unavailable("JoinableQueue.join(on_death=)")
        super().join()


def __getattr__(name: str) -> Any:
    if name == "ShutDown":
        from .exceptions import ShutDown

        return ShutDown
    if name == "QueueStats":
        from .queue_stats import QueueStats

        return QueueStats
    return getattr(multiprocessing.queues, name)
