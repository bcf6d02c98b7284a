"""Pipe and Connection, held to what the stdlib's do.

One file, though a long one: each test takes one of three pipes made at its head.
"""

import array
import contextlib
import copy
import errno
import gc
import importlib
import multiprocessing
import os
import pickle
import resource
import select
import socket
import threading
import time
import weakref
from multiprocessing import reduction
from multiprocessing.connection import wait

import pytest
from children import pipes
from children.common import later, wait_asleep
from children.objects import SomeError, Unreceivable, Unsendable

BufferTooShort = multiprocessing.BufferTooShort


@pytest.fixture
def pipe(mp):
    """Both ends of a duplex pipe."""
    left, right = mp.Pipe()
    with left, right:
        yield left, right


@pytest.fixture
def oneway(mp):
    """The end to read from, and the end to write to."""
    reader, writer = mp.Pipe(False)
    with reader, writer:
        yield reader, writer


def inherited(mp, conn):
    """What a forked child has to close as well, before its other end is at the end of file."""
    return conn if mp.get_start_method() == "fork" else None


def test_both_directions(pipe):
    left, right = pipe
    assert left.send({"a": [1]}) is None
    right.send("back")
    assert right.recv() == {"a": [1]}
    assert left.recv() == "back"
    for i in range(100):
        left.send(i)
    assert [right.recv() for _ in range(100)] == list(range(100))


def test_one_direction(oneway):
    reader, writer = oneway
    assert (reader.readable, reader.writable) == (True, False)
    assert (writer.readable, writer.writable) == (False, True)
    writer.send(1)
    assert reader.recv() == 1
    for wrong in (
        lambda: reader.send(1),
        lambda: reader.send_bytes(b"x"),
        writer.recv,
        writer.recv_bytes,
        lambda: writer.recv_bytes_into(bytearray(3)),
        writer.poll,
    ):
        with pytest.raises(OSError, match="-only"):
            wrong()
    writer.send(2)
    assert reader.recv() == 2


def test_ways_to_call_pipe(mp):
    for ends in (mp.Pipe(), mp.Pipe(True), mp.Pipe(duplex=True)):
        assert all(end.readable and end.writable for end in ends)
        for end in ends:
            end.close()
    for end in mp.Pipe(duplex=False):
        assert end.readable != end.writable
        end.close()


def test_closed(mp):
    left, right = mp.Pipe()
    assert left.closed is False
    assert left.close() is None
    left.close()
    assert left.closed is True
    for use in (
        lambda: left.send(1),
        lambda: left.send_bytes(b"x"),
        left.recv,
        left.recv_bytes,
        lambda: left.recv_bytes_into(bytearray(1)),
        left.poll,
        left.fileno,
    ):
        with pytest.raises(OSError, match="handle is closed"):
            use()
    right.close()


def test_context_manager(mp):
    left, right = mp.Pipe()
    with left as entered, right:
        assert entered is left
    assert left.closed
    assert right.closed


def test_end_of_file(mp):
    reader, writer = mp.Pipe(False)
    writer.send("last words")
    writer.send(b"x" * 3000)
    writer.close()
    assert reader.poll() is True
    assert reader.recv() == "last words"
    assert len(reader.recv()) == 3000
    for _ in range(3):
        assert reader.poll() is True
        assert reader.poll(None) is True
        with pytest.raises(EOFError):
            reader.recv()
        with pytest.raises(EOFError):
            reader.recv_bytes()
        with pytest.raises(EOFError):
            reader.recv_bytes_into(bytearray(3))
    reader.close()


@pytest.mark.parametrize("duplex", [True, False])
def test_broken_pipe(mp, duplex):
    reader, writer = mp.Pipe(duplex)
    reader.close()
    for _ in range(3):
        with pytest.raises(BrokenPipeError):
            writer.send(1)
        with pytest.raises(BrokenPipeError):
            writer.send_bytes(b"x" * 100_000)
    writer.close()


