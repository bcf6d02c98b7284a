"""`install()`, where `multiprocessing` is what this package offers anyway: it changes nothing."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ["install", "is_installed", "uninstall"]


def install(only: Iterable[str] | None = None, except_: Iterable[str] | None = None) -> None:
    """Does nothing: fastmp is the stdlib here."""


def uninstall() -> None:
    """Does nothing."""


def is_installed() -> bool:
    """Whether `multiprocessing` means something else here: never."""
    return False
