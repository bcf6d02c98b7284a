"""Says which part of what was to be sent does not pickle, and what to do about it.

Looked for once pickling has failed, by pickling the parts again, to nowhere: as pickle would take an
object apart, the first part that fails, of that the first part that fails, and so on. An object is
looked into once, so that cycles end; after a second it stops and says how far it has come. What
pickling calls (`__reduce__`, `__getstate__`) is called again for this, more than once.
"""

from __future__ import annotations

import copyreg
import functools
import pickle
import time
import types
from multiprocessing import context, reduction

from . import handles, start_method

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from multiprocessing.process import BaseProcess
    from typing import Any

    Part = tuple[str, Any]  # how it is written behind the name of the whole, and the part

__all__ = ["explain_start", "explain_sending"]

LIMIT = 1.0  # seconds
DEPTH = 64
MANY = 64  # parts that are tried together, before they are tried one by one
SHOWN = 80  # characters of an object's repr

# Errors whose message is a sentence, in which one more finds its place; others get a note.
_SENTENCES = (pickle.PicklingError, TypeError, AttributeError, ValueError, RuntimeError)
# Never what fails.
_PLAIN = frozenset({int, float, complex, str, bytes, bytearray, bool, type(None), type(...), range})


class _TooLong(BaseException):
    """The search has taken its time. Not an Exception: programs catch these in `__reduce__`."""


class _Nowhere:
    """A file that forgets."""

    def __init__(self, until: float) -> None:
        self._until = until

    def write(self, data: Any) -> int:
        if time.monotonic() > self._until:
            raise _TooLong
        return len(data)


class _Nobody:
    """Stands for the child that objects are pickled for: it gets nothing."""

    DupFd = handles.DupFd
    forgets_lent = True
    is_nobody = True

    def duplicate_for_child(self, fd: int) -> int:
        return fd


class _Search:
    """Looks for the part of an object that does not pickle."""

    def __init__(self, dump: Callable[[Any, Any], None], by_value: bool, depth: int) -> None:
        self._dump = dump
        self._by_value = by_value  # functions and classes are taken apart
        self._depth = depth
        self._until = time.monotonic() + LIMIT
        # Kept: what a `__reduce__` makes would else make room for another with the same id.
        self._seen: dict[int, Any] = {}
        self.deepest: list[Part] = []

    def find(self, whole: Any, parts: Iterable[Part]) -> list[Part]:
        """Returns the way from the whole to what fails; empty if nothing is found to fail."""
        self._seen[id(whole)] = whole
        this_thread: Any = context._tls  # type: ignore[attr-defined]
        outer, nobody = context.get_spawning_popen(), _Nobody()
        try:
            this_thread.spawning_popen = nobody  # as in `launching`
            return self._among(parts, [])[0]
        except _TooLong:
            return self.deepest
        finally:
            this_thread.spawning_popen = outer

    def _fails(self, obj: Any) -> bool:
        try:
            self._dump(obj, _Nowhere(self._until))
        except Exception:
            return True
        if time.monotonic() > self._until:
            raise _TooLong
        return False

    def _among(self, parts: Iterable[Part], way: list[Part]) -> tuple[list[Part], bool]:
        """Returns the way to what fails. If none is found: does a part fail that was looked into before?"""
        common = False
        for step, part in self._failing(parts):
            if id(part) in self._seen:
                common = True  # for what it has in common with another, maybe
                continue
            self._seen[id(part)] = part
            further = [*way, (step, part)]
            if len(further) > len(self.deepest):
                self.deepest = further
            if len(further) >= self._depth:
                return further, False
            try:
                inner = _parts(part, self._by_value)
            except Exception:
                return further, False  # its own reduction fails
            found, has_common = self._among(inner, further) if inner is not None else ([], False)
            if found or not has_common:
                return found or further, False
            common = True
        return [], common

    def _failing(self, parts: Iterable[Part]) -> Iterator[Part]:
        group: list[Part] = []
        for part in parts:
            if type(part[1]) in _PLAIN:
                continue
            group.append(part)
            if len(group) == MANY:
                yield from self._failing_of(group)
                group = []
        yield from self._failing_of(group)

    def _failing_of(self, group: list[Part]) -> Iterator[Part]:
        if len(group) == MANY and not self._fails([part for _, part in group]):
            return
        for part in group:
            if self._fails(part[1]):
                yield part


