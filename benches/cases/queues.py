"""Queues: producers to consumers in time per message, and there and back through two queues."""

import math

from timing import time_counted, time_statement

from .base import case, race
from .pipes import SMALL

STEP = {
    "step": 12,
    "obs": list(range(50)),
    "info": {"a": "x" * 40, "b": None, "c": [1.5] * 10},
}


def time_messages(mp, budget, message, *, producers=1, consumers=1, maxsize=0, first_count=2000, same=None):
    """Return seconds per message, from the first put to the last get.

    `same` compares the last message received with what was sent (default: ==).
    """
    together = math.lcm(producers, consumers)

    def run(rounds):
        count = rounds * together
        queue = mp.Queue(maxsize)

        def produce():
            put = queue.put
            for _ in range(count // producers):
                put(message)

        def consume():
            get = queue.get
            for _ in range(count // consumers):
                received = get()
            if not (same(received, message) if same else received == message):
                raise ValueError("the last message is not what was sent")

        elapsed, _ = race(mp, *[produce] * producers, *[consume] * consumers)
        return elapsed

    return time_counted(run, math.ceil(first_count / together), budget) / together


SMALL_PEERS = {"faster_fifo": None, "zeroq": 4, "pyzmq": None, "cloudtoid": 3}
ARRAY_PEERS = {"faster_fifo": 2, "pyzmq": None}


@case("queue-small-1-1", "Queue, small tuple, 1->1", goal=18, floor=8, peers=SMALL_PEERS)
def small(mp, budget):
    return time_messages(mp, budget, SMALL)


STEP_PEERS = dict.fromkeys(["faster_fifo", "pyzmq", "cloudtoid"])


@case("queue-dict-1-1", "Queue, dict of an environment's step, 1->1", goal=7, peers=STEP_PEERS)
def step(mp, budget):
    return time_messages(mp, budget, STEP)


@case("queue-small-4-1", "Queue, small tuple, 4->1", goal=14, peers=dict.fromkeys(SMALL_PEERS))
def small_from_four(mp, budget):
    return time_messages(mp, budget, SMALL, producers=4)


@case("queue-small-4-4", "Queue, small tuple, 4->4", goal=14, floor=7, peers=dict.fromkeys(["faster_fifo", "zeroq"]))
def small_among_eight(mp, budget):
    return time_messages(mp, budget, SMALL, producers=4, consumers=4)


@case("queue-batch-100", "Queue, small tuple in batches of 100, 1->1", goal=25, peers={"faster_fifo": 12})
def batches(mp, budget):
    """By one at a time where there are no batches."""

    def run(rounds):
        queue = mp.Queue()
        count = rounds * 100

        def produce():
            if hasattr(queue, "put_many"):
                batch = [SMALL] * 100
                for _ in range(rounds):
                    queue.put_many(batch)
            else:
                for _ in range(count):
                    queue.put(SMALL)

        def consume():
            received = []
            if hasattr(queue, "get_many"):
                left = count
                while left:
                    received = queue.get_many(min(100, left))
                    left -= len(received)
            else:
                for _ in range(count):
                    received = [queue.get()]
            if received[-1] != SMALL:
                raise ValueError("the last message is not what was sent")

        elapsed, _ = race(mp, produce, consume)
        return elapsed

    return time_counted(run, 20, budget) / 100


def _time_arrays(mp, budget, size, first_count):
    import numpy as np  # only these cases need it

    message = np.arange(size // 8, dtype=np.float64)
    # Bounded: what is measured is passing an array on, not piling arrays up.
    return time_messages(mp, budget, message, maxsize=4, first_count=first_count, same=np.array_equal)


@case("queue-array-1MiB", "Queue, 1 MiB array, 1->1", goal=14, peers=ARRAY_PEERS)
def array_1mib(mp, budget):
    return _time_arrays(mp, budget, 1 << 20, 50)


@case("queue-array-32MiB", "Queue, 32 MiB array, 1->1", goal=20, peers=ARRAY_PEERS | {"faster_fifo": 12})
def array_32mib(mp, budget):
    return _time_arrays(mp, budget, 32 << 20, 64)


def _register_producers(size, label, producers, goal):
    @case(f"queue-{label}-{producers}-1", f"Queue, {label.replace('K', ' K')}, {producers}->1", goal=goal)
    def measure(mp, budget):
        message = b"x" * size
        return time_messages(mp, budget, message, producers=producers, first_count=4 * producers)


_register_producers(60_000, "60KB", 1, 1.0)
_register_producers(70_000, "70KB", 1, 1.0)
_register_producers(70_000, "70KB", 4, 3.0)
_register_producers(70_000, "70KB", 64, 3.0)


@case("queue-full", "Queue that is full: put_nowait of 1 MiB", goal=1.0)
def refused(mp, budget):
    import queue as stdlib_queue

    full = mp.Queue(1)
    full.put(None)
    message = b"x" * (1 << 20)

    def put():
        try:
            full.put_nowait(message)
        except stdlib_queue.Full:
            return
        raise ValueError("it was not full")

    try:
        return time_statement("put()", "pass", {"put": put}, budget, unroll=10)
    finally:
        full.get()


@case("queue-roundtrip", "Queue round trip, small tuple", goal=45, floor=12)
def round_trip(mp, budget):
    def run(count):
        there, back = mp.Queue(), mp.Queue()

        def serve():
            get, put = there.get, back.put
            for _ in range(count):
                put(get())

        def ask():
            put, get = there.put, back.get
            for _ in range(count):
                put(SMALL)
                answer = get()
            if answer != SMALL:
                raise ValueError("the answer is not what was sent")

        elapsed, _ = race(mp, ask, serve)
        return elapsed

    return time_counted(run, 200, budget)
