"""Workers that die: what becomes of their tasks, and of the pool."""

import os
import signal
import subprocess
import sys
import threading
import time

import fastmp
import pytest
from children import pools
from children.common import look_at, wait_until

pytestmark = pytest.mark.fastmp_only("the stdlib's hangs")
LONG = 20.0  # seconds: a watchdog


@pytest.fixture
def pool(mp):
    with mp.Pool(2) as pool:
        yield pool
    pool.join()


def kill_all(pool):
    for process in list(getattr(pool, "_pool", None) or pool.processes):
        os.kill(process.pid, signal.SIGKILL)


def test_the_error_says_who_died_how_and_in_what(mp, pool):
    pids = {process.pid for process in pool._pool}
    with pytest.raises(fastmp.WorkerDiedError) as caught:
        pool.apply(pools.die_at, (7,), {"fatal": 7})
    error = caught.value
    assert error.pid in pids
    assert (error.signal, error.exitcode) == ("SIGKILL", -signal.SIGKILL)
    assert "die_at" in str(error)
    assert "die_at" in error.task
    assert not error.out_of_memory
    from concurrent.futures.process import BrokenProcessPool

    assert isinstance(error, BrokenProcessPool)
    with pytest.raises(fastmp.WorkerDiedError, match="SIGUSR1"):
        pool.apply(pools.die, (int(signal.SIGUSR1),))


@pytest.mark.parametrize(("how", "code"), [("_exit", 3), ("exit", 4), ("interrupt", 1), ("_exit 0", 0), ("exit 0", 0)])
def test_those_that_end_by_themselves(mp, pool, how, code):
    with pytest.raises(fastmp.WorkerDiedError) as caught:
        pool.apply_async(pools.exit_by, (how,)).get(LONG)
    assert caught.value.exitcode == code
    assert caught.value.pid is not None
    assert pool.apply(pools.square, (3,)) == 9


def test_the_others_go_on(mp, pool):
    results = [pool.apply_async(pools.die_at, (x, 5)) for x in range(20)]
    for x, result in enumerate(results):
        if x == 5:
            with pytest.raises(fastmp.WorkerDiedError):
                result.get(LONG)
        else:
            assert result.get(LONG) == x * x
    assert len(pool._pool) == 2


