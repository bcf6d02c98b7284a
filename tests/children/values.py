"""Users of shared values and arrays."""

import os

from children.common import line_up


def add_under_its_lock(value, ready, me, rounds):
    line_up(ready, me)
    for _ in range(rounds):
        with value.get_lock():
            before = value.value
            os.sched_yield()
            value.value = before + 1


def add_under_itself(value, ready, me, rounds):
    """A synchronized wrapper is a context manager of its own."""
    line_up(ready, me)
    for _ in range(rounds):
        with value:
            before = value.value
            os.sched_yield()
            value.value = before + 1


def add_to_all(array, ready, me, rounds):
    """Whoever reads under the lock sees equal elements."""
    line_up(ready, me)
    for _ in range(rounds):
        with array.get_lock():
            before = array[:]
            assert before == before[:1] * len(array)
            for i in range(len(array)):
                array[i] += 1


def set_value(value, content):
    value.value = content


def set_items(array, content):
    array[:] = content


def expect_value(value, content):
    assert value.value == content, value.value


def negate(value, array, plain):
    """Changes a value, an array and a raw one, each through the handle that came along."""
    value.value = -value.value
    for i, item in enumerate(array):
        array[i] = -item
    plain[:] = [-item for item in plain]


def aliases(value, same, obj):
    """A wrapper and its raw object that travel together share memory still."""
    value.value = 7
    assert same.value == 7
    assert obj.value == 7
    obj.value = 8


def add_atomically(value, ready, me, rounds, by):
    line_up(ready, me)
    for _ in range(rounds):
        value.fetch_add(by)


def add_by_exchange(value, ready, me, rounds):
    """Each round succeeds once, whatever the others do."""
    line_up(ready, me)
    for _ in range(rounds):
        while True:
            before = value.value
            if value.compare_exchange(before, before + 1):
                break


def flip_bit(value, ready, me, rounds):
    """A bit of its own is as this process left it."""
    line_up(ready, me)
    bit = 1 << me
    for i in range(rounds):
        assert bool(value.fetch_xor(bit) & bit) is bool(i % 2)


def pass_tokens(value, ready, me, rounds, kept):
    """Exchanges: each number that goes in comes out once; the sum of all is kept."""
    line_up(ready, me)
    for i in range(rounds):
        kept[me] += value.exchange(me * rounds + i)


def store_halves(value, ready, me, rounds):
    """Writes all ones and all zeros, and never sees a mixture."""
    line_up(ready, me)
    raw = value.get_obj()
    for i in range(rounds):
        value.value = -(i % 2)
        assert raw.value in (0, -1)


def expect_native(value, array, struct):
    """What came along is as good as what was sent: atomic steps are for our own memory alone."""
    assert value.fetch_add(1) == 41
    assert value.get_obj().value == 42
    assert array.get_lock() is value.get_lock()
    array[0] += 1
    with struct.get_lock():
        struct.x += 1


def read_when_free(value, array, waiting, seen):
    waiting.value = 1
    seen[0] = value.value
    seen[1] = array[0]
    value.value = 7
    array[:] = [7, 7]
