"""Unknown counts as alive: a holder whose state cannot be read is never taken for dead.

Some of the places need privileges, or user namespaces; where neither is to be had, the test says so and is skipped.
"""

import os
import signal
import threading
import time

import pytest
from children import foreign, victims
from children.common import look_at, wait_until

pytestmark = pytest.mark.fastmp_only("the stdlib never looks")
KINDS = pytest.mark.parametrize("kind", ["Lock", "RLock"])
WAYS = pytest.mark.parametrize("way", foreign.WAYS)


def settle(child, flag):
    """Waits for the flag, or skips the test when the child may not go where it is sent."""
    wait_until(lambda: flag.value or child.exitcode is not None)
    if child.exitcode == foreign.NOT_PERMITTED:
        pytest.skip("not permitted here")
    assert flag.value


@KINDS
@WAYS
def test_live_holder_seen_from_there(mp, crew, kind, way):
    lock, place, seen = getattr(mp, kind)(), mp.RawValue("b"), mp.RawValue("b")
    with lock:
        child = crew.start(foreign.find_it_held, lock, way, place, seen)
        settle(child, place)
        wait_until(lambda: seen.value or child.exitcode is not None)
        assert lock.recoveries == 0
    crew.join()
    assert lock.recoveries == 0


@KINDS
@WAYS
def test_live_holder_there(mp, crew, kind, way):
    lock, held, go = getattr(mp, kind)(), mp.RawValue("b"), mp.RawValue("b")
    settle(crew.start(foreign.hold_there, lock, way, held, go), held)
    assert lock.acquire(False) is False
    assert lock.acquire(True, 0.6) is False
    go.value = 1
    assert lock.acquire() is True
    lock.release()
    crew.join()
    assert lock.recoveries == 0


@KINDS
@WAYS
def test_both_are_there(mp, crew, kind, way):
    """Two in places of the same sort: with pid namespaces, two different ones in which both are number 1."""
    lock, held, go = getattr(mp, kind)(), mp.RawValue("b"), mp.RawValue("b")
    place, seen = mp.RawValue("b"), mp.RawValue("b")
    settle(crew.start(foreign.hold_there, lock, way, held, go), held)
    waiter = crew.start(foreign.find_it_held, lock, way, place, seen)
    wait_until(lambda: seen.value or waiter.exitcode is not None)
    go.value = 1
    crew.join()
    assert lock.recoveries == 0


@KINDS
@pytest.mark.parametrize("way", ["other user", "hidden proc", "hidepid", "no descriptors"])
def test_death_that_can_be_proved_is(mp, crew, kind, way):
    """The same eyes see that a process is gone altogether."""
    lock, held = getattr(mp, kind)(), mp.RawValue("b")
    place, seen = mp.RawValue("b"), mp.RawValue("b")
    holder = crew.start(victims.hold_for_ever, lock, held)
    wait_until(lambda: held.value)
    waiter = crew.start(foreign.find_it_dead, lock, way, place, seen)
    settle(waiter, place)
    time.sleep(0.15)
    assert not seen.value
    crew.kill(holder)
    crew.join()
    assert seen.value
    assert lock.recoveries == 1


@KINDS
def test_stopped_holder(mp, crew, kind):
    lock, held = getattr(mp, kind)(), mp.RawValue("b")
    holder = crew.start(victims.hold_for_ever, lock, held)
    wait_until(lambda: held.value)
    os.kill(holder.pid, signal.SIGSTOP)
    wait_until(lambda: look_at(holder.pid).state == "T")
    assert lock.acquire(True, 0.5) is False
    assert lock.recoveries == 0


@KINDS
def test_zombie_leader_of_a_living_group(mp, crew, kind):
    lock, held = getattr(mp, kind)(), mp.RawValue("b")
    holder = crew.start(victims.end_main_thread_only, lock, held)
    wait_until(lambda: look_at(holder.pid).state == "Z")
    assert lock.acquire(True, 0.5) is False
    assert lock.recoveries == 0
    crew.kill(holder)
    with pytest.warns(RuntimeWarning):
        assert lock.acquire() is True
    assert lock.recoveries == 1


@KINDS
def test_thread_that_ended_is_no_dead_process(mp, kind):
    lock = getattr(mp, kind)()
    thread = threading.Thread(target=lock.acquire)
    thread.start()
    thread.join()
    assert lock.acquire(True, 0.3) is False
    assert lock.recoveries == 0


@WAYS
def test_a_queue_works_there(mp, crew, way):
    queue = mp.Queue(10)
    children = [crew.start(foreign.put_and_get, queue, way, 300), crew.start(foreign.put_and_get, queue, way, 300)]
    for child in children:
        child.join()
        if child.exitcode == foreign.NOT_PERMITTED:
            pytest.skip("not permitted here")
        assert child.exitcode == 0
    assert queue.qsize() == 0
