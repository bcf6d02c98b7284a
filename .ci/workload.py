"""What an instrumented build runs for its profile: each hot path often, others now and then.

In one process: children end without writing their counts.
"""

import dataclasses
import decimal
import sys

import fastmp as mp


@dataclasses.dataclass
class Point:
    x: float
    y: float


STEP = {"step": 12, "obs": list(range(50)), "info": {"a": "x" * 40, "b": None, "c": [1.5] * 10}}
RECORDS = [{"id": i, "name": f"n{i}", "x": 1.5 * i, "ok": True, "tag": "abc", "none": None} for i in range(200)]
# How often, of a thousand.
MESSAGES = [
    (("small", 1, 2.5), 400),
    (7, 200),
    ("text" * 20, 100),
    (b"x" * 64, 100),
    (STEP, 100),
    ([1.5] * 100, 40),
    (list(range(1000)), 10),
    ({1, 2, 3}, 10),
    (RECORDS, 5),
    (b"x" * 5000, 10),
    (Point(1.0, 2.0), 10),
    (decimal.Decimal("1.5"), 5),
    (bytearray(70_000), 2),
    (bytes(1 << 20), 1),
]


def use_locks(rounds):
    for lock in mp.Lock(), mp.RLock(), mp.Semaphore(1), mp.BoundedSemaphore(1):
        for _ in range(rounds):
            lock.acquire()
            lock.release()
            with lock:
                pass
        for _ in range(rounds // 10):
            lock.acquire(False)
            lock.release()
            lock.acquire(block=True, timeout=1)
            lock.release()
    held = mp.Lock()
    held.acquire()
    for _ in range(rounds // 10):
        held.acquire(False)


def use_values(rounds):
    value, number, array = mp.Value("i"), mp.Value("d"), mp.Array("d", 1000)
    for i in range(rounds):
        value.value = i
        number.value = value.value
        array[5] = array[6]
        value.fetch_add(1)
        with value.get_lock():
            value.value += 1
    for _ in range(rounds // 200):
        array[:] = array[:]


def use_meetings(rounds):
    event, condition, barrier = mp.Event(), mp.Condition(), mp.Barrier(1)
    for _ in range(rounds):
        event.set()
        event.is_set()
        event.wait()
        event.clear()
    for _ in range(rounds // 10):
        with condition:
            condition.notify()
            condition.notify_all()
            condition.wait(0)
        barrier.wait()


def use_channels(rounds):
    queue, (reader, writer) = mp.Queue(), mp.Pipe()
    bounded = mp.Queue(10)
    for _ in range(rounds // 1000):
        for message, count in MESSAGES:
            for _ in range(count):
                queue.put(message)
                queue.get()
                bounded.put(message, timeout=1)
                bounded.get(timeout=1)
                writer.send(message)
                reader.recv()
                writer.send_bytes(b"x" * 64)
                reader.recv_bytes()
                reader.poll()
                queue.empty()
    for _ in range(50):
        for i in range(100):
            queue.put(i)
        for _ in range(queue.qsize()):
            queue.get_nowait()


def make_objects(rounds):
    for _ in range(rounds):
        mp.Lock(), mp.RLock(), mp.Semaphore(), mp.Event(), mp.Condition(), mp.Value("i"), mp.Array("d", 10)
    for _ in range(rounds // 50):
        mp.Queue(), mp.Pipe()


def main():
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 40_000
    use_locks(rounds)
    use_values(rounds)
    use_meetings(rounds)
    use_channels(rounds)
    make_objects(rounds // 40)


if __name__ == "__main__":
    main()
