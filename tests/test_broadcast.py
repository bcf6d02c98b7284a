"""Broadcasts: every reader gets every message, and a dead or slow one blocks nobody.

Long, for it holds all tests of one object.
"""

import contextlib
import errno
import gc
import mmap
import os
import pickle
import queue as errors
import random
import signal
import subprocess
import sys
import threading
import time

import fastmp
import numpy
import pytest
from children import broadcasts
from children.common import look_at, wait_asleep, wait_until

pytestmark = pytest.mark.fastmp_only("the stdlib has no such thing")

LIMIT = broadcasts.LIMIT
OBJECTS = [
    None,
    7,
    "text",
    {"step": 12, "obs": list(range(50)), "info": {"a": "x" * 40, "c": [1.5] * 10}},
    bytes(range(256)) * 3,
    bytes(range(256)) * 3000,
    bytearray(b"abc" * 100_000),
    [("nested", {1: frozenset([2])})] * 200,
    "\N{SNOWMAN}" * 50_000,
    numpy.arange(200_000).reshape(2, -1),
]


def same(one, other):
    return numpy.array_equal(one, other) if isinstance(other, numpy.ndarray) else one == other


def fds():
    return len(os.listdir("/proc/self/fd"))


def segments():
    """Descriptors of broadcasts that this process has."""
    count = 0
    for fd in os.listdir("/proc/self/fd"):
        with contextlib.suppress(FileNotFoundError):  # that of the listing itself
            count += "fastmp-broadcast" in os.readlink(f"/proc/self/fd/{fd}")
    return count


def test_every_reader_gets_equal_objects(mp, crew):
    broadcast, results = mp.Broadcast(len(OBJECTS)), mp.Queue()
    readers = [broadcast.reader() for _ in range(2)]
    for reader in readers:
        crew.start(broadcasts.read_all, reader, results)
    ready = mp.RawArray("b", 1)
    crew.start(broadcasts.join_and_read, broadcast, ready, 0, results)
    broadcasts.wait_for_all(ready)
    for obj in OBJECTS:
        broadcast.send(obj, LIMIT)
    broadcast.shutdown()
    for _ in range(3):
        _, came, missed = results.get(timeout=LIMIT)
        assert len(came) == len(OBJECTS)
        assert missed == 0
        assert all(map(same, came, OBJECTS))
    crew.join()
    # They have gone to the children.
    for reader in readers:
        with pytest.raises(ValueError, match="another process"):
            reader.recv(0)
    assert broadcast.readers() == []


def test_what_arrives_is_the_receivers_own():
    broadcast = fastmp.Broadcast()
    one, other = broadcast.reader(), broadcast.reader()
    array = numpy.zeros(100_000)
    broadcast.send(array)
    array[:] = 1
    mine = one.recv(0)
    mine[:] = 2
    assert other.recv(0).sum() == 0


def test_from_when_it_joined_to_the_end():
    broadcast = fastmp.Broadcast(4)
    broadcast.send("nobody is there")
    with broadcast.reader() as first:
        broadcast.send(1)
        second = broadcast.reader()
        broadcast.send(2)
        broadcast.shutdown()
        with pytest.raises(ValueError, match="shut down"):
            broadcast.send(3)
        assert (list(first), list(second)) == ([1, 2], [2])
        for reader in (first, second):
            with pytest.raises(EOFError):
                reader.recv()
        late = broadcast.reader()
        with pytest.raises(EOFError):
            late.recv()
    assert first.closed
    for use in (first.recv, lambda: first.missed):
        with pytest.raises(ValueError, match="closed"):
            use()
    broadcast.close()
    for use in (broadcast.readers, broadcast.stats, broadcast.reader, broadcast.shutdown, lambda: broadcast.send(1)):
        with pytest.raises(ValueError, match="closed"):
            use()
    assert second.missed == 0  # readers go on


def test_timeouts_and_who_is_named():
    broadcast = fastmp.Broadcast(2)
    slow, quick = broadcast.reader(), broadcast.reader()
    start = time.monotonic()
    with pytest.raises(errors.Empty):
        slow.recv(0.05)
    assert time.monotonic() - start >= 0.05
    for number in range(2):
        broadcast.send(number)
        assert quick.recv() == number
    for timeout in (0, -1, 0.05):
        with pytest.raises(errors.Full, match=rf"process {os.getpid()} \(2 messages behind\)") as caught:
            broadcast.send("more", timeout)
    assert time.monotonic() - start >= 0.1
    assert caught.value.readers == [(os.getpid(), 2, 0)]
    assert pickle.loads(pickle.dumps(caught.value)).readers == caught.value.readers
    assert broadcast.stats() == (2, 2, broadcast.stats().unread_bytes, 2)
    assert slow.recv() == 0
    broadcast.send("more", 0)
    assert [slow.recv(0), slow.recv(0), quick.recv(0)] == [1, "more", "more"]


