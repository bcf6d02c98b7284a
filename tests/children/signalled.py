"""Waits that signals come to."""

import ctypes
import importlib
import os
import pickle
import queue as errors
import signal
import threading
import time


class Slow:
    """Takes Python code to unpickle."""

    def __init__(self, number):
        self.number = number

    def __getstate__(self):
        return self.number

    def __setstate__(self, number):
        self.number = number + sum(0 for _ in range(50))


class Interrupted:
    """Each time that it is unpickled there is a signal meanwhile, so many times in all."""

    numbers: list[int] = []  # of the signals that are still to come
    begun = 0

    def __init__(self, name):
        self.name = name

    def __reduce__(self):
        return _interrupted, (self.name,)


def _interrupted(name):
    Interrupted.begun += 1
    if Interrupted.numbers:
        os.kill(os.getpid(), Interrupted.numbers.pop(0))
        for _ in range(1000):  # the handler runs in here
            pass
    return Interrupted(name)


class Refusing:
    """Raises what Ctrl-C would whenever it is unpickled."""

    def __reduce__(self):
        return _refuse, ()


def _refuse():
    Interrupted.begun += 1
    raise KeyboardInterrupt


# How many messages, and how one with a number is made.
NUMBERED = {
    "tuple": (40_000, lambda number: (number, "text")),
    "pickled": (10_000, lambda number: [number, complex(1, 2)]),
    "slow": (10_000, Slow),
    "large": (3000, lambda number: (number, "x" * 100_000)),
    "buffer": (3000, lambda number: [number, Slow(10), pickle.PickleBuffer(bytearray(20_000))]),
}


def number_of(item):
    return item.number if isinstance(item, Slow) else item[0]


def put_numbered(queue, kind):
    count, make = NUMBERED[kind]
    for number in range(count):
        queue.put(make(number))


def send_numbered(conn, kind):
    count, make = NUMBERED[kind]
    for number in range(count):
        conn.send(make(number))


def send_numbered_bytes(conn, size, count):
    for number in range(count):
        conn.send_bytes(number.to_bytes(size, "little"))


def get_one(queue, outcome):
    outcome.value = queue.get() == "next"


OPERATIONS = [
    "Lock.acquire",
    "Lock.with",
    "RLock.acquire",
    "Value.get",
    "Value.set",
    "Array.get",
    "Array.slice",
    "Semaphore.acquire",
    "BoundedSemaphore.acquire",
    "Event.wait",
    "Queue.get",
    "Queue.put",
    "Connection.recv",
    "Connection.recv_bytes",
    "Connection.poll",
    "Connection.send",
    "Connection.send_bytes",
]


def build(mp, operation):
    """The object in the state in which the operation waits."""
    kind, _, method = operation.partition(".")
    if kind in ("Lock", "RLock", "Value", "Array"):
        made = mp.Value("i", 5) if kind == "Value" else mp.Array("i", [5]) if kind == "Array" else getattr(mp, kind)()
        taker = threading.Thread(target=made.acquire)  # not by the waiting thread, to which an RLock would be open
        taker.start()
        taker.join()
        return made
    if kind in ("Semaphore", "BoundedSemaphore"):
        made = getattr(mp, kind)(1)
        made.acquire()
        return made
    if kind == "Event":
        return mp.Event()
    if kind == "Queue":
        made = mp.Queue(1)
        if method == "put":
            made.put("full")
        return made
    return mp.Pipe()


def wait_in(made, operation, timeout=None):
    """Waits, for ever or with a timeout; the result is False when that is over."""
    kind, _, method = operation.partition(".")
    if kind == "Connection":
        conn = made[0]
        if method == "poll":
            return conn.poll(timeout)
        if method.startswith("recv"):
            return getattr(conn, method)()
        for _ in range(100_000):
            getattr(conn, method)(b"x" * 100_000)
        raise RuntimeError("never full")
    if kind == "Queue":
        try:
            return made.get(True, timeout) if method == "get" else made.put("more", True, timeout)
        except (errors.Empty, errors.Full):
            return False
    if kind in ("Value", "Array"):
        if method == "set":
            made.value = 5
        else:
            assert (made.value if kind == "Value" else made[0] if method == "get" else made[:][0]) == 5
        return True
    if method == "with":
        with made:
            return True
    if method == "wait":
        return made.wait(timeout)
    return made.acquire(True, timeout)


