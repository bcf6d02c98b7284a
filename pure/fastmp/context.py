"""The stdlib's contexts, with the few objects that tell what is fastmp's alone."""

from __future__ import annotations

import multiprocessing.context
import sys
from multiprocessing.context import (
    AuthenticationError,
    BufferTooShort,
    Process,
    ProcessError,
    TimeoutError,
    assert_spawning,
    get_spawning_popen,
    set_spawning_popen,
)

from . import start_method
from .exceptions import unavailable

TYPE_CHECKING = False
if TYPE_CHECKING:
    import multiprocessing.pool
    from collections.abc import Callable, Iterable
    from typing import Any, NoReturn

    from . import queues, synchronize

__all__ = [
    "AuthenticationError",
    "BaseContext",
    "BufferTooShort",
    "DefaultContext",
    "Process",
    "ProcessError",
    "SpawnContext",
    "TimeoutError",
    "assert_spawning",
    "get_spawning_popen",
    "set_spawning_popen",
]


class BaseContext(multiprocessing.context.BaseContext):
    """What every context offers; whatever is not defined here is the stdlib's.

    Modules are imported where they are needed, as in the stdlib: not every system can import them.
    """

    def Lock(self) -> synchronize.Lock:
        """Returns a non-recursive lock."""
        from . import synchronize

        return synchronize.Lock(ctx=self.get_context())

    def RLock(self) -> synchronize.RLock:
        """Returns a recursive lock."""
        from . import synchronize

        return synchronize.RLock(ctx=self.get_context())

    def Semaphore(self, value: int = 1, *, recover: bool = False) -> synchronize.Semaphore:
        """Returns a semaphore with `value` permits.

        Raises:
            NotImplementedError: `recover` is true.
        """
        from . import synchronize

        return synchronize.Semaphore(value, ctx=self.get_context(), recover=recover)

    def BoundedSemaphore(self, value: int = 1, *, recover: bool = False) -> synchronize.BoundedSemaphore:
        """Returns a semaphore with `value` permits, which never has more.

        `recover` as for Semaphore.
        """
        from . import synchronize

        return synchronize.BoundedSemaphore(value, ctx=self.get_context(), recover=recover)

    def Broadcast(self, maxsize: int = 128, *, max_bytes: int | None = None, lag: str = "block") -> NoReturn:
        """Raises NotImplementedError."""
        unavailable("Broadcast")

    def Queue(self, maxsize: int = 0, *, max_bytes: int | None = None) -> queues.Queue:
        """Returns a queue that holds at most `maxsize` items, if that is positive.

        Raises:
            NotImplementedError: there is a `max_bytes`.
        """
        from . import queues

        return queues.Queue(maxsize, ctx=self.get_context(), max_bytes=max_bytes)

    def JoinableQueue(self, maxsize: int = 0, *, max_bytes: int | None = None) -> queues.JoinableQueue:
        """Returns a queue whose `join()` waits until all items have been dealt with.

        `max_bytes` as for Queue.
        """
        from . import queues

        return queues.JoinableQueue(maxsize, ctx=self.get_context(), max_bytes=max_bytes)

    def Pool(
        self,
        processes: int | None = None,
        initializer: Callable[..., object] | None = None,
        initargs: Iterable[Any] = (),
        maxtasksperchild: int | None = None,
        *,
        on_worker_death: str = "raise",
        retries: int = 3,
        shared: Any = None,
    ) -> multiprocessing.pool.Pool:
        """Returns a pool of `processes` processes, by default one for each CPU."""
        from .pool import Pool

        return Pool(
            processes,
            initializer,
            initargs,
            maxtasksperchild,
            self.get_context(),
            on_worker_death=on_worker_death,
            retries=retries,
            shared=shared,
        )

    def Value(self, typecode_or_type: Any, *args: Any, lock: Any = True) -> Any:
        """Returns a ctypes object in shared memory, guarded by a lock unless lock=False."""
        from . import sharedctypes

        return sharedctypes.Value(typecode_or_type, *args, lock=lock, ctx=self.get_context())

    def Array(self, typecode_or_type: Any, size_or_initializer: Any, *, lock: Any = True) -> Any:
        """Returns a ctypes array in shared memory, guarded by a lock unless lock=False."""
        from . import sharedctypes

        return sharedctypes.Array(typecode_or_type, size_or_initializer, lock=lock, ctx=self.get_context())

    def get_context(self, method: str | None = None, *, pickler: Any = None) -> BaseContext:
        """Returns the context of a start method; of this one if none is named.

        Raises:
            ValueError: there is no such start method.
            NotImplementedError: there is a `pickler`.
        """
        if pickler is not None:
            unavailable("get_context(pickler=...)")
        return self if method is None else _named(method)


def _named(method: str) -> Any:
    if method in start_method.contexts:
        return start_method.named_context(method)
    return multiprocessing.get_context(method)  # one that a library has registered, or the stdlib's error


class SpawnContext(BaseContext, multiprocessing.context.SpawnContext):
    """Starts processes as fresh interpreters."""


start_method.contexts["spawn"] = SpawnContext()

if sys.platform != "win32":
    from multiprocessing.context import ForkProcess, ForkServerProcess, SpawnProcess

    class ForkContext(BaseContext, multiprocessing.context.ForkContext):
        """Starts processes by forking."""

    class ForkServerContext(BaseContext, multiprocessing.context.ForkServerContext):
        """Starts processes as copies of a small server process."""

    start_method.contexts.update(fork=ForkContext(), forkserver=ForkServerContext())
    __all__ += ["ForkContext", "ForkProcess", "ForkServerContext", "ForkServerProcess", "SpawnProcess"]


class DefaultContext(BaseContext):
    """The context behind the functions of the package: its start method is the stdlib's."""

    Process = Process

    def get_context(self, method: str | None = None, *, pickler: Any = None) -> BaseContext:
        """Returns the context of a start method, or of the chosen one, which is then settled.

        Raises:
            ValueError: there is no such start method.
            NotImplementedError: there is a `pickler`.
        """
        if pickler is not None:
            unavailable("get_context(pickler=...)")
        return _named(multiprocessing.get_start_method() if method is None else method)

    def set_start_method(self, method: str | None, force: bool = False) -> None:
        """As the stdlib's."""
        multiprocessing.set_start_method(method, force)

    def get_start_method(self, allow_none: bool = False) -> str | None:
        """As the stdlib's."""
        return multiprocessing.get_start_method(allow_none)

    def get_all_start_methods(self) -> list[str]:
        """As the stdlib's."""
        return multiprocessing.get_all_start_methods()


_default_context = DefaultContext()


def __getattr__(name: str) -> Any:
    return getattr(multiprocessing.context, name)
