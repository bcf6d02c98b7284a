"""Processes that are made to be killed, and those that go on after them."""

import ctypes
import os
import queue as errors
import signal
import threading
import time
import warnings

from children.common import look_at, wait_until

ENTRY = 2  # numbers a received message is noted with: who put it, and which of its it was
BURST = 1000  # messages put at full speed, after which consumers get to wait as well
KINDS = 16  # how messages differ in size, see `text`


def text(number):
    """The body of a message: mostly small, now and then larger than a ring's segment, told by its
    number.
    """
    letter = bytes([97 + number % 26])
    if number % KINDS == 7:
        return letter * 20_000
    if number % (KINDS * 8) == 9:
        return letter * 300_000
    return letter * (number % 40)


# ---- locks


def hold_for_ever(lock, held, depth=1):
    for _ in range(depth):
        assert lock.acquire()
    held.value = 1
    while True:
        time.sleep(100)


def hold_and_exit(lock, depth=1):
    """An end like any other, with the lock in hand."""
    for _ in range(depth):
        assert lock.acquire()


def hold_and_exec(lock, held, go):
    assert lock.acquire()
    held.value = 1
    wait_until(lambda: go.value)
    os.execvp("sleep", ["sleep", "60"])


def put_and_exec(queue, threads, waiting, go):
    """Many threads wait for room; then the program that they are of is replaced."""
    lock = threading.Lock()

    def put():
        with lock:
            waiting.value += 1
        queue.put(b"x" * 200_000)

    for _ in range(threads):
        threading.Thread(target=put, daemon=True).start()
    wait_until(lambda: go.value)
    os.execvp("sleep", ["sleep", "60"])


def hold_after_main_thread(lock, held):
    """Takes it once nothing is left of the main thread."""

    def hold():
        wait_until(lambda: look_at(os.getpid()).state == "Z")
        hold_for_ever(lock, held)

    threading.Thread(target=hold).start()
    end_this_thread()


def end_this_thread():
    """It alone, also if it is the main thread."""
    SYS_exit = {"x86_64": 60, "aarch64": 93}[os.uname().machine]
    ctypes.CDLL(None).syscall(SYS_exit, 0)


def inherit_many(locks, waiting, taken, warned, recovered):
    """Waits for each lock in turn; notes when it was taken, and with how many warnings."""
    from fastmp.exceptions import OwnerDiedWarning

    for i, lock in enumerate(locks):
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            waiting[i] = 1
            assert lock.acquire() is True
            taken[i] = time.monotonic()
        warned[i] = sum(issubclass(warning.category, OwnerDiedWarning) for warning in caught)
        assert len(caught) == warned[i]
        recovered[i] = lock.recoveries
        lock.release()


def inherit_with_error(lock, died, waiting, outcome):
    """With warnings made errors: the lock must not stay behind."""
    from fastmp.exceptions import OwnerDiedWarning

    warnings.simplefilter("error")
    waiting.value = 1
    try:
        lock.acquire()
    except OwnerDiedWarning as warning:
        assert str(died) in str(warning)
        outcome.value = 1 if lock.acquire(False) else 2
    else:
        outcome.value = 3


def take_with_time(lock, waiting, taken):
    warnings.simplefilter("ignore")
    waiting.value = 1
    assert lock.acquire()
    taken.value = time.monotonic()
    lock.release()


def take_by_polls(lock, waiting):
    warnings.simplefilter("ignore")
    waiting.value = 1
    wait_until(lambda: lock.acquire(timeout=0.02), "what a dead process held")


def take_while_handlers_wait(lock, event, waiting):
    warnings.simplefilter("ignore")
    signal.signal(signal.SIGALRM, lambda number, frame: event.wait(0.001))
    signal.setitimer(signal.ITIMER_REAL, 0.03, 0.03)
    waiting.value = 1
    assert lock.acquire()
    signal.setitimer(signal.ITIMER_REAL, 0)


def churn(lock, state, me, turns):
    """Takes and releases without an end, and counts its turns."""
    warnings.simplefilter("ignore")
    while True:
        turn(lock, state, me)
        turns[me] += 1


def churn_until(lock, state, me, stop):
    warnings.simplefilter("ignore")
    while not stop.value:
        turn(lock, state, me)


def turn(lock, state, me):
    """Counts, and looks that it is alone.

    `state` is a counter and the mark of whoever is inside.
    """
    lock.acquire()
    state[1] = me + 1
    state[0] += 1
    assert state[1] == me + 1, "somebody else is inside"
    lock.release()


def write_for_ever(value, array, counter, note, me):
    """Natively: bytes that are equal under the lock, most of the time.

    And a counter without one.
    """
    texts = [bytes([number]) * len(array) for number in range(4)]
    while True:
        number = (value.value + 1) % len(texts)
        value.value = number
        assert array[:] in texts, "half a slice"
        for text in texts:
            array[:] = text
        counter.fetch_add(1)
        note[me] += 1


def await_event(event, waiting):
    waiting.value = 1
    event.wait()


# ---- queues and pipes: `channel` is a queue, or a connection


def _put(channel):
    return channel.put if hasattr(channel, "put") else channel.send


def feed(channel, life, returned, stop, pause):
    """Puts numbered messages, and notes after each that its put has returned.

    Args:
        channel: where to.
        life: the number of this process's life, the same for no two.
        returned: an array of how many puts have returned, by life.
        stop: set when no more are wanted.
        pause: a function of the queue that holds the producer back, or None.
    """
    put = _put(channel)
    number = 0
    while not stop.value:
        put((life, number, text(number)))
        number += 1
        returned[life] = number
        if number % BURST == 0:
            time.sleep(0.015)
        if pause and number % 64 == 0:
            wait_until(lambda: channel.qsize() < pause or stop.value)


def drain(queue, log, stop):
    """Gets, checks and notes messages until there are no more; log[0] counts the numbers noted."""
    while True:
        try:
            item = queue.get(timeout=0.05)
        except errors.Empty:
            if stop.value:
                return
            continue
        note(log, item)


def drain_pipe(conn, spare, log):
    if spare is not None:
        spare.close()
    while True:
        try:
            item = conn.recv()
        except EOFError:
            return
        note(log, item)


def note(log, item):
    """One aligned store commits the entry: a process killed in here has noted it or not."""
    life, number, body = item
    assert body == text(number), "a message is torn"
    at = log[0]
    log[1 + at], log[2 + at] = life, number
    log[0] = at + ENTRY


def put_large(channel, size, count, returned):
    put = _put(channel)
    for number in range(count):
        put(number.to_bytes(8, "little") + bytes([number % 251]) * (size - 8))
        returned.value = number + 1


def get_large(queue, size, taken):
    while True:
        message = queue.get()
        assert len(message) == size
        taken.value += 1


# ---- holders that must not be taken for dead


def end_main_thread_only(lock, held):
    """The leader of the thread group becomes a zombie; another thread holds on."""
    thread = threading.Thread(target=hold_for_ever, args=(lock, held))
    thread.start()
    wait_until(lambda: held.value)
    end_this_thread()


def random_delay(choice, longest):
    """Mostly short, so that the first instructions of a life are hit as well."""
    time.sleep(choice.random() ** 2 * longest)
