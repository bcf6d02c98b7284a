"""What a forked child does around its `run()`: the stdlib's `_bootstrap`, without what does nothing.

Nearly all that a short-lived child costs are pages: each function that it calls for the first time
makes the kernel copy some ten. So the core does what is to be done, and what would find nothing to
do (no thread to join, no finalizer to call, no logger to tell) is not called. Where anybody has put
something of its own in the place of the stdlib's functions, as coverage and tracers do, that is
called as ever.
"""

from __future__ import annotations

import atexit
import itertools
import os
import sys
import threading
import types
from multiprocessing import context, process, util

from . import _native, threading_hook
from .noting import close_all, note_beside_standard

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

__all__ = ["prepare"]

_context: Any = context
_process: Any = process
_util: Any = util
_threading: Any = threading

_ready: _native._Child | None = None


def _own(module: types.ModuleType, function: Any) -> Any:
    """Returns the function if it is the module's own: somebody may have put another in its place, or a
    proxy, which has the attributes of what it wraps."""
    is_own = type(function) is types.FunctionType and function.__globals__ is vars(module)
    return function if is_own else None


def _enter() -> None:
    """As the stdlib's do: a forked child has atexit callbacks of its own, and runs these."""
    atexit._clear()
    atexit.register(_util._exit_function)


# What stays the same.
_HAS = {
    "process": vars(process),
    "util": vars(util),
    "context": vars(context),
    "threading": vars(threading),
    "sys": vars(sys),
    "os": vars(os),
    "bootstrap": _own(process, _process.BaseProcess._bootstrap),
    "after_fork": _own(process, _process.BaseProcess._after_fork),
    "run_after_forkers": _own(util, _util._run_after_forkers),
    "close_stdin": _own(util, _util._close_stdin),
    "exit_function": _own(util, _util._exit_function),
    "shutdown": _own(threading, _threading._shutdown),
    "flush_std_streams": _own(util, _util._flush_std_streams),
    "exit": os._exit if type(os._exit) is type(os.getpid) else None,
    "enter": None if sys.version_info < (3, 13) else _enter,
    "leave": None if sys.version_info < (3, 13) else atexit._run_exitfuncs,
}


def prepare() -> _native._Child:
    """Makes once, in a process that forks, what all its children would have to make: what they run by."""
    global _ready
    if _ready is None or _ready._is_used():
        threading_hook.shorten()
        parent = _process._ParentProcess("", 0, -1)
        _ready = _native._Child(
            {
                **_HAS,
                "default_context": vars(_context._default_context),
                "counter": itertools.count(1),
                "children": set(),
                "parent": parent,
                "parent_dict": vars(parent),
                "stdin": _make_stdin(),
                "ended_by": _ended_by,
                "held": (_process._process_counter, _plain_main_process()),
            }
        )
    return _ready


_MAIN_PROCESS_HAS = {"_identity", "_name", "_parent_pid", "_popen", "_closed", "_config"}


def _plain_main_process() -> Any:
    """Returns the object that is this process, if a child has no reason to see it end: a finalizer,
    or a descriptor, among what the program may have put there."""
    this = _process._current_process
    is_main = type(this).__qualname__ == "_MainProcess"
    return this if is_main and vars(this).keys() <= _MAIN_PROCESS_HAS else None


def _make_stdin() -> tuple[Any, int] | None:
    """Returns an empty file, and its descriptor, which it does not close."""
    fds: list[int] = []
    try:
        note_beside_standard(fds, os.open, os.devnull, os.O_RDONLY)
        return open(fds[-1], encoding="utf-8", closefd=False), fds.pop()
    except OSError:
        return None  # the child will do as the stdlib's does
    finally:
        close_all(fds)


def _ended_by(obj: Any, error: BaseException) -> int:
    """Tells of what has ended a child's `run()`; returns the exit code."""
    if not isinstance(error, SystemExit):
        import traceback

        sys.stderr.write(f"Process {obj.name}:\n")
        traceback.print_exception(error)
        return 1
    if error.code is None:
        return 0
    if isinstance(error.code, int):
        return error.code
    sys.stderr.write(str(error.code) + "\n")
    return 1
