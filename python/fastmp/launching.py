"""A child that is started by another program, from what lies in a memory file.

A signal handler may raise at any step. Then there is no child, and nothing is left of the start; or
the child is known, as `start()` had returned: to its process object and to `active_children()`. What
a start makes the core holds (`_native._Launch`), and closes with it.
"""

from __future__ import annotations

from multiprocessing import context, process
from multiprocessing.process import BaseProcess

from . import _native, handles, pickling, popen, shared_tracker

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, BinaryIO

__all__ = ["Launched"]


class Launched(popen.Popen):
    """A running child; how it is started, and what from, is left to `_start` and `_preparation`.

    What it needs lies complete in a memory file before it is started: `start()` never waits for the
    child to read, and the child starts even if this process dies meanwhile.
    """

    forgets_lent = True

    def __init__(self, process_obj: BaseProcess) -> None:
        self._pids: list[int] = []  # the child's, where this process itself starts it
        super().__init__(process_obj)

    def _launch(self, process_obj: BaseProcess) -> None:
        shared_tracker.make()
        launch: Any = None
        try:
            launch = _native._Launch(vars(process), process_obj, self, popen.open_pidfd, self._pids)
            with open(launch.data, "w+b", closefd=False) as file:
                self._write(process_obj, file)
                file.seek(0)  # the child shares the position
            self._start(launch)
            popen.give_readers(process_obj, self.pid, self.method == "spawn")
        except BaseException:
            if launch is not None and launch._is_here():
                self._save(launch)
            raise
        finally:
            if launch is not None:
                launch._close()
            handles.forget_lent(self)

    def _start(self, launch: _native._Launch) -> None:
        """Starts the child, which is known then."""
        raise NotImplementedError

    def _save(self, launch: _native._Launch) -> None:
        """What can be done for a child of which the start has been interrupted, before `launch` sees to
        it that it is known or finds nothing to run."""

    def _preparation(self, process_obj: BaseProcess) -> dict[str, Any]:
        raise NotImplementedError

    def _write(self, process_obj: BaseProcess, file: BinaryIO) -> None:
        preparation = self._preparation(process_obj)
        # By the attribute: a signal handler may raise where a function begins.
        this_thread: Any = context._tls  # type: ignore[attr-defined]
        outer = context.get_spawning_popen()  # what is being pickled there may have started this
        try:
            this_thread.spawning_popen = self
            context.reduction.dump(preparation, file)  # type: ignore[attr-defined]
            pickling.dump_process(process_obj, file)
        finally:
            this_thread.spawning_popen = outer
