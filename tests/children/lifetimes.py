"""Who can reach a block: makers that try to use one again, and those that keep it from them."""

import ctypes
import os
import signal
import sys

from children import foreign
from children.common import wait_until

MARK = 0x600D
COUNT = 100

# What `steps` has: how far each of the two is.
TRIED, HAS, SEEN, RESULT, PID = range(5)
WELL, USED_TOO_EARLY, NOT_USED_AGAIN, CHANGED = range(1, 5)
WAYS = ["argument", "grandchild", "queue", "pipe", "queue, sent on", "queue, received", "pipe, received"]


def places(values):
    return {ctypes.addressof(value) for value in values}


def are_used_again(mp, old):
    """Whether new objects come to lie where the old ones did, with enough coming and going for the
    arena to look.
    """
    for _ in range(5):
        new = [mp.RawValue("i", 0) for _ in range(4 * COUNT)]
        if places(new) & old:
            return True
        pid = os.fork()  # so that the new ones wait as well
        if pid == 0:
            os._exit(0)
        os.waitpid(pid, 0)
    return False


def are_whole(values):
    return all(value.value == MARK for value in values)


def look_when_told(steps, values):
    wait_until(lambda: steps[TRIED])
    steps[SEEN] = WELL if are_whole(values) else CHANGED


def keep(steps, values):
    steps[HAS] = 1
    look_when_told(steps, values)
    signal.pause()


def leave_to_a_child(steps, values):
    """Its child is the one that keeps them; this one is killed."""
    if os.fork() == 0:
        try:
            os.closerange(3, 200)
            steps[PID] = os.getpid()
            keep(steps, values)
        finally:
            os._exit(1)
    signal.pause()


def send_on(steps, values, channel):
    channel.put(values)
    steps[HAS] = 1
    signal.pause()


def receive_and_keep(steps, channel):
    keep(steps, channel.get() if hasattr(channel, "get") else channel.recv())


def make(mp, way, steps, place=None):
    """Makes blocks in a process whose books are empty, has them kept in some way, and tries to get
    them again.

    `steps[RESULT]` says how that went.
    """
    if place is not None:
        foreign.enter(place)
    queue, (left, right) = mp.Queue(), mp.Pipe()
    source, send = (queue, queue.put) if "queue" in way else (left, right.send)
    children = []

    def start(target, *args):
        children.append(mp.Process(target=target, args=(steps, *args)))
        children[-1].start()

    if "received" in way:
        start(receive_and_keep, source)  # before there is anything that it could inherit
    values = [mp.RawValue("i", MARK) for _ in range(COUNT)]
    old = places(values)
    if way == "argument":
        start(keep, values)
    elif way == "grandchild":
        start(leave_to_a_child, values)
    elif "sent on" in way:
        start(send_on, values, queue)
    else:
        send(values)
    del values
    if way not in ("queue", "pipe"):
        wait_until(lambda: steps[HAS])
    if way in ("grandchild", "queue, sent on"):
        end(children)

    if are_used_again(mp, old):
        steps[RESULT] = USED_TOO_EARLY
        return end(children)
    steps[TRIED] = 1
    if way in ("queue", "pipe", "queue, sent on"):
        values = queue.get() if "queue" in way else left.recv()
        steps[SEEN] = WELL if are_whole(values) else CHANGED
        if are_used_again(mp, old):
            steps[RESULT] = USED_TOO_EARLY
            return end(children)
        del values
    wait_until(lambda: steps[SEEN])
    end(children)
    if steps[PID]:
        os.kill(steps[PID], signal.SIGKILL)
    if steps[SEEN] != WELL:
        steps[RESULT] = CHANGED
    elif place is not None:
        steps[RESULT] = WELL  # memory may be lost there, safety never
    else:
        steps[RESULT] = NOT_USED_AGAIN
        wait_until(lambda: are_used_again(mp, old), "memory that can be used again", 10)
        steps[RESULT] = WELL
    return None


def end(children):
    for child in children:
        child.kill()
        child.join()
    children.clear()


# ---- for the loops


def use_pairs(pairs, ending):
    for lock, value in pairs:
        with lock:
            value.value += 1
    end_as_told(ending)


def end_as_told(ending):
    if ending == "killed":
        os.kill(os.getpid(), signal.SIGKILL)
    sys.exit(0)


def use_what_comes(source, done):
    """Receives pairs, uses each, keeps the last one, says how many there were."""
    receive = source.get if hasattr(source, "get") else source.recv
    while True:
        lock, value = receive()
        with lock:
            value.value += 1
        done.value += 1
