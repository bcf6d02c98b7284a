"""Measure fastmp and multiprocessing in turn, and print one table.

    python compare.py [--rounds N] [--only PATTERN] [--json OUT] [--quick] [--list]
                      [--against PYTHON | --peer NAME]

Every case runs in a process of its own under a time limit; one that hangs or fails is reported as
such, and one of fastmp's makes the exit status 1. A ratio is multiprocessing's time over fastmp's,
measured one after the other; the table has the median over the rounds and the range. "goal" is the
ratio to reach, "floor" what must hold already. With `--against` the second one is the fastmp that
another interpreter has installed: before and after a change. With `--peer` it is another package,
in the cases that this can do: `peers` has what stands in for `multiprocessing`.
"""

import argparse
import dataclasses
import json
import os
import platform
import re
import statistics
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import peers
import runner
from cases import CASES

# The one that is measured, and the one that it is compared with.
MODULES = ["fastmp", "multiprocessing"]
BEFORE = "fastmp before"


def show_progress(text):
    if sys.stderr.isatty():
        print(f"\r\033[K{text}", end="", file=sys.stderr, flush=True)


def measure_round(cases, number, samples, budget, limit, against):
    """Measure each case once.

    Append to `samples[case][module]` a figure, or a string saying what went wrong.
    """
    for case in cases:
        modules = MODULES if case.most is None or against else MODULES[:1]
        # Who goes first changes: the second finds a warmer, or a hotter, machine.
        for module in modules if number % 2 else reversed(modules):
            show_progress(f"round {number}: {case.name}, {module}")
            try:
                if module == BEFORE:
                    outcome = runner.run(case.name, "fastmp", budget, limit, python=against)
                else:
                    outcome = runner.run(case.name, module, budget, limit)
            except runner.CaseFailed as trouble:
                outcome = str(trouble)
            samples[case.name][module].append(outcome)
    show_progress("")


def figures(outcomes):
    return [outcome for outcome in outcomes if not isinstance(outcome, str)]


def summarise(case, outcomes):
    """Return one row: medians, ratios, troubles and what is to be said about them."""
    times = {module: figures(outcomes[module]) for module in MODULES}
    pairs = zip(*(outcomes[module] for module in MODULES), strict=False)
    ratios = [stdlib / ours for ours, stdlib in pairs if not isinstance(ours, str) and not isinstance(stdlib, str)]
    troubles = [f"{module} {outcome}" for module in MODULES for outcome in outcomes[module] if isinstance(outcome, str)]
    row = {
        "name": case.name,
        "title": case.title,
        "goal": case.goal,
        "floor": case.floor,
        "most": case.most,
        "ratios": ratios,
        "troubles": troubles,
        **{module: statistics.median(found) if found else None for module, found in times.items()},
    }
    return row | {"verdict": verdict(row)}


def verdict(row):
    if row["troubles"]:
        return f"{row['troubles'][0]} ({len(row['troubles'])}x)"
    if row["most"] is not None:
        return "above the most" if row["fastmp"] is not None and row["fastmp"] > row["most"] else ""
    if not row["ratios"]:
        return ""
    ratio = round(statistics.median(row["ratios"]), 2)  # as it is shown
    if BEFORE in MODULES:
        return "SLOWER" if ratio < 0.95 else ""
    if row["floor"] is not None and ratio < row["floor"]:
        return "BELOW THE FLOOR"
    return "below the goal" if row["goal"] is not None and ratio < row["goal"] else ""


def show_time(seconds):
    for unit, scale in [("s", 1), ("ms", 1e-3), ("us", 1e-6)]:
        if seconds >= scale:
            return f"{seconds / scale:.3g} {unit}" if seconds < 1000 * scale else f"{seconds / scale:.0f} {unit}"
    return f"{seconds / 1e-9:.3g} ns"


