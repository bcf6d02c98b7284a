"""What `threading` does in a forked child, in the usual case in few steps.

The stdlib's hook walks all threads by way of a weak set, and calls into each: where there is but the
main thread it still makes the kernel copy some 130 pages, a fifth of what a whole start costs. So
where the hook is the one that is known here (3.11 and 3.12), its function gets a shorter code, which
has the core do the same for a main thread that is alone, and calls the whole for anything else. It
stays the same function, in the same place of the list of hooks.
"""

from __future__ import annotations

import threading
import types

from . import _native

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

__all__ = ["shorten"]

# The names in its code: so the known one is told from others.
_KNOWN = (
    *("RLock", "_active_limbo_lock", "_active", "get_ident", "KeyError", "_MainThread", "_main_thread"),
    *("_allocate_lock", "_shutdown_locks_lock", "set", "_shutdown_locks", "_enumerate", "update", "_dangling"),
    *("_reset_internal_locks", "_ident", "_stop", "_limbo", "clear", "len"),
)
_KNOWN_LOCKS = ("_started", "_at_fork_reinit", "_tstate_lock", "acquire", "_is_stopped")


def _after_fork(
    *, _whole: Callable[[], None], _reset: Callable[[dict[str, Any]], bool], _names: dict[str, Any]
) -> None:
    if not _reset(_names):
        _whole()


def shorten() -> None:
    """Gives the hook the shorter code, if it is the one that is known."""
    module: Any = threading
    hook = getattr(module, "_after_fork", None)
    if (
        type(hook) is types.FunctionType
        and hook.__globals__ is vars(threading)
        and hook.__code__.co_names == _KNOWN
        and getattr(module.Thread, "_reset_internal_locks", _after_fork).__code__.co_names == _KNOWN_LOCKS
    ):
        # First what the new code needs and the old one does not look at.
        names = vars(threading)
        whole = types.FunctionType(hook.__code__, names, "_after_fork")
        hook.__kwdefaults__ = {"_whole": whole, "_reset": _native._reset_threading, "_names": names}
        hook.__code__ = _after_fork.__code__
