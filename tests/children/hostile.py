"""Peers that write what they like: into a channel's shared bytes, or as a message."""

import contextlib
import faulthandler
import os
import pickle
import random
import resource
import time
from queue import Empty, Full

import fastmp

from children import objects, usage

# What a message of garbage may raise. Not SystemError: that is a fault of whoever decodes.
REFUSED = (RuntimeError, ValueError, TypeError, MemoryError, pickle.UnpicklingError, EOFError)
# What is unpickled may raise more: a changed name is an attribute that is missing.
RAISED = (*REFUSED, ArithmeticError, AttributeError, ImportError, LookupError, AssertionError, NameError)
SLACK = 5.0  # seconds that a call may outstay its timeout
MARK = b"\xa7mark\x00\xff" * 8
HEADER = 16  # bytes of a record's header: four of length, kind, format, two of descriptors, eight more
OUT_OF_BAND = 4
BASE = 1 << 20  # bytes that a ring may have in its channel's part of a segment


def be_careful():
    """A length that only garbage asks for is an error here, and a crash says where."""
    faulthandler.enable()
    with open("/proc/self/statm") as file:
        used = int(file.read().split()[0]) * os.sysconf("SC_PAGE_SIZE")
    resource.setrlimit(resource.RLIMIT_AS, (used + (3 << 30),) * 2)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def data_of(memfd, first=0, last=2**62):
    """The parts of a segment that have pages, between two places."""
    at, parts = first, []
    with contextlib.suppress(OSError):
        while (start := os.lseek(memfd, at, os.SEEK_DATA)) < last:
            at = min(os.lseek(memfd, start, os.SEEK_HOLE), last)
            parts.append((start, at))
    return parts


def memory_files():
    """This process's descriptors of the files where large messages are."""
    fds = map(int, os.listdir("/proc/self/fd"))
    return [fd for fd in fds if usage.is_file(fd, "fastmp-queue") or usage.is_file(fd, "fastmp-pipe")]


def find(memfd, what, first):
    """The offset of these bytes in a segment, from there on: what is elsewhere may be older."""
    for start, end in data_of(memfd, first):
        at = os.pread(memfd, end - start, start).find(what)
        if at >= 0:
            return start + at
    raise LookupError("the message is not where messages are")


def garble(dice, data):
    """The same with some bytes changed, moved, cut off or added."""
    data = bytearray(data)
    for _ in range(dice.choice([1, 1, 1, 2, 5])):
        at = dice.randrange(len(data) + 1)
        match dice.randrange(8):
            case 0:
                del data[at:]
            case 1:
                data[at:at] = dice.randbytes(dice.randrange(9))
            case 2:
                data[at : at + 4] = dice.choice([b"\xff" * 4, b"\0\0\0\x80", b"\0" * 4, b"\1\0\0\0"])
            case 3:
                start = dice.randrange(len(data) + 1)
                data[at:at] = data[start : start + dice.randrange(20)]
            case _ if at < len(data):
                data[at] = dice.choice([dice.randrange(256), data[at] ^ 1 << dice.randrange(8)])
    return bytes(data)


class Forger:
    """Sends messages over a pipe that no sender would write: any bytes, said to be in any format."""

    ROOM = 12_000  # bytes of records, one right behind the other, before a ring of 16 KiB wraps

    def __init__(self, mp):
        self.mp = mp
        self.renew()

    def renew(self):
        self.left, self.right = self.mp.Pipe()
        self.memfd, _, _, _, front, _ = self.left._export()
        self.left.send_bytes(MARK)
        self.record = find(self.memfd, MARK, front) - HEADER
        assert self.right.recv_bytes() == MARK
        self.room = self.ROOM
        self.next(len(MARK))

    def next(self, size):
        taken = HEADER + (size + 15) // 16 * 16
        self.record, self.room = self.record + taken, self.room - taken

    def send(self, form, data):
        """As `send_bytes` sends them, and then said to be something else."""
        if self.room < len(data):
            self.renew()
        self.left.send_bytes(data)
        assert os.pread(self.memfd, len(data), self.record + HEADER) == data
        os.pwrite(self.memfd, bytes([form]), self.record + 5)
        self.next(len(data))

    def sent(self, item):
        """The format and the bytes that an object is sent as; no bytes if they are not in the ring."""
        self.renew()
        self.left.send(item)
        head = os.pread(self.memfd, HEADER, self.record)
        return head[5], os.pread(self.memfd, int.from_bytes(head[:4], "little"), self.record + HEADER)


def originals(mp):
    """What objects of every kind are sent as."""
    forger = Forger(mp)
    rows = [{"id": i, "name": f"name{i}", "tags": ("a", i)} for i in range(30)]
    items = [*objects.ATOMS, *objects.containers(), *objects.aliased(), rows, [rows, rows[::-1]]]
    return [sent for sent in map(forger.sent, items) if 0 < len(sent[1]) < Forger.ROOM]


