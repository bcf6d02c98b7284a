"""Receivers that keep what they are lent."""

import os
import signal
import time

try:
    import numpy
except ImportError:  # the tests' own dependency; without it nothing here is called
    numpy = None


def where(array):
    """The name of what is mapped where an array's first byte is, and whether that is shared."""
    address = array.__array_interface__["data"][0]
    with open("/proc/self/maps") as file:
        for line in file:
            span, mode, _, _, _, *name = line.split(maxsplit=5)
            start, end = (int(part, 16) for part in span.split("-"))
            if start <= address < end:
                return "".join(name), "s" in mode
    raise ValueError("it is nowhere")


def is_lent(array):
    """Does it look at a channel's memory?"""
    name, shared = where(array)
    return shared and name.startswith("/memfd:fastmp-")


def numbered(number, size=1 << 20):
    """An array that can be told from others, and from what is left of it."""
    return numpy.arange(size // 8, dtype="i8") + number * 1_000_003


def is_numbered(array, number):
    return bool((array == numbered(number, array.nbytes)).all())


def put_numbered(queue, count, size=1 << 20):
    for number in range(count):
        queue.put(numbered(number, size))


def send_numbered(connection, count, size=1 << 20):
    for number in range(count):
        connection.send(numbered(number, size))
    connection.close()


def keep_and_stop(queue, count, told):
    """Takes so many, and is killed with them in its hands."""
    kept = [queue.get() for _ in range(count)]
    told.value = sum(map(is_lent, kept))
    signal.pause()


def die_amid_loans(queue, told, seed):
    """Takes, keeps and drops until it is killed."""
    import random

    choice, kept = random.Random(seed), []
    while True:
        number, array = queue.get()
        if not is_numbered(array, number):
            told[0] += 1
        told[1] += 1
        kept.append(array)
        if len(kept) > choice.randrange(6):
            del kept[choice.randrange(len(kept))]


def write_and_compare(array, number, told):
    """What a forked child does with what its parent was lent."""
    ok = is_numbered(array, number)
    array[:] = -1
    told.value = 1
    while told.value == 1:
        time.sleep(0.001)
    ok = ok and bool((array == -1).all())
    os._exit(0 if ok else 9)


def echo_sums(inbox, outbox):
    """Sends the sum of each array back, and the array itself, changed."""
    while (array := inbox.get()) is not None:
        total = int(array.sum())
        array += 1
        outbox.put((total, array))


def get_after_close(queue, told):
    """A loan that outlives its queue, and comes back when that is long closed."""
    array = queue.get()
    queue.close()
    told.value = 1 + is_lent(array) + is_numbered(array, 0)
    while told.value < 10:
        time.sleep(0.001)
    del array
    told.value = 11
    while told.value < 12:
        time.sleep(0.001)
