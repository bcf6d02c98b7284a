"""Producers and consumers."""

import importlib
import os
import queue as errors
import random
import resource
import signal
import time

from children.common import line_up, wait_until


def produce(queue, me, count, ready):
    line_up(ready, me)
    for i in range(count):
        queue.put((me, i))


def consume(queue, log, me, ready):
    """Notes (producer, number) pairs until None comes; log[0] counts them."""
    line_up(ready, me)
    while (item := queue.get()) is not None:
        at = log[0]
        log[1 + 2 * at], log[2 + 2 * at] = item
        log[0] = at + 1


def consume_with_timeouts(queue, log, me, ready):
    """As `consume`, with gets that give up in between."""
    line_up(ready, me)
    choice = random.Random(me)
    while True:
        try:
            item = queue.get(True, choice.choice([0, 0.0001, 0.001, None]))
        except errors.Empty:
            continue
        if item is None:
            return
        at = log[0]
        log[1 + 2 * at], log[2 + 2 * at] = item
        log[0] = at + 1


def entries(log):
    """The pairs that a consumer noted."""
    flat = log[1 : 1 + 2 * log[0]]
    return list(zip(flat[::2], flat[1::2], strict=True))


def get_later(queue, delay):
    time.sleep(delay)
    queue.get()


def put_all(queue, items):
    for item in items:
        queue.put(item)


def put_blobs(queue, me, count, ready):
    """Messages of every size, each of one letter only."""
    line_up(ready, me)
    choice = random.Random(me)
    for _ in range(count):
        queue.put(bytes([65 + me]) * choice.choice([1, 100, 5000, 70_000, 300_000]))


def echo(inbox, outbox):
    """Sends everything back until None comes."""
    while (item := inbox.get()) is not None:
        outbox.put(item)


def echo_all(pairs):
    """Through one pair of queues after the other: as many children would show no more."""
    for inbox, outbox in pairs:
        echo(inbox, outbox)


def put_later(queue, delay, item):
    time.sleep(delay)
    queue.put(item)


def get_one(queue, waiting, outcome):
    waiting.value = 1
    outcome.value = queue.get()


def put_one(queue, waiting, done, item):
    waiting.value = 1
    queue.put(item)
    done.value = 1


def report_state(queue, state):
    """What another process sees of it."""
    state[:] = [queue.qsize(), queue.empty(), queue.full()]


def put_pattern(queue, count, size):
    """Messages that tell their number, each as large as the others."""
    for i in range(count):
        queue.put(i.to_bytes(8, "little") + bytes([i % 251]) * (size - 8))


def check_pattern(message, i, size):
    assert len(message) == size
    assert message[:8] == i.to_bytes(8, "little")
    assert message.count(bytes([i % 251]), 8) == size - 8


def take_pattern(queue, count, size, first=0):
    for i in range(first, first + count):
        check_pattern(queue.get(), i, size)


def put_under_pressure(queue, me, most, count, ready, seen):
    """Puts on a bounded queue and notes the fullest that it saw."""
    line_up(ready, me)
    for i in range(count):
        queue.put((me, i))
        size = queue.qsize()
        assert 0 <= size <= most, size
        seen[me] = max(seen[me], size)


def put_in_grandchild(queue, module, method):
    context = importlib.import_module(module).get_context(method)
    child = context.Process(target=put_all, args=(queue, [("grandchild", os.getpid())]))
    child.start()
    child.join()
    assert child.exitcode == 0


def wait_for_size(queue, size):
    wait_until(lambda: queue.qsize() >= size, f"{size} messages")


def refused(call):
    try:
        call()
    except MemoryError:
        return
    raise RuntimeError("the limit was not kept")


def put_beyond_the_limit(outcome):
    """With a limit on the size of files, which counts for segments, a put too large fails and the
    queue goes on.
    """
    import fastmp

    # Python ignores it, other programs are killed by it: the kernel is not to send it.
    signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
    queue, growing = fastmp.Queue(), fastmp.Queue()
    queue.put("before")
    resource.setrlimit(resource.RLIMIT_FSIZE, (4 << 20, 4 << 20))
    for large in (b"x" * (64 << 20), b"x" * 70_000):
        refused(lambda: queue.put(large))  # noqa: B023
    refused(lambda: [growing.put(b"x" * 1000) for _ in range(10_000)])
    refused(lambda: fastmp.RawArray("b", 8 << 20))
    refused(fastmp.Pipe)
    assert queue.qsize() == 1
    queue.put("after")
    assert [queue.get(), queue.get()] == ["before", "after"]
    outcome.value = 1


def put_when_asked(queue, asked, count):
    for _ in range(count):
        queue.put(asked.get())


def put_for_ever(queue, item):
    while True:
        queue.put(item)


def get_some(queue, count):
    for _ in range(count):
        queue.get()


def put_batch(queue, items):
    queue.put_many(items)


def put_batches_for_ever(queue, size):
    start = 0
    while True:
        queue.put_many(range(start, start + size))
        start += size


def pass_on(queue, out):
    out.put(queue.get())


def put_into_each(queue, count):
    got = []
    while len(got) < count:
        got += queue.get_many(count)
    for inner, lock, number in got:
        with lock:
            inner.put(number)


def get_until_shut(queue):
    from fastmp import ShutDown

    try:
        while True:
            queue.get()
    except ShutDown:
        return


def put_until_shut(queue, item):
    from fastmp import ShutDown

    try:
        while True:
            queue.put(item)
    except ShutDown:
        return


def count_puts_until_shut(queue, out, me):
    from fastmp import ShutDown

    count = 0
    try:
        while True:
            queue.put(count)
            count += 1
    except ShutDown:
        out.put((me, count))


def count_gets_until_shut(queue, out):
    from fastmp import ShutDown

    count = 0
    try:
        while True:
            queue.get()
            count += 1
    except ShutDown:
        out.put(("got", count))


def shut_down_now(queue):
    queue.shutdown(immediate=True)
    time.sleep(10)


def do_tasks(queue, done):
    while True:
        task = queue.get()
        if task is not None:
            with done.get_lock():
                done.value += task
        queue.task_done()
        if task is None:
            return


def join_tasks(queue):
    queue.join()


def close_and_do(queue):
    queue.get()
    queue.close()
    queue.task_done()


def type_of(queue, out):
    queue.get()
    out.put(type(queue).__name__)
    queue.task_done()


def put_and_sleep(queue, count):
    for number in range(count):
        queue.put(number)
    time.sleep(100)


def take_and_sleep(queue, taken):
    queue.get()
    taken.value = os.getpid()
    time.sleep(100)


def echo_simple(queue, out):
    while True:
        item = queue.get()
        out.put(item)
        if item is None:
            return


def get_simple(queue):
    queue.get()


def start_worker_and_sleep(queue, told):
    import multiprocessing

    worker = multiprocessing.get_context("fork").Process(target=wait_for_work, args=(queue,))
    worker.start()
    told.send(worker.pid)
    queue._writer.close()
    time.sleep(100)


def wait_for_work(queue):
    queue._writer.close()
    try:
        queue.get()
    except (EOFError, OSError):
        return


def end_with(queue, code, *items):
    for item in items:
        queue.put(item)
    if code < 0:
        os.kill(os.getpid(), -code)
    os._exit(code)


def put_after(queue, delay, *items):
    time.sleep(delay)
    for item in items:
        queue.put(item)
    time.sleep(100)
