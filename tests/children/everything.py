"""One object of every kind, used by threads of a process that forks, and by its children."""

import contextlib
import os
import queue as errors
import random
import signal
import threading

LIMIT = 50  # seconds that a child may take: a watchdog


class Everything:
    """What a parent's threads are in the middle of when it forks."""

    def __init__(self, mp):
        self.locks = [mp.Lock(), mp.RLock(), mp.Semaphore(1), mp.BoundedSemaphore(1, recover=True), mp.Condition()]
        self.value, self.array = mp.Value("q"), mp.Array("q", 8)
        self.event, self.barrier = mp.Event(), mp.Barrier(2)
        self.queues = [mp.Queue(20), mp.JoinableQueue(20), mp.Queue(20, requeue=True)]
        self.simple = mp.SimpleQueue()
        self.ends = [mp.Pipe(), mp.Pipe()]
        self.broadcast = mp.Broadcast(lag="skip")
        self.reader = self.broadcast.reader()
        self.kinds = [self.lock, self.number, self.numbers, self.flag, self.meet, self.bounded, self.endless]
        self.kinds += [self.talk, self.spread]

    def lock(self, some):
        with some.choice(self.locks):
            pass

    def number(self, some):
        with self.value.get_lock():
            self.value.value += 1

    def numbers(self, some):
        self.array[:] = [self.array[0] + 1] * 8

    def flag(self, some):
        self.event.set() if some.random() < 0.5 else self.event.clear()
        self.event.wait(0.001)

    def meet(self, some):
        try:
            self.barrier.wait(0.001)
        except threading.BrokenBarrierError:
            self.barrier.reset()

    def bounded(self, some):
        queue = some.choice(self.queues)
        size = some.choice([10, 1000, 100_000])
        with contextlib.suppress(errors.Full, errors.Empty):
            queue.put(b"x" * size, timeout=0.01)
            queue.get(timeout=0.01)
            if hasattr(queue, "task_done"):
                queue.task_done()

    def endless(self, some):
        self.simple.put([1, 2, 3])
        self.simple.get()

    def talk(self, some):
        # As many come as go, whoever's they are: nobody waits for ever.
        one, other = some.choice(self.ends)
        one.send(b"y" * some.choice([10, 10_000]))
        other.recv()

    def spread(self, some):
        self.broadcast.send(b"z" * some.choice([10, 100_000]))
        with contextlib.suppress(errors.Empty):
            self.reader.recv(timeout=0)

    def use_for_ever(self, stop, seed):
        some = random.Random(seed)
        while not stop:
            some.choice(self.kinds)(some)

    def close(self):
        for one in [*self.queues, self.simple, *self.ends[0], *self.ends[1], self.reader, self.broadcast]:
            one.close()


def be_child(everything, fresh):
    """Uses all that it has inherited, makes one of each itself, and closes them all."""
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.alarm(LIMIT)
    some = random.Random(os.getpid())
    for kind in everything.kinds:
        kind(some)
        kind(some)
    everything.close()
    mine = fresh()
    for kind in mine.kinds:
        kind(some)
    mine.close()