def test_bytes(pipe):
    left, right = pipe
    for message in (b"", b"x", bytes(range(256)), bytearray(b"abc"), memoryview(b"view")):
        assert left.send_bytes(message) is None
        got = right.recv_bytes()
        assert type(got) is bytes
        assert got == bytes(message)
    left.send_bytes(array.array("i", [1, -1]))
    assert right.recv_bytes() == array.array("i", [1, -1]).tobytes()
    left.send_bytes(b"0123456789", 3)
    left.send_bytes(b"0123456789", 3, 4)
    left.send_bytes(buf=b"0123456789", offset=9, size=1)
    left.send_bytes(b"0123456789", 10)
    left.send_bytes(b"0123456789", 4, 0)
    assert [right.recv_bytes() for _ in range(5)] == [b"3456789", b"3456", b"9", b"", b""]


def test_bytes_and_objects_are_one_stream(pipe):
    left, right = pipe
    left.send_bytes(pickle.dumps([1]))
    assert right.recv() == [1]
    left.send([2])
    assert pickle.loads(right.recv_bytes()) == [2]


def test_bad_ranges(pipe):
    left, right = pipe
    for args in ((-1,), (4,), (0, -1), (0, 4), (1, 3), (4, 0), (3, 1)):
        with pytest.raises(ValueError):
            left.send_bytes(b"abc", *args)
    for wrong in ("text", None, 5, [1]):
        with pytest.raises(TypeError):
            left.send_bytes(wrong)
    assert right.poll() is False
    with pytest.raises(ValueError):
        right.recv_bytes(-1)
    left.send_bytes(b"abc")
    with pytest.raises(ValueError):
        right.recv_bytes_into(bytearray(5), -1)
    with pytest.raises(ValueError):
        right.recv_bytes_into(bytearray(5), 6)
    assert right.recv_bytes() == b"abc"


def test_recv_bytes_into(pipe):
    left, right = pipe
    buffer = bytearray(b"." * 10)
    left.send_bytes(b"abc")
    assert right.recv_bytes_into(buffer) == 3
    assert buffer == b"abc......."
    left.send_bytes(b"abc")
    assert right.recv_bytes_into(buffer, 7) == 3
    assert buffer == b"abc....abc"
    left.send_bytes(b"")
    assert right.recv_bytes_into(buffer, 10) == 0
    numbers = array.array("i", [0] * 4)
    left.send_bytes(array.array("i", [7, 8]))
    assert right.recv_bytes_into(numbers, 2 * numbers.itemsize) == 2 * numbers.itemsize
    assert list(numbers) == [0, 0, 7, 8]
    view = memoryview(buffer)[2:6]
    left.send_bytes(b"WXYZ")
    assert right.recv_bytes_into(view) == 4
    assert buffer == b"abWXYZ.abc"


def test_buffer_too_short(pipe):
    left, right = pipe
    message = bytes(range(200)) * 50
    buffer = bytearray(b"." * 9999)
    for offset in (0, 5000, 9999):
        left.send_bytes(message)
        with pytest.raises(BufferTooShort) as caught:
            right.recv_bytes_into(buffer, offset)
        assert caught.value.args == (message,)
        assert isinstance(caught.value, multiprocessing.ProcessError)
    left.send_bytes(b"after")
    assert right.recv_bytes_into(buffer) == 5


def test_read_only_buffer(pipe):
    left, right = pipe
    left.send_bytes(b"abc")
    with pytest.raises((TypeError, BufferError)):
        right.recv_bytes_into(b"constant")


def test_maxlength(pipe):
    left, right = pipe
    for maxlength in (3, 4, 10**9, None):
        left.send_bytes(b"abc")
        assert right.recv_bytes(maxlength) == b"abc"
    left.send_bytes(b"")
    assert right.recv_bytes(0) == b""


