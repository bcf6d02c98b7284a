"""The cases, in the order of the table."""

from importlib import import_module

from .base import CASES, Case
from .sharing import SHARING

__all__ = ["CASES", "SHARING", "Case"]

for _module in ["locks", "signals", "values", "creation", "pipes", "queues", "shapes", "processes", "idle"]:
    import_module(f"{__name__}.{_module}")  # registers its cases
