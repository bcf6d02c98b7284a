"""Consumers of queues whose messages come back."""

import asyncio
import os
import random
import signal
import sys
import threading
import time


def take(queue, count, taken, then=None):
    """Gets some, notes how many, then does something, or waits to be killed."""
    for _ in range(count):
        queue.get()
    taken.value += count
    end(then)


def end(how):
    if how is None:
        time.sleep(100)
    elif how == "raise":
        raise RuntimeError("of the child")
    elif how == "exit":
        sys.exit(3)
    elif how == "_exit":
        os._exit(0)
    elif isinstance(how, int):
        os.kill(os.getpid(), how)
        time.sleep(100)
    else:
        assert how == "return"


def take_and_close(queue, taken):
    queue.get()
    queue.close()
    taken.value += 1
    time.sleep(100)


def take_many(queue, most, taken):
    taken.value += len(queue.get_many(most))
    time.sleep(100)


def take_in_threads(queue, taken, ends):
    """Each of two threads gets one: one ends, one does not. If `ends`, the process ends normally."""

    def get():
        queue.get()

    def get_and_wait():
        queue.get()
        taken.value += 1
        time.sleep(100)

    first = threading.Thread(target=get)
    first.start()
    first.join()
    threading.Thread(target=get_and_wait, daemon=True).start()
    while taken.value < 1:
        time.sleep(0.001)
    taken.value += 1
    if not ends:
        time.sleep(100)


def take_in_a_thread_that_goes_on(queue, taken):
    """The main thread ends; another, not a daemon, has something in its hands still."""

    def get_and_wait():
        queue.get()
        taken.value += 1
        time.sleep(100)

    threading.Thread(target=get_and_wait).start()
    while taken.value < 1:
        time.sleep(0.001)


def take_async(queue, taken):
    async def main():
        await queue.get_async()
        await queue.get_async()
        taken.value += 2
        await asyncio.sleep(100)

    asyncio.run(main())


def take_async_beside_others(queue, ready, taken):
    """Three tasks wait; the one that gets something goes on for long."""

    async def one():
        await queue.get_async()
        await asyncio.sleep(0.3)  # the others have been woken, in vain
        taken.value += 1
        await asyncio.sleep(100)

    async def main():
        asyncio.get_running_loop().call_later(0.1, setattr, ready, "value", 1)
        await asyncio.gather(*(one() for _ in range(3)))

    asyncio.run(main())


def have_another_thread_say_so(queue, taken):
    queue.get()
    other = threading.Thread(target=queue.task_done)
    other.start()
    other.join()
    taken.value += 1
    time.sleep(100)


def take_tasks(queue, done, taken):
    """Gets `done` + 1 tasks, and does all but the last."""
    for _ in range(done):
        queue.get()
        queue.task_done()
    queue.get()
    taken.value += 1
    time.sleep(100)


def fork_and_end(queue, taken):
    queue.get()
    pid = os.fork()
    if pid == 0:
        queue.get()
        os.kill(os.getpid(), signal.SIGKILL)
    os.waitpid(pid, 0)
    taken.value += 1


def relay(queue, out):
    """Gets a queue, and says what it is; then one from that, and is killed."""
    inner = queue.get()
    out.put((inner._requeue, inner.get()))
    time.sleep(100)


def work(queue, log, at):
    """Notes each message that has come, in shared memory; dies at random by the hands of others."""
    dice = random.Random(at)
    while True:
        if dice.random() < 0.3:
            batch = queue.get_many(dice.randrange(1, 20))
            for _ in range(batch.count(None) - 1):
                queue.put(None)  # that was another's
        else:
            batch = [queue.get()]
        for item in batch:
            if item is None:
                return
            producer, number, data = item
            assert data == bytes([number % 256]) * len(data)
            log[producer * 10_000 + number] += 1
            time.sleep(dice.random() * 0.002)


def produce(queue, producer, count, sizes):
    dice = random.Random(producer)
    for number in range(count):
        queue.put((producer, number, bytes([number % 256]) * dice.choice(sizes)))
