"""Start a process as a fresh interpreter."""

from __future__ import annotations

import os
import sys
from multiprocessing import spawn, util
from multiprocessing.process import BaseProcess

from . import _native, handles, interpreters, launching, shared_tracker

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

__all__ = ["Popen"]

# The very package that runs here, wherever it was found: no name is looked up in its directory, which
# may well hold modules that are called as some of the standard library. It is an empty module at
# first, and `spawn_main` sees to the rest.
_PROGRAM = (
    "import sys; 'fastmp' in sys.modules or "
    "setattr(sys.modules.setdefault('fastmp', type(sys)('fastmp')), '__path__', [{directory!r}]); "
    "from fastmp.spawn_main import spawn_main; spawn_main({arguments})"
)
# The same of a package that is not made of files.
_PROGRAM_ELSEWHERE = (
    "import sys, multiprocessing.spawn; sys.path.insert(0, {parent!r}); "
    "from fastmp.spawn_main import spawn_main; spawn_main({arguments})"
)
_DIRECTORY = os.path.dirname(os.path.abspath(__file__))


def _command_line(**fds: int) -> list[str]:
    arguments = [f"{name}={fd}" for name, fd in fds.items()]
    if getattr(sys, "frozen", False):
        return [sys.executable, "--multiprocessing-fork", *arguments]
    program = _PROGRAM if os.path.isfile(f"{_DIRECTORY}/__init__.py") else _PROGRAM_ELSEWHERE
    program = program.format(directory=_DIRECTORY, parent=os.path.dirname(_DIRECTORY), arguments=", ".join(arguments))
    flags = util._args_from_interpreter_flags()  # type: ignore[attr-defined]
    return [spawn.get_executable(), *flags, "-c", program, "--multiprocessing-fork"]


class Popen(launching.Launched):
    """A running child with an interpreter of its own."""

    method = "spawn"
    DupFd = handles.DupFd

    def __init__(self, process_obj: BaseProcess) -> None:
        self._fds: set[int] = set()
        super().__init__(process_obj)

    def duplicate_for_child(self, fd: int) -> int:
        """Lets the child inherit `fd`; returns its number there."""
        self._fds.add(fd)
        return fd

    def _preparation(self, process_obj: BaseProcess) -> dict[str, Any]:
        return spawn.get_preparation_data(process_obj.name)

    def _start(self, launch: _native._Launch) -> None:
        fds = {"data": launch.data, "parent_sentinel": launch.parent_sentinel, "lifeline": launch.lifeline}
        fds.update(shared_tracker.descriptors())
        passed = sorted(self._fds.union(fds.values()))
        executable = os.fsencode(spawn.get_executable())
        launch._give_to_next_child()
        interpreters.start(executable, _command_line(**fds), passed, self._pids)
        launch._know()
