"""Pipe ends that stay open as long as this process lives, and so tell others of its death.

A forked child that kept a copy would let them wait for its own death, too. So it has none: the core
closes them in it before anything else runs there, but for the one that was made for it.
"""

from ._native import _die_with as die_with
from ._native import _keep_lifeline as keep
from ._native import _make_line as make_line
from ._native import _share_lifeline as share

__all__ = ["die_with", "keep", "make_line", "share"]