def test_message_beyond_maxlength_ends_reading(mp):
    left, right = mp.Pipe()
    left.send_bytes(b"abc")
    with pytest.raises(OSError):
        right.recv_bytes(2)
    with pytest.raises(OSError):
        right.recv_bytes()
    right.send("still writable")
    assert left.recv() == "still writable"
    left.close()
    right.close()
    reader, writer = mp.Pipe(False)
    writer.send_bytes(b"abc")
    with pytest.raises(OSError):
        reader.recv_bytes(2)
    assert reader.closed
    writer.close()


def test_poll(pipe):
    left, right = pipe
    assert right.poll() is False
    assert right.poll(0) is False
    assert right.poll(-1) is False
    started = time.monotonic()
    assert right.poll(0.1) is False
    assert time.monotonic() - started >= 0.098
    left.send(1)
    left.send(2)
    for timeout in (0, 0.1, -1, None, 1e6):
        assert right.poll(timeout) is True
    assert right.recv() == 1
    assert right.poll() is True
    assert right.recv() == 2
    assert right.poll() is False
    assert left.poll() is False
    with pytest.raises(TypeError):
        right.poll("1")


def test_poll_waits(mp, pipe, crew):
    left, right = pipe
    waiting, outcome = mp.RawValue("b"), mp.RawValue("b")
    wait_asleep(crew.start(pipes.wait_poll, right, waiting, outcome).pid, waiting)
    assert outcome.value == 0
    left.send("x")
    crew.join()
    assert outcome.value == 2
    assert right.recv() == "x"


def test_errors_in_pickling(pipe):
    left, right = pipe
    for item, error in [
        (Unsendable(), SomeError),
        ([b"x" * 100_000, Unsendable()], SomeError),
        (threading.Lock(), TypeError),
        (lambda: None, (pickle.PicklingError, AttributeError)),
    ]:
        with pytest.raises(error):
            left.send(item)
    assert right.poll() is False
    left.send(Unreceivable())
    left.send("after")
    with pytest.raises(SomeError):
        right.recv()
    assert right.recv() == "after"


def test_garbage_is_an_error(pipe):
    left, right = pipe
    left.send_bytes(b"this is not a pickle")
    with pytest.raises((pickle.UnpicklingError, EOFError, ValueError)):
        right.recv()
    left.send("after")
    assert right.recv() == "after"


def test_fileno_and_select(pipe):
    left, right = pipe
    fd = right.fileno()
    assert type(fd) is int
    assert fd == right.fileno() != left.fileno()
    poller = select.poll()
    poller.register(fd, select.POLLIN)
    for _ in range(50):
        assert select.select([right], [], [], 0)[0] == []
        left.send(1)
        left.send(2)
        assert select.select([right], [], [], 5)[0] == [right]
        assert poller.poll(5000)[0][0] == fd
        assert right.recv() == 1
        assert select.select([right], [], [], 5)[0] == [right]
        assert right.recv() == 2
    left.close()
    assert select.select([right], [], [], 5)[0] == [right]


def test_fileno_asked_late(pipe):
    left, right = pipe
    left.send(1)
    assert select.select([right], [], [], 5)[0] == [right]
    assert right.recv() == 1
    assert select.select([right], [], [], 0)[0] == []


def test_fileno_wakes_a_select(mp, pipe, crew):
    left, right = pipe
    crew.start(pipes.send_later, left, 0.1, "late")
    assert select.select([right], [], [], 50)[0] == [right]
    assert right.recv() == "late"
    crew.join()


