"""Running a program as the interpreter would: a script, a module, or code, in the real `__main__`.

What a program can see of it: `sys.orig_argv`, and frames below its first one in `inspect.stack()`,
`traceback.print_stack()` and faulthandler's. Not in tracebacks of what it raises.
"""

from __future__ import annotations

import os
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    import types
    from typing import Any, NoReturn

__all__ = ["run_code", "run_module", "run_script"]


def run_script(path: str, arguments: list[str]) -> None:
    """Does what `python path arguments...` does: a script, or a directory or archive with a `__main__`."""
    sys.argv[:] = [path, *arguments]
    if path == "-":
        _run_source(sys.stdin.buffer.read(), "<stdin>", "")
    elif _is_importer(path):
        # That is what is run: it is on the path whatever `-P` says.
        sys.path[: not sys.flags.safe_path] = [os.path.abspath(path)]
        _run_as_main("__main__", alter_argv=False)
    else:
        file = os.path.join(os.getcwd(), path)
        _set_path(os.path.dirname(os.path.realpath(path)))
        code = _code_of(path, file)
        _become(__file__=file, __loader__=_loader(file))
        _execute(code)


def run_module(name: str, arguments: list[str]) -> None:
    """Does what `python -m name arguments...` does."""
    sys.argv[:] = ["-m", *arguments]
    _run_as_main(name, alter_argv=True)


def run_code(source: str, arguments: list[str]) -> None:
    """Does what `python -c source arguments...` does."""
    sys.argv[:] = ["-c", *arguments]
    _run_source(source, "<string>", "")


def _set_path(directory: str) -> None:
    """The interpreter has put the working directory there, for `-m`."""
    if not sys.flags.safe_path:
        sys.path[0] = directory


def _is_importer(path: str) -> bool:
    for hook in sys.path_hooks:
        try:
            hook(path)
            return True
        except ImportError:
            pass
    return False


def _loader(file: str) -> Any:
    from importlib.machinery import SourceFileLoader, SourcelessFileLoader

    kind = SourcelessFileLoader if file.endswith(".pyc") else SourceFileLoader
    return kind("__main__", file)


def _code_of(path: str, file: str) -> Any:
    import io

    try:
        with io.open_code(file) as opened:
            source = opened.read()
    except OSError as error:
        _refuse(f"can't open file {file!r}: [Errno {error.errno}] {error.strerror}")
    if path.endswith(".pyc"):
        import marshal
        from importlib.util import MAGIC_NUMBER

        if source.startswith(MAGIC_NUMBER):
            return marshal.loads(memoryview(source)[16:])
    return _compile(source, file)


def _refuse(why: str) -> NoReturn:
    print(f"{sys.executable}: {why}", file=sys.stderr)
    raise SystemExit(2)


def _run_source(source: str | bytes, name: str, directory: str) -> None:
    _set_path(directory)
    _become()
    _execute(_compile(source, name))


def _become(**names: Any) -> None:
    """Makes `__main__`, the very module, what it is before a program's first line."""
    main = vars(sys.modules["__main__"])
    kept = {name: main[name] for name in ("__builtins__",) if name in main}
    from importlib.machinery import BuiltinImporter

    fresh: dict[str, Any] = {"__name__": "__main__", "__doc__": None, "__package__": None}
    fresh.update(__loader__=BuiltinImporter, __spec__=None)
    if sys.version_info < (3, 14):
        fresh["__annotations__"] = {}
    if "__file__" in names and sys.version_info < (3, 15):
        names["__cached__"] = None
    main.clear()
    main.update(fresh, **kept, **names)


def _run_as_main(name: str, alter_argv: bool) -> None:
    import runpy

    _become()
    _guarded(runpy._run_module_as_main, name, alter_argv)  # type: ignore[attr-defined]


def _compile(source: str | bytes, name: str) -> Any:
    return _guarded(compile, source, name, "exec", dont_inherit=True)


def _execute(code: types.CodeType) -> None:
    _guarded(exec, code, vars(sys.modules["__main__"]))


def _guarded(function: Any, *arguments: Any, **named: Any) -> Any:
    """Calls it; what it raises will be printed without the frames that lead to here."""
    try:
        return function(*arguments, **named)
    except SystemExit:
        raise
    except BaseException:
        # What prints it is the program's own hook, if it has set one, when all has been unwound.
        hook = getattr(sys, "excepthook", sys.__excepthook__)

        def excepthook(kind: Any, value: BaseException, traceback: Any) -> None:
            traceback = _from_program_on(traceback)
            # Not by the attribute, which a class may have made its own.
            BaseException.with_traceback(value, traceback)
            hook(kind, value, traceback)

        sys.excepthook = excepthook
        raise


def _from_program_on(traceback: Any) -> Any:
    at = traceback
    while at is not None and at.tb_frame.f_code is not _guarded.__code__:
        at = at.tb_next
    return traceback if at is None else at.tb_next
