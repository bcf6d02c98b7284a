"""Preloaded by a fork server: while the file FASTMP_TEST_DIES is there, the server is killed before it
says that it has started a child; if "child" stands in it, by the child, which kills itself as well.
"""

import os
import signal

from fastmp import forkserver

_server = os.getpid()
_send = forkserver.send
_tell_started = forkserver.tell_started


def die(kind):
    path = os.environ["FASTMP_TEST_DIES"]
    if kind == forkserver.STARTED and os.path.exists(path):
        with open(path) as file:
            who = file.read()
        if os.getpid() == _server:
            if who == "child":
                signal.pause()
            os.unlink(path)
            os.kill(_server, signal.SIGKILL)
        elif who == "child":
            os.unlink(path)
            os.kill(_server, signal.SIGKILL)
            os.kill(os.getpid(), signal.SIGKILL)


def send(line, kind, number, word, fds=(), rest=b""):
    die(kind)
    _send(line, kind, number, word, fds, rest)


def tell_started(line, number, pid):
    die(forkserver.STARTED)
    _tell_started(line, number, pid)


forkserver.send = send
forkserver.tell_started = tell_started
