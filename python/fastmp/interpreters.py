"""Starting an interpreter by a command line."""

from __future__ import annotations

import os
from multiprocessing import util

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

__all__ = ["start"]


def start(executable: bytes, command: Sequence[bytes | str], passed: Iterable[int]) -> int:
    """Starts it with these descriptors, and returns its pid."""
    # Where a standard stream's number is free, a daemon's, the stdlib's function takes it for a pipe
    # of its own, and refuses that. So these are in use meanwhile.
    taken: list[int] = []
    try:
        while not taken or taken[-1] <= 2:
            taken.append(os.memfd_create("fastmp:standard"))
        return util.spawnv_passfds(executable, command, passed)  # type: ignore[arg-type]
    finally:
        for fd in taken:
            os.close(fd)
