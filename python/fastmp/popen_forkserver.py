"""Start a process by way of the fork server."""

from __future__ import annotations

import os
import time
from multiprocessing import spawn
from multiprocessing.process import BaseProcess

from . import _native, forkserver, launching, popen, shared_tracker

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

__all__ = ["Popen"]

# Seconds for the server to say how a child has ended of which the kernel says that it has, and who has
# said so itself, or who is only looked at. It takes so long only when the server is stopped.
_PATIENCE = 1.0


class _DupFd:
    """A descriptor that the child has under a number which it knows by then."""

    def __init__(self, index: int) -> None:
        self._index = index

    def detach(self) -> int:
        inherited = forkserver.get_inherited_fds()
        assert inherited is not None, "not started by a fork server"
        return inherited[self._index]


class Popen(launching.Launched):
    """A running child that the server has forked. What it needs lies in a memory file, as for spawn."""

    method = "forkserver"
    DupFd: Any = _DupFd

    def __init__(self, process_obj: BaseProcess) -> None:
        self._inherited: list[int] = []
        self._answer = forkserver.Answer()
        super().__init__(process_obj)

    def duplicate_for_child(self, fd: int) -> int:
        """Lets the child inherit `fd`; returns its index among what it inherits."""
        self._inherited.append(fd)
        return len(self._inherited) - 1

    def _preparation(self, process_obj: BaseProcess) -> dict[str, Any]:
        # The same for all of its children: the server does it once for all. What has a name is the
        # process, in a moment.
        return spawn.get_preparation_data("ForkServerProcess")

    def _start(self, launch: _native._Launch) -> None:
        # Its end is told by the pidfd, how it ended by this pipe, which else tells both.
        self._status = launch.told
        os.set_blocking(self._status, False)
        fds = [launch.data, launch.parent_sentinel, launch.lifeline]
        fds += [*shared_tracker.descriptors().values(), *self._inherited]
        forkserver._forkserver.start(fds, shared_tracker.files(), self._status, self._answer)
        self._know(launch)

    def _know(self, launch: _native._Launch) -> None:
        answer = self._answer
        self._said = answer.said
        launch._know_by(answer.word, answer.fds)
        forkserver._forkserver.forget(answer)

    def _save(self, launch: _native._Launch) -> None:
        if forkserver._forkserver.settle(self._answer, launch.data):
            self._know(launch)
        forkserver._forkserver.forget(self._answer)

    def _look(self, flag: int, patience: float | None) -> int | None:
        if self._pidfd is not None:
            if not popen.wait_readable(self._pidfd, 0.0 if flag else None):
                return None
            if flag and patience is None:
                patience = _PATIENCE
        elif flag:
            patience = 0.0
        deadline = None if patience is None else time.monotonic() + patience
        while True:
            code, final = self._heard()
            if final:
                return code
            if deadline is not None:
                patience = max(deadline - time.monotonic(), 0.0)
            if code is not None and self._pidfd is not None:
                patience = _PATIENCE if patience is None else min(patience, _PATIENCE)
            if not popen.wait_readable(self._status, patience):
                # The child has said how it would end, and has ended: so it was.
                return code if self._pidfd is not None else None
            if self._read_status():
                code, final = self._heard()  # another thread may have read the rest
                return code if final or code is not None else self._unseen()

    def _heard(self) -> tuple[int | None, bool]:
        """Returns the exit code by what the status pipe has said, and whether the server says so."""
        code = None
        for kind, _, code in forkserver.STATUS.iter_unpack(b"".join(self._said)):
            if kind == forkserver.REAPED:
                return code, True
        return code, False

    def _read_status(self) -> bool:
        """Reads on; is the end reached, as nobody is left to say more?"""
        try:
            said = os.read(self._status, 16 * forkserver.STATUS.size)
        except BlockingIOError:
            return False  # another thread has been quicker
        self._said.append(said)
        return not said

    def _reap(self) -> None:
        """The server has done so."""
