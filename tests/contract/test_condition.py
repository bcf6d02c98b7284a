"""Condition, held to what the stdlib's does."""

import decimal
import fractions
import pickle
import threading
import time

import pytest
from children import conditions
from children.common import FromHandler, raising_on_signal, wait_asleep, wait_until

LOCKS = pytest.mark.parametrize(("kind", "depth"), [("Lock", 1), ("RLock", 1), ("RLock", 3)])


def start_waiters(mp, crew, condition, count, timeout=None, depth=1):
    outcomes = [mp.RawValue("b") for _ in range(count)]
    for outcome in outcomes:
        waiting = mp.RawValue("b")
        member = crew.start(conditions.wait_once, condition, waiting, outcome, timeout, depth)
        wait_asleep(member.pid, waiting)
    return outcomes


def count_woken(outcomes):
    return sum(outcome.value == 1 for outcome in outcomes)


def test_it_is_its_lock(mp):
    for lock in (mp.Lock(), mp.RLock(), None):
        condition = mp.Condition(lock)
        assert condition.acquire() is True
        assert condition.release() is None
        with condition as entered:
            assert entered is True
            if lock is not None:
                assert not threading_try(lock)
        assert condition.acquire(False) is True
        condition.release()
        with pytest.raises((ValueError, AssertionError)):
            condition.release()


def threading_try(lock):
    """Whether another thread could take the lock."""
    got = []
    thread = threading.Thread(target=lambda: got.append(lock.acquire(False)))
    thread.start()
    thread.join()
    return got[0]


def test_the_default_lock_is_recursive(mp):
    condition = mp.Condition()
    with condition, condition:
        assert condition.wait(0.01) is False
    assert condition.acquire(False)
    condition.release()


def test_repr(mp, crew):
    condition = mp.Condition()
    assert repr(condition) == "<Condition(<RLock(None, 0)>, 0)>"
    outcomes = start_waiters(mp, crew, condition, 2)
    assert repr(condition) == "<Condition(<RLock(None, 0)>, 2)>"
    with condition:
        assert repr(condition) == "<Condition(<RLock(MainProcess, 1)>, 2)>"
        condition.notify_all()
    crew.join()
    assert count_woken(outcomes) == 2
    assert repr(mp.Condition(mp.Lock())) == "<Condition(<Lock(owner=None)>, 0)>"


def test_the_lock_has_to_be_held(mp):
    condition = mp.Condition()
    for call in (condition.wait, condition.notify, condition.notify_all, lambda: condition.wait(0)):
        with pytest.raises(AssertionError):
            call()
    with condition:
        thread_result = []

        def elsewhere():
            try:
                condition.notify()
            except AssertionError as error:
                thread_result.append(error)

        thread = threading.Thread(target=elsewhere)
        thread.start()
        thread.join()
        assert thread_result


@LOCKS
def test_a_wait_in_vain(mp, kind, depth):
    condition = mp.Condition(getattr(mp, kind)())
    for _ in range(depth):
        condition.acquire()
    for timeout in (0, 0.0, -1, -1e9):
        assert condition.wait(timeout) is False
    started = time.monotonic()
    assert condition.wait(timeout=0.1) is False
    assert time.monotonic() - started >= 0.096
    for _ in range(depth):
        condition.release()
    with pytest.raises((ValueError, AssertionError)):
        condition.release()


@LOCKS
@pytest.mark.parametrize("timeout", [None, 50, 1e9])
def test_woken(mp, crew, kind, depth, timeout):
    condition = mp.Condition(getattr(mp, kind)())
    outcomes = start_waiters(mp, crew, condition, 1, timeout, depth)
    with condition:
        assert condition.notify() is None
        assert outcomes[0].value == 0  # the lock is still ours
    crew.join()
    assert outcomes[0].value == 1


def test_as_many_as_told_are_woken(mp, crew):
    condition = mp.Condition()
    outcomes = start_waiters(mp, crew, condition, 6)
    woken = 0
    for n in (0, -1, 1, 2):
        with condition:
            condition.notify(n)
        woken += max(n, 0)
        wait_until(lambda woken=woken: count_woken(outcomes) == woken)
        time.sleep(0.02)
        assert count_woken(outcomes) == woken
    with condition:
        condition.notify(n=100)
    crew.join()
    assert count_woken(outcomes) == 6
    with condition:
        condition.notify(5)  # nobody: void
        assert condition.wait(0.02) is False


