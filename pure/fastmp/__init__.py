"""The standard library's multiprocessing under fastmp's names, where there is no core for fastmp.

Nothing here is faster than the stdlib or safe against kills: `accelerated` is False. What only
fastmp has raises NotImplementedError.
"""

from __future__ import annotations

import importlib
import multiprocessing

from . import context as context
from . import exceptions as exceptions
from .context import _default_context
from .exceptions import BatchError as BatchError
from .exceptions import CorruptedError as CorruptedError
from .exceptions import OwnerDiedWarning as OwnerDiedWarning
from .exceptions import WorkerDiedError as WorkerDiedError
from .exceptions import WorkerDiedWarning as WorkerDiedWarning

TYPE_CHECKING = False
if TYPE_CHECKING:
    from multiprocessing import *  # noqa: F403
    from typing import Any

    Array = _default_context.Array
    BoundedSemaphore = _default_context.BoundedSemaphore
    Broadcast = _default_context.Broadcast
    Lock = _default_context.Lock
    RLock = _default_context.RLock
    Semaphore = _default_context.Semaphore
    Value = _default_context.Value

accelerated = False
SUBDEBUG = 5
SUBWARNING = 25

globals().update((name, getattr(_default_context, name)) for name in multiprocessing.__all__)
Broadcast = _default_context.Broadcast
_ours = ["BatchError", "Broadcast", "CorruptedError", "OwnerDiedWarning", "ShutDown", "WorkerDiedError"]
_ours += ["WorkerDiedWarning", "ProcessPoolExecutor", "install", "uninstall", "with_timeout"]
__all__ = sorted([*multiprocessing.__all__, *_ours, "accelerated"])

_submodules = {
    "connection",
    "dummy",
    "forkserver",
    "futures",
    "heap",
    "managers",
    "pool",
    "process",
    "queues",
    "reduction",
    "resource_sharer",
    "resource_tracker",
    "shared_memory",
    "sharedctypes",
    "spawn",
    "synchronize",
    "unchanged",
    "util",
}


def __getattr__(name: str) -> Any:
    if name == "ShutDown":
        return exceptions.ShutDown
    if name in ("ProcessPoolExecutor", "with_timeout"):
        return getattr(importlib.import_module(f"{__name__}.futures"), name)
    if name in ("install", "uninstall"):
        return getattr(importlib.import_module(f"{__name__}.unchanged"), name)
    if name in _submodules:
        return importlib.import_module(f"{__name__}.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
