"""The live page: one file with its style and script inside, allowed by their hashes alone."""

from __future__ import annotations

import base64
import hashlib
import re
from importlib import resources
from typing import Final

import attrs

FILE: Final = "page.html"


@attrs.frozen
class Page:
    """A page and the Content-Security-Policy that lets it run and nothing else.

    Attributes:
        html: the file.
        policy: the header's value.
    """

    html: bytes
    policy: str


def _hash(tag: str, text: str) -> str:
    (inside,) = re.findall(rf"<{tag}>(.*?)</{tag}>", text, re.DOTALL)
    digest = hashlib.sha256(inside.encode()).digest()
    return f"'sha256-{base64.b64encode(digest).decode()}'"


def page() -> Page:
    """Read the page and work out its policy."""
    text = (resources.files("qres_core.node") / FILE).read_text(encoding="utf-8")
    policy = (
        "default-src 'none'; connect-src 'self'; img-src data:; "
        f"style-src {_hash('style', text)}; script-src {_hash('script', text)}; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )
    return Page(text.encode(), policy)
