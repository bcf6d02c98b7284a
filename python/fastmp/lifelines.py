"""Pipe ends that stay open as long as this process lives, and so tell others of its death.

A forked child that kept a copy would let them wait for its own death, too.
"""

import os
import threading

# {descriptor: the thread that is about to fork the child whose lifeline it will be, else None}
_lifelines: dict[int, int | None] = {}


def keep(fd: int) -> None:
    """Makes `fd` a lifeline of this process: no child forked from now on has it."""
    _lifelines[fd] = None


def keep_for_child(fd: int) -> None:
    """Makes `fd` the lifeline of the next child that this thread forks, and of that child alone."""
    _lifelines[fd] = threading.get_ident()


def close(fd: int) -> None:
    # In this order: a child forked in between must not close a number that is someone else's by
    # now.
    del _lifelines[fd]
    os.close(fd)


def _after_fork_in_child() -> None:
    forking_thread = threading.get_ident()
    for fd, thread in list(_lifelines.items()):
        if thread == forking_thread:
            keep(fd)
        else:
            close(fd)


os.register_at_fork(after_in_child=_after_fork_in_child)
