"""How processes share one lock: turns of each, for `make fairness`."""

import collections
import os
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import RawValue  # a common deadline, the same for both modules
from time import perf_counter

from .base import race

PROCESSES = [2, 4, 8, 16]
SHARING = {}


def _register(kind, processes, take_turn, at_once, spinners=0):
    """Measure `processes` that call `take_turn(lock)` again and again beside idle `spinners`.

    A process looks at the clock after each `at_once` turns.
    """

    def measure(mp, seconds):
        lock, end = mp.Lock(), RawValue("d", 0)

        def deadline():
            # One for all, from the first to run: nobody is left to finish alone, with the lock to
            # itself.
            if not end.value:
                end.value = perf_counter() + seconds
            return end.value

        def take_turns():
            until, turns = deadline(), 0
            while True:
                for _ in range(at_once):
                    take_turn(lock)
                if perf_counter() > until:
                    return turns  # those that came too late do not count
                turns += at_once

        def spin():
            until = deadline()
            while perf_counter() < until:
                pass

        _, results = race(mp, *[take_turns] * processes, *[spin] * spinners)
        return results[:processes]

    SHARING[f"{kind}, {processes}"] = measure


def _hammer(lock):
    lock.acquire()
    lock.release()


def _work(seconds):
    end = perf_counter() + seconds
    while perf_counter() < end:
        pass


def _hold_and_work(lock):
    lock.acquire()
    _work(2e-6)
    lock.release()
    _work(2e-6)


for _processes in PROCESSES:
    _register("acquire, release", _processes, _hammer, 20)
for _processes in PROCESSES:
    _register("2 us inside, 2 us outside", _processes, _hold_and_work, 1)
for _processes in PROCESSES:
    _register("beside as many busy loops", _processes, _hammer, 20, spinners=_processes)


def _produce(size):
    return os.getpid(), bytes(size)


def _register_executor(workers, kilobytes):
    """Measure an executor's workers, which come back for the lock of its queue as soon as a result
    is sent.
    """

    def measure(mp, seconds):
        counts = collections.Counter()
        with ProcessPoolExecutor(workers, mp_context=mp.get_context()) as executor:
            list(executor.map(_produce, [0] * 10 * workers))  # all are there
            end = perf_counter() + seconds
            while perf_counter() < end:
                counts.update(pid for pid, _ in executor.map(_produce, [kilobytes * 1000] * 20))
        return [*counts.values(), *[0] * (workers - len(counts))]

    SHARING[f"an executor's results of {kilobytes} KB, {workers}"] = measure


for _workers in (2, 4):
    for _kilobytes in (100, 300, 1000):
        _register_executor(_workers, _kilobytes)
