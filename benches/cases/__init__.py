"""The cases, in the order of the table."""

from importlib import import_module

from .base import CASES, Case

__all__ = ["CASES", "Case"]

for _module in ["locks", "values", "creation", "pipes", "queues", "processes", "idle"]:
    import_module(f"{__name__}.{_module}")  # registers its cases
