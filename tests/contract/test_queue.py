"""Queue, held to what the stdlib's does: states, limits, errors, order."""

import contextlib
import pickle
import queue as errors
import select
import threading
import time
from multiprocessing.connection import wait

import pytest
from children import queues
from children.common import wait_asleep, wait_until
from children.objects import PutsWhenPickled, SomeError, Unreceivable, Unsendable


def settled(queue):
    """The stdlib's put is done by a thread, some time later."""
    wait_until(lambda: not queue.empty(), "the first message")
    return queue


def drained(queue, count):
    return [queue.get() for _ in range(count)]


@contextlib.contextmanager
def later(function, *args):
    """Calls a function in another thread a tenth of a second later."""
    timer = threading.Timer(0.1, function, args)
    timer.start()
    yield
    timer.join()


@pytest.fixture
def make(mp):
    """Makes queues, and closes them so that the stdlib's feeder threads end with the test."""
    made = []

    def queue(*args, **kwargs):
        made.append(mp.Queue(*args, **kwargs))
        return made[-1]

    yield queue
    for one in made:
        one.cancel_join_thread()
        one.close()


def test_first_in_first_out(make):
    queue = make()
    for i in range(100):
        assert queue.put(i) is None
    assert [queue.get() for _ in range(100)] == list(range(100))
    with pytest.raises(errors.Empty):
        queue.get_nowait()


def test_ways_to_call(make):
    queue = make(3)
    queue.put(1)
    queue.put(obj=2, block=True, timeout=None)
    queue.put_nowait(3)
    for full in (
        lambda: queue.put(4, False),
        lambda: queue.put(4, block=False, timeout=1e6),
        lambda: queue.put_nowait(4),
        lambda: queue.put(4, True, 0),
        lambda: queue.put(4, True, 0.01),
        lambda: queue.put(4, timeout=-1),
    ):
        with pytest.raises(errors.Full):
            full()
    assert settled(queue).get() == 1
    assert queue.get(block=True, timeout=None) == 2
    wait_until(lambda: not queue.empty())
    assert queue.get_nowait() == 3
    for empty in (
        lambda: queue.get(False),
        lambda: queue.get(block=False, timeout=1e6),
        lambda: queue.get_nowait(),
        lambda: queue.get(True, 0),
        lambda: queue.get(True, 0.01),
        lambda: queue.get(timeout=-1),
    ):
        with pytest.raises(errors.Empty):
            empty()


def test_bad_arguments(make):
    for wrong in ("1", 1.5, None):
        with pytest.raises(TypeError):
            make(wrong)
    with pytest.raises(TypeError):
        make(1, 2)
    queue = make(1)
    with pytest.raises(TypeError):
        queue.put()
    with pytest.raises(TypeError):
        queue.get(True, "1")
    with pytest.raises(TypeError):
        queue.put(1, True, "1")
    queue.put(1)
    with pytest.raises(TypeError):
        queue.put(1, True, "1")
    assert queue.get() == 1


def test_full_is_found_out_before_anything_is_pickled(make):
    queue = make(1)
    queue.put("x")
    for item in (Unsendable(), [b"x" * 100_000, Unsendable()], lambda: None):
        for full in (
            lambda item=item: queue.put_nowait(item),
            lambda item=item: queue.put(item, False),
            lambda item=item: queue.put(item, True, 0),
            lambda item=item: queue.put(item, timeout=-1),
        ):
            with pytest.raises(errors.Full):
                full()
    assert settled(queue).get() == "x"


def test_timeouts_are_waited_out(make):
    queue = make(1)
    started = time.monotonic()
    with pytest.raises(errors.Empty):
        queue.get(True, 0.1)
    assert time.monotonic() - started >= 0.098
    queue.put(1)
    started = time.monotonic()
    with pytest.raises(errors.Full):
        queue.put(2, True, 0.1)
    assert time.monotonic() - started >= 0.098


