"""Contexts: the same names for each start method, and the default one of the program."""

from __future__ import annotations

import functools
import multiprocessing.context
import sys
from multiprocessing.context import (
    AuthenticationError,
    BufferTooShort,
    ProcessError,
    TimeoutError,
    assert_spawning,
    get_spawning_popen,
    set_spawning_popen,
)

from . import connection, process, start_method
from .process import BaseProcess, ForkProcess, ForkServerProcess, Process, SpawnProcess

TYPE_CHECKING = False
if TYPE_CHECKING:
    import types
    from collections.abc import Callable, Iterable, Sequence
    from typing import Any, Literal

    from . import broadcast, pool, queues, synchronize

__all__ = [
    "AuthenticationError",
    "BaseContext",
    "BufferTooShort",
    "DefaultContext",
    "ForkContext",
    "ForkProcess",
    "ForkServerContext",
    "ForkServerProcess",
    "Process",
    "ProcessError",
    "SpawnContext",
    "SpawnProcess",
    "TimeoutError",
    "assert_spawning",
    "get_spawning_popen",
    "set_spawning_popen",
]


@functools.cache
def _submodule(name: str) -> types.ModuleType:
    # Imported when first needed, for its cost; cached, as an import statement takes a microsecond.
    import importlib

    return importlib.import_module(f".{name}", __package__)


