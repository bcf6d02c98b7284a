"""Shared values and arrays, with their own lock as Value() and Array() make it."""

from timing import time_statement

from .base import case


def _register(name, title, statement, setup, goal, unroll=10):
    @case(name, title, goal=goal)
    def measure(mp, budget):
        return time_statement(statement, setup, {"mp": mp}, budget, unroll)


VALUE = "v = mp.Value('i', 5)"
ARRAY = "a = mp.Array('d', 1000); x = [float(i) for i in range(1000)]"

_register("value-increment", "with v.get_lock(): v.value += 1", "with v.get_lock(): v.value += 1", VALUE, 4)


@case("value-fetch-add", "v.fetch_add(1); multiprocessing: the increment", goal=8)
def fetch_add(mp, budget):
    # The stdlib has no such thing: the locked increment is what it stands for there.
    has_it = hasattr(mp.Value("i"), "fetch_add")
    statement = "v.fetch_add(1)" if has_it else "with v.get_lock(): v.value += 1"
    return time_statement(statement, VALUE, {"mp": mp}, budget, unroll=10)


_register("value-get", "Value: v.value", "v.value", VALUE, 4)
_register("value-set", "Value: v.value = 7", "v.value = 7", VALUE, 4)
_register("array-get", "Array: a[5]", "a[5]", ARRAY, 12)
_register("array-set", "Array: a[5] = 1.5", "a[5] = 1.5", ARRAY, 12)
_register("array-get-all", "Array: a[:], 1000 doubles", "a[:]", ARRAY, 1.2, unroll=1)
_register("array-set-all", "Array: a[:] = x, 1000 doubles", "a[:] = x", ARRAY, 5, unroll=1)
