"""How processes end: what a program reads and sees is to the letter what it does with the stdlib.

Each program runs with the stdlib, with fastmp, and is to write the same.
"""

import os
import re
import signal
import subprocess
import sys
import time

import pytest

pytestmark = pytest.mark.timeout(180, method="signal")  # two programs each, of several interpreters

METHODS = ["fork", "spawn", "forkserver"]

HEAD = r"""
import atexit, importlib, os, signal, sys, threading, time
from multiprocessing import util
mp = importlib.import_module(sys.argv[1])

def say(*words):
    os.write(1, (" ".join(map(str, words)) + "\n").encode())  # in one piece

def run(*args, target=None, **kwargs):
    child = mp.Process(target=target or work, args=args, **kwargs)
    child.start()
    child.join()
    say("exit code", child.exitcode)

"""
TAIL = """

if __name__ == "__main__":
    mp.set_start_method(sys.argv[2])
    main()
"""


# A traceback's first frame: each package's own.
FRAME = re.compile(
    r'[ |]*File ".*/(multiprocessing/process|fastmp/bootstrap)\.py", line \d+, in (_bootstrap|run)\n'
    r"[ |]*\w+\.run\(\)\n([ |]+[~^]+\n)?"
)


def written(text):
    """Without what differs from run to run."""
    text = FRAME.sub("", text)
    text = re.sub(r".* created temp directory .*\n", "", text)  # the fork server's socket's
    text = re.sub(r"0x[0-9a-f]+", "0x..", text)
    return re.sub(r"pid[= ]\d+", "pid=..", text)


def outcome(module, method, script, act=None):
    command = [sys.executable, str(script), module, method]
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    program = subprocess.Popen(command, **pipes, text=True, start_new_session=True, env=environment)
    try:
        if act is not None:
            act(program)
        out, errors = program.communicate("some input\n")
    finally:
        program.kill()
    return program.returncode, written(out), written(errors)


def check(tmp_path, module, method, body, act=None, where=True):
    """What both write. Without `where` it does not matter where in the program an exception has come up."""
    script = tmp_path / "program.py"
    script.write_text(HEAD + body + TAIL)
    status, out, errors = outcome("multiprocessing", method, script, act)
    same = outcome(module, method, script, act)
    if not where:
        errors, ours = (re.sub(r"(?m)^ .*\n", "", text) for text in (errors, same[2]))
        same = (*same[:2], ours)
    assert same == (status, out, errors)
    return status, out, errors


@pytest.fixture(params=METHODS)
def method(request):
    return request.param


@pytest.fixture
def module():
    return "fastmp"


def test_exit_codes(tmp_path, module, method):
    body = """
class Odd:
    def __str__(self):
        return "odd"

WAYS = [
    lambda: None, lambda: 5, lambda: sys.exit(), lambda: sys.exit(None), lambda: sys.exit(0), lambda: sys.exit(3),
    lambda: sys.exit(True), lambda: sys.exit(False), lambda: sys.exit(255), lambda: sys.exit(256), lambda: sys.exit(-1),
    lambda: sys.exit("some text"), lambda: sys.exit(""), lambda: sys.exit(3.5), lambda: sys.exit((1, 2)),
    lambda: sys.exit(Odd()), lambda: sys.exit([]), lambda: os._exit(9), lambda: os.abort(),
    lambda: os.kill(os.getpid(), signal.SIGUSR1), lambda: os.kill(os.getpid(), signal.SIGKILL),
]

def work(way):
    import resource
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    WAYS[way]()

def main():
    for way in range(len(WAYS)):
        run(way)
"""
    status, out, errors = check(tmp_path, module, method, body)
    assert status == 0
    codes = [int(line.split()[-1]) for line in out.splitlines()]
    assert codes == [0, 0, 0, 0, 0, 3, 1, 0, 255, 0, 255, 1, 1, 1, 1, 1, 1, 9, -6, -10, -9]
    assert errors.splitlines()[:5] == ["some text", "", "3.5", "(1, 2)", "odd"]


def test_tracebacks(tmp_path, module, method):
    body = """
class Silent(Exception):
    def __str__(self):
        raise RuntimeError("no text")

class Leaving(SystemExit):
    pass

def cause():
    try:
        {}["key"]
    except KeyError as error:
        raise ValueError("caused") from error

def grouped():
    error = ExceptionGroup("several", [ValueError(1), TypeError(2)])
    error.add_note("a note")
    raise error

def raising(error):
    raise error

WAYS = [
    cause, grouped, lambda: raising(Silent()), lambda: raising(KeyboardInterrupt()), lambda: raising(GeneratorExit()),
    lambda: raising(BaseException("base")), lambda: raising(Leaving(4)), lambda: compile("(", "some file", "exec"),
]

def work(way):
    WAYS[way]()

def main():
    for way in range(len(WAYS)):
        run(way, name=f"worker {way}")
    run(1, 2, 3, name="wrong arguments")
"""
    status, _, errors = check(tmp_path, module, method, body)
    assert status == 0
    assert "Process worker 0:\nTraceback (most recent call last):\n" in errors
    assert "KeyError: 'key'\n\nThe above exception was the direct cause" in errors


