"""The gallery at a glance: what each sign stands for, and attacks against defences as a matrix."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Iterator, Sequence
from typing import Final

import attrs

from qres_core.reporting import Html, join, tag
from qres_lab.exhibit import AttackFamily, AttackOutcome, GalleryOutcome, GallerySetting
from qres_lab.gallery.defences import DEFENCES, NOTHING, STACKS
from qres_lab.gallery.run import Shown


@attrs.frozen
class Mark:
    """Mark of a defence's fate: a sign as well as a colour."""

    kind: str  # class of the style sheet
    sign: str  # one character
    word: str  # in a table


HELD: Final = Mark("held", "✓", "held")
REFUSED: Final = Mark("held", "✓", "refused before it starts")
FAILED: Final = Mark("failed", "✗", "FAILED")
COSTLY: Final = Mark("costly", "◐", "held, COSTLY")
COSTLY_ALONE: Final = Mark("costly", "◐", "COSTLY")
SUCCEEDS: Final = Mark("none", "●", "succeeds")
NO_EFFECT: Final = Mark("none", "○", "no effect")
NO_ATTACK: Final = Mark("none", "–", "no attack")  # noqa: RUF001 - a dash, as in a table

LEGEND: Final = (
    (HELD, "the defence holds, or the attack cannot even be set up"),
    (FAILED, "the defence fails"),
    (COSTLY, "the defence holds, and by itself costs more than 5 points of accuracy"),
    (SUCCEEDS, "nothing is in the way, and the attack succeeds, as it must to show anything"),
    (NO_EFFECT, "nothing is in the way, and still it does no harm: the row shows nothing"),
)


def mark(outcome: GalleryOutcome) -> Mark:
    """Mark of an outcome."""
    failed = outcome.fate is AttackOutcome.FAILED
    if outcome.fate is AttackOutcome.BASELINE:
        return COSTLY_ALONE if outcome.costly else NO_ATTACK
    if outcome.fate is AttackOutcome.IMPOSSIBLE:
        return REFUSED
    if outcome.control:
        return SUCCEEDS if failed else NO_EFFECT
    if failed:
        return FAILED
    return COSTLY if outcome.costly else HELD


def value(outcome: GalleryOutcome) -> str:
    """The figure that decides, with its limit."""
    if outcome.fate is AttackOutcome.IMPOSSIBLE:
        return "-"
    limit = "" if outcome.limit is None else f" (at most {outcome.limit:.3g})"
    return f"{outcome.value:.3g}{limit}"


def why(shown: Shown, outcome: GalleryOutcome) -> str:
    """A sentence: why a defence did not stop the attack; empty where it did."""
    if mark(outcome) is not FAILED:
        return ""
    of_lab = shown.entry.family in (AttackFamily.POISONING, AttackFamily.PROTOCOL)
    defence = DEFENCES.get(outcome.defence)
    # An exhibit on a protocol of a plugin says itself what it found.
    return (defence.beyond if of_lab and defence else "") or outcome.reason


def again(shown: Shown, outcome: GalleryOutcome, setting: GallerySetting) -> str:
    """The command that plays one cell again."""
    words = ["qres", "attack", "run", shown.entry.name]
    if outcome.defence != NOTHING:
        words += ["--against", outcome.defence]
    words += ["--seed", str(setting.seed)] if setting.seed != GallerySetting().seed else []
    return shlex.join(words + ["--quick"] * setting.quick)


def anchor(name: str) -> str:
    """Place on the page that tells of an exhibit."""
    return f"#{name}"


# ── the matrix ────────────────────────────────────────────────────────────────────────────────


def _held(outcomes: Iterable[GalleryOutcome]) -> tuple[int, int]:
    """Number of the attacked defences that held, and of all of them."""
    fates = [mark(outcome) for outcome in outcomes if not outcome.control]
    fates = [fate for fate in fates if fate not in (NO_ATTACK, COSTLY_ALONE)]
    return sum(fate is not FAILED for fate in fates), len(fates)


def _columns(shown: Sequence[Shown]) -> list[str]:
    """Defences that several of the attacks meet: none, then from the weakest, then the stacks."""
    met: dict[str, list[GalleryOutcome]] = {}
    for outcome in (outcome for each in shown for outcome in each.outcomes):
        met.setdefault(outcome.defence, []).append(outcome)

    def place(name: str) -> tuple[int, float]:
        if all(outcome.control for outcome in met[name]):
            return 0, 0.0
        held, played = _held(met[name])
        return 1 + (name in STACKS), held / max(1, played)

    several = [name for name, outcomes in met.items() if len(outcomes) > 1 or len(shown) == 1]
    return sorted(several, key=place)


