"""What `threading` is like in a forked child, whichever way its hook goes."""

import os
import subprocess
import sys

import fastmp
import pytest

pytestmark = pytest.mark.skipif(not fastmp.accelerated, reason="the stdlib's own")

# The child prints what the module knows; with an argument, by the stdlib's own hook.
PROGRAM = """
import os, sys, threading
import fastmp
from fastmp import bootstrap, threading_hook

whole = threading._after_fork.__code__
if sys.argv[1] == "ours":
    fastmp.get_context("fork").Process(target=int).start()
    bootstrap.prepare()
assert (threading._after_fork.__code__ is not whole) is (sys.argv[1] == "ours" and sys.version_info < (3, 13))

def look():
    main = threading.main_thread()
    with threading._active_limbo_lock:
        print(threading.enumerate() == [threading.current_thread()], main is threading.current_thread())
    print(main.ident == threading.get_ident(), main.is_alive(), len(threading._active), len(threading._limbo))
    print(sorted(thread.name for thread in threading._dangling), [thread.is_alive() for thread in others])
    print(len(getattr(threading, "_shutdown_locks", ())), main._started._cond.acquire(False))
    later = threading.Thread(target=print, args=("later",))
    later.start()
    later.join(30)
    sys.stdout.flush()

def fork():
    pid = os.fork()
    if not pid:
        try:
            look()
            if grandchild := os.fork():
                os.waitpid(grandchild, 0)
            else:
                look()
        finally:
            os._exit(0)
    os.waitpid(pid, 0)

others, end = [], threading.Event()
held = sys.argv[2] == "held"
if sys.argv[2] == "beside" or sys.argv[2] == "unstarted":
    others.append(threading.Thread(target=end.wait, name="beside", daemon=True))
    if sys.argv[2] == "beside":
        others[0].start()
if held:  # by a thread that the child has not got
    ready = threading.Event()
    def hold():
        with threading._active_limbo_lock, threading.main_thread()._started._cond:
            ready.set()
            end.wait()
    import _thread
    _thread.start_new_thread(hold, ())
    while not ready._flag:
        pass
if sys.argv[2] == "thread":
    import _thread
    done = _thread.allocate_lock(); done.acquire()
    thread = threading.Thread(target=fork, name="forks")
    thread.start()
    thread.join()
else:
    fork()
end.set()
"""


def run(*arguments):
    command = [sys.executable, "-c", PROGRAM, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


@pytest.mark.parametrize("how", ["alone", "beside", "unstarted", "held", "thread"])
def test_the_short_hook_does_what_the_whole_does(how):
    whole = run("stdlib's", how)
    assert run("ours", how) == whole
    assert whole.count("later") == 2


def look_at_stdin():
    print(os.path.realpath(f"/proc/self/fd/{sys.stdin.fileno()}"), sys.stdin.encoding, sys.stdin.errors, sys.stdin.mode)
    print(repr(sys.stdin.read()), sys.__stdin__.closed, sys.stdin.buffer.raw.closefd, type(sys.stdin.buffer).__name__)


@pytest.mark.parametrize("generations", [1, 2, 3])
def test_stdin_is_what_it_is_in_a_child_of_the_stdlib(generations):
    program = f"""
import multiprocessing, sys, fastmp
sys.path.insert(0, {os.path.dirname(os.path.abspath(__file__))!r})
from test_threading_hook import look_at_stdin
def descend(context, generations):
    if not generations:
        look_at_stdin()
        return
    for _ in range(2):
        child = context.Process(target=descend, args=(context, generations - 1))
        child.start()
        child.join()
for module in multiprocessing, fastmp:
    descend(module.get_context("fork"), {generations})
"""
    done = subprocess.run([sys.executable, "-c", program], input="text", capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    half = len(lines) // 2
    assert half == 2 * 2**generations
    assert lines[:half] == lines[half:]
    assert lines[0] == "/dev/null utf-8 strict r"
