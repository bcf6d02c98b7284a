"""Pools and executors: the time of a task, whatever it does, which is nothing."""

import concurrent.futures
import itertools
import statistics
import time

from timing import time_counted

from .base import case


def square(x):
    return x * x


def same(x):
    return x


def time_tasks(mp, budget, use, *, workers=4, count=500, warm=200):
    """Return seconds per task of `use(pool, count)`, in a pool of forked workers."""
    with mp.get_context("fork").Pool(workers) as pool:
        use(pool, warm)

        def run(count):
            began = time.perf_counter()
            use(pool, count)
            return time.perf_counter() - began

        return time_counted(run, count, budget)


ALL = dict.fromkeys(["loky", "mpire", "pebble", "joblib"])


def of(*names):
    return dict.fromkeys(names)


@case("pool-map-1", "Pool.map, chunks of one, a task", goal=4, peers=ALL)
def map_1(mp, budget):
    return time_tasks(mp, budget, lambda pool, count: pool.map(square, range(count), 1))


@case("pool-imap-unordered", "Pool.imap_unordered, a task", goal=4, peers=of("loky", "mpire", "joblib"))
def imap_unordered(mp, budget):
    def use(pool, count):
        for _ in pool.imap_unordered(square, range(count)):
            pass

    return time_tasks(mp, budget, use)


@case("pool-map-default", "Pool.map, chunks as it likes, 1,000 items, an item", goal=1.5, peers=of("mpire", "joblib"))
def map_default(mp, budget):
    items = list(range(1000))

    def use(pool, count):
        for _ in range(count):
            pool.map(square, items)

    return time_tasks(mp, budget, use, count=5, warm=2) / 1000


@case("pool-apply", "Pool.apply, there and back", goal=4, peers=of("loky", "mpire", "pebble"))
def apply(mp, budget):
    def use(pool, count):
        for x in range(count):
            pool.apply(square, (x,))

    return time_tasks(mp, budget, use)


@case("pool-array-1MiB", "Pool.imap, a 1 MiB array in and out", goal=6, peers=ALL)
def array_1mib(mp, budget):
    import numpy as np  # only this case needs it

    array = np.arange(1 << 17, dtype=np.float64)

    def use(pool, count):
        last = None
        for last in pool.imap(same, itertools.repeat(array, count)):  # noqa: B007
            pass
        if last is not None and not np.array_equal(last, array):
            raise ValueError("the last array is not what was sent")

    return time_tasks(mp, budget, use, count=20, warm=10)


@case("pool-64-workers", "Pool.map, chunks of one, 64 workers, a task", goal=3, peers=of("mpire", "pebble"))
def workers_64(mp, budget):
    return time_tasks(mp, budget, lambda pool, count: pool.map(square, range(count), 1), workers=64, warm=1000)


@case("pool-64-to-4", "Pool.map, chunks of one, 64 workers' time a task in percent of 4 workers'", most=200)
def workers_64_to_4(mp, budget):
    """On two cores. In turn, and the median, as both depend on what else the machine does."""

    def one(workers):
        return time_tasks(mp, budget, lambda pool, count: pool.map(square, range(count), 1), workers=workers, warm=1000)

    return 100 * statistics.median(one(64) / one(4) for _ in range(5))


@case("executor-submit", "ProcessPoolExecutor.submit, a task", goal=8, peers=of("loky", "pebble"))
def submit(mp, budget):
    cls = getattr(mp, "ProcessPoolExecutor", concurrent.futures.ProcessPoolExecutor)
    with cls(4, mp.get_context("fork")) as executor:

        def run(count):
            began = time.perf_counter()
            futures = [executor.submit(square, x) for x in range(count)]
            if [future.result() for future in futures][-1] != (count - 1) ** 2:
                raise ValueError("the last result is wrong")
            return time.perf_counter() - began

        run(200)
        return time_counted(run, 500, budget)
