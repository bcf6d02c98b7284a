"""ctypes objects in shared memory: raw ones, and wrappers that guard one with a lock."""

from __future__ import annotations

import ctypes
import pickle
import weakref
from multiprocessing.context import reduction
from operator import attrgetter

from . import _native, handles, synchronize

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import Any

__all__ = ["Array", "RawArray", "RawValue", "Value", "copy", "synchronized"]

typecode_to_type: dict[str, Any] = {
    "c": ctypes.c_char,
    "u": ctypes.c_wchar,
    "b": ctypes.c_byte,
    "B": ctypes.c_ubyte,
    "h": ctypes.c_short,
    "H": ctypes.c_ushort,
    "i": ctypes.c_int,
    "I": ctypes.c_uint,
    "l": ctypes.c_long,
    "L": ctypes.c_ulong,
    "q": ctypes.c_longlong,
    "Q": ctypes.c_ulonglong,
    "f": ctypes.c_float,
    "d": ctypes.c_double,
}


class Block(_native.Block):
    """The shared memory of one object, zeroed at first."""

    def create_memoryview(self) -> memoryview:
        """Returns the memory; named as in the stdlib, whose rebuild_ctype can so use a block of ours."""
        return memoryview(self)

    def __reduce__(self) -> handles.Reduced:
        return handles.reduce_block(self)


def RawValue(typecode_or_type: Any, *args: Any) -> Any:
    """Returns a ctypes object in shared memory."""
    obj = _new_value(typecode_to_type.get(typecode_or_type, typecode_or_type))
    obj.__init__(*args)
    return obj


def RawArray(typecode_or_type: Any, size_or_initializer: int | Sequence[Any]) -> Any:
    """Returns a ctypes array in shared memory, zeroed or holding the given items."""
    type_ = typecode_to_type.get(typecode_or_type, typecode_or_type)
    if isinstance(size_or_initializer, int):
        return _new_value(type_ * size_or_initializer)
    array = _new_value(type_ * len(size_or_initializer))
    array.__init__(*size_or_initializer)
    return array


def Value(typecode_or_type: Any, *args: Any, lock: Any = True, ctx: Any = None) -> Any:
    """Returns a ctypes object in shared memory, guarded by `lock` (True: a new RLock) unless it is False."""
    obj = RawValue(typecode_or_type, *args)
    return obj if lock is False else _guarded(obj, lock, ctx)


def Array(
    typecode_or_type: Any,
    size_or_initializer: int | Sequence[Any],
    *,
    lock: Any = True,
    ctx: Any = None,
) -> Any:
    """Returns a ctypes array in shared memory, guarded by `lock` (True: a new RLock) unless it is False."""
    obj = RawArray(typecode_or_type, size_or_initializer)
    return obj if lock is False else _guarded(obj, lock, ctx)


def _guarded(obj: Any, lock: Any, ctx: Any) -> SynchronizedBase:
    if lock is True or lock is None:
        lock = _new_lock(ctx)
    elif not hasattr(lock, "acquire"):
        raise AttributeError(f"{lock!r} has no method 'acquire'")
    return synchronized(obj, lock, ctx)


def _new_lock(ctx: Any) -> Any:
    return synchronize.RLock() if ctx is None else ctx.RLock()


def copy(obj: Any) -> Any:
    """Returns a copy of a ctypes object, in shared memory of its own."""
    new_obj = _new_value(type(obj))
    ctypes.pointer(new_obj)[0] = obj
    return new_obj


def synchronized(obj: Any, lock: Any = None, ctx: Any = None) -> SynchronizedBase:
    """Returns a wrapper that guards `obj` with `lock` (a new RLock if there is none)."""
    assert not isinstance(obj, SynchronizedBase), "object already synchronized"
    if isinstance(obj, ctypes._SimpleCData):
        return Synchronized(obj, lock, ctx)
    if isinstance(obj, ctypes.Array):
        if obj._type_ is ctypes.c_char:
            return SynchronizedString(obj, lock, ctx)
        return SynchronizedArray(obj, lock, ctx)
    return _wrapper_class(type(obj))(obj, lock, ctx)


# --- How they travel -------------------------------------------------------------------------------

# What was registered for a type before it was used here, the stdlib's reducer as a rule.
_other_reducers: dict[type, Callable[[Any], Any]] = {}


def _new_value(type_: Any) -> Any:
    return rebuild_ctype(type_, Block(ctypes.sizeof(type_)))


