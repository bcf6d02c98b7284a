"""multiprocess is a copy of the stdlib that imports none of it: it goes on beside fastmp, untouched."""

import multiprocessing

import multiprocess
import pytest

METHODS = "fork", "spawn"  # its fork server is broken by itself, once it has been used by another test


@pytest.mark.parametrize("method", METHODS)
def test_its_own_objects(method):
    ctx = multiprocess.get_context(method)
    queue, lock = ctx.Queue(), ctx.Lock()
    assert type(queue).__module__ == "multiprocess.queues"
    child = ctx.Process(target=lambda queue, lock: lock.acquire() and queue.put(lock.release()), args=(queue, lock))
    child.start()
    assert queue.get(timeout=30) is None
    child.join()
    assert child.exitcode == 0


@pytest.mark.parametrize("method", METHODS)
def test_its_pool_sends_lambdas(method):
    with multiprocess.get_context(method).Pool(2) as pool:
        assert pool.map(lambda x: x * x, range(10)) == [x * x for x in range(10)]


@pytest.mark.parametrize("method", METHODS)
def test_its_manager(method):
    with multiprocess.get_context(method).Manager() as manager:
        names = manager.dict(a=1)
        assert names["a"] == 1


def test_one_in_the_other():
    """A pool of one in a process of the other."""
    queue = multiprocessing.SimpleQueue()

    def child():
        with multiprocess.Pool(1) as pool:
            queue.put(pool.apply(abs, (-3,)))

    process = multiprocessing.get_context("fork").Process(target=child)
    process.start()
    assert queue.get() == 3
    process.join()
    assert process.exitcode == 0


def test_connections_can_be_waited_for_together():
    theirs, ours = multiprocess.Pipe(), multiprocessing.Pipe()
    assert multiprocessing.connection.wait([theirs[0], ours[0]], 0) == []
    theirs[1].send(1)
    ours[1].send(2)
    assert set(multiprocessing.connection.wait([theirs[0], ours[0]], 10)) == {theirs[0], ours[0]}
