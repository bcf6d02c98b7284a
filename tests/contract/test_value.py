"""Value and RawValue, held to what the stdlib's do."""

import ctypes
import math
import multiprocessing
from multiprocessing.reduction import ForkingPickler

import pytest
from children import values

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


def test_not_picklable_outside_a_start(mp):
    for value in (mp.Value("i"), mp.RawValue("i")):
        with pytest.raises(RuntimeError):
            ForkingPickler.dumps(value)
