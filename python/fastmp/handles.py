"""How a native object travels: its descriptors are lent to what carries it, its numbers pickled."""

from __future__ import annotations

from multiprocessing.context import assert_spawning, get_spawning_popen

from . import _native

TYPE_CHECKING = False  # as typing's, which is left out of all modules here: its import would cost too much
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    Reduced = tuple[Callable[..., Any], tuple[Any, ...]] | tuple[Callable[..., Any], tuple[Any, ...], Any]


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


def is_for_nobody() -> bool:
    """Whether what is being pickled is only tried, and goes nowhere (see `pickling_errors`)."""
    return getattr(get_spawning_popen(), "is_nobody", False)


def reduce_block(obj: Any) -> Reduced:
    """Reduces an object in a segment that others share: its handle is `(fd, token, *numbers)`."""
    return _reduce(obj, type(obj), obj._handle, 2, shared=2)


def reduce_queue(obj: Any) -> Reduced:
    """Reduces an object like that, with a socket: its handle is `(fd, token, fd, fd, *numbers)`."""
    return _reduce(obj, type(obj), obj._handle, 4, shared=2)


def reduce_segment(obj: Any) -> Reduced:
    """Reduces an object with a segment of its own: its handle is `(fd, *numbers)`."""
    return _reduce(obj, type(obj), obj._handle, 1, shared=0)


def reduce_connection(obj: Any) -> Reduced:
    """Reduces an object like that, with a memory file: its handle is `(fd, token, fd, fd, *numbers)`."""
    return _reduce_connection(obj, share=False)


def reduce_connection_anywhere(obj: Any) -> Reduced:
    """The same.

    Outside our channels the descriptors are asked for here by whoever unpickles, as in the stdlib.
    """
    return _reduce_connection(obj, share=True)


def _reduce_connection(obj: Any, share: bool) -> Reduced:
    handle = obj._export()
    if handle is not None:
        return _reduce(obj, type(obj), lambda: handle, 4, shared=3, share=share)
    handle = (obj.fileno(), type(obj), obj.readable, obj.writable)
    return _reduce(obj, _OverDescriptor, lambda: handle, 1, shared=0, share=share)


class _OverDescriptor:
    """Makes a connection of the stdlib's kind."""

    @staticmethod
    def _attach(descriptor: _native.Descriptor, cls: Any, readable: bool, writable: bool) -> Any:
        return cls(descriptor.detach(), readable, writable)


def _reduce(obj: Any, cls: Any, lend: Callable[[], Any], fds: int, shared: int, share: bool = False) -> Reduced:
    """Lends `fds` descriptors. The first `shared` serve other objects too, the others it closes by itself."""
    if _native._in_channel():
        handle = lend()
        indices = [_native._channel_fd(fd, at >= shared) for at, fd in enumerate(handle[:fds])]
        return rebuild_received, (cls, indices, handle[fds:], shared)
    if share and get_spawning_popen() is None:
        from multiprocessing.resource_sharer import DupFd as SharedFd

        handle = lend()
        return rebuild_shared, (cls, [SharedFd(_number(fd)) for fd in handle[:fds]], handle[fds:])
    assert_spawning(obj)
    handle = lend()
    return rebuild, (cls, [_lend(fd, obj) for fd in handle[:fds]], handle[fds:])


def _number(fd: Any) -> int:
    """Of a descriptor that is lent as a token too."""
    return fd.fileno() if isinstance(fd, _native.Token) else fd


class _Lent:
    """A descriptor lent to the child that is being started: one for each number.

    So the child gets each number once, as every popen demands, also the stdlib's. What is made of
    it there takes a copy, or shares it with others of its kind, and the number itself is closed
    when all have been unpickled.
    """

    def __init__(self, fd: Any, lender: object) -> None:
        # It may be a temporary, made by a `__reduce__`: its descriptor must be open still, and its
        # number nobody else's, when the child is started.
        self._lender = lender
        self._fd = fd  # a token's descriptors stay open until the child has them
        self._pickled = False
        self._sockets: list[Any] = []

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        popen: Any = get_spawning_popen()
        fd = _number(self._fd)
        if not self._pickled:
            self._pickled = True
            return inherited, (popen.DupFd(popen.duplicate_for_child(fd)),)
        # Another pickle for the same child (one inside the other, as by cloudpickle) needs a
        # descriptor of its own. It waits in a socket: a copy here would stay open, and hide that
        # the child has closed its own, for as long as the popen is kept.
        import socket

        sending, receiving = (socket.socket(fileno=end) for end in _native._socket_pair())
        self._sockets.append(receiving)
        with sending:
            socket.send_fds(sending, [b"."], [fd])
        return inherited_in_socket, (popen.DupFd(popen.duplicate_for_child(receiving.fileno())),)


def _lend(fd: Any, lender: object) -> _Lent:
    popen: Any = get_spawning_popen()
    lent = vars(popen).setdefault("_fastmp_lent", {})
    number = _number(fd)
    if number not in lent:
        # The stdlib's never forget what they were lent: nobody would see the end of a channel.
        lent[number] = _Lent(fd, lender if getattr(popen, "forgets_lent", False) else None)
    return lent[number]


def forget_lent(popen: Any) -> None:
    """The child has its descriptors: they need not be kept for it any more."""
    vars(popen).pop("_fastmp_lent", None)


def inherited(descriptor: Any) -> _native.Descriptor:
    """Makes of a lent descriptor, in the started process, what objects are made of."""
    return _native.Descriptor(descriptor.detach())


def inherited_in_socket(descriptor: Any) -> _native.Descriptor:
    """The same of one that waits in a socket, which was lent."""
    import socket

    with socket.socket(fileno=descriptor.detach()) as receiving:
        _, (fd,), _, _ = socket.recv_fds(receiving, 1, 1)
    return _native.Descriptor(fd)


def rebuild(cls: Any, descriptors: list[_native.Descriptor], numbers: tuple[Any, ...]) -> Any:
    """Makes the object anew in a process that has been started with it."""
    return cls._attach(*descriptors, *numbers)


def rebuild_received(cls: Any, indices: list[int], numbers: tuple[Any, ...], shared: int) -> Any:
    """Makes the object anew where its message is received: its descriptors come with it."""
    fds = [_native._received_fd(index, at >= shared) for at, index in enumerate(indices)]
    return cls._attach(*fds, *numbers)


def rebuild_shared(cls: Any, descriptors: list[Any], numbers: tuple[Any, ...]) -> Any:
    """Makes the object anew where something else than a channel of ours has brought it."""
    return rebuild(cls, [inherited(descriptor) for descriptor in descriptors], numbers)
