"""Start a process by way of the stdlib's fork server."""

from multiprocessing import popen_forkserver
from multiprocessing.process import BaseProcess

from . import handles
from .popen_fork import give_readers

__all__ = ["Popen"]


class Popen(popen_forkserver.Popen):
    """A running child: the stdlib's, which our objects travel to as to any child."""

    forgets_lent = True

    def _launch(self, process_obj: BaseProcess) -> None:
        try:
            super()._launch(process_obj)  # type: ignore[misc]
            give_readers(process_obj, self.pid)
        finally:
            handles.forget_lent(self)
