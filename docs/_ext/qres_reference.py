"""Sphinx extension: writes the generated pages before the sources are read."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from qres_pages import ROOT, write_pages
from sphinx.application import Sphinx
from sphinx.util import logging

_LOGGER = logging.getLogger(__name__)


def _write(app: Sphinx) -> None:
    if Path(app.srcdir) != ROOT / "docs":
        msg = f"the generated pages belong to {ROOT / 'docs'}, not to {app.srcdir}"
        raise ValueError(msg)
    for path in write_pages():
        _LOGGER.info("generated %s", path.relative_to(ROOT))


def setup(app: Sphinx) -> dict[str, Any]:
    """Called by Sphinx."""
    app.connect("builder-inited", _write)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
