"""Runs the Python code of the pages: ``python -m pytest docs``.

The blocks of a page share one namespace, from top to bottom. A block marked ``py`` is shown and not
run. Reference pages are made from the code, whose own tests hold their examples.
"""

from __future__ import annotations

import pytest
from sybil import Sybil
from sybil.integration.pytest import SybilItem
from sybil.parsers.myst import PythonCodeBlockParser, SkipParser

collect_ignore = ["_build", "_ext", "conf.py", "examples"]

pytest_collect_file = Sybil(
    parsers=[PythonCodeBlockParser(), SkipParser()],
    patterns=["how-to/*.md", "tutorials/*.md", "explanation/*.md"],
).pytest()

_PLAYED: set[str] = set()
"""Ids of the blocks that this process has run."""


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Run the blocks above a block, if another worker has been given them."""
    for other in item.session.items:
        if not isinstance(other, SybilItem) or other.path != item.path:
            continue
        if other is item:
            break
        if other.nodeid not in _PLAYED:
            _PLAYED.add(other.nodeid)
            other.runtest()
    _PLAYED.add(item.nodeid)
