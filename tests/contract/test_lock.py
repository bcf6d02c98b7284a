"""Lock, held to what the stdlib's does."""

import os
import pickle
import threading
import time

import pytest
from children import locks
from children.common import wait_asleep, wait_until


def test_take_and_give_back(mp):
    lock = mp.Lock()
    assert lock.acquire() is True
    assert lock.acquire(False) is False
    assert lock.release() is None
    assert lock.acquire(block=False) is True
    lock.release()


def test_with_gives_true_and_releases_on_errors(mp):
    lock = mp.Lock()
    with lock as got:
        assert got is True
        assert not lock.acquire(False)
    with pytest.raises(KeyError), lock:
        raise KeyError
    assert lock.acquire(False)
    lock.release()


@pytest.mark.parametrize("timeout", [0, 0.0, -0.0, -1, -1e9])
def test_no_time_is_one_try(mp, timeout):
    lock = mp.Lock()
    assert lock.acquire(True, timeout) is True
    assert lock.acquire(True, timeout) is False
    assert lock.acquire(timeout=timeout) is False


@pytest.mark.parametrize("timeout", [0.05, 0.2])
def test_timeout_is_waited_out(mp, timeout):
    lock = mp.Lock()
    lock.acquire()
    started = time.monotonic()
    assert lock.acquire(True, timeout) is False
    # The stdlib waits on the wall clock, which may be slewed.
    assert time.monotonic() - started >= timeout * 0.98


def test_no_block_ignores_the_timeout(mp):
    lock = mp.Lock()
    lock.acquire()
    assert lock.acquire(False, 1e6) is False


@pytest.mark.parametrize("timeout", [None, 1000, 1e6, 1e9])
def test_long_waits_end_with_the_release(mp, timeout):
    lock = mp.Lock()
    assert lock.acquire(True, timeout) is True
    started = time.monotonic()
    releaser = threading.Timer(0.1, lock.release)
    releaser.start()
    assert lock.acquire(True, timeout) is True
    assert time.monotonic() - started >= 0.09
    releaser.join()


@pytest.mark.fastmp_only("the stdlib's conversion overflows")
@pytest.mark.parametrize("timeout", [1e15, 1e300, float("inf")])
def test_timeouts_saturate(mp, timeout):
    lock = mp.Lock()
    assert lock.acquire(True, timeout) is True
    releaser = threading.Timer(0.1, lock.release)
    releaser.start()
    assert lock.acquire(True, timeout) is True
    releaser.join()


def test_bad_arguments(mp):
    lock = mp.Lock()
    for timeout in ("1", [], object()):
        with pytest.raises(TypeError):
            lock.acquire(True, timeout)
    with pytest.raises(TypeError):
        lock.acquire(True, 1, 1)
    with pytest.raises(TypeError):
        lock.acquire(blocking=True)
    with pytest.raises(TypeError):
        lock.release(1)
    with pytest.raises(TypeError):
        mp.Lock(1)
    assert lock.acquire(False) is True


def test_release_of_a_free_lock(mp):
    lock = mp.Lock()
    with pytest.raises(ValueError):
        lock.release()
    lock.acquire()
    lock.release()
    with pytest.raises(ValueError):
        lock.release()
    assert lock.acquire(False)
    assert not lock.acquire(False)


def test_repr_tells_the_owner(mp, crew):
    lock = mp.Lock()
    assert repr(lock) == "<Lock(owner=None)>"
    with lock:
        assert repr(lock) == "<Lock(owner=MainProcess)>"
        thread = threading.Thread(target=expect_other_thread, args=(lock, seen := []))
        thread.start()
        thread.join()
        assert seen == ["<Lock(owner=SomeOtherThread)>"]
        crew.run(locks.expect_repr, lock, "<Lock(owner=SomeOtherProcess)>")


def expect_other_thread(lock, seen):
    seen.append(repr(lock))


def test_excludes_processes(mp, crew):
    lock, state, ready = mp.Lock(), mp.RawArray("q", 2), mp.RawArray("b", 4)
    for me in range(4):
        crew.start(locks.count_under, lock, state, ready, me, 2000)
    crew.join()
    assert state[0] == 8000


