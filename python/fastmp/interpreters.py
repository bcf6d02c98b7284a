"""Starting an interpreter by a command line."""

from __future__ import annotations

import os
import types
from multiprocessing import util

from .noting import close_all, note, note_beside_standard

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from typing import Any

__all__ = ["start"]

# The names in the code of the stdlib's function: so the known ones are told from others.
_KNOWN = ("_posixsubprocess", "tuple", "sorted", "map", "int", "os", "pipe", "fork_exec", "close")
_KNOWN_BEFORE_3_14 = (
    *("_posixsubprocess", "subprocess", "tuple", "sorted", "map", "int", "os", "pipe", "fork_exec"),
    *("_USE_VFORK", "close"),
)


def start(
    executable: bytes, command: Sequence[bytes | str], passed: Iterable[int], pids: list[int] | None = None
) -> int:
    """Starts it with these descriptors, and returns its pid.

    `pids` gets that as well, whatever a signal handler raises meanwhile.
    """
    if pids is None:
        pids = []
    # Where a standard stream's number is free, a daemon's, the stdlib's function takes it for a pipe
    # of its own, and refuses that. So these are in use meanwhile.
    taken: list[int] = []
    try:
        note_beside_standard(taken, os.memfd_create, "fastmp:standard")
        function: Any = util.spawnv_passfds
        is_own = type(function) is types.FunctionType and function.__globals__ is vars(util)
        names = function.__code__.co_names if is_own else ()
        if names in (_KNOWN, _KNOWN_BEFORE_3_14):
            _start(executable, command, passed, pids, names != _KNOWN)
        else:
            pids.append(function(executable, command, passed))
        return pids[-1]
    finally:
        close_all(taken)


def _start(
    executable: bytes, command: Sequence[bytes | str], passed: Iterable[int], pids: list[int], is_old: bool
) -> None:
    """As the stdlib's function, and loses neither the pid nor a descriptor."""
    import _posixsubprocess

    last: tuple[bool, ...] = ()
    if is_old:  # before 3.14 it is told whether to use vfork
        import subprocess

        last = (subprocess._USE_VFORK,)
    numbers = tuple(sorted(map(int, passed)))
    ends: list[tuple[int, int]] = []
    try:
        note(ends, os.pipe)
        note(
            pids,
            _posixsubprocess.fork_exec,
            *(command, [executable], True, numbers, None, None, -1, -1, -1, -1, -1, -1, *ends[0]),
            *(False, False, -1, None, None, None, -1, None, *last),
        )
    finally:
        close_all(ends)
