"""What is the stdlib's own, on our contexts: pools, managers, the queues that are not ours yet."""

import importlib
import multiprocessing.managers
import multiprocessing.pool
import subprocess
import sys

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


def test_pools_of_threads_are_pools(module):
    pools = importlib.import_module(f"{module}.pool")
    for make in pools.ThreadPool, importlib.import_module(f"{module}.dummy").Pool:
        with make(1) as pool:
            assert isinstance(pool, pools.Pool)
            assert issubclass(type(pool), pools.Pool)
            result = pool.apply_async(abs, (-1,))
            assert isinstance(result, pools.AsyncResult)
            assert not isinstance(result, pools.MapResult)
            assert isinstance(pool.map_async(abs, [-1]), pools.MapResult)
            assert isinstance(pool.imap(abs, [-1]), pools.IMapIterator)
            assert isinstance(pool.imap_unordered(abs, [-1]), pools.IMapUnorderedIterator)
    assert not isinstance(3, pools.Pool)


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


SHARED_MEMORY = """
import importlib, os, sys
from multiprocessing import shared_memory

def use(name, at, depth):
    block = shared_memory.SharedMemory(name=name)
    block.buf[at] = at + 1
    block.close()
    if depth:
        start(name, at + 1, depth - 1)

def start(*args):
    child = importlib.import_module(sys.argv[1]).get_context(sys.argv[2]).Process(target=use, args=args)
    child.start()
    child.join()
    assert child.exitcode == 0

if __name__ == "__main__":
    block = shared_memory.SharedMemory(create=True, size=10)
    start(block.name, 0, 0)
    start(block.name, 1, 1)
    again = shared_memory.SharedMemory(name=block.name)
    print(*again.buf[:4])
    again.close()
    block.close()
    block.unlink()
"""


@pytest.mark.method("fork", "spawn", "forkserver")
def test_named_shared_memory_outlives_a_child_that_used_it(mp, module, tmp_path):
    script = tmp_path / "program.py"
    script.write_text(SHARED_MEMORY)
    command = [sys.executable, str(script), module, mp.get_start_method()]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd="/")
    assert (done.returncode, done.stdout, done.stderr) == (0, "1 2 3 0\n", "")


MADE_BY_A_CHILD = """
import importlib, sys

def make(conn):
    from multiprocessing import shared_memory
    block = shared_memory.SharedMemory(create=True, size=10)
    block.buf[0] = 7
    conn.send(block.name)
    block.close()

if __name__ == "__main__":
    mp = importlib.import_module(sys.argv[1]).get_context(sys.argv[2])
    mine, yours = mp.Pipe()
    child = mp.Process(target=make, args=(yours,))
    child.start()
    name = mine.recv()
    child.join()
    from multiprocessing import shared_memory
    block = shared_memory.SharedMemory(name=name)
    print(block.buf[0])
    block.close()
    block.unlink()
"""


@pytest.mark.method("spawn", "forkserver")
def test_named_shared_memory_outlives_the_child_that_made_it(mp, module, tmp_path):
    """Also where its parent has used none before. A forked child has a tracker of its own then."""
    script = tmp_path / "program.py"
    script.write_text(MADE_BY_A_CHILD)
    command = [sys.executable, str(script), module, mp.get_start_method()]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd="/")
    assert (done.returncode, done.stdout, done.stderr) == (0, "7\n", "")
