"""Processes: the stdlib's objects as its newest version has them, started by our own popen modules."""

from __future__ import annotations

import multiprocessing.process
import signal
from multiprocessing.process import (
    BaseProcess,
    active_children,
    current_process,
    parent_process,
)
from types import FunctionType

from . import start_method

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping
    from multiprocessing import popen_fork
    from typing import Any

__all__ = ["BaseProcess", "active_children", "current_process", "parent_process"]

# What the kernel takes for a timeout in one call, in seconds: 2**31 ms.
_LONGEST = 2_000_000


class _NewestProcess(BaseProcess):
    """What the newest stdlib's processes have, on every version.

    The stdlib's own methods are called as they are at the time: tracers and profilers wrap them.
    """

    _pickler: Any = None  # what a child is sent by, if not by the stdlib's

    def __init__(
        self,
        group: None = None,
        target: Callable[..., object] | None = None,
        name: str | None = None,
        args: Iterable[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
        *,
        daemon: bool | None = None,
    ) -> None:
        super().__init__(group, target, name, args, kwargs or {}, daemon=daemon)

    def interrupt(self) -> None:
        """Sends SIGINT, as Ctrl-C does: the child gets a KeyboardInterrupt.

        Raises:
            ValueError: the process object is closed.
        """
        self._check_closed()  # type: ignore[attr-defined]
        self._popen._send_signal(signal.SIGINT)  # type: ignore[attr-defined]

    def join(self, timeout: Any = None) -> None:
        """Waits until the process has ended; `timeout` seconds at most, any real number.

        Raises:
            ValueError: the process object is closed.
            AssertionError: the process has not been started, or not by this process.
            TypeError: the timeout is no number.
        """
        if timeout is not None and type(timeout) is not int:
            import math

            timeout = math.fsum((timeout,))  # as the core takes a float: no text
        while timeout is not None and timeout > _LONGEST:
            super().join(_LONGEST)
            if self.exitcode is not None:
                return
            timeout -= _LONGEST
        super().join(timeout)


class ForkProcess(_NewestProcess):
    """A process that starts as a copy of this one."""

    _start_method = "fork"

    @staticmethod
    def _Popen(process_obj: BaseProcess) -> popen_fork.Popen:
        from .popen_fork import Popen

        return Popen(process_obj)


class SpawnProcess(_NewestProcess):
    """A process that starts as a fresh interpreter."""

    _start_method = "spawn"

    @staticmethod
    def _Popen(process_obj: BaseProcess) -> popen_fork.Popen:
        from multiprocessing import spawn

        made_by = spawn.get_command_line
        if type(made_by) is not FunctionType or made_by.__globals__ is not vars(spawn):
            # A tracer has put its own in the place, whose program ends in the stdlib's `spawn_main`.
            from .popen_spawn_as_told import Popen as AsTold

            return AsTold(process_obj)
        from .popen_spawn import Popen

        return Popen(process_obj)

    @staticmethod
    def _after_fork() -> None:
        """A fresh interpreter has nothing to put right."""


class ForkServerProcess(_NewestProcess):
    """A process that starts as a copy of a small server process."""

    _start_method = "forkserver"

    @staticmethod
    def _Popen(process_obj: BaseProcess) -> popen_fork.Popen:
        from .popen_forkserver import Popen

        return Popen(process_obj)


CLASSES: dict[str, type[ForkProcess | SpawnProcess | ForkServerProcess]] = {
    "fork": ForkProcess,
    "spawn": SpawnProcess,
    "forkserver": ForkServerProcess,
}


class Process(_NewestProcess):
    """A process that starts by the default context's method."""

    _start_method: str | None = None

    @staticmethod
    def _Popen(process_obj: BaseProcess) -> popen_fork.Popen:
        return CLASSES[start_method.settle()]._Popen(process_obj)

    @staticmethod
    def _after_fork() -> None:
        CLASSES[start_method.settle()]._after_fork()  # type: ignore[union-attr]


# Classes whose children are sent by another pickler, by the names that children find them by:
# "SpawnProcess/cloudpickle".
_pickling: dict[str, type[BaseProcess]] = {}


def with_pickler(method: str, pickler: Any) -> type[BaseProcess]:
    """Returns the class of processes of that method which are sent by `pickler`."""
    from . import picklers

    base = CLASSES[method]
    reference = picklers.reference(pickler)
    # By a number, where no other process can find the pickler: there the class is the plain one.
    name = numbered = f"{base.__name__}/#{id(pickler)}"
    if reference is not None:
        name = f"{base.__name__}/{reference.replace('.', '/')}"
        if name in _pickling and _pickling[name]._pickler is not pickler:  # type: ignore[attr-defined]
            name = numbered  # a class that has been defined again
    if name not in _pickling:
        names = {"__module__": __name__, "__qualname__": name, "__doc__": base.__doc__, "_pickler": pickler}
        _pickling.setdefault(name, type(base.__name__, (base,), names))
    return _pickling[name]


def _find_pickling(name: str) -> type[BaseProcess]:
    if name in _pickling:
        return _pickling[name]
    from . import picklers

    base, _, reference = name.partition("/")
    for method, plain in CLASSES.items():
        if plain.__name__ == base:
            try:
                return with_pickler(method, picklers.find(reference.replace("/", ".")))
            except Exception:
                return plain
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __getattr__(name: str) -> Any:
    if "/" in name:
        return _find_pickling(name)
    return getattr(multiprocessing.process, name)  # whatever is not ours
