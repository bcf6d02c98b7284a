"""ctypes objects in shared memory: raw ones, and wrappers that guard one with a lock."""

from __future__ import annotations

import ctypes
import functools
import pickle
import weakref
from multiprocessing import reduction
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


# The types that are read and written natively, by the letters that ctypes knows them by, and their
# sizes in bytes. A subclass is none of them: it may have a `value` of its own, and arrays of it
# have items that are objects.
_simple_types: dict[Any, tuple[str, int]] = {
    type_: (type_._type_, ctypes.sizeof(type_)) for type_ in [*typecode_to_type.values(), ctypes.c_bool]
}


class Block(_native.Block):
    """The shared memory of one object, zeroed at first."""

    def create_memoryview(self) -> memoryview:
        """Returns the memory.

        Named as in the stdlib, whose rebuild_ctype can so use a block of ours.
        """
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
    """Returns a ctypes object in shared memory, guarded by `lock` (True: a new RLock), or not."""
    return make_value(typecode_or_type, args, lock, ctx)


def make_value(typecode_or_type: Any, args: tuple[Any, ...], lock: Any, ctx: Any) -> Any:
    """The same, for contexts: arguments by name beside `*args` cost as much as a lock."""
    type_ = typecode_to_type.get(typecode_or_type, typecode_or_type)
    if lock is False or type_ not in _simple_types or len(args) > 1:
        obj = RawValue(type_, *args)
        return obj if lock is False else synchronized(obj, _checked(lock, ctx), ctx)
    letter, size = _simple_types[type_]
    # The ctypes object is made when somebody asks for it: a pickler does, which by then knows the
    # types that it knows.
    if reduction.ForkingPickler._extra_reducers.get(type_) is not reduce_ctype:  # type: ignore[attr-defined]
        _register(type_)
    value = Synchronized._make(type_, letter, Block(size), _checked(lock, ctx))
    if args and not value._store(args[0]):
        value._obj.__init__(*args)
    return value


def Array(
    typecode_or_type: Any,
    size_or_initializer: int | Sequence[Any],
    *,
    lock: Any = True,
    ctx: Any = None,
) -> Any:
    """Returns a ctypes array in shared memory, guarded by `lock` (True: a new RLock), or not."""
    obj = RawArray(typecode_or_type, size_or_initializer)
    return obj if lock is False else synchronized(obj, _checked(lock, ctx), ctx)


def _checked(lock: Any, ctx: Any) -> Any:
    if lock is True or lock in (True, None):  # 1 as well, as in the stdlib
        return _new_lock(ctx)
    if not hasattr(lock, "acquire"):
        raise AttributeError(f"{lock!r} has no method 'acquire'")
    return lock


def _new_lock(ctx: Any) -> Any:
    kind: Any = type(ctx)
    return synchronize.RLock() if ctx is None or _is_plain(kind) else ctx.RLock()


@functools.cache
def _is_plain(context_class: Any) -> bool:
    """Whether its `RLock()` is that of every context of ours: it makes nothing of the context."""
    return getattr(getattr(context_class, "RLock", None), "__module__", None) == f"{__package__}.context"


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


# --- How they travel ---

# What was registered for a type before it was used here, the stdlib's reducer as a rule.
_other_reducers: dict[type, Callable[[Any], Any]] = {}


def _new_value(type_: Any) -> Any:
    return rebuild_ctype(type_, Block(ctypes.sizeof(type_)))


def rebuild_ctype(type_: Any, block: Block) -> Any:
    """Returns a ctypes object of `type_` in the memory of `block`."""
    if reduction.ForkingPickler._extra_reducers.get(type_) is not reduce_ctype:  # type: ignore[attr-defined]
        _register(type_)
    obj = type_.from_buffer(block)
    obj._wrapper = block
    return obj


def _register(type_: type) -> None:
    """Sees to it that objects of a ctypes type pickle by reduce_ctype."""
    registered = reduction.ForkingPickler._extra_reducers.get(type_)  # type: ignore[attr-defined]
    if registered is not None:
        _other_reducers[type_] = registered
    reduction.ForkingPickler.register(type_, reduce_ctype)


def reduce_ctype(obj: Any) -> Any:
    """Reduces any object of a registered type: ours, the stdlib's, or one in private memory."""
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


# --- Wrappers ---


def _accessors(name: str) -> tuple[Callable[..., Any], Callable[..., None]]:
    """Returns methods of a wrapper that read and write the attribute of the object it guards."""
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

    return getter, setter


def make_property(name: str) -> Any:
    """Returns a wrapper's property that reads and writes the attribute of what it guards."""
    return property(*_accessors(name))


def _items(obj: Any) -> tuple[Any, ...]:
    """Returns block, letter and an array's length of what can be got at natively, or nothing."""
    block = getattr(obj, "_wrapper", None)
    if not isinstance(block, Block):
        return ()
    type_: Any = type(obj)
    length: tuple[int, ...] = ()
    if isinstance(obj, ctypes.Array):
        item, length = type_._type_, (type_._length_,)
        if item not in _simple_types or type_ is not item * type_._length_:
            return ()
        type_ = item
    elif type_ not in _simple_types:
        return ()
    # It may be a part of what the block was made for, which has been given the attribute by hand.
    if ctypes.addressof(obj) != block.address:
        return ()
    return block, _simple_types[type_][0], *length


class SynchronizedBase(_native.Guarded):
    """A shared object and the lock that guards it."""

    def __init__(self, obj: Any, lock: Any = None, ctx: Any = None) -> None:
        # By the class: a structure may have a field of that name.
        _native.Guarded._guard(self, obj, lock or _new_lock(ctx), *_items(obj))

    # What `with` does natively with a lock of ours; any other has ways of its own.

    def _enter(self) -> Any:
        return self._lock.__enter__()

    def _exit(self, *args: Any) -> Any:
        return self._lock.__exit__(*args)

    def __reduce__(self) -> Any:
        handles.assert_travelling(self)
        return synchronized, (self._obj, self._lock)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} wrapper for {self._obj}>"

    _rebuild = staticmethod(rebuild_ctype)


@_native._own_descriptors
class Synchronized(_native.GuardedValue, SynchronizedBase):
    """A number or character.

    An integer also has operations that are atomic across processes without the lock: `fetch_add`,
    `fetch_sub`, `fetch_or`, `fetch_and`, `fetch_xor`, `exchange` and `compare_exchange`. They are
    sequentially consistent among themselves, and towards a plain read or write of `value`; but
    `with v: v.value += 1` is a read and a write, and what they do in between is lost.
    """

    _get_value, _set_value = _accessors("value")


@_native._own_descriptors
class SynchronizedArray(_native.GuardedArray, SynchronizedBase):
    """An array; each access takes the lock, a loop over its items many times.

    It is a buffer, as the ctypes array is: `memoryview(array)` and `numpy.asarray(array)` are views
    of the shared memory, which do not take the lock.
    """

    def __bytes__(self) -> bytes:
        return bytes(iter(self))  # its items, not its memory

    def _get_item(self, i: Any) -> Any:
        with self:
            return self._obj[i]

    def _set_item(self, i: Any, value: Any) -> None:
        with self:
            self._obj[i] = value


@_native._own_descriptors
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


def __getattr__(name: str) -> Any:
    # The stdlib's, whatever is not ours.
    from multiprocessing import sharedctypes

    return getattr(sharedctypes, name)
