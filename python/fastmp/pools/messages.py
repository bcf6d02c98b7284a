"""What tasks and answers look like on their way: what is plain goes as it is, the rest as a pickle.

An argument that does not unpickle in the worker, or a result in the parent, must not hide whose it
is. So in a message there is nothing that could fail to be read: exact builtin values, and pickles
as bytes, which are opened by who knows what to do about a failure.
"""

from __future__ import annotations

import copyreg
import io
import itertools
import pickle
from collections import ChainMap
from multiprocessing import reduction
from types import FunctionType

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import Any

# How the function of a task is called, in the two lowest bits of its `kind`.
CALL = 0  # function(*data), or, with KEYWORDS, function(*data[0], **data[1])
ITEM = 1  # function(data)
CHUNK = 2  # list(map(function, data))
STARRED = 3  # list(itertools.starmap(function, data))
HOW = 3
KEYWORDS = 4
PICKLED = 8  # the data are (stream, buffers)
GLOBAL = 16  # the function is one that is found by its name: a worker keeps it
TIMED = 32  # behind the data stand the seconds that it may take

# What an answer says: (job, index, attempt, code, data).
DONE = 0  # data: the result, plain
DONE_PICKLED = 1  # (stream, buffers)
RAISED = 2  # likewise, of the exception
DIED = 3  # (the task, the number of the worker that ends with it, or -1)
FAILED = 4  # of no job: a worker's initializer has raised; (stream, buffers), its number is `index`

PLAIN = frozenset([int, float, str, bytes, bool, type(None)])
FEW = 8  # items, at most, that are asked whether they are plain: for more a pickle is quicker
FOR_EVER = 1e9  # seconds: they fit into a word as ns
KEPT = 64  # functions whose pickles are kept
SMALL = 4 << 10  # bytes: a buffer that is copied into the stream

Task = tuple  # (job, index, attempt, kind, function's pickle, data[, seconds])
Answer = tuple  # (job, index, attempt, code, data)
Pickled = tuple  # (stream, buffers)


def seconds_of(limit: float | None) -> float | None:
    """A task's time; None if it has none, or for ever.

    Raises:
        TypeError: it is no real number.
        ValueError: it is not positive.
    """
    if limit is None:
        return None
    if not limit > 0:
        raise ValueError(f"a task's time must be positive, not {limit!r}")
    return float(limit) if limit < FOR_EVER else None


def all_plain(values: Any) -> bool:
    """Are they all exact builtin values that no receiver can fail to read?"""
    return PLAIN.issuperset(map(type, values))


# Reads registrations as they are, also later ones.
_reducers: Any = ChainMap(reduction.ForkingPickler._extra_reducers, copyreg.dispatch_table)  # type: ignore[attr-defined]


def dumps(obj: Any) -> Pickled:
    """The object's pickle, as the queues' would be, large buffers beside the stream.

    Raises:
        Exception: whatever pickling raises.
    """
    buffers: list[pickle.PickleBuffer] = []

    def keep(buffer: pickle.PickleBuffer) -> bool:
        try:
            is_small = buffer.raw().nbytes < SMALL
        except BufferError:  # not contiguous
            return True
        if is_small:
            return True
        buffers.append(buffer)
        return False

    stream = io.BytesIO()
    pickler = pickle.Pickler(stream, 5, buffer_callback=keep)
    pickler.dispatch_table = _reducers
    pickler.dump(obj)
    return stream.getvalue(), buffers


def loads(pickled: Pickled) -> Any:
    stream, buffers = pickled
    return pickle.loads(stream, buffers=buffers) if buffers else pickle.loads(stream)


def size_of(data: Any) -> int:
    """Some idea of the bytes of a task's data as they are sent."""
    if type(data) is tuple and len(data) == 2 and type(data[1]) is list:
        return len(data[0]) + sum(buffer.raw().nbytes for buffer in data[1])
    if type(data) in (str, bytes):
        return len(data)
    if type(data) is tuple:
        return sum([len(one) for one in data if type(one) is bytes or type(one) is str])
    return 0


_streams: dict[Any, bytes] = {}
"""Pickles of plain functions that are found by their name."""


def function_of(function: Callable[..., Any]) -> tuple[bytes, int]:
    """A function's pickle, and GLOBAL if it is no more than a name.

    Raises:
        Exception: whatever pickling raises.
    """
    is_plain = type(function) is FunctionType
    if is_plain and (known := _streams.get(function)) is not None:
        return known, GLOBAL
    stream = bytes(reduction.ForkingPickler.dumps(function, 5))
    # STACK_GLOBAL, MEMOIZE, STOP: what is left on the stack was found by its name.
    if not stream.endswith(b"\x93\x94."):
        return stream, 0
    if is_plain:
        if len(_streams) >= KEPT:
            _streams.clear()
        _streams[function] = stream
    return stream, GLOBAL


def call_data(args: Any, kwargs: Mapping[str, Any]) -> tuple[int, Any]:
    """The kind of a task that calls a function with arguments, and its data."""
    if kwargs:
        if all_plain(args) and all_plain(kwargs.values()) and type(kwargs) is dict and all_plain(kwargs):
            return CALL | KEYWORDS, (tuple(args), kwargs)
        return CALL | KEYWORDS | PICKLED, dumps((args, kwargs))
    if type(args) is tuple and all_plain(args):
        return CALL, args
    return CALL | PICKLED, dumps(args)


def run(kind: int, function: Callable[..., Any], data: Any) -> Any:
    """What a task gives.

    Raises:
        Exception: whatever unpickling its data, or the function, raises.
    """
    if kind & PICKLED:
        data = loads(data)
    how = kind & HOW
    if how == ITEM:
        return function(data)
    if how == CHUNK:
        return list(map(function, data))
    if how == STARRED:
        return list(itertools.starmap(function, data))
    if kind & KEYWORDS:
        return function(*data[0], **data[1])
    return function(*data)


def result(value: Any, of_many: bool) -> tuple[int, Any]:
    """The code and the data of an answer with a result.

    Raises:
        Exception: whatever pickling raises.
    """
    if type(value) in PLAIN or (of_many and len(value) <= FEW and all_plain(value)):
        return DONE, value
    return DONE_PICKLED, dumps(value)


def opened(code: int, data: Any) -> Any:
    """The result, or the exception, of an answer.

    Raises:
        Exception: whatever unpickling it raises.
    """
    return data if code == DONE else loads(data)
