"""In a spawned child the package, and what few need of the stdlib's, runs when it is first used."""

import subprocess
import sys
import textwrap

import pytest

PROGRAM = """\
import os, sys
import fastmp as mp

def child(out):
    # Nothing at the top: this is what a program's own functions find.
    import contextlib, io
    with open(out, "w") as file, contextlib.redirect_stdout(file):
{body}

if __name__ == "__main__":
    process = mp.get_context("spawn").Process(target=child, args=(sys.argv[1],))
    process.start()
    process.join()
    sys.exit(process.exitcode)
"""


@pytest.fixture
def in_child(tmp_path):
    """Runs code in a spawned child of a program that has imported fastmp; returns what it prints."""

    def run(body):
        script, out = tmp_path / "program.py", tmp_path / "out"
        script.write_text(PROGRAM.format(body=textwrap.indent(textwrap.dedent(body), " " * 8)))
        done = subprocess.run(
            [sys.executable, str(script), str(out)], capture_output=True, text=True, check=False, cwd="/", timeout=50
        )
        assert (done.returncode, done.stderr) == (0, "")
        return out.read_text().split()

    return run


LOADED = "'fastmp.context' in sys.modules, 'socket' in sys.modules"


def test_nothing_is_loaded_for_a_child_that_needs_nothing(in_child):
    modules = ("re", "pickle", "socket", "subprocess", "runpy", "selectors", "multiprocessing.spawn", "_posixshmem")
    assert in_child(f"print(*[name for name in {modules!r} if name in sys.modules], {LOADED})") == ["False", "False"]


@pytest.mark.parametrize(
    "use",
    [
        "mp.Process",
        "from fastmp import Queue",
        "from fastmp import *",
        "dir(mp).index('Queue')",
        "vars(mp)['Queue']",
        "mp.get_context('spawn')",
        "mp.accelerated",
        "mp.reducer",
        "mp.__all__",
        "mp.SUBDEBUG",
    ],
)
def test_each_way_to_use_the_package_loads_it(in_child, use):
    use = f"exec({use!r}, {{'mp': mp}})"
    assert in_child(f"print({LOADED})\n{use}\nprint(type(mp).__name__, 'fastmp.context' in sys.modules)") == [
        "False",
        "False",
        "module",
        "True",
    ]


def test_a_submodule_alone_does_not(in_child):
    body = """
        from fastmp import lifelines
        import fastmp.handles
        print(mp.handles is fastmp.handles, lifelines.__name__, 'fastmp.context' in sys.modules)
        print(mp.queues.Queue.__name__, mp.sharedctypes.__name__)
    """
    assert in_child(body) == ["True", "fastmp.lifelines", "False", "Queue", "fastmp.sharedctypes"]


def test_it_is_the_package_that_it_is_elsewhere(in_child):
    body = """
        import importlib.util, inspect
        look = lambda: (mp.__name__, mp.__package__, mp.__file__, list(mp.__path__), mp.__spec__.name)
        before, loader = look(), mp.__loader__
        spec = importlib.util.find_spec("fastmp")
        print(spec is mp.__spec__, spec.origin == mp.__file__, spec.has_location, inspect.getsource(mp)[:4])
        mp.Queue
        print(before == look() and loader is mp.__loader__ is mp.__spec__.loader)
        print(importlib.reload(mp) is mp, hasattr(mp, "nothing"), mp.Lock().acquire())
        from fastmp import process
        print(process is mp.process)
    """
    assert in_child(body) == ["True"] * 3 + ['"""A'] + ["True", "True", "False", "True", "True"]


def test_what_is_set_before_stays(in_child):
    body = """
        import multiprocessing.reduction as reduction
        mp.Queue = 1
        reduction.dump = 2
        print(mp.Process.__name__, reduction.ForkingPickler.__name__, mp.Queue, reduction.dump)
        del mp.Lock
        print(hasattr(mp, "Lock"))
    """
    assert in_child(body) == ["Process", "ForkingPickler", "1", "2", "False"]


def test_the_stdlibs_reduction(in_child):
    body = """
        import multiprocessing
        from multiprocessing import context
        print('pickle' in sys.modules, context.reduction is multiprocessing.reduction is multiprocessing.reducer)
        from multiprocessing.reduction import ForkingPickler
        print('pickle' in sys.modules)
        print(type(multiprocessing.reduction).__name__, multiprocessing.reduction.__spec__.loader.get_source.__name__)
    """
    assert in_child(body) == ["False", "True", "True", "module", "get_source"]


def test_threads_that_use_it_first_all_at_once(in_child):
    body = """
        import threading, importlib
        names = ["Queue", "Process", "context", "Lock", "__all__", "queues", "Pool", "synchronize"] * 4
        start, found = threading.Barrier(len(names)), []
        def use(name):
            start.wait()
            if name.islower() and name != "__all__":
                importlib.import_module(f"fastmp.{name}")
            found.append(getattr(mp, name))
        threads = [threading.Thread(target=use, args=(name,)) for name in names]
        for thread in threads: thread.start()
        for thread in threads: thread.join()
        print(len(found) == len(names), type(mp).__name__)
    """
    assert in_child(body) == ["True", "module"]


def test_interpreter_flags_are_found_without_subprocess_being_loaded(in_child):
    body = """
        import multiprocessing.util
        flags = multiprocessing.util._args_from_interpreter_flags()
        import subprocess
        print(flags == subprocess._args_from_interpreter_flags(), subprocess.__spec__.name)
    """
    assert in_child(body) == ["True", "subprocess"]


def test_the_garbage_collector_runs_as_in_any_process(in_child):
    body = """
        import gc, weakref
        class Node: pass
        node = Node(); node.self = node
        seen = weakref.ref(node)
        del node
        gc.collect()
        print(gc.isenabled(), seen() is None)
    """
    assert in_child(body) == ["True", "True"]
