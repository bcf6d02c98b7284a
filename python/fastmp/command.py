"""`python -m fastmp`: runs programs on fastmp, and says what it finds here."""

from __future__ import annotations

import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import NoReturn

__all__ = ["main"]

USAGE = """\
usage: python -m fastmp run [options] script.py | -m module | -c code [arguments...]
       python -m fastmp doctor [--json]
       python -m fastmp --version

run      runs a program as python does, with fastmp in the place of multiprocessing,
         there and in its child processes
    --method METHOD    start processes by "fork", "spawn" or "forkserver" where the program
                       does not say how
    --only NAMES       only these modules and packages get fastmp (separated by commas)
    --except NAMES     these do not
doctor   says what this machine and this Python allow; ends with 1 if something that
         fastmp cannot do without is missing
"""


def main(arguments: list[str]) -> None:
    """Does what the command line says.

    Raises:
        SystemExit: at the end, or with 2 for a command that is none.
    """
    match arguments:
        case [] | ["-h" | "--help" | "help", *_]:
            print(USAGE, end="")
        case ["-V" | "--version"]:
            from .doctor import version

            print(f"fastmp {version()}")
        case ["run" | "doctor", "-h" | "--help", *_]:
            print(USAGE, end="")
        case ["run", *rest]:
            _run(rest)
        case ["doctor", *options]:
            from .doctor import main as doctor

            if set(options) - {"--json"}:
                _refuse(f"doctor has no {' '.join(options)}")
            raise SystemExit(doctor(as_json="--json" in options))
        case [unknown, *_]:
            _refuse(f"there is no command {unknown!r}")


def _refuse(why: str) -> NoReturn:
    print(f"python -m fastmp: {why}\n\n{USAGE}", end="", file=sys.stderr)
    raise SystemExit(2)


def _run(arguments: list[str]) -> None:
    options: dict[str, str] = {}
    while arguments and arguments[0].startswith("--"):
        name, has_value, value = arguments.pop(0).partition("=")
        if name == "--":
            break
        if name not in ("--method", "--only", "--except"):
            _refuse(f"run has no {name}")
        if not has_value:
            if not arguments:
                _refuse(f"{name} needs a value")
            value = arguments.pop(0)
        options[name] = value
    if not arguments:
        _refuse("what is to be run?")
    if arguments[0] in ("-m", "-c") and len(arguments) == 1:
        _refuse(f"{arguments[0]} needs a value")

    from . import running
    from .unchanged import install

    install(*(options[name].split(",") if name in options else None for name in ("--only", "--except")))
    if "--method" in options:
        _default_to(options["--method"])
    match arguments:
        case ["-m", name, *rest]:
            running.run_module(name, rest)
        case ["-c", source, *rest]:
            running.run_code(source, rest)
        case [script, *rest]:
            running.run_script(script, rest)


def _default_to(method: str) -> None:
    """Makes it the start method of who chooses none; the program may still choose."""
    import multiprocessing.context

    from . import start_method

    try:
        start_method.named_context(method)
    except ValueError:
        _refuse(f"there is no start method {method!r}")
    context: dict[str, object] = vars(multiprocessing.context._default_context)
    context["_default_context"] = multiprocessing.context._concrete_contexts[method]  # type: ignore[attr-defined]