def _parts(obj: Any, by_value: bool) -> Iterable[Part] | None:
    """What pickle takes an object apart into; None: it is looked up by its name, or written as it is.

    Raises whatever the object's own reduction does.
    """
    kind = type(obj)
    if kind in (list, tuple):
        return ((f"[{at}]", part) for at, part in enumerate(obj))
    if kind is dict:
        return _items(obj.items())
    if kind in (set, frozenset):
        return ((f"{{{_shown(part)}}}", part) for part in obj)
    if kind is types.MethodType:
        return [(".__self__", obj.__self__), (".__func__", obj.__func__)][: 2 if by_value else 1]
    if kind is functools.partial:
        return [(".func", obj.func), (".args", obj.args), (".keywords", obj.keywords)]
    if kind is types.FunctionType:
        return _variables(obj) if by_value else None
    if isinstance(obj, type):
        return ((f".{name}", part) for name, part in list(vars(obj).items())) if by_value else None
    reduce = reduction.ForkingPickler._extra_reducers.get(kind)  # type: ignore[attr-defined]
    reduce = reduce or copyreg.dispatch_table.get(kind)
    reduced = obj.__reduce_ex__(pickle.HIGHEST_PROTOCOL) if reduce is None else reduce(obj)
    return None if isinstance(reduced, str) else list(_reduced(obj, *reduced))


def _reduced(obj: Any, function: Any, args: tuple[Any, ...], *more: Any) -> Iterator[Part]:
    state, items, pairs = (*more, None, None, None)[:3]
    if function in (copyreg.__newobj__, copyreg.__newobj_ex__):  # type: ignore[attr-defined]
        yield ".__class__", args[0]
        yield from ((f".__getnewargs__()[{at}]", part) for at, part in enumerate(args[1:]))
    else:
        of = ".args" if isinstance(obj, BaseException) else ".__reduce__()[1]"
        yield (".__class__" if function is type(obj) else ".__reduce__()[0]"), function
        yield from ((f"{of}[{at}]", part) for at, part in enumerate(args))
    of_slots = isinstance(state, tuple) and len(state) == 2 and all(type(part) in (dict, type(None)) for part in state)
    for attributes in state if of_slots else (state,):
        if type(attributes) is dict and all(type(name) is str for name in attributes):
            yield from ((f".{name}", part) for name, part in attributes.items())
        elif attributes is not None:
            yield ".__getstate__()", attributes
    yield from ((f"[{at}]", part) for at, part in enumerate(items or ()))
    yield from _items(pairs or ())


def _items(pairs: Iterable[tuple[Any, Any]]) -> Iterator[Part]:
    for key, value in pairs:
        yield f"[{_shown(key)}]", value
        if type(key) not in _PLAIN:
            yield f".key({_shown(key)})", key


def _variables(function: types.FunctionType) -> Iterator[Part]:
    """What a function brings along when it is pickled by value."""
    for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=False):
        try:
            yield f".<variable {name}>", cell.cell_contents
        except ValueError:  # not set yet
            continue
    for name in function.__code__.co_names:
        if name in function.__globals__:
            yield f".<global {name}>", function.__globals__[name]
    yield ".__defaults__", function.__defaults__
    yield ".__kwdefaults__", function.__kwdefaults__
    yield from ((f".{name}", part) for name, part in vars(function).items())


def _shown(obj: Any) -> str:
    """Its repr, in one short line."""
    try:
        text = " ".join(repr(obj).split())
    except Exception:
        text = f"<{type(obj).__qualname__} object>"
    return text if len(text) <= SHOWN else f"{text[: SHOWN - 4]}...{text[-1]}"


def explain_start(error: Exception, process: BaseProcess, dump: Callable[[Any, Any], None], pickler: Any) -> None:
    """Has the error that starting a process failed with say which part of the process it is about."""
    try:
        if isinstance(error, (MemoryError, OSError)):
            return  # it is not about an object
        depth = 2 if _is_too_deep(error) else DEPTH  # how deep is all there is to say
        way = _Search(dump, pickler is not None, depth).find(process, _of_process(process))
        if way:
            method = getattr(process, "_start_method", None) or start_method.settle()
            _tell(error, way, _ways_out(error, way[-1][1], method, pickler))
    except Exception:  # then it says what it always said
        return


