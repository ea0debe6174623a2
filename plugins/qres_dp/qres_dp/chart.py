"""A plot of a plan as SVG, written by hand: no plotting library is needed for two curves."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final
from xml.sax.saxutils import escape

import attrs

Point = tuple[float, float]

_WIDTH: Final = 440
_HEIGHT: Final = 320
_LEFT: Final = 64
_RIGHT: Final = 16
_TOP: Final = 36
_BOTTOM: Final = 48
_INK: Final = "#222"
_LINE: Final = "#1f5fa8"
_MARK: Final = "#b3261e"


@attrs.frozen
class Panel:
    """One curve over logarithmic axes.

    Attributes:
        title: above it.
        across: label of the horizontal axis.
        up: label of the vertical axis.
        points: the curve, at least two points of positive numbers, ascending across.
        mark: a point to show on it.
    """

    title: str
    across: str
    up: str
    points: Sequence[Point]
    mark: Point


def _ticks(low: float, high: float) -> list[float]:
    """1, 2 and 5 times powers of ten between the ends, at most about eight."""
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    steps = (1.0, 2.0, 5.0) if len(decades) <= 4 else (1.0,)
    every = max(1, len(decades) // 8)
    found = [m * 10.0**d for d in decades if d % every == 0 for m in steps]
    return [one for one in found if low * 0.999 <= one <= high * 1.001]


class _Axes:
    def __init__(self, panel: Panel) -> None:
        xs = [x for x, _ in (*panel.points, panel.mark)]
        ys = [y for _, y in (*panel.points, panel.mark)]
        self.x, self.y = (min(xs), max(xs)), (min(ys), max(ys))

    def place(self, point: Point) -> Point:
        across = _share(point[0], *self.x) * (_WIDTH - _LEFT - _RIGHT)
        up = _share(point[1], *self.y) * (_HEIGHT - _TOP - _BOTTOM)
        return _LEFT + across, _HEIGHT - _BOTTOM - up


def _share(value: float, low: float, high: float) -> float:
    return 0.5 if high <= low else math.log(value / low) / math.log(high / low)


def _text(x: float, y: float, text: str, more: str = "") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" {more}>{escape(text)}</text>'


def _line(a: Point, b: Point, color: str) -> str:
    ends = f'x1="{a[0]:.1f}" y1="{a[1]:.1f}" x2="{b[0]:.1f}" y2="{b[1]:.1f}"'
    return f'<line {ends} stroke="{color}" />'


def _panel(panel: Panel) -> str:
    axes = _Axes(panel)
    right, floor = _WIDTH - _RIGHT, _HEIGHT - _BOTTOM
    parts = [_text(_LEFT, 22, panel.title, 'font-weight="bold"')]
    for tick in _ticks(*axes.x):
        x, _ = axes.place((tick, axes.y[0]))
        parts.append(_line((x, _TOP), (x, floor), "#ddd"))
        parts.append(_text(x, floor + 16, f"{tick:g}", 'text-anchor="middle"'))
    for tick in _ticks(*axes.y):
        _, y = axes.place((axes.x[0], tick))
        parts.append(_line((_LEFT, y), (right, y), "#ddd"))
        parts.append(_text(_LEFT - 6, y + 4, f"{tick:g}", 'text-anchor="end"'))
    parts.append(_line((_LEFT, floor), (right, floor), _INK))
    parts.append(_line((_LEFT, _TOP), (_LEFT, floor), _INK))
    curve = " ".join(f"{x:.1f},{y:.1f}" for x, y in map(axes.place, panel.points))
    parts.append(f'<polyline points="{curve}" fill="none" stroke="{_LINE}" stroke-width="2" />')
    x, y = axes.place(panel.mark)
    parts.append(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="4" fill="{_MARK}" />')
    parts.append(_text((_LEFT + right) / 2, _HEIGHT - 10, panel.across, 'text-anchor="middle"'))
    middle = (_TOP + floor) / 2
    turned = f'text-anchor="middle" transform="rotate(-90 16 {middle:.1f})"'
    parts.append(_text(16, middle, panel.up, turned))
    return "\n".join(parts)


def svg(panels: Sequence[Panel]) -> str:
    """The panels side by side, as the text of an SVG file."""
    width = _WIDTH * len(panels)
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{_HEIGHT}" '
        f'viewBox="0 0 {width} {_HEIGHT}" font-family="sans-serif" font-size="12" fill="{_INK}">'
    )
    ground = f'<rect width="{width}" height="{_HEIGHT}" fill="white" />'
    groups = [
        f'<g transform="translate({index * _WIDTH} 0)">\n{_panel(panel)}\n</g>'
        for index, panel in enumerate(panels)
    ]
    return "\n".join([head, ground, *groups, "</svg>", ""])
