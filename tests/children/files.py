"""Children with channels whose memory file is made before or after them."""

import os
import resource
import signal

LARGE = 300_000


def message(who, number):
    return bytes([who]) * LARGE + b"%d" % number


def check(got, who, number):
    assert got == message(who, number), (len(got), got[:1], got[LARGE:])


def exchange(queue, back, conn, who, times, done):
    """Large messages both ways, in turn with the parent."""
    for number in range(times):
        check(queue.get(), 0, number)
        back.put(message(who, number))
        check(conn.recv(), 0, number)
        conn.send(message(who, number))
    done.wait()


def send_and_die(conn, count):
    for number in range(count):
        conn.send(message(1, number))
    os.kill(os.getpid(), signal.SIGKILL)


def put_and_die(queue, count):
    for number in range(count):
        queue.put(message(1, number))
    os.kill(os.getpid(), signal.SIGKILL)


def receive_in_turn(conn, turn, mine, count, log):
    """Every so manieth message is this process's."""
    for number in range(mine, count, 2):
        while turn.value != number:
            os.sched_yield()
        check(conn.recv(), 1, number)
        turn.value += 1
    with log.get_lock():
        log.value += 1


def receive_from_another(conn, times):
    """A queue and a pipe's end that come in a message, whose files are there already, or not yet."""
    queue, other = conn.recv()
    for number in range(times):
        check(queue.get(), 0, number)
        other.send(message(2, number))


def most(ctx, limit=1024):
    """How many queues and pipes there can be under a limit."""
    resource.setrlimit(resource.RLIMIT_NOFILE, (limit, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
    found = []
    for make in (ctx.Pipe, ctx.Queue, lambda: ctx.Pipe(False), ctx.SimpleQueue):
        kept = []
        try:
            while len(kept) < 600:
                kept.append(make())
        except (OSError, MemoryError):
            pass
        found.append(len(kept))
        del kept
    return found
