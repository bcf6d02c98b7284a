"""Those who read broadcasts, and those who send."""

import os
import queue as errors
import random
import time

from children.common import wait_until

LIMIT = 40.0  # seconds; a watchdog


def read_all(reader, results):
    """Reads to the end; reports what came, and what was missed."""
    results.put((os.getpid(), list(reader), reader.missed))


def join_and_read(broadcast, ready, me, results):
    """The same by a reader of its own."""
    with broadcast.reader() as reader:
        ready[me] = 1
        read_all(reader, results)


def read_some(reader, count, counter):
    for _ in range(count):
        reader.recv(LIMIT)
        counter.value += 1


def read_for_ever(reader, ready, me):
    ready[me] = 1
    while True:
        reader.recv()


def join_and_sleep(broadcast, ready, me):
    reader = broadcast.reader()
    ready[me] = 1
    time.sleep(LIMIT)
    reader.close()


def send_numbers(broadcast, me, count):
    for number in range(count):
        broadcast.send((me, number), LIMIT)


def send_for_ever(broadcast, me, sent):
    """Counts what was sent; of every size."""
    choice = random.Random(me)
    while True:
        size = choice.choice([10, 1000, 70_000, 300_000])
        broadcast.send((me, sent[me], bytes([sent[me] % 251]) * size), LIMIT)
        sent[me] += 1


def fill(broadcast, waiting, done):
    """Sends until there is no room, and then once more."""
    try:
        while True:
            broadcast.send(bytes(10), 0)
    except errors.Full:
        waiting.value = 1
    broadcast.send(b"more")
    done.value = 1


def receive_reader(inbox, results):
    """Gets a reader by a channel."""
    read_all(inbox.get(), results)


def receive_and_tell(inbox, results):
    reader = inbox.get(timeout=LIMIT)
    results.put("here")
    results.put((reader.recv(LIMIT), reader.missed))


def send_reader_and_die(broadcast, outbox):
    """The reader has joined before a message that its sender has not read."""
    reader = broadcast.reader()
    broadcast.send("before", LIMIT)
    outbox.put(reader)
    os._exit(0)


def use_inherited(unused, used, results):
    results.put((unused.recv(LIMIT), used.recv(LIMIT), unused.missed, used.missed))


def close_inherited(reader, broadcast, done):
    reader.close()
    broadcast.close()
    done.value = 1
    time.sleep(LIMIT)


def come_and_go(broadcast, rounds):
    for _ in range(rounds):
        with broadcast.reader() as reader:
            reader.recv(LIMIT)


def send_until(broadcast, flag):
    number = 0
    while not flag.value:
        broadcast.send((number, bytes(100_000)), LIMIT)
        number += 1


def wait_for_all(ready):
    wait_until(lambda: all(ready), "all to have joined")


def sleep_with(_reader):
    """Was given a reader, and has not come to use it."""
    time.sleep(LIMIT)


def use_all(broadcast, used, unused, results):
    """In a child that was forked while threads of its parent were in all of these."""
    own = broadcast.reader()
    broadcast.send("from the child", LIMIT)
    came = [own.recv(LIMIT), unused.recv(LIMIT), used.recv(LIMIT)]
    for one in (own, unused, used, broadcast):
        one.close()
    results.put(came)
