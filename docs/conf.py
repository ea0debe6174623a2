"""Sphinx configuration of the manual. Everything it needs is in the checkout."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Final

from qres_core import __version__

sys.path.insert(0, str(Path(__file__).parent / "_ext"))

project = "QRES"
author = "QRES contributors"
copyright = author  # noqa: A001 - Sphinx reads this name
version = release = __version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "qres_reference"]
exclude_patterns = ["_build", "_ext", "examples", "conftest.py", "reference/README.md"]
root_doc = "index"
nitpicky = True
suppress_warnings: list[str] = []

myst_enable_extensions = ["deflist"]
myst_heading_anchors = 3

autodoc_member_order = "bysource"
autodoc_typehints = "signature"
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_use_ivar = True  # fields of attrs classes are described once, in the class docstring
napoleon_use_rtype = False
napoleon_custom_sections = ["Complexity", "Source"]

# Names of other projects, whose inventories would have to be downloaded, and the aliases that
# autodoc shows under the name of what they stand for.
_ELSEWHERE: Final = (
    r"(numpy|np|NDArray|ArrayLike|collections|typing|enum|os|pathlib|sqlite3|pluggy|attrs"
    r"|Final)\b.*"
)
nitpick_ignore = [
    ("py:class", "Path"),  # imported for type checkers alone where importing takes too long
    ("py:class", "tuple[str"),  # a signature whose defaults are objects is cut at its commas
    ("py:data", "ERRORS"),  # has a page of its own, reference/errors.md
    (
        "py:class",
        "qres_lab.exhibit.AttackOutcome",
    ),  # its values are told where it is used
]
nitpick_ignore_regex = [
    (r"py:.*", _ELSEWHERE),
    (r"py:.*", r"(qres_core\.contract\.types\.)?(Vector|NodeId|Rounding|Encoded)"),
    (r"py:.*", r"(Iterable|Mapping|Sequence|Callable|Any|Self|NoReturn|TypeError|IndexError)\b.*"),
    (r"py:.*", r"(ValueError|Exception|Enum|IntEnum|Protocol)"),
    (r"py:.*", r"(qres_core\.kernel\.\w+\.)?(Config|Enabled|Installed|Kernel|SwarmConfig)"),
    (r"py:.*", r"(qres_core\.contract\.\w+\.)?_Number"),
]

html_theme = "furo"
html_title = f"QRES {release}"
html_static_path = ["_static"]
html_css_files = ["manual.css"]
html_show_sphinx = False
html_show_sourcelink = False
html_copy_source = False
