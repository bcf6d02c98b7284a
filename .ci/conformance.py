"""Run CPython's own multiprocessing tests against fastmp; fail on a test that the allow-list does not name.

    python conformance.py CONFORMANCE_PY ALLOW_LIST

The allow-list has one test a line, `CLASS.TEST` and then its reason; `#` starts a comment.
"""

import json
import subprocess
import sys
import tempfile
from pathlib import Path

# What starts no process of its own is not run again under the fork server.
OBJECTS = "queue,lock,rlock,semaphore,condition,event,barrier,value,array,sharedctypes,connection"
PROCESSES = "process,misc,wait,pool,main_handling,shared_memory,manager,logging"
METHODS = {"fork": f"{OBJECTS},{PROCESSES}", "spawn": f"{OBJECTS},{PROCESSES}", "forkserver": PROCESSES}


def read_allowed(path):
    lines = (line.partition("#")[0].split() for line in path.read_text().splitlines())
    return {words[0] for words in lines if words}


def run(instrument, method, groups, scratch):
    """Return the names of all tests and of those that did not pass, but for those of the stdlib's private details."""
    report = Path(scratch) / f"{method}.json"
    command = [sys.executable, instrument, "--module", "fastmp", "--start-method", method, "--only", groups]
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
        for method, groups in METHODS.items():
            names, failures = run(Path(instrument).resolve(), method, groups, scratch)
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
