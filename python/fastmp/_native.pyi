"""The native core: what is in shared memory. Use it by way of the package's modules.

Timeouts are in seconds, any real number; None waits for ever, zero or less does not wait. A wait
ends when a signal handler raises, and otherwise goes on after the handler, to the same deadline.
Shared memory that makes no sense raises `CorruptedError`, memory that the kernel refuses
`MemoryError`, whatever the call.

`_handle()` lends the descriptors that it returns, which come first: they stay the object's.
`_attach()` makes an object of the class it is called on, by the descriptors that it is given.
`ctx` is accepted as the stdlib's classes do, and not used: an object serves every start method.
`__new__` looks at no argument but its `_handle`, so that a subclass can be called with its own;
that of a broadcast and its reader looks at all.
What is annotated `bool` may be anything: what counts is whether it is true.

It is long because a stub stands beside one module, and says what each name means.
"""

from collections.abc import Callable, Coroutine, Iterable, Sequence
from typing import Any, Literal, Protocol, Self, SupportsIndex, TypeVar, final, type_check_only

from typing_extensions import Buffer

_Class = TypeVar("_Class", bound=type)
_T_co = TypeVar("_T_co", covariant=True)

__all__ = [
    "Barrier",
    "Block",
    "BoundedSemaphore",
    "Broadcast",
    "BroadcastReader",
    "Condvar",
    "Connection",
    "CorruptedError",
    "Descriptor",
    "Event",
    "Guarded",
    "GuardedArray",
    "GuardedValue",
    "Lock",
    "Message",
    "OwnerDiedWarning",
    "Pipe",
    "Queue",
    "RLock",
    "Semaphore",
    "Token",
    "_BUSY",
    "_NOTHING",
    "_acknowledge",
    "_arm",
    "_beside_standard",
    "_call",
    "_channel_fd",
    "_Child",
    "_close_all",
    "_close_same",
    "_data_file",
    "_die_with",
    "_ended",
    "_Ends",
    "_get",
    "_get_many",
    "_in_channel",
    "_inode",
    "_keep_lifeline",
    "_Launch",
    "_make_line",
    "_open_child",
    "_own_descriptors",
    "_pipe",
    "_prepare",
    "_put_many",
    "_put_now",
    "_reap",
    "_receive_packet",
    "_received_fd",
    "_recv",
    "_recv_broadcast",
    "_recv_bytes",
    "_recv_bytes_into",
    "_reset_threading",
    "_send_packet",
    "_send_self",
    "_share_lifeline",
    "_socket_pair",
    "_take_now",
]

class OwnerDiedWarning(RuntimeWarning):
    """The last owner of a lock ended while holding it; what the lock guards may be half-changed."""

class CorruptedError(RuntimeError):
    """Shared memory holds what no fastmp process has written there."""

@final
class Token:
    """A descriptor that keeps an object's memory while a handle to it is under way."""

    def fileno(self) -> int:
        """The descriptor, that of the object's segment if there is no token."""

@final
class Descriptor:
    """A descriptor that came with a message, or to a started process.

    Blocks share it, others take a copy.
    """

    def __new__(cls, fd: int) -> Self:
        """Takes over the number of an inherited descriptor."""

    def detach(self) -> int:
        """Returns a number that is the caller's from now on.

        Raises:
            OSError: there is none left; or it has been used.
        """

class Lock:
    """A lock that is not recursive, and that any process or thread may release.

    If its owner ends, the next `acquire` has it within 100 ms, and warns.
    """

    def __new__(cls, *_args: Any, **_kwargs: Any) -> Self: ...
    def __init__(self, *, ctx: object = None) -> None: ...
    def acquire(self, block: bool = True, timeout: float | None = None) -> bool:
        """Takes the lock; returns False if it was not to be had in time.

        Warns:
            OwnerDiedWarning: the last owner ended while holding it. If the warning is made an
                error, the lock is free again when it is raised.
        """

    def release(self) -> None:
        """Gives the lock back.

        Raises:
            ValueError: nobody holds it.
        """

    def __enter__(self) -> bool: ...
    def __exit__(self, *args: object) -> None: ...
    @property
    def recoveries(self) -> int:
        """How often it was taken over from an owner that had ended."""

    @property
    def owner(self) -> tuple[int, int] | None:
        """Process id and thread id of who holds it, if anyone does."""

    def locked(self) -> bool:
        """Whether anybody holds it."""

    def _is_zero(self) -> bool:
        """Whether anybody holds it."""

    def _get_value(self) -> int:
        """1 if it is free, 0 if it is held."""

    def _is_mine(self) -> bool:
        """Whether this thread holds it."""

    def _count(self) -> int:
        """How often its owner has taken it."""

    def _handle(self) -> tuple[int, Token, int]:
        """Descriptor of the segment, token, and offset in bytes."""

    @classmethod
    def _attach(cls, fd: Descriptor, token: Descriptor, offset: int) -> Self: ...

