"""The page of the gallery: what holds, what fails and why, told by signs as well as by colours."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from html.parser import HTMLParser
from importlib import resources
from typing import Any

import attrs
import pytest
from click.testing import CliRunner
from qres_lab.commands.attack import run_command
from qres_lab.exhibit import (
    AttackFamily,
    AttackOutcome,
    GalleryEntry,
    GalleryOutcome,
    GallerySetting,
)
from qres_lab.gallery.defences import DEFENCES, NOTHING, STACKS
from qres_lab.gallery.matrix import LEGEND, again, mark, matrix, summary, why
from qres_lab.gallery.page import render
from qres_lab.gallery.run import Shown, failures
from qres_lab.gallery.swarm import SwarmAttack, accuracy

from qres_core.contract.errors import RoundError

SETTING = GallerySetting()
HELD, FAILED = AttackOutcome.HELD, AttackOutcome.FAILED


def outcome(defence: str = "median", **changes: Any) -> GalleryOutcome:
    item = GalleryOutcome.judged(defence, "accuracy <lost>", 0.9, 0.1, reason='"why" & where')
    return attrs.evolve(item, control=defence == NOTHING, **changes)


def shown(
    *outcomes: GalleryOutcome, name: str = "x", family: AttackFamily = AttackFamily.POISONING
) -> Shown:
    entry = GalleryEntry(name=name, family=family, summary="<script>", aim="a", plays={})
    return Shown(entry, outcomes, tuple(0.5 for _ in outcomes))


class Seen(HTMLParser):
    """Elements of a page with their attributes, and rows of matrices as their signs."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str]]] = []
        self.rows: list[list[str]] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, {key: value or "" for key, value in attrs}))
        if tag == "tr":
            self.rows.append([])

    def handle_data(self, data: str) -> None:
        if self.rows and data.strip():
            self.rows[-1].append(data.strip())

    def cells(self) -> Iterator[dict[str, str]]:
        return (found for tag, found in self.elements if tag == "a" and "title" in found)


def test_every_state_has_a_sign_and_a_class_and_none_is_told_by_colour_alone() -> None:
    fates = {
        "held": outcome(fate=HELD),
        "FAILED": outcome(),
        "held, COSTLY": outcome(fate=HELD, price=0.4),
        "succeeds": outcome(NOTHING),
        "no effect": outcome(NOTHING, fate=HELD),
    }
    marks = {word: mark(item) for word, item in fates.items()}
    assert {word: found.word for word, found in marks.items()} == {word: word for word in fates}
    assert len({found.sign for found in marks.values()}) == len(marks)
    assert {found for found, _said in LEGEND} == set(marks.values())
    assert [marks[word].kind for word in list(fates)[:3]] == ["held", "failed", "costly"]
    # What a defence costs by itself shows where nobody attacks, and does not hide a failure.
    assert mark(outcome(fate=AttackOutcome.BASELINE, price=0.4)).word == "COSTLY"
    assert mark(outcome(fate=AttackOutcome.BASELINE, price=0.04)).word == "no attack"
    assert mark(outcome(price=0.4)).word == "FAILED"
    assert mark(outcome(fate=AttackOutcome.IMPOSSIBLE)).word == "refused before it starts"


def _luminance(colour: str) -> float:
    if len(colour) == 4:
        colour = "#" + "".join(2 * digit for digit in colour[1:])
    parts = [int(colour[place : place + 2], 16) / 255 for place in (1, 3, 5)]
    linear = [
        part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts
    ]
    return sum(share * part for share, part in zip((0.2126, 0.7152, 0.0722), linear, strict=True))


def _contrast(one_colour: str, other: str) -> float:
    low, high = sorted(map(_luminance, (one_colour, other)))
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("theme", [0, 1])
def test_signs_can_be_read_in_both_themes_and_failures_without_colours(theme: int) -> None:
    css = (resources.files("qres_core.reporting") / "style.css").read_text(encoding="utf-8")
    block = css.split("prefers-color-scheme: dark")[theme]
    colours = dict(re.findall(r"--([\w-]+): (#[0-9a-f]{3,6})", block))
    for kind in ("held", "failed", "costly"):
        assert _contrast(colours[kind], colours[f"on-{kind}"]) > 4.5
    # In grey a failure is still another shade than what holds.
    for kind in ("held", "costly"):
        assert _contrast(colours[kind], colours["failed"]) > 3


def test_rows_and_columns_are_sorted_so_that_a_pattern_shows() -> None:
    fates = {
        "mild": {"reputation": False, "median": False},
        "strong": {STACKS[0]: False, "reputation": True, "median": True, NOTHING: True},
        "middling": {STACKS[0]: False, "reputation": True, "median": False, NOTHING: True},
    }
    rows = [
        shown(*(outcome(to, fate=FAILED if bad else HELD) for to, bad in row.items()), name=name)
        for name, row in fates.items()
    ]
    seen = Seen(matrix(rows, SETTING)).rows
    assert [row[0] for row in seen[1:]] == ["strong", "middling", "mild", "held"]
    assert seen[0] == [NOTHING, "reputation", "median", STACKS[0]]
    assert seen[1][1:-1] == ["●", "✗", "✗", "✓"]
    assert seen[-1] == ["held", "1/3", "2/3", "2/2"]


