"""Connections between processes."""

from __future__ import annotations

import copyreg

from . import handles
from ._native import Connection, Pipe

TYPE_CHECKING = False
if TYPE_CHECKING:
    from multiprocessing.connection import Client, Listener, wait
    from typing import Any

__all__ = ["Client", "Connection", "Listener", "Pipe", "wait"]

copyreg.pickle(Connection, handles.reduce_connection)


def __getattr__(name: str) -> Any:
    # The stdlib's, whatever is not ours; it serves our connections as well. Its import is not cheap.
    from multiprocessing import connection

    return getattr(connection, name)
