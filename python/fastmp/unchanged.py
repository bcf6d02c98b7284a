"""`install()`: who says `multiprocessing` gets fastmp, without a change.

**What is patched.** No function and no class of the stdlib: its modules' attributes are *looked up*
differently. `multiprocessing`, its submodules and `concurrent.futures` become modules of a class
whose `__getattribute__` gives, for each name that fastmp offers, fastmp's object instead of the
stdlib's; that covers `multiprocessing.Queue`, `from multiprocessing import Queue` and
`getattr(...)`. Who asks is told by the caller's frame:

- fastmp and the stdlib's own packages get the original. Their functions find it in their globals
  anyway, which no attribute lookup is. So the stdlib works inside as it always did, fastmp's
  classes derive from what they derive from, and nothing goes in a circle.
- Picklers in Python get the original: a class of ours is pickled by its name in fastmp, so whatever
  goes by a name in `multiprocessing` is the stdlib's, here and where it is unpickled. That in C has
  no frame, and asks in the name of who calls it: it refuses a class of the stdlib's that somebody
  has bound before, if that is one that has been replaced.
- Packages that are known to have built on private parts of the stdlib's get what they have built on
  (`_KEEPS`).
- Everybody else gets ours, but for `only` and `except_`, which name modules that ask (a package's
  name goes for all that is in it; "__main__" is the program).

What somebody assigns to such a name (a test's mock) is found as long as it is there.

**In which order.** Modules that have been imported at once, others when the import system sets them
in their package, which is patched too. Nothing is imported for it: our objects are looked for when
a name is first asked for. `multiprocessing.queues` and `JoinableQueue` cannot get out of step: the
stdlib's are of the stdlib's, ours of ours.

Four functions are replaced, in the stdlib's modules: `managers.get_context` and `pool.get_context`,
by which what is made without a context finds one; `spawn.get_preparation_data`, for children; and
`ForkServer.ensure_running`, for the stdlib's fork server.

**Undone** by giving the modules back their class, and the four functions. A module that has bound a
name keeps what it has got: at `install()` the stdlib's, at `uninstall()` ours.

**Children.** A forked one has it all in memory. To a started one (by our spawn and fork server, by
the stdlib's, which modules in `except_` go on using) it goes in the preparation data: they are
unpickled before the main module and the process object, and that calls `install()` there. A fork
server does so before it preloads anything: its command has the call in it. What others start by
means of their own (loky's workers) needs FASTMP_INSTALL=1 (docs/unchanged.md).

**isinstance** holds with the names that a module looks up after `install()`: they are the classes of
what it is given. `__module__` of our objects says "fastmp.queues" and the like, as pickle must find
them by it.
"""

from __future__ import annotations

import os
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from types import ModuleType
    from typing import Any
else:
    ModuleType = type(sys)

__all__ = ["install", "is_installed", "travelling", "uninstall"]

# The stdlib's modules, and those of ours that offer the same names.
_COUNTERPARTS = {
    "multiprocessing": "fastmp",
    "multiprocessing.connection": "fastmp.connection",
    "multiprocessing.context": "fastmp.context",
    "multiprocessing.pool": "fastmp.pool",
    "multiprocessing.queues": "fastmp.queues",
    "multiprocessing.sharedctypes": "fastmp.sharedctypes",
    "multiprocessing.synchronize": "fastmp.synchronize",
}
_EXECUTORS = ("concurrent.futures", "concurrent.futures.process")
_PACKAGES = ("multiprocessing", "concurrent", "concurrent.futures")

