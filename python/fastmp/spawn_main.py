"""What a spawned interpreter runs: it gets ready, then becomes the process it was started for.

As the stdlib's `multiprocessing.spawn`, which costs a child more time than the interpreter's start:
it would import a third of the standard library for a few lines. Here is no import at the top but of
what is in memory anyway.
"""

from __future__ import annotations

import gc
import os
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    import types
    from typing import Any, NoReturn

__all__ = ["freeze_support", "spawn_main"]


def freeze_support() -> None:
    """Runs the child, and does not return, if this frozen program was started as one."""
    if not _is_forking():
        return
    named = dict(argument.split("=") for argument in sys.argv[2:])
    if "data" not in named:  # by the stdlib, in the same program
        from multiprocessing import spawn

        spawn.freeze_support()
    spawn_main(**{name: int(fd) for name, fd in named.items()})


def _is_forking() -> bool:
    return sys.argv[1:2] == ["--multiprocessing-fork"]


def spawn_main(data: int, parent_sentinel: int, lifeline: int, **tracker: int) -> NoReturn:
    """Runs the process that the parent described, and exits.

    Args:
        data: a file with preparation data, the start method among them, then the process object.
        parent_sentinel: becomes readable when the parent ends.
        lifeline: open as long as this process lives.
        tracker: leads to the program's resource tracker (`shared_tracker.descriptors`).
    """
    assert _is_forking(), "Not forking"
    collecting = gc.isenabled()
    gc.disable()
    _import_lightly()
    import _pickle  # all that is needed of pickle, which imports re
    from multiprocessing.process import current_process

    from . import lifelines, shared_tracker

    os.set_inheritable(parent_sentinel, False)
    os.set_inheritable(lifeline, False)
    lifelines.keep(lifeline)
    shared_tracker.adopt(**tracker)
    # What has been imported so far stays: no collection has to look at it, those at the exit neither.
    gc.freeze()
    if collecting:
        gc.enable()
    this = current_process()
    with open(data, "rb") as file:
        # Starting a process would be a mistake: the main module is being imported.
        this._inheriting = True  # type: ignore[attr-defined]
        try:
            _prepare(_pickle.load(file))
            child = _pickle.load(file)
        finally:
            del this._inheriting  # type: ignore[attr-defined]
    if child.daemon:
        lifelines.die_with(parent_sentinel)
    sys.exit(child._bootstrap(parent_sentinel))


def _import_lightly() -> None:
    """Imports the stdlib's package without what this process may never use."""
    from .deferred import defer, defer_package

    package = sys.modules["fastmp"]
    if package.__spec__ is None:  # the parent's command has made it, with nothing but a path
        defer_package(package)
    defer("multiprocessing.reduction")
    # Of subprocess `util` wants but this, to start interpreters.
    if "subprocess" not in sys.modules:
        stand_in: Any = type(sys)("subprocess")
        stand_in._args_from_interpreter_flags = _args_from_interpreter_flags
        sys.modules["subprocess"] = stand_in
        try:
            __import__("multiprocessing.util")
        finally:
            del sys.modules["subprocess"]


def _args_from_interpreter_flags() -> list[str]:
    """Returns the command line options that reproduce this interpreter's settings."""
    import subprocess

    return subprocess._args_from_interpreter_flags()  # type: ignore[attr-defined]


