"""Value and RawValue, held to what the stdlib's do."""

import copy
import ctypes
import gc
import importlib
import math
import multiprocessing
import subprocess
import sys
import threading
import weakref
from multiprocessing.reduction import ForkingPickler

import pytest
from children import values
from children.common import wait_asleep, wait_until

LIMITS = [
    ("b", -(2**7), 2**7 - 1),
    ("B", 0, 2**8 - 1),
    ("h", -(2**15), 2**15 - 1),
    ("H", 0, 2**16 - 1),
    ("i", -(2**31), 2**31 - 1),
    ("I", 0, 2**32 - 1),
    ("l", -(2**63), 2**63 - 1),
    ("L", 0, 2**64 - 1),
    ("q", -(2**63), 2**63 - 1),
    ("Q", 0, 2**64 - 1),
]
MAKERS = pytest.mark.parametrize("make", ["Value", "RawValue"])


@MAKERS
@pytest.mark.parametrize(("code", "low", "high"), LIMITS)
def test_integers(mp, make, code, low, high):
    value = getattr(mp, make)(code)
    assert value.value == 0
    for content in (low, high, 1, 0):
        value.value = content
        assert value.value == content
    value.value = high + 1  # wraps, as in C
    assert value.value == low
    value.value = low - 1
    assert value.value == high
    assert getattr(mp, make)(code, 5).value == 5
    for wrong in (1.5, "1", None):
        with pytest.raises(TypeError):
            value.value = wrong
    assert value.value == high


@MAKERS
def test_floats(mp, make):
    double, single = getattr(mp, make)("d", 1.5), getattr(mp, make)("f")
    assert (double.value, single.value) == (1.5, 0.0)
    for content in (-0.0, math.inf, -math.inf, 5e-324, 1.7976931348623157e308):
        double.value = content
        assert double.value == content
        assert math.copysign(1, double.value) == math.copysign(1, content)
    double.value = math.nan
    assert math.isnan(double.value)
    single.value = 1 / 3
    assert single.value == ctypes.c_float(1 / 3).value != 1 / 3
    double.value = 3
    assert type(double.value) is float
    with pytest.raises(TypeError):
        double.value = "1.5"


@MAKERS
def test_characters(mp, make):
    byte, wide = getattr(mp, make)("c", b"x"), getattr(mp, make)("u", "\N{SNOWMAN}")
    assert (byte.value, wide.value) == (b"x", "\N{SNOWMAN}")
    byte.value = b"\0"
    assert byte.value == b"\0"
    with pytest.raises(TypeError):
        byte.value = b"xy"
    with pytest.raises(TypeError):
        wide.value = "xy"


@MAKERS
def test_ctypes_types(mp, make):
    value = getattr(mp, make)(ctypes.c_longlong, 2**40)
    assert value.value == 2**40
    assert getattr(mp, make)(ctypes.c_bool, 5).value is True


@MAKERS
def test_bad_arguments(mp, make):
    for wrong in ("zz", "", "?"):
        with pytest.raises((TypeError, KeyError)):
            getattr(mp, make)(wrong)
    with pytest.raises(TypeError):
        getattr(mp, make)("i", "1")
    with pytest.raises(TypeError):
        getattr(mp, make)()


def test_locks_of_its_own(mp):
    value = mp.Value("i", 3)
    assert value.get_obj().value == 3
    value.get_obj().value = 4
    assert value.value == 4
    with value.get_lock(), value.get_lock():  # recursive
        value.value += 1
    assert value.value == 5
    with value:
        value.value += 1
    assert value.acquire() is True
    assert value.release() is None
    assert value.value == 6
    assert repr(value) == "<Synchronized wrapper for c_int(6)>"


def test_lock_given(mp):
    lock = mp.Lock()
    value = mp.Value("i", 3, lock=lock)
    assert value.get_lock() is lock
    assert mp.Value("i", lock=True).get_lock() is not None
    raw = mp.Value("i", 3, lock=False)
    assert type(raw) is ctypes.c_int
    assert not hasattr(raw, "get_lock")
    with pytest.raises(AttributeError):
        mp.Value("i", 1, lock=3)
    with pytest.raises(TypeError):
        mp.Value("i", 1, True)  # only by keyword


def test_values_do_not_overlap(mp):
    many = [mp.RawValue("b") for _ in range(500)] + [mp.RawValue("q") for _ in range(500)]
    for i, value in enumerate(many):
        value.value = i % 100 + 1
    assert [value.value for value in many] == [i % 100 + 1 for i in range(1000)]


def test_fresh_values_are_zero(mp):
    for _ in range(50):
        value = mp.RawValue("q")
        assert value.value == 0
        value.value = -1
        del value


@pytest.mark.parametrize("worker", [values.add_under_its_lock, values.add_under_itself])
def test_its_lock_excludes_processes(mp, crew, worker):
    value, ready = mp.Value("q"), mp.RawArray("b", 4)
    for me in range(4):
        crew.start(worker, value, ready, me, 1000)
    crew.join()
    assert value.value == 4000


