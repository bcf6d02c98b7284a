"""The stdlib's exceptions, so that one `except` clause serves both, and fastmp's own."""

from multiprocessing.context import (
    AuthenticationError,
    BufferTooShort,
    ProcessError,
    TimeoutError,
)

from ._native import CorruptedError, OwnerDiedWarning

__all__ = [
    "AuthenticationError",
    "BufferTooShort",
    "CorruptedError",
    "OwnerDiedWarning",
    "ProcessError",
    "TimeoutError",
]
