"""A pool under load, whose workers are killed at random: every task's fate is known.

    python soak_pool.py [--kills N] [--mode raise|retry|break] [--seed N] [--method fork|spawn|forkserver]

Several threads use one pool at a time, by map, imap, apply and callbacks, with arguments and results
of all sizes, while its workers are killed, stopped, or end by themselves, again and again. With
"raise" each task gives its result or the error that names the death of its worker, and with "retry"
its result. With "break" a pool fails as a whole, and the next one begins. Nothing hangs. At the end
there is nothing left: no process, no descriptor, no thread. Prints one line a mode, with the time from
a kill to the next process in that worker's place, and to its being ready; exit status 1 says that
something did not hold.
"""

import argparse
import collections
import faulthandler
import gc
import os
import random
import signal
import statistics
import sys
import threading
import time

import fastmp
from children import pools
from fastmp.pools import slots

HANG = 60.0  # seconds without a result, on a machine that other programs may load
WORKERS = 4
KINDS = ["map", "chunks", "imap", "unordered", "apply", "blobs", "callback", "naps", "naps"]
SIZES = [0, 10, 1000, 70_000, 300_000]


class Trouble(Exception):
    """Something that should hold does not."""


class Load(threading.Thread):
    """Uses the pool until it is told to stop, and counts what becomes of the tasks."""

    def __init__(self, pool, mode, seed, counts):
        super().__init__(daemon=True)
        self.pool, self.mode, self.counts = pool, mode, counts
        self.random = random.Random(seed)
        self.stopping = False
        self.trouble = None
        self.stepped = time.monotonic()
        self.doing = "nothing"

    def run(self):
        try:
            while not self.stopping:
                kind = self.random.choice(KINDS)
                self.doing = kind
                getattr(self, kind)()
                self.stepped = time.monotonic()
        except fastmp.WorkerDiedError as e:
            if self.mode != "break":
                self.trouble = e
        except Exception as e:
            if not (self.mode == "break" and "terminated" in str(e)):
                self.trouble = e

    def died(self, error, count=1):
        if self.mode == "retry":
            raise Trouble(f"{self.doing}: a task was not run again: {error!r}")
        if self.mode == "break":
            raise error
        self.counts["failed"] += count

    def check(self, got, expected):
        if got != expected:
            raise Trouble(f"{self.doing}: {str(got)[:200]} is not {str(expected)[:200]}")
        self.counts["done"] += 1

    def map(self):
        n = self.random.randrange(1, 60)
        try:
            self.check(self.pool.map(pools.square, range(n), 1), [x * x for x in range(n)])
        except fastmp.WorkerDiedError as e:
            self.died(e)

    def naps(self):
        n = self.random.randrange(1, 12)
        found = self.items(self.pool.imap_unordered(pools.nap, [self.random.random() * 0.03] * n), n)
        self.check(all(pid is None or pid > 0 for pid in found), True)

    def chunks(self):
        n = self.random.randrange(1, 3000)
        try:
            self.check(self.pool.map(pools.square, range(n)), [x * x for x in range(n)])
        except fastmp.WorkerDiedError as e:
            self.died(e)

    def items(self, iterator, n):
        found = []
        for _ in range(n):
            try:
                found.append(next(iterator))
            except fastmp.WorkerDiedError as e:
                found.append(None)
                self.died(e)
        try:
            next(iterator)
        except StopIteration:
            return found
        raise Trouble(f"{self.doing}: more results than items")

    def imap(self):
        n = self.random.randrange(1, 100)
        found = self.items(self.pool.imap(pools.square, iter(range(n))), n)
        self.check([x for x, i in zip(found, range(n), strict=True) if x is not None and x != i * i], [])

    def unordered(self):
        n = self.random.randrange(1, 100)
        found = [x for x in self.items(self.pool.imap_unordered(pools.square, range(n)), n) if x is not None]
        self.check(len(found) == len(set(found)) and set(found) <= {x * x for x in range(n)}, True)

    def apply(self):
        x = self.random.randrange(1000)
        try:
            self.check(self.pool.apply(pools.square, (x,)), x * x)
        except fastmp.WorkerDiedError as e:
            self.died(e)

    def blobs(self):
        made = [(self.random.randrange(200), self.random.choice(SIZES)) for _ in range(4)]
        results = [self.pool.apply_async(pools.same, (pools.blob(*one),)) for one in made]
        for one, result in zip(made, results, strict=True):
            try:
                self.check(result.get() == pools.blob(*one), True)
            except fastmp.WorkerDiedError as e:
                self.died(e)

    def callback(self):
        called = []
        results = [
            self.pool.apply_async(pools.square, (x,), callback=called.append, error_callback=called.append)
            for x in range(10)
        ]
        for result in results:
            result.wait()
        self.check(len(called), 10)
        for one in called:
            if isinstance(one, Exception):
                self.died(one)


def victims(pool):
    return [process.pid for process in pool._pool if process.exitcode is None]