def _cell(shown: Shown, outcome: GalleryOutcome, setting: GallerySetting, name: str = "") -> Html:
    found = mark(outcome)
    told = [
        f"{shown.entry.name} against {outcome.defence}: {found.word}.",
        f"{outcome.measure}: {value(outcome)}.",
        why(shown, outcome),
        f"Again: {again(shown, outcome, setting)}",
    ]
    inside = [tag("b", found.sign), f" {name}" if name else ""]
    title = "\n".join(filter(None, told))
    reader = "" if name else f"{outcome.defence}: {found.word}"
    return tag(
        "a",
        *inside,
        href=anchor(shown.entry.name),
        title=title,
        aria_label=reader,
        class_=f"mark {found.kind}",
    )


def _line(
    shown: Shown, columns: Sequence[str], setting: GallerySetting, *, own: bool
) -> Iterator[Html]:
    entry = shown.entry
    yield tag("th", tag("a", entry.name, href=anchor(entry.name)), scope="row")
    by_name = {outcome.defence: outcome for outcome in shown.outcomes}
    for name in columns:
        outcome = by_name.get(name)
        cell = "" if outcome is None else _cell(shown, outcome, setting)
        yield tag("td", cell, class_=_kind(name))
    if own:
        rest = (o for o in shown.outcomes if o.defence not in columns)
        yield tag(
            "td", join((_cell(shown, o, setting, o.defence) for o in rest), " "), class_="own"
        )
    yield tag("td", entry.summary, class_="what")


def _kind(defence: str) -> str:
    return "stack" if defence == STACKS[0] else ""


def matrix(shown: Sequence[Shown], setting: GallerySetting) -> Html:
    """One row for each attack, those that most defences fail against first.

    Defences that a single attack meets are named in a column of their own.
    """
    columns = _columns(shown)
    own = any(outcome.defence not in columns for each in shown for outcome in each.outcomes)

    def order(each: Shown) -> int:
        held, played = _held(each.outcomes)
        return held - played

    rows = [_line(each, columns, setting, own=own) for each in sorted(shown, key=order)]
    heads = [tag("th", tag("span", name), scope="col", class_=_kind(name)) for name in columns]
    sums = [
        _held(o for each in shown for o in each.outcomes if o.defence == name) for name in columns
    ]
    foot = [
        tag("td", f"{held}/{of}" if of else "", class_=_kind(name))
        for name, (held, of) in zip(columns, sums, strict=True)
    ]
    ends = [tag("th", "by its own guards", scope="col", class_="own")] * own
    lines = [
        tag("thead", tag("tr", tag("td"), *heads, *ends, tag("td", class_="what"))),
        tag("tbody", join((tag("tr", *row) for row in rows), "\n")),
    ]
    if any(of for _count_held, of in sums):
        ends = [tag("td")] * own
        end = tag("td", class_="what")
        lines.append(tag("tfoot", tag("tr", tag("th", "held", scope="row"), *foot, *ends, end)))
    return tag("div", tag("table", join(lines, "\n"), class_="matrix"), class_="wide")


# ── in words ──────────────────────────────────────────────────────────────────────────────────


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"


def summary(shown: Sequence[Shown]) -> Iterator[str]:
    """Two lines: what attacks do where nothing is in the way, and what holds against them."""
    attacks = [each for each in shown if each.entry.family is not AttackFamily.CLEAN]
    works = [each for each in attacks if any(mark(o) is SUCCEEDS for o in each.outcomes)]
    yield (
        f"Of {_count(len(attacks), 'attack')}, {len(works)} succeed where no defence is in the way."
    )
    said: list[str] = []
    for name in STACKS:
        held, played = _held(o for each in attacks for o in each.outcomes if o.defence == name)
        if played:
            said.append(f"“{name}” holds against {held} of the {played} that it meets")
    alone = [o for each in attacks for o in each.outcomes if o.defence not in STACKS]
    held, played = _held(alone)
    if played:
        said.append(f"single defences hold in {held} of {played} cases")
    if said:
        yield f"{'; '.join(said)}."


def failed_by(shown: Sequence[Shown]) -> dict[str, list[tuple[Shown, GalleryOutcome]]]:
    """Failures by defence: the stacks first, then those that fail most."""
    found: dict[str, list[tuple[Shown, GalleryOutcome]]] = {}
    for each in shown:
        for outcome in each.outcomes:
            if mark(outcome) is FAILED:
                found.setdefault(outcome.defence, []).append((each, outcome))
    return dict(sorted(found.items(), key=lambda item: (item[0] not in STACKS, -len(item[1]))))
