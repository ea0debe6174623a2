"""The gallery as one HTML file that loads nothing."""

from __future__ import annotations

import html
from collections.abc import Iterator, Sequence
from typing import Final

from qres_core.contract.gallery import AttackFamily, Fate, GalleryOutcome, GallerySetting
from qres_core.lab.gallery.defences import STACKS
from qres_core.lab.gallery.run import Shown, failures

_WIDTH: Final = 480
_HEIGHT: Final = 190
_LEFT: Final = 34
_RIGHT: Final = 8
_TOP: Final = 8
_BOTTOM: Final = 24
_COLOURS: Final = (
    "#c2402b", "#1f77b4", "#2f8f5b", "#8a5fb4", "#b8860b", "#d06a9a", "#17808a", "#6b6b2a",
    "#5b6b7a", "#34495e",
)  # fmt: skip

_STYLE: Final = """
:root { color-scheme: light dark; --bad: #c2402b; --good: #2f8f5b; --line: #8885 }
body { font: 15px/1.5 system-ui, sans-serif; max-width: 74rem; margin: 2rem auto; padding: 0 1rem }
h2 { margin-top: 2.4rem; border-bottom: 1px solid var(--line) }
h3 { margin: 1.6rem 0 .2rem }
.wide { overflow-x: auto }
table { border-collapse: collapse; font-size: .84rem; font-variant-numeric: tabular-nums }
th, td { text-align: left; padding: .22rem .6rem; border-bottom: 1px solid var(--line) }
td { vertical-align: top }
.num { text-align: right; white-space: nowrap }
.failed { color: var(--bad); font-weight: 700 }
.held { color: var(--good) }
.none { opacity: .75 }
.grid th { writing-mode: vertical-rl; transform: rotate(180deg); text-align: left }
.grid th:first-child { writing-mode: inherit; transform: none }
.grid td { text-align: center }
.grid td:first-child { text-align: left }
svg { max-width: 100%; height: auto }
svg text { font: 11px system-ui, sans-serif; fill: currentColor }
"""


def _text(value: str) -> str:
    return html.escape(value)


def mark(outcome: GalleryOutcome) -> tuple[str, str]:
    """Class and words of a fate."""
    if outcome.fate is Fate.BASELINE:
        return ("failed", "COSTLY") if outcome.costly else ("none", "no attack")
    if outcome.fate is Fate.IMPOSSIBLE:
        return "held", "refused before it starts"
    if outcome.control:
        return ("none", "succeeds") if outcome.fate is Fate.FAILED else ("none", "no effect")
    if outcome.fate is Fate.FAILED:
        return "failed", "FAILED"
    return ("failed", "held, COSTLY") if outcome.costly else ("held", "held")


def _plot(outcomes: Sequence[GalleryOutcome]) -> str:
    drawn = [one for one in outcomes if len(one.curve) > 1]
    if not drawn:
        return ""
    last = max(len(one.curve) for one in drawn)
    wide, high = _WIDTH - _LEFT - _RIGHT, _HEIGHT - _TOP - _BOTTOM
    parts: list[str] = []
    for share in (0.0, 0.5, 1.0):
        y = _TOP + high * (1.0 - share)
        parts.append(
            f'<line x1="{_LEFT}" y1="{y:.1f}" x2="{_WIDTH - _RIGHT}" y2="{y:.1f}" '
            f'stroke="currentColor" stroke-opacity=".2"/>'
            f'<text x="{_LEFT - 5}" y="{y + 4:.1f}" text-anchor="end">{share:.0%}</text>'
        )
    parts.append(
        f'<text x="{_LEFT}" y="{_HEIGHT - 6}">round 1</text>'
        f'<text x="{_WIDTH - _RIGHT}" y="{_HEIGHT - 6}" text-anchor="end">{last}</text>'
    )
    keys: list[str] = []
    for index, one in enumerate(drawn):
        colour = _COLOURS[index % len(_COLOURS)]
        dash = ' stroke-dasharray="5 3"' if one.control else ""
        points = " ".join(
            f"{_LEFT + wide * k / max(1, last - 1):.1f},{_TOP + high * (1.0 - value):.1f}"
            for k, value in enumerate(one.curve)
        )
        parts.append(
            f'<polyline fill="none" stroke="{colour}" stroke-width="1.8"{dash} points="{points}"/>'
        )
        keys.append(f'<span style="color:{colour}">■</span> {_text(one.defence)}')
    box = f"0 0 {_WIDTH} {_HEIGHT}"
    return (
        f'<svg viewBox="{box}" width="{_WIDTH}" height="{_HEIGHT}" role="img" '
        f'aria-label="accuracy by round">{"".join(parts)}</svg><p>{" &nbsp; ".join(keys)}</p>'
    )


def _value(outcome: GalleryOutcome) -> str:
    if outcome.fate is Fate.IMPOSSIBLE:
        return "-"
    return (
        f"{outcome.value:.3g}"
        if outcome.limit is None
        else (f"{outcome.value:.3g} (at most {outcome.limit:.3g})")
    )


