"""What is to be done with a module of the stdlib when it is imported, if it ever is."""

from __future__ import annotations

import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from importlib.machinery import ModuleSpec
    from types import ModuleType
    from typing import Any

__all__ = ["after_import", "on_import"]

_wrappers: dict[str, Callable[[Any], Any]] = {}


class _Finder:
    """Finds what the finders behind it find, with another loader."""

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if name not in _wrappers:
            return None
        for finder in sys.meta_path:
            if finder is self or not hasattr(finder, "find_spec"):
                continue
            spec = finder.find_spec(name, path, target)
            if spec is not None:
                wrap = _wrappers.pop(name, None)
                if wrap is not None and hasattr(spec.loader, "exec_module"):
                    spec.loader = wrap(spec.loader)
                return spec
        return None


_finder = _Finder()


def on_import(name: str, wrap: Callable[[Any], Any]) -> None:
    """Lets `wrap(loader)` load the module of that name; nothing if it has been imported."""
    if name in sys.modules:
        return
    _wrappers[name] = wrap
    if _finder not in sys.meta_path:
        sys.meta_path.insert(0, _finder)


class _Loader:
    def __init__(self, loader: Any, then: Callable[[Any], None]) -> None:
        self._loader = loader
        self._then = then

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        created: ModuleType | None = self._loader.create_module(spec)
        return created

    def exec_module(self, module: ModuleType) -> None:
        module.__spec__.loader = module.__loader__ = self._loader  # type: ignore[union-attr]
        self._loader.exec_module(module)
        self._then(module)


def after_import(name: str, then: Callable[[Any], None]) -> None:
    """Calls `then(module)` once the module of that name has been imported: at once, if it has."""
    if name in sys.modules:
        __import__(name)  # waits for another thread that is at it
        then(sys.modules[name])
    else:
        on_import(name, lambda loader: _Loader(loader, then))
