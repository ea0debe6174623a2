"""The picture of the rooms of ``qres_core`` and of its swarm, drawn from their imports.

A room stands one floor above the highest room that it imports. So every arrow points down, and a
circle of imports could not be drawn at all. Arrows that follow from others are left out.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping
from functools import cache
from html import escape
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parents[2]
WIDTH, HEIGHT, ACROSS, UP = 128, 34, 148, 62
LEFT, TOP, GAP = 16, 52, 60


def _imports(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)


def rooms(package: str) -> dict[str, set[str]]:
    """By room of a package, the rooms of it that its modules import, late imports too."""
    folder = ROOT / package.replace(".", "/")
    names = sorted(path.parent.name for path in folder.glob("*/__init__.py"))
    found: dict[str, set[str]] = {}
    for name in names:
        modules = {m for path in (folder / name).rglob("*.py") for m in _imports(path)}
        heads = {
            m.removeprefix(f"{package}.").split(".")[0]
            for m in modules
            if m.startswith(f"{package}.")
        }
        found[name] = (heads & set(names)) - {name}
    return found


def floors(graph: Mapping[str, set[str]]) -> dict[str, int]:
    """By room, the longest way down from it. Raises RecursionError for a circle."""

    @cache
    def floor(name: str) -> int:
        return max((floor(below) + 1 for below in graph[name]), default=0)

    return {name: floor(name) for name in graph}


def _widest(level: Mapping[str, int]) -> int:
    return max(list(level.values()).count(number) for number in set(level.values()))


def direct(graph: Mapping[str, set[str]]) -> dict[str, set[str]]:
    """By room, the rooms that it imports and does not reach through another of them."""

    @cache
    def reached(name: str) -> frozenset[str]:
        return frozenset(graph[name]).union(*(reached(below) for below in graph[name]))

    return {
        name: {room for room in below if not any(room in reached(other) for other in below)}
        for name, below in graph.items()
    }


def _panel(title: str, package: str, x: int, height: int) -> Iterator[str]:
    graph = rooms(package)
    level = floors(graph)
    top = max(level.values())
    widest = _widest(level)
    place: dict[str, tuple[int, int]] = {}
    for number in range(top + 1):
        row = sorted(name for name, at in level.items() if at == number)
        y = height - TOP + 10 - number * UP
        start = x + (widest - len(row)) * ACROSS // 2
        place |= {name: (start + index * ACROSS, y) for index, name in enumerate(row)}
    yield f'<text class="lane" x="{x}" y="28">{escape(title)}</text>'
    for name, below in sorted(direct(graph).items()):
        for other in sorted(below):
            (a, b), (c, d) = place[name], place[other]
            yield f'<path d="M{a + WIDTH // 2} {b + HEIGHT}L{c + WIDTH // 2} {d}"/>'
    for name, (a, b) in sorted(place.items()):
        yield f'<rect class="room" x="{a}" y="{b}" width="{WIDTH}" height="{HEIGHT}" rx="5"/>'
        yield f'<text x="{a + WIDTH // 2}" y="{b + 21}" text-anchor="middle">{escape(name)}</text>'


def draw_rooms() -> str:
    """``explanation/rooms.svg``."""
    panels = (("qres_core", "qres_core"), ("qres_core/swarm", "qres_core.swarm"))
    sizes = []
    for _title, package in panels:
        level = floors(rooms(package))
        sizes.append((_widest(level) * ACROSS, max(level.values())))
    height = (max(top for _w, top in sizes) + 1) * UP + TOP + 20
    width = LEFT * 2 + GAP + sum(w for w, _top in sizes)
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" role="img">',
        "<title>Rooms of qres_core and of its swarm; every import points down</title>",
        "<style>",
        "  rect.page { fill: #ffffff } text { font: 12px ui-monospace, monospace; fill: #1f2933 }",
        "  text.lane { font: 600 13px system-ui, sans-serif; fill: #52606d }",
        "  rect.room { fill: #f1f4f7; stroke: #9aa5b1 } path { stroke: #b8c2cc; fill: none }",
        "</style>",
        f'<rect class="page" width="{width}" height="{height}" rx="8"/>',
        *_panel(*panels[0], LEFT, height),
        *_panel(*panels[1], LEFT + sizes[0][0] + GAP, height),
        "</svg>",
    ]
    return "\n".join(lines) + "\n"
