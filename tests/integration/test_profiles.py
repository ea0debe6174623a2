"""The profiles of `qres init` start as they are, and every line of theirs is explained."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any, cast

import attrs
import pytest
import tomli
from click.testing import CliRunner

from qres_core.attacks.scenario import Scenario
from qres_core.cli.app import app
from qres_core.cli.init import PROFILES, lacking, profile_text
from qres_core.cli.options import SECTIONS
from qres_core.kernel.assembly import plugin_class
from qres_core.kernel.config import Config, NodeConfig, SwarmConfig, parse
from qres_core.kernel.diagnosis import diagnose
from qres_core.kernel.discovery import scan
from qres_core.lab.simulator import simulate
from qres_core.training.tasks import TaskConfig

HAS = {
    "minimal": {"ed25519", "replay", "median"},
    "production": {
        *("ed25519", "replay", "pki", "reputation", "validation", "nnm", "trimmed_mean"),
    },
    "high-security": {
        *("ed25519", "replay", "pki", "reputation", "dp", "zk", "secagg"),
        *("public_validation", "median"),
    },
}
"""What each is to be made of, beside the transport."""
TABLES: dict[str, type] = {
    "swarm": SwarmConfig,
    "node": NodeConfig,
    "simulation": Scenario,
    "trainer.task": TaskConfig,
}
KEY = re.compile(r"^(# )?([a-z0-9_]+) = (.*)$")


def read(profile: str) -> Config:
    raw = tomli.loads(profile_text(profile))
    return parse(raw, source=profile, sections=SECTIONS)


@pytest.mark.claim("C-composition-9")
@pytest.mark.parametrize("profile", PROFILES)
def test_a_profile_starts_and_is_what_it_says(profile: str) -> None:
    raw = tomli.loads(profile_text(profile))
    found = diagnose(raw, source=profile, sections=SECTIONS, installed=scan())
    assert found.problems == ()
    assert {plugin.name for plugin in found.enabled} == HAS[profile] | {"memory"}
    assert not any(
        "INSECURE" in notice or "withstands no liar" in notice for notice in found.notices
    )
    assert found.config is not None
    assert found.config.swarm.byzantine >= 1
    assert not found.config.swarm.insecure
    assert raw["plugins"].get("reputation", {"exponent": 0})["exponent"] == 0


@pytest.mark.parametrize("profile", PROFILES)
def test_every_line_is_explained(profile: str) -> None:
    """A table and a key stand under a comment, or under a key that stands under theirs."""
    lines = profile_text(profile).splitlines()
    explained = False
    for line in lines:
        if line.startswith("#"):
            explained = True
        elif not line:
            explained = False
        elif line not in ("[swarm]", "[node]") and (KEY.match(line) or line.endswith("]")):
            assert explained or line == "]", line
    assert max(map(len, lines)) <= 104
    assert lines[0].startswith(f'# Profile "{profile}": ')


@pytest.mark.parametrize("profile", PROFILES)
def test_what_stands_in_comments_exists(profile: str) -> None:
    """An option that is suggested and not known would be refused as soon as it is used."""
    table, suggested = "", 0
    for line in profile_text(profile).splitlines():
        if header := re.match(r"^\[(.*)\]$", line):
            table = header[1]
        found = KEY.match(line)
        if not found or not found[1] or not table:
            continue
        if table.startswith("plugins."):
            kind = plugin_class(scan()[table.removeprefix("plugins.")])
        else:
            kind = TABLES[table]
        assert found[2] in {field.name for field in attrs.fields(cast("Any", kind))}, line
        tomli.loads(f"{found[2]} = {found[3]}")
        suggested += 1
    assert suggested >= 2


@pytest.mark.parametrize("profile", ["production", "high-security"])
def test_the_members_listed_are_the_simulated_nodes(profile: str, tmp_path: Path) -> None:
    path = tmp_path / "qres.toml"
    path.write_text(profile_text(profile), encoding="utf-8")
    shown = CliRunner().invoke(app, ["simulate", str(path), "--list-nodes", "--json"])
    listed = read(profile).plugins["pki"]["members"]
    assert [load["id"] for load in json.loads(shown.output)] == listed


def test_simulated_nodes_are_listed_before_they_are_members(tmp_path: Path) -> None:
    """It is for the list of members that one asks who they are."""
    path = tmp_path / "qres.toml"
    path.write_text(profile_text("production"), encoding="utf-8")
    nobody = 'plugins.pki.members=["' + "00" * 32 + '"]'
    arguments = ["simulate", str(path), "--list-nodes", "--json", "--set", nobody]
    shown = CliRunner().invoke(app, arguments)
    assert len(json.loads(shown.output)) == 10


@pytest.mark.parametrize(
    "profile",
    [
        pytest.param(profile, marks=[pytest.mark.long] if profile == "high-security" else [])
        for profile in PROFILES
    ],
)
def test_a_profile_runs(profile: str) -> None:
    config = read(profile)
    result = simulate(config, attrs.evolve(config.sections["simulation"], rounds=2))
    assert len(result.closed) == 2
    assert result.unanimous
    assert all(record.accepted == config.swarm.nodes for record in result.closed)
    if "dp" not in config.plugins:  # whose noise two rounds do not overcome
        assert (result.final("accuracy") or 0.0) > 0.85


@pytest.mark.claim("C-composition-9")
@pytest.mark.parametrize("attack", ["sign_flip", "min_sum"])
@pytest.mark.parametrize("profile", ["minimal", "production"])
def test_a_profile_learns_with_as_many_liars_as_it_promises(profile: str, attack: str) -> None:
    config = read(profile)
    scenario = attrs.evolve(
        config.sections["simulation"], rounds=3, attack=attack, attackers=config.swarm.byzantine
    )
    result = simulate(config, scenario)
    assert result.unanimous
    assert (result.final("accuracy") or 0.0) > 0.85


@pytest.mark.parametrize("profile", PROFILES)
def test_init_writes_a_profile_and_says_what_to_install(profile: str, tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    result = CliRunner().invoke(app, ["init", str(path), "--profile", profile, "--json"])
    assert result.exit_code == 0, result.output
    assert path.read_text(encoding="utf-8") == profile_text(profile)
    report = json.loads(result.output)
    assert set(report["enabled"]) == HAS[profile] | {"memory"}
    assert report["to_install"] == []
    alone = {name: item for name, item in scan().items() if item.distribution == "qres-core"}
    wanted = lacking(report["enabled"], alone)
    command = profile_text(profile).partition("make node")[2].partition("qres check")[0]
    named = re.findall(r"qres-[a-z0-9-]+", command)
    assert sorted(named) == wanted
    again = CliRunner().invoke(app, ["init", str(path), "--profile", profile])
    assert "QRES-E803" in str(again.exception)


def test_init_where_nothing_can_be_written_is_no_traceback(tmp_path: Path) -> None:
    result = CliRunner().invoke(app, ["init", str(tmp_path / "gone" / "qres.toml")])
    assert result.exit_code == 2
    assert "No such file or directory" in result.output
