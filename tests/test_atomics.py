"""Beyond the stdlib: operations on values that are atomic across processes, without a lock."""

import ctypes

import pytest
from children import values

pytestmark = pytest.mark.fastmp_only("the stdlib has no such thing")
WIDTHS = pytest.mark.parametrize(
    ("code", "bits", "signed"),
    [
        (c, b, s)
        for c, b, s in [
            ("b", 8, True),
            ("B", 8, False),
            ("h", 16, True),
            ("H", 16, False),
            ("i", 32, True),
            ("I", 32, False),
            ("l", 64, True),
            ("L", 64, False),
            ("q", 64, True),
            ("Q", 64, False),
        ]
    ],
)
NAMES = ["fetch_add", "fetch_sub", "fetch_or", "fetch_and", "fetch_xor", "exchange"]
PROCESSES = 4


@WIDTHS
def test_wraps_around(mp, code, bits, signed):
    low, high = (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if signed else (0, 2**bits - 1)
    value = mp.Value(code, high)
    assert value.fetch_add(1) == high
    assert value.fetch_sub(1) == low
    assert value.fetch_add(2**200) == high
    assert value.exchange(-1) == high
    assert value.value == (-1 if signed else high)
    assert value.compare_exchange(-1, 5) is True  # -1 is masked, as everywhere
    assert value.compare_exchange(4, 6) is False
    assert value.compare_exchange(5 + 2**bits, 6) is True
    assert value.fetch_or(9) == 6
    assert value.fetch_and(~1) == 15
    assert value.fetch_xor(-1) == 14
    assert value.value == (-15 if signed else high - 14)


def test_no_integers(mp):
    for value in (mp.Value("d"), mp.Value("f"), mp.Value("c"), mp.Value("u"), mp.Value(ctypes.c_bool)):
        before = value.value
        for name in NAMES:
            with pytest.raises(TypeError):
                getattr(value, name)(1)
        with pytest.raises(TypeError):
            value.compare_exchange(0, 1)
        assert value.value == before


def test_bad_arguments(mp):
    value = mp.Value("i", 3)
    for name in NAMES:
        for wrong in (1.0, "1", None, ctypes.c_int(1)):
            with pytest.raises(TypeError):
                getattr(value, name)(wrong)
        for arguments in [(), (1, 2)]:
            with pytest.raises(TypeError):
                getattr(value, name)(*arguments)
    for arguments in [(), (1,), (1, 2, 3), (1.0, 2), (3, "2")]:
        with pytest.raises(TypeError):
            value.compare_exchange(*arguments)
    assert value.fetch_add(True) == 3
    assert value.value == 4


def test_memory_of_others_is_refused(mp):
    import fastmp.sharedctypes

    value = fastmp.sharedctypes.synchronized(ctypes.c_int(1))
    with pytest.raises(TypeError):
        value.fetch_add(1)


def test_they_take_no_lock(mp):
    for lock in (mp.Lock(), mp.RLock()):
        value = mp.Value("i", lock=lock)
        with lock:
            assert value.fetch_add(2) == 0
        assert value.value == 2


@pytest.mark.parametrize("code", "bHiQ")
def test_nothing_is_lost(mp, crew, code):
    value, ready = mp.Value(code), mp.RawArray("b", PROCESSES)
    for me in range(PROCESSES):
        crew.start(values.add_atomically, value, ready, me, 20_000, 2**62 + 3)
    crew.join()
    assert value.value == type(value.get_obj())(PROCESSES * 20_000 * (2**62 + 3)).value


def test_nothing_is_lost_by_exchanges(mp, crew):
    value, ready = mp.Value("q"), mp.RawArray("b", PROCESSES)
    for me in range(PROCESSES):
        crew.start(values.add_by_exchange, value, ready, me, 2000)
    crew.join()
    assert value.value == PROCESSES * 2000


def test_bits_do_not_disturb_each_other(mp, crew):
    value, ready = mp.Value("B"), mp.RawArray("b", PROCESSES)
    for me in range(PROCESSES):
        crew.start(values.flip_bit, value, ready, me, 10_001)
    crew.join()
    assert value.value == 2**PROCESSES - 1


def test_what_goes_in_comes_out(mp, crew):
    value, ready, kept = mp.Value("q"), mp.RawArray("b", PROCESSES), mp.RawArray("q", PROCESSES)
    for me in range(PROCESSES):
        crew.start(values.pass_tokens, value, ready, me, 5000, kept)
    crew.join()
    assert sum(kept) + value.value == sum(range(PROCESSES * 5000))


def test_never_torn(mp, crew):
    value, ready = mp.Value("q"), mp.RawArray("b", PROCESSES)
    for me in range(PROCESSES):
        crew.start(values.store_halves, value, ready, me, 10_000)
    crew.join()


class Point(ctypes.Structure):
    _fields_ = [("x", ctypes.c_double)]


def test_native_in_a_child(mp, crew):
    lock = mp.RLock()
    value, array, point = mp.Value("i", 41, lock=lock), mp.Array("i", [1], lock=lock), mp.Value(Point, 1.5, lock=lock)
    crew.run(values.expect_native, value, array, point)
    assert (value.value, array[0], point.x) == (42, 2, 2.5)
