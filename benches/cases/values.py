"""Shared values and arrays, with their own lock as Value() and Array() make it."""

from .base import case, time_statement


def _register(name, title, statement, setup, goal, unroll=10):
    @case(name, title, goal=goal)
    def measure(mp, budget):
        return time_statement(statement, setup, {"mp": mp}, budget, unroll)


VALUE = "v = mp.Value('i', 5)"
ARRAY = "a = mp.Array('d', 1000); x = [float(i) for i in range(1000)]"

_register("value-increment", "with v.get_lock(): v.value += 1", "with v.get_lock(): v.value += 1", VALUE, 3.5)
_register("value-get", "Value: v.value", "v.value", VALUE, 3)
_register("value-set", "Value: v.value = 7", "v.value = 7", VALUE, 3)
_register("array-get", "Array: a[5]", "a[5]", ARRAY, 6)
_register("array-set", "Array: a[5] = 1.5", "a[5] = 1.5", ARRAY, 6)
_register("array-get-all", "Array: a[:], 1000 doubles", "a[:]", ARRAY, 1.1, unroll=1)
_register("array-set-all", "Array: a[:] = x, 1000 doubles", "a[:] = x", ARRAY, 3, unroll=1)
