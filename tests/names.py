"""Every public name of multiprocessing, here: the table in docs/compatibility.md.

    python names.py column [COLUMN.json...]       what the running interpreter has, as JSON; of the others' names too
    python names.py table COLUMN.json...          the page of several interpreters' columns

First a column of each interpreter, then again of all names, then the page. A test compares the
running interpreter's column with it.
"""

from __future__ import annotations

import importlib
import inspect
import json
import pkgutil
import sys

VERSIONS = ["3.11", "3.12", "3.13", "3.14", "3.15"]

SAME = "✓"  # the stdlib has it, and so has fastmp: it takes every call that the stdlib's takes
NEWER = "+"  # fastmp has it, the stdlib of that version not
WITHOUT = "-"  # fastmp has not got it, nor the stdlib of that version
MISSING = "missing"  # the stdlib has it, fastmp not
DIFFERENT = "differs"  # fastmp's does not take every call that the stdlib's takes

# Of other systems, and modules that are imported by accident.
LEFT_OUT = {"popen_spawn_win32", "popen_fork", "popen_spawn_posix", "popen_forkserver"}
# The classes whose methods programs call: how to get one of each from a context.
CLASSES = {
    "Lock": lambda ctx: ctx.Lock(),
    "RLock": lambda ctx: ctx.RLock(),
    "Semaphore": lambda ctx: ctx.Semaphore(),
    "BoundedSemaphore": lambda ctx: ctx.BoundedSemaphore(),
    "Condition": lambda ctx: ctx.Condition(),
    "Event": lambda ctx: ctx.Event(),
    "Barrier": lambda ctx: ctx.Barrier(1),
    "Queue": lambda ctx: ctx.Queue(),
    "JoinableQueue": lambda ctx: ctx.JoinableQueue(),
    "SimpleQueue": lambda ctx: ctx.SimpleQueue(),
    "Connection": lambda ctx: ctx.Pipe()[0],
    "Value": lambda ctx: ctx.Value("i"),
    "Array": lambda ctx: ctx.Array("i", 1),
    "Process": lambda ctx: ctx.Process(),
    "context": lambda ctx: ctx,
}


def public(owner: object) -> set[str]:
    return {name for name in dir(owner) if not name.startswith("_")}


def of_module(module: object) -> set[str]:
    """What it offers: not what it has imported, unless it says so."""
    promised = set(getattr(module, "__all__", ()))
    own = {
        name
        for name in public(module)
        if getattr(getattr(module, name), "__module__", module.__name__) == module.__name__
        and not inspect.ismodule(getattr(module, name))
    }
    return promised | {
        name for name in own if inspect.isroutine(getattr(module, name)) or inspect.isclass(getattr(module, name))
    }


def takes_all(ours: object, theirs: object) -> bool:
    """Does `ours` take every call that `theirs` takes? True where one of the two cannot be asked."""
    try:
        mine, known = (list(inspect.signature(each).parameters.values()) for each in (ours, theirs))
    except (TypeError, ValueError):
        return True
    kinds = inspect.Parameter
    takes = {kind: any(p.kind is kind for p in mine) for kind in (kinds.VAR_POSITIONAL, kinds.VAR_KEYWORD)}
    by_name = {p.name: p for p in mine if p.kind in (kinds.POSITIONAL_OR_KEYWORD, kinds.KEYWORD_ONLY)}
    by_place = [p for p in mine if p.kind in (kinds.POSITIONAL_ONLY, kinds.POSITIONAL_OR_KEYWORD)]
    for at, parameter in enumerate(known):
        if parameter.kind in (kinds.VAR_POSITIONAL, kinds.VAR_KEYWORD):
            if not takes[parameter.kind]:
                return False
            continue
        if parameter.kind is not kinds.POSITIONAL_ONLY and not (parameter.name in by_name or takes[kinds.VAR_KEYWORD]):
            return False
        if parameter.kind is not kinds.KEYWORD_ONLY and not (at < len(by_place) or takes[kinds.VAR_POSITIONAL]):
            return False
        found = by_name.get(parameter.name)
        if parameter.default is not kinds.empty and found is not None and found.default is kinds.empty:
            return False
    more = {p.name for p in mine} - {p.name for p in known}
    needed = [p for p in mine if p.name in more and p.default is kinds.empty]
    return all(p.kind in (kinds.VAR_POSITIONAL, kinds.VAR_KEYWORD) for p in needed) or takes[kinds.VAR_POSITIONAL]


def compare(ours: object, theirs: object, name: str, known: set[str]) -> str:
    """What stands in the table for a name: `known` are those of the stdlib."""
    # A property of an object that is not started raises, in both.
    here = hasattr(type(ours), name) or hasattr(ours, name)
    if name not in known:
        return NEWER if here else WITHOUT
    if not here:
        return MISSING
    if isinstance(getattr(type(theirs), name, None), property):
        return SAME
    mine, other = getattr(ours, name, None), getattr(theirs, name)
    if callable(other) and not (callable(mine) and takes_all(mine, other)):
        return DIFFERENT
    return SAME


