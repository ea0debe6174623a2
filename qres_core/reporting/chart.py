"""Lines over two axes, as SVG: no plotting library is needed for a few curves."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final

import attrs

from qres_core.reporting.markup import Html, join, tag

Point = tuple[float, float]

_COLOURS: Final = (
    "#1f6fb4", "#c2402b", "#2f8f5b", "#8a5fb4", "#b8860b", "#d06a9a", "#17808a", "#6b6b2a",
    "#5b6b7a", "#34495e",
)  # fmt: skip
_MARK: Final = "#c2402b"
_RIGHT: Final = 16
_ROW: Final = 18


@attrs.frozen
class Axis:
    """One axis.

    Attributes:
        label: beside it.
        low: its lower end; ``None`` for the least value.
        high: its upper end; ``None`` for the largest value.
        logarithmic: whether it is; then all values are positive.
        form: format of the numbers along it.
    """

    label: str = ""
    low: float | None = None
    high: float | None = None
    logarithmic: bool = False
    form: str = "g"


@attrs.frozen
class Line:
    """One curve.

    Attributes:
        points: at least two, ascending across.
        label: in the legend; empty for a curve that needs none.
        dashed: whether it is.
        spread: half the height of an error bar at each point; empty for none.
    """

    points: Sequence[Point]
    label: str = ""
    dashed: bool = False
    spread: Sequence[float] = ()


@attrs.frozen
class Chart:
    """Curves in one frame.

    Attributes:
        lines: at least one.
        title: above.
        across: the horizontal axis.
        up: the vertical axis.
        marks: points to show.
        width: in pixels.
        height: in pixels, without the legend.
    """

    lines: Sequence[Line]
    title: str = ""
    across: Axis = Axis()
    up: Axis = Axis()
    marks: Sequence[Point] = ()
    width: int = 440
    height: int = 320


class _Scale:
    """Scale of an axis on the picture: from ``start`` to ``end`` pixels."""

    def __init__(self, axis: Axis, values: Sequence[float], start: float, end: float) -> None:
        self._axis, self._start, self._end = axis, start, end
        self.low = min(values) if axis.low is None else axis.low
        self.high = max(values) if axis.high is None else axis.high
        self._whole = all(float(value).is_integer() for value in values)

    def at(self, value: float) -> float:
        share = 0.5
        if self.high > self.low and self._axis.logarithmic:
            share = math.log(value / self.low) / math.log(self.high / self.low)
        elif self.high > self.low:
            share = (value - self.low) / (self.high - self.low)
        return self._start + share * (self._end - self._start)

    def ticks(self) -> list[tuple[float, str]]:
        """Round numbers between the ends, about eight at most, and how they are written."""
        found = self._decades() if self._axis.logarithmic else self._steps()
        slack = 1e-9 * (self.high - self.low)
        inside = [value for value in found if self.low - slack <= value <= self.high + slack]
        return [(self.at(value), format(value, self._axis.form)) for value in inside]

    def _decades(self) -> list[float]:
        decades = range(math.floor(math.log10(self.low)), math.ceil(math.log10(self.high)) + 1)
        steps = (1.0, 2.0, 5.0) if len(decades) <= 4 else (1.0,)
        every = max(1, len(decades) // 8)
        return [step * 10.0**power for power in decades if power % every == 0 for step in steps]

    def _steps(self) -> list[float]:
        span = self.high - self.low
        if span <= 0:
            return [self.low]
        unit = 10.0 ** math.floor(math.log10(span / 6))
        step = next(unit * many for many in (1, 2, 5, 10) if unit * many >= span / 6)
        step = max(step, 1.0) if self._whole else step
        first, last = math.ceil(self.low / step - 1e-9), math.floor(self.high / step + 1e-9)
        return [step * count for count in range(first, last + 1)]


def _text(x: float, y: float, text: str, anchor: str = "start", **more: object) -> Html:
    return tag("text", text, x=f"{x:.1f}", y=f"{y:.1f}", text_anchor=anchor, **more)


def _rule(x1: float, y1: float, x2: float, y2: float, opacity: str) -> Html:
    ends = {"x1": f"{x1:.1f}", "y1": f"{y1:.1f}", "x2": f"{x2:.1f}", "y2": f"{y2:.1f}"}
    return tag("line", stroke="currentColor", stroke_opacity=opacity, **ends)


def _draw(chart: Chart) -> Html:
    left, right = 64 if chart.up.label else 44, chart.width - _RIGHT
    top, floor = 36 if chart.title else 12, chart.height - (48 if chart.across.label else 28)
    points = [point for line in chart.lines for point in line.points] + list(chart.marks)
    across = _Scale(chart.across, [x for x, _y in points], left, right)
    up = _Scale(chart.up, [y for _x, y in points], floor, top)
    middle = (top + floor) / 2
    parts = [
        _text(left, 22, chart.title, font_weight="bold"),
        _text((left + right) / 2, chart.height - 10, chart.across.label, "middle"),
        _text(16, middle, chart.up.label, "middle", transform=f"rotate(-90 16 {middle:.1f})"),
        _rule(left, floor, right, floor, "1"),
        _rule(left, top, left, floor, "1"),
    ]
    for x, said in across.ticks():
        parts += [_rule(x, top, x, floor, ".15"), _text(x, floor + 16, said, "middle")]
    for y, said in up.ticks():
        parts += [_rule(left, y, right, y, ".15"), _text(left - 6, y + 4, said, "end")]
    for index, line in enumerate(chart.lines):
        pen = {"fill": "none", "stroke": _COLOURS[index % len(_COLOURS)], "stroke_width": 2}
        places = " ".join(f"{across.at(x):.1f},{up.at(y):.1f}" for x, y in line.points)
        parts.append(
            tag("polyline", points=places, **pen, stroke_dasharray="5 3" if line.dashed else "")
        )
        for (x, y), reach in zip(line.points, line.spread, strict=False):
            ends = f"M{across.at(x):.1f} {up.at(y - reach):.1f}V{up.at(y + reach):.1f}"
            parts.append(tag("path", d=ends, **pen))
    for x, y in chart.marks:
        parts.append(tag("circle", cx=f"{across.at(x):.1f}", cy=f"{up.at(y):.1f}", r=4, fill=_MARK))
    return join([*parts, *_legend(chart, left)], "\n")


def _legend_height(chart: Chart) -> int:
    """Pixels below the chart: two labels in a row."""
    return _ROW * -(-sum(bool(line.label) for line in chart.lines) // 2)


def _legend(chart: Chart, left: float) -> list[Html]:
    parts: list[Html] = []
    shown = [(index, line) for index, line in enumerate(chart.lines) if line.label]
    for place, (index, line) in enumerate(shown):
        x = left + place % 2 * (chart.width - left) / 2
        y = chart.height + _ROW * (place // 2) + 8
        colour = _COLOURS[index % len(_COLOURS)]
        parts += [
            tag("rect", x=f"{x:.1f}", y=f"{y - 9:.1f}", width=10, height=10, fill=colour),
            _text(x + 16, y, line.label),
        ]
    return parts


def svg(charts: Sequence[Chart], **attributes: object) -> Html:
    """Charts side by side, as an element of a page."""
    groups: list[Html] = []
    width = 0
    for chart in charts:
        groups.append(tag("g", _draw(chart), transform=f"translate({width} 0)"))
        width += chart.width
    height = max(chart.height + _legend_height(chart) for chart in charts)
    frame = {"width": width, "height": height, "viewBox": f"0 0 {width} {height}", "role": "img"}
    fonts = {"font_family": "system-ui, sans-serif", "font_size": 12, "fill": "currentColor"}
    label = ", ".join(filter(None, (chart.title or chart.up.label for chart in charts)))
    ground = tag("rect", width=width, height=height, fill="white") if attributes else ""
    inside = join(["", ground, *groups, ""], "\n")
    return tag("svg", inside, **attributes, **frame, **fonts, aria_label=label)


def svg_file(charts: Sequence[Chart]) -> str:
    """Charts side by side, as the text of an SVG file: dark ink on white."""
    return f"{svg(charts, xmlns='http://www.w3.org/2000/svg', color='#222')}\n"
