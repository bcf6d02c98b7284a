"""joblib: maps over loky's workers."""

from multiprocessing import set_start_method

from joblib import Parallel, delayed
from joblib.externals.loky import get_reusable_executor

__all__ = ["get_context", "set_start_method"]


class Pool:
    """Its workers are the module's, and are kept between maps."""

    def __init__(self, workers):
        self._workers = workers

    def __enter__(self):
        return self

    def __exit__(self, *_):
        get_reusable_executor().shutdown()

    def _run(self, function, items, batch_size, return_as):
        parallel = Parallel(self._workers, batch_size=batch_size, return_as=return_as)
        return parallel(delayed(function)(item) for item in items)

    def map(self, function, items, chunksize="auto"):
        return self._run(function, items, chunksize, "list")

    def imap(self, function, items):
        return self._run(function, items, 1, "generator")

    def imap_unordered(self, function, items):
        return self._run(function, items, 1, "generator_unordered")


class Context:
    Pool = Pool


def get_context(_):
    return Context
