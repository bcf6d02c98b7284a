"""Start a process by forking this one."""

from __future__ import annotations

import sys
from multiprocessing.process import BaseProcess

from . import bootstrap, popen, shared_tracker

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

__all__ = ["Popen"]


_SHARES_TRACKER = sys.version_info >= (3, 14)


def _fork_intent() -> Any:
    """Returns what says, of this thread, that a child it forks may have this process's resource
    tracker; None without one. From 3.14 on a child would else start its own, and that would unlink
    the named shared memory that the child has used."""
    module: Any = sys.modules.get("multiprocessing.resource_tracker")
    return getattr(module, "_fork_intent", None)


class Popen(popen.Popen):
    """A running child, forked from this process."""

    def _launch(self, process_obj: BaseProcess) -> None:
        shared_tracker.make()
        child = bootstrap.prepare()
        if _SHARES_TRACKER and (intent := _fork_intent()) is not None:
            try:
                intent.preserve_fd = True
                child._fork(process_obj, self, popen.open_pidfd, intent)
            finally:
                intent.preserve_fd = False
        else:
            child._fork(process_obj, self, popen.open_pidfd)
        if "fastmp.broadcast" in sys.modules:
            popen.give_readers(process_obj, self.pid)
