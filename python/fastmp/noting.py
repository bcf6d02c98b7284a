"""Results that no signal handler loses.

Python runs handlers between its own steps: one that raises just after a call has returned takes the
place of the result. A descriptor stays open then that nobody knows of, a child runs on. So such a
result goes to its place within the same call into C.

From 3.12 to 3.14 the compiler leaves out of a `with` or `try` the jump by which a loop in it goes on
from the middle of its body: what a handler raises there skips `__exit__` and `finally`. So no loop
stands in a block that must be undone: it is a function's of its own (`tests/test_guards.py`). And in
3.14 a handler may come between the `__enter__` of a `with` and its block, as a profiler may later on:
`RLock` is one without.
"""

from __future__ import annotations

import sys
import threading
from itertools import starmap

from ._native import _call
from ._native import _close_all as close_all

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

__all__ = ["RLock", "close_all", "note", "note_beside_standard"]


def note(results: list[Any], function: Callable[..., Any], *args: Any) -> None:
    """Appends to `results` what that function of C's returns."""
    results.extend(starmap(function, (args,)))


def note_beside_standard(fds: list[int], function: Callable[..., int], *args: Any) -> None:
    """The same of a descriptor, until it is no number of a standard stream; those before it are noted,
    too: a daemon has closed these streams, and they are to stay closed in the end."""
    while not fds or fds[-1] <= 2:
        note(fds, function, *args)


if sys.version_info >= (3, 14):
    _Stdlibs: Any = type(threading.RLock())

    class RLock(_Stdlibs):
        """As `threading.RLock`. No handler runs where a function of Python's returns, nor behind an
        operator; `__exit__` is C's."""

        def __enter__(self, acquire: Any = _Stdlibs.acquire) -> Any:
            return _call[acquire, self]

else:
    RLock = threading.RLock