class RLock:
    """A lock that its owner, a thread of a process, may take again.

    Only the owner may release it. If it ends, the next `acquire` has it within 100 ms, and warns.
    """

    def __new__(cls, *_args: Any, **_kwargs: Any) -> Self: ...
    def __init__(self, *, ctx: object = None) -> None: ...
    def acquire(self, block: bool = True, timeout: float | None = None) -> bool:
        """Takes the lock, once more if this thread has it; returns False if not in time.

        Warns:
            OwnerDiedWarning: as for `Lock.acquire`.
        """

    def release(self) -> None:
        """Undoes one `acquire`.

        Raises:
            AssertionError: this thread does not hold it.
        """

    def __enter__(self) -> bool: ...
    def __exit__(self, *args: object) -> None: ...
    @property
    def recoveries(self) -> int:
        """How often it was taken over from an owner that had ended."""

    @property
    def owner(self) -> tuple[int, int] | None:
        """Process id and thread id of who holds it, if anyone does."""

    def locked(self) -> bool:
        """Whether anybody holds it."""

    def _is_zero(self) -> bool:
        """Whether anybody holds it."""

    def _get_value(self) -> int:
        """1 if it is free, 0 if it is held."""

    def _is_mine(self) -> bool:
        """Whether this thread holds it."""

    def _count(self) -> int:
        """How often its owner has taken it."""

    def _handle(self) -> tuple[int, Token, int]:
        """Descriptor of the segment, token, and offset in bytes."""

    @classmethod
    def _attach(cls, fd: Descriptor, token: Descriptor, offset: int) -> Self: ...

class Semaphore:
    """A count of permits: `acquire` takes one, waiting while there is none; `release` adds one."""

    def __new__(cls, *_args: Any, **_kwargs: Any) -> Self: ...
    def __init__(self, value: int = 1, *, recover: bool = False, ctx: object = None) -> None: ...
    def acquire(self, block: bool = True, timeout: float | None = None) -> bool:
        """Takes a permit; returns False if none was to be had in time.

        Warns:
            OwnerDiedWarning: with `recover`, the permit was a dead process's. If the warning is
                made an error, the permit is free again when it is raised.
        """

    def release(self) -> None:
        """Adds a permit.

        Raises:
            ValueError: the count would overflow; with `recover`, this process holds none.
        """

    def __enter__(self) -> bool: ...
    def __exit__(self, *args: object) -> None: ...
    def get_value(self) -> int:
        """The number of permits left."""

    def locked(self) -> bool:
        """Whether no permit is left."""

    @property
    def maxvalue(self) -> int:
        """The most permits there can be."""

    def _get_value(self) -> int:
        """The number of permits left."""

    def _is_zero(self) -> bool:
        """Whether no permit is left."""

    @property
    def recoveries(self) -> int:
        """How often a permit was taken over from a process that had ended; 0 without `recover`."""

    def _handle(self) -> tuple[int, Token, int, bool]:
        """Descriptor of the segment, token, offset in bytes, and whether it recovers permits."""

    @classmethod
    def _attach(cls, fd: Descriptor, token: Descriptor, offset: int, recover: bool) -> Self: ...

class BoundedSemaphore:
    """A count of permits that never exceeds what it was at first."""

    def __new__(cls, *_args: Any, **_kwargs: Any) -> Self: ...
    def __init__(self, value: int = 1, *, recover: bool = False, ctx: object = None) -> None: ...
    def acquire(self, block: bool = True, timeout: float | None = None) -> bool:
        """Takes a permit; returns False if none was to be had in time.

        Warns:
            OwnerDiedWarning: with `recover`, the permit was a dead process's. If the warning is
                made an error, the permit is free again when it is raised.
        """

    def release(self) -> None:
        """Gives a permit back.

        Raises:
            ValueError: all of them are there already; with `recover`, this process holds none.
        """

    def __enter__(self) -> bool: ...
    def __exit__(self, *args: object) -> None: ...
    def get_value(self) -> int:
        """The number of permits left."""

    def locked(self) -> bool:
        """Whether no permit is left."""

    @property
    def maxvalue(self) -> int:
        """The most permits there can be."""

    def _get_value(self) -> int:
        """The number of permits left."""

    def _is_zero(self) -> bool:
        """Whether no permit is left."""

    @property
    def recoveries(self) -> int:
        """How often a permit was taken over from a process that had ended; 0 without `recover`."""

    def _handle(self) -> tuple[int, Token, int, bool]:
        """Descriptor of the segment, token, offset in bytes, and whether it recovers permits."""

    @classmethod
    def _attach(cls, fd: Descriptor, token: Descriptor, offset: int, recover: bool) -> Self: ...

