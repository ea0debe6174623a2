"""Runs the Python code of the pages: ``python -m pytest docs``.

The blocks of a page share one namespace, from top to bottom. A block marked ``py`` is shown and not
run. Reference pages are made from the code, whose own tests hold their examples.
"""

from __future__ import annotations

from sybil import Sybil
from sybil.parsers.myst import PythonCodeBlockParser, SkipParser

collect_ignore = ["_build", "_ext", "conf.py", "examples"]

pytest_collect_file = Sybil(
    parsers=[PythonCodeBlockParser(), SkipParser()],
    patterns=["how-to/*.md", "tutorials/*.md", "explanation/*.md"],
).pytest()
