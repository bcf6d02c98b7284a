"""SimpleQueue, held to what the stdlib's does."""

import concurrent.futures
import os
import pickle
import select
import signal
import threading
import time
from multiprocessing.connection import wait

import pytest
from children import queues
from children.common import look_at, wait_asleep, wait_until
from children.objects import SomeError, Unsendable


@pytest.fixture
def queue(mp):
    queue = mp.SimpleQueue()
    yield queue
    queue.close()


def test_first_in_first_out(queue):
    assert queue.empty()
    for item in (1, "two", b"x" * 1000, None):
        assert queue.put(item) is None
    assert not queue.empty()
    assert [queue.get() for _ in range(4)] == [1, "two", b"x" * 1000, None]
    assert queue.empty()


def test_its_surface(mp, queue):
    assert not isinstance(queue, type(mp.Queue()))
    for name in ("qsize", "full", "join_thread", "cancel_join_thread", "get_nowait", "put_nowait", "task_done", "join"):
        assert not hasattr(queue, name), name
    assert type(queue)[int]
    with pytest.raises(TypeError):
        queue.get(False)


def test_between_processes(mp, crew, queue):
    out = mp.SimpleQueue()
    crew.start(queues.echo_simple, queue, out)
    for item in ("a", [1, 2], None):
        queue.put(item)
        assert out.get() == item
    crew.join()


def test_several_producers_and_consumers(mp, crew, queue):
    out = mp.SimpleQueue()
    for _ in range(3):
        crew.start(queues.echo_simple, queue, out)
    for number in range(1, 200):
        queue.put(number)
    for _ in range(3):
        queue.put(None)
    assert sorted(filter(None, (out.get() for _ in range(202)))) == list(range(1, 200))
    crew.join()


def test_a_waiting_get_is_woken(crew, queue):
    waiting = crew.start(queues.get_simple, queue)
    wait_asleep(waiting.pid)
    queue.put(1)
    crew.join()


def test_what_cannot_be_pickled(queue):
    with pytest.raises(SomeError):
        queue.put(Unsendable())
    assert queue.empty()
    queue.put(1)
    assert queue.get() == 1


def test_pickled_only_on_its_way_to_a_process(queue):
    with pytest.raises(RuntimeError):
        pickle.dumps(queue)


@pytest.mark.parametrize("used", [False, True])
def test_closed(mp, used):
    queue = mp.SimpleQueue()
    if used:
        queue.put(1)
    queue.close()
    for call in (queue.get, queue.empty, lambda: queue.put(1)):
        with pytest.raises(OSError, match="closed"):
            call()
    queue.close()


def test_its_reader(queue):
    """What pools and executors do with it."""
    reader, writer = queue._reader, queue._writer
    assert not reader.poll()
    assert queue._poll() is False
    assert wait([reader], 0) == []
    assert not reader.closed
    assert not writer.closed
    queue.put("a")
    assert reader.poll(1)
    assert queue._poll()
    assert wait([reader], 1) == [reader]
    assert select.select([reader], [], [], 1)[0] == [reader]
    assert reader.recv() == "a"
    writer.send({"b": 1})
    assert queue.get() == {"b": 1}
    queue.put([1, 2])
    assert pickle.loads(reader.recv_bytes()) == [1, 2]
    writer.send_bytes(pickle.dumps("c"))
    assert queue.get() == "c"
    with queue._rlock, queue._wlock:
        pass
    queue.close()


def test_a_worker_learns_that_its_parent_is_gone(mp, crew, queue):
    """As a pool's workers do: they close their writing end, and the end of the file ends them."""
    report, told = mp.Pipe(False)
    parent = crew.start(queues.start_worker_and_sleep, queue, told, daemon=False)
    worker = report.recv()
    queue._writer.close()
    time.sleep(0.1)
    os.kill(parent.pid, signal.SIGKILL)
    parent.join()
    crew.members.remove(parent)
    wait_until(lambda: (seen := look_at(worker)) is None or seen.state in "ZX", "the worker ends")


def test_an_executor(mp):
    with concurrent.futures.ProcessPoolExecutor(2, mp_context=mp) as executor:
        assert list(executor.map(abs, range(-20, 0))) == list(range(20, 0, -1))


def test_a_pool(mp):
    with mp.Pool(2) as pool:
        assert pool.map(abs, range(-20, 0)) == list(range(20, 0, -1))
        pool.close()
        pool.join()


@pytest.mark.fastmp_only("the stdlib's blocks while its pipe is full")
def test_put_never_waits(queue):
    for number in range(300):
        queue.put((number, b"x" * 10_000))
    assert [queue.get()[0] for _ in range(300)] == list(range(300))


@pytest.mark.fastmp_only("the stdlib's lets a thread hang")
def test_threads_get(queue):
    got = []
    threads = [threading.Thread(target=lambda: got.append(queue.get())) for _ in range(4)]
    for thread in threads:
        thread.start()
    for number in range(4):
        queue.put(number)
    for thread in threads:
        thread.join()
    assert sorted(got) == list(range(4))