class Event:
    """A flag to wait for."""

    def __new__(cls, *_args: Any, **_kwargs: Any) -> Self: ...
    def __init__(self, *, ctx: object = None) -> None: ...
    def is_set(self) -> bool:
        """Whether the flag is set."""

    def set(self) -> None:
        """Sets the flag, and wakes all who wait."""

    def clear(self) -> None:
        """Clears the flag."""

    def wait(self, timeout: float | None = None) -> bool:
        """Waits until the flag is set; returns False if it was not in time."""

    def _handle(self) -> tuple[int, Token, int]:
        """Descriptor of the segment, token, and offset in bytes."""

    @classmethod
    def _attach(cls, fd: Descriptor, token: Descriptor, offset: int) -> Self: ...

class Condvar:
    """A place to wait under a lock, which each call names and the calling thread holds."""

    def __new__(cls, *, _handle: tuple[Descriptor, Descriptor, int] | None = None) -> Self: ...
    def wait(self, lock: Lock | RLock, timeout: float | None = None) -> bool:
        """Releases the lock, waits, takes it again; returns False if not notified in time.

        Raises:
            AssertionError: this thread does not hold the lock.
            AttributeError: it is no lock of fastmp.
        """

    def notify(self, lock: Lock | RLock, n: float) -> None:
        """Wakes `n` of those who wait, the longest-waiting first.

        Raises:
            AssertionError: this thread does not hold the lock.
            AttributeError: it is no lock of fastmp.
        """

    def notify_all(self, lock: Lock | RLock) -> None:
        """Wakes all who wait; raises as `notify` does."""

    def waiters(self) -> int:
        """How many wait at this instant."""

    def _handle(self) -> tuple[int, Token, int]:
        """Descriptor of the segment, token, and offset in bytes."""

    @classmethod
    def _attach(cls, fd: Descriptor, token: Descriptor, offset: int) -> Self: ...

class Barrier:
    """A meeting of so many parties."""

    def __new__(cls, parties: int = 0, *, _handle: tuple[Descriptor, Descriptor, int] | None = None) -> Self: ...
    def wait(self, action: Callable[[], Any] | None = None, timeout: float | None = None) -> int:
        """Waits for the others; the last one calls `action`. Returns how many came before.

        Raises:
            threading.BrokenBarrierError: it was broken or reset, a party died, or the time has
                passed.
        """

    def abort(self) -> None:
        """Breaks it."""

    def reset(self) -> None:
        """Makes it whole and empty again; who waits gets BrokenBarrierError."""

    @property
    def parties(self) -> int:
        """How many wait for each other."""

    @property
    def n_waiting(self) -> int:
        """How many wait at this instant; 0 if it is broken."""

    @property
    def broken(self) -> bool:
        """Whether it is broken."""

    def _handle(self) -> tuple[int, Token, int]:
        """Descriptor of the segment, token, and offset in bytes."""

    @classmethod
    def _attach(cls, fd: Descriptor, token: Descriptor, offset: int) -> Self: ...

class Block:
    """Zeroed shared memory; a writable buffer of `size` bytes, one-dimensional, of format 'B'."""

    def __new__(cls, size: int = 0, *, _handle: tuple[Descriptor, Descriptor, int, int] | None = None) -> Self: ...
    @property
    def size(self) -> int:
        """Length in bytes."""

    @property
    def address(self) -> int:
        """Where it is mapped in this process."""

    def __len__(self) -> int: ...
    def __buffer__(self, flags: int, /) -> memoryview: ...
    def _handle(self) -> tuple[int, Token, int, int]:
        """Descriptor of the segment, token, offset and length in bytes."""

    @classmethod
    def _attach(cls, fd: Descriptor, token: Descriptor, offset: int, size: int) -> Self: ...

class Guarded:
    """A ctypes object and the lock that guards it.

    Subclasses have `_rebuild(type, block)`, which makes the object.
    """

    def __new__(cls, *_args: Any, **_kwargs: Any) -> Self: ...
    def acquire(self, block: bool = True, timeout: float | None = None) -> bool:
        """Takes the lock, as its own `acquire` does."""

    def release(self) -> None:
        """Gives the lock back, as its own `release` does."""

    def __enter__(self) -> bool: ...
    def __exit__(self, *args: object) -> None: ...
    def get_lock(self) -> Any:
        """Returns the lock."""

    def get_obj(self) -> Any:
        """Returns the object itself, unguarded."""

    @property
    def _lock(self) -> Any: ...
    @property
    def _obj(self) -> Any: ...
    def _acquire(self, *args: Any, **kwargs: Any) -> Any: ...
    def _release(self) -> Any: ...
    def _guard(
        self, obj: Any, lock: Any, block: Block | None = None, letter: str | None = None, length: int | None = None
    ) -> None:
        """Sets what is guarded, once.

        An object that lies at the start of `block`, of the simple type that ctypes knows by
        `letter`, or an array of `length` such, is got at natively.
        """

    @classmethod
    def _make(cls, class_: Any, letter: str, block: Block, lock: Any) -> Self:
        """Guards a simple object in `block`, which is made when it is asked for.

        Does without `__init__`.
        """

    def _store(self, value: Any) -> bool:
        """Writes a simple object without the lock, if the conversion is a plain one.

        Returns whether it was.
        """

