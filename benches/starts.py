"""A small program that starts processes: measured as a whole, since its main module is what children
import anew.

    python starts.py MODULE METHOD COUNT BUDGET [GIB]

prints the seconds that it takes to start COUNT processes and then to join them. With GIB so much
memory is touched before.
"""

import importlib
import os
import sys


def measure(module, method, count, budget, gib):
    from timing import time_statement

    held = bytearray(gib << 30)  # untouched so far
    held[::4096] = bytes(len(held) // 4096)
    # A target from a module that every child has loaded: its import is no part of the start.
    names = {"Process": importlib.import_module(module).get_context(method).Process, "target": os.getpid}
    statement = (
        f"them = [Process(target=target) for _ in range({count})]\nfor p in them: p.start()\nfor p in them: p.join()"
    )
    # Once before: the first one starts the fork server as well.
    return time_statement(statement, statement, names, budget)


if __name__ == "__main__":
    print(measure(*sys.argv[1:3], int(sys.argv[3]), float(sys.argv[4]), int(*sys.argv[5:] or [0])))