def receive_garbage(mp, seed, seconds):
    """Messages of garbage are received, each as it is asked for, and what comes behind is whole."""
    be_careful()
    dice = random.Random(seed)
    known = originals(mp)
    own = [(form, data) for form, data in known if form not in (0, OUT_OF_BAND)]
    assert len(own) > 40, len(own)
    end, tried, raised = time.monotonic() + seconds, 0, {}
    forger = Forger(mp)
    while time.monotonic() < end:
        form, data = dice.choice(own)
        match dice.randrange(10):
            case 0:  # no pickle: what any of its opcodes do is the stdlib's business
                form, data = dice.choice([1, 3, 5, *range(6, 256)]), dice.randbytes(dice.choice([1, 3, 20, 200]))
            case 1:
                form = dice.choice([1, 3, 5, 7, 255])
            case 2:  # the lengths in front of what is out of band
                words = [dice.choice([0, 1, 2, 8, 40, 2**31, 2**40, 2**62, 2**64 - 1]) for _ in range(4)]
                form, data = OUT_OF_BAND, b"".join(word.to_bytes(8, "little") for word in words) + bytes(200)
            case _:
                data = garble(dice, data)
        tried += 1
        forger.send(form, data[: Forger.ROOM])
        take = forger.right.recv_bytes if dice.randrange(8) == 0 else forger.right.recv
        try:
            take()
        except REFUSED as error:
            raised[type(error).__name__] = raised.get(type(error).__name__, 0) + 1
        if tried % 8 == 0:
            forger.left.send(tried)
            assert forger.right.recv() == tried
            forger.renew()
    print(f"{tried} messages, {raised}", flush=True)
    assert tried > 200


def timed(call, timeout, *errors):
    """What comes of it, if anything; in time."""
    start = time.monotonic()
    try:
        return call()
    except errors:
        return None
    finally:
        late = time.monotonic() - start - timeout
        assert late < SLACK, f"{call} took {late} s more than its {timeout} s"


def use_mutated(mp, seed, seconds):
    """A queue and a pipe are used while their shared bytes become garbage."""
    be_careful()
    dice = random.Random(seed)
    end, rounds = time.monotonic() + seconds, 0
    while time.monotonic() < end:
        rounds += 1
        queue, (left, right) = mp.Queue(dice.choice([0, 3])), mp.Pipe()
        queue_segment, _, _, _, queue_front, _ = queue._handle()
        pipe_segment, _, _, _, pipe_front, _ = left._export()
        items = [1, "text", bytes(100), list(range(300)), bytes(70_000), bytearray(200_000), {"a": 1.5}]
        # Among the words are whether the queue is shut down, and how many bytes a message may have.
        errors = (Empty, Full, OSError, EOFError, fastmp.ShutDown, ValueError, *RAISED)
        for _ in range(dice.randrange(8)):
            timed(lambda: queue.put(dice.choice(items), timeout=0), 0, *errors)  # noqa: B023
            if not right.poll() or dice.randrange(2):
                left.send(dice.choice(items[:4]))
        garbled = []
        for memory, front in ((queue_segment, queue_front), (pipe_segment, pipe_front)):
            own = [(0, 64), (64, 640), (4096, 8192), (8192, 8448)]
            own = [(front + start, front + stop) for start, stop in own]
            garbled.append((memory, own + data_of(memory, front, front + 8192 + BASE)))
        garbled.extend((file, data_of(file) or [(0, 4096)]) for file in memory_files())
        for memory, parts in garbled:
            for _ in range(dice.choice([1, 3, 10])):
                start, stop = dice.choice(parts)
                size = dice.choice([1, 4, 8])
                at = start + dice.randrange(stop - start) // size * size
                word = int.from_bytes(os.pread(memory, size, at).ljust(8, b"\0"), "little")
                word = dice.choice([0, 2**64 - 1, word ^ 1 << dice.randrange(64), word + 16, dice.getrandbits(64)])
                os.pwrite(memory, (word % 2**64).to_bytes(8, "little")[:size], at)
        for _ in range(6):
            wait = dice.choice([0, 0.001])
            calls = [
                lambda: queue.put(dice.choice(items), timeout=wait),  # noqa: B023
                lambda: queue.get(timeout=wait),  # noqa: B023
                lambda: (queue.qsize(), queue.empty(), queue.full()),  # noqa: B023
                lambda: queue._reader.fileno(),  # noqa: B023
                # Without a message a connection would wait for ever, and is right to.
                lambda: right.poll(wait),  # noqa: B023
                lambda: right.fileno(),  # noqa: B023
            ]
            timed(dice.choice(calls), wait, *errors)
        queue.close()
    print(f"{rounds} rounds", flush=True)
    assert rounds > 5
