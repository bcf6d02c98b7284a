"""`close()` ends the waits of this process's other threads on what is closed, and nobody else's."""

import os
import signal
import threading
import time

import pytest
from children.common import thread_sleeps, wait_until

pytestmark = [pytest.mark.fastmp_only("the stdlib's threads wait on"), pytest.mark.method("fork")]


class Waiter:
    """A thread that waits in `call`; how it ended."""

    def __init__(self, call):
        self.call, self.end = call, None
        self.thread = threading.Thread(target=self.run, daemon=True)
        self.thread.start()
        wait_until(lambda: thread_sleeps(self.thread.native_id), "a thread in its wait")

    def run(self):
        try:
            self.end = self.call()
        except BaseException as error:
            self.end = error

    def ended(self):
        self.thread.join(20)
        assert not self.thread.is_alive(), "it waits on"
        return self.end


def full(queue):
    queue.put("x" * 50)
    return queue


QUEUES = {
    "get": lambda queue: queue.get(),
    "get with a timeout": lambda queue: queue.get(timeout=100),
    "get_many": lambda queue: queue.get_many(3),
    "get, watched": lambda queue: queue.get(watch=[]),
    "poll": lambda queue: queue._reader.poll(None),
    "put": lambda queue: full(queue).put(1),
    "large put": lambda queue: full(queue).put(bytes(100_000)),
    "put_many": lambda queue: queue.put_many("abc"),
}


@pytest.mark.parametrize("wait", QUEUES)
@pytest.mark.parametrize("bounds", [{}, {"max_bytes": 1_000_000}])
@pytest.mark.parametrize("watched", [False, True])
def test_of_a_queue(mp, wait, bounds, watched):
    queue = mp.Queue(1, **bounds)
    if watched:
        queue._reader.fileno()
        queue._writer.fileno()
    waiters = [Waiter(lambda: QUEUES[wait](queue))]
    if wait != "put_many" and "put" not in wait:
        waiters.append(Waiter(lambda: QUEUES[wait](queue)))
    queue.close()
    for waiter in waiters:
        assert isinstance(waiter.ended(), ValueError), waiter.end


def test_a_join_goes_on_as_the_stdlibs_does(mp):
    """And lets the queue go: its descriptors are closed."""
    queue = mp.JoinableQueue()
    queue.put(1)
    waiter, ends = Waiter(queue.join), [queue._reader.fileno(), queue._writer.fileno()]
    queue.get()
    queue.close()
    wait_until(lambda: not any(map(is_open, ends)), "the queue has been let go of")
    wait_until(lambda: thread_sleeps(waiter.thread.native_id), "a thread in its wait")
    assert waiter.thread.is_alive()
    queue.task_done()
    assert waiter.ended() is None


def is_open(fd):
    try:
        os.fstat(fd)
    except OSError:
        return False
    return True


def test_of_a_simple_queue(mp):
    queue = mp.SimpleQueue()
    waiter = Waiter(queue.get)
    queue.close()
    assert isinstance(waiter.ended(), OSError)


def fill(conn):
    while True:
        conn.send_bytes(bytes(10_000))


CONNECTIONS = {
    "recv": (lambda conn: conn.recv(), EOFError),
    "recv_bytes": (lambda conn: conn.recv_bytes(), EOFError),
    "recv_bytes_into": (lambda conn: conn.recv_bytes_into(bytearray(10)), EOFError),
    "poll": (lambda conn: conn.poll(None), OSError),
    "send": (fill, OSError),
}


@pytest.mark.parametrize("wait", CONNECTIONS)
@pytest.mark.parametrize("watched", [False, True])
def test_of_a_connection(mp, wait, watched):
    conn, peer = mp.Pipe()
    if watched:
        conn.fileno()
    call, error = CONNECTIONS[wait]
    waiters = [Waiter(lambda: call(conn)) for _ in range(2)]
    conn.close()
    for waiter in waiters:
        assert isinstance(waiter.ended(), error), waiter.end
    with pytest.raises(BrokenPipeError):
        peer.send(1)


def test_of_a_broadcast_and_of_its_reader(mp):
    broadcast = mp.Broadcast(1)
    reader = broadcast.reader()
    waiter = Waiter(reader.recv)
    reader.close()
    assert isinstance(waiter.ended(), ValueError)
    slow = broadcast.reader()
    broadcast.send(1)
    waiter = Waiter(lambda: broadcast.send(2))
    broadcast.close()
    assert isinstance(waiter.ended(), ValueError)
    assert slow.recv() == 1


def pass_on(queue, started, got):
    started.set()
    got.put(queue.get())


def put_when(queue, go):
    go.wait()
    queue.put("for the child")


def test_who_waits_elsewhere_afterwards_begins_anew(mp):
    """The next wait of the thread is one of its own, and counts as one."""
    queue, other = mp.Queue(), mp.Queue()

    def call():
        try:
            queue.get()
        except ValueError:
            return other.get()

    waiter = Waiter(call)
    queue.close()
    wait_until(lambda: other.stats().get_waits or not waiter.thread.is_alive(), "a wait that is counted")
    other.put("got")
    assert waiter.ended() == "got"


def test_others_wait_on(mp, crew):
    """Other processes, and this one's threads in what is not closed."""
    queue, other, got, lock = mp.Queue(), mp.Queue(), mp.Queue(), mp.Lock()
    started, go = mp.Event(), mp.Event()
    crew.start(pass_on, queue, started, got)
    crew.start(put_when, queue, go)
    started.wait()
    lock.acquire()
    others = [Waiter(other.get), Waiter(lock.acquire), Waiter(got.get)]
    waiter = Waiter(queue.get)
    queue.close()
    assert isinstance(waiter.ended(), ValueError)
    time.sleep(0.2)
    assert all(other.thread.is_alive() for other in others)
    go.set()
    other.put("here")
    lock.release()
    assert [other.ended() for other in others] == ["here", True, "for the child"]


def test_a_signal_handler_may_close_it(mp):
    queue = mp.Queue()
    signal.signal(signal.SIGUSR1, lambda *_: queue.close())
    try:
        main = threading.main_thread().ident
        timer = threading.Timer(0.1, lambda: signal.pthread_kill(main, signal.SIGUSR1))
        timer.start()
        with pytest.raises(ValueError, match="closed"):
            queue.get()
    finally:
        signal.signal(signal.SIGUSR1, signal.SIG_DFL)


def test_closed_again_and_again(mp):
    """Each of many threads finds it out, whatever it was about to do."""
    for round_ in range(100):
        queue = mp.Queue(1)
        ends = []

        def run(queue=queue, ends=ends, puts=round_ % 2):
            try:
                while True:
                    queue.put(1) if puts else queue.get()
            except ValueError:
                ends.append(True)

        threads = [threading.Thread(target=run, daemon=True) for _ in range(3)]
        for thread in threads:
            thread.start()
        time.sleep(0.0003 * (round_ % 7))
        queue.close()
        for thread in threads:
            thread.join(20)
        assert len(ends) == 3
