"""Markup, charts and documents: what is escaped, where points are, what a page may load."""

from __future__ import annotations

import base64
import hashlib
import math
import re
import xml.etree.ElementTree as ET
from collections.abc import Callable
from html.parser import HTMLParser

import attrs
import pytest
from qres_lab.demo import DemoResult
from qres_lab.exhibit import AttackFamily, GalleryEntry, GalleryOutcome, GallerySetting
from qres_lab.gallery import page as gallery_page
from qres_lab.gallery.run import Shown
from qres_lab.report import render as demo_page

from qres_core.attacks.scenario import Scenario
from qres_core.kernel.config import parse
from qres_core.kernel.discovery import scan
from qres_core.lab.simulator import simulate
from qres_core.reporting import (
    Axis,
    Chart,
    Html,
    Line,
    bullets,
    code,
    document,
    join,
    policy,
    svg,
    svg_file,
    table,
    tag,
)
from qres_core.training.tasks import TaskConfig

HOSTILE = "\"'><script>alert(1)</script><img src=x onerror=alert(1)>"
SVG = "{http://www.w3.org/2000/svg}"


class Reader(HTMLParser):
    """What a browser makes of a page: its elements, their attributes, and the text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: dict[str, list[str]] = {}
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        for name, value in attrs:
            self.attributes.setdefault(name, []).append(value or "")

    def handle_data(self, data: str) -> None:
        self.text += data

    @property
    def attacked(self) -> bool:
        """Whether text became an element or an attribute."""
        return bool({"script", "img"} & set(self.tags)) or "onerror" in self.attributes


# ── escaping ──────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    "make",
    [
        lambda text: join([text]),
        lambda text: tag("p", text),
        lambda text: tag("p", Html("<b>b</b>"), text, title=text),
        code,
        lambda text: bullets([text]),
        lambda text: table([text], [[text]]),
        lambda text: document(text, tag("p", text)),
        lambda text: svg([Chart([Line([(0, 0), (1, 1)], text)], text, Axis(text), Axis(text))]),
    ],
)
def test_text_never_becomes_markup(make: Callable[[str], Html]) -> None:
    assert Reader(make(Html(HOSTILE))).attacked  # the control: as markup it attacks
    found = Reader(make(HOSTILE))
    assert not found.attacked
    assert HOSTILE in found.text


def test_pieces_of_markup_are_text_again() -> None:
    made = tag("b", "x")
    for piece in (made + HOSTILE, f"{made}{HOSTILE}", made[:1] + "script>"):
        assert not isinstance(piece, Html)
        assert "<b>" not in join([piece])
        assert "<script>" not in join([piece])


def test_an_element_has_the_attributes_that_are_not_empty() -> None:
    assert tag("line", x1=0, class_="", stroke_width=2) == '<line x1="0" stroke-width="2"></line>'
    assert tag("br") == "<br>"


def test_a_table_has_a_cell_for_each_head() -> None:
    found = Reader(table(["name", "value#"], [["a", 1], ["b", 2]], "matrix"))
    assert (found.tags.count("tr"), found.tags.count("th"), found.tags.count("td")) == (3, 2, 4)
    assert found.attributes["class"] == ["wide", "matrix", "number", "number", "number"]
    with pytest.raises(ValueError, match="argument"):
        table(["name", "value#"], [["a"]])


def test_names_of_attacks_and_plugins_on_the_demonstrations_page_are_escaped() -> None:
    swarm = {"name": "page", "nodes": 4, "byzantine": 1, "quorum": 3, "insecure": True}
    plugins = {"memory": {}, "mean": {"unprotected": True}}
    config = parse({"swarm": swarm, "plugins": plugins}, source="test")
    task = TaskConfig(name="quadratic", dimension=6)
    run = simulate(config, Scenario(rounds=1, seed=1), task=task, installed=scan())
    part = {"name": HOSTILE, "distribution": HOSTILE, "version": HOSTILE, "hooks": ()}
    evil = attrs.evolve(run, attack=HOSTILE, notices=(HOSTILE,), pipeline=(part,))
    found = Reader(demo_page(DemoResult(run, evil, None), b"png"))
    assert found.text.count(HOSTILE) == 5
    assert "script" not in found.tags
    assert found.tags.count("img") == 1  # the picture
    assert run.model_digests[0] in found.text


def test_names_of_attacks_and_defences_in_the_gallery_are_escaped() -> None:
    entry = GalleryEntry(
        name=HOSTILE, family=AttackFamily.POISONING, summary=HOSTILE, aim=HOSTILE, plays={}
    )
    outcome = GalleryOutcome.judged(HOSTILE, HOSTILE, 0.9, 0.1, reason=HOSTILE)
    outcome = attrs.evolve(outcome, curve=(0.1, 0.9), detected=(HOSTILE,))
    shown = (Shown(entry, (outcome,), (0.5,)),) * 2
    found = Reader(gallery_page.render(shown, GallerySetting()))
    assert not found.attacked
    assert set(found.attributes["href"]) == {f"#{HOSTILE}"}
    assert found.text.count(HOSTILE) > 20


# ── charts ────────────────────────────────────────────────────────────────────────────────────


def _drawn(*charts: Chart) -> ET.Element:
    return ET.fromstring(svg_file(charts))  # noqa: S314 - written just now


def _points(root: ET.Element) -> list[list[tuple[float, ...]]]:
    lines = root.findall(f".//{SVG}polyline")
    return [
        [tuple(map(float, pair.split(","))) for pair in line.attrib["points"].split()]
        for line in lines
    ]


@pytest.mark.parametrize("logarithmic", [False, True])
def test_points_are_where_their_shares_of_the_axes_are(logarithmic: bool) -> None:  # noqa: FBT001
    values = [(1.0, 10.0), (10.0, 1000.0), (100.0, 100.0)]
    axis = Axis("x", logarithmic=logarithmic)
    (points,) = _points(_drawn(Chart([Line(values)], "t", axis, axis)))
    of = math.log if logarithmic else float
    for (x, y), (across, up) in zip(values, points, strict=True):
        share = (of(x) - of(1.0)) / (of(100.0) - of(1.0))
        height = (of(y) - of(10.0)) / (of(1000.0) - of(10.0))
        assert across == pytest.approx(64 + share * (440 - 64 - 16), abs=0.06)
        assert up == pytest.approx(272 - height * (272 - 36), abs=0.06)


def _ticks(axis: Axis, low: float, high: float) -> list[str]:
    chart = Chart([Line([(low, 0.25), (high, 0.25)])], across=axis, up=Axis(low=0.0, high=0.1))
    texts = _drawn(chart).findall(f".//{SVG}text")
    floor = f"{chart.height - 28 + 16:.1f}"
    return [text.text or "" for text in texts if text.attrib["y"] == floor and text.text]


@pytest.mark.parametrize(
    ("axis", "low", "high", "ticks"),
    [
        (Axis(), 1, 3, ["1", "2", "3"]),
        (Axis(), 1, 20, ["5", "10", "15", "20"]),
        (Axis(low=0.0, high=1.0, form=".0%"), 0.3, 0.4, ["0%", "20%", "40%", "60%", "80%", "100%"]),
        (Axis(), 0.25, 0.75, ["0.3", "0.4", "0.5", "0.6", "0.7"]),
        (Axis(), 5, 5, ["5"]),
        (Axis(logarithmic=True), 0.2, 3, ["0.2", "0.5", "1", "2"]),
        (Axis(logarithmic=True), 1, 1e5, ["1", "10", "100", "1000", "10000", "100000"]),
        (Axis(logarithmic=True), 2, 2, ["2"]),
    ],
)
def test_ticks_are_round_numbers_inside_the_axis(
    axis: Axis, low: float, high: float, ticks: list[str]
) -> None:
    assert _ticks(axis, low, high) == ticks


def test_charts_stand_side_by_side_with_marks_and_legends() -> None:
    lines = [Line([(0, 0), (1, 1)], "honest"), Line([(0, 1), (1, 0)], "attacked", dashed=True)]
    root = _drawn(Chart(lines, marks=[(0.5, 0.5)]), Chart([Line([(0, 0), (1, 1)])], width=200))
    assert (root.attrib["width"], root.attrib["height"]) == ("640", "338")
    groups = root.findall(f"{SVG}g")
    assert [group.attrib["transform"] for group in groups] == [
        "translate(0 0)",
        "translate(440 0)",
    ]
    assert len(root.findall(f".//{SVG}circle")) == 1
    texts = [text.text for text in root.findall(f".//{SVG}text")]
    assert {"honest", "attacked"} <= set(texts)
    dashes = [line.get("stroke-dasharray") for line in root.findall(f".//{SVG}polyline")]
    assert dashes == [None, "5 3", None]


def test_an_error_bar_reaches_as_far_as_it_says() -> None:
    line = Line([(0.0, 0.5), (1.0, 0.5)], spread=[0.1, 0.5])
    root = _drawn(Chart([line], up=Axis(low=0.0, high=1.0), height=140))
    bars = [path.attrib["d"] for path in root.findall(f".//{SVG}path")]
    assert bars == ["M44.0 72.0V52.0", "M424.0 112.0V12.0"]  # 100 pixels are 1.0


# ── documents ─────────────────────────────────────────────────────────────────────────────────


def test_a_document_loads_nothing() -> None:
    text = document("t", tag("p", "x"))
    found = Reader(text)
    assert text.startswith("<!doctype html>\n")
    assert not {"src", "href"} & set(found.attributes)
    assert not {"script", "link"} & set(found.tags)
    assert not re.search(r"url\(|https?:|@import", text)


def test_the_policy_lets_that_script_and_the_style_run_and_no_other() -> None:
    script = 'put("a < b");'
    text, allowed = document("t", script=script), policy(script)
    for element in ("style", "script"):
        (inside,) = re.findall(rf"<{element}>(.*?)</{element}>", text, re.DOTALL)
        digest = base64.b64encode(hashlib.sha256(inside.encode()).digest()).decode()
        assert f"{element}-src 'sha256-{digest}';" in allowed
    assert allowed.startswith("default-src 'none'; ")
    assert policy(script + " ") != allowed
