"""Attacks that other distributions bring as entry points."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol

import pytest
from click.testing import CliRunner
from qres_lab.commands.attack import command

from qres_core.attacks import (
    ATTACKS,
    ATTACKS_GROUP,
    catalogue,
    find,
    installed,
    make_attack,
    registry,
)
from qres_core.attacks.scenario import Scenario
from qres_core.errors import LabError, PluginError
from qres_core.kernel.config import parse
from qres_core.kernel.discovery import Installed, scan
from qres_core.lab.simulator import simulate
from qres_core.training.tasks import TaskConfig

MODULE = """
import attrs
from typing import ClassVar
from qres_core.attacks import send

@attrs.frozen
class Echo:
    summary: ClassVar[str] = "twice the own update"
    knowledge: ClassVar[str] = "its own data"
    strength: float = 2.0

    def forge(self, context):
        return send(context, self.strength * context.own.vector)

@attrs.frozen
class Mute:
    def forge(self, context):
        return ()

@attrs.frozen
class Needy(Echo):
    who: str = attrs.field(kw_only=True)

@attrs.frozen
class Idle:
    summary: ClassVar[str] = "a class that is no attack"
    knowledge: ClassVar[str] = "nothing"

class Plain:
    pass

value = 3
"""
DECORATED = """
import attrs
from qres_core.attacks import register

@register("{registered}", summary="decorated", knowledge="nothing")
@attrs.frozen
class Decorated:
    def forge(self, context):
        return ()
