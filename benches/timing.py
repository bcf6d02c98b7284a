"""The two ways to take a time. Nothing else is imported: a small program measures itself by them."""

import math
import timeit


def time_statement(statement, setup, names, budget, unroll=1):
    """Return seconds per `statement`, by timeit: what `setup` assigns is a local of it.

    `unroll` repeats it inside the loop, so that the loop costs little beside a statement of a few
    nanoseconds. The garbage collector runs, as it does in a program.
    """
    timer = timeit.Timer("\n".join([statement] * unroll), f"import gc; gc.enable()\n{setup}", globals=names)
    return time_counted(timer.timeit, 1, budget) / unroll


def time_counted(run, count, budget):
    """Call `run(count)`, which returns seconds, with growing counts until it takes `budget`.

    Returns seconds per operation of the last call; those before it warm up.
    """
    while (elapsed := run(count)) < budget:
        count = math.ceil(count * min(max(1.3 * budget / elapsed, 2), 50))
    return elapsed / count
