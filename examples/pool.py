"""A map over real files with a bar, and a worker killed in the middle, with fastmp or multiprocessing.

    python pool.py [--impl MODULE] [--workers N] [--kill] [DIR]

Counts the lines of the Python files under a directory. With --kill one worker gets a SIGKILL
half-way: fastmp says which file it was at and how it died, and goes on. The stdlib's pool starts
another worker, but nobody ever learns of the file that is lost: after some seconds without a result
this program gives up.
"""

import argparse
import importlib
import os
import signal
import sys
import sysconfig
import time
from pathlib import Path

PATIENCE = 3.0  # seconds without a result, of which each takes a few milliseconds
WIDTH = 40


def count_lines(path):
    text = Path(path).read_text("utf-8", errors="replace")
    time.sleep(0.002)  # so that there is a middle
    return path, text.count("\n")


def show(done, total):
    if sys.stderr.isatty():
        filled = WIDTH * done // total
        print(f"\r[{'#' * filled}{'.' * (WIDTH - filled)}] {done}/{total}", end="", file=sys.stderr, flush=True)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("directory", nargs="?", default=os.path.join(sysconfig.get_path("stdlib"), "encodings"))
    parser.add_argument("--impl", default="fastmp", metavar="MODULE")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--kill", action="store_true")
    options = parser.parse_args()
    mp = importlib.import_module(options.impl)
    paths = sorted(str(path) for path in Path(options.directory).rglob("*.py"))
    lines, lost, done = 0, [], 0
    with mp.Pool(options.workers) as pool:
        results = pool.imap_unordered(count_lines, paths)
        while True:
            try:
                _, count = results.next(timeout=PATIENCE)
                lines += count
            except StopIteration:
                break
            except mp.TimeoutError:
                print(f"\nhung after {done} of {len(paths)} files")
                return 2
            except mp.ProcessError as e:
                lost.append(str(e))
            done += 1
            show(done, len(paths))
            if options.kill and done == len(paths) // 2:
                # In the middle of a file, for that is nearly always.
                os.kill(pool._pool[0].pid, signal.SIGKILL)
    print(f"\n{lines} lines in {done - len(lost)} of {len(paths)} files")
    for text in lost:
        print(f"lost: {text}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
