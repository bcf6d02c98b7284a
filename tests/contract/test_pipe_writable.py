"""Readiness of a pipe's sending end: writable only while a message has room, as the stdlib's."""

import asyncio
import contextlib
import os
import select
import selectors
import threading
import time
from multiprocessing.connection import wait

import pytest
from children import pipes
from children.common import later


def is_writable(conn, timeout=0):
    return select.select([], [conn], [], timeout)[1] == [conn]


@pytest.mark.parametrize("duplex", [True, False])
@pytest.mark.parametrize("size", [10, 1000])
def test_select_for_writing(mp, duplex, size):
    """Who sends only while it may be written to never waits; when all is read it may be."""
    reader, writer = mp.Pipe(duplex)
    sent = got = 0
    for _ in range(3):
        while is_writable(writer):
            writer.send_bytes(b"%05d" % sent + b"x" * size)
            sent += 1
        assert sent > 20
        half = got + (sent - got) // 2
        while got < sent and not (got >= half and is_writable(writer)):
            assert reader.recv_bytes()[:5] == b"%05d" % got
            got += 1
        assert is_writable(writer)
    assert [int(reader.recv_bytes()[:5]) for _ in range(got, sent)] == list(range(got, sent))
    assert select.select([reader], [], [], 0)[0] == []
    reader.close()
    writer.close()


@pytest.mark.parametrize("selector", [selectors.SelectSelector, selectors.PollSelector, selectors.EpollSelector])
@pytest.mark.parametrize("duplex", [True, False])
def test_selectors_for_writing(mp, crew, duplex, selector):
    reader, writer = mp.Pipe(duplex)
    with selector() as watching:
        watching.register(writer, selectors.EVENT_WRITE)
        sent = 0
        for _ in range(2):
            first = sent
            while watching.select(0):
                writer.send(sent - first)
                sent += 1
            assert sent - first > 20
            crew.start(pipes.receive_later, reader, 0.1, sent - first)
            assert not watching.select(0)
            assert [key.fileobj for key, _ in watching.select(50)] == [writer]
            crew.join()
    reader.close()
    writer.close()


@pytest.mark.parametrize("duplex", [True, False])
def test_a_router(mp, crew, duplex):
    """Messages of all sizes, from several to several: `wait` to read, `select` to write."""
    sizes = [10, 1000, 60_000, 300_000, 1 << 20, 100, 20_000, 0, 5000]
    sources, sinks, backlog, count = [], [], {}, 150
    for seed in range(3):
        reader, writer = mp.Pipe(duplex)
        crew.start(pipes.send_sizes, writer, seed, count, sizes)
        writer.close()
        sources.append(reader)
        reader, writer = mp.Pipe(duplex)
        crew.start(pipes.receive_sizes, reader, count)
        reader.close()
        sinks.append(writer)
        backlog[writer] = []
    came = 0
    while sources or any(backlog.values()):
        # Who lags holds up nobody but who sends to it.
        if sources:
            is_idle = not any(backlog.values())
            for conn in wait(sources, None if is_idle else 0.001):
                try:
                    seed, number, data = conn.recv()
                except EOFError:
                    sources.remove(conn)
                    conn.close()
                    continue
                came += 1
                backlog[sinks[(seed + number) % 3]].append((seed, number, data))
        waiting = [conn for conn in sinks if backlog[conn]]
        if not waiting:
            continue
        _, ready, _ = select.select([], waiting, [], 0.001 if sources else 50)
        assert ready or sources, "nobody may be written to for 50 seconds"
        for conn in ready:
            conn.send(backlog[conn].pop(0))
    assert came == 3 * count
    for conn in sinks:
        conn.close()
    crew.join()


@pytest.mark.parametrize("size", [10_000, 300_000])
def test_not_writable_while_a_send_waits(mp, size):
    """Also if nobody has asked for the descriptor before."""
    left, right = mp.Pipe()
    waiting, done = threading.Event(), threading.Event()

    def send():
        waiting.set()
        for _ in range(300):
            left.send_bytes(b"x" * size)
        done.set()

    thread = threading.Thread(target=send, daemon=True)
    thread.start()
    waiting.wait()
    time.sleep(0.5)
    assert not is_writable(left)
    assert not done.is_set()
    # A select that waits already is woken.
    with later(0.1, lambda: [right.recv_bytes() for _ in range(300)]):
        done.wait()
        assert is_writable(left, 50)
    thread.join()
    left.close()
    right.close()


