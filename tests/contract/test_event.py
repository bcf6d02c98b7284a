"""Event, held to what the stdlib's does."""

import pickle
import threading
import time

import pytest
from children import locks
from children.common import wait_asleep


def test_states(mp):
    event = mp.Event()
    assert event.is_set() is False
    assert event.set() is None
    assert event.is_set() is True
    event.set()
    assert event.is_set() is True
    assert event.clear() is None
    assert event.is_set() is False
    event.clear()
    assert event.is_set() is False


def test_wait_returns_the_state(mp):
    event = mp.Event()
    for timeout in (0, 0.0, -1, -1e9):
        assert event.wait(timeout) is False
        assert event.wait(timeout=timeout) is False
    event.set()
    for timeout in (None, 0, -1, 1e9, 0.01):
        assert event.wait(timeout) is True
    assert event.wait() is True


def test_timeout_is_waited_out(mp):
    event = mp.Event()
    started = time.monotonic()
    assert event.wait(0.2) is False
    assert time.monotonic() - started >= 0.196


def test_bad_arguments(mp):
    event = mp.Event()
    with pytest.raises(TypeError):
        event.wait("1")
    with pytest.raises(TypeError):
        event.wait(1, 2)
    with pytest.raises(TypeError):
        mp.Event(1)


@pytest.mark.parametrize("timeout", [None, 1000, 1e9])
def test_set_ends_a_wait(mp, timeout):
    event = mp.Event()
    setter = threading.Timer(0.1, event.set)
    started = time.monotonic()
    setter.start()
    assert event.wait(timeout) is True
    assert time.monotonic() - started >= 0.09
    setter.join()


def test_set_wakes_everybody(mp, crew):
    event = mp.Event()
    outcomes = [mp.RawValue("b") for _ in range(5)]
    for outcome in outcomes:
        waiting = mp.RawValue("b")
        wait_asleep(crew.start(locks.await_event, event, waiting, outcome).pid, waiting)
    assert not any(outcome.value for outcome in outcomes)
    event.set()
    crew.join()
    assert [outcome.value for outcome in outcomes] == [2] * 5


def test_seen_by_those_who_come_later(mp, crew):
    event, waiting, outcome = mp.Event(), mp.RawValue("b"), mp.RawValue("b")
    event.set()
    crew.run(locks.await_event, event, waiting, outcome)
    assert outcome.value == 2


def test_game_of_catch(mp, crew):
    ping, pong = mp.Event(), mp.Event()
    crew.start(locks.play, ping, pong, 500)
    crew.start(locks.play, pong, ping, 500)
    ping.set()
    crew.join()
    assert ping.is_set()
    assert not pong.is_set()


def test_set_from_a_child(mp, crew):
    event = mp.Event()
    crew.start(locks.set_later, event, 0.05)
    assert event.wait() is True
    crew.join()


def test_repr(mp):
    event = mp.Event()
    assert repr(event).startswith("<Event at 0x")
    assert repr(event).endswith(" unset>")
    event.set()
    assert repr(event).endswith(" set>")


def test_not_picklable_outside_a_start(mp):
    with pytest.raises(RuntimeError, match="shared between processes through inheritance"):
        pickle.dumps(mp.Event())
