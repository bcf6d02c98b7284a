"""The program's start method: one choice for fastmp and the stdlib, which keeps it.

It is chosen once, or settled by the first use of a default context of either. So a library that uses
`multiprocessing` starts its processes as the rest of the program does, in children too: the stdlib
passes its choice on to them.
"""

import multiprocessing


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
