"""Pipes between two processes: there and back, and one way."""

from timing import time_counted

from .base import case, race

SMALL = (7, "step", 0.5)


def time_round_trips(mp, budget, send, recv, message):
    """Return seconds per round trip of `message`; `send` and `recv` are names of methods."""

    def run(count):
        left, right = mp.Pipe()

        def serve():
            put, get = getattr(right, send), getattr(right, recv)
            for _ in range(count):
                put(get())

        def ask():
            put, get = getattr(left, send), getattr(left, recv)
            for _ in range(count):
                put(message)
                answer = get()
            if answer != message:
                raise ValueError("the answer is not what was sent")

        elapsed, _ = race(mp, ask, serve)
        return elapsed

    return time_counted(run, 200, budget)


@case("pipe-roundtrip-16B", "Pipe round trip, 16 bytes", goal=15, floor=5)
def round_trip_bytes(mp, budget):
    return time_round_trips(mp, budget, "send_bytes", "recv_bytes", bytes(range(16)))


@case("pipe-roundtrip-small", "Pipe round trip, small tuple", goal=14, floor=5)
def round_trip_object(mp, budget):
    return time_round_trips(mp, budget, "send", "recv", SMALL)


def _register_stream(label, size, first_count, goal):
    @case(f"pipe-stream-{label}", f"Pipe stream, {label}", goal=goal)
    def measure(mp, budget):
        message = bytes(range(256)) * (size // 256) + bytes(range(size % 256))

        def run(count):
            reader, writer = mp.Pipe(duplex=False)

            def write():
                send_bytes = writer.send_bytes
                for _ in range(count):
                    send_bytes(message)

            def read():
                recv_bytes = reader.recv_bytes
                for _ in range(count):
                    received = recv_bytes()
                if received != message:
                    raise ValueError("the last message is not what was sent")

            elapsed, _ = race(mp, write, read)
            return elapsed

        return time_counted(run, first_count, budget)


_register_stream("64B", 64, 2000, 15)
_register_stream("64KiB", 64 << 10, 500, 4)
_register_stream("1MiB", 1 << 20, 50, 9)
_register_stream("32MiB", 32 << 20, 32, 5)


def _register_array_stream(label, size, first_count, goal):
    @case(f"pipe-array-{label}", f"Pipe stream, {label}, into an array", goal=goal)
    def measure(mp, budget):
        import numpy as np  # only these cases need it

        message = np.arange(size // 8, dtype=np.float64)

        def run(count):
            reader, writer = mp.Pipe(duplex=False)

            def write():
                for _ in range(count):
                    writer.send_bytes(message)

            def read():
                received = np.zeros_like(message)
                for _ in range(count):
                    reader.recv_bytes_into(received)
                if not np.array_equal(received, message):
                    raise ValueError("the last message is not what was sent")

            elapsed, _ = race(mp, write, read)
            return elapsed

        return time_counted(run, first_count, budget)


_register_array_stream("1MiB", 1 << 20, 50, 9)
_register_array_stream("32MiB", 32 << 20, 32, 10)
