"""What each worker does now, in shared memory: so that the parent can name a dead one's task.

A slot is a worker's, and that of the one that takes its place. It alone writes to it while it
lives, the parent before it starts and after its death. What stands there decides nothing that the
queue's custody does not: see `core`.
"""

from __future__ import annotations

import ctypes

from .. import sharedctypes

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

WORDS = 8  # of eight bytes: a cache line

READY = 0  # its initializer has returned
BEGUN = 1  # tasks begun, ever
JOB = 2  # of the task that runs now, written last; IDLE: none
INDEX = 3
ATTEMPT = 4
DEADLINE = 5  # when it is to be ended, by the monotonic clock in ns; 0: never

IDLE = -1


def create(count: int) -> Any:
    """Slots for so many workers."""
    return sharedctypes.RawArray(ctypes.c_int64, count * WORDS)


def view(slots: Any, number: int) -> memoryview:
    """The words of a slot."""
    return memoryview(slots).cast("B").cast("q")[number * WORDS : (number + 1) * WORDS]


def clear(slot: memoryview) -> None:
    """Before its worker starts."""
    slot[JOB] = IDLE
    slot[READY] = slot[DEADLINE] = 0
