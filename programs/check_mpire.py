"""mpire publishes no tests: what its documentation shows, done once."""

import time

import pytest
from mpire import WorkerPool

METHODS = "fork", "spawn", "forkserver"


def add(a, b=1):
    return a + b


def with_state(shared, state, x):
    state["count"] = state.get("count", 0) + 1
    return shared["base"] + x, state["count"]


def init(shared, state):
    state["count"] = 100


def leave(shared, state):
    return state["count"]


def worker_id(number, x):
    return number


def fail(x):
    if x == 3:
        raise ValueError(x)
    return x


def slow(x):
    time.sleep(10)


@pytest.mark.parametrize("method", METHODS)
def test_maps(method):
    with WorkerPool(2, start_method=method) as pool:
        assert pool.map(add, [(1, 2), (3, 4)]) == [3, 7]
        assert pool.map(add, range(100), chunk_size=7) == list(range(1, 101))
        assert sorted(pool.map_unordered(add, range(20))) == list(range(1, 21))
        assert list(pool.imap(add, ({"a": n, "b": n} for n in range(10)), iterable_len=10)) == list(range(0, 20, 2))
        assert sorted(pool.imap_unordered(add, range(20))) == list(range(1, 21))


@pytest.mark.parametrize("method", METHODS)
def test_shared_objects_and_state(method):
    with WorkerPool(2, shared_objects={"base": 10}, use_worker_state=True, start_method=method) as pool:
        results = pool.map(with_state, range(8), worker_init=init, worker_exit=leave)
        assert [result for result, _ in results] == list(range(10, 18))
        assert sum(pool.get_exit_results()) == 200 + 8


@pytest.mark.parametrize("method", METHODS)
def test_apply(method):
    with WorkerPool(2, start_method=method, keep_alive=True) as pool:
        assert pool.apply(add, (3, 4)) == 7
        later = [pool.apply_async(add, args=(n,)) for n in range(10)]
        assert [each.get(timeout=30) for each in later] == list(range(1, 11))
        pool.stop_and_join()


@pytest.mark.parametrize("method", METHODS)
def test_errors_and_timeouts(method):
    with WorkerPool(2, start_method=method) as pool, pytest.raises(ValueError):
        pool.map(fail, range(10))
    with WorkerPool(2, start_method=method) as pool, pytest.raises(TimeoutError):
        pool.map(slow, range(2), task_timeout=0.3)


@pytest.mark.parametrize("method", METHODS)
def test_insights_lifespans_and_a_bar(method):
    with WorkerPool(2, start_method=method, enable_insights=True, pass_worker_id=True) as pool:
        assert set(pool.map(worker_id, range(20), worker_lifespan=3, progress_bar=True)) <= {0, 1}
        assert sum(pool.get_insights()["n_completed_tasks"]) == 20


def test_order_and_daemons():
    with WorkerPool(2, daemon=False, order_tasks=True, pass_worker_id=True) as pool:
        assert pool.map(worker_id, range(4), chunk_size=1) == [0, 1, 0, 1]