class GuardedValue(Guarded):
    """A number or character.

    Subclasses have `_get_value()` and `_set_value(value)`, for what is not done natively.

    What is atomic here is so across processes, takes no lock, and is sequentially consistent.
    Arguments are ints of any size, of which the lowest bits count, as in C. Raises TypeError for
    other arguments, and if it is no integer.
    """

    @property
    def value(self) -> Any:
        """The number or character, read or written with the lock held, in one piece."""

    @value.setter
    def value(self, value: Any, /) -> None: ...
    def fetch_add(self, n: int, /) -> int:
        """Adds atomically, wrapping around; returns the previous value."""

    def fetch_sub(self, n: int, /) -> int:
        """Subtracts atomically, wrapping around; returns the previous value."""

    def fetch_or(self, n: int, /) -> int:
        """Sets bits atomically; returns the previous value."""

    def fetch_and(self, n: int, /) -> int:
        """Keeps bits atomically; returns the previous value."""

    def fetch_xor(self, n: int, /) -> int:
        """Flips bits atomically; returns the previous value."""

    def exchange(self, n: int, /) -> int:
        """Replaces the value atomically; returns the previous value."""

    def compare_exchange(self, expected: int, new: int, /) -> bool:
        """Replaces the value atomically if it is `expected`; returns whether it was."""

class GuardedArray(Guarded):
    """An array, whose buffer is the ctypes object's.

    Subclasses have `_get_item(key)` and `_set_item(key, value)`, for what is not done natively.
    """

    def __len__(self) -> int: ...
    def __getitem__(self, key: Any, /) -> Any: ...
    def __setitem__(self, key: Any, value: Any, /) -> None: ...
    def __delitem__(self, key: Any, /) -> None:
        """Raises AttributeError."""

    def __buffer__(self, flags: int, /) -> memoryview: ...

class Broadcast:
    """Messages that each of any number of readers gets."""

    def __new__(
        cls,
        maxsize: int = 128,
        *,
        max_bytes: int | None = None,
        lag: Literal["block", "skip"] = "block",
        ctx: object = None,
    ) -> Self: ...
    @classmethod
    def _attach(cls, memfd: Descriptor, maxsize: int) -> Self: ...
    def _handle(self) -> tuple[int, int]: ...
    def _send(self, obj: Any, timeout: float | None = None) -> bool:
        """Sends an object to all readers; waits for the slowest `timeout` seconds at most.

        False: there was no room in time.

        Raises:
            ValueError: it is closed here, or shut down; the message is larger than max_bytes.
            TypeError: the object has descriptors, which cannot go to many.
        """

    def _readers(self) -> list[tuple[int, int, int]]:
        """Who reads: pid, messages behind, messages missed; but for those who are known to be dead."""

    def _stats(self) -> tuple[int, int, int, int]:
        """Messages sent, unread messages and their bytes, readers."""

    def shutdown(self) -> None:
        """Announces the end: readers get what is there, then EOFError; `send` raises ValueError.

        Raises:
            ValueError: it is closed here.
        """

    def close(self) -> None:
        """Closes it for this process; its readers go on.

        A `send` that waits in another thread raises ValueError.
        """

    @property
    def closed(self) -> bool:
        """Whether `close()` has been called in this process."""

    @property
    def maxsize(self) -> int:
        """Messages that there may be at a time."""

    @property
    def max_bytes(self) -> int | None:
        """Their bytes, at most; None: any number."""

    @property
    def lag(self) -> Literal["block", "skip"]:
        """What becomes of slow readers: 'block' or 'skip'."""

class BroadcastReader:
    """A reader of a broadcast: gets each message from the moment it was made."""

    def __new__(cls, broadcast: Broadcast) -> Self: ...
    @classmethod
    def _attach(cls, memfd: Descriptor, maxsize: int, index: int, tag: int, owner: int, number: int) -> Self: ...
    def _handle(self) -> tuple[int, int, int, int, int, int]: ...
    def _give(self, pid: int, execs: bool) -> None:
        """The child `pid`, just started, was given this reader; `execs`: it runs a program."""

    @property
    def missed(self) -> int:
        """Messages that were gone when this reader came for them.

        Raises:
            ValueError: it is closed, or belongs to another process now.
        """

    def close(self) -> None:
        """Leaves: nobody waits for this reader any more.

        A `recv` that waits in another thread raises ValueError.
        """

    @property
    def closed(self) -> bool:
        """Whether `close()` has been called in this process."""

