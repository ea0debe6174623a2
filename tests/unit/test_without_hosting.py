"""Without ``qres-hosting`` a configuration is checked for nodes, and not as part of a framework."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from qres_core.cli.app import app
from qres_core.kernel import index
from qres_core.kernel.discovery import HOSTS_GROUP, Installed, scan
from qres_core.kernel.index import plugin_index

REMEDY = 'pip install "qres-core[hosting]": in a checkout of QRES, ./libraries/qres_hosting'
TABLE = """
[swarm]
name = "hosted"
nodes = 4
byzantine = 1
quorum = 3

[plugins.memory]
[plugins.ed25519]
[plugins.replay]
[plugins.median]
f = 1
"""


@pytest.fixture
def _absent(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if no distribution knew a framework."""

    def scan_without(*, group: str) -> Mapping[str, Installed]:
        return {} if group == HOSTS_GROUP else scan(group=group)

    monkeypatch.setattr(index, "scan", scan_without)


def checked(folder: Path, *words: str) -> Result:
    path = folder / "qres.toml"
    path.write_text(TABLE, encoding="utf-8")
    return CliRunner().invoke(app, ["check", str(path), *words])


@pytest.mark.usefixtures("_absent")
def test_a_framework_is_refused_with_the_remedy(tmp_path: Path) -> None:
    found = checked(tmp_path, "--host", "flower")
    assert found.exit_code == 2
    said = " ".join(found.output.split())
    assert "QRES-E201 --host: 'flower' is not installed" in said
    assert REMEDY in said
    in_json: Any = json.loads(checked(tmp_path, "--host", "flower", "--json").stdout)
    assert (in_json["ok"], in_json["problems"][0]["code"]) == (False, "QRES-E201")


def test_control_with_it_the_framework_is_looked_at(tmp_path: Path) -> None:
    found = checked(tmp_path, "--host", "flower")
    assert found.exit_code == 0, found.output
    assert "takes the place of agreement" in " ".join(found.output.split())


@pytest.mark.usefixtures("_absent")
def test_a_node_needs_none_of_it(tmp_path: Path) -> None:
    assert checked(tmp_path).exit_code == 0


def test_a_framework_that_nobody_knows_is_a_wrong_usage(tmp_path: Path) -> None:
    found = checked(tmp_path, "--host", "flour")
    assert (found.exit_code, "'flour' is not 'flower'" in found.output) == (2, True)


def test_what_knows_a_framework_is_the_distribution_that_the_index_names() -> None:
    assert plugin_index().brought[HOSTS_GROUP] == {"flower": "qres-hosting"}
    assert {name: each.distribution for name, each in scan(group=HOSTS_GROUP).items()} == {
        "flower": "qres-hosting"
    }