def test_connection_wait(mp, crew):
    pairs = [mp.Pipe(False) for _ in range(4)]
    readers = [reader for reader, _ in pairs]
    started = time.monotonic()
    assert wait(readers, 0.1) == []
    assert time.monotonic() - started >= 0.098
    pairs[2][1].send("x")
    assert wait(readers, 50) == [readers[2]]
    pairs[0][1].close()
    assert set(wait(readers, 50)) == {readers[0], readers[2]}
    assert readers[2].recv() == "x"
    with pytest.raises(EOFError):
        readers[0].recv()
    child = crew.start(pipes.send_later, pairs[3][1], 0.05, "y")
    assert readers[3] in wait([readers[1], readers[3]])
    assert readers[3].recv() == "y"
    assert wait([readers[1], child.sentinel, readers[3]]) == [child.sentinel]
    crew.join()
    for reader, writer in pairs:
        reader.close()
        writer.close()


def test_round_trips_with_a_child(mp, pipe, crew):
    left, right = pipe
    crew.start(pipes.echo, right, inherited(mp, left))
    right.close()
    for item in (None, [1, "a"], {"b": (2.5,)}, b"x" * 100, "y" * 200_000, 7):
        left.send(item)
        assert left.recv() == item
    for i in range(1000):
        left.send(i)
        assert left.recv() == i
    left.close()
    crew.join()


@pytest.mark.parametrize("size", [1 << 20, 32 << 20])
def test_large_messages(mp, crew, size):
    left, right = mp.Pipe()
    crew.start(pipes.echo_bytes, right, inherited(mp, left))
    right.close()
    message = bytes(range(256)) * (size >> 8)
    for _ in range(2):
        left.send_bytes(message)
        assert left.poll(None)
        assert left.recv_bytes() == message
    buffer = bytearray(size)
    left.send_bytes(message)
    assert left.recv_bytes_into(buffer) == size
    assert buffer == message
    left.close()
    crew.join()


def test_sender_waits_for_a_slow_reader(mp, crew):
    reader, writer = mp.Pipe(False)
    items = [bytes([i]) * 50_000 for i in range(100)]
    crew.start(pipes.send_all, writer, items)
    writer.close()
    time.sleep(0.1)
    assert [reader.recv() for _ in items] == items
    with pytest.raises(EOFError):
        reader.recv()
    crew.join()


@pytest.mark.parametrize("sizes", [[500], [3000], [8000], [60_000], [10, 3000], [1, 10, 20_000]], ids=str)
@pytest.mark.parametrize("duplex", [True, False])
def test_what_fits_into_the_stdlibs_is_taken_without_a_reader(mp, duplex, sizes):
    """Programs send this much before they look at what the other end has sent."""
    for warm in range(0, 20, 3):
        reader, writer = mp.Pipe(duplex)
        with reader, writer:
            for i in range(warm):
                writer.send_bytes(bytes(900 + i))
                assert len(reader.recv_bytes()) == 900 + i
            sent, left = [], max(40_000, sizes[0])
            while left > 0:
                # The stdlib puts a header in front, and its duplex pipe counts small messages as
                # large ones. Pages that are not quite full count as full.
                sent.append(sizes[len(sent) % len(sizes)])
                left -= sent[-1] + (4 if sent[-1] > 1000 or not duplex else 900)
                writer.send_bytes(b"y" * sent[-1])
            assert [len(reader.recv_bytes()) for _ in sent] == sent


@pytest.mark.parametrize("ending", ["close", "_exit", "return", "kill"])
def test_end_of_the_other_process(mp, crew, ending):
    reader, writer = mp.Pipe(False)
    child = crew.start(pipes.send_and_end, writer, [1, "two"], ending)
    writer.close()
    assert [reader.recv(), reader.recv()] == [1, "two"]
    with pytest.raises(EOFError):
        reader.recv()
    child.join()
    reader.close()


def test_closing_ends_a_wait_elsewhere(mp, crew):
    reader, writer = mp.Pipe(False)
    wait_asleep(crew.start(pipes.expect_end, reader, inherited(mp, writer)).pid)
    writer.close()
    crew.join()
    reader.close()


def test_all_copies_must_be_closed(mp, crew):
    reader, writer = mp.Pipe(False)
    crew.start(pipes.send_later, writer, 0.2, "from the other copy")
    writer.close()
    assert reader.recv() == "from the other copy"
    with pytest.raises(EOFError):
        reader.recv()
    crew.join()


