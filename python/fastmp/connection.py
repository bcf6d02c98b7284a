"""Connections between processes."""

from __future__ import annotations

import copyreg

from . import handles
from ._native import Connection, Pipe

TYPE_CHECKING = False
if TYPE_CHECKING:
    from multiprocessing.connection import Client, Listener, wait

__all__ = ["Client", "Connection", "Listener", "Pipe", "wait"]

copyreg.pickle(Connection, handles.reduce_connection)


def __getattr__(name: str) -> object:
    # The stdlib's, which serve our connections as well; importing them costs as much as all of fastmp.
    if name in ("Client", "Listener", "wait"):
        from multiprocessing import connection

        return globals().setdefault(name, getattr(connection, name))
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
