"""Run the Python tests against one wheel on every CPython that is here or can be made; print one table.

    python pythons.py [--junit REPORT.xml]... [--only 3.12,3.14] [--share] WHEEL

An interpreter comes from pyenv, from PATH or, where there is none, out of a Debian root (see debian-root). One that
cannot be had is named with the reason, and fails nothing. Each `--junit` names the report of a run on the
interpreter that runs this, or of a part of one, which may be still under way: it is in the table, and that version is
not run again. `--share` has 3.12 and 3.13, and again 3.14 and 3.15, share what tests only the core (CORE in
tests/conftest.py): each runs some half of it. FASTMP_PYTHONS is where the Debian root is kept
(/var/tmp/fastmp-pythons).
"""

import argparse
import collections
import concurrent.futures
import contextlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
import xml.etree.ElementTree as xml
from pathlib import Path

VERSIONS = ["3.11", "3.12", "3.13", "3.14", "3.15"]
SHARES = {"3.12": "1/2", "3.13": "2/2", "3.14": "1/2", "3.15": "2/2"}  # among those with the same start methods
SID = ["python3.14", "python3.15"]  # what Debian sid has
HERE = Path(__file__).resolve().parent
REPO = HERE.parent
KEPT = Path(os.environ.get("FASTMP_PYTHONS", "/var/tmp/fastmp-pythons"))
# Every test, each random one for less long: the whole run is for how versions differ. What is set
# already stays.
STRESS = {
    "FASTMP_TEST_KILLS": "100",
    "FASTMP_TEST_CYCLES": "1000",
    "FASTMP_TEST_SOAK": "3",
    "FASTMP_TEST_EXAMPLES": "100",
    "FASTMP_EXAMPLE_KILLS": "1",
    "FASTMP_TEST_INTERRUPTS": "5",
}
LIMIT = 3000  # seconds for one interpreter's tests: a watchdog


class Unavailable(Exception):
    """Says why an interpreter cannot be had."""


class Here:
    """An interpreter of this machine."""

    def __init__(self, python, scratch):
        self.python, self.scratch = python, scratch
        self.repo = REPO

    def path(self, name):
        return str(self.scratch / name)

    def run(self, *command, **kwargs):
        return subprocess.run(command, cwd=self.scratch, check=False, **kwargs)


class InRoot(Here):
    """One in the Debian root, which sees the repository and the scratch folder under names of its own."""

    def __init__(self, python, scratch, root):
        super().__init__(f"/usr/bin/{python}", scratch)
        self.root, self.repo = root, Path("/srv/repo")

    def path(self, name):
        return f"/srv/scratch/{name}"

    def run(self, *command, **kwargs):
        inside = ["env", "--chdir=/srv/scratch", *command]
        return super().run(str(HERE / "debian-root"), "run", self.root, str(REPO), str(self.scratch), *inside, **kwargs)


def find(version, scratch):
    """Returns the interpreter of a version.

    Raises:
        Unavailable: there is none, with the reason.
    """
    pyenv = Path(os.environ.get("PYENV_ROOT") or Path.home() / ".pyenv") / "versions"
    patches = sorted(pyenv.glob(f"{version}.*"), key=lambda path: [int(n) for n in re.findall(r"\d+", path.name)])
    places = [path / "bin" / f"python{version}" for path in reversed(patches)]
    if f"{sys.version_info.major}.{sys.version_info.minor}" == version:
        places.insert(0, Path(sys.executable))
    found = shutil.which(f"python{version}")
    if found:
        places.append(Path(found))
    for place in places:
        # pyenv's shims are there for versions that are not.
        done = subprocess.run([place, "-c", "import venv, ctypes"], capture_output=True, check=False)
        if done.returncode == 0:
            return Here(str(place), scratch)
    if f"python{version}" not in SID:
        raise Unavailable("neither pyenv nor PATH has it, nor does Debian sid")
    root = str(KEPT / "sid")
    done = subprocess.run([HERE / "debian-root", "make", root, *SID], capture_output=True, text=True, check=False)
    if done.returncode:
        last = (done.stderr.strip() or "no word of it").splitlines()[-1]
        raise Unavailable(f"neither pyenv nor PATH has it, and a Debian root could not be made: {last}")
    return InRoot(f"python{version}", scratch, root)


