"""What a pool is: its queues, its workers, and the table in which every task's fate is written.

# Who there is
The *caller*: any thread of the parent that uses the pool. *Workers*, daemonic children. The
*watcher*, a thread that sleeps until a worker has ended (see `watcher`). The *reserve*, a thread
that is there only if callers do not collect: where callbacks or futures are outstanding, or tasks
do not fit into the queue at once (see `collecting`). Nobody else, and none of them sees more of a
task than it must: a task goes from the caller to a worker, and its answer back, by two queues.

# State
| what | where | changed by |
|---|---|---|
| a task | in `tasks`, a queue with custody | put by the parent; taken by workers |
| an answer | in `answers` | put by workers; taken by the *leader*, one thread of the parent at a time |
| `jobs`: for each job the tasks that are open | the parent, under `lock` | whoever submits; the leader; the watcher |
| `attempts`: how often a task has come back | likewise | the watcher |
| `sources`: what has not been put yet | likewise | `feeding` |
| a worker's slot | shared memory | that worker; the parent before its start and after its end |

A task is *open* from the moment it is put into its job's table. It is closed once, by the first
thing that is heard of it: an answer, or the watcher's judgement. What comes later is dropped. So
the table is what makes results come exactly once; a job whose tasks are all closed is done.

# A task's way, and who may be killed between any two steps
1. The caller writes it into its job's table, and puts it. It is in shared memory.
2. A worker takes it: it is in the worker's custody, until the worker asks for its next one.
3. The worker writes into its slot what it is about to run, the job last.
4. It runs the task, and puts the answer. **That is the commit point.**
5. It clears its slot, and asks for the next: by that it acknowledges.

A worker that is killed
- before 2 has nothing.
- between 2 and 5: the task comes back, by the custody of its queue, whoever else dies meanwhile.
  Nobody runs a task that has come back: the next worker that takes it, or the watcher, whichever
  is first, reports it (`DIED`), and the watcher judges. If the slot of one that has died says that
  it ran this very attempt, the task has *been begun*: it fails with WorkerDiedError, or with
  "retry" is put anew, as the next attempt, and with "break" all fails. If no slot says so it was
  killed between 2 and 3, and the task is put again, which counts for nothing.
- between 4 and 5: the answer is in `answers` before anything that is said of the task's return,
  for who reports that has seen the death. The task is closed then, and the report is dropped.
- while it reports a task that has come back: that comes back once more, and is reported again.
  Reports of one attempt are one report: `attempts` has moved on, or the task is closed.
- while it puts: the queue mends itself (its own protocol), and the task is still in custody.

A worker that ends by itself in the middle of a task (`sys.exit`, an interrupt) would acknowledge
it; so it reports the task, with its own number, before it goes. The watcher waits for its end to
know the exit code.

A worker that is killed before its initializer has returned has no task. If that goes on, with no
worker coming up in between, all jobs fail with what is known of it, and the pool is broken.

The parent killed: workers are daemons, and die with it. A child forked from the parent has a copy
of the pool that answers no call, and whose end ends nobody.

# Interrupts
A signal handler may raise in the main thread between any two lines. Answers that have been got are
in `arrivals` in the same bytecode as they are got by, and leave it when they have been applied. A job's
`closing` names the task that was being closed when a handler raised: whoever leads next begins with
the same answer, and goes through all steps once more. The leader's place is given up in a `finally`.
What was made of an iterable and not put yet stays with its source; where the handler raises just
behind the put, those tasks may run twice, and the second answers are dropped.

# Locks
`lock` is held for a few lines of this package, in which no foreign code runs: objects of users are
unpickled, called, iterated and dropped outside.
"""

from __future__ import annotations

import contextlib
import math
import os
import threading
import weakref
from time import monotonic

from .. import queues
from ..noting import RLock
from . import slots
from .collecting import Collecting
from .feeding import Feeding
from .jobs import anew
from .messages import DIED
from .watcher import Turn, Watcher
from .worker import Setup, work

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from .jobs import Job

RUN, CLOSED, TERMINATED = "RUN", "CLOSE", "TERMINATE"
GIVE_UP = 5.0  # seconds for a worker to end when it is asked to, before it is killed


