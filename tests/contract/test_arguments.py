"""Any truth value for a boolean, any real number for seconds, as the stdlib takes them."""

import contextlib
import queue as errors
import sys
from decimal import Decimal
from fractions import Fraction

import numpy
import pytest
from children import locks
from children.common import wait_until

TRUE = [True, 1, 5, "text", [0], numpy.True_, 0.5]
FALSE = [False, 0, None, "", [], numpy.False_, 0.0]
# What adds to a float: some of the stdlib's methods do that in Python.
SHORT = [0.001, 0, -1, -0.5, True, Fraction(1, 1000), numpy.float32(0.001), numpy.int64(0)]

# The stdlib's locks took integers alone before Python 3.12.
INTEGERS_ONLY = sys.version_info < (3, 12)

# What an argument means is decided in the process that calls, before anything that is shared is
# looked at, and long waits are many here: how other processes would be started says nothing.
pytestmark = pytest.mark.method("fork")

LOCKS = ["Lock", "RLock", "Semaphore", "BoundedSemaphore", "Condition", "Value"]


@pytest.fixture
def true_and_false(native):
    """What counts as each for the locks of the package under test."""
    if not native and INTEGERS_ONLY:
        return [True, 1, 5], [False, 0]
    return TRUE, FALSE


def make(mp, kind):
    return mp.Value("i") if kind == "Value" else getattr(mp, kind)()


@contextlib.contextmanager
def held(mp, kind, crew):
    """One that cannot be had here: another process holds it."""
    lock, is_held, go = make(mp, kind), mp.RawValue("b"), mp.RawValue("b")
    crew.start(locks.hold, lock, is_held, go)
    wait_until(lambda: is_held.value)
    yield lock
    go.value = 1
    crew.join()


@pytest.mark.parametrize("kind", LOCKS)
def test_acquire_takes_truth(mp, kind, true_and_false):
    lock = make(mp, kind)
    for block in sum(true_and_false, []):
        assert lock.acquire(block) is True
        lock.release()
        assert lock.acquire(block=block) is True
        lock.release()


@pytest.mark.parametrize("kind", LOCKS)
def test_acquire_of_what_another_holds_takes_truth(mp, crew, kind, true_and_false):
    with held(mp, kind, crew) as lock:
        for block in true_and_false[1]:
            assert lock.acquire(block) is False
            assert lock.acquire(block, 1000) is False
            assert lock.acquire(block=block, timeout=None) is False
        for timeout in [*SHORT, Decimal("0.001")]:
            assert lock.acquire(1, timeout) is False
            assert lock.acquire(True, timeout=timeout) is False


@pytest.mark.parametrize("kind", LOCKS)
def test_no_timeout_is_for_ever(mp, kind):
    lock = make(mp, kind)
    assert lock.acquire(True, None) is True
    lock.release()
    for timeout in SHORT:
        assert lock.acquire(True, timeout) is True
        lock.release()


def test_queue_takes_truth(mp, true_and_false):
    true, false = true_and_false
    queue = mp.Queue(2)
    for block in false:
        with pytest.raises(errors.Empty):
            queue.get(block)
        with pytest.raises(errors.Empty):
            queue.get(block=block)
    for block in true:
        queue.put("item", block)
        queue.put("item", block=block)
        for refuse in false:
            with pytest.raises(errors.Full):
                queue.put("item", refuse)
            with pytest.raises(errors.Full):
                queue.put("item", block=refuse, timeout=1000)
        assert queue.get(block) == queue.get(block=block) == "item"


@pytest.mark.parametrize("timeout", SHORT)
def test_queue_takes_real_numbers(mp, timeout):
    queue = mp.Queue(1)
    with pytest.raises(errors.Empty):
        queue.get(True, timeout)
    queue.put("item", True, timeout)
    with pytest.raises(errors.Full):
        queue.put("item", 1, timeout)
    assert queue.get(1, 10) == "item"


@pytest.mark.fastmp_only("the stdlib adds to a float, in some methods, what cannot be added to one")
def test_decimals_everywhere(mp):
    timeout, queue = Decimal("0.001"), mp.Queue(1)
    with pytest.raises(errors.Empty):
        queue.get(True, timeout)
    queue.put("item", True, timeout)
    with pytest.raises(errors.Full):
        queue.put("item", True, timeout)
    condition = mp.Condition()
    with condition:
        assert condition.wait_for(lambda: False, timeout) is False


@pytest.mark.parametrize("timeout", SHORT)
def test_waits_take_real_numbers(mp, timeout):
    assert mp.Event().wait(timeout) is False
    condition = mp.Condition()
    with condition:
        assert condition.wait(timeout) is False
        assert condition.wait_for(lambda: False, timeout) is False
    first, second = mp.Pipe()
    assert first.poll(timeout) is False
    second.send(1)
    assert first.poll(timeout) is True


@pytest.mark.parametrize("wrong", ["1", [], object(), 1j])
def test_no_real_numbers(mp, wrong):
    condition = mp.Condition()
    with condition:
        for wait in (
            lambda: mp.Lock().acquire(True, wrong),
            lambda: mp.Queue().get(True, wrong),
            lambda: mp.Event().wait(wrong),
            lambda: condition.wait(wrong),
            lambda: condition.wait_for(lambda: False, wrong),
            lambda: mp.Pipe()[0].poll(wrong),
        ):
            with pytest.raises(TypeError):
                wait()


def test_what_has_no_truth(mp):
    for call in (mp.Lock().acquire, mp.RLock().acquire, mp.Semaphore().acquire, mp.Queue().get, mp.Pipe):
        with pytest.raises((ValueError, TypeError) if INTEGERS_ONLY else ValueError):
            call(numpy.array([1, 2]))


def test_pipe_takes_truth(mp):
    for duplex in TRUE:
        for first, second in (mp.Pipe(duplex), mp.Pipe(duplex=duplex)):
            assert (first.readable, first.writable, second.readable, second.writable) == (True,) * 4
    for duplex in FALSE:
        for first, second in (mp.Pipe(duplex), mp.Pipe(duplex=duplex)):
            assert (first.readable, first.writable, second.readable, second.writable) == (True, False, False, True)


@pytest.mark.fastmp_only("its own argument")
def test_recover_takes_truth(mp):
    for recover in TRUE:
        with pytest.raises(ValueError):
            mp.Semaphore(1, recover=recover).release()  # this process holds none
    for recover in FALSE:
        mp.Semaphore(1, recover=recover).release()
