"""What a queue says of itself: exact, from every process, and while it is used."""

import dataclasses
import os
import queue as errors
import signal
import subprocess
import sys
import threading

import pytest
from children import queues
from children.common import thread_sleeps, wait_asleep, wait_until

pytestmark = [pytest.mark.fastmp_only("the stdlib counts nothing"), pytest.mark.method("fork")]


def test_counts(mp):
    queue = mp.Queue()
    zero = queue.stats()
    assert set(dataclasses.astuple(zero)) == {0}
    with pytest.raises(dataclasses.FrozenInstanceError):
        zero.depth = 1
    for _ in range(5):
        queue.put(b"x" * 100)
    per_message = queue.stats().bytes_in / 5
    assert 100 <= per_message < 120
    for _ in range(3):
        queue.get()
    stats = queue.stats()
    assert (stats.depth, stats.high_water, stats.messages_in, stats.messages_out) == (2, 5, 5, 3)
    assert (stats.bytes_in, stats.bytes_out) == (5 * per_message, 3 * per_message)


@pytest.mark.parametrize("size", [70_000, 3_000_000])
def test_large_messages_count_with_all_their_bytes(mp, size):
    queue = mp.Queue()
    queue.put(b"x" * size)
    assert size <= queue.stats().bytes_in < size + 200
    assert queue.stats().bytes_out == 0
    queue.get()
    assert queue.stats().bytes_out == queue.stats().bytes_in


def test_high_water_is_the_most_there_ever_was(mp):
    queue = mp.Queue()
    for deep in (1, 7, 3, 2000, 10):
        for number in range(deep):
            queue.put(number)
        for number in range(deep):
            assert queue.get() == number
    assert queue.stats().high_water == 2000
    assert queue.stats().depth == 0


def test_high_water_while_the_reader_is_behind(mp):
    """It looks at what there is only now and then."""
    queue = mp.Queue(1000)
    for most in (1, 2, 15, 100, 900):
        queue.put(0)
        while queue.qsize() < most:
            queue.put(0)
            if queue.qsize() < most and queue.qsize() % 3 == 0:
                queue.get()
                queue.put(0)
                queue.put(0)
        while queue.qsize() > 1:
            queue.get()
        assert most * 15 / 16 <= queue.stats().high_water <= most + 2
        queue.get()
    queue.put(0)
    queue.put(0)
    queue.get()
    while not queue.full():
        queue.put(0)
    queue.get()
    assert queue.stats().high_water == 1000


def test_another_process_sees_the_same(mp, crew):
    queue = mp.Queue(10)
    crew.run(queues.put_all, queue, list(range(10)))
    assert queue.full()
    assert (queue.stats().messages_in, queue.stats().high_water) == (10, 10)
    crew.run(queues.get_later, queue, 0)
    assert queue.stats().messages_out == 1


def test_waits_are_counted(mp, crew):
    queue = mp.Queue(1)
    with pytest.raises(errors.Empty):
        queue.get(timeout=0.3)
    assert queue.stats().get_waits == 1
    queue.put(1)
    with pytest.raises(errors.Full):
        queue.put(2, timeout=0.3)
    assert (queue.stats().get_waits, queue.stats().put_waits) == (1, 1)
    putter = crew.start(queues.put_all, queue, [2])
    wait_asleep(putter.pid)
    wait_until(lambda: queue.stats().put_waits == 2, "a wait that goes on is counted")
    assert queue.get() == 1
    crew.join()


class Stop(Exception):
    """What a handler raises."""


@pytest.mark.parametrize("bound", ["maxsize", "max_bytes"])
def test_a_wait_that_a_handler_has_ended_goes_on_in_no_other(mp, bound):
    queue, item = mp.Queue(**{bound: 1 if bound == "maxsize" else 1000}), b"x" * 900
    queue.put(item)
    me = threading.get_native_id()

    def stop(number, frame):
        raise Stop

    def interrupt():
        wait_until(lambda: thread_sleeps(me), "the main thread in its wait")
        os.kill(os.getpid(), signal.SIGUSR1)

    before = signal.signal(signal.SIGUSR1, stop)
    try:
        for waits in range(1, 4):
            other = threading.Thread(target=interrupt)
            with pytest.raises(Stop):
                other.start()
                queue.put(item)
            other.join()
            assert queue.stats().put_waits == waits
    finally:
        signal.signal(signal.SIGUSR1, before)


def test_while_others_put_and_get(mp, crew):
    """Never more out than in, and never fewer than before."""
    queue, count = mp.Queue(50), 5000
    crew.start(queues.put_all, queue, list(range(count)))
    crew.start(queues.get_some, queue, count)
    before = queue.stats()
    while before.messages_out < count:
        now = queue.stats()
        assert before.messages_in <= now.messages_in <= count
        assert before.messages_out <= now.messages_out <= now.messages_in
        assert now.bytes_out <= now.bytes_in
        assert now.depth <= 50
        assert now.high_water <= 50
        before = now
    crew.join()
    assert queue.stats().bytes_in == queue.stats().bytes_out


def test_closed(mp):
    queue = mp.Queue()
    queue.close()
    with pytest.raises(ValueError, match="closed"):
        queue.stats()


def test_nobody_pays_for_dataclasses():
    code = "import sys, fastmp; fastmp.Queue().put(1); print('dataclasses' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
