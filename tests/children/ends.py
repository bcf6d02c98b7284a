"""Children that are given several objects at once, and close some of them."""

import copyreg
import os
import pickle


class Nested:
    """Pickles what it has by itself, a stream in the stream, as wrappers of cloudpickle do."""

    def __init__(self, *things):
        self.things = things

    def __getstate__(self):
        return pickle.dumps(self.things)

    def __setstate__(self, state):
        self.things = pickle.loads(state)


class Twice:
    """Two objects over one and the same handle."""

    def __init__(self, one):
        self.one = one

    def __reduce__(self):
        return list, ((copy_of(self.one), copy_of(self.one)),)


class copy_of:
    """Is pickled as `one`, and is not known to the pickler as the same object."""

    def __init__(self, one):
        self.one = one

    def __reduce__(self):
        reduce = copyreg.dispatch_table.get(type(self.one))
        return reduce(self.one) if reduce else self.one.__reduce_ex__(2)


def use(kind, one):
    """Uses an object in a way that needs all its descriptors."""
    if kind == "queue":
        one.put([b"large" * 100_000, os.getpid()])
        assert one.get() == [b"large" * 100_000, os.getpid()]
    else:
        with one:
            pass


def numbers():
    return set(os.listdir("/proc/self/fd"))


def keep_one_end(kept, closed, queue, others, lock, log):
    """Closes one end, opens files, and uses all the rest: nothing of it may have gone with that
    end.
    """
    closed.close()
    mine = [os.open("/dev/null", os.O_RDONLY) for _ in range(16)]
    kept.send(b"sent" * 100_000)
    assert kept.recv() == b"received" * 100_000
    use("queue", queue)
    use("lock", lock)
    nested = others.things if isinstance(others, Nested) else others
    for one in nested:
        one.send("here")
        one.close()
    kept.close()
    for fd in mine:
        os.fstat(fd)
        assert os.readlink(f"/proc/self/fd/{fd}") == "/dev/null"
        os.close(fd)
    log.value = 1


def end_of_file(reader, writer, log):
    """The usual idiom: whoever only reads closes the end to write with, and so sees the end of
    file.
    """
    writer.close()
    try:
        while True:
            log.value += len(reader.recv())
    except EOFError:
        log.value = -log.value


def close_all(objects, log):
    """What was given leaves nothing behind that closing it does not close."""
    before = numbers()
    for one in objects:
        one.close()
    left = [os.readlink(f"/proc/self/fd/{fd}") for fd in numbers() & before if os.path.exists(f"/proc/self/fd/{fd}")]
    log.value = 1 + sum("fastmp-pipe" in link for link in left)


def count_descriptors(locks, log):
    for lock in locks:
        with lock:
            pass
    log.value = len(numbers())


def use_the_first(first, again, log):
    second, third = again[0], again[1].things[0]
    third.close()
    second.send(b"sent" * 100_000)
    assert first.recv() == b"received" * 100_000
    second.close()
    first.send(b"sent" * 100_000)
    assert first.recv() == b"received" * 100_000
    first.close()
    log.value = 1


class Temporary:
    """Travels as a connection that exists only while it is pickled."""

    def __init__(self, make_pipe):
        self.make_pipe = make_pipe

    def __reduce__(self):
        self.other, temporary = self.make_pipe()
        return _itself, (temporary,)


def _itself(end):
    return end


def send_through(end):
    end.send("through")
