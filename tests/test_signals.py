"""Signals and waits: Ctrl-C ends each, a handler that returns ends none."""

import concurrent.futures
import contextlib
import functools
import os
import select
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


def disturb(child):
    # The fork server's children are ended by it, and only then does it say so.
    with contextlib.suppress(ProcessLookupError):
        os.kill(child.pid, signal.SIGUSR1)


@pytest.mark.parametrize("operation", TIMED)
def test_handlers_take_no_time_away_and_add_none(mp, module, crew, operation):
    waiting, elapsed, calls = mp.RawValue("b"), mp.RawValue("d"), mp.RawValue("i")
    child = crew.start(signalled.be_disturbed, module, operation, waiting, 0.4, elapsed, calls)
    wait_asleep(child.pid, waiting)
    # For as long as it takes: were each signal to begin the time anew, this would never end.
    while child.exitcode is None:
        disturb(child)
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
        disturb(child)
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


LOSSY = "the stdlib loses what it was about to return"


def receive_interrupted(receive, count, value_of):
    """Receives so many messages, while the handler of a timer raises once in most of them.

    That may be before a message is taken, or while it is made into an object: then it comes after
    the call. Returns what `value_of` says of each, and how often the handler raised.
    """
    got, interrupts, armed, item = [], 0, False, None

    def interrupt(number, frame):
        nonlocal interrupts, armed
        if armed:
            interrupts, armed = interrupts + 1, False
            raise Stop

    before = signal.signal(signal.SIGALRM, interrupt)
    signal.setitimer(signal.ITIMER_REAL, 1e-4, 1e-4)
    try:
        while len(got) < count:
            item = None
            try:
                armed = True
                item = receive()
                armed = False
                for _ in range(2):  # here, if it is late
                    pass
            except Stop:
                pass
            if item is not None:
                got.append(value_of(item))
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    return got, interrupts


@pytest.mark.fastmp_only(LOSSY)
@pytest.mark.parametrize("channel", ["queue", "pipe"])
@pytest.mark.parametrize("kind", sorted(signalled.NUMBERED))
def test_what_a_handler_raises_loses_no_message(mp, crew, channel, kind):
    """Thousands of interrupts of a busy receiver: while it waits, takes, decodes, unpickles,
    returns.
    """
    count, interrupts = signalled.NUMBERED[kind][0], 0
    while not interrupts:  # how many there are depends on how often it has to wait
        if channel == "queue":
            queue = mp.Queue(100)
            crew.start(signalled.put_numbered, queue, kind)
            receive = queue.get
        else:
            reader, writer = mp.Pipe(False)
            crew.start(signalled.send_numbered, writer, kind)
            writer.close()
            receive = reader.recv
        got, interrupts = receive_interrupted(receive, count, signalled.number_of)
        assert got == list(range(count))
        crew.join()


def receive_into(reader, buffer):
    """Not a partial: that is C, and after a call of it a handler loses what it returned."""

    def receive():
        return reader.recv_bytes_into(buffer)

    return receive


def number_in(data):
    return int.from_bytes(data, "little")


@pytest.mark.fastmp_only(LOSSY)
@pytest.mark.parametrize("size", [8, 100_000])
@pytest.mark.parametrize("way", ["recv_bytes", "recv_bytes_into"])
def test_what_a_handler_raises_loses_no_bytes(mp, crew, way, size):
    count, interrupts = 3000 if size > 8 else 30_000, 0
    buffer = bytearray(size)
    while not interrupts:
        reader, writer = mp.Pipe(False)
        crew.start(signalled.send_numbered_bytes, writer, size, count)
        writer.close()
        if way == "recv_bytes":
            got, interrupts = receive_interrupted(reader.recv_bytes, count, number_in)
        else:
            into_buffer = receive_into(reader, buffer)
            got, interrupts = receive_interrupted(into_buffer, count, lambda length: number_in(buffer[:length]))
        assert got == list(range(count))
        crew.join()


def spin():
    """Looks for signals often."""
    for _ in range(100):
        pass


class Handler:
    """Ways to write one."""

    def __call__(self, number, frame):
        raise Stop

    def method(self, number, frame):
        raise Stop

    @staticmethod
    def any_arguments(*arguments):
        raise Stop

    @staticmethod
    def once(number, frame):
        signal.signal(number, signal.SIG_DFL)
        raise Stop

    @staticmethod
    def with_more(more, number, frame):
        raise Stop


HANDLERS = {
    "function": (stop, Stop),
    "object": (Handler(), Stop),
    "method": (Handler().method, Stop),
    "partial": (functools.partial(Handler.with_more, 1), Stop),
    "any arguments": (Handler.any_arguments, Stop),
    "once": (Handler.once, Stop),
    "lambda": (lambda number, frame: stop(number, frame), Stop),
    "C": (signal.default_int_handler, KeyboardInterrupt),
}


@pytest.fixture
def handled():
    """Sets handlers for the time of a test."""
    before = {}

    def set_one(number, handler):
        before.setdefault(number, signal.getsignal(number))
        signal.signal(number, handler)

    signalled.Interrupted.begun = 0
    yield set_one
    signalled.Interrupted.numbers.clear()
    for number, handler in before.items():
        signal.signal(number, handler)


def channel_of(mp, kind):
    """Ways to send and to receive."""
    if kind == "queue":
        queue = mp.Queue()
        return queue.put, queue.get
    left, right = mp.Pipe()
    return left.send, right.recv