@pytest.mark.parametrize("timeout", [None, 1000, 1e6])
def test_long_waits_end_with_what_they_wait_for(make, timeout):
    queue = make(1)
    started = time.monotonic()
    with later(queue.put, "late"):
        assert queue.get(True, timeout) == "late"
    assert time.monotonic() - started >= 0.09
    queue.put("one")
    started = time.monotonic()
    with later(queue.get):
        queue.put("two", True, timeout)
    assert time.monotonic() - started >= 0.09
    assert queue.get() == "two"


@pytest.mark.fastmp_only("the stdlib's conversion overflows")
@pytest.mark.parametrize("timeout", [1e9, 1e300, float("inf")])
def test_timeouts_saturate(make, timeout):
    queue = make(1)
    with later(queue.put, "late"):
        assert queue.get(True, timeout) == "late"
    queue.put("one")
    with later(queue.get):
        queue.put("two", True, timeout)


@pytest.mark.parametrize("args", [(), (0,), (-1,)])
def test_unbounded(make, args):
    queue = make(*args)
    for i in range(3000):
        queue.put_nowait(i)
    assert not queue.full()
    assert queue.qsize() == 3000
    assert drained(queue, 3000) == list(range(3000))


@pytest.mark.parametrize("size", [1, 2, 7])
def test_maxsize_counts_messages(make, size):
    queue = make(size)
    for _ in range(20):
        assert queue.qsize() == 0
        assert not queue.full()
        for i in range(size):
            assert not queue.full()
            queue.put(i, False)
            assert queue.qsize() == i + 1
        assert queue.full()
        with pytest.raises(errors.Full):
            queue.put(None, False)
        assert queue.qsize() == size
        assert drained(queue, size) == list(range(size))
    with pytest.raises(errors.Empty):
        queue.get(False)


@pytest.mark.fastmp_only("the stdlib's feeder thread makes them inexact")
def test_states_are_exact_at_once(make):
    queue = make(2)
    for _ in range(200):
        assert (queue.qsize(), queue.empty(), queue.full()) == (0, True, False)
        queue.put(b"x" * 100_000)
        assert (queue.qsize(), queue.empty(), queue.full()) == (1, False, False)
        queue.put("y")
        assert (queue.qsize(), queue.empty(), queue.full()) == (2, False, True)
        assert len(queue.get(False)) == 100_000
        assert queue.get_nowait() == "y"


@pytest.mark.fastmp_only("the stdlib's feeder thread makes them inexact")
def test_states_seen_from_another_process(mp, make, crew):
    queue, state = make(2), mp.RawArray("i", 3)
    for expected in ([0, 1, 0], [1, 0, 0], [2, 0, 1]):
        crew.run(queues.report_state, queue, state)
        assert state[:] == expected
        if not queue.full():
            queue.put("x")


def test_limit_holds_under_pressure(mp, make, crew):
    queue, ready, seen = make(3), mp.RawArray("b", 3), mp.RawArray("i", 3)
    for me in range(3):
        crew.start(queues.put_under_pressure, queue, me, 3, 300, ready, seen)
    got = drained(queue, 900)
    crew.join()
    assert sorted(got) == [(me, i) for me in range(3) for i in range(300)]
    assert queue.qsize() == 0


@pytest.mark.parametrize("maxsize", [0, 1, 5])
@pytest.mark.parametrize("consumer", [queues.consume, queues.consume_with_timeouts])
def test_many_to_many(mp, make, crew, maxsize, consumer):
    producers, consumers, count = 3, 3, 400
    queue = make(maxsize)
    ready = mp.RawArray("b", producers + consumers)
    logs = [mp.RawArray("i", 1 + 2 * producers * count) for _ in range(consumers)]
    sources = [crew.start(queues.produce, queue, me, count, ready) for me in range(producers)]
    for i, log in enumerate(logs):
        crew.start(consumer, queue, log, producers + i, ready)
    for source in sources:
        source.join()
    for _ in logs:
        queue.put(None)
    crew.join()
    got = [queues.entries(log) for log in logs]
    assert sorted(sum(got, [])) == [(me, i) for me in range(producers) for i in range(count)]
    for entries in got:
        for me in range(producers):
            mine = [i for producer, i in entries if producer == me]
            assert mine == sorted(mine)