@pytest.mark.parametrize("way", ["pipe", "queue"])
def test_connections_travel(mp, crew, way):
    if way == "queue":
        channel = mp.Queue()
        send, target = channel.put, pipes.answer_on_queue
    else:
        mine, channel = mp.Pipe()
        send, target = mine.send, pipes.answer_on
    left, right = mp.Pipe()
    child = crew.start(target, channel)
    send(right)
    assert left.recv() == ("hello from", child.pid)
    left.send("thanks")
    crew.join()
    assert right.closed is False
    right.close()
    with pytest.raises(EOFError):
        left.recv()


@pytest.mark.fastmp_only("the stdlib asks the sender for the descriptor when the message is read")
def test_connections_outlive_their_sender(mp, crew):
    mine, yours = mp.Pipe()
    child = crew.start(pipes.send_an_end_and_die, yours, mp.get_start_method())
    child.join()
    received = mine.recv()
    assert received.recv() == "left behind"
    with pytest.raises(EOFError):
        received.recv()
    crew.join()


@pytest.mark.fastmp_only("the stdlib pickles the number, which means nothing elsewhere")
def test_not_picklable_outside_a_start(pipe):
    with pytest.raises(RuntimeError):
        pickle.dumps(pipe[0])
    with pytest.raises(RuntimeError):
        copy.deepcopy(pipe[0])


@pytest.mark.parametrize("way", ["SimpleQueue", "JoinableQueue", "Pool", "Manager().Queue", "stdlib pipe"])
def test_connections_travel_by_what_the_stdlib_sends_with(mp, crew, way):
    """There they are pickled by its ForkingPickler, and ask their sender for the descriptors."""
    left, right = mp.Pipe()
    with contextlib.ExitStack() as stack:
        if way == "Pool":
            pool = stack.enter_context(mp.Pool(1))
            assert pool.apply(pipes.use_once, (right, "sent")) is None
        else:
            if way == "stdlib pipe":
                far, near = multiprocessing.Pipe()
                put, get = near.send, far.recv
            else:
                maker = stack.enter_context(mp.Manager()) if way.startswith("Manager") else mp
                queue = getattr(maker, way.rpartition(".")[2])()
                put, get = queue.put, queue.get
            put([right, "extra"])
            got, _ = get()
            assert type(got) is type(right)
            pipes.use_once(got, "sent")
            got.close()
    right.close()
    assert left.recv() == "sent"
    with pytest.raises(EOFError):
        left.recv()
    left.close()


@pytest.mark.parametrize("way", ["SimpleQueue", "stdlib pipe"])
def test_locks_and_queues_do_not_travel_by_them(mp, way):
    put = multiprocessing.SimpleQueue().put if way == "SimpleQueue" else multiprocessing.Pipe()[0].send
    for one in (mp.Lock(), mp.Queue(), mp.Value("i"), mp.Event(), mp.Condition()):
        with pytest.raises(RuntimeError):
            put(one)


def test_connection_is_one_for_the_stdlib(pipe, module):
    for conn in pipe:
        assert isinstance(conn, multiprocessing.connection.Connection)
        assert isinstance(conn, importlib.import_module(module).connection.Connection)
        assert not isinstance(conn, multiprocessing.queues.Queue)
        assert type(conn).__name__ == conn.__class__.__name__ == "Connection"
        assert conn._handle == conn.fileno()
        conn.close()
        assert conn._handle is None
        assert isinstance(conn, multiprocessing.connection.Connection)


def test_attributes_of_ones_own(pipe):
    conn, _ = pipe
    conn.name = "mine"
    assert conn.name == "mine"
    assert weakref.ref(conn)() is conn
    assert {conn: 1}[conn] == 1
    with pytest.raises(AttributeError):
        conn.readable = False


