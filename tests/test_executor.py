"""ProcessPoolExecutor: what it shares with the stdlib's, and what it has beyond."""

import concurrent.futures
import contextlib
import gc
import os
import signal
import subprocess
import sys
import threading
import time

import fastmp
import pytest
from children import pools
from children.common import wait_until

pytestmark = pytest.mark.fastmp_only("the stdlib's own has CPython's tests")
LONG = 20.0  # seconds: a watchdog


@contextlib.contextmanager
def executor(mp, workers=2, **kwargs):
    made = fastmp.ProcessPoolExecutor(workers, mp, **kwargs)
    try:
        yield made
    finally:
        made.shutdown()


def test_it_is_one(mp):
    with executor(mp) as ex:
        assert isinstance(ex, concurrent.futures.ProcessPoolExecutor)
        assert isinstance(ex, concurrent.futures.Executor)
        future = ex.submit(pools.add, 1, y=2)
        assert isinstance(future, concurrent.futures.Future)
        assert future.result(LONG) == 3
        assert list(ex.map(pools.add, range(5), range(5))) == [0, 2, 4, 6, 8]
        assert list(ex.map(pools.add, range(50), range(50), chunksize=7)) == [2 * x for x in range(50)]
        with pytest.raises(KeyError) as caught:
            ex.submit(pools.fail, 3).result(LONG)
        assert "raise KeyError(x)" in str(caught.value.__cause__)
        done, _ = concurrent.futures.wait([ex.submit(pools.square, x) for x in range(100)], LONG)
        assert sorted(future.result() for future in done) == [x * x for x in range(100)]


def test_many(mp):
    with executor(mp) as ex:
        futures = [ex.submit(pools.square, x) for x in range(5000)]
        assert [future.result(LONG) for future in futures] == [x * x for x in range(5000)]


def test_few_are_queued_and_the_others_can_be_cancelled(mp, tmp_path):
    gate, other = tmp_path / "gate", tmp_path / "other"
    with executor(mp) as ex:
        futures = [ex.submit(pools.wait_for, str(gate)) for _ in range(30)]
        cancelled = [future for future in futures if future.cancel()]
        assert len(cancelled) == 27
        gate.touch()
        assert all(future.result(LONG) for future in futures if not future.cancelled())
        # How many are queued depends on how fast those were done.
        others = [ex.submit(pools.wait_for, str(other)) for _ in range(30)]
        ex.shutdown(wait=False, cancel_futures=True)
        assert 20 <= sum(future.cancelled() for future in others) < 30
        other.touch()
        ex.shutdown()
        assert all(future.done() for future in others)
    with pytest.raises(RuntimeError, match="after shutdown"):
        ex.submit(pools.pid)


def test_buffersize(mp):
    asked = []

    def items():
        for x in range(10_000):
            asked.append(x)
            yield x

    with executor(mp) as ex:
        results = ex.map(pools.square, items(), buffersize=5)
        assert [next(results) for _ in range(20)] == [x * x for x in range(20)]
        assert len(asked) <= 26
        results.close()
        for wrong, error in ((0, ValueError), ("1", TypeError)):
            with pytest.raises(error):
                ex.map(pools.square, [1], buffersize=wrong)


def test_timeouts_of_tasks(mp):
    with executor(mp) as ex:
        began = time.monotonic()
        slow = ex.submit(fastmp.with_timeout(pools.nap, 0.3), 60)
        others = [ex.submit(pools.nap, 0.01) for _ in range(20)]
        with pytest.raises(TimeoutError, match="nap"):
            slow.result(LONG)
        assert time.monotonic() - began >= 0.3
        assert all(future.result(LONG) for future in others)
        assert ex.submit(fastmp.with_timeout(pools.square, 20), 3).result(LONG) == 9


def test_timeouts_of_maps(mp):
    """Of each call, or chunk, for itself."""
    with executor(mp) as ex:
        assert len(list(ex.map(fastmp.with_timeout(pools.nap, 20), [0.01] * 20, chunksize=3))) == 20
        for chunksize in (1, 2):
            results = ex.map(fastmp.with_timeout(pools.nap, 1.5), [0, 0, 60], chunksize=chunksize)
            assert next(results) > 0
            assert next(results) > 0
            with pytest.raises(TimeoutError, match="nap"):
                next(results)
        assert ex.submit(fastmp.with_timeout(pools.square, float("inf")), 3).result(LONG) == 9


def test_shared(mp):
    with executor(mp, shared=list(range(1000))) as ex:
        assert set(ex.map(pools.shared_length, range(10))) == {1000}


