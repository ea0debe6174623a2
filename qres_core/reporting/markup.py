"""Markup from text: whatever is not markup yet is escaped."""

from __future__ import annotations

import html
from collections.abc import Iterable
from typing import Final

_VOID: Final = frozenset({"br", "img", "link", "meta"})
"""Elements of HTML that have no end tag."""


class Html(str):
    """Text that is markup already. Slices, sums and f-strings of it are plain text again."""

    __slots__ = ()


def join(parts: Iterable[object], between: str = "") -> Html:
    """The parts one after the other, escaped unless they are :class:`Html`, markup ``between``.

    Example:
        >>> join(["a < b, ", Html("<b>c</b>")])
        'a &lt; b, <b>c</b>'
    """
    return Html(between.join(p if isinstance(p, Html) else html.escape(str(p)) for p in parts))


def tag(name: str, /, *inside: object, **attributes: object) -> Html:
    """An element of HTML or SVG.

    Args:
        name: of the element.
        inside: its contents, escaped unless they are :class:`Html`.
        attributes: their values are escaped, and empty ones left out. In a name ``_`` stands for
            ``-``, and one at the end is dropped: ``class_``.

    Example:
        >>> tag("td", "a & b", class_="number")
        '<td class="number">a &amp; b</td>'
    """
    said = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{html.escape(str(value))}"'
        for key, value in attributes.items()
        if value != ""
    )
    end = "" if name in _VOID else f"{join(inside)}</{name}>"
    return Html(f"<{name}{said}>{end}")


def code(text: object) -> Html:
    """Text as the machine reads it."""
    return tag("code", text)


def bullets(rows: Iterable[object], kind: str = "") -> Html:
    """A list; rows as in :func:`tag`, ``kind`` is a class of the style sheet."""
    return tag("ul", join((tag("li", row) for row in rows), "\n"), class_=kind)


def table(heads: Iterable[str], rows: Iterable[Iterable[object]], kind: str = "") -> Html:
    """A table that scrolls where the page is too narrow for it.

    Args:
        heads: of the columns; a ``#`` at the end says that a column is of numbers.
        rows: cells as in :func:`tag`, one for each head.
        kind: a class of the style sheet.
    """
    titles = list(heads)
    kinds = ["number" if title.endswith("#") else "" for title in titles]

    def row(element: str, cells: Iterable[object]) -> Html:
        pairs = zip(cells, kinds, strict=True)
        return tag("tr", *(tag(element, cell, class_=kind) for cell, kind in pairs))

    head = row("th", (title.removesuffix("#") for title in titles))
    lines = join([head, *(row("td", cells) for cells in rows)], "\n")
    return tag("div", tag("table", lines, class_=kind), class_="wide")
