"""Run CPython's own multiprocessing tests against fastmp; fail on a test that the allow-list does not name.

    python conformance.py CONFORMANCE_PY ALLOW_LIST

The allow-list has one test a line, `CLASS.TEST` and then its reason; `#` starts a comment.
"""

import json
import subprocess
import sys
import tempfile
from pathlib import Path

GROUPS = "queue,lock,rlock,semaphore,condition,event,barrier,value,array,sharedctypes,connection"
METHODS = ["fork", "spawn"]


def read_allowed(path):
    lines = (line.partition("#")[0].split() for line in path.read_text().splitlines())
    return {words[0] for words in lines if words}


def run(instrument, method, scratch):
    """Return the names of all tests and of those that did not pass, but for those of the stdlib's private details."""
    report = Path(scratch) / f"{method}.json"
    command = [sys.executable, instrument, "--module", "fastmp", "--start-method", method, "--only", GROUPS]
    # Its exit status says that some test failed; which ones may, the allow-list knows better.
    subprocess.run([*command, "--json", str(report)], cwd=scratch, check=False)
    results = json.loads(report.read_text())["results"]
    results = {name: result for name, result in results.items() if result["kind"] != "private"}
    bad = {name for name, result in results.items() if result["outcome"] not in ("passed", "skipped")}
    return set(results), bad


def main(instrument, allow_list):
    allowed = read_allowed(Path(allow_list))
    seen, bad = set(), set()
    with tempfile.TemporaryDirectory() as scratch:
        for method in METHODS:
            names, failures = run(Path(instrument).resolve(), method, scratch)
            seen |= names
            bad |= failures
    for name in sorted(bad & allowed):
        print("allowed:", name)
    for name in sorted(allowed & seen - bad):
        print("passes now, take it off the allow-list:", name)
    for name in sorted(bad - allowed):
        print("NOT ALLOWED:", name)
    return bool(bad - allowed) or not seen


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
