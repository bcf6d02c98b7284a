"""What children do with conditions and barriers."""

import threading
import time
import warnings

from .common import wait_until


def wait_once(condition, waiting, outcome, timeout=None, depth=1):
    """Waits once, with the lock held `depth` times; outcome 1: woken, 2: in vain."""
    for _ in range(depth):
        condition.acquire()
    waiting.value = 1
    woken = condition.wait(timeout)
    for _ in range(depth):  # as deep as before
        condition.release()
    outcome.value = 1 if woken is True else 2


def wait_once_a_turn(condition, turn, flags):
    """As `wait_once` for each pair of flags, when it is its turn."""
    for at, (waiting, outcome) in enumerate(flags):
        wait_until(lambda at=at: turn.value == at, "its turn")
        wait_once(condition, waiting, outcome)


def wait_for_value(condition, state, target, outcome):
    with condition:
        result = condition.wait_for(lambda: state.value >= target and "reached")
    outcome.value = 1 if result == "reached" else 2


def step_when_told(condition, state, parity, rounds):
    """Two of these take turns."""
    for _ in range(rounds):
        with condition:
            while state.value % 2 != parity:
                condition.wait()
            state.value += 1
            condition.notify()


def notify_then_hold(condition, granted):
    """Notifies, and is killed before it gives the lock up."""
    condition.acquire()
    condition.notify()
    granted.value = 1
    time.sleep(60)


def wait_and_count_warnings(condition, waiting, outcome):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        with condition:
            waiting.value = 1
            assert condition.wait()
            outcome.value = 1 + len(caught)


def meet(barrier, rounds, indices):
    """Comes to the barrier in each round; counts the indices it was given."""
    for _ in range(rounds):
        indices[barrier.wait()] += 1


def meet_in_threads(barrier, threads, indices):
    lock = threading.Lock()

    def party():
        index = barrier.wait()
        with lock:
            indices[index] += 1

    parties = [threading.Thread(target=party) for _ in range(threads)]
    for party in parties:
        party.start()
    for party in parties:
        party.join()


def meet_in_vain(barrier, outcome, timeout=None):
    try:
        barrier.wait(timeout)
    except threading.BrokenBarrierError:
        outcome.value = time.monotonic()


def act_and_hang():
    """The action of a barrier: whoever runs it is killed there."""
    time.sleep(60)


def dawdle():
    time.sleep(0.8)


def fail():
    raise KeyError("the action")


class Tally:
    """An action that counts its calls in shared memory."""

    def __init__(self, calls):
        self.calls = calls

    def __call__(self):
        self.calls.value += 1
        return "ignored"


def hold_permits(semaphore, count, held):
    for _ in range(count):
        assert semaphore.acquire()
    held.value = 1
    time.sleep(60)


def look_after_release(semaphore, outcome):
    wait_until(lambda: semaphore.get_value() > 0)
    try:
        semaphore.release()
    except ValueError:
        outcome.value = 1