def column(more: dict[str, list[str]] | None = None) -> dict[str, dict[str, str]]:
    """What the running interpreter has: for each group its names, those in `more` too."""
    more = more or {}
    found: dict[str, dict[str, str]] = {}

    def add(group: str, ours: object, theirs: object, names: set[str], known: set[str]) -> None:
        names = names | set(more.get(group, ()))
        known = known | {name for name in names if hasattr(type(theirs), name) or hasattr(theirs, name)}
        found[group] = {name: compare(ours, theirs, name, known) for name in sorted(names)}

    import multiprocessing

    import fastmp

    known = set(multiprocessing.__all__)
    add("multiprocessing", fastmp, multiprocessing, known | set(fastmp.__all__), known)
    ours, theirs = fastmp.get_context("spawn"), multiprocessing.get_context("spawn")
    for name, make in CLASSES.items():
        mine, other = make(ours), make(theirs)
        known = public(type(other)) | {each for each in vars(other) if not each.startswith("_")}
        add(name, mine, other, known | public(type(mine)), known)
    for info in pkgutil.iter_modules(multiprocessing.__path__):
        if info.name in LEFT_OUT:
            continue
        other = importlib.import_module(f"multiprocessing.{info.name}")
        mine = importlib.import_module(f"fastmp.{info.name}")
        group = f"multiprocessing.{info.name}"
        if mine is other:
            found[group] = {"(the stdlib's own module)": SAME}
            continue
        known = of_module(other)
        add(group, mine, other, known | set(getattr(mine, "__all__", ())), known)
    return found


LEGEND = """# Names, by version of Python

Every public name of `multiprocessing` on CPython {first} to {last}, and fastmp's own. Made by `tests/names.py`,
and compared by a test with what each interpreter has.

- `{same}`: the stdlib of that version has it, and fastmp has it: it takes every call that the stdlib's takes. How it
  behaves is held to the stdlib's by the tests in `tests/contract`, and by CPython's own.
- `{newer}`: fastmp has it there, and the stdlib of that version has not: it is a newer version's, or fastmp's own.
- `{without}`: neither has it.

Arguments are those of the newest version on every one: `Process(kwargs=None)`, `set_forkserver_preload(on_error=)`.
A module that is *the stdlib's own* is that very module: `fastmp.managers is multiprocessing.managers`. Names that
begin with an underscore are not in the table; a test in `tests/test_exports.py` sees to it that modules have them.

What differs is for the inside of either package alone:

{differences}
"""

# Called by nobody but the package itself.
DIFFERENCES = {
    ("multiprocessing.context", "DefaultContext"): "a program has one, and makes none",
    ("multiprocessing.pool", "IMapUnorderedIterator"): "made by a pool alone",
    ("multiprocessing.pool", "MapResult"): "made by a pool alone",
    ("multiprocessing.sharedctypes", "rebuild_ctype"): "makes an object in a block of fastmp's memory",
    (
        "multiprocessing.synchronize",
        "SemLock",
    ): "the base of locks and semaphores, which are no semaphores of the system's here",
}


def table(columns: dict[str, dict[str, dict[str, str]]]) -> str:
    """The page, of columns by version."""
    versions = sorted(columns, key=lambda version: int(version.partition(".")[2]))
    differences = "\n".join(f"- `{group}.{name}`: {why}" for (group, name), why in DIFFERENCES.items())
    marks = {"same": SAME, "newer": NEWER, "without": WITHOUT}
    lines = [LEGEND.format(first=versions[0], last=versions[-1], differences=differences, **marks)]
    groups = list(dict.fromkeys(group for each in columns.values() for group in each))
    for group in groups:
        lines += [f"## {group}", "", f"| name | {' | '.join(versions)} |", "|---" * (len(versions) + 1) + "|"]
        for name in sorted({name for each in columns.values() for name in each.get(group, ())}):
            marks = [columns[version].get(group, {}).get(name, WITHOUT) for version in versions]
            if set(marks) == {WITHOUT}:
                continue
            lines.append(f"| `{name}` | {' | '.join(marks)} |")
        lines.append("")
    return "\n".join(lines)


def read(text: str) -> dict[str, dict[str, dict[str, str]]]:
    """The columns of such a page."""
    columns: dict[str, dict[str, dict[str, str]]] = {}
    group, versions = "", []
    for line in text.splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if line.startswith("## "):
            group = line[3:]
        elif line.startswith("| name |"):
            versions = cells[1:]
        elif line.startswith("| `"):
            for version, mark in zip(versions, cells[1:], strict=True):
                columns.setdefault(version, {}).setdefault(group, {})[cells[0].strip("`")] = mark
    return columns


def main() -> None:
    columns: dict[str, dict[str, dict[str, str]]] = {}
    for path in sys.argv[2:]:
        with open(path) as file:
            columns.update(json.load(file))
    if sys.argv[1] == "table":
        print(table(columns), end="")
        return
    json.dump({f"3.{sys.version_info.minor}": column(names(columns))}, sys.stdout)


def names(columns: dict[str, dict[str, dict[str, str]]]) -> dict[str, list[str]]:
    """All names of each group, whatever the version."""
    found: dict[str, list[str]] = {}
    for groups in columns.values():
        for group, marks in groups.items():
            found.setdefault(group, []).extend(marks)
    return found


if __name__ == "__main__":
    main()
