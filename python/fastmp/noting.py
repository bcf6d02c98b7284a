"""Results that no signal handler loses.

Python runs handlers between its own steps: one that raises just after a call has returned takes the
place of the result. A descriptor stays open then that nobody knows of, a child runs on. So such a
result goes to its place within the same call into C.
"""

from __future__ import annotations

from itertools import starmap

from ._native import _close_all as close_all

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

__all__ = ["close_all", "note"]


def note(results: list[Any], function: Callable[..., Any], *args: Any) -> None:
    """Appends to `results` what that function of C's returns."""
    results.extend(starmap(function, (args,)))
