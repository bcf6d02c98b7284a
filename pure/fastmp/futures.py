"""Executors: the stdlib's, on our contexts. What only fastmp's core can do is refused."""

from __future__ import annotations

import concurrent.futures
from concurrent.futures.process import BrokenProcessPool

from . import start_method
from .exceptions import unavailable

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from multiprocessing.context import BaseContext
    from typing import Any

__all__ = ["BrokenProcessPool", "ProcessPoolExecutor", "with_timeout"]


class ProcessPoolExecutor(concurrent.futures.ProcessPoolExecutor):
    """Processes that run functions; its methods are those of the stdlib's."""

    def __init__(
        self,
        max_workers: int | None = None,
        mp_context: BaseContext | None = None,
        initializer: Callable[..., object] | None = None,
        initargs: tuple[Any, ...] = (),
        *,
        max_tasks_per_child: int | None = None,
        on_worker_death: str = "break",
        retries: int = 3,
        shared: Any = None,
    ) -> None:
        """As the stdlib's. `on_worker_death` and `shared` need fastmp's core."""
        if on_worker_death != "break":
            unavailable("ProcessPoolExecutor(on_worker_death=...)")
        if shared is not None:
            unavailable("ProcessPoolExecutor(shared=...)")
        if mp_context is None and max_tasks_per_child is None:
            mp_context = start_method.default_context()
        kwargs: Any = {"max_tasks_per_child": max_tasks_per_child}
        super().__init__(max_workers, mp_context, initializer, initargs, **kwargs)


def with_timeout(function: Callable[..., Any], seconds: float) -> Callable[..., Any]:
    """Needs fastmp's core.

    Raises:
        NotImplementedError: always.
    """
    unavailable("with_timeout")


def __getattr__(name: str) -> Any:
    return getattr(concurrent.futures, name)  # whatever is not ours
