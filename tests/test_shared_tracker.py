"""One resource tracker for all processes of a program: nobody's named memory goes while it is used,
and all of it goes in the end, however the processes end.
"""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from children.common import look_at, process_table, wait_until

METHODS = ["fork", "spawn", "forkserver"]

# Its own session, so that its processes are found by that: `kept` are blocks that nobody unlinks.
PROGRAM = """\
import fcntl, os, signal, sys, termios, time
import multiprocessing
import fastmp

def make(name):
    from multiprocessing import shared_memory
    block = shared_memory.SharedMemory(name=name, create=True, size=16)
    block.buf[0] = 7
    block.close()

def look(name):
    from multiprocessing import shared_memory
    block = shared_memory.SharedMemory(name=name)
    value = block.buf[0]
    block.close()
    return value

def make_at_once(name, start, made, end):
    start.wait()
    make(name)
    made.release()
    end.wait()

def make_and_die(name):
    from fastmp import shared_tracker
    shared_tracker._launch = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
    make(name)

def make_quietly(name, start, made, end):
    start.wait()
    null = os.open(os.devnull, os.O_RDWR)
    os.dup2(null, 1), os.dup2(null, 2)  # nobody waits for what it says
    sys.stderr = open(2, "w", closefd=False)
    make(name)
    made.release()
    end.wait()

def make_in_child(method, name):
    child = fastmp.get_context(method).Process(target=make, args=(name,))
    child.start()
    child.join()

def look_later(name, ready, go, out):
    ready.release()
    go.wait()
    out.put(look(name))

def trackers():
    return [pid for pid in os.listdir("/proc") if pid.isdigit() and of_this_program(pid)]

def of_this_program(pid):
    try:
        with open(f"/proc/{pid}/cmdline") as file:
            command = file.read()
        return "resource_tracker import main" in command and os.getsid(int(pid)) == os.getsid(0)
    except OSError:
        return False

def wait_for(predicate):
    end = time.monotonic() + 50
    while not predicate():
        assert time.monotonic() < end
        time.sleep(0.002)

def has_read_all():
    from fastmp import shared_tracker
    tree, unread = shared_tracker._tree, bytearray(4)
    fcntl.ioctl(tree.reader, termios.FIONREAD, unread)
    return os.fstat(tree.lock).st_size and not any(unread)

prefix = sys.argv[1]
method = sys.argv[2]
if __name__ == "__main__":
    mp = fastmp.get_context(method)
    body = sys.argv[3]
    exec(compile(body, "body", "exec"))
"""


