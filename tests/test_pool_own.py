"""What Pool has beyond the stdlib's: fairness, bounds, progress, shared objects, ends of all sorts."""

import collections
import gc
import itertools
import os
import signal
import subprocess
import sys
import threading
import time
import warnings
import weakref

import fastmp
import pytest
from children import pools
from children.common import wait_asleep, wait_until
from fastmp.pools import slots

pytestmark = pytest.mark.fastmp_only("it is about what the stdlib's does not have")
INTERRUPTS = int(os.environ.get("FASTMP_TEST_INTERRUPTS", "30"))


@pytest.fixture
def pool(mp):
    with mp.Pool(2) as pool:
        yield pool
    pool.join()


def all_are_ready(pool):
    core = pool._core
    return all(slots.view(core.slots, number)[slots.READY] for number in range(core.size))


@pytest.mark.parametrize("workers", [2, 4])
@pytest.mark.parametrize("size", [10, 5_000, 70_000, 1_000_000])
def test_tasks_are_shared_out_fairly(mp, workers, size):
    """Each takes some time of its own, so that it is not the kernel's scheduler that shares them out.

    Where the machine has much else to do it does all the same: once in five times is enough, as a
    pool that is unfair is so each time.
    """
    count = 50 * workers
    most = 1.5 * count / workers
    with mp.Pool(workers) as pool:
        wait_until(lambda: all_are_ready(pool), "workers that have started")
        for _ in range(5):
            answers = pool.imap_unordered(pools.nap_and_blob, [size] * count)
            taken = collections.Counter(
                pid for pid, length in ((pid, len(blob)) for pid, blob in answers) if length == size
            )
            assert taken.total() == count
            if max(taken.values()) <= most:
                break
    pool.join()
    assert max(taken.values()) <= most, taken


@pytest.mark.parametrize("size", [1, 10_000, 1_000_000])
def test_who_is_busy_holds_no_other_task(mp, size, tmp_path):
    """Each round's tasks wait for each other: they are done only if each worker has taken one."""
    with mp.Pool(4) as pool:
        for each in range(5):
            room = tmp_path / str(each)
            room.mkdir()
            results = pool.map(pools.meet, [(str(room), 4, size)] * 4, 1)
            assert len({pid for pid, _ in results}) == 4
            assert all(len(blob) == size for _, blob in results)
    pool.join()


def test_a_failing_message_hides_no_task(mp, pool):
    """Each of them is told of; in the stdlib they hang."""
    with pytest.raises(RuntimeError, match="not to be unpickled"):
        pool.apply(pools.same, (pools.Unreadable(),))
    with pytest.raises(RuntimeError, match="not to be unpickled"):
        pool.apply(pools.unreadable)
    with pytest.raises(TypeError, match="other"):
        pool.apply(pools.raise_demanding)
    results = pool.imap(pools.same, [1, pools.Unreadable(), 3])
    assert next(results) == 1
    with pytest.raises(RuntimeError):
        next(results)
    assert next(results) == 3
    with pytest.raises(RuntimeError, match="not to be unpickled"):
        pool.map(pools.unreadable, range(20))
    assert pool.map(pools.square, range(3)) == [0, 1, 4]


def test_an_endless_iterable_is_taken_as_it_is_used(mp, pool):
    for imap in (pool.imap, pool.imap_unordered):
        asked = itertools.count()
        results = imap(pools.square, (next(asked) for _ in itertools.count()), buffersize=10)
        found = [next(results) for _ in range(100)]
        if imap == pool.imap:
            assert found == [x * x for x in range(100)]
        time.sleep(0.1)
        assert next(asked) <= 100 + 10 + 2
        with pytest.raises(ValueError, match="buffersize"):
            imap(pools.square, [], buffersize=0)


def test_an_iterable_that_ends_while_its_results_are_waited_for(mp, pool):
    def items(error):
        yield 1
        # Whoever waits for the next result does so in the queue.
        wait_until(lambda: taken and pool._core.leader is not None, "a caller that waits")
        if error is not None:
            raise error

    for imap in (pool.imap, pool.imap_unordered):
        for error in (None, LookupError()):
            taken = []
            results = imap(pools.square, items(error))
            taken.append(next(results))
            assert taken == [1]
            if error is None:
                assert list(results) == []
        # Of the last one.
        with pytest.raises(LookupError):
            next(results)
        with pytest.raises(StopIteration):
            next(results)
    # At all sorts of moments.
    for count in range(100):

        def short(count=count):
            yield from range(count % 5)
            raise LookupError

        with pytest.raises(LookupError):
            list(pool.imap_unordered(pools.square, short()))


