"""Making, sharing and dropping keeps everything flat: descriptors, mappings, memory, children,
/dev/shm.

FASTMP_TEST_CYCLES: for how many cycles of use, by and large (a full run is 3000).
"""

import ast
import fcntl
import itertools
import os
import subprocess
import sys
import threading
import warnings
from pathlib import Path

import pytest
from children import foreign, processes, usage, victims
from children.common import thread_sleeps, wait_until

pytestmark = pytest.mark.fastmp_only("the stdlib takes a descriptor or a name for each")
MIB = 1 << 20
CYCLES = int(os.environ.get("FASTMP_TEST_CYCLES", "3000"))


def expect_flat(before, after, shared=MIB, resident=16 * MIB):
    """Nothing has grown, but for what is kept for the next use: far less than one of anything for
    each cycle.
    """
    print(before, after, sep="\n")
    assert after["descriptors"] <= before["descriptors"] + 4
    assert after["mappings"] <= before["mappings"] + 4
    assert after["shared bytes"] <= before["shared bytes"] + shared
    assert after["resident bytes"] <= before["resident bytes"] + resident


@pytest.mark.method("fork")
@pytest.mark.parametrize("kind", ["Lock", "RLock", "Semaphore", "BoundedSemaphore", "Event", "Value", "RawValue"])
def test_ten_thousand_at_once(mp, kind):
    """Fewer than fifty descriptors, and all given back."""
    args = ("i",) if "Value" in kind else ()
    make = getattr(mp, kind)
    make(*args)
    before = usage.look()
    many = [make(*args) for _ in range(10_000)]
    held = usage.look()
    assert held["descriptors"] < before["descriptors"] + 50
    assert held["mappings"] < before["mappings"] + 50
    assert held["shared bytes"] < before["shared bytes"] + 10_000 * 1024
    assert len({one._handle() for one in many if hasattr(one, "_handle")}) in (0, 10_000)
    del many

    def cycle(times):
        for _ in range(times):
            many = [make(*args) for _ in range(10_000)]
            del many

    cycle(3)  # what is kept for the next to come is settled by then
    before = usage.look()
    cycle(10)
    expect_flat(before, usage.look())


@pytest.mark.method("fork")
def test_made_and_dropped_in_one_process(mp):
    def cycle(times):
        for _ in range(times):
            lock, rlock, semaphore, event = mp.Lock(), mp.RLock(), mp.Semaphore(3), mp.Event()
            value, array = mp.Value("i"), mp.Array("d", 100)
            with lock, rlock, semaphore, value, array:
                event.set()

    cycle(500)
    before = usage.look()
    cycle(10_000)
    expect_flat(before, usage.look())


@pytest.mark.method("fork")
@pytest.mark.parametrize("ending", ["close", "drop"])
@pytest.mark.not_emulated("the emulator's own memory grows")
def test_queues_and_pipes_made_and_dropped(mp, ending):
    def cycle(times):
        for i in range(times):
            queue, (left, right) = mp.Queue(i % 3), mp.Pipe(i % 2 == 0)
            queue.put([i])
            queue.get()
            if i % 7 == 0:
                queue.put(b"left unread, and large" * 10_000)
            right.send(i)
            assert left.recv() == i
            if ending == "close":
                for one in (queue, left, right):
                    one.close()

    cycle(100)
    before = usage.look()
    cycle(1500)
    expect_flat(before, usage.look())


@pytest.mark.method("fork")
@pytest.mark.parametrize("last", ["None", "complex(1, 2)"], ids=["codec", "pickle"])
def test_one_very_large_message_leaves_nothing(mp, last):
    """Neither a table of all its objects, through which every later message has to go, nor buffers
    of its size. In a program of its own: what this one's heap has holes for is chance.
    """
    script = f"from children import usage; print(usage.around_a_very_large_message({last}))"
    found = subprocess.run(
        [sys.executable, "-c", script], cwd=Path(__file__).parent, stdout=subprocess.PIPE, text=True, check=True
    )
    expect_flat(*ast.literal_eval(found.stdout), shared=64 * MIB, resident=40 * MIB)


