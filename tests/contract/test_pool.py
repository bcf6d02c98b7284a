"""Pool, held to what the stdlib's does: results, errors, order, ends."""

import importlib
import multiprocessing.pool
import os
import threading

import pytest
from children import pools
from children.common import wait_until


@pytest.fixture
def pool(mp):
    with mp.Pool(2) as pool:
        yield pool
    pool.join()


def test_it_is_one(mp, pool):
    assert isinstance(pool, multiprocessing.pool.Pool)
    assert len(pool._pool) == pool._processes == 2
    assert "RUN" in repr(pool)
    assert "pool_size=2" in repr(pool)


def test_apply(pool):
    assert pool.apply(pools.square, (5,)) == 25
    assert pool.apply(pools.add, (5,), {"y": 6}) == 11
    assert pool.apply(pools.add, [5], {}) == 5
    assert pool.apply(str) == ""
    with pytest.raises(KeyError, match="7"):
        pool.apply(pools.fail, (7,))


@pytest.mark.parametrize("chunksize", [None, 1, 3, 1000])
def test_map_and_its_like(pool, chunksize):
    squares = [x * x for x in range(50)]
    assert pool.map(pools.square, range(50), chunksize) == squares
    assert pool.map(pools.square, iter(range(50)), chunksize) == squares
    assert pool.map(pools.square, [], chunksize) == []
    assert pool.starmap(pools.add, [(x, x) for x in range(50)], chunksize) == [2 * x for x in range(50)]
    assert list(pool.imap(pools.square, range(50), chunksize or 1)) == squares
    assert sorted(pool.imap_unordered(pools.square, range(50), chunksize or 1)) == squares
    assert pool.map_async(pools.square, range(50), chunksize).get() == squares
    assert pool.starmap_async(pools.add, [[1, 2]], chunksize).get() == [3]
    assert pool.map(pools.same, {"a": 1, "b": 2}, chunksize) == ["a", "b"]
    assert pool.map(pools.same, [None, 2.5, "x", b"y", [1], {"z": (1,)}], chunksize) == [
        None,
        2.5,
        "x",
        b"y",
        [1],
        {"z": (1,)},
    ]


def test_async_results(pool, tmp_path):
    gate = tmp_path / "gate"
    result = pool.apply_async(pools.wait_for, (str(gate),))
    assert not result.ready()
    with pytest.raises(ValueError, match="not ready"):
        result.successful()
    with pytest.raises(multiprocessing.TimeoutError):
        result.get(0.01)
    with pytest.raises(multiprocessing.TimeoutError):
        result.get(timeout=0)
    result.wait(0.01)
    assert not result.ready()
    gate.touch()
    result.wait()
    assert result.ready()
    assert result.successful()
    assert result.get() == str(gate)
    assert result.get(0) == result.get()
    failed = pool.apply_async(pools.fail, (1,))
    failed.wait()
    assert not failed.successful()
    for _ in range(2):
        with pytest.raises(KeyError):
            failed.get()


def test_errors_have_the_workers_traceback(pool):
    with pytest.raises(KeyError) as caught:
        pool.map(pools.fail, [1])
    assert type(caught.value.__cause__) is multiprocessing.pool.RemoteTraceback
    assert "raise KeyError(x)" in str(caught.value.__cause__)


def test_callbacks_are_called_before_the_result_is_there(pool):
    called = []
    result = pool.apply_async(pools.square, (3,), callback=called.append, error_callback=called.append)
    assert result.get() == 9
    assert called == [9]
    with pytest.raises(KeyError):
        pool.apply_async(pools.fail, (3,), callback=called.append, error_callback=called.append).get()
    assert isinstance(called.pop(), KeyError)
    pool.map_async(pools.square, range(3), callback=called.append).wait()
    assert called == [9, [0, 1, 4]]
    # Nobody waits.
    pool.apply_async(pools.square, (5,), callback=called.append)
    wait_until(lambda: called[-1] == 25, "a callback")


def test_a_failing_item_does_not_end_imap(pool):
    results = pool.imap(pools.die_at_three_politely, range(5))
    assert [next(results) for _ in range(3)] == [0, 1, 2]
    with pytest.raises(KeyError):
        next(results)
    assert next(results) == 4
    with pytest.raises(StopIteration):
        next(results)


def test_next_with_a_timeout(pool, tmp_path):
    gate = tmp_path / "gate"
    results = pool.imap(pools.wait_for, [str(gate)])
    with pytest.raises(multiprocessing.TimeoutError):
        results.next(timeout=0.01)
    gate.touch()
    assert results.next(timeout=20) == str(gate)


