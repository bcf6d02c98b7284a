"""pebble: a pool on the stdlib's pipes, which ends tasks that take too long; forked workers."""

import multiprocessing
from multiprocessing import set_start_method

import pebble

__all__ = ["ProcessPoolExecutor", "get_context", "set_start_method"]


class Pool:
    def __init__(self, workers):
        self._pool = pebble.ProcessPool(workers, context=multiprocessing.get_context("fork"))

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._pool.stop()
        self._pool.join()

    def map(self, function, items, chunksize):
        return list(self._pool.map(function, items, chunksize=chunksize).result())

    def imap(self, function, items):
        return self._pool.map(function, items).result()

    def apply(self, function, args):
        return self._pool.schedule(function, args).result()


class ProcessPoolExecutor(Pool):
    def __init__(self, workers, _):
        super().__init__(workers)

    def submit(self, function, *args):
        return self._pool.schedule(function, args)


class Context:
    Pool = Pool


def get_context(_):
    return Context
