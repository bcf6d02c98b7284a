"""Start a process as a fresh interpreter by a command line that somebody else has made.

Tracers replace `multiprocessing.spawn.get_command_line` by one that gets them started in children,
and ends in the stdlib's own `spawn_main`.
"""

from __future__ import annotations

from multiprocessing import popen_spawn_posix

from . import handles
from .popen import give_readers

TYPE_CHECKING = False
if TYPE_CHECKING:
    from multiprocessing.process import BaseProcess

__all__ = ["Popen"]


class Popen(popen_spawn_posix.Popen):
    """A running child: the stdlib's, which our objects travel to as to any child."""

    forgets_lent = True

    def _launch(self, process_obj: BaseProcess) -> None:
        try:
            super()._launch(process_obj)  # type: ignore[misc]
            give_readers(process_obj, self.pid, True)
        finally:
            handles.forget_lent(self)
