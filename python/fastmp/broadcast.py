"""Messages from one process, or several, to each of any number of readers."""

from __future__ import annotations

import queue
from collections import namedtuple

from . import _native, handles
from ._native import _recv_broadcast

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any, NamedTuple, Self

    class ReaderInfo(NamedTuple):
        pid: int
        behind: int
        missed: int

    class BroadcastStats(NamedTuple):
        sent: int
        unread: int
        unread_bytes: int
        readers: int

else:
    ReaderInfo = namedtuple("ReaderInfo", ["pid", "behind", "missed"])
    BroadcastStats = namedtuple("BroadcastStats", ["sent", "unread", "unread_bytes", "readers"])

ReaderInfo.__doc__ = """A reader: its process, the messages that it has still to read, those that it missed."""
BroadcastStats.__doc__ = """Messages sent so far; what some reader has still to read; readers."""

__all__ = ["Broadcast", "BroadcastStats", "Reader", "ReaderInfo", "ReaderLaggingError"]


class ReaderLaggingError(queue.Full):
    """There was no room in time, because of slow readers. `readers` are those who are furthest behind."""

    def __init__(self, message: str, readers: list[ReaderInfo] | None = None) -> None:
        super().__init__(message)
        self.readers = readers or []

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.args[0], self.readers)


def _lagging(broadcast: Broadcast) -> ReaderLaggingError:
    """Names who is slow."""
    readers = broadcast.readers()
    most = max((reader.behind for reader in readers), default=0)
    slowest = [reader for reader in readers if reader.behind == most > 0]
    names = ", ".join(dict.fromkeys(f"process {reader.pid} ({reader.behind} messages behind)" for reader in slowest))
    return ReaderLaggingError(f"no room in time: waited for {names or 'readers that have gone on since'}", slowest)


def give_readers(process: object, pid: int, execs: bool) -> None:
    """Puts the readers that a process was started with into the name of the child `pid`; `execs`: it runs a program.

    Else they would be this process's until the child uses them, and its death not theirs.
    """
    for reader in _readers_in(vars(process), 4):
        reader._give(pid, execs)


def _readers_in(value: Any, depth: int) -> Iterator[Reader]:
    if isinstance(value, Reader):
        yield value
    elif depth > 0 and type(value) in (tuple, list, set, frozenset, dict) and len(value) <= 1000:
        for item in value.values() if type(value) is dict else value:
            yield from _readers_in(item, depth - 1)


class Broadcast(_native.Broadcast):
    """Messages of one process, or several, that each reader gets from the moment it joined.

    A large message is copied in once, however many read it. At most `maxsize` messages are there at
    a time (1 to 16384), of at most `max_bytes` bytes. A reader that is slower than that holds the
    senders back, if lag="block", or misses the oldest messages and counts them, if lag="skip". One
    that dies is dropped and holds up nobody.

    A broadcast may be inherited, given to a process, or sent through a channel; so may its readers.
    Who joins later gets nothing of what was sent before.
    """

    def send(self, obj: Any, timeout: float | None = None) -> None:
        """Sends an object to all readers.

        With lag="block" it waits until the slowest has made room, for `timeout` seconds at most.

        Raises:
            ReaderLaggingError: there was no room in time; a queue.Full that names who was waited for.
            ValueError: it is closed here, or shut down; the message is larger than max_bytes.
            TypeError: the object has descriptors (a lock, a queue), which cannot go to many.
            Exception: whatever pickling raises. Nothing has been sent then.
        """
        if not self._send(obj, timeout):
            raise _lagging(self)

    def reader(self) -> Reader:
        """Returns a new reader, which gets every message that is sent from now on.

        Raises:
            ValueError: it is closed here.
            MemoryError: there are 4096 readers.
        """
        return Reader(self)

    def readers(self) -> list[ReaderInfo]:
        """Returns who reads; those who are known to be dead are dropped first.

        Raises:
            ValueError: it is closed here.
        """
        return [ReaderInfo(*reader) for reader in self._readers()]

    def stats(self) -> BroadcastStats:
        """Returns counts, of about this instant.

        Raises:
            ValueError: it is closed here.
        """
        return BroadcastStats(*self._stats())

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def __reduce__(self) -> handles.Reduced:
        return handles.reduce_segment(self)


class Reader(_native.BroadcastReader):
    """Gets each message of a broadcast from the moment it was made.

    It belongs to one process. Given to a process that is started, or sent through a channel, it is
    the receiver's from when it arrives, with all that it has not read; here its calls raise
    ValueError then. In a forked child, the child's first `recv` takes it over if nothing had been
    received by it at the fork; else the child's copy becomes a reader of its own, at the same
    message.

    Who gives it away may drop it. If it was closed meanwhile, or the process that sent it through a
    channel has died, or it was under way for more than ten seconds (in a queue that nobody reads, in
    a message that was thrown away), then nobody waits for it: it goes on with what is still there
    when it arrives, and counts the rest as missed.

    An iteration ends when the broadcast has been shut down and nothing is left.
    """

    # By an operator: after a call the interpreter looks for signals, and a handler that raises
    # would lose the message.
    def recv(self, timeout: float | None = None) -> Any:
        """Returns the next message; waits for one for `timeout` seconds at most.

        Raises:
            queue.Empty: none has come.
            EOFError: the broadcast has been shut down, and nothing is left.
            ValueError: it is closed, or belongs to another process now.
        """
        return _recv_broadcast[self, timeout]

    def __iter__(self) -> Iterator[Any]:
        return self

    def __next__(self) -> Any:
        try:
            return _recv_broadcast[self, None]
        except EOFError:
            raise StopIteration from None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def __reduce__(self) -> handles.Reduced:
        if handles.is_for_nobody():
            return object, ()  # to pickle it is to give it away
        return handles.reduce_segment(self)
