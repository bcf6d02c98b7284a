"""What a child is started with, pickled: by the program's reducer, or the pickler that its context was given."""

from __future__ import annotations

from multiprocessing import context

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from multiprocessing.process import BaseProcess
    from typing import Any

__all__ = ["dump_process"]


def dump_process(process_obj: BaseProcess, file: Any) -> None:
    """Writes a process object's pickle to `file`, for a child that `pickle.load` reads it in.

    Runs code of the program: the child's popen is the spawning one meanwhile, and the caller holds
    no lock.

    Raises:
        Exception: whatever pickling raises; where it is known its message says which part of the
            process it is about.
    """
    pickler = getattr(process_obj, "_pickler", None)
    dump: Callable[[Any, Any], None]
    if pickler is None:
        dump = context.reduction.dump  # type: ignore[attr-defined] # as it is now: `ctx.reducer` sets it
    else:
        from . import picklers

        dump = picklers.dump_by(pickler)
    try:
        dump(process_obj, file)
    except Exception as error:
        from . import pickling_errors

        pickling_errors.explain_start(error, process_obj, dump, pickler)
        raise
