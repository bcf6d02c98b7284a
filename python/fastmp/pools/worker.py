"""What a worker does, from its start to its end."""

from __future__ import annotations

import importlib
import traceback
from time import monotonic_ns

from ..exceptions import ShutDown
from . import slots
from .messages import (
    CHUNK,
    DIED,
    DONE,
    FAILED,
    GLOBAL,
    HOW,
    PICKLED,
    RAISED,
    STARRED,
    TIMED,
    dumps,
    loads,
    result,
    run,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from ..queues import Queue
    from .messages import Pickled, Task

FUNCTIONS = 256  # that are kept

_shared: Any = None


def shared() -> Any:
    """In a worker: the object that its pool was given as `shared`."""
    return _shared


class WithTraceback:
    """An exception that arrives with its traceback, as text, for its cause."""

    def __init__(self, error: BaseException, executor: bool) -> None:
        text = "".join(traceback.format_exception(type(error), error, error.__traceback__))
        error.__traceback__ = None  # its frames hold all that the task had
        self._state = error, f'\n"""\n{text}"""', executor

    def __reduce__(self) -> tuple[Any, ...]:
        return _with_cause, self._state


def _with_cause(error: BaseException, text: str, executor: bool) -> BaseException:
    if executor:
        module: Any = importlib.import_module("concurrent.futures.process")
        error.__cause__ = module._RemoteTraceback(text)
    else:
        module = importlib.import_module("multiprocessing.pool")
        error.__cause__ = module.RemoteTraceback(text)
    return error


def _raised(error: BaseException, executor: bool) -> Pickled:
    try:
        return dumps(WithTraceback(error, executor))
    except Exception as e:
        return _not_sent(e, error, executor)


def _not_sent(error: BaseException, value: Any, executor: bool) -> Pickled:
    """What says that a result, or an exception, could not be pickled."""
    if executor:
        return dumps(WithTraceback(error, executor))
    module: Any = importlib.import_module("multiprocessing.pool")
    try:
        return dumps(module.MaybeEncodingError(error, value))
    except Exception:  # not even shown: its `__repr__` raises
        return dumps(module.MaybeEncodingError(error, object.__repr__(value)))


def _read(data: Any) -> Any:
    """A task's arguments, for an executor: as in the stdlib, who cannot read them breaks the pool; but
    here it is this task's alone."""
    try:
        return loads(data)
    except BaseException as e:
        from concurrent.futures.process import BrokenProcessPool

        raise BrokenProcessPool(f"the task's arguments could not be unpickled in the worker: {e!r}") from e


class Setup:
    """What all workers of a pool are given: the same for each, and each time."""

    def __init__(self, tasks: Queue, answers: Queue, table: Any, most: int | None, executor: bool) -> None:
        self.tasks = tasks
        self.answers = answers
        self.slots = table
        self.most = most  # tasks that one does, if that is limited
        self.executor = executor
        self.start: tuple[Callable[..., object] | None, Any, Any] | bytes = (None, (), None)

    def begin(self, initializer: Callable[..., object] | None, initargs: Any, shared: Any, forks: bool) -> None:
        """Sets what each begins with. Where they do not inherit it, it is pickled here, once."""
        self.start = (initializer, initargs, shared)
        if not forks and (initializer is not None or shared is not None):
            import pickle

            try:
                self.start = pickle.dumps(self.start, 5)
            except Exception:  # what can be given to a process that starts, and to no other
                return

    def opened(self) -> tuple[Callable[..., object] | None, Any, Any]:
        if isinstance(self.start, bytes):
            import pickle

            start: tuple[Any, Any, Any] = pickle.loads(self.start)
            return start
        return self.start


def _die_with_parent() -> None:
    """A daemon does so anyway; an executor's worker is none, so that it may have children."""
    from multiprocessing.process import parent_process

    from .. import lifelines

    parent: Any = parent_process()
    die_with = getattr(lifelines, "die_with", None)
    if parent is not None and die_with is not None:
        die_with(parent.sentinel)


def work(setup: Setup, number: int) -> None:
    """Does tasks, in the place with this number, until the queue is shut down."""
    global _shared
    if setup.executor:
        _die_with_parent()
    tasks, put, executor = setup.tasks, setup.answers.put, setup.executor
    slot = slots.view(setup.slots, number)
    try:
        initializer, initargs, _shared = setup.opened()
        if initializer is not None:
            initializer(*initargs)
    except BaseException as e:
        put((-1, number, 0, FAILED, _raised(e, executor)))
        if not executor:
            raise
        from concurrent.futures import _base

        _base.LOGGER.critical("Exception in initializer:", exc_info=True)
        raise SystemExit(1) from None
    del initializer, initargs
    setup.start = (None, (), None)
    slot[slots.READY] = 1
    left = setup.most
    functions: dict[bytes, Callable[..., Any]] = {}
    has_come_back = tasks._has_come_back
    while left is None or left > 0:
        try:
            task: Task = ~tasks
        except ShutDown:
            break
        job, index, attempt, kind, stream, data = task[:6]
        if has_come_back():
            # Who had it was killed. What is to become of it the parent says.
            put((job, index, attempt, DIED, (task, -1)))
            continue
        slot[slots.BEGUN] += 1
        slot[slots.INDEX] = index
        slot[slots.ATTEMPT] = attempt
        if kind & TIMED:
            slot[slots.DEADLINE] = monotonic_ns() + int(task[6] * 1e9)
        slot[slots.JOB] = job
        value: Any = None
        try:
            function = functions.get(stream)
            if function is None:
                function = loads((stream, None))
                if kind & GLOBAL:
                    if len(functions) >= FUNCTIONS:
                        functions.clear()
                    functions[stream] = function
            if executor and kind & PICKLED:
                kind, data = kind & ~PICKLED, _read(data)
            value = run(kind, function, data)
        except Exception as e:
            code, answer = RAISED, _raised(e, executor)
        except BaseException as e:
            if not executor:
                # It ends the worker, and no other is to run the task: it is not in custody then.
                put((job, index, attempt, DIED, (task, number)))
                raise
            code, answer = RAISED, _raised(e, executor)
        else:
            try:
                code, answer = result(value, kind & HOW in (CHUNK, STARRED))
            except Exception as e:
                code, answer = RAISED, _not_sent(e, value, executor)
            except BaseException as e:
                if not executor:
                    put((job, index, attempt, DIED, (task, number)))
                    raise
                code, answer = RAISED, _raised(e, executor)
        put((job, index, attempt, code, answer))
        slot[slots.JOB] = slots.IDLE
        if kind & TIMED:
            slot[slots.DEADLINE] = 0
        # Kept alive by nobody while it waits.
        task = data = answer = value = function = None  # type: ignore[assignment]
        if left is not None:
            left -= 1


__all__ = ["DONE", "PICKLED", "Setup", "shared", "work"]
