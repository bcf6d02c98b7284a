"""Eight processes use every primitive at once, and die at random: no hang, no lost lock, and what
locks guard holds.

    python soak.py [--seconds S] [--seed N] [--method fork|spawn] [--pace S]

Prints one table; exit status 1 says that something did not hold. A killed holder's lock is followed
until another worker has it.
"""

import argparse
import contextlib
import faulthandler
import importlib
import itertools
import os
import queue
import random
import signal
import statistics
import sys
import threading
import time
import warnings

WORKERS = 8
PERMITS = 3
ROOM = 4  # of the buffer under the condition
PATIENCE = 0.02  # seconds of a wait that may be in vain
HANG = 20.0  # seconds without a step, on a machine that other programs may load
GUARDED = ["Lock", "RLock", "Condition", "Value", "Array"]


class World:
    """What all share: the primitives, and raw words for the bookkeeping."""

    def __init__(self, mp):
        self.lock, self.rlock, self.condition = mp.Lock(), mp.RLock(), mp.Condition()
        self.semaphore, self.recovering = mp.Semaphore(PERMITS), mp.BoundedSemaphore(PERMITS, recover=True)
        self.event, self.barrier = mp.Event(), mp.Barrier(2)
        self.value, self.counter, self.array = mp.Value("q"), mp.Value("q"), mp.Array("q", 100)
        self.queue = mp.Queue(64)
        self.pairs = [mp.RawArray("q", 2) for _ in GUARDED]  # equal, whenever nobody is inside
        self.inside = mp.RawArray("q", len(GUARDED))  # the pid of who is
        self.recovered = mp.RawArray("d", len(GUARDED))  # when a lock was last taken over
        self.buffered = mp.RawValue("q")
        # Who has a permit of `recovering`, a bit for each worker; and WORKERS bits higher who is
        # being killed, so that another may have his already. One word: a look at it is a snapshot.
        self.permits = mp.Value("q")
        self.steps, self.added = mp.RawArray("q", WORKERS), mp.RawArray("q", WORKERS)
        self.violations, self.stop = mp.RawArray("q", WORKERS), mp.RawValue("b")
        self.done = [mp.RawArray("q", len(Worker.STEPS)) for _ in range(WORKERS)]

    def locks(self):
        return [self.lock, self.rlock, self.condition._lock, self.value.get_lock(), self.array.get_lock()]