def test_who_is_skipped_counts_exactly():
    choice = random.Random(5)
    broadcast = fastmp.Broadcast(3, lag="skip")
    broadcast.send("before anybody joined")
    reader, sent, received = broadcast.reader(), 0, 0
    for _ in range(200):
        for _ in range(choice.randrange(7)):
            broadcast.send((sent, bytes(choice.choice([1, 2000, 200_000]))))
            sent += 1
        for _ in range(choice.randrange(4)):
            with contextlib.suppress(errors.Empty):
                number, _ = reader.recv(0)
                assert number == received + reader.missed
                received += 1
    broadcast.shutdown()
    received += len(list(reader))
    assert received + reader.missed == sent
    assert received > 50
    assert reader.missed > 50


def test_what_pickling_does():
    """It runs once, outside all locks, and what it raises comes up as it is."""
    broadcast, calls = fastmp.Broadcast(1), []
    reader = broadcast.reader()

    class Counts:
        def __reduce__(self):
            calls.append(self)
            return int, (7,)

    class Raises:
        def __reduce__(self):
            raise errors.Full("mine")

    with pytest.raises(errors.Full, match="mine") as caught:
        broadcast.send(Raises())
    assert caught.type is errors.Full
    broadcast.send(Counts())
    for timeout in (0, 0.02):
        with pytest.raises(fastmp.broadcast.ReaderLaggingError):
            broadcast.send(Counts(), timeout)
    assert len(calls) <= 3
    assert reader.recv(0) == 7
    for size in (10, 1_000_000):
        closes = fastmp.Broadcast(2)
        reader = closes.reader()

        class Closes:
            def __reduce__(self, closes=closes, size=size):
                closes.close()
                return bytes, (bytes(size),)

        with pytest.raises(ValueError, match="closed"):
            closes.send(Closes())
        with pytest.raises(errors.Empty):
            reader.recv(0)


def test_who_does_not_wait_drops_the_dead(mp, crew):
    for obj in ("small", bytes(1_000_000)):
        broadcast, ready = mp.Broadcast(1), mp.RawArray("b", 1)
        sleeper = crew.start(broadcasts.join_and_sleep, broadcast, ready, 0)
        broadcasts.wait_for_all(ready)
        broadcast.send(obj)
        crew.kill(sleeper)
        broadcast.send(obj, 0)
        assert broadcast.readers() == []


def test_what_is_given_to_nobody_is_not_waited_for():
    broadcast = fastmp.Broadcast(2)
    # What could not be pickled has gone nowhere.
    reader, (receiving, sending) = broadcast.reader(), fastmp.Pipe(False)
    with pytest.raises((AttributeError, pickle.PicklingError)):
        sending.send((reader, lambda: None))
    with pytest.raises(TypeError, match="cannot be broadcast"):
        broadcast.send({"r": reader})
    del reader
    gc.collect()
    assert broadcast.readers() == []
    # This is thrown away with its pipe, and nobody can know.
    sending.send(broadcast.reader())
    sending.close()
    receiving.close()
    gc.collect()
    for number in range(2):
        broadcast.send(number)
    with pytest.raises(errors.Full):
        broadcast.send("more", 0)
    # As if it had been given away eleven seconds ago: its slot's sixth word, in ticks of 2**20 ns.
    fd, at = broadcast._handle()[0], 8192 + 5 * 8
    given = int.from_bytes(os.pread(fd, 8, at), sys.byteorder)
    os.pwrite(fd, (given - (11_000_000_000 >> 20)).to_bytes(8, sys.byteorder), at)
    for number in range(4):
        broadcast.send(number, 0)


def test_closing_gives_memory_back():
    broadcast = fastmp.Broadcast(8)

    def used():
        return os.fstat(broadcast._handle()[0]).st_blocks * 512

    for leave in (lambda reader: reader.close(), lambda reader: None):
        reader = broadcast.reader()
        for _ in range(4):
            broadcast.send(bytes(20 << 20))
        assert used() >= 80 << 20
        leave(reader)
        del reader
        gc.collect()
        # What is kept for messages to come is not kept for long.
        wait_until(lambda: broadcast.send("on") or used() < 9 << 20)