@pytest.mark.parametrize("derived", [False, True])
def test_connection_over_a_descriptor(module, derived):
    """It speaks the stdlib's protocol: there may be a stdlib's connection at the other end."""
    made = importlib.import_module(module).connection.Connection
    if derived:
        made = type("Mine", (made,), {"answer": lambda self: self.send("answer")})
    one, other = socket.socketpair()
    conn, stdlib = made(one.detach()), multiprocessing.connection.Connection(other.detach())
    assert isinstance(conn, made)
    assert isinstance(conn, multiprocessing.connection.Connection)
    conn.send(["there"])
    assert stdlib.recv() == ["there"]
    stdlib.send_bytes(b"and back")
    assert conn.poll(50) is True
    buffer = bytearray(10)
    assert conn.recv_bytes_into(buffer, 1) == 8
    assert buffer == b"\0and back\0"
    conn.send_bytes(b"0123", 1, 2)
    assert stdlib.recv_bytes() == b"12"
    stdlib.send_bytes(b"more")
    assert conn.recv_bytes(10) == b"more"
    if derived:
        conn.answer()
        assert stdlib.recv() == "answer"
    assert (conn.closed, conn.readable, conn.writable) == (False, True, True)
    assert select.select([conn], [conn], [], 0) == ([], [conn], [])
    assert conn.fileno() == conn._handle
    stdlib.close()
    with pytest.raises(EOFError):
        conn.recv()
    with conn:
        pass
    assert conn.closed
    with pytest.raises(OSError):
        conn.send(1)
    reader, writer = os.pipe()
    with made(reader, writable=False) as conn:
        assert (conn.readable, conn.writable) == (True, False)
        os.close(writer)
        with pytest.raises(EOFError):
            conn.recv()
        with pytest.raises(OSError):
            conn.send(1)
    conn = made(44977608)
    with contextlib.suppress(OSError, ValueError):
        conn.poll()
    conn._handle = None  # as CPython's own test does, lest it be closed
    assert conn.closed
    for wrong, error in (((-1,), ValueError), (("3",), (TypeError, AttributeError)), ((3, False, False), ValueError)):
        with pytest.raises(error):
            made(*wrong)


@pytest.mark.method("fork")
@pytest.mark.fastmp_only("the stdlib's pipe is all in its descriptor")
def test_no_connection_over_the_descriptor_of_a_pipe(pipe, module):
    """Its messages are not there: the two would wait for ever."""
    left, right = pipe
    again = os.dup(right.fileno())
    with pytest.raises(ValueError, match="an end of a fastmp Pipe"):
        importlib.import_module(module).connection.Connection(again)
    os.close(again)
    left.send("untouched")
    assert right.recv() == "untouched"


@pytest.mark.parametrize("way", ["argument", "pipe", "queue"])
def test_connection_over_a_descriptor_travels(mp, module, crew, way):
    one, other = socket.socketpair()
    made = importlib.import_module(module).connection.Connection
    left, right = made(one.detach()), made(other.detach())
    if way == "argument":
        crew.start(pipes.use_once, right, "sent")
    elif way == "pipe":
        near, far = mp.Pipe()
        crew.start(pipes.use_received, far)
        near.send(right)
    else:
        queue = mp.Queue()
        crew.start(pipes.use_received_on_queue, queue)
        queue.put(right)
    assert left.recv() == "sent"
    crew.join()
    left.close()
    right.close()