class Core(Collecting, Feeding):
    """The pool behind a Pool or an executor.

    Attributes:
        workers: the processes that are there, by slot.
        broken: what all further calls raise, once the pool cannot go on.
    """

    def __init__(
        self,
        size: int,
        start: Callable[[Callable[..., None], tuple[Any, ...]], Any],
        *,
        on_death: str = "raise",
        retries: int = 3,
        most: int | None = None,
        executor: bool = False,
    ) -> None:
        self.pid = os.getpid()
        self.size = size
        self.wanted = size  # workers, so far
        self.start_process = start
        self.on_death = on_death
        self.retries = retries
        # Reentrant: a signal handler may end the pool in the middle of a few lines of it.
        self.lock = RLock()
        self.tasks = queues.Queue(requeue=True)
        self.answers = queues.Queue()
        self.slots = slots.create(size)
        self.setup = Setup(self.tasks, self.answers, self.slots, most, executor)
        self.state = RUN
        self.broken: BaseException | None = None
        self.jobs: dict[int, Job] = {}
        self.attempts: dict[tuple[int, int], int] = {}
        self.timed: dict[tuple[int, int], float] = {}  # tasks that have a time, and its seconds
        self.shortest = math.inf  # of these
        self.workers: dict[int, Any] = {}
        self.processes: list[Any] = []
        # Numbers of workers that are being started, and by which turn: with that they are free again.
        self.starting: weakref.WeakValueDictionary[int, Turn] = weakref.WeakValueDictionary()
        self.waiters: list[Any] = []
        self.is_over = False  # nobody replaces workers that end
        self.is_closed = False  # its queues are
        self.force = ""  # "terminate" or "kill": no worker is started any more, as it would escape that
        self.is_abandoned = False  # nobody has it any more: the watcher ends it
        self.owner: Any = None  # a weak reference, which tells of that
        self.at_exit: Any = None  # what ends it with the program
        self.is_let_go = False
        Collecting.__init__(self)
        Feeding.__init__(self)
        self.watcher = Watcher(self)

    # Workers.

    def start_worker(self, number: int) -> Any:
        """Starts a process in a slot that is nobody's.

        Raises:
            Exception: whatever starting a process raises.
        """
        slots.clear(slots.view(self.slots, number))
        process = self.start_process(work, (self.setup, number))
        self.workers[number] = process
        self.processes.append(process)
        return process

    def start_workers(self, count: int | None = None) -> None:
        """Starts those that are missing; if one cannot be started, ends those that could."""
        turn = Turn()
        try:
            with self.lock:
                self.claim(turn, self.size, count)
            self._start_claimed(turn)
        except BaseException:
            self._end_claimed(turn)
            raise
        finally:
            self.give_up(turn)

    def claim(self, turn: Turn, size: int, count: int | None = None) -> None:
        """Has workers that are missing among so many started by this turn alone. Under the lock."""
        missing = sorted(set(range(size)).difference(list(self.workers), list(self.starting)))
        self.starting.update(dict.fromkeys(missing[:count], turn))

    def claimed(self, turn: Turn) -> list[int]:
        return [number for number, its in list(self.starting.items()) if its is turn]

    def give_up(self, turn: Turn) -> None:
        for number in self.claimed(turn):
            self.starting.pop(number, None)

    def _start_claimed(self, turn: Turn) -> None:
        for number in self.claimed(turn):
            self.start_worker(number)
            if self.is_over:  # who has ended the others has not seen this one, perhaps
                raise RuntimeError("the pool has ended") if self.broken is None else anew(self.broken)

    def _end_claimed(self, turn: Turn) -> None:
        if os.getpid() != self.pid:
            return  # forked meanwhile by a signal handler
        started = [process for number in self.claimed(turn) if (process := self.workers.pop(number, None)) is not None]
        for process in started:
            process.terminate()
        for process in started:
            process.join()
            if process in self.processes:
                self.processes.remove(process)

    def look_at_times(self, seconds: float) -> None:
        """The watcher looks often enough for a task that may take so long. It stands in the table."""
        with self.lock:
            if seconds >= self.shortest:
                return
            self.shortest = seconds
        self.watcher.wake()

    # The table.

    def check(self) -> None:
        """
        Raises:
            ValueError: it takes no more, or is another process's.
            BaseException: what has broken it.
        """
        if self.state is not RUN or os.getpid() != self.pid:
            if self.broken is not None:
                raise anew(self.broken)
            raise ValueError("Pool not running")

    def apply(self) -> None:
        """Writes what has arrived into the table. By the leader."""
        with self.lock:
            closed = self._apply()
        if self.feeder is not None:
            self.has_room.set()
        if closed:
            self.after_closing()

    def _apply(self) -> bool:
        """Under the lock. Is a task closed?"""
        arrivals, jobs = self.arrivals, self.jobs
        closed = False
        while arrivals:
            answer = arrivals[0]
            if answer is not None:
                number, index, _, code, data = answer
                if code >= DIED:
                    self.watcher.notices.append((answer, monotonic()))
                    self.watcher.wake()
                elif (job := jobs.get(number)) is not None and (index in job.open or index == job.closing):
                    self._close(job, index, code, data)
                    closed = True
            arrivals.popleft()
        return closed

    def _close(self, job: Job, index: int, code: int, data: Any) -> None:
        """What was heard of this task is the first. Under the lock.

        Should a signal handler raise in it the same comes again, first of all, and each step may be
        done twice.
        """
        job.closing = index
        job.arrive(index, code, data)
        if index in job.open:
            # No call in between, behind which a handler could raise: the counts are right.
            self.count -= 1
            self.bytes -= job.open[index]
            del job.open[index]
        if self.attempts:
            self.attempts.pop((job.number, index), None)
        if self.timed:
            self.timed.pop((job.number, index), None)
        if job.fed and not job.open:
            self.close_job(job)
        job.closing = None

    def close_job(self, job: Job) -> None:
        """All has been heard of it. Under the lock; again, perhaps."""
        if job.has_callbacks:
            self.callbacks.append(job)
        else:
            job.completed()
            self.wake(job.waiters)
        # Last: until then it is found.
        self.jobs.pop(job.number, None)
        if not self.jobs:
            self.count = self.bytes = 0  # whatever interrupts have done to them

    def settle(self, number: int, index: int, code: int, data: Any) -> None:
        """Closes a task by what somebody here says of it, if it is open."""
        with self.lock:
            job = self.jobs.get(number)
            if job is not None and index in job.open:
                self._close(job, index, code, data)
        self.after_closing()
        self.wake_leader()

    def after_closing(self) -> None:
        """Jobs may be done. Without the lock."""
        if self.callbacks:
            self.bell.set()
        if self.state is CLOSED and not self.has_jobs():
            self.finish()

    def has_ended(self, job: Job) -> None:
        """Its callbacks have been called."""
        with self.lock:
            job.completed()
            self.wake(job.waiters)
        self.wake_leader()

    def fail_all(self, code: int, data: Any) -> None:
        """Whatever is open ends with this."""
        with self.lock:
            sources = self.sources[:]
            self.sources.clear()
            self._fail_all(code, data)
            self.wake_all()
        del sources  # may run code of users
        self.after_closing()
        self.wake_leader()

    def _fail_all(self, code: int, data: Any) -> None:
        """Under the lock."""
        for job in list(self.jobs.values()):
            job.abandon(code, data)
            for index in list(job.open):
                self._close(job, index, code, data)
            if job.number in self.jobs:
                self.close_job(job)

    # The end.

    def close(self) -> None:
        """Takes no more jobs; ends when those that are there are done."""
        with self.lock:
            if self.state is RUN:
                self.state = CLOSED
            idle = self.state is CLOSED and not self.has_jobs()
        if idle:
            self.finish()

    def finish(self) -> None:
        """Nothing is left to be done: workers end by themselves, and nobody replaces them."""
        if os.getpid() != self.pid:
            return  # what a forked child has is a copy
        with self.lock:
            if self.is_over or self.has_jobs():
                return
            self.is_over = True
            self.wake_all()
        with contextlib.suppress(ValueError):  # closed
            self.tasks.shutdown()
        self.bell.set()
        self.has_room.set()
        self.watcher.wake()
        self.wake_leader()

    def digest(self) -> None:
        """Nothing is to be made of answers where one waits for the end."""

    def wait_until_over(self) -> None:
        """Collects until nothing is outstanding. After `close`."""
        self.after_closing()
        self.wait(self, lambda: self.is_over or self.state is TERMINATED)

    def break_all(self, error: BaseException, code: int, data: Any) -> None:
        """It cannot go on: every job fails, and every further call raises `error`."""
        with self.lock:
            if self.broken is not None or self.state is TERMINATED:
                return
            self.broken = error
            self.state = TERMINATED
        self.fail_all(code, data)
        self.is_over = True
        self.bell.set()
        self.has_room.set()
        self.wake_leader()  # once more: it has not seen that

    def cannot_go_on(self, error: BaseException) -> None:
        """A thread that it needs cannot be started."""
        from .deaths import BrokenProcessPool
        from .jobs import pickled_error
        from .messages import RAISED

        broken = BrokenProcessPool(f"the pool cannot go on: {error}")
        broken.__cause__ = error
        self.break_all(broken, RAISED, pickled_error(broken, True))
        self.watcher.wake()

    def terminate(self, kill: bool = False) -> None:
        """Ends the workers, at once. Jobs that are not done fail."""
        if os.getpid() != self.pid or self.is_closed:
            return
        with self.lock:
            self.state = TERMINATED
            self.is_over = True
        self.bell.set()
        self.has_room.set()
        self.watcher.wake()
        self.wake_leader()
        current = threading.current_thread()
        if current is not self.watcher.thread:
            self.watcher.join()  # so that it starts no more of them
        self.collect()
        if self.jobs:
            from .deaths import ended_early

            self.fail_all(*ended_early())
        processes = list(self.processes)
        for process in processes:
            if process.exitcode is None:
                process.kill() if kill else process.terminate()
        until = monotonic() + GIVE_UP
        for process in processes:
            process.join(max(until - monotonic(), 0))
        for process in processes:
            if process.exitcode is None:
                process.kill()
                process.join()
        if current is not self.reserve:
            self.join_reserve()

    def abandon(self, _: object = None) -> None:
        """Nobody has it any more. Called by the garbage collector, between any two lines."""
        if not self.is_abandoned and not self.is_closed and os.getpid() == self.pid:
            self.is_abandoned = True
            self.watcher.wake()

    def end_abandoned(self) -> None:
        """By the watcher."""
        self.terminate()

    def join(self) -> None:
        """Waits until all of it has ended. After `close` or `terminate`."""
        if self.state is CLOSED:
            self.wait_until_over()
        if threading.current_thread() is self.reserve:
            return  # by a callback, after which it ends
        self.watcher.join()
        for process in list(self.processes):
            process.join()
        self.join_reserve()
        self.close_queues()
        self.let_go()

    def let_go(self) -> None:
        """Nothing that has ended is left to the garbage collector: the pool's end is that of descriptors."""
        if not self.is_let_go:
            self.is_let_go = True
            self.owner = self.at_exit = None
            self.workers.clear()
            self.watcher.let_go()

    def discard(self) -> None:
        """Ends what there is of a pool that could not be made. Nothing is left to the collector: a
        thread whose `start()` a signal handler has interrupted may be known to `threading` for ever."""
        if os.getpid() != self.pid:
            return
        self.terminate(kill=True)
        self.join()
        self.processes.clear()

    def has_jobs(self) -> bool:
        return bool(self.jobs)

    def close_queues(self) -> None:
        """Nobody uses them any more. Answers that nobody waits for go with them."""
        self.is_closed = True
        self.tasks.close()
        self.answers.close()
        if self.at_exit is not None:
            self.at_exit.cancel()


def start_or_end(worker: Any, then: Callable[[], object] | None = None) -> None:
    """Starts a process, and calls `then`; one that a signal handler's exception leaves running ends,
    as nobody knows of it.

    Raises:
        BaseException: whatever starting it raises.
    """
    me = os.getpid()
    try:
        worker.start()
        if then is not None:
            then()
    except BaseException:
        if getattr(worker, "pid", None) is not None and os.getpid() == me:
            worker.kill()
            worker.join()
        raise
