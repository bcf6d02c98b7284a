"""A program whose processes start daemons and others all the time, until it is killed.

Who is no daemon ends when its parent does: it waits for the sentinel.
"""

import importlib
import os
import random
import sys
import time
from multiprocessing.connection import wait

MARK = "FASTMP_TEST_FAMILY"


def rest():
    while True:
        time.sleep(100)


def brief():
    pass


def member(method, seed, depth):
    """Starts others until its parent has ended; what it waits for always ends."""
    mp = importlib.import_module("fastmp")
    context = mp.get_context(method)
    chance = random.Random(seed)
    kept = []
    while mp.parent_process() is None or not wait([mp.parent_process().sentinel], 0):
        kind = chance.random()
        try:
            if kind < 0.3:
                kept.append(start(context, rest, (), daemon=True))
            elif kind < 0.5 and depth:
                kept.append(start(context, member, (method, chance.random(), depth - 1), daemon=False))
            else:
                child = start(context, brief, (), daemon=chance.random() < 0.5)
                child.join()
        except (EOFError, OSError):
            continue  # its server has been killed again and again
        if len(kept) > 4:
            victim = kept.pop(chance.randrange(len(kept)))
            victim.kill()
            victim.join()
    os._exit(0)  # without a join of those who are told now


def start(context, target, args, daemon):
    child = context.Process(target=target, args=args, daemon=daemon)
    child.start()
    return child


if __name__ == "__main__":
    print("begun", flush=True)
    member(sys.argv[1], float(sys.argv[2]), 2)
