"""Signals and waits: Ctrl-C ends each, a handler that returns ends none."""

import os
import signal
import threading
import time

import pytest
from children import signalled
from children.common import wait_asleep, wait_until

ENDLESS = ("send", "recv", "with", "Value", "Array")  # they take no timeout
TIMED = [name for name in signalled.OPERATIONS if not any(part in name for part in ENDLESS)]
# What only its owner can release is none of them.
SERVED = [
    name for name in signalled.OPERATIONS if not any(part in name for part in ("send", "RLock", "Value", "Array"))
]


@pytest.mark.parametrize("operation", signalled.OPERATIONS)
def test_ctrl_c_ends_a_wait(mp, module, crew, operation):
    waiting = mp.RawValue("b")
    child = crew.start(signalled.be_interrupted, module, operation, waiting)
    wait_asleep(child.pid, waiting)
    os.kill(child.pid, signal.SIGINT)
    crew.join()


@pytest.mark.parametrize("operation", TIMED)
def test_handlers_take_no_time_away_and_add_none(mp, module, crew, operation):
    waiting, elapsed, calls = mp.RawValue("b"), mp.RawValue("d"), mp.RawValue("i")
    child = crew.start(signalled.be_disturbed, module, operation, waiting, 0.4, elapsed, calls)
    wait_asleep(child.pid, waiting)
    # For as long as it takes: were each signal to begin the time anew, this would never end.
    while child.exitcode is None:
        os.kill(child.pid, signal.SIGUSR1)
        time.sleep(0.02)
    crew.join()
    assert elapsed.value >= 0.4 * 0.98
    assert calls.value > 0


@pytest.mark.fastmp_only("the stdlib's locks are no more re-entrant than its pipes")
@pytest.mark.parametrize("operation", SERVED)
def test_wait_outlives_handlers(mp, module, crew, operation):
    waiting, calls = mp.RawValue("b"), mp.RawValue("i")
    child = crew.start(signalled.be_served, module, operation, waiting, calls)
    wait_asleep(child.pid, waiting)
    for i in range(5):
        wait_until(lambda i=i: calls.value == i)
        os.kill(child.pid, signal.SIGUSR1)
    crew.join()


class Stop(Exception):
    """What a handler raises."""


def stop(number, frame):
    raise Stop


def test_what_a_handler_raises_ends_a_wait(mp):
    lock = mp.Lock()
    lock.acquire()
    before = signal.signal(signal.SIGUSR1, stop)
    timer = threading.Timer(0.1, os.kill, (os.getpid(), signal.SIGUSR1))
    timer.start()
    try:
        with pytest.raises(Stop):
            lock.acquire(True, 1000)
    finally:
        timer.join()
        signal.signal(signal.SIGUSR1, before)
    lock.release()
    assert lock.acquire(False)


@pytest.mark.fastmp_only("the stdlib loses what it was about to return")
@pytest.mark.parametrize("kind", sorted(signalled.NUMBERED))
def test_what_a_handler_raises_loses_no_message(mp, crew, kind):
    """Thousands of interrupts of a busy receiver: while it waits, takes, decodes, unpickles,
    returns.
    """
    count = signalled.NUMBERED[kind][0]
    queue = mp.Queue(100)
    crew.start(signalled.put_numbered, queue, kind)
    got, interrupts, armed = [], 0, False

    def interrupt(number, frame):
        nonlocal interrupts, armed
        if armed:
            interrupts, armed = interrupts + 1, False
            raise Stop

    before = signal.signal(signal.SIGALRM, interrupt)
    signal.setitimer(signal.ITIMER_REAL, 1e-4, 1e-4)
    try:
        while len(got) < count:
            try:
                armed = True
                item = queue.get()
                armed = False
            except Stop:
                continue
            got.append(signalled.number_of(item))
            del item
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert got == list(range(count))
    assert interrupts > 0  # how many there are depends on how often it has to wait
    crew.join()


@pytest.mark.fastmp_only("the stdlib loses what it was about to return")
def test_a_message_kept_back_is_counted_and_the_parents_alone(mp, crew):
    queue, outcome = mp.Queue(), mp.RawArray("i", 2)
    signalled.Interrupting.done = False
    queue.put(signalled.Interrupting())
    queue.put("next")
    with pytest.raises(KeyboardInterrupt):
        queue.get()
    assert (queue.qsize(), queue.empty()) == (2, False)
    crew.run(signalled.count_and_get, queue, outcome)
    assert outcome[:] == [1, 1]  # the one that nobody has taken out
    assert isinstance(queue.get(), signalled.Interrupting)
    assert (queue.qsize(), queue.empty()) == (0, True)
