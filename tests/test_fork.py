"""fork at any time: the child can use at once what it has inherited, whatever other threads were in
the middle of.
"""

import contextlib
import functools
import os
import queue as errors
import signal
import threading
import time

import pytest
from children import forking
from children.common import thread_sleeps, wait_asleep, wait_until
from children.everything import Everything, be_child

pytestmark = [pytest.mark.fastmp_only("the stdlib's objects may be inherited held"), pytest.mark.method("fork")]


@pytest.fixture
def noise(mp):
    """Threads that take locks, hammer queues and pipes, and make and drop objects, in the process
    that forks.
    """
    stop = []
    lock, rlock, queue, (left, right) = mp.Lock(), mp.RLock(), mp.Queue(10), mp.Pipe()
    threads = forking.run_all(
        lambda: forking.put_for_ever(queue, stop),
        lambda: forking.get_for_ever(queue, stop),
        lambda: forking.lock_for_ever(lock, stop),
        lambda: forking.lock_for_ever(rlock, stop),
        lambda: forking.make_for_ever(mp, stop),
        lambda: forking.round_trip(left, right, stop),
    )
    yield lock, rlock, queue
    stop.append(True)
    while any(thread.is_alive() for thread in threads[:2]):
        # Neither of the two must be left waiting for the other.
        with contextlib.suppress(errors.Full, errors.Empty):
            queue.get_nowait() if queue.full() else queue.put_nowait("the end")
        time.sleep(0.001)
    for thread in threads:
        thread.join()


def test_fork_in_the_middle_of_everything(mp, crew, noise):
    lock, rlock, _ = noise
    free, idle, conns, value = mp.Lock(), mp.Queue(), mp.Pipe(), mp.Value("i")
    for i in range(100):
        result = mp.RawValue("i")
        child = mp.Process(
            target=forking.use_everything, args=(mp, lock, rlock, free, idle, conns, value, result), daemon=True
        )
        child.start()
        child.join()
        assert (child.exitcode, result.value) == (0, 6)
        assert value.value == i + 1


def test_os_fork_will_do(mp, noise):
    lock, rlock, queue = noise
    mine = mp.Queue()
    for i in range(100):
        pid = os.fork()
        if pid == 0:
            try:
                with lock, rlock:
                    mine.put(i)
                os._exit(0)
            except BaseException:
                os._exit(1)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
        assert mine.get() == i


@pytest.mark.timeout(240)
def test_threads_in_the_middle_of_every_kind_of_object(mp, module):
    """FASTMP_TEST_FORKS forks, by turns by `os.fork` and by a process; it was run with 500."""
    everything, stop = Everything(mp), []
    fresh = functools.partial(Everything, mp)
    threads = forking.run_all(*[functools.partial(everything.use_for_ever, stop, seed) for seed in range(8)])
    for number in range(int(os.environ.get("FASTMP_TEST_FORKS", "200"))):
        if number % 2:
            child = mp.Process(target=be_child, args=(everything, fresh))
            child.start()
            child.join()
            assert child.exitcode == 0
            continue
        pid = os.fork()
        if pid == 0:
            status = 1
            try:
                be_child(everything, fresh)
                status = 0
            finally:
                os._exit(status)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    stop.append(True)
    for thread in threads:
        thread.join()
    everything.close()


def test_child_takes_part_in_a_busy_queue(mp, crew):
    queue, got = mp.Queue(10), []
    counter = threading.Thread(target=lambda: [got.append(queue.get()) for _ in range(20 * 90)])
    counter.start()
    for _ in range(20):
        crew.start(forking.put_from_threads, queue, 30)
        forking.pause()
    counter.join()
    crew.join()
    assert sorted(got) == sorted((n, i) for n in range(3) for i in range(30) for _ in range(20))


@pytest.mark.parametrize("kind", ["Lock", "RLock"])
def test_identity_is_made_anew(mp, crew, kind):
    lock, pid, held, go = getattr(mp, kind)(), mp.RawValue("i"), mp.RawValue("b"), mp.RawValue("b")
    with lock:  # this process has an identity before it forks
        assert lock.owner[0] == os.getpid()
    child = crew.start(forking.report_owner, lock, pid, held, go)
    wait_until(lambda: held.value)
    assert lock.owner[0] == pid.value == child.pid
    assert lock.acquire(True, 0.3) is False
    go.value = 1
    crew.join()
    assert lock.acquire(False)
    assert lock.recoveries == 0


@pytest.mark.parametrize("kind", ["Lock", "RLock"])
def test_identity_of_a_grandchild(mp, kind):
    """A child of a child, forked plainly, holds in its own name: it is not its dead parent."""
    lock, held, go, pid = getattr(mp, kind)(), mp.RawValue("b"), mp.RawValue("b"), mp.RawValue("i")
    child = os.fork()
    if child == 0:
        if os.fork() == 0:
            try:
                forking.report_owner(lock, pid, held, go)
            finally:
                os._exit(0)
        os._exit(0)
    os.waitpid(child, 0)
    wait_until(lambda: held.value)
    assert lock.owner[0] == pid.value != child
    assert lock.acquire(True, 0.4) is False
    go.value = 1
    assert lock.acquire() is True
    assert lock.recoveries == 0