@pytest.mark.parametrize("error", [LookupError, SystemExit])
def test_what_an_iterable_raises_comes_behind_its_results(mp, pool, tmp_path, error):
    """Else a loop over them ends before it has had what is done, as it does not in the stdlib."""
    for imap in (pool.imap, pool.imap_unordered):
        gate = tmp_path / imap.__name__

        def items(gate=gate):
            yield from [str(gate)] * 20
            raise error

        results = imap(pools.wait_for, items())
        wait_until(lambda: not pool._core.sources, "the end of the iterable")
        gate.touch()
        assert [next(results) for _ in range(20)] == [str(gate)] * 20
        with pytest.raises(error):
            next(results)
        with pytest.raises(StopIteration):
            next(results)


def test_a_slow_iterable_holds_nothing_back(mp, pool):
    def items():
        yield 1
        assert served.wait(20)
        yield 2

    served = threading.Event()
    results = pool.imap(pools.square, items())
    assert next(results) == 1
    served.set()
    assert next(results) == 4


def test_a_generator_may_use_the_pool(mp, pool):
    def items():
        """In the stdlib it waits for the thread that it runs in."""
        for x in range(5):
            yield pool.apply(pools.square, (x,))

    assert list(pool.imap(pools.square, items())) == [0, 1, 16, 81, 256]


def test_nobody_waits_and_all_is_done(mp, pool):
    """More tasks than are put at once, and no caller that collects."""
    result = pool.map_async(pools.square, range(100_000), 1)
    wait_until(lambda: not pool._core.sources, "all tasks that are put")
    assert result.get() == [x * x for x in range(100_000)]
    assert list(pool.imap(pools.square, iter(range(3000)))) == [x * x for x in range(3000)]


def test_close_and_join_feed_what_is_left(mp):
    pool = mp.Pool(2)
    result = pool.map_async(pools.same, range(50_000), 1)
    items = pool.imap_unordered(pools.same, iter(range(2000)))
    pool.close()
    pool.join()
    assert result.get(0) == list(range(50_000))
    assert sorted(items) == list(range(2000))


def test_large_arguments_are_not_all_in_memory_twice(mp, pool):
    blobs = [bytes(1 << 20)] * 200
    assert sum(map(len, pool.imap(pools.same, blobs))) == 200 << 20
    assert pool._core.tasks.stats().high_water <= 60


def test_progress(mp, pool):
    result = pool.map_async(pools.nap, [0.02] * 10, 2)
    assert len(result) == 10
    seen = set()
    wait_until(lambda: seen.add(result.done_count) or result.ready(), "the end")
    assert result.done_count == 10
    assert seen <= set(range(0, 11, 2))
    assert len(pool.apply_async(pools.pid)) == 1
    items = pool.imap(pools.square, range(7))
    assert len(items) == 7
    assert list(items) == [x * x for x in range(7)]
    assert items.done_count == 7
    chunks = pool.imap_unordered(pools.square, range(7), 3)
    assert len(chunks) == 7
    assert sorted(chunks) == [x * x for x in range(7)]
    assert chunks.done_count == 3
    with pytest.raises(TypeError):
        len(pool.imap(pools.square, iter([1])))


def test_shared(mp):
    with mp.Pool(2, shared=list(range(1000))) as pool:
        assert set(pool.map(pools.shared_length, range(10), 1)) == {1000}
    pool.join()
    assert fastmp.pool.shared() is None


def test_what_all_workers_begin_with_is_pickled_once(mp):
    fork = mp.get_start_method() == "fork"
    counted = pools.CountsPickles()
    with mp.Pool(3, pools.remember, (counted,)) as pool:
        pool.map(pools.nap, [0.05] * 6, 1)
    pool.join()
    assert pools.CountsPickles.count == (0 if fork else 1)
    pools.CountsPickles.count = 0


def test_a_lock_can_be_given_to_the_initializer(mp):
    lock = mp.Lock()
    with mp.Pool(2, pools.remember, (lock,)) as pool:
        assert pool.map(pools.take_remembered, range(10), 1) == list(range(10))
    pool.join()


@pytest.mark.method("fork")
def test_a_forked_copy_is_harmless(mp, pool):
    result = pool.apply_async(pools.nap, (0.2,))
    child = os.fork()
    if child == 0:
        code = 1
        try:
            for use in (lambda: pool.apply(pools.pid), result.get, pool.map_async(pools.square, []).get):
                try:
                    use()
                except ValueError:
                    code += 1
            pool.terminate()
            pool._abandon = None
            pool._core.abandon()
            del pool, result
            gc.collect()
            code = 0 if code == 3 else code
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert result.get() > 0
    assert pool.map(pools.square, range(10)) == [x * x for x in range(10)]


