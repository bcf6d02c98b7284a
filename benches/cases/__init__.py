"""The cases, in the order of the table."""

from importlib import import_module

from .base import CASES, Case
from .sharing import SHARING

__all__ = ["CASES", "SHARING", "Case"]

_MODULES = "locks signals values creation pipes queues tasks pools broadcasts shapes processes idle"
for _module in _MODULES.split():
    import_module(f"{__name__}.{_module}")  # registers its cases
