"""Waiting for a state, and looking at processes from outside."""

import collections
import contextlib
import os
import signal
import threading
import time


def wait_until(predicate, what="a state that never came", limit=50.0):
    """Polls, so that no primitive under test is trusted.

    The limit is a watchdog and not a measure.
    """
    deadline = time.monotonic() + limit
    while not predicate():
        if time.monotonic() > deadline:
            raise TimeoutError(f"waited {limit} s for {what}")
        time.sleep(0.001)


def line_up(ready, me):
    """Waits until all the others run too: contention begins with everybody."""
    ready[me] = 1
    wait_until(lambda: all(ready), "the others at the start")


def wait_asleep(pid, flag=None):
    """Waits until a process that has announced its wait is in it (best effort: asleep five times in
    a row).
    """
    if flag is not None:
        wait_until(lambda: flag.value, "the announcement of a wait")
    streak = 0
    while streak < 5:
        state = look_at(pid)
        if state is None or state.state in "ZX":
            raise AssertionError(f"process {pid} ended instead of waiting")
        streak = streak + 1 if state.state == "S" else 0
        time.sleep(0.002)


def thread_sleeps(thread_id):
    """Five times in a row: a wait spins before it sleeps."""
    for _ in range(5):
        with open(f"/proc/self/task/{thread_id}/stat") as file:
            if file.read().rpartition(")")[2].split()[0] != "S":
                return False
        time.sleep(0.002)
    return True


class Seen(collections.namedtuple("Seen", ["pid", "state", "parent"])):
    """One process, as /proc shows it.

    No dataclass: children import this module by the thousand.
    """

    def command(self):
        try:
            with open(f"/proc/{self.pid}/cmdline", "rb") as file:
                return file.read().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            return ""

    def is_resource_tracker(self):
        """The stdlib's helper: it outlives every test, and is replaced with a warning when it is
        killed.
        """
        return "resource_tracker" in self.command()


def look_at(pid):
    """A process by its number, or None when there is none."""
    try:
        with open(f"/proc/{pid}/stat", "rb", 0) as file:
            text = file.read()
    except OSError:
        return None
    state, parent = text.rpartition(b")")[2].split()[:2]
    return Seen(int(pid), state.decode(), int(parent))


def process_table():
    """All processes that can be seen."""
    seen = (look_at(name) for name in os.listdir("/proc") if name.isdigit())
    return [process for process in seen if process is not None]


def children_of(pid):
    """Those of one process, by the kernel's own list: a look at every process takes a hundred times
    as long.
    """
    numbers = []
    try:
        for thread in os.listdir(f"/proc/{pid}/task"):
            with open(f"/proc/{pid}/task/{thread}/children") as file:
                numbers += file.read().split()
    except OSError:  # a kernel without it, or a thread that has just left its children to another
        return [process for process in process_table() if process.parent == pid]
    return [process for process in map(look_at, numbers) if process is not None]


@contextlib.contextmanager
def later(delay, function, *args):
    """Calls a function in another thread after so many seconds."""
    timer = threading.Timer(delay, function, args)
    timer.start()
    yield
    timer.join()


class FromHandler(Exception):
    """Raised by a signal handler."""


@contextlib.contextmanager
def raising_on_signal(delay=0.1):
    """A signal comes in a moment, and its handler raises FromHandler in the main thread."""

    def handle(number, frame):
        raise FromHandler

    before = signal.signal(signal.SIGUSR2, handle)
    timer = threading.Timer(delay, os.kill, (os.getpid(), signal.SIGUSR2))
    timer.start()
    try:
        yield
    finally:
        timer.join()
        signal.signal(signal.SIGUSR2, before)
