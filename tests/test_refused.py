"""A call that does not wait for what another holds is refused by a look: no detour by way of
Python, no system call.
"""

from __future__ import annotations

import time

import fastmp as mp
import pytest
from fastmp import sharedctypes, synchronize

TRIES = 2000


class Counting:
    """Counts the calls that the fast path leaves to others."""

    detours = 0

    def _acquire(self, block=True, timeout=None):
        type(self).detours += 1
        return super()._acquire(bool(block), timeout)


def hold(lock, held, done):
    lock.acquire()
    held.set()
    done.wait(60)


@pytest.mark.parametrize("name", ["Lock", "RLock", "Semaphore", "BoundedSemaphore", "recover"])
@pytest.mark.parametrize(
    "ask",
    [
        lambda lock: lock.acquire(False),
        lambda lock: lock.acquire(block=False),
        lambda lock: lock.acquire(0),
        lambda lock: lock.acquire(block=0),
    ],
)
def test_a_refusal_takes_no_detour(name, ask):
    base = getattr(synchronize, "Semaphore" if name == "recover" else name)
    cls = type(name, (Counting, base), {})
    lock = cls(1, recover=True) if name == "recover" else cls()
    ctx = mp.get_context("fork")
    held, done = ctx.Event(), ctx.Event()
    holder = ctx.Process(target=hold, args=(lock, held, done))
    holder.start()
    try:
        assert held.wait(60)
        start = time.monotonic()
        assert [ask(lock) for _ in range(TRIES)] == [False] * TRIES
        # One in 10 ms looks whether the holder is dead.
        looks = (time.monotonic() - start) / 0.01
        assert cls.detours <= looks + 2 < TRIES / 2
    finally:
        done.set()
        holder.join(60)


def test_a_thread_of_this_process_is_alive():
    cls = type("Lock", (Counting, synchronize.Lock), {})
    lock = cls()
    lock.acquire()
    assert not any(lock.acquire(False) for _ in range(TRIES))
    assert cls.detours == 0


def test_the_lock_of_a_value_refuses_as_well():
    lock = mp.Lock()
    value = mp.Value("i", lock=lock)
    assert isinstance(value, sharedctypes.Synchronized)
    lock.acquire()
    assert value.acquire(False) is False
    lock.release()
    assert value.acquire(False) is True


def hold_and_die(lock, held):
    lock.acquire()
    held.set()
    time.sleep(600)


@pytest.mark.parametrize("make", [mp.Lock, mp.RLock, lambda: mp.Semaphore(1, recover=True)])
def test_who_polls_gets_the_lock_of_the_dead(make):
    lock = make()
    ctx = mp.get_context("fork")
    held = ctx.Event()
    holder = ctx.Process(target=hold_and_die, args=(lock, held))
    holder.start()
    assert held.wait(60)
    assert lock.acquire(False) is False
    holder.kill()
    deadline = time.monotonic() + 60
    with pytest.warns(mp.OwnerDiedWarning):
        while not lock.acquire(False):
            assert time.monotonic() < deadline
    holder.join()


def test_what_is_no_truth_is_asked_for_it():
    lock = mp.Lock()
    lock.acquire()
    assert lock.acquire(False, None) is False
    assert lock.acquire(True, 0.01) is False
    assert lock.acquire(block=True, timeout=0) is False
    lock.release()
    assert lock.acquire(1) is True
