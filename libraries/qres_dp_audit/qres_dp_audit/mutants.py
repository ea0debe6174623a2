"""The package with a known fault: imported again, with the text of one module changed.

It stands beside the real package for as long as a ``with`` block lasts. Nothing outside the audit
and the attack gallery imports this module. Not for threads.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder, SourceFileLoader
from types import ModuleType
from typing import Any, Final

from qres_dp_audit.faults import FAULTS, SeededFault

_PACKAGE: Final = "qres_dp"
_COMMANDS: Final = ("plan_command", "cli")


class _Changed(SourceFileLoader):
    """Loads a module with its text changed."""

    def __init__(self, fullname: str, path: str, fault: SeededFault) -> None:
        super().__init__(fullname, path)
        self._fault = fault

    def get_code(self, fullname: str) -> Any:
        text = self.get_data(self.path).decode("utf-8")
        if text.count(self._fault.old) != 1:
            what = f"{fullname}: the text of a fault of the audit is not there once"
            raise ImportError(what)
        return compile(text.replace(self._fault.old, self._fault.new), self.path, "exec")


class _Finder(MetaPathFinder):
    """Finds the changed module, and no other."""

    def __init__(self, fault: SeededFault) -> None:
        self._name, self._fault = f"{_PACKAGE}.{fault.module}", fault

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname != self._name:
            return None
        found = PathFinder.find_spec(fullname, path, target)
        if found is None or found.origin is None:
            return None
        loader = _Changed(fullname, found.origin, self._fault)
        return importlib.util.spec_from_file_location(
            fullname,
            found.origin,
            loader=loader,
            submodule_search_locations=found.submodule_search_locations,
        )


def _taken() -> dict[str, ModuleType]:
    names = [key for key in sys.modules if key == _PACKAGE or key.startswith(f"{_PACKAGE}.")]
    return {key: sys.modules.pop(key) for key in names}


def installed() -> ModuleType:
    """The package with its commands, as it is imported now."""
    package = importlib.import_module(_PACKAGE)
    for command in _COMMANDS:
        importlib.import_module(f"{_PACKAGE}.{command}")
    return package


@contextmanager
def loaded(name: str = "") -> Generator[ModuleType]:
    """The package, imported anew, with the fault of that name, or without one.

    Raises KeyError: there is none of that name. Raises ImportError: its text is not there.
    """
    finder = _Finder(FAULTS[name]) if name else None
    before = _taken()
    if finder is not None:
        sys.meta_path.insert(0, finder)
    try:
        yield installed()
    finally:
        if finder is not None:
            sys.meta_path.remove(finder)
        _taken()
        sys.modules.update(before)
