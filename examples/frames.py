"""A camera's frames, 1080p, to three consumers: frames per second, beside multiprocessing's.

    python frames.py [--method fork|spawn] [--frames N]

The camera puts each frame into a queue, whoever is free takes it. A frame is an array of 6 MB. With
fastmp it is copied once, into memory of the queue's, and its consumer looks at it right there: the
array that `get` returns is writable, nobody else has it, and when the consumer drops it the memory
is the queue's again. Each consumer here draws into its frames, and keeps the last few.

The same program runs with both; only the module differs.
"""

import argparse
import collections
import importlib
import sys
import time

import numpy as np

SHAPE = (1080, 1920, 3)
CONSUMERS = 3
KEPT = 3  # frames that a consumer holds on to
SCENES = 4  # different pictures that the camera sees, in turn


def scene(number):
    """A picture; its first bytes say which."""
    picture = np.empty(SHAPE, np.uint8)
    picture[:] = np.arange(SHAPE[1], dtype=np.uint8)[:, None]
    picture[: SHAPE[0] // SCENES * (number + 1)] //= 2
    picture[0] = number
    return picture


def consume(me, frames, results):
    """Look at each frame, draw into it, keep the last few; at the end say which there were."""
    seen = []
    kept = collections.deque(maxlen=KEPT)
    while (item := frames.get()) is not None:
        number, frame = item
        if not (frame[0] == number % SCENES).all():
            raise RuntimeError(f"frame {number} shows something else")
        # It is this consumer's own: what the others have does not change.
        frame[100:110, 100:200] = 255
        frame[0, 0] = me
        seen.append((number, int(frame[500, ::64].sum())))
        kept.append((number, frame))
    for number, frame in kept:
        # However many came after it.
        if not (frame[0, 0] == me).all() or not (frame[0, 1:] == number % SCENES).all():
            raise RuntimeError(f"frame {number} has changed in consumer {me}'s hands")
    results.put((me, seen))


def film(module, method, count):
    """Frames per second, from the first put until all have been looked at."""
    mp = importlib.import_module(module).get_context(method)
    frames, results = mp.Queue(8), mp.Queue()
    consumers = [mp.Process(target=consume, args=(me, frames, results), daemon=True) for me in range(CONSUMERS)]
    for consumer in consumers:
        consumer.start()
    # multiprocessing pickles a moment after `put` has returned: pictures must not change
    # afterwards.
    scenes = [scene(number) for number in range(SCENES)]
    sums = [int(picture[500, ::64].sum()) for picture in scenes]
    began = time.perf_counter()
    for number in range(count):
        frames.put((number, scenes[number % SCENES]))
    for _ in consumers:
        frames.put(None)
    reports = [results.get(timeout=60) for _ in consumers]
    elapsed = time.perf_counter() - began
    for consumer in consumers:
        consumer.join()
    seen = sorted(entry for _, entries in reports for entry in entries)
    if seen != [(number, sums[number % SCENES]) for number in range(count)]:
        sys.exit(f"{module}: frames are missing, or came twice")
    return count / elapsed


def main():
    options = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    options.add_argument("--method", default="fork", choices=["fork", "spawn"])
    options.add_argument("--frames", type=int, default=300)
    options = options.parse_args()
    speeds = {}
    for module in ("multiprocessing", "fastmp"):
        film(module, options.method, CONSUMERS)  # to warm up
        speeds[module] = film(module, options.method, options.frames)
        print(f"{module + ':':17}{speeds[module]:7.0f} frames per second; each came once, whole")
    print(f"{speeds['fastmp'] / speeds['multiprocessing']:.1f} times as many")


if __name__ == "__main__":
    main()
