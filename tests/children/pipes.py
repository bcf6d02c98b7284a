"""Users of connections."""

import contextlib
import os
import select
import signal
import threading
import time

from children.common import line_up


def echo(conn, spare=None):
    """Sends everything back until the other end is closed.

    `spare` is that end as inherited here.
    """
    if spare is not None:
        spare.close()
    while True:
        try:
            item = conn.recv()
        except EOFError:
            return
        conn.send(item)


def echo_bytes(conn, spare=None):
    if spare is not None:
        spare.close()
    while True:
        try:
            conn.send_bytes(conn.recv_bytes())
        except EOFError:
            return


def send_all(conn, items):
    for item in items:
        conn.send(item)


def send_by_readiness(conn, count, size, register):
    """Sends whenever the descriptor is said to be writable, and at no other time."""
    os.set_blocking(conn.fileno(), False)
    poller = getattr(select, register)()
    poller.register(conn.fileno(), select.POLLOUT)
    number = 0
    while number < count:
        assert poller.poll(50_000 if register == "poll" else 50), "not writable for 50 seconds"
        with contextlib.suppress(BlockingIOError):
            conn.send((number, b"x" * size))
            number += 1


def send_sizes(conn, seed, count, sizes):
    """Sends messages of these sizes by turns, each marked with who sent it and its number."""
    for number in range(count):
        size = sizes[(number + seed) % len(sizes)]
        conn.send((seed, number, bytes([number % 251]) * size))
    conn.close()


def receive_sizes(conn, count):
    """Receives what `send_sizes` sent, from several: each sender's in order, and whole."""
    last = {}
    for _ in range(count):
        seed, number, data = conn.recv()
        assert number > last.get(seed, -1)
        assert data == bytes([number % 251]) * len(data)
        last[seed] = number
        if number % 40 == 0:
            # Now and then it lags behind.
            time.sleep(0.02)


def send_later(conn, delay, item):
    time.sleep(delay)
    conn.send(item)


def receive_later(conn, delay, count):
    time.sleep(delay)
    for number in range(count):
        assert conn.recv() == number


def send_and_end(conn, items, ending):
    """Sends, and ends in one of the ways in which a process can."""
    for item in items:
        conn.send(item)
    if ending == "close":
        conn.close()
    elif ending == "_exit":
        os._exit(0)
    elif ending == "kill":
        os.kill(os.getpid(), signal.SIGKILL)


def expect_end(conn, spare=None):
    """The other end closes while this waits; `spare` is that end as inherited here."""
    if spare is not None:
        spare.close()
    try:
        item = conn.recv()
    except EOFError:
        return
    raise RuntimeError(f"received {item!r}")


def wait_poll(conn, waiting, outcome):
    waiting.value = 1
    outcome.value = 1 + int(conn.poll(None))


def send_letters(conn, me, count, ready):
    """Messages of one letter each, small ones and large ones."""
    line_up(ready, me)
    for i in range(count):
        conn.send((me, i, bytes([65 + me]) * (1, 3000, 100_000)[i % 3]))


def send_letters_from_threads(conn, me, count, ready, threads):
    line_up(ready, me)
    failures = []

    def run(number):
        try:
            for i in range(count):
                conn.send((number, i, bytes([65 + number]) * (1, 3000, 100_000)[i % 3]))
        except BaseException as error:
            failures.append(error)
            raise

    team = [threading.Thread(target=run, args=(me * threads + i,)) for i in range(threads)]
    for thread in team:
        thread.start()
    for thread in team:
        thread.join()
    assert not failures


def take_letters(conn, spare, log, me, ready):
    """Notes numbers until the sender's end is closed; log[0] counts them."""
    if spare is not None:
        spare.close()
    line_up(ready, me)
    while True:
        try:
            sender, number, text = conn.recv()
        except EOFError:
            return
        assert text == bytes([65 + sender]) * (1, 3000, 100_000)[number % 3]
        log[1 + log[0]] = number
        log[0] += 1


def answer_on(conn):
    """Receives a connection and uses it."""
    answer(conn.recv())


def answer_on_queue(queue):
    answer(queue.get())


def answer(conn):
    with conn:
        conn.send(("hello from", os.getpid()))
        assert conn.recv() == "thanks"


def send_an_end_and_die(conn, method):
    """Sends away an end of a pipe of its own, and is gone before anybody has read that."""
    import fastmp

    reader, writer = fastmp.get_context(method).Pipe(False)
    conn.send(reader)
    writer.send("left behind")
    os._exit(0)


def use_once(conn, item):
    conn.send(item)


def use_received(conn):
    use_once(conn.recv(), "sent")


def use_received_on_queue(queue):
    use_once(queue.get(), "sent")