def test_broken(mp, tmp_path):
    with executor(mp) as ex:
        gate = tmp_path / "gate"
        futures = [ex.submit(pools.wait_and_die, str(gate)), *[ex.submit(pools.nap, 60) for _ in range(8)]]
        gate.touch()
        errors = [future.exception(LONG) for future in futures]
        assert all(type(error) is fastmp.futures.BrokenProcessPool for error in errors)
        assert "SIGKILL" in str(errors[-1].__cause__)
        # Each adds to the traceback of its own.
        assert len({id(error) for error in errors}) == len(futures)
        with pytest.raises(fastmp.futures.BrokenProcessPool):
            ex.submit(pools.pid)
        assert ex._broken


def test_a_broken_one_lets_its_collector_go(mp):
    with executor(mp) as ex:
        fail_all = ex._core.fail_all

        def fail_all_slowly(*args):
            fail_all(*args)
            time.sleep(0.2)  # the collector waits in the queue again

        ex._core.fail_all = fail_all_slowly
        with pytest.raises(fastmp.futures.BrokenProcessPool):
            ex.submit(pools.die).result(LONG)


def test_a_death_fails_its_task_alone(mp):
    with executor(mp, on_worker_death="raise") as ex:
        futures = [ex.submit(pools.die_at, x, 5) for x in range(20)]
        for x, future in enumerate(futures):
            if x == 5:
                with pytest.raises(fastmp.WorkerDiedError, match="die_at"):
                    future.result(LONG)
            else:
                assert future.result(LONG) == x * x


def test_retry(mp, tmp_path):
    with executor(mp, on_worker_death="retry") as ex:
        assert list(ex.map(pools.die_once, [str(tmp_path / str(i)) for i in range(5)])) == ["again"] * 5


@pytest.mark.parametrize("how", ["terminate_workers", "kill_workers"])
@pytest.mark.parametrize("mode", ["break", "retry"])
def test_ending_the_workers(mp, how, mode):
    ex = fastmp.ProcessPoolExecutor(2, mp, on_worker_death=mode)
    futures = [ex.submit(pools.nap, 60) for _ in range(8)]
    pids = [ex.submit, list(ex._processes)][1]
    getattr(ex, how)()
    for future in futures:
        assert future.cancelled() or isinstance(future.exception(LONG), fastmp.futures.BrokenProcessPool)
    ex.shutdown()
    wait_until(lambda: not [p for p in fastmp.active_children() if p.pid in pids], "the workers' end")


@pytest.mark.method("spawn", "forkserver")
def test_no_worker_is_started_that_would_escape_the_end_of_all(mp, tmp_path):
    gate = tmp_path / "gate"
    with executor(mp, 1, max_tasks_per_child=1) as ex:
        futures = [ex.submit(pools.wait_for, str(gate)) for _ in range(3)]
        ex._force_shutting_down = True  # as `kill_workers` does, before it looks at who is there
        gate.touch()
        assert futures[0].result(LONG) == str(gate)
        for future in futures[1:]:
            with pytest.raises(fastmp.futures.BrokenProcessPool, match="forcefully"):
                future.result(LONG)


@pytest.mark.parametrize("end", ["killed", "forced"])
def test_what_was_answered_is_not_lost_by_the_end(mp, tmp_path, end):
    """Though it has not been noted yet when the last worker ends."""
    with executor(mp, 1) as ex:
        assert ex.submit(pools.square, 1).result(LONG) == 1
        core = ex._core
        apply, taken, goes_on = core.apply, threading.Event(), threading.Event()

        def apply_slowly():
            taken.set()
            goes_on.wait(LONG)
            apply()

        core.apply = apply_slowly
        done = ex.submit(pools.square, 3)
        left = ex.submit(pools.wait_for, str(tmp_path / "gate"))
        assert taken.wait(LONG)
        (pid,) = ex._processes
        if end == "forced":
            ex._force_shutting_down = True
        os.kill(pid, signal.SIGKILL)
        time.sleep(0.2)
        goes_on.set()
        assert done.result(LONG) == 9
        with pytest.raises(fastmp.futures.BrokenProcessPool):
            left.result(LONG)


@pytest.mark.method("fork")
def test_a_limit_of_tasks_starts_by_spawn(mp):
    with fastmp.ProcessPoolExecutor(1, max_tasks_per_child=2) as ex:
        assert ex._mp_context.get_start_method() == "spawn"
        assert len({ex.submit(pools.pid).result(LONG) for _ in range(4)}) == 2