def test_threads_share_one_handle(make):
    queue, got = make(4), []
    team = [threading.Thread(target=queues.put_all, args=(queue, [(n, i) for i in range(200)])) for n in range(3)]
    team += [threading.Thread(target=lambda: got.extend(drained(queue, 300))) for _ in range(2)]
    for thread in team:
        thread.start()
    for thread in team:
        thread.join()
    assert sorted(got) == [(n, i) for n in range(3) for i in range(200)]


def test_get_waits_for_a_child(mp, make, crew):
    queue = make()
    crew.start(queues.put_later, queue, 0.05, "from the child")
    assert queue.get() == "from the child"
    crew.join()


def test_each_message_wakes_a_waiter(mp, make, crew):
    queue = make()
    outcomes = [mp.RawValue("i") for _ in range(4)]
    for outcome in outcomes:
        waiting = mp.RawValue("b")
        wait_asleep(crew.start(queues.get_one, queue, waiting, outcome).pid, waiting)
    for i in range(1, 5):
        queue.put(i)
    crew.join()
    assert sorted(outcome.value for outcome in outcomes) == [1, 2, 3, 4]


def test_each_get_lets_a_put_through(mp, make, crew):
    queue = make(1)
    queue.put("first")
    done = [mp.RawValue("b") for _ in range(4)]
    for i, flag in enumerate(done):
        waiting = mp.RawValue("b")
        wait_asleep(crew.start(queues.put_one, queue, waiting, flag, i).pid, waiting)
    assert not any(flag.value for flag in done)
    assert queue.get() == "first"
    assert sorted(drained(queue, 4)) == [0, 1, 2, 3]
    crew.join()


def test_messages_do_not_mix(mp, make, crew):
    queue, ready = make(8), mp.RawArray("b", 3)
    for me in range(3):
        crew.start(queues.put_blobs, queue, me, 40, ready)
    letters = []
    for _ in range(120):
        message = queue.get()
        assert message == message[:1] * len(message)
        letters.append(message[0] - 65)
    assert [letters.count(me) for me in range(3)] == [40] * 3
    crew.join()


def test_grandchild(mp, module, make, crew):
    queue = make()
    child = crew.start(queues.put_in_grandchild, queue, module, mp.get_start_method(), daemon=False)
    assert queue.get() == ("grandchild", child.pid)
    crew.join()


def test_closed(make):
    queue = make()
    assert queue.close() is None
    queue.close()
    for use in (lambda: queue.put(1), queue.get, queue.get_nowait, lambda: queue.put_nowait(1)):
        with pytest.raises(ValueError):
            use()
    queue.join_thread()
    queue.join_thread()


def test_what_a_closed_queue_still_tells(make):
    """As CPython's own suite has it: an unused one is empty, a used one cannot look any more."""
    unused, used = make(3), make(3)
    unused.close()
    unused.join_thread()
    assert (unused.empty(), unused.qsize(), unused.full()) == (True, 0, False)
    used.put("foo")
    used.close()
    used.join_thread()
    with pytest.raises(OSError, match="is closed"):
        used.empty()
    assert (used.qsize(), used.full()) == (1, False)


def test_close_here_leaves_others_alone(mp, make, crew):
    queue, outcome, waiting = make(), mp.RawValue("i"), mp.RawValue("b")
    child = crew.start(queues.get_one, queue, waiting, outcome)
    wait_asleep(child.pid, waiting)
    queue.put(5)
    queue.close()
    queue.join_thread()
    crew.join()
    assert outcome.value == 5


