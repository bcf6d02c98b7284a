"""Runs other people's test suites, unchanged, on the stdlib and on fastmp, and prints one table.

    PYTHON programs/run.py [--only NAME...] [--turns N] [--large] [--keep DIR [--go-on]] [--write PAGE]

PYTHON has fastmp and what pyproject.toml's group `programs` lists: `make programs` sees to it. A suite
is run by `python -m pytest` and by `python -m fastmp run -m pytest`. Where a package's wheel has no
tests, its sdist is fetched. A test that fails is run once more, alone: many of these tests wait for so many
tenths of a second, and a busy machine fails them. Speeds are medians of so many turns, the stdlib and
fastmp one after the other. Ends with 1 if a test fails on fastmp alone and `catalogue.py` does not say why.

--keep DIR keeps what the suites print, and the speeds; --go-on takes from there what has been done.
--write PAGE puts the table, with the date, into a page of the documentation, between its two marks.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
import re
import statistics
import subprocess
import sys
import tarfile
import tempfile
from importlib import metadata
from pathlib import Path

from catalogue import HERE, PROGRAMS, Program

WAYS = {"stdlib": [], "fastmp": ["-m", "fastmp", "run"]}
LIMIT = 1500  # seconds for a suite


class Result:
    """How a suite went."""

    def __init__(self, output: str) -> None:
        counts = {word: int(number) for number, word in re.findall(r"(\d+) (passed|failed|skipped|error)", output)}
        self.failed = re.findall(r"^(?:FAILED|ERROR) (\S+\.py(?:::.+?)?)(?: - .*)?$", output, re.MULTILINE)
        self.passed, self.skipped = counts.get("passed", 0), counts.get("skipped", 0)
        self.total = self.passed + counts.get("failed", 0) + counts.get("error", 0)
        ended = re.search(r"^\d+ \w+.* in [\d.]+s", output, re.MULTILINE)
        self.seconds = float(re.search(r"in ([\d.]+)s", ended[0])[1]) if ended else None
        self.at_second = 0  # of those that passed: when they were run again, alone

    def again(self, output: str) -> None:
        """Takes in how those that had failed went the second time."""
        second = Result(output)
        if second.total >= len(self.failed):
            self.at_second = len(self.failed) - len(second.failed)
            self.passed += self.at_second
            self.failed = second.failed


def python(way: str, *arguments: str, cwd: Path, limit: float = LIMIT) -> str:
    """Runs the interpreter one way; returns all it prints. What it has started is ended with it."""
    environment = os.environ | {"PYTHONDONTWRITEBYTECODE": "1"}
    with tempfile.TemporaryFile("w+") as log:
        command = ["timeout", "--kill-after=5", str(limit), sys.executable, *WAYS[way], *arguments]
        subprocess.run(
            command, cwd=cwd, env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT
        )
        log.seek(0)
        return log.read()


def sources(program: Program, version: str, scratch: Path) -> Path:
    """The directory in which the suite is run."""
    if program.installed:
        package = Path(metadata.distribution(program.package).locate_file(program.installed))
        return package.parent
    if not program.suite:
        return HERE
    fetched = scratch / program.package
    if not fetched.exists():
        fetched.mkdir()
        pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--no-binary", program.package]
        subprocess.run([*pip, f"{program.package}=={version}"], cwd=fetched, check=True)
        (archive,) = fetched.glob("*.tar.gz")
        with tarfile.open(archive) as opened:
            opened.extractall(fetched, filter="data")
    (unpacked,) = (entry for entry in fetched.iterdir() if entry.is_dir())
    return unpacked


def suite(program: Program, way: str, where: Path, keep: Path, go_on: bool) -> Result:
    """Runs the program's tests."""
    what = program.suite or (str(HERE / program.checks),)
    options = ["-q", "-p", "no:cacheprovider", "-rfE", "--timeout=120", "-o", "addopts="]
    options += ["-o", "python_files=test_*.py check_*.py"]

    def run(name: str, *tests: str) -> str:
        log = keep / f"{_file_name(program)}-{name}.log"
        if not (go_on and log.exists()):
            log.write_text(python(way, "-m", "pytest", *options, *tests, cwd=where))
        return log.read_text()

    result = Result(run(way, *what))
    if 0 < len(result.failed) <= 20:
        result.again(run(f"{way}-again", *result.failed))
    return result


def _file_name(program: Program) -> str:
    return re.sub("[^A-Za-z0-9]+", "-", program.name)