def cells(row):
    """The row as text, in the order of the heading."""
    if row["most"] is not None:
        ours = "-" if row["fastmp"] is None else f"{row['fastmp']:.3f} %"
        return [row["title"], ours, "", "", "", "", f"<= {row['most']:g} %", row["verdict"]]
    times = ["-" if row[module] is None else show_time(row[module]) for module in MODULES]
    ratios = row["ratios"]
    spread = [f"{statistics.median(ratios):.2f}x", f"{min(ratios):.2f}-{max(ratios):.2f}"] if ratios else ["-", "-"]
    floor = "" if row["floor"] is None else f"{row['floor']:g}x"
    goal = "" if row["goal"] is None else f"{row['goal']:.3g}x"
    return [row["title"], *times, *spread, floor, goal, row["verdict"]]


def print_table(rows):
    names = [module.removeprefix("peers.") for module in MODULES]
    print_lines(["operation", *names, "ratio", "range", "floor", "goal", ""], list(map(cells, rows)))


def print_lines(heading, lines):
    lines = [heading, *lines]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    for number, line in enumerate(lines):
        first, *middle, last = [
            cell.ljust(width) if at in (0, len(line) - 1) else cell.rjust(width)
            for at, (cell, width) in enumerate(zip(line, widths, strict=True))
        ]
        print("  ".join([first, *middle, last]).rstrip())
        if number == 0:
            print("-" * (sum(widths) + 2 * len(widths) - 2))


def describe_machine():
    """What the figures depend on, by name."""

    def first_match(pattern, text):
        found = re.search(pattern, text)
        return found[1] if found else "unknown"

    def commit():
        here = Path(__file__).resolve().parent
        run = subprocess.run(
            ["git", "-C", here, "describe", "--always", "--dirty"], capture_output=True, text=True, check=False
        )
        return run.stdout.strip() or "unknown"

    return {
        "cpu": first_match(r"model name\s*:\s*(.+)", Path("/proc/cpuinfo").read_text()),
        "cores": len(os.sched_getaffinity(0)),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "fastmp": metadata.version("fastmp"),
        "commit": commit(),
        "load": round(os.getloadavg()[0], 1),
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, metavar="N", help="default: 5, with --quick 3")
    parser.add_argument("--only", default="", metavar="PATTERN", help="a regular expression for the cases' names")
    parser.add_argument("--json", type=Path, metavar="OUT", help="write all samples there too")
    parser.add_argument("--quick", action="store_true", help="shorter measurements, fewer rounds")
    parser.add_argument("--limit", type=float, default=60.0, metavar="S", help="seconds for one measurement")
    parser.add_argument("--list", action="store_true", help="print the cases' names only")
    parser.add_argument("--against", metavar="PYTHON", help="compare with the fastmp of this interpreter")
    parser.add_argument("--peer", choices=peers.NAMES, help="compare with this package, which is installed")
    options = parser.parse_args()
    cases = [case for case in CASES.values() if re.search(options.only, case.name)]
    if options.against:
        MODULES[1] = BEFORE
    elif options.peer:
        MODULES[1] = f"peers.{options.peer}"
        chosen = [case for case in cases if options.peer in case.peers]
        cases = [dataclasses.replace(case, goal=case.peers[options.peer], floor=None) for case in chosen]
    if options.list:
        print("\n".join(case.name for case in cases))
        return False
    if not cases:
        parser.error("no such case; see --list")

    rounds = options.rounds or (3 if options.quick else 5)
    budget = 0.05 if options.quick else 0.2
    machine = describe_machine()
    samples = {case.name: {module: [] for module in MODULES} for case in cases}
    try:
        for number in range(1, rounds + 1):
            measure_round(cases, number, samples, budget, options.limit, options.against)
    except KeyboardInterrupt:
        print("\ninterrupted: what has been measured so far", file=sys.stderr)
    rows = [summarise(case, samples[case.name]) for case in cases]
    print(", ".join(f"{key} {value}" for key, value in machine.items()))
    print(f"{rounds} rounds, each case measured for at least {budget:g} s\n")
    print_table(rows)
    if options.json:
        report = {"machine": machine, "rounds": rounds, "budget": budget, "rows": rows, "samples": samples}
        options.json.write_text(json.dumps(report, indent=1))
    return any(isinstance(outcome, str) for outcomes in samples.values() for outcome in outcomes[MODULES[0]])


if __name__ == "__main__":
    sys.exit(main())
