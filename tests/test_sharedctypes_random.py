"""Random programs on shared values and arrays: each step gives or raises what the stdlib's does."""

import ctypes
import decimal
import math
import multiprocessing.sharedctypes
import operator

import fastmp
import fastmp.sharedctypes
import numpy
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

OURS, THEIRS = fastmp.get_context("fork"), multiprocessing.get_context("fork")


class Small(int):
    """Not an exact int."""

    def __index__(self):
        raise RuntimeError("ctypes does not ask")


class Ratio(float):
    """Not an exact float."""

    def __float__(self):
        raise RuntimeError("ctypes does not ask")


class Index:
    """Not a number, but as good as one where an index is wanted."""

    def __init__(self, number):
        self.number = number

    def __index__(self):
        return self.number

    def __repr__(self):
        return f"Index({self.number})"


class Mine(ctypes.c_int):
    """A subclass: arrays of it have objects for items."""


class Point(ctypes.Structure):
    _fields_ = [("x", ctypes.c_double), ("y", ctypes.c_short), ("tag", ctypes.c_char * 3)]


class Box(ctypes.Structure):
    _fields_ = [("low", Point), ("grid", ctypes.c_int * 2 * 3), ("bits", ctypes.c_uint, 5)]


class Either(ctypes.Union):
    _fields_ = [("number", ctypes.c_int), ("raw", ctypes.c_ubyte * 4)]


CODES = "cubBhHiIlLqQfd"
SCALARS = [*CODES, ctypes.c_bool, ctypes.c_longdouble, ctypes.c_int.__ctype_be__, ctypes.c_size_t, Mine]
ITEMS = [
    *[kind for kind in SCALARS if kind is not ctypes.c_longdouble],
    Point,
    Either,
    ctypes.c_int * 2,
    ctypes.c_char * 3,
    ctypes.c_double * 2 * 2,
]
PARTS = ["x", "y", "tag", "low", "grid", "bits", "number", "raw", "value"]

integers = (
    st.integers(-300, 300) | st.integers(-(2**70), 2**70) | st.sampled_from([2**k for k in (7, 8, 15, 31, 32, 63)])
)
items = (
    integers
    | st.booleans()
    | st.floats()
    | st.binary(max_size=2)
    | st.text(max_size=2)
    | st.sampled_from("\ud800\U0010ffff")
    | st.builds(Small, integers)
    | st.builds(Ratio, st.floats())
    | st.builds(Index, st.integers(-3, 3))
    | st.builds(numpy.float64, st.floats())
    | st.builds(numpy.int32, st.integers(-5, 5))
    | st.builds(bytearray, st.binary(max_size=2))
    | st.builds(ctypes.c_int, st.integers(-5, 5))
    | st.builds(decimal.Decimal, st.integers(-5, 5))
    | st.sampled_from([None, (), (1, 2), [1, 2], 10**400, 1e39, object])
)
good_lists = st.one_of(
    [st.lists(kind, max_size=6) for kind in (integers, st.floats(), st.binary(min_size=1, max_size=1))]
)
many = (
    good_lists
    | good_lists.map(tuple)
    | st.lists(items, max_size=6)
    | st.binary(max_size=6)
    | st.text(max_size=6)
    | st.builds(range, st.integers(0, 6))
    | st.builds(bytearray, st.binary(max_size=6))
    | st.sampled_from([None, 3, {1: 2}, {1, 2}])
)
bounds = st.none() | st.integers(-8, 8) | st.integers(-(2**70), 2**70) | st.builds(Index, st.integers(-6, 6))
slices = st.builds(slice, bounds, bounds, st.none() | st.integers(-4, 4) | st.builds(Index, st.integers(-3, 3)))
keys = (
    st.integers(-7, 7)
    | slices
    | st.booleans()
    | st.builds(Index, st.integers(-7, 7))
    | st.builds(Small, st.integers(-7, 7))
    | st.builds(numpy.int64, st.integers(-7, 7))
    | st.sampled_from([2**70, -(2**63), 1.0, "1", None, (), (1, 2)])
)


def plain(result):
    """A result in a form that can be compared: with its type, ctypes objects by their bytes, NaN
    equal to itself.
    """
    if isinstance(result, (ctypes.Array, ctypes.Structure, ctypes.Union, ctypes._SimpleCData)):
        return type(result).__name__, memory(result)
    if isinstance(result, (list, tuple)):
        return type(result), [plain(item) for item in result]
    if isinstance(result, float):
        return type(result), "nan" if math.isnan(result) else result.hex()
    return type(result), result


def outcome(operation, thing):
    try:
        return plain(operation(thing))
    except Exception as error:
        return type(error)


def store(name, value):
    return lambda thing: setattr(thing, name, value)


def both(mp_call, ours=OURS, theirs=THEIRS):
    """What both make of a call: the two objects, or None if both refuse alike."""
    results = []
    for module in (theirs, ours):
        try:
            results.append(mp_call(module))
        except Exception as error:
            results.append(type(error))
    if isinstance(results[0], type) or isinstance(results[1], type):
        assert results[0] == results[1]
        return None
    return results


def copy_of(thing):
    module = fastmp.sharedctypes if type(thing).__module__.startswith("fastmp") else multiprocessing.sharedctypes
    return module.copy(thing.get_obj() if hasattr(thing, "get_obj") else thing)


