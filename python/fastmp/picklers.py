"""Other picklers (cloudpickle, dill, a program's own) in the place of the stdlib's."""

from __future__ import annotations

import collections
import functools
import importlib
import pickle
import types
from multiprocessing.reduction import ForkingPickler

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

__all__ = ["check", "dump_by", "find", "reference"]


def check(pickler: Any) -> None:
    """Raises TypeError unless `pickler` has what a pickler needs."""
    if _class_of(pickler) is None and not callable(getattr(pickler, "dumps", None)):
        raise TypeError(f"a pickler has `dumps`, or a class `Pickler`, as cloudpickle and dill; {pickler!r} has not")


def _class_of(pickler: Any) -> Any:
    """The class of picklers in a module, or whatever it is; None if it only has functions."""
    for found in (pickler, getattr(pickler, "Pickler", None)):
        if isinstance(found, type) and issubclass(found, (pickle.Pickler, pickle._Pickler)):
            return found
    return None


def dump_by(pickler: Any) -> Callable[[Any, Any], None]:
    """Returns `dump(obj, file)`, which writes what `pickle.load` reads, whatever the pickler's own format."""
    loads = getattr(pickler, "loads", pickle.loads)
    cls = _class_of(pickler)
    if cls is not None and loads == pickle.loads:
        return functools.partial(_dump, cls)
    return functools.partial(_dump_inside, pickler.dumps if cls is None else functools.partial(_dumps, cls), loads)


def _dump(cls: Any, obj: Any, file: Any) -> None:
    # dill leaves it to the child to know the main module's variables, unless it is told to look
    # which of them a function uses: the child has not got what the program has made of them.
    pickler = cls(file, recurse=True) if cls.__module__.partition(".")[0] == "dill" else cls(file)
    table: Any = getattr(pickler, "dispatch_table", ForkingPickler._copyreg_dispatch_table)  # type: ignore[attr-defined]
    registered = ForkingPickler._extra_reducers  # type: ignore[attr-defined]
    # What a program has registered comes first; what the stdlib has, for methods and so on, other
    # picklers do better.
    first = {key: reduce for key, reduce in registered.items() if reduce.__module__ != ForkingPickler.__module__}
    table = collections.ChainMap(first, table, registered)
    if isinstance(pickler, pickle.Pickler):
        # Not by an assignment: a class may have an attribute of that name, which hides the one that counts.
        vars(pickle.Pickler)["dispatch_table"].__set__(pickler, table)
    else:
        pickler.dispatch_table = table
    pickler.dump(obj)


def _dumps(cls: Any, obj: Any) -> bytes:
    import io

    file = io.BytesIO()
    _dump(cls, obj, file)
    return file.getvalue()


class _Inside:
    """Reduces to a call of the pickler's own `loads`."""

    def __init__(self, loads: Callable[[bytes], Any], data: bytes) -> None:
        self._loads, self._data = loads, data

    def __reduce__(self) -> tuple[Callable[[bytes], Any], tuple[bytes]]:
        return self._loads, (self._data,)


def _dump_inside(dumps: Callable[[Any], bytes], loads: Callable[[bytes], Any], obj: Any, file: Any) -> None:
    ForkingPickler(file).dump(_Inside(loads, bytes(dumps(obj))))


def reference(pickler: Any) -> str | None:
    """Returns how another process finds the pickler, None if it cannot."""
    if isinstance(pickler, types.ModuleType):
        return pickler.__name__
    if isinstance(pickler, type) and "<locals>" not in pickler.__qualname__:
        return f"{pickler.__module__}:{pickler.__qualname__}"
    return None


def find(name: str) -> Any:
    """Returns the pickler that is found so.

    Raises:
        ImportError: there is no such module here.
        AttributeError: it has no such class.
    """
    module, _, path = name.partition(":")
    found: Any = importlib.import_module(module)
    for part in path.split(".") if path else ():
        found = getattr(found, part)
    return found
