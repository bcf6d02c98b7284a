"""The default context's start method: chosen once, or settled by the first use of the context."""

DEFAULT = "fork"

_chosen: str | None = None


def chosen() -> str | None:
    """Returns the method's name, or None while it is still open."""
    return _chosen


def settle() -> str:
    """Returns the method's name; from now on it is no longer open."""
    global _chosen
    if _chosen is None:
        _chosen = DEFAULT
    return _chosen


def choose(name: str | None) -> None:
    """Sets the method, whatever it was; None opens it again."""
    global _chosen
    _chosen = name