def test_iterables_that_raise(pool):
    def broken(good):
        yield from range(good)
        raise LookupError("an iterable")

    with pytest.raises(LookupError):
        pool.map(pools.square, broken(2))
    results = pool.imap(pools.square, broken(2))
    assert [next(results), next(results)] == [0, 1]
    with pytest.raises(LookupError):
        next(results)


def test_what_cannot_be_pickled(pool):
    with pytest.raises(RuntimeError, match="not to be pickled"):
        pool.apply(pools.same, (pools.Unpicklable(),))
    with pytest.raises(RuntimeError, match="not to be pickled"):
        pool.map(pools.same, [1, pools.Unpicklable()], 1)
    with pytest.raises(multiprocessing.pool.MaybeEncodingError, match="not to be pickled"):
        pool.apply(pools.unpicklable)
    with pytest.raises(Exception, match="(?i)pickle"):
        pool.apply(lambda: 1)
    assert pool.apply(pools.square, (2,)) == 4


def test_how_it_ends(mp):
    pool = mp.Pool(2)
    with pytest.raises(ValueError, match="still running"):
        pool.join()
    result = pool.map_async(pools.nap, [0.05] * 6, 1)
    pool.close()
    pool.close()
    for use in (lambda: pool.apply(pools.pid), lambda: pool.map_async(pools.same, [1]), pool.__enter__):
        with pytest.raises(ValueError, match="not running"):
            use()
    pool.join()
    assert len(result.get(0)) == 6
    assert all(process.exitcode == 0 for process in pool._pool)
    pool.terminate()
    pool.join()
    other = mp.Pool(2)
    other.map_async(pools.nap, [60] * 10, 1)
    other.terminate()
    other.terminate()
    other.join()
    with pytest.raises(ValueError, match="not running"):
        other.map(pools.square, [1])


def test_workers_are_replaced_after_so_many_tasks(mp):
    with mp.Pool(2, maxtasksperchild=2) as pool:
        pids = pool.map(pools.pid, range(20), 1)
        assert max(map(pids.count, pids)) <= 2
    pool.join()


def test_initializers(mp):
    with mp.Pool(2, pools.remember, ("something",)) as pool:
        assert set(pool.map(pools.recall, range(10), 1)) == {"something"}
    pool.join()


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ({"processes": 0}, ValueError),
        ({"processes": -1}, ValueError),
        ({"maxtasksperchild": 0}, ValueError),
        ({"maxtasksperchild": "1"}, ValueError),
        ({"maxtasksperchild": 0.5}, ValueError),
        ({"initializer": 3}, TypeError),
    ],
)
def test_wrong_arguments(mp, arguments, error):
    with pytest.raises(error):
        mp.Pool(**arguments)


def test_wrong_uses(pool):
    with pytest.raises(TypeError):
        pool.map(pools.square, 3)
    with pytest.raises(ValueError, match="(?i)chunksize"):
        pool.imap(pools.square, [1], 0)
    with pytest.raises(NotImplementedError):
        pool.__reduce__()


def test_from_several_threads(pool):
    found = {}

    def use(me):
        found[me] = pool.map(pools.same, range(me, me + 200), 1), [pool.apply(pools.same, (me,)) for _ in range(50)]

    threads = [threading.Thread(target=use, args=(me,)) for me in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == {me: (list(range(me, me + 200)), [me] * 50) for me in range(4)}


def test_an_object_with_a_state_is_new_for_each_task(pool):
    """As what is sent with each task is unpickled for each."""
    assert pool.map(pools.Counting(), range(6), 1) == [1] * 6


def test_its_workers_are_daemons(pool):
    assert all(process.daemon for process in pool._pool)
    assert all(os.getpid() != process.pid for process in pool._pool)


@pytest.mark.parametrize("kind", ["IMapIterator", "IMapUnorderedIterator"])
def test_the_recipe_for_istarmap(pool, kind):
    """Programs have it from each other, for a progress bar over `starmap`; it is on private parts."""
    theirs = importlib.import_module(type(pool).__module__)

    def istarmap(self, func, iterable, chunksize=1):
        self._check_running()
        batches = theirs.Pool._get_tasks(func, iterable, chunksize)
        result = getattr(theirs, kind)(self)
        tasks = self._guarded_task_generation(result._job, theirs.starmapstar, batches)
        self._taskqueue.put((tasks, result._set_length))
        return (item for chunk in result for item in chunk)

    items = [(n, 2) for n in range(20)]
    for chunksize in 1, 7:
        assert sorted(istarmap(pool, pow, items, chunksize)) == [n * n for n in range(20)]
    with pytest.raises(TypeError):
        list(istarmap(pool, pow, [("a", 2)]))

    def failing():
        yield 1, 2
        raise KeyError("an iterable's own")

    results = istarmap(pool, pow, failing())
    with pytest.raises(KeyError):
        list(results)
    assert pool.map(abs, [-1]) == [1]
