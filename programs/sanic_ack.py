"""Why sanic's process tests hang now and then: a worker's acknowledgement is lost, on the stdlib as on fastmp.

    PYTHON [-m fastmp run] programs/sanic_ack.py [--delay SECONDS] [--method fork]

sanic's manager writes a worker's state, once it has started it, as `state[name] = {**state[name], ...}`: read, then
written back, in a dict of `multiprocessing.Manager`. The worker writes that it is ready in the same way. If the manager
is held up between starting a worker and its own writing for as long as the worker takes to be ready, "ACKED" is
overwritten by "STARTED", for ever. If nothing else happens, sanic gives up after 30 s; if the worker has called
`app.stop()` by then, as in sanic's tests, `wait_for_ack` finds that message in its pipe, puts it back, and looks
again, without counting: it never ends. --delay is that hold-up, which a busy machine's scheduler gives for nothing.
Ends with 1 if sanic hangs.
"""

import argparse
import faulthandler
import multiprocessing
import os
import signal
import socket
import sys
import time

from sanic import Sanic
from sanic.worker.process import WorkerProcess

parser = argparse.ArgumentParser()
parser.add_argument("--delay", type=float, default=0.0)
parser.add_argument("--method", default="fork")
parser.add_argument("--workers", type=int, default=2)
parser.add_argument("--limit", type=float, default=60.0, help="seconds after which it is said to hang")
options = parser.parse_args()
Sanic.start_method = options.method
app = Sanic("one")


@app.get("/")
async def handler(request):
    pass


@app.after_server_start
async def stop(app):
    app.stop()


def held_up(self, state, force=False, original=WorkerProcess.set_state):
    """As it is, but for the time that it takes, and for a word."""
    if state.name == "STARTED":
        time.sleep(options.delay)
        if self.worker_state[self.name].get("state") == "ACKED":
            print(f"{self.name} is ready; the manager writes that it has been started", flush=True)
    original(self, state, force)


def hangs():
    print(f"hangs, on {type(multiprocessing.Lock()).__module__}:", flush=True)
    faulthandler.dump_traceback(all_threads=False)
    for child in multiprocessing.active_children():
        child.kill()
    os._exit(1)


def main():
    WorkerProcess.set_state = held_up
    signal.signal(signal.SIGALRM, lambda *_: hangs())
    signal.setitimer(signal.ITIMER_REAL, options.limit)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    app.run("127.0.0.1", port, workers=options.workers, motd=False)
    print(f"ended, on {type(multiprocessing.Lock()).__module__}")
    sys.exit(0)


if __name__ == "__main__":
    main()