class Clock(threading.Thread):
    """Takes the times from a worker's kill to what takes its place. It looks twice in a millisecond."""

    def __init__(self, times):
        super().__init__(daemon=True)
        self.times = times
        self.killed = []
        self.stopping = False

    def kill(self, core, pid):
        number = next((number for number, process in list(core.workers.items()) if process.pid == pid), None)
        began = time.monotonic()
        os.kill(pid, signal.SIGKILL)
        if number is not None:
            self.killed.append((core, number, pid, began))

    def run(self):
        replaced = {}  # by the time of the kill, and no process, which would keep its descriptors
        while not self.stopping:
            time.sleep(0.0005 if self.killed else 0.01)
            for one in self.killed[:]:
                core, number, pid, began = one
                process = core.workers.get(number)
                if core.state != "RUN":
                    self.killed.remove(one)  # nobody is replaced any more
                elif process is not None and process.pid != pid:
                    now = (time.monotonic() - began) * 1000
                    if began not in replaced:
                        self.times["replaced"].append(now)
                        replaced[began] = process.pid
                    if replaced[began] != process.pid:
                        self.killed.remove(one)  # killed before it was ready
                    elif slots.view(core.slots, number)[slots.READY]:
                        self.times["ready"].append(now)
                        self.killed.remove(one)
            one = core = process = None


def show(times):
    if not times:
        return "never"
    times.sort()
    most = times[len(times) * 99 // 100]
    return f"{statistics.median(times):.1f} ms, {most:.1f} in 99 of 100, {times[-1]:.1f} at worst"


def hurt(pool, chance, counts, clock):
    """Does something to a worker."""
    alive = victims(pool)
    if not alive:
        return False
    pid = chance.choice(alive)
    how = chance.choice(["SIGKILL"] * 6 + ["SIGTERM", "two", "stop"])
    try:
        if how == "stop":
            os.kill(pid, signal.SIGSTOP)
            time.sleep(chance.random() * 0.05)
            os.kill(pid, signal.SIGKILL if chance.random() < 0.5 else signal.SIGCONT)
        elif how == "two":
            for one in chance.sample(alive, min(2, len(alive))):
                clock.kill(pool._core, one)
        elif how == "SIGKILL":
            clock.kill(pool._core, pid)
        else:
            os.kill(pid, signal.SIGTERM)
    except ProcessLookupError:
        return False
    counts["kills"] += 1
    return True


def watch(loads, counts):
    for load in loads:
        if load.trouble is not None:
            raise load.trouble
        if load.is_alive() and time.monotonic() - load.stepped > HANG:
            faulthandler.dump_traceback(file=sys.stderr, all_threads=True)
            raise Trouble(f"{load.doing} hangs; {dict(counts)}; {load.pool!r} {vars(load.pool._core)}")


def one_pool(context, mode, kills, chance, counts, pace, clock):
    pool = context.Pool(WORKERS, on_worker_death=mode, retries=10_000, maxtasksperchild=chance.choice([None, None, 50]))
    loads = [Load(pool, mode, chance.random(), counts) for _ in range(3)]
    for load in loads:
        load.start()
    while counts["kills"] < kills:
        time.sleep(chance.random() * pace)
        hurt(pool, chance, counts, clock)
        watch(loads, counts)
        if mode == "break" and not any(load.is_alive() for load in loads):
            break
    for load in loads:
        load.stopping = True
    while any(load.is_alive() for load in loads):
        time.sleep(0.01)
        watch(loads, counts)
    watch(loads, counts)
    if mode == "break" or chance.random() < 0.5:
        pool.terminate()
    else:
        pool.close()
    pool.join()


def look():
    """What must not grow: children, descriptors, threads."""
    return len(fastmp.active_children()), len(os.listdir("/proc/self/fd")), threading.active_count()


def soak(context, mode, kills, seed, pace):
    chance = random.Random(seed)
    counts, times = collections.Counter(), collections.defaultdict(list)
    clock = Clock(times)
    clock.start()
    one_pool(context, mode, 1, chance, counts, pace, clock)  # what is made once
    before = look()
    began = time.monotonic()
    while counts["kills"] < kills:
        one_pool(context, mode, min(kills, counts["kills"] + 250), chance, counts, pace, clock)
    seconds = time.monotonic() - began
    clock.stopping = True
    clock.join()
    clock.killed.clear()
    gc.collect()  # errors, their tracebacks, and what these hold
    after = look()
    if after[0] or after[1] > before[1] + 2 or after[2] > before[2]:
        raise Trouble(f"left behind: children, descriptors, threads {before} -> {after}")
    print(f"{mode:6} {counts['kills']:6} kills {counts['done']:8} right {counts['failed']:6} failed {seconds:7.1f} s")
    if mode != "break":  # there nobody is replaced
        print(f"       replaced after {show(times['replaced'])}; ready after {show(times['ready'])}", flush=True)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--kills", type=int, default=1000)
    parser.add_argument("--mode", choices=["raise", "retry", "break"])
    parser.add_argument("--seed", type=int)
    parser.add_argument("--method", default="fork", choices=["fork", "spawn", "forkserver"])
    parser.add_argument("--pace", type=float, help="the longest pause between two kills, in seconds")
    options = parser.parse_args()
    # Slower than workers start: where none comes up before it is killed the pool gives up, as it should.
    pace = options.pace or (0.3 if options.method == "spawn" else 0.06)
    seed = random.randrange(1 << 32) if options.seed is None else options.seed
    print(f"seed {seed}, {options.method}, {WORKERS} workers")
    context = fastmp.get_context(options.method)
    for mode in [options.mode] if options.mode else ["raise", "retry", "break"]:
        try:
            soak(context, mode, options.kills, seed, pace)
        except Exception as e:
            print(f"{mode}: {type(e).__name__}: {e}", file=sys.stderr)
            # Whatever hangs is left as it is.
            for process in fastmp.active_children():
                process.kill()
            os._exit(1)


if __name__ == "__main__":
    main()
