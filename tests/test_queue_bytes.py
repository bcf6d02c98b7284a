"""`Queue(max_bytes=)`: the bound, who waits for it, and who dies while waiting."""

import os
import queue as errors
import select
import signal
import threading
import time

import pytest
from children import queues
from children.common import wait_asleep, wait_until

pytestmark = [pytest.mark.fastmp_only("the stdlib bounds messages alone"), pytest.mark.method("fork")]

OVERHEAD = 5  # bytes of a bytes object's message beside its own
ALONE = 64 << 10  # a larger one is its message


def of(size):
    """An object whose message has so many bytes."""
    return b"x" * (size if size > ALONE + OVERHEAD else size - OVERHEAD)


@pytest.fixture
def queue(mp):
    queue = mp.Queue(max_bytes=10_000)
    queue.put(of(1000))
    assert queue.stats().bytes_in == 1000
    queue.get()
    return queue


@pytest.mark.parametrize("bound", [0, -1])
def test_a_bound_is_positive(mp, bound):
    with pytest.raises(ValueError, match="max_bytes"):
        mp.Queue(max_bytes=bound)


def test_what_never_fits_is_refused_at_once(queue):
    for size in (10_001, 200_000):
        with pytest.raises(ValueError, match=f"{size} bytes .*=10000"):
            queue.put(of(size))
    queue.put(of(9000))
    with pytest.raises(ValueError, match="10001 bytes"):
        queue.put(of(10_001))  # not after a wait for room
    assert queue.qsize() == 1


def test_the_bound_is_exact(queue):
    queue.put(of(6000))
    assert not queue.full()
    with pytest.raises(errors.Full):
        queue.put(of(4001), block=False)
    queue.put(of(4000))
    assert queue.full()
    start = time.monotonic()
    with pytest.raises(errors.Full):
        queue.put(1, timeout=0.1)
    assert time.monotonic() - start >= 0.1
    queue.get()
    assert not queue.full()
    queue.put(of(6000))
    assert queue.full()


def test_large_messages(mp):
    queue = mp.Queue(max_bytes=1_000_000)
    queue.put(of(600_000))
    with pytest.raises(errors.Full):
        queue.put(of(600_000), timeout=0.01)
    queue.get()
    queue.put(of(600_000))


def test_beside_maxsize(mp):
    queue = mp.Queue(2, max_bytes=10_000)
    queue.put(1)
    queue.put(2)
    assert queue.full()
    with pytest.raises(errors.Full):
        queue.put_nowait(3)
    queue.get()
    queue.put(of(9000))
    queue.get()
    with pytest.raises(errors.Full):
        queue.put_nowait(of(1001))


def test_readiness_for_writing(queue):
    writable = select.poll()
    writable.register(queue._writer.fileno(), select.POLLOUT)
    assert writable.poll(0)
    queue.put(of(9999))
    assert writable.poll(0)
    queue.get()
    queue.put(of(10_000))
    assert not writable.poll(0)
    queue.get()
    assert writable.poll(1000)


def test_a_large_one_is_not_starved(mp, crew):
    """Two that put small ones all the time keep the queue nearly full."""
    queue = mp.Queue(max_bytes=10_000)
    for _ in range(2):
        crew.start(queues.put_for_ever, queue, of(500))
    wait_until(lambda: queue.stats().put_waits > 0, "the queue is full")
    large = crew.start(queues.put_all, queue, [of(10_000)])
    # Until the watchdog: when a process that has been woken runs is the scheduler's affair.
    while len(queue.get()) < 5000:
        pass
    large.join()
    for member in crew.members:
        member.kill()


def test_a_small_one_does_not_wait_while_there_is_room_and_nobody_is_first(queue, crew):
    queue.put(of(6000))
    queue.put(of(4000))
    small = crew.start(queues.put_all, queue, [b"small"])
    wait_asleep(small.pid)
    assert len(queue.get()) == 6000 - OVERHEAD
    small.join(10)
    assert small.exitcode == 0


def test_all_who_wait_get_in_as_room_is_made(queue, crew):
    """One get makes room for many."""
    queue.put(of(10_000))
    waiting = [crew.start(queues.put_all, queue, [of(1000)]) for _ in range(8)]
    for one in waiting:
        wait_asleep(one.pid)
    queue.get()
    crew.join()
    assert queue.qsize() == 8


@pytest.mark.parametrize("stopped", [False, True])
def test_who_is_first_dies_or_is_stopped(queue, crew, stopped):
    queue.put(of(5000))
    queue.put(of(5000))
    first = crew.start(queues.put_all, queue, [of(9000)])
    wait_asleep(first.pid)
    queue.get()  # wakes it in vain
    time.sleep(0.1)
    wait_asleep(first.pid)
    if stopped:
        os.kill(first.pid, signal.SIGSTOP)
        behind = crew.start(queues.put_all, queue, [of(1000)])
        wait_asleep(behind.pid)
        queue.get()
    else:
        os.kill(first.pid, signal.SIGKILL)
        behind = crew.start(queues.put_all, queue, [of(1000)])
    behind.join(10)
    assert behind.exitcode == 0
    crew.kill(first)


def test_threads_of_one_process(queue):
    """They have one name where it says who is first."""
    queue.put(of(10_000))
    threads = [threading.Thread(target=queue.put, args=(of(size),)) for size in (9000, 500, 8000, 700)]
    for thread in threads:
        thread.start()
    sizes = [len(queue.get(timeout=10)) for _ in range(5)]
    for thread in threads:
        thread.join()
    assert sorted(sizes) == sorted(size - OVERHEAD for size in (10_000, 9000, 500, 8000, 700))


def test_kills_lose_no_room(mp, crew):
    """Putters die at random. The bound holds, and at the end all of it can be used."""
    queue = mp.Queue(max_bytes=10_000)
    for _ in range(30):
        putters = [crew.start(queues.put_for_ever, queue, of(size)) for size in (100, 3000, 9000)]
        for _ in range(200):
            queue.get(timeout=10)
            stats = queue.stats()
            assert stats.bytes_in - stats.bytes_out <= 20_000  # looked at one after the other
        for putter in putters:
            crew.kill(putter)
    while True:
        try:
            queue.get(timeout=0.3)
        except errors.Empty:
            break
    stats = queue.stats()
    assert (stats.bytes_in, stats.messages_in) == (stats.bytes_out, stats.messages_out)
    queue.put(of(10_000), timeout=10)
    assert queue.full()
