"""Array and RawArray, held to what the stdlib's do."""

import ctypes
import gc
import importlib
from multiprocessing.reduction import ForkingPickler

import numpy
import pytest
from children import values

MAKERS = pytest.mark.parametrize("make", ["Array", "RawArray"])


@MAKERS
def test_made_of_a_length(mp, make):
    array = getattr(mp, make)("i", 5)
    assert len(array) == 5
    assert array[:] == [0] * 5
    assert list(array) == [0] * 5
    assert len(getattr(mp, make)("i", 0)) == 0


@MAKERS
def test_made_of_a_sequence(mp, make):
    for source in ([3, 1, 2], (3, 1, 2), range(3, 0, -1)):
        assert getattr(mp, make)("h", source)[:] == list(source)
    assert getattr(mp, make)("d", [0.5])[:] == [0.5]
    assert getattr(mp, make)(ctypes.c_ubyte, [255])[:] == [255]
    assert getattr(mp, make)("i", [])[:] == []


@MAKERS
def test_items_and_slices(mp, make):
    array = getattr(mp, make)("q", range(10))
    assert (array[0], array[9], array[-1], array[-10]) == (0, 9, 9, 0)
    assert array[2:5] == [2, 3, 4]
    assert array[::3] == [0, 3, 6, 9]
    assert array[::-1] == list(range(9, -1, -1))
    assert array[7:100] == [7, 8, 9]
    assert array[5:5] == []
    array[0] = -(2**63)
    array[-1] = 2**63 - 1
    array[2:5] = [20, 30, 40]
    assert array[:] == [-(2**63), 1, 20, 30, 40, 5, 6, 7, 8, 2**63 - 1]
    assert 30 in list(array)


@MAKERS
def test_bad_items(mp, make):
    array = getattr(mp, make)("i", 4)
    for index in (4, -5, 2**70):
        with pytest.raises(IndexError):
            array[index]
        with pytest.raises(IndexError):
            array[index] = 1
    with pytest.raises(TypeError):
        array["0"]
    with pytest.raises(TypeError):
        array[0] = 1.5
    for wrong in ([1], [1, 2, 3, 4, 5]):
        with pytest.raises(ValueError):
            array[:] = wrong
    with pytest.raises((TypeError, AttributeError)):
        del array[0]
    assert array[:] == [0] * 4


@MAKERS
def test_bad_arguments(mp, make):
    with pytest.raises(ValueError):
        getattr(mp, make)("i", -1)
    for wrong in (1.5, None, object()):
        with pytest.raises(TypeError):
            getattr(mp, make)("i", wrong)
    with pytest.raises(TypeError):
        getattr(mp, make)("i", ["1"])
    with pytest.raises(TypeError):
        getattr(mp, make)("zz", 3)


@MAKERS
def test_bytes(mp, make):
    array = getattr(mp, make)("c", 10)
    assert array.raw == bytes(10)
    array.value = b"hello"
    assert (array.value, array.raw) == (b"hello", b"hello" + bytes(5))
    array.value = b"hi"
    assert (array.value, array.raw) == (b"hi", b"hi\0lo" + bytes(5))
    array.raw = b"0123456789"
    assert array.value == b"0123456789"
    array[0] = b"x"
    assert array[0] == b"x"
    assert array[:3] == b"x12"
    with pytest.raises(ValueError):
        array.value = b"longer than ten"
    assert getattr(mp, make)("c", b"abc").raw == b"abc"


def test_locks(mp):
    array = mp.Array("i", 3)
    with array.get_lock(), array:
        array[0] = 1
    assert array.get_obj()[0] == 1
    assert array.acquire() is True
    array.release()
    assert repr(array).startswith("<SynchronizedArray wrapper for <")
    assert repr(mp.Array("c", 3)).startswith("<SynchronizedString wrapper for <")
    lock = mp.Lock()
    assert mp.Array("i", 3, lock=lock).get_lock() is lock
    raw = mp.Array("i", 3, lock=False)
    assert isinstance(raw, ctypes.Array)
    with pytest.raises(AttributeError):
        mp.Array("i", 3, lock=3)
    with pytest.raises(TypeError):
        mp.Array("i", 3, True)


def test_raw_arrays_are_ctypes(mp):
    array = mp.RawArray("d", [1.5, 2.5])
    assert isinstance(array, ctypes.Array)
    view = memoryview(array).cast("B").cast("d")
    view[0] = 9.5
    assert array[:] == [9.5, 2.5]
    assert ctypes.sizeof(array) == 16


def test_arrays_do_not_overlap(mp):
    many = [mp.RawArray("B", size) for size in range(1, 300)]
    for i, array in enumerate(many):
        array[:] = [i % 256] * len(array)
    assert all(set(array) == {i % 256} for i, array in enumerate(many))