def rebuild_ctype(type_: Any, block: Block) -> Any:
    """Returns a ctypes object of `type_` in the memory of `block`."""
    _register(type_)
    obj = type_.from_buffer(block)
    obj._wrapper = block
    return obj


def _register(type_: type) -> None:
    """Sees to it that objects of a ctypes type pickle by reduce_ctype."""
    reducers = reduction.ForkingPickler._extra_reducers
    registered = reducers.get(type_)
    if registered is not reduce_ctype:
        if registered is not None:
            _other_reducers[type_] = registered
        reduction.ForkingPickler.register(type_, reduce_ctype)


def reduce_ctype(obj: Any) -> Any:
    """Reduces any object of a registered type: one of ours, one of the stdlib's, or one in private memory."""
    wrapper = getattr(obj, "_wrapper", None)
    if isinstance(wrapper, Block):
        handles.assert_travelling(obj)
        type_ = type(obj)
        if isinstance(obj, ctypes.Array):  # the array's own type has no name to pickle it by
            return rebuild_array, (type_._type_, type_._length_, wrapper)
        return rebuild_ctype, (type_, wrapper)
    other = _other_reducers.get(type(obj))
    return obj.__reduce_ex__(pickle.HIGHEST_PROTOCOL) if other is None else other(obj)


def rebuild_array(item_type: Any, length: int, block: Block) -> Any:
    """Returns a ctypes array in the memory of `block`."""
    return rebuild_ctype(item_type * length, block)


# --- Wrappers --------------------------------------------------------------------------------------


def make_property(name: str) -> Any:
    """Returns a property of a wrapper that reads and writes the attribute of the object it guards."""
    read = attrgetter(name)

    def getter(self: SynchronizedBase) -> Any:
        self.acquire()
        try:
            return read(self._obj)
        finally:
            self.release()

    def setter(self: SynchronizedBase, value: Any) -> None:
        self.acquire()
        try:
            setattr(self._obj, name, value)
        finally:
            self.release()

    return property(getter, setter)


class SynchronizedBase:
    """A shared object and the lock that guards it."""

    def __init__(self, obj: Any, lock: Any = None, ctx: Any = None) -> None:
        self._obj = obj
        self._lock = lock or _new_lock(ctx)
        self.acquire = self._lock.acquire
        self.release = self._lock.release

    def __enter__(self) -> Any:
        return self._lock.__enter__()

    def __exit__(self, *args: Any) -> Any:
        return self._lock.__exit__(*args)

    def __reduce__(self) -> Any:
        handles.assert_travelling(self)
        return synchronized, (self._obj, self._lock)

    def get_obj(self) -> Any:
        """Returns the object itself, unguarded."""
        return self._obj

    def get_lock(self) -> Any:
        """Returns the lock."""
        return self._lock

    def __repr__(self) -> str:
        return f"<{type(self).__name__} wrapper for {self._obj}>"


class Synchronized(SynchronizedBase):
    """A number or character."""

    # What make_property("value") does, spelled out: it is the most used one, and this is faster.

    @property
    def value(self) -> Any:
        """The number or character."""
        self.acquire()
        try:
            return self._obj.value
        finally:
            self.release()

    @value.setter
    def value(self, value: Any) -> None:
        self.acquire()
        try:
            self._obj.value = value
        finally:
            self.release()


class SynchronizedArray(SynchronizedBase):
    """An array; each access takes the lock, a loop over its items many times."""

    def __len__(self) -> int:
        return len(self._obj)

    def __getitem__(self, i: Any) -> Any:
        with self:
            return self._obj[i]

    def __setitem__(self, i: Any, value: Any) -> None:
        with self:
            self._obj[i] = value


class SynchronizedString(SynchronizedArray):
    """An array of characters."""

    value = make_property("value")
    raw = make_property("raw")


_wrapper_classes: weakref.WeakKeyDictionary[type, type[SynchronizedBase]] = weakref.WeakKeyDictionary()


def _wrapper_class(type_: Any) -> type[SynchronizedBase]:
    """Returns the wrapper for a structure, with a property for each of its fields."""
    if type_ not in _wrapper_classes:
        properties = {field[0]: make_property(field[0]) for field in type_._fields_}
        name = "Synchronized" + type_.__name__
        _wrapper_classes[type_] = type(name, (SynchronizedBase,), properties)
    return _wrapper_classes[type_]
