"""`get(watch=)`: whose end ends a wait, and how it is told."""

import multiprocessing
import os
import queue as errors
import signal
import threading
import time

import fastmp
import pytest
from children import queues

pytestmark = pytest.mark.fastmp_only("the stdlib waits for ever")


def test_a_killed_one(mp, crew):
    queue = mp.Queue()
    victim = crew.start(queues.put_after, queue, 100)
    other = crew.start(queues.put_after, queue, 100)
    threading.Timer(0.2, victim.kill).start()
    start = time.monotonic()
    with pytest.raises(fastmp.WorkerDiedError) as died:
        queue.get(watch=[other, victim])
    assert time.monotonic() - start >= 0.1
    error = died.value
    assert (error.pid, error.pids, error.exitcode, error.signal) == (victim.pid, (victim.pid,), -9, "SIGKILL")
    for part in (victim.name, str(victim.pid), "SIGKILL"):
        assert part in str(error)


@pytest.mark.method("fork")
@pytest.mark.parametrize(
    ("code", "name"), [(3, None), (-signal.SIGTERM, "SIGTERM"), (-signal.SIGRTMIN - 3, "signal 37")]
)
def test_how_it_ended(mp, crew, code, name):
    queue = mp.Queue()
    process = crew.start(queues.end_with, queue, code)
    for get in (lambda: queue.get(watch=[process]), lambda: queue.get_many(5, watch=[process])):
        with pytest.raises(fastmp.WorkerDiedError) as died:
            get()
        assert (died.value.exitcode, died.value.signal) == (code, name)
    with pytest.raises(fastmp.WorkerDiedError):
        queue.get(False, watch=[process])


@pytest.mark.method("fork")
def test_what_it_had_put_comes_first(mp, crew):
    for code in (1, -9) * 10:
        queue = mp.Queue()
        process = crew.start(queues.end_with, queue, code, *range(5))
        assert [queue.get(watch=[process]) for _ in range(5)] == list(range(5))
        with pytest.raises(fastmp.WorkerDiedError):
            queue.get(watch=iter([process]))


@pytest.mark.method("fork")
def test_a_good_end_is_none(mp, crew):
    queue = mp.Queue()
    done = crew.start(queues.end_with, queue, 0, "a")
    late = crew.start(queues.put_after, queue, 0.3, "b")
    assert [queue.get(watch=[done, late]), queue.get(watch=[done, late])] == ["a", "b"]
    start = time.monotonic()
    with pytest.raises(errors.Empty):
        queue.get(timeout=0.2, watch=[done, late])
    assert time.monotonic() - start >= 0.2
    with pytest.raises(errors.Empty):
        queue.get(False, watch=[done, late])
    cpu = time.process_time()
    with pytest.raises(errors.Empty):
        queue.get(timeout=0.5, watch=[done])
    assert time.process_time() - cpu < 0.25  # whose end was a good one is not looked at again and again


@pytest.mark.method("fork")
def test_processes_of_the_stdlib(mp):
    queue = mp.Queue()
    process = multiprocessing.get_context("fork").Process(target=queues.end_with, args=(queue, 5))
    process.start()
    with pytest.raises(fastmp.WorkerDiedError) as died:
        queue.get(watch=[process])
    assert died.value.exitcode == 5
    process.join()


@pytest.mark.method("fork")
def test_no_processes(mp):
    queue = mp.Queue()
    queue.put(1)
    assert queue.get(watch=[]) == 1
    with pytest.raises(errors.Empty):
        queue.get(timeout=0.05, watch=[])


@pytest.mark.method("fork")
def test_shut_down(mp, crew):
    queue = mp.Queue()
    process = crew.start(queues.put_after, queue, 100)
    threading.Timer(0.1, queue.shutdown).start()
    with pytest.raises(fastmp.ShutDown):
        queue.get(watch=[process])
    os.kill(process.pid, signal.SIGKILL)


@pytest.mark.method("fork")
def test_many_get_while_one_is_killed(mp, crew):
    """A watcher that others are quicker than goes on to wait."""
    queue, count = mp.Queue(), 2000
    putter = crew.start(queues.put_all, queue, list(range(count)))
    got = []

    def get():
        try:
            while True:
                got.append(queue.get(timeout=1, watch=[putter]))
        except errors.Empty:
            pass

    threads = [threading.Thread(target=get) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(got) == list(range(count))
