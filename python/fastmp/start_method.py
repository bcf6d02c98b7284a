"""The program's start method: one choice for fastmp and the stdlib, which keeps it.

It is chosen once, or settled by the first use of a default context of either. So a library that
uses `multiprocessing` starts its processes as the rest of the program does, in children too: the
stdlib passes its choice on to them.
"""

from __future__ import annotations

import multiprocessing

TYPE_CHECKING = False
if TYPE_CHECKING:
    from .context import BaseContext

# Our contexts by the names of their methods: `context` puts them here, for those whom it stands on.
contexts: dict[str, BaseContext] = {}


def chosen() -> str | None:
    """Returns the method's name, or None while it is still open."""
    return multiprocessing.get_start_method(allow_none=True)


def settle() -> str:
    """Returns the method's name; from now on it is no longer open."""
    return multiprocessing.get_start_method()


def choose(name: str | None) -> None:
    """Sets the method, whatever it was; None opens it again."""
    multiprocessing.set_start_method(name, force=True)


def available() -> list[str]:
    """Returns the names of all methods, in the stdlib's order."""
    return multiprocessing.get_all_start_methods()


def default_context() -> BaseContext:
    """Returns our context of the program's method, which is then settled.

    Raises:
        ValueError: the method is none of ours.
    """
    return named_context(settle())


def named_context(name: str) -> BaseContext:
    """Returns our context of that method; of one that others have added (loky), theirs.

    Raises:
        ValueError: there is no such method.
    """
    try:
        return contexts[name]
    except KeyError:
        pass
    theirs: dict[str, BaseContext] = multiprocessing.context._concrete_contexts  # type: ignore[attr-defined]
    try:
        return theirs[name]
    except KeyError:
        raise ValueError(f"cannot find context for {name!r}") from None