@pytest.mark.parametrize("size", [1000, 100_000, 8 * MIB])
def test_messages_leave_nothing(mp, size):
    queue, (left, right) = mp.Queue(), mp.Pipe()
    # Larger messages than a pipe holds need a reader; what is looked at here is the queue's share.
    small = min(size, 10_000)

    def cycle(times):
        for _ in range(times):
            queue.put(b"x" * size)
            assert len(queue.get()) == size
            left.send(b"x" * small)
            assert len(right.recv()) == small

    cycle(20)
    before = usage.look()
    cycle(200 if size < MIB else 40)
    expect_flat(before, usage.look(), shared=2 * MIB, resident=2 * size + 16 * MIB)


@pytest.mark.timeout(60 + CYCLES // 20, method="signal")
def test_shared_with_children_and_dropped(mp, crew):
    """With fork two thirds of a full run; the holder is killed in each twentieth cycle."""

    count = itertools.count(1)

    def cycle(times):
        for i in itertools.islice(count, times):
            shared = [mp.Lock(), mp.RLock(), mp.Value("i"), mp.Queue(), mp.Event()]
            left, right = mp.Pipe()
            if i % 20 == 0:
                flag = mp.RawValue("b")
                child = mp.Process(target=usage.use_and_hold, args=(flag, *shared, right))
                child.start()
                wait_until(lambda flag=flag: flag.value)
                child.kill()
            else:
                child = mp.Process(target=usage.use, args=(*shared, right))
                child.start()
            assert left.recv() == "used"
            assert shared[3].get() == "used"
            child.join()
            child.close()
            left.close()
            right.close()
            if i % 20 == 0:
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")
                    assert shared[0].acquire()
                assert shared[0].recoveries == 1
            assert shared[4].is_set()

    once = CYCLES * 2 // 3 if mp.get_start_method() == "fork" else 40
    cycle(once // 10)
    children = len(usage.own_children())
    before = usage.least(cycle, mp)
    cycle(once)
    expect_flat(before, usage.least(cycle, mp))
    assert len(usage.own_children()) <= children


def test_killed_users_of_large_messages_leave_nothing(mp, crew):
    queue = mp.Queue()

    def cycle(times):
        for _ in range(times):
            returned = mp.RawValue("i")
            victim = crew.start(victims.put_large, queue, 4 * MIB, 1000, returned)
            wait_until(lambda returned=returned: returned.value >= 2)
            crew.kill(victim)
            while not queue.empty():
                queue.get()

    cycle(3)
    before = usage.least(cycle, mp)
    cycle(6)
    # One message may lie half-written until the next holder looks.
    expect_flat(before, usage.least(cycle, mp), shared=2 * 4 * MIB + MIB, resident=64 * MIB)


def test_processes_leave_nothing(mp):
    def cycle(times):
        for _ in range(times):
            child = mp.Process(target=processes.nothing)
            child.start()
            child.join()

    cycle(3)
    before, children = usage.least(cycle, mp), len(usage.own_children())
    cycle(100 if mp.get_start_method() == "fork" else 10)
    expect_flat(before, usage.least(cycle, mp))
    assert len(usage.own_children()) <= children


def test_dev_shm_is_not_used(mp, crew):
    """Everything works where /dev/shm has next to no room, and nothing is left in it, also by those
    that are killed.
    """
    out = mp.RawValue("b")
    child = crew.start(usage.work_without_dev_shm, out, mp.get_start_method(), daemon=False)
    child.join()
    if child.exitcode == foreign.NOT_PERMITTED:
        pytest.skip("not permitted here")
    crew.join()
    assert out.value == 1


PROGRAM = """
import os, sys, threading
import fastmp as mp
from children import usage

def work(lock, value, queue, conn):
    with lock, value.get_lock():
        queue.put(usage.threads())
    conn.send([p.command() for p in usage.own_children()])

if __name__ == "__main__":
    assert not usage.own_children() and usage.threads() == 1, "the import alone"
    mp.set_start_method(sys.argv[1])
    lock, value, queue, (mine, yours) = mp.Lock(), mp.Value("i"), mp.Queue(), mp.Pipe()
    array, event, semaphore = mp.Array("d", 10), mp.Event(), mp.Semaphore()
    queue.put(b"x" * 1_000_000)
    queue.get()
    assert not usage.own_children() and usage.threads() == 1, "the objects alone"
    child = mp.Process(target=work, args=(lock, value, queue, yours))
    child.start()
    assert queue.get() == 1, "a thread in the child"
    assert mine.recv() == [], "a process of the child's"
    child.join()
    assert not usage.own_children(), [p.command() for p in usage.own_children()]
    assert usage.threads() == 1, "a thread here"
    print("done")
"""


@pytest.mark.method("fork", "spawn")  # the other has its server
@pytest.mark.not_emulated("the emulator has threads of its own")
def test_no_thread_and_no_process_beside_the_children(mp, tmp_path):
    program = tmp_path / "program.py"
    program.write_text(PROGRAM)
    environment = {**os.environ, "PYTHONPATH": os.path.dirname(os.path.abspath(__file__))}
    done = subprocess.run(
        [sys.executable, str(program), mp.get_start_method()],
        capture_output=True,
        text=True,
        env=environment,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "done\n", "")


@pytest.mark.method("fork")
def test_segments_are_sealed_and_close_on_exec(mp):
    fd, *_ = mp.Lock()._handle()
    queue = mp.Queue()
    queue.put(b"x" * 100_000)
    files = [fd for fd in map(int, os.listdir("/proc/self/fd")) if usage.is_file(fd, "fastmp-queue")]
    assert files
    for segment in (fd, queue._handle()[0], *files):
        seals = fcntl.fcntl(segment, fcntl.F_GET_SEALS)
        assert seals & fcntl.F_SEAL_SHRINK
        assert seals & fcntl.F_SEAL_SEAL
        assert not seals & fcntl.F_SEAL_GROW
        with pytest.raises(PermissionError):
            os.ftruncate(segment, 0)
    for name in os.listdir("/proc/self/fd"):
        try:
            if "fastmp" in os.readlink(f"/proc/self/fd/{name}"):
                assert not os.get_inheritable(int(name))
        except OSError:
            continue


@pytest.mark.method("fork")
@pytest.mark.parametrize("used", ["unused", "used", "unread", "sent"])
def test_closed_queues_have_no_descriptors(mp, used):
    """Also as long as the objects are kept."""
    for queue in [mp.Queue() for _ in range(100)]:  # the segments that all queues share
        queue.close()
    before = len(os.listdir("/proc/self/fd"))
    queues = [mp.Queue() for _ in range(100)]
    for queue in queues:
        if used != "unused":
            queue.put(b"x" * 100_000)
        if used == "used":
            queue.get()
        if used == "sent":
            queue.put(queue)
        queue.close()
        queue.join_thread()
    # A queue in a message that nobody has read yet goes with that message, and that with its queue.
    del queue
    # A token, and what asks after it, for every 64 that have been sent.
    assert len(os.listdir("/proc/self/fd")) <= before + (6 if used == "sent" else 0)
    assert len(queues) == 100


@pytest.mark.method("fork")
def test_a_queue_in_use_closes_with_the_last_call(mp):
    """A thread that waits in a call keeps the descriptors, for they would be somebody else's.

    It comes up, finds it closed and gives them back; its twins go on.
    """
    queue, ends = mp.Queue(), []

    def get():
        try:
            ends.append(queue.get())
        except ValueError as error:
            ends.append(error)

    thread = threading.Thread(target=get)
    carrier = mp.Queue()
    carrier.put(queue)
    twin = carrier.get()
    before = len(os.listdir("/proc/self/fd"))
    thread.start()
    wait_until(lambda: thread_sleeps(thread.native_id), "a thread in its wait")
    queue.close()
    with pytest.raises(ValueError):
        queue.get()
    thread.join()
    assert len(ends) == 1 and isinstance(ends[0], ValueError), ends
    wait_until(lambda: len(os.listdir("/proc/self/fd")) == before - 2, "the descriptors' end")
    twin.put("the last")
    assert twin.get() == "the last"
