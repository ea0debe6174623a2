"""Sphinx extension: writes the generated pages, and fills in the page of hooks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from qres_pages import HOOKS, ROOT, hooks_page, write_pages
from sphinx.application import Sphinx
from sphinx.util import logging

_LOGGER = logging.getLogger(__name__)


def _write(app: Sphinx) -> None:
    if Path(app.srcdir) != ROOT / "docs":
        msg = f"the generated pages belong to {ROOT / 'docs'}, not to {app.srcdir}"
        raise ValueError(msg)
    for path in write_pages():
        _LOGGER.info("generated %s", path.relative_to(ROOT))


def _fill(_app: Sphinx, document: str, source: list[str]) -> None:
    if f"docs/{document}.md" == HOOKS:
        source[0] = hooks_page(source[0])


def setup(app: Sphinx) -> dict[str, Any]:
    """Called by Sphinx."""
    app.connect("builder-inited", _write)
    app.connect("source-read", _fill)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
