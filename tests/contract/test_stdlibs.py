"""What is the stdlib's own, on our contexts: pools, managers, the queues that are not ours yet."""

import importlib
import multiprocessing.managers
import multiprocessing.pool

import pytest
from children import processes


def test_pool(mp, module):
    pools = importlib.import_module(f"{module}.pool")
    # Named in full: `fastmp.pool.Pool()` is on our contexts as well, by the program's start method.
    for pool in (mp.Pool(2), pools.Pool(2, context=mp), pools.Pool(processes=2, maxtasksperchild=1)):
        with pool:
            assert isinstance(pool, multiprocessing.pool.Pool)
            assert isinstance(pool, pools.Pool)
            assert type(pool._ctx).__module__ == f"{module}.context"
            assert pool.map(abs, [-1, -2, 3]) == [1, 2, 3]
            assert sorted(pool.imap_unordered(abs, [-1, -2, 3])) == [1, 2, 3]
            assert pool.apply(max, (1, 2)) == 2
    with pytest.raises(ValueError):
        mp.Pool(0)
    with pytest.raises(TypeError):
        mp.Pool(1, "no function")


def test_pool_with_an_initializer_that_takes_shared_objects(mp):
    value, lock = mp.Value("i"), mp.Lock()
    with mp.Pool(2, processes.share, (value, lock)) as pool:
        pool.map(processes.add_to_shared, range(10))
    assert value.value == 45


def test_manager(mp, crew):
    with mp.Manager() as manager:
        assert isinstance(manager, multiprocessing.managers.SyncManager)
        assert type(manager._ctx).__module__ == type(mp).__module__
        shared = manager.dict(a=1)
        crew.run(processes.set_item, shared, "b", 2)
        assert dict(shared) == {"a": 1, "b": 2}


def test_joinable_queue(mp, crew):
    queue, out = mp.JoinableQueue(), mp.Queue()
    for _ in range(2):
        crew.start(processes.double, queue, out)
    for n in range(10):
        queue.put(n)
    for _ in range(2):
        queue.put(None)
    queue.join()
    assert sorted(out.get() for _ in range(10)) == [2 * n for n in range(10)]
    crew.join()
    with pytest.raises(ValueError):
        queue.task_done()


def test_simple_queue(mp, crew):
    queue = mp.SimpleQueue()
    assert queue.empty()
    crew.run(processes.put, queue, "something")
    assert not queue.empty()
    assert queue.get() == "something"
    queue.close()


def test_by_the_package(module):
    package = importlib.import_module(module)
    for name in ("Manager", "Pool", "JoinableQueue", "SimpleQueue"):
        assert getattr(package, name).__self__ is package.Lock.__self__
