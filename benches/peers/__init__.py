"""Other packages' queues under `multiprocessing.Queue`'s names, as far as the cases use these.

Each module stands in for `multiprocessing`: processes are the stdlib's, `Queue(maxsize)` is the
package's. Those that carry bytes only are given pickles, as their users would do.
"""

NAMES = ["faster_fifo", "zeroq", "pyzmq", "cloudtoid"]
