"""One sender, three readers who each get everything: with multiprocessing, by a queue for each."""

from timing import time_counted

from .base import case, race
from .pipes import SMALL

READERS = 3


def _time_broadcast(mp, budget, message, maxsize, first_count, same):
    def run(count):
        if hasattr(mp, "Broadcast"):
            broadcast = mp.Broadcast(maxsize)
            send, receivers = broadcast.send, [broadcast.reader().recv for _ in range(READERS)]
        else:
            queues = [mp.Queue(maxsize) for _ in range(READERS)]
            receivers = [queue.get for queue in queues]

            def send(obj):
                for queue in queues:
                    queue.put(obj)

        def produce():
            for _ in range(count):
                send(message)

        def consumer(receive):
            def consume():
                for _ in range(count):
                    received = receive()
                if not same(received, message):
                    raise ValueError("the last message is not what was sent")

            return consume

        elapsed, _ = race(mp, produce, *map(consumer, receivers))
        return elapsed

    return time_counted(run, first_count, budget)


@case("broadcast-small-3", "Broadcast to 3, small tuple; 3 queues")
def small(mp, budget):
    return _time_broadcast(mp, budget, SMALL, 128, 1000, lambda one, other: one == other)


@case("broadcast-array-1MiB-3", "Broadcast to 3, 1 MiB array; 3 queues")
def array_1mib(mp, budget):
    import numpy as np  # only this case needs it

    return _time_broadcast(mp, budget, np.arange(1 << 17, dtype=np.float64), 4, 20, np.array_equal)