def test_not_picklable_outside_a_start(make):
    with pytest.raises(RuntimeError, match="shared between processes through inheritance"):
        pickle.dumps(make())


@pytest.mark.fastmp_only("the stdlib prints the error in its feeder thread and loses the item")
@pytest.mark.parametrize(
    ("item", "error"),
    [
        (lambda: None, (pickle.PicklingError, AttributeError)),
        (threading.Lock(), TypeError),
        (Unsendable(), SomeError),
        ([1, {"deep": (Unsendable(),)}], SomeError),
        ([b"x" * 1_000_000, Unsendable()], SomeError),
    ],
    ids=["lambda", "lock", "reduce", "nested", "large"],
)
def test_put_raises_what_pickling_raises(make, item, error):
    queue = make(2)
    queue.put("before")
    for _ in range(10):
        with pytest.raises(error):
            queue.put(item)
    assert queue.qsize() == 1
    queue.put("after")
    assert drained(queue, 2) == ["before", "after"]
    assert queue.empty()


def test_get_raises_what_unpickling_raises(make):
    queue = make(2)
    queue.put(Unreceivable())
    queue.put("after")
    with pytest.raises(SomeError):
        queue.get()
    assert queue.get() == "after"
    assert queue.qsize() == 0


@pytest.mark.fastmp_only("the stdlib pickles some time later")
def test_pickled_when_put(make):
    queue = make()
    item = [1, {"a": [2]}]
    queue.put(item)
    item[1]["a"].append(3)
    item.append(4)
    assert queue.get() == [1, {"a": [2]}]


@pytest.mark.fastmp_only("the stdlib's feeder thread may deadlock here")
def test_put_inside_a_put(make):
    queue = make()
    PutsWhenPickled.queue = queue
    queue.put([PutsWhenPickled(), PutsWhenPickled()])
    assert drained(queue, 3) == ["from inside", "from inside", ["outer", "outer"]]


@pytest.mark.fastmp_only("the stdlib copies it in a thread, some time later")
def test_received_objects_own_their_bytes(make):
    queue = make()
    queue.put(first := bytes(range(256)) * 1000)
    got = queue.get()
    for _ in range(20):
        queue.put(b"\xee" * 256_000)
        queue.get()
    assert got == first


def is_writable(queue, timeout=0):
    return select.select([], [queue._writer], [], timeout)[1] == [queue._writer]


def test_the_writer_may_be_written_to(mp):
    queue = mp.Queue()
    assert is_writable(queue)
    queue.put(1)
    assert queue.get() == 1
    assert is_writable(queue)
    queue.close()


@pytest.mark.fastmp_only("the stdlib's tells of its pipe, which a queue that is full need not have filled")
@pytest.mark.parametrize("maxsize", [0, 1, 5])
def test_writable_unless_full(mp, crew, maxsize):
    queue = mp.Queue(maxsize)
    for _ in range(3):
        for number in range(maxsize or 100):
            assert is_writable(queue)
            queue.put_nowait(number)
        assert is_writable(queue) == (maxsize == 0)
        if maxsize:
            with pytest.raises(errors.Full):
                queue.put_nowait(1)
            assert not is_writable(queue)
        crew.start(queues.get_later, queue, 0.1)
        assert is_writable(queue, 50)
        crew.join()
        while not queue.empty():
            queue.get()
    assert is_writable(queue)
    queue.close()
    with pytest.raises((OSError, ValueError)):
        queue._writer.fileno()


def test_readiness_means_a_message(mp, crew):
    """Who was told by `_reader` finds it at once, though the sender is not quite done."""
    queue, back = mp.Queue(), mp.Queue()
    queue._reader.fileno()
    crew.start(queues.put_when_asked, queue, back, 300)
    for i in range(300):
        back.put(i)
        assert wait([queue._reader], 30) == [queue._reader]
        assert queue.get_nowait() == i
    crew.join()
