"""The doctor's list of limits: what bounds descriptors, memory and processes here."""

from __future__ import annotations

import os
import resource

__all__ = ["limits"]

_CGROUP = "/sys/fs/cgroup"


def limits() -> dict[str, str]:
    """Returns the limits that fastmp's objects come up against, by name, as texts."""
    found = {
        "processors": _processors(),
        "open files (ulimit -n)": _rlimit(resource.RLIMIT_NOFILE),
        "processes (ulimit -u)": _rlimit(resource.RLIMIT_NPROC),
        "size of files (ulimit -f)": _rlimit(resource.RLIMIT_FSIZE, bytes_=True),
        "address space (ulimit -v)": _rlimit(resource.RLIMIT_AS, bytes_=True),
        "memory that is free": _free(),
        "/dev/shm (not used by fastmp's objects)": _shm(),
    }
    found |= {f"cgroup {name}": value for name, value in _cgroup().items()}
    return found


def _processors() -> str:
    allowed = len(os.sched_getaffinity(0))
    return f"{allowed} of {os.cpu_count()}"


def _rlimit(which: int, bytes_: bool = False) -> str:
    def text(value: int) -> str:
        if value == resource.RLIM_INFINITY:
            return "unlimited"
        return _size(value) if bytes_ else str(value)

    soft, hard = resource.getrlimit(which)
    return text(soft) if soft == hard else f"{text(soft)}, may be raised to {text(hard)}"


def _size(count: float) -> str:
    for unit in ("bytes", "KiB", "MiB", "GiB", "TiB"):
        if count < 1024 or unit == "TiB":
            break
        count /= 1024
    return f"{count:.4g} {unit}"


def _free() -> str:
    try:
        with open("/proc/meminfo") as file:
            lines = dict(line.split(":", 1) for line in file)
        free, total = (int(lines[name].split()[0]) * 1024 for name in ("MemAvailable", "MemTotal"))
    except (OSError, KeyError, ValueError):
        return "unknown"
    return f"{_size(free)} of {_size(total)}"


def _shm() -> str:
    try:
        stat = os.statvfs("/dev/shm")
    except OSError as error:
        return f"none ({error.strerror})"
    return f"{_size(stat.f_bavail * stat.f_frsize)} free of {_size(stat.f_blocks * stat.f_frsize)}"


def _cgroup() -> dict[str, str]:
    """The smallest limits of this process's group and those around it; version 2, else version 1."""
    try:
        with open("/proc/self/cgroup") as file:
            lines = [line.rstrip("\n").split(":", 2) for line in file]
    except OSError:
        return {}
    paths = {controllers: path for _, controllers, path in lines}
    found = {}
    for name, controller, file_v1 in (
        ("memory.max", "memory", "memory.limit_in_bytes"),
        ("pids.max", "pids", "pids.max"),
    ):
        values = _climb(f"{_CGROUP}{paths.get('', '/')}", name)
        values += _climb(f"{_CGROUP}/{controller}{paths.get(controller, '/')}", file_v1)
        small = [value for value in values if value < 1 << 60]
        if values:
            limit = min(small, default=None)
            found[name] = "none" if limit is None else _size(limit) if controller == "memory" else str(limit)
    return found


def _climb(directory: str, name: str) -> list[int]:
    values = []
    while directory.startswith(_CGROUP):
        try:
            with open(os.path.join(directory, name)) as file:
                text = file.read().strip()
            values.append(1 << 62 if text == "max" else int(text))
        except (OSError, ValueError):
            pass
        directory = os.path.dirname(directory)
    return values
