"""Connections between processes."""

from __future__ import annotations

import functools
from multiprocessing.reduction import ForkingPickler

from . import handles
from ._native import Connection, Pipe

TYPE_CHECKING = False
if TYPE_CHECKING:
    from multiprocessing.connection import Client, Listener, wait
    from typing import Any

__all__ = ["Client", "Connection", "Listener", "Pipe", "wait"]

# What serialises by the stdlib's pickler (its queues, pools and managers) may send a connection on;
# plain pickle not.
ForkingPickler.register(Connection, handles.reduce_connection_anywhere)


@functools.cache
def _shown_class(cls: type) -> type:
    """A class that is both `cls` and the stdlib's Connection: an end's `__class__`.

    No end is really of this class: to derive from the stdlib's, its module would have to be
    imported first, which costs as much as all of fastmp.
    """
    from multiprocessing import connection

    names: dict[str, Any] = {"__module__": cls.__module__, "__qualname__": cls.__qualname__, "__doc__": cls.__doc__}
    names["__new__"] = lambda shown, *args, **kwargs: cls(*args, **kwargs)
    return type(cls.__name__, (cls, connection.Connection), names)


def __getattr__(name: str) -> Any:
    # The stdlib's, whatever is not ours; it serves our connections too. Its import is not cheap.
    from multiprocessing import connection

    return getattr(connection, name)