def _prepare(data: dict[str, Any]) -> None:
    """Does what `multiprocessing.spawn.prepare` does with the same data."""
    if (spawn := sys.modules.get("multiprocessing.spawn")) is not None:
        # It may have been changed by whoever imported it: a tool's hook in site-packages, or something
        # that it has put into the data.
        spawn.prepare(data)
        return
    import multiprocessing.process
    import multiprocessing.util

    process = multiprocessing.process.current_process()
    if "name" in data:
        process.name = data["name"]
    if "authkey" in data:
        process.authkey = data["authkey"]
    if data.get("log_to_stderr"):
        multiprocessing.util.log_to_stderr()
    if "log_level" in data:
        multiprocessing.util.get_logger().setLevel(data["log_level"])
    if "sys_path" in data:
        sys.path = data["sys_path"]
    if "sys_argv" in data:
        sys.argv = data["sys_argv"]
    if "dir" in data:
        os.chdir(data["dir"])
    if "orig_dir" in data:
        multiprocessing.process.ORIGINAL_DIR = data["orig_dir"]  # type: ignore[attr-defined]
    if "start_method" in data:
        multiprocessing.set_start_method(data["start_method"], force=True)
    if "init_main_from_name" in data:
        _main_from_name(data["init_main_from_name"])
    elif "init_main_from_path" in data:
        _main_from_path(data["init_main_from_path"])


_old_main_modules: list[types.ModuleType] = []  # kept alive, with what they hold


def _main_from_name(name: str) -> None:
    """Runs the parent's main module, which it has found by this name, as `__mp_main__`.

    But no `__main__.py` of a package, directory or archive: these have no other code.
    """
    current = sys.modules["__main__"]
    if name == "__main__" or name.endswith(".__main__"):
        return
    if getattr(current.__spec__, "name", None) == name:
        return
    import runpy

    _old_main_modules.append(current)
    _become_main(runpy.run_module(name, run_name="__mp_main__", alter_sys=True))


def _main_from_path(path: str) -> None:
    """The same for a main module that is a file."""
    current = sys.modules["__main__"]
    # IPython's script was without an `if __name__ == "__main__"` once.
    if os.path.splitext(os.path.basename(path))[0] == "ipython":
        return
    if getattr(current, "__file__", None) == path:
        return
    _old_main_modules.append(current)
    if _is_package_path(path):
        import runpy

        _become_main(runpy.run_path(path, run_name="__mp_main__"))
    else:
        _become_main(_run_file(path))


def _become_main(names: dict[str, Any]) -> None:
    main = type(sys)("__mp_main__")
    main.__dict__.update(names)
    sys.modules["__main__"] = sys.modules["__mp_main__"] = main


def _is_package_path(path: str) -> bool:
    """Whether modules can be found in there: it is a directory or an archive (`pkgutil.get_importer`)."""
    if path in sys.path_importer_cache:
        return sys.path_importer_cache[path] is not None
    for hook in sys.path_hooks:
        try:
            sys.path_importer_cache.setdefault(path, hook(path))
            return True
        except ImportError:
            pass
    return False


def _run_file(path: str) -> dict[str, Any]:
    """Does what `runpy.run_path(path, run_name="__mp_main__")` does with a file, without its imports."""
    code = _code_of(path)
    name = "__mp_main__"
    module = type(sys)(name)
    replaced, argument = sys.modules.get(name), sys.argv[0]
    sys.modules[name], sys.argv[0] = module, path
    try:
        names: dict[str, Any] = {"__name__": name, "__file__": path, "__doc__": None, "__loader__": None}
        names.update(__package__="", __spec__=None)
        if sys.version_info < (3, 15):
            names["__cached__"] = None
        module.__dict__.update(names)
        exec(code, module.__dict__)
    finally:
        sys.argv[0] = argument
        if replaced is None:
            del sys.modules[name]
        else:
            sys.modules[name] = replaced
    return module.__dict__.copy()


def _code_of(path: str) -> types.CodeType:
    import io

    with io.open_code(os.path.abspath(path)) as file:
        source = file.read()
    if source[2:4] == b"\r\n":  # so does a compiled file begin, and hardly a script
        import importlib.util
        import marshal

        if source.startswith(importlib.util.MAGIC_NUMBER):
            return marshal.loads(memoryview(source)[16:])
    if sys.version_info >= (3, 15):
        return compile(source, path, "exec", dont_inherit=True, module="__mp_main__")  # type: ignore[call-overload, unused-ignore]
    return compile(source, path, "exec", dont_inherit=True)  # the annotations of this module are not evaluated
