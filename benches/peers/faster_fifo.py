"""faster-fifo: a ring in shared memory under a mutex of the C library's, in C++."""

from multiprocessing import Process, set_start_method

import faster_fifo

__all__ = ["Process", "Queue", "set_start_method"]

LARGEST = 256 << 20  # its buffer must hold the messages under way
FOR_EVER = 1e6  # its own default is ten seconds


class Queue:
    def __init__(self, maxsize=0):
        self._queue = faster_fifo.Queue(max_size_bytes=LARGEST, maxsize=maxsize or 1 << 30)
        self._few = []

    def put(self, obj):
        self._queue.put(obj, timeout=FOR_EVER)

    def get(self):
        return self._queue.get(timeout=FOR_EVER)

    def put_many(self, objs):
        self._queue.put_many(objs, timeout=FOR_EVER)

    def get_many(self, most):
        return self._queue.get_many(max_messages_to_get=most, timeout=FOR_EVER)
