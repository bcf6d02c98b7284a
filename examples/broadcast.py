"""One process sends frames to several; one of them is killed, one is slow; the others go on.

    python broadcast.py [--method fork|spawn] [--frames N]

An inference server does this: one process sends each request's arrays to all workers. With a dead
or a slow worker such a broadcaster waits for ever, unless what it sends by takes care of it. Here

- worker 0 is killed half-way, by SIGKILL, with a frame in its hands;
- worker 1 is slow: of the metrics, which may be skipped, it misses some, and counts them;
- workers 2 and 3 join when the others are at work already.

Every frame comes to every worker that lives, once and in order: `lag="block"` has the sender wait
for the slowest. Metrics are worth something only while they are fresh: `lag="skip"`.
"""

import argparse
import os
import queue
import signal
import sys
import time

import fastmp

SHAPE = (360, 640)  # of a frame, in bytes
SLOW = 0.02  # seconds that worker 1 takes for a frame


def frame(number):
    return bytes([number % 251]) * (SHAPE[0] * SHAPE[1])


def work(me, frames, metrics, results):
    """Look at all frames, and at whatever metrics there are just then; report."""
    first = last = None
    fresh = 0
    for number, data in frames:
        if data != frame(number) or (last is not None and number != last + 1):
            raise RuntimeError(f"frame {number} after {last}, or damaged")
        first, last = number if first is None else first, number
        if me == 0 and number >= 5:
            os.kill(os.getpid(), signal.SIGKILL)
        if me == 1:
            time.sleep(SLOW)
        try:
            metrics.recv(timeout=0)
            fresh += 1
        except (queue.Empty, EOFError):
            pass
    # What is left is read to the end, so that the counts add up.
    fresh += sum(1 for _ in metrics)
    results.put((me, first, last, fresh, metrics.missed))


def main():
    options = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    options.add_argument("--method", default="fork", choices=fastmp.get_all_start_methods())
    options.add_argument("--frames", type=int, default=60)
    options = options.parse_args()
    mp = fastmp.get_context(options.method)

    # A few frames may wait for a slow worker; of the metrics the last ones alone.
    frames, metrics = mp.Broadcast(maxsize=8), mp.Broadcast(maxsize=4, lag="skip")
    results, workers = mp.Queue(), []

    def start(me):
        # They join here and now: each gets all that is sent from this line on.
        worker = mp.Process(target=work, args=(me, frames.reader(), metrics.reader(), results), daemon=True)
        worker.start()
        workers.append(worker)

    for me in range(2):
        start(me)
    waits, sent_metrics = 0, dict.fromkeys(range(4), 0)
    for number in range(options.frames):
        if number == options.frames // 3:
            start(2)
            start(3)
        while True:
            try:
                frames.send((number, frame(number)), timeout=0.005)
                break
            except queue.Full as lagging:
                if not waits:
                    print(f"frame {number}: {lagging}")
                waits += 1
        for _ in range(5):
            metrics.send({"frame": number, "waits": waits})
        for me in range(len(workers)):
            sent_metrics[me] += 5
    frames.shutdown()
    metrics.shutdown()

    living = len(workers) - 1
    for me, first, last, fresh, missed in sorted(results.get(timeout=20) for _ in range(living)):
        print(f"worker {me}: frames {first} to {last}; {fresh} metrics, {missed} missed")
        if last != options.frames - 1 or fresh + missed != sent_metrics[me]:
            sys.exit(f"worker {me} lacks something")
    for worker in workers:
        worker.join()
    if workers[0].exitcode != -signal.SIGKILL:
        sys.exit("worker 0 was to be killed")
    print("worker 0: killed")
    print(f"sent {options.frames} frames; waited for a slow worker {waits} times; nobody waited for the dead one")


if __name__ == "__main__":
    main()