def test_imap_goes_on_behind_the_lost_item(mp, pool):
    for chunksize in (1, 2):
        results = pool.imap(pools.die_at_five, range(20), chunksize)
        found = []
        while True:
            try:
                found.append(next(results))
            except fastmp.WorkerDiedError:
                found.append("died")
            except StopIteration:
                break
        expected = [x for x in range(20) if x // chunksize != 5 // chunksize]
        expected.insert(expected.index(6 if chunksize == 1 else 3) + (chunksize == 2), "died")
        assert found == expected
    found = 0
    results = pool.imap_unordered(pools.die_at_five, range(20))
    while True:
        try:
            next(results)
            found += 1
        except fastmp.WorkerDiedError:
            continue
        except StopIteration:
            break
    assert found == 19


def test_a_map_fails_once_all_else_is_done(mp, pool):
    with pytest.raises(fastmp.WorkerDiedError):
        pool.map(pools.die_at_five, range(20), 1)
    assert pool.map(pools.square, range(5)) == [0, 1, 4, 9, 16]


def test_it_is_not_run_again(mp, pool, tmp_path):
    path = tmp_path / "runs"
    with pytest.raises(fastmp.WorkerDiedError):
        pool.apply(pools.count_and_die, (str(path),))
    pool.map(pools.nap, [0.05] * 4, 1)
    assert path.read_bytes() == b"x"


def test_retry(mp, tmp_path):
    with mp.Pool(2, on_worker_death="retry", retries=2) as pool:
        paths = [str(tmp_path / str(i)) for i in range(5)]
        assert pool.map(pools.die_once, paths, 1) == ["again"] * 5
        path = tmp_path / "runs"
        with pytest.raises(fastmp.WorkerDiedError, match="as 2 before it"):
            pool.apply(pools.count_and_die, (str(path),))
        assert path.read_bytes() == b"xxx"
        blob = os.urandom(300_000)
        path = str(tmp_path / "blob")
        assert pool.apply(pools.die_once_with, (path, blob)) == blob
    pool.join()


def test_break(mp):
    pool = mp.Pool(2, on_worker_death="break")
    result = pool.apply_async(pools.nap, (60,))
    with pytest.raises(fastmp.futures.BrokenProcessPool):
        pool.apply(pools.die)
    with pytest.raises(fastmp.futures.BrokenProcessPool):
        result.get(LONG)
    with pytest.raises(fastmp.futures.BrokenProcessPool):
        pool.apply(pools.pid)
    pool.terminate()
    pool.join()


def test_idle_workers_are_replaced_and_nothing_fails(mp, pool):
    for _ in range(3):
        before = {process.pid for process in pool._pool}
        kill_all(pool)
        wait_until(lambda b=before: len({p.pid for p in pool._pool} - b) == 2, "new workers")
        assert pool.map(pools.square, range(100), 1) == [x * x for x in range(100)]


@pytest.mark.parametrize("name", ["collecting.SLICE", "watcher.UNNAMED", "watcher.ENDING", "watcher.AGAIN"])
def test_it_is_replaced_at_once(mp, name, monkeypatch):
    """No slice of a wait passes by: were there one, it would be longer than the test may take."""
    monkeypatch.setattr(f"fastmp.pools.{name}", 1000.0)
    with mp.Pool(2) as pool:
        for _ in range(5):
            before = {process.pid for process in pool._pool}
            with pytest.raises(fastmp.WorkerDiedError):
                pool.apply(pools.die)
            wait_until(lambda b=before: len({p.pid for p in pool._pool} - b) == 1, "a new worker")
            pool.map(pools.nap, [0, 0], 1)
    pool.join()


@pytest.mark.parametrize("how", ["kill", "raise"])
def test_a_worker_that_never_comes_up_ends_in_an_error(mp, how):
    with mp.Pool(2, pools.initialize_or_fail, (how,)) as pool:
        result = pool.apply_async(pools.pid)
        with pytest.raises(fastmp.WorkerDiedError, match="initializer") as caught:
            result.get(LONG)
        if how == "raise":
            assert isinstance(caught.value.__cause__, ValueError)
        with pytest.raises(fastmp.WorkerDiedError):
            pool.apply(pools.pid)
    pool.join()


def test_task_timeout(mp, pool, tmp_path):
    began = time.monotonic()
    slow = pool.apply_async(pools.nap, (60,), task_timeout=0.3)
    others = pool.map_async(pools.nap, [0.01] * 30, 1, task_timeout=20)
    with pytest.raises(TimeoutError, match="nap"):
        slow.get(LONG)
    assert time.monotonic() - began >= 0.3
    with pytest.raises(fastmp.TimeoutError):
        slow.get()
    assert len(others.get(LONG)) == 30
    # It is time of its own that counts, not time in the queue.
    gate = tmp_path / "gate"
    blocked = [pool.apply_async(pools.wait_for, (str(gate),)) for _ in range(2)]
    results = [pool.apply_async(pools.pid, task_timeout=2) for _ in range(2)]
    time.sleep(2.1)
    gate.touch()
    assert all(result.get(LONG) for result in blocked + results)


def test_times_of_many(mp, pool):
    for start, items in ((pool.map_async, [0, 60, 0]), (pool.starmap_async, [(0,), (60,), (0,)])):
        with pytest.raises(TimeoutError, match="nap"):
            start(pools.nap, items, 1, task_timeout=0.2).get(LONG)
    assert pool.apply_async(pools.square, (3,), task_timeout=float("inf")).get(LONG) == 9
    assert pool.map_async(pools.square, [3], task_timeout=1e300).get(LONG) == [9]


def test_wrong_times(mp, pool):
    for wrong, error in ((0, ValueError), (-1, ValueError), (float("nan"), ValueError), ("1", TypeError)):
        with pytest.raises(error):
            pool.apply_async(pools.pid, task_timeout=wrong)
        with pytest.raises(error):
            pool.map_async(pools.pid, [1], task_timeout=wrong)
        with pytest.raises(error):
            fastmp.with_timeout(pools.pid, wrong)
    # Nothing of them is left.
    pool.close()
    pool.join()


def test_close_and_join_while_workers_die(mp):
    pool = mp.Pool(2)
    results = [pool.apply_async(pools.die_at, (x, x // 2 * 2)) for x in range(8)]
    pool.close()
    pool.join()
    for x, result in enumerate(results):
        if x % 2 == 0:
            with pytest.raises(fastmp.WorkerDiedError):
                result.get(0)
        else:
            assert result.get(0) == x * x


def test_callbacks_are_told(mp, pool):
    told = []
    pool.apply_async(pools.die, callback=told.append, error_callback=told.append)
    wait_until(lambda: told, "an error callback")
    assert isinstance(told[0], fastmp.WorkerDiedError)


def test_a_stopped_worker_is_alive(mp, pool):
    victim = pool._pool[0]
    os.kill(victim.pid, signal.SIGSTOP)
    try:
        assert pool.map(pools.same, range(50), 1) == list(range(50))
    finally:
        os.kill(victim.pid, signal.SIGCONT)
    assert victim in pool._pool


def test_a_killed_parent_leaves_no_worker(mp, tmp_path):
    program = tmp_path / "program.py"
    program.write_text(
        "import fastmp, time\n"
        "if __name__ == '__main__':\n"
        f"    mp = fastmp.get_context({mp.get_start_method()!r})\n"
        "    pool = mp.Pool(2)\n"
        "    pool.map(abs, range(4), 1)\n"
        "    pool.map_async(time.sleep, [60] * 2, 1)\n"
        "    print(*[process.pid for process in pool._pool], flush=True)\n"
        "    time.sleep(60)\n"
    )
    child = subprocess.Popen([sys.executable, str(program)], stdout=subprocess.PIPE, text=True)
    pids = [int(word) for word in child.stdout.readline().split()]
    assert len(pids) == 2
    child.kill()
    child.wait()
    wait_until(lambda: all((seen := look_at(pid)) is None or seen.state in "ZX" for pid in pids), "the workers' end")


@pytest.mark.method("fork")
def test_threads_of_the_parent_while_workers_die(mp):
    """Some seconds of `soak_pool.py`, in one process."""
    with mp.Pool(3, on_worker_death="retry", retries=1000) as pool:
        stop, wrong = threading.Event(), []

        def use():
            while not stop.is_set():
                if pool.map(pools.square, range(50), 1) != [x * x for x in range(50)]:
                    wrong.append(1)

        threads = [threading.Thread(target=use) for _ in range(3)]
        for thread in threads:
            thread.start()
        for _ in range(20):
            time.sleep(0.02)
            for process in list(pool._pool)[:1]:
                process.kill()
        stop.set()
        for thread in threads:
            thread.join()
    pool.join()
    assert not wrong


def test_an_executor_that_breaks_while_a_worker_is_started(mp):
    """The one that is started then ends as well, and `shutdown` returns."""
    if mp.get_start_method() == "fork":
        pytest.skip("both are started before there is a watcher")
    made = fastmp.ProcessPoolExecutor(2, mp)
    start = made._core.start_process

    def break_it(*args):
        worker = start(*args)
        if made._core.workers:
            kill_all(made._core)
            wait_until(lambda: made._core.broken is not None)
        return worker

    made._core.start_process = break_it
    with pytest.raises(fastmp.futures.BrokenProcessPool):
        made.submit(time.sleep, LONG)
        made.submit(time.sleep, LONG).result(LONG)
    made.shutdown()
    assert fastmp.active_children() == []