def be_interrupted(module, operation, waiting):
    """Ctrl-C ends the wait, and the object is in order after it."""
    mp = importlib.import_module(module)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    made = build(mp, operation)
    waiting.value = 1
    try:
        wait_in(made, operation)
    except KeyboardInterrupt:
        pass
    else:
        raise RuntimeError("the wait ended by itself")
    after(made, operation, module)


def after(made, operation, module):
    """What was waited for can still be had."""
    kind, _, method = operation.partition(".")
    if kind == "Queue":
        if method == "put":
            assert made.get() == "full"
        assert made.qsize() == 0
        made.put("after")
        assert made.get() == "after"
    elif kind == "Event":
        made.set()
        assert made.wait()
    elif kind == "Connection":
        left, right = made
        if method.startswith("send"):
            right.send("the other direction")
            assert left.recv() == "the other direction"
            if module == "fastmp":  # the stdlib leaves half a message
                read = right.recv if method == "send" else right.recv_bytes
                while right.poll():
                    assert read() == b"x" * 100_000
                left.send("after")
                assert right.recv() == "after"
        else:
            right.send("after")
            assert left.recv() == "after"
    elif kind in ("RLock", "Value", "Array"):
        assert not made.acquire(False)
    else:
        made.release()
        assert made.acquire(False)
        assert not made.acquire(False)


def be_disturbed(module, operation, waiting, timeout, elapsed, calls):
    """Handlers run, and the wait goes on for the rest of its time."""
    mp = importlib.import_module(module)

    def handler(number, frame):
        calls.value += 1

    signal.signal(signal.SIGUSR1, handler)
    made = build(mp, operation)
    waiting.value = 1
    started = time.monotonic()
    assert wait_in(made, operation, timeout) is False
    elapsed.value = time.monotonic() - started
    signal.signal(signal.SIGUSR1, signal.SIG_IGN)  # an interpreter that ends drops its handlers: the next would kill


def be_served(module, operation, waiting, calls):
    """A wait without a timeout outlives signals, and ends by what it waits for."""
    mp = importlib.import_module(module)
    made = build(mp, operation)

    def handler(number, frame):
        calls.value += 1
        if calls.value == 5:
            serve(made, operation)

    signal.signal(signal.SIGUSR1, handler)
    waiting.value = 1
    assert wait_in(made, operation) is not False
    assert calls.value >= 5


def serve(made, operation):
    """Called in the handler, in the middle of the very wait."""
    kind, _, method = operation.partition(".")
    if kind == "Event":
        made.set()
    elif kind == "Queue":
        made.put("served") if method == "get" else made.get()
    elif kind == "Connection":
        made[1].send("served")
    else:
        made.release()


class _Stop(Exception):
    pass


def _stop(number, frame):
    raise _Stop


def fork_after_a_handler_raised(queue):
    signal.signal(signal.SIGUSR1, _stop)
    queue.put(Interrupted("object"))
    Interrupted.numbers[:] = [signal.SIGUSR1]
    fork = ctypes.PyDLL(None).fork  # not os.fork, which runs Python code first
    parent, raised = os.getpid(), False
    try:
        item = queue.get()
        fork()
        for _ in range(100):  # looks for signals often
            pass
    except _Stop:
        raised = True
    if os.getpid() != parent:
        os._exit(10 + raised)
    # The only child. Had the exception come before the fork, there would be none.
    assert os.waitstatus_to_exitcode(os.wait()[1]) == 10
    assert raised
    assert item.name == "object"
