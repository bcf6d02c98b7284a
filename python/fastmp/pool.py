"""Pools of processes: the stdlib's, on our contexts."""

from __future__ import annotations

import multiprocessing.pool
from multiprocessing.pool import ThreadPool

from . import start_method

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from multiprocessing.context import BaseContext
    from typing import Any

__all__ = ["Pool", "ThreadPool"]


class Pool(multiprocessing.pool.Pool):
    """Processes that run functions; its methods are those of the stdlib's."""

    def __init__(
        self,
        processes: int | None = None,
        initializer: Callable[..., object] | None = None,
        initargs: Iterable[Any] = (),
        maxtasksperchild: int | None = None,
        context: BaseContext | None = None,
    ) -> None:
        """Starts `processes` workers, by default one for each CPU.

        Args:
            processes: how many work at a time, at least 1.
            initializer: called with `initargs` by each worker when it starts.
            initargs: what `initializer` is called with.
            maxtasksperchild: after so many tasks a worker is replaced by a new one.
            context: what the workers are started by, by default the program's start method.
        """
        context = context or start_method.default_context()
        super().__init__(processes, initializer, initargs, maxtasksperchild, context)


def __getattr__(name: str) -> Any:
    return getattr(multiprocessing.pool, name)  # whatever is not ours
