"""Subclasses as programs write them: own arguments and attributes, overridden methods, state."""

import importlib
import threading
import time

import pytest
from children import named


@pytest.fixture
def classes(module):
    return named.of(module)


def test_event(mp, classes, crew):
    """The stdlib's event is pickled by its `__dict__`, so that attributes are there in a child."""
    event = classes["Event"]("go", context=mp)
    mine, yours = mp.Pipe()
    crew.run(named.set_it, event, yours)
    assert mine.recv() == ("go", None)
    assert event.wait(10) is True
    assert event.is_set()


def test_event_with_state_of_its_own(mp, classes, crew):
    event = classes["StatefulEvent"]("go", context=mp)
    mine, yours = mp.Pipe()
    crew.run(named.set_it, event, yours)
    name, here = mine.recv() if mp.get_start_method() == "spawn" else ("go", "there")
    assert (name, here) == ("go", "there")
    assert event.is_set()


def test_locks(mp, classes, crew):
    lock = classes["Lock"]("db", context=mp)
    with lock:
        assert not lock.acquire(False)
    assert (lock.name, lock.entered) == ("db", 1)
    semaphore, barrier = classes["Semaphore"]("s", context=mp), classes["Barrier"](2, "b", context=mp)
    assert (semaphore.get_value(), semaphore.name, barrier.parties, barrier.name) == (2, "s", 2, "b")
    bounded = classes["BoundedSemaphore"](mp, "bounded")
    assert bounded.name == "bounded"
    assert bounded.get_value() == 2
    with pytest.raises(ValueError):
        bounded.release()
    # What the stdlib's subclasses do not carry along is not carried along here; they work all the
    # same.
    child = crew.start(named.pass_through, barrier, lock, semaphore)
    barrier.wait()
    child.join()
    assert semaphore.get_value() == 1
    crew.join()


def test_state_beside_the_objects(mp, classes, crew):
    names = ["r", "c"]
    shared = [classes["RLock"]("r", context=mp), classes["Condition"]("c", context=mp)]
    assert [one.name for one in shared] == names
    mine, yours = mp.Pipe()
    crew.run(named.describe, yours, *shared)
    assert mine.recv() == names


def test_queue(mp, classes, crew):
    queue = classes["Queue"](mp, "jobs", 2)
    mine, yours = mp.Pipe()
    queue.put("question")
    child = crew.start(named.answer, queue, yours)
    assert mine.recv() == ("question", "jobs")
    assert queue.get() == "answer"
    child.join()  # it counts once it has put
    assert queue.count.value == 2
    queue.put(1)
    queue.put(2, timeout=10)
    with pytest.raises(Exception, match="^$") as refusal:
        queue.put(3, block=False)
    assert type(refusal.value).__name__ == "Full"
    assert classes["Queue"](context=mp, name="by name", maxsize=0).name == "by name"
    crew.join()


@pytest.mark.fastmp_only("the stdlib's feeder threads may put the end before the rest")
def test_queue_as_an_iterator(mp, classes, crew):
    queue = classes["IterableQueue"](2, context=mp)
    for _ in range(2):
        crew.start(named.feed, queue, 20)
    assert sorted(queue) == sorted([*range(20)] * 2)
    crew.join()


def test_queue_with_a_new_of_its_own(mp, classes, crew):
    queue = classes["PlainQueue"](context=mp, maxsize=1)
    assert queue.name == "only here"
    queue.put(1)
    assert queue.get() == 1
    done = mp.Queue()
    crew.run(_hand_on, queue, done)
    assert queue.get() == "through"


def _hand_on(queue, done):
    queue.put("through")


@pytest.mark.fastmp_only("they go through channels nowhere else")
def test_through_a_queue(mp, classes):
    """What a subclass carries to a child it carries with a message as well."""
    queue = mp.Queue()
    event = classes["Event"]("go", context=mp)
    lock = classes["RLock"]("r", context=mp)
    jobs = classes["Queue"](mp, "jobs")
    for shared in (event, lock, jobs):
        queue.put(shared)
    got = [queue.get() for _ in range(3)]
    assert [type(one) for one in got] == [type(event), type(lock), type(jobs)]
    assert [one.name for one in got] == ["go", "r", "jobs"]
    got[0].set()
    assert event.is_set()
    got[1].acquire()
    assert lock._is_mine()
    jobs.put("job")
    assert got[2].get() == "job"


@pytest.mark.fastmp_only("other errors there")
def test_before_and_after_init(mp, module, classes):
    for kind in ("Semaphore", "BoundedSemaphore", "Queue"):
        cls = classes[kind]
        bare = cls.__new__(cls)
        uses = ["acquire", "release", "get_value"] if "S" in kind else ["get", "qsize", "empty"]
        for use in uses:
            with pytest.raises(AttributeError):
                getattr(bare, use)()
        base = next(base for base in cls.__mro__ if base.__module__.startswith("fastmp."))
        base.__init__(bare)
        with pytest.raises(RuntimeError):
            base.__init__(bare)
    # These have no arguments to wait for.
    event, lock = classes["Event"].__new__(classes["Event"]), classes["Lock"].__new__(classes["Lock"])
    event.set()
    assert event.is_set()
    assert lock.acquire()


def test_wrong_arguments_are_still_refused(mp, classes):
    for make in (mp.Lock, mp.RLock, mp.Event):
        for cls in type(make()).__mro__[:2]:
            if cls.__name__ == "SemLock":
                continue
            with pytest.raises(TypeError):
                cls(1, 2, 3)
            with pytest.raises(TypeError):
                cls(nonsense=1)
    for make in (mp.Semaphore, mp.BoundedSemaphore, mp.Queue):
        with pytest.raises(TypeError):
            type(make())(1, 2, 3)
        with pytest.raises(TypeError):
            type(make())(nonsense=1)


def test_locked(mp, native, crew):
    """As Python 3.14 has it, on every version."""
    if not hasattr(mp.Lock(), "locked"):
        assert not native
        pytest.skip("the stdlib of this Python does not have it yet")
    for lock in (mp.Lock(), mp.RLock(), mp.Semaphore(1), mp.BoundedSemaphore(1)):
        assert lock.locked() is False
        with lock:
            assert lock.locked() is True
            seen = []
            thread = threading.Thread(target=lambda lock=lock, seen=seen: seen.append(lock.locked()))
            thread.start()
            thread.join()
            assert seen == [True]
        assert lock.locked() is False
    two = mp.Semaphore(2)
    two.acquire()
    assert two.locked() is False
    two.acquire()
    assert two.locked() is True


class _Counting:
    """A queue that counts by its own `put` and `get`, as programs do where `qsize` is missing."""

    count = 0

    def put(self, *args, **kwargs):
        super().put(*args, **kwargs)
        self.count += 1

    def get(self, *args, **kwargs):
        item = super().get(*args, **kwargs)
        self.count -= 1
        return item


def test_the_nowait_methods_go_by_a_subclasss_own(mp, module):
    queues = importlib.import_module(f"{module}.queues")
    queue = type("Counting", (_Counting, queues.Queue), {})(ctx=mp)
    queue.put_nowait("one")
    assert queue.count == 1
    time.sleep(0.2)  # the stdlib's is put by a thread
    assert queue.get_nowait() == "one"
    assert queue.count == 0
