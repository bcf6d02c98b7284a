"""What waiting costs."""

import time

from .base import case, race


@case("cpu-blocked", "CPU of a process blocked in get, recv, acquire: the most", most=0.2)
def blocked(mp, budget):
    """Return percent of a core."""
    seconds = max(2.0, 10 * budget)
    queue, lock, (reader, writer) = mp.Queue(), mp.Lock(), mp.Pipe(duplex=False)
    lock.acquire()

    def waiter(wait):
        def role():
            began, used = time.perf_counter(), time.process_time()
            wait()
            return 100 * (time.process_time() - used) / (time.perf_counter() - began)

        return role

    def wake():
        time.sleep(seconds)
        queue.put(None)
        writer.send(None)
        lock.release()

    _, (*shares, _) = race(mp, *map(waiter, [queue.get, reader.recv, lock.acquire]), wake)
    return max(shares)


def _register_holders(count):
    @case(f"cpu-blocked-requeue-{count}", f"CPU of get beside {count} that hold messages that come back", most=0.2)
    def measure(mp, budget):
        """Return percent of a core."""
        seconds = max(2.0, 10 * budget)
        queue, end = mp.Queue(requeue=True), mp.Event()
        held = mp.Semaphore(0)
        for number in range(count):
            queue.put(number)

        def hold():
            queue.get()
            held.release()
            end.wait()

        def wait():
            for _ in range(count):
                held.acquire()
            began, used = time.perf_counter(), time.process_time()
            queue.get()
            return 100 * (time.process_time() - used) / (time.perf_counter() - began)

        def wake():
            time.sleep(seconds)
            queue.put(None)
            end.set()

        _, (share, *_) = race(mp, wait, wake, *[hold] * count)
        return share


for _count in (8, 40):
    _register_holders(_count)
