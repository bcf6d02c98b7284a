"""mpire: a pool on the stdlib's queues, with its own handlers; forked workers, kept between maps."""

from multiprocessing import set_start_method

import mpire

__all__ = ["get_context", "set_start_method"]


class Pool:
    def __init__(self, workers):
        self._pool = mpire.WorkerPool(workers, start_method="fork", keep_alive=True)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._pool.terminate()

    def map(self, function, items, chunksize=None):
        return self._pool.map(function, items, chunk_size=chunksize)

    def imap(self, function, items):
        return self._pool.imap(function, list(items), chunk_size=1)  # it asks for their number

    def imap_unordered(self, function, items):
        return self._pool.imap_unordered(function, items, chunk_size=1)

    def apply(self, function, args):
        return self._pool.apply(function, args)


class Context:
    Pool = Pool


def get_context(_):
    return Context