class BaseContext(multiprocessing.context.BaseContext):
    """What every context offers; whatever is not defined here is the stdlib's, on our locks."""

    Process: type[BaseProcess]

    def Lock(self) -> synchronize.Lock:
        """Returns a non-recursive lock."""
        self.get_context()  # settles the start method, as in the stdlib
        return _submodule("synchronize").Lock()

    def RLock(self) -> synchronize.RLock:
        """Returns a recursive lock."""
        self.get_context()  # settles the start method, as in the stdlib
        return _submodule("synchronize").RLock()

    def Condition(self, lock: synchronize.Lock | synchronize.RLock | None = None) -> synchronize.Condition:
        """Returns a condition over `lock`, by default over a recursive lock of its own."""
        self.get_context()  # settles the start method, as in the stdlib
        return _submodule("synchronize").Condition(lock)

    def Semaphore(self, value: int = 1, *, recover: bool = False) -> synchronize.Semaphore:
        """Returns a semaphore with `value` permits.

        With recover=True those of dead processes come back.
        """
        self.get_context()  # settles the start method, as in the stdlib
        # An argument by name costs as much as the rest.
        make = _submodule("synchronize").Semaphore
        return make(value, recover=recover) if recover else make(value)

    def BoundedSemaphore(self, value: int = 1, *, recover: bool = False) -> synchronize.BoundedSemaphore:
        """Returns a semaphore with `value` permits, which never has more.

        `recover` as for Semaphore.
        """
        self.get_context()  # settles the start method, as in the stdlib
        if recover:
            return _submodule("synchronize").BoundedSemaphore(value, recover=recover)
        return _submodule("synchronize").BoundedSemaphore(value)

    def Event(self) -> synchronize.Event:
        """Returns an event, not set."""
        self.get_context()  # settles the start method, as in the stdlib
        return _submodule("synchronize").Event()

    def Barrier(
        self, parties: int, action: Callable[[], Any] | None = None, timeout: float | None = None
    ) -> synchronize.Barrier:
        """Returns a barrier of `parties`; `timeout` (seconds) is that of waits that name none."""
        self.get_context()  # settles the start method, as in the stdlib
        return _submodule("synchronize").Barrier(parties, action, timeout)

    def Queue(self, maxsize: int = 0, *, max_bytes: int | None = None, requeue: bool = False) -> queues.Queue:
        """Returns a queue that holds at most `maxsize` items, if that is positive.

        `max_bytes` bounds the bytes of what is unread, as it lies in shared memory. With requeue=True
        what a killed process had got, and not dealt with, is delivered again: at least once.
        """
        return _submodule("queues").Queue(maxsize, max_bytes=max_bytes, requeue=requeue, ctx=self.get_context())

    def JoinableQueue(
        self, maxsize: int = 0, *, max_bytes: int | None = None, requeue: bool = False
    ) -> queues.JoinableQueue:
        """Returns a queue whose `join()` waits until all items have been dealt with.

        `max_bytes` and `requeue` as for Queue.
        """
        return _submodule("queues").JoinableQueue(maxsize, max_bytes=max_bytes, requeue=requeue, ctx=self.get_context())

    def SimpleQueue(self) -> queues.SimpleQueue:
        """Returns a queue with `put`, which never waits, `get`, `empty` and `close`."""
        return _submodule("queues").SimpleQueue(ctx=self.get_context())

    def Broadcast(
        self, maxsize: int = 128, *, max_bytes: int | None = None, lag: Literal["block", "skip"] = "block"
    ) -> broadcast.Broadcast:
        """Returns a broadcast, of which every reader gets each message.

        At most `maxsize` messages are there at a time, of at most `max_bytes` bytes. Slow readers
        hold the senders back, or miss messages with lag="skip".
        """
        return _submodule("broadcast").Broadcast(maxsize, max_bytes=max_bytes, lag=lag, ctx=self.get_context())

    def Pool(
        self,
        processes: int | None = None,
        initializer: Callable[..., object] | None = None,
        initargs: Iterable[Any] = (),
        maxtasksperchild: int | None = None,
        *,
        on_worker_death: Literal["raise", "retry", "break"] = "raise",
        retries: int = 3,
        shared: Any = None,
    ) -> pool.Pool:
        """Returns a pool of `processes` processes, by default one for each CPU.

        `on_worker_death`: what becomes of the task of a worker that dies; with "retry" it is run
        again, up to `retries` times. `shared`: what `fastmp.pool.shared()` is in the workers.
        """
        return _submodule("pool").Pool(
            processes,
            initializer,
            initargs,
            maxtasksperchild,
            self.get_context(),
            on_worker_death=on_worker_death,
            retries=retries,
            shared=shared,
        )

    def Pipe(self, duplex: bool = True) -> tuple[connection.Connection, connection.Connection]:
        """Returns two connected ends.

        With duplex=False the first one only reads, the second only writes.
        """
        return connection.Pipe(duplex)

    def RawValue(self, typecode_or_type: Any, *args: Any) -> Any:
        """Returns a ctypes object in shared memory."""
        return _submodule("sharedctypes").RawValue(typecode_or_type, *args)

    def RawArray(self, typecode_or_type: Any, size_or_initializer: int | Sequence[Any]) -> Any:
        """Returns a ctypes array in shared memory."""
        return _submodule("sharedctypes").RawArray(typecode_or_type, size_or_initializer)

    def Value(self, typecode_or_type: Any, *args: Any, lock: Any = True) -> Any:
        """Returns a ctypes object in shared memory, guarded by a lock unless lock=False."""
        return _submodule("sharedctypes").make_value(typecode_or_type, args, lock, self.get_context())

    def Array(self, typecode_or_type: Any, size_or_initializer: int | Sequence[Any], *, lock: Any = True) -> Any:
        """Returns a ctypes array in shared memory, guarded by a lock unless lock=False."""
        return _submodule("sharedctypes").Array(
            typecode_or_type, size_or_initializer, lock=lock, ctx=self.get_context()
        )

    def freeze_support(self) -> None:
        """In a frozen program that was started as a child, runs the child and exits.

        Else does nothing.
        """
        if getattr(sys, "frozen", False):
            from .spawn_main import freeze_support

            freeze_support()

    def allow_connection_pickling(self) -> None:
        """Does nothing: connections can always be sent to other processes."""

    def set_forkserver_preload(self, module_names: list[str], *, on_error: str = "ignore") -> None:
        """Names the modules that the fork server imports before it starts children: a hint.

        A module that cannot be imported is passed over, warned of or an error in the server, as
        `on_error` says: "ignore", "warn" or "fail".

        Raises:
            TypeError: these are not names.
            ValueError: there is no such `on_error`.
        """
        if on_error not in ("ignore", "warn", "fail"):
            raise ValueError(f"on_error must be 'ignore', 'warn', or 'fail', not {on_error!r}")
        from multiprocessing import forkserver as stdlibs

        # For the stdlib's server too: whose of the two a library uses is not the program's concern.
        for module in _submodule("forkserver"), stdlibs:
            preload = module.set_forkserver_preload
            # Before 3.15 the stdlib's has no such choice.
            if "on_error" in (getattr(preload, "__kwdefaults__", None) or ()):
                preload(module_names, on_error=on_error)
            else:
                preload(module_names)

    def get_context(self, method: str | None = None, *, pickler: Any = None) -> BaseContext:
        """Returns the context of a start method; of this one if none is named.

        With a `pickler` (cloudpickle, dill, or whatever has `dumps`, and `loads` unless that is
        pickle's; or a class `Pickler`) processes are sent by it to the interpreters that run them:
        what they are started with may be lambdas, closures and what a notebook defines.

        Raises:
            ValueError: there is no such start method.
            TypeError: that is no pickler.
        """
        if pickler is not None:
            return _with_pickler(self.get_context(method).get_start_method(), pickler)
        return self if method is None else start_method.named_context(method)

    def __reduce__(self) -> str | tuple[Any, ...]:
        if (pickler := vars(self).get("_pickler")) is not None:
            return _found_context, (self.get_start_method(), _submodule("picklers").reference(pickler))
        return super().__reduce__()


