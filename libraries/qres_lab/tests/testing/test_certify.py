"""``qres certify``: what is found by name, what the certificate says, how it is shown."""

from __future__ import annotations

import json
import math
import re
import sys
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import attrs
import numpy as np
import pytest
from qres_lab.testing import RULES, composition, make_round_info, make_updates
from qres_lab.testing.certificate_page import page
from qres_lab.testing.certification import MeasuredClaims, RuleReport, certify, make_claims
from qres_lab.testing.composition import Composed, find_rule

from qres_core import Claims, Needs, Updates, Vector, hookimpl
from qres_core.attacks import catalogue
from qres_core.errors import (
    CompatibilityError,
    ConfigError,
    PluginError,
    QresError,
    ValueRefusedError,
)
from qres_core.kernel.discovery import Installed


@attrs.frozen
class Median:
    f: int = 2

    @property
    def claims(self) -> Claims:
        needs = Needs(min_updates=2 * self.f + 1)
        return Claims(tolerates=self.f, needs=needs)

    @hookimpl
    def aggregate(self, updates: Updates) -> Vector:
        if len(updates) < 2 * self.f + 1:
            raise ValueRefusedError.of("QRES-E505", "updates", f"only {len(updates)}")
        return np.sort(updates.vectors, axis=0)[(len(updates) - 1) // 2]


@attrs.frozen
class Boastful(Median):
    """A mean that says it withstands liars."""

    label: str = "<script>alert('&')</script>"

    @hookimpl
    def aggregate(self, updates: Updates) -> Vector:
        if len(updates) < 2 * self.f + 1:
            raise ValueRefusedError.of("QRES-E505", "updates", f"only {len(updates)}")
        total = updates.vectors.astype(np.int64).sum(axis=0)
        return (total // len(updates)).astype(np.int32)


@attrs.frozen
class Pairs:
    """Wrapper: means of neighbours."""

    f: int = 0
    size: int = 2

    claims = Claims(tolerates=None)

    @hookimpl
    def wrap_aggregate(self, proceed: Any, updates: Updates) -> Vector:
        count = len(updates) // self.size
        rows = updates.vectors[: count * self.size].astype(np.int64)
        if not count:
            raise ValueRefusedError.of("QRES-E505", "updates", f"only {len(updates)}")
        means = rows.reshape(count, self.size, -1).sum(axis=1) // self.size
        merged: Vector = proceed(make_updates(means))
        return merged


@attrs.frozen
class Hold:
    """Wrapper: clips."""

    bound: int = 1 << 20

    claims = Claims(tolerates=None)

    @hookimpl
    def wrap_aggregate(self, proceed: Any, updates: Updates) -> Vector:
        held = np.clip(updates.vectors, -self.bound, self.bound)
        merged: Vector = proceed(attrs.evolve(updates, vectors=held))
        return merged


@attrs.frozen
class Signs:
    @hookimpl
    def teardown(self) -> None:
        return


KINDS = {"median": Median, "boastful": Boastful, "pairs": Pairs, "hold": Hold, "signs": Signs}


@pytest.fixture(autouse=True)
def installed(monkeypatch: pytest.MonkeyPatch) -> None:
    found = {name: Installed.local(name, kind) for name, kind in KINDS.items()}
    monkeypatch.setattr(composition, "scan", lambda: found)


@pytest.fixture(scope="module")
def certificate() -> RuleReport:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(composition, "scan", lambda: {"median": Installed.local("median", Median)})
        return certify(find_rule("median", [("f", 3)]), claims=MeasuredClaims(kappa=8.0), nodes=9)


@pytest.fixture(scope="module")
def broken() -> RuleReport:
    with pytest.MonkeyPatch.context() as patch:
        found = {"boastful": Installed.local("boastful", Boastful)}
        patch.setattr(composition, "scan", lambda: found)
        return certify(find_rule("boastful"), seed=5)


# ── finding ───────────────────────────────────────────────────────────────────────────────────


def test_a_plugin_is_found_by_name_and_configured() -> None:
    found = find_rule("median", [("f", 4)])
    assert found.make() == Median(4)
    assert found.make() is not found.make()
    (part,) = found.parts
    assert (part.name, part.origin, part.options) == ("median", "(local)", {"f": 4})
    assert part.target == f"{__name__}:Median"
    assert len(part.digest) == 64


def test_wrappers_nest_in_the_order_they_are_named() -> None:
    composed = find_rule("pairs+hold+median", [("f", 1), ("hold.bound", 10)]).make()
    assert isinstance(composed, Composed)
    assert composed.rule == Median(1)
    assert composed.wrappers == (Pairs(f=1), Hold(bound=10))
    rows = [[0], [2], [4], [6], [100], [500]]
    result = composed.aggregate(make_updates(rows), make_round_info(nodes=6, byzantine=1))
    assert result.tolist() == [5]  # of 1, 5 and 300 held at 10


def test_a_wrapper_that_merges_updates_makes_the_composition_need_more() -> None:
    composed = find_rule("pairs+median").make()
    assert isinstance(composed, Composed)
    assert composed.claims.needs == Needs(min_updates=10)
    assert composed.claims.tolerates == 2
    with pytest.raises(ValueRefusedError, match="10 are needed"):
        composed.aggregate(make_updates([[1]] * 9), make_round_info(nodes=9))


def test_a_class_of_a_module_in_the_working_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "certify_mine.py").write_text(
        "import attrs\nfrom qres_core import Claims, hookimpl\n\n@attrs.frozen\nclass Mine:\n"
        "    claims = Claims(tolerates=0)\n\n"
        "    @hookimpl\n    def aggregate(self, updates):\n        return updates.vectors[0]\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    find_rule("median")
    assert str(tmp_path) not in sys.path  # nothing of it is looked at unless asked for
    (part,) = find_rule("certify_mine:Mine").parts
    assert sys.path[-1] == str(tmp_path)  # installed modules come first
    assert (part.name, part.target) == ("Mine", "certify_mine:Mine")


@pytest.mark.parametrize(
    ("spec", "options", "kind", "said"),
    [
        ("meadian", [], PluginError, "QRES-E201 .*did you mean 'median'"),
        ("no_such_module:Rule", [], PluginError, "QRES-E202 .*ModuleNotFoundError"),
        ("json:Decoder", [], PluginError, "QRES-E206 .*JSONDecoder"),
        ("json:JSONDecoder", [], PluginError, "QRES-E206 .*attrs class"),
        ("median", [("g", 1)], PluginError, "QRES-E102 plugins.median.g"),
        ("median", [("f", "2")], PluginError, "QRES-E104 plugins.median.f"),
        ("median", [("hold.f", 2)], PluginError, "QRES-E102 --option hold.f"),
        ("median+boastful", [], CompatibilityError, "QRES-E302 .*are all rules"),
        ("hold+hold+median", [], CompatibilityError, "QRES-E302 .*named twice"),
        ("hold", [], CompatibilityError, "QRES-E301 .*hold[+]mean"),
        ("signs+median", [], CompatibilityError, "QRES-E301 plugins.signs"),
        ("pairs+median", [("size", 1000)], ValueRefusedError, "QRES-E505"),
    ],
)
def test_what_cannot_be_tested_is_refused_by_name(
    spec: str, options: list[tuple[str, object]], kind: type[QresError], said: str
) -> None:
    with np.errstate(all="ignore"), pytest.raises(kind, match=said):
        find_rule(spec, options)


# ── claims ────────────────────────────────────────────────────────────────────────────────────


def test_claims_are_read_strictly() -> None:
    assert make_claims([]) == MeasuredClaims()
    assert make_claims([("kappa", 2)]).kappa == 2.0
    assert make_claims([("kappa", math.inf), ("stretch", 2.0)]).kappa == math.inf
    for name, value in (("kapa", 1.0), ("translates", 0), ("rounding", -1), ("stretch", math.inf)):
        with pytest.raises(ConfigError, match=f"QRES-E10. claim.*{name}"):
            make_claims([(name, value)])


def test_fewer_nodes_than_the_rule_needs_are_refused() -> None:
    with pytest.raises(ValueRefusedError, match="QRES-E505 --nodes: 4 updates, the rule needs 5"):
        certify(find_rule("median"), nodes=4)


# ── the certificate ───────────────────────────────────────────────────────────────────────────


@pytest.mark.claim("C-attack-6")
def test_a_sound_rule_is_certified(certificate: RuleReport) -> None:
    assert certificate.certified
    assert not certificate.failed
    assert [verdict.rule for verdict in certificate.verdicts] == [
        rule for rule in RULES if rule.startswith("QRES-AGG-")
    ]
    found = certificate.robustness
    assert found is not None
    assert (found.count, found.liars, found.declared) == (9, 3, 8.0)
    assert found.least == 1.0
    assert found.least < found.measured <= 8.0
    assert found.worst[0][1] == found.measured
    assert {attack.attack for attack in certificate.attacks} >= set(catalogue())
    assert all(attack.found.withstood in {True, None} for attack in certificate.attacks)
    assert certificate.breakdown == (4, 9)  # a median withstands a minority, whatever f says


def test_a_broken_rule_is_not_and_says_what_it_breaks(broken: RuleReport) -> None:
    assert not broken.certified
    failed = {item.rule for item in broken.failed}
    assert failed == {f"QRES-AGG-{number}" for number in (10, 11, 12, 13, 15, 17, 20)}
    assert all(item.why for item in broken.failed)
    assert broken.robustness is not None
    assert math.isinf(broken.robustness.measured)
    withstood = {attack.attack: attack.found.withstood for attack in broken.attacks}
    assert withstood["scaled"] is False
    assert withstood["silent"] is None
    assert broken.breakdown == (0, 11)


def test_a_rule_that_declares_no_liars_cannot_be_asked() -> None:
    found = certify(find_rule("median", [("f", 0)]))
    assert not found.certified
    assert not found.failed
    assert "claims.tolerates is 0" in found.conclusion
    asked = {verdict.rule: verdict.outcome for verdict in found.verdicts}
    assert asked["QRES-AGG-12"] == "not asked"
    assert found.robustness is None
    assert found.attacks == ()


def test_a_rule_that_always_raises_is_told_of_not_raised(monkeypatch: pytest.MonkeyPatch) -> None:
    @attrs.frozen
    class Raises(Median):
        @hookimpl
        def aggregate(self, updates: Updates) -> Vector:
            raise ZeroDivisionError(len(updates))

    monkeypatch.setattr(composition, "scan", lambda: {"raises": Installed.local("raises", Raises)})
    found = certify(find_rule("raises"))
    assert len(found.failed) > 10
    assert found.robustness is None
    assert found.breakdown is None
    assert found.timings == ()
    assert "Not measured" in page(found)


def shape(value: object) -> object:
    """Keys and kinds, without the values."""
    if isinstance(value, dict):
        return {key: shape(item) for key, item in value.items()}
    if isinstance(value, list):
        return [shape(value[0])] if value else []
    return type(value).__name__


def test_the_json_has_a_stable_form(certificate: RuleReport) -> None:
    data = json.loads(json.dumps(certificate.to_json()))
    assert data["format"] == "qres-certificate/1"
    assert shape(data) == {
        "format": "str",
        "certified": "bool",
        "conclusion": "str",
        "spec": "str",
        "parts": [
            {
                "name": "str",
                "target": "str",
                "distribution": "str",
                "version": "str",
                "digest": "str",
                "options": {"f": "int"},
            }
        ],
        "needs": {
            "visibility": "str",
            "min_updates": "int",
            "tolerates": "int",
            "equal_weights": "bool",
        },
        "claims": {
            "dimension": "int",
            "spread": "int",
            "rounding": "int",
            "bounded_by_inputs": "bool",
            "stretch": "float",
            "stateless": "bool",
            "anonymous": "bool",
            "draws": "bool",
            "translates": "bool",
            "kappa": "float",
            "breaks_beyond": "bool",
        },
        "nodes": "int",
        "seed": "int",
        "rules": [{"rule": "str", "title": "str", "outcome": "str", "why": "str"}],
        "robustness": {
            "n": "int",
            "f": "int",
            "measured": "float",
            "lower_bound": "float",
            "declared": "float",
            "inputs": "int",
            "worst": [{"inputs": "str", "kappa": "float"}],
        },
        "attacks": [
            {
                "attack": "str",
                "summary": "str",
                "knowledge": "str",
                "deviation": "float",
                "kappa": "float",
                "withstood": "bool",
                "why": "str",
            }
        ],
        "breakdown": {"withstood": "int", "updates": "int"},
        "timings": [{"updates": "int", "dimension": "int", "milliseconds": "float"}],
        "versions": {"qres-core": "str", "python": "str", "numpy": "str", "machine": "str"},
        "command": "str",
    }


def test_an_unbounded_kappa_is_valid_json(broken: RuleReport) -> None:
    text = json.dumps(broken.to_json(), allow_nan=False)
    assert json.loads(text)["robustness"]["measured"] == "unbounded"


def test_everything_but_the_times_is_the_same_again(broken: RuleReport) -> None:
    again = certify(find_rule("boastful"), seed=5).to_json()
    first = broken.to_json()
    assert {**first, "timings": []} == {**again, "timings": []}


def test_the_command_repeats_it(certificate: RuleReport) -> None:
    assert certificate.command == (
        "qres certify median --option f=3 --claim kappa=8.0 --nodes 9 --seed 0"
    )


# ── the page ──────────────────────────────────────────────────────────────────────────────────


class Reader(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: set[str] = set()
        self.attributes: set[str] = set()
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.attributes |= {name for name, _value in attrs}
        if tag not in {"meta", "line", "circle"}:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag not in {"line", "circle"}:
            assert self.open.pop() == tag

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        del attrs
        self.tags.add(tag)

    def handle_data(self, data: str) -> None:
        self.text += data


@pytest.mark.parametrize("name", ["certificate", "broken"])
def test_the_page_stands_alone_and_says_it_all(name: str, request: pytest.FixtureRequest) -> None:
    found: RuleReport = request.getfixturevalue(name)
    text = page(found)
    reader = Reader()
    reader.feed(text)
    assert not reader.open
    assert not reader.tags & {"script", "link", "img", "iframe", "object"}
    assert not reader.attributes & {"href", "src", "onload"}
    assert not re.search(r"url\(|https?:|@import", text)
    assert found.conclusion in reader.text
    assert found.command in reader.text
    for verdict in found.verdicts:
        assert verdict.rule in reader.text
        assert verdict.why in reader.text
    for row in found.attacks:
        assert row.attack in reader.text
    assert "prefers-color-scheme: dark" in text
    assert "@media print" in text


def test_names_from_outside_are_escaped(broken: RuleReport) -> None:
    evil = attrs.evolve(broken, spec='"><b>x</b>', versions={"<i>": "<u>"})
    text = page(evil)
    assert "&lt;script&gt;" in text
    assert "&lt;b&gt;x&lt;/b&gt;" in text
    assert not re.search(r"<script|<b>|<i>|<u>", text)
