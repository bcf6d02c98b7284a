"""The stdlib's shared values, which say so where they are asked for what is fastmp's alone."""

from __future__ import annotations

import multiprocessing.sharedctypes
from multiprocessing.sharedctypes import RawArray, RawValue, copy

from .exceptions import unavailable

TYPE_CHECKING = False
if TYPE_CHECKING:
    from multiprocessing.context import BaseContext
    from typing import Any, NoReturn

__all__ = ["Array", "RawArray", "RawValue", "Value", "copy", "synchronized"]


class Synchronized(multiprocessing.sharedctypes.Synchronized):
    """A number or character; the atomic steps raise NotImplementedError."""

    def __reduce__(self) -> tuple[Any, ...]:
        _, arguments = super().__reduce__()
        return type(self), arguments

    def fetch_add(self, n: int, /) -> NoReturn:
        """Raises NotImplementedError."""
        unavailable("Value.fetch_add")

    def fetch_sub(self, n: int, /) -> NoReturn:
        """Raises NotImplementedError."""
        unavailable("Value.fetch_sub")

    def fetch_or(self, n: int, /) -> NoReturn:
        """Raises NotImplementedError."""
        unavailable("Value.fetch_or")

    def fetch_and(self, n: int, /) -> NoReturn:
        """Raises NotImplementedError."""
        unavailable("Value.fetch_and")

    def fetch_xor(self, n: int, /) -> NoReturn:
        """Raises NotImplementedError."""
        unavailable("Value.fetch_xor")

    def exchange(self, n: int, /) -> NoReturn:
        """Raises NotImplementedError."""
        unavailable("Value.exchange")

    def compare_exchange(self, expected: int, new: int, /) -> NoReturn:
        """Raises NotImplementedError."""
        unavailable("Value.compare_exchange")


class SynchronizedArray(multiprocessing.sharedctypes.SynchronizedArray):
    """An array, of which `numpy.asarray` is a view, as with the core; the stdlib's is copied."""

    def __reduce__(self) -> tuple[Any, ...]:
        _, arguments = super().__reduce__()
        return type(self), arguments

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Any:
        """Returns the array as numpy's: its memory, not a copy, unless that is asked for or `dtype` needs one."""
        import numpy

        try:
            view = numpy.asarray(self.get_obj())
        except (NotImplementedError, RuntimeError, TypeError, ValueError):
            view = numpy.asarray(list(self[:]))  # wide characters, for which ctypes has a name that numpy does not know
        if copy:
            return numpy.array(view, dtype)
        return view if dtype is None else view.astype(dtype, copy=False)


class SynchronizedString(SynchronizedArray, multiprocessing.sharedctypes.SynchronizedString):
    """An array of characters."""


def Array(typecode_or_type: Any, size_or_initializer: Any, *, lock: Any = True, ctx: BaseContext | None = None) -> Any:
    """Returns a ctypes array in shared memory, guarded by a lock unless lock=False."""
    return _ours(multiprocessing.sharedctypes.Array(typecode_or_type, size_or_initializer, lock=lock, ctx=ctx))


def Value(typecode_or_type: Any, *args: Any, lock: Any = True, ctx: BaseContext | None = None) -> Any:
    """Returns a ctypes object in shared memory, guarded by a lock unless lock=False."""
    return _ours(multiprocessing.sharedctypes.Value(typecode_or_type, *args, lock=lock, ctx=ctx))


def synchronized(obj: Any, lock: Any = None, ctx: BaseContext | None = None) -> Any:
    """Returns a wrapper around a ctypes object that guards it by `lock`, by default a recursive one of its own."""
    return _ours(multiprocessing.sharedctypes.synchronized(obj, lock, ctx))


def _ours(wrapper: Any) -> Any:
    for ours in Synchronized, SynchronizedArray, SynchronizedString:
        if type(wrapper) is getattr(multiprocessing.sharedctypes, ours.__name__):
            return ours(wrapper.get_obj(), wrapper.get_lock())
    return wrapper


def __getattr__(name: str) -> Any:
    return getattr(multiprocessing.sharedctypes, name)
