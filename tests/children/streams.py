"""A program that has closed its standard streams, as daemons do, before it makes anything.

Whatever is made then must leave the numbers 0, 1 and 2 alone: the program opens `/dev/null` there
later, and prints.
"""

import asyncio
import ctypes  # noqa: F401  # before the streams are closed: see `_file`
import importlib
import os
import select
import sys
import traceback

from children.common import wait_until

LARGE = b"x" * (3 << 20)


def standard():
    """What stands under the numbers of the standard streams: a number for each file; None: nothing."""
    return [_file(fd) for fd in range(3)]


def _file(fd):
    try:
        # From 3.8 on libffi opens its own file when it is loaded, under whatever number is free.
        return None if "/libffi." in os.readlink(f"/proc/self/fd/{fd}") else os.fstat(fd).st_ino
    except OSError:
        return None


def is_free():
    return standard() == [None] * 3


def use(objects):
    for one in objects:
        for step in USES[type(one).__name__]:
            step(one)


def child(report, *objects):
    """Uses what it was started with; tells what its standard streams are meanwhile."""
    use(objects)
    report.put((os.getpid(), standard()))


def square(number):
    return number * number, standard()


def hand_out(lock):
    with lock:
        pass


def count(value):
    with value.get_lock():
        value.value += 1


def item(array):
    array[1] = array[1] + 1.0
    assert len(array[:]) == 3


def awaited(queue):
    async def one():
        getting = asyncio.ensure_future(queue.get_async())
        await asyncio.sleep(0)
        await queue.put_async("awaited")
        return await getting

    # Loops have descriptors of their own, which they close before.
    assert asyncio.run(one()) == "awaited"


def messages(queue):
    for message in ("small", LARGE):
        queue.put(message)
        assert queue.get() == message


def polled(queue):
    """Somebody asks for the descriptor: the socket is made use of."""
    poll = select.poll()
    poll.register(queue._reader.fileno(), select.POLLIN)
    queue.put("polled")
    assert poll.poll(50_000)
    assert queue.get() == "polled"


def travels(queue):
    """Objects with descriptors, by a message; many in one."""
    mp = importlib.import_module("fastmp")
    made = mp.Queue(), mp.Lock(), mp.Pipe(), [mp.Pipe()[0] for _ in range(260)]
    queue.put(made)
    inner, lock, (left, right), _ = queue.get()
    inner.put("inner")
    assert inner.get() == "inner"
    hand_out(lock)
    left.send(LARGE)
    assert right.recv() == LARGE


def ends(pair):
    """Of a list: both ends of a pipe."""
    one, other = pair
    for message in ("small", LARGE):
        one.send(message)
        assert other.recv() == message
    assert not other.poll()


def broadcast(sender):
    with sender.reader() as reader:
        sender.send(LARGE)
        assert reader.recv() == LARGE


def happens(event):
    event.set()
    assert event.wait(50)


def notified(condition):
    with condition:
        condition.notify_all()
        assert not condition.wait(0.01)


def passed(barrier):
    assert barrier.wait(50) == 0


USES = {
    "Lock": [hand_out],
    "RLock": [hand_out],
    "Semaphore": [hand_out],
    "BoundedSemaphore": [hand_out],
    "Condition": [notified],
    "Event": [happens],
    "Barrier": [passed],
    "Guarded": [count],
    "Synchronized": [count],
    "SynchronizedArray": [item],
    "Queue": [messages, polled, travels, awaited],
    "JoinableQueue": [messages, polled, travels],
    "SimpleQueue": [messages],
    "list": [ends],
    "Broadcast": [broadcast],
}

KINDS = {
    "Lock": lambda mp: mp.Lock(),
    "RLock": lambda mp: mp.RLock(),
    "Semaphore": lambda mp: mp.Semaphore(2, recover=True),
    "Condition": lambda mp: mp.Condition(),
    "Event": lambda mp: mp.Event(),
    "Barrier": lambda mp: mp.Barrier(1),
    "Value": lambda mp: mp.Value("i", 0),
    "Array": lambda mp: mp.Array("d", 3),
    "Queue": lambda mp: mp.Queue(),
    "JoinableQueue": lambda mp: mp.JoinableQueue(),
    "SimpleQueue": lambda mp: mp.SimpleQueue(),
    "Pipe": lambda mp: list(mp.Pipe()),
    "one-way Pipe": lambda mp: list(reversed(mp.Pipe(duplex=False))),
    "Broadcast": lambda mp: mp.Broadcast(4),
}


class Noise:
    """What stands there later: a file that takes whatever is printed."""

    def __init__(self):
        self.file = os.memfd_create("noise")
        assert self.file > 2
        self.expected = b""

    def take_places(self):
        wait_until(is_free, "the numbers of the standard streams to be free")
        for fd in range(3):
            os.dup2(self.file, fd)
        self.inode = _file(0)
        assert self.is_there()

    def is_there(self):
        return standard() == [self.inode] * 3

    def make(self):
        print("printed", flush=True)
        print("and so", file=sys.stderr, flush=True)
        os.write(0, b"by number\n")
        self.expected += b"printed\nand so\nby number\n"

    def is_whole(self):
        return os.pread(self.file, 1 << 20, 0) == self.expected


def run(kind, method):
    """Of a fresh interpreter: returns 0 if all is well."""
    noise = Noise()
    errors = os.dup(2)
    assert errors > 2
    for fd in range(3):
        os.close(fd)
    try:
        _run(kind, importlib.import_module("fastmp").get_context(method), noise)
    except BaseException:
        os.write(errors, traceback.format_exc().encode())
        return 1
    return 0


def _run(kind, mp, noise):
    if kind in ("Pool", "executor"):
        _run_pool(kind, mp, noise)
        return
    report = mp.Queue()
    made = [KINDS[kind](mp)] if kind in KINDS else []
    use(made)
    wait_until(is_free, "the numbers of the standard streams to be free")
    early = mp.Process(target=child, args=(report, *made))
    early.start()
    _, seen = report.get()
    # Its standard input a forked child opens anew, as the stdlib's does.
    assert seen[1:] == [None, None], seen
    outlives = mp.Process(target=child, args=(report, mp.Lock()))
    outlives.start()
    noise.take_places()
    noise.make()
    assert report.get()[0] == outlives.pid
    for process in (early, outlives):
        process.join()
        assert process.exitcode == 0
        process.close()
    assert noise.is_there()
    use(made)
    late = mp.Process(target=child, args=(report, *made))
    late.start()
    assert report.get()[0] == late.pid
    late.join()
    assert late.exitcode == 0
    noise.make()
    del made
    late.close()
    assert noise.is_there()
    assert noise.is_whole(), os.pread(noise.file, 1 << 20, 0)


def _run_pool(kind, mp, noise):
    fastmp = importlib.import_module("fastmp")
    with mp.Pool(2) if kind == "Pool" else fastmp.ProcessPoolExecutor(2, mp_context=mp) as pool:
        numbers = range(20)
        squares = [number * number for number in numbers]
        for square_of, seen in pool.map(square, numbers):
            assert square_of in squares
            assert seen[1:] == [None, None], seen
        noise.take_places()
        noise.make()
        assert [result for result, _ in pool.map(square, numbers)] == squares
    noise.make()
    assert noise.is_there()
    assert noise.is_whole(), os.pread(noise.file, 1 << 20, 0)
