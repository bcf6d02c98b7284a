"""RLock, held to what the stdlib's does."""

import os
import pickle
import threading
import time

import pytest
from children import locks
from children.common import wait_asleep, wait_until


def in_thread(function):
    """The result of a function, run in another thread."""
    box = []
    thread = threading.Thread(target=lambda: box.append(function()))
    thread.start()
    thread.join()
    return box[0]


def test_recursion(mp):
    lock = mp.RLock()
    for _ in range(100):
        assert lock.acquire() is True
    assert lock.acquire(False) is True
    assert lock.acquire(True, 0) is True
    for _ in range(101):
        assert in_thread(lambda: lock.acquire(False)) is False
        assert lock.release() is None
    assert in_thread(lambda: lock.acquire(False)) is False
    lock.release()
    with pytest.raises(AssertionError):
        lock.release()


def test_with_nests(mp, crew):
    lock, outcome = mp.RLock(), mp.RawValue("b", -1)
    with lock as outer:
        with lock as inner:
            assert outer is inner is True
        crew.run(locks.try_now, lock, outcome)
        assert outcome.value == 0
    crew.run(locks.try_now, lock, outcome)
    assert outcome.value == 1


def test_release_is_the_owners(mp, crew):
    lock = mp.RLock()
    with pytest.raises(AssertionError):
        lock.release()
    with lock:
        assert in_thread(lambda: pytest.raises(AssertionError, lock.release)) is not None
        crew.run(locks.release_is_refused, lock)
        assert lock.acquire(False)
        lock.release()
    assert in_thread(lambda: lock.acquire(False)) is True


def test_timeouts(mp):
    lock = mp.RLock()
    lock.acquire()
    for timeout in (0, -1, -1e9):
        assert in_thread(lambda t=timeout: lock.acquire(True, t)) is False
    started = time.monotonic()
    assert in_thread(lambda: lock.acquire(True, 0.1)) is False
    assert time.monotonic() - started >= 0.098
    assert in_thread(lambda: lock.acquire(False, 1e6)) is False


def test_bad_arguments(mp):
    lock = mp.RLock()
    with pytest.raises(TypeError):
        lock.acquire(True, "1")
    with pytest.raises(TypeError):
        lock.acquire(True, 1, 1)
    with pytest.raises(TypeError):
        mp.RLock(1)


def test_held_through_the_last_release(mp, crew):
    lock, held, go = mp.RLock(), mp.RawValue("b"), mp.RawValue("b")
    crew.start(locks.hold, lock, held, go, 3)
    wait_until(lambda: held.value)
    assert lock.acquire(False) is False
    assert lock.acquire(timeout=0.05) is False
    go.value = 1
    assert lock.acquire() is True
    crew.join()


def test_repr_tells_owner_and_depth(mp, crew):
    lock = mp.RLock()
    assert repr(lock) == "<RLock(None, 0)>"
    with lock:
        assert repr(lock) == "<RLock(MainProcess, 1)>"
        with lock:
            assert repr(lock) == "<RLock(MainProcess, 2)>"
            assert in_thread(lambda: repr(lock)) == "<RLock(SomeOtherThread, nonzero)>"
            crew.run(locks.expect_repr, lock, "<RLock(SomeOtherProcess, nonzero)>")


def test_excludes_processes(mp, crew):
    lock, state, ready = mp.RLock(), mp.RawArray("q", 2), mp.RawArray("b", 4)
    for me in range(4):
        crew.start(locks.count_under_nested, lock, state, ready, me, 1500)
    crew.join()
    assert state[0] == 6000


def test_excludes_threads_and_processes(mp, crew):
    lock, state, ready = mp.RLock(), mp.RawArray("q", 2), mp.RawArray("b", 2)
    for me in range(2):
        crew.start(locks.count_with_threads, lock, state, ready, me, 300, 3)
    crew.join()
    assert state[0] == 1800


def test_waiters_that_give_up_spoil_nothing(mp, crew):
    lock, state, ready = mp.RLock(), mp.RawArray("q", 2), mp.RawArray("b", 4)
    successes = mp.RawArray("q", 4)
    for me in range(4):
        crew.start(locks.count_with_timeouts, lock, state, ready, me, 500, successes)
    crew.join()
    assert state[0] == sum(successes) > 0
    assert lock.acquire(False)


def test_every_waiter_gets_its_turn(mp, crew):
    lock = mp.RLock()
    lock.acquire()
    flags = [mp.RawValue("b") for _ in range(4)]
    for flag in flags:
        wait_asleep(crew.start(locks.pass_through, lock, flag).pid, flag)
    lock.release()
    crew.join()
    assert in_thread(lambda: lock.acquire(False)) is True


def test_not_picklable_outside_a_start(mp):
    with pytest.raises(RuntimeError, match="shared between processes through inheritance"):
        pickle.dumps(mp.RLock())


@pytest.mark.fastmp_only("an extension")
def test_owner_and_recoveries(mp):
    lock = mp.RLock()
    assert lock.owner is None
    with lock, lock:
        assert lock.owner == (os.getpid(), threading.get_native_id())
    assert lock.owner is None
    assert lock.recoveries == 0
