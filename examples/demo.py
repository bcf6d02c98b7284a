"""What `make demo` shows: the word count, whole and with a worker killed; then ratios."""

import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
MODULES = ["fastmp", "multiprocessing"]
PATIENCE = 8  # seconds without work after which a count hangs; a slow machine takes long over one, but works
IDLE = 0.1  # a core's share that a process waiting for a dead one may use: its display takes 0.02
MOST = 60  # seconds for a count, whatever it does
TRIES = 3
RIGHT = "right"
ROWS = {
    "queue-small-1-1": "queue, small tuples a second",
    "queue-array-1MiB": "queue, 1 MiB arrays a second",
    "queue-roundtrip": "queue round trips a second",
    "with-lock": "with lock, times a second",
}


def count_words(module, *options):
    """Run the example; return how it ended."""
    command = [sys.executable, str(ROOT / "examples" / "wordcount.py"), "--impl", module, *options]
    print("\n$", "python", *command[1:], flush=True)
    process = subprocess.Popen(command, cwd=tempfile.gettempdir(), start_new_session=True)
    try:
        status = wait_while_working(process)
        ending = {None: "HUNG", 0: RIGHT}.get(status, f"failed with exit status {status}")
    finally:
        if process.returncode is None:
            os.killpg(process.pid, signal.SIGKILL)  # with its workers
            process.wait()
    print(f"-> {module}: {ending}", flush=True)
    return ending


def wait_while_working(process):
    """Wait until the process ends, and return its exit status; None if its group has stopped working."""
    began, before = time.monotonic(), 0.0
    since = began
    while time.monotonic() - began < MOST:
        try:
            return process.wait(0.2)
        except subprocess.TimeoutExpired:
            now, (used, reads) = time.monotonic(), work(process.pid)
        if reads or used - before > IDLE * (now - since):
            since, before = now, used
        elif now - since > PATIENCE:
            break
    return None


def work(group):
    """Return the seconds of CPU that the group's processes have used, and whether one is at the disk."""
    used, reads = 0, False
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, _, pgrp, *fields = stat.read_text().rpartition(")")[2].split()
        except OSError:
            continue  # it has ended
        if int(pgrp) == group:
            used += sum(map(int, fields[8:12]))  # with the children that it has waited for
            reads |= state == "D"
    return used / os.sysconf("SC_CLK_TCK"), reads


def try_kills(module):
    """Where the kill hits is chance; multiprocessing often hangs, not always."""
    for attempt in range(1, TRIES + 1):
        ending = count_words(module, "--kill")
        if ending != RIGHT:
            return f"{ending}, try {attempt}"
    return f"{RIGHT}, {TRIES} times"


def show_ratios():
    with tempfile.TemporaryDirectory() as directory:
        report = Path(directory) / "report.json"
        compare = [sys.executable, str(ROOT / "benches" / "compare.py"), "--quick", "--json", str(report)]
        pattern = f"^({'|'.join(ROWS)})$"
        subprocess.run([*compare, "--only", pattern], check=True, stdout=subprocess.DEVNULL)
        rows = {row["name"]: row for row in json.loads(report.read_text())["rows"]}
    print(f"\n{'':32}{'fastmp':>14}{'multiprocessing':>18}{'ratio':>10}")
    for name, title in ROWS.items():
        row = rows[name]
        if row["troubles"]:
            print(f"{title:32}{row['verdict']}")
            continue
        ours, stdlib = (f"{1 / row[module]:,.0f}" for module in MODULES)
        print(f"{title:32}{ours:>14}{stdlib:>18}{statistics.median(row['ratios']):>9.1f}x")


def main():
    print("== Counting the words of Python's standard library ==")
    whole = [count_words(module) for module in MODULES]
    print(f"\n== The same, with one worker killed (SIGKILL) half-way: up to {TRIES} times, or until it goes wrong ==")
    killed = [try_kills(module) for module in MODULES]
    print("\n== A pool, with one worker killed (SIGKILL) half-way ==")
    for module in MODULES:
        command = [sys.executable, str(ROOT / "examples" / "pool.py"), "--impl", module, "--kill"]
        print("\n$", "python", *command[1:], flush=True)
        # What hangs ends with its workers, by itself.
        subprocess.run(command, check=False, timeout=MOST)
    print("\n== Speed, fastmp against multiprocessing ==")
    show_ratios()
    print(f"\n{'':32}{'fastmp':>16}  multiprocessing")
    for title, endings in [("count", whole), ("count, a worker killed", killed)]:
        print(f"{title:32}{endings[0]:>16}  {endings[1]}")
    return whole[0] != RIGHT or not killed[0].startswith(RIGHT)


if __name__ == "__main__":
    sys.exit(main())