def ratio(program: Program, turns: int, keep: Path, go_on: bool) -> str:
    """How fast it is beside the stdlib; empty if that is not measured."""
    if not program.speed or not turns:
        return ""
    kept = keep / f"{_file_name(program)}-speed.json"
    if not (go_on and kept.exists()):
        times: dict[str, list[float]] = {way: [] for way in WAYS}
        for _ in range(turns):
            for way, found in times.items():
                output = python(way, str(HERE / "speed.py"), program.speed, cwd=HERE, limit=120)
                if (seen := re.search(r"^seconds ([\d.e-]+)$", output, re.MULTILINE)) is None:
                    return f"{way}: {(output.strip() or 'no result in time').splitlines()[-1][:60]}"
                found.append(float(seen[1]))
        kept.write_text(json.dumps(times))
    times = json.loads(kept.read_text())
    pairs = sorted(stdlib / fastmp for stdlib, fastmp in zip(times["stdlib"], times["fastmp"], strict=True))
    return f"{statistics.median(pairs):.1f}x ({pairs[0]:.1f}-{pairs[-1]:.1f})"


def unexplained(program: Program, results: dict[str, Result]) -> list[str]:
    """Tests that fail on fastmp alone, for no reason that is known."""
    more = set(results["fastmp"].failed) - set(results["stdlib"].failed)
    return sorted(test for test in more if not any(part in test for part in program.differs))


def write(page: Path, rows: list[list[str]], why: list[str]) -> None:
    """Puts the table between the marks of a page."""
    begin, end = "<!-- programs: begin -->", "<!-- programs: end -->"
    before, rest = page.read_text().split(begin)
    _, after = rest.split(end)
    machine = f"{os.cpu_count()} cores, Linux {platform.release().partition('-')[0]}"
    lines = [
        f"CPython {platform.python_version()}, {machine}, {datetime.date.today()}; by `make programs`.",
        "",
        *(f"| {' | '.join(row)} |" for row in [HEAD, ["---"] * len(HEAD), *rows]),
        "",
        *why,
    ]
    page.write_text(before + begin + "\n" + "\n".join(lines).rstrip() + "\n" + end + after)


HEAD = ["program", "version", "stdlib", "fastmp", "s", "s", "speed", "of"]


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--only", nargs="+", default=[], help="parts of the programs' names")
    parser.add_argument("--turns", type=int, default=3, help="for each speed; 0 for none")
    parser.add_argument("--large", action="store_true", help="also what needs torch, if it is installed")
    parser.add_argument("--keep", type=Path, help="a directory for what the suites print")
    parser.add_argument("--go-on", action="store_true", help="what --keep's directory has is not run again")
    parser.add_argument("--write", type=Path, metavar="PAGE", help="put the table into it")
    options = parser.parse_args()
    if options.go_on and not options.keep:
        parser.error("--go-on needs --keep")
    rows, wrong, why = [], [], {}
    with tempfile.TemporaryDirectory() as directory:
        scratch = Path(directory)
        keep = options.keep or scratch
        keep.mkdir(parents=True, exist_ok=True)
        for program in PROGRAMS:
            if options.only and not any(part in program.name for part in options.only):
                continue
            if program.large and not options.large:
                continue
            version = metadata.version(program.package)
            where = sources(program, version, scratch)
            results = {way: suite(program, way, where, keep, options.go_on) for way in WAYS}
            speed = ratio(program, options.turns, keep, options.go_on)
            counts = [
                f"{results[way].passed}/{results[way].total}" + "*" * bool(results[way].at_second) for way in WAYS
            ]
            seconds = [f"{results[way].seconds:.0f}" if results[way].seconds else "-" for way in WAYS]
            rows.append([program.name, version, *counts, *seconds, speed, program.what if speed else ""])
            print("  ".join(rows[-1]), file=sys.stderr, flush=True)
            failed = set(results["fastmp"].failed) - set(results["stdlib"].failed)
            for part, reason in program.differs.items():
                if tests := [test for test in failed if part in test]:
                    why.setdefault(reason, []).extend(f"{program.name}: {test.split('::')[-1]}" for test in tests)
            wrong += unexplained(program, results)
            if not results["stdlib"].passed or results["fastmp"].total < results["stdlib"].total:
                wrong.append(
                    f"{program.name}: {results['fastmp'].total} of {results['stdlib'].total} tests came to an end"
                )
    widths = [max(len(row[at]) for row in [HEAD, *rows]) for at in range(len(HEAD))]
    print()
    for row in [HEAD, *rows]:
        print("  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip())
    notes = [
        "stdlib, fastmp: tests that passed, of those that were run (* some of them the second time, alone); s: seconds",
        "of each; speed: fastmp's beside the stdlib's, median and range of pairs run in turn.",
        *(f"Differs: {', '.join(sorted(tests))}: {reason}." for reason, tests in sorted(why.items())),
    ]
    print("", *notes, sep="\n")
    for each in wrong:
        print(f"WRONG: {each}")
    if options.write:
        write(options.write, rows, notes)
    return int(bool(wrong))


if __name__ == "__main__":
    sys.exit(main())
