"""``qres reputation`` on the store of a stopped and of a running node."""

from __future__ import annotations

import json
from collections.abc import Callable
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from qres_reputation.cli import reputation

from qres_core.cli.app import app
from qres_core.errors import ConfigError, RoundError

NodeMaker = Callable[..., Any]


def run(*arguments: object) -> Result:
    return CliRunner().invoke(reputation, [str(argument) for argument in arguments])


def data(*arguments: object) -> Any:
    result = run(*arguments, "--json")
    assert result.exit_code == 0, result.output
    return json.loads(result.output)


@pytest.fixture
def running(node: NodeMaker, tmp_path: Path) -> Any:
    """A node in its fourth round, with one ban."""
    item = node(str(tmp_path), punish=0.4, ban_rounds=9)
    for _ in range(3):
        item.play(item.roster[3:])
    item.open()
    item.against(item.roster[2])
    yield item
    item.plugin.teardown()


def test_the_verb_is_part_of_qres() -> None:
    (entry,) = entry_points(group="qres.commands", name="reputation")
    assert entry.load() is reputation
    result = CliRunner().invoke(app, ["reputation", "--help"])
    assert result.exit_code == 0
    assert all(verb in result.output for verb in ("show", "forgive", "ban"))


def test_show_lists_the_lowest_first(running: Any, tmp_path: Path) -> None:
    shown = data("show", tmp_path)
    assert {key: shown[key] for key in ("swarm", "node", "round", "rule")} == {
        "swarm": "lab",
        "node": running.roster[0].hex(),
        "round": 3,
        "rule": "additive",
    }
    assert shown["nodes"][0] == {
        "node": running.roster[2].hex(),
        "score": 0.1,
        "banned": True,
        "back_in_round": 14,
        "outlier_rounds": 0,
    }
    scores = [row["score"] for row in shown["nodes"]]
    assert scores == sorted(scores)
    assert len(scores) == 7


def test_show_prints_a_line_for_each(
    running: Any, tmp_path: Path, spread: Callable[..., Any]
) -> None:
    running.close()
    running.play([], spread(7, [5]))
    lines = run("show", tmp_path).output.splitlines()
    assert lines[0] == "swarm lab, after round 5, rule additive"
    assert lines[1] == f"{running.roster[2].hex()}  0.100000  banned until round 14"
    assert lines[2] == f"{running.roster[0].hex()}  0.500000"
    far = running.roster[5].hex()
    assert any(line.startswith(far) and line.endswith("outlier in the last 1") for line in lines)


def test_a_running_node_hears_of_forgiveness(running: Any, tmp_path: Path) -> None:
    liar = running.roster[2]
    assert running.banned(liar)
    told = data("forgive", tmp_path, liar.hex())
    assert (told["banned"], told["score"]) == (False, 0.5)
    assert not running.banned(liar)
    assert running.score(liar) == 500_000
    # And its own next write does not undo what was changed beside it.
    running.against(running.roster[3])
    assert not running.banned(liar)
    running.close()
    assert data("show", tmp_path)["nodes"][0]["node"] == running.roster[3].hex()


@pytest.mark.parametrize(
    ("options", "back"), [((), 14), (("--rounds", 2), 7), (("--rounds", 0), None)]
)
def test_a_running_node_hears_of_a_ban(
    running: Any, tmp_path: Path, options: tuple[object, ...], back: int | None
) -> None:
    suspect = running.roster[4]
    told = data("ban", tmp_path, suspect.hex()[:12].upper(), *options)
    assert told["banned"]
    assert told["back_in_round"] == back
    assert running.banned(suspect)
    running.close()
    if back is not None:
        running.open(back - 1)
        assert running.banned(suspect)
        running.open(back)
        assert not running.banned(suspect)
        assert running.score(suspect) == 200_000


def test_a_ban_beside_a_write_of_the_node_is_kept(running: Any, tmp_path: Path) -> None:
    running.contributed(running.roster[5])
    run("ban", tmp_path, running.roster[4].hex())
    running.close()
    assert running.banned(running.roster[4])


def test_weights_follow_a_ban_from_outside(node: NodeMaker, tmp_path: Path) -> None:
    item = node(str(tmp_path), nodes=3, exponent=1, influence_cap=1.0, decay=0.0, reward=0.25)
    item.play([item.roster[0]])
    assert item.plugin.reputation(item.roster[1]).weight == 2**32 * 2 // 3
    run("ban", tmp_path, item.roster[0].hex())
    assert item.plugin.reputation(item.roster[1]).weight == 2**32
    item.plugin.teardown()


def test_a_stopped_node_finds_what_was_changed(
    running: Any, node: NodeMaker, tmp_path: Path
) -> None:
    running.plugin.teardown()
    assert "banned for ever" in run("ban", tmp_path, running.roster[6].hex(), "--rounds", 0).output
    run("forgive", tmp_path, running.roster[2].hex())
    again = node(str(tmp_path), punish=0.4)
    assert again.banned(again.roster[6])
    assert not again.banned(again.roster[2])
    again.plugin.teardown()


@pytest.mark.parametrize(
    ("prefix", "message"),
    [
        ("", "'': no node starts with it"),
        ("zz", "'zz': no node starts with it"),
        ("0" * 64, "no node starts with it"),
    ],
)
@pytest.mark.usefixtures("running")
def test_a_node_nobody_knows_is_refused(tmp_path: Path, prefix: str, message: str) -> None:
    for verb in ("ban", "forgive"):
        result = run(verb, tmp_path, prefix)
        assert isinstance(result.exception, ConfigError)
        assert result.exception.code == "QRES-E105"
        assert message in str(result.exception)


def test_an_ambiguous_prefix_is_refused(node: NodeMaker, tmp_path: Path) -> None:
    item = node(str(tmp_path), nodes=40)
    first = next(a for a, b in zip(item.roster, item.roster[1:], strict=False) if a[:1] == b[:1])
    many = sum(member[:1] == first[:1] for member in item.roster)
    result = run("ban", tmp_path, first.hex()[:2])
    assert isinstance(result.exception, ConfigError)
    assert f"{many} nodes start with it" in str(result.exception)
    assert not any(item.banned(member) for member in item.roster)
    item.plugin.teardown()


@pytest.mark.parametrize("verb", [("show",), ("forgive", "ab"), ("ban", "ab")])
def test_a_folder_without_a_store_is_refused_and_left_alone(
    tmp_path: Path, verb: tuple[str, ...]
) -> None:
    result = run(verb[0], tmp_path, *verb[1:])
    assert isinstance(result.exception, RoundError)
    assert result.exception.code == "QRES-E602"
    assert "there is no such file" in str(result.exception)
    assert list(tmp_path.iterdir()) == []