@pytest.mark.fastmp_only("the stdlib's messages mix")
@pytest.mark.parametrize("threads", [0, 3])
def test_one_end_shared_by_many_writers(mp, crew, threads):
    reader, writer = mp.Pipe(False)
    ready = mp.RawArray("b", 2)
    for me in range(2):
        if threads:
            crew.start(pipes.send_letters_from_threads, writer, me, 60, ready, threads)
        else:
            crew.start(pipes.send_letters, writer, me, 180, ready)
    writer.close()
    got = []
    while True:
        try:
            sender, number, text = reader.recv()
        except EOFError:
            break
        assert text == bytes([65 + sender]) * (1, 3000, 100_000)[number % 3]
        got.append((sender, number))
    crew.join()
    senders = 2 * (threads or 1)
    assert len(got) == 360
    for sender in range(senders):
        assert [number for who, number in got if who == sender] == list(range(360 // senders))


@pytest.mark.fastmp_only("the stdlib's messages mix")
def test_one_end_shared_by_many_readers(mp, crew):
    reader, writer = mp.Pipe(False)
    ready = mp.RawArray("b", 3)
    logs = [mp.RawArray("i", 1 + 300) for _ in range(3)]
    for me, log in enumerate(logs):
        crew.start(pipes.take_letters, reader, inherited(mp, writer), log, me, ready)
    for i in range(300):
        writer.send((0, i, b"A" * (1, 3000, 100_000)[i % 3]))
    writer.close()
    crew.join()
    got = [log[1 : 1 + log[0]] for log in logs]
    assert sorted(sum(got, [])) == list(range(300))
    assert all(numbers == sorted(numbers) for numbers in got)


@pytest.mark.fastmp_only("an extension that users expect")
def test_close_in_another_thread_ends_a_recv(pipe):
    left, _ = pipe
    outcome = []

    def receive():
        try:
            left.recv()
        except BaseException as error:
            outcome.append(type(error))

    thread = threading.Thread(target=receive)
    thread.start()
    time.sleep(0.1)
    left.close()
    thread.join()
    assert outcome == [EOFError]


def test_nonblocking(mp):
    """Where the program has set O_NONBLOCK, a call that would wait says so."""
    left, right = mp.Pipe()
    os.set_blocking(left.fileno(), False)
    with pytest.raises(BlockingIOError) as caught:
        left.recv()
    assert caught.value.errno == errno.EAGAIN
    assert left.poll(0.01) is False
    with pytest.raises(BlockingIOError):
        for _ in range(2000):
            left.send_bytes(b"x" * 10_000)
    right.send("answer")
    assert left.poll(50)
    assert left.recv() == "answer"
    left.close()
    right.close()


@pytest.mark.fastmp_only("the stdlib tears a message that it cannot send whole")
@pytest.mark.parametrize("size", [10, 50_000, 300_000])
def test_nonblocking_goes_on(mp, size):
    """What did not go was not sent: it goes later, whole."""
    left, right = mp.Pipe()
    os.set_blocking(left.fileno(), False)
    sent = got = 0
    for _ in range(3):
        with contextlib.suppress(BlockingIOError):
            while True:
                left.send((sent, b"x" * size))
                sent += 1
        for _ in range((sent - got + 1) // 2):
            number, body = right.recv()
            assert (number, len(body)) == (got, size)
            got += 1
    os.set_blocking(left.fileno(), True)
    right.send("answer")
    assert left.recv() == "answer"
    left.close()
    right.close()


@pytest.mark.parametrize("duplex", [True, False])
def test_descriptors_sent_by_hand(mp, native, duplex):
    """The stdlib's send_handle and recv_handle, over the pipe's socket, between its messages."""
    if not duplex and not native:
        pytest.skip("the stdlib's is no socket")
    receiver, sender = mp.Pipe(duplex)
    for _ in range(3):
        reader, writer = os.pipe()
        sender.send("before")
        assert receiver.recv() == "before"
        # Since 3.14 it waits for an answer.
        with later(0, reduction.send_handle, sender, writer, os.getpid()):
            assert select.select([receiver], [], [], 50)[0] == [receiver]
            with later(0.05, sender.send, "after"):
                got = reduction.recv_handle(receiver)
        os.write(got, b"written")
        assert os.read(reader, 20) == b"written"
        assert receiver.recv() == "after"
        for fd in (reader, writer, got):
            os.close(fd)
    with later(0.1, reduction.send_handle, sender, 0, os.getpid()):
        os.close(reduction.recv_handle(receiver))
    receiver.close()
    sender.close()


def send_by_hand(conn, fd):
    """As send_handle, which waits for no answer before 3.14."""
    with socket.fromfd(conn.fileno(), socket.AF_UNIX, socket.SOCK_STREAM) as carrier:
        carrier.sendmsg([b"\x01"], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [fd]))])


