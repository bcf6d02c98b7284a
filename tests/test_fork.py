"""fork at any time: the child can use at once what it has inherited, whatever other threads were in the middle of."""

import contextlib
import os
import queue as errors
import threading
import time

import pytest
from children import forking
from children.common import wait_until

pytestmark = [pytest.mark.fastmp_only("the stdlib's objects may be inherited held"), pytest.mark.method("fork")]


@pytest.fixture
def noise(mp):
    """Threads that take locks, hammer queues and pipes, and make and drop objects, in the process that forks."""
    stop = []
    lock, rlock, queue, (left, right) = mp.Lock(), mp.RLock(), mp.Queue(10), mp.Pipe()
    threads = forking.run_all(
        lambda: forking.put_for_ever(queue, stop),
        lambda: forking.get_for_ever(queue, stop),
        lambda: forking.lock_for_ever(lock, stop),
        lambda: forking.lock_for_ever(rlock, stop),
        lambda: forking.make_for_ever(mp, stop),
        lambda: forking.round_trip(left, right, stop),
    )
    yield lock, rlock, queue
    stop.append(True)
    while any(thread.is_alive() for thread in threads[:2]):
        # Neither of the two must be left waiting for the other.
        with contextlib.suppress(errors.Full, errors.Empty):
            queue.get_nowait() if queue.full() else queue.put_nowait("the end")
        time.sleep(0.001)
    for thread in threads:
        thread.join()


def test_fork_in_the_middle_of_everything(mp, crew, noise):
    lock, rlock, _ = noise
    free, idle, conns, value = mp.Lock(), mp.Queue(), mp.Pipe(), mp.Value("i")
    for i in range(100):
        result = mp.RawValue("i")
        child = mp.Process(
            target=forking.use_everything, args=(mp, lock, rlock, free, idle, conns, value, result), daemon=True
        )
        child.start()
        child.join()
        assert (child.exitcode, result.value) == (0, 6)
        assert value.value == i + 1


def test_os_fork_will_do(mp, noise):
    lock, rlock, queue = noise
    mine = mp.Queue()
    for i in range(100):
        pid = os.fork()
        if pid == 0:
            try:
                with lock, rlock:
                    mine.put(i)
                os._exit(0)
            except BaseException:
                os._exit(1)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
        assert mine.get() == i


def test_child_takes_part_in_a_busy_queue(mp, crew):
    queue, got = mp.Queue(10), []
    counter = threading.Thread(target=lambda: [got.append(queue.get()) for _ in range(20 * 90)])
    counter.start()
    for _ in range(20):
        crew.start(forking.put_from_threads, queue, 30)
        forking.pause()
    counter.join()
    crew.join()
    assert sorted(got) == sorted((n, i) for n in range(3) for i in range(30) for _ in range(20))


@pytest.mark.parametrize("kind", ["Lock", "RLock"])
def test_identity_is_made_anew(mp, crew, kind):
    lock, pid, held, go = getattr(mp, kind)(), mp.RawValue("i"), mp.RawValue("b"), mp.RawValue("b")
    with lock:  # this process has an identity before it forks
        assert lock.owner[0] == os.getpid()
    child = crew.start(forking.report_owner, lock, pid, held, go)
    wait_until(lambda: held.value)
    assert lock.owner[0] == pid.value == child.pid
    assert lock.acquire(True, 0.3) is False
    go.value = 1
    crew.join()
    assert lock.acquire(False)
    assert lock.recoveries == 0


@pytest.mark.parametrize("kind", ["Lock", "RLock"])
def test_identity_of_a_grandchild(mp, kind):
    """A child of a child, forked plainly, holds in its own name: it is not its dead parent."""
    lock, held, go, pid = getattr(mp, kind)(), mp.RawValue("b"), mp.RawValue("b"), mp.RawValue("i")
    child = os.fork()
    if child == 0:
        if os.fork() == 0:
            try:
                forking.report_owner(lock, pid, held, go)
            finally:
                os._exit(0)
        os._exit(0)
    os.waitpid(child, 0)
    wait_until(lambda: held.value)
    assert lock.owner[0] == pid.value != child
    assert lock.acquire(True, 0.4) is False
    go.value = 1
    assert lock.acquire() is True
    assert lock.recoveries == 0


@pytest.mark.parametrize("kind", ["Lock", "RLock"])
def test_what_the_parent_holds_stays_the_parents(mp, crew, kind):
    lock = getattr(mp, kind)()
    lock.acquire()
    pid = os.fork()
    if pid == 0:
        try:
            os._exit(int(lock.acquire(True, 0.3)))
        except BaseException:
            os._exit(2)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    assert lock.acquire(False) is (kind == "RLock")
    lock.release()
    assert lock.recoveries == 0


def test_objects_outlive_the_process_that_made_them(mp):
    """Made in a child, used by its children after it has ended."""
    result = mp.RawValue("i")
    child = os.fork()
    if child == 0:
        lock, queue = mp.Lock(), mp.Queue()
        queue.put(b"from the dead" * 100_000)
        queue.put(5)
        maker = os.getpid()
        if os.fork() == 0:
            try:
                wait_until(lambda: os.getppid() != maker)
                with lock:
                    assert queue.get() == b"from the dead" * 100_000
                    result.value = queue.get()
            finally:
                os._exit(0)
        os._exit(0)
    os.waitpid(child, 0)
    wait_until(lambda: result.value, "the grandchild")
    assert result.value == 5
