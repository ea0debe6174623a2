"""The live page: its body and its script, in the document of the room ``reporting``."""

from __future__ import annotations

from importlib import resources

import attrs

from qres_core.reporting import Html, document, policy


@attrs.frozen
class Page:
    """A page and the Content-Security-Policy that lets it run and nothing else."""

    html: bytes  # the whole document
    policy: str  # the header's value


def page() -> Page:
    """Read the page and work out its policy."""
    folder = resources.files("qres_core.node")
    body, script = (
        (folder / f"page.{kind}").read_text(encoding="utf-8") for kind in ("html", "js")
    )
    return Page(document("QRES node", Html(body), script=script).encode(), policy(script))