@pytest.mark.parametrize("kind", ["Lock", "RLock"])
def test_what_the_parent_holds_stays_the_parents(mp, crew, kind):
    lock = getattr(mp, kind)()
    lock.acquire()
    pid = os.fork()
    if pid == 0:
        try:
            os._exit(int(lock.acquire(True, 0.3)))
        except BaseException:
            os._exit(2)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    assert lock.acquire(False) is (kind == "RLock")
    lock.release()
    assert lock.recoveries == 0


@pytest.mark.parametrize("kind", forking.WAITS)
def test_a_handler_that_forks_during_a_wait(mp, module, crew, kind):
    """Both wait on, each as itself: neither keeps, or gives back, what the other was given."""
    made = forking.build(mp, kind)
    waiting, forked, done = mp.RawValue("b"), mp.RawValue("i"), mp.RawValue("i")
    forking.hold(kind, made)
    child = crew.start(forking.fork_in_a_handler, kind, made, waiting, forked, done)
    wait_asleep(child.pid, waiting)
    os.kill(child.pid, signal.SIGUSR1)
    wait_until(lambda: forked.value)
    wait_asleep(child.pid)
    forking.let_go(kind, made)
    # The forked one first, which goes on to use it again; then its parent.
    crew.join()
    assert done.value == 2
    forking.use(kind, made)


def test_objects_outlive_the_process_that_made_them(mp):
    """Made in a child, used by its children after it has ended."""
    result = mp.RawValue("i")
    child = os.fork()
    if child == 0:
        lock, queue = mp.Lock(), mp.Queue()
        queue.put(b"from the dead" * 100_000)
        queue.put(5)
        maker = os.getpid()
        if os.fork() == 0:
            try:
                wait_until(lambda: os.getppid() != maker)
                with lock:
                    assert queue.get() == b"from the dead" * 100_000
                    result.value = queue.get()
            finally:
                os._exit(0)
        os._exit(0)
    os.waitpid(child, 0)
    wait_until(lambda: result.value, "the grandchild")
    assert result.value == 5


def test_a_daemon_that_has_closed_every_descriptor_fills_a_queue(mp):
    """The ring grows, which needs more of the memory that the closed descriptors led to."""
    queue = mp.Queue()
    child = os.fork()
    if child == 0:
        status = 1
        try:
            os.closerange(3, 4096)
            for i in range(3000):
                queue.put((i, "x" * 200))
            status = 0
        finally:
            os._exit(status)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert [queue.get()[0] for _ in range(3000)] == list(range(3000))


def blocked(call):
    """Starts a thread that waits in `call`, and returns when it sleeps there."""
    thread = threading.Thread(target=forking.until_closed, args=(call,), daemon=True)
    thread.start()
    wait_until(lambda: thread_sleeps(thread.native_id), "a thread in its wait")
    return thread


def fill(conn):
    """Sends until it waits."""
    while True:
        conn.send_bytes(b"x" * 10_000)


WAITS = {
    "recv": lambda conn: conn.recv(),
    "recv_bytes": lambda conn: conn.recv_bytes(),
    "recv_bytes_into": lambda conn: conn.recv_bytes_into(bytearray(10)),
    "poll": lambda conn: conn.poll(None),
    "send": fill,
    "large send": lambda conn: [conn.send_bytes(b"x" * 200_000) for _ in range(100)],
}


@pytest.mark.parametrize("wait", WAITS)
def test_closing_a_connection_that_threads_of_the_parent_wait_in(mp, wait):
    """The child's copies are closed at once: all of them, and the peer sees the end when the
    parent's are, too.
    """
    conn, peer = mp.Pipe()
    threads = [blocked(lambda: WAITS[wait](conn)) for _ in range(2)]
    files = forking.descriptors("fastmp-pipe")  # there is one where a large message was
    go, (told, tell) = mp.Event(), os.pipe()
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            peer.close()
            before = forking.descriptors("fastmp-pipe", "socket:")
            conn.close()
            os.write(tell, b"%d " % (before - forking.descriptors("fastmp-pipe", "socket:")))
            assert conn.closed
            with contextlib.suppress(OSError):
                conn.poll()
            go.wait()
            code = 0
        finally:
            os._exit(code)
    try:
        # The socket, and the file's.
        assert int(os.read(told, 10)) == 1 + files
        conn.close()
        for thread in threads:
            thread.join()
        with contextlib.suppress(EOFError):
            while True:
                peer.recv_bytes()
        with pytest.raises(BrokenPipeError):
            peer.send(1)
    finally:
        go.set()
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
        os.close(told)
        os.close(tell)


@pytest.mark.parametrize("wait", ["get", "put", "large put"])
def test_closing_a_queue_that_threads_of_the_parent_wait_in(mp, wait):
    queue = mp.Queue(1)
    if wait != "get":
        queue.put("full")
    calls = {"get": queue.get, "put": lambda: queue.put(1), "large put": lambda: queue.put(b"x" * 1_000_000)}
    threads = [blocked(calls[wait]) for _ in range(2)]
    files = forking.descriptors("fastmp-queue")
    pid = os.fork()
    if pid == 0:
        code = 255
        try:
            before = forking.descriptors("fastmp-queue", "socket:")
            queue.close()
            code = before - forking.descriptors("fastmp-queue", "socket:")
            with pytest.raises(ValueError):
                queue.get()
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 2 + files
    for _ in threads:
        queue.put("one") if wait == "get" else queue.get()
    for thread in threads:
        thread.join()
