"""Run one case against one module in a process of its own, under a time limit."""

import contextlib
import importlib
import json
import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

HERE = str(Path(__file__).resolve().parent)
# By -c: a main module of ours would be loaded again by each spawned child.
START = "import sys; sys.path.insert(0, sys.argv[1]); import runner; runner.main(*sys.argv[2:])"


class CaseFailed(Exception):
    """The case hung, crashed or gave a wrong answer; the text says which."""


def run(case, module, budget=0.2, limit=60.0, python=sys.executable):
    """Return what the case measures.

    Args:
        case: its name.
        module: "fastmp" or "multiprocessing".
        budget: the least time to measure for, in seconds.
        limit: when to give the process up, in seconds.
        python: the interpreter to run it.

    Raises:
        CaseFailed: the process was given up, or ended badly.
    """
    command = [python, "-c", START, HERE, case, module, str(budget)]
    process = subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=tempfile.gettempdir(),  # outside the source tree: the installed package counts
        start_new_session=True,
    )
    try:
        out, err = process.communicate(timeout=limit)
    except subprocess.TimeoutExpired:
        raise CaseFailed(f"hung ({limit:g} s)") from None
    else:
        if process.returncode != 0:
            last = err.strip().splitlines()[-1:] or [f"exit status {process.returncode}"]
            raise CaseFailed(f"failed: {last[0]}")
        return json.loads(out)
    finally:
        if process.returncode != 0:  # the case's children may be left, all in its group
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.communicate()


def main(case, module, budget):
    """Measure in this process and print the result."""
    from cases import CASES, SHARING  # only where something is measured

    mp = importlib.import_module(module)
    mp.set_start_method("fork")
    measure = SHARING[case] if case in SHARING else CASES[case].measure
    print(json.dumps(measure(mp, float(budget))))