def test_excludes_threads_and_processes(mp, crew):
    lock, state, ready = mp.Lock(), mp.RawArray("q", 2), mp.RawArray("b", 2)
    for me in range(2):
        crew.start(locks.count_with_threads, lock, state, ready, me, 300, 3)
    crew.join()
    assert state[0] == 1800


def test_waiters_that_give_up_spoil_nothing(mp, crew):
    lock, state, ready = mp.Lock(), mp.RawArray("q", 2), mp.RawArray("b", 4)
    successes = mp.RawArray("q", 4)
    for me in range(4):
        crew.start(locks.count_with_timeouts, lock, state, ready, me, 500, successes)
    crew.join()
    assert state[0] == sum(successes) > 0
    assert lock.acquire(False)


def test_readers_and_writers(mp, crew):
    # The last reader out releases what the first one in took: any process may release a Lock.
    lock, readers_lock = mp.Lock(), mp.Lock()
    readers, pair, ready = mp.RawValue("q"), mp.RawArray("q", 2), mp.RawArray("b", 4)
    for me in range(4):
        crew.start(locks.read_or_write, lock, readers_lock, readers, pair, ready, me, 400)
    crew.join()
    assert readers.value == 0
    assert pair[:] == [400, 400]


def test_every_waiter_gets_its_turn(mp, crew):
    lock = mp.Lock()
    lock.acquire()
    flags = [mp.RawValue("b") for _ in range(4)]
    for flag in flags:
        wait_asleep(crew.start(locks.pass_through, lock, flag).pid, flag)
    lock.release()
    crew.join()
    assert lock.acquire(False)


def test_held_here_is_held_there(mp, crew):
    lock, outcome = mp.Lock(), mp.RawValue("b", -1)
    with lock:
        crew.run(locks.try_now, lock, outcome)
        assert outcome.value == 0
    crew.run(locks.try_now, lock, outcome)
    assert outcome.value == 1


def test_held_there_is_held_here(mp, crew):
    lock, held, go = mp.Lock(), mp.RawValue("b"), mp.RawValue("b")
    crew.start(locks.hold, lock, held, go)
    wait_until(lambda: held.value)
    assert lock.acquire(False) is False
    assert lock.acquire(timeout=0.05) is False
    go.value = 1
    assert lock.acquire() is True
    crew.join()


def test_another_process_may_release(mp, crew):
    lock = mp.Lock()
    lock.acquire()
    crew.run(locks.release_only, lock)
    assert lock.acquire(False) is True


def test_another_thread_may_release(mp):
    lock = mp.Lock()
    lock.acquire()
    thread = threading.Thread(target=lock.release)
    thread.start()
    thread.join()
    assert lock.acquire(False) is True


def test_handles_share_one_lock(mp, crew):
    lock = mp.Lock()
    crew.run(locks.same_lock, lock, {"deep": [lock]})


def test_many_locks_are_independent(mp):
    many = [mp.Lock() for _ in range(300)]
    for lock in many:
        assert lock.acquire(False)
    for lock in many[::2]:
        lock.release()
    assert [lock.acquire(False) for lock in many] == [True, False] * 150


def test_not_picklable_outside_a_start(mp):
    with pytest.raises(RuntimeError, match="shared between processes through inheritance"):
        pickle.dumps(mp.Lock())


@pytest.mark.fastmp_only("an extension")
def test_owner_and_recoveries(mp, crew):
    lock, held, go = mp.Lock(), mp.RawValue("b"), mp.RawValue("b")
    assert lock.owner is None
    with lock:
        assert lock.owner == (os.getpid(), threading.get_native_id())
    holder = crew.start(locks.hold, lock, held, go)
    wait_until(lambda: held.value)
    assert lock.owner[0] == holder.pid
    go.value = 1
    crew.join()
    assert lock.owner is None
    assert lock.recoveries == 0


@pytest.mark.fastmp_only("how it binds is its own affair")
@pytest.mark.parametrize("kind", ["Lock", "RLock", "Semaphore", "BoundedSemaphore"])
def test_its_methods_refuse_other_objects(mp, kind):
    own = vars(type(getattr(mp, kind)()))
    for name in ("__enter__", "__exit__", "acquire", "release"):
        with pytest.raises(TypeError):
            own[name].__get__(object())()
