"""zeroq: a ring of elements of one size in named shared memory, in Rust."""

import os
import pickle
from multiprocessing import Process, set_start_method

import zeroq

__all__ = ["Process", "Queue", "set_start_method"]

ELEMENT = 64  # bytes: each message is as long as that, and a small tuple fits
CAPACITY = 1 << 13


class Queue:
    """Opened by name in each process."""

    _made = 0

    def __init__(self, maxsize=0):
        Queue._made += 1
        self._name = f"fastmp-bench-{os.getpid()}-{Queue._made}"
        self._pid = os.getpid()
        self._made_here = self._queue = zeroq.Queue(self._name, ELEMENT, maxsize or CAPACITY, create=True)

    def _here(self):
        if self._pid != os.getpid():
            self._queue = zeroq.Queue(self._name, create=False)  # the maker's is kept: to drop it removes the name
            self._pid = os.getpid()
        return self._queue

    def put(self, obj):
        self._here().put(pickle.dumps(obj, 5).ljust(ELEMENT))

    def get(self):
        return pickle.loads(self._here().get())