def explain_sending(error: Exception, obj: Any) -> None:
    """Has the error that sending an object through a channel failed with say which part it is about."""
    try:
        if isinstance(error, (MemoryError, OSError)):
            return
        way = _Search(reduction.dump, False, 1 if _is_too_deep(error) else DEPTH).find(None, [("obj", obj)])
        if way:
            _tell(error, way, _ways_out(error, way[-1][1], None, None))
    except Exception:
        return


def _of_process(process: BaseProcess) -> Iterator[Part]:
    """A process's attributes, by the names that the program gave them."""
    named = {"_target": "target", "_args": "args", "_kwargs": "kwargs", "_name": "name"}
    reduced: Any = process.__reduce_ex__(pickle.HIGHEST_PROTOCOL)
    for step, part in _reduced(process, *reduced):
        yield named.get(step.removeprefix("."), f"self{step}"), part


def _is_too_deep(error: Exception) -> bool:
    return isinstance(error, RecursionError) or isinstance(error.__context__, RecursionError)


def _tell(error: Exception, way: list[Part], ways_out: list[str]) -> None:
    first = "".join(step for step, _ in way) + " does not pickle"
    more = "\n".join((f"It is {_described(way[-1][1])}.", *ways_out))
    text = str(error)
    if text.startswith(first):
        return  # it has been told already: the same object, raised again
    # From 3.14 on pickle tells the path in notes, one for each step: thousands, if it is too deep.
    if notes := getattr(error, "__notes__", None):
        notes[:] = [note for note in notes if not note.startswith("when serializing ")]
    # To what an AttributeError says the interpreter adds what may have been meant.
    is_sentence = isinstance(error, _SENTENCES) and getattr(error, "name", None) is None
    if is_sentence and error.args and text == error.args[0]:
        error.args = (f"{first}: {text}\n{more}", *error.args[1:])
        if str(error).startswith(first):
            return
        error.args = (text, *error.args[1:])
    error.add_note(f"{first}. {more}")


def _described(obj: Any) -> str:
    if isinstance(obj, (type, types.FunctionType)):
        return f"the {'class' if isinstance(obj, type) else 'function'} {obj.__module__}.{obj.__qualname__}"
    return _shown(obj)


def _ways_out(error: Exception, culprit: Any, method: str | None, pickler: Any) -> list[str]:
    """The best for this object first."""
    by_name = isinstance(culprit, (type, types.FunctionType, types.ModuleType))
    ways = []
    if _is_too_deep(error):
        ways.append("nest it less deeply, or sys.setrecursionlimit()")
    elif pickler is None or not by_name:
        ways.append(_instead(culprit))
    if method is None:
        head = "What is sent through a channel is pickled. Ways out:"
        if by_name:
            ways.append("send cloudpickle.dumps(...) of it, and call pickle.loads of what is received")
    else:
        head = f"What a process is started with by {method!r} is pickled"
        head += (
            ". Ways out:"
            if pickler is None
            else f", here by {getattr(pickler, '__name__', 'the given pickler')}. Ways out:"
        )
        if pickler is None and by_name:
            ways.append(
                f"get_context({method!r}, pickler=cloudpickle): lambdas, closures and local classes are sent too"
            )
        ways.append("get_context('fork'): the child is a copy, and nothing is pickled (not where threads are running)")
    return [head, *(f"- {way}" for way in ways)]


def _instead(culprit: Any) -> str:
    """What the program may do about such an object."""
    import io
    import threading

    if isinstance(culprit, (types.FunctionType, type)):
        what = "class" if isinstance(culprit, type) else "function"
        if "<" in culprit.__qualname__:
            return f"define the {what} at the top level of a module, by {'class' if what == 'class' else 'def'}"
        return (
            f"let {culprit.__module__}.{culprit.__qualname__} be this very {what}, where pickle looks for it"
            " (a decorator may have put another in its place)"
        )
    if isinstance(culprit, (type(threading.Lock()), type(threading.RLock()))):
        return "a fastmp.Lock() or RLock(), which processes can share, or a lock that the child makes for itself"
    if isinstance(culprit, io.IOBase):
        return "send the file's name, and open it in the child"
    if isinstance(culprit, (types.GeneratorType, types.CoroutineType, types.AsyncGeneratorType)):
        return "send what it is made from, and make it in the child, or send list(...) of it"
    if isinstance(culprit, types.ModuleType):
        return "send the module's name, or import it in the function that needs it"
    return "leave it out in a __getstate__, or __reduce__, of what it is in, and make it anew in the child"
