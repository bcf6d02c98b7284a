"""How a native object travels: its descriptors are lent to what carries it, its numbers are pickled."""

from __future__ import annotations

import os
from multiprocessing.context import assert_spawning, get_spawning_popen

from . import _native

TYPE_CHECKING = False  # as typing's, which is left out of all modules here: its import would cost too much
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    Reduced = tuple[Callable[..., Any], tuple[Any, ...]]


class DupFd:
    """A descriptor that a started process inherits under the same number."""

    def __init__(self, fd: int) -> None:
        self._fd = fd

    def detach(self) -> int:
        return self._fd


def assert_travelling(obj: object) -> None:
    """Raises RuntimeError unless what is being pickled goes straight to another process."""
    if not _native._in_channel():
        assert_spawning(obj)


def reduce_block(obj: Any) -> Reduced:
    """Reduces an object inside a segment that others share: its handle is `(fd, token, *numbers)`."""
    return _reduce(obj, fds=2)


def reduce_connection(obj: Any) -> Reduced:
    """Reduces an object with a segment and a socket of its own: its handle is `(fd, fd, *numbers)`."""
    return _reduce(obj, fds=2)


def reduce_queue(obj: Any) -> Reduced:
    """Reduces an object with a segment and both ends of a socket: its handle is `(fd, fd, fd, *numbers)`."""
    return _reduce(obj, fds=3)


def _reduce(obj: Any, fds: int) -> Reduced:
    if _native._in_channel():
        handle = obj._handle()
        return rebuild_received, (type(obj), [_native._channel_fd(fd) for fd in handle[:fds]], handle[fds:])
    assert_spawning(obj)
    handle = obj._handle()
    return rebuild, (type(obj), [_lend(fd) for fd in handle[:fds]], handle[fds:])


def _lend(fd: Any) -> Any:
    popen: Any = get_spawning_popen()
    lent, kept = vars(popen).setdefault("_fastmp_lent", ({}, []))
    if isinstance(fd, _native.Token):
        kept.append(fd)  # its descriptors stay open until the child has them
        fd = fd.fileno()
    # Any popen, also the stdlib's, where a descriptor passed twice is an error.
    if fd not in lent:
        lent[fd] = popen.DupFd(popen.duplicate_for_child(fd))
    return lent[fd]


def forget_lent(popen: Any) -> None:
    """The child has its descriptors: they need not be kept for it any more."""
    vars(popen).pop("_fastmp_lent", None)


def rebuild(cls: Any, descriptors: list[Any], numbers: tuple[int, ...]) -> Any:
    """Makes the object anew in a process that has been started with it."""
    fds = [descriptor.detach() for descriptor in descriptors]
    for fd in fds:
        os.set_inheritable(fd, False)  # it has just come through an exec, and shall not through another
    return cls._attach(*fds, *numbers)


def rebuild_received(cls: Any, indices: list[int], numbers: tuple[int, ...]) -> Any:
    """Makes the object anew where its message is received: its descriptors ride on the channel's socket."""
    return cls._attach(*[_native._received_fd(index) for index in indices], *numbers)
