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