def test_as_many_as_any_number_says(mp, crew):
    numbers = [(1.5, 2), (2.0, 2), (0.0, 0), (True, 1), (float("inf"), 3), (float("nan"), 0), (-(10**30), 0)]
    numbers += [(10**30, 3), (fractions.Fraction(3, 2), 2), (decimal.Decimal("0.1"), 1)]
    condition, turn = mp.Condition(), mp.RawValue("i", -1)
    flags = [[(mp.RawValue("b"), mp.RawValue("b")) for _ in numbers] for _ in range(3)]
    waiters = [crew.start(conditions.wait_once_a_turn, condition, turn, each) for each in flags]
    for at, (n, woken) in enumerate(numbers):
        turn.value = at
        for waiter, each in zip(waiters, flags, strict=True):
            wait_asleep(waiter.pid, each[at][0])
        outcomes = [each[at][1] for each in flags]
        with condition:
            condition.notify(n)
        wait_until(lambda outcomes=outcomes, woken=woken: count_woken(outcomes) == woken)
        time.sleep(0.02)
        assert count_woken(outcomes) == woken, n
        with condition:
            condition.notify_all()
        wait_until(lambda outcomes=outcomes: count_woken(outcomes) == 3)
    crew.join()


@pytest.mark.parametrize("n", [None, "1", [], 1j])
def test_as_many_as_no_number_says(mp, n):
    condition = mp.Condition()
    with condition, pytest.raises(TypeError):
        condition.notify(n)


def test_all_are_woken(mp, crew):
    condition = mp.Condition()
    for _ in range(3):
        outcomes = start_waiters(mp, crew, condition, 4)
        with condition:
            assert condition.notify_all() is None
        crew.join()
        assert count_woken(outcomes) == 4


def test_who_gave_up_takes_no_wake_up(mp, crew):
    condition = mp.Condition()
    for _ in range(3):
        with condition:
            condition.wait(0.01)
    outcomes = start_waiters(mp, crew, condition, 1)
    with condition:
        condition.notify()
    crew.join()
    assert count_woken(outcomes) == 1


def test_wait_for(mp, crew):
    condition, state, outcome = mp.Condition(), mp.RawValue("i"), mp.RawValue("b")
    assert condition.wait_for(lambda: "at once") == "at once"  # not even the lock
    with condition:
        started = time.monotonic()
        assert condition.wait_for(lambda: 0, timeout=0.1) == 0
        assert time.monotonic() - started >= 0.096
        assert condition.wait_for(list, timeout=-1) == []
    member = crew.start(conditions.wait_for_value, condition, state, 3, outcome)
    for value in (1, 2, 3):
        wait_asleep(member.pid)
        with condition:
            state.value = value
            condition.notify()
    crew.join()
    assert outcome.value == 1


def test_two_take_turns(mp, crew):
    condition, state = mp.Condition(mp.Lock()), mp.RawValue("i")
    for parity in (0, 1):
        crew.start(conditions.step_when_told, condition, state, parity, 200)
    crew.join()
    assert state.value == 400


def test_threads_of_one_process(mp):
    condition, arrived = mp.Condition(), []

    def wait():
        with condition:
            arrived.append(0)
            assert condition.wait(50)
            arrived.append(1)

    threads = [threading.Thread(target=wait) for _ in range(5)]
    for thread in threads:
        thread.start()
    wait_until(lambda: arrived.count(0) == 5)
    with condition:
        condition.notify_all()
    for thread in threads:
        thread.join()
    assert arrived.count(1) == 5


@LOCKS
def test_an_exception_from_a_signal_handler_ends_the_wait(mp, crew, kind, depth):
    condition = mp.Condition(getattr(mp, kind)())
    for _ in range(depth):
        condition.acquire()
    with raising_on_signal(), pytest.raises(FromHandler):
        condition.wait()
    for _ in range(depth):  # held again, as deep as before
        condition.release()
    outcomes = start_waiters(mp, crew, condition, 1)
    with condition:
        condition.notify()
    crew.join()
    assert outcomes[0].value == 1


def test_travels_only_with_a_process(mp):
    with pytest.raises(RuntimeError):
        pickle.dumps(mp.Condition())


def test_a_subclass_may_take_other_arguments(mp):
    base = type(mp.Condition())

    class Named(base):
        def __init__(self, name, *, ctx):
            super().__init__(ctx=ctx)
            self.name = name

    condition = Named("it", ctx=mp)
    with condition:
        assert condition.wait(0) is False
    assert repr(condition).startswith("<Named(")


@pytest.mark.fastmp_only("the stdlib fails later, and less clearly")
def test_a_foreign_lock(mp):
    condition = mp.Condition(threading.Lock())
    with condition, pytest.raises(AttributeError, match="Lock or RLock of fastmp"):
        condition.wait(0)


@pytest.mark.fastmp_only("the stdlib knows no owners")
def test_owner_through_the_condition(mp):
    lock = mp.RLock()
    condition = mp.Condition(lock)
    with condition:
        assert lock.owner == (mp.current_process().pid, threading.get_native_id())
    assert lock.owner is None


def test_what_is_no_lock_is_refused_at_once(mp):
    with pytest.raises(AttributeError):
        mp.Condition(5)