@pytest.mark.fastmp_only(LOSSY)
@pytest.mark.parametrize("channel", ["queue", "pipe"])
@pytest.mark.parametrize("kind", HANDLERS)
def test_what_is_raised_during_unpickling_comes_after_the_object(mp, handled, channel, kind):
    handler, raised = HANDLERS[kind]
    handled(signal.SIGUSR1, handler)
    send, receive = channel_of(mp, channel)
    send(signalled.Interrupted("first"))
    send("next")
    signalled.Interrupted.numbers[:] = [signal.SIGUSR1]
    item = None
    with pytest.raises(raised):
        item = receive()
        spin()
    assert item.name == "first"
    assert signalled.Interrupted.begun == 2
    assert receive() == "next"


@pytest.mark.fastmp_only(LOSSY)
def test_nothing_is_kept_of_an_interrupted_message(mp, handled, crew):
    """Whoever else receives goes on with the next one, in whatever way."""
    handled(signal.SIGUSR1, stop)
    queue, outcome = mp.Queue(), mp.RawValue("b")
    for name in "abc":
        signalled.Interrupted.numbers[:] = [signal.SIGUSR1]
        queue.put(signalled.Interrupted(name))
        queue.put("next")
        with pytest.raises(Stop):
            item = queue.get()
            spin()
        assert item.name == name
        assert (queue.qsize(), queue.empty(), queue._reader.poll()) == (1, False, True)
        assert select.select([queue._reader], [], [], 0)[0]
        if name == "a":
            crew.run(signalled.get_one, queue, outcome)
            assert outcome.value
        elif name == "b":
            with concurrent.futures.ThreadPoolExecutor() as threads:
                assert threads.submit(queue.get).result() == "next"
        else:
            assert queue.get(False) == "next"
        assert (queue.qsize(), queue.empty(), queue._reader.poll()) == (0, True, False)


class Other(Exception):
    """What another handler raises."""


def other(number, frame):
    raise Other


@pytest.mark.fastmp_only(LOSSY)
def test_each_handlers_exception_is_raised_in_its_turn(mp, handled):
    handled(signal.SIGUSR1, stop)
    handled(signal.SIGUSR2, other)
    queue = mp.Queue()
    queue.put(signalled.Interrupted("object"))
    signalled.Interrupted.numbers[:] = [signal.SIGUSR1, signal.SIGUSR2]
    item, seen = None, []
    try:
        item = queue.get()
        spin()
    except Stop:
        try:
            seen.append(Stop)
            spin()
        except Other:
            seen.append(Other)
    assert item.name == "object"
    assert seen == [Stop, Other]
    assert signalled.Interrupted.begun == 3


@pytest.mark.fastmp_only("the stdlib raises once, having begun once")
def test_a_handler_that_raises_each_time_ends_a_get(mp, handled):
    handled(signal.SIGUSR1, stop)
    queue = mp.Queue()
    queue.put(signalled.Interrupted("lost"))
    queue.put("next")
    signalled.Interrupted.numbers[:] = [signal.SIGUSR1] * 100
    raised, item = 0, None

    def get(depth):
        nonlocal raised, item
        try:
            if depth > 0:
                get(depth - 1)
                spin()
            else:
                item = queue.get()
        except Stop:
            raised += 1

    get(20)
    assert item is None
    assert raised == signalled.Interrupted.begun
    assert 1 < raised < 10
    assert queue.get() == "next"


@pytest.mark.fastmp_only(LOSSY)
def test_who_waits_already_has_the_next_message(mp, handled):
    """A thread that sleeps in `get` is neither passed over nor left asleep."""
    handled(signal.SIGUSR1, stop)
    queue, got = mp.Queue(), []
    queue.put(signalled.Interrupted("first"))
    signalled.Interrupted.numbers[:] = [signal.SIGUSR1]
    with pytest.raises(Stop):
        item = queue.get()
        spin()
    assert item.name == "first"
    thread = threading.Thread(target=lambda: got.extend([queue.get(), queue.get()]))
    thread.start()
    for number in range(2):
        queue.put(number)
    thread.join()
    assert got == [0, 1]


@pytest.mark.fastmp_only(LOSSY)
def test_a_generator_hands_on_what_was_received(mp, handled):
    handled(signal.SIGUSR1, stop)
    queue = mp.Queue()
    for number in range(20):
        queue.put(signalled.Interrupted(number))

    def items():
        while True:
            yield queue.get()

    got = []
    while len(got) < 20:
        name = None
        signalled.Interrupted.numbers[:] = [signal.SIGUSR1]
        with contextlib.suppress(Stop):
            for item in items():
                name = item.name
                spin()
        got.append(name)
    assert got == list(range(20))


@pytest.mark.fastmp_only("the stdlib's would lose the object")
def test_a_forked_child_does_not_raise_what_its_parents_handler_raised(mp, crew):
    crew.run(signalled.fork_after_a_handler_raised, mp.Queue())


@pytest.mark.fastmp_only("the stdlib raises once, having begun once")
def test_other_threads_exceptions_are_no_handlers(mp, handled):
    """What looks like Ctrl-C elsewhere than in the main thread ends the call there."""
    queue, raised = mp.Queue(), []
    queue.put(signalled.Refusing())
    queue.put("next")

    def receive():
        try:
            queue.get()
        except KeyboardInterrupt:
            raised.append(True)

    thread = threading.Thread(target=receive)
    thread.start()
    thread.join()
    spin()
    assert raised == [True]
    assert signalled.Interrupted.begun == 1
    assert queue.get() == "next"
