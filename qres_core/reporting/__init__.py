"""Tables, charts and pages: HTML and SVG from a few parts, with everything escaped.

========== =========================================================================================
``markup``   elements and tables; text becomes markup here and nowhere else
``chart``    lines over linear or logarithmic axes, as SVG
``page``     a whole document with the one style sheet, and the policy to serve it under
========== =========================================================================================

The room needs the standard library and attrs. Plugins reach it as ``qres_core.reporting``. There is
no template library: jinja2 and markupsafe are 1.4 MB and 70 ms of imports for what ``markup`` does
in 80 lines, and no type checker reads their templates.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from qres_core.reporting.chart import Axis, Chart, Line, svg, svg_file
    from qres_core.reporting.markup import Html, bullets, code, join, table, tag
    from qres_core.reporting.page import document, policy

_HOME = {
    "chart": (
        "Axis",
        "Chart",
        "Line",
        "svg",
        "svg_file",
    ),
    "markup": (
        "Html",
        "bullets",
        "code",
        "join",
        "table",
        "tag",
    ),
    "page": (
        "document",
        "policy",
    ),
}
_MODULE_OF = {name: module for module, names in _HOME.items() for name in names}

__all__ = [
    "Axis",
    "Chart",
    "Html",
    "Line",
    "bullets",
    "code",
    "document",
    "join",
    "policy",
    "svg",
    "svg_file",
    "table",
    "tag",
]


def __getattr__(name: str) -> Any:
    """Loaded on first use: few of those who import this room need all of it."""
    if name in _MODULE_OF:
        value = getattr(importlib.import_module(f"{__name__}.{_MODULE_OF[name]}"), name)
        globals()[name] = value
        return value
    msg = f"module {__name__!r} has no attribute {name!r}"
    raise AttributeError(msg)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