class Queue:
    """A queue of messages; one that has been put survives the process that put it."""

    def __new__(
        cls,
        *_args: Any,
        ctx: object = None,
        _handle: tuple[Descriptor, Descriptor, Descriptor, Descriptor, int, int] | None = None,
        **_kwargs: Any,
    ) -> Self: ...
    def __init__(
        self, maxsize: int = 0, *, max_bytes: int | None = None, requeue: bool = False, ctx: object = None
    ) -> None: ...
    def put(self, obj: Any, block: bool = True, timeout: float | None = None) -> None:
        """Pickles the object and appends it.

        Raises:
            queue.Full: there was no room in time.
            ValueError: the queue is closed here, or the message larger than `max_bytes`.
            Exception: whatever pickling raises; the queue is as before.
        """

    def __invert__(self) -> Any:
        """`get()`, as an operator."""

    def qsize(self) -> int:
        """The number of messages at this instant; once it is closed here, as they were then."""

    def empty(self) -> bool:
        """Whether there is no message at this instant.

        Raises:
            OSError: it was used, and is closed here.
        """

    def full(self) -> bool:
        """Whether `maxsize` messages are there at this instant, or no byte more has room.

        Once it is closed here, whether they were then.
        """

    def close(self) -> None:
        """Closes it for this process, and its descriptors with the last call that is under way.

        Calls that wait in other threads raise ValueError, but for one that waits until tasks are
        done. Messages stay.
        """

    def join_thread(self) -> None:
        """Does nothing, as there is no thread.

        Raises:
            AssertionError: the queue has not been closed.
        """

    def cancel_join_thread(self) -> None:
        """Does nothing, as there is no thread."""

    @property
    def _closed(self) -> bool:
        """Whether `close()` has been called in this process."""

    def _shutdown(self, immediate: bool = False) -> None:
        """Takes no more messages; with `immediate` those that are there are thrown away.

        Raises:
            ValueError: the queue is closed here.
        """

    def _keep_takers(self) -> None:
        """From now on it is noted who takes messages that are tasks. Nobody else has the queue yet."""

    def _task_done(self) -> None:
        """One of the tasks is done. Also once it is closed here.

        Raises:
            ValueError: all of them are done; it is closed here, and its messages come back.
        """

    def _unfinished(self) -> int:
        """Tasks that are not done. Also once it is closed here."""

    def _join(self, judges: bool) -> list[int] | None:
        """Waits until all tasks are done, and returns None; or, if it `judges`, until all who took
        those that are left have died, and returns their numbers. Also once it is closed here.
        """

    @property
    def _requeue(self) -> bool:
        """Whether messages come back whose taker is killed."""

    def _acknowledge_own(self) -> None:
        """A task of this thread asks for its next message: what the thread has got is acknowledged."""

    def _has_come_back(self) -> bool:
        """Whether another process had got, before it was killed, what this thread has got last.

        False once it has been acknowledged.
        """

    def _look_after(self, always: bool = False) -> bool:
        """Looks whether takers have died: returns True if what they had has come back.

        Unless somebody has just done so, and for no more than a moment; with `always` in any case,
        and for as long as it takes to take locks over from the dead.
        """

    def _stats(self) -> list[int]:
        """(depth, high-water mark, messages in, out, bytes in, out, waits to get, to put).

        Raises:
            ValueError: the queue is closed here.
        """

    @property
    def _max_bytes(self) -> int:
        """The most bytes that may be unread; 0: any number.

        Raises:
            ValueError: the queue is closed here.
        """

    def _poll(self, timeout: float | None = ...) -> bool:
        """Waits for a message, which another may take; False if not in time (by default 0.0).

        Raises:
            ValueError: the queue is closed here.
        """

    def _watch(self) -> int:
        """A descriptor that is readable while there is a message, from now on.

        Raises:
            ValueError: the queue is closed here.
        """

    def _watch_room(self) -> int:
        """A descriptor that is writable while `put` need not wait for room, from now on.

        Raises:
            ValueError: the queue is closed here.
        """

    def _handle(self) -> tuple[int, Token, int, int, int, int]:
        """Descriptors of the segment, of its token and of both ends of the socket; the offset; maxsize.

        Raises:
            OSError: it is closed here.
        """

    def _bound(self) -> int:
        """The most messages that there may be; 0: any number."""

    @classmethod
    def _attach(
        cls,
        segment: Descriptor,
        token: Descriptor,
        reader: Descriptor,
        writer: Descriptor,
        offset: int,
        maxsize: int,
    ) -> Self: ...

