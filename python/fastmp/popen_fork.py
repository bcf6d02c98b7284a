"""Start a process by forking this one."""

from __future__ import annotations

import atexit
import contextlib
import os
import sys
from multiprocessing import popen_fork, util
from multiprocessing.process import BaseProcess

from . import _native, lifelines

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

__all__ = ["Popen"]


def give_readers(process_obj: BaseProcess, pid: int, execs: bool = False) -> None:
    """What readers of broadcasts the child was started with are its own; `execs`: it runs a program."""
    if (module := sys.modules.get("fastmp.broadcast")) is not None:
        module.give_readers(process_obj, pid, execs)


def _close_ends(sentinel: int, lifeline: int) -> None:
    os.close(sentinel)
    lifelines.close(lifeline)


@contextlib.contextmanager
def _shared_tracker() -> Iterator[None]:
    """Lets a child that is forked meanwhile have this process's resource tracker, if there is one:
    from 3.14 on it would start its own, and unlink the named shared memory that it has used."""
    module: Any = sys.modules.get("multiprocessing.resource_tracker")
    intent = getattr(module, "_fork_intent", None)  # of this thread
    if intent is None:
        yield
        return
    intent.preserve_fd = True
    try:
        yield
    finally:
        intent.preserve_fd = False


class Popen(popen_fork.Popen):
    """A running child: the stdlib's, started in our way."""

    def _launch(self, process_obj: BaseProcess) -> None:
        self.sentinel, child_lifeline = os.pipe()
        lifelines.keep_for_child(child_lifeline)
        try:
            parent_sentinel, lifeline = os.pipe()
        except OSError:
            os.close(self.sentinel)
            lifelines.close(child_lifeline)
            raise
        lifelines.keep(lifeline)
        self.finalizer = util.Finalize(self, _close_ends, (self.sentinel, lifeline))
        try:
            self.pid = self._start(process_obj, parent_sentinel, child_lifeline)
            give_readers(process_obj, self.pid, self.method == "spawn")
        except BaseException:
            self.finalizer()
            raise
        finally:
            os.close(parent_sentinel)
            lifelines.close(child_lifeline)

    def _start(self, process_obj: BaseProcess, parent_sentinel: int, lifeline: int) -> int:
        """Starts the child, which gets these two ends, and returns its pid."""
        parent = os.getpid()
        pid = None
        try:
            with _shared_tracker():
                pid = os.fork()
            if pid == 0:
                os.close(self.sentinel)
                _run(process_obj, parent_sentinel)
        finally:
            # A signal may have come before `pid` was set: all the same, no child returns from here.
            if pid == 0 or os.getpid() != parent:
                os._exit(1)
        return pid


def _run(process_obj: BaseProcess, parent_sentinel: int) -> None:
    """Runs the child to its end."""
    code = 1
    try:
        if sys.version_info >= (3, 13):
            # From then on a forked child runs its own atexit callbacks, as the stdlib's does.
            atexit._clear()
            atexit.register(util._exit_function)  # type: ignore[attr-defined]
        code = process_obj._bootstrap(parent_sentinel=parent_sentinel)  # type: ignore[attr-defined]
    finally:
        if sys.version_info >= (3, 13):
            atexit._run_exitfuncs()
        # To end so is to end normally: what was got from queues is dealt with.
        _native._acknowledge()
        os._exit(code)
