"""Barrier, held to what the stdlib's does."""

import pickle
import threading
import time

import pytest
from children import conditions
from children.common import FromHandler, raising_on_signal, wait_asleep, wait_until


def start_party(mp, crew, barrier, timeout=None):
    """A child that waits, and notes when it was told that the barrier is broken."""
    before, outcome = barrier.n_waiting, mp.RawValue("d")
    member = crew.start(conditions.meet_in_vain, barrier, outcome, timeout)
    wait_until(lambda: barrier.n_waiting > before)
    wait_asleep(member.pid)
    return outcome


def test_states(mp):
    barrier = mp.Barrier(3)
    assert (barrier.parties, barrier.n_waiting, barrier.broken) == (3, 0, False)
    assert repr(barrier).endswith(": waiters=0/3>")
    assert barrier.abort() is None
    assert (barrier.n_waiting, barrier.broken) == (0, True)
    assert repr(barrier).endswith(": broken>")
    assert barrier.reset() is None
    assert barrier.broken is False
    assert isinstance(barrier, threading.Barrier)


def test_one_party_waits_for_nobody(mp):
    barrier = mp.Barrier(1)
    assert [barrier.wait() for _ in range(3)] == [0, 0, 0]
    assert barrier.wait(0) == 0
    assert barrier.wait(timeout=-1) == 0


def test_each_index_once_a_round(mp, crew):
    barrier, rounds = mp.Barrier(4), 50
    counts = [mp.RawArray("i", 4) for _ in range(4)]
    for indices in counts:
        crew.start(conditions.meet, barrier, rounds, indices)
    crew.join()
    assert [sum(column) for column in zip(*counts, strict=True)] == [rounds] * 4
    assert (barrier.n_waiting, barrier.broken) == (0, False)


def test_threads_of_one_process_among_the_parties(mp, crew):
    barrier, indices = mp.Barrier(5), mp.RawArray("i", 5)
    crew.start(conditions.meet_in_threads, barrier, 4, indices)
    index = barrier.wait()
    crew.join()
    indices[index] += 1
    assert indices[:] == [1] * 5


def test_the_action_runs_once_a_round(mp, crew):
    calls = mp.RawValue("i")
    barrier = mp.Barrier(2, conditions.Tally(calls))
    indices = mp.RawArray("i", 2)
    crew.start(conditions.meet, barrier, 20, indices)
    for round_ in range(20):
        assert barrier.wait() in (0, 1)
        assert calls.value >= round_ + 1
    crew.join()
    assert calls.value == 20


def test_an_action_may_take_longer_than_the_others_would_wait(mp, crew):
    barrier = mp.Barrier(2, conditions.dawdle)
    outcome = start_party(mp, crew, barrier, timeout=0.4)
    assert barrier.wait() == 1
    crew.join()
    assert outcome.value == 0  # not told of anything broken
    assert not barrier.broken


def test_an_action_that_fails_breaks_it(mp, crew):
    barrier = mp.Barrier(2, action=conditions.fail)
    outcome = start_party(mp, crew, barrier)
    with pytest.raises(KeyError):
        barrier.wait()
    crew.join()
    assert outcome.value
    assert barrier.broken


@pytest.mark.parametrize("where", ["wait", "default"])
def test_a_time_out_breaks_it(mp, crew, where):
    barrier = mp.Barrier(3, None, 0.1) if where == "default" else mp.Barrier(3)
    outcome = start_party(mp, crew, barrier, 1000)
    started = time.monotonic()
    with pytest.raises(threading.BrokenBarrierError):
        barrier.wait(*([] if where == "default" else [0.1]))
    assert time.monotonic() - started >= 0.096
    crew.join()
    assert outcome.value
    assert (barrier.broken, barrier.n_waiting) == (True, 0)
    with pytest.raises(threading.BrokenBarrierError):
        barrier.wait()


@pytest.mark.parametrize("timeout", [0, -1])
def test_no_time_at_all(mp, timeout):
    barrier = mp.Barrier(2)
    with pytest.raises(threading.BrokenBarrierError):
        barrier.wait(timeout)
    assert barrier.broken


@pytest.mark.parametrize("way", ["abort", "reset"])
def test_those_who_wait_are_told(mp, crew, way):
    barrier = mp.Barrier(3)
    outcomes = [start_party(mp, crew, barrier) for _ in range(2)]
    assert barrier.n_waiting == 2
    getattr(barrier, way)()
    crew.join()
    assert all(outcome.value for outcome in outcomes)
    assert barrier.broken is (way == "abort")
    barrier.reset()
    indices = mp.RawArray("i", 3)
    for _ in range(2):
        crew.start(conditions.meet, barrier, 5, indices)
    for _ in range(5):
        barrier.wait()
    crew.join()


def test_an_exception_from_a_signal_handler_ends_the_wait_and_breaks_nothing(mp, crew):
    barrier = mp.Barrier(3)
    outcome = start_party(mp, crew, barrier)
    with raising_on_signal(), pytest.raises(FromHandler):
        barrier.wait()
    assert (barrier.n_waiting, barrier.broken) == (1, False)
    barrier.abort()
    crew.join()
    assert outcome.value


def test_travels_only_with_a_process(mp):
    with pytest.raises(RuntimeError):
        pickle.dumps(mp.Barrier(2))


@pytest.mark.fastmp_only("3.11's accepts it and waits for ever")
@pytest.mark.parametrize("parties", [0, -1, -(2**40)])
def test_nobody_is_no_party(mp, parties):
    with pytest.raises(ValueError):
        mp.Barrier(parties)


@pytest.mark.fastmp_only("3.11's finds out when it is too late, or never")
@pytest.mark.parametrize("parties", ["2", None])
def test_parties_are_counted(mp, parties):
    with pytest.raises(TypeError):
        mp.Barrier(parties).wait(0)
