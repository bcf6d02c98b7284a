"""Semaphore and BoundedSemaphore, held to what the stdlib's do."""

import pickle
import threading
import time

import fastmp
import pytest
from children import locks
from children.common import wait_asleep

BOTH = pytest.mark.parametrize("kind", ["Semaphore", "BoundedSemaphore"])


@BOTH
def test_counts_down_and_up(mp, kind):
    semaphore = getattr(mp, kind)(2)
    assert semaphore.get_value() == 2
    assert semaphore.acquire() is True
    assert semaphore.acquire(False) is True
    assert semaphore.get_value() == 0
    assert semaphore.acquire(False) is False
    assert semaphore.acquire(True, 0) is False
    assert semaphore.get_value() == 0
    assert semaphore.release() is None
    assert semaphore.get_value() == 1
    with semaphore as got:
        assert got is True
        assert semaphore.get_value() == 0
    assert semaphore.get_value() == 1


@BOTH
def test_one_is_the_default(mp, kind):
    assert getattr(mp, kind)().get_value() == 1
    assert getattr(mp, kind)(value=3).get_value() == 3
    assert getattr(mp, kind)(0).acquire(False) is False


def test_unbounded_goes_above_its_start(mp):
    semaphore = mp.Semaphore(1)
    for _ in range(10):
        semaphore.release()
    assert semaphore.get_value() == 11


def test_bounded_does_not(mp):
    semaphore = mp.BoundedSemaphore(2)
    with pytest.raises(ValueError):
        semaphore.release()
    semaphore.acquire()
    semaphore.release()
    with pytest.raises(ValueError):
        semaphore.release()
    assert semaphore.get_value() == 2


@BOTH
def test_bad_arguments(mp, kind):
    make = getattr(mp, kind)
    with pytest.raises(OSError):
        make(-1)
    for huge in (2**31, 2**63, 2**200):
        with pytest.raises(OverflowError):
            make(huge)
    for wrong in ("1", 1.5, None):
        with pytest.raises(TypeError):
            make(wrong)
    with pytest.raises(TypeError):
        make(1, 1)
    with pytest.raises(TypeError):
        make(1).acquire(True, "1")


def test_largest_value(mp):
    largest = 2**31 - 1
    semaphore = mp.Semaphore(largest)
    with pytest.raises((OverflowError, ValueError, OSError)):
        semaphore.release()
    assert semaphore.get_value() == largest
    assert semaphore.acquire(False)


@BOTH
def test_reprs(mp, kind):
    semaphore = getattr(mp, kind)(3)
    semaphore.acquire()
    assert repr(semaphore) == (
        "<Semaphore(value=2)>" if kind == "Semaphore" else "<BoundedSemaphore(value=2, maxvalue=3)>"
    )


@BOTH
def test_timeout_is_waited_out_and_takes_nothing(mp, kind):
    semaphore = getattr(mp, kind)(0)
    started = time.monotonic()
    assert semaphore.acquire(True, 0.1) is False
    assert time.monotonic() - started >= 0.098
    assert semaphore.acquire(True, -5) is False
    assert semaphore.get_value() == 0


def test_release_wakes_a_thread(mp):
    semaphore = mp.Semaphore(0)
    releaser = threading.Timer(0.1, semaphore.release)
    started = time.monotonic()
    releaser.start()
    assert semaphore.acquire(True, 1e9) is True
    assert time.monotonic() - started >= 0.09
    releaser.join()


@BOTH
def test_of_one_excludes(mp, crew, kind):
    semaphore, state, ready = getattr(mp, kind)(1), mp.RawArray("q", 2), mp.RawArray("b", 4)
    for me in range(4):
        crew.start(locks.count_under, semaphore, state, ready, me, 1500)
    crew.join()
    assert state[0] == 6000
    assert semaphore.get_value() == 1


@pytest.mark.skipif(not fastmp.accelerated, reason="the stdlib has no atomic steps to count by")
def test_of_three_lets_three_in(mp, crew):
    semaphore, ready = mp.Semaphore(3), mp.RawArray("b", 5)
    inside = fastmp.Value("i")  # the stdlib's has no atomic operations
    for me in range(5):
        crew.start(locks.crowd, semaphore, inside, 3, ready, me, 500)
    crew.join()
    assert (semaphore.get_value(), inside.value) == (3, 0)


def test_waiters_that_give_up_spoil_nothing(mp, crew):
    semaphore, state, ready = mp.Semaphore(1), mp.RawArray("q", 2), mp.RawArray("b", 4)
    successes = mp.RawArray("q", 4)
    for me in range(4):
        crew.start(locks.count_with_timeouts, semaphore, state, ready, me, 500, successes)
    crew.join()
    assert state[0] == sum(successes) > 0
    assert semaphore.get_value() == 1


def test_each_release_lets_one_through(mp, crew):
    semaphore = mp.Semaphore(0)
    taken = [mp.RawValue("b") for _ in range(4)]
    for flag in taken:
        waiting = mp.RawValue("b")
        wait_asleep(crew.start(locks.take, semaphore, waiting, flag).pid, waiting)
    assert not any(flag.value for flag in taken)
    for _ in range(4):
        semaphore.release()
    crew.join()
    assert all(flag.value for flag in taken)
    assert semaphore.get_value() == 0


def test_bounded_buffer(mp, crew):
    free, filled, ring = mp.Semaphore(4), mp.Semaphore(0), mp.RawArray("q", 4)
    crew.start(locks.write_slots, free, filled, ring, 3000)
    crew.start(locks.read_slots, free, filled, ring, 3000)
    crew.join()
    assert (free.get_value(), filled.get_value()) == (4, 0)


def test_not_picklable_outside_a_start(mp):
    for semaphore in (mp.Semaphore(), mp.BoundedSemaphore()):
        with pytest.raises(RuntimeError, match="shared between processes through inheritance"):
            pickle.dumps(semaphore)
