"""A document that loads nothing from elsewhere, and the policy to serve it under."""

from __future__ import annotations

import base64
import hashlib
from functools import cache
from typing import Final

from qres_core.reporting.markup import Html, join, tag

_VIEWPORT: Final = "width=device-width, initial-scale=1"


@cache
def _style() -> str:
    from importlib import resources  # noqa: PLC0415 - it imports half of the standard library

    return (resources.files("qres_core.reporting") / "style.css").read_text(encoding="utf-8")


def document(title: str, *body: object, script: str = "") -> Html:
    """A document of HTML with the one style sheet inside.

    Args:
        title: of the window.
        body: its contents, escaped unless they are :class:`Html`.
        script: for a page that is served; :func:`policy` of the same script allows it.
    """
    head = [
        tag("meta", charset="utf-8"),
        tag("meta", name="viewport", content=_VIEWPORT),
        tag("title", title),
        tag("style", Html(_style())),
    ]
    if script:
        head.append(tag("link", rel="icon", href="data:,"))  # or the browser asks for one
    end = [tag("script", Html(script))] if script else []
    inside = join([tag("head", join(head, "\n")), tag("body", join([*body, *end], "\n"))], "\n")
    return join([Html("<!doctype html>"), tag("html", inside, lang="en"), ""], "\n")


def policy(script: str) -> str:
    """The Content-Security-Policy that lets a document of that script run and nothing else."""
    return (
        "default-src 'none'; connect-src 'self'; img-src data:; "
        f"style-src {_hash(_style())}; script-src {_hash(script)}; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )


def _hash(text: str) -> str:
    digest = hashlib.sha256(text.encode()).digest()
    return f"'sha256-{base64.b64encode(digest).decode()}'"
