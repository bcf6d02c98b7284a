"""Channels in an event loop: awaited, and by the stdlib's way, a thread that waits."""

import asyncio

from timing import time_counted

from .base import case, race

SMALL = (7, "step", 0.5)


@case("pipe-roundtrip-asyncio", "Pipe round trip in an event loop (awaited; stdlib: run_in_executor)", goal=2)
def round_trip(mp, budget):
    def run(count):
        left, right = mp.Pipe()

        def serve():
            for _ in range(count):
                right.send(right.recv())

        async def ask():
            loop = asyncio.get_running_loop()
            for _ in range(count):
                if hasattr(left, "recv_async"):
                    await left.send_async(SMALL)
                    answer = await left.recv_async()
                else:
                    left.send(SMALL)
                    answer = await loop.run_in_executor(None, left.recv)
            if answer != SMALL:
                raise ValueError("the answer is not what was sent")

        elapsed, _ = race(mp, lambda: asyncio.run(ask()), serve)
        return elapsed

    return time_counted(run, 200, budget)