# Who gets the originals, whoever is named: see above.
# The import system too: it only looks whether a name is there, also while ours are being imported.
_INSIDE = ("importlib", "_frozen_importlib", "multiprocessing", "fastmp", "concurrent.futures")
_PICKLERS = ("pickle", "copyreg", "cloudpickle", "dill", "joblib.externals.cloudpickle")
# A class of the stdlib's that our objects say they are of. It makes some itself, for `Client` and
# `Listener`: these are of the class that everybody finds, too.
_SHARED = ("Connection",)
# Who has written subclasses that override private methods; of which modules, if not of all.
_KEEPS: dict[str, str | None] = {
    "loky": None,  # queues with a feeder thread and pickler of its own, on locks of its own
    "joblib.externals.loky": None,
    "joblib.pool": "multiprocessing.pool",  # another pickler in the pool's pipes
    "torch.multiprocessing.queue": "multiprocessing.queues",  # the same, in the place of `_reader` and `_writer`
}

_Options = tuple[tuple[str, ...] | None, tuple[str, ...]]
_options: _Options | None = None  # None: not installed
# By the names of the module that asks, and that is asked. Another one at each install(): a thread that
# has read the last options must not put into this what they say.
_wanted: dict[tuple[str, str], bool] = {}

get_attribute = ModuleType.__getattribute__


def install(only: Iterable[str] | None = None, except_: Iterable[str] | None = None) -> None:
    """Makes `multiprocessing` mean fastmp, here and in child processes.

    Modules that have been imported keep what they have bound by then. Called again, it is the new
    `only` and `except_` that count.

    Args:
        only: names of modules and packages that get fastmp's objects; by default all.
        except_: names of those that do not.

    Raises:
        TypeError: one of these is no iterable of names.
    """
    global _options, _wanted
    _options, _wanted = (None if only is None else _names("only", only), _names("except_", except_ or ())), {}
    for name in ("multiprocessing", "concurrent"):  # the second has nothing in it
        _import(name)
    for name in _ALL:
        if isinstance(module := sys.modules.get(name), ModuleType):  # or somebody's stand-in
            _patch(name, module)


def uninstall() -> None:
    """Undoes `install()`: what is looked up in `multiprocessing` from now on is the stdlib's."""
    global _options, _wanted
    _options, _wanted = None, {}
    for name in _ALL:
        module = sys.modules.get(name)
        if issubclass(type(module), _Substituting):
            module.__class__ = ModuleType
        if name in _replaced and isinstance(module, ModuleType):
            _put_back(name, module)


def is_installed() -> bool:
    """Whether `multiprocessing` means fastmp here."""
    return _options is not None


def _names(argument: str, names: Iterable[str]) -> tuple[str, ...]:
    found = tuple(names) if not isinstance(names, str) else ()
    if isinstance(names, str) or not all(isinstance(name, str) for name in found):
        raise TypeError(f"{argument} is an iterable of names of modules, not {names!r}")
    return found


def _import(name: str) -> ModuleType:
    """What importlib's function does, which costs more to import than all this."""
    __import__(name)
    return sys.modules[name]


# --- Who asks ---


def _wants(asking: str, asked: str) -> bool:
    """Whether a module of that name gets our objects instead of those of the stdlib's module."""
    known = _wanted  # before the options: see there
    try:
        return known[asking, asked]
    except KeyError:
        pass
    options = _options
    if options is None:
        return False
    only, except_ = options
    name = "__main__" if asking == "__mp_main__" else str(asking)  # in a started child
    keeping = [keeper for keeper, kept in _KEEPS.items() if kept in (None, asked)]
    wants = not _is_in(name, (*_INSIDE, *_PICKLERS, *keeping, *except_)) and (only is None or _is_in(name, only))
    known[asking, asked] = wants
    return wants


def _is_in(module_name: str, names: Iterable[str]) -> bool:
    return any(module_name == name or module_name.startswith(f"{name}.") for name in names)


def _outsider(frame: Any) -> str:
    """The name of the first module, from this frame outward, that is none of the stdlib's or ours."""
    while frame is not None:
        name: str = frame.f_globals.get("__name__", "")
        if not _is_in(name, _INSIDE):
            return name
        frame = frame.f_back
    return "__main__"


# --- What they get ---


