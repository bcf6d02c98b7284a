"""Unknown counts as alive: a holder whose state cannot be read is never taken for dead.

Some of the places need privileges, or user namespaces; where neither is to be had, the test says so
and is skipped.
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
    """Two in places of the same sort: with pid namespaces, two different ones in which both are
    number 1.
    """
    lock, held, go = getattr(mp, kind)(), mp.RawValue("b"), mp.RawValue("b")
    place, seen = mp.RawValue("b"), mp.RawValue("b")
    settle(crew.start(foreign.hold_there, lock, way, held, go), held)
    waiter = crew.start(foreign.find_it_held, lock, way, place, seen)
    wait_until(lambda: seen.value or waiter.exitcode is not None)
    go.value = 1
    crew.join()
    assert lock.recoveries == 0


@KINDS
@pytest.mark.parametrize("way", foreign.SAME_PIDS)
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
@pytest.mark.parametrize("way", foreign.SAME_PIDS)
def test_death_there_can_be_proved(mp, crew, kind, way):
    """Also of one who went there before its first use of anything."""
    lock, held, go = getattr(mp, kind)(), mp.RawValue("b"), mp.RawValue("b")
    holder = crew.start(foreign.hold_there, lock, way, held, go)
    settle(holder, held)
    assert lock.acquire(True, 0.3) is False
    crew.kill(holder)
    with pytest.warns(RuntimeWarning):
        assert lock.acquire() is True
    assert lock.recoveries == 1


@KINDS
@pytest.mark.not_emulated("the emulator's main thread does not end alone")
def test_leader_that_ended_before_the_first_use(mp, crew, kind):
    lock, held = getattr(mp, kind)(), mp.RawValue("b")
    holder = crew.start(victims.hold_after_main_thread, lock, held)
    wait_until(lambda: held.value)
    assert lock.acquire(True, 0.3) is False
    crew.kill(holder)
    with pytest.warns(RuntimeWarning):
        assert lock.acquire() is True
    assert lock.recoveries == 1


@pytest.mark.parametrize("kind", ["Lock", "RLock", "Semaphore"])
def test_holder_that_execs_has_ended(mp, crew, kind):
    """Its memory is gone, and with it whatever it would have done with the lock."""
    lock = mp.Semaphore(1, recover=True) if kind == "Semaphore" else getattr(mp, kind)()
    held, go = mp.RawValue("b"), mp.RawValue("b")
    holder = crew.start(victims.hold_and_exec, lock, held, go)
    wait_until(lambda: held.value)
    assert lock.acquire(True, 0.3) is False
    go.value = 1
    with pytest.warns(RuntimeWarning):
        assert lock.acquire() is True
    assert holder.exitcode is None
    crew.kill(holder)


def test_putters_that_exec_leave_room_to_others(mp, crew):
    """Each of its threads had memory for a large message in hand."""
    queue, waiting, go = mp.Queue(1), mp.RawValue("i"), mp.RawValue("b")
    queue.put("full")
    putter = crew.start(victims.put_and_exec, queue, 60, waiting, go)
    wait_until(lambda: waiting.value == 60)
    time.sleep(0.2)
    go.value = 1
    wait_until(lambda: "sleep" in look_at(putter.pid).command())
    assert queue.get() == "full"
    for _ in range(3):
        queue.put(b"large" * 100_000, timeout=30)
        assert queue.get() == b"large" * 100_000
    assert putter.exitcode is None
    crew.kill(putter)


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