@MAKERS
def test_large(mp, crew, make):
    """Larger than the pieces, 4 MiB at most, from which either package takes what is smaller."""
    array = getattr(mp, make)("B", 8 << 20)
    assert not any(array[:: 1 << 12])
    array[-1] = 7
    crew.run(values.set_items, array, bytes(range(256)) * (1 << 15))
    assert array[255] == 255
    assert array[-1] == 255
    assert bytes(array[: 1 << 16]) == bytes(range(256)) * 256


@MAKERS
def test_fresh_arrays_are_zero(mp, make):
    for size in (3, 100, 5000, 100_000):
        for _ in range(5):
            array = getattr(mp, make)("q", size)
            assert not any(array)
            array[:] = [-1] * size
            del array


def test_shared_with_a_child(mp, crew):
    value, array, plain = mp.Value("d", 1.5), mp.Array("i", [1, 2, 3]), mp.RawArray("h", [4, 5])
    crew.run(values.negate, value, array, plain)
    assert (value.value, array[:], plain[:]) == (-1.5, [-1, -2, -3], [-4, -5])


def test_its_lock_excludes_processes(mp, crew):
    array, ready = mp.Array("q", 5), mp.RawArray("b", 4)
    for me in range(4):
        crew.start(values.add_to_all, array, ready, me, 500)
    crew.join()
    assert array[:] == [2000] * 5


def test_not_picklable_outside_a_start(mp):
    for array in (mp.Array("i", 2), mp.RawArray("i", 2)):
        with pytest.raises(RuntimeError):
            ForkingPickler.dumps(array)


@MAKERS
@pytest.mark.parametrize("code", "bBhHiIlLqQfd")
def test_all_typecodes(mp, make, code):
    array = getattr(mp, make)(code, range(7))
    kind = float if code in "fd" else int
    assert array[1:6:2] == [1, 3, 5]
    assert {type(item) for item in array} == {kind}
    array[-1:0:-3] = [100, 101]
    assert list(array) == [0, 1, 2, 101, 4, 5, 100]
    array[1] = 2**100 if kind is int else 0.5
    assert array[1] == (0 if kind is int else 0.5)
    assert 101 in array
    assert list(reversed(array))[0] == 100


@MAKERS
def test_truths(mp, make):
    array = getattr(mp, make)(ctypes.c_bool, 4)
    array[:] = [5, "", None, [0]]
    assert array[:] == [True, False, False, True]
    array[0] = 0
    assert array[0] is False


@MAKERS
def test_wide_characters(mp, make):
    array = getattr(mp, make)("u", "grün\N{SNOWMAN}")
    assert array[:] == "grün\N{SNOWMAN}"
    assert array[::-1] == "\N{SNOWMAN}nürg"
    array[1:3] = "oh"
    assert array[:4] == "gohn"
    assert array[4] == "\N{SNOWMAN}"
    with pytest.raises(TypeError):
        array[0] = "xy"


class Pair(ctypes.Structure):
    _fields_ = [("left", ctypes.c_int), ("right", ctypes.c_int)]


@MAKERS
def test_arrays_of_structures_and_arrays(mp, make):
    pairs = getattr(mp, make)(Pair, [(1, 2), (3, 4)])
    assert [(pair.left, pair.right) for pair in pairs] == [(1, 2), (3, 4)]
    pairs[0] = Pair(5, 6)
    pairs[1].left = 7
    assert (pairs[0].right, pairs[1].left) == (6, 7)
    grid = getattr(mp, make)(ctypes.c_short * 3, 2)
    grid[1][2] = 9
    grid[0] = (ctypes.c_short * 3)(1, 2, 3)
    assert [row[:] for row in grid] == [[1, 2, 3], [0, 0, 9]]
    assert len(grid) == 2


@MAKERS
def test_half_an_assignment(mp, make):
    """As ctypes does it: what came before the item that is wrong is written."""
    array = getattr(mp, make)("i", 4)
    with pytest.raises(TypeError):
        array[:] = [1, 2, "3", 4]
    assert array[:] == [1, 2, 0, 0]


@MAKERS
def test_indices_of_other_types(mp, make):
    array = getattr(mp, make)("d", range(5))
    assert array[numpy.int64(2)] == array[True] + 1 == 2.0
    array[numpy.int8(-1)] = numpy.float64(7.5)
    assert array[4] == 7.5
    array[:2] = numpy.array([3.5, 4.5])
    assert array[:2] == [3.5, 4.5]
    with pytest.raises(ValueError):
        array[::0]
    for wrong in (1.0, None, (1,)):
        with pytest.raises(TypeError):
            array[wrong]


def test_a_list_that_changes_itself(mp):
    """Its length is asked once; items are converted one after the other."""

    class Shrinking(list):
        def __getitem__(self, i):
            self.clear()
            return 1

    array = mp.Array("i", 3)
    array[:] = Shrinking([1, 2, 3])
    with pytest.raises((IndexError, TypeError, ValueError)):
        array[:] = [1, 2]


