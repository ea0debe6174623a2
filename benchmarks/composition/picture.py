"""The figures of the parts as a picture and as a table."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Final

from composition.parts import OTHERWISE, PARTS, Cost

Cells = Mapping[tuple[int, int], Mapping[str, Cost]]
"""The parts at n nodes and d coordinates."""
WIDE, GAP, ROW, COLUMNS = 296, 130, 18, 3
HIGH: Final = 64 + ROW * (len(PARTS) + len(OTHERWISE) + 1)


def waterfall(cells: Cells) -> str:
    """The parts' times one after the other, a panel for each cell, as an SVG on its own.

    Below the stack stands what is not in its sum, from the left again.
    """
    rows = -(-len(cells) // COLUMNS)
    width, height = COLUMNS * (WIDE + GAP) + 8, rows * HIGH + 28
    size = f'width="{width}" height="{height}"'
    fonts = 'font-family="system-ui, sans-serif" font-size="11" fill="#222"'
    box = f'viewBox="0 0 {width} {height}"'
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" {size} {box} {fonts}>',
        f'<rect {size} rx="8" fill="white"/>',
    ]
    for index, ((n, d), parts) in enumerate(cells.items()):
        left = GAP - 4 + (index % COLUMNS) * (WIDE + GAP)
        lines += _panel(n, d, parts, left, 34 + (index // COLUMNS) * HIGH)
    keys = (("#1f6fb4", "in the sum, one after the other"), ("#e08a3c", "not in it, by itself"))
    for place, (colour, said) in enumerate(keys):
        x = GAP - 4 + 220 * place
        lines.append(f'<rect x="{x}" y="{height - 22}" width="12" height="12" fill="{colour}"/>')
        lines.append(f'<text x="{x + 18}" y="{height - 12}">{said}</text>')
    return "\n".join([*lines, "</svg>", ""])


def _panel(n: int, d: int, parts: Mapping[str, Cost], left: int, top: int) -> Iterator[str]:
    total = sum(parts[name].cpu for name in PARTS)
    most = max(total, *(parts[name].cpu for name in OTHERWISE))
    sent = sum(parts[name].sent for name in PARTS)
    room = WIDE - 58
    yield (
        f'<text x="{left}" y="{top - 10}" font-weight="bold">n = {n}, d = {_power(d)}: '
        f"{short(total)}, {octets(sent)} to each</text>"
    )
    before, y = 0.0, top
    for name in (*PARTS, *OTHERWISE):
        inside, cpu = name in PARTS, parts[name].cpu
        if name == OTHERWISE[0]:
            y += 6
            line = f'x1="{left - 100}" x2="{left + room + 50}" y1="{y - 4}" y2="{y - 4}"'
            yield f'<line {line} stroke="#ccc"/>'
        x = left + room * before / most
        width = max(0.7, room * cpu / most)
        colour = "#1f6fb4" if inside else "#e08a3c"
        yield f'<text x="{left - 6}" y="{y + 11}" text-anchor="end">{name}</text>'
        yield f'<rect x="{x:.1f}" y="{y}" width="{width:.1f}" height="14" fill="{colour}"/>'
        yield f'<text x="{x + width + 4:.1f}" y="{y + 11}" fill="#444">{short(cpu)}</text>'
        before = before + cpu if inside and name != PARTS[-1] else 0.0
        y += ROW


def _power(number: int) -> str:
    """10⁴ for 10000."""
    return "10" + str(len(str(number)) - 1).translate(str.maketrans("0123456789", "⁰¹²³⁴⁵⁶⁷⁸⁹"))


def short(seconds: float) -> str:
    """Seconds in the unit that suits them."""
    if seconds >= 1:
        return f"{seconds:.3g} s"
    return f"{1e3 * seconds:.3g} ms" if seconds >= 1e-3 else f"{1e6 * seconds:.0f} µs"


def octets(count: float) -> str:
    """Bytes in the unit that suits them; they may be fewer than none."""
    if abs(count) >= 2**20:
        return f"{count / 2**20:.1f} MiB"
    return f"{count / 1024:.1f} KiB"


def table(cells: Cells) -> str:
    """Processor time of a node, bytes to each other and latency, by part."""
    lines: list[str] = []
    for (n, d), parts in cells.items():
        lines.append(f"n = {n}, d = {d}")
        for name in (*PARTS, *OTHERWISE):
            part = parts[name]
            lines.append(
                f"   {name:20} {short(part.cpu):>10} {octets(part.sent):>14} "
                f"{short(part.latency):>10}"
            )
    return "\n".join(lines)