operations = st.one_of(
    st.tuples(st.just("get"), keys).map(lambda t: operator.itemgetter(t[1])),
    st.tuples(keys, items | many).map(lambda t: lambda thing: operator.setitem(thing, *t)),
    st.tuples(slices, many).map(lambda t: lambda thing: operator.setitem(thing, *t)),
    st.tuples(st.sampled_from(["value", "raw"]), items | many).map(lambda t: store(*t)),
    st.tuples(st.sampled_from(PARTS), items | many).map(lambda t: store(*t)),
    st.sampled_from(["value", "raw", *PARTS]).map(operator.attrgetter),
    st.sampled_from(
        [
            len,
            list,
            bytes,
            copy_of,
            lambda thing: list(reversed(thing)),
            lambda thing: 0 in thing,
            lambda thing: operator.delitem(thing, 0),
            lambda thing: operator.delitem(thing, slice(None)),
            lambda thing: delattr(thing, "value"),
            lambda thing: thing.get_obj() is thing.get_obj(),
            lambda thing: repr(thing.get_obj()).partition(" object at ")[0].rpartition(".")[2],
        ]
    ),
)


def memory(thing):
    obj = thing.get_obj() if hasattr(thing, "get_obj") else thing
    # The rest of a long double is whatever was in a register.
    return ctypes.string_at(ctypes.addressof(obj), 10 if isinstance(obj, ctypes.c_longdouble) else ctypes.sizeof(obj))


def compare(call, steps):
    pair = both(call)
    if pair is None:
        return
    theirs, ours = pair
    assert memory(ours) == memory(theirs)
    for step in steps:
        assert outcome(step, ours) == outcome(step, theirs)
        assert memory(ours) == memory(theirs)
    assert type(ours).__name__ == type(theirs).__name__


thorough = settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.too_slow])
locks = st.sampled_from(["own", "plain", "none", "foreign"])


def with_lock(make, lock):
    """The keyword that has a value guarded so."""

    def call(mp):
        given_lock = {"own": lambda: True, "plain": mp.Lock, "none": lambda: False, "foreign": Counting}[lock]()
        return make(mp, given_lock)

    return call


class Counting:
    """A lock that is none of ours: recursive, and in balance at the end of each operation."""

    held = 0

    def acquire(self):
        self.held += 1
        return True

    def release(self):
        self.held -= 1

    def __enter__(self):
        return self.acquire()

    def __exit__(self, *args):
        self.release()


@thorough
@given(st.sampled_from(SCALARS), st.lists(items, max_size=2), st.lists(operations, max_size=12), locks)
def test_values(kind, arguments, steps, lock):
    compare(with_lock(lambda mp, lock: mp.Value(kind, *arguments, lock=lock), lock), steps)


@thorough
@given(st.sampled_from(ITEMS), st.integers(0, 6) | many | st.just(-1), st.lists(operations, max_size=12), locks)
def test_arrays(kind, content, steps, lock):
    if isinstance(content, bytearray):
        content = bytes(content)
    compare(with_lock(lambda mp, lock: mp.Array(kind, content, lock=lock), lock), steps)


@thorough
@given(
    st.sampled_from([*CODES, ctypes.c_bool]),
    st.integers(1, 6),
    st.lists(
        st.tuples(slices, good_lists | st.binary(max_size=6) | st.text(max_size=6)).map(
            lambda t: lambda thing: (operator.setitem(thing, *t), thing[t[0]], thing[:])
        ),
        max_size=8,
    ),
)
def test_simple_arrays(kind, length, steps):
    compare(lambda mp: mp.Array(kind, length), steps)


@thorough
@given(st.sampled_from([Point, Box, Either]), st.lists(items, max_size=3), st.lists(operations, max_size=12), locks)
def test_structures(kind, arguments, steps, lock):
    compare(with_lock(lambda mp, lock: mp.Value(kind, *arguments, lock=lock), lock), steps)


@thorough
@given(st.sampled_from([*CODES[2:12]]), st.lists(st.tuples(st.integers(0, 6), integers, integers), max_size=12))
def test_atomics(code, steps):
    """Against what ctypes makes of the same arithmetic."""
    value = fastmp.Value(code)
    model = value.get_obj().__class__()
    for operation, n, m in steps:
        before = model.value
        if operation == 6:
            expected = before if n % 2 else n
            hit = type(model)(expected).value == before
            assert value.compare_exchange(expected, m) is hit
            model.value = m if hit else before
        else:
            name = ["fetch_add", "fetch_sub", "fetch_or", "fetch_and", "fetch_xor", "exchange"][operation]
            assert getattr(value, name)(n) == before
            model.value = [before + n, before - n, before | n, before & n, before ^ n, n][operation]
        assert value.value == value.get_obj().value == model.value


@pytest.mark.parametrize("kind", ["own", "plain", "foreign"])
def test_guards_are_in_balance(kind):
    """After good and bad operations nobody holds the lock."""
    lock = {"own": fastmp.RLock, "plain": fastmp.Lock, "foreign": Counting}[kind]()
    value, array = fastmp.Value("i", lock=lock), fastmp.Array("i", 3, lock=lock)
    for step in (
        lambda: value.value,
        lambda: store("value", 1)(value),
        lambda: store("value", "1")(value),
        lambda: array[1],
        lambda: array[9],
        lambda: array["1"],
        lambda: array[::0],
        lambda: array[:],
        lambda: operator.setitem(array, 1, 2),
        lambda: operator.setitem(array, 1, "2"),
        lambda: operator.setitem(array, slice(None), [1, 2, 3]),
        lambda: operator.setitem(array, slice(None), [1, "2", 3]),
        lambda: list(array),
    ):
        outcome(lambda _, step=step: step(), None)
        assert lock.held == 0 if kind == "foreign" else lock.owner is None