class Worker:
    def __init__(self, world, at, seed):
        self.world, self.at, self.random = world, at, random.Random(seed)
        self.warned = 0

    def run(self):
        faulthandler.register(signal.SIGUSR1)
        warnings.simplefilter("always")
        warnings.showwarning = self.count_warning
        for step in itertools.cycle([self.random.randrange(len(self.STEPS)) for _ in range(1009)]):
            self.STEPS[step](self)
            self.world.done[self.at][step] += 1
            self.world.steps[self.at] += 1
            if self.world.stop.value:
                return

    def count_warning(self, *args, **kwargs):
        self.warned += 1

    def expect(self, holds, what):
        if not holds:
            print(f"violation in {os.getpid()}: {what}", file=sys.stderr, flush=True)
            self.world.violations[self.at] += 1

    @contextlib.contextmanager
    def alone(self, guard, lock):
        """Inside the lock: repairs what a dead holder left, else expects all to be well.

        And that nobody comes.
        """
        before = self.warned
        with lock:
            name, pair, me = GUARDED[guard], self.world.pairs[guard], os.getpid()
            if self.warned != before:
                self.world.recovered[guard] = time.monotonic()
                pair[1] = pair[0]
            else:
                self.expect(pair[0] == pair[1], f"{name}: {pair[:]}")
                self.expect(self.world.inside[guard] == 0, f"{name}: {self.world.inside[guard]} is inside")
            self.world.inside[guard] = me
            pair[0] += 1
            if self.random.random() < 0.1:
                time.sleep(self.random.random() * 1e-3)
            yield self.warned != before
            pair[1] += 1
            self.expect(self.world.inside[guard] == me, f"{name}: {self.world.inside[guard]} came in")
            self.world.inside[guard] = 0

    def use_lock(self):
        with self.alone(0, self.world.lock):
            pass

    def use_rlock(self):
        with self.alone(1, self.world.rlock), self.world.rlock, self.world.rlock:
            pass

    def use_condition(self):
        """Fills or empties the buffer, which waits while that cannot be done: outside of it the
        pair is whole.
        """
        world, fill = self.world, self.random.random() < 0.5
        before = self.warned
        with world.condition:
            ready = world.condition.wait_for(
                lambda: world.buffered.value < ROOM if fill else world.buffered.value, PATIENCE
            )
            if self.warned != before:
                world.recovered[2] = time.monotonic()
                world.condition.notify_all()  # its last holder may have died before it did
            if ready:
                world.buffered.value += 1 if fill else -1
                world.condition.notify(2)
            self.expect(0 <= world.buffered.value <= ROOM, f"buffer: {world.buffered.value}")

    def use_value(self):
        with self.alone(3, self.world.value.get_lock()):
            self.world.value.value += 1

    def use_array(self):
        array = self.world.array
        with self.alone(4, array.get_lock()) as repaired:
            items = array[:]
            self.expect(repaired or len(set(items)) == 1, f"array: {set(items)}")
            array[:] = [items[0] + 1] * len(items)

    def use_counter(self):
        self.world.counter.fetch_add(1)
        self.world.added[self.at] += 1

    def use_semaphore(self):
        # Permits of the dead are lost: the controller gives them back.
        if self.world.semaphore.acquire(timeout=PATIENCE / 10):
            self.world.semaphore.release()

    def use_recovering(self):
        world = self.world
        if world.recovering.acquire(timeout=PATIENCE):
            seen = world.permits.fetch_or(1 << self.at) | 1 << self.at
            in_use = seen & ~(seen >> WORKERS) & (1 << WORKERS) - 1
            self.expect(in_use.bit_count() <= PERMITS, f"permits in use: {seen:#b}")
            if self.random.random() < 0.1:
                time.sleep(self.random.random() * 1e-3)
            world.permits.fetch_and(~(1 << self.at))
            world.recovering.release()

    def use_event(self):
        if self.random.random() < 0.5:
            self.world.event.set()
        else:
            self.world.event.wait(PATIENCE / 10)
            self.world.event.clear()

    def use_barrier(self):
        try:
            index = self.world.barrier.wait(PATIENCE / 10)
            self.expect(index in (0, 1), f"barrier: {index}")
        except threading.BrokenBarrierError:
            self.world.barrier.reset()

    def use_queue(self):
        with contextlib.suppress(queue.Full, queue.Empty):
            if self.random.random() < 0.5:
                number = self.random.random()
                self.world.queue.put((number, str(number) * 10), timeout=PATIENCE / 10)
            else:
                number, text = self.world.queue.get(timeout=PATIENCE / 10)
                self.expect(text == str(number) * 10, "queue: a damaged message")

    STEPS = [
        use_lock,
        use_rlock,
        use_condition,
        use_value,
        use_array,
        use_counter,
        use_semaphore,
        use_recovering,
        use_event,
        use_barrier,
        use_queue,
    ]


def work(world, at, seed):
    Worker(world, at, seed).run()


