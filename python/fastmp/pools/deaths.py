"""What is said of a worker's death."""

from __future__ import annotations

from concurrent.futures.process import BrokenProcessPool

from .. import exceptions
from .jobs import pickled_error
from .messages import RAISED

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Any


class WorkerDiedError(exceptions.WorkerDiedError, BrokenProcessPool):
    """A worker of a pool has died; its task, or the pool, has failed.

    Attributes:
        task: what it was doing, as text; None if that is not known.
        out_of_memory: whether the kernel says that it has killed a process for want of memory.
    """

    def __init__(
        self,
        *args: Any,
        pids: Iterable[int] = (),
        exitcode: int | None = None,
        task: str | None = None,
        out_of_memory: bool = False,
    ) -> None:
        super().__init__(*args, pids=pids, exitcode=exitcode)
        self.task = task
        self.out_of_memory = out_of_memory


def how(exitcode: int | None, out_of_memory: bool) -> str:
    """How a process has ended, in words."""
    if exitcode is None:
        return "has died"
    if exitcode >= 0:
        return f"has ended with exit code {exitcode}"
    signal = exceptions.WorkerDiedError(exitcode=exitcode).signal
    return f"was killed by {signal}" + (" (for want of memory, the kernel says)" if out_of_memory else "")


class TaskTimeoutError(exceptions.TimeoutError, TimeoutError):
    """A task has taken longer than its `task_timeout`, and its worker was ended."""


def too_late(task: str, seconds: float) -> TaskTimeoutError:
    return TaskTimeoutError(f"{task} took longer than {seconds:g} s, and its worker was ended")


def of_task(pid: int | None, exitcode: int | None, out_of_memory: bool, task: str, times: int) -> WorkerDiedError:
    who = f"worker {pid}" if pid else "a worker"
    before = f", as {times - 1} before it" if times > 1 else ""
    text = f"{who} {how(exitcode, out_of_memory)} while it ran {task}{before}"
    pids = () if pid is None else (pid,)
    return WorkerDiedError(text, pids=pids, exitcode=exitcode, task=task, out_of_memory=out_of_memory)


def in_initializer(
    pid: int | None, exitcode: int | None, out_of_memory: bool, count: int, cause: BaseException | None
) -> WorkerDiedError:
    text = (
        f"{count} workers have died before their initializer returned; the last, {pid}, {how(exitcode, out_of_memory)}"
    )
    error = WorkerDiedError(text, pids=(pid,) if pid else (), exitcode=exitcode, out_of_memory=out_of_memory)
    error.__cause__ = cause
    return error


def not_started(error: BaseException) -> WorkerDiedError:
    died = WorkerDiedError(f"no worker can be started: {error!r}")
    died.__cause__ = error
    return died


def ended_early() -> tuple[int, Any]:
    """The code and data of an answer for what was left when the pool was terminated."""
    return RAISED, pickled_error(exceptions.ProcessError("the pool was terminated before this was done"), True)


def kills_for_memory() -> int:
    """Processes that the kernel has killed for want of memory, in our cgroup if it counts them."""
    try:
        with open("/proc/self/cgroup") as lines:
            own = next((line.split("::", 1)[1].strip() for line in lines if line.startswith("0::")), None)
        if own is not None:
            with open(f"/sys/fs/cgroup{own.rstrip('/')}/memory.events") as lines:
                return sum(int(line.split()[1]) for line in lines if line.startswith("oom_kill "))
    except (OSError, ValueError):
        pass
    try:
        with open("/proc/vmstat") as lines:
            return sum(int(line.split()[1]) for line in lines if line.startswith("oom_kill "))
    except (OSError, ValueError):
        return 0