def test_what_is_written_arrives(tmp_path, module, method):
    body = """
def work(way):
    sys.stdout.write(f"{way} out;")
    sys.stderr.write(f"{way} err;")
    if way == 1:
        sys.exit(1)
    if way == 2:
        raise ValueError("way 2")
    if way == 3:
        sys.stdout = None
    if way == 4:
        sys.stdout.close()

def main():
    sys.stdout.write("before;")
    for way in range(5):
        run(way)
    sys.stdout.write("after;")
"""
    status, out, _ = check(tmp_path, module, method, body)
    assert status == 0
    assert [out.count(f"{way} out;") for way in range(3)] == [1, 1, 1]


def test_what_runs_at_the_end(tmp_path, module, method):
    """Finalizers and atexit callbacks of the child, and of the parent in it, by the stdlib's rules."""
    body = """
def work(way):
    atexit.register(say, "child's atexit", way)
    util.Finalize(None, say, args=("child's finalizer 5", way), exitpriority=5)
    util.Finalize(None, say, args=("child's finalizer 10", way), exitpriority=10)
    util.Finalize(None, say, args=("never", way))
    if way == 1:
        sys.exit(1)
    if way == 2:
        os._exit(2)
    if way == 3:
        util.Finalize(None, sys.exit, args=(7,), exitpriority=20)
    if way == 4:
        atexit.register(sys.exit, 8)
    if way == 5:
        raise ValueError("way 5")

def main():
    atexit.register(say, "parent's atexit")
    util.Finalize(None, say, args=("parent's finalizer",), exitpriority=1)
    for way in range(6):
        run(way)
"""
    check(tmp_path, module, method, body)


def test_threads_at_the_end(tmp_path, module, method):
    body = """
def late(word):
    time.sleep(0.3)
    say(word)

def work(way):
    threading.Thread(target=late, args=("a thread ended",)).start()
    threading.Thread(target=lambda: time.sleep(1000), daemon=True).start()
    if way:
        raise SystemExit(way)

def main():
    run(0)
    run(3)
"""
    status, out, _ = check(tmp_path, module, method, body)
    assert (status, out) == (0, "a thread ended\nexit code 0\na thread ended\nexit code 3\n")


def test_children_of_children_at_the_end(tmp_path, module, method):
    """A process waits for its children, and ends its daemons."""
    body = """
def late(conn, word):
    conn.recv()
    time.sleep(0.3)
    say(word)

def work():
    mine, yours = mp.Pipe()
    mp.Process(target=late, args=(yours, "a grandchild ended")).start()
    mp.Process(target=time.sleep, args=(1000,), daemon=True).start()
    say("work ended")
    mine.send(None)

def main():
    run()
    mine, yours = mp.Pipe()
    mp.Process(target=late, args=(yours, "a child ended")).start()
    mp.Process(target=time.sleep, args=(1000,), daemon=True).start()
    say("main ended")
    mine.send(None)
"""
    status, out, errors = check(tmp_path, module, method, body)
    assert (status, errors) == (0, "")
    assert out == "work ended\na grandchild ended\nexit code 0\nmain ended\na child ended\n"


def test_standard_input(tmp_path, module, method):
    body = """
def work():
    say(repr(sys.stdin.read()), sys.stdin.fileno() == 0)

def main():
    run()
    say(repr(sys.stdin.read()))
"""
    status, out, _ = check(tmp_path, module, method, body)
    assert status == 0
    assert out.startswith("''") and out.endswith("'some input\\n'\n")


def test_the_log(tmp_path, module, method):
    """`log_to_stderr` tells the same of a process's life."""
    body = """
def work():
    util.info("at work")
    util.sub_warning("something")

def main():
    assert mp.get_logger() is util.get_logger()
    logger = mp.log_to_stderr()
    logger.setLevel("INFO")
    run(name="worker")
    logger.info("done")
"""
    _, _, errors = check(tmp_path, module, method, body)
    assert "[INFO/MainProcess] process shutting down" in errors
    if method == "fork":
        assert "[INFO/worker] child process calling self.run()" in errors
        assert "[INFO/worker] process exiting with exitcode 0" in errors


INTERRUPTED = """
def sleeping():
    say("ready")
    time.sleep(1000)

def stubborn(conn):
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    say("ready")
    conn.recv()
    say("stubborn ended")

def main():
    mine, yours = mp.Pipe()
    children = [mp.Process(target=sleeping, name="sleeper"), mp.Process(target=stubborn, args=(yours,))]
    try:
        for child in children:
            child.start()
        time.sleep(1000)
    except KeyboardInterrupt:
        say("parent interrupted")
    children[0].join()
    mine.send(None)
    for child in children:
        child.join()
    for child in children:
        say("exit code", child.exitcode)
"""


def test_control_c(tmp_path, module, method):
    """As a terminal sends it: to all of the program's processes."""

    def interrupt(program):
        assert [program.stdout.readline() for _ in range(2)] == ["ready\n"] * 2
        time.sleep(0.5)  # so that the parent has come back from `start`
        os.killpg(program.pid, signal.SIGINT)

    status, out, errors = check(tmp_path, module, method, INTERRUPTED, interrupt, where=False)
    assert status == 0
    assert sorted(out.splitlines()) == ["exit code 0", "exit code 1", "parent interrupted", "stubborn ended"]
    assert errors.splitlines() == ["Process sleeper:", "Traceback (most recent call last):", "KeyboardInterrupt"]
