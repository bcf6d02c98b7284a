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