def test_a_lock_given_excludes_processes(mp, crew):
    value, ready = mp.Value("q", lock=mp.RLock()), mp.RawArray("b", 4)
    for me in range(4):
        crew.start(values.add_under_its_lock, value, ready, me, 1000)
    crew.join()
    assert value.value == 4000


@pytest.mark.parametrize("lock", [True, False])
def test_shared_with_a_child(mp, crew, lock):
    value = mp.Value("q", 1, lock=lock)
    crew.run(values.set_value, value, 2**60)
    assert value.value == 2**60
    value.value = -5
    crew.run(values.expect_value, value, -5)


def test_the_first_of_its_type_is_shared(module):
    """In an interpreter that has made no other: what is registered for a pickler has to be so
    before it starts.
    """
    code = (
        f"import sys; sys.path[:] = {sys.path!r}\n"
        f"import {module} as mp; from children import values\n"
        "mp = mp.get_context('spawn')\n"
        "value = mp.Value('h', 3)\n"
        "child = mp.Process(target=values.set_value, args=(value, 4)); child.start(); child.join()\n"
        "assert (child.exitcode, value.value) == (0, 4), value.value\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_wrapper_and_object_travel_together(mp, crew):
    value = mp.Value("i")
    crew.run(values.aliases, value, value, value.get_obj())
    assert value.value == 8


class Point(ctypes.Structure):
    _fields_ = [("x", ctypes.c_double), ("y", ctypes.c_double)]


@pytest.mark.fastmp_only("what is looked at is how ours keeps apart from the stdlib's")
def test_stdlib_values_still_travel(mp, crew):
    ours, theirs = mp.RawValue("i", 1), multiprocessing.get_context(mp.get_start_method()).RawValue("i", 1)
    crew.run(values.set_value, ours, 2)
    other = multiprocessing.get_context(mp.get_start_method()).Process(target=values.set_value, args=(theirs, 3))
    other.start()
    other.join()
    assert (other.exitcode, ours.value, theirs.value) == (0, 2, 3)


def test_structures(mp):
    point = mp.Value(Point, 1.5, 2.5)
    with point.get_lock():
        point.x += 1
    assert (point.x, point.y) == (2.5, 2.5)


class Line(ctypes.Structure):
    _fields_ = [("ends", Point * 2), ("name", ctypes.c_char * 4), ("width", ctypes.c_ubyte)]


def test_structures_within(mp, module):
    line = mp.Value(Line, ((1, 2), (3, 4)), b"ab", 5)
    assert type(line).__name__ == "SynchronizedLine"
    assert (line.ends[1].y, line.name, line.width) == (4.0, b"ab", 5)
    line.width = 256 + 7
    assert line.get_obj().width == 7
    line.ends[0].x = 9  # what was got is a view
    assert line.get_obj().ends[0].x == 9.0
    line.name = b"abcd"
    for name, wrong in [("width", "7"), ("name", b"too long"), ("ends", 1)]:
        with pytest.raises((TypeError, ValueError, RuntimeError)):
            setattr(line, name, wrong)
    with pytest.raises(AttributeError):
        line.height
    assert not hasattr(line, "value")
    copied = importlib.import_module(f"{module}.sharedctypes").copy(line.get_obj())
    copied.width = 1
    assert (line.width, copied.name) == (7, b"abcd")


@pytest.fixture
def sharedctypes(module):
    return importlib.import_module(f"{module}.sharedctypes")


def test_wrappers_made_by_hand(mp, sharedctypes):
    obj = mp.RawValue("i", 3)
    lock = mp.RLock()
    value = sharedctypes.synchronized(obj, lock)
    assert type(value) is sharedctypes.Synchronized
    assert isinstance(value, sharedctypes.SynchronizedBase)
    assert value.get_obj() is obj
    assert value.get_lock() is lock
    value.value += 1
    assert obj.value == 4
    other = sharedctypes.Synchronized(obj, ctx=mp)
    other.value += 1
    assert value.value == 5
    third = sharedctypes.synchronized(obj, ctx=importlib.import_module(type(mp).__module__.partition(".")[0]))
    third.value += 1
    assert value.value == 6
    with pytest.raises(AssertionError):
        sharedctypes.synchronized(value)
    private = sharedctypes.synchronized(ctypes.c_int(8), ctx=mp)
    private.value += 1
    assert private.value == private.get_obj().value == 9


def test_subclass_of_a_wrapper(mp, sharedctypes):
    class Counter(sharedctypes.Synchronized):
        def __init__(self, start):
            super().__init__(mp.RawValue("i", start), mp.RLock())

        def next(self):
            with self:
                self.value += 1
                return self.value

    counter = Counter(4)
    assert counter.next() == 5
    assert repr(counter) == "<Counter wrapper for c_int(5)>"


def test_wrappers_are_ordinary_objects(mp):
    value = mp.Value("i", 1)
    value.remark = "seen"
    assert value.remark == "seen"
    assert value == value != mp.Value("i", 1)
    assert {value: 1}[value] == 1
    with pytest.raises(AttributeError):
        del value.value
    with pytest.raises(RuntimeError):
        copy.copy(value)
    gone = weakref.ref(value)
    value.itself = value
    del value
    gc.collect()
    assert gone() is None


def test_cycle_through_a_lock_is_collected(mp):
    class Held:
        def acquire(self, *args):
            return True

        def release(self):
            pass

    lock = Held()
    lock.value = mp.Value("i", lock=lock)
    gone = weakref.ref(lock)
    del lock
    gc.collect()
    assert gone() is None


def counting(mp, calls):
    class Counting(type(mp.RLock())):
        def acquire(self, *args):
            calls.append("acquire")
            return super().acquire(*args)

        def release(self):
            calls.append("release")
            super().release()

    return Counting(ctx=mp)


@pytest.mark.fastmp_only("the stdlib's locks hide the methods of a subclass")
def test_a_subclass_of_a_lock_is_asked(mp):
    calls = []
    value = mp.Value("i", 1, lock=counting(mp, calls))
    value.value += 1
    assert calls == ["acquire", "release"] * 2
    with pytest.raises(TypeError):
        value.value = "1"
    assert calls == ["acquire", "release"] * 3


@pytest.mark.parametrize("kind", [threading.Lock, threading.RLock, threading.Condition, threading.Semaphore])
def test_other_locks(mp, kind):
    lock = kind()
    value, array = mp.Value("i", 1, lock=lock), mp.Array("i", [1, 2], lock=lock)
    assert value.get_lock() is array.get_lock() is lock
    value.value += array[1]
    array[:] = [value.value] * 2
    assert (value.value, array[:]) == (3, [3, 3])
    with pytest.raises(IndexError):
        array[2]
    with value:
        pass
    assert value.acquire() is True
    value.release()


def test_what_a_lock_raises_comes_out(mp):
    class Broken:
        def acquire(self):
            raise ZeroDivisionError

        def release(self):
            raise AssertionError("never taken")

    value = mp.Value("i", 1, lock=Broken())
    with pytest.raises(ZeroDivisionError):
        value.value
    with pytest.raises(ZeroDivisionError):
        value.value = 2
    assert value.get_obj().value == 1


def test_its_lock_as_a_lock(mp):
    value = mp.Value("i")
    assert value.acquire(block=False) is True
    assert value.acquire(False, None) is True
    outcomes = []
    thread = threading.Thread(target=lambda: outcomes.extend([value.acquire(False), value.acquire(True, 0.01)]))
    thread.start()
    thread.join()
    assert outcomes == [False, False]
    value.release()
    value.release()
    with pytest.raises(AssertionError):
        value.release()
    with pytest.raises(TypeError):
        value.acquire(1, 2, 3)


def test_access_waits_for_the_lock(mp, crew):
    lock = mp.RLock()
    value, array = mp.Value("i", 1, lock=lock), mp.Array("i", [1, 2], lock=lock)
    waiting, seen = mp.RawValue("b"), mp.RawArray("i", 2)
    with value.get_lock():
        child = crew.start(values.read_when_free, value, array, waiting, seen)
        wait_asleep(child.pid, waiting)
        value.value = 5
        array[0] = 6
        assert seen[:] == [0, 0]
    crew.join()
    assert seen[:] == [5, 6]
    assert (value.value, array[:]) == (7, [7, 7])


def test_access_waits_for_another_thread(mp):
    value, seen = mp.Value("i", 1), []
    thread = threading.Thread(target=lambda: seen.append(value.value))
    with value:
        thread.start()
        value.value = 2
        thread.join(0.05)
        assert seen == []
        value.value = 3
    wait_until(lambda: seen)
    thread.join()
    assert seen == [3]


def test_impossible_characters(mp):
    """What no character has for a code is refused when it is read."""
    value, array = mp.Value("u"), mp.Array("u", 3)
    for thing in (value, array):
        ctypes.memset(ctypes.addressof(thing.get_obj()), 0xFF, 4)
    for read in (lambda: value.value, lambda: array[0], lambda: array[:]):
        with pytest.raises(ValueError):
            read()
    value.value = array[0] = "x"
    assert value.value == array[0] == "x"


def test_the_same_objects_come_out(mp):
    value = mp.Value("d", 2.5)
    assert value.get_obj() is value.get_obj()
    assert type(value.get_obj()) is ctypes.c_double
    assert ctypes.sizeof(value.get_obj()) == 8
    value.get_obj().value = 3.5
    assert value.value == 3.5


def test_not_picklable_outside_a_start(mp):
    for value in (mp.Value("i"), mp.RawValue("i")):
        with pytest.raises(RuntimeError):
            ForkingPickler.dumps(value)