@pytest.mark.parametrize("duplex", [True, False])
def test_a_select_for_writing_is_woken_by_the_reader(mp, crew, duplex):
    reader, writer = mp.Pipe(duplex)
    sent = 0
    while is_writable(writer):
        writer.send(sent)
        sent += 1
    crew.start(pipes.receive_later, reader, 0.2, sent)
    assert not is_writable(writer)
    assert is_writable(writer, 50)
    crew.join()
    reader.close()
    writer.close()


@pytest.mark.parametrize("duplex", [True, False])
def test_writable_at_the_end_of_the_reader(mp, duplex):
    reader, writer = mp.Pipe(duplex)
    while is_writable(writer):
        writer.send_bytes(b"x" * 1000)
    with later(0.1, reader.close):
        assert is_writable(writer, 50)
    with pytest.raises(BrokenPipeError):
        writer.send(1)
    writer.close()


@pytest.mark.parametrize("duplex", [True, False])
def test_end_of_file_behind_a_full_pipe(mp, duplex):
    reader, writer = mp.Pipe(duplex)
    sent = 0
    while is_writable(writer):
        writer.send_bytes(b"x" * 1000)
        sent += 1
    writer.close()
    for _ in range(sent):
        assert select.select([reader], [], [], 50)[0] == [reader]
        assert len(reader.recv_bytes()) == 1000
    assert select.select([reader], [], [], 50)[0] == [reader]
    with pytest.raises(EOFError):
        reader.recv()
    reader.close()


@pytest.mark.parametrize("register", ["poll", "epoll"])
@pytest.mark.parametrize("duplex", [True, False])
def test_sending_by_readiness_alone(mp, crew, duplex, register):
    reader, writer = mp.Pipe(duplex)
    crew.start(pipes.send_by_readiness, writer, 2000, 1000, register)
    for number in range(2000):
        # Now and then the sender is far ahead.
        if number % 400 == 0:
            time.sleep(0.05)
        assert reader.recv() == (number, b"x" * 1000)
    crew.join()
    reader.close()
    writer.close()


@pytest.mark.fastmp_only("the stdlib tears a message that it cannot send whole")
@pytest.mark.parametrize("size", [50_000, 300_000])
def test_sending_large_ones_by_readiness_alone(mp, crew, size):
    reader, writer = mp.Pipe()
    crew.start(pipes.send_by_readiness, writer, 100, size, "poll")
    for number in range(100):
        assert reader.recv() == (number, b"x" * size)
    crew.join()
    reader.close()
    writer.close()


@pytest.mark.parametrize("duplex", [True, False])
def test_asyncio_add_writer(mp, duplex):
    """A loop that sends and receives by readiness, both in one thread."""
    reader, writer = mp.Pipe(duplex)
    os.set_blocking(writer.fileno(), False)
    total, sent, got, held = 3000, 0, [], 0

    async def main():
        loop, finished = asyncio.get_running_loop(), asyncio.Event()

        def send():
            nonlocal sent
            with contextlib.suppress(BlockingIOError):
                writer.send((sent, b"x" * 500))
                sent += 1
            if sent == total:
                loop.remove_writer(writer.fileno())

        def receive():
            got.append(reader.recv()[0])
            if len(got) == total:
                finished.set()

        loop.add_writer(writer.fileno(), send)
        # Nobody reads yet: the loop is called for until it is full, and then no more.
        nonlocal held
        while held != sent or sent == 0:
            held = sent
            await asyncio.sleep(0.2)
        assert 20 < held < total
        loop.add_reader(reader.fileno(), receive)
        await asyncio.wait_for(finished.wait(), 50)
        loop.remove_reader(reader.fileno())

    asyncio.run(main())
    assert got == list(range(total))
    reader.close()
    writer.close()