class Connection:
    """One end of a pipe of messages, made by `Pipe()`.

    Or the stdlib's, over a descriptor of the program's.
    """

    def __new__(
        cls,
        handle: SupportsIndex | None = None,
        readable: object = None,
        writable: object = None,
        *,
        _handle: tuple[Descriptor, Descriptor, Descriptor, Descriptor, int, int] | None = None,
    ) -> Self:
        """A connection over a descriptor, which it takes over: it speaks the stdlib's protocol.

        Raises:
            ValueError: the descriptor is negative, or the connection may neither receive nor send.
        """

    @property
    def closed(self) -> bool:
        """Whether this end is closed."""

    @property
    def readable(self) -> bool:
        """Whether this end receives."""

    @property
    def writable(self) -> bool:
        """Whether this end sends."""

    def send(self, obj: Any) -> None:
        """Pickles the object and sends it.

        Raises:
            BrokenPipeError: nobody has the other end any more.
            OSError: this end is closed or only reads.
        """

    def recv(self) -> Any:
        """Receives an object.

        Raises:
            EOFError: nobody has the other end any more, and nothing is left.
            OSError: this end is closed or only writes.
        """

    def send_bytes(self, buf: Buffer, offset: int = 0, size: int | None = None) -> None:
        """Sends `size` bytes from `offset` on, all that follow by default, as one message.

        Raises:
            ValueError: offset or size does not lie within the buffer.
            BrokenPipeError: nobody has the other end any more.
            OSError: this end is closed or only reads.
        """

    def recv_bytes(self, maxlength: int | None = None) -> bytes:
        """Receives a message.

        Raises:
            ValueError: maxlength is negative.
            EOFError: nobody has the other end any more, and nothing is left.
            OSError: the message is longer than maxlength, or this end is closed or only writes.
        """

    def recv_bytes_into(self, buf: Buffer, offset: int = 0) -> int:
        """Receives a message into a buffer, from byte `offset` on; returns its length in bytes.

        Raises:
            BufferTooShort: it does not fit; its first argument is the message.
            ValueError: offset does not lie within the buffer.
            EOFError: nobody has the other end any more, and nothing is left.
            OSError: this end is closed or only writes.
        """

    async def recv_async(self) -> Any:
        """Receives an object, in a task of an asyncio event loop.

        A task that is cancelled while it waits takes nothing out. Over a descriptor of the
        program's, it waits for the beginning of a message as a task, and for the rest as `recv`.

        Raises:
            EOFError: nobody has the other end any more, and nothing is left.
            OSError: this end is closed or only writes.
            NotImplementedError: the event loop has no `add_reader`.
        """

    def send_async(self, obj: Any) -> Coroutine[Any, Any, None]:
        """Pickles the object at once; what it returns sends it when awaited, once there is room.

        A task that is cancelled while it waits sends nothing. Those that wait in one event loop
        send in the order in which they came. Over a descriptor of the program's, it waits for the
        descriptor as a task, and until all is sent as `send`.

        Raises:
            BrokenPipeError: when awaited: nobody has the other end any more.
            OSError: this end is closed or only reads.
            NotImplementedError: when awaited: the event loop has no `add_reader`.
            Exception: whatever pickling raises.
        """

    def poll(self, timeout: float | None = ...) -> bool:
        """Waits for something to receive, the end included; returns False if not in time (0.0).

        Raises:
            OSError: this end is closed or only writes.
        """

    def fileno(self) -> int:
        """A descriptor that is readable when there is something to receive, the end included.

        Raises:
            OSError: this end is closed.
        """

    def close(self) -> None:
        """Closes this end; a recv that waits in another thread raises EOFError, another call OSError."""

    def __enter__(self) -> Self: ...
    def __exit__(self, *args: object) -> None: ...
    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]: ...
    @property
    def _handle(self) -> int | None:
        """`fileno()`; None once it is closed."""

    @_handle.setter
    def _handle(self, handle: int | None) -> None:
        """Has a connection over a descriptor forget it; an end of a pipe refuses."""

    def _export(self) -> tuple[int, Token, int, int, int, int] | None:
        """Descriptors of the segment, of its token, of the memory file and of the socket; the offset; flags.

        The segment's again stands for no file.

        None for a connection of the stdlib's kind.
        """

    @classmethod
    def _attach(
        cls,
        segment: Descriptor,
        token: Descriptor,
        file: Descriptor,
        socket: Descriptor,
        offset: int,
        flags: int,
    ) -> Self: ...

