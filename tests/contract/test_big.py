"""Messages of more than 2^31 bytes. By hand, with FASTMP_BIG=1: each test takes some 10 GB and a minute."""

import contextlib
import os
import threading

import pytest

SIZE = int(2.2 * 2**30)
NEEDED = 6 * SIZE


def memory_left():
    with open("/proc/meminfo") as file:
        return next(int(line.split()[1]) << 10 for line in file if line.startswith("MemAvailable:"))


pytestmark = [
    pytest.mark.skipif(os.environ.get("FASTMP_BIG") != "1", reason="only where FASTMP_BIG=1 asks for it"),
    pytest.mark.skipif(memory_left() < NEEDED, reason=f"takes {NEEDED >> 30} GiB of memory"),
    pytest.mark.timeout(600, method="signal"),
    pytest.mark.method("fork"),
]


def marked(kind=bytes):
    """A message that shows at its ends, and across 2^31, that it is whole."""
    message = bytearray(SIZE)
    for at in (0, 2**31 - 1, 2**31, SIZE - 1):
        message[at] = at % 251 + 1
    return message if kind is bytearray else kind(message)


def are_marked(received):
    return len(received) == SIZE and all(received[at] == at % 251 + 1 for at in (0, 2**31 - 1, 2**31, SIZE - 1))


@contextlib.contextmanager
def sending(send, *message):
    """In a thread: the other side receives meanwhile."""
    thread = threading.Thread(target=send, args=message)
    thread.start()
    yield
    thread.join()


@pytest.mark.parametrize("kind", [bytes, bytearray])
def test_queue(mp, kind):
    queue = mp.Queue()
    queue.put(marked(kind))
    received = queue.get()
    assert type(received) is kind and are_marked(received)


def echo(inbox, outbox):
    outbox.put(inbox.get())


def test_queues_to_a_child_and_back(mp, crew):
    there, back = mp.Queue(), mp.Queue()
    crew.start(echo, there, back)
    there.put(marked())
    assert are_marked(back.get())
    crew.join()


def test_array(mp):
    numpy = pytest.importorskip("numpy")
    array = numpy.frombuffer(marked(bytearray), "u1").reshape(2, -1)
    queue, (reader, writer) = mp.Queue(), mp.Pipe(False)
    queue.put(array)
    received = queue.get()
    assert received.shape == array.shape and received.flags.writeable and are_marked(received.ravel())
    del received
    with sending(writer.send, array):
        received = reader.recv()
    assert received.shape == array.shape and are_marked(received.ravel())


def test_object_among_others(mp):
    reader, writer = mp.Pipe(False)
    with sending(writer.send, {"message": marked(), "after": 1}):
        received = reader.recv()
    assert are_marked(received["message"]) and received["after"] == 1


def test_bytes(mp):
    reader, writer = mp.Pipe(False)
    message = marked()
    with sending(writer.send_bytes, message):
        assert are_marked(reader.recv_bytes())
    with sending(writer.send_bytes, message, 100):
        received = reader.recv_bytes()
    assert len(received) == SIZE - 100 and received[-1] == message[-1]


def test_bytes_into_a_buffer(mp):
    reader, writer = mp.Pipe(False)
    message, room = marked(), bytearray(SIZE + 10)
    with sending(writer.send_bytes, message):
        assert reader.recv_bytes_into(room, 10) == SIZE
    assert are_marked(memoryview(room)[10:])


def test_a_buffer_too_short(mp):
    reader, writer = mp.Pipe(False)
    message = marked()
    with sending(writer.send_bytes, message), pytest.raises(mp.BufferTooShort) as caught:
        reader.recv_bytes_into(bytearray(2**20))
    (carried,) = caught.value.args
    assert type(carried) is bytes and are_marked(carried)


def test_at_most_so_much(mp):
    reader, writer = mp.Pipe(False)
    with sending(writer.send_bytes, marked()):
        assert len(reader.recv_bytes(SIZE)) == SIZE
    with sending(writer.send_bytes, marked()), pytest.raises(OSError, match="bad message length"):
        reader.recv_bytes(SIZE - 1)