def _table(shown: Shown, *, costs: bool) -> str:
    heads = ["against", "outcome", "measured", "accuracy", "noticed by", "why", "messages"]
    if costs:
        heads += ["CPU seconds", "MB sent"]
    rows: list[str] = []
    for outcome, seconds in zip(shown.outcomes, shown.seconds, strict=True):
        kind, word = mark(outcome)
        accuracy = "" if outcome.accuracy is None else f"{outcome.accuracy:.1%}"
        cells = [
            f"<td>{_text(outcome.defence)}</td>",
            f'<td class="{kind}">{word}</td>',
            f"<td>{_text(outcome.measure)}: {_value(outcome)}</td>",
            f'<td class="num">{accuracy}</td>',
            f"<td>{'<br>'.join(map(_text, outcome.detected)) or 'nobody'}</td>",
            f"<td>{_text(outcome.reason)}</td>",
            f'<td class="num">{outcome.messages or ""}</td>',
        ]
        if costs:
            cells.append(f'<td class="num">{seconds:.2f}</td>')
            cells.append(f'<td class="num">{outcome.octets / 1e6:.1f}</td>')
        rows.append(f"<tr>{''.join(cells)}</tr>")
    head = "".join(f"<th>{one}</th>" for one in heads)
    return f'<div class="wide"><table><tr>{head}</tr>{"".join(rows)}</table></div>'


def _grid(shown: Sequence[Shown]) -> str:
    """One row for each attack, one column for each defence that several attacks meet."""
    names = list(dict.fromkeys(o.defence for one in shown for o in one.outcomes))
    names = [n for n in names if sum(any(o.defence == n for o in s.outcomes) for s in shown) > 1]
    head = "".join(f"<th>{_text(one)}</th>" for one in ["attack", *names])
    rows: list[str] = []
    for one in shown:
        by_name = {outcome.defence: outcome for outcome in one.outcomes}
        cells = [f'<td><a href="#{_text(one.entry.name)}">{_text(one.entry.name)}</a></td>']
        for name in names:
            if name not in by_name:
                cells.append("<td></td>")
                continue
            outcome = by_name[name]
            kind, word = mark(outcome)
            if outcome.accuracy is not None:
                word = f"{word}<br>{outcome.accuracy:.0%}"
            cells.append(f'<td class="{kind}">{word}</td>')
        rows.append(f"<tr>{''.join(cells)}</tr>")
    return f'<div class="wide"><table class="grid"><tr>{head}</tr>{"".join(rows)}</table></div>'


def _failed(shown: Sequence[Shown]) -> Iterator[str]:
    found = failures(shown)
    yield f"<h2>Where defences failed: {len(found)}</h2>"
    if not found:
        yield "<p>None of those played.</p>"
        return
    yield "<ul>"
    for stack in (True, False):
        for name, outcome in found:
            if (outcome.defence.startswith("full") or outcome.defence in STACKS) is stack:
                yield (
                    f'<li><span class="failed">FAILED</span> {_text(name)} against '
                    f"<b>{_text(outcome.defence)}</b>: {_text(outcome.measure)} "
                    f"{_value(outcome)}. {_text(outcome.reason)}</li>"
                )
    yield "</ul>"


def render(shown: Sequence[Shown], setting: GallerySetting, *, costs: bool = False) -> str:
    """The page. Without ``costs`` the same seed gives the same page, bit by bit."""
    sections: list[str] = []
    for family in AttackFamily:
        inside = [one for one in shown if one.entry.family is family]
        if inside:
            sections.append(f"<h2>{_text(family.value.capitalize())}</h2>")
        for one in inside:
            entry = one.entry
            sections.append(
                f'<h3 id="{_text(entry.name)}">{_text(entry.name)}</h3>'
                f"<p>{_text(entry.summary)}. Succeeds if: {_text(entry.aim)}.</p>"
                f"{_plot(one.outcomes)}{_table(one, costs=costs)}"
            )
    quick = " This is a quick run: its figures mean little." if setting.quick else ""
    failed = "".join(_failed(shown))
    return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>QRES attack gallery</title>
<meta name="viewport" content="width=device-width, initial-scale=1">
<style>{_STYLE}</style></head><body>
<h1>Attack gallery</h1>
<p>Attacks against nothing, against single defences, and against all of them together. Seed
{setting.seed}; the same seed gives the same page.{quick}</p>
<p>“Succeeds” is an attack on a swarm without the defence; where it has “no effect” there, the row
shows nothing about defences. Poisoning counts as held within 5 points of accuracy of the same swarm
without attackers. “Costly” is a defence that takes more than that by itself, with nobody attacking.
Attackers' lies go through their own plugins, so they are clipped, noised, masked and proved as
honest updates are.</p>
{failed}
<h2>At a glance</h2>
{_grid(shown)}
{"".join(sections)}
</body></html>
"""
