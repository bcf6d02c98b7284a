"""A running child as its parent sees it: is it alive, how did it end, and signals to it.

The child is held by a pidfd where the kernel has them. It becomes readable when the child ends, and
names this child and no other for ever: neither a signal nor a look at the exit status can meet a
stranger that has got the number since. Where there is none (an old kernel, seccomp, no descriptor
to be had) the end is told by a pipe whose other end the child alone holds, and the number is what
signals go to.

The exit status is *looked at* (WNOWAIT), then stored, and only then is the child reaped. Threads may
look at the same time: who finds nothing to look at any more finds the code stored. If it is not,
somebody else has reaped the child (`os.waitpid(-1)`, an ignored SIGCHLD). Newer kernels know the
status all the same; else the code is 255, as in the stdlib for what nobody knows.

Threads that look may come late: the code is stored, somebody calls `close()`, and the numbers of the
descriptors are those of another child. So who stores the code reaps, nobody else; and while a thread
may look at them the descriptors stay open: the last one closes them.
"""

from __future__ import annotations

import contextlib
import math
import os
import select
import signal
import struct
import sys
import time
from multiprocessing import popen_fork

from . import _native
from ._native import _open_child as open_pidfd
from .noting import RLock

TYPE_CHECKING = False
if TYPE_CHECKING:
    from multiprocessing.process import BaseProcess
    from typing import Any

__all__ = ["UNKNOWN", "Popen", "give_readers", "open_pidfd", "wait_readable"]

UNKNOWN = 255  # the exit code of a child of which nobody knows how it ended

_LONGEST = 1 << 30  # milliseconds in one sleep: poll takes a C int
_GET_INFO = 0xC040FF0B  # PIDFD_GET_INFO of a struct pidfd_info in its first version, of 64 bytes
_INFO_EXIT = 1 << 3  # PIDFD_INFO_EXIT, from Linux 6.15 on
_STATUS_AT = 60  # where in it the wait status is

_ending: Any = RLock()  # held while a child is reaped or its descriptors closed; signal handlers do so too
os.register_at_fork(after_in_child=_ending._at_fork_reinit)


def wait_readable(fd: int, timeout: Any = None) -> bool:
    """Waits until `fd` is readable or hung up, for `timeout` seconds at most; is it?"""
    poll = select.poll()
    poll.register(fd, select.POLLIN)
    if timeout is None:
        return bool(poll.poll())
    if timeout <= 0:
        return bool(poll.poll(0))
    deadline = time.monotonic() + timeout
    while True:
        rest = math.ceil(min(max(deadline - time.monotonic(), 0) * 1000, _LONGEST))
        if poll.poll(rest):
            return True
        if rest < _LONGEST and time.monotonic() >= deadline:
            return False


def give_readers(process_obj: BaseProcess, pid: int, execs: bool = False) -> None:
    """What readers of broadcasts the child was started with are its own; `execs`: it runs a program."""
    if (module := sys.modules.get("fastmp.broadcast")) is not None:
        module.give_readers(process_obj, pid, execs)


class Popen(popen_fork.Popen):
    """What every start method shares; `_launch` is left to it.

    What is declared here the core sets, all in one step, when there is a child: no signal handler
    comes in between, and the process object knows of it as well (`bootstrap/launch.rs`).
    """

    pid: int
    sentinel: int  # readable from the child's end on
    returncode: int | None
    _pidfd: int | None = None
    _ends: _native._Ends | None = None  # what is closed in the end, at the latest with this object
    _users = 0  # that may be about to use the descriptors
    _closing = False

    def poll(self, flag: int = os.WNOHANG, patience: float | None = None) -> int | None:
        """Returns the exit code; None while it runs. With flag=0 waits for its end.

        `patience`: seconds for somebody else to say how it has ended, where that has to be told.
        """
        if self._enter():
            try:
                code = self._look(flag, patience)
                if code is not None:
                    with _ending:
                        if self.returncode is None:
                            self.returncode = code  # before it is reaped: see above
                            self._reap()
            finally:
                self._leave()
        return self.returncode

    def wait(self, timeout: Any = None) -> int | None:
        """Waits for the end, for `timeout` seconds at most, and returns the exit code or None."""
        if timeout is None:
            return self.poll(0)
        deadline = time.monotonic() + timeout
        if self._enter():
            try:
                if not wait_readable(self.sentinel, timeout):
                    return self.returncode  # another thread may have seen to it
            finally:
                self._leave()
        return self.poll(os.WNOHANG if timeout <= 0 else 0, max(deadline - time.monotonic(), 0.0))

    def terminate(self) -> None:
        """Sends SIGTERM."""
        self._send_signal(signal.SIGTERM)

    def kill(self) -> None:
        """Sends SIGKILL."""
        self._send_signal(signal.SIGKILL)

    def interrupt(self) -> None:
        """Sends SIGINT, as Ctrl-C does."""
        self._send_signal(signal.SIGINT)

    def close(self) -> None:
        """Gives the descriptors back."""
        with _ending:
            self._closing = True
            if not self._users:
                self._close()

    def _close(self) -> None:
        if self._ends is not None:
            self._ends._close()
            self._ends = None

    def _enter(self) -> bool:
        """Keeps the descriptors open until `_leave`; not if it is known how the child has ended."""
        with _ending:
            if self.returncode is not None:
                return False
            self._users += 1
            return True

    def _leave(self) -> None:
        with _ending:
            self._users -= 1
            if self._closing and not self._users:
                self._close()

    def _send_signal(self, sig: int) -> None:
        if not self._enter():
            return
        try:
            if self._pidfd is not None:
                signal.pidfd_send_signal(self._pidfd, sig)
            else:
                os.kill(self.pid, sig)
        except ProcessLookupError:
            pass
        except OSError:
            # No right to, any more; or it has just ended.
            if self.wait(timeout=0.1) is None:
                raise
        finally:
            self._leave()

    def _look(self, flag: int, patience: float | None) -> int | None:
        """Returns how the child ended, which stays to be reaped; None while it runs."""
        try:
            if self._pidfd is not None:
                return _native._ended(self._pidfd, not flag)
            seen = os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOWAIT | flag)
        except ChildProcessError:
            if self.returncode is not None:
                return self.returncode  # another thread was quicker
            # Reaped by somebody else, or no child of this process, which has inherited the object.
            return self._unseen() if wait_readable(self.sentinel, 0) else None
        if seen is None:
            return None
        return seen.si_status if seen.si_code == os.CLD_EXITED else -seen.si_status

    def _unseen(self) -> int:
        """Returns how a child ended that somebody else has reaped."""
        if self._pidfd is not None:
            import fcntl

            info = bytearray(struct.pack("<Q", _INFO_EXIT).ljust(64, b"\0"))
            with contextlib.suppress(OSError):
                fcntl.ioctl(self._pidfd, _GET_INFO, info)
                if int.from_bytes(info[:8], "little") & _INFO_EXIT:
                    (status,) = struct.unpack_from("=i", info, _STATUS_AT)
                    return os.waitstatus_to_exitcode(status)
        return UNKNOWN

    def _reap(self) -> None:
        if self._pidfd is not None:
            _native._reap(self._pidfd)
            return
        with contextlib.suppress(ChildProcessError):
            os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOHANG)
