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

    def _launch(self, process_obj: BaseProcess) -> None:
        shared_tracker.make()
        launch: Any = None
        try:
            launch = _native._Launch(vars(process))
            with open(launch.data, "w+b", closefd=False) as file:
                self._write(process_obj, file)
                file.seek(0)  # the child shares the position
            self._start(process_obj, launch)
            popen.give_readers(process_obj, self.pid, self.method == "spawn")
        except BaseException:
            if launch is not None:
                self._save(process_obj, launch)
            raise
        finally:
            if launch is not None:
                launch._close()
            handles.forget_lent(self)

    def _start(self, process_obj: BaseProcess, launch: _native._Launch) -> None:
        """Starts the child, which is known to `launch` then."""
        raise NotImplementedError

    def _save(self, process_obj: BaseProcess, launch: _native._Launch) -> None:
        """What can be done for a child of which the start has been interrupted: it is known, or there
        will be none."""
        raise NotImplementedError

    def _preparation(self, process_obj: BaseProcess) -> dict[str, Any]:
        raise NotImplementedError

    def _write(self, process_obj: BaseProcess, file: BinaryIO) -> None:
        preparation = self._preparation(process_obj)
        outer = context.get_spawning_popen()  # what is being pickled there may have started this
        try:
            context.set_spawning_popen(self)  # type: ignore[arg-type]
            context.reduction.dump(preparation, file)  # type: ignore[attr-defined]
            pickling.dump_process(process_obj, file)
        finally:
            context.set_spawning_popen(outer)
