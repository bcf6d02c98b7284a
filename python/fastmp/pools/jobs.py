"""A job: tasks that were handed in together, and what has become of them."""

from __future__ import annotations

import copy
import threading

from .messages import RAISED, dumps, opened

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


class Job:
    """What the table has of a job.

    Attributes:
        number: by which it stands in the table.
        open: tasks that have been put, and of which nothing has been heard, with their bytes.
        closing: the task that is just being closed; else an interrupt has come in between.
        fed: no more tasks of it will be put.
        is_done: all has been heard, and callbacks have been called.
        waiters: locks of threads that wait for it.
    """

    has_callbacks = False
    deadline_of_each: float | None = None

    def __init__(self, number: int) -> None:
        self.number = number
        self.open: dict[int, int] = {}
        self.fed = False
        self.closing: int | None = None
        self.is_done = False
        self.waiters: list[Any] = []

    # Under the pool's lock: no code of users.

    def arrive(self, index: int, code: int, data: Any) -> None:
        """Notes what has become of a task; twice, perhaps, with the same."""

    def broken_off(self, code: int, data: Any) -> None:
        """The iterable has raised, behind the last task."""
        self.arrive(-1, code, data)

    def exhausted(self) -> None:
        """All its tasks have been put."""
        self.fed = True

    def abandon(self, code: int, data: Any) -> None:
        """The pool has ended. What is open has been told so."""
        self.fed = True

    def completed(self) -> None:
        """All has been heard."""
        self.is_done = True

    # Without it.

    def end(self) -> None:
        """It is done; by the reserve if it has callbacks, which are called here."""

    def digest(self) -> None:
        """By one who waits for it: makes objects of what has arrived, as there is time."""


def pickled_error(error: BaseException, of_many: bool = False) -> Any:
    """An exception that was raised here, as the data of an answer, or of many."""
    return Here(error, of_many)


class Here:
    """The data of an answer that was given in this process: nothing is to be unpickled."""

    def __init__(self, value: Any, of_many: bool = False) -> None:
        self._value = value
        self._of_many = of_many

    @property
    def value(self) -> Any:
        return anew(self._value) if self._of_many else self._value


def anew(error: BaseException) -> BaseException:
    """The same once more, as each place that raises one object adds to its traceback."""
    another = copy.copy(error)
    another.__cause__ = error.__cause__
    return another


def open_answer(code: int, data: Any) -> tuple[bool, Any]:
    """Is it a result, and the result; or the exception. One that cannot be unpickled is one."""
    if type(data) is Here:
        return code < RAISED, data.value
    try:
        return code < RAISED, opened(code, data)
    except Exception as e:
        return False, e


__all__ = ["Here", "Job", "dumps", "open_answer", "pickled_error", "threading"]
