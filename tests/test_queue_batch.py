"""`put_many` and `get_many`: order, bounds, errors, kills; what is lost when one message is bad."""

import itertools
import os
import queue as errors
import signal
import threading
import time

import fastmp
import pytest
from children import queues
from children.common import wait_asleep
from children.objects import SomeError, Unreceivable, Unsendable

pytestmark = [pytest.mark.fastmp_only("the stdlib has no batches"), pytest.mark.method("fork")]

MIXED = [1, "two", b"x" * 70_000, None, b"y" * 3_000_000, {"k": [1, 2]}, *range(500), b"z" * 60_000]


def test_all_kinds_in_order(mp):
    queue = mp.Queue()
    assert queue.put_many(iter(MIXED)) is None
    assert queue.qsize() == len(MIXED)
    got = []
    while len(got) < len(MIXED):
        batch = queue.get_many(len(MIXED))
        assert isinstance(batch, list)
        assert batch
        got += batch
    assert got == MIXED
    assert queue.empty()
    stats = queue.stats()
    assert (stats.messages_in, stats.bytes_in) == (stats.messages_out, stats.bytes_out)


def test_all_that_is_there_comes_at_once(mp):
    queue = mp.Queue()
    for count in (1, 2, 3, 100, 101, 5000):
        queue.put_many(range(count))
        assert queue.get_many(10_000) == list(range(count))
    queue.put_many(MIXED)
    assert queue.get_many(10_000) == MIXED


@pytest.mark.parametrize("most", [1, 2, 3, 7, 1000])
def test_no_more_than_asked_for(mp, most):
    queue = mp.Queue()
    queue.put_many(range(50))
    got = []
    while got[-1:] != [49]:
        batch = queue.get_many(most)
        assert len(batch) <= most
        got += batch
    assert got == list(range(50))


def test_with_single_calls_and_wraps(mp):
    """The ring's base is passed many times, at every offset."""
    queue, sent, came = mp.Queue(), itertools.count(), itertools.count()
    for step in range(300):
        put = 1 + step * 7 % 40
        batch = [(next(sent), b"x" * (step % 50)) for _ in range(put)]
        queue.put_many(batch[1:])
        queue.put(batch[0])
        expected = batch[1:] + batch[:1]
        got = [queue.get()] if step % 3 else []
        while len(got) < put:
            got += queue.get_many(13)
        assert got == expected
        assert [next(came) for _ in range(put)] == sorted(number for number, _ in got)


def test_nothing(mp):
    queue = mp.Queue()
    queue.put_many([])
    assert queue.empty()
    for most in (0, -1):
        with pytest.raises(ValueError, match="max_items"):
            queue.get_many(most)
    with pytest.raises(errors.Empty):
        queue.get_many(10, False)
    start = time.monotonic()
    with pytest.raises(errors.Empty):
        queue.get_many(10, timeout=0.1)
    assert time.monotonic() - start >= 0.1


def test_full_says_how_many_went_in(mp):
    queue = mp.Queue(10)
    for block, timeout in ((False, None), (True, 0.05), (True, 0)):
        with pytest.raises(errors.Full) as full:
            queue.put_many(range(25), block, timeout)
        assert full.value.count == 10
        with pytest.raises(errors.Full) as full:
            queue.put_many([1], block, timeout)
        assert full.value.count == 0
        assert queue.get_many(100) == list(range(10))


def test_bounded_bytes(mp):
    queue = mp.Queue(max_bytes=1000)
    with pytest.raises(errors.Full) as full:
        queue.put_many([b"x" * 95] * 20, timeout=0.05)
    stats = queue.stats()
    assert full.value.count == stats.messages_in
    assert 900 < stats.bytes_in <= 1000
    queue.get_many(100)
    with pytest.raises(ValueError, match="max_bytes"):
        queue.put_many([1, 2, b"x" * 1001])
    with pytest.raises(ValueError, match="max_bytes"):
        queue.put_many([1, 2, b"x" * 100_000])
    assert queue.empty()


