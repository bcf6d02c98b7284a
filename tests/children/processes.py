"""Ways to run and to end."""

import importlib
import multiprocessing
import os
import signal
import sys
import time
from multiprocessing import util
from multiprocessing.connection import wait

from children.common import wait_until


def nothing():
    pass


def store(out, value, *, factor=1):
    out.value = value * factor


def end_by(way):
    if way == "sys.exit()":
        sys.exit()
    elif way == "sys.exit(3)":
        sys.exit(3)
    elif way == "sys.exit(text)":
        sys.exit("some text")
    elif way == "os._exit(7)":
        os._exit(7)
    elif way == "raise":
        raise ValueError("expected by the test")
    elif way == "SIGKILL":
        os.kill(os.getpid(), signal.SIGKILL)
    elif way == "SIGTERM":
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        os.kill(os.getpid(), signal.SIGTERM)


def wait_for(flag):
    wait_until(lambda: flag.value, "the end")


def wait_for_and_exit(flag):
    wait_until(lambda: flag.value == 2, "the word")
    sys.exit(4)


def sleep_for_ever(running=None):
    if running is not None:
        running.value = 1
    while True:
        time.sleep(100)


def ignore_sigterm(running):
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    sleep_for_ever(running)


def describe(conn, module):
    """What a child knows of itself."""
    mp = importlib.import_module(module)
    me, parent = mp.current_process(), mp.parent_process()
    conn.send(
        {
            "name": me.name,
            "pid": me.pid,
            "ident": me.ident,
            "getpid": os.getpid(),
            "getppid": os.getppid(),
            "daemon": me.daemon,
            "authkey": bytes(me.authkey),
            "class": type(me).__name__,
            "alive": me.is_alive(),
            "same": me is multiprocessing.current_process(),
            "parent": (parent.name, parent.pid, parent.ident, parent.is_alive()),
            "children": mp.active_children(),
            "method": mp.get_start_method(),
        }
    )


def start_grandchild(out, module, method):
    context = importlib.import_module(module).get_context(method)
    child = context.Process(target=store, args=(out, os.getpid()))
    child.start()
    child.join()
    assert child.exitcode == 0
    assert context.active_children() == []


def start_forbidden(module, method):
    context = importlib.import_module(module).get_context(method)
    try:
        context.Process(target=nothing).start()
    except AssertionError:
        return
    raise RuntimeError("a daemon had a child")


def watch_parent(out, module):
    """Notes that its parent has ended, told by the parent's sentinel."""
    parent = importlib.import_module(module).parent_process()
    out.value = 1
    wait([parent.sentinel])
    out.value = 3 if parent.is_alive() else 2


def start_and_be_killed(out, module, method):
    context = importlib.import_module(module).get_context(method)
    context.Process(target=watch_parent, args=(out, module)).start()
    wait_until(lambda: out.value == 1, "the grandchild")
    os.kill(os.getpid(), signal.SIGKILL)


def note_standard_input(out):
    out.value = int(sys.stdin.read() == "")


def run_at_exit(out):
    util.Finalize(None, store, args=(out, 5), exitpriority=1)


def count_descriptors(out):
    """Open descriptors beyond the standard three and the listing's own."""
    out.value = len(os.listdir("/proc/self/fd")) - 4


def share(*objects):
    """A pool's initializer: its worker's functions find them here."""
    global shared
    shared = objects


def add_to_shared(n):
    value, lock = shared
    with lock:
        value.value += n


def set_item(mapping, key, value):
    mapping[key] = value


def double(queue, out):
    while (item := queue.get()) is not None:
        out.put(2 * item)
        queue.task_done()
    queue.task_done()


def put(queue, item):
    queue.put(item)


def note_interrupt(out):
    try:
        out.value = 1
        while True:
            time.sleep(0.05)  # a signal that comes just before one is seen after it
    except KeyboardInterrupt:
        out.value = 2