"""


class Provide(Protocol):
    def __call__(
        self, dist: str, entries: Mapping[str, str], source: str = ..., requires: str = ...
    ) -> None: ...


@pytest.fixture
def provide(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Provide]:
    """Distributions in a folder that counts as site-packages; ``x:Y`` is in the module ``x``."""
    monkeypatch.syspath_prepend(str(tmp_path))
    separate = dict(ATTACKS)
    for module in (registry, installed):
        monkeypatch.setattr(module, "ATTACKS", separate)

    def scan_here(*, group: str) -> Mapping[str, Installed]:
        return scan(path=[str(tmp_path)], trusted=frozenset({tmp_path.resolve()}), group=group)

    monkeypatch.setattr(installed, "scan", scan_here)
    made: list[str] = []

    def write(
        dist: str, entries: Mapping[str, str], source: str = MODULE, requires: str = "qres-core"
    ) -> None:
        folder = tmp_path / f"{dist}-1.0.dist-info"
        folder.mkdir()
        head = f"Metadata-Version: 2.1\nName: {dist}\nVersion: 1.0\nRequires-Dist: {requires}\n"
        folder.joinpath("METADATA").write_text(head)
        lines = [f"{name} = {dist}:{target}" for name, target in entries.items()]
        text = "\n".join([f"[{ATTACKS_GROUP}]", *lines, ""])
        folder.joinpath("entry_points.txt").write_text(text)
        tmp_path.joinpath(f"{dist}.py").write_text(source)
        made.append(dist)

    yield write
    for name in made:
        sys.modules.pop(name, None)


@pytest.mark.control("C-attack-5")
def test_an_attack_of_another_distribution_is_found_by_its_entry_point(provide: Provide) -> None:
    provide("echo_dist", {"echo": "Echo"})
    assert "echo" not in ATTACKS
    found = find("echo")
    assert (found.name, found.summary) == ("echo", "twice the own update")
    assert (found.knowledge, found.strength) == ("its own data", "2")
    assert list(catalogue()) == [*ATTACKS, "echo"]
    swarm = {"name": "t", "nodes": 4, "byzantine": 1, "quorum": 4, "insecure": True}
    plugins = {"memory": {}, "mean": {"unprotected": True}}
    task = TaskConfig(name="quadratic", dimension=5, local_epochs=1, learning_rate=0.3)
    config = parse({"swarm": swarm, "plugins": plugins}, source="test")
    options: dict[str, Any] = {"rounds": 2, "attackers": 1}
    echo, scaled = (
        simulate(config, Scenario(attack=attack, strength=3.0, **options), task=task)
        for attack in ("echo", "scaled")
    )
    assert echo.model_digests == scaled.model_digests


def test_nothing_is_imported_before_it_is_asked_for(provide: Provide) -> None:
    provide("first_dist", {"echo": "Echo"})
    provide("second_dist", {"broken": "Nothing"}, "raise RuntimeError('no')")
    make_attack("sign_flip")
    assert "first_dist" not in sys.modules
    make_attack("echo")
    assert "first_dist" in sys.modules
    assert "second_dist" not in sys.modules


def test_a_decorated_class_is_taken_as_it_describes_itself(provide: Provide) -> None:
    provide("decorated_dist", {"decorated": "Decorated"}, DECORATED.format(registered="decorated"))
    for _again in range(2):
        assert find("decorated").summary == "decorated"
        assert list(catalogue()) == [*ATTACKS, "decorated"]


def refused(name: str, code: str, told: str) -> None:
    with pytest.raises(PluginError, match=f"{code} attacks.{name}: .*{told}"):
        find(name)
    with pytest.raises(PluginError, match=f"{code} attacks.{name}: .*{told}"):
        catalogue()


@pytest.mark.claim("C-attack-5")
@pytest.mark.parametrize(
    ("target", "told"),
    [
        ("Mute", "does not say its 'summary' and 'knowledge'"),
        ("Needy", "cannot be built without who"),
        ("Idle", "no method 'forge'"),
        ("Plain", "not an attrs class"),
        ("value", "not an attrs class"),
    ],
)
def test_what_is_no_attack_is_named(provide: Provide, target: str, told: str) -> None:
    provide("strange_dist", {"strange": target})
    refused("strange", "QRES-E206", told)


def test_a_broken_import_is_named_with_its_distribution(provide: Provide) -> None:
    provide("broken_dist", {"broken": "Echo"}, "raise RuntimeError('no')")
    refused("broken", "QRES-E202", "broken_dist 1.0.*RuntimeError: no")


def test_two_distributions_with_one_name_are_a_conflict(provide: Provide) -> None:
    provide("one_dist", {"echo": "Echo"})
    provide("two_dist", {"echo": "Echo"})
    refused("echo", "QRES-E204", "one_dist 1.0.*two_dist 1.0")


def test_another_qres_core_is_needed_before_anything_is_imported(provide: Provide) -> None:
    provide("future_dist", {"echo": "Echo"}, requires="qres-core>=99")
    refused("echo", "QRES-E203", "needs qres-core>=99")
    assert "future_dist" not in sys.modules


@pytest.mark.claim("C-attack-5")
def test_metadata_outside_site_packages_does_not_count(
    provide: Provide, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    provide("outside_dist", {"echo": "Echo"})

    def untrusting(*, group: str) -> Mapping[str, Installed]:
        return scan(path=[str(tmp_path)], trusted=frozenset(), group=group)

    monkeypatch.setattr(installed, "scan", untrusting)
    refused("echo", "QRES-E205", "not in site-packages")


@pytest.mark.parametrize("name", ["sign_flip", "silent"])
def test_built_in_names_cannot_be_taken(provide: Provide, name: str) -> None:
    provide("greedy_dist", {name: "Echo"})
    with pytest.raises(PluginError, match=f"QRES-E204 attacks.{name}: .*built-in"):
        catalogue()
    if name in ATTACKS:
        assert find(name) is ATTACKS[name]
    assert "greedy_dist" not in sys.modules


def test_a_decorator_cannot_take_a_built_in_name_either(provide: Provide) -> None:
    provide("sly_dist", {"sly": "Decorated"}, DECORATED.format(registered="scaled"))
    refused("sly", "QRES-E202", "QRES-E204 attacks.scaled")
    assert find("scaled") is ATTACKS["scaled"]


def test_an_entry_point_must_bear_the_name_of_the_decorator(provide: Provide) -> None:
    provide("torn_dist", {"torn": "Decorated"}, DECORATED.format(registered="other"))
    refused("torn", "QRES-E206", "registers itself as 'other'")


def test_a_misspelt_name_is_told_the_nearest(provide: Provide) -> None:
    provide("echo_dist", {"echo": "Echo"})
    with pytest.raises(LabError, match=r"QRES-E801.*did you mean 'echo'"):
        find("ecko")


def test_the_command_line_lists_them_and_names_what_is_broken(provide: Provide) -> None:
    provide("echo_dist", {"echo": "Echo"})
    told = CliRunner().invoke(command, ["list", "--json"])
    rows = {row["name"]: row for row in json.loads(told.output)["attacks"]}
    assert rows["echo"]["summary"] == "twice the own update"
    assert {"alie", "replay"} <= set(rows)
    provide("broken_dist", {"broken": "Echo"}, "raise RuntimeError('no')")
    told = CliRunner().invoke(command, ["list"])
    assert isinstance(told.exception, PluginError)
    assert "broken_dist 1.0" in str(told.exception)
