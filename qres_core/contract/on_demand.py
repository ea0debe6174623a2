"""Names of a package that are loaded on first use: few who import it need all of them."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from typing import Any


def on_demand(
    package: dict[str, Any], within: str, names_of: Mapping[str, tuple[str, ...]]
) -> Callable[[str], Any]:
    """The ``__getattr__`` of a package.

    Args:
        package: its ``globals()``, where a name is kept once it is loaded.
        within: the package that has the modules.
        names_of: by module, the names that it defines.
    """
    homes = {name: f"{within}.{module}" for module, names in names_of.items() for name in names}

    def load(name: str) -> Any:
        if name in homes:
            value = package[name] = getattr(importlib.import_module(homes[name]), name)
            return value
        msg = f"module {package['__name__']!r} has no attribute {name!r}"
        raise AttributeError(msg)

    return load
