from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from qres_core.cli.app import app
from qres_core.contract.errors import ConfigError
from qres_core.node import ask as asking
from qres_core.node.finding import addresses


def configure(folder: Path, address: str) -> None:
    folder.mkdir(parents=True)
    (folder / "node.toml").write_text(f'[node]\nstatus = "{address}"\n')


@pytest.fixture
def box(tmp_path: Path) -> Path:
    for index in (0, 1, 2, 10):
        configure(tmp_path / f"node-{index}", f"127.0.0.1:{7000 + index}")
    (tmp_path / "ca").mkdir()
    (tmp_path / "node-x").mkdir()
    return tmp_path


def test_the_nodes_of_a_box_are_found_in_their_order(box: Path) -> None:
    expected = {f"node-{index}": f"127.0.0.1:{7000 + index}" for index in (0, 1, 2, 10)}
    assert addresses(box) == expected
    assert list(addresses(box)) == list(expected)
    assert addresses(box / "node-2") == {"node-2": "127.0.0.1:7002"}
    assert addresses(box / "ca") == {}


@pytest.mark.parametrize("address", ["", "127.0.0.1:0"])
def test_an_address_that_no_file_tells_is_asked_for(tmp_path: Path, address: str) -> None:
    configure(tmp_path / "node-0", address)
    with pytest.raises(ConfigError, match="tells no port") as refused:
        addresses(tmp_path)
    assert "--url" in refused.value.problems[0].fix


def test_status_without_an_address_asks_the_nodes_of_the_folder(
    box: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []

    def ask(url: str, within: float = 0.0) -> Mapping[str, Any] | None:
        del within
        asked.append(url)
        return None if url.endswith("7001") else {"state": "starting", "url": url}

    monkeypatch.setattr(asking, "ask", ask)
    run = CliRunner()
    monkeypatch.chdir(box)
    answer = run.invoke(app, ["node", "status", "--json"])
    assert answer.exit_code == 1  # node-1 does not answer
    told = {node["name"]: node["status"] for node in json.loads(answer.output)["nodes"]}
    assert told["node-1"] is None
    assert told["node-10"]["url"] == "127.0.0.1:7010"
    table = run.invoke(app, ["node", "status"]).output
    assert "node-10" in table
    assert "http://127.0.0.1:7001" in table
    monkeypatch.chdir(box / "node-2")
    assert run.invoke(app, ["node", "status", "--json"]).exit_code == 0
    assert asked[-1] == "127.0.0.1:7002"
    monkeypatch.chdir(box / "ca")  # no node's folder: the address of a node by default
    run.invoke(app, ["node", "status"])
    assert asked[-1] == "127.0.0.1:8470"
    run.invoke(app, ["node", "status", "--folder", str(box / "node-0")])
    assert asked[-1] == "127.0.0.1:7000"


def test_status_of_nobody_says_how_to_name_one(box: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(asking, "ask", lambda *_given: None)
    run = CliRunner()
    monkeypatch.chdir(box / "ca")
    answer = run.invoke(app, ["node", "status"])
    assert answer.exit_code == 1
    assert "--url" in answer.output
    for options in (["--folder", "."], ["--folder", str(box), "--url", "127.0.0.1:1"]):
        with pytest.raises(ConfigError):
            run.invoke(app, ["node", "status", *options], catch_exceptions=False)
