"""The gallery as one HTML file that loads nothing."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final

from qres_core.reporting import (
    Axis,
    Chart,
    Html,
    Line,
    bullets,
    code,
    document,
    join,
    svg,
    table,
    tag,
)
from qres_lab.exhibit import AttackFamily, GalleryOutcome, GallerySetting
from qres_lab.gallery.matrix import (
    FAILED,
    LEGEND,
    again,
    anchor,
    failed_by,
    mark,
    matrix,
    summary,
    value,
    why,
)
from qres_lab.gallery.run import Shown


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


def _measured(outcome: GalleryOutcome) -> str:
    return f"{outcome.measure}: {value(outcome)}"


def _table(shown: Shown, setting: GallerySetting, *, costs: bool) -> Html:
    heads = ["against", "", "outcome", "measured", "accuracy#", "noticed by", "why", "messages#"]
    rows: list[list[object]] = []
    for outcome, seconds in zip(shown.outcomes, shown.seconds, strict=True):
        found = mark(outcome)
        row: list[object] = [
            outcome.defence,
            tag("b", found.sign, class_=found.kind),
            tag("span", found.word, class_=found.kind),
            _measured(outcome),
            "" if outcome.accuracy is None else f"{outcome.accuracy:.1%}",
            join(outcome.detected, Html("<br>")) or "nobody",
            " ".join(dict.fromkeys(filter(None, (why(shown, outcome), outcome.reason)))),
            outcome.messages or "",
        ]
        spent = [f"{seconds:.2f}", f"{outcome.octets / 1e6:.1f}"] if costs else []
        rows.append([*row, *spent, tag("span", again(shown, outcome, setting), class_="mono")])
    return table([*heads, *(["CPU seconds#", "MB sent#"] if costs else []), "again"], rows)


def _section(shown: Shown, setting: GallerySetting, *, costs: bool) -> Html:
    """Details of one row: opened on demand."""
    entry = shown.entry
    signs = [tag("b", mark(o).sign, class_=mark(o).kind) for o in shown.outcomes]
    return tag(
        "details",
        tag("summary", tag("b", entry.name), " ", entry.summary, " ", *signs),
        # Inside, so that a link to it opens what is around it.
        tag("p", f"Succeeds if: {entry.aim}.", id=entry.name),
        _plot(shown.outcomes),
        _table(shown, setting, costs=costs),
    )


def _legend() -> Html:
    signs = (join([tag("b", m.sign, class_=f"mark {m.kind}"), f" {said}"]) for m, said in LEGEND)
    return bullets(signs, "legend")


def _why(shown: Sequence[Shown], setting: GallerySetting) -> Iterator[Html]:
    found = failed_by(shown)
    cases = sum(len(pairs) for pairs in found.values())
    yield tag("h2", f"What fails, and why: {cases} cases")
    if not found:
        yield tag("p", "No defence that was played fails.")
    for defence, pairs in found.items():
        reasons: dict[str, list[tuple[Shown, GalleryOutcome]]] = {}
        for each, outcome in pairs:
            reasons.setdefault(why(each, outcome), []).append((each, outcome))
        parts: list[Html] = []
        for reason, those in reasons.items():
            rows = [
                [
                    tag("b", FAILED.sign, class_="mark failed"),
                    tag("a", each.entry.name, href=anchor(each.entry.name)),
                    outcome.reason if outcome.reason != reason else _measured(outcome),
                    code(again(each, outcome, setting)),
                ]
                for each, outcome in those
            ]
            parts += [
                tag("p", reason),
                table(["", "attack", "what it came to", "again"], rows, "plain"),
            ]
        yield tag("section", tag("h3", defence), *parts, class_="card")


_READING: Final = (
    "Poisoning counts as held within 5 points of accuracy of the same swarm without attackers. "
    "Attackers' lies go through their own plugins, so they are clipped, noised, masked and proved "
    "as honest updates are. Rows stand with the attack that most defences fail against first, "
    "columns from the weakest defence to the strongest, then all defences together. A sign leads "
    "to its figures; they, and the command that plays it again, also show over the sign."
)


def render(shown: Sequence[Shown], setting: GallerySetting, *, costs: bool = False) -> str:
    """The page. Without ``costs`` the same seed gives the same page, bit by bit."""
    glance: list[Html] = []
    sections: list[Html] = []
    # What attacks do comes first, and what defences cost by themselves last.
    order = sorted(AttackFamily, key=lambda family: family is AttackFamily.CLEAN)
    for family in order:
        inside = [each for each in shown if each.entry.family is family]
        if not inside:
            continue
        title = tag("h3", family.value.capitalize())
        glance += [title, matrix(inside, setting)]
        sections += [title, *(_section(each, setting, costs=costs) for each in inside)]
    quick = " This is a quick run: its figures mean little." if setting.quick else ""
    return document(
        "QRES attack gallery",
        tag("h1", "Attack gallery"),
        tag("div", *(tag("p", line) for line in summary(shown)), class_="verdict"),
        tag(
            "p",
            f"Seed {setting.seed}; the same seed gives the same page. ",
            code(f"qres attack report --seed {setting.seed}"),
            f" plays it all.{quick}",
            class_="dim",
        ),
        _legend(),
        tag("h2", "At a glance"),
        *glance,
        tag("p", _READING, class_="dim"),
        *_why(shown, setting),
        tag("h2", "Figures"),
        *sections,
    )
