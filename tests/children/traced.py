"""What a tracer has unpickled in children, so that they trace too, and what they then do."""

import multiprocessing.process
import os


def say(*words):
    """In one piece, whatever buffers there are."""
    os.write(1, (" ".join(map(str, words)) + "\n").encode())


def work():
    say("at work")


def put_and_send(lock, queue, conn):
    with lock:
        queue.put(5)
        conn.send(6)


class Stowaway:
    def __getstate__(self):
        return {"some": "state"}

    def __setstate__(self, state):
        original = multiprocessing.process.BaseProcess._bootstrap

        def _bootstrap(self, *args, **kwargs):
            say("a stowaway's _bootstrap")
            return original(self, *args, **kwargs)

        multiprocessing.process.BaseProcess._bootstrap = _bootstrap