class _Substituting(ModuleType):
    """A module of the stdlib, some of whose names mean ours."""

    # Each module has a class of its own, for the sake of these: its name, what was in it when it was
    # patched, and {name: (the stdlib's, ours)} once somebody has asked.
    _fastmp_name: str
    _fastmp_originals: dict[str, Any]
    _fastmp_substitutes: dict[str, tuple[Any, Any]] | None = None

    def __getattribute__(self, name: str) -> Any:
        cls: Any = type(self)
        # It may have been undone a moment ago, by another thread.
        substitutes = None if cls is ModuleType else cls._fastmp_substitutes
        if (substitutes is None or name in substitutes) and name[:2] != "__" and cls is not ModuleType:
            # Who asks, before all: what is looked for is imported, and that asks, too.
            try:
                asking = sys._getframe(1).f_globals.get("__name__", "")
            except ValueError:  # C code that nobody in Python has called
                asking = ""
            if _wants(asking, cls._fastmp_name):
                if substitutes is None:
                    substitutes = cls._fastmp_substitutes = _find_substitutes(cls._fastmp_originals)
                original, ours = substitutes.get(name, (None, None))
                if ours is not None and get_attribute(self, "__dict__").get(name, original) is original:
                    return ours
        return get_attribute(self, name)

    def __getattr__(self, name: str) -> Any:
        # Where the stdlib's functions import submodules, ours need not: who has made a pipe finds
        # `multiprocessing.connection` without having imported it.
        package = type(self)._fastmp_name
        if package == "multiprocessing" and not name.startswith("_"):
            try:
                return _import(f"{package}.{name}")
            except ImportError:  # there is none, or it is for another system
                pass
        raise AttributeError(f"module {package!r} has no attribute {name!r}")

    def __reduce_ex__(self, protocol: Any) -> tuple[Any, ...]:
        # Picklers that take modules (cloudpickle, dill) know them by their very type. So do what they
        # do: functions that are pickled by value refer to `multiprocessing` often enough.
        return __import__, (type(self)._fastmp_name, None, None, ["__name__"])

    def __setattr__(self, name: str, value: Any) -> None:
        ModuleType.__setattr__(self, name, value)
        # The import system does so when it has imported a submodule.
        if isinstance(value, ModuleType) and _options is not None:
            _patch(f"{ModuleType.__getattribute__(self, '__name__')}.{name}", value)


class _Executors(_Substituting):
    """`concurrent.futures`, and its module for processes, which is not imported for other names."""

    def __getattribute__(self, name: str) -> Any:
        try:
            asking = sys._getframe(1).f_globals.get("__name__", "")
        except ValueError:
            asking = ""
        if name == "ProcessPoolExecutor" and _wants(asking, "concurrent.futures.process"):
            ours: Any = vars(_import("fastmp.futures"))[name]
            # Looked for, not taken from `vars`: until then nothing is there, or a lazy import (3.15).
            if get_attribute(self, name) is vars(sys.modules["concurrent.futures.process"])[name]:
                return ours
        return ModuleType.__getattribute__(self, name)


def _find_substitutes(originals: dict[str, Any]) -> dict[str, tuple[Any, Any]]:
    counterpart = _COUNTERPARTS.get(originals["__name__"])
    if counterpart is None:
        return {}
    offering = _import(counterpart)
    found = {}
    for name, original in originals.items():
        if name.startswith("__") or name in _SHARED or isinstance(original, ModuleType):
            continue
        ours = getattr(offering, name, original)
        # Whatever else is there under the same name is somebody's import.
        if ours is not original and (name in offering.__all__ or _is_in(_module_of(ours), ["fastmp"])):
            found[name] = original, ours
    return found


def _module_of(value: Any) -> str:
    return str(getattr(value, "__module__", ""))


# --- How modules become such ---


def _patch(name: str, module: ModuleType) -> None:
    """Patches a module that has been imported, if it is one of those that are.

    Not one that another thread is importing just now: the import system will set it in its package,
    which is patched already, when all is in it.
    """
    if getattr(getattr(module, "__spec__", None), "_initializing", False):
        return
    if name in _patches:
        _replace(name, module)
    if name in _SUBSTITUTING and type(module) is ModuleType:
        base = _Executors if name in _EXECUTORS else _Substituting
        own = {"_fastmp_name": name, "_fastmp_originals": dict(vars(module))}
        module.__class__ = type(base.__name__, (base,), own)


