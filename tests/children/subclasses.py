"""Subclasses of each context's Process, importable by spawned children."""

import contextlib
import importlib
import os


class _Runs:
    def __init__(self, out):
        super().__init__()
        self.out = out

    def run(self):
        self.out.value = os.getpid()


OF = {}
for _module in ("multiprocessing", "fastmp"):
    for _method in ("fork", "spawn", "forkserver"):
        with contextlib.suppress(ImportError):
            _base = importlib.import_module(_module).get_context(_method).Process
            _name = f"{_module}_{_method}"
            OF[_module, _method] = globals()[_name] = type(_name, (_Runs, _base), {"__module__": __name__})
