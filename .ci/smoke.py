"""Does the fastmp that is installed here work at all? Needs nothing else; prints one line.

    python smoke.py [native | portable]    which one it has to be: by default the one for this system

Locks, values, queues and pipes between processes by fork and by spawn; and, where it has its core, a holder and a
producer that are killed.
"""

import faulthandler
import os
import platform
import signal
import sys
import warnings

import fastmp as mp

LIMIT = 120  # seconds: a watchdog


def work(lock, counter, queue, pipe):
    for i in range(100):
        with lock:
            counter.value += 1
        queue.put((i, "x" * i))
    with lock:
        pipe.send(bytes(200_000))
    pipe.close()


def die_with(lock, queue):
    lock.acquire()
    queue.put("last words")
    os.kill(os.getpid(), signal.SIGKILL)


def share(context):
    lock, counter, queue = context.Lock(), context.Value("i"), context.Queue()
    ours, theirs = context.Pipe()
    workers = [context.Process(target=work, args=(lock, counter, queue, theirs), daemon=True) for _ in range(2)]
    for worker in workers:
        worker.start()
    theirs.close()
    got = [queue.get(timeout=LIMIT) for _ in range(200)]
    assert sorted(got) == sorted((i, "x" * i) for i in range(100) for _ in range(2))
    assert [len(ours.recv()) for _ in range(2)] == [200_000] * 2
    for worker in workers:
        worker.join(LIMIT)
        assert worker.exitcode == 0, worker
    assert counter.value == 200
    return lock, queue


def outlive(context, lock, queue):
    victim = context.Process(target=die_with, args=(lock, queue), daemon=True)
    victim.start()
    assert queue.get(timeout=LIMIT) == "last words"
    victim.join(LIMIT)
    assert victim.exitcode == -signal.SIGKILL
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        assert lock.acquire(timeout=LIMIT)
    assert [each.category for each in caught] == [mp.OwnerDiedWarning]
    lock.release()


def main():
    faulthandler.dump_traceback_later(2 * LIMIT, exit=True)
    which = sys.argv[1] if len(sys.argv) > 1 else "native" if sys.platform == "linux" else "portable"
    assert mp.accelerated == (which == "native"), f"this is not the {which} one: {mp.__file__}"
    for method in {"fork", "spawn"} & set(mp.get_all_start_methods()):
        context = mp.get_context(method)
        lock, queue = share(context)
        if mp.accelerated:
            outlive(context, lock, queue)
    python = f"{platform.python_implementation()} {platform.python_version()}"
    core = os.path.basename(sys.modules["fastmp._native"].__file__) if mp.accelerated else "no core"
    print(f"fastmp works: {python}, {platform.machine()}, {'-'.join(platform.libc_ver())}, {core}")


if __name__ == "__main__":
    main()