def Pipe(duplex: bool = True) -> tuple[Connection, Connection]:
    """Returns two connected ends.

    With duplex=False the first only receives, the second only sends.
    """

# Calls as operators: `_call[function, *args]`, or without a tuple; `_get[queue, block, timeout]`;
# `_get_many[queue, max_items, block, timeout]`; `_recv_broadcast[reader, timeout]`; `_recv[connection]`;
# `_recv_bytes[connection]`, or with `, maxlength`; `_recv_bytes_into[connection, buf, offset]`.
@type_check_only
class _Operator(Protocol[_T_co]):
    def __getitem__(self, key: Any, /) -> _T_co: ...

_call: _Operator[Any]
_get: _Operator[Any]
_get_many: _Operator[list[Any]]
_recv: _Operator[Any]
_recv_broadcast: _Operator[Any]
_recv_bytes: _Operator[bytes]
_recv_bytes_into: _Operator[int]

# For tasks of an event loop: `_take_now[channel, told]`, told if it has waited for readiness;
# `_put_now[message, told]` gives None once it is put. Else they give what stands for: there was
# no message or no room; or: another is putting or getting just now.
_take_now: _Operator[Any]
_put_now: _Operator[Any]
_NOTHING: object
_BUSY: object

@final
class Message:
    """A message on its way into a channel."""

    @property
    def channel(self) -> Any: ...

def _prepare(channel: Queue | Connection, obj: Any) -> Message:
    """Serialises an object for a queue or a connection.

    Raises:
        ValueError: the queue is closed here.
        OSError: this end is closed or only reads.
        Exception: whatever pickling raises.
    """

def _arm(channel: Queue | Connection, epoll: int, token: int, writing: bool) -> None:
    """Has an epoll tell once, by `token`, when a queue or connection is readable, or writable.

    Raises:
        ValueError: the queue is closed here.
        OSError: the connection is; or the kernel refuses.
    """

def _in_channel() -> bool:
    """Whether this thread is pickling a message for a channel of ours."""

def _channel_fd(fd: int | Token, own: bool) -> int:
    """Sends a descriptor with the message that is being pickled; returns its index there.

    Unless it is for one object's own use, it has the same index each time.

    Raises:
        RuntimeError: no message is being pickled in this thread.
    """

def _put_many(queue: Queue, objects: Iterable[Any], block: bool = True, timeout: float | None = None) -> None:
    """Pickles all of the objects, then appends them, as many at a time as there is room for.

    Raises:
        queue.Full, ShutDown: not all went in; `count` of them did.
        ValueError: the queue is closed here, or one is larger than `max_bytes`; none was appended.
        Exception: whatever iterating and pickling raise; none was appended.
    """

def _acknowledge(thread: bool = False) -> None:
    """What this process has taken from queues with requeue=True is dealt with, for it ends; or what
    this thread has."""

def _beside_standard(fd: int) -> int:
    """Returns a number above those of the standard streams for the file behind `fd`: that itself as a
    rule; else `fd` is closed, even if there is no other number.

    Raises:
        OSError: no descriptors are to be had.
    """

@final
class _Child:
    """What a process has ready for the next child that it forks, and that child for itself."""

    def __new__(cls, has: dict[str, Any]) -> Self: ...
    def _is_used(self) -> bool:
        """Is it in use by this process itself?"""

    def _fork(self, obj: Any, popen: Any, open_pidfd: Callable[[int], int | None], intent: Any = None) -> None:
        """Forks a child that runs a process object, of which `popen` and that object know when this
        returns, or raises: no step of Python's is between the fork and that, but for what hooks do.

        `open_pidfd` is asked for a pidfd of the child. `intent` is told in the child that the fork
        is over.

        Raises:
            OSError: there was no memory or descriptors for it, or not the right to.
            BaseException: whatever `os.fork` raises, if that is not the stdlib's.
        """

    def _run(
        self,
        obj: Any,
        parent_sentinel: int,
        stdin: bool = True,
        unused: int | None = None,
        ending: Callable[[int], object] | None = None,
    ) -> None:
        """Runs a process object as this process, and ends it.

        `unused` is closed first. `stdin`: it has its parent's standard input still. `ending` is
        called with the exit code last of all.
        """