def test_nobody_has_it_any_more(mp):
    pool = mp.Pool(2)
    pids = [process.pid for process in pool._pool]
    pool.map(pools.square, range(10))
    watcher = pool._core.watcher.thread
    gone = weakref.ref(pool)
    with pytest.warns(ResourceWarning, match="unclosed running"):
        del pool
        gc.collect()
    assert gone() is None
    watcher.join(20)
    assert not watcher.is_alive()
    assert not [process for process in fastmp.active_children() if process.pid in pids]


def test_terminate_tells_who_waits(mp):
    pool = mp.Pool(2)
    results = [pool.apply_async(pools.nap, (60,)), pool.imap(pools.nap, [60])]
    found = []

    def wait(use):
        try:
            use()
        except fastmp.ProcessError as e:
            found.append(str(e))

    threads = [threading.Thread(target=wait, args=(use,)) for use in (results[0].get, results[1].next)]
    for thread in threads:
        thread.start()
    time.sleep(0.1)
    pool.terminate()
    for thread in threads:
        thread.join(20)
    pool.join()
    assert len(found) == 2
    assert all("terminated" in text for text in found)


def test_terminate_calls_error_callbacks(mp):
    for pause in (0, 0.01, 0.03):
        told = []
        pool = mp.Pool(2)
        results = [
            pool.apply_async(pools.nap, (60,), callback=told.append, error_callback=told.append) for _ in range(5)
        ]
        time.sleep(pause)
        pool.terminate()
        for result in results:
            with pytest.raises(fastmp.ProcessError, match="terminated"):
                result.get(20)
        pool.join()
        assert len(told) == 5


def test_a_callback_may_end_the_pool(mp):
    told = []
    pool = mp.Pool(2)
    slow = pool.apply_async(pools.nap, (60,), error_callback=told.append)
    pool.apply_async(pools.pid, callback=lambda _: pool.terminate())
    with pytest.raises(fastmp.ProcessError, match="terminated"):
        slow.get(20)
    assert len(told) == 1
    pool.join()


def test_a_callback_may_use_the_pool(mp, pool):
    answered = []

    def ask(value):
        answered.append(pool.apply(pools.square, (value,)))

    assert pool.apply_async(pools.square, (2,), callback=ask).get() == 4
    assert answered == [16]


def test_a_callback_that_raises_ends_nothing(mp, pool):
    def fail(value):
        raise LookupError("a callback")

    seen = []
    threading.excepthook, before = seen.append, threading.excepthook
    try:
        assert pool.apply_async(pools.square, (2,), callback=fail).get() == 4
    finally:
        threading.excepthook = before
    assert seen[0].exc_type is LookupError
    assert pool.apply_async(pools.square, (3,), callback=seen.append).get() == 9
    assert seen[1] == 9


class Interrupted(BaseException):
    """As KeyboardInterrupt: what is an Exception in the middle of pickling is the item's own."""


def test_a_signal_handler_that_raises_loses_no_result(mp, pool):
    def handler(_, frame):
        # In the package's own lines alone: what is raised elsewhere may be ignored there.
        if "/fastmp/" in frame.f_code.co_filename:
            raise Interrupted

    before = signal.signal(signal.SIGALRM, handler)
    interrupts = 0
    try:
        while interrupts < INTERRUPTS:
            result = pool.map_async(pools.same, range(5000), 1)
            items = pool.imap(pools.same, range(500))
            signal.setitimer(signal.ITIMER_REAL, 0.002, 0.002)
            while True:
                try:
                    result.get()
                    break
                except Interrupted:
                    interrupts += 1
            signal.setitimer(signal.ITIMER_REAL, 0)
            assert result.get() == list(range(5000))
            assert list(items) == list(range(500))
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def test_a_signal_handler_that_raises_loses_no_task(mp, pool, monkeypatch):
    """It comes while they are made and put, by whoever waits."""

    def handler(_, frame):
        if "/fastmp/" in frame.f_code.co_filename or frame.f_code.co_name == "__reduce__":
            raise Interrupted

    monkeypatch.setattr(fastmp.pools.feeding, "WINDOW", 64)
    before = signal.signal(signal.SIGALRM, handler)
    interrupts = 0
    try:
        while interrupts < 2 * INTERRUPTS:
            result = pool.map_async(pools.same, [pools.Square(x) for x in range(1000)], 1)
            signal.setitimer(signal.ITIMER_REAL, 0.001, 0.001)
            while True:
                try:
                    result.get()
                    break
                except Interrupted:
                    interrupts += 1
            signal.setitimer(signal.ITIMER_REAL, 0)
            assert result.get() == [x * x for x in range(1000)]
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def test_ctrl_c_ends_a_wait_and_the_program(tmp_path):
    program = tmp_path / "program.py"
    program.write_text(
        "import fastmp, time\n"
        "if __name__ == '__main__':\n"
        "    with fastmp.Pool(2) as pool:\n"
        "        result = pool.map_async(time.sleep, [60] * 4, 1)\n"
        "        try:\n"
        "            print('ready', flush=True)\n"
        "            result.get()\n"
        "        except KeyboardInterrupt:\n"
        "            print('interrupted', flush=True)\n"
    )
    child = subprocess.Popen([sys.executable, str(program)], stdout=subprocess.PIPE, text=True)
    assert child.stdout.readline() == "ready\n"
    wait_asleep(child.pid)
    child.send_signal(signal.SIGINT)
    assert child.communicate(timeout=30)[0] == "interrupted\n"
    assert child.returncode == 0


