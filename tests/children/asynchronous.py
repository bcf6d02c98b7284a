"""Users of channels in event loops."""

import asyncio
import contextlib
import random
import time

# So often something is cancelled in one process: where all is slow, nothing else would happen.
ENOUGH = 400


async def consume_with_cancellations(queue, results, tasks, seed):
    """`tasks` tasks get until one of them gets None. They are cancelled at random all the time.

    Sends what came, what of it came straight to its task, in that order, and how often a task was
    cancelled.
    """
    rng = random.Random(seed)
    got, straight, cancelled = [], [], 0
    end = asyncio.Event()

    async def consumer():
        nonlocal cancelled
        while not end.is_set():
            # By way of a task between, on Python 3.11, others may overtake it after it was taken.
            is_straight = rng.random() < 0.5 or cancelled > ENOUGH
            try:
                if is_straight:
                    item = await queue.get_async()
                else:
                    item = await asyncio.wait_for(queue.get_async(), rng.random() / 200)
            except asyncio.CancelledError:
                cancelled += 1
                asyncio.current_task().uncancel()
                continue
            except TimeoutError:
                cancelled += 1
                continue
            if item is None:
                if end.is_set():
                    queue.put(None)  # another process's
                end.set()
            else:
                got.append(item)
                if is_straight:
                    straight.append(item)
                if rng.random() < 0.2:
                    with contextlib.suppress(asyncio.CancelledError):
                        await asyncio.sleep(0)

    async def canceller():
        while not end.is_set() and cancelled <= ENOUGH:
            for task in rng.sample(consumers, 5):
                task.cancel()
            await asyncio.sleep(rng.choice((0, 0.001)))

    consumers = [asyncio.create_task(consumer()) for _ in range(tasks)]
    chaos = asyncio.create_task(canceller())
    await end.wait()
    await chaos
    # Nobody has been cancelled in the act of returning: what a task has taken it has noted.
    for task in consumers:
        task.cancel()
    await asyncio.wait(consumers)
    await results.send_async((got, straight, cancelled))


def be_consumers(queue, results, tasks, seed):
    asyncio.run(consume_with_cancellations(queue, results, tasks, seed))


async def produce_with_cancellations(queue, tasks, count, seed):
    """Each of `tasks` tasks puts its numbers in turn; what was cancelled is put again."""
    rng = random.Random(seed)
    cancelled = 0

    async def producer(name):
        nonlocal cancelled
        number = 0
        while number < count:
            try:
                if rng.random() < 0.5 or cancelled > ENOUGH:
                    await queue.put_async((name, number))
                else:
                    await asyncio.wait_for(queue.put_async((name, number)), rng.random() / 500)
            except (TimeoutError, asyncio.CancelledError):
                cancelled += 1
                continue
            number += 1

    async def canceller():
        while not all(task.done() for task in producers) and cancelled <= ENOUGH:
            rng.choice(producers).cancel()
            await asyncio.sleep(rng.choice((0, 0.001)))

    producers = [asyncio.create_task(producer((seed, i))) for i in range(tasks)]
    await asyncio.gather(canceller(), *producers)
    return cancelled


def mark_for_ever(queue, marks, tasks):
    """Counts what comes, each number in a place of its own."""

    async def task():
        while True:
            with contextlib.suppress(TimeoutError):
                marks[await asyncio.wait_for(queue.get_async(), 0.02)] += 1

    async def main():
        await asyncio.gather(*(task() for _ in range(tasks)))

    asyncio.run(main())


def put_all_with_pauses(queue, count, seed):
    rng = random.Random(seed)
    for i in range(count):
        queue.put(i)
        time.sleep(rng.random() / 500)


def put_for_ever(queue):
    for i in range(10**9):
        queue.put(i)


def echo_async(conn, spare=None):
    """Sends everything back until the other end is closed."""
    if spare is not None:
        spare.close()

    async def main():
        with contextlib.suppress(EOFError):
            while True:
                await conn.send_async(await conn.recv_async())

    asyncio.run(main())


def pass_on_async(source, target, count):
    async def main():
        for _ in range(count):
            await target.put_async(await source.get_async())

    asyncio.run(main())