class Controller:
    def __init__(self, mp, seed, pace):
        self.mp, self.random, self.pace = mp, random.Random(seed), pace
        self.world = World(mp)
        self.workers = [self.start(at) for at in range(WORKERS)]
        self.seen = [(0, time.monotonic())] * WORKERS
        self.kills, self.trouble, self.delays = 0, [], []

    def start(self, at):
        worker = self.mp.Process(target=work, args=(self.world, at, self.random.random()), daemon=True)
        worker.start()
        return worker

    def run(self, seconds):
        end = time.monotonic() + seconds
        while time.monotonic() < end and not self.trouble:
            time.sleep(self.random.expovariate(1 / self.pace))
            self.kill(self.random.randrange(WORKERS))
            self.look_for_hangs()
        self.world.stop.value = 1
        for worker in self.workers:
            worker.join(HANG)
            if worker.exitcode != 0:
                self.trouble.append(f"a worker ended with {worker.exitcode}")
        self.look_at_all()

    def kill(self, at):
        """One worker, stopped first so that it is known what it holds; then a new one."""
        world, victim = self.world, self.workers[at]
        os.kill(victim.pid, signal.SIGSTOP)
        os.waitid(os.P_PID, victim.pid, os.WSTOPPED | os.WEXITED | os.WNOWAIT)
        if self.random.random() < 0.2:
            time.sleep(self.random.random() * PATIENCE)
        held = [guard for guard, lock in enumerate(world.locks()) if (lock.owner or [0])[0] == victim.pid]
        world.permits.fetch_or(1 << WORKERS + at)
        died = time.monotonic()
        victim.kill()
        victim.join()
        self.kills += 1
        for guard in held:
            self.follow(guard, died)
        world.permits.fetch_and(~(1 << at | 1 << WORKERS + at))
        if world.semaphore.get_value() == 0:
            world.semaphore.release()
        self.workers[at] = self.start(at)
        self.seen[at] = (world.steps[at], time.monotonic())

    def follow(self, guard, died):
        """Until another worker has the lock that the dead one held."""
        while self.world.recovered[guard] < died:
            if time.monotonic() > died + HANG:
                self.trouble.append(f"{GUARDED[guard]} was not recovered")
                return
            time.sleep(2e-4)
        self.delays.append(self.world.recovered[guard] - died)

    def look_for_hangs(self):
        now = time.monotonic()
        for at, worker in enumerate(self.workers):
            steps = self.world.steps[at]
            if steps != self.seen[at][0]:
                self.seen[at] = (steps, now)
            elif now - self.seen[at][1] > HANG:
                self.trouble.append(f"worker {at} hangs")
                os.kill(worker.pid, signal.SIGUSR1)
                time.sleep(1)
        if sum(self.world.violations):
            self.trouble.append(f"{sum(self.world.violations)} violations")

    def look_at_all(self):
        """All must be to be had, now that nobody else is there."""
        world = self.world
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            for name, lock in zip(GUARDED, world.locks(), strict=True):
                if not lock.acquire(timeout=1):
                    self.trouble.append(f"{name} is lost")
            if not all(world.recovering.acquire(timeout=1) for _ in range(PERMITS)):
                self.trouble.append("a permit is lost")
            if world.recovering.acquire(False):
                self.trouble.append("a permit too many")
        if not 0 <= world.counter.value - sum(world.added) <= self.kills:
            self.trouble.append(f"counter: {world.counter.value}, added: {sum(world.added)}")
        if world.semaphore.get_value() > PERMITS + self.kills:
            self.trouble.append("a semaphore has more permits than were released")

    def report(self):
        totals = [sum(done[step] for done in self.world.done) for step in range(len(Worker.STEPS))]
        for step, total in zip(Worker.STEPS, totals, strict=True):
            print(f"{step.__name__:16}{total:12,}")
        violations = sum(self.world.violations)
        print(f"{self.kills:,} kills, {len(self.delays)} of them of a lock's holder; violations: {violations}")
        if self.delays:
            ordered = sorted(1e3 * delay for delay in self.delays)
            high = ordered[min(len(ordered) - 1, int(0.99 * len(ordered)))]
            median = statistics.median(ordered)
            print(f"recovered after {median:.1f} ms in the median, 99 % {high:.1f} ms, worst {ordered[-1]:.1f} ms")
        for trouble in self.trouble:
            print("TROUBLE:", trouble)


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--seconds", type=float, default=600.0)
    parser.add_argument("--seed", type=int, default=random.randrange(10**6))
    parser.add_argument("--method", choices=["fork", "spawn"], default="fork")
    parser.add_argument("--pace", type=float, default=0.03, help="seconds between kills, on average")
    options = parser.parse_args()
    print(f"seed {options.seed}, {options.method}, {options.seconds:g} s", flush=True)
    controller = Controller(importlib.import_module("fastmp").get_context(options.method), options.seed, options.pace)
    try:
        controller.run(options.seconds)
    finally:
        for worker in controller.workers:
            worker.kill()
        controller.report()
    return bool(controller.trouble)


if __name__ == "__main__":
    sys.exit(main())