# {module: (function or method, what makes the one that takes its place)}
_patches: dict[str, tuple[str, Callable[[Any], Any]]] = {}
# {module: (what has taken its place, what was there)}
_replaced: dict[str, tuple[Any, Any]] = {}


def _instead_of(module_name: str, function_name: str) -> Callable[..., Any]:
    def register(make: Callable[[Any], Any]) -> Callable[[Any], Any]:
        _patches[module_name] = function_name, make
        return make

    return register


def _replace(name: str, module: ModuleType) -> None:
    path, make = _patches[name]
    owner, function_name = _owner(module, path)
    original = vars(owner)[function_name]
    if original is not _replaced.get(name, (None, None))[0]:
        replacement = make(original)
        replacement.__doc__ = original.__doc__
        _replaced[name] = replacement, original
        setattr(owner, function_name, replacement)


def _put_back(name: str, module: ModuleType) -> None:
    owner, function_name = _owner(module, _patches[name][0])
    # Who has wrapped it since keeps what he has wrapped: that does nothing while not installed.
    replacement, original = _replaced[name]
    if vars(owner)[function_name] is replacement:
        setattr(owner, function_name, original)


def _owner(module: ModuleType, path: str) -> tuple[Any, str]:
    class_name, _, function_name = path.rpartition(".")
    return vars(module)[class_name] if class_name else module, function_name


@_instead_of("multiprocessing.managers", "get_context")
@_instead_of("multiprocessing.pool", "get_context")
def _by_outsider(original: Callable[..., Any]) -> Callable[..., Any]:
    def get_context(method: str | None = None) -> Any:
        if _wants(_outsider(sys._getframe()), "multiprocessing"):
            return _import("fastmp").get_context(method)
        return original(method)

    return get_context


@_instead_of("multiprocessing.spawn", "get_preparation_data")
def _for_children(original: Callable[[str], dict[str, Any]]) -> Callable[[str], dict[str, Any]]:
    def get_preparation_data(name: str) -> dict[str, Any]:
        data = original(name)
        if is_installed():
            data["fastmp"] = _Travelling()
        return data

    return get_preparation_data


@_instead_of("multiprocessing.forkserver", "ForkServer.ensure_running")
def _for_servers(original: Callable[[Any], None]) -> Callable[[Any], None]:
    def ensure_running(self: Any) -> None:
        if type(self._preload_modules) is not _Preload:
            self._preload_modules = _Preload(self._preload_modules)
        original(self)

    return ensure_running


class _Preload(list[str]):
    """What a server imports. Its command has this in it, as an expression that is evaluated first."""

    def __repr__(self) -> str:
        source = travelling()
        return f"(exec({source!r}, {{}}), {super().__repr__()})[1]" if source else super().__repr__()


# Run in a child before it knows the parent's `sys.path`. Ours comes last in the meantime: next to us
# there may be modules called as some of the stdlib.
_ARRIVAL = """\
import sys
try:
    import fastmp.unchanged
except ModuleNotFoundError:
    sys.path.append({directory!r})
    import fastmp.unchanged
fastmp.unchanged.install(*{options!r})
"""
_DIRECTORY = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))


def travelling() -> str:
    """The source of what installs fastmp elsewhere as it is here; nothing if it is not."""
    return "" if _options is None else _ARRIVAL.format(directory=_DIRECTORY, options=_options)


class _Travelling:
    """Whoever unpickles this installs fastmp, as it is here."""

    def __reduce__(self) -> tuple[Any, ...]:
        return exec, (travelling(), {})


_SUBSTITUTING = (*_PACKAGES, *_COUNTERPARTS, *_EXECUTORS)
_ALL = (*_SUBSTITUTING, *_patches)
