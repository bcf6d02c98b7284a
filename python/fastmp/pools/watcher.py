"""The thread that sleeps until a worker has ended: it starts another, and judges the dead one's task.

It alone removes workers, starts those that take their places, and decides what becomes of a task that
has come back. What is said of such a task (a *notice*) reaches it from the leader, or from its own
look into the queue; see `core` for the protocol.
"""

from __future__ import annotations

import contextlib
import math
import os
import select
import signal
import threading
import time
from time import monotonic, monotonic_ns

from .._native import _pipe
from ..noting import close_all, note
from . import slots
from .jobs import open_answer, pickled_error
from .messages import FAILED, RAISED

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from .core import Core

UNNAMED = 0.1  # seconds for the end of a task's worker to be seen, before it is judged without
ENDING = 5.0  # likewise, of a worker that has said that it ends
AGAIN = 0.1  # seconds before what could not be started is tried again
TRIES = 30  # and how often, where no worker is left
BEFORE_WORK = 3, 10  # workers, at least, that die one after the other before they can work, by an
# error and by a signal: it is given up
NEVER_BEGUN = 8  # times that a task comes back without having been begun: then it is said that it was
KNOWN = 1000  # deaths that are remembered


class Death:
    """What is known of a worker that has died."""

    def __init__(self, number: int, process: Any, slot: memoryview, out_of_memory: bool, late: bool) -> None:
        self.number = number
        self.pid = process.pid
        self.exitcode = process.exitcode
        self.out_of_memory = out_of_memory
        self.late = late  # it was ended because its task took too long
        self.ran = (slot[slots.JOB], slot[slots.INDEX], slot[slots.ATTEMPT])


class Turn:
    """Of starting workers."""


