"""Start a process by forking this one."""

from __future__ import annotations

import os
import sys
from multiprocessing.process import BaseProcess

from . import bootstrap, lifelines, popen, shared_tracker

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

__all__ = ["Popen"]


def give_readers(process_obj: BaseProcess, pid: int, execs: bool = False) -> None:
    """What readers of broadcasts the child was started with are its own; `execs`: it runs a program."""
    if (module := sys.modules.get("fastmp.broadcast")) is not None:
        module.give_readers(process_obj, pid, execs)


def _close_ends(lifeline: int, *others: int) -> None:
    lifelines.close(lifeline)
    for fd in others:
        os.close(fd)


_SHARES_TRACKER = sys.version_info >= (3, 14)


def _share_tracker(share: bool) -> None:
    """Lets a child that is forked meanwhile have this process's resource tracker, if there is one:
    from 3.14 on it would start its own, and unlink the named shared memory that it has used."""
    module: Any = sys.modules.get("multiprocessing.resource_tracker")
    intent = getattr(module, "_fork_intent", None)  # of this thread
    if intent is not None:
        intent.preserve_fd = share


class Popen(popen.Popen):
    """A running child, forked from this process."""

    def _launch(self, process_obj: BaseProcess) -> None:
        shared_tracker.make()
        told, child_lifeline, parent_sentinel, lifeline = lifelines.make_both()
        self.sentinel = told
        try:
            self.pid = self._start(process_obj, parent_sentinel, child_lifeline)
            if "fastmp.broadcast" in sys.modules:
                give_readers(process_obj, self.pid, self.method == "spawn")
        except BaseException:
            _close_ends(lifeline, told)
            raise
        finally:
            os.close(parent_sentinel)
            lifelines.close(child_lifeline)
        self._hold(lifeline, told)

    def _start(self, process_obj: BaseProcess, parent_sentinel: int, lifeline: int) -> int:
        """Starts the child, which gets these two ends, and returns its pid."""
        child = bootstrap.prepare()
        parent = os.getpid()
        pid = None
        shares = _SHARES_TRACKER
        try:
            if shares:
                _share_tracker(True)
            pid = os.fork()
            if pid == 0:
                if shares:
                    _share_tracker(False)
                child._run(process_obj, parent_sentinel, True, self.sentinel)
        finally:
            # A signal may have come before `pid` was set: all the same, no child returns from here.
            if pid == 0 or os.getpid() != parent:
                os._exit(1)
            if shares:
                _share_tracker(False)
        return pid

    def _hold(self, lifeline: int, told: int) -> None:
        """Holds the child by a pidfd, if there is one to be had; else by the pipe, as so far."""
        pidfd = popen.open_pidfd(self.pid)
        if pidfd is not None:
            self._pidfd = self.sentinel = pidfd
            os.close(told)
        self._own((self.sentinel,), lifeline)