@pytest.mark.fastmp_only("the stdlib reads it as a message")
def test_a_descriptor_sent_by_hand_is_not_lost(mp):
    """Whoever receives a message instead is told, and neither hangs nor takes it."""
    left, right = mp.Pipe()
    send_by_hand(left, 0)
    assert right.poll(None) is True  # not only at a deadline
    with pytest.raises(OSError, match="[Pp]rotocol"):
        right.recv()
    left.send("with a lock")
    assert right.recv() == "with a lock"
    left.send(mp.Lock())
    with pytest.raises(OSError, match="[Pp]rotocol"):
        right.recv()
    os.close(reduction.recv_handle(right))
    with right.recv():
        pass
    left.close()
    right.close()


@pytest.mark.parametrize("count", [40, 300])
@pytest.mark.parametrize("way", ["pipe", "queue"])
@pytest.mark.fastmp_only("the stdlib asks the sender for each")
def test_many_descriptors_in_one_message(mp, way, count):
    if way == "queue":
        queue = mp.Queue()
        send, receive = queue.put, queue.get
    else:
        near, far = mp.Pipe()
        send, receive = near.send, far.recv
    for _ in range(2):  # the segments in which all these lie are made by the first that need them, and kept
        before = len(os.listdir("/proc/self/fd"))
        pairs = [mp.Pipe() for _ in range(count)]
        locks = [mp.Lock() for _ in range(10)]
        send([pairs, locks])
        got, got_locks = receive()
        for number, ((left, _), (_, right)) in enumerate(zip(pairs, got, strict=True)):
            left.send(number)
            assert right.recv() == number
        for lock, same in zip(locks, got_locks, strict=True):
            with lock:
                assert same.acquire(False) is False
        for pair in [*pairs, *got]:
            for end in pair:
                end.close()
        del got_locks, same
        gc.collect()
    assert len(os.listdir("/proc/self/fd")) <= before + 4


@pytest.mark.method("fork")
@pytest.mark.fastmp_only("the stdlib asks the sender")
@pytest.mark.parametrize("way", ["pipe", "queue"])
@pytest.mark.parametrize("count", [1, 5, 130])
def test_a_shortage_of_descriptors_leaves_the_message(mp, way, count):
    """It says EMFILE, and the message can be received when there are numbers again."""
    if way == "queue":
        queue = mp.Queue()
        send, receive = queue.put, queue.get
    else:
        near, far = mp.Pipe()
        send, receive = near.send, far.recv
    pairs = [mp.Pipe() for _ in range(count)]
    send(("the message", pairs))
    send("the next")
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    before = len(os.listdir("/proc/self/fd"))
    taken = []
    refused = 0
    for spare in (0, 1, 2, count, 4 * count - 1, 4 * count + 4):
        resource.setrlimit(resource.RLIMIT_NOFILE, (before + 1000, hard))
        try:
            with contextlib.suppress(OSError):
                while True:
                    taken.append(os.open("/dev/null", os.O_RDONLY))
            for _ in range(spare):
                os.close(taken.pop())
            try:
                text, got = receive()
                break
            except OSError as error:
                assert error.errno == errno.EMFILE
                refused += 1
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
            for fd in taken:
                os.close(fd)
            taken.clear()
        assert len(os.listdir("/proc/self/fd")) == before
    assert text == "the message"
    assert refused >= 2
    for (left, _), (_, right) in zip(pairs, got, strict=True):
        left.send("hello")
        assert right.recv() == "hello"
    assert receive() == "the next"