class ForkContext(BaseContext):
    """Starts processes by forking."""

    _name = "fork"
    Process = ForkProcess


class SpawnContext(BaseContext):
    """Starts processes as fresh interpreters."""

    _name = "spawn"
    Process = SpawnProcess


class ForkServerContext(BaseContext):
    """Starts processes as copies of a small server process."""

    _name = "forkserver"
    Process = ForkServerProcess


class DefaultContext(BaseContext):
    """The context behind the functions of the package."""

    Process = Process

    def get_context(self, method: str | None = None, *, pickler: Any = None) -> BaseContext:
        """Returns the context of a start method, or of the chosen one, which is then settled.

        `pickler` as for the other contexts.

        Raises:
            ValueError: there is no such start method.
            TypeError: that is no pickler.
        """
        if pickler is not None:
            return super().get_context(method, pickler=pickler)
        if method is not None:
            return start_method.named_context(method)
        # Asked for each object that is made: two calls into the stdlib would take as long as that.
        try:
            return _twins[_stdlibs._actual_context]
        except KeyError:  # still open, or set to what is none of ours
            return start_method.default_context()

    def set_start_method(self, method: str | None, force: bool = False) -> None:
        """Chooses the start method; with force=True also anew, None leaving it open again.

        Raises:
            RuntimeError: it has been chosen before, or been settled by use.
            ValueError: there is no such start method.
        """
        if start_method.chosen() is not None and not force:
            raise RuntimeError("context has already been set")
        if method is None and force:
            start_method.choose(None)
        else:
            start_method.choose(self.get_context(method).get_start_method())

    def get_start_method(self, allow_none: bool = False) -> str | None:
        """Returns the start method, which is then settled.

        None if it is open and `allow_none` is true.
        """
        return start_method.chosen() if allow_none else start_method.settle()

    def get_all_start_methods(self) -> list[str]:
        """Returns the names of the start methods, the default first."""
        return start_method.available()


start_method.contexts.update(fork=ForkContext(), spawn=SpawnContext(), forkserver=ForkServerContext())
_default_context = DefaultContext()

# What keeps the program's choice (see `start_method`), and ours for each of its contexts.
_stdlibs: Any = multiprocessing.context._default_context
_twins = {multiprocessing.get_context(name): context for name, context in start_method.contexts.items()}

_pickling: dict[tuple[str, int], BaseContext] = {}  # a context keeps its pickler, so the id is its own


def _with_pickler(method: str, pickler: Any) -> BaseContext:
    """Returns the context of a start method whose processes are sent by `pickler`."""
    _submodule("picklers").check(pickler)
    key = method, id(pickler)
    if key not in _pickling:
        context = type(start_method.named_context(method))()
        context._pickler = pickler  # type: ignore[attr-defined]
        context.Process = process.with_pickler(method, pickler)
        _pickling.setdefault(key, context)
    return _pickling[key]


def _found_context(method: str, reference: str | None) -> BaseContext:
    """A context that came from another process; the plain one where its pickler is not found."""
    if reference is None:
        return start_method.named_context(method)
    return _with_pickler(method, _submodule("picklers").find(reference))


def __getattr__(name: str) -> Any:
    return getattr(multiprocessing.context, name)  # whatever is not ours
