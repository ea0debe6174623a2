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