class Watcher:
    """That part of a pool."""

    reader = writer = -1  # of the pipe by which it is woken

    def __init__(self, core: Core) -> None:
        self.core = core
        self.notices: list[tuple[Any, float]] = []
        """Reports of tasks that have come back, and when they came. Appended to by anybody."""
        self.deaths: list[Death] = []
        self.never_begun: dict[tuple[int, int], int] = {}
        self.begun: dict[tuple[int, int], int] = {}
        """How often a task has come back without having been begun, and having been."""
        self.failures = 0  # deaths before a worker was ready, in a row
        self.cause: BaseException | None = None  # what an initializer has raised
        self.tries = 0
        self.again = 0.0  # when starting is tried again; 0: it is not owed
        self.late: set[int] = set()
        self.killed_for_memory = 0
        self.thread: threading.Thread | None = None
        self.is_running = False  # or has been
        self.poll = select.poll()
        self.watched: dict[int, int] = {}  # a sentinel, and its worker's number
        self.is_woken = False

    def start(self) -> None:
        """Again, if a signal handler has ended that in the middle."""
        # Not by the thread: the numbers of files that are read meanwhile are the program's soon, where
        # its standard streams are closed.
        from .deaths import kills_for_memory

        self.killed_for_memory = kills_for_memory()
        if self.reader < 0:
            self._make_pipe()
        for fd in (self.reader, self.writer):
            os.set_blocking(fd, False)
        self.poll.register(self.reader, select.POLLIN)
        thread = threading.Thread(target=self._run, name="fastmp-pool-watcher", daemon=True)
        with self.core.lock:
            if self.is_running:
                return
            self.thread = thread
        thread.start()

    def _make_pipe(self) -> None:
        ends: list[tuple[int, int]] = []
        try:
            note(ends, _pipe)
            # No signal handler comes between these.
            self.reader, self.writer = ends[0]
            ends.clear()
        finally:
            close_all(ends)

    def wake(self) -> None:
        if not self.is_woken:
            self.is_woken = True
            try:
                os.write(self.writer, b"x")
            except OSError:  # it is full, or the watcher has ended
                return

    def join(self) -> None:
        if self.thread is not None and self.thread.ident is not None:
            # A signal handler may have raised in its `start()`: then it finds no more to do.
            with contextlib.suppress(RuntimeError):
                self.thread.join()

    def let_go(self) -> None:
        """It is woken no more, and does not begin any more."""
        with self.core.lock:
            self.is_running = True
            thread, self.thread = self.thread, None
        if thread is not None and thread.is_alive() and thread is not threading.current_thread():
            thread.join()
        self.close()
        self.core = None  # type: ignore[assignment]

    def close(self) -> None:
        if self.writer >= 0 and self.core.pid == os.getpid():
            fds = [self.reader, self.writer]
            self.reader = self.writer = -1
            close_all(fds)

    def __del__(self) -> None:
        self.close()

    def _run(self) -> None:
        core: Any = self.core
        if core is None:
            return
        with core.lock:
            if self.is_running:
                return  # it has been started twice, or all has ended
            self.is_running = True
            self.thread = threading.current_thread()
        while True:
            if core.is_abandoned:
                core.end_abandoned()
            self._watch()
            if (core.is_over or core.state == "TERMINATE") and (not core.workers or core.state == "TERMINATE"):
                if core.broken is not None and core.state == "TERMINATE":
                    self._end_workers()
                if core.is_abandoned:
                    self._clean_up()
                return
            try:
                self.poll.poll(self._timeout())
            except OSError:  # a sentinel was closed by somebody else
                time.sleep(0.001)
            if self.is_woken:
                with contextlib.suppress(BlockingIOError):
                    os.read(self.reader, 4096)
                self.is_woken = False
            self._reap()
            if core.state == "TERMINATE":
                continue
            if self.again and not core.is_over and not core.force and monotonic() >= self.again:
                self._replace()
            if core.timed:
                self._end_late_ones()
            if self.notices:
                self._judge_all()

    def _watch(self) -> None:
        """Has the poll look at the sentinels of all workers."""
        for number, process in list(self.core.workers.items()):
            try:
                fd = process.sentinel
            except (AttributeError, ValueError):
                continue
            if self.watched.get(fd) != number:
                self.poll.register(fd, select.POLLIN)
                self.watched[fd] = number

    def _timeout(self) -> int | None:
        """Milliseconds."""
        until = []
        if self.notices:
            until.append(monotonic() + UNNAMED / 10)
        if self.again:
            until.append(self.again)
        if self.core.shortest != math.inf:
            until.append(self._next_look())
        left = min(until, default=math.inf) - monotonic()
        return None if left == math.inf else max(int(left * 1000) + 1, 0)

    # Ends.

    def _reap(self) -> None:
        """Notes who has ended, has its task come back, and starts another."""
        core = self.core
        ended, is_abrupt = False, False
        for number, process in list(core.workers.items()):
            if process.exitcode is None:
                continue
            ended = True
            is_abrupt = self._has_ended(number, process) or is_abrupt
        if not ended:
            # The kernel may say that it ends a moment before it can be waited for.
            if self.poll.poll(0) and not self.is_woken:
                time.sleep(0.0005)
            return
        if core.state == "TERMINATE":
            return
        if is_abrupt:
            self._take_back()
            if core.on_death == "break" and not core.is_over and not self.deaths[-1].late:
                self._break(self.deaths[-1])
                return
        if core.force:
            if not core.workers:
                self._end_forced()
        elif not core.is_over:
            self._replace()
        if self.notices:
            self._judge_all()

    def _has_ended(self, number: int, process: Any) -> bool:
        """Returns whether it has died, rather than ended as it should."""
        core = self.core
        slot = slots.view(core.slots, number)
        for fd in [fd for fd, of in self.watched.items() if of == number]:
            del self.watched[fd]
            with contextlib.suppress(KeyError):
                self.poll.unregister(fd)
        process.join()
        code = process.exitcode
        is_late = number in self.late
        self.late.discard(number)
        was_ready = bool(slot[slots.READY])
        # Not all die by an error: a task may end its worker by `os._exit(0)`.
        has_died = code != 0 or not was_ready or slot[slots.JOB] != slots.IDLE
        if has_died:
            self.deaths.append(Death(number, process, slot, self._was_for_memory(code), is_late))
            del self.deaths[:-KNOWN]
        with core.lock:
            del core.workers[number]
            if process in core.processes:
                core.processes.remove(process)
        if not was_ready and not core.is_over and core.on_death != "break":
            self.failures += 1
            # Somebody may kill workers faster than they can start, and stop doing so.
            most = max(BEFORE_WORK[0], core.size) if (code or 0) >= 0 else max(BEFORE_WORK[1], 4 * core.size)
            if self.failures >= most:
                self._collect_cause()
                self._give_up_starting()
        elif was_ready:
            self.failures = 0
        return has_died

    def _was_for_memory(self, code: int | None) -> bool:
        if code != -signal.SIGKILL:
            return False
        from .deaths import kills_for_memory

        before, self.killed_for_memory = self.killed_for_memory, kills_for_memory()
        return self.killed_for_memory > before

    def _take_back(self) -> None:
        """Has what the dead had come back, and takes it, so that nobody has to be free for that."""
        from queue import Empty

        from ..exceptions import ShutDown
        from .messages import DIED

        tasks = self.core.tasks
        try:
            tasks._look_after(True)
            for _ in range(2 * self.core.size + 2):
                try:
                    task = tasks.get(False)
                except (Empty, ShutDown):
                    break
                if not tasks._has_come_back():
                    tasks.put(task)
                    break
                self.notices.append(((*task[:3], DIED, (task, -1)), monotonic()))
            tasks._acknowledge_own()
        except (ValueError, OSError):  # closed, or there is no memory for it: workers report it
            return

    def _replace(self) -> None:
        core = self.core
        turn = Turn()
        try:
            with core.lock:
                if core.is_over or core.state == "TERMINATE":
                    return
                core.claim(turn, core.wanted)
            self._start_each(core.claimed(turn))
        finally:
            core.give_up(turn)

    def _start_each(self, missing: list[int]) -> None:
        core = self.core
        self.again = 0.0
        for number in missing:
            try:
                process = core.start_worker(number)
                if core.force:  # which has not seen this one, perhaps
                    getattr(process, core.force)()
                    return
            except Exception as e:
                self.tries += 1
                self.again = monotonic() + AGAIN
                if not core.workers and self.tries >= TRIES:
                    from .deaths import not_started

                    self._break_with(not_started(e))
                return
        self.tries = 0

    # Judgement.

    def _judge_all(self) -> None:
        waiting = []
        while self.notices:
            notice, at = self.notices.pop(0)
            if not self._judge(notice, monotonic() - at):
                waiting.append((notice, at))
        self.notices.extend(waiting)

    def _judge(self, notice: Any, age: float) -> bool:
        """Decides what becomes of a task; False: later, when more is known."""
        number, index, attempt, code, data = notice
        core = self.core
        if code == FAILED:
            self.cause = open_answer(RAISED, data)[1]
            return True
        with core.lock:
            job = core.jobs.get(number)
            if job is None or index not in job.open or core.attempts.get((number, index), 0) != attempt:
                return True  # it is closed, or has been judged
        task, ending = data
        death = next((death for death in reversed(self.deaths) if death.ran == (number, index, attempt)), None)
        if death is None:
            if age < (UNNAMED if ending < 0 else ENDING):
                return False
            times = self.never_begun.get((number, index), 0)
            if ending < 0 and times < NEVER_BEGUN:
                # No slot says that it was begun.
                self.never_begun[number, index] = times + 1
                self._put_again(task, attempt + 1)
                return True
        times = self.begun[number, index] = self.begun.get((number, index), 0) + 1
        if len(self.begun) + len(self.never_begun) > KNOWN:
            self._forget()
        if death is not None and death.late:
            from .deaths import too_late

            core.settle(number, index, RAISED, pickled_error(too_late(describe(task), task[6])))
        elif core.on_death == "break":
            self._break(death)
        elif core.on_death == "retry" and times <= core.retries:
            self._put_again(task, attempt + 1)
        else:
            core.settle(number, index, RAISED, pickled_error(self._error(death, task, times)))
        return True

    def _forget(self) -> None:
        for counts in (self.begun, self.never_begun):
            for key in [key for key in counts if key[0] not in self.core.jobs]:
                del counts[key]

    def _put_again(self, task: Any, attempt: int) -> None:
        core = self.core
        number, index = task[:2]
        with core.lock:
            if core.jobs.get(number) is None:
                return
            core.attempts[number, index] = attempt
        try:
            core.tasks.put((number, index, attempt, *task[3:]))
        except Exception as e:
            core.settle(number, index, RAISED, pickled_error(e))

    def _error(self, death: Death | None, task: Any, times: int) -> BaseException:
        from .deaths import of_task

        name = describe(task)
        if death is None:
            return of_task(None, None, False, name, times)
        return of_task(death.pid, death.exitcode, death.out_of_memory, name, times)

    def _break(self, death: Death | None) -> None:
        from .deaths import BrokenProcessPool, how

        text = (
            "A process in the process pool was terminated abruptly while the future was running or pending."
            if death is None or death.ran[0] != slots.IDLE or death.exitcode is not None
            else ""
        )
        if self.failures and death is not None:
            self._collect_cause()
        error = BrokenProcessPool(text)
        if death is not None:
            error.__cause__ = self.cause or ProcessDied(
                f"worker {death.pid} {how(death.exitcode, death.out_of_memory)}"
            )
        self._break_with(error)

    def _end_forced(self) -> None:
        from .deaths import BrokenProcessPool

        self.core.collect_answered()
        if not self.core.has_jobs():
            return
        text = "A worker process exited while the pool was being forcefully shut down"
        self._break_with(BrokenProcessPool(f"{text}; work that was still enqueued will not be run."))

    def _give_up_starting(self) -> None:
        from .deaths import in_initializer

        last = self.deaths[-1]
        args = last.pid, last.exitcode, last.out_of_memory, self.failures, self.cause
        self._break_with(in_initializer(*args))

    def _collect_cause(self) -> None:
        """What an initializer has raised may not have been collected yet."""
        self.core.collect_answered()
        for notice, _ in self.notices:
            if notice[3] == FAILED:
                self.cause = open_answer(RAISED, notice[4])[1]

    def _break_with(self, error: BaseException) -> None:
        # As in the stdlib, what was answered before is not lost.
        self.core.collect_answered()
        self.core.break_all(error, RAISED, pickled_error(error, True))

    def _end_workers(self) -> None:
        """Of a pool that is broken, as nobody may ever call `terminate`."""
        for process in list(self.core.processes):
            if process.exitcode is None:
                process.terminate()

    def _clean_up(self) -> None:
        """Nobody else does."""
        core = self.core
        for process in list(core.processes):
            process.join()
        core.join_reserve()
        core.close_queues()
        core.let_go()

    # Times.

    def _next_look(self) -> float:
        """When the next deadline is known to be, or the next one that is not known yet could be."""
        core = self.core
        with core.lock:
            if not core.timed:
                core.shortest = math.inf
                return math.inf
            until = [monotonic() + core.shortest]
        for number in list(core.workers):
            deadline = slots.view(core.slots, number)[slots.DEADLINE]
            if deadline:
                until.append(deadline / 1e9)
        return min(until)

    def _end_late_ones(self) -> None:
        core = self.core
        for number, process in list(core.workers.items()):
            slot = slots.view(core.slots, number)
            if number in self.late or not _is_late(slot):
                continue
            # Stopped, so that it is ended in the middle of this task and of no other.
            pid = process.pid
            try:
                os.kill(pid, signal.SIGSTOP)
                until = monotonic() + 1.0
                while not _is_stopped(pid) and monotonic() < until:
                    time.sleep(0.0005)
                if _is_late(slot) and _is_stopped(pid):
                    self.late.add(number)
                    os.kill(pid, signal.SIGKILL)
                else:
                    os.kill(pid, signal.SIGCONT)
            except ProcessLookupError:
                continue


class ProcessDied(Exception):
    """How a process has ended: the cause of a pool that is broken."""


def _is_late(slot: memoryview) -> bool:
    deadline = slot[slots.DEADLINE]
    return bool(deadline) and slot[slots.JOB] != slots.IDLE and monotonic_ns() >= deadline


def _is_stopped(pid: int) -> bool:
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            return file.read().rpartition(b")")[2].split()[0] in b"Tt"
    except (OSError, IndexError):
        return False


def describe(task: Any) -> str:
    """A task, for people."""
    import pickle

    number, index, _, kind, stream, data = task[:6]
    name = "a function"
    if len(stream) < 1000:
        try:
            function = pickle.loads(stream)
            name = getattr(function, "__qualname__", None) or type(function).__name__
        except Exception:
            name = "a function"
    where = "" if kind & 3 == 0 else f", item {index}" if kind & 3 == 1 else f", chunk {index}"
    shown = ""
    if not kind & 8:
        shown = repr(data)
        shown = shown if len(shown) <= 80 else shown[:77] + "..."
        shown = shown if kind & 3 == 0 else f"({shown})"
        shown = f" of {shown}" if kind & 3 else shown
    return f"{name}{shown}{where} (job {number})"