def test_a_program_that_forgets_it_ends(tmp_path):
    program = tmp_path / "program.py"
    program.write_text(
        "import fastmp\n"
        "if __name__ == '__main__':\n"
        "    pool = fastmp.Pool(2)\n"
        "    print(pool.map(abs, range(-3, 3)), flush=True)\n"
        "    pool.map_async(abs, range(100_000), 1)\n"
    )
    done = subprocess.run([sys.executable, str(program)], capture_output=True, text=True, timeout=40, check=False)
    assert (done.returncode, done.stdout) == (0, "[3, 2, 1, 0, 1, 2]\n")


def test_in_a_loop_it_leaves_nothing(mp):
    def once():
        with mp.Pool(2) as pool:
            pool.map(pools.square, range(10))
            pool.apply_async(pools.square, (1,), callback=id).get()
        pool.join()

    def look():
        gc.collect()
        return len(os.listdir("/proc/self/fd")), threading.active_count()

    for _ in range(5):
        once()
    before = look()
    for _ in range(10):
        once()
    after = look()
    assert after[0] < before[0] + 10
    assert after[1] <= before[1]


def test_start_failures_are_told_and_leave_nothing(mp, monkeypatch):
    started = []

    def start(self, *args, **kwargs):
        if len(started) == 2:
            raise OSError("no more processes")
        process = mp.Process(*args[1:] if args else (), **kwargs)
        started.append(process)
        return process

    monkeypatch.setattr(fastmp.pool.Pool, "Process", start)
    with warnings.catch_warnings():
        # What is left open; not what 3.12 and newer say of a fork among threads of earlier tests.
        warnings.simplefilter("error", ResourceWarning)
        with pytest.raises(OSError, match="no more processes"):
            mp.Pool(4)
    assert all(not process.is_alive() for process in started)


def end_by_terminate(mp):
    pool = mp.Pool(2)
    assert pool.map(abs, [-1]) == [1]
    pool.terminate()
    pool.join()


def end_by_close(mp):
    pool = mp.Pool(2)
    assert pool.map_async(abs, range(10), callback=len).get() == list(range(10))
    assert list(pool.imap(abs, range(4))) == list(range(4))
    pool.close()
    pool.join()


def end_by_shutdown(mp):
    with fastmp.ProcessPoolExecutor(2, mp) as executor:
        assert list(executor.map(abs, [-1, -2])) == [1, 2]


@pytest.mark.parametrize("end", [end_by_terminate, end_by_close, end_by_shutdown])
def test_one_that_has_ended_needs_no_collector(mp, end):
    """Its descriptors are given back with it: else a loop runs out of them."""
    descriptors = lambda: len(os.listdir("/proc/self/fd"))  # noqa: E731
    gc.collect()
    gc.disable()
    try:
        end(mp)
        end(mp)
        before = descriptors()
        for _ in range(10):
            end(mp)
        assert descriptors() < before + 8  # what the allocator keeps is less than one a turn
    finally:
        gc.enable()


@pytest.mark.parametrize("how", ["close", "close and join", "terminate", "exit"])
def test_a_forked_child_that_ends_its_copy(mp, how):
    """It is its parent's, who goes on with it."""
    with mp.Pool(2) as pool, fastmp.ProcessPoolExecutor(2, mp) as executor:
        assert executor.submit(abs, -1).result() == 1
        pid = os.fork()
        if pid == 0:
            try:
                if how == "exit":
                    fastmp.futures._at_exit()
                else:
                    pool.terminate() if how == "terminate" else pool.close()
                    executor.shutdown(wait=how == "close and join")
                    if how == "close and join":
                        pool.join()
            except (ValueError, AssertionError):  # as the stdlib's: these are no children of its own
                pass
            finally:
                os._exit(0)
        assert os.waitpid(pid, 0)[1] == 0
        assert pool.map(abs, range(-4, 0)) == [4, 3, 2, 1]
        assert executor.submit(abs, -2).result() == 2
    pool.join()