def install(interpreter, wheel):
    """Makes a virtual environment with the wheel and what the tests need; returns its interpreter.

    Raises:
        Unavailable: that could not be done.
    """
    shutil.copy(wheel, interpreter.scratch)
    shutil.copy(REPO / "pyproject.toml", interpreter.scratch)
    python = interpreter.path("venv/bin/python")
    pip = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    for command in (
        [interpreter.python, "-m", "venv", interpreter.path("venv")],
        [*pip, "--upgrade", "pip>=25.1"],
        [*pip, "--only-binary=numpy", "--group", "test", interpreter.path(wheel.name)],
    ):
        done = interpreter.run(*command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        if done.returncode:
            raise Unavailable(f"{' '.join(command[1:4])} ... failed: {done.stdout.strip().splitlines()[-1:]}")
    return python


class Result:
    """What one interpreter's tests came to."""

    def __init__(self, version, reports, seconds=None):
        self.version, self.counts, self.reasons = version, collections.Counter(), collections.Counter()
        self.failures = []
        parts = [xml.parse(report).getroot() for report in reports]
        for case in (case for part in parts for case in part.iter("testcase")):
            name = f"{case.get('classname')}::{case.get('name')}"
            skipped, bad = case.find("skipped"), case.find("failure")
            if bad is None:
                bad = case.find("error")
            if bad is not None:
                self.counts["failed"] += 1
                self.failures.append(name)
            elif skipped is not None:
                self.counts["skipped"] += 1
                self.reasons[case.get("classname"), case.get("name").partition("[")[0], skipped.get("message")] += 1
            else:
                self.counts["passed"] += 1
        self.seconds = seconds or max(float(each.get("time", 0)) for part in parts for each in part.iter("testsuite"))


def test(version, wheel, log, share):
    """Runs the tests on one version.

    Raises:
        Unavailable: there is no such interpreter here.
    """
    with tempfile.TemporaryDirectory(prefix=f"fastmp-{version}-") as directory:
        scratch = Path(directory)
        scratch.chmod(0o755)  # tests become another user, whose children import from here
        interpreter = find(version, scratch)
        python = install(interpreter, wheel)
        compiled = {"PYTHONDONTWRITEBYTECODE": "", "PYTHONPYCACHEPREFIX": interpreter.path("pycache")}
        environment = {**STRESS, **os.environ, **compiled}
        if share and version in SHARES:
            environment["FASTMP_TEST_SHARE"] = SHARES[version]
        started = time.monotonic()
        command = [python, "-m", "pytest", "-p", "no:cacheprovider", "-q", "--color=no"]
        command += [f"{interpreter.repo}/tests", f"--junit-xml={interpreter.path('report.xml')}"]
        with contextlib.suppress(subprocess.TimeoutExpired):
            interpreter.run(*command, env=environment, stdout=log, stderr=subprocess.STDOUT, timeout=LIMIT)
        report = scratch / "report.xml"
        if not report.exists():
            raise RuntimeError(f"the tests on {version} came to no end: see their output")
        return Result(version, [report], time.monotonic() - started)


def wait_for(reports):
    """Returns True once they are there: pytest writes them at its end."""
    started = time.monotonic()
    while not all(report.exists() and report.stat().st_size for report in reports):
        if time.monotonic() - started > LIMIT:
            return False
        time.sleep(1)
    time.sleep(1)
    return True


def show(results, missing):
    """Prints the table, and then every skip with its reason."""
    print(f"{'CPython':9}{'passed':>8}{'failed':>8}{'skipped':>9}{'seconds':>9}")
    for result in results:
        counts = result.counts
        row = f"{counts['passed']:8}{counts['failed']:8}{counts['skipped']:9}{result.seconds:9.0f}"
        print(f"{result.version:9}{row}")
    for version, reason in missing.items():
        print(f"{version:9}not run: {reason}")
    skips = collections.defaultdict(list)
    for result in results:
        for skip, count in result.reasons.items():
            skips[skip].append(f"{result.version} ({count})")
    for (where, name, reason), versions in sorted(skips.items()):
        print(f"skipped on {', '.join(versions)}: {where}::{name}: {reason}")
    for result in results:
        for name in result.failures:
            print(f"FAILED on {result.version}: {name}")
    total = sum((result.counts for result in results), collections.Counter())
    print(f"{total['passed']} passed, {total['failed']} failed, {total['skipped']} skipped", flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("wheel", type=Path)
    parser.add_argument("--junit", type=Path, action="append", help="report of a run on this interpreter")
    parser.add_argument("--only", default=",".join(VERSIONS), help="versions, by default all")
    parser.add_argument("--jobs", type=int, default=len(VERSIONS), help="interpreters at a time")
    parser.add_argument("--share", action="store_true", help="tests of the core alone are shared out")
    options = parser.parse_args()
    results, missing, broken = [], {}, False
    mine = f"{sys.version_info.major}.{sys.version_info.minor}"
    versions = options.only.split(",")
    if options.junit and mine in versions:
        versions.remove(mine)

    def run(version):
        with tempfile.TemporaryFile("w+", errors="replace") as log:
            try:
                outcome = test(version, options.wheel.resolve(), log, options.share)
            except (Unavailable, RuntimeError) as reason:
                outcome = reason
            log.seek(0)
            return outcome, log.read().splitlines()

    # Side by side: tests wait for each other's processes more than they compute. The newest first:
    # they have one start method more to test.
    with concurrent.futures.ThreadPoolExecutor(options.jobs) as pool:
        versions.reverse()
        for version, (outcome, lines) in reversed(list(zip(versions, pool.map(run, versions), strict=True))):
            if isinstance(outcome, Result):
                results.append(outcome)
                lines = lines if outcome.counts["failed"] else lines[-1:]
            else:
                missing[version] = str(outcome)
                broken = broken or isinstance(outcome, RuntimeError)
            print(f"-- CPython {version} --", *lines, sep="\n", flush=True)
    if options.junit:
        if wait_for(options.junit):
            results.insert(0, Result(mine, options.junit))
        else:
            missing[mine], broken = "its tests came to no end", True
    show(results, missing)
    return broken or any(result.counts["failed"] for result in results) or not results


if __name__ == "__main__":
    sys.exit(main())