def test_a_cell_tells_its_figures_why_and_the_command_that_plays_it_again() -> None:
    told = shown(outcome(STACKS[0]), outcome("krum", fate=HELD), outcome(NOTHING))
    cells = list(Seen(matrix([told], SETTING)).cells())
    failed = next(cell for cell in cells if "failed" in cell["class"])
    assert failed["href"] == "#x"
    assert DEFENCES[STACKS[0]].beyond in failed["title"]
    assert "accuracy <lost>: 0.9 (at most 0.1)" in failed["title"]
    assert f"qres attack run x --against '{STACKS[0]}'" in failed["title"]
    assert failed["aria-label"] == f"{STACKS[0]}: FAILED"


def test_the_command_of_a_cell_is_one() -> None:
    told = shown(outcome(STACKS[0]), outcome(NOTHING), name="sign_flip")
    setting = GallerySetting(seed=3, quick=True)
    commands = [again(told, item, setting) for item in told.outcomes]
    assert commands[1] == "qres attack run sign_flip --seed 3 --quick"
    parsed = run_command.make_context("run", shlex.split(commands[0])[3:]).params
    assert parsed["against"] == (STACKS[0],)
    assert (parsed["name"], parsed["seed"], parsed["quick"]) == ("sign_flip", 3, True)


def test_every_failure_has_a_sentence() -> None:
    for defence in DEFENCES.values():
        assert defence.control or re.fullmatch(r"[A-Z].{20,}\.", defence.beyond), defence.name
        told = shown(outcome(defence.name))
        if mark(told.outcomes[0]).word == "FAILED":
            assert why(told, told.outcomes[0])
    # What a plugin's exhibit finds out it says itself.
    private = shown(outcome(STACKS[0]), family=AttackFamily.PRIVACY)
    assert why(private, private.outcomes[0]) == '"why" & where'
    assert why(private, outcome(fate=HELD)) == ""


def test_failures_are_listed_by_defence_with_the_reason() -> None:
    failed, held = outcome(), outcome("krum", fate=HELD)
    rows = (shown(outcome(NOTHING), held, failed),)
    assert failures(rows) == (("x", failed),)
    page = render(rows, SETTING)
    listed = page[page.index("What fails, and why: 1 case") : page.index("Figures")]
    assert "<h3>median</h3>" in listed
    assert DEFENCES["median"].beyond in listed
    assert "&quot;why&quot; &amp; where" in listed
    assert "qres attack run x --against median" in listed
    assert "krum" not in listed
    assert "No defence that was played fails." in render((shown(held),), SETTING)


def test_two_lines_say_what_it_all_came_to() -> None:
    rows = [
        shown(outcome(NOTHING), outcome("median"), outcome(STACKS[0], fate=HELD), name="a"),
        shown(outcome(NOTHING, fate=HELD), outcome("median", fate=HELD), name="b"),
        shown(outcome(fate=AttackOutcome.BASELINE), name="clean", family=AttackFamily.CLEAN),
    ]
    first, second = summary(rows)
    assert first == "Of 2 attacks, 1 succeed where no defence is in the way."
    assert "“full, one sum” holds against 1 of the 1 that it meets" in second
    assert second.endswith("single defences hold in 1 of 2 cases.")


def test_the_page_loads_nothing() -> None:
    curve = outcome(curve=(0.1, 0.5, 0.9), accuracy=0.9)
    page = render((shown(curve),), SETTING, costs=True)
    seen = Seen(page).elements
    linking = {"src", "href", "xlink:href", "action", "data", "srcset"}
    found = [to for _tag, where in seen for key, to in where.items() if key in linking]
    assert found
    assert all(item.startswith("#") for item in found)
    assert not {tag for tag, _where in seen} & {"script", "link", "img", "iframe", "object"}
    assert "svg" in {tag for tag, _where in seen}
    assert not re.search(r"https?:|url\(|@import", page)


def test_a_swarm_that_an_attack_stops_has_not_held(monkeypatch: pytest.MonkeyPatch) -> None:
    def played(*_given: object) -> object:
        raise RoundError.of("QRES-E601", "height 0", "two decisions", "ask")

    monkeypatch.setattr(SwarmAttack, "_played", played)
    stopped = SwarmAttack(attack="history", judge=accuracy).play(DEFENCES["median"], SETTING)
    assert (stopped.fate, stopped.measure) == (FAILED, "the swarm stopped")
    assert "QRES-E601" in stopped.reason


def test_the_option_against_is_explained() -> None:
    assert "--against" in CliRunner().invoke(run_command, ["--help"]).output
