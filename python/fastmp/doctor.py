"""What this machine and this Python allow, and what fastmp does without: `python -m fastmp doctor`.

Each probe tries the real thing once, in the way in which fastmp uses it, and cleans up behind it.
"""

from __future__ import annotations

import json
import os
import sys

from .doctor_limits import limits
from .doctor_probes import PROBES, Degraded, Missing, Unknown

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

__all__ = ["main", "report", "version"]

MARKS = {"ok": "ok", "degraded": "degraded", "missing": "MISSING", "unknown": "unknown"}


def version() -> str:
    """The version of the package that is installed; "unknown" where it is only a directory."""
    from importlib import metadata

    try:
        return metadata.version("fastmp")
    except metadata.PackageNotFoundError:
        return "unknown"


def report() -> dict[str, Any]:
    """Returns all that is found, in values that JSON has.

    "verdict" is "ok", "degraded" (all works, some of it in another way or slower) or "missing".
    """
    system = os.uname()
    found: dict[str, Any] = {
        "fastmp": version(),
        "accelerated": True,  # the portable package has a doctor of its own
        "python": sys.version.split()[0],
        "free_threaded": not getattr(sys, "_is_gil_enabled", lambda: True)(),
        "system": f"{system.sysname} {system.release} {system.machine}",
        "probes": [_probe(*probe) for probe in PROBES],
        "limits": limits(),
    }
    states = {probe["state"] for probe in found["probes"]}
    worst = [state for state in ("missing", "degraded") if state in states]
    found["verdict"] = worst[0] if worst else "ok"
    return found


def _probe(name: str, try_it: Any, without: str) -> dict[str, str]:
    """`without`: what fastmp does where there is no such thing."""
    state, detail = "ok", ""
    try:
        detail = try_it() or ""
    except (Missing, MemoryError) as error:
        state, detail = "missing", str(error)
    except Unknown as error:
        state, detail = "unknown", str(error)
    except (Degraded, OSError, AttributeError) as error:
        state, detail = "degraded", str(error)
    return {"name": name, "state": state, "detail": detail, "without": without}


def main(as_json: bool = False) -> int:
    """Prints the report; returns the exit status: 1 if something that is needed is missing."""
    found = report()
    if as_json:
        print(json.dumps(found, indent=2))
    else:
        for line in _lines(found):
            print(line)
    return int(found["verdict"] == "missing")


def _lines(found: dict[str, Any]) -> list[str]:
    threads = " (free-threaded)" if found["free_threaded"] else ""
    lines = [f"fastmp {found['fastmp']}, Python {found['python']}{threads}, {found['system']}", ""]
    for probe in found["probes"]:
        lines.append(f"{MARKS[probe['state']]:9} {probe['name']}{': ' if probe['detail'] else ''}{probe['detail']}")
        if probe["state"] != "ok":
            lines.append(f"{'':9} without it {probe['without']}")
    lines.append("")
    lines += [f"{name:42} {value}" for name, value in found["limits"].items()]
    verdicts = {
        "ok": "Everything that fastmp can use is here.",
        "degraded": "Everything works; what is degraded is said above.",
        "missing": "fastmp cannot do without what is missing above.",
    }
    return [*lines, "", verdicts[found["verdict"]]]
