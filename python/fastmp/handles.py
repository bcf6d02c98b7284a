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


class ChannelFd:
    """A descriptor that rides on a channel's socket, beside the message that names it."""

    def __init__(self, index: int) -> None:
        self._index = index

    def detach(self) -> int:
        return _native._received_fd(self._index)


def assert_travelling(obj: object) -> None:
    """Raises RuntimeError unless what is being pickled goes straight to another process."""
    if not _native._in_channel():
        assert_spawning(obj)


def reduce_block(obj: Any) -> Reduced:
    """Reduces an object inside a segment that it shares with others: `_handle()` is `(fd, *numbers)`."""
    reduced = _reduce(obj, fds=1)
    popen = get_spawning_popen()
    if popen is not None:
        # Until the child has attached it, nobody else may hold the block: it must not be reused.
        vars(popen).setdefault("_fastmp_held", []).append(obj)
    return reduced


def reduce_channel(obj: Any) -> Reduced:
    """Reduces a channel, which has a segment of its own: `_handle()` is `(memfd, wakefd, *numbers)`."""
    # Not held as a block is: the parent's copy of a Connection would keep its peer from seeing the end.
    return _reduce(obj, fds=2)


def _reduce(obj: Any, fds: int) -> Reduced:
    assert_travelling(obj)
    handle = obj._handle()
    return rebuild, (type(obj), [_lend(obj, fd) for fd in handle[:fds]], handle[fds:])


def _lend(obj: Any, fd: int) -> Any:
    if _native._in_channel():
        return ChannelFd(_native._channel_fd(fd))
    popen = get_spawning_popen()
    # Any popen, also the stdlib's: there a descriptor passed twice is an error.
    lent = vars(popen).setdefault("_fastmp_lent", {})
    if fd not in lent:
        lent[fd] = popen.DupFd(popen.duplicate_for_child(fd))
    return lent[fd]


def rebuild(cls: Any, descriptors: list[Any], numbers: tuple[int, ...]) -> Any:
    """Makes the object anew in the process that it has come to."""
    fds = [descriptor.detach() for descriptor in descriptors]
    for fd in fds:
        os.set_inheritable(fd, False)  # it has just come through an exec, and shall not through another
    return cls._attach(*fds, *numbers)
