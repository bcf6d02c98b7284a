"""What a process holds: descriptors, mappings, shared memory, children."""

import ctypes
import gc
import importlib
import os
import re
import resource
import signal
import threading
import warnings

from children import foreign
from children.common import process_table, wait_until


def descriptors():
    """How many are open."""
    gc.collect()
    return len(os.listdir("/proc/self/fd")) - 1


def mappings():
    """How many parts the address space has that are backed by a memfd."""
    with open("/proc/self/maps") as file:
        return sum("/memfd:" in line for line in file)


def is_file(fd, name):
    """Does the descriptor lead to a file of that name?"""
    try:
        return name in os.readlink(f"/proc/self/fd/{fd}")
    except OSError:
        return False


def files(name):
    """What is known of each memory file of that name that is open here."""
    return [os.fstat(int(fd)) for fd in os.listdir("/proc/self/fd") if is_file(fd, name)]


def shared_bytes():
    """Memory in all the segments that this process has mapped or holds open, each counted once."""
    segments = {}
    for name in os.listdir("/proc/self/fd"):
        try:
            if os.readlink(f"/proc/self/fd/{name}").startswith("/memfd:"):
                status = os.stat(f"/proc/self/fd/{name}")
                segments[status.st_ino] = status.st_blocks * 512
        except OSError:
            continue
    with open("/proc/self/maps") as file:
        for line in file:
            if "/memfd:" in line:
                span, _, _, _, inode = line.split()[:5]
                path = f"/proc/self/map_files/{re.sub('(^|-)0+(?=.)', lambda m: m[1], span)}"
                try:
                    segments.setdefault(int(inode), os.stat(path).st_blocks * 512)
                except OSError:
                    segments.setdefault(int(inode), 0)
    return sum(segments.values())


def resident_bytes():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def own_children():
    return [p for p in process_table() if p.parent == os.getpid()]


def look():
    """All of it at once."""
    gc.collect()
    return {
        "descriptors": descriptors(),
        "mappings": mappings(),
        "shared bytes": shared_bytes(),
        "resident bytes": resident_bytes(),
    }


def least(cycle, mp):
    """The least of each that is held between a number of cycles.

    Some is kept for a while: after a fork, a descriptor that tells when the child is gone, until 16
    of them are looked through together. So what is held rises and falls, and two looks at any two
    moments differ by that much. What rises at the bottom leaks.
    """
    cycle(1)
    held = look()
    for _ in range(24 if mp.get_start_method() == "fork" else 40):
        cycle(1)
        seen = look()
        held = {what: min(held[what], seen[what]) for what in held}
    return held


def threads():
    return len(os.listdir("/proc/self/task"))


# ---- children


def use(*shared):
    """Touches each object that it was given."""
    for one in shared:
        if hasattr(one, "put"):
            one.put("used")
        elif hasattr(one, "send"):
            one.send("used")
        elif hasattr(one, "get_lock"):
            with one.get_lock():
                one.value += 1
        elif hasattr(one, "set"):
            one.set()
        else:
            with one:
                pass


def use_all(flag, *shared):
    use(*shared)
    flag.value = 1


def use_and_hold(flag, *shared):
    """As `use`, and then waits for its end with all that can be held in hand."""
    use(*shared)
    for one in shared:
        if hasattr(one, "acquire"):
            one.acquire()
    flag.value = 1
    signal.pause()


def work_without_dev_shm(out, method):
    """In a mount namespace of its own, where /dev/shm holds one page."""
    import fastmp

    warnings.simplefilter("ignore", fastmp.OwnerDiedWarning)
    foreign.enter("little shm")
    mp = fastmp.get_context(method)
    for killed in (False, True):
        queue, lock, value, array = mp.Queue(), mp.Lock(), mp.Value("i"), mp.Array("d", 100_000)
        flag, (left, right) = mp.RawValue("b"), mp.Pipe()
        child = mp.Process(target=use_and_hold if killed else use_all, args=(flag, queue, lock, value, right))
        child.start()
        wait_until(lambda flag=flag: flag.value)
        assert (queue.get(), left.recv()) == ("used", "used")
        if killed:
            child.kill()
        child.join()
        assert lock.acquire()
        queue.put(b"x" * (32 << 20))
        assert len(queue.get()) == 32 << 20
        array[:] = array[:]
    assert os.listdir("/dev/shm") == []
    out.value = 1


def make_until_refused(method, kind, conn, module):
    """Sends what an OSError says when this process may open no more descriptors."""
    context = importlib.import_module(module).get_context(method)
    make = getattr(context, kind)
    make(), context.Lock()  # what is made once for all
    kept = []
    resource.setrlimit(resource.RLIMIT_NOFILE, (len(os.listdir("/proc/self/fd")) + 20,) * 2)
    try:
        while True:
            kept.append(make())
            if kind == "Process":
                kept[-1].daemon = True
                kept[-1].start()
    except OSError as error:
        kept.clear()
        conn.send((type(error).__name__, error.errno, error.strerror))


def around_a_very_large_message(last):
    """What is held before a message of 1.6 million objects has gone through a queue, and after it."""
    queue, looks = importlib.import_module("fastmp").Queue(), []

    def make():
        return [("".join(["k", str(i)]), [i]) for i in range(800_000)] + [last]

    def small():
        for _ in range(100):
            queue.put([1, complex(1, 2)])
            queue.get()

    def look_trimmed():
        # What is free is given back, where the C library can (glibc's): only what is held counts.
        getattr(ctypes.CDLL(None), "malloc_trim", lambda _: None)(0)
        looks.append(look())

    def run():
        small()
        made = [make(), make()]  # what the interpreter keeps of such objects is kept from now on
        del made
        look_trimmed()
        item = make()
        queue.put(item)
        assert queue.get() == item
        del item
        small()
        look_trimmed()

    # What is kept is kept by thread: a new one has nothing yet.
    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    return looks
