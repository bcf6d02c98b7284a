"""A faster, kill-safe, drop-in replacement for the stdlib's multiprocessing, for Linux."""

import sys

if sys.platform != "linux":
    raise ImportError(f"fastmp runs on Linux only (it needs memfd and futex); this is {sys.platform!r}")

from . import connection as connection
from . import context as context
from . import process as process
from ._native import CorruptedError, OwnerDiedWarning
from .context import AuthenticationError, BufferTooShort, ProcessError, TimeoutError
from .context import _default_context as _context
from .process import Process

TYPE_CHECKING = False
if TYPE_CHECKING:
    from . import exceptions as exceptions
    from . import queues as queues
    from . import synchronize as synchronize
    from .exceptions import BatchError, WorkerDiedError, WorkerDiedWarning
del TYPE_CHECKING

Array = _context.Array
Barrier = _context.Barrier
BoundedSemaphore = _context.BoundedSemaphore
Broadcast = _context.Broadcast
Condition = _context.Condition
Event = _context.Event
JoinableQueue = _context.JoinableQueue
Lock = _context.Lock
Manager = _context.Manager
Pipe = _context.Pipe
Pool = _context.Pool
Queue = _context.Queue
RLock = _context.RLock
RawArray = _context.RawArray
RawValue = _context.RawValue
Semaphore = _context.Semaphore
SimpleQueue = _context.SimpleQueue
Value = _context.Value
active_children = _context.active_children
allow_connection_pickling = _context.allow_connection_pickling
cpu_count = _context.cpu_count
current_process = _context.current_process
freeze_support = _context.freeze_support
get_all_start_methods = _context.get_all_start_methods
get_context = _context.get_context
get_logger = _context.get_logger
get_start_method = _context.get_start_method
log_to_stderr = _context.log_to_stderr
parent_process = _context.parent_process
reducer = _context.reducer
set_executable = _context.set_executable
set_forkserver_preload = _context.set_forkserver_preload
set_start_method = _context.set_start_method

__all__ = [
    "Array",
    "AuthenticationError",
    "Barrier",
    "BatchError",
    "BoundedSemaphore",
    "Broadcast",
    "BufferTooShort",
    "Condition",
    "CorruptedError",
    "Event",
    "JoinableQueue",
    "Lock",
    "Manager",
    "OwnerDiedWarning",
    "Pipe",
    "Pool",
    "Process",
    "ProcessError",
    "ProcessPoolExecutor",
    "Queue",
    "RLock",
    "RawArray",
    "RawValue",
    "Semaphore",
    "ShutDown",
    "SimpleQueue",
    "TimeoutError",
    "Value",
    "WorkerDiedError",
    "WorkerDiedWarning",
    "accelerated",
    "active_children",
    "allow_connection_pickling",
    "cpu_count",
    "current_process",
    "freeze_support",
    "get_all_start_methods",
    "get_context",
    "get_logger",
    "get_start_method",
    "install",
    "log_to_stderr",
    "parent_process",
    "reducer",
    "set_executable",
    "set_forkserver_preload",
    "set_start_method",
    "uninstall",
    "with_timeout",
]


# False in the portable package: where there is no core, it is the stdlib under the same names.
accelerated = True

# Levels of the package's logger. The stdlib has them beside `__all__`.
SUBDEBUG = 5
SUBWARNING = 25

# What `import fastmp` need not pay for.
_submodules = {
    "broadcast",
    "dummy",
    "exceptions",
    "forkserver",
    "futures",
    "heap",
    "managers",
    "pool",
    "queues",
    "reduction",
    "resource_sharer",
    "resource_tracker",
    "shared_memory",
    "sharedctypes",
    "spawn",
    "spawn_main",
    "synchronize",
    "unchanged",
    "util",
}
# Names that are looked for in one of these.
_on_demand = {
    "BatchError": "exceptions",
    "ProcessPoolExecutor": "futures",
    "ShutDown": "exceptions",
    "WorkerDiedError": "exceptions",
    "WorkerDiedWarning": "exceptions",
    "install": "unchanged",
    "uninstall": "unchanged",
    "with_timeout": "futures",
}


def __getattr__(name: str) -> object:
    module_name = _on_demand.get(name, name)
    if module_name in _submodules:
        full_name = f"{__name__}.{module_name}"
        __import__(full_name)  # importlib costs more than most of our own modules
        module = sys.modules[full_name]
        return module if module_name == name else getattr(module, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
