"""A process that forks while its other threads are in the middle of things."""

import contextlib
import os
import signal
import threading
import time
import warnings

from children.common import wait_until


def run_all(*functions):
    threads = [threading.Thread(target=function, daemon=True) for function in functions]
    for thread in threads:
        thread.start()
    return threads


def put_for_ever(queue, stop):
    while not stop:
        queue.put(b"x" * 300)


def get_for_ever(queue, stop):
    while not stop:
        queue.get()


def lock_for_ever(lock, stop):
    while not stop:
        with lock:
            pass


def make_for_ever(mp, stop):
    """Keeps the allocator and the table of mappings busy."""
    while not stop:
        kept = [mp.Lock() for _ in range(20)]
        queue = mp.Queue()
        queue.put(len(kept))
        queue.get()


def round_trip(left, right, stop):
    while not stop:
        left.send(b"y" * 100)
        right.recv()


def use_everything(mp, lock, rlock, free, idle, conns, value, result):
    """What a child does at once with what it has inherited; the result tells how far it came.

    `lock` and `rlock` are taken and given back by threads of the parent all the time, `free` is
    nobody's.
    """
    warnings.simplefilter("error")
    with free:
        result.value = 1
    with lock:
        result.value = 2
    with rlock, rlock:
        result.value = 3
    idle.put([1, b"z" * 100_000])
    assert idle.get() == [1, b"z" * 100_000]
    result.value = 4
    conns[0].send("hello")
    assert conns[1].recv() == "hello"
    result.value = 5
    with value.get_lock():
        value.value += 1
    fresh_lock, fresh_queue = mp.Lock(), mp.Queue()
    with fresh_lock:
        fresh_queue.put("fresh")
        assert fresh_queue.get() == "fresh"
    result.value = 6


def report_owner(lock, pid, held, go):
    """Takes a lock in a forked child: the owner must be the child, however much it is a copy of its
    parent.
    """
    with lock:
        assert lock.owner == (os.getpid(), threading.get_native_id())
        pid.value = os.getpid()
        held.value = 1
        wait_until(lambda: go.value)


def put_from_threads(queue, count):
    team = run_all(*[lambda n=n: [queue.put((n, i)) for i in range(count)] for n in range(3)])
    for thread in team:
        thread.join()


def pause():
    time.sleep(0.001)


def descriptors(*names):
    """How many of this process's descriptors lead to such files."""
    links = []
    for fd in os.listdir("/proc/self/fd"):
        with contextlib.suppress(FileNotFoundError):
            links.append(os.readlink(f"/proc/self/fd/{fd}"))
    return sum(name in link for name in names for link in links)


def until_closed(call):
    """What it waits on is closed in the end."""
    with contextlib.suppress(EOFError, OSError, ValueError):
        call()


WAITS = [
    "Lock",
    "RLock",
    "Semaphore",
    "Value",
    "Value.set",
    "Value in a Lock",
    "Array",
    "Array.slice",
    "Condition",
    "Event",
]


def build(mp, kind):
    if kind == "Semaphore":
        return mp.Semaphore(1, recover=True)
    if kind == "Value in a Lock":
        return mp.Value("i", 5, lock=mp.Lock())
    name = kind.partition(".")[0]
    return mp.Value("i", 5) if name == "Value" else mp.Array("i", [5]) if name == "Array" else getattr(mp, name)()


def hold(kind, made):
    """From now on another's use of it waits."""
    if kind == "Event":
        made.clear()
    elif kind != "Condition":
        getattr(made, "get_lock", lambda: made)().acquire()


def let_go(kind, made):
    if kind == "Event":
        made.set()
    elif kind == "Condition":
        with made:
            made.notify_all()
    else:
        getattr(made, "get_lock", lambda: made)().release()


def use(kind, made):
    """Uses it, once it can be had."""
    if kind == "Value.set":
        made.value = 5
    elif "Value" in kind:
        assert made.value == 5
    elif "Array" in kind:
        assert (made[0] if kind == "Array" else made[:][0]) == 5
    elif kind == "Event":
        assert made.wait(30)
    else:
        assert made.acquire(True, 30)
        made.release()


def fork_in_a_handler(kind, made, waiting, forked, done):
    """Waits for it.

    A signal handler forks meanwhile. Both use it, and the child ends first, with nothing in hand.
    """
    child = None

    def fork(*_):
        nonlocal child
        child = os.fork()
        forked.value = 1

    signal.signal(signal.SIGUSR1, fork)
    waiting.value = 1
    try:
        if kind == "Condition":
            with made:
                made.wait(30)
        else:
            use(kind, made)
        use(kind, made)
        if child == 0:
            done.value += 1
            time.sleep(0.3)  # it lives: what it kept could not be recovered from it
            os._exit(0)
    except BaseException:
        if child == 0:
            os._exit(1)
        raise
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    done.value += 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        use(kind, made)
