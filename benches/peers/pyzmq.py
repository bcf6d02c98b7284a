"""pyzmq: PUSH and PULL over a Unix socket; one consumer binds, producers connect."""

import os
import tempfile
from multiprocessing import Process, set_start_method, util

import zmq

__all__ = ["Process", "Queue", "set_start_method"]


class Queue:
    """Producers and the one consumer each open their end when they first use it."""

    def __init__(self, maxsize=0):
        self._address = f"ipc://{tempfile.mktemp(prefix='fastmp-bench-')}"
        self._most = maxsize
        self._ends = {}

    def _end(self, kind):
        key = os.getpid(), kind
        if key not in self._ends:
            context = zmq.Context()
            end = context.socket(kind)
            end.set_hwm(self._most)
            # A producer that ends has its messages sent first.
            util.Finalize(self, context.destroy, (-1,), exitpriority=1)
            (end.bind if kind == zmq.PULL else end.connect)(self._address)
            self._ends[key] = end
        return self._ends[key]

    def put(self, obj):
        self._end(zmq.PUSH).send_pyobj(obj, protocol=5)

    def get(self):
        return self._end(zmq.PULL).recv_pyobj()
