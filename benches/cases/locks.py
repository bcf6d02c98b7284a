"""Locks: alone, and with other processes at the same lock."""

from time import perf_counter

from timing import time_statement

from .base import case, race


def _register_pair(kind, floor):
    @case(f"{kind.lower()}-acquire-release", f"{kind}: acquire + release", goal=1.3, floor=floor)
    def measure(mp, budget):
        return time_statement("lock.acquire(); lock.release()", f"lock = mp.{kind}()", {"mp": mp}, budget, unroll=10)


_register_pair("Lock", floor=0.9)
_register_pair("RLock", floor=None)
_register_pair("Semaphore", floor=None)


def _register_with(kind, floor=None):
    @case(f"with-{kind.lower()}", f"with {kind.lower()}", goal=4, floor=floor)
    def measure(mp, budget):
        return time_statement("with lock: pass", f"lock = mp.{kind}()", {"mp": mp}, budget, unroll=10)


_register_with("Lock", floor=2.5)
_register_with("RLock")
_register_with("Semaphore")


def _register_refused(kind, title):
    @case(f"{kind.lower()}-refused", title, goal=1.0)
    def measure(mp, budget):
        # Held by another process, as a lock that one tries for is.
        lock, held, done = getattr(mp, kind)(), mp.Event(), mp.Event()

        def hold():
            lock.acquire()
            held.set()
            done.wait()
            lock.release()

        holder = mp.Process(target=hold)
        holder.start()
        held.wait()
        try:
            return time_statement("acquire(False)", "acquire = lock.acquire", {"lock": lock}, budget, unroll=10)
        finally:
            done.set()
            holder.join()


_register_refused("Lock", "Lock that is held: acquire(False)")
_register_refused("RLock", "RLock that is held: acquire(False)")
_register_refused("Semaphore", "Semaphore at 0: acquire(False)")


def _register_contended(processes, goal):
    @case(f"lock-{processes}-processes", f"{processes} processes on one lock: acquire + release", goal=goal)
    def measure(mp, budget):
        lock = mp.Lock()
        seconds = 3 * budget  # long enough for the scheduler to try more than one placement

        # For a time, not for a count: no process is left to finish alone, with the lock to itself.
        def take_turns():
            turns = 0
            deadline = perf_counter() + seconds
            while perf_counter() < deadline:
                for _ in range(200):
                    lock.acquire()
                    lock.release()
                turns += 200
            return turns

        elapsed, turns = race(mp, *[take_turns] * processes)
        return elapsed / sum(turns)


_register_contended(2, 2.0)
_register_contended(4, 2.0)
_register_contended(8, 1.0)
_register_contended(16, 1.0)
