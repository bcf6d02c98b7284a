"""Pools of processes: the stdlib's, on our contexts."""

from __future__ import annotations

import multiprocessing.pool
from abc import ABCMeta
from multiprocessing.pool import ThreadPool

from . import start_method
from .exceptions import unavailable

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from multiprocessing.context import BaseContext
    from typing import Any

__all__ = ["Pool", "ThreadPool"]


class Pool(multiprocessing.pool.Pool, metaclass=ABCMeta):
    """Processes that run functions; its methods are those of the stdlib's."""

    def __init__(
        self,
        processes: int | None = None,
        initializer: Callable[..., object] | None = None,
        initargs: Iterable[Any] = (),
        maxtasksperchild: int | None = None,
        context: BaseContext | None = None,
        *,
        on_worker_death: str = "raise",
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
            on_worker_death: only with fastmp's core can it be anything else: as here the stdlib's pool
                hangs.
            retries: of no meaning here.
            shared: likewise only with the core.
        """
        if on_worker_death != "raise":
            unavailable("Pool(on_worker_death=...)")
        if shared is not None:
            unavailable("Pool(shared=...)")
        context = context or start_method.default_context()
        super().__init__(processes, initializer, initargs, maxtasksperchild, context)


Pool.register(ThreadPool)  # as in the stdlib


def __getattr__(name: str) -> Any:
    return getattr(multiprocessing.pool, name)  # whatever is not ours
