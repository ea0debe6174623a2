"""Tables, charts and pages: HTML and SVG from a few parts, with everything escaped.

========== =========================================================================================
``markup``   elements and tables; text becomes markup here and nowhere else
``chart``    lines over linear or logarithmic axes, as SVG
``page``     a whole document with the one style sheet, and the policy to serve it under
========== =========================================================================================

The room needs the standard library and attrs. Plugins reach it as ``qres_core.reporting``.
"""

from __future__ import annotations

from qres_core.reporting.chart import Axis, Chart, Line, svg, svg_file
from qres_core.reporting.markup import Html, bullets, code, join, table, tag
from qres_core.reporting.page import document, policy

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
