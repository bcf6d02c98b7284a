"""Other packages' queues and pools under `multiprocessing`'s names, as far as the cases use these.

Each module stands in for `multiprocessing`: processes are the stdlib's, `Queue(maxsize)` is the
package's, or `get_context(method).Pool(workers)` and `ProcessPoolExecutor(workers, context)`. Queues
that carry bytes only are given pickles, as their users would do.
"""

NAMES = ["faster_fifo", "zeroq", "pyzmq", "cloudtoid", "loky", "mpire", "pebble", "joblib"]