def test_bounds():
    for arguments in ((0,), (-1,), (16385,), (1 << 63,), (-1 << 70,)):
        with pytest.raises(ValueError, match="maxsize"):
            fastmp.Broadcast(*arguments)
    for wrong in ({"max_bytes": 0}, {"max_bytes": -5}, {"max_bytes": 1 << 64}, {"lag": "wait"}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            fastmp.Broadcast(**wrong)
    broadcast = fastmp.Broadcast(10, max_bytes=250_000)
    assert (broadcast.maxsize, broadcast.max_bytes, broadcast.lag) == (10, 250_000, "block")
    reader = broadcast.reader()
    with pytest.raises(ValueError, match="too large"):
        broadcast.send(bytes(300_000))
    for _ in range(2):
        broadcast.send(bytes(100_000), 0)
    with pytest.raises(errors.Full):
        broadcast.send(bytes(100_000), 0)
    assert len(reader.recv(0)) == 100_000
    broadcast.send(bytes(100_000), 0)


def test_what_cannot_go_to_many(mp):
    broadcast = mp.Broadcast()
    reader = broadcast.reader()
    for obj in (mp.Lock(), [mp.Queue()], {"r": broadcast.reader()}):
        with pytest.raises(TypeError, match=f"{type(obj).__name__} cannot be broadcast"):
            broadcast.send(obj)
    with pytest.raises((AttributeError, pickle.PicklingError)):
        broadcast.send(lambda: None)
    with pytest.raises(RuntimeError):
        pickle.dumps(broadcast)
    broadcast.send("after")
    assert reader.recv(0) == "after"


def test_through_a_queue_and_a_pipe(mp, crew):
    broadcast, outbox, results = mp.Broadcast(), mp.Queue(), mp.Queue()
    reader = broadcast.reader()
    broadcast.send("first")
    broadcast.send("second")
    assert reader.recv() == "first"
    outbox.put(reader)
    child = crew.start(broadcasts.receive_reader, outbox, results)
    receiving, sending = mp.Pipe(False)
    sending.send(broadcast)
    again = receiving.recv()
    again.send(bytes(100_000))
    again.shutdown()
    assert results.get(timeout=LIMIT) == (child.pid, ["second", bytes(100_000)], 0)
    with pytest.raises(ValueError, match="another process"):
        reader.recv(0)
    crew.join()


def test_a_reader_whose_sender_died(mp, crew):
    broadcast, outbox = mp.Broadcast(2), mp.Queue()
    crew.run(broadcasts.send_reader_and_die, broadcast, outbox)
    # It holds up nobody, whoever has it.
    broadcast.send("one", LIMIT)
    broadcast.send("two", LIMIT)
    reader = outbox.get(timeout=LIMIT)
    assert (reader.recv(LIMIT), reader.missed) == ("two", 2)
    broadcast.send("three", LIMIT)
    assert reader.recv(LIMIT) == "three"


@pytest.mark.method("fork")
def test_inherited_readers(mp, crew):
    broadcast, results = mp.Broadcast(8), mp.Queue()
    unused, used = broadcast.reader(), broadcast.reader()
    broadcast.send(0)
    assert used.recv() == 0
    broadcast.send(1)
    crew.run(broadcasts.use_inherited, unused, used, results)
    assert results.get(timeout=LIMIT) == (0, 1, 0, 0)
    assert used.recv(0) == 1
    with pytest.raises(ValueError, match="another process"):
        unused.recv(0)
    # What a child closes, is closed there.
    done = mp.RawValue("b")
    crew.start(broadcasts.close_inherited, used, broadcast, done)
    wait_until(lambda: done.value)
    broadcast.send(2)
    assert used.recv(0) == 2


def test_killed_readers_and_a_sender_that_waits(mp, crew):
    broadcast, ready = mp.Broadcast(4), mp.RawArray("b", 3)
    sleepers = [crew.start(broadcasts.join_and_sleep, broadcast, ready, me) for me in range(2)]
    alive = broadcast.reader()
    ready[2] = 1
    broadcasts.wait_for_all(ready)
    waiting, done = mp.RawValue("b"), mp.RawValue("b")
    sender = crew.start(broadcasts.fill, broadcast, waiting, done)
    wait_asleep(sender.pid, waiting)
    assert {info.pid for info in broadcast.readers()} == {os.getpid(), *(sleeper.pid for sleeper in sleepers)}
    for _ in range(4):
        alive.recv(0)
    os.kill(sleepers[0].pid, signal.SIGKILL)  # and stays a zombie
    crew.kill(sleepers[1])
    wait_until(lambda: done.value, "the sender to go on")
    assert alive.recv(LIMIT) == b"more"
    crew.kill(sleepers[0])
    crew.join()
    assert [info.pid for info in broadcast.readers()] == [os.getpid()]


def has_ended(pid):
    """With all its threads, of which an emulated process has two. The fork server waits for its
    children, and nothing is left of them.
    """
    try:
        return os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None
    except ChildProcessError:
        return look_at(pid) is None


@pytest.mark.method("spawn")
def test_a_child_that_is_no_program_yet_when_it_is_given_a_reader(mp, crew, monkeypatch):
    """Without vfork start() returns before."""
    if not hasattr(subprocess, "_USE_VFORK"):
        pytest.skip("this Python cannot be told not to use vfork")
    monkeypatch.setattr(subprocess, "_USE_VFORK", False)
    broadcast, results = mp.Broadcast(1), mp.Queue()
    crew.start(broadcasts.read_all, broadcast.reader(), results)
    for number in range(5):
        broadcast.send(number)
    broadcast.shutdown()
    assert results.get()[1:] == (list(range(5)), 0)
    crew.join()


@pytest.mark.parametrize("nested", [False, True])
def test_a_child_that_dies_before_it_reads(mp, crew, nested):
    if os.environ.get("FASTMP_TEST_EMULATED") and mp.get_start_method() == "spawn":
        pytest.skip("emulated: vfork does not wait for the child to run its program, and so it is taken for another")
    broadcast = mp.Broadcast(2)
    given = broadcast.reader()
    child = crew.start(broadcasts.sleep_with, {"all": [given]} if nested else given)
    for number in range(2):
        broadcast.send(number, LIMIT)
    with pytest.raises(errors.Full, match=f"process {child.pid} "):
        broadcast.send("more", 0.1)
    os.kill(child.pid, signal.SIGKILL)
    wait_until(lambda: has_ended(child.pid))
    broadcast.send("more", 0)
    crew.kill(child)
    assert broadcast.readers() == []
    with pytest.raises(ValueError, match="another process"):
        given.recv(0)


def test_a_stopped_reader_is_named_and_goes_on(mp, crew):
    broadcast, ready, results = mp.Broadcast(3), mp.RawArray("b", 1), mp.Queue()
    slow = crew.start(broadcasts.join_and_read, broadcast, ready, 0, results)
    broadcasts.wait_for_all(ready)
    os.kill(slow.pid, signal.SIGSTOP)
    with pytest.raises(errors.Full, match=f"process {slow.pid} "):
        for number in range(10):
            broadcast.send(number, 0.2)
    os.kill(slow.pid, signal.SIGCONT)
    broadcast.send("last", LIMIT)
    broadcast.shutdown()
    _, came, _ = results.get(timeout=LIMIT)
    assert came[-1] == "last"
    assert came[:-1] == list(range(len(came) - 1))
    crew.join()


def test_a_reader_comes_though_the_lock_is_held_by_one_who_is_stopped(mp, crew):
    """The timeout of who gets it is kept."""
    broadcast, carrier, results = mp.Broadcast(4), mp.Queue(), mp.Queue()
    child = crew.start(broadcasts.sleep_with, broadcast.reader())
    reader = broadcast.reader()
    carrier.put(reader)
    broadcast.send("before")
    with open(broadcast._handle()[0], "r+b", closefd=False) as file, mmap.mmap(file.fileno(), 16384) as words:
        # As if it had been stopped just then: the first word is the lock, the first slot's the
        # child's.
        os.kill(child.pid, signal.SIGSTOP)
        wait_until(lambda: look_at(child.pid).state == "T", "it is stopped")
        words[64:72] = words[8192:8200]
    receiver = crew.start(broadcasts.receive_and_tell, carrier, results)
    assert results.get(timeout=LIMIT) == "here"
    crew.kill(child)
    assert results.get(timeout=LIMIT) == ("before", 0)
    crew.join()
    assert receiver.exitcode == 0


def test_several_senders_each_in_order(mp, crew):
    broadcast, ready, results = mp.Broadcast(16), mp.RawArray("b", 2), mp.Queue()
    readers = [crew.start(broadcasts.join_and_read, broadcast, ready, me, results) for me in range(2)]
    broadcasts.wait_for_all(ready)
    senders = [crew.start(broadcasts.send_numbers, broadcast, me, 500) for me in range(3)]
    for sender in senders:
        sender.join()
    broadcast.shutdown()
    orders = [results.get(timeout=LIMIT)[1] for _ in readers]
    assert orders[0] == orders[1]
    for me in range(3):
        assert [number for sender, number in orders[0] if sender == me] == list(range(500))
    crew.join()


@pytest.mark.parametrize("lag", ["block", "skip"])
def test_killed_senders(mp, crew, lag):
    """What was sent is there, whole and in order, but for what was in the dead one's hands."""
    rounds = 12 if mp.get_start_method() == "fork" else 2
    choice = random.Random(rounds)
    broadcast, sent = mp.Broadcast(64, lag=lag), mp.RawArray("l", rounds)
    reader = broadcast.reader()
    for me in range(rounds):
        sender = crew.start(broadcasts.send_for_ever, broadcast, me, sent)
        wait_until(lambda me=me: sent[me] > 2)
        time.sleep(choice.random() * 0.005)
        crew.kill(sender)
        count = 0
        with contextlib.suppress(errors.Empty):
            while True:
                sender, number, data = reader.recv(0)
                assert sender == me
                assert number == count if lag == "block" else number >= count
                assert data.count(bytes([number % 251])) == len(data)
                count = number + 1
        assert count in (sent[me], sent[me] + 1)


def test_threads_share_a_reader():
    broadcast, came = fastmp.Broadcast(8), []
    reader = broadcast.reader()

    def read():
        for number, _ in reader:
            came.append(number)

    threads = [threading.Thread(target=read) for _ in range(3)]
    for thread in threads:
        thread.start()
    for number in range(400):
        broadcast.send((number, bytes(100_000 * (number % 3))), LIMIT)
    broadcast.shutdown()
    for thread in threads:
        thread.join()
    assert sorted(came) == list(range(400))


@pytest.mark.method("fork")
@pytest.mark.filterwarnings("ignore:.*multi-threaded:DeprecationWarning")
def test_forked_while_threads_use_it(mp, crew):
    broadcast, results = mp.Broadcast(64), mp.Queue()
    for _ in range(10):
        with broadcast.reader() as used, broadcast.reader() as unused:
            broadcast.send("first")
            used.recv(0)
            came = []
            waiting = threading.Thread(target=lambda used=used, came=came: came.append(used.recv(LIMIT)))
            waiting.start()
            child = crew.start(broadcasts.use_all, broadcast, used, unused, results)
            assert results.get(timeout=LIMIT) == ["from the child", "first", "from the child"]
            waiting.join()
            assert came == ["from the child"]
            child.join()
    crew.join()
    broadcast.send("after")
    assert broadcast.readers() == []


def test_closing_ends_a_wait_in_another_thread():
    broadcast, raised = fastmp.Broadcast(), []
    reader = broadcast.reader()

    def read():
        try:
            reader.recv()
        except ValueError as error:
            raised.append(str(error))

    thread = threading.Thread(target=read)
    thread.start()
    time.sleep(0.05)
    reader.close()
    thread.join()
    assert raised == ["the reader is closed"]
    assert broadcast.readers() == []


def test_a_signal_handler_runs_and_loses_nothing():
    class Alarm(Exception):
        pass

    def handler(*_):
        raise Alarm

    broadcast = fastmp.Broadcast(1)
    reader = broadcast.reader()
    before = signal.signal(signal.SIGALRM, handler)
    try:
        for wait in (reader.recv, lambda: broadcast.send("second")):
            signal.setitimer(signal.ITIMER_REAL, 0.05)
            with pytest.raises(Alarm):
                wait()
            broadcast.send("first", 0) if wait == reader.recv else None
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert reader.recv(0) == "first"
    with pytest.raises(errors.Empty):
        reader.recv(0)


@pytest.mark.method("fork")
def test_coming_and_going_keeps_memory_and_descriptors_flat(mp, crew):
    broadcast, flag = mp.Broadcast(4), mp.RawValue("b")
    sender = crew.start(broadcasts.send_until, broadcast, flag)
    for _ in range(30):
        others = [crew.start(broadcasts.come_and_go, broadcast, 5) for _ in range(2)]
        victim = crew.start(broadcasts.read_for_ever, broadcast.reader(), mp.RawArray("b", 1), 0)
        with broadcast.reader() as reader:
            reader.recv(LIMIT)
        crew.kill(victim)
        for other in others:
            other.join()
        gc.collect()
    flag.value = 1
    sender.join()
    crew.members.clear()
    gc.collect()
    assert segments() == 1
    assert broadcast.readers() == []
    inode = os.fstat(broadcast._handle()[0])
    assert inode.st_blocks * 512 < 40 << 20


def test_descriptors_of_its_own():
    before = fds()
    broadcast = fastmp.Broadcast()
    readers = [broadcast.reader() for _ in range(10)]
    assert fds() == before + 1
    number = broadcast._handle()[0]
    broadcast.close()
    del readers
    gc.collect()
    assert fds() == before
    with pytest.raises(OSError) as caught:
        os.fstat(number)
    assert caught.value.errno == errno.EBADF
