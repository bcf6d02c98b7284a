"""loky: an executor whose workers are programs of their own, on the stdlib's queues."""

from concurrent.futures import as_completed
from multiprocessing import set_start_method

import loky

__all__ = ["ProcessPoolExecutor", "get_context", "set_start_method"]


class ProcessPoolExecutor(loky.ProcessPoolExecutor):
    """It starts them as it does: with fork it would be no other than the stdlib's."""

    def __init__(self, workers, _):
        super().__init__(workers)


class Pool:
    def __init__(self, workers):
        self._executor = loky.ProcessPoolExecutor(workers)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._executor.shutdown()

    def map(self, function, items, chunksize):
        return list(self._executor.map(function, items, chunksize=chunksize))

    def imap(self, function, items):
        return self._executor.map(function, items)

    def imap_unordered(self, function, items):
        for future in as_completed([self._executor.submit(function, item) for item in items]):
            yield future.result()

    def apply(self, function, args):
        return self._executor.submit(function, *args).result()


class Context:
    Pool = Pool


def get_context(_):
    return Context
