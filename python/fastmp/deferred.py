"""Modules that a started process executes when they are first used, if they are.

Two are most of what it would import and few children touch: `multiprocessing.reduction`, which the
stdlib's contexts import (pickle and socket with it), and this package's own `__init__`, where all is
re-exported. The module is the right one from the start: it is found, named and locked by the import
system's own means; only its code runs later, in the same object, once something is looked up in it
that is not there. A submodule is no such thing: it is imported by itself.
"""

from __future__ import annotations

import sys

# What importlib is made of is in memory; it itself is not, nor need be. The manager is that of the
# lock which the import of a module of some name takes. It knows a circle of waiters.
from _frozen_importlib import (  # type: ignore[attr-defined]
    ModuleSpec,
    _DeadlockError,
    _ModuleLockManager,
)
from _frozen_importlib_external import SourceFileLoader

from .on_import import on_import

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import ModuleType
    from typing import Any
else:
    ModuleType = type(sys)

__all__ = ["defer", "defer_package"]

_dict_of: Any = type.__getattribute__(ModuleType, "__dict__")["__dict__"]
_loading: set[str] = set()  # changed by who holds that module's lock


class _Deferred(ModuleType):
    """A module whose code has not run yet."""

    def __getattr__(self, name: str) -> Any:
        # What asks for submodules by `from . import name` falls back on importing them.
        if not name.startswith("__") and _has_submodule(self, name):
            return sys.modules[f"{self.__name__}.{name}"]
        _execute(self)
        return ModuleType.__getattribute__(self, name)

    def __setattr__(self, name: str, value: Any) -> None:
        # The import system notes submodules, and what it knows of the module; from others what they
        # set must not be undone by the code that runs later.
        if not (name.startswith("__") or isinstance(value, ModuleType)):
            _execute(self)
        ModuleType.__setattr__(self, name, value)

    def __delattr__(self, name: str) -> None:
        _execute(self)
        ModuleType.__delattr__(self, name)

    @property
    def __dict__(self) -> dict[str, Any]:  # type: ignore[override]
        _execute(self)
        return _names_of(self)

    def __dir__(self) -> list[str]:
        _execute(self)
        return list(ModuleType.__dir__(self))


def _names_of(module: ModuleType) -> dict[str, Any]:
    """What is there, without running any code."""
    names: dict[str, Any] = _dict_of.__get__(module)
    return names


def _has_submodule(module: ModuleType, name: str) -> bool:
    """Whether it has; it is imported then."""
    if "__path__" not in _names_of(module):
        return False
    full = f"{module.__name__}.{name}"
    try:
        __import__(full)
    except ModuleNotFoundError as error:
        if error.name != full:
            raise
        return False
    return True


def _execute(module: ModuleType) -> None:
    """Runs the module's code, unless that has been done, or is being done further up this stack."""
    name = module.__name__
    try:
        with _ModuleLockManager(name):
            if type(module) is not _Deferred or name in _loading:
                return
            spec = module.__spec__
            _loading.add(name)
            try:
                spec.loader.exec_module(module)  # type: ignore[union-attr]
                module.__class__ = ModuleType  # type: ignore[assignment]
            finally:
                _loading.remove(name)
    except _DeadlockError:
        pass  # another thread runs it and waits for us: as at an import, what is there must do


class _DeferringLoader:
    def __init__(self, loader: Any) -> None:
        self._loader = loader

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        created: ModuleType | None = self._loader.create_module(spec)
        return created

    def exec_module(self, module: ModuleType) -> None:
        module.__spec__.loader = module.__loader__ = self._loader  # type: ignore[union-attr]
        if type(module) is ModuleType:
            module.__class__ = _Deferred
        else:
            self._loader.exec_module(module)


def defer(name: str) -> None:
    """Lets the module of that name be executed when it is first used; nothing if it has been."""
    on_import(name, _DeferringLoader)


def defer_package(package: ModuleType) -> None:
    """Makes of an empty module, which has nothing but its `__path__`, a package of source files."""
    (directory,) = package.__path__
    init = f"{directory}/__init__.py"
    name = package.__name__
    loader = SourceFileLoader(name, init)
    spec = ModuleSpec(name, loader, origin=init, is_package=True)
    spec.has_location = True
    spec.submodule_search_locations = [directory]
    package.__spec__ = spec
    package.__loader__ = loader  # type: ignore[assignment, unused-ignore]
    package.__package__ = name
    package.__file__ = init
    package.__path__ = spec.submodule_search_locations
    if sys.version_info < (3, 15):
        package.__cached__ = spec.cached  # type: ignore[attr-defined, unused-ignore]
    package.__class__ = _Deferred
