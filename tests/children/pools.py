"""What a pool's workers run."""

import os
import signal
import sys
import time

import fastmp

from children.common import wait_until

# --- As it should be ---


def square(x):
    return x * x


def add(x, y=0):
    return x + y


def pid(_=None):
    return os.getpid()


def nap(seconds):
    time.sleep(seconds)
    return os.getpid()


def wait_for(path):
    """Until the test has made this file."""
    wait_until(lambda: os.path.exists(path), path)
    return path


def same(x):
    return x


def blob(seed, size):
    """Bytes that say whose they are."""
    return bytes([seed % 251]) * size


def fail(x):
    raise KeyError(x)


def shared_length(_=None):
    return len(fastmp.pool.shared())


# --- Ends ---


def die(number=signal.SIGKILL):
    os.kill(os.getpid(), number)
    time.sleep(60)


def wait_and_die(path):
    wait_for(path)
    die()


def die_at(x, fatal):
    if x == fatal:
        die()
    return x * x


def exit_by(how):
    if how == "_exit":
        os._exit(3)
    if how == "_exit 0":
        os._exit(0)
    if how == "exit 0":
        sys.exit()
    if how == "interrupt":
        raise KeyboardInterrupt
    sys.exit(4)


def die_once(path):
    """Kills who runs it for the first time."""
    try:
        os.close(os.open(path, os.O_CREAT | os.O_EXCL))
    except FileExistsError:
        return "again"
    return die()


def count_and_die(path):
    with open(path, "ab") as file:
        file.write(b"x")
    die()


def initialize_or_fail(how):
    if how == "kill":
        die()
    raise ValueError("an initializer that raises")


def remember(value):
    global remembered
    remembered = value


def recall(_=None):
    return remembered


remembered = None

# --- What does not travel ---


class Square:
    """Arrives as an int. To be pickled it runs Python code, which may be interrupted."""

    def __init__(self, x):
        self.x = x

    def __reduce__(self):
        return square, (self.x,)


class Unpicklable:
    def __reduce__(self):
        raise RuntimeError("not to be pickled")


class Unreadable:
    """Pickles, and does not unpickle."""

    def __reduce__(self):
        return refuse, ()


def refuse():
    raise RuntimeError("not to be unpickled")


class Demanding(Exception):
    """One of those that pickle and do not unpickle."""

    def __init__(self, one, other):
        super().__init__(one)


def unpicklable(_=None):
    return Unpicklable()


def unreadable(_=None):
    return Unreadable()


def raise_demanding(_=None):
    raise Demanding(1, 2)


class Counting:
    """With a state that a call changes."""

    def __init__(self):
        self.calls = 0

    def __call__(self, x):
        self.calls += 1
        return self.calls


def die_at_three_politely(x):
    if x == 3:
        raise KeyError(x)
    return x


def nap_and_blob(size):
    time.sleep(0.01)
    return os.getpid(), bytes(size)


def meet(task):
    """Returns when so many processes are in this room."""
    room, count, size = task
    with open(os.path.join(room, str(os.getpid())), "w"):
        wait_until(lambda: len(os.listdir(room)) == count, "the others")
    return os.getpid(), bytes(size)


class CountsPickles:
    count = 0

    def __reduce__(self):
        CountsPickles.count += 1
        return CountsPickles, ()


def take_remembered(x):
    with remembered:
        return x


def die_at_five(x):
    return die_at(x, 5) and x if x else 0


def die_once_with(path, blob):
    die_once(path)
    return blob


def have_a_child():
    child = fastmp.get_context("fork").Process(target=square, args=(1,))
    child.start()
    child.join()
    return child.exitcode
