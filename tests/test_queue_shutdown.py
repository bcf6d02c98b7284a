"""`Queue.shutdown`: as `queue.Queue.shutdown` of Python 3.13, for every process that has the queue."""

import os
import queue as stdlib
import select
import signal
import sys
import threading
import time

import fastmp
import pytest
from children import queues
from children.common import wait_asleep
from fastmp import ShutDown

pytestmark = [pytest.mark.fastmp_only("the stdlib's has no shutdown"), pytest.mark.method("fork")]


def test_the_exception_is_the_stdlibs_where_it_has_one():
    if sys.version_info >= (3, 13):
        assert ShutDown is stdlib.ShutDown
    assert fastmp.queues.ShutDown is fastmp.exceptions.ShutDown is ShutDown
    assert issubclass(ShutDown, Exception)


@pytest.mark.parametrize("put", [lambda q: q.put(1), lambda q: q.put_nowait(1), lambda q: q.put_many([1])])
def test_nothing_more_is_put(mp, put):
    queue = mp.Queue(2)
    queue.shutdown()
    with pytest.raises(ShutDown):
        put(queue)
    assert queue.empty()


def test_a_full_one_refuses_too(mp):
    queue = mp.Queue(1)
    queue.put(1)
    queue.shutdown()
    for call in (queue.put, queue.put_nowait):
        with pytest.raises(ShutDown):
            call(2)


def test_what_is_there_is_got_first(mp):
    queue = mp.Queue()
    queue.put_many(range(5))
    queue.shutdown()
    assert queue.qsize() == 5
    assert [queue.get(), queue.get_nowait()] == [0, 1]
    assert queue.get_many(10) == [2, 3, 4]
    for call in (queue.get, queue.get_nowait, lambda: queue.get(timeout=1), lambda: queue.get_many(3)):
        with pytest.raises(ShutDown):
            call()
    queue.shutdown()
    with pytest.raises(ShutDown):
        queue.get()


@pytest.mark.parametrize("first", [False, True])
def test_immediate_throws_away(mp, first):
    queue = mp.Queue()
    queue.put_many([1, b"x" * 100_000, b"y" * 5_000_000, (mp.Lock(), mp.Queue())] * 10)
    before = len(os.listdir("/proc/self/fd"))
    if first:
        queue.shutdown()
    queue.shutdown(immediate=True)
    assert queue.empty()
    assert queue.qsize() == 0
    assert not queue.full()
    with pytest.raises(ShutDown):
        queue.get()
    stats = queue.stats()
    assert (stats.depth, stats.messages_out, stats.bytes_out) == (0, 40, stats.bytes_in)
    assert len(os.listdir("/proc/self/fd")) <= before


@pytest.mark.parametrize("immediate", [False, True])
def test_those_who_wait_are_woken(mp, crew, immediate):
    empty, full, bounded = mp.Queue(), mp.Queue(1), mp.Queue(max_bytes=100)
    full.put(1)
    bounded.put(b"x" * 90)
    waiting = [crew.start(queues.get_until_shut, empty) for _ in range(3)]
    waiting += [crew.start(queues.put_until_shut, full, number) for number in range(3)]
    waiting += [crew.start(queues.put_until_shut, bounded, b"x" * 80) for _ in range(3)]
    for one in waiting:
        wait_asleep(one.pid)
    for queue in (empty, full, bounded):
        queue.shutdown(immediate)
    crew.join()
    assert full.qsize() == (0 if immediate else 1)


def test_threads_are_woken(mp):
    queue, seen = mp.Queue(), []

    def get():
        try:
            queue.get()
        except ShutDown:
            seen.append(1)

    threads = [threading.Thread(target=get) for _ in range(3)]
    for thread in threads:
        thread.start()
    time.sleep(0.05)
    queue.shutdown()
    for thread in threads:
        thread.join()
    assert len(seen) == 3


def test_an_event_loop_learns_of_it(mp):
    queue = mp.Queue(1)
    poll = select.poll()
    poll.register(queue._reader.fileno(), select.POLLIN)
    assert not poll.poll(0)
    queue.shutdown()
    for _ in range(3):
        assert poll.poll(0)
        assert queue._reader.poll()
        with pytest.raises(ShutDown):
            queue.get()
    # Asked for afterwards as well.
    other = mp.Queue()
    other.put(1)
    other.shutdown()
    poll = select.poll()
    poll.register(other._reader.fileno(), select.POLLIN)
    assert poll.poll(0)
    other.get()
    assert poll.poll(0)


@pytest.mark.parametrize("immediate", [False, True])
def test_who_watches_for_room_learns_of_it(mp, immediate):
    queue = mp.Queue(2)
    poll = select.poll()
    poll.register(queue._writer.fileno(), select.POLLOUT)
    queue.put(1)
    queue.put(2)
    assert not poll.poll(0)
    queue.shutdown(immediate)
    assert poll.poll(0)
    with pytest.raises(ShutDown):
        queue.put(3)
    assert poll.poll(0)


def test_nothing_is_lost_while_it_is_shut_down(mp, crew):
    """Each put either raises or is got."""
    for immediate in (False, True) * 10:
        queue, out = mp.Queue(), mp.Queue()
        for me in range(2):
            crew.start(queues.count_puts_until_shut, queue, out, me)
        got = crew.start(queues.count_gets_until_shut, queue, out)
        time.sleep(0.02)
        queue.shutdown(immediate)
        crew.join()
        counts = dict(out.get() for _ in range(3))
        if not immediate:
            assert counts["got"] == counts[0] + counts[1]
        stats = queue.stats()
        assert stats.messages_in == stats.messages_out == counts[0] + counts[1]
        assert got.exitcode == 0


def test_who_shuts_it_down_is_killed(mp, crew):
    """Whenever that is, the next one to do it completes it."""
    for delay in range(40):
        queue = mp.Queue()
        queue.put_many(range(2000))
        getter = crew.start(queues.get_until_shut, queue) if delay % 2 else None
        killer = crew.start(queues.shut_down_now, queue, daemon=True)
        time.sleep(delay * 0.0002)
        os.kill(killer.pid, signal.SIGKILL)
        killer.join()
        crew.members.remove(killer)
        queue.shutdown(immediate=True)
        with pytest.raises(ShutDown):
            queue.get(timeout=5)
        assert queue.stats().messages_out == 2000
        if getter:
            getter.join(10)
            assert getter.exitcode == 0


def test_closed(mp):
    queue = mp.Queue()
    queue.close()
    with pytest.raises(ValueError, match="closed"):
        queue.shutdown()
