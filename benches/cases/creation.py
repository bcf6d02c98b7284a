"""Making an object and dropping it."""

from timing import time_statement

from .base import case


def _register(kind, arguments, goal):
    @case(f"create-{kind.lower()}", f"create and drop a {kind}", goal=goal)
    def measure(mp, budget):
        return time_statement(f"mp.{kind}({arguments})", "pass", {"mp": mp}, budget)


_register("Lock", "", 20)
_register("RLock", "", 5)
_register("Semaphore", "", 5)
_register("Event", "", 5)
_register("Condition", "", 5)
_register("Barrier", "2", 5)
_register("Value", "'i', 0", 15)
_register("Queue", "", 8)
_register("Pipe", "", 1.0)