@pytest.mark.method("spawn")
def test_workers_come_as_they_are_needed(mp, tmp_path):
    gate = tmp_path / "gate"
    with executor(mp, 3) as ex:
        for x in range(3):
            assert ex.submit(pools.square, x).result(LONG) == x * x
        assert len(ex._processes) == 1
        futures = [ex.submit(pools.wait_for, str(gate)) for _ in range(6)]
        assert len(ex._processes) == 3
        gate.touch()
        assert all(future.result(LONG) for future in futures)


def test_workers_may_have_children(mp):
    with executor(mp) as ex:
        assert ex.submit(pools.have_a_child).result(LONG) == 0


def test_a_callback_may_use_it(mp):
    with executor(mp) as ex:
        answered = []
        future = ex.submit(pools.square, 2)
        future.add_done_callback(lambda done: answered.append(ex.submit(pools.square, done.result())))
        future.result(LONG)
        wait_until(lambda: answered, "a callback")
        assert answered[0].result(LONG) == 16


def test_nobody_has_it_any_more(mp):
    ex = fastmp.ProcessPoolExecutor(2, mp)
    futures = [ex.submit(pools.nap, 0.05) for _ in range(8)]
    watcher = ex._executor_manager_thread
    del ex
    gc.collect()
    assert all(future.result(LONG) for future in futures)
    watcher.join(LONG)
    assert not watcher.is_alive()


def test_one_that_was_never_used(mp):
    with executor(mp):
        pass
    gone = fastmp.ProcessPoolExecutor(2, mp)
    del gone
    gc.collect()


def test_from_several_threads(mp):
    with executor(mp) as ex:
        wrong = []

        def use(me):
            if list(ex.map(pools.same, range(me, me + 300))) != list(range(me, me + 300)):
                wrong.append(me)

        threads = [threading.Thread(target=use, args=(me,)) for me in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert not wrong


def test_a_program_ends_when_all_is_done(tmp_path):
    program = tmp_path / "program.py"
    program.write_text(
        "import fastmp, time\n"
        "def work(x):\n"
        "    time.sleep(0.1)\n"
        "    print(f'{x}\\n', end='', flush=True)\n"  # in one write, with PYTHONUNBUFFERED too
        "if __name__ == '__main__':\n"
        "    ex = fastmp.ProcessPoolExecutor(2)\n"
        "    for x in range(6):\n"
        "        ex.submit(work, x)\n"
    )
    done = subprocess.run([sys.executable, str(program)], capture_output=True, text=True, timeout=40, check=False)
    assert sorted(done.stdout.split()) == list("012345"), done.stderr
    assert done.returncode == 0


def test_in_a_loop_it_leaves_nothing(mp):
    def once():
        with executor(mp) as ex:
            assert list(ex.map(pools.square, range(10))) == [x * x for x in range(10)]

    def look():
        gc.collect()
        return len(os.listdir("/proc/self/fd")), threading.active_count()

    for _ in range(3):
        once()
    before = look()
    for _ in range(8):
        once()
    after = look()
    assert after[0] < before[0] + 8
    assert after[1] <= before[1]


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ({"max_workers": 0}, ValueError),
        ({"initializer": 1}, TypeError),
        ({"max_tasks_per_child": 0}, ValueError),
        ({"max_tasks_per_child": "1"}, TypeError),
        ({"on_worker_death": "ignore"}, ValueError),
    ],
)
@pytest.mark.method("spawn")
def test_wrong_arguments(mp, arguments, error):
    with pytest.raises(error):
        fastmp.ProcessPoolExecutor(**{"mp_context": mp, **arguments})


def test_a_first_start_that_fails_is_made_up_for(mp):
    with executor(mp, 1) as ex:
        start, refused = ex._core.start_process, []

        def refuse_once(*args):
            if not refused:
                refused.append(args)
                raise OSError(24, "Too many open files")
            return start(*args)

        ex._core.start_process = refuse_once
        with pytest.raises(OSError, match="Too many"):
            ex.submit(pools.add, 1, y=2)
        assert ex.submit(pools.add, 2, y=3).result(LONG) == 5


def test_a_handler_submits_in_the_middle_of_the_first_submit(mp):
    with executor(mp, 3) as ex:
        start, inner, started = ex._core.start_process, [], []

        def submit_within(*args):
            worker = start(*args)
            started.append(worker)
            if worker is started[0]:
                inner.append(ex.submit(pools.add, 1, y=1))
            return worker

        ex._core.start_process = submit_within
        assert ex.submit(pools.add, 2, y=2).result(LONG) == 4
        assert inner[0].result(LONG) == 2
        # None was started twice in one place: the core would know the second alone. The watcher may
        # be about to start one.
        wait_until(lambda: set(started) == set(ex._core.processes) == set(ex._core.workers.values()))