@pytest.fixture
def program(tmp_path):
    """Runs a body in a program; gives its output. Whatever is left of its processes ends with the test."""
    script = tmp_path / "program.py"
    script.write_text(PROGRAM)
    prefix = f"fastmp-test-{os.getpid()}-{time.monotonic_ns()}"
    sessions = []

    def run(method, body, expected=0):
        command = [sys.executable, str(script), prefix, method, body]
        # No pipes: a tracker and a fork server have them open as long as they live.
        files = [tmp_path / name for name in ("output", "errors")]
        with files[0].open("w") as stdout, files[1].open("w") as stderr:
            process = subprocess.Popen(command, stdout=stdout, stderr=stderr, cwd="/", start_new_session=True)
            sessions.append(process.pid)
            process.wait(timeout=55)
        out, err = (file.read_text() for file in files)
        assert process.returncode == expected, err
        return out.split(), err

    run.left = lambda: sorted(path.name for path in Path("/dev/shm").glob(f"{prefix}*"))
    run.prefix = prefix
    yield run
    for process in process_table():
        try:
            if os.getsid(process.pid) in sessions:
                os.kill(process.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
    for name in run.left():
        Path("/dev/shm", name).unlink()


@pytest.mark.parametrize("method", METHODS)
def test_children_that_were_started_before_its_first_use(program, method):
    """What they make outlives them, and what is left goes when the last of the program is killed."""
    body = """
start, end, made = mp.Event(), mp.Event(), mp.Semaphore(0)
names = [f"{prefix}-{n}" for n in range(6)]
children = [mp.Process(target=make_at_once, args=(name, start, made, end)) for name in names]
for child in children: child.start()
before = len(trackers())
start.set()
for _ in children: made.acquire()
end.set()
for child in children: child.join()
wait_for(lambda: len(trackers()) == 1)  # all others have lost the race, and ended
print(before, *[look(name) for name in names])
print(*[child.exitcode for child in children], flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""
    out, _ = program(method, body, expected=-signal.SIGKILL)
    assert out == ["0", *["7"] * 6, *["0"] * 6]
    wait_until(lambda: not program.left(), "the tracker at the end of the program")


@pytest.mark.parametrize("method", METHODS)
def test_what_a_grandchild_has_made(program, method):
    body = """
child = mp.Process(target=make_in_child, args=(method, f"{prefix}-1"))
child.start()
child.join()
make(f"{prefix}-2")
print(child.exitcode, look(f"{prefix}-1"))
wait_for(lambda: len(trackers()) == 1)  # another may have been launched in vain
"""
    assert program(method, body)[0] == ["0", "7"]
    wait_until(lambda: not program.left(), "the tracker at the end of the program")


@pytest.mark.parametrize("method", METHODS)
def test_who_is_killed_while_it_launches_the_tracker_leaves_no_name(program, method):
    body = """
child = mp.Process(target=make_and_die, args=(f"{prefix}-1",))
child.start()
child.join()
print(child.exitcode)
"""
    assert program(method, body)[0] == [str(-signal.SIGKILL)]
    assert program.left() == []


@pytest.mark.parametrize("method", METHODS)
def test_nothing_goes_while_an_orphan_may_use_it(program, method):
    body = """
start, made, end = mp.Event(), mp.Semaphore(0), mp.Event()
child = mp.Process(target=make_quietly, args=(f"{prefix}-1", start, made, end))
child.start()
start.set()
made.acquire()
print(child.pid, flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""
    out, _ = program(method, body, expected=-signal.SIGKILL)
    orphan = int(out[0])
    time.sleep(0.3)
    assert look_at(orphan) is not None
    assert program.left() == [f"{program.prefix}-1"]
    os.kill(orphan, signal.SIGKILL)
    wait_until(lambda: not program.left(), "the tracker at the end of the program")


@pytest.mark.parametrize("method", METHODS)
def test_no_tracker_where_nothing_is_registered(program, method):
    body = """
queue = mp.Queue()
child = mp.Process(target=queue.put, args=(1,))
child.start()
child.join()
print(queue.get(), child.exitcode, len(trackers()))
"""
    assert program(method, body) == (["1", "0", "0"], "")


@pytest.mark.parametrize("method", METHODS)
def test_a_killed_tracker_is_followed_by_another(program, method):
    body = """
ready, go, out = mp.Semaphore(0), mp.Event(), mp.Queue()
child = mp.Process(target=look_later, args=(f"{prefix}-2", ready, go, out))
child.start()
ready.acquire()
make(f"{prefix}-1")
wait_for(lambda: len(trackers()) == 1)
first, = trackers()
wait_for(has_read_all)
os.kill(int(first), signal.SIGKILL)
wait_for(lambda: first not in trackers())
make(f"{prefix}-2")
go.set()
print(out.get())
child.join()
wait_for(lambda: len(trackers()) == 1)
print(child.exitcode)
"""
    out, err = program(method, body)
    assert out == ["7", "0"]
    assert "process died unexpectedly, relaunching" in err
    wait_until(lambda: program.left() == [f"{program.prefix}-1"], "the second tracker at the end")


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("theirs", ["fork", "spawn", "forkserver"])
def test_the_stdlibs_processes_use_the_same(program, method, theirs):
    body = f"""
ours = mp.Process(target=make, args=(prefix + "-1",))
ours.start()
ours.join()
stdlibs = multiprocessing.get_context({theirs!r}).Process(target=make, args=(prefix + "-2",))
stdlibs.start()
stdlibs.join()
again = mp.Process(target=look, args=(prefix + "-2",))
again.start()
again.join()
wait_for(lambda: len(trackers()) == 1)
print(ours.exitcode, stdlibs.exitcode, again.exitcode, look(prefix + "-1"), look(prefix + "-2"))
"""
    assert program(method, body)[0] == ["0", "0", "0", "7", "7"]
    wait_until(lambda: not program.left(), "the tracker at the end of the program")


@pytest.mark.parametrize("method", METHODS)
def test_one_that_was_there_first(program, method):
    body = """
make(f"{prefix}-1")
child = mp.Process(target=make, args=(f"{prefix}-2",))
child.start()
child.join()
print(child.exitcode, look(f"{prefix}-1"), look(f"{prefix}-2"), len(trackers()))
"""
    assert program(method, body)[0] == ["0", "7", "7", "1"]
    wait_until(lambda: not program.left(), "the tracker at the end of the program")


def test_where_its_descriptors_were_closed(program):
    """By a program that closes whatever it does not know: no other file of that number is touched."""
    body = """
child = mp.Process(target=make, args=(f"{prefix}-1",))
child.start()
child.join()
print(look(f"{prefix}-1"))
child.close()
os.closerange(3, 100)
files = [os.memfd_create("a") for _ in range(20)]
child = mp.Process(target=make, args=(f"{prefix}-2",))
child.start()
child.join()
print(child.exitcode, look(f"{prefix}-2"), sum(os.fstat(file).st_size for file in files))
"""
    assert program("spawn", body)[0] == ["7", "0", "7", "0"]
    wait_until(lambda: not program.left(), "the trackers at the end of the program")


def test_where_the_kernel_has_no_record_locks(program):
    body = """
import fcntl
real = fcntl.fcntl
def refuse(fd, command, *rest):
    if command == fcntl.F_GETLK:
        raise OSError(38, "Function not implemented")
    return real(fd, command, *rest)
fcntl.fcntl = refuse
child = mp.Process(target=make, args=(f"{prefix}-1",))
child.start()
child.join()
print(child.exitcode, look(f"{prefix}-1"), len(trackers()))
"""
    assert program("spawn", body)[0] == ["0", "7", "1"]
    wait_until(lambda: not program.left(), "the tracker at the end of the program")


def test_a_process_that_was_forked_by_hand(program):
    body = """
child = mp.Process(target=abs, args=(1,))
child.start()
child.join()
if (pid := os.fork()) == 0:
    make(f"{prefix}-1")
    os._exit(0)
os.waitpid(pid, 0)
print(look(f"{prefix}-1"))
wait_for(lambda: len(trackers()) == 1)
"""
    assert program("fork", body)[0] == ["7"]
    wait_until(lambda: not program.left(), "the tracker at the end of the program")