@final
class _Launch:
    """What a start by another program has, until its child is known, or it has failed: the pipes of
    a child, and an empty file for what it is started with. They are closed with it."""

    data: int
    told: int
    lifeline: int
    parent_sentinel: int

    def __new__(
        cls,
        process: dict[str, Any],
        obj: Any,
        popen: Any,
        open_pidfd: Callable[[int], int | None],
        pids: list[int],
    ) -> Self:
        """`process`: the dictionary of `multiprocessing.process`. `pids`: gets the child's, where this
        process itself starts it. `open_pidfd` is asked for a pidfd of that.

        Raises:
            OSError: no descriptors are to be had.
        """

    def _is_here(self) -> bool:
        """Is this the process that starts it, and no copy that a signal handler has forked meanwhile?"""

    def _give_to_next_child(self) -> None:
        """The next child that this thread forks is the one that is started."""

    def _know(self) -> None:
        """Writes down the child of the pid that has come, in `popen`, `obj` and among the children, in
        one step; the next call finds nothing to do."""

    def _know_by(self, pid: int, fds: list[int]) -> None:
        """The same of one that another process has started. A pidfd may have come: it is taken from
        `fds`. The pipe is kept beside it."""

    def _close(self) -> None:
        """Closes what is left; the next call finds nothing. A child of which the pid has come is known
        then; any other that is not known finds nothing to run."""

@final
class _Ends:
    """What a child's handle has open, which is closed with it."""

    def _close(self) -> None:
        """Closes them; the next call finds nothing. A copy in a forked child has nothing of its parent's
        to close."""

def _close_all(fds: list[Any]) -> None:
    """Closes descriptors and lifelines, and takes them from the list, with no step of Python's in
    between. In it are numbers, tuples of some, and None."""

def _close_same(fd: int, inode: int) -> None:
    """Closes this number, if the file of that inode is behind it still."""

def _data_file(name: str) -> int:
    """Returns an empty file in memory, as `_beside_standard` has it. The name is for who looks at it.

    Raises:
        OSError: no descriptor is to be had.
    """

def _die_with(told: int) -> None:
    """Has the kernel kill this process when the process ends whose lifeline `told` is about; where
    it refuses, this process lives on.

    In the very moment in which the last lifeline closes, whatever this process is doing. It is the
    end of the *process* that counts: a thread that started this one may end. `told` does not
    survive an exec: the program that this process becomes is not killed, unless a child that it has
    forked before, by `os.fork`, has the pipe still.
    """

def _ended(pidfd: int, wait: bool) -> int | None:
    """Returns how a child has ended, as its exit code, and leaves it to be reaped; None while it runs.

    Raises:
        ChildProcessError: it has been reaped, or is no child of this process.
    """

def _inode(fd: int) -> int:
    """Returns the inode of the file behind a descriptor.

    Raises:
        OSError: it is not open.
    """

def _keep_lifeline(fd: int) -> None:
    """Makes a descriptor a lifeline of this process: no child forked from now on has it.

    Raises:
        OSError: it is not open.
    """

def _make_line() -> tuple[int, int]:
    """Returns a connected pair of packet sockets, the first a lifeline of this process.

    Raises:
        OSError: no descriptors are to be had.
    """

def _open_child(pid: int) -> int | None:
    """Returns a pidfd of a child; None if there is none to be had, or the child has been reaped."""

def _pipe() -> tuple[int, int]:
    """Returns the ends of a pipe, reader first, as `_beside_standard` has them.

    Raises:
        OSError: no descriptors are to be had.
    """

def _reap(pidfd: int) -> None:
    """Reaps a child that has ended, if nobody has."""

def _receive_packet(line: int, wait: bool) -> tuple[bytes, list[int], bool]:
    """Returns a packet's bytes, its descriptors, and whether some of those were lost; no bytes at a
    hang-up.

    Raises:
        BlockingIOError: there is none, and it is not to `wait`.
        OSError: as the kernel says.
    """

def _reset_threading(threading: dict[str, Any]) -> bool:
    """Does what `threading`'s hook does in a child whose only thread was its parent's only one, in
    that module's dictionary; False: it is not such a child, or not such a module, and nothing has
    been done."""

def _send_packet(line: int, packet: bytes, fds: Sequence[int]) -> None:
    """Sends a packet with descriptors.

    Raises:
        OSError: as the kernel says.
        ValueError: there are more than 253 descriptors.
    """

def _send_self(line: int, packet: bytes) -> None:
    """Sends a packet with a pidfd of this process, if there are any; an error is forgotten."""

def _share_lifeline(fd: int) -> None:
    """Lets children that are forked from now on have a lifeline as well."""

def _socket_pair() -> tuple[int, int]:
    """Returns the ends of a Unix socket of packets, as `_beside_standard` has them.

    Raises:
        OSError: no descriptors are to be had.
    """

def _own_descriptors(cls: _Class) -> _Class:
    """Gives a subclass of a lock or `Guarded` descriptors that name it as their class.

    The interpreter specialises calls of methods only where the object is exactly of the class that
    they name.
    """

def _received_fd(index: int, own: bool) -> Descriptor:
    """Returns a descriptor that came with the message being unpickled.

    Raises:
        RuntimeError: no message is being unpickled in this thread, or another has taken it for its
            own.
    """
