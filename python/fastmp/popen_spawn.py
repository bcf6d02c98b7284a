"""Start a process as a fresh interpreter."""

from __future__ import annotations

import os
import sys
from multiprocessing import context, spawn, util
from multiprocessing.process import BaseProcess

from . import handles, popen_fork

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import BinaryIO

__all__ = ["Popen"]

# The very package that runs here, wherever it was found. What it needs of the standard library is
# imported first: this directory may well hold modules of the same names.
_PROGRAM = (
    "import sys, multiprocessing.spawn; sys.path.insert(0, {directory!r}); "
    "from fastmp.spawn_main import spawn_main; spawn_main({arguments})"
)
_DIRECTORY = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))


def _command_line(**fds: int) -> list[str]:
    arguments = [f"{name}={fd}" for name, fd in fds.items()]
    if getattr(sys, "frozen", False):
        return [sys.executable, "--multiprocessing-fork", *arguments]
    program = _PROGRAM.format(directory=_DIRECTORY, arguments=", ".join(arguments))
    flags = util._args_from_interpreter_flags()  # type: ignore[attr-defined]
    return [spawn.get_executable(), *flags, "-c", program, "--multiprocessing-fork"]


def _tracker() -> int:
    """Leads to the program's resource tracker, which is started if it has none. A child with one of
    its own would, when it ends, unlink the named shared memory that it has made or used."""
    from multiprocessing import resource_tracker  # not for those who only fork

    fd: int = resource_tracker.getfd()  # type: ignore[assignment]
    return fd


class Popen(popen_fork.Popen):
    """A running child with an interpreter of its own.

    What it needs lies complete in a memory file before it is started: `start()` never waits for the
    child to read, and the child starts even if this process dies meanwhile.
    """

    method = "spawn"
    DupFd = handles.DupFd
    forgets_lent = True

    def __init__(self, process_obj: BaseProcess) -> None:
        self._fds: set[int] = set()
        super().__init__(process_obj)

    def duplicate_for_child(self, fd: int) -> int:
        """Lets the child inherit `fd`; returns its number there."""
        self._fds.add(fd)
        return fd

    def _launch(self, process_obj: BaseProcess) -> None:
        with open(os.memfd_create("fastmp:start"), "w+b") as file:
            self._write(process_obj, file)
            file.seek(0)  # the child shares the position
            self._data = file.fileno()
            super()._launch(process_obj)
        handles.forget_lent(self)

    def _write(self, process_obj: BaseProcess, file: BinaryIO) -> None:
        preparation = spawn.get_preparation_data(process_obj.name)
        outer = context.get_spawning_popen()  # what is being pickled there may have started this
        context.set_spawning_popen(self)  # type: ignore[arg-type]
        try:
            for part in (preparation, process_obj):
                context.reduction.dump(part, file)  # type: ignore[attr-defined]
        finally:
            context.set_spawning_popen(outer)

    def _start(self, process_obj: BaseProcess, parent_sentinel: int, lifeline: int) -> int:
        fds = {"data": self._data, "parent_sentinel": parent_sentinel, "lifeline": lifeline, "tracker": _tracker()}
        passed = sorted(self._fds.union(fds.values()))
        executable = os.fsencode(spawn.get_executable())
        return util.spawnv_passfds(executable, _command_line(**fds), passed)
