"""`python -m fastmp doctor`, where there is nothing to look at."""

from __future__ import annotations

import json
import platform

__all__ = ["main", "report", "version"]


def version() -> str:
    """The version of the package that is installed; "unknown" where it is only a directory."""
    from importlib import metadata

    try:
        return metadata.version("fastmp")
    except metadata.PackageNotFoundError:
        return "unknown"


def report() -> dict[str, object]:
    """Returns what is said, in values that JSON has."""
    return {
        "fastmp": version(),
        "accelerated": False,
        "python": platform.python_version(),
        "system": platform.platform(),
        "verdict": "degraded",
    }


def main(as_json: bool = False) -> int:
    """Prints the report; returns the exit status."""
    found = report()
    if as_json:
        print(json.dumps(found, indent=2))
    else:
        print(f"fastmp {found['fastmp']}, Python {found['python']}, {found['system']}\n")
        print("This is the portable package: the stdlib's multiprocessing under fastmp's names.")
    return 0