def test_waits_for_room_and_goes_on(mp, crew):
    queue = mp.Queue(7)
    putter = crew.start(queues.put_batch, queue, list(range(100)))
    wait_asleep(putter.pid)
    got = []
    while len(got) < 100:
        got += queue.get_many(3, timeout=10)
    assert got == list(range(100))
    crew.join()


def test_wakes_all_who_wait(mp, crew):
    queue, out = mp.Queue(), mp.Queue()
    getters = [crew.start(queues.pass_on, queue, out) for _ in range(5)]
    for getter in getters:
        wait_asleep(getter.pid)
    queue.put_many(range(5))
    crew.join()
    assert sorted(out.get_many(5) + [out.get() for _ in range(out.qsize())]) == list(range(5))


def test_what_cannot_be_sent_leaves_all_behind(mp):
    queue = mp.Queue()
    with pytest.raises(SomeError):
        queue.put_many([1, 2, Unsendable()])
    with pytest.raises(ZeroDivisionError):
        queue.put_many(1 // number for number in (1, 0))
    with pytest.raises(TypeError):
        queue.put_many(3)
    assert queue.empty()
    assert queue.stats().messages_in == 0


def test_what_cannot_be_received_costs_no_other(mp):
    queue = mp.Queue()
    queue.put_many([1, Unreceivable(), "a", Unreceivable(), 2.5])
    with pytest.raises(fastmp.BatchError) as failed:
        queue.get_many(10)
    assert failed.value.objects == [1, "a", 2.5]
    assert [index for index, _ in failed.value.errors] == [1, 3]
    assert all(isinstance(error, Exception) for _, error in failed.value.errors)
    assert failed.value.__cause__ is failed.value.errors[0][1]
    assert "2 of 5" in str(failed.value)
    assert queue.empty()


def test_locks_and_queues_travel_in_batches(mp, crew):
    queue, inner = mp.Queue(), mp.Queue()
    queue.put_many([(inner, mp.Lock(), number) for number in range(20)])
    crew.run(queues.put_into_each, queue, 20)
    assert sorted(inner.get_many(100)) == list(range(20))


def test_closed(mp):
    queue = mp.Queue()
    queue.close()
    with pytest.raises(ValueError, match="closed"):
        queue.put_many([1])
    with pytest.raises(ValueError, match="closed"):
        queue.get_many(1)


class Interrupt(Exception):
    pass


def test_an_interrupt_loses_no_message(mp, crew):
    """A handler raises again and again, wherever the interpreter looks for signals."""

    queue, count = mp.Queue(1000), 20_000
    got, interrupts, armed, batch = [], 0, False, None

    def interrupt(number, frame):
        nonlocal interrupts, armed
        if armed:
            interrupts, armed = interrupts + 1, False
            raise Interrupt

    putter = crew.start(queues.put_batches_for_ever, queue, 50)
    before = signal.signal(signal.SIGALRM, interrupt)
    signal.setitimer(signal.ITIMER_REAL, 1e-4, 1e-4)
    try:
        # How many there are in so many messages depends on how often this process runs.
        while len(got) < count or interrupts < 10:
            batch = None
            try:
                armed = True
                batch = queue.get_many(64)
                armed = False
                for _ in range(2):  # here, if it is late
                    pass
            except Interrupt:
                pass
            if batch is not None:
                got += batch
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert got == list(range(len(got)))
    putter.kill()


def test_threads(mp):
    queue, got = mp.Queue(100), []
    threads = [threading.Thread(target=queue.put_many, args=([(me, n) for n in range(2000)],)) for me in range(3)]
    for thread in threads:
        thread.start()
    while len(got) < 6000:
        got += queue.get_many(50, timeout=10)
    for thread in threads:
        thread.join()
    for me in range(3):
        assert [n for who, n in got if who == me] == list(range(2000))


def test_killed_putters_leave_a_beginning_of_their_batch(mp, crew):
    for _ in range(20):
        queue = mp.Queue()
        putter = crew.start(queues.put_batches_for_ever, queue, 100)
        got = queue.get_many(1000)
        os.kill(putter.pid, signal.SIGKILL)
        crew.kill(putter)
        queue.put("end")
        while got[-1] != "end":
            got += queue.get_many(1000, timeout=10)
        assert got[:-1] == list(range(len(got) - 1))