def test_as_a_sequence_of_c(mp):
    """By the functions that extension modules use."""
    array, api = mp.Array("i", [1, 2, 3]), ctypes.pythonapi
    api.PySequence_SetItem.argtypes = ctypes.py_object, ctypes.c_ssize_t, ctypes.py_object
    api.PySequence_GetItem.argtypes = ctypes.py_object, ctypes.c_ssize_t
    api.PySequence_GetItem.restype = ctypes.py_object
    api.PySequence_Size.argtypes = api.PySequence_Check.argtypes = (ctypes.py_object,)
    assert api.PySequence_Check(array)
    assert api.PySequence_Size(array) == 3
    for i in (1, -1):
        assert api.PySequence_SetItem(array, i, 7) == 0
        assert api.PySequence_GetItem(array, i) == 7
    for i in (3, -7):
        with pytest.raises(IndexError):
            api.PySequence_GetItem(array, i)
        with pytest.raises(IndexError):
            api.PySequence_SetItem(array, i, 1)
    assert array[:] == [1, 7, 7]


def test_bytes_of_an_array_are_its_items(mp):
    assert bytes(mp.Array("i", [1, 2, 3])) == b"\1\2\3"


def test_wrappers_made_by_hand(mp, module):
    sharedctypes = importlib.import_module(f"{module}.sharedctypes")
    obj = mp.RawArray("i", 3)
    array = sharedctypes.SynchronizedArray(obj, mp.Lock())
    array[:] = [1, 2, 3]
    assert (obj[:], array.get_obj() is obj, len(array)) == ([1, 2, 3], True, 3)
    text = sharedctypes.synchronized(mp.RawArray("c", b"abc"), ctx=mp)
    assert type(text) is sharedctypes.SynchronizedString
    assert isinstance(text, sharedctypes.SynchronizedArray)
    private = sharedctypes.synchronized((ctypes.c_int * 2)(1, 2), ctx=mp)
    ctypes.resize(private.get_obj(), 4096)  # which moves it
    private[1] = 9
    assert private[:] == [1, 9]
    copied = sharedctypes.copy(array.get_obj())
    copied[0] = 100
    assert (array[0], copied[:]) == (1, [100, 2, 3])
    with pytest.raises(TypeError):
        sharedctypes.copy(array)


@pytest.mark.parametrize("code", "bBhHiIlLqQfd")
def test_raw_arrays_as_numpy_arrays(mp, code):
    array = mp.RawArray(code, 6)
    view = numpy.asarray(array)
    assert view.dtype == numpy.dtype(code)
    view[2] = 5
    assert array[2] == 5


@pytest.mark.fastmp_only("the stdlib's wrappers are no buffers")
@pytest.mark.parametrize("code", "bBhHiIlLqQfd")
def test_arrays_as_numpy_arrays(mp, code):
    array = mp.Array(code, 6)
    view = numpy.asarray(array)
    assert (view.dtype, view.shape) == (numpy.dtype(code), (6,))
    assert not view.flags.owndata
    view[:] = range(6)
    assert array[:] == [0, 1, 2, 3, 4, 5]
    array[5] = 100
    assert view[5] == 100
    del array
    gc.collect()
    assert view.sum() == 110


@pytest.mark.fastmp_only("the stdlib's wrappers are no buffers")
@pytest.mark.parametrize(
    ("kind", "size"),
    [("i", 5), ("c", 4), ("u", 4), (ctypes.c_bool, 3), (ctypes.c_short * 3, 2), (Pair, 2), ("i", 0)],
)
def test_buffers_are_those_of_ctypes(mp, kind, size):
    array = mp.Array(kind, size)
    ours, theirs = memoryview(array), memoryview(array.get_obj())
    for name in ("format", "shape", "strides", "itemsize", "nbytes", "ndim", "readonly"):
        # What numpy knows wide characters by.
        expected = "w" if (kind, name) == ("u", "format") else getattr(theirs, name)
        assert getattr(ours, name) == expected
    assert not ours.readonly


@pytest.mark.fastmp_only("the stdlib's wrappers are no buffers")
def test_views_do_not_take_the_lock(mp, crew):
    array = mp.Array("i", 3, lock=mp.Lock())
    with array.get_lock():
        numpy.asarray(array)[1] = 5
        with memoryview(array) as view:
            assert view.cast("B").cast("i")[1] == 5
    crew.run(values.set_items, array, [7, 8, 9])
    assert numpy.asarray(array).tolist() == [7, 8, 9]


def test_wide_characters_for_numpy(mp):
    array = mp.Array("u", "ab")
    assert numpy.asarray(array).tolist() == ["a", "b"]
    assert numpy.array(array).tolist() == ["a", "b"]


@pytest.mark.parametrize("lock", [1, 1.0])
def test_lock_that_equals_true(mp, lock):
    assert mp.Array("i", 2, lock=lock).get_lock() is not None
    assert mp.Value("i", 2, lock=lock).value == 2


class Awkward(ctypes.Structure):
    _fields_ = [("_guard", ctypes.c_int), ("x", ctypes.c_int)]


def test_a_structure_with_awkward_names(mp):
    value = mp.Value(Awkward, 1, 2)
    value.x += 1
    assert (value._guard, value.x) == (1, 3)
