"""Connections between processes."""

from __future__ import annotations

import functools
from multiprocessing.reduction import ForkingPickler

from . import handles
from ._native import Connection, Pipe, _recv, _recv_bytes, _recv_bytes_into

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine
    from multiprocessing.connection import Client, Listener, wait
    from typing import Any

__all__ = ["Client", "Connection", "Listener", "Pipe", "wait"]

# What serialises by the stdlib's pickler (its queues, pools and managers) may send a connection on;
# plain pickle not.
ForkingPickler.register(Connection, handles.reduce_connection_anywhere)


def _method(function: Callable[..., Any]) -> None:
    """Gives `Connection` a method in Python, whose docstring is here.

    What receives is an operator: after a call into C the interpreter looks for signals, and a handler
    that raises would lose the message that was taken out.
    """
    function.__qualname__ = f"Connection.{function.__name__}"
    setattr(Connection, function.__name__, function)


@_method
def recv(self: Connection) -> Any:
    """Receives an object.

    Raises:
        EOFError: nobody has the other end any more, and nothing is left.
        OSError: this end is closed or only writes.
    """
    return _recv[self]


@_method
def recv_bytes(self: Connection, maxlength: int | None = None) -> bytes:
    """Receives a message.

    Raises:
        ValueError: maxlength is negative.
        EOFError: nobody has the other end any more, and nothing is left.
        OSError: the message is longer than maxlength, or this end is closed or only writes.
    """
    if maxlength is None:
        return _recv_bytes[self]
    return _recv_bytes[self, maxlength]


@_method
def recv_bytes_into(self: Connection, buf: Any, offset: int = 0) -> int:
    """Receives a message into a buffer, from byte `offset` on; returns its length in bytes.

    Raises:
        BufferTooShort: it does not fit; its first argument is the message.
        ValueError: offset does not lie within the buffer.
        EOFError: nobody has the other end any more, and nothing is left.
        OSError: this end is closed or only writes.
    """
    return _recv_bytes_into[self, buf, offset]


@_method
async def recv_async(self: Connection) -> Any:
    """Receives an object, in a task of an asyncio event loop.

    A task that is cancelled while it waits takes nothing out. Over a descriptor of the program's,
    it waits for the beginning of a message as a task, and for the rest as `recv`.

    Raises:
        EOFError: nobody has the other end any more, and nothing is left.
        OSError: this end is closed or only writes.
        NotImplementedError: the event loop has no `add_reader`.
    """
    from .asynchronous import take

    return await take(self)


@_method
def send_async(self: Connection, obj: Any) -> Coroutine[Any, Any, None]:
    """Pickles the object at once; what it returns sends it when awaited, once there is room.

    A task that is cancelled while it waits sends nothing. Those that wait in one event loop send in
    the order in which they came. Over a descriptor of the program's, it waits for the descriptor as
    a task, and until all is sent as `send`.

    Raises:
        BrokenPipeError: when awaited: nobody has the other end any more.
        OSError: this end is closed or only reads.
        NotImplementedError: when awaited: the event loop has no `add_reader`.
        Exception: whatever pickling raises.
    """
    from .asynchronous import put

    return put(self, obj)


del recv, recv_async, recv_bytes, recv_bytes_into, send_async


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
