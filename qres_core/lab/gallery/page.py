"""The gallery as one HTML file that loads nothing."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final

from qres_core.contract.gallery import AttackFamily, AttackOutcome, GalleryOutcome, GallerySetting
from qres_core.lab.gallery.defences import STACKS
from qres_core.lab.gallery.run import Shown, failures
from qres_core.reporting import (
    Axis,
    Chart,
    Html,
    Line,
    bullets,
    document,
    join,
    svg,
    table,
    tag,
)


def mark(outcome: GalleryOutcome) -> tuple[str, str]:
    """Class and words of a fate."""
    if outcome.fate is AttackOutcome.BASELINE:
        return ("failed", "COSTLY") if outcome.costly else ("none", "no attack")
    if outcome.fate is AttackOutcome.IMPOSSIBLE:
        return "held", "refused before it starts"
    if outcome.control:
        return (
            ("none", "succeeds") if outcome.fate is AttackOutcome.FAILED else ("none", "no effect")
        )
    if outcome.fate is AttackOutcome.FAILED:
        return "failed", "FAILED"
    return ("failed", "held, COSTLY") if outcome.costly else ("held", "held")


def _outcome(outcome: GalleryOutcome) -> Html:
    kind, word = mark(outcome)
    return tag("span", word, class_=kind)


def _plot(outcomes: Sequence[GalleryOutcome]) -> Html:
    lines = [
        Line(list(enumerate(outcome.curve, 1)), outcome.defence, dashed=outcome.control)
        for outcome in outcomes
        if len(outcome.curve) > 1
    ]
    if not lines:
        return Html()
    up = Axis("accuracy", low=0.0, high=1.0, form=".0%")
    return svg([Chart(lines, across=Axis("round"), up=up, width=560, height=230)])


def _value(outcome: GalleryOutcome) -> str:
    if outcome.fate is AttackOutcome.IMPOSSIBLE:
        return "-"
    return (
        f"{outcome.value:.3g}"
        if outcome.limit is None
        else (f"{outcome.value:.3g} (at most {outcome.limit:.3g})")
    )


def _table(shown: Shown, *, costs: bool) -> Html:
    heads = ["against", "outcome", "measured", "accuracy#", "noticed by", "why", "messages#"]
    rows: list[list[object]] = []
    for outcome, seconds in zip(shown.outcomes, shown.seconds, strict=True):
        row: list[object] = [
            outcome.defence,
            _outcome(outcome),
            f"{outcome.measure}: {_value(outcome)}",
            "" if outcome.accuracy is None else f"{outcome.accuracy:.1%}",
            join(outcome.detected, Html("<br>")) or "nobody",
            outcome.reason,
            outcome.messages or "",
        ]
        rows.append(row + [f"{seconds:.2f}", f"{outcome.octets / 1e6:.1f}"] * costs)
    return table(heads + ["CPU seconds#", "MB sent#"] * costs, rows)


def _grid(shown: Sequence[Shown]) -> Html:
    """One row for each attack, one column for each defence that several attacks meet."""
    names = list(dict.fromkeys(o.defence for each in shown for o in each.outcomes))
    names = [n for n in names if sum(any(o.defence == n for o in s.outcomes) for s in shown) > 1]
    rows: list[list[object]] = []
    for each in shown:
        row: list[object] = [tag("a", each.entry.name, href=f"#{each.entry.name}")]
        by_name = {outcome.defence: outcome for outcome in each.outcomes}
        for outcome in map(by_name.get, names):
            parts = [] if outcome is None else [_outcome(outcome)]
            if outcome is not None and outcome.accuracy is not None:
                parts.append(Html(f"{outcome.accuracy:.0%}"))
            row.append(join(parts, "<br>"))
        rows.append(row)
    return table(["attack", *names], rows, "matrix")


def _failed(shown: Sequence[Shown]) -> Iterator[Html]:
    found = failures(shown)
    yield tag("h2", f"Failed defences: {len(found)}")
    if not found:
        yield tag("p", "None of those played.")
        return

    def alone(pair: tuple[str, GalleryOutcome]) -> bool:
        return not (pair[1].defence.startswith("full") or pair[1].defence in STACKS)

    yield bullets(
        join(
            [
                tag("span", "FAILED", class_="failed"),
                f" {name} against ",
                tag("b", outcome.defence),
                f": {outcome.measure} {_value(outcome)}. {outcome.reason}",
            ]
        )
        for name, outcome in sorted(found, key=alone)  # the stacks first
    )


def _section(shown: Shown, *, costs: bool) -> Iterator[Html]:
    entry = shown.entry
    yield tag("h3", entry.name, id=entry.name)
    yield tag("p", f"{entry.summary}. Succeeds if: {entry.aim}.")
    yield _plot(shown.outcomes)
    yield _table(shown, costs=costs)


_READING: Final = (
    "“Succeeds” is an attack on a swarm without the defence; where it has “no effect” there, the "
    "row shows nothing about defences. Poisoning counts as held within 5 points of accuracy of the "
    "same swarm without attackers. “Costly” is a defence that takes more than that by itself, with "
    "nobody attacking. Attackers' lies go through their own plugins, so they are clipped, noised, "
    "masked and proved as honest updates are."
)


def render(shown: Sequence[Shown], setting: GallerySetting, *, costs: bool = False) -> str:
    """The page. Without ``costs`` the same seed gives the same page, bit by bit."""
    sections: list[Html] = []
    for family in AttackFamily:
        inside = [each for each in shown if each.entry.family is family]
        if inside:
            sections.append(tag("h2", family.value.capitalize()))
        for each in inside:
            sections += _section(each, costs=costs)
    quick = " This is a quick run: its figures mean little." if setting.quick else ""
    return document(
        "QRES attack gallery",
        tag("h1", "Attack gallery"),
        tag(
            "p",
            "Attacks against nothing, against single defences, and against all of them together. ",
            f"Seed {setting.seed}; the same seed gives the same page.{quick}",
        ),
        tag("p", _READING),
        *_failed(shown),
        tag("h2", "At a glance"),
        _grid(shown),
        *sections,
    )
