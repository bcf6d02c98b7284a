"""Users of Lock, RLock, Semaphore and Event."""

import os
import random
import threading
import time

from children.common import line_up, wait_until


def step(state, me):
    """Adds one to a plain counter in a way that any second process inside spoils.

    Args:
        state: a raw array of a counter and of the mark of whoever is inside.
        me: this process's number, not negative.
    """
    before = state[0]
    state[1] = me + 1
    os.sched_yield()
    assert state[1] == me + 1, "somebody else is inside"
    assert state[0] == before, "somebody else has counted"
    state[0] = before + 1


def count_under(lock, state, ready, me, rounds):
    line_up(ready, me)
    for _ in range(rounds):
        with lock:
            step(state, me)


def count_under_nested(lock, state, ready, me, rounds):
    """Takes a recursive lock up to three deep, and counts after the inner releases."""
    line_up(ready, me)
    for i in range(rounds):
        depth = i % 3
        with lock:
            for _ in range(depth):
                assert lock.acquire()
            for _ in range(depth):
                lock.release()
            step(state, me)


def count_with_timeouts(lock, state, ready, me, rounds, successes):
    """Gives up now and then: a waiter that leaves must neither keep the lock nor take a wake-up
    with it.
    """
    line_up(ready, me)
    choice = random.Random(me)
    for _ in range(rounds):
        timeout = choice.choice([0, 0.0001, 0.001, None])
        if lock.acquire(True, timeout):
            step(state, me)
            successes[me] += 1
            lock.release()


def count_with_threads(lock, state, ready, me, rounds, threads):
    failures = []

    def run(number):
        try:
            for _ in range(rounds):
                with lock:
                    step(state, number)
        except BaseException as error:
            failures.append(error)
            raise

    line_up(ready, me)
    team = [threading.Thread(target=run, args=(me * threads + i,)) for i in range(threads)]
    for thread in team:
        thread.start()
    for thread in team:
        thread.join()
    assert not failures


def hold(lock, held, go, depth=1):
    """Takes it, says so, and gives it back on request."""
    for _ in range(depth):
        assert lock.acquire()
    held.value = 1
    wait_until(lambda: go.value, "permission to release")
    for _ in range(depth):
        lock.release()


def pass_through(lock, waiting):
    waiting.value = 1
    assert lock.acquire()
    lock.release()


def take(lock, waiting, taken):
    """Takes it for good, and counts itself in a slot of its own."""
    waiting.value = 1
    assert lock.acquire()
    taken.value = 1


def try_now(lock, outcome):
    """Reports 1 when it was to be had at once, else 0."""
    outcome.value = int(lock.acquire(False))
    if outcome.value:
        lock.release()


def release_only(lock):
    lock.release()


def release_is_refused(lock):
    try:
        lock.release()
    except AssertionError:
        return
    raise RuntimeError("released what another process holds")


def expect_repr(lock, text):
    assert repr(lock) == text, repr(lock)


def same_lock(first, holder):
    """Both handles must lead to one lock."""
    second = holder["deep"][0]
    assert first.acquire(False)
    assert not second.acquire(False)
    first.release()
    assert second.acquire(False)
    second.release()


def crowd(semaphore, inside, most, ready, me, rounds):
    """Never more than `most` inside: they count themselves atomically, as flags read one by one are
    no snapshot.
    """
    line_up(ready, me)
    for _ in range(rounds):
        assert semaphore.acquire()
        assert inside.fetch_add(1) < most, "too many inside"
        os.sched_yield()
        assert inside.fetch_sub(1) <= most, "too many inside"
        semaphore.release()


def write_slots(free, filled, ring, total):
    """The writing half of a bounded buffer made of two semaphores."""
    for i in range(total):
        free.acquire()
        ring[i % len(ring)] = i
        filled.release()


def read_slots(free, filled, ring, total):
    for i in range(total):
        filled.acquire()
        assert ring[i % len(ring)] == i
        free.release()


def read_or_write(lock, readers_lock, readers, pair, ready, me, rounds):
    """Readers and writers out of two locks: readers share, writers are alone, to a reader the pair
    never differs.
    """
    line_up(ready, me)
    for i in range(rounds):
        if (i + me) % 4:
            with readers_lock:
                readers.value += 1
                if readers.value == 1:
                    lock.acquire()
            first = pair[0]
            os.sched_yield()
            assert pair[1] == first, "a writer was inside"
            with readers_lock:
                readers.value -= 1
                if readers.value == 0:
                    lock.release()
        else:
            with lock:
                assert readers.value <= 1  # one may be at the door, with the readers' lock in hand
                value = pair[0] + 1
                pair[0] = value
                os.sched_yield()
                pair[1] = value
    # Who was first in may have left others inside: the lock is its own as long as it lives.
    ready[me] = 2
    wait_until(lambda: min(ready) == 2, "the others at the end")


def await_event(event, waiting, outcome):
    waiting.value = 1
    outcome.value = 1 + int(event.wait())


def play(mine, yours, rounds):
    """One side of a game of catch with two events."""
    for _ in range(rounds):
        assert mine.wait()
        mine.clear()
        yours.set()


def set_later(event, delay):
    time.sleep(delay)
    event.set()
